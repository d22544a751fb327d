# SPDX-License-Identifier: GPL-2.0-or-later
"""The key of a shadow page: the frame of the guest table it stands for, and its role.

A *shadow page* is a table of 512 64-bit entries that translates what a guest's table translates.
It is made on a fault and kept, and must be found again whenever the same guest table is to be
used in the same way. "The same table" is a guest frame number; "in the same way" is everything
else that decides what the 512 entries say. That is the *role*, one int, compared in one go::

    21..18   17   16   15    14   13   12   11..9     8       7..6     5..3   2..0
     pkey   pke   pse  smap  smep  wp   nxe  access  direct  quadrant  level  glevels
            &!wp       &!wp  &!wp            u w x

In that order:

pkey      of a direct page: the protection key of the large page that it maps, as two large pages
          may map the same frames with different keys; 0 for all others
pke&!wp   CR4.PKE without CR0.WP, see *what WP = 0 does to entries* below
pse       CR4.PSE: whether PS in a 32-bit directory entry means anything
smap&!wp  CR4.SMAP without CR0.WP, see below
smep&!wp  CR4.SMEP without CR0.WP, see below
wp        CR0.WP: with it, nobody writes to a read-only page; without it, a supervisor does
nxe       EFER.NXE: whether bit 63 of an entry forbids fetches or is reserved
access    what the guest's entries *above* this table allow together: user, write, execute. Two
          directories may point to one table with different rights; the entries below differ, so
          the pages must. The 2007 key left this out: CVE-2021-38198. Of a direct page: what the
          large entry that it maps allows, together with those above it; W only if that entry is
          dirty, or its D would never be set when the guest writes
direct    there is no guest table: the page maps a linear range of guest memory, because paging
          is off or because a large guest page is mapped in small ones ("metaphysical" in 2007)
quadrant  which part of the guest's table this page stands for (see below)
level     which level of the *shadow* tables this page is: 1 maps 4 KiB pages
glevels   levels of the guest's tables: 0 real mode or paging off, 2 32-bit, 3 PAE, 4, 5

**What WP = 0 does to entries.** Shadow entries are followed as hardware with CR0.WP = 1 follows
them. So when a guest with CR0.WP = 0 writes, as supervisor, to a *user's read-only* page, no entry
can say that a supervisor may write here and user mode only read. The entry is then made a
supervisor's writable one, and user mode, which faults on it, has it turned back. It does not look
like a user page any more, and that is what the bits with &!wp are for: under SMEP it must not be
executable, as a supervisor may not fetch from a user page; under SMAP and with protection keys,
which are asked for user pages only, it may not be there at all. With CR0.WP = 1 there are no such
entries, and the three bits stay 0, so that pages are shared.

Two keys to read against the bit map. A page table of a 32-bit guest with CR0.WP and CR4.PSE, its
quadrant 1, all rights above it::

    1    0    0    1   0    111     0       01        001    010    = 0x12e4a
    pse  smap smep wp  nxe  access  direct  quadrant  level  glevels

>>> from mmu.arch import CR0_PG
>>> mode = mode_bits(CR0_PG | CR0_WP, CR4_PSE, 0)
>>> hex(make_role(mode, 1, quadrant=1))
'0x12e4a'

And the same table, gfn 0x1f, reached through a directory entry without W: another key, so another
page, whose leaves cannot be writable. (In 2007 both were one page: the first to come decided.)

>>> through_rw, through_ro = make_role(mode, 1), make_role(mode, 1, access=ACC_USER | ACC_EXEC)
>>> hex(through_rw), hex(through_ro)
('0x12e0a', '0x12a0a')
>>> describe_role(0x1f, through_ro)
'gfn 1f l1 4-byte q0 -ux wp pse'

**Quadrants.** A 32-bit guest's table has 1,024 entries of 4 bytes in its page, a shadow page 512
of 8. So one guest table needs several shadow pages, each standing for a part of it::

                        guest table               shadow page            parts
    page table          1,024 x 4 KiB = 4 MiB     512 x 4 KiB = 2 MiB    2
    page directory      1,024 x 4 MiB = 4 GiB     512 x 2 MiB = 1 GiB    4

The shadow tables are one level deeper than the guest's: above the four parts of the directory
stands a *root table* of four entries, a gigabyte each, which is the vCPU's own and stands for no
guest table at all. The frame in CR3 so has up to four shadow pages, each page table two::

    address   31 30      29 ... 21          20 ... 12          11 ... 0
              quarter    shadow directory   shadow table       offset

              root table            directory pages             table pages
              (of the vCPU)         (gfn of CR3)                (gfn in the guest's entry)
              0  ---------------->  q0: guest entries 0-255
              1  ---------------->  q1: 256-511
              2  ---------------->  q2: 512-767
              3  ---------------->  q3: 768-1023, in it
                                      0, of 768  ------------>  q0: guest entries 0-511
                                      1, of 768  ------------>  q1: 512-1023
                                      2, of 769  -----> q0 of the next table
                                      3, of 769  -----> q1 of that
                                      ...

A guest directory entry covers 4 MiB and a shadow one 2 MiB, so *two* shadow directory entries
come from each guest entry, one for either half of the table that it points to.

A worked example: gva 0xC0801000. Its directory index is 0xC0801000 >> 22 = 770, its table index
(0xC0801000 >> 12) & 1023 = 1. The fourth gigabyte is directory quadrant 3, which stands for
guest entries 768 to 1023; 770 is number 2 of these and owns shadow entries 4 and 5. Bit 21 of the
address picks the half: 0, so entry 4. That leads to the page table's quadrant 0, entries 0 to 511,
where entry 1 is entry 1.

>>> quadrant_of(0xC0801000, 2), quadrant_of(0xC0801000, 1)
(3, 0)
>>> list(sptes_of_gpte(770, 2, quadrant=3)), list(sptes_of_gpte(770, 2, quadrant=0))
([4, 5], [])
>>> list(sptes_of_gpte(513, 1, quadrant=1))
[1]

PAE and long mode have no quadrants: their entries have 8 bytes, as ours have, 512 fill a page, and
one shadow page stands for one guest table. (PAE uses the root table too, for its four PDPTE
registers: each leads to a directory of its own.)
"""

