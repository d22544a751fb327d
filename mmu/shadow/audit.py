# SPDX-License-Identifier: GPL-2.0-or-later
"""The invariants as code. :func:`audit` looks at everything and raises on the first that fails.

1. A frame with a non-metaphysical shadow page is mapped writable by no spte, unless it is a leaf
   table that is out of sync.
2. Every present spte equals what a fresh walk gives, with its rights no wider; W only where the
   guest's D is set. (In a table out of sync: unless the guest's entry has changed since.)
3. rmap and sptes name each other exactly; so do parents and children.
4. A root in use is never recycled; a recycled page is reachable from nowhere, and what a vCPU
   remembers of its paths is what a walk finds.
5. The pool never exceeds its bound.
6. No frame is writable in one TLB and executable in another.

For the second, no address is walked: every entry is held against the guest entry that it stands
for, given what its page's role says of the levels above, and every upper entry must lead to the
page that the guest entry asks for. By induction from the roots that is a walk of every address.

It costs a look at every entry of every shadow page, and serves tests and ``--audit``, which after
most events looks only at what the event touched (see watch.py). Nothing in the guest's tables is
changed by it.
"""

from __future__ import annotations

from typing import NoReturn, Protocol

from ..api import InvariantError
from ..arch import (
    ACC_ALL,
    ACC_EXEC,
    ACC_USER,
    ACC_WRITE,
    PAGE_SHIFT,
    PT_DIRTY,
    PT_NX,
    PT_PAGE_SIZE,
    PT_PKEY_SHIFT,
    PT_WRITABLE,
    Features,
    Levels,
    bits,
    is_present,
    reserved_bits,
)
from ..memory import Memory
from ..tlb import TlbTracker
from ..walker import ALL_ONES
from .cache import ShadowCache
from .context import ShadowContext
from .pool import (
    SPTE_FRAME,
    SPTE_LARGE,
    SPTE_NX,
    SPTE_PKEY_SHIFT,
    SPTE_PRESENT,
    SPTE_TRAP,
    SPTE_TRAP_WRITE,
    SPTE_UPPER,
    SPTE_USER,
    SPTE_WRITABLE,
    Pool,
    ShadowPage,
)
from .role import (
    NXE,
    PKE_ANDNOT_WP,
    PSE,
    ROLE_BITS,
    SMAP_ANDNOT_WP,
    SMEP_ANDNOT_WP,
    WP,
    describe_role,
    gpte_of_spte,
    make_role,
    mode_of,
    with_level,
)


class ShadowParts(Protocol):
    """What an audit looks at: the parts of a shadow MMU."""

    memory: Memory
    tlb: TlbTracker
    pool: Pool
    cache: ShadowCache
    contexts: list[ShadowContext]
    words: memoryview


def audit(mmu: ShadowParts) -> None:
    """Check all six invariants.

    Raises:
        InvariantError: one does not hold; the message says which, where, and both sides of it.
    """
    _check_write_protection(mmu)
    _check_entries(mmu)
    _check_reverse_map(mmu)
    _check_roots(mmu)
    check_bound(mmu)
    _check_code_rule(mmu)


def fail(number: int, mmu: ShadowParts, what: str) -> NoReturn:
    """Raise an InvariantError that says where every vCPU stands."""
    state = "; ".join(
        f"vCPU {cpu}: {context.paging.mode.name} CR3 {context.paging.regs.cr3:#x}"
        for cpu, context in enumerate(mmu.contexts)
    )
    raise InvariantError(f"invariant {number}: {what} [{len(mmu.pool)} pages; {state}]")


def _check_write_protection(mmu: ShadowParts) -> None:
    for gfn in mmu.cache.tables:
        check_table_protection(mmu, gfn)
        check_published(mmu, gfn)


