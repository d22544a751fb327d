# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything zapped at once: what must be told, and what it costs."""

from __future__ import annotations

import pytest

from mmu.shadow.pool import ShadowPage
from mmu.testing.sdm import A, D

from ..compiled_first import CompiledFirst
from ..rig import READ, WRITE, Rig
from ..tables import USER_RW

HOT = USER_RW | A | D
GVA = 0x40001000


def busy(plugin="shadow", pages=8):
    """A rig that has used an address space of several tables."""
    rig = Rig(plugin, pool=64)
    tables = rig.tables("4-level")
    for number in range(pages):
        tables.map(GVA + (number << 21), 0x5000 + (number << 12), HOT)
    rig.enter(tables)
    for number in range(pages):
        rig.may(GVA + (number << 21), WRITE)
    return rig, tables


def test_the_version_grows_though_nothing_else_is_zapped():
    """Who keeps translations by version must hear of it, whatever the caller does beside."""
    rig = Rig("shadow", pool=8)
    version = rig.mmu.version
    rig.mmu.cache.zap_all_fast()
    assert rig.mmu.version > version


def test_paths_are_forgotten():
    rig, _ = busy()
    paths = rig.mmu.contexts[0].paths
    rig.mmu._leave_root(0, rig.mmu.contexts[0])
    paths[0] = next(iter(rig.mmu.pool))
    rig.mmu.cache.zap_all_fast()
    assert not paths


def test_no_page_is_looked_at(monkeypatch):
    """It takes the same for many pages as for few: all that is done to one is to list it."""
    rig, _ = busy(pages=20)
    rig.mmu._leave_root(0, rig.mmu.contexts[0])
    for name in ("obsolete", "gfn", "parents", "role"):
        monkeypatch.setattr(ShadowPage, name, property(lambda page: pytest.fail("looked at")))
    rig.mmu.cache.zap_all_fast()
    monkeypatch.undo()
    assert all(page.obsolete for page in rig.mmu.pool)
    assert len(rig.mmu.cache.obsolete) == len(rig.mmu.pool)


def test_twice_in_a_row_with_pages_of_two_generations():
    rig, tables = busy()
    for frame in (0x6000, 0x7000):
        rig.mmu.zap_all()
        rig.edit(tables.gpa_of_entry(GVA, 1), 8, frame | HOT)
        rig.invlpg(GVA)
        assert rig.may(GVA) == frame
    assert rig.mmu.shrink(64) > 8
    rig.settle()
    assert rig.may(GVA, WRITE) == 0x7000


def test_a_pool_of_obsolete_pages_has_room():
    rig, _ = busy(pages=8)
    for _ in range(20):
        rig.mmu.zap_all()
        for number in range(8):
            rig.may(GVA + (number << 21), READ)
    assert len(rig.mmu.pool) <= 64


def test_compiled_code_sees_that_frames_are_tables_no_more():
    rig, tables = busy(CompiledFirst)
    leaf = tables.gpa_of_entry(GVA, 2) >> 12
    states = rig.mmu.cache.frame_state
    assert states[leaf] == 3
    rig.mmu.zap_all()
    assert states[leaf] == 1
    rig.settle()
    assert rig.may(GVA, WRITE) == 0x5000
