# SPDX-License-Identifier: GPL-2.0-or-later
"""The key: fields that do not run into each other, and quadrant arithmetic."""

from __future__ import annotations

from itertools import product

import pytest

from mmu.arch import ACC_ALL, MODES, Levels
from mmu.shadow import role
from mmu.shadow.role import (
    access_of,
    describe_role,
    glevels_of,
    gpte_of_spte,
    is_direct,
    level_of,
    make_role,
    mode_bits,
    pkey_of,
    quadrant_in,
    quadrant_of,
    sptes_of_gpte,
)

from ..rig import MODES as REGS
from ..rig import paging_registers


def test_every_field_comes_back_and_every_key_is_its_own():
    seen = set()
    modes = [mode_of(mode, **changes) for mode, changes in all_modes()]
    for mode in dict.fromkeys(modes):
        for level, quadrant, direct, access, pkey in product(
            range(1, 6), range(4), (False, True), range(ACC_ALL + 1), (0, 1, 15)
        ):
            made = make_role(
                mode, level, quadrant=quadrant, direct=direct, access=access, pkey=pkey
            )
            assert glevels_of(made) == mode & 7
            assert level_of(made) == level
            assert quadrant_in(made) == quadrant
            assert is_direct(made) == direct
            assert access_of(made) == access
            assert pkey_of(made) == pkey
            assert role.mode_of(made) == mode
            assert role.with_level(made, 3) == make_role(
                mode, 3, quadrant=quadrant, direct=direct, access=access, pkey=pkey
            )
            assert made < 1 << role.ROLE_BITS
            seen.add(made)
    assert len(seen) == len(dict.fromkeys(modes)) * 5 * 4 * 2 * 8 * 3


def all_modes():
    names = ("wp", "nxe", "smep", "smap", "pse", "pke")
    for mode in REGS:
        for values in product((False, True), repeat=len(names)):
            yield mode, dict(zip(names, values, strict=True))


def mode_of(mode, **changes):
    registers = paging_registers(REGS[mode]._replace(**changes))
    return mode_bits(registers.cr0, registers.cr4, registers.efer)


@pytest.mark.parametrize(
    ("mode", "change", "matters"),
    [
        ("none", {"wp": True}, False),
        ("none", {"smep": True}, False),
        ("32-bit", {"nxe": True}, False),
        ("32-bit", {"pse": False}, True),
        ("pae", {"pse": True}, False),
        ("pae", {"nxe": False}, True),
        ("4-level", {"wp": False}, True),
        ("4-level", {"smep": True}, False),
        ("4-level", {"smap": True}, False),
        ("4-level", {"pke": True}, False),
        ("4-level", {"pge": True}, False),
    ],
)
def test_only_what_changes_the_meaning_of_entries_is_in_the_key(mode, change, matters):
    assert (mode_of(mode) != mode_of(mode, **change)) == matters


@pytest.mark.parametrize(
    ("mode", "change", "matters"),
    [
        ("4-level", {"smep": True}, True),
        ("4-level", {"smap": True}, True),
        ("4-level", {"pke": True}, True),
        ("32-bit", {"smep": True}, True),
        ("pae", {"pke": True}, False),
    ],
)
def test_without_write_protection_more_is_in_the_key(mode, change, matters):
    before = mode_of(mode, wp=False)
    assert (before != mode_of(mode, wp=False, **change)) == matters


def test_the_halves_of_a_table_and_quarters_of_a_directory():
    for gva in range(0, 1 << 32, 1 << 21):
        mode = MODES[Levels.TWO]
        directory, table = mode.index(gva, 2), mode.index(gva, 1)
        index = gva >> 21 & 511
        assert index in sptes_of_gpte(directory, 2, quadrant_of(gva, 2))
        assert gpte_of_spte(index, 2, quadrant_of(gva, 2)) == directory
        assert list(sptes_of_gpte(table, 1, quadrant_of(gva, 1))) == [0]


@pytest.mark.parametrize(("level", "quadrants", "each"), [(1, 2, 1), (2, 4, 2)])
def test_every_guest_entry_owns_sptes_in_one_quadrant(level, quadrants, each):
    owned = {}
    for gpte, quadrant in product(range(1024), range(quadrants)):
        for spte in sptes_of_gpte(gpte, level, quadrant):
            assert (quadrant, spte) not in owned
            owned[quadrant, spte] = gpte
            assert gpte_of_spte(spte, level, quadrant) == gpte
    assert len(owned) == 512 * quadrants
    for gpte in (0, 255, 256, 511, 512, 767, 768, 1023):
        assert sum(len(sptes_of_gpte(gpte, level, q)) for q in range(quadrants)) == each


def test_a_key_in_words():
    mode = mode_of("4-level", wp=False, smep=True, smap=True, pke=True)
    made = make_role(mode, 2, direct=True, access=3, pkey=7)
    assert describe_role(0x40, made) == (
        "gfn 40 l2 4-level q0 direct w-x nxe smep_andnot_wp smap_andnot_wp pke_andnot_wp key 7"
    )
    assert describe_role(0, make_role(0, 1, direct=True)) == "gfn 0 l1 no-paging q0 direct wux"