def check_table_protection(mmu: ShadowParts, gfn: int) -> None:
    """Check the first invariant for a frame that holds a table. O(aliases of the frame)."""
    if gfn in mmu.cache.unsync.copies:
        if any(page.level > 1 for page in mmu.cache.tables[gfn]):
            fail(1, mmu, f"gfn {gfn:x} is out of sync, and an upper table too")
        return
    for place in mmu.cache.rmap_large.places(gfn >> 9):
        fail(1, mmu, f"table gfn {gfn:x} lies in the large page of {where(mmu, place)}")
    for place in mmu.cache.rmap.places(gfn):
        if mmu.words[place] & SPTE_WRITABLE:
            fail(1, mmu, f"table gfn {gfn:x} is writable by {where(mmu, place)}")
    if mmu.tlb.may_be_writable(gfn):
        fail(1, mmu, f"table gfn {gfn:x} may be writable in a TLB")


def check_published(mmu: ShadowParts, gfn: int) -> None:
    """Check what the leaf pages of a frame know: whether it is in sync, and who is alone."""
    pages = mmu.cache.tables.get(gfn, [])
    copy = mmu.cache.unsync.copies.get(gfn)
    for page in pages:
        if page.level == 1 and (page.copy is not copy or page.alone != (len(pages) == 1)):
            fail(2, mmu, f"{page!r} was not told what it stands for")


def _check_entries(mmu: ShadowParts) -> None:
    for page in mmu.pool:
        for place, spte in mmu.pool.entries(page):
            check_entry(mmu, page, place - page.base, spte)
    for cpu in range(mmu.pool.cpus):
        check_root_table(mmu, cpu)


def check_entry(mmu: ShadowParts, page: ShadowPage, index: int, spte: int) -> None:
    """Check the second invariant for one entry that is not empty."""
    if page.obsolete:
        return
    memory = mmu.memory
    may_be_stale = not page.direct and page.gfn in mmu.cache.unsync.copies
    if may_be_stale and _is_known_stale(mmu, memory, page, index):
        return
    features = mmu.contexts[0].paging.features
    wrong = _wrong_entry(mmu, memory, features, page, index, spte)
    if wrong:
        fail(2, mmu, f"{where(mmu, page.base + index)}: {wrong}")


def child_of(mmu: ShadowParts, spte: int) -> ShadowPage:
    """Return the page that an upper entry leads to, which must be there."""
    page = mmu.pool.page_at((spte & SPTE_FRAME) >> 3)
    if page is None:
        fail(4, mmu, f"upper entry {spte:#x} leads to a page that is in the pool no more")
    return page


def check_root_table(mmu: ShadowParts, cpu: int) -> None:
    """Check the second invariant for the entries of a vCPU's root table."""
    context = mmu.contexts[cpu]
    first = mmu.pool.root_table(cpu)
    for gigabyte in range(4):
        spte = mmu.words[first + gigabyte]
        if spte:
            page = child_of(mmu, spte)
            wanted = context.directory_key(gigabyte)
            if context.root_page is not None or wanted != (page.gfn, page.role):
                fail(2, mmu, f"vCPU {cpu} root entry {gigabyte} leads to {page!r}")