from __future__ import annotations

from ..arch import (
    ACC_ALL,
    ACC_EXEC,
    ACC_USER,
    ACC_WRITE,
    CR0_WP,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_NXE,
    Levels,
    levels_of,
)

GLEVELS_MASK = 7
LEVEL_SHIFT = 3
QUADRANT_SHIFT = 6
DIRECT = 1 << 8
ACCESS_SHIFT = 9
NXE = 1 << 12
WP = 1 << 13
SMEP_ANDNOT_WP = 1 << 14
SMAP_ANDNOT_WP = 1 << 15
PSE = 1 << 16
PKE_ANDNOT_WP = 1 << 17
PKEY_SHIFT = 18

ROLE_BITS = 24
"""A key is ``gfn << ROLE_BITS | role``."""

_LEVEL_MASK = 7 << LEVEL_SHIFT
_MODE_MASK = GLEVELS_MASK | NXE | WP | SMEP_ANDNOT_WP | SMAP_ANDNOT_WP | PSE | PKE_ANDNOT_WP

# The rights must fit the field as they are.
assert ACC_ALL == 7


def mode_bits(cr0: int, cr4: int, efer: int) -> int:
    """Return the part of a role that follows from the control registers: glevels and mode bits.

    Bits that mean nothing in a mode are left out, so that pages are shared where they can be.
    """
    levels = levels_of(cr0, cr4, efer)
    role = int(levels)
    if levels is Levels.NONE:
        return role
    if levels >= Levels.PAE and efer & EFER_NXE:
        role |= NXE
    if levels is Levels.TWO and cr4 & CR4_PSE:
        role |= PSE
    if cr0 & CR0_WP:
        return role | WP
    if cr4 & CR4_SMEP:
        role |= SMEP_ANDNOT_WP
    if cr4 & CR4_SMAP:
        role |= SMAP_ANDNOT_WP
    if cr4 & CR4_PKE and levels >= Levels.FOUR:
        role |= PKE_ANDNOT_WP
    return role


