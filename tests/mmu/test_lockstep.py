# SPDX-License-Identifier: GPL-2.0-or-later
"""Two plug-ins side by side: no noise while both are right, a whole report when one is not."""

from __future__ import annotations

from functools import partial

import pytest

from mmu.api import MAP_EXEC, MAP_TRAP
from mmu.kvm2007 import Kvm2007
from mmu.lockstep import DifferenceError, LockstepMmu
from mmu.memory import Memory
from mmu.plugins import find_mmu, make_mmu
from mmu.testing.sdm import US, A, D, P

from . import test_cases_cache, test_cases_modes, test_cases_rights, test_cases_writes, world
from .model_tlb import ModelTlb
from .rig import FETCH, READ, USER_READ, USER_WRITE, WRITE, Rig
from .tables import USER_RW

GVA = 0x40001000
HOT = USER_RW | A | D


def started(plugin, flags=USER_RW):
    rig = Rig(plugin)
    tables = rig.tables("4-level")
    tables.map(GVA, 0x5000, flags)
    rig.enter(tables)
    return rig, tables


PAIRS = ("lockstep", "lockstep:uncached,shadow", "lockstep:shadow,shadow")


@pytest.mark.parametrize("plugin", PAIRS)
def test_no_false_difference_in_random_worlds(plugin):
    for seed in range(12):
        done = world.run(seed, 100, policy="", plugin=plugin)
        assert done.rig.mmu.compared >= done.rig.checked > 50


@pytest.mark.parametrize(
    "case",
    [
        test_cases_rights.test_case_04_dirty_is_set_in_the_large_entry_that_is_written_through,
        test_cases_rights.test_case_17_write_protect_toggled_over_hot_entries,
        test_cases_writes.test_case_08_atomic_instructions_on_a_live_entry,
        test_cases_writes.test_case_11_an_entry_restored_while_out_of_sync_is_what_it_was,
        test_cases_writes.test_case_21_a_frame_is_directory_and_table_at_once,
        test_cases_modes.test_case_09_pdptes_are_read_when_the_processor_loads_them,
        test_cases_modes.test_case_26_tables_in_rom_device_and_nothing,
        test_cases_modes.test_case_28_one_frame_is_a_table_of_several_modes_in_turn,
        test_cases_cache.test_case_12_an_entry_edited_by_another_vcpu,
        test_cases_cache.test_case_22_translated_code_and_stores_of_two_vcpus,
    ],
    ids=lambda case: case.__name__[5:12],
)
@pytest.mark.parametrize("plugin", PAIRS[:2])
def test_no_false_difference_in_the_hard_cases(case, plugin):
    case(partial(Rig, plugin))


@pytest.mark.parametrize("plugin", PAIRS)
def test_accessed_and_dirty_are_set_once_and_by_both(plugin):
    rig, tables = started(plugin)
    rig.may(GVA, READ)
    assert tables.entry(GVA, 1) & (A | D) == A
    rig.may(GVA, WRITE)
    assert tables.entry(GVA, 1) & (A | D) == A | D
    assert rig.mmu.compared == 2


def test_a_store_is_trapped_if_either_wants_it():
    for plugin in PAIRS[:2]:
        rig, tables = started(plugin)
        table = tables.gpa_of_entry(GVA, 2)
        tables.map(GVA + 0x1000, table & ~0xFFF, HOT)
        rig.may(GVA)
        answer = rig.access(GVA + 0x1000, WRITE)
        assert answer & MAP_TRAP
        assert not answer & MAP_EXEC
        assert rig.store(GVA + 0x1000 + (table & 0xFFF), 8, 0)
        assert rig.faults(GVA) == 0


def test_both_are_told_everything():
    rig, tables = started("lockstep:shadow,shadow")
    rig.may(GVA, WRITE)
    rig.edit(tables.gpa_of_entry(GVA, 1), 8, 0x6000 | HOT)
    rig.invlpg(GVA)
    assert rig.may(GVA, WRITE) == 0x6000
    rig.memory.add_ram(0x5000000, 0x1000)
    rig.settle()
    assert rig.may(GVA, FETCH) == 0x6000
    one, two = rig.mmu.first.counters, rig.mmu.second.counters
    assert one.as_dict() == two.as_dict()
    assert rig.mmu.counters is one


DIFFERENCES = {
    "Kvm2007": ("fault", "user write", "uncached   #PF at 0x80001000 (user write, protection)"),
    "StaleDirty": ("A and D", "user write", "A and D: "),
    "ReservedWithoutPresent": ("fault", "supervisor read", "supervisor read, reserved bit"),
}


