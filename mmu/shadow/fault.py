# SPDX-License-Identifier: GPL-2.0-or-later
"""A shadow fault: the shadow tables have no answer, so the guest's tables are asked.

Mostly the leaf table is there and one of its entries is missing or too narrow. Then the guest's
entry behind it decides alone (:meth:`Faults.leaf_fault`). Otherwise the guest's tables are walked
from the root (:meth:`Faults.fault`), and the path of shadow pages is built along the walk. Both end
in :meth:`Faults.answer`, as does a hit: it says what the TLB entry may be used for.
"""

from __future__ import annotations

from ..api import MAP_READ, MAP_TRAP, MAP_WRITE, Answer, PageFault
from ..arch import (
    ACC_EXEC,
    ACC_USER,
    ACC_WRITE,
    ACCESS_FETCH,
    ACCESS_IMPLICIT,
    ACCESS_USER,
    ACCESS_WRITE,
    PAGE_SHIFT,
    PFERR_PK,
    PFERR_PRESENT,
    PFERR_RSVD,
    PT_ACCESSED,
    PT_DIRTY,
    PT_NX,
    PT_PKEY,
    PT_PKEY_SHIFT,
    PT_PRESENT,
    Levels,
    pkey_denies,
)
from ..memory import Memory
from ..observe import Counters
from ..tlb import TlbTracker, trap_permissions
from ..walker import Walk, set_accessed_dirty, walk
from .cache import ShadowCache
from .context import ShadowContext
from .pool import (
    SPTE_LARGE,
    SPTE_PKEY_SHIFT,
    SPTE_PRESENT,
    SPTE_TRAP,
    SPTE_TRAP_WRITE,
    SPTE_USER,
    SPTE_WRITABLE,
    Pool,
    ShadowPage,
)

_FETCHER = ACCESS_USER | ACCESS_IMPLICIT  # what of an access says in whose name it is made

_PREFETCH = 8
"""The most entries that one fault fills, its own included; KVM: PTE_PREFETCH_NUM."""