def _wrong_entry(
    mmu: ShadowParts,
    memory: Memory,
    features: Features,
    page: ShadowPage,
    index: int,
    spte: int,
) -> str:
    """Return what is wrong with an entry, or an empty string."""
    if not spte & SPTE_PRESENT:
        return f"spte {spte:#x} is neither empty nor present"
    if page.direct:
        gfn = page.gfn + (index << 9 * (page.level - 1))
        if page.level > 1 and not spte & SPTE_LARGE:
            return _wrong_child(mmu, spte, gfn, with_level(page.role, page.level - 1))
        return _wrong_key(spte, page.pkey) or _wrong_leaf(
            mmu, spte, gfn, page.access, True, page.role
        )
    gpte = _guest_entry(memory, page, index)
    if not is_present(gpte):
        return f"spte {spte:#x} present, guest entry {gpte:#x} not"
    large = bool(
        page.level > 1
        and gpte & PT_PAGE_SIZE
        and page.level <= (3 if page.glevels >= 4 and features.gbpages else 2)
        and (page.glevels != 2 or page.role & PSE)
    )
    reserved = reserved_bits(
        Levels(page.glevels), page.level, large, bool(page.role & NXE), features
    )
    if gpte & reserved:
        return f"spte {spte:#x} present, guest entry {gpte:#x} has reserved bits"
    rights = page.access & (gpte & (ACC_WRITE | ACC_USER) | _exec_right(page, gpte))
    frame_mask = bits(PAGE_SHIFT, features.phys_bits - 1)
    if page.level == 1:
        gfn = (gpte & frame_mask) >> PAGE_SHIFT
        return _wrong_key(spte, _pkey(page, gpte)) or _wrong_leaf(
            mmu, spte, gfn, rights, _is_dirty(memory, page, gpte), page.role
        )
    if large:
        return _wrong_large(mmu, features, page, index, spte, gpte, rights)
    if spte & SPTE_LARGE:
        return f"large spte {spte:#x}, guest entry {gpte:#x} leads to a table"
    child = child_of(mmu, spte)
    quadrant = index & 1 if page.glevels == 2 else 0
    role = make_role(mode_of(page.role), page.level - 1, quadrant=quadrant, access=rights)
    if (child.gfn, child.role) != ((gpte & frame_mask) >> PAGE_SHIFT, role):
        return f"leads to {child!r}, guest entry {gpte:#x} asks for {describe_role(0, role)}"
    return ""


def _guest_entry(memory: Memory, page: ShadowPage, index: int) -> int:
    if page.glevels == 2:
        words = memory.table32(page.gfn)
        index = gpte_of_spte(index, page.level, page.quadrant)
    else:
        words = memory.table64(page.gfn)
    return words[index] if words is not None else ALL_ONES[4 if page.glevels == 2 else 8]


def _is_known_stale(mmu: ShadowParts, memory: Memory, page: ShadowPage, index: int) -> bool:
    """Return whether an entry of a table out of sync will be looked at when that is synced."""
    if page.glevels == 2:
        index = gpte_of_spte(index, page.level, page.quadrant) >> 1
    table = memory.table64(page.gfn)
    return table is None or table[index] != mmu.cache.unsync.copies[page.gfn][index]


def _is_dirty(memory: Memory, page: ShadowPage, gpte: int) -> bool:
    """Return whether D is set, or cannot be because the guest keeps the table in ROM."""
    table = memory.table64(page.gfn)
    return bool(gpte & PT_DIRTY) or (table is not None and table.readonly)


def _exec_right(page: ShadowPage, gpte: int) -> int:
    return 0 if page.glevels != 2 and gpte & PT_NX else ACC_EXEC


def _pkey(page: ShadowPage, gpte: int) -> int:
    return gpte >> PT_PKEY_SHIFT & 15 if page.glevels >= 4 else 0


def _wrong_key(spte: int, pkey: int) -> str:
    if spte >> SPTE_PKEY_SHIFT & 15 == pkey:
        return ""
    return f"spte {spte:#x} has another protection key than the guest's, {pkey}"


def _wrong_large(
    mmu: ShadowParts,
    features: Features,
    page: ShadowPage,
    index: int,
    spte: int,
    gpte: int,
    rights: int,
) -> str:
    """Check an upper entry below which a large guest page is mapped in small ones."""
    if page.glevels == 2:
        base = gpte & 0xFFC0_0000
        if features.pse36:
            base |= (gpte & bits(13, 20)) << 19
        gfn = base >> PAGE_SHIFT | (index & 1) << 9
    else:
        gfn = (gpte & bits(12 + 9 * (page.level - 1), features.phys_bits - 1)) >> PAGE_SHIFT
    if spte & SPTE_LARGE:
        return _wrong_key(spte, _pkey(page, gpte)) or _wrong_leaf(
            mmu, spte, gfn, rights, _is_dirty(mmu.memory, page, gpte), page.role
        )
    child = child_of(mmu, spte)
    if not child.direct or child.gfn != gfn or child.level != page.level - 1:
        return f"leads to {child!r}, guest entry {gpte:#x} is a large page at gfn {gfn:x}"
    if child.pkey != _pkey(page, gpte):
        return f"leads to {child!r}, guest entry {gpte:#x} has another protection key"
    return _wider(child.access, rights, _is_dirty(mmu.memory, page, gpte), page.role)


