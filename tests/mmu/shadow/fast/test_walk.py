# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiled half of the shadow MMU, as plain Python: it answers what Python would, or nothing.

The cases and the random worlds run on it too; here, that it does answer where it should.
"""

from __future__ import annotations

import pytest

from mmu.api import MAP_EXEC, MAP_READ, MAP_TRAP, MAP_WRITE
from mmu.shadow.fast.walk import hit
from mmu.testing.sdm import US, A, D, P

from ... import world
from ...compiled_first import CompiledFirst
from ...rig import DEVICE, FETCH, PAGED, READ, USER_FETCH, USER_READ, USER_WRITE, WRITE, Rig
from ...tables import USER_RW

GVA = 0x40001000
HOT = USER_RW | A | D


def started(mode="4-level", flags=HOT, gpa=0x5000, **changes):
    rig = Rig(CompiledFirst)
    tables = rig.tables(mode)
    tables.map(GVA, gpa, flags)
    tables.map(GVA + 0x1000, 0x6000, HOT)
    rig.enter(tables)
    rig.may(GVA + 0x1000)
    rig.change(**changes)
    return rig, tables


def hits(rig, gva, access, cpu=0):
    """Whether compiled code answered."""
    before = rig.mmu.hits
    rig.access(gva, access, cpu)
    return rig.mmu.hits > before


@pytest.mark.parametrize("mode", PAGED)
def test_hits_and_refills(mode):
    rig, _ = started(mode)
    assert hits(rig, GVA, READ), "the leaf table is there: refilled"
    for access in (READ, WRITE, USER_READ, USER_WRITE):
        assert hits(rig, GVA, access)
    counters = rig.counters
    assert counters["fills"] >= 6
    assert rig.mmu.vcpu_blocks[0].refills == 1


@pytest.mark.parametrize("mode", PAGED)
def test_refills_set_accessed_and_dirty(mode):
    rig, tables = started(mode, flags=USER_RW)
    assert hits(rig, GVA, READ)
    assert tables.entry(GVA, 1) & (A | D) == A
    assert hits(rig, GVA, WRITE)
    assert tables.entry(GVA, 1) & (A | D) == A | D


def test_code_and_data_of_one_frame_are_pythons():
    rig, _ = started()
    assert not hits(rig, GVA, FETCH)
    assert hits(rig, GVA, USER_FETCH)
    assert hits(rig, GVA, FETCH)
    assert not hits(rig, GVA, WRITE)
    assert rig.access(GVA, FETCH) == 0x5000 | MAP_READ | MAP_EXEC


def test_a_device_is_answered_for_data():
    rig, _ = started(gpa=DEVICE)
    rig.access(GVA, READ)
    assert hits(rig, GVA, READ)
    assert rig.access(GVA, READ) == DEVICE | MAP_READ | MAP_TRAP
    assert rig.access(GVA, WRITE) == DEVICE | MAP_READ | MAP_WRITE | MAP_TRAP


def test_faults_are_pythons():
    rig, _ = started(flags=P | US)
    assert not hits(rig, GVA, USER_WRITE)
    assert not hits(rig, GVA + 0x5000, READ)


@pytest.mark.parametrize(
    ("changes", "flags"),
    [({"pke": True, "pkru": 1}, HOT), ({"smap": True}, HOT)],
    ids=["fetches of what may not be read", "a kernel's fetches from user pages under SMAP"],
)
def test_what_needs_a_second_look_is_pythons(changes, flags):
    rig, _ = started(flags=flags, **changes)
    rig.access(GVA, FETCH)
    assert not hits(rig, GVA, FETCH)


@pytest.mark.parametrize(
    ("access", "flags"), [(FETCH, HOT & ~US), (USER_FETCH, HOT)], ids=["a kernel's", "a user's"]
)
def test_fetches_under_smap_of_what_may_be_read_are_answered(access, flags):
    rig, _ = started(flags=flags, smap=True)
    rig.access(GVA, access)
    assert hits(rig, GVA, access)


def test_of_several_vcpus_those_that_have_run_a_frame_are_answered():
    rig = Rig(CompiledFirst, cpus=2)
    tables = rig.tables("4-level")
    tables.map(GVA, 0x5000, HOT)
    for cpu in (0, 1):
        rig.enter(tables, cpu=cpu)
    rig.may(GVA, FETCH, cpu=0)
    assert hits(rig, GVA, FETCH)
    assert not hits(rig, GVA, FETCH, cpu=1)
    assert hits(rig, GVA, FETCH, cpu=1)
    rig.may(GVA, WRITE, cpu=1)  # data now: nobody runs it
    assert not hits(rig, GVA, FETCH)
    assert not hits(rig, GVA, FETCH, cpu=1)


def test_nothing_is_written_unseen_while_writes_are_logged():
    rig, _ = started()
    rig.may(GVA, WRITE)
    assert hits(rig, GVA, WRITE)
    rig.mmu.start_dirty_log()
    assert not hits(rig, GVA, WRITE)
    rig.mmu.stop_dirty_log()
    rig.may(GVA, WRITE)
    assert hits(rig, GVA, WRITE)


@pytest.mark.parametrize("mode", ["4-level", "5-level"])
def test_addresses_that_are_not_canonical(mode):
    rig, _ = started(mode)
    rig.may(GVA)
    for bit in (47, 48, 56, 57, 62, 63):
        gva = GVA | 1 << bit
        signed = gva - (1 << 64) if gva >> 63 else gva
        assert hit(rig.mmu.vcpu_blocks[0].address, signed, 0, 0) == 0
        rig.access(gva, READ)


def test_roots_are_protected_in_the_map_of_frames_after_a_slot_came():
    rig, tables = started()
    tables.map(0x40003000, tables.cr3, HOT)
    for _ in range(2):
        assert rig.access(0x40003000, WRITE) & MAP_TRAP
        rig.memory.add_ram(0x5000000 + len(list(rig.memory.slots())) * 0x1000, 0x1000)
        rig.settle()
        rig.may(GVA)
        assert not hits(rig, 0x40003000, WRITE)
        assert rig.access(0x40003000, WRITE) & MAP_TRAP


def test_stores_to_a_table_in_sync_are_pythons():
    rig, tables = started()
    table = tables.gpa_of_entry(GVA, 2)
    tables.map(0x40003000, table & ~0xFFF, HOT)
    assert not hits(rig, 0x40003000, WRITE)
    assert rig.access(0x40003000, WRITE) & MAP_TRAP


@pytest.mark.parametrize("seed", range(12))
def test_it_takes_its_share_in_random_worlds(seed):
    run = world.run(1000 + seed, 80, plugin=CompiledFirst)
    assert run.rig.mmu.asked > run.rig.mmu.hits
