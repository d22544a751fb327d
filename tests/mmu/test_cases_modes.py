# SPDX-License-Identifier: GPL-2.0-or-later
"""Bugs that real shadow MMUs had with modes, registers and roots.

The numbers are our catalogue's.
"""

from __future__ import annotations

from itertools import permutations, product

import pytest

from mmu.api import PoolError
from mmu.testing.sdm import RW, US, A, D, P, Regs

from .rig import (
    DEVICE,
    FETCH,
    HOLE,
    MODES,
    PAGED,
    READ,
    ROM,
    USER_READ,
    USER_WRITE,
    WRITE,
    GeneralProtection,
    Rig,
)
from .tables import USER_RW

HOT = USER_RW | A | D
GVA = 0x40001000
OTHERS = {"4-level": [(40, 0xA000)], "5-level": [(40, 0xB000), (50, 0xC000)]}


def test_case_09_pdptes_are_read_when_the_processor_loads_them(rigs):
    """KVM, January 2007, patches 3 and 6: an edit shows after a load of CR3, not before."""
    rig = rigs()
    tables = rig.tables("pae")
    tables.map(GVA, 0x5000)
    tables.map(GVA + 0x40000000, 0x6000)
    pdpte = tables.gpa_of_entry(GVA, 3)
    one, other = tables.entry(GVA, 3), tables.entry(GVA + 0x40000000, 3)
    rig.enter(tables)
    assert rig.may(GVA, WRITE) == 0x5000
    rig.edit(pdpte, 8, other)
    rig.invlpg(GVA)
    assert rig.may(GVA, WRITE) == 0x5000
    rig.change()
    assert rig.may(GVA, WRITE) == 0x6000
    rig.edit(pdpte, 8, 0)
    assert rig.may(GVA) == 0x6000
    rig.change(wp=False)
    rig.change(nxe=False)
    assert rig.may(GVA) == 0x6000, "neither CR0.WP nor EFER.NXE loads them"
    rig.change()
    assert rig.faults(GVA) == 0
    rig.edit(pdpte, 8, one)
    assert rig.faults(GVA) == 0
    rig.change(pge=True)
    assert rig.may(GVA) == 0x5000
    rig.edit(pdpte, 8, other)
    rig.change(smep=True)
    assert rig.may(GVA) == 0x6000


def test_case_09_a_guest_that_uses_its_pdpt_as_data_disturbs_nothing(rigs):
    """The table at CR3 is no shadowed table: stores to it are plain stores."""
    rig = rigs()
    tables = rig.tables("pae")
    tables.map(GVA, 0x5000)
    tables.map(GVA + 0x1000, tables.cr3)
    rig.enter(tables)
    rig.may(GVA)
    assert not rig.store(GVA + 0x1000 + 8, 8, 0)
    assert rig.may(GVA) == 0x5000
    rig.change()
    assert rig.faults(GVA) == 0


def test_case_09_reserved_bits_refuse_the_load(rigs):
    """SDM 4.4.1: #GP(0), and the old CR3 stays. Not for entries that are not present."""
    for bit in (1, 2, 5, 8, 40, 63):
        rig = rigs()
        tables = rig.tables("pae")
        other = rig.tables("pae", first_frame=0x200)
        tables.map(GVA, 0x5000)
        other.map(GVA, 0x6000)
        rig.enter(tables)
        rig.may(GVA)
        rig.edit(other.gpa_of_entry(0, 3), 8, P | 1 << bit)
        with pytest.raises(GeneralProtection):
            rig.enter(other)
        assert rig.may(GVA) == 0x5000
        assert rig.may(GVA, WRITE) == 0x5000
        rig.edit(other.gpa_of_entry(0, 3), 8, 1 << bit)
        rig.enter(other)
        assert rig.may(GVA) == 0x6000


def test_case_14_invlpg_with_paging_off_or_of_anything(rigs):
    """Linux 9f46c187e2e6: INVLPG with CR0.PG = 0 followed a null root."""
    rig = rigs()
    for gva in (0, 0x5000, 0xFFFFFFFF, 0xC0000000):
        rig.invlpg(gva)
        rig.may(gva & 0xFFFFFF, WRITE)
        rig.invlpg(gva)
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        tables.map(GVA, 0x5000)
        rig.enter(tables)
        for gva in (GVA, 0, GVA + 0x123456, 1 << 63, (1 << 64) - 1, 1 << 47, GVA):
            rig.invlpg(gva)
        assert rig.may(GVA) == 0x5000
        rig.change(pg=False, lma=False)
        rig.invlpg(GVA)
        assert rig.may(0x7000, WRITE) == 0x7000


