# SPDX-License-Identifier: GPL-2.0-or-later
"""Bugs that real shadow MMUs had with rights and error codes. The numbers are our catalogue's.

Each case takes a factory of rigs, so that it can be run on any plug-in, broken ones included.
"""

from __future__ import annotations

from itertools import product

from mmu.testing.sdm import PS, RW, US, XD, A, Access, D, P

from .rig import (
    FETCH,
    PAGED,
    READ,
    USER_FETCH,
    USER_READ,
    USER_WRITE,
    WRITE,
)
from .tables import USER_RW

PAGE = 0x5000
LARGE = 0x800000
GVA = 0x40202000
WIDE = ("pae", "4-level", "5-level")
LONG = ("4-level", "5-level")


def large_levels(mode):
    return (2, 3) if mode in LONG else (2,)


def gva_at(number, level, mode):
    """Addresses whose entries at `level` are neighbours in one table."""
    shift = {2: 22 if mode == "32-bit" else 21, 3: 30}[level]
    return (1 << 34 if level == 3 else 0x40000000) + (number << shift)


def test_case_01_two_upper_entries_with_other_rights_on_one_table(rigs):
    """CVE-2021-38198: what upper entries allow was missing from the key."""
    refused = [(RW, 0, USER_WRITE, 7), (RW, 0, WRITE, 3), (US, 0, USER_READ, 5), (0, XD, FETCH, 17)]
    for mode, (cleared, set_, access, code) in product(PAGED, refused):
        if set_ and mode not in WIDE:
            continue
        rig = rigs()
        tables = rig.tables(mode)
        for level, shift in tables.levels:
            if level == 1 or (mode == "pae" and level == 3):
                continue
            wide, narrow = GVA, GVA ^ 1 << shift
            tables.map(wide, PAGE)
            tables.map(wide + 0x1000, PAGE + 0x1000)
            tables.set(narrow, level, tables.entry(wide, level) & ~cleared | set_)
            rig.enter(tables)
            for first, second in ((wide, narrow), (narrow + 0x1000, wide + 0x1000)):
                for gva in (first, second, first):
                    if gva & ~0x1000 == wide:
                        assert rig.may(gva, access) == PAGE + (gva & 0x1000)
                    else:
                        assert rig.faults(gva, access) == code
                        assert rig.may(gva, READ) == PAGE + (gva & 0x1000)
            tables.set(narrow, level, 0)
            rig.change()


def test_case_02_large_entries_rw_and_ro_on_one_frame_in_turn(rigs):
    """Linux d28c6cfbbc5e: each use tore down what the other had built."""
    for mode in PAGED:
        for level in large_levels(mode):
            rig = rigs()
            tables = rig.tables(mode)
            frame = 0 if level == 3 else LARGE
            wide, narrow = gva_at(0, level, mode), gva_at(1, level, mode)
            tables.map(wide, frame, level=level)
            tables.map(narrow, frame, P | US, level=level)
            rig.enter(tables)
            built = None
            for _ in range(4):
                for piece in (0x3000, 0x4000):
                    assert rig.may(wide + piece, WRITE) == frame + piece
                    assert rig.may(narrow + piece, READ) == frame + piece
                    assert rig.faults(narrow + piece, USER_WRITE) == 7
                built = rig.counters["pf_fixed"] if built is None else built
            if rig.is_shadow:
                assert rig.counters["pf_fixed"] == built, "warm rounds build nothing"


def test_case_03_use_of_a_read_only_large_entry_spoils_no_writable_one(rigs):
    """Linux, 2010: the direct page of the first user decided for both."""
    for mode in PAGED:
        for level in large_levels(mode):
            rig = rigs()
            tables = rig.tables(mode)
            frame = 0 if level == 3 else LARGE
            wide, narrow = gva_at(0, level, mode), gva_at(1, level, mode)
            tables.map(narrow, frame, P | US | A | D, level=level)
            tables.map(wide, frame, USER_RW | A | D, level=level)
            rig.enter(tables)
            assert rig.may(narrow + 0x5000) == frame + 0x5000
            assert rig.may(wide + 0x5000, USER_WRITE) == frame + 0x5000


