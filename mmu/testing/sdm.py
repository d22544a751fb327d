# SPDX-License-Identifier: GPL-2.0-or-later
"""Paging as the Intel SDM, volume 3A, chapter 4 states it, said a second time.

The tests and the MMU fuzzer hold `mmu` against this. It shares no code and no constant with `mmu`,
looks the rules up in tables that are laid out as the SDM lays them out, and takes its time. `walk`
predicts one access: the fault with its error code, or the frame, and which bits the processor sets
in which
entries.

One thing the SDM leaves open is fixed here: an access that faults sets no bit at all (4.8 lets a
processor set A in the entries that it used).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

# Entry bits (tables 4-4 to 4-20).
P, RW, US, PWT, PCD, A, D, PS, G = (1 << bit for bit in range(9))
PAT_LARGE = 1 << 12
XD = 1 << 63

# Error-code bits (figure 4-12).
EC_P, EC_W, EC_U, EC_RSVD, EC_ID, EC_PK = 1, 2, 4, 8, 16, 32


class Regs(NamedTuple):
    """The control bits that paging asks about, and CR3 and PKRU."""

    pg: bool = False
    cr3: int = 0
    lma: bool = False
    pae: bool = False
    la57: bool = False
    pse: bool = False
    nxe: bool = False
    wp: bool = False
    smep: bool = False
    smap: bool = False
    pke: bool = False
    pge: bool = False
    pkru: int = 0

    @property
    def mode(self) -> str:
        """Table 4-1, as "none", "32-bit", "pae", "4-level" or "5-level"."""
        if not self.pg:
            return "none"
        if self.lma:
            return "5-level" if self.la57 else "4-level"
        return "pae" if self.pae else "32-bit"


WHAT = {"r": "read", "w": "write", "x": "fetch"}


class Access(NamedTuple):
    """`what` is "r", "w" or "x". `implicit`: a supervisor access whatever the CPL (4.6.1)."""

    what: str
    user: bool = False
    implicit: bool = False
    ac: bool = False

    def __str__(self) -> str:
        who = "user" if self.user else "supervisor"
        more = " implicit" * self.implicit + " ac" * self.ac
        return f"{who}{more} {WHAT[self.what]}"


class Cpuid(NamedTuple):
    """MAXPHYADDR and what else CPUID says about the formats."""

    m: int = 40
    pse36: bool = True
    page1gb: bool = True


class Verdict(NamedTuple):
    """What becomes of an access.

    `fault`: an error code, "not canonical", or None. `sets`: gpa of an entry -> bits set there.
    `page` is the size in bytes of the page that maps the address, `frame` the 4 KiB frame in it.
    """

    fault: int | str | None
    frame: int = 0
    page: int = 0
    sets: dict[int, int] | None = None
    entry_bytes: int = 0


class Translation(NamedTuple):
    """A translation as a TLB may cache it (4.10.2.2): the frame, the size of the page, the rights
    of all entries together, D of the last one, its protection key."""

    frame: int
    page: int
    user_page: bool
    writable: bool
    xd: bool
    dirty: bool
    key: int


def field(high: int, low: int) -> int:
    """Return a mask of the bits `high` to `low`."""
    return (1 << high + 1) - (1 << low) if high >= low else 0


# Reserved fields as the tables print them, M = MAXPHYADDR. XD is apart: it is reserved if NXE = 0.
RESERVED: dict[str, Callable[[int], int]] = {
    "32-bit PDE to 4 MiB page (table 4-4)": lambda m: field(21, max(m, 32) - 19),
    "32-bit PDE (table 4-5)": lambda m: 0,
    "32-bit PTE (table 4-6)": lambda m: 0,
    "PAE PDPTE (table 4-8)": lambda m: field(2, 1) | field(8, 5) | field(63, m),
    "PAE PDE to 2 MiB page (table 4-9)": lambda m: field(20, 13) | field(62, m),
    "PAE PDE (table 4-10)": lambda m: field(62, m),
    "PAE PTE (table 4-11)": lambda m: field(62, m),
    "PML5E (table 4-14)": lambda m: PS | field(51, m),
    "PML4E (table 4-15)": lambda m: PS | field(51, m),
    "PDPTE to 1 GiB page (table 4-16)": lambda m: field(29, 13) | field(51, m),
    "PDPTE (table 4-17)": lambda m: field(51, m),
    "PDPTE without 1 GiB pages": lambda m: PS | field(51, m),
    "PDE to 2 MiB page (table 4-18)": lambda m: field(20, 13) | field(51, m),
    "PDE (table 4-19)": lambda m: field(51, m),
    "PTE (table 4-20)": lambda m: field(51, m),
}

Row = tuple[int, int, str, "str | None"]
PDE_PTE_64: list[Row] = [
    (2, 21, "PDE (table 4-19)", "PDE to 2 MiB page (table 4-18)"),
    (1, 12, "PTE (table 4-20)", None),
]
PDPTE_64: Row = (3, 30, "PDPTE (table 4-17)", "PDPTE to 1 GiB page (table 4-16)")
PDPTE_64_NO_1G: Row = (3, 30, "PDPTE without 1 GiB pages", None)
PML4E: Row = (4, 39, "PML4E (table 4-15)", None)
PML5E: Row = (5, 48, "PML5E (table 4-14)", None)

# mode -> (bytes an entry, bits of an index, steps): (level, shift, format, format if PS = 1)
STEPS: dict[str, tuple[int, int, list[Row]]] = {
    "32-bit": (
        4,
        10,
        [
            (2, 22, "32-bit PDE (table 4-5)", "32-bit PDE to 4 MiB page (table 4-4)"),
            (1, 12, "32-bit PTE (table 4-6)", None),
        ],
    ),
    "pae": (
        8,
        9,
        [
            (2, 21, "PAE PDE (table 4-10)", "PAE PDE to 2 MiB page (table 4-9)"),
            (1, 12, "PAE PTE (table 4-11)", None),
        ],
    ),
    "4-level": (8, 9, [PML4E, PDPTE_64, *PDE_PTE_64]),
    "5-level": (8, 9, [PML5E, PML4E, PDPTE_64, *PDE_PTE_64]),
}


@cache
def steps(
    mode: str, cpuid: Cpuid, pse: bool, nxe: bool
) -> tuple[int, tuple[tuple[int, int, int, int, int | None], ...]]:
    """Return the bytes of an entry, and by level (level, shift, index mask, reserved, reserved if
    PS = 1 maps a page here, else None)."""
    entry_bytes, index_bits, rows = STEPS[mode]
    found = []
    for row in rows:
        level, shift, small, large = (
            PDPTE_64_NO_1G if row is PDPTE_64 and not cpuid.page1gb else row
        )
        m = 32 if mode == "32-bit" and not cpuid.pse36 else cpuid.m
        xd = XD if entry_bytes == 8 and not nxe else 0
        if mode == "32-bit" and not pse:
            large = None  # 4.3: CR4.PSE = 0 and bit 7 is ignored
        large_mask = None if large is None else RESERVED[large](m) | xd
        found.append((level, shift, (1 << index_bits) - 1, RESERVED[small](m) | xd, large_mask))
    return entry_bytes, tuple(found)


# 4.6.1, one row for each rule. A "user page" has U/S = 1 in every entry that maps it.
#   who         what  page          allowed if
RIGHTS = """
    supervisor   r    supervisor    always
    supervisor   r    user          smap-lets-pass
    supervisor   w    supervisor    wp-off-or-writable
    supervisor   w    user          smap-lets-pass and wp-off-or-writable
    supervisor   x    supervisor    not-xd
    supervisor   x    user          not-xd and smep-off
    user         r    user          always
    user         w    user          writable
    user         x    user          not-xd
    user         r    supervisor    never
    user         w    supervisor    never
    user         x    supervisor    never