def _wrong_child(mmu: ShadowParts, spte: int, gfn: int, role: int) -> str:
    child = child_of(mmu, spte)
    if (child.gfn, child.role) != (gfn, role):
        return f"leads to {child!r}, not to {describe_role(gfn, role)}"
    return ""


def _wrong_leaf(mmu: ShadowParts, spte: int, gfn: int, rights: int, dirty: bool, role: int) -> str:
    if (spte & SPTE_FRAME) >> PAGE_SHIFT != gfn:
        return f"spte {spte:#x} maps another frame than {gfn:x}"
    slot = mmu.memory.slot_at(gfn << PAGE_SHIFT)
    if bool(spte & SPTE_TRAP) != (slot is None or slot.device is not None):
        return f"spte {spte:#x} has trap wrong for {slot!r}"
    has = spte & SPTE_USER
    if spte & (SPTE_WRITABLE | SPTE_TRAP_WRITE):
        has |= ACC_WRITE
    if not spte & SPTE_NX:
        has |= ACC_EXEC
    return _wider(has, rights, dirty, role)


def _wider(has: int, rights: int, dirty: bool, role: int) -> str:
    """Compare what an entry allows with what the guest's entries allow (see cr0.wp in role)."""
    if has & ACC_WRITE and not dirty:
        return "writable, but the guest's D is clear"
    if has & ACC_WRITE and not rights & ACC_WRITE:
        if role & WP:
            return f"writable, guest rights are {rights}"
        if rights & ACC_USER:
            if role & SMAP_ANDNOT_WP:
                return "a user page made a supervisor's under SMAP"
            if role & PKE_ANDNOT_WP:
                return "a user page made a supervisor's with protection keys on"
            if has & ACC_EXEC and role & SMEP_ANDNOT_WP:
                return "a user page made a supervisor's, executable under SMEP"
            if has & ACC_USER:
                return "writable through CR0.WP = 0 and still a user page"
        rights |= ACC_WRITE
    if has & ~rights & ACC_ALL:
        return f"rights {has} are wider than the guest's {rights}"
    return ""


def _check_reverse_map(mmu: ShadowParts) -> None:
    words = mmu.words
    noted = set(mmu.cache.rmap.items())
    noted |= {(group << 9, place) for group, place in mmu.cache.rmap_large.items()}
    parents: dict[ShadowPage, set[int]] = {page: set() for page in mmu.pool}
    found = set()
    roots = [p for cpu in range(mmu.pool.cpus) for p in range(cpu << 9, (cpu << 9) + 4)]
    uppers = [(place, words[place]) for place in roots if words[place]]
    for page in mmu.pool:
        for place, spte in mmu.pool.entries(page):
            if page.level > 1 and not spte & SPTE_LARGE:
                uppers.append((place, spte))
            elif spte & SPTE_PRESENT and not spte & SPTE_TRAP:
                found.add(((spte & SPTE_FRAME) >> PAGE_SHIFT, place))
    for place, spte in uppers:
        parents[child_of(mmu, spte)].add(place)
        check_upper(mmu, place, spte)
    for gfn, place in noted ^ found:
        side = "rmap only" if (gfn, place) in noted else "spte only"
        fail(3, mmu, f"gfn {gfn:x} and {where(mmu, place)}: {side}")
    for page, places_found in parents.items():
        if page.parents != places_found:
            fail(3, mmu, f"{page!r} has parents {page.parents}, led to by {places_found}")


