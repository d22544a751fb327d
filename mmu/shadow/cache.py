# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of shadow pages: look-up by (gfn, role), links, zaps, write protection, and what a
write to a guest page table does.

The data: ``pages`` finds a page by its key; ``tables`` finds all pages that stand for one guest
frame, which is what a write to that frame asks for; the reverse maps find the leaf sptes that map
a frame (or 2 MiB of them); a page's ``parents`` are the upper sptes that lead to it. Every change
goes through the few functions here, so that these always agree (see audit.py).

A frame in ``tables`` is *shadowed*: no spte maps it writable and no TLB may. A guest store to it
reaches :meth:`ShadowCache.guest_wrote`, which zaps the sptes that followed from the changed
entries. Nothing is read again until a fault asks for it.

A leaf table may be let go *out of sync*, see unsync.py. Upper tables always stay protected.
"""

from __future__ import annotations

from ..arch import PAGE_OFFSET, PAGE_SHIFT
from ..memory import Memory
from ..observe import Counters
from ..tlb import TlbTracker
from .entries import ShadowEntries
from .fast.record import FRAME_RAM, FRAME_TABLE
from .policy import Policy
from .pool import (
    SPTE_FRAME,
    SPTE_LARGE,
    SPTE_PRESENT,
    SPTE_TRAP,
    Pool,
    ShadowPage,
)
from .role import (
    ROLE_BITS,
    is_direct,
    level_of,
)
from .unsync import UnsyncTables

FLOOD_WRITES = 3
"""So many writes to a table that no fault used in between, and it is taken for no table any more.
The 2007 series took the same number; Linux still does (detect_write_flooding)."""

_NO_TABLES = bytes(FRAME_RAM if state == FRAME_TABLE else state for state in range(256))


class ShadowCache(ShadowEntries):
    """All shadow pages of one machine, over guest memory and what the TLBs may hold."""

    def __init__(
        self, memory: Memory, tlb: TlbTracker, pool: Pool, counters: Counters, policy: Policy
    ) -> None:
        super().__init__(memory, tlb, pool, counters, policy)
        self.pages: dict[int, ShadowPage] = {}
        self.unsync = UnsyncTables(self)
        self.obsolete: list[ShadowPage] = []  # unreachable, still to be taken apart
        self._written_up_to = 0  # where the last write to a table ended

    # --- Look-up ------------------------------------------------------------------------------

    def find(self, gfn: int, role: int) -> ShadowPage | None:
        """Return the page for a key if it is there. One dict look-up."""
        return self.pages.get(gfn << ROLE_BITS | role)

    def get_page(self, gfn: int, role: int) -> ShadowPage:
        """Return the page for a key, found or made; the pool must have room for one.

        A page that is made write-protects its guest table first: every spte that maps the frame
        loses W, and the TLBs are flushed if one of them may still let a store through.
        """
        if gfn in self.copies and level_of(role) > 1 and not is_direct(role):
            self.unsync.sync(gfn)
        page = self.pages.get(gfn << ROLE_BITS | role)
        if page is not None:
            self.counters.mmu_cache_hit += 1
            self.pool.touch(page)
            for observer in self.observers:
                observer.get_page(gfn, role, False)
            return page
        self.counters.mmu_cache_miss += 1
        page = self.pool.take(gfn, role)
        self.pages[gfn << ROLE_BITS | role] = page
        if not page.direct:
            siblings = self.tables.get(gfn)
            if siblings is None:
                self.tables[gfn] = [page]
                group = gfn >> 9
                self.tables_in_large[group] = self.tables_in_large.get(group, 0) + 1
                self.set_frame_state(gfn, True)
                self.write_protect(gfn)
            else:
                siblings.append(page)
            self.publish_table(gfn)
        for observer in self.observers:
            observer.get_page(gfn, role, True)
        return page

    def reserve(self, pages: int) -> None:
        """Make room for ``pages`` new pages by recycling the longest unused. Called before a fault
        builds anything (KVM: make_mmu_pages_available)."""
        self.zap_some_obsolete(max(pages - self.pool.room, 2))
        while self.pool.room < pages:
            self.counters.mmu_recycled += 1
            self.zap_page(self.pool.oldest_unpinned())

    def set_leaf(self, place: int, spte: int) -> None:
        """Set a leaf entry over an empty one or another leaf, keeping the reverse maps."""
        page = self.pool.page_at(place)
        in_sync = True
        if page is not None and page.copy is not None:
            self.unsync.renew_copy(page, place)
            in_sync = False
        old = self.words[place]
        self.words[place] = spte
        if old & SPTE_PRESENT:
            self.version += in_sync  # nobody keeps what follows from a table out of sync
            if not (old ^ spte) & (SPTE_FRAME | SPTE_TRAP):
                return
            self._forget_leaf(place, old)
        if spte & SPTE_LARGE:
            self._has_large = True
            self.rmap_large.add((spte & SPTE_FRAME) >> PAGE_SHIFT + 9, place)
        elif not spte & SPTE_TRAP:
            self.rmap.add((spte & SPTE_FRAME) >> PAGE_SHIFT, place)

    # --- Zapping ------------------------------------------------------------------------------

    def zap_page(self, page: ShadowPage) -> None:
        """Take a page out of the cache. It must not be pinned. O(512 + parents).

        The TLBs are flushed only if the page may map a large guest page and a vCPU runs on it. For
        all other pages a TLB entry that outlives the spte does no harm: the guest's tables have not
        changed, and the guest invalidates when it changes them (SDM 3A 4.10.4)::

            guest's PTE --> spte --> TLB entry      the guest changes the PTE and says INVLPG:
                            zapped   stays          the engine drops this one TLB entry

            large PDE   --> spte --> TLB entry 1    the guest changes the PDE and says INVLPG once:
                            zapped   TLB entry 2    the engine drops one; the zap of the spte would
                                     ...            have flushed the others, but there is none

        That a TLB may let stores through to a frame is remembered by the tracker, not by the sptes.
        """
        flush = self._may_map_large(page) and self._is_running(page)
        for observer in self.observers:
            observer.prepare_zap_page(page.gfn, page.role)
        self.counters.mmu_shadow_zapped += 1
        self.version += 1
        words = self.words
        if page.parents:
            self.forget_paths()
        for place in page.parents:
            words[place] = 0
        page.parents.clear()
        for place, spte in self.pool.entries(page):
            if page.level > 1 and not spte & SPTE_LARGE:
                self.unlink(place)
            else:
                self._forget_leaf(place, spte)
        if not page.obsolete:
            del self.pages[page.gfn << ROLE_BITS | page.role]
            if not page.direct:
                self._leave_tables(page)
        self.pool.give_back(page)
        if flush:
            self.tlb.flush_all()

    def _may_map_large(self, page: ShadowPage) -> bool:
        """Return whether a large guest page may be mapped by this page or somewhere below it."""
        return self._has_large and page.glevels != 0 and (page.level > 1 or page.direct)

    def _leave_tables(self, page: ShadowPage) -> None:
        gfn = page.gfn
        siblings = self.tables[gfn]
        siblings.remove(page)
        if siblings:
            self.publish_table(gfn)
            return
        del self.tables[gfn]
        self.set_frame_state(gfn, False)
        self.copies.pop(gfn, None)
        group = gfn >> 9
        self.tables_in_large[group] -= 1
        if not self.tables_in_large[group]:
            del self.tables_in_large[group]

    def zap_all_fast(self) -> None:
        """Make every page unreachable at once (KVM: kvm_mmu_zap_all_fast). No page may be pinned,
        or linked from a root table. Looks at no page: each is of an earlier generation from now
        on, and is taken apart lazily, when room is needed.
        """
        self.version += 1
        self.forget_paths()
        self.obsolete += self.pool.begin_generation()
        self.pages = {}
        self.tables = {}
        self.tables_in_large = {}
        self.copies.clear()
        self.frame_state[:] = self.frame_state.tobytes().translate(_NO_TABLES)
        self.tlb.flush_all()

    def zap_some_obsolete(self, pages: int) -> None:
        """Take apart up to ``pages`` of the pages that :meth:`zap_all_fast` left."""
        for _ in range(min(pages, len(self.obsolete))):
            self.zap_page(self.obsolete.pop())

    def shrink(self, pages: int) -> int:
        """Take out up to ``pages`` pages, obsolete ones first and then the longest unused."""
        before = len(self.pool)
        self.zap_some_obsolete(pages)
        oldest = [page for page in self.pool if not page.pins]
        for page in oldest[: max(pages - (before - len(self.pool)), 0)]:
            self.zap_page(page)
        return before - len(self.pool)

    # --- Writes to guest page tables ----------------------------------------------------------

    def guest_wrote(self, gpa: int, size: int, *, entry_bytes: int = 0) -> None:
        """Zap what followed from the bytes ``gpa`` to ``gpa + size - 1``, which lie in one frame.

        With ``entry_bytes`` the write only set A or D in an entry of that width: pages of the same
        entry width have nothing to fear from it, but in the other width the same bits may be a
        part of an address.

        An engine delivers a store in pieces. A write that continues inside the entry where the
        previous one ended is part of the same store and is not counted again.
        """
        pages = self.tables.get(gpa >> PAGE_SHIFT)
        if pages is None:
            return
        for observer in self.observers:
            observer.pte_write(gpa, size)
        offset = gpa & PAGE_OFFSET
        held = counts = False
        goes_on = gpa == self._written_up_to
        if not entry_bytes:
            self._written_up_to = gpa + size
        for page in tuple(pages):
            width = 4 if page.glevels == 2 else 8
            if entry_bytes != width:
                held |= self.zap_bytes(page, offset, size)
            if entry_bytes or (goes_on and offset & width - 1):
                continue
            counts = True
            if self.policy.flood:
                self._detect_flood(page)
        self.counters.mmu_pte_write += counts
        if held:
            self.tlb.flush_all()

    def _detect_flood(self, page: ShadowPage) -> None:
        """Count a write to a page's table; take the page out if it is written and never used.

        Stays: a page that a vCPU runs on. A TLB entry that sends stores to us may stay too, until
        the next store through it finds no table (see ShadowMmu.written).
        """
        page.writes += 1
        if page.writes >= FLOOD_WRITES and not self._is_root(page):
            self.counters.mmu_flooded += 1
            self.zap_page(page)

    def zap_reused(self, gfn: int) -> None:
        """Zap the pages of a frame that now holds something else, except those that a vCPU runs
        on."""
        for page in tuple(self.tables[gfn]):
            if not self._is_root(page):
                self.counters.mmu_reused += 1
                self.zap_page(page)

    def _is_root(self, page: ShadowPage) -> bool:
        """Return whether a vCPU runs on a page, or on it as a directory in its root table."""
        return bool(page.pins) or any(map(self.pool.is_root_place, page.parents))
