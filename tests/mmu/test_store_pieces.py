# SPDX-License-Identifier: GPL-2.0-or-later
"""A store that the engine delivers in pieces is one write to a table."""

from __future__ import annotations

import pytest

from mmu.testing.sdm import A, D

from .rig import PAGED, Rig
from .tables import USER_RW

HOT = USER_RW | A | D
WINDOW = 0x80000000
GVA = 0x40001000


def window(rig, mode, level):
    """Two hot pages, and an address through which the entry of the first at `level` is stored."""
    tables = rig.tables(mode)
    tables.map(GVA, 0x5000, HOT)
    tables.map(GVA + 0x400000, 0x6000, HOT)
    where = tables.gpa_of_entry(GVA, level)
    tables.map(WINDOW, where & ~0xFFF, HOT)
    rig.enter(tables)
    rig.may(GVA)
    rig.may(GVA + 0x400000)
    return tables, WINDOW | where & 0xFFF


@pytest.mark.parametrize("mode", PAGED)
@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_a_store_counts_once_however_it_arrives(mode, pieces):
    rig = Rig("shadow", policy="unsync=off,flood=off,reuse=off")
    tables, where = window(rig, mode, 1)
    size = tables.entry_bytes
    before = rig.counters
    for number in range(10, 110):
        assert rig.store(where + size * number, size, 0, pieces=pieces)
    assert (rig.counters - before)["mmu_pte_write"] == 100


@pytest.mark.parametrize("mode", PAGED)
def test_a_live_directory_stands_two_stores_and_not_three(mode):
    """As many as FLOOD_WRITES says, of whole entries."""
    rig = Rig("shadow")
    tables, where = window(rig, mode, 2)
    size = tables.entry_bytes
    before = rig.counters
    for number, zapped in ((5, 0), (6, 0), (7, 1)):
        rig.store(where + size * number, size, 0)
        changes = rig.counters - before
        # In 32-bit mode and PAE the directory hangs in the root table: it is in use.
        assert changes["mmu_flooded"] == (zapped if mode.endswith("level") else 0)
    assert rig.may(GVA) == 0x5000


def test_halves_of_an_entry_stored_apart_count_apart():
    """High half first, as a 32-bit kernel sets a PAE entry."""
    rig = Rig("shadow", policy="unsync=off,flood=off")
    _, where = window(rig, "pae", 1)
    before = rig.counters
    for number in range(10, 20):
        rig.store(where + 8 * number + 4, 4, 0)
        rig.store(where + 8 * number, 4, 0)
    assert (rig.counters - before)["mmu_pte_write"] == 20
