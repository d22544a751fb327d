# SPDX-License-Identifier: GPL-2.0-or-later
"""x86 paging as data: entry bits, error-code bits, the paging modes, and the permission rules.

Nothing here walks or remembers anything. The walker and the shadow cache read these tables; so
does a test that holds them against the SDM. Section numbers are those of the Intel SDM, volume 3A.

Bits of a paging-structure entry (SDM 4.3 to 4.5; the 32-bit formats stop at bit 31)::

    63 62..59 58..52  51..M   M-1..12   11..9   8   7       6   5   4    3    2   1   0
    NX PKEY   ignored reserved  frame   ignored G   PS/PAT  D   A   PCD  PWT  U   W   P
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
PAGE_OFFSET = PAGE_SIZE - 1

# --- Entry bits -----------------------------------------------------------------------------
PT_PRESENT = 1 << 0
PT_WRITABLE = 1 << 1
PT_USER = 1 << 2
PT_PWT = 1 << 3
PT_PCD = 1 << 4
PT_ACCESSED = 1 << 5
PT_DIRTY = 1 << 6
PT_PAGE_SIZE = 1 << 7  # in an entry that may map a large page
PT_PAT = 1 << 7  # in a 4 KiB entry
PT_GLOBAL = 1 << 8
PT_PAT_LARGE = 1 << 12
PT_PKEY_SHIFT = 59
PT_PKEY = 15 << PT_PKEY_SHIFT
PT_NX = 1 << 63

# --- Page-fault error code (SDM 4.7) ----------------------------------------------------------
PFERR_PRESENT = 1 << 0
PFERR_WRITE = 1 << 1
PFERR_USER = 1 << 2
PFERR_RSVD = 1 << 3
PFERR_FETCH = 1 << 4
PFERR_PK = 1 << 5

# --- An access: the error code it would fault with, and two facts that the code does not show ---
ACCESS_READ = 0
ACCESS_WRITE = PFERR_WRITE
ACCESS_USER = PFERR_USER
ACCESS_FETCH = PFERR_FETCH
ACCESS_IMPLICIT = 1 << 8
"""Implicit supervisor access (descriptor table, TSS): EFLAGS.AC has no say. SDM 4.6.1."""
ACCESS_AC = 1 << 9
"""EFLAGS.AC is set: an explicit supervisor data access passes SMAP. SDM 4.6.1."""

# --- Rights of a translation: what all entries on the path allow together -----------------------
ACC_EXEC = 1 << 0
ACC_WRITE = PT_WRITABLE
ACC_USER = PT_USER
ACC_ALL = ACC_EXEC | ACC_WRITE | ACC_USER

# --- Control registers ------------------------------------------------------------------------
CR0_PE = 1 << 0
CR0_WP = 1 << 16
CR0_NW = 1 << 29
CR0_CD = 1 << 30
CR0_PG = 1 << 31
CR3_PWT = 1 << 3
CR3_PCD = 1 << 4
CR4_PSE = 1 << 4
CR4_PAE = 1 << 5
CR4_PGE = 1 << 7
CR4_LA57 = 1 << 12
CR4_SMEP = 1 << 20
CR4_SMAP = 1 << 21
CR4_PKE = 1 << 22
EFER_LME = 1 << 8
EFER_LMA = 1 << 10
EFER_NXE = 1 << 11

# What makes the processor load the four PDPTE registers beside MOV CR3 (SDM 4.4.1).
CR0_PDPTE_BITS = CR0_PG | CR0_CD | CR0_NW
CR4_PDPTE_BITS = CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP


class Levels(IntEnum):
    """Levels of guest tables: what tells the paging modes apart (SDM table 4-1)."""

    NONE = 0  # CR0.PG = 0: real mode, or protected mode without paging
    TWO = 2  # "32-bit paging"
    PAE = 3
    FOUR = 4
    FIVE = 5


@dataclass(frozen=True, slots=True)
class Features:
    """What CPUID reports about paging.

    ``phys_bits`` (MAXPHYADDR, 32 to 40: Unicorn's physical addresses have 40 bits), ``pse36`` and
    ``gbpages`` decide which bits of an entry are reserved. The others do not: what NX, keys and the
    fifth level mean follows from EFER.NXE, CR4.PKE and CR4.LA57, which a processor without them
    refuses to set (emu's business). ``la57`` also says how long a path the pool must have room for.
    """

    phys_bits: int = 40
    nx: bool = True
    pse36: bool = True
    gbpages: bool = True
    pku: bool = True
    la57: bool = True


@dataclass(frozen=True, slots=True)
class PagingMode:
    """The shape of the guest's tables in one mode. Levels count from 1, the table of 4 KiB pages.

    ``levels`` and ``entry_bytes`` say how far and in what steps the tables are walked,
    ``index_bits`` how many bits of the address each level uses, ``large_levels`` where PS = 1 maps
    a page, ``gva_bits`` the width of an address that is not sign-extended further.
    """

    name: str
    levels: Levels
    entry_bytes: int
    index_bits: int
    large_levels: tuple[int, ...]
    gva_bits: int

    def shift(self, level: int) -> int:
        """Return the number of address bits below the index of ``level``.

        >>> MODES[Levels.TWO].shift(2), MODES[Levels.FOUR].shift(2)
        (22, 21)
        """
        return PAGE_SHIFT + (level - 1) * self.index_bits

    def index(self, gva: int, level: int) -> int:
        """Return which entry of its table at ``level`` translates ``gva``.

        >>> MODES[Levels.TWO].index(0xFFC0_0000, 2)
        1023
        """
        return (gva >> self.shift(level)) & ((1 << self.index_bits) - 1)


MODES: dict[Levels, PagingMode] = {
    mode.levels: mode
    for mode in (
        #           name           levels       bytes bits large   gva
        PagingMode("no paging", Levels.NONE, 0, 0, (), 32),
        PagingMode("32-bit", Levels.TWO, 4, 10, (2,), 32),
        PagingMode("PAE", Levels.PAE, 8, 9, (2,), 32),
        PagingMode("4-level", Levels.FOUR, 8, 9, (2, 3), 48),
        PagingMode("5-level", Levels.FIVE, 8, 9, (2, 3), 57),
    )
}


def levels_of(cr0: int, cr4: int, efer: int) -> Levels:
    """Return the paging mode that the control registers select (SDM 4.1.1)."""
    if not cr0 & CR0_PG:
        return Levels.NONE
    if efer & EFER_LMA:
        return Levels.FIVE if cr4 & CR4_LA57 else Levels.FOUR
    return Levels.PAE if cr4 & CR4_PAE else Levels.TWO


def is_present(gpte: int) -> bool:
    """Return whether an entry of any level is used at all."""
    return bool(gpte & PT_PRESENT)


def is_canonical(gva: int, bits: int) -> bool:
    """Return whether bits 63 to ``bits - 1`` of a 64-bit address are all alike (SDM 1, 3.3.7.1).

    >>> is_canonical(0xFFFF_8000_0000_0000, 48), is_canonical(0x8000_0000_0000, 48)
    (True, False)
    """
    top = gva >> (bits - 1)
    return top == 0 or top == (1 << (65 - bits)) - 1


def bits(low: int, high: int) -> int:
    """Return a mask of the bits ``low`` to ``high``, both included; none if ``low > high``.

    >>> hex(bits(13, 20))
    '0x1fe000'
    """
    return (1 << (high + 1)) - (1 << low) if high >= low else 0


@lru_cache(maxsize=256)
def reserved_bits(levels: Levels, level: int, large: bool, nxe: bool, features: Features) -> int:
    """Return the bits that must be zero in a present entry, as a mask (SDM tables 4-4 to 4-20).

    ``large``: the entry has PS = 1 at a level and in a state (CR4.PSE) where PS has a meaning.
    A level where PS = 1 is never legal has bit 7 in its mask whatever ``large`` says.
    """
    phys = features.phys_bits
    if levels is Levels.TWO:
        if not large:
            return 0
        # 4 MiB page: bits 13 to 20 are address bits 32 to 39 (PSE-36), 21 is always reserved.
        return bits(13 + max(phys - 32, 0) if features.pse36 else 13, 21)
    mask = bits(phys, 51)
    if levels is Levels.PAE:
        if level == 3:  # PDPTE register, SDM table 4-8
            return bits(phys, 63) | bits(1, 2) | bits(5, 8)
        mask |= bits(52, 62)
    if not nxe:
        mask |= PT_NX
    if large:
        if level == 2:
            return mask | bits(13, 20)
        if level == 3 and features.gbpages:
            return mask | bits(13, 29)
    if level > 3 or (level == 3 and not features.gbpages):
        mask |= PT_PAGE_SIZE
    return mask


def rights_allow(rights: int, access: int, *, wp: bool, smep: bool, smap: bool) -> bool:
    """Return whether a present, well-formed translation lets ``access`` through (SDM 4.6.1).

    ``rights`` is a union of ``ACC_*``: what every entry of the path allows. The rules, for a
    *user page* (U set in every entry) and a *supervisor page* (any other)::

        access               supervisor page              user page
        supervisor read      yes                          yes, unless SMAP (and not AC)
        supervisor write     W, or CR0.WP = 0             the same, unless SMAP (and not AC)
        supervisor fetch     X                            X, unless SMEP
        user read            no                           yes
        user write           no                           W
        user fetch           no                           X

    Protection keys are apart: see :func:`pkey_denies`.
    """
    user_page = bool(rights & ACC_USER)
    if access & ACCESS_USER and not access & ACCESS_IMPLICIT:
        if not user_page:
            return False
        if access & ACCESS_FETCH:
            return bool(rights & ACC_EXEC)
        return not access & ACCESS_WRITE or bool(rights & ACC_WRITE)
    if access & ACCESS_FETCH:
        return bool(rights & ACC_EXEC) and not (user_page and smep)
    if user_page and smap and (access & ACCESS_IMPLICIT or not access & ACCESS_AC):
        return False
    return not access & ACCESS_WRITE or bool(rights & ACC_WRITE) or not wp


@lru_cache(maxsize=8)
def denial_table(wp: bool, smep: bool, smap: bool) -> tuple[int, ...]:
    """Return :func:`rights_allow` as a table: ``table[access] >> rights & 1`` is 1 for a fault.

    1024 bytes-sized ints, one per access, a bit for each of the eight unions of ``ACC_*``. The
    same trick as KVM's ``mmu->permissions`` (update_permission_bitmask).
    """
    return tuple(
        sum(
            (not rights_allow(rights, access, wp=wp, smep=smep, smap=smap)) << rights
            for rights in range(ACC_ALL + 1)
        )
        for access in range(1024)
    )


def pkey_denies(pkru: int, pkey: int, access: int, *, wp: bool) -> bool:
    """Return whether PKRU forbids a data access to a user page with key ``pkey`` (SDM 4.6.2).

    The key's AD bit (even) forbids every data access, its WD bit (odd) writes: user writes always,
    supervisor writes only with CR0.WP set. Fetches never ask.
    """
    if access & ACCESS_FETCH:
        return False
    key = pkru >> (2 * pkey)
    if key & 1:
        return True
    user = access & ACCESS_USER and not access & ACCESS_IMPLICIT
    return bool(key & 2 and access & ACCESS_WRITE and (user or wp))
