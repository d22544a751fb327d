# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue's cases where a second vCPU matters: over the same tables, in another mode, or with
other control bits, while the first runs. The numbers are our catalogue's."""

from __future__ import annotations

from itertools import product

import pytest

from mmu.api import MAP_TRAP
from mmu.testing.sdm import RW, US, XD, A, D, P

from .rig import FETCH, PAGED, READ, USER_FETCH, USER_READ, USER_WRITE, WRITE, GeneralProtection
from .tables import USER_RW
from .test_cases_writes import window

HOT = USER_RW | A | D
GVA = 0x40001000
BOTH = (0, 1)


def running(rigs, mode, pool=32, cpus=2):
    """A rig with all vCPUs on one address space, in which GVA is mapped."""
    rig = rigs(cpus=cpus, pool=pool)
    tables = rig.tables(mode)
    tables.map(GVA, 0x5000, HOT)
    for cpu in range(cpus):
        rig.enter(tables, cpu)
        rig.may(GVA, WRITE, cpu)
    return rig, tables


def reload(rig):
    """Load CR3 on all vCPUs: PAE reads its PDPTEs then only."""
    for cpu in range(len(rig.regs)):
        rig.change(cpu)


def test_case_09_each_vcpu_has_its_own_pdptes(rigs):
    """An edit shows on the vCPU that loads CR3; on the other it does not, whatever that does."""
    rig, tables = running(rigs, "pae")
    tables.map(GVA + 0x40000000, 0x6000, HOT)
    rig.change(0)
    pdpte, other = tables.gpa_of_entry(GVA, 3), tables.entry(GVA + 0x40000000, 3)
    for old, new, entry in ((0x5000, 0x6000, other), (0x6000, None, 0)):
        rig.edit(pdpte, 8, entry)
        rig.change(0)
        for cpu in BOTH:
            rig.invlpg(GVA, cpu)
        assert rig.may(GVA, WRITE, 1) == old
        if new is None:
            assert rig.faults(GVA, WRITE, 0) == 2
        else:
            assert rig.may(GVA, WRITE, 0) == new
        rig.may(GVA, READ, 1)
        rig.change(1)
    rig.edit(pdpte, 8, P | 1 << 1)
    with pytest.raises(GeneralProtection):
        rig.change(1)
    assert rig.faults(GVA, WRITE, 0) == rig.faults(GVA, WRITE, 1) == 2


def test_case_11_a_table_that_nobody_leads_to_is_edited_by_the_other_vcpu(rigs):
    """And linked again, where nothing was: no invalidation is owed (SDM 4.10.4.3)."""
    for mode in PAGED:
        rig, tables = running(rigs, mode)
        leaf, where = tables.entry(GVA, 2), tables.gpa_of_entry(GVA, 2)
        entry = window(tables, tables.gpa_of_entry(GVA, 1))
        reload(rig)
        for frame in (0x6000, 0x7000, 0x8000):
            rig.edit(where, tables.entry_bytes, 0)
            for cpu in BOTH:
                rig.invlpg(GVA, cpu)
                assert rig.faults(GVA, READ, cpu) == 0
            rig.store(entry, tables.entry_bytes, frame | HOT, cpu=1)
            rig.edit(where, tables.entry_bytes, leaf)
            assert rig.may(GVA, WRITE, 0) == rig.may(GVA, WRITE, 1) == frame


def test_case_13_writes_from_outside_are_seen_by_all(rigs):
    for mode, cpus in product(PAGED, (2, 4)):
        rig, tables = running(rigs, mode, cpus=cpus)
        where = tables.gpa_of_entry(GVA, 1)
        for number, source in enumerate(("device", "debugger", "loader")):
            frame = 0x6000 + (number << 12)
            rig.edit(where, tables.entry_bytes, frame | HOT, source)
            for cpu in range(cpus):
                rig.invlpg(GVA, cpu)
                assert rig.may(GVA, WRITE, cpu) == frame


def test_case_15_a_switch_of_modes_disturbs_nobody_else(rigs):
    """Every mode on one vCPU beside every mode on the other, addresses in the levels above too."""
    for stays in PAGED:
        rig, tables = running(rigs, stays)
        if stays in ("4-level", "5-level"):
            tables.map(GVA | 1 << 40, 0x9000, HOT)
        others = {mode: rig.tables(mode, 0x200 + 0x40 * i) for i, mode in enumerate(PAGED)}
        for mode, other in others.items():
            other.map(GVA, 0x6000, HOT)
            if mode in ("4-level", "5-level"):
                other.map(GVA | 1 << 40, 0x7000, HOT)
        for mode in (*PAGED, *reversed(PAGED)):
            rig.enter(others[mode], 1)
            assert rig.may(GVA, USER_WRITE, 1) == 0x6000
            assert rig.may(GVA, USER_WRITE, 0) == 0x5000
            if mode in ("4-level", "5-level"):
                assert rig.may(GVA | 1 << 40, WRITE, 1) == 0x7000
            if stays in ("4-level", "5-level"):
                assert rig.may(GVA | 1 << 40, WRITE, 0) == 0x9000
            rig.change(1, pg=False, lma=False)
            assert rig.may(0x7C00, WRITE, 1) == 0x7C00
            assert rig.may(GVA, WRITE, 0) == 0x5000