def test_case_04_dirty_is_set_in_the_large_entry_that_is_written_through(rigs):
    """Linux c22885050e65: with CR0.WP = 0 a writable entry appeared in a read-only direct page."""
    for mode in PAGED:
        for level, flags in product(large_levels(mode), (P | US, P, USER_RW)):
            rig = rigs()
            tables = rig.tables(mode)
            frame = 0 if level == 3 else LARGE
            one, other = gva_at(0, level, mode), gva_at(1, level, mode)
            tables.map(one, frame, flags, level=level)
            tables.map(other, frame, flags, level=level)
            rig.enter(tables, wp=False)
            rig.may(one + 0x7000, READ)
            rig.may(other + 0x7000, READ)
            rig.may(one + 0x7000, WRITE)
            assert tables.entry(one, level) & D
            assert not tables.entry(other, level) & D
            rig.may(other + 0x7000, WRITE)
            assert tables.entry(other, level) & D


def test_case_04_dirty_is_set_again_after_it_was_cleared(rigs):
    """A stale D: the entry is cleaned and its page must not be writable from before."""
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        tables.map(GVA, PAGE)
        rig.enter(tables)
        for _ in range(3):
            rig.may(GVA, WRITE)
            assert tables.entry(GVA, 1) & (A | D) == A | D
            rig.edit(tables.gpa_of_entry(GVA, 1), 1, USER_RW | A)
            rig.invlpg(GVA)
            rig.may(GVA, READ)
            assert not tables.entry(GVA, 1) & D


def test_case_16_bit_63_is_reserved_without_nxe(rigs):
    """Linux 5f0b819995e1; the error code tells P and RSVD, also with WP = 0 and SMEP."""
    for mode, wp, smep in product(WIDE, (True, False), (True, False)):
        for level in (1, 2):
            rig = rigs()
            tables = rig.tables(mode)
            tables.map(GVA, PAGE, P | RW if smep else USER_RW)
            tables.set(GVA, level, tables.entry(GVA, level) | XD)
            rig.enter(tables, wp=wp, smep=smep)
            for _ in range(2):
                assert rig.may(GVA, READ) == PAGE
                assert rig.may(GVA, WRITE) == PAGE
                assert rig.faults(GVA, FETCH) == 0x11
                rig.change(nxe=False)
                assert rig.faults(GVA, READ) == 9
                assert rig.faults(GVA, WRITE) == 11
                assert rig.faults(GVA, FETCH) == 9 | (16 if smep else 0)
                rig.change(nxe=True)


def test_case_17_write_protect_toggled_over_hot_entries(rigs):
    """kvm-unit-tests, check_toggle_cr0_wp."""
    for mode, flags in product(PAGED, (P, P | US)):
        for level in (1, *large_levels(mode)):
            rig = rigs()
            tables = rig.tables(mode)
            gva = gva_at(0, max(level, 2), mode)
            tables.map(gva, PAGE if level == 1 else 0, flags, level=level)
            rig.enter(tables)
            for _ in range(3):
                rig.may(gva, READ)
                assert rig.faults(gva, WRITE) == 3
                rig.change(wp=False)
                rig.may(gva, WRITE)
                rig.may(gva, READ)
                if flags & US:
                    rig.may(gva, USER_READ)
                    assert rig.faults(gva, USER_WRITE) == 7
                rig.may(gva, WRITE)
                rig.change(wp=True)


def test_case_18_a_user_page_written_with_wp_off_is_not_for_the_supervisor_to_execute(rigs):
    """kvm-unit-tests, check_smep_andnot_wp: the entry turned into a supervisor's forgot SMEP."""
    for mode, level in product(PAGED, (1, 2)):
        rig = rigs()
        tables = rig.tables(mode)
        gva = gva_at(0, 2, mode)
        tables.map(gva, PAGE if level == 1 else LARGE, P | US, level=level)
        rig.enter(tables, wp=False, smep=True)
        for _ in range(2):
            rig.may(gva, WRITE)
            assert rig.faults(gva, FETCH) == 0x11
            rig.may(gva, USER_FETCH)
            rig.may(gva, USER_READ)
            rig.change(smep=False)
            rig.may(gva, WRITE)
            rig.may(gva, FETCH)
            rig.change(smep=True)


def test_case_18_nor_is_it_free_of_smap_and_protection_keys(rigs):
    """The same entry must go on being seen to be a user page."""
    rig = rigs()
    tables = rig.tables("4-level")
    tables.map(GVA, PAGE, P | US | 3 << 59)
    rig.enter(tables, wp=False)
    rig.may(GVA, WRITE)
    rig.change(smap=True)
    assert rig.faults(GVA, READ) == 1
    rig.may(GVA, Access("w", ac=True))
    assert rig.faults(GVA, WRITE) == 3
    rig.change(smap=False, pke=True, pkru=1 << 6)
    assert rig.faults(GVA, READ) == 0x21
    rig.change(pkru=2 << 6)
    rig.may(GVA, WRITE)
    rig.change(pkru=1 << 6)
    assert rig.faults(GVA, WRITE) == 0x23


