# SPDX-License-Identifier: GPL-2.0-or-later
"""A frame that is plainly no page table any more is let go at once (case 23, by hints)."""

from __future__ import annotations

import pytest

from mmu.testing.sdm import A, D

from .compiled_first import CompiledFirst
from .rig import READ, USER_WRITE, WRITE, Rig
from .tables import USER_RW

HOT = USER_RW | A | D
GVA = 0x40001000
DATA = 0x80000000
IN_SYNC = "unsync=off"  # each store to a table would be trapped


def freed(plugin="shadow", policy=IN_SYNC, mode="4-level", cpus=1):
    """A rig whose directory for GVA was used and is linked no more; DATA maps its frame."""
    rig = Rig(plugin, cpus=cpus, policy=policy)
    tables = rig.tables(mode)
    tables.map(GVA, 0x5000, HOT)
    level = 2 if mode != "32-bit" else 1
    table = tables.gpa_of_entry(GVA, level) & ~0xFFF
    tables.map(DATA, table, HOT)
    for cpu in range(cpus):
        rig.enter(tables, cpu)
        rig.may(GVA, WRITE, cpu)
    assert rig.is_protected(table >> 12)
    rig.edit(tables.gpa_of_entry(GVA, level + 1), tables.entry_bytes, 0)
    rig.change()
    return rig, tables, table


@pytest.mark.parametrize("mode", ["32-bit", "pae", "4-level", "5-level"])
@pytest.mark.parametrize("plugin", ["shadow", CompiledFirst], ids=["python", "compiled"])
def test_a_hint_lets_the_frame_go(plugin, mode):
    rig, _, table = freed(plugin, mode=mode)
    assert rig.access(DATA, USER_WRITE) & 8
    before = rig.counters
    assert rig.mmu.reused(table)
    rig.settle()
    changes = rig.counters - before
    assert changes["mmu_reused"] == changes["mmu_shadow_zapped"] >= 1
    assert not rig.store(DATA, 4, 1, user=True)
    assert not rig.store(DATA + 8, 4, 1)


def test_several_vcpus_go_on_with_what_they_have():
    rig, tables, table = freed(cpus=2)
    rig.change(1)
    assert rig.mmu.reused(table)
    for cpu in (0, 1):
        assert not rig.store(DATA, 4, 1, cpu)
    rig.edit(tables.gpa_of_entry(GVA, 3), 8, table | USER_RW)
    rig.edit(table, 8, 0)
    assert rig.faults(GVA, READ, 1) == 0


def test_a_wrong_hint_costs_building_again_and_nothing_else():
    """The frame is a live directory that user mode may write."""
    rig = Rig("shadow", policy=IN_SYNC)
    tables = rig.tables("4-level")
    tables.map(GVA, 0x5000, HOT)
    tables.map(GVA + 0x200000, 0x6000, HOT)
    where = tables.gpa_of_entry(GVA, 2)
    tables.map(DATA, where & ~0xFFF, HOT)
    other = tables.entry(GVA + 0x200000, 2)
    rig.enter(tables)
    for _ in range(3):
        old = tables.entry(GVA, 2)
        assert rig.may(GVA) in (0x5000, 0x6000)
        assert rig.mmu.reused(where)
        rig.store(DATA | where & 0xFFF, 8, other, user=True)
        rig.invlpg(GVA)
        assert rig.may(GVA) == 0x6000
        rig.store(DATA | where & 0xFFF, 8, old)
        rig.invlpg(GVA)


def test_what_a_vcpu_runs_on_stays():
    rig = Rig("shadow")
    for mode in ("4-level", "32-bit", "pae"):
        tables = rig.tables(mode, {"4-level": 0x100, "32-bit": 0x200, "pae": 0x300}[mode])
        tables.map(GVA, 0x5000, HOT)
        rig.enter(tables)
        rig.may(GVA)
        root = tables.gpa_of_entry(GVA, 2) & ~0xFFF if mode == "pae" else tables.cr3
        assert not rig.mmu.reused(root)
        rig.settle()
        assert rig.may(GVA, WRITE) == 0x5000


def test_half_an_entry_is_no_write_to_a_table():
    """An unaligned store; the flags in an entry's first byte are another thing."""
    rig, _, table = freed(policy="unsync=off,flood=off")
    before = rig.counters
    assert rig.store(DATA + 8, 1, 0x27)
    assert rig.is_protected(table >> 12)
    rig.store(DATA + 0x33, 4, 0x12345678)
    assert not rig.is_protected(table >> 12)
    assert (rig.counters - before)["mmu_reused"] == 1
    assert not rig.store(DATA + 0x43, 4, 0x12345678)


def test_it_can_be_switched_off():
    rig, _, table = freed(policy="unsync=off,flood=off,reuse=off")
    assert not rig.mmu.reused(table)
    assert rig.store(DATA + 0x33, 4, 0x12345678)
    assert rig.is_protected(table >> 12)


def test_both_of_two_plug_ins_hear_of_it():
    rig, _, table = freed("lockstep", policy="")
    assert rig.mmu.reused(table)
    assert not rig.store(DATA, 4, 1)