def test_case_16_bit_63_is_reserved_for_one_and_no_execute_for_the_other(rigs):
    for mode in ("pae", "4-level", "5-level"):
        for level in (1, 2):
            rig, tables = running(rigs, mode)
            tables.set(GVA, level, tables.entry(GVA, level) | XD)
            rig.change(0)
            rig.change(1, nxe=False)
            for _ in range(2):
                assert rig.may(GVA, WRITE, 0) == 0x5000
                assert rig.faults(GVA, FETCH, 0) == 0x11
                assert rig.faults(GVA, WRITE, 1) == 11
                assert rig.faults(GVA, FETCH, 1) == 9


def test_case_17_one_vcpu_writes_through_protection_the_other_does_not(rigs):
    for mode, flags in product(PAGED, (P, P | US)):
        for level in (1, 2):
            rig, tables = running(rigs, mode)
            gva = 0x40800000
            tables.map(gva, 0x800000, flags, level=level)
            rig.change(1, wp=False)
            for _ in range(3):
                rig.may(gva, READ, 0)
                rig.may(gva, WRITE, 1)
                assert rig.faults(gva, WRITE, 0) == 3
                if flags & US:
                    rig.may(gva, USER_READ, 1)
                    assert rig.faults(gva, USER_WRITE, 1) == 7
                    assert rig.faults(gva, USER_WRITE, 0) == 7
                rig.may(gva, WRITE, 1)


def test_case_18_one_vcpus_write_opens_the_page_to_no_other(rigs):
    """WP = 0 on one; SMEP, SMAP and keys on the other."""
    for mode in PAGED:
        rig, tables = running(rigs, mode)
        tables.map(GVA, 0x5000, P | US)
        rig.change(0, wp=False)
        rig.change(1, wp=False, smep=True)
        for _ in range(3):
            rig.may(GVA, WRITE, 0)
            rig.may(GVA, FETCH, 0)
            rig.may(GVA, WRITE, 1)
            assert rig.faults(GVA, FETCH, 1) == 0x11
            rig.may(GVA, USER_FETCH, 1)
        rig.change(1, smap=True)
        rig.may(GVA, WRITE, 0)
        assert rig.faults(GVA, READ, 1) == 1
        if mode == "4-level":
            rig.change(1, smap=False, pke=True, pkru=1)
            rig.may(GVA, WRITE, 0)
            assert rig.faults(GVA, READ, 1) == 0x21


def test_case_22_an_alias_in_the_other_tlb_traps_once_the_page_is_a_table(rigs):
    for mode, writer in product(PAGED, BOTH):
        rig, tables = running(rigs, mode)
        table = tables.gpa_of_entry(GVA, 2) & ~0xFFF
        aliases = [0x80000000 + (number << 12) for number in range(8)]
        other = rig.tables(mode, 0x280)
        other.map(GVA, 0x6000, HOT)
        table = other.gpa_of_entry(GVA, 2) & ~0xFFF
        for gva in aliases:
            tables.map(gva, table, HOT)
        rig.change(writer)
        for gva in aliases:
            assert not rig.store(gva + 0xF00, 4, 0, writer)
        rig.enter(other, 1 - writer)
        rig.may(GVA, WRITE, 1 - writer)
        for gva in aliases:
            assert bool(rig.access(gva, WRITE, writer) & MAP_TRAP) == rig.is_shadow
        rig.store(aliases[5] | other.gpa_of_entry(GVA, 2) & 0xFFF, 4, 0, writer)
        rig.invlpg(GVA, 1 - writer)
        assert rig.faults(GVA, READ, 1 - writer) == 0


def test_case_23_one_vcpu_reuses_what_was_the_others_table(rigs):
    for mode in PAGED:
        rig, tables = running(rigs, mode)
        data = window(tables, tables.gpa_of_entry(GVA, 1) & ~0xFFF)
        reload(rig)
        rig.edit(tables.gpa_of_entry(GVA, 2), tables.entry_bytes, 0)
        for cpu in BOTH:
            rig.invlpg(GVA, cpu)
        size = tables.entry_bytes
        trapped = sum(rig.store(data + at, size, 0x1234567, cpu=1) for at in range(0, 256, size))
        assert trapped <= 8
        assert not rig.store(data, size, 1, cpu=0)
        assert not rig.store(data, size, 1, cpu=1, user=True)


