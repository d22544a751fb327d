# SPDX-License-Identifier: GPL-2.0-or-later
"""The walker beside its answers, which the enumeration checks: paths, side effects, texts."""

from __future__ import annotations

import pytest

from mmu.arch import Features
from mmu.testing.sdm import RW, US, A, D, P
from mmu.walker import Context, describe, pdptes_valid, read_pdptes, set_accessed_dirty, walk

from .rig import MODES, PAGED, ROM, USER_FETCH, WRITE, Rig, access_bits, paging_registers
from .tables import USER_RW

GVA = 0x40201ABC


@pytest.fixture
def rig():
    return Rig("uncached")


def context_of(rig, tables, **changes):
    context = Context(Features())
    regs = MODES[tables.mode]._replace(cr3=tables.cr3, **changes)
    context.load(rig.memory, paging_registers(regs))
    return context


@pytest.mark.parametrize("mode", PAGED)
def test_the_path_is_told_from_the_root_down(rig, mode):
    tables = rig.tables(mode)
    tables.map(GVA & ~0xFFF, 0x5000, P | RW, upper=USER_RW)
    context = context_of(rig, tables)
    found = walk(rig.memory, context, GVA, 0)
    levels = [entry[0] for entry in found.entries]
    assert levels == [lv for lv, _ in tables.levels if mode != "pae" or lv < 3]
    for level, gpa, gpte, rights in found.entries:
        assert gpa == tables.gpa_of_entry(GVA, level)
        assert gpte == tables.entry(GVA, level)
        assert rights == (3 if level == 1 else 7)
    assert found.fault is None
    assert (found.gpa, found.level, found.rights, found.dirty) == (0x5ABC, 1, 3, False)
    assert found.rights_above(1) == 7
    assert found.rights_above(5) == 7


@pytest.mark.parametrize("mode", PAGED)
def test_a_walk_changes_nothing_and_then_accessed_and_dirty_are_set(rig, mode):
    tables = rig.tables(mode)
    tables.map(GVA & ~0xFFF, 0x5000)
    context = context_of(rig, tables)
    before = rig.memory.read_block(0, 0x200000)
    read = walk(rig.memory, context, GVA, 0)
    write = walk(rig.memory, context, GVA, access_bits(WRITE))
    assert rig.memory.read_block(0, 0x200000) == before
    entries = [gpa for _, gpa, _, _ in read.entries]
    assert set_accessed_dirty(rig.memory, context, read) == entries
    assert set_accessed_dirty(rig.memory, context, read) == []
    assert not tables.entry(GVA, 1) & D
    assert set_accessed_dirty(rig.memory, context, write)[-1] == entries[-1]
    assert write.dirty
    assert tables.entry(GVA, 1) == 0x5000 | USER_RW | A | D
    assert not tables.entry(GVA, 2) & D


def test_accessed_is_set_once_where_a_table_is_its_own_child(rig):
    tables = rig.tables("32-bit")
    tables.memory.write(tables.cr3 + 4 * 1023, 4, tables.cr3 | USER_RW, "loader")
    context = context_of(rig, tables)
    found = walk(rig.memory, context, 0xFFFFF000, access_bits(WRITE))
    assert found.frame == tables.cr3 >> 12
    set_accessed_dirty(rig.memory, context, found)
    assert rig.memory.read(tables.cr3 + 4 * 1023, 4) == tables.cr3 | USER_RW | A | D


def test_an_entry_in_rom_stays_as_it_is(rig):
    tables = rig.tables("4-level")
    rig.memory.slot_at(ROM).view[8:16] = (0x5000 | USER_RW).to_bytes(8, "little")
    tables.set(0x40000000, 2, ROM | USER_RW)
    context = context_of(rig, tables)
    found = walk(rig.memory, context, 0x40001000, access_bits(WRITE))
    assert ROM + 8 not in set_accessed_dirty(rig.memory, context, found)
    assert found.frame == 5
    assert rig.memory.read(ROM + 8, 8) == 0x5000 | USER_RW


def test_a_context_changes_with_the_registers_and_says_so(rig):
    tables = rig.tables("pae")
    tables.map(GVA & ~0xFFF, 0x5000)
    context = Context(Features())
    regs = MODES["pae"]._replace(cr3=tables.cr3)
    assert context.load(rig.memory, paging_registers(regs))
    assert not context.load(rig.memory, paging_registers(regs._replace(cr3=0x9000)))
    assert context.pdptes == [0, 0, 0, 0]
    assert context.root_gpa == 0x9000
    assert context.load(rig.memory, paging_registers(regs._replace(wp=False)))
    assert context.pdptes[1] == tables.entry(GVA, 3)
    assert context.load(rig.memory, paging_registers(regs._replace(pkru=4)))


@pytest.mark.parametrize(
    ("change", "is_read"),
    [
        ({}, True),
        ({"wp": False}, False),
        ({"nxe": False}, False),
        ({"pge": True}, True),
        ({"pse": True}, True),
        ({"smep": True}, True),
        ({"smap": True}, False),
    ],
    ids=lambda word: ", ".join(word) or "reload" if isinstance(word, dict) else "",
)
def test_what_makes_the_processor_load_pdptes(rig, change, is_read):
    tables = rig.tables("pae")
    tables.map(GVA & ~0xFFF, 0x5000)
    context = context_of(rig, tables)
    old = list(context.pdptes)
    tables.memory.write(tables.cr3, 8, 0x77001, "loader")
    context.load(rig.memory, paging_registers(MODES["pae"]._replace(cr3=tables.cr3, **change)))
    assert context.pdptes == ([0x77001, *old[1:]] if is_read else old)


def test_pdptes_lie_at_any_multiple_of_32(rig):
    rig.memory.write(0x5FE0, 8, 0x7001, "loader")
    rig.memory.write(0x5FF8, 8, 0x8001, "loader")
    assert read_pdptes(rig.memory, 0x5FE0 | 0x18) == [0x7001, 0, 0, 0x8001]
    assert read_pdptes(rig.memory, 0xF0000000) == [(1 << 64) - 1] * 4


def test_pdptes_count_in_pae_paging_only(rig):
    rig.memory.write(0x5000, 8, P | 1 << 50, "loader")
    for mode, regs in MODES.items():
        registers = paging_registers(regs._replace(cr3=0x5000))
        assert pdptes_valid(rig.memory, registers, Features()) == (mode != "pae")


def test_a_walk_in_words(rig):
    tables = rig.tables("4-level")
    tables.map(GVA & ~0xFFF, 0x5000, P | US | 1 << 63)
    text = describe(walk(rig.memory, context_of(rig, tables), GVA, 0), context_of(rig, tables))
    assert text.splitlines()[0] == "0x40201abc by 4-level paging, CR3 0x100000"
    assert "level 1 PTE" in text
    assert "P U NX" in text
    assert text.endswith("-> gpa 0x5abc (4 KiB, -u-)")


def test_a_fault_in_words(rig):
    tables = rig.tables("pae")
    tables.map(GVA & ~0xFFF, 0x5000, P | 1 << 63)
    context = context_of(rig, tables)
    text = describe(walk(rig.memory, context, GVA, access_bits(USER_FETCH)), context)
    assert "PDPTE register 1: 0x101001" in text
    assert text.endswith("#PF at 0x40201abc (user fetch, protection)")