def test_case_15_more_levels_and_fewer_in_mid_run(rigs):
    """CVE-2017-12188: a walk with the levels of the mode before, which leads two addresses that
    differ in the levels above to one place."""
    rig = rigs(pool=24)
    spaces = {}
    for number, mode in enumerate(PAGED):
        spaces[mode] = rig.tables(mode, first_frame=0x100 + 0x40 * number)
        spaces[mode].map(GVA, 0x5000 + 0x1000 * number)
        spaces[mode].map(GVA + 0x400000, 0x5000 + 0x1000 * number, P | A)
        for bit, frame in OTHERS.get(mode, ()):
            spaces[mode].map(GVA | 1 << bit, frame)
    for order in list(permutations(PAGED))[::5]:
        for mode in order:
            rig.enter(spaces[mode])
            frame = 0x5000 + 0x1000 * PAGED.index(mode)
            assert rig.may(GVA, USER_WRITE) == frame
            assert rig.may(GVA + 0x400000) == frame
            assert rig.faults(GVA + 0x400000, USER_READ) == 5
            # Addresses that only a level above tells from the first.
            for bit, frame in OTHERS.get(mode, ()):
                assert rig.may(GVA | 1 << bit, WRITE) == frame
        rig.change(pg=False, lma=False)
        assert rig.may(0x12345, WRITE) == 0x12345


def test_case_15_page_size_extensions_toggled_over_hot_entries(rigs):
    """Without CR4.PSE bit 7 of a 32-bit directory entry means nothing (SDM 4.3)."""
    rig = rigs()
    tables = rig.tables("32-bit", first_frame=0x400)  # at 4 MiB: a large page and a table alike
    tables.set(0x40000000, 2, 0x400000 | HOT | 0x80)
    tables.memory.write(0x400000 + 4, 4, 0x5000 | HOT, "loader")
    rig.enter(tables)
    for _ in range(3):
        assert rig.may(0x40001000, READ) == 0x401000
        rig.change(pse=False)
        assert rig.may(0x40001000, READ) == 0x5000
        rig.change(pse=True)


def test_case_15_paging_switched_on_and_off_over_one_table(rigs):
    """Real mode, and paging off, run on direct pages; none of them is a guest's table."""
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        tables.map(GVA, 0x5000)
        gpa = tables.gpa_of_entry(GVA, 1)
        for frame in (0x5000, 0x6000, 0x7000):
            rig.load(0, Regs())
            rig.store(gpa, tables.entry_bytes, frame | USER_RW)
            rig.enter(tables)
            assert rig.may(GVA, USER_WRITE) == frame
        rig.load(0, Regs())
        assert rig.may(0xFFFFF000) == 0xFFFFF000
        assert rig.may(DEVICE, WRITE) == DEVICE


def test_case_20_init_takes_an_application_processor_out_of_paging(rigs):
    """Linux 03a6e84069d1: INIT left CR3 and the paging state of an AP as they were."""
    for mode in PAGED:
        rig = rigs(cpus=2, pool=12)
        tables = rig.tables(mode)
        tables.map(GVA, 0x5000)
        for cpu in (0, 1):
            rig.enter(tables, cpu)
            assert rig.may(GVA, WRITE, cpu) == 0x5000
        rig.load(1, Regs())
        assert rig.may(0x7C00, WRITE, 1) == 0x7C00
        assert rig.may(GVA, WRITE, 0) == 0x5000
        rig.edit(tables.gpa_of_entry(GVA, 1), tables.entry_bytes, 0x6000 | USER_RW)
        rig.invlpg(GVA)
        assert rig.may(GVA, WRITE, 0) == 0x6000
        rig.load(0, Regs())
        if rig.is_shadow:
            assert not any(page.pins for page in rig.mmu.pool)


def test_case_26_a_root_in_no_memory_is_survived(rigs):
    """Xen XSA-494, -251, -397: an error on the way to a new root left the old one half gone."""
    nowhere = (HOLE, DEVICE, ROM, 0xFFFFF000, 0xFFFFFFF000)
    for mode, cr3 in product(PAGED, nowhere):
        rig = rigs()
        tables = rig.tables(mode)
        tables.map(GVA, 0x5000)
        rig.enter(tables)
        rig.may(GVA, WRITE)
        if mode in ("32-bit", "pae") and cr3 >> 32:
            continue
        try:
            rig.load(0, MODES[mode]._replace(cr3=cr3))
            for gva, access in product((GVA, 0, 0xFFFFF000), (READ, WRITE, FETCH, USER_WRITE)):
                rig.access(gva, access)
        except GeneralProtection:
            assert mode == "pae"
            assert rig.may(GVA, WRITE) == 0x5000
        rig.enter(tables)
        assert rig.may(GVA, WRITE) == 0x5000