def provoke(rig, name):
    """Do what shows the bug of a mutant."""
    tables = rig.tables("4-level")
    tables.map(GVA, 0x5000)
    tables.set(0x80000000, 2, tables.entry(GVA, 2) & ~2)
    if name == "ReservedWithoutPresent":
        tables.set(GVA, 1, 0x5000 | USER_RW | 1 << 51)
    translate = partial(rig.mmu.translate, 0)
    rig.enter(tables)
    if name == "StaleDirty":
        translate(GVA, 0)
        return translate(GVA, 6)
    if name == "Kvm2007":
        translate(GVA, 6)
        translate(0x80001000, 4)
        return translate(0x80001000, 6)
    return translate(GVA, 0)


@pytest.mark.parametrize("name", DIFFERENCES)
@pytest.mark.parametrize("order", ["{},uncached", "uncached,{}"])
def test_the_first_difference_stops_with_a_report(name, order):
    rig = Rig(f"lockstep:{order.format(f'mmu.testing.mutants:{name}')}")
    with pytest.raises(DifferenceError) as caught:
        provoke(rig, name)
    report = str(caught.value)
    what, access, more = DIFFERENCES[name]
    assert f"differ in {what}: vCPU 0, {access} of 0x" in report.splitlines()[0]
    assert more in report
    for part in ("tables before:", "tables after:", "level 1", "in the shadow tables of vCPU 0"):
        assert part in report
    assert "mmu.testing.mutants:" in report
    assert "CR3 0x100000" in report


def test_another_frame_is_a_difference():
    rig, _ = started("lockstep")
    second = rig.mmu.second.translate
    rig.mmu.second.translate = lambda cpu, gva, access: second(cpu, gva, access) ^ 0x1000
    with pytest.raises(DifferenceError, match="differ in frame"):
        rig.mmu.translate(0, GVA, 0)


def test_other_rights_are_a_difference():
    rig, _ = started("lockstep")
    second = rig.mmu.second.translate
    rig.mmu.second.translate = lambda cpu, gva, access: second(cpu, gva, access) | 2
    with pytest.raises(DifferenceError, match="differ in rights"):
        rig.mmu.translate(0, GVA, 0)
    rig.mmu.second.translate = lambda cpu, gva, access: second(cpu, gva, access) & ~2
    with pytest.raises(DifferenceError, match="differ in rights"):
        rig.mmu.translate(0, GVA, 2)


def test_addresses_that_are_not_canonical_and_protection_keys_agree():
    rig, _ = started("lockstep", P | US | 3 << 59)
    rig.access(1 << 50, READ)
    rig.change(pke=True, pkru=1 << 6)
    assert rig.faults(GVA, USER_READ) == 0x25
    rig.may(GVA, FETCH)


def test_by_name():
    memory = Memory()
    memory.add_ram(0, 0x10000)
    for name, pair in (
        ("lockstep", ("shadow", "uncached")),
        ("lockstep:shadow,uncached", ("shadow", "uncached")),
        ("lockstep:uncached,uncached", ("uncached", "uncached")),
    ):
        mmu = make_mmu(name, memory, ModelTlb(1))
        assert isinstance(mmu, LockstepMmu)
        assert mmu.names == (mmu.first.name, mmu.second.name) == pair
    for wrong in ("lockstep:shadow", "lockstep:shadow,nothing", "lockstep:,"):
        with pytest.raises(ValueError, match="plug-in"):
            find_mmu(wrong)


def test_a_policy_is_for_those_that_have_policies():
    memory = Memory()
    memory.add_ram(0, 0x10000)
    mmu = make_mmu("lockstep", memory, ModelTlb(1), policy="unsync=off")
    assert not mmu.first.policy.unsync
    both = make_mmu("lockstep:shadow,shadow", memory, ModelTlb(1), policy="large=off")
    assert not both.first.policy.large and not both.second.policy.large
    with pytest.raises(ValueError, match="'uncached' has no policies"):
        make_mmu("lockstep:uncached,uncached", memory, ModelTlb(1), policy="large=off")
    with pytest.raises(ValueError, match="shadow policy"):
        mmu.set_policy("nosuch=on")


def test_kvm2007_is_a_name_and_lockstep_says_what_is_wrong_with_it():
    assert find_mmu("kvm2007") is Kvm2007
    with pytest.raises(DifferenceError, match="kvm2007 and uncached differ in"):
        test_cases_rights.test_case_01_two_upper_entries_with_other_rights_on_one_table(
            partial(Rig, "lockstep:kvm2007,uncached", audit=False)
        )


def test_the_audit_is_of_both():
    rig, _ = started("lockstep:shadow,shadow")
    rig.may(GVA, USER_WRITE)
    for mmu in (rig.mmu.first, rig.mmu.second):
        bound, mmu.pool.bound = mmu.pool.bound, 1
        with pytest.raises(Exception, match="invariant 5"):
            rig.mmu.check()
        mmu.pool.bound = bound
    rig.mmu.check()