"""
RULES = {
    tuple(line.split()[:3]): [word for word in line.split()[3:] if word != "and"]
    for line in RIGHTS.split("\n")
    if line.strip()
}


@cache
def allowed(
    access: Access, user_page: bool, writable: bool, xd: bool, wp: bool, smep: bool, smap: bool
) -> bool:
    """Return whether 4.6.1 allows the access, protection keys apart."""
    who = "user" if access.user and not access.implicit else "supervisor"
    conditions = {
        "always": True,
        "never": False,
        "writable": writable,
        "wp-off-or-writable": not wp or writable,
        "not-xd": not xd,
        "smep-off": not smep,
        # SMAP: only an explicit access with EFLAGS.AC = 1 may reach a user page.
        "smap-lets-pass": not smap or (access.ac and not access.implicit),
    }
    return all(
        conditions[word] for word in RULES[who, access.what, "user" if user_page else "supervisor"]
    )


def key_denies(access: Access, key: int, pkru: int, wp: bool) -> bool:
    """4.6.2 for a user page: AD forbids data accesses, WD writes (supervisor's only if WP = 1)."""
    if access.what == "x":
        return False
    ad, wd = pkru >> 2 * key & 1, pkru >> 2 * key + 1 & 1
    user_mode = access.user and not access.implicit
    return bool(ad) or bool(wd and access.what == "w" and (user_mode or wp))


def error_code(access: Access, regs: Regs, flags: int) -> int:
    """4.7: `flags` is what the tables said; W/R, U/S and I/D follow from the access."""
    code = flags
    if access.what == "w":
        code |= EC_W
    if access.user and not access.implicit:
        code |= EC_U
    if access.what == "x" and (regs.smep or (regs.nxe and regs.mode in NX_MODES)):
        code |= EC_ID
    return code


NX_MODES = ("pae", "4-level", "5-level")
LINEAR_BITS = {"4-level": 48, "5-level": 57}


def canonical(gva: int, bits: int) -> bool:
    """Return whether bits 63 to `bits - 1` are equal (volume 1, 3.3.7.1)."""
    sign = gva >> bits - 1 & 1
    return gva >> bits == ((1 << 64 - bits) - 1 if sign else 0)


def translate(
    read: Callable[[int, int], int],
    regs: Regs,
    gva: int,
    cpuid: Cpuid,
    pdptes: Sequence[int],
) -> tuple[Translation | int | str, list[tuple[int, int]]]:
    """Follow the tables. Returns (translation, used), where `used` lists (gpa, entry) from the top
    down; instead of the translation, "not canonical" or the error-code flags of what ended it."""
    mode = regs.mode
    if mode == "none":
        frame = (gva & 0xFFFF_FFFF) >> 12
        return Translation(frame, 0, True, True, False, True, 0), []
    address_bits = (1 << cpuid.m) - 1
    if mode in LINEAR_BITS:
        if not canonical(gva, LINEAR_BITS[mode]):
            return "not canonical", []
        table = regs.cr3 & address_bits & ~0xFFF
    else:
        gva &= 0xFFFF_FFFF
        table = regs.cr3 & 0xFFFF_F000
    if mode == "pae":
        pdpte = pdptes[gva >> 30]
        if not pdpte & P:
            return 0, []
        table = pdpte & address_bits & ~0xFFF
    entry_bytes, rows = steps(mode, cpuid, regs.pse, regs.nxe)
    user_page = writable = US | RW
    xd = 0
    used: list[tuple[int, int]] = []
    for level, shift, index_mask, reserved, reserved_large in rows:
        gpa = table + (gva >> shift & index_mask) * entry_bytes
        entry = read(gpa, entry_bytes)
        used.append((gpa, entry))
        if not entry & P:
            return 0, used
        maps_page = level == 1 or (reserved_large is not None and entry & PS)
        if entry & (reserved_large if reserved_large is not None and maps_page else reserved):
            return EC_P | EC_RSVD, used
        user_page &= entry
        writable &= entry
        xd |= entry & XD
        if maps_page:
            break
        table = entry & address_bits & ~0xFFF
    page = 1 << shift
    if entry_bytes == 4 and level == 2:
        base = entry & field(31, 22)
        if cpuid.pse36:  # table 4-4: bits M-20 to 13 are address bits M-1 to 32
            base |= (entry & field(cpuid.m - 20, 13)) << 19
    else:
        base = entry & address_bits & ~(page - 1)
    frame = base + (gva & page - 1) >> 12
    key = entry >> 59 & 15 if regs.lma else 0
    rights = user_page & US != 0, writable & RW != 0, xd != 0
    return Translation(frame, page, *rights, entry & D != 0, key), used


def refusal(found: Translation, access: Access, regs: Regs) -> int:
    """The error-code flags with which a translation refuses an access; 0 if it allows it."""
    if regs.mode == "none":
        return 0
    flags = 0
    if not allowed(
        access, found.user_page, found.writable, found.xd, regs.wp, regs.smep, regs.smap
    ):
        flags = EC_P
    # 4.7: the PK flag tells of the key whatever else was wrong, but only for user pages.
    if (
        regs.pke
        and regs.lma
        and found.user_page
        and key_denies(access, found.key, regs.pkru, regs.wp)
    ):
        flags = EC_P | EC_PK
    return flags


def walk(
    read: Callable[[int, int], int],
    regs: Regs,
    gva: int,
    access: Access,
    cpuid: Cpuid = Cpuid(),  # noqa: B008
    pdptes: Sequence[int] = (),
) -> Verdict:
    """Predict one access to `gva`. `read(gpa, bytes)` reads memory; `pdptes`: the PAE registers."""
    found, used = translate(read, regs, gva, cpuid, pdptes)
    if isinstance(found, str):
        return Verdict(found)
    if isinstance(found, int):
        return Verdict(error_code(access, regs, found))
    flags = refusal(found, access, regs)
    if flags:
        return Verdict(error_code(access, regs, flags))
    sets = {gpa: A for gpa, _ in used}
    if access.what == "w" and used:
        sets[used[-1][0]] |= D
    entry_bytes = 4 if regs.mode == "32-bit" else 8
    return Verdict(None, found.frame, found.page, sets, entry_bytes)


def loads_pdptes(old: Regs, new: Regs) -> bool:
    """Return whether a change of registers loads the PDPTE registers (4.4.1); the same registers
    again are a load of CR3."""
    if new.mode != "pae":
        return False
    if old.mode != "pae" or old == new:
        return True
    return (new.cr3, new.pse, new.pge, new.smep) != (old.cr3, old.pse, old.pge, old.smep)


def pdptes_fault(pdptes: Sequence[int], cpuid: Cpuid) -> bool:
    """Return whether loading these PDPTE registers is #GP(0) (4.4.1)."""
    reserved = RESERVED["PAE PDPTE (table 4-8)"](cpuid.m)
    return any(pdpte & P and pdpte & reserved for pdpte in pdptes)
