# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU's side of the shadow MMU: where its tables start, and hardware's permission check."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from ..arch import (
    ACC_ALL,
    ACCESS_AC,
    ACCESS_FETCH,
    ACCESS_IMPLICIT,
    ACCESS_USER,
    ACCESS_WRITE,
    PAGE_SHIFT,
    PT_PRESENT,
    Levels,
    pkey_denies,
)
from ..walker import Context, Walk
from .pool import (
    SPTE_FRAME,
    SPTE_LARGE,
    SPTE_NX,
    SPTE_PKEY_SHIFT,
    SPTE_PRESENT,
    SPTE_TRAP,
    SPTE_USER,
    SPTE_WRITABLE,
    ShadowPage,
)
from .role import make_role, quadrant_of

# The walk over the shadow tables, as the shifts of the upper levels. Guests with 32-bit addresses
# start at the vCPU's root table of four, the others at a shadow page.
SHIFTS_32 = (30, 21)
SHIFTS = {
    Levels.NONE: SHIFTS_32,
    Levels.TWO: SHIFTS_32,
    Levels.PAE: SHIFTS_32,
    Levels.FOUR: (39, 30, 21),
    Levels.FIVE: (48, 39, 30, 21),
}


@dataclass(slots=True)
class ShadowContext:
    """One vCPU's paging state and where its shadow tables start.

    ``root`` is the first place of the root, ``root_page`` the page that owns it (None: the vCPU's
    root table), ``mode`` the mode bits of every role made now, ``tests`` the permission check by
    access: a leaf lets the access through if ``spte & mask == want``.

    ``paths`` is what the processor's paging-structure caches are (SDM 3A 4.10.3): from gva >> 21 to
    the leaf page that translates it. It is noted at a walk, and emptied when the root changes or
    any upper entry is. Through it a hit is one look-up and one entry. ``plain`` is like ``tests``
    and lets less through: see :func:`plain_tests`.
    """

    paging: Context
    root: int
    root_page: ShadowPage | None
    shifts: tuple[int, ...]
    mode: int
    tests: list[tuple[int, int]]
    plain: list[tuple[int, int]] = field(default_factory=list)
    paths: dict[int, ShadowPage] = field(default_factory=dict)

    def path(self, words: memoryview, gva: int) -> list[tuple[int, int, int]]:
        """Return (level, place, spte) for each entry on an address's path in the shadow tables,
        from the root down to the first that is a leaf or not present. For people and audits."""
        found = []
        place = self.root
        gva &= self.paging.gva_mask
        level = len(self.shifts) + 1
        for shift in (*self.shifts, PAGE_SHIFT):
            place += gva >> shift & 511
            spte = words[place]
            found.append((level, place, spte))
            if spte & (SPTE_PRESENT | SPTE_LARGE) != SPTE_PRESENT:
                break
            place = (spte & SPTE_FRAME) >> 3  # a table number << 12 -> its first place
            level -= 1
        return found

    def directory_key(self, gigabyte: int) -> tuple[int, int] | None:
        """Return (gfn, role) of the directory for a gigabyte of a 32-bit address space."""
        paging = self.paging
        if paging.levels is Levels.NONE:
            return gigabyte << 18, make_role(self.mode, 2, direct=True)
        if paging.levels is Levels.TWO:
            role = make_role(self.mode, 2, quadrant=gigabyte)
            return paging.root_gpa >> PAGE_SHIFT, role
        pdpte = paging.pdptes[gigabyte]
        if not pdpte & PT_PRESENT:
            return None
        return (pdpte & paging.frame_mask) >> PAGE_SHIFT, make_role(self.mode, 2)

    def child_key(self, found: Walk, level: int, direct_rights: int) -> tuple[int, int]:
        """Return (gfn, role) of the shadow page at ``level`` on the path of a walk.

        ``direct_rights`` is the access of a page below a large guest page.
        """
        paging = self.paging
        gva = found.gva
        if level == 2 and paging.levels <= Levels.PAE:
            key = self.directory_key(gva >> 30)
            assert key is not None  # the walk went through it
            return key
        if level < max(found.level, 1) or paging.levels is Levels.NONE:
            gfn = found.frame >> 9 * level << 9 * level
            rights = direct_rights if found.level else ACC_ALL
            return gfn, make_role(self.mode, level, direct=True, access=rights, pkey=found.pkey)
        table_gpa = next(entry[1] for entry in found.entries if entry[0] == level)
        quadrant = quadrant_of(gva, level) if paging.levels is Levels.TWO else 0
        role = make_role(self.mode, level, quadrant=quadrant, access=found.rights_above(level))
        return table_gpa >> PAGE_SHIFT, role


@lru_cache(maxsize=4)
def hardware_tests(smep: bool, smap: bool) -> list[tuple[int, int]]:
    """Return, for each access, (mask, want): a leaf allows it if ``spte & mask == want``.

    Hardware's own rules for an entry with CR0.WP = 1 and EFER.NXE = 1 (SDM 4.6.1).
    """
    tests = []
    for access in range(1024):
        mask = want = SPTE_PRESENT
        if access & ACCESS_USER and not access & ACCESS_IMPLICIT:
            mask |= SPTE_USER
            want |= SPTE_USER
        elif access & ACCESS_FETCH:
            mask |= SPTE_USER if smep else 0
        elif smap and (access & ACCESS_IMPLICIT or not access & ACCESS_AC):
            mask |= SPTE_USER
        if access & ACCESS_FETCH:
            mask |= SPTE_NX
        elif access & ACCESS_WRITE:
            mask |= SPTE_WRITABLE
            want |= SPTE_WRITABLE
        tests.append((mask, want))
    return tests


@lru_cache(maxsize=64)
def denied_keys(pkru: int, wp: bool) -> dict[int, int]:
    """Return which protection keys forbid an access, as a bit a key, by what of an access counts:
    whether it is a write, a user's, or a fetch (SDM 3A 4.6.2).

    >>> hex(denied_keys(0x5555_5554, wp=True)[0])  # as Linux starts
    '0xfffe'
    """
    kinds = [what | who for what in (0, ACCESS_WRITE, ACCESS_FETCH) for who in (0, ACCESS_USER)]
    return {
        access: sum(pkey_denies(pkru, key, access, wp=wp) << key for key in range(16))
        for access in kinds
    }


_NEVER = 0, 1
_PKEY = 15 << SPTE_PKEY_SHIFT


@lru_cache(maxsize=64)
def plain_tests(
    smep: bool, smap: bool, writes: bool, fetches: bool, pke: bool, pkru: int, wp: bool
) -> list[tuple[int, int]]:
    """Return :func:`hardware_tests` narrowed to what needs no second look: the frame is RAM or ROM,
    and writes only with ``writes``, fetches only with ``fetches``. No entry passes the others.

    With ``pke`` the page has key 0, as nearly all do, and key 0 lets the access through. A fetch
    is granted together with a read.
    """
    tests = []
    denied = denied_keys(pkru, wp)
    for access, (mask, want) in enumerate(hardware_tests(smep, smap)):
        user = ACCESS_USER if access & ACCESS_USER and not access & ACCESS_IMPLICIT else 0
        if (access & ACCESS_WRITE and not writes) or (access & ACCESS_FETCH and not fetches):
            tests.append(_NEVER)
        elif not pke:
            tests.append((mask | SPTE_TRAP, want))
        elif denied[access & ACCESS_WRITE | user] & 1:
            tests.append(_NEVER)
        else:
            tests.append((mask | SPTE_TRAP | _PKEY, want))
    return tests
