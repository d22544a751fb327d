# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory types as a walk tells them (SDM 3A 4.9.2, 11.12)."""

from __future__ import annotations

import pytest

from mmu.walker import Context, describe, walk

from .rig import MODES, Rig, paging_registers
from .tables import USER_RW

GVA = 0x40001000
POWER_UP = 0x0007_0406_0007_0406

# SDM 3A table 11-11 and 11-12: PAT, PCD, PWT; the entry; its type after power-up.
SELECTION = """
0 0 0  0 WB
0 0 1  1 WT
0 1 0  2 UC-
0 1 1  3 UC
1 0 0  4 WB
1 0 1  5 WT
1 1 0  6 UC-
1 1 1  7 UC
"""
ROWS = [line.split() for line in SELECTION.split("\n") if line]
PAGES = [
    ("32-bit", 1, 7),
    ("32-bit", 2, 12),
    ("pae", 1, 7),
    ("pae", 2, 12),
    ("4-level", 1, 7),
    ("4-level", 2, 12),
    ("4-level", 3, 12),
    ("5-level", 2, 12),
]


def walked(mode, level, flags, gva=GVA):
    rig = Rig("uncached")
    tables = rig.tables(mode)
    frame = {1: 0x5000, 2: 0x400000, 3: 0}[level]
    tables.map(gva, frame, USER_RW | flags, level=level)
    context = Context(rig.features)
    context.load(rig.memory, paging_registers(MODES[mode]._replace(cr3=tables.cr3)))
    return walk(rig.memory, context, gva, 0), context


@pytest.mark.parametrize(("mode", "level", "pat_bit"), PAGES)
def test_the_entry_of_the_pat_and_its_type(mode, level, pat_bit):
    for pat, pcd, pwt, entry, type_ in ROWS:
        flags = int(pat) << pat_bit | int(pcd) << 4 | int(pwt) << 3
        found, _ = walked(mode, level, flags)
        assert found.fault is None
        assert found.pat_index == int(entry)
        assert found.memory_type(POWER_UP) == type_


def test_all_types_that_a_guest_may_set():
    found, _ = walked("4-level", 1, 1 << 3)
    types = {value: found.memory_type(value << 8) for value in range(8)}
    assert types == {
        0: "UC",
        1: "WC",
        2: "reserved",
        3: "reserved",
        4: "WT",
        5: "WP",
        6: "WB",
        7: "UC-",
    }


def test_it_is_told_where_there_is_a_page():
    found, context = walked("4-level", 1, 1 << 7 | 1 << 4)
    assert "PCD" in describe(found, context)
    assert "PAT" in describe(found, context)
    assert "PS" not in describe(found, context)
    assert describe(found, context, POWER_UP).endswith("wux, UC-)")
    assert describe(found, context).endswith("wux)")


def test_what_maps_nothing_selects_nothing():
    _, context = walked("4-level", 1, 1 << 4)
    missing = walk(Rig("uncached").memory, context, GVA, 0)
    assert missing.fault is not None
    assert missing.pat_index == 0
    plain = Context(context.features)
    flat = walk(Rig("uncached").memory, plain, 0x5000, 0)
    assert flat.pat_index == 0
    assert ", W" not in describe(flat, plain, POWER_UP)
