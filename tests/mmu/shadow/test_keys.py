# SPDX-License-Identifier: GPL-2.0-or-later
"""Protection keys on the short ways: remembered paths, faults at a leaf, compiled code.

Linux switches them on where it finds them, so no miss may take the long way for it.
"""

from __future__ import annotations

from itertools import product

import pytest

import mmu.shadow.fault as fault
from mmu.api import PageFault
from mmu.testing.sdm import RW, US, A, D, P

from ..compiled_first import CompiledFirst
from ..rig import FETCH, MODES, READ, USER_FETCH, USER_READ, USER_WRITE, WRITE, Rig
from ..tables import USER_RW

HOT = USER_RW | A | D
GVA = 0x40001000
LINUX = 0x5555_5554  # every key but 0 is closed
ACCESSES = (READ, WRITE, FETCH, USER_READ, USER_WRITE, USER_FETCH)
PLUGINS = {"python": "shadow", "compiled": CompiledFirst}


def key(number):
    return number << 59


@pytest.mark.parametrize("plugin", PLUGINS.values(), ids=PLUGINS)
@pytest.mark.parametrize("wp", [True, False])
def test_all_rights_of_a_key_by_all_accesses(plugin, wp):
    """Cold, hot and after PKRU has changed; each answer is held against the SDM by the rig."""
    for number, rights in product((0, 1, 8, 15), range(4)):
        rig = Rig(plugin)
        tables = rig.tables("4-level")
        pages = {
            GVA + (n << 12): flags for n, flags in enumerate((HOT, P | US, P | RW, HOT & ~D, P))
        }
        for gva, flags in pages.items():
            tables.map(gva, 0x5000 + (gva & 0xF000), flags | key(number))
        rig.enter(tables, wp=wp, pke=True, pkru=rights << 2 * number)
        for _ in range(2):
            for gva, access in product(pages, ACCESSES):
                rig.access(gva, access)
        rig.change(pkru=(rights ^ 3) << 2 * number)
        for gva, access in product(pages, ACCESSES):
            rig.access(gva, access)


def counted(rig, gvas, accesses):
    before, hits = rig.counters, getattr(rig.mmu, "hits", 0)
    for gva, access in product(gvas, accesses):
        rig.full_flush()
        rig.access(gva, access)
    return rig.counters - before, getattr(rig.mmu, "hits", 0) - hits


def test_a_hit_of_compiled_code_stays_one():
    """As Linux runs: key 0 everywhere, all others closed."""
    rig = Rig(CompiledFirst)
    tables = rig.tables("4-level")
    gvas = [GVA + (number << 12) for number in range(4)]
    for gva in gvas:
        tables.map(gva, gva & 0xFFFFF | 0x5000, HOT)
    rig.enter(tables, pke=True, pkru=LINUX)
    for gva in gvas:
        rig.may(gva, WRITE)
    changes, hits = counted(rig, gvas, (READ, USER_READ, USER_WRITE))
    assert hits == changes["fills"] == 12
    assert changes["pf_taken"] == 0


def test_compiled_code_makes_leaves_of_pages_with_keys():
    rig = Rig(CompiledFirst)
    tables = rig.tables("4-level")
    for number in range(4):
        tables.map(GVA + (number << 12), 0x5000 + (number << 12), USER_RW | key(number))
    rig.enter(tables, pke=True, pkru=0b01_10_00_00)  # key 2: no writes, key 3: nothing
    rig.may(GVA)
    before = rig.mmu.vcpu_blocks[0].refills
    rig.may(GVA + 0x1000, USER_WRITE)
    rig.may(GVA + 0x2000, USER_READ)
    assert rig.mmu.vcpu_blocks[0].refills == before + 2
    assert rig.faults(GVA + 0x2000, USER_WRITE) == 0x27
    entry = tables.entry(GVA + 0x3000, 1)
    assert rig.faults(GVA + 0x3000, USER_READ) == 0x25
    assert tables.entry(GVA + 0x3000, 1) == entry, "an access that is refused sets no A"


def test_a_hit_in_python_reads_one_entry(monkeypatch):
    rig = Rig("shadow")
    tables = rig.tables("4-level")
    tables.map(GVA, 0x5000, HOT)
    rig.enter(tables, pke=True, pkru=LINUX)
    rig.may(GVA, WRITE)
    rig.may(GVA, USER_READ)
    for name in ("_walk", "_look_again"):
        monkeypatch.setattr(rig.mmu, name, lambda *args: pytest.fail("looked twice"))
    changes, _ = counted(rig, (GVA,), (READ, WRITE, USER_READ, USER_WRITE))
    assert changes["pf_taken"] == 0


@pytest.mark.parametrize("plugin", PLUGINS.values(), ids=PLUGINS)
def test_a_fault_at_a_leaf_walks_no_upper_levels(monkeypatch, plugin):
    rig = Rig(plugin)
    tables = rig.tables("4-level")
    tables.map(GVA, 0x5000, HOT)
    tables.map(GVA + 0x1000, 0x6000, USER_RW | key(3))
    tables.map(GVA + 0x2000, 0x7000, USER_RW | key(4))
    rig.enter(tables, pke=True, pkru=LINUX & ~(3 << 6))
    rig.may(GVA)
    monkeypatch.setattr(fault, "walk", lambda *args: pytest.fail("walked"))
    assert rig.may(GVA + 0x1000, USER_WRITE) == 0x6000
    assert rig.faults(GVA + 0x2000, USER_READ) == 0x25
    assert rig.faults(GVA + 0x2000, WRITE) == 0x23
    assert rig.may(GVA + 0x2000, USER_FETCH) == 0x7000


@pytest.mark.parametrize("plugin", PLUGINS.values(), ids=PLUGINS)
def test_the_error_code_tells_of_the_key_and_of_the_rest(plugin):
    """A write to a read-only page whose key is closed is denied twice (SDM 3A 4.7)."""
    rig = Rig(plugin)
    tables = rig.tables("4-level")
    tables.map(GVA, 0x5000, HOT)
    tables.map(GVA + 0x1000, 0x6000, P | US | A | key(2))
    rig.enter(tables, pke=True, pkru=LINUX)
    rig.may(GVA)
    for _ in range(2):
        assert rig.faults(GVA + 0x1000, USER_WRITE) == 0x27
    rig.change(pkru=0)
    assert rig.faults(GVA + 0x1000, USER_WRITE) == 0x7


@pytest.mark.parametrize("plugin", PLUGINS.values(), ids=PLUGINS)
def test_a_fetch_does_not_let_reads_through(plugin):
    rig = Rig(plugin)
    tables = rig.tables("4-level")
    tables.map(GVA, 0x5000, HOT | key(1))
    rig.enter(tables, pke=True, pkru=0)
    rig.may(GVA, USER_FETCH)
    assert rig.access(GVA, USER_FETCH) & 7 == 5
    rig.change(pkru=1 << 2)
    for _ in range(2):
        assert rig.access(GVA, USER_FETCH) & 7 == 4
        assert isinstance(rig.access(GVA, USER_READ), PageFault)


def test_paths_go_with_keys_switched_on_and_off():
    rig = Rig("shadow")
    tables = rig.tables("4-level")
    tables.map(GVA, 0x5000, HOT | key(5))
    for pke in (False, True) * 2:
        rig.load(0, MODES["4-level"]._replace(cr3=tables.cr3, pke=pke, pkru=LINUX))
        for _ in range(2):
            answer = rig.access(GVA, USER_READ)
            assert isinstance(answer, PageFault) == pke
