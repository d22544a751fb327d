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

import mmap

from ..arch import ACC_EXEC, ACC_USER, PAGE_OFFSET, PAGE_SHIFT
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
    ROLE_BITS,
    is_direct,
    level_of,
    sptes_of_gpte,
)
from .unsync import UnsyncTables

FLOOD_WRITES = 3
"""So many writes to a table that no fault used in between, and it is taken for no table any more.
The 2007 series took the same number; Linux still does (detect_write_flooding)."""

_NO_TABLES = bytes(FRAME_RAM if state == FRAME_TABLE else state for state in range(256))
_LARGE_FAMILY = 16


class ShadowCache:
    """All shadow pages of one machine, over guest memory and what the TLBs may hold."""

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
        self.pages: dict[int, ShadowPage] = {}
        self.tables: dict[int, list[ShadowPage]] = {}
        self.tables_in_large: dict[int, int] = {}  # gfn >> 9 -> shadowed frames among the 512
        self.unsync = UnsyncTables(self)
        self.obsolete: list[ShadowPage] = []  # unreachable, still to be taken apart
        self.paths: list[dict[int, ShadowPage]] = []
        """The vCPUs' :attr:`~mmu.shadow.context.ShadowContext.paths`, emptied with any path."""
        self._has_large = False  # the guest has used a large page
        self._written_up_to = 0  # behind the last write to a table
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
        copy = self.unsync.copies.get(gfn)
        for page in pages:
            if page.level == 1:
                page.publish(self.memory, copy, len(pages) == 1)

    # --- Look-up ------------------------------------------------------------------------------

    def find(self, gfn: int, role: int) -> ShadowPage | None:
        """Return the page for a key if it is there. One dict look-up."""
        return self.pages.get(gfn << ROLE_BITS | role)

    def get_page(self, gfn: int, role: int) -> ShadowPage:
        """Return the page for a key, found or made; the pool must have room for one.

        A page that is made write-protects its guest table first: every spte that maps the frame
        loses W, and the TLBs are flushed if one of them may still let a store through.
        """
        if gfn in self.unsync.copies and level_of(role) > 1 and not is_direct(role):
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
        """Make room for so many new pages, recycling the longest unused. KVM:
        make_mmu_pages_available, called before a fault builds anything."""
        self.zap_some_obsolete(max(pages - self.pool.room, 2))
        while self.pool.room < pages:
            self.counters.mmu_recycled += 1
            self.zap_page(self.pool.oldest_unpinned())

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
        return gfn in self.tables and gfn not in self.unsync.copies

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

    # --- Zapping ------------------------------------------------------------------------------

    def zap_page(self, page: ShadowPage) -> None:
        """Take a page out of the cache. It must not be pinned. O(512 + parents).

        No TLB is flushed: what the TLBs hold still follows from the guest's tables, which have
        not changed, and the guest itself must invalidate when it changes them (SDM 4.10.4). That
        a TLB may let stores through to a frame is remembered by the tracker, not by the sptes.
        Except for large pages: a TLB holds them in pieces, the guest's INVLPG of one address
        drops one piece, and it is the zap of what stands for the page that drops the others.
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
        self.unsync.copies.pop(gfn, None)
        group = gfn >> 9
        self.tables_in_large[group] -= 1
        if not self.tables_in_large[group]:
            del self.tables_in_large[group]

    def zap_all_fast(self) -> None:
        """Make every page unreachable at once; none may be pinned or linked from a root table. The
        pages themselves are taken apart by and by, when room is needed or faults come by (KVM:
        kvm_mmu_zap_all_fast). Looks at no page: they are of an earlier generation from now on.
        """
        self.version += 1
        self.forget_paths()
        self.obsolete += self.pool.begin_generation()
        self.pages = {}
        self.tables = {}
        self.tables_in_large = {}
        self.unsync.copies = {}
        self.frame_state[:] = self.frame_state.tobytes().translate(_NO_TABLES)
        self.tlb.flush_all()

    def zap_some_obsolete(self, pages: int) -> None:
        """Take apart so many of the pages that :meth:`zap_all_fast` left behind."""
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

        An engine delivers a store in pieces. What goes on in the entry where the last write ended
        is the rest of that one and is not counted again.
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
        """Take out the pages that stand for a frame which is plainly something else now, all but
        those that a vCPU runs on."""
        for page in tuple(self.tables[gfn]):
            if not self._is_root(page):
                self.counters.mmu_reused += 1
                self.zap_page(page)

    def _is_root(self, page: ShadowPage) -> bool:
        """Return whether a vCPU runs on a page, or on it as a directory in its root table."""
        return bool(page.pins) or any(map(self.pool.is_root_place, page.parents))

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
