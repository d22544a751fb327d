# SPDX-License-Identifier: GPL-2.0-or-later
"""That a frame is a device is remembered, so that accesses to it skip the walk."""

from __future__ import annotations

import pytest

import mmu.shadow.fault as fault
from mmu.testing.sdm import A, D

from ..compiled_first import CompiledFirst
from ..rig import DEVICE, HOLE, READ, WRITE, Rig
from ..tables import USER_RW

HOT = USER_RW | A | D
GVA = 0x40001000
PLUGINS = {"python": "shadow", "compiled": CompiledFirst}
FRAMES = {"device": DEVICE, "hole": HOLE}


def rig_at(plugin, frame, mode="4-level", policy=""):
    """A rig that has read GVA once, where `frame` is mapped."""
    rig = Rig(plugin, policy=policy)
    tables = rig.tables(mode)
    tables.map(GVA, frame, HOT)
    rig.enter(tables)
    rig.may(GVA)
    return rig, tables


@pytest.mark.parametrize("mode", ["none", "32-bit", "pae", "4-level"])
@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("plugin", PLUGINS.values(), ids=PLUGINS)
def test_the_walk_is_skipped(monkeypatch, plugin, frame, mode):
    if mode == "none":
        rig = Rig(plugin)
        gva = frame
        rig.may(gva)
    else:
        rig, _ = rig_at(plugin, frame, mode)
        gva = GVA
    monkeypatch.setattr(fault, "walk", lambda *args: pytest.fail("walked"))
    before = rig.counters
    for access in (READ, WRITE, READ):
        rig.full_flush()
        rig.may(gva, access)
    changes = rig.counters - before
    assert (changes["mmio_hit"], changes["pf_taken"], changes["fills"]) == (3, 0, 3)


@pytest.mark.parametrize("plugin", PLUGINS.values(), ids=PLUGINS)
def test_without_the_policy_each_miss_walks(plugin):
    rig, _ = rig_at(plugin, DEVICE, policy="mmio=off")
    before = rig.counters
    for _ in range(3):
        rig.full_flush()
        rig.may(GVA)
    changes = rig.counters - before
    assert (changes["mmio_hit"], changes["pf_taken"]) == (0, 3)


def test_without_the_policy_nothing_is_prefetched_there():
    rig = Rig("shadow", policy="mmio=off")
    tables = rig.tables("4-level")
    for number, frame in enumerate((0x5000, 0x6000, DEVICE, 0x7000)):
        tables.map(GVA + 0x1000 * number, frame, HOT)
    rig.enter(tables)
    rig.may(GVA)
    rig.may(GVA + 0x1000)
    before = rig.counters
    rig.may(GVA + 0x2000)
    assert (rig.counters - before)["pf_taken"] == 1


@pytest.mark.parametrize("policy", ["", "mmio=off"])
def test_it_is_seen_when_ram_comes_and_goes_there(policy):
    rig, _ = rig_at("shadow", HOLE, policy=policy)
    assert rig.access(GVA, WRITE) & 8
    slot = rig.memory.add_ram(HOLE, 0x1000)
    assert not rig.access(GVA, WRITE) & 8
    rig.memory.remove(slot)
    assert rig.access(GVA, WRITE) & 8


def test_ram_is_not_counted():
    rig, _ = rig_at("shadow", 0x5000)
    rig.full_flush()
    rig.may(GVA)
    assert not rig.counters["mmio_hit"]
