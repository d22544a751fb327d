# SPDX-License-Identifier: GPL-2.0-or-later
"""The plug-in without a cache, beside what the cases and the enumeration ask of it."""

from __future__ import annotations

from mmu.api import MAP_EXEC, MAP_READ, MAP_TRAP, MAP_WRITE
from mmu.testing.sdm import RW, US, A, D, P

from .rig import DEVICE, FETCH, HOLE, READ, ROM, USER_FETCH, USER_READ, WRITE, Access, Rig
from .tables import USER_RW

R, W, X, T = MAP_READ, MAP_WRITE, MAP_EXEC, MAP_TRAP
GVA = 0x40001000


def rig_with(flags, gpa=0x5000, **changes):
    rig = Rig("uncached")
    tables = rig.tables("4-level")
    tables.map(GVA, gpa, flags)
    rig.enter(tables, **changes)
    return rig


def test_grants_what_is_asked_and_no_more():
    rig = rig_with(USER_RW | A | D)
    assert rig.access(GVA, READ) == 0x5000 | R
    assert rig.access(GVA, WRITE) == 0x5000 | R | W
    assert rig.access(GVA, FETCH) == 0x5000 | R | X
    assert rig.access(GVA, WRITE) == 0x5000 | R | W | X, "code that writes to itself"


def test_a_page_that_may_not_be_executed_is_never_a_checked_one():
    rig = rig_with(USER_RW, smep=True)
    rig.access(GVA, USER_FETCH)
    assert rig.access(GVA, WRITE) == 0x5000 | R | W
    assert rig.tlb.code == [set()]


def test_a_fetch_does_not_open_the_page_to_reads_that_smap_or_a_key_forbid():
    rig = rig_with(P | US, smap=True)
    assert rig.access(GVA, FETCH) == 0x5000 | X
    assert rig.access(GVA, USER_FETCH) == 0x5000 | R | X
    assert rig.access(GVA, Access("x", ac=True)) == 0x5000 | R | X
    rig = rig_with(P | US | 3 << 59, pke=True, pkru=1 << 6)
    assert rig.access(GVA, USER_FETCH) == 0x5000 | X
    assert rig.faults(GVA, USER_READ) == 0x25


def test_what_is_no_ram():
    for gpa, read, write, fetch in (
        (ROM, R, R | W | T, R | X),
        (DEVICE, R | T, R | W | T, X | T),
        (HOLE, R | T, R | W | T, X | T),
    ):
        rig = rig_with(P | RW, gpa)
        assert rig.access(GVA, READ) == gpa | read
        assert rig.access(GVA, WRITE) == gpa | write
        assert rig.access(GVA, FETCH) == gpa | fetch


def test_counts():
    rig = rig_with(USER_RW)
    rig.may(GVA)
    rig.faults(GVA + 0x1000)
    rig.invlpg(GVA)
    rig.may(GVA)
    counters = rig.counters
    assert (counters["fills"], counters["pf_taken"], counters["pf_guest"]) == (3, 3, 1)
    assert (counters["pf_fixed"], counters["invlpg"]) == (2, 1)


def test_accessed_and_dirty_bits_written_over_code_drop_it():
    rig = rig_with(USER_RW)
    table = 0
    for number in range(0x100, 0x110):  # find the leaf table
        if rig.memory.read((number << 12) + 8, 8) & ~0xFFF == 0x5000:
            table = number
    rig.tlb.code[0].add(table)
    rig.mmu.tlb.grant_exec(0, table)
    rig.may(GVA, WRITE)
    assert table not in rig.tlb.code[0]


def test_the_dirty_log():
    rig = rig_with(USER_RW | A | D)
    rig.mmu.start_dirty_log()
    rig.may(GVA, READ)
    assert 5 not in rig.mmu.dirty_log()
    rig.store(GVA, 4, 1)
    rig.edit(0x9000, 4, 1)
    assert {5, 9} <= set(rig.mmu.dirty_log())
