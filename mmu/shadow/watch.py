# SPDX-License-Identifier: GPL-2.0-or-later
"""The audit after every event, of what the event touched: what ``--audit`` runs.

An audit of every entry after every event costs hundreds of times what the guest does. But an event
touches a handful of entries, and it can only have broken what it touched. So the :class:`Watch`
finds out what that was from outside, and no code in the cache has to remember to report its
changes. The plug-in gets the shadow tables as :class:`NotedWords`, which record each place that is
written; pages come and go through two methods of the pool; and a copy of all entries says what
stood at a place before.

After an event these are checked:

* every entry written, against the guest's entry, the table that it may map, the reverse map, and
  its child's parents; no map still names what it said before (invariants 1, 2, 3);
* every entry that follows from guest bytes written, whether it was touched or not (2);
* for a fill, the leaf that answered it and the way that is remembered to it (2, 4); if it built
  anything, every entry on the path, and what stands for the same guest entries in other modes (2);
* for a page made: its key, and that its table is writable nowhere; for one taken out: that nobody
  leads to it, and no vCPU runs on it; after a CR3 load the root and all pins (1, 4);
* for a table that went out of sync or came back: the same again, and all its entries (1, 2);
* the bound (5); for the frame granted: no table writable, no code writable (1, 6).

Everything is checked after enough events that it costs little, when the memory slots change, and
at the end of a run. What only that finds: notes in the reverse map or among the keys that no
entry ever stood behind, and guest tables that were written unseen.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, cast

from ..api import FRAME_MASK, MAP_TRAP, Answer
from ..arch import PAGE_OFFSET, PAGE_SHIFT
from .audit import (
    ShadowParts,
    audit,
    check_bound,
    check_entry,
    check_key,
    check_known_path,
    check_published,
    check_root_table,
    check_table_protection,
    check_upper,
    child_of,
    fail,
    where,
)
from .fault import Faults
from .pool import (
    SPTE_FRAME,
    SPTE_LARGE,
    SPTE_PRESENT,
    SPTE_TRAP,
    SPTE_WRITABLE,
    TABLE_ENTRIES,
    TABLE_SHIFT,
    ShadowPage,
)
from .role import gpte_of_spte, sptes_of_gpte


class WatchedParts(ShadowParts, Protocol):
    """What a watch looks at, and whose words it wraps."""

    faults: Faults


# Place -> the entry there, and the page that it leads to if it is an upper one.
_Entries: TypeAlias = "dict[int, tuple[int, ShadowPage | None]]"
_NOTHING: tuple[int, ShadowPage | None] = (0, None)

_LEAST_EVENTS = 128
_EVENTS_A_PAGE = 4
"""Everything is checked after 128 events, and 4 more for every shadow page: what it costs grows
with the pages, and so its share of an event stays the same."""


class NotedWords:
    """The words of the shadow tables, noting the places that are written."""

    __slots__ = ("_words", "noted")

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self.noted: set[int] = set()

    def __getitem__(self, key: Any) -> Any:
        return self._words[key]

    def __setitem__(self, key: int, value: int) -> None:
        self._words[key] = value
        self.noted.add(key)


class Watch:
    """Audits one shadow MMU from now on; to be told of every event when it is over."""

    def __init__(self, mmu: WatchedParts) -> None:
        self.mmu = mmu
        self.events = 0
        """How many events were audited."""
        self.audits = 0
        """How many times everything was."""
        noted = NotedWords(mmu.pool.words)
        self._noted = noted.noted
        for owner in (mmu, mmu.cache, mmu.faults):
            owner.words = cast("memoryview", noted)
        self._take, self._give_back = mmu.pool.take, mmu.pool.give_back
        mmu.pool.take = self._page_made  # type: ignore[method-assign]
        mmu.pool.give_back = self._page_gone  # type: ignore[method-assign]
        self._made: set[ShadowPage] = set()
        self._gone: list[tuple[ShadowPage, _Entries]] = []
        self._entries: dict[int, _Entries] = {}  # by table
        self._unsync: set[int] = set()
        self._events_left = _LEAST_EVENTS
        self._begin()

    def _begin(self) -> None:
        """Take everything as it stands for what is known to be right."""
        pool = self.mmu.pool
        self._noted.clear()
        self._made.clear()
        self._gone.clear()
        self._unsync = set(self.mmu.cache.unsync.copies)
        self._entries = {}
        for table in (*range(pool.cpus), *(page.base >> TABLE_SHIFT for page in pool)):
            first = table << TABLE_SHIFT
            words = pool.words[first : first + TABLE_ENTRIES].tolist()
            self._entries[table] = {
                place: (spte, self._child(place, spte))
                for place, spte in enumerate(words, first)
                if spte
            }

    def _page_made(self, gfn: int, role: int) -> ShadowPage:
        page = self._take(gfn, role)
        self._entries[page.base >> TABLE_SHIFT] = {}
        self._made.add(page)
        return page

    def _page_gone(self, page: ShadowPage) -> None:
        self._give_back(page)
        self._made.discard(page)
        self._gone.append((page, self._entries.pop(page.base >> TABLE_SHIFT)))

    # --- Events -------------------------------------------------------------------------------

    def everything(self) -> None:
        """Check all there is."""
        self.audits += 1
        audit(self.mmu)
        self._begin()
        self._events_left = _LEAST_EVENTS + _EVENTS_A_PAGE * len(self.mmu.pool)

    def event(self) -> None:
        """Check what was touched since the last event."""
        self.events += 1
        self._events_left -= 1
        if self._events_left <= 0:
            self.everything()
            return
        self._check_touched()

    def loaded(self, cpu: int) -> None:
        """Check what a load of CR3 has touched, the root and all pins."""
        self.event()
        mmu = self.mmu
        check_root_table(mmu, cpu)
        roots = [context.root_page for context in mmu.contexts if context.root_page is not None]
        for context in mmu.contexts:
            root = context.root_page
            if root is None:
                continue
            if mmu.pool.page_at(context.root) is not root:
                fail(4, mmu, f"a vCPU runs on {root!r}, which does not start at {context.root}")
            if root.pins != roots.count(root):
                fail(4, mmu, f"{root!r} is pinned {root.pins} times")
        if sum(page.pins for page in mmu.pool) != len(roots):
            fail(4, mmu, "a page is pinned that no vCPU runs on")

    def translated(self, cpu: int, gva: int, answer: Answer) -> None:
        """Check what a fill has touched, the path that it built, and the frame that it granted."""
        built = self._has_built()
        self.event()
        check_known_path(self.mmu, cpu, gva)
        if built:
            self._check_path(cpu, gva)
        else:
            self._check_known_leaf(cpu, gva)
        if isinstance(answer, int) and not answer & MAP_TRAP:
            self._check_grant((answer & FRAME_MASK) >> PAGE_SHIFT)

    def written(self, gpa: int, size: int) -> None:
        """Check what a write has touched, and what follows from the bytes."""
        self.event()
        end = gpa + size
        while gpa < end:
            length = min(end - gpa, PAGE_OFFSET + 1 - (gpa & PAGE_OFFSET))
            self._check_bytes(gpa, length)
            gpa += length

    # --- Checks -------------------------------------------------------------------------------

    def _has_built(self) -> bool:
        """Return whether an entry was changed, or a page made."""
        words = self.mmu.pool.words
        return bool(self._made) or any(
            words[place] != self._before(place)[0] for place in self._noted
        )

    def _before(self, place: int) -> tuple[int, ShadowPage | None]:
        return self._entries.get(place >> TABLE_SHIFT, {}).get(place, _NOTHING)

    def _is_live(self, place: int) -> bool:
        return self.mmu.pool.is_root_place(place) or self.mmu.pool.page_at(place) is not None

    def _child(self, place: int, spte: int) -> ShadowPage | None:
        """Return the page that the entry at a place leads to; None for a leaf."""
        page = self.mmu.pool.page_at(place)
        if not spte or spte & SPTE_LARGE or (page is not None and page.level == 1):
            return None
        return child_of(self.mmu, spte)

    def _check_touched(self) -> None:
        if self._made:
            check_bound(self.mmu)
            for page in self._made:
                self._check_made(page)
            self._made.clear()
        for page, entries in self._gone:
            self._check_gone(page)
            for place, (spte, child) in entries.items():
                self._check_forgotten(place, spte, child)
        self._gone.clear()
        while self._noted:
            self._check_place(self._noted.pop())
        unsync = self.mmu.cache.unsync.copies.keys()
        if unsync != self._unsync:
            for gfn in unsync ^ self._unsync:
                self._check_table(gfn)
            self._unsync = set(unsync)

    def _check_made(self, page: ShadowPage) -> None:
        if not page.obsolete:
            check_key(self.mmu, page)
            if not page.direct:
                check_table_protection(self.mmu, page.gfn)

    def _check_gone(self, page: ShadowPage) -> None:
        mmu = self.mmu
        if page.parents:
            fail(4, mmu, f"{page!r} is gone, and {where(mmu, min(page.parents))} leads to it")
        if any(context.root_page is page for context in mmu.contexts):
            fail(4, mmu, f"a vCPU runs on {page!r}, which is in the pool no more")
        if mmu.cache.find(page.gfn, page.role) is page:
            fail(4, mmu, f"{page!r} is gone, and found by its key")
        if not page.direct and page in mmu.cache.tables.get(page.gfn, ()):
            fail(4, mmu, f"{page!r} is gone, and stands for a table")

    def _check_place(self, place: int) -> None:
        """Check an entry that was written, and that what stood there before is forgotten."""
        mmu = self.mmu
        entries = self._entries.get(place >> TABLE_SHIFT)
        if entries is None:
            return  # its page is gone, and with it what it said
        spte = mmu.pool.words[place]
        before, child_before = entries.pop(place, _NOTHING)
        child = self._child(place, spte)
        if before and before != spte:
            self._check_forgotten(place, before, child_before)
        if not spte:
            return
        entries[place] = spte, child
        page = mmu.pool.page_at(place)
        if page is not None:
            check_entry(mmu, page, place & TABLE_ENTRIES - 1, spte)
        else:
            check_root_table(mmu, place >> TABLE_SHIFT)
        if child is None:
            self._check_leaf(place, spte)
            return
        check_upper(mmu, place, spte)
        if place not in child.parents:
            fail(3, mmu, f"{child!r} does not know its parent {where(mmu, place)}")

    def _check_leaf(self, place: int, spte: int) -> None:
        """Check that the reverse map names a leaf, and that it lets no store to a table through."""
        mmu = self.mmu
        gfn = (spte & SPTE_FRAME) >> PAGE_SHIFT
        if not spte & SPTE_TRAP and not self._is_named(place, spte):
            fail(3, mmu, f"gfn {gfn:x} and {where(mmu, place)}: spte only")
        if spte & SPTE_LARGE:
            if gfn >> 9 in mmu.cache.tables_in_large:
                fail(1, mmu, f"a table lies in the large page of {where(mmu, place)}")
        elif spte & SPTE_WRITABLE and mmu.cache.is_protected(gfn):
            fail(1, mmu, f"table gfn {gfn:x} is writable by {where(mmu, place)}")

    def _is_named(self, place: int, spte: int) -> bool:
        """Return whether the reverse map names a place as a leaf would have it."""
        gfn = (spte & SPTE_FRAME) >> PAGE_SHIFT
        if spte & SPTE_LARGE:
            return self.mmu.cache.rmap_large.names(gfn >> 9, place)
        return self.mmu.cache.rmap.names(gfn, place)

    def _check_forgotten(self, place: int, before: int, child: ShadowPage | None) -> None:
        """Check that nobody notes any more what stood at a place, unless it stands there again."""
        mmu = self.mmu
        now = mmu.pool.words[place] if self._is_live(place) else 0
        if child is not None:
            if place in child.parents and self._child(place, now) is not child:
                fail(3, mmu, f"{child!r} has a parent that is none, {where(mmu, place)}")
            return
        if before & SPTE_TRAP or not self._is_named(place, before):
            return
        if not now or (now ^ before) & (SPTE_FRAME | SPTE_LARGE | SPTE_TRAP):
            gfn = (before & SPTE_FRAME) >> PAGE_SHIFT
            fail(3, mmu, f"gfn {gfn:x} and {where(mmu, place)}: rmap only")

    def _check_table(self, gfn: int) -> None:
        """Check all that follows from a table which went out of sync or came back."""
        pages = self.mmu.cache.tables.get(gfn)
        if pages is None:
            return
        check_table_protection(self.mmu, gfn)
        check_published(self.mmu, gfn)
        for page in pages:
            for place in self._entries[page.base >> TABLE_SHIFT]:
                self._check_entry(page, place)

    def _check_entry(self, page: ShadowPage, place: int) -> None:
        spte = self.mmu.pool.words[place]
        if spte:
            check_entry(self.mmu, page, place & TABLE_ENTRIES - 1, spte)

    def _check_bytes(self, gpa: int, size: int) -> None:
        """Check all entries that follow from some bytes of a frame."""
        offset = gpa & PAGE_OFFSET
        last = offset + size - 1
        for page in self.mmu.cache.tables.get(gpa >> PAGE_SHIFT, ()):
            if page.glevels == 2:
                for index in range(offset >> 2, (last >> 2) + 1):
                    for spte_index in sptes_of_gpte(index, page.level, page.quadrant):
                        self._check_entry(page, page.base + spte_index)
            else:
                for place in range(page.base + (offset >> 3), page.base + (last >> 3) + 1):
                    self._check_entry(page, place)

    def _check_path(self, cpu: int, gva: int) -> None:
        """Check every entry on the path of an address, and what else follows from the guest's
        entries there: a fill has set A and D in them, bits of an address in other modes."""
        mmu = self.mmu
        context = mmu.contexts[cpu]
        gva &= context.paging.gva_mask
        place = context.root
        for shift in (*context.shifts, 12):
            place += gva >> shift & TABLE_ENTRIES - 1
            spte = mmu.pool.words[place]
            page = mmu.pool.page_at(place)
            if page is not None:
                self._check_entry(page, place)
                if not page.direct and len(mmu.cache.tables.get(page.gfn, ())) > 1:
                    index = place & TABLE_ENTRIES - 1
                    if page.glevels == 2:
                        index = gpte_of_spte(index, page.level, page.quadrant) >> 1
                    self._check_bytes(page.gfn << PAGE_SHIFT | index << 3, 8)
            if shift == PAGE_SHIFT or spte & (SPTE_PRESENT | SPTE_LARGE) != SPTE_PRESENT:
                return
            place = (spte & SPTE_FRAME) >> 3

    def _check_known_leaf(self, cpu: int, gva: int) -> None:
        """Check the leaf for an address if its page is remembered, as it then has answered."""
        page = self.mmu.contexts[cpu].paths.get(gva >> 21)
        if page is not None:
            self._check_entry(page, page.base + (gva >> PAGE_SHIFT & TABLE_ENTRIES - 1))

    def _check_grant(self, gfn: int) -> None:
        """Check that the frame just granted is no table that a TLB may write, nor both writable
        and executable."""
        mmu = self.mmu
        tlb = mmu.tlb
        if mmu.cache.is_protected(gfn) and tlb.may_be_writable(gfn):
            fail(1, mmu, f"table gfn {gfn:x} may be writable in a TLB")
        if tlb.is_writable_and_executable(gfn):
            fail(6, mmu, f"gfn {gfn:x} is writable in a TLB and executable in one")