def check_upper(mmu: ShadowParts, place: int, spte: int) -> None:
    """Check that an upper entry holds no right back: those are in the role of the page below."""
    if spte & 7 != SPTE_UPPER:
        fail(3, mmu, f"upper entry {spte:#x} at {where(mmu, place)}")


def _check_roots(mmu: ShadowParts) -> None:
    standing = [page for page in mmu.pool if not page.obsolete]
    pins: dict[ShadowPage, int] = dict.fromkeys(standing, 0)
    for cpu, context in enumerate(mmu.contexts):
        root = context.root_page
        if root is not None:
            if root not in pins:
                fail(4, mmu, f"vCPU {cpu} runs on {root!r}, which is in the pool no more")
            pins[root] += 1
            if context.root != root.base:
                fail(4, mmu, f"vCPU {cpu} starts at {context.root}, not at {root!r}")
        for part in context.paths:
            check_known_path(mmu, cpu, part << 21)
    for page, wanted in pins.items():
        if page.pins != wanted:
            fail(4, mmu, f"{page!r} is pinned {page.pins} times, run on by {wanted}")
        check_key(mmu, page)
    for page in standing:
        if any((p := mmu.pool.page_at(place)) and p.obsolete for place in page.parents):
            fail(4, mmu, f"{page!r} is led to by a page that is obsolete")
    for page in mmu.cache.obsolete:
        if any((p := mmu.pool.page_at(q)) is None or not p.obsolete for q in page.parents):
            fail(4, mmu, f"obsolete {page!r} is still led to")
    if len(mmu.cache.pages) != len(pins):
        fail(4, mmu, "there are keys without a page")
    tables = sum(len(pages) for pages in mmu.cache.tables.values())
    if tables != sum(not page.direct for page in pins):
        fail(4, mmu, "a recycled page still stands for a table")


def check_known_path(mmu: ShadowParts, cpu: int, gva: int) -> None:
    """Check that a vCPU takes no other page for the leaf page of an address than a walk finds."""
    context = mmu.contexts[cpu]
    leaf = context.paths.get(gva >> 21)
    if leaf is not None and _leaf_page(mmu, context, gva) is not leaf:
        fail(4, mmu, f"vCPU {cpu} takes {leaf!r} for the way to {gva:#x}")


def _leaf_page(mmu: ShadowParts, context: ShadowContext, gva: int) -> ShadowPage | None:
    """Return the leaf page that a walk of the shadow tables comes to, if it does."""
    place = context.root
    for shift in context.shifts:
        spte = mmu.words[place + ((gva & context.paging.gva_mask) >> shift & 511)]
        if spte & (SPTE_PRESENT | SPTE_LARGE) != SPTE_PRESENT:
            return None
        place = (spte & SPTE_FRAME) >> 3
    return mmu.pool.page_at(place)


def check_key(mmu: ShadowParts, page: ShadowPage) -> None:
    """Check that a page is found by its key, and by its frame if it stands for a table."""
    if mmu.cache.find(page.gfn, page.role) is not page:
        fail(4, mmu, f"{page!r} is not found by its key")
    if not page.direct and page not in mmu.cache.tables.get(page.gfn, ()):
        fail(4, mmu, f"{page!r} is not among the tables of its frame")


def check_bound(mmu: ShadowParts) -> None:
    """Check the fifth invariant."""
    if len(mmu.pool) > mmu.pool.bound:
        fail(5, mmu, f"more than {mmu.pool.bound} shadow pages")


def _check_code_rule(mmu: ShadowParts) -> None:
    for gfn in mmu.tlb.writable_and_executable():
        fail(6, mmu, f"gfn {gfn:x} is writable in a TLB and executable in one")


def where(mmu: ShadowParts, place: int) -> str:
    """Return a place in words."""
    page = mmu.pool.page_at(place)
    if page is None:
        return f"root table of vCPU {place >> 9}, entry {place & 511}"
    return f"{page!r} entry {place & 511}"


assert ROLE_BITS >= 22 and ACC_WRITE == PT_WRITABLE == SPTE_WRITABLE  # the layouts meet here
