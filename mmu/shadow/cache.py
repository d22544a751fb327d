# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of shadow pages: look-up by (gfn, role), links, zaps, write protection, and what a
write to a guest page table does.

The data: ``pages`` finds a page by its key; ``tables`` finds all pages that stand for one guest
frame, which is what a write to that frame asks for; the reverse map finds the leaf sptes that map a
frame; a page's ``parents`` are the upper sptes that lead to it. Every change goes through the few
functions here, so that these always agree (see audit.py).

A frame in ``tables`` is *shadowed*: no spte maps it writable and no TLB may. A guest store to it
reaches :meth:`ShadowCache.guest_wrote`, which zaps the sptes that followed from the changed
entries. Nothing is read again until a fault asks for it.
"""

from __future__ import annotations

from ..arch import ACC_EXEC, ACC_USER, PAGE_OFFSET, PAGE_SHIFT
from ..events import Counters, Tracer
from ..memory import Memory
from ..tlb import TlbTracker
from .pool import (
    SPTE_EPOCH,
    SPTE_EPOCH_SHIFT,
    SPTE_FRAME,
    SPTE_NX,
    SPTE_PKEY_SHIFT,
    SPTE_PRESENT,
    SPTE_TRAP,
    SPTE_TRAP_WRITE,
    SPTE_WRITABLE,
    Pool,
    ShadowPage,
    upper_spte,
)
from .rmap import Rmap
from .role import ROLE_BITS, describe_role, sptes_of_gpte

FLOOD_WRITES = 3
"""So many writes to a table that no fault used in between, and it is taken for no table any more.
The 2007 series took the same number; Linux still does (detect_write_flooding)."""


class ShadowCache:
    """All shadow pages of one machine, over guest memory and what the TLBs may hold."""

    def __init__(self, memory: Memory, tlb: TlbTracker, pool: Pool, counters: Counters) -> None:
        self.memory = memory
        self.tlb = tlb
        self.pool = pool
        self.counters = counters
        self.words = pool.words
        self.rmap = Rmap()
        self.pages: dict[int, ShadowPage] = {}
        self.tables: dict[int, list[ShadowPage]] = {}
        self.trace: Tracer | None = None

    # --- Look-up ------------------------------------------------------------------------------

    def find(self, gfn: int, role: int) -> ShadowPage | None:
        """Return the page for a key if it is there. One dict look-up."""
        return self.pages.get(gfn << ROLE_BITS | role)

    def get_page(self, gfn: int, role: int) -> ShadowPage:
        """Return the page for a key, found or made; the pool must have room for one.

        A page that is made write-protects its guest table first: every spte that maps the frame
        loses W, and the TLBs are flushed if one of them may still let a store through.
        """
        page = self.pages.get(gfn << ROLE_BITS | role)
        if page is not None:
            self.counters.mmu_cache_hit += 1
            self.pool.touch(page)
            if self.trace is not None:
                self.trace(f"kvm_mmu_get_page: {describe_role(gfn, role)} existing")
            return page
        self.counters.mmu_cache_miss += 1
        page = self.pool.take(gfn, role)
        self.pages[gfn << ROLE_BITS | role] = page
        if not page.direct:
            siblings = self.tables.get(gfn)
            if siblings is None:
                self.tables[gfn] = [page]
                self._write_protect(gfn)
            else:
                siblings.append(page)
        if self.trace is not None:
            self.trace(f"kvm_mmu_get_page: {describe_role(gfn, role)} new")
        return page

    def reserve(self, pages: int) -> None:
        """Make room for so many new pages, recycling the longest unused. KVM:
        make_mmu_pages_available, called before a fault builds anything."""
        while self.pool.room < pages:
            self.counters.mmu_recycled += 1
            self.zap_page(self.pool.oldest_unpinned())

    def _write_protect(self, gfn: int) -> None:
        """Take W from all sptes of a frame and from every TLB."""
        words = self.words
        for place in self.rmap.places(gfn):
            spte = words[place]
            if spte & SPTE_WRITABLE:
                words[place] = spte & ~SPTE_WRITABLE | SPTE_TRAP_WRITE
        self.tlb.protect(gfn)

    # --- Links and leaves ---------------------------------------------------------------------

    def link(self, place: int, page: ShadowPage) -> None:
        """Make the empty entry at ``place`` lead to ``page``."""
        self.words[place] = upper_spte(page)
        page.parents.add(place)

    def unlink(self, place: int) -> None:
        """Empty an upper entry. The page below stays in the cache, to be found again."""
        words = self.words
        self.pool.page_of(words[place]).parents.remove(place)
        words[place] = 0

    def set_leaf(self, place: int, spte: int) -> None:
        """Set a leaf entry over whatever is there, keeping the reverse map."""
        words = self.words
        old = words[place]
        if old & SPTE_PRESENT and (old ^ spte) & (SPTE_FRAME | SPTE_TRAP):
            self._forget_leaf(place, old)
            old = 0
        words[place] = spte
        if not old & SPTE_PRESENT and not spte & SPTE_TRAP:
            self.rmap.add((spte & SPTE_FRAME) >> PAGE_SHIFT, place)

    def _forget_leaf(self, place: int, spte: int) -> None:
        if not spte & SPTE_TRAP:
            self.rmap.remove((spte & SPTE_FRAME) >> PAGE_SHIFT, place)

    def zap_entry(self, page: ShadowPage, place: int) -> bool:
        """Empty one entry of ``page``; return whether a TLB may hold what it said."""
        spte = self.words[place]
        if not spte & SPTE_PRESENT:
            return False
        self.counters.mmu_pde_zapped += 1
        if page.level > 1:
            self.unlink(place)
            return True
        self._forget_leaf(place, spte)
        self.words[place] = 0
        return self.tlb.is_held((spte & SPTE_EPOCH) >> SPTE_EPOCH_SHIFT)

    # --- Zapping ------------------------------------------------------------------------------

    def zap_page(self, page: ShadowPage) -> None:
        """Take a page out of the cache. It must not be pinned. O(512 + parents).

        No TLB is flushed: what the TLBs hold still follows from the guest's tables, which have
        not changed, and the guest itself must invalidate when it changes them (SDM 4.10.4). That
        a TLB may let stores through to a frame is remembered by the tracker, not by the sptes.
        """
        if self.trace is not None:
            self.trace(f"kvm_mmu_prepare_zap_page: {describe_role(page.gfn, page.role)}")
        self.counters.mmu_shadow_zapped += 1
        words = self.words
        for place in page.parents:
            words[place] = 0
        page.parents.clear()
        entries = words[page.base : page.base + 512].tolist()
        for index, spte in enumerate(entries):
            if spte:
                if page.level > 1:
                    self.unlink(page.base + index)
                else:
                    self._forget_leaf(page.base + index, spte)
        del self.pages[page.gfn << ROLE_BITS | page.role]
        if not page.direct:
            siblings = self.tables[page.gfn]
            siblings.remove(page)
            if not siblings:
                del self.tables[page.gfn]
        self.pool.give_back(page)

    def zap_all(self) -> None:
        """Take out every page that is no root in use, and every entry of those that are."""
        for page in list(self.pool):
            if page.pins:
                for place in page.places:
                    self.zap_entry(page, place)
            else:
                self.zap_page(page)
        self.tlb.flush_all()

    # --- Writes to guest page tables ----------------------------------------------------------

    def guest_wrote(self, gpa: int, size: int, *, entry_bytes: int = 0) -> None:
        """Zap what followed from the bytes ``gpa`` to ``gpa + size - 1``, which lie in one frame.

        With ``entry_bytes`` the write only set A or D in an entry of that width: pages of the same
        entry width have nothing to fear from it, but in the other width the same bits may be a
        part of an address.
        """
        pages = self.tables.get(gpa >> PAGE_SHIFT)
        if pages is None:
            return
        offset = gpa & PAGE_OFFSET
        held = False
        self.counters.mmu_pte_write += not entry_bytes
        for page in tuple(pages):
            if page.glevels == 2:
                if entry_bytes == 4:
                    continue
                held |= self._zap_4_byte(page, offset >> 2, offset + size - 1 >> 2)
            elif entry_bytes != 8:
                for index in range(offset >> 3, (offset + size - 1 >> 3) + 1):
                    held |= self.zap_entry(page, page.base + index)
            if not entry_bytes:
                held |= self._detect_flood(page)
        if held:
            self.tlb.flush_all()

    def _zap_4_byte(self, page: ShadowPage, first: int, last: int) -> bool:
        """Zap what followed from the guest's 4-byte entries ``first`` to ``last``."""
        held = False
        for index in range(first, last + 1):
            for spte_index in sptes_of_gpte(index, page.level, page.quadrant):
                held |= self.zap_entry(page, page.base + spte_index)
        return held

    def _detect_flood(self, page: ShadowPage) -> bool:
        """Count a write to a page's table; take the page out if it is written and never used.

        Stays: a page that a vCPU runs on. Returns whether the TLBs must be flushed, which is so
        when the page goes: an entry that sends stores to us would go on doing so.
        """
        page.writes += 1
        if page.writes < FLOOD_WRITES or page.pins:
            return False
        if any(map(self.pool.is_root_place, page.parents)):
            return False
        self.counters.mmu_flooded += 1
        self.zap_page(page)
        return True

    # --- Leaf entries -------------------------------------------------------------------------

    def make_leaf(self, gfn: int, rights: int, *, writable: bool, pkey: int = 0) -> int:
        """Return a leaf spte for a frame: ``rights`` of ``ACC_*``, and whether a store may happen
        now (the guest's D is set, or the store is the reason why we are here)."""
        spte = SPTE_PRESENT | gfn << PAGE_SHIFT | rights & ACC_USER | pkey << SPTE_PKEY_SHIFT
        if not rights & ACC_EXEC:
            spte |= SPTE_NX
        slot = self.memory.slot_at(gfn << PAGE_SHIFT)
        if slot is None or slot.device is not None:
            spte |= SPTE_TRAP
            if writable:
                spte |= SPTE_WRITABLE
        elif writable:
            shadowed = gfn in self.tables or slot.kind == "rom"
            spte |= SPTE_TRAP_WRITE if shadowed else SPTE_WRITABLE
        return spte
