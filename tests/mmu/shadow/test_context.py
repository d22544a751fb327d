# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU's side: hardware's permission check as a mask, and the keys along a path."""

from __future__ import annotations

from itertools import product

import pytest

from mmu.arch import ACC_ALL, Features
from mmu.shadow.context import SHIFTS_32, ShadowContext, hardware_tests
from mmu.shadow.pool import SPTE_NX, SPTE_PRESENT
from mmu.shadow.role import (
    access_of,
    is_direct,
    level_of,
    make_role,
    mode_bits,
    pkey_of,
    quadrant_in,
)
from mmu.testing import sdm
from mmu.testing.sdm import US, P
from mmu.walker import Context, walk

from ..rig import ALL_ACCESSES, MODES, PAGED, Rig, access_bits, paging_registers
from ..tables import USER_RW

GVA = 0xC0801000


@pytest.mark.parametrize(("smep", "smap"), list(product((False, True), repeat=2)))
def test_the_check_is_that_of_section_4_6_1_with_write_protection(smep, smap):
    tests = hardware_tests(smep, smap)
    for access, user, writable, xd in product(ALL_ACCESSES, *[(False, True)] * 3):
        spte = SPTE_PRESENT | 4 * user | 2 * writable | SPTE_NX * xd
        mask, want = tests[access_bits(access)]
        allowed = sdm.allowed(access, user, writable, xd, True, smep, smap)
        assert (spte & mask == want) == allowed
        assert (spte ^ SPTE_PRESENT) & mask != want


def contexts(rig, tables, **changes):
    regs = paging_registers(MODES[tables.mode]._replace(cr3=tables.cr3, **changes))
    paging = Context(Features())
    paging.load(rig.memory, regs)
    mode = mode_bits(regs.cr0, regs.cr4, regs.efer)
    return paging, ShadowContext(paging, 0, None, SHIFTS_32, mode, hardware_tests(False, False))


@pytest.mark.parametrize("mode", PAGED)
def test_the_keys_of_a_path_name_the_guests_tables(mode):
    rig = Rig("uncached")
    tables = rig.tables(mode)
    tables.map(GVA, 0x5000)
    tables.set(GVA, 2, tables.entry(GVA, 2) & ~US)
    paging, context = contexts(rig, tables)
    found = walk(rig.memory, paging, GVA, 0)
    for level in range(1, len(found.entries)):
        gfn, role = context.child_key(found, level, ACC_ALL)
        assert gfn == tables.gpa_of_entry(GVA, level) >> 12
        assert level_of(role) == level
        assert not is_direct(role)
        assert access_of(role) == (3 if level == 1 else 7)
        quadrant = {1: 0, 2: 3}[level] if mode == "32-bit" else 0
        assert quadrant_in(role) == quadrant


@pytest.mark.parametrize("mode", PAGED)
def test_below_a_large_page_the_keys_are_direct(mode):
    rig = Rig("uncached")
    tables = rig.tables(mode)
    level = 3 if mode in ("4-level", "5-level") else 2
    gva = 0xC0000000
    tables.map(gva, 0x40000000, P, level=level)
    if mode in ("4-level", "5-level"):
        tables.set(gva, level, tables.entry(gva, level) | 5 << 59)
    paging, context = contexts(rig, tables)
    offset = 0x387654 if level == 3 else 0x187654
    found = walk(rig.memory, paging, gva + offset, 0)
    for below in range(1, level):
        gfn, role = context.child_key(found, below, 1)
        size = 9 * below
        assert gfn == 0x40000 + ((offset >> 12) >> size << size)
        assert is_direct(role)
        assert access_of(role) == 1
        assert pkey_of(role) == (5 if level == 3 else 0)


def test_without_paging_the_directories_are_direct():
    rig = Rig("uncached")
    paging = Context(Features())
    paging.load(rig.memory, paging_registers(MODES["none"]))
    context = ShadowContext(paging, 0, None, SHIFTS_32, 0, hardware_tests(False, False))
    for gigabyte in range(4):
        assert context.directory_key(gigabyte) == (gigabyte << 18, make_role(0, 2, direct=True))
    found = walk(rig.memory, paging, 0xC0201000, 0)
    assert context.child_key(found, 1, 0) == (0xC0200, make_role(0, 1, direct=True))


def test_the_directories_of_pae_follow_its_registers():
    rig = Rig("uncached")
    tables = rig.tables("pae")
    tables.map(GVA, 0x5000, USER_RW)
    paging, context = contexts(rig, tables)
    assert context.directory_key(0) is None
    key = context.directory_key(3)
    assert key == (tables.gpa_of_entry(GVA, 2) >> 12, make_role(context.mode, 2))
    paging.pdptes[0] = 0x7000 | P
    assert context.directory_key(0) == (7, make_role(context.mode, 2))
