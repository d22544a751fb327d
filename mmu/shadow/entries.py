# SPDX-License-Identifier: GPL-2.0-or-later
"""The entries of all shadow pages: how they are set, linked, write-protected and zapped.

Two maps lead back from what an entry says to the entry. The reverse maps find the leaf sptes that
map a frame (or 2 MiB of them); a page's ``parents`` are the upper sptes that lead to it. Every
change of an entry goes through the functions here, so that entry and map always agree.

``tables`` finds all pages that stand for one guest frame. A frame in it is *shadowed*: unless its
table is out of sync (in ``copies``), no spte maps it writable and no TLB may.
"""

from __future__ import annotations

import mmap
from array import array

from ..arch import ACC_EXEC, ACC_USER, PAGE_SHIFT
from ..hostmemory import address_of
from ..memory import Memory
from ..observe import Counters, MmuObserver
from ..tlb import TlbTracker, frames_of
from .fast.record import FRAME_OTHER, FRAME_RAM, FRAME_TABLE
from .policy import Policy
from .pool import (
    SPTE_FRAME,
    SPTE_LARGE,
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
from .role import (
    sptes_of_gpte,
)

# Looking for a vCPU that runs on a page gives up after so many ancestors, and says yes.
_LARGE_FAMILY = 16


class ShadowEntries:
    """The sptes of one machine, over guest memory and what the TLBs may hold."""

    def __init__(
        self, memory: Memory, tlb: TlbTracker, pool: Pool, counters: Counters, policy: Policy
    ) -> None:
        self.memory = memory
        self.tlb = tlb
        self.pool = pool
        self.counters = counters
        self.policy = policy
        self.words = pool.words
        self.epochs = pool.epochs
        frames = frames_of(memory)
        self.rmap = Rmap(frames)
        self.rmap_large = Rmap((frames >> 9) + 1)  # from gfn >> 9
        self.frame_state = memoryview(b"")
        """For compiled code, a byte a frame: FRAME_*."""
        self.frame_state_address = 0
        self._find_frames()
        self.tables: dict[int, list[ShadowPage]] = {}
        self.tables_in_large: dict[int, int] = {}  # gfn >> 9 -> shadowed frames among the 512
        self.copies: dict[int, array[int]] = {}
        """The tables out of sync; see :mod:`mmu.shadow.unsync`, which keeps them."""
        self.paths: list[dict[int, ShadowPage]] = []
        """The vCPUs' :attr:`~mmu.shadow.context.ShadowContext.paths`, emptied with any path."""
        self._has_large = False  # the guest has used a large page
        self.observers: tuple[MmuObserver, ...] = ()
        self.version = 0
        """Grows whenever a translation is taken back, or may be without our knowing."""

    def _find_frames(self) -> None:
        """Have a state for every frame; none is a table."""
        buffer = mmap.mmap(-1, frames_of(self.memory))
        self.frame_state = memoryview(buffer)
        self.frame_state_address = address_of(buffer)
        for slot in self.memory.slots():
            if slot.kind == "ram":
                first, last = slot.gpa >> PAGE_SHIFT, slot.end >> PAGE_SHIFT
                self.frame_state[first:last] = bytes([FRAME_RAM]) * (last - first)

    def remapped(self) -> None:
        """Note that the memory slots have changed; every page must be obsolete."""
        frames = frames_of(self.memory)
        self.rmap.resize(frames)
        self.rmap_large.resize((frames >> 9) + 1)
        self._find_frames()

    def set_frame_state(self, gfn: int, protected: bool) -> None:
        """Tell compiled code whether stores to a frame of RAM must be trapped."""
        if gfn < len(self.frame_state) and self.frame_state[gfn] != FRAME_OTHER:
            self.frame_state[gfn] = FRAME_TABLE if protected else FRAME_RAM

    def publish_table(self, gfn: int) -> None:
        """Tell the leaf pages of a frame, and compiled code, what they follow from: after any
        change of that."""
        pages = self.tables[gfn]
        copy = self.copies.get(gfn)
        for page in pages:
            if page.level == 1:
                page.publish(self.memory, copy, len(pages) == 1)

    def write_protect(self, gfn: int) -> None:
        """Take W from all sptes of a frame and from every TLB."""
        self.version += 1
        words = self.words
        for place in self.rmap_large.places(gfn >> 9):
            held = self.tlb.is_held(self.epochs[place])
            self.drop_leaf(place)
            if held:
                self.tlb.flush_all()
        for place in self.rmap.places(gfn):
            spte = words[place]
            if spte & SPTE_WRITABLE:
                words[place] = spte & ~SPTE_WRITABLE | SPTE_TRAP_WRITE
        self.tlb.protect(gfn)

    def is_protected(self, gfn: int) -> bool:
        """Return whether stores to a frame must be trapped because it is a table in sync."""
        return gfn in self.tables and gfn not in self.copies

    # --- Links and leaves ---------------------------------------------------------------------

    def link(self, place: int, page: ShadowPage) -> None:
        """Make the empty entry at ``place`` lead to ``page``."""
        self.words[place] = upper_spte(page)
        page.parents.add(place)
        if page.direct and page.glevels:
            self._has_large = True

    def unlink(self, place: int) -> None:
        """Empty an upper entry. The page below stays in the cache, to be found again."""
        words = self.words
        self.version += 1
        self.forget_paths()
        self.pool.page_of(words[place]).parents.remove(place)
        words[place] = 0

    def forget_paths(self) -> None:
        """Have every vCPU walk from its root again."""
        for paths in self.paths:
            paths.clear()

    def _forget_leaf(self, place: int, spte: int) -> None:
        if spte & SPTE_LARGE:
            self.rmap_large.remove((spte & SPTE_FRAME) >> PAGE_SHIFT + 9, place)
        elif not spte & SPTE_TRAP:
            self.rmap.remove((spte & SPTE_FRAME) >> PAGE_SHIFT, place)

    def drop_leaf(self, place: int) -> None:
        """Empty a leaf entry."""
        self.version += 1
        self._forget_leaf(place, self.words[place])
        self.words[place] = 0
        self.epochs[place] = 0

    def zap_entry(self, page: ShadowPage, place: int) -> bool:
        """Empty one entry of ``page``; return whether a TLB may hold what it said."""
        spte = self.words[place]
        if not spte & SPTE_PRESENT:
            return False
        self.counters.mmu_pde_zapped += 1
        if page.level > 1 and not spte & SPTE_LARGE:
            self.unlink(place)
            return self._is_running(page)
        epoch = self.epochs[place]
        self.drop_leaf(place)
        return self.tlb.is_held(epoch)

    def _is_running(self, page: ShadowPage) -> bool:
        """Return whether some vCPU's tables lead through a page now. If not, no TLB holds what it
        says: a CR3 load empties the TLB. Looks upward, and gives up on a large family."""
        family = [page]
        for member in family:
            if member.pins or len(family) > _LARGE_FAMILY:
                return True
            for place in member.parents:
                parent = self.pool.page_at(place)
                if parent is None:  # a root table
                    return True
                family.append(parent)
        return False

    def zap_bytes(self, page: ShadowPage, offset: int, size: int, but: int = -1) -> bool:
        """Zap what followed from some bytes of a page's guest table, except the entry at place
        ``but``; return whether a TLB may hold any of it."""
        held = False
        if page.glevels == 2:
            for index in range(offset >> 2, (offset + size - 1 >> 2) + 1):
                for spte_index in sptes_of_gpte(index, page.level, page.quadrant):
                    if page.base + spte_index != but:
                        held |= self.zap_entry(page, page.base + spte_index)
            return held
        for place in range(page.base + (offset >> 3), page.base + (offset + size - 1 >> 3) + 1):
            if self.words[place] and place != but:
                held |= self.zap_entry(page, place)
        return held

    # --- Leaf entries -------------------------------------------------------------------------

    def make_leaf(self, gfn: int, rights: int, *, writable: bool, pkey: int = 0) -> int:
        """Return a leaf spte for a frame: ``rights`` of ``ACC_*``, and whether a store may happen
        now (the guest's D is set, or the store is the reason why we are here)."""
        spte = SPTE_PRESENT | gfn << PAGE_SHIFT | rights & ACC_USER
        if pkey:
            spte |= pkey << SPTE_PKEY_SHIFT
        if not rights & ACC_EXEC:
            spte |= SPTE_NX
        if gfn < len(self.frame_state) and self.frame_state[gfn] == FRAME_RAM:
            return spte | SPTE_WRITABLE if writable else spte
        slot = self.memory.slot_at(gfn << PAGE_SHIFT)
        if slot is None or slot.device is not None:
            spte |= SPTE_TRAP
            if writable:
                spte |= SPTE_WRITABLE
        elif writable:
            trapped = slot.kind == "rom" or self.is_protected(gfn)
            spte |= SPTE_TRAP_WRITE if trapped else SPTE_WRITABLE
        return spte

    def may_be_large(self, gfn: int) -> bool:
        """Return whether the aligned 2 MiB around a frame may be mapped by one entry: all of it
        RAM of one slot, and no page table among it."""
        group = gfn >> 9
        slot = self.memory.slot_at(gfn << PAGE_SHIFT)
        return (
            self.policy.large
            and slot is not None
            and slot.kind == "ram"
            and slot.gpa <= group << 21
            and (group + 1) << 21 <= slot.end
            and group not in self.tables_in_large
        )
