# SPDX-License-Identifier: GPL-2.0-or-later
"""The shadow MMU: contexts, roots and faults, in the order in which things happen.

**A CR3 load** (:meth:`ShadowMmu.load`). The root is looked up by (gfn, role). If the address space
was here before, its tables are there: one dict look-up, and not one shadow fault afterwards.

**A TLB miss** (:meth:`ShadowMmu.translate`). The shadow tables are walked from the vCPU's root, as
hardware would. If the leaf allows the access, that is the answer; the guest's tables are not
looked at.

**A shadow fault** (:meth:`ShadowMmu._fault`). Otherwise the guest's tables are walked. The guest's
own fault goes back to it. Else the walk has set A and D, and the path of shadow pages is built
along it: at each level the page for (gfn of the guest's table, role) is got from the cache, found
or made, and linked. That an existing page is found is the point of it all. Below a large guest
page, and with paging off, the pages are direct. At last the leaf is set.

**A write to a page table** (:meth:`ShadowMmu.written`). The cache zaps what followed from the bytes
that changed.
"""

from __future__ import annotations

from ..api import (
    FRAME_MASK,
    MAP_EXEC,
    MAP_READ,
    MAP_TRAP,
    MAP_WRITE,
    Answer,
    NotCanonical,
    PagingRegisters,
    TlbHost,
)
from ..arch import (
    ACC_EXEC,
    ACC_USER,
    ACC_WRITE,
    ACCESS_FETCH,
    ACCESS_USER,
    ACCESS_WRITE,
    PAGE_SHIFT,
    PFERR_PRESENT,
    PFERR_RSVD,
    PT_ACCESSED,
    PT_DIRTY,
    PT_NX,
    PT_PKEY,
    PT_PRESENT,
    Features,
    Levels,
    is_canonical,
    pkey_denies,
)
from ..events import Counters
from ..memory import Memory
from ..tlb import TlbTracker
from ..walker import Context, Walk, set_accessed_dirty, walk
from .audit import audit
from .cache import ShadowCache
from .compiled import Block
from .context import SHIFTS, SHIFTS_32, ShadowContext, hardware_tests
from .policy import Policy
from .pool import (
    SPTE_EPOCH,
    SPTE_EPOCH_SHIFT,
    SPTE_FRAME,
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
from .role import describe_role, make_role, mode_bits

_PREFETCH = 8
"""So many entries are filled after one whose neighbour was there; KVM: PTE_PREFETCH_NUM."""


class ShadowMmu:
    """The plug-in. ``pool`` is the most shadow pages that may stand at once, all vCPUs together.

    Raises:
        PoolError: ``pool`` is less than one path of tables and the other vCPUs' roots need.
    """

    name = "shadow"

    def __init__(
        self,
        memory: Memory,
        host: TlbHost,
        cpus: int,
        *,
        features: Features,
        pool: int,
        policy: Policy | None = None,
    ) -> None:
        self.counters = Counters()
        self.memory = memory
        self.policy = policy or Policy()
        self.tlb = TlbTracker(memory, host, cpus, self.counters)
        self.pool = Pool(pool, cpus, 5 if features.la57 else 4)
        self.cache = ShadowCache(memory, self.tlb, self.pool, self.counters, self.policy)
        self.words = self.pool.words
        self.contexts = [self._new_context(cpu, Context(features)) for cpu in range(cpus)]
        self._blocks: dict[int, Block] = {}

    def _new_context(self, cpu: int, paging: Context) -> ShadowContext:
        root = self.pool.root_table(cpu)
        return ShadowContext(paging, root, None, SHIFTS_32, 0, hardware_tests(False, False))

    # --- CR3 ----------------------------------------------------------------------------------

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """See :meth:`mmu.api.Mmu.load`. A known address space costs one dict look-up (four for
        guests with 32-bit addresses) beside the decoding of the registers."""
        context = self.contexts[cpu]
        paging = context.paging
        changed = paging.load(self.memory, regs)
        self.tlb.flushed(cpu)
        if self.cache.unsync:
            self.cache.sync_all()
        self._leave_root(cpu, context)
        if changed:
            context.mode = mode_bits(regs.cr0, regs.cr4, regs.efer)
            context.shifts = SHIFTS[paging.levels]
            context.tests = hardware_tests(paging.smep, paging.smap)
        if paging.levels >= Levels.FOUR:
            self._enter_root_page(context)
        else:
            context.root = self.pool.root_table(cpu)
            for quarter in range(4):
                self._link_known_directory(context, quarter)
        self._publish(cpu, changed)

    def _leave_root(self, cpu: int, context: ShadowContext) -> None:
        """Unpin the root page, or empty the root table."""
        if context.root_page is not None:
            context.root_page.pins -= 1
            context.root_page = None
            return
        first = self.pool.root_table(cpu)
        for place in range(first, first + 4):
            if self.words[place]:
                self.cache.unlink(place)

    def _enter_root_page(self, context: ShadowContext) -> None:
        """Find or make the root page for CR3, and pin it."""
        paging = context.paging
        gfn = paging.root_gpa >> PAGE_SHIFT
        role = make_role(context.mode, paging.levels)
        page = self.cache.find(gfn, role)
        if page is None:
            self.cache.reserve(1)
            page = self.cache.get_page(gfn, role)
        else:
            self.counters.mmu_root_hit += 1
            self.pool.touch(page)
        page.pins += 1
        context.root_page = page
        context.root = page.base

    def _link_known_directory(self, context: ShadowContext, quarter: int) -> None:
        """Put the directory of one gigabyte into the root table if the cache has it."""
        key = context.directory_key(quarter)
        if key is not None:
            page = self.cache.find(*key)
            if page is not None:
                self.counters.mmu_root_hit += 1
                self.pool.touch(page)
                self.cache.link(context.root + quarter, page)

    def block(self, cpu: int) -> Block:
        """Return a vCPU's block for :func:`mmu.shadow.compiled.hit`, kept up to date from now."""
        block = self._blocks[cpu] = Block()
        self.counters.compiled.append(block)
        self._publish(cpu)
        return block

    def _publish(self, cpu: int, changed: bool = True) -> None:
        """Show compiled code the vCPU's root, and with ``changed`` everything else too."""
        block = self._blocks.get(cpu)
        if block is None:
            return
        if changed:
            block.publish(self.contexts[cpu], self.pool, self.tlb)
        block.set_root(self.contexts[cpu].root)

    # --- A TLB miss ---------------------------------------------------------------------------

    def translate(self, cpu: int, gva: int, access: int) -> Answer:
        """See :meth:`mmu.api.Mmu.translate`. A hit reads one word per level and builds nothing."""
        self.counters.fills += 1
        context = self.contexts[cpu]
        paging = context.paging
        words = self.words
        gva &= paging.gva_mask
        place = context.root
        for shift in context.shifts:
            place += gva >> shift & 511
            spte = words[place]
            if spte & (SPTE_PRESENT | SPTE_LARGE) != SPTE_PRESENT:
                if not spte & SPTE_PRESENT:
                    return self._fault(cpu, context, gva, access)
                gpa = spte & FRAME_MASK | gva & 0x1F_F000
                break
            place = (spte & SPTE_FRAME) >> 3  # a table number << 12 -> its first place
        else:
            place += gva >> 12 & 511
            spte = words[place]
            gpa = spte & FRAME_MASK
        mask, want = context.tests[access]
        if spte & mask != want and not (
            spte & SPTE_TRAP_WRITE and (spte | SPTE_WRITABLE) & mask == want
        ):
            return self._leaf_fault(cpu, context, place, gva, access)
        if not is_canonical(gva, paging.canonical_bits):
            return NotCanonical(gva)
        if paging.pke and self._pkey_denies(paging, spte, access):
            return self._fault(cpu, context, gva, access)
        return self._answer(cpu, context, place, spte, gpa, access)

    def _pkey_denies(self, paging: Context, spte: int, access: int) -> bool:
        pkey = spte >> SPTE_PKEY_SHIFT & 15
        return bool(spte & SPTE_USER) and pkey_denies(paging.regs.pkru, pkey, access, wp=paging.wp)

    def _answer(
        self, cpu: int, context: ShadowContext, place: int, spte: int, gpa: int, access: int
    ) -> int:
        """Return the Mapping for a leaf that allows the access, and note that a TLB has it.

        ``gpa`` is the address of the 4 KiB frame, which a large leaf does not say by itself.
        """
        tlb = self.tlb
        epoch = tlb.epoch << SPTE_EPOCH_SHIFT
        if spte & SPTE_EPOCH != epoch:
            self.words[place] = spte & ~SPTE_EPOCH | epoch
        if spte & SPTE_TRAP:
            fetch = MAP_EXEC if access & ACCESS_FETCH else 0
            return gpa | MAP_READ | MAP_WRITE | fetch | MAP_TRAP
        if access & ACCESS_WRITE:
            if not spte & SPTE_WRITABLE and self._stays_trapped(place, gpa):
                self.counters.pf_emulate += 1
                return gpa | MAP_READ | MAP_WRITE | MAP_TRAP
            mask, want = context.tests[access & ACCESS_USER | ACCESS_FETCH]
            return gpa | tlb.grant_write(cpu, gpa >> PAGE_SHIFT, spte & mask == want)
        if access & ACCESS_FETCH:
            return gpa | tlb.grant_exec(cpu, gpa >> PAGE_SHIFT)
        return gpa | MAP_READ

    def _stays_trapped(self, place: int, gpa: int) -> bool:
        """Return whether writes to a frame are still to be trapped; if not, give the leaf W."""
        gfn = gpa >> PAGE_SHIFT
        slot = self.memory.slot_at(gpa)
        if slot is None or slot.kind != "ram":
            return True
        if self.cache.is_protected(gfn) and not self.cache.try_unsync(gfn):
            return True
        self.words[place] = self.words[place] & ~SPTE_TRAP_WRITE | SPTE_WRITABLE
        return False

    def _leaf_fault(
        self, cpu: int, context: ShadowContext, place: int, gva: int, access: int
    ) -> Answer:
        """Serve a fault at an entry of a leaf table without walking the guest's upper levels.

        They cannot have changed: upper tables are write-protected, and a change would have zapped
        the path that led here. What they allow is in the page's role, their A bits are set. So
        the guest's entry alone decides. Rare cases go the whole way.
        """
        page = self.pool.page_at(place)
        paging = context.paging
        if page is None or page.level > 1 or page.direct or paging.pke:
            return self._fault(cpu, context, gva, access)
        wide = page.glevels != 2
        table = self.memory.table64(page.gfn) if wide else self.memory.table32(page.gfn)
        if table is None or not is_canonical(gva, paging.canonical_bits):
            return self._fault(cpu, context, gva, access)
        index = gva >> 12 & (511 if wide else 1023)
        gpte = table[index]
        rights = page.access & (gpte & (ACC_WRITE | ACC_USER) | ACC_EXEC)
        if wide and gpte & PT_NX:
            rights &= ~ACC_EXEC
        if not gpte & PT_PRESENT:
            why = 0
        elif gpte & paging.plan[-1][3]:
            why = PFERR_PRESENT | PFERR_RSVD
        elif paging.denied[access] >> rights & 1:
            why = PFERR_PRESENT
        elif access & ACCESS_WRITE and not rights & ACC_WRITE:
            return self._fault(cpu, context, gva, access)  # CR0.WP = 0
        else:
            return self._refill(cpu, context, page, place, gpte, rights, gva, access)
        self.counters.pf_taken += 1
        self.counters.pf_guest += 1
        fault = paging.fault(gva, access, why)
        if self.cache.trace is not None:
            self.cache.trace(f"kvm_mmu_walker_error: {fault}")
        return fault

    def _refill(
        self,
        cpu: int,
        context: ShadowContext,
        page: ShadowPage,
        place: int,
        gpte: int,
        rights: int,
        gva: int,
        access: int,
    ) -> int:
        """Set a leaf from the guest's entry ``gpte``, which allows the access, and answer."""
        cache = self.cache
        counters = self.counters
        counters.pf_taken += 1
        paging = context.paging
        wanted = PT_ACCESSED | PT_DIRTY if access & ACCESS_WRITE else PT_ACCESSED
        if gpte & wanted != wanted:
            gpte |= wanted
            self._set_accessed_dirty(paging, page.gfn, gva, wanted)
        gfn = (gpte & paging.frame_mask) >> PAGE_SHIFT
        writable = bool(rights & ACC_WRITE and gpte & PT_DIRTY)
        spte = cache.make_leaf(gfn, rights, writable=writable)
        if page.glevels >= Levels.FOUR:
            spte |= gpte & PT_PKEY
        page.writes = 0
        if self.words[place] & ~SPTE_EPOCH == spte:
            counters.pf_spurious += 1
        else:
            counters.pf_fixed += 1
            cache.set_leaf(place, spte)
            if cache.trace is not None:
                cache.trace(f"kvm_mmu_set_spte: gfn {gfn:x} spte {spte:x}")
            if place & 511 and self.words[place - 1] & SPTE_PRESENT and self.policy.prefetch:
                self._prefetch(context, page, place)
        return self._answer(cpu, context, place, spte, gfn << PAGE_SHIFT, access)

    def _set_accessed_dirty(self, paging: Context, gfn: int, gva: int, wanted: int) -> None:
        """Set A, and D, in an entry of a leaf table, as the processor does."""
        if paging.entry_bytes == 8:
            table, index = self.memory.table64(gfn), gva >> 12 & 511
        else:
            table, index = self.memory.table32(gfn), gva >> 12 & 1023
        if table is None or table.readonly:
            return
        table[index] |= wanted
        self.tlb.changed(gfn)
        if len(self.cache.tables[gfn]) > 1:
            gpa = gfn << PAGE_SHIFT | index * paging.entry_bytes
            self.cache.guest_wrote(gpa, paging.entry_bytes, entry_bytes=paging.entry_bytes)

    # --- A shadow fault -----------------------------------------------------------------------

    def _fault(self, cpu: int, context: ShadowContext, gva: int, access: int) -> Answer:
        """Walk the guest's tables; return the guest's fault, or build the path and answer."""
        counters = self.counters
        counters.pf_taken += 1
        paging = context.paging
        found = walk(self.memory, paging, gva, access)
        trace = self.cache.trace
        if trace is not None:
            trace(f"kvm_mmu_pagetable_walk: addr {gva:x} pferr {access & 0x1F:x}")
        if found.fault is not None:
            counters.pf_guest += 1
            if trace is not None:
                trace(f"kvm_mmu_walker_error: {found.fault}")
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
                return self._grant_unremembered(cpu, found)
            rights = rights & ~ACC_USER | ACC_WRITE
            if paging.smep and found.rights & ACC_USER:
                rights &= ~ACC_EXEC
        spte, place = self._install(context, found, rights)
        return self._answer(cpu, context, place, spte, found.frame << PAGE_SHIFT, access)

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
        if self.words[place] & ~SPTE_EPOCH == spte:
            self.counters.pf_spurious += 1
            return spte, place
        self.counters.pf_fixed += 1
        cache.set_leaf(place, spte)
        if cache.trace is not None:
            cache.trace(f"kvm_mmu_set_spte: gfn {found.frame:x} spte {spte:x}")
        has_neighbour = place & 511 and self.words[place - 1] & SPTE_PRESENT
        page = self.pool.page_at(place)
        if found.level == 1 and self.policy.prefetch and has_neighbour and page is not None:
            self._prefetch(context, page, place)
        return spte, place

    def _grant_unremembered(self, cpu: int, found: Walk) -> int:
        """Answer a write under WP = 0 and SMAP without leaving an spte that says it."""
        gpa = found.frame << PAGE_SHIFT
        slot = self.memory.slot_at(gpa)
        trapped = self.cache.is_protected(found.frame) or slot is None or slot.kind != "ram"
        if trapped:
            return gpa | MAP_READ | MAP_WRITE | MAP_TRAP
        return gpa | self.tlb.grant_write(cpu, found.frame, False)

    def _build(
        self, context: ShadowContext, found: Walk, direct_rights: int, to_level: int
    ) -> tuple[int, int]:
        """Make the path of shadow pages for a walk down to ``to_level``, or further where it goes
        on already. Return the place of the leaf, and its level.

        ``direct_rights`` is the access of the direct pages below a large guest page. It has W
        only if the page is dirty: another entry that maps the same large page clean must not come
        to share a writable page, or its D would never be set (MMU-CASES 4).
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
            if self.words[place] & SPTE_LARGE:
                cache.drop_leaf(place)
            cache.link(place, page)
            place = page.base + (gva >> 3 + 9 * level & 511)
        return place, level

    def _descend(self, context: ShadowContext, found: Walk, direct_rights: int) -> tuple[int, int]:
        """Follow what is there of a path. Return the place reached and its level.

        A direct page of other rights than wanted is let go: the guest's large entry has become
        dirty, or is written under WP = 0 (KVM: validate_direct_spte).
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
        """Fill entries behind one whose neighbour before it was there: the guest walks upward.

        Only what a walk would answer without changing anything in the guest: present, accessed,
        nothing reserved; writable if dirty. No fault of the guest follows from it.
        """
        paging = context.paging
        words = self.words
        wide = page.glevels != 2
        table = self.memory.table64(page.gfn) if wide else self.memory.table32(page.gfn)
        if table is None:
            return
        index = page.quadrant << 9 | place & 511
        reserved = paging.plan[-1][3]
        for step in range(1, min(_PREFETCH, 512 - (place & 511))):
            gpte = table[index + step]
            if words[place + step] & SPTE_PRESENT:
                return
            if gpte & (PT_PRESENT | PT_ACCESSED) != PT_PRESENT | PT_ACCESSED or gpte & reserved:
                continue
            rights = page.access & (gpte & (ACC_WRITE | ACC_USER) | ACC_EXEC)
            if wide and gpte & PT_NX:
                rights &= ~ACC_EXEC
            gfn = (gpte & paging.frame_mask) >> PAGE_SHIFT
            writable = bool(rights & ACC_WRITE and gpte & PT_DIRTY)
            spte = self.cache.make_leaf(gfn, rights, writable=writable)
            if page.glevels >= Levels.FOUR:
                spte |= gpte & PT_PKEY
            self.cache.set_leaf(place + step, spte)

    # --- Everything else ----------------------------------------------------------------------

    def written(self, gpa: int, size: int, source: str) -> None:
        """See :meth:`mmu.api.Mmu.written`. One look-up for a frame that is no table."""
        end = gpa + size
        while gpa < end:
            gfn = gpa >> PAGE_SHIFT
            length = min(end, gfn + 1 << PAGE_SHIFT) - gpa
            self.tlb.changed(gfn)
            if gfn in self.cache.tables:
                self.cache.guest_wrote(gpa, length)
            if source == "guest" and not self.cache.is_protected(gfn):
                # The store was trapped, yet the frame is no table any more (or a table that may
                # be written): some TLB entry still sends stores to us. Let it be answered anew.
                self._stop_trapping(gpa)
            gpa += length

    def _stop_trapping(self, gpa: int) -> None:
        """Give a frame that is no longer shadowed its writable sptes back, and flush."""
        slot = self.memory.slot_at(gpa)
        if slot is None or slot.kind != "ram":
            return
        words = self.words
        for place in self.cache.rmap.places(gpa >> PAGE_SHIFT):
            spte = words[place]
            if spte & SPTE_TRAP_WRITE:
                words[place] = spte & ~SPTE_TRAP_WRITE | SPTE_WRITABLE
        self.tlb.flush_all()

    def invlpg(self, cpu: int, gva: int) -> None:
        """See :meth:`mmu.api.Mmu.invlpg`. Only an entry of a table that is out of sync can be
        stale; it is zapped."""
        self.counters.invlpg += 1
        if not self.cache.unsync:
            return
        context = self.contexts[cpu]
        gva &= context.paging.gva_mask
        place = context.root
        for shift in context.shifts:
            spte = self.words[place + (gva >> shift & 511)]
            if spte & (SPTE_PRESENT | SPTE_LARGE) != SPTE_PRESENT:
                return
            place = (spte & SPTE_FRAME) >> 3
        page = self.pool.page_at(place)
        if page is not None and not page.direct and page.gfn in self.cache.unsync:
            # Alone this vCPU's TLB has dropped it; others keep it until they are told.
            self.cache.zap_entry(page, place + (gva >> 12 & 511))

    def flushed(self, cpu: int) -> None:
        """See :meth:`mmu.api.Mmu.flushed`."""
        self.tlb.flushed(cpu)

    def remapped(self) -> None:
        """See :meth:`mmu.api.Mmu.remapped`. Everything goes, as with KVM's memory slots."""
        self.zap_all()
        self.tlb.remapped()
        for cpu in self._blocks:
            self._publish(cpu)

    # --- For the owner of the machine ---------------------------------------------------------

    def set_policy(self, text: str) -> None:
        """Change the policy (see :meth:`mmu.shadow.policy.Policy.but`) and start afresh."""
        self.cache.policy = self.policy = self.policy.but(text)
        self.zap_all()

    def zap_all(self) -> None:
        """Forget every translation at once; the pages themselves go by and by."""
        for cpu, context in enumerate(self.contexts):
            self._leave_root(cpu, context)
        self.cache.zap_all_fast()
        for cpu, context in enumerate(self.contexts):
            if context.paging.levels >= Levels.FOUR:
                self._enter_root_page(context)
            self._publish(cpu)

    def shrink(self, pages: int) -> int:
        """Give up to ``pages`` of the longest unused shadow pages back, as KVM does when the host
        is short of memory (mmu_shrink_scan). Return how many went; roots in use stay."""
        return self.cache.shrink(pages)

    def start_dirty_log(self) -> None:
        """See :meth:`mmu.tlb.TlbTracker.start_dirty_log`."""
        self.tlb.start_dirty_log()
        for cpu in self._blocks:
            self._publish(cpu)

    def dirty_log(self) -> list[int]:
        """Return the gfns written since last asked; see :meth:`mmu.tlb.TlbTracker.dirty_log`."""
        return self.tlb.dirty_log()

    def stop_dirty_log(self) -> None:
        """See :meth:`mmu.tlb.TlbTracker.stop_dirty_log`."""
        self.tlb.stop_dirty_log()
        for cpu in self._blocks:
            self._publish(cpu)

    def describe_path(self, cpu: int, gva: int) -> str:
        """Return the shadow tables' side of an address, a line a level. Changes nothing."""
        context = self.contexts[cpu]
        gva &= context.paging.gva_mask
        place = context.root
        lines = [f"{gva:#x} in the shadow tables of vCPU {cpu}"]
        for level, shift in zip(
            range(len(context.shifts) + 1, 0, -1), (*context.shifts, 12), strict=True
        ):
            page = self.pool.page_at(place)
            name = describe_role(page.gfn, page.role) if page else "root table"
            place += gva >> shift & 511
            spte = self.words[place]
            lines.append(f"  level {level} [{gva >> shift & 511:3}] {spte:#018x}  {name}")
            if level == 1 or spte & (SPTE_PRESENT | SPTE_LARGE) != SPTE_PRESENT:
                break
            place = (spte & SPTE_FRAME) >> 3
        return "\n".join(lines)

    def check(self) -> None:
        """See :meth:`mmu.api.Mmu.check`. O(shadow pages)."""
        audit(self)