def test_case_24_a_flood_by_one_throws_out_no_root_of_the_other(rigs):
    """It writes unused entries of the directory that the other runs on."""
    for mode in ("32-bit", "4-level", "5-level"):
        rig, tables = running(rigs, mode)
        others = rig.tables(mode, 0x280)
        others.map(GVA, 0x6000, HOT)
        window(others, tables.cr3)
        rig.enter(others, 1)
        size = tables.entry_bytes
        for number in range(16):
            rig.store(0x80000000 | tables.cr3 + 0x800 + number * size, size, 0, cpu=1)
            if number % 4 == 0:
                assert rig.may(GVA, WRITE, 0) == 0x5000
        if rig.is_shadow:
            assert rig.is_protected(tables.cr3 >> 12)
        entry = tables.gpa_of_entry(GVA, tables.top)
        rig.store(0x80000000 | entry, size, 0, cpu=1)
        rig.invlpg(GVA, 0)
        assert rig.faults(GVA, WRITE, 0) == 2


def test_case_25_pieces_of_a_large_page_that_becomes_a_table_in_the_other_tlb(rigs):
    for mode, holder in product(PAGED, BOTH):
        rig, tables = running(rigs, mode)
        large, frame = 0x40400000, 0x803000
        tables.map(large, 0x800000, HOT, level=2)
        tables.map(0x80000000, 0x5000, HOT)
        reload(rig)
        for page in (0, 0x3000, 0x4000):
            assert not rig.store(large + page, 8, 0, holder)
        tables.set(0x80000000, 2, frame | USER_RW)
        assert rig.faults(0x80000000, WRITE, 1 - holder) == 2
        rig.store(large + 0x3000, tables.entry_bytes, 0x6000 | HOT, holder)
        assert rig.may(0x80000000, WRITE, 1 - holder) == 0x6000
        rig.store(large + 0x3000, tables.entry_bytes, 0x7000 | HOT, holder)
        rig.invlpg(0x80000000, 1 - holder)
        assert rig.may(0x80000000, WRITE, 1 - holder) == 0x7000


def test_case_27_both_drop_all_of_a_large_page_by_any_address_in_it(rigs):
    levels = [(mode, 2) for mode in PAGED] + [("4-level", 3), ("5-level", 3)]
    for (mode, level), shrink in product(levels, (0, 2, 8)):
        rig, tables = running(rigs, mode, pool=8)
        gva, frame = (0x40800000, 0x800000) if level == 2 else (1 << 34, 0)
        pieces = (0, 0x1000, 0x100000, 0x1FF000)
        tables.map(gva, frame, level=level)
        for cpu, piece in product(BOTH, pieces):
            rig.may(gva + piece, WRITE, cpu)
        if shrink and rig.is_shadow:
            rig.mmu.shrink(shrink)
            rig.settle()
        rig.edit(tables.gpa_of_entry(gva, level), tables.entry_bytes, 0)
        for cpu in BOTH:
            rig.invlpg(gva + 0x5123, cpu)
        for cpu, piece in product(BOTH, pieces):
            assert rig.faults(gva + piece, WRITE, cpu) == 2


def test_case_28_two_vcpus_in_other_modes_on_one_table(rigs):
    """At once, without a load of CR3 between: A and D that one sets are bits of the other's."""
    for one, other in product(PAGED, PAGED):
        rig = rigs(cpus=2, pool=32)
        shared = 0x300000
        spaces = [rig.tables(mode, 0x100 + 0x40 * i) for i, mode in enumerate((one, other))]
        for cpu, tables in enumerate(spaces):
            tables.set(0x40000000, 2, shared | USER_RW)
            tables.map(0x80000000, shared, HOT)
            rig.enter(tables, cpu)
        for turn in range(4):
            value = 0x5000 + (turn << 12) | (P | RW | US)
            rig.store(0x80000000 + 8 * 6, 8, value | (value if turn % 2 else 0) << 32, turn % 2)
            for cpu, tables in enumerate(spaces):
                index = 6 if tables.entry_bytes == 8 else 12
                gvas = [0x40000000 + (index << 12)]
                if tables.entry_bytes == 4:
                    gvas.append(gvas[0] + 0x1000)
                for gva in gvas:
                    rig.invlpg(gva, cpu)
                    rig.access(gva, READ, cpu)
                    rig.access(gva, WRITE, cpu)
            for cpu, tables in enumerate(spaces):
                gva = 0x40000000 + ((6 if tables.entry_bytes == 8 else 12) << 12)
                rig.invlpg(gva, cpu)
                rig.access(gva, READ, cpu)