def test_case_26_tables_in_rom_device_and_nothing(rigs):
    """Whatever an upper entry points to: the architecture's answer and no exception of ours."""
    for mode, gpa in product(PAGED, (HOLE, DEVICE, ROM, 0xFFFFF000, 0xFF_FFFF_F000)):
        for level in (2, 3):
            if (level == 3 and mode == "32-bit") or (gpa >> 32 and mode == "32-bit"):
                continue
            rig = rigs()
            tables = rig.tables(mode)
            tables.map(GVA, 0x5000)
            tables.set(GVA, level, gpa | (P if mode == "pae" and level == 3 else USER_RW))
            rig.enter(tables)
            for access in (READ, USER_WRITE, FETCH, WRITE, READ):
                rig.access(GVA, access)
                rig.access(GVA + 0x1000, access)
            rig.edit(gpa, 8, 0)
            rig.change()
            rig.access(GVA, WRITE)


def test_case_26_a_page_table_in_rom_cannot_take_accessed_and_dirty(rigs):
    """The processor's attempt to set them is lost, the access goes on."""
    for mode, flags in product(PAGED, (USER_RW, USER_RW | A, HOT, P | US)):
        rig = rigs()
        tables = rig.tables(mode)
        rom = rig.memory.slot_at(ROM)
        width = tables.entry_bytes
        for number in range(4):
            entry = (0x5000 + (number << 12) | flags).to_bytes(width, "little")
            rom.view[(1 + number) * width : (2 + number) * width] = entry
        tables.set(0x40000000, 2, ROM | USER_RW)
        rig.enter(tables, wp=False)
        for access in (READ, WRITE, READ, USER_READ, WRITE):
            for number in range(4):
                assert rig.may(GVA + (number << 12), access) == 0x5000 + (number << 12)


def test_case_26_a_pool_too_small_is_refused_at_once():
    """No fault could be answered with it."""
    for cpus in (1, 2, 4):
        with pytest.raises(PoolError, match="too few"):
            Rig(cpus=cpus, pool=4 + cpus - 1)
        Rig(cpus=cpus, pool=5 + cpus - 1)


def test_case_28_one_frame_is_a_table_of_several_modes_in_turn(rigs):
    """Linux cea0f0e7ea54: 4-byte, PAE and long-mode views of one frame, all coherent."""
    rig = rigs(pool=32)
    shared = 0x300000  # the leaf table of every mode
    spaces = {mode: rig.tables(mode, 0x100 + 0x20 * i) for i, mode in enumerate(PAGED)}
    for mode, tables in spaces.items():
        tables.set(0x40000000, 2, shared | USER_RW)
        tables.map(0x80000000, shared)
        if mode == "32-bit":
            assert tables.gpa_of_entry(0x40000000, 1) == shared
    rig.enter(spaces["pae"])
    # An 8-byte entry with frame 0x5: to a 32-bit guest the entries 2n (frame 0x5) and 2n + 1.
    for turn in range(3):
        low = 0x5000 + (turn << 12) | USER_RW
        high = 0 if turn % 2 else 3 << 12 | USER_RW  # physical address bits 44 and up: reserved
        for mode in ("pae", "4-level", "32-bit", "5-level"):
            rig.enter(spaces[mode])
            rig.store(0x80000000 + 8 * 6, 8, low | high << 32)
            for other in PAGED:
                rig.enter(spaces[other])
                if other == "32-bit":
                    assert rig.may(0x40000000 + (12 << 12), WRITE) == low & ~0xFFF
                    entry = rig.memory.read(shared + 52, 4)
                    if entry & P:
                        assert rig.may(0x40000000 + (13 << 12), WRITE) == entry & ~0xFFF
                    else:
                        assert rig.faults(0x40000000 + (13 << 12), WRITE) == 2
                else:
                    answer = rig.access(0x40000000 + (6 << 12), WRITE)
                    assert isinstance(answer, int) == (not rig.memory.read(shared + 52, 4))


def test_case_28_accessed_and_dirty_of_one_mode_are_bits_of_another_modes_entry(shadows):
    """A and D set by 32-bit paging at bit 32 + 5 of an 8-byte entry are a part of its address."""
    rig = shadows(pool=32)
    shared = 0x300000
    narrow, wide = rig.tables("32-bit", 0x100), rig.tables("4-level", 0x120)
    for tables in (narrow, wide):
        tables.set(0x40000000, 2, shared | USER_RW)
    # Entry 6 of 8 bytes: frame 0x5 with address bits 33 to 36 from the 4-byte entry 13.
    rig.edit(shared + 48, 8, 0x5000 | USER_RW | (P | RW) << 32)
    rig.enter(wide)
    before = rig.may(0x40006000, READ)
    rig.enter(narrow)
    rig.may(0x4000C000, READ)  # the leaf table is there, and has A in this entry already
    rig.may(0x4000D000, WRITE)
    assert rig.memory.read(shared + 52, 4) == P | RW | A | D
    rig.enter(wide)
    after = rig.may(0x40006000, READ)
    assert after == before | (A | D) << 32
    # And the other way: A at bit 5 of the low half belongs to the 4-byte entry 12.
    rig.enter(narrow)
    assert rig.may(0x4000C000, WRITE) == 0x5000