def test_case_18_a_fetch_opens_a_page_to_no_read(rigs):
    """SMAP and protection keys forbid data accesses and not fetches (SDM 4.6)."""
    for changes in ({"smap": True}, {"pke": True, "pkru": 1 << 6}):
        rig = rigs()
        tables = rig.tables("4-level")
        tables.map(GVA, PAGE, USER_RW | 3 << 59)
        rig.enter(tables, **changes)
        for access in (FETCH, USER_FETCH, FETCH):
            rig.may(GVA, access)
        assert rig.faults(GVA, READ) == (0x21 if "pke" in changes else 1)


def test_case_18_an_implicit_write_at_cpl_3_lets_the_supervisor_execute_nothing(rigs):
    """It is a supervisor's access (SDM 4.6.1), so it is he who may execute the page or not."""
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        tables.map(GVA, PAGE, USER_RW | A | D)
        rig.enter(tables, smep=True)
        rig.may(GVA, USER_FETCH)
        assert rig.access(GVA, USER_WRITE) == PAGE | 7, "code that writes to itself"
        assert rig.access(GVA, Access("w", user=True, implicit=True)) == PAGE | 3
        assert rig.faults(GVA, FETCH) == 0x11


def test_case_19_a_neighbour_faults_alike_cold_and_warm(rigs):
    """kvm-unit-tests, check_pfec_on_prefetch_pte: an entry filled ahead lost its error code."""
    neighbours = {
        "not present": (0, {}),
        "supervisor": (P | RW | A | D, {}),
        "read-only": (P | US | A, {}),
        "clean": (USER_RW | A, {}),
        "not accessed": (USER_RW, {}),
        "reserved": (USER_RW | A | D | 1 << 51, {}),
        "not executable": (USER_RW | A | D | XD, {}),
        "keyed": (USER_RW | A | D | 5 << 59, {"pke": True, "pkru": 1 << 10}),
        "nowhere": (0x700000000 | USER_RW | A | D, {}),
    }
    for mode, (flags, changes) in product(PAGED, neighbours.values()):
        if (flags >> 32 and mode == "32-bit") or (changes and mode not in LONG):
            continue
        for access in (USER_READ, USER_WRITE, USER_FETCH, WRITE):
            seen = []
            for warm in (False, True):
                rig = rigs()
                tables = rig.tables(mode)
                for number in range(8):
                    tables.map(GVA + number * 0x1000, PAGE, USER_RW | A | D)
                frame = 0 if flags >> 32 & 0xFFFF or not flags else PAGE + 0x1000
                tables.set(GVA + 0x3000, 1, frame | flags)
                rig.enter(tables, **changes)
                if warm:
                    for number in (0, 1, 2, 5, 4):
                        rig.may(GVA + number * 0x1000, USER_READ)
                answer = rig.access(GVA + 0x3000, access)
                seen.append((answer, tables.entry(GVA + 0x3000, 1)))
            assert seen[0] == seen[1]


def test_case_29_a_reserved_bit_fault_has_present_set(rigs):
    """SDM 4.7. (QEMU 7.2's TCG leaves it clear.)"""
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        if mode == "32-bit":
            tables.map(GVA, LARGE, level=2)
            tables.set(GVA, 2, tables.entry(GVA, 2) | 1 << 21)
        else:
            tables.map(GVA, PAGE)
            tables.set(GVA, 1, tables.entry(GVA, 1) | 1 << 45)
        rig.enter(tables)
        assert rig.faults(GVA, READ) == 9
        assert rig.faults(GVA, USER_WRITE) == 15
        assert rig.faults(GVA, FETCH) == (9 if mode == "32-bit" else 25)


def test_case_29_page_size_is_reserved_where_there_is_no_large_page(rigs):
    """Bit 7 of a PML4E or PML5E."""
    for mode, level in (("4-level", 4), ("5-level", 4), ("5-level", 5)):
        rig = rigs()
        tables = rig.tables(mode)
        tables.map(GVA, PAGE)
        rig.enter(tables)
        rig.may(GVA, WRITE)
        rig.edit(tables.gpa_of_entry(GVA, level), 1, USER_RW | A | PS)
        rig.invlpg(GVA)
        assert rig.faults(GVA, WRITE) == 11
