# SPDX-License-Identifier: GPL-2.0-or-later
"""INVLPG of one address of a large page drops it as a whole, though a TLB holds it in pieces.

An engine drops 4 KiB at a time, so the shadow MMU must have flushed when the page was changed; for
that an spte must stand for it, whatever it was granted for.
"""

from __future__ import annotations

import pytest

from mmu.testing.sdm import PS, RW, US, Access, P

from .rig import FETCH, READ, WRITE

WRITE_AC, READ_AC = Access("w", ac=True), Access("r", ac=True)
GVA = 1 << 34

ORDERS = {
    "write": (WRITE_AC,),
    "read then write": (READ_AC, WRITE_AC),
    "write then read": (WRITE_AC, READ_AC),
    "write then fetch": (WRITE_AC, FETCH),
    "plain": (READ, WRITE),
}


def use(rig, gva, accesses, cpus=1):
    for cpu in range(cpus):
        for access in accesses:
            for piece in (0x1000, 0x5000):
                rig.access(gva + piece, access, cpu)


@pytest.mark.parametrize("guard", [{"smap": True}, {"pke": True}, {}], ids=["smap", "pke", "none"])
@pytest.mark.parametrize("accesses", ORDERS.values(), ids=ORDERS)
def test_all_pieces_of_a_page_written_under_wp_0_go(shadows, guard, accesses):
    """Under SMAP or keys such a write is not remembered; that it was granted must be."""
    for mode in ("32-bit", "pae", "4-level"):
        if "pke" in guard and mode != "4-level":
            continue
        gva = GVA if mode == "4-level" else 0x40000000
        for flags in (P | US, P | US | RW):
            for frame in (0x800000, 0):  # tables lie in the second: it is mapped in small pieces
                rig = shadows()
                tables = rig.tables(mode)
                tables.map(gva, frame, flags, level=2)
                rig.enter(tables, wp=False, **guard)
                use(rig, gva + 0x100000, accesses)
                where = tables.gpa_of_entry(gva, 2)
                rig.edit(where, tables.entry_bytes, 0xC00000 | P | PS)
                rig.invlpg(gva + 0x9000)


def test_all_pieces_of_a_gigabyte_go(shadows):
    """The directory pointer is zapped, and what lies below it is a page of its own."""
    rig = shadows()
    tables = rig.tables("4-level")
    tables.map(GVA, 0, P | US, level=3)
    rig.enter(tables, wp=False, smap=True)
    use(rig, GVA + 0x800000, (WRITE_AC,))
    rig.edit(tables.gpa_of_entry(GVA, 3), 8, 1 << 30 | P | PS)
    rig.invlpg(GVA + 0x9000)


def test_all_vcpus_lose_the_pieces(shadows):
    rig = shadows(cpus=2)
    tables = rig.tables("4-level")
    tables.map(GVA, 0x800000, P | US, level=2)
    for cpu in (0, 1):
        rig.enter(tables, cpu, wp=False, smap=True)
    use(rig, GVA, (WRITE_AC,), cpus=2)
    rig.edit(tables.gpa_of_entry(GVA, 2), 8, 0xA00000 | P | PS)
    for cpu in (0, 1):
        rig.invlpg(GVA + 0x9000, cpu)


def test_a_grant_that_flushed_is_noted_after_the_flush(shadows):
    """The page was fetched from, so the write flushes; its own entry is in the TLB afterwards."""
    rig = shadows()
    tables = rig.tables("4-level")
    tables.map(GVA, 0x800000, P | US, level=2)
    rig.enter(tables, wp=False, smap=True)
    for piece in (0x1000, 0x5000):
        rig.may(GVA + piece, FETCH)
        rig.may(GVA + piece, WRITE_AC)
    rig.edit(tables.gpa_of_entry(GVA, 2), 8, 0xA00000 | P | PS)
    rig.invlpg(GVA + 0x9000)