class Faults:
    """Serves the misses that the shadow tables do not, and grants what they do."""

    def __init__(
        self,
        memory: Memory,
        tlb: TlbTracker,
        pool: Pool,
        cache: ShadowCache,
        counters: Counters,
    ) -> None:
        self.memory = memory
        self.tlb = tlb
        self.pool = pool
        self.cache = cache
        self.counters = counters
        self.words = pool.words
        self.epochs = pool.epochs

    # --- The answer ---------------------------------------------------------------------------

    def answer(
        self, cpu: int, context: ShadowContext, place: int, spte: int, gpa: int, access: int
    ) -> int:
        """Return the Mapping for a leaf that allows the access, and note that a TLB has it.

        ``gpa`` is the address of the 4 KiB frame, which a large leaf does not say by itself.
        """
        tlb = self.tlb
        if spte & SPTE_TRAP:
            rights = trap_permissions(access)
        elif access & ACCESS_WRITE:
            gfn = gpa >> PAGE_SHIFT
            if spte & SPTE_WRITABLE and not tlb.fetched_epoch[gfn] and not tlb.is_logging:
                tlb.written_epoch[gfn] = tlb.epoch  # what `grant_write` says to most
                rights = MAP_READ | MAP_WRITE
            elif not spte & SPTE_WRITABLE and self._stays_trapped(place, gpa):
                self.counters.pf_emulate += 1
                rights = MAP_READ | MAP_WRITE | MAP_TRAP
            else:
                mask, want = context.tests[access & _FETCHER | ACCESS_FETCH]
                rights = tlb.grant_write(cpu, gfn, spte & mask == want)
        elif access & ACCESS_FETCH:
            rights = tlb.grant_exec(cpu, gpa >> PAGE_SHIFT)
            pkey = spte >> SPTE_PKEY_SHIFT & 15
            if not context.paging.may_read_too(spte & SPTE_USER, pkey, access):
                rights &= ~MAP_READ
        else:
            rights = MAP_READ
        # Only now: a grant may have flushed, and what is answered is held after that flush.
        self.epochs[place] = tlb.epoch
        if spte & SPTE_TRAP and not self.cache.policy.mmio:
            self.cache.drop_leaf(place)
        return gpa | rights

    def _stays_trapped(self, place: int, gpa: int) -> bool:
        """Return whether writes to a frame are still to be trapped; if not, give the leaf W."""
        gfn = gpa >> PAGE_SHIFT
        slot = self.memory.slot_at(gpa)
        if slot is None or slot.kind != "ram":
            return True
        if self.cache.is_protected(gfn) and not self.cache.unsync.try_unsync(gfn):
            return True
        self.words[place] = self.words[place] & ~SPTE_TRAP_WRITE | SPTE_WRITABLE
        return False

    # --- A leaf's fault -----------------------------------------------------------------------

    def leaf_fault(
        self,
        cpu: int,
        context: ShadowContext,
        page: ShadowPage,
        place: int,
        gva: int,
        access: int,
    ) -> Answer:
        """Serve a fault at an entry of a leaf page without walking the guest's upper levels.

        They cannot have changed: upper tables are write-protected, and a change would have zapped
        the path that led here. What they allow is in the page's role, their A bits are set. So
        the guest's entry alone decides. Rare cases go the whole way.
        """
        table = page.table
        paging = context.paging
        if table is None:
            return self.fault(cpu, context, gva, access)
        wide = page.glevels != 2
        index = gva >> 12 & (511 if wide else 1023)
        gpte = table[index]
        rights = page.access & (gpte & (ACC_WRITE | ACC_USER) | ACC_EXEC)
        if wide and gpte & PT_NX:
            rights &= ~ACC_EXEC
        if not gpte & PT_PRESENT:
            why = 0
        elif gpte & paging.leaf_reserved:
            why = PFERR_PRESENT | PFERR_RSVD
        elif (
            paging.pke
            and rights & ACC_USER
            and pkey_denies(paging.regs.pkru, gpte >> PT_PKEY_SHIFT & 15, access, wp=paging.wp)
        ):
            why = PFERR_PRESENT | PFERR_PK
        elif paging.denied[access] >> rights & 1:
            why = PFERR_PRESENT
        elif access & ACCESS_WRITE and not rights & ACC_WRITE:
            return self.fault(cpu, context, gva, access)  # CR0.WP = 0
        else:
            wanted = PT_ACCESSED | PT_DIRTY if access & ACCESS_WRITE else PT_ACCESSED
            if gpte & wanted != wanted:
                gpte |= wanted
                self._set_accessed_dirty(page, index, wanted)
            return self._refill(cpu, context, page, place, gpte, rights, access)
        self.counters.pf_taken += 1
        self.counters.pf_guest += 1
        fault = paging.fault(gva, access, why)
        for observer in self.cache.observers:
            observer.walker_error(cpu, *fault)
        return fault

    def _refill(
        self,
        cpu: int,
        context: ShadowContext,
        page: ShadowPage,
        place: int,
        gpte: int,
        rights: int,
        access: int,
    ) -> int:
        """Set a leaf from the guest's entry ``gpte``, which allows the access, and answer."""
        cache = self.cache
        counters = self.counters
        counters.pf_taken += 1
        gfn = (gpte & context.paging.frame_mask) >> PAGE_SHIFT
        writable = bool(rights & ACC_WRITE and gpte & PT_DIRTY)
        spte = cache.make_leaf(gfn, rights, writable=writable)
        if page.glevels >= Levels.FOUR:
            spte |= gpte & PT_PKEY
        page.writes = 0
        words = self.words
        if words[place] == spte and page.copy is None:
            counters.pf_spurious += 1
        else:
            counters.pf_fixed += 1
            cache.set_leaf(place, spte)
            for observer in cache.observers:
                observer.set_spte(place, gfn, spte)
            if self._is_walk_upward(page, place):
                self._prefetch(context, page, place)
        return self.answer(cpu, context, place, spte, gfn << PAGE_SHIFT, access)

    def _set_accessed_dirty(self, page: ShadowPage, index: int, wanted: int) -> None:
        """Set A, and D, in an entry of a leaf table, as the processor does."""
        table = page.table
        if table is None or table.readonly:
            return
        table[index] |= wanted
        self.tlb.changed(page.gfn)
        if not page.alone:
            size = table.itemsize
            gpa = page.gfn << PAGE_SHIFT | index * size
            self.cache.guest_wrote(gpa, size, entry_bytes=size)

    def _is_walk_upward(self, page: ShadowPage, place: int) -> bool:
        """Return whether the entry before a leaf is there, and the one behind it is not but could
        be: the guest has used what is behind, too."""
        words = self.words
        index = place & 511
        if not 0 < index < 511 or words[place + 1] or not words[place - 1]:
            return False
        table = page.table
        if table is None or not self.cache.policy.prefetch:
            return False
        return bool(table[(page.quadrant << 9 | index) + 1] & PT_ACCESSED)

    # --- The whole way ------------------------------------------------------------------------

    def fault(self, cpu: int, context: ShadowContext, gva: int, access: int) -> Answer:
        """Walk the guest's tables; return the guest's fault, or build the path and answer."""
        counters = self.counters
        counters.pf_taken += 1
        paging = context.paging
        found = walk(self.memory, paging, gva, access)
        observers = self.cache.observers
        for observer in observers:
            observer.pagetable_walk(cpu, gva, access)
        if found.fault is not None:
            counters.pf_guest += 1
            if isinstance(found.fault, PageFault):
                for observer in observers:
                    observer.walker_error(cpu, *found.fault)
            return found.fault
        for gpa in set_accessed_dirty(self.memory, paging, found):
            self.tlb.changed(gpa >> PAGE_SHIFT)
            self.cache.guest_wrote(gpa, paging.entry_bytes, entry_bytes=paging.entry_bytes)
        rights = found.rights
        if access & ACCESS_WRITE and not rights & ACC_WRITE:
            # Only CR0.WP = 0 lets this through: a supervisor's write to a read-only page. To
            # hardware it becomes a supervisor's writable page, which user mode will fault on and
            # have turned back. With SMAP or keys it must go on being seen to be a user page: then
            # it is granted to this TLB entry alone and not remembered.
            if rights & ACC_USER and (paging.smap or paging.pke):
                return self._grant_unremembered(cpu, context, found)
            rights = rights & ~ACC_USER | ACC_WRITE
            if paging.smep and found.rights & ACC_USER:
                rights &= ~ACC_EXEC
        spte, place = self._install(context, found, rights)
        return self.answer(cpu, context, place, spte, found.frame << PAGE_SHIFT, access)

    def _install(self, context: ShadowContext, found: Walk, rights: int) -> tuple[int, int]:
        """Build the path for a walk and set its leaf; return the leaf and its place."""
        cache = self.cache
        writable = bool(rights & ACC_WRITE) and found.dirty
        large = found.level != 1 and cache.may_be_large(found.frame)
        direct_rights = rights if writable else rights & ~ACC_WRITE
        place, reached = self._build(context, found, direct_rights, 2 if large else 1)
        if reached == 2 and not cache.may_be_large(found.frame):
            # A table of this very path lies in the large page.
            place, reached = self._build(context, found, direct_rights, 1)
        if reached == 1:
            spte = cache.make_leaf(found.frame, rights, writable=writable, pkey=found.pkey)
        else:
            first = found.frame & ~511
            spte = cache.make_leaf(first, rights, writable=writable, pkey=found.pkey) | SPTE_LARGE
        if self.words[place] == spte and not cache.unsync.is_stale(place):
            self.counters.pf_spurious += 1
            return spte, place
        self.counters.pf_fixed += 1
        cache.set_leaf(place, spte)
        for observer in cache.observers:
            observer.set_spte(place, found.frame, spte)
        page = self.pool.page_at(place)
        if found.level == 1 and page is not None and self._is_walk_upward(page, place):
            self._prefetch(context, page, place)
        return spte, place

    def _grant_unremembered(self, cpu: int, context: ShadowContext, found: Walk) -> int:
        """Answer a supervisor's write to a user's read-only page under CR0.WP = 0 with SMAP or
        protection keys, and leave no spte that allows it (MMU-CASES 18 and 27; see docs/mmu.md).

        ================ ====================== ==================================================
        guest page       spte that is left      why
        ================ ====================== ==================================================
        4 KiB            none                   INVLPG drops the one TLB entry
        large            a read-only one        INVLPG drops one TLB entry of many; the others go
                                                when the spte is zapped, if its epoch says so
        ================ ====================== ==================================================
        """
        gpa = found.frame << PAGE_SHIFT
        place = self._install(context, found, found.rights)[1] if found.level != 1 else None
        slot = self.memory.slot_at(gpa)
        if self.cache.is_protected(found.frame) or slot is None or slot.kind != "ram":
            rights = MAP_READ | MAP_WRITE | MAP_TRAP
        else:
            rights = self.tlb.grant_write(cpu, found.frame, False)
        if place is not None:
            self.epochs[place] = self.tlb.epoch  # only now: see `answer`
        return gpa | rights

    def _build(
        self, context: ShadowContext, found: Walk, direct_rights: int, to_level: int
    ) -> tuple[int, int]:
        """Make the path of shadow pages for a walk down to ``to_level``. Return the place of the
        leaf, and its level: 1 where the path went below ``to_level`` already.

        ``direct_rights`` is the access of the direct pages below a large guest page. It has W only
        if the page is dirty. Or a clean entry that maps the same large page would share a writable
        shadow page, and its D would never be set (MMU-CASES 4).
        """
        cache = self.cache
        gva = found.gva
        place, level = self._descend(context, found, direct_rights)
        missing = level - to_level
        if missing > 0:
            cache.reserve(missing)
        while level > to_level:
            level -= 1
            page = cache.get_page(*context.child_key(found, level, direct_rights))
            # A page that was found may lead on already, and elsewhere: to a direct page of other
            # rights than wanted now.
            spte = self.words[place]
            if spte & SPTE_LARGE:
                cache.drop_leaf(place)
            elif spte:
                cache.unlink(place)
            cache.link(place, page)
            place = page.base + (gva >> 3 + 9 * level & 511)
        if level == 2 and self.words[place] & (SPTE_PRESENT | SPTE_LARGE) == SPTE_PRESENT:
            cache.unlink(place)  # the page was found with small pages below, and may be large now
        return place, level

    def _descend(self, context: ShadowContext, found: Walk, direct_rights: int) -> tuple[int, int]:
        """Follow the path as far as it exists. Return the place reached and its level.

        A direct page with other rights than ``direct_rights`` is unlinked: the guest's large entry
        has become dirty, or is written under WP = 0 (KVM: validate_direct_spte).
        """
        words = self.words
        pool = self.pool
        gva = found.gva
        place = context.root
        if context.root_page is not None:
            pool.touch(context.root_page)
            context.root_page.writes = 0
        level = len(context.shifts) + 1
        for shift in context.shifts:
            place += gva >> shift & 511
            spte = words[place]
            if spte & (SPTE_PRESENT | SPTE_LARGE) != SPTE_PRESENT:
                return place, level
            page = pool.page_of(spte)
            if page.direct and (page.access != direct_rights or page.pkey != found.pkey):
                self.cache.unlink(place)
                return place, level
            pool.touch(page)
            page.writes = 0
            place = page.base
            level -= 1
        return place + (gva >> 12 & 511), 1

    def _prefetch(self, context: ShadowContext, page: ShadowPage, place: int) -> None:
        """Fill the entries after one whose predecessor was there: the guest walks upward.

        Only an entry that a walk would use without changing the guest's table is filled: present,
        accessed, no reserved bit; writable if dirty. No fault of the guest follows from it.
        """
        paging = context.paging
        words = self.words
        wide = page.glevels != 2
        table = page.table
        if table is None:
            return
        index = page.quadrant << 9 | place & 511
        reserved = paging.leaf_reserved
        for step in range(1, min(_PREFETCH, 512 - (place & 511))):
            gpte = table[index + step]
            if words[place + step] & SPTE_PRESENT:
                return
            if gpte & (PT_PRESENT | PT_ACCESSED) != PT_PRESENT | PT_ACCESSED or gpte & reserved:
                return
            rights = page.access & (gpte & (ACC_WRITE | ACC_USER) | ACC_EXEC)
            if wide and gpte & PT_NX:
                rights &= ~ACC_EXEC
            gfn = (gpte & paging.frame_mask) >> PAGE_SHIFT
            writable = bool(rights & ACC_WRITE and gpte & PT_DIRTY)
            spte = self.cache.make_leaf(gfn, rights, writable=writable)
            if spte & SPTE_TRAP and not self.cache.policy.mmio:
                return
            if page.glevels >= Levels.FOUR:
                spte |= gpte & PT_PKEY
            self.cache.set_leaf(place + step, spte)
