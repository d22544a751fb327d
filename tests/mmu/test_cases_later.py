# SPDX-License-Identifier: GPL-2.0-or-later
"""What KVM's shadow MMU grew after 2007, and what our own accounts must keep. The numbers go on
from our catalogue's."""

from __future__ import annotations

from mmu.api import MAP_TRAP, MAP_WRITE
from mmu.testing.sdm import A, D

from .rig import DEVICE, FETCH, HOLE, PAGED, READ, USER_WRITE, WRITE
from .tables import USER_RW

HOT = USER_RW | A | D
GVA = 0x40001000
LARGE = 0x40400000


def test_case_30_the_dirty_log_has_every_frame_that_was_written(shadows):
    """Stores by hot entries, first stores, A and D, devices; and each once."""
    for mode in PAGED:
        rig = shadows()
        tables = rig.tables(mode)
        tables.map(GVA, 0x5000, HOT)
        tables.map(GVA + 0x1000, 0x6000, USER_RW)
        tables.map(LARGE, 0x800000, HOT, level=2)
        table = tables.gpa_of_entry(GVA + 0x1000, 1) >> 12
        rig.enter(tables)
        rig.store(GVA, 4, 1)
        rig.store(LARGE + 0x3000, 4, 1)
        rig.mmu.start_dirty_log()
        assert not list(rig.tlb.held(MAP_WRITE)), "stores would go unseen"
        assert rig.mmu.dirty_log() == []
        for _ in range(2):
            rig.store(GVA, 4, 1)
            rig.store(LARGE + 0x3000, 4, 1)
            assert not list(rig.tlb.held(MAP_WRITE)) or rig.mmu.dirty_log() == [5, 0x803]
            assert not list(rig.tlb.held(MAP_WRITE))
        rig.store(GVA + 0x1000, 4, 1)
        assert set(rig.mmu.dirty_log()) == {6, table}, "D is a write to the table"
        rig.edit(0x7000, 4, 1)
        assert rig.mmu.dirty_log() == [7]
        rig.mmu.stop_dirty_log()
        rig.store(GVA, 4, 1)


def test_case_31_memory_slots_come_and_go(rigs):
    """What was mapped or trapped before holds no more, in tables and TLBs."""
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        tables.map(GVA, HOLE, HOT)
        tables.map(GVA + 0x1000, 0x5000, HOT)
        rig.enter(tables)
        assert rig.access(GVA, WRITE) & MAP_TRAP
        for _ in range(2):
            slot = rig.memory.add_ram(HOLE, 0x1000)
            rig.settle()
            assert not rig.access(GVA, WRITE) & MAP_TRAP
            assert not rig.store(GVA, 4, 7)
            rig.may(GVA, FETCH)
            rig.may(GVA + 0x1000, WRITE)
            rig.memory.remove(slot)
            assert not any(rig.tlb.entries), "no TLB keeps a grant of a frame that is gone"
            assert rig.access(GVA, WRITE) & MAP_TRAP
            assert rig.may(GVA + 0x1000, WRITE) == 0x5000


def test_case_32_accesses_to_a_device_are_remembered_as_such(shadows):
    """KVM, 2011: the second miss on a device needs no walk, and D is set by the first write."""
    for mode in PAGED:
        rig = shadows()
        tables = rig.tables(mode)
        tables.map(GVA, DEVICE, USER_RW)
        rig.enter(tables)
        assert rig.access(GVA, READ) & MAP_TRAP
        assert not tables.entry(GVA, 1) & D
        assert rig.access(GVA, USER_WRITE) & MAP_TRAP
        assert tables.entry(GVA, 1) & D
        before = rig.counters
        for access in (READ, WRITE, USER_WRITE):
            assert rig.access(GVA, access) & MAP_TRAP
        assert not (rig.counters - before)["pf_taken"]
        tables.set(GVA, 1, 0x5000 | HOT)
        rig.invlpg(GVA)
        assert not rig.access(GVA, WRITE) & MAP_TRAP


def test_case_33_the_shrinker_leaves_what_runs(shadows):
    """KVM: mmu_shrink_scan. Roots in use stay, the rest goes, oldest first, and comes back."""
    for mode in ("4-level", "5-level", "32-bit"):
        rig = shadows(cpus=2)
        spaces = [rig.tables(mode, 0x100 + 0x40 * number) for number in range(2)]
        for number, tables in enumerate(spaces):
            tables.map(GVA, 0x5000 + (number << 12), HOT)
            tables.map(LARGE, 0x800000, HOT, level=2)
            rig.enter(tables, cpu=number)
            rig.may(GVA, WRITE, number)
            rig.may(LARGE, WRITE, number)
        roots = sum(page.pins > 0 for page in rig.mmu.pool)
        standing = len(rig.mmu.pool)
        assert rig.mmu.shrink(2) == 2
        rig.settle()
        assert rig.mmu.shrink(100) == standing - 2 - roots
        rig.settle()
        assert len(rig.mmu.pool) == roots
        for number in range(2):
            assert rig.may(GVA, WRITE, number) == 0x5000 + (number << 12)
            assert rig.may(LARGE, WRITE, number) == 0x800000


def test_case_34_a_grant_between_two_flushes_is_held_through_the_next_epoch(rigs):
    """One vCPU is granted W after its own flush and before the other's, which ends the epoch."""
    for granted, last, fetches in ((0, 1, False), (1, 0, False), (0, 1, True), (1, 0, True)):
        rig = rigs(cpus=2)
        tables, other = rig.tables("4-level"), rig.tables("4-level", 0x200)
        tables.map(GVA, other.cr3, HOT)
        tables.map(GVA + 0x1000, 0x5000, HOT)
        other.map(GVA, 0x6000, HOT)
        for cpu in (0, 1):
            rig.enter(tables, cpu)
        rig.may(GVA + 0x1000, WRITE, granted)
        rig.full_flush(granted)
        rig.may(GVA, WRITE, granted)
        rig.full_flush(last)
        if fetches:
            rig.may(GVA + 0x1000, FETCH, last)
        rig.enter(other, last)  # its root is what the first may write
        assert rig.may(GVA, WRITE, last) == 0x6000