def make_role(
    mode: int,
    level: int,
    *,
    quadrant: int = 0,
    direct: bool = False,
    access: int = ACC_ALL,
    pkey: int = 0,
) -> int:
    """Return a role: ``mode`` from :func:`mode_bits`, ``level`` 1 to 5, ``access`` of ``ACC_*``."""
    return (
        mode
        | level << LEVEL_SHIFT
        | quadrant << QUADRANT_SHIFT
        | (DIRECT if direct else 0)
        | access << ACCESS_SHIFT
        | pkey << PKEY_SHIFT
    )


def mode_of(role: int) -> int:
    """Return the part of a role that :func:`mode_bits` made."""
    return role & _MODE_MASK


def with_level(role: int, level: int) -> int:
    """Return the same role at another level.

    >>> describe_role(0, with_level(make_role(Levels.NONE, 2, direct=True), 1))
    'gfn 0 l1 no-paging q0 direct wux'
    """
    return role & ~_LEVEL_MASK | level << LEVEL_SHIFT


def glevels_of(role: int) -> int:
    """Return the levels of the guest's tables: 0, 2, 3, 4 or 5."""
    return role & GLEVELS_MASK


def level_of(role: int) -> int:
    """Return the level of this shadow page, 1 to 5."""
    return role >> LEVEL_SHIFT & 7


def quadrant_in(role: int) -> int:
    """Return the quadrant, 0 to 3; 0 where there are none."""
    return role >> QUADRANT_SHIFT & 3


def access_of(role: int) -> int:
    """Return the inherited access, a union of ``ACC_*``."""
    return role >> ACCESS_SHIFT & ACC_ALL


def pkey_of(role: int) -> int:
    """Return the protection key of a direct page, 0 to 15; 0 for others."""
    return role >> PKEY_SHIFT & 15


def is_direct(role: int) -> bool:
    """Return whether no guest table stands behind the page."""
    return bool(role & DIRECT)


def quadrant_of(gva: int, level: int) -> int:
    """Return which quadrant of a 32-bit guest's table at ``level`` (1 or 2) translates ``gva``.

    At level 1 that is bit 21 of the address, at level 2 bits 30 and 31.
    """
    return gva >> 21 & 1 if level == 1 else gva >> 30 & 3


def sptes_of_gpte(index: int, level: int, quadrant: int) -> range:
    """Return which entries of a 32-bit guest's shadow page follow from guest entry ``index``.

    ``index`` is 0 to 1023; an empty range if the entry belongs to another quadrant.
    """
    if level == 1:
        return range(index & 511, (index & 511) + 1) if index >> 9 == quadrant else range(0)
    first = 2 * (index & 255)
    return range(first, first + 2) if index >> 8 == quadrant else range(0)


def gpte_of_spte(index: int, level: int, quadrant: int) -> int:
    """Return the guest entry, 0 to 1023, that entry ``index`` of a 32-bit guest's shadow page
    follows from: the inverse of :func:`sptes_of_gpte`.

    >>> gpte_of_spte(5, 2, 3)
    770
    """
    return quadrant << 9 | index if level == 1 else quadrant << 8 | index >> 1


def describe_role(gfn: int, role: int) -> str:
    """Return a key as KVM's tracepoints print it.

    >>> describe_role(0x1f, make_role(Levels.TWO | WP, 1, quadrant=1))
    'gfn 1f l1 4-byte q1 wux wp'
    """
    glevels = glevels_of(role)
    width = {0: "no-paging", 2: "4-byte", 3: "pae"}.get(glevels, f"{glevels}-level")
    access = access_of(role)
    rights = "".join(
        letter if access & bit else "-"
        for letter, bit in (("w", ACC_WRITE), ("u", ACC_USER), ("x", ACC_EXEC))
    )
    words = [f"gfn {gfn:x}", f"l{level_of(role)}", width, f"q{quadrant_in(role)}"]
    if is_direct(role):
        words.append("direct")
    words.append(rights)
    words += [
        name
        for bit, name in (
            (NXE, "nxe"),
            (WP, "wp"),
            (SMEP_ANDNOT_WP, "smep_andnot_wp"),
            (SMAP_ANDNOT_WP, "smap_andnot_wp"),
            (PKE_ANDNOT_WP, "pke_andnot_wp"),
            (PSE, "pse"),
        )
        if role & bit
    ]
    if pkey_of(role):
        words.append(f"key {pkey_of(role)}")
    return " ".join(words)
