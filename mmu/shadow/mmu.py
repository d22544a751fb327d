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

from dataclasses import dataclass
from functools import lru_cache

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
    ACC_ALL,
    ACC_EXEC,
    ACC_USER,
    ACC_WRITE,
    ACCESS_AC,
    ACCESS_FETCH,
    ACCESS_IMPLICIT,
    ACCESS_USER,
    ACCESS_WRITE,
    PAGE_SHIFT,
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
from .pool import (
    SPTE_EPOCH,
    SPTE_EPOCH_SHIFT,
    SPTE_FRAME,
    SPTE_NX,
    SPTE_PKEY_SHIFT,
    SPTE_PRESENT,
    SPTE_TRAP,
    SPTE_TRAP_WRITE,
    SPTE_USER,
    SPTE_WRITABLE,
    Pool,
    ShadowPage,
)
from .role import make_role, mode_bits, quadrant_of

# The walk over the shadow tables, as the shifts of the upper levels. Guests with 32-bit addresses
# start at the vCPU's root table of four, the others at a shadow page.
_SHIFTS_32 = (30, 21)
_SHIFTS = {
    Levels.NONE: _SHIFTS_32,
    Levels.TWO: _SHIFTS_32,
    Levels.PAE: _SHIFTS_32,
    Levels.FOUR: (39, 30, 21),
    Levels.FIVE: (48, 39, 30, 21),
}


@dataclass(slots=True)
class ShadowContext:
    """A vCPU's side of the shadow MMU: its paging state and where its shadow tables start.

    ``root`` is the first place of the root, ``root_page`` the page that owns it (None: the vCPU's
    root table), ``tests`` the hardware's permission check by access: a leaf lets the access
    through if ``spte & mask == want``.
    """

    paging: Context
    root: int
    root_page: ShadowPage | None
    shifts: tuple[int, ...]
    mode: int
    tests: list[tuple[int, int]]


class ShadowMmu:
    """The plug-in. ``pool`` is the most shadow pages that may stand at once, all vCPUs together.

    Raises:
        PoolError: ``pool`` is less than one path of tables and the other vCPUs' roots need.
    """

    name = "shadow"

    def __init__(
        self, memory: Memory, host: TlbHost, cpus: int, *, features: Features, pool: int
    ) -> None:
        self.counters = Counters()
        self.memory = memory
        self.tlb = TlbTracker(memory, host, cpus, self.counters)
        self.pool = Pool(pool, cpus, 5 if features.la57 else 4)
        self.cache = ShadowCache(memory, self.tlb, self.pool, self.counters)
        self.words = self.pool.words
        self.contexts = [self._new_context(cpu, Context(features)) for cpu in range(cpus)]

    def _new_context(self, cpu: int, paging: Context) -> ShadowContext:
        root = self.pool.root_table(cpu)
        return ShadowContext(paging, root, None, _SHIFTS_32, 0, hardware_tests(False, False))

    # --- CR3 ----------------------------------------------------------------------------------

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """See :meth:`mmu.api.Mmu.load`. A known address space costs one dict look-up (four for
        guests with 32-bit addresses) beside the decoding of the registers."""
        context = self.contexts[cpu]
        paging = context.paging
        paging.load(self.memory, regs)
        self.tlb.flushed(cpu)
        self._leave_root(cpu, context)
        context.mode = mode_bits(regs.cr0, regs.cr4, regs.efer)
        context.shifts = _SHIFTS[paging.levels]
        context.tests = hardware_tests(paging.smep, paging.smap)
        if paging.levels >= Levels.FOUR:
            self._enter_root_page(context)
        else:
            context.root = self.pool.root_table(cpu)
            for quarter in range(4):
                self._link_known_directory(context, quarter)

    def _leave_root(self, cpu: int, context: ShadowContext) -> None:
        """Unpin the root page, or empty the root table."""
        if context.root_page is not None:
            context.root_page.pins -= 1
            context.root_page = None
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
        key = self._directory_key(context, quarter)
        if key is not None:
            page = self.cache.find(*key)
            if page is not None:
                self.counters.mmu_root_hit += 1
                self.pool.touch(page)
                self.cache.link(context.root + quarter, page)

    def _directory_key(self, context: ShadowContext, quarter: int) -> tuple[int, int] | None:
        """Return (gfn, role) of the directory for a gigabyte of a 32-bit address space."""
        paging = context.paging
        if paging.levels is Levels.NONE:
            return quarter << 18, make_role(context.mode, 2, direct=True)
        if paging.levels is Levels.TWO:
            role = make_role(context.mode, 2, quadrant=quarter)
            return paging.root_gpa >> PAGE_SHIFT, role
        pdpte = paging.pdptes[quarter]
        if not pdpte & PT_PRESENT:
            return None
        return (pdpte & paging.frame_mask) >> PAGE_SHIFT, make_role(context.mode, 2)

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
            spte = words[place + (gva >> shift & 511)]
            if not spte & SPTE_PRESENT:
                return self._fault(cpu, context, gva, access)
            place = (spte & SPTE_FRAME) >> 3  # a table number << 12 -> its first place
        place += gva >> 12 & 511
        spte = words[place]
        mask, want = context.tests[access]
        if spte & mask != want and not (
            spte & SPTE_TRAP_WRITE and (spte | SPTE_WRITABLE) & mask == want
        ):
            return self._fault(cpu, context, gva, access)
        if not is_canonical(gva, paging.canonical_bits):
            return NotCanonical(gva)
        if paging.pke and self._pkey_denies(paging, spte, access):
            return self._fault(cpu, context, gva, access)
        return self._answer(cpu, context, place, spte, access)

    def _pkey_denies(self, paging: Context, spte: int, access: int) -> bool:
        pkey = spte >> SPTE_PKEY_SHIFT & 15
        return bool(spte & SPTE_USER) and pkey_denies(paging.regs.pkru, pkey, access, wp=paging.wp)

    def _answer(self, cpu: int, context: ShadowContext, place: int, spte: int, access: int) -> int:
        """Return the Mapping for a leaf that allows the access, and note that a TLB has it."""
        tlb = self.tlb
        epoch = tlb.epoch << SPTE_EPOCH_SHIFT
        if spte & SPTE_EPOCH != epoch:
            self.words[place] = spte & ~SPTE_EPOCH | epoch
        gpa = spte & FRAME_MASK
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
        slot = self.memory.slot_at(gpa)
        if gpa >> PAGE_SHIFT in self.cache.tables or slot is None or slot.kind != "ram":
            return True
        self.words[place] = self.words[place] & ~SPTE_TRAP_WRITE | SPTE_WRITABLE
        return False

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
            # have turned back. Under SMAP it must go on being seen to be a user page: then it is
            # granted to this TLB entry alone and not remembered.
            if rights & ACC_USER and paging.smap:
                return self._grant_unremembered(cpu, found)
            rights = rights & ~ACC_USER | ACC_WRITE
            if paging.smep and found.rights & ACC_USER:
                rights &= ~ACC_EXEC
        writable = bool(rights & ACC_WRITE) and found.dirty
        place = self._build(context, found, rights if writable else rights & ~ACC_WRITE)
        spte = self.cache.make_leaf(found.frame, rights, writable=writable, pkey=found.pkey)
        if self.words[place] & ~SPTE_EPOCH == spte:
            counters.pf_spurious += 1
        else:
            counters.pf_fixed += 1
            self.cache.set_leaf(place, spte)
            if trace is not None:
                trace(f"kvm_mmu_set_spte: gfn {found.frame:x} spte {spte:x}")
        return self._answer(cpu, context, place, spte, access)

    def _grant_unremembered(self, cpu: int, found: Walk) -> int:
        """Answer a write under WP = 0 and SMAP without leaving an spte that says it."""
        gpa = found.frame << PAGE_SHIFT
        slot = self.memory.slot_at(gpa)
        trapped = found.frame in self.cache.tables or slot is None or slot.kind != "ram"
        if trapped:
            return gpa | MAP_READ | MAP_WRITE | MAP_TRAP
        return gpa | self.tlb.grant_write(cpu, found.frame, False)

    def _build(self, context: ShadowContext, found: Walk, direct_rights: int) -> int:
        """Make the path of shadow pages for a walk; return the place of its leaf.

        ``direct_rights`` is the access of the direct pages below a large guest page. It has W
        only if the page is dirty: another entry that maps the same large page clean must not come
        to share a writable page, or its D would never be set (MMU-CASES 4).
        """
        cache = self.cache
        gva = found.gva
        place, missing = self._descend(context, found, direct_rights)
        if missing:
            cache.reserve(missing)
        while missing:
            gfn, role = self._child_key(context, found, missing, direct_rights)
            page = cache.get_page(gfn, role)
            cache.link(place, page)
            missing -= 1
            place = page.base + (gva >> (12 + 9 * missing) & 511)
        return place

    def _descend(self, context: ShadowContext, found: Walk, direct_rights: int) -> tuple[int, int]:
        """Follow what is there of a path. Return the place reached and the pages missing below.

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
        level = len(context.shifts)
        for shift in context.shifts:
            place += gva >> shift & 511
            spte = words[place]
            if not spte & SPTE_PRESENT:
                return place, level
            page = pool.page_of(spte)
            if page.direct and page.access != direct_rights:
                self.cache.unlink(place)
                return place, level
            pool.touch(page)
            page.writes = 0
            place = page.base
            level -= 1
        return place + (gva >> 12 & 511), 0

    def _child_key(
        self, context: ShadowContext, found: Walk, level: int, direct_rights: int
    ) -> tuple[int, int]:
        """Return (gfn, role) of the shadow page at ``level`` on the path of a walk."""
        paging = context.paging
        gva = found.gva
        if level == 2 and paging.levels <= Levels.PAE:
            key = self._directory_key(context, gva >> 30)
            assert key is not None  # the walk went through it
            return key
        if level < max(found.level, 1) or paging.levels is Levels.NONE:
            gfn = found.frame >> 9 * level << 9 * level
            rights = direct_rights if found.level else ACC_ALL
            return gfn, make_role(context.mode, level, direct=True, access=rights)
        table_gpa = next(entry[1] for entry in found.entries if entry[0] == level)
        quadrant = quadrant_of(gva, level) if paging.levels is Levels.TWO else 0
        role = make_role(context.mode, level, quadrant=quadrant, access=found.rights_above(level))
        return table_gpa >> PAGE_SHIFT, role

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
            elif source == "guest":
                # The store was trapped, yet the frame is no table any more: some TLB entry still
                # sends stores to us. Let it be answered anew.
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
        """See :meth:`mmu.api.Mmu.invlpg`. The shadow tables follow the guest's at all times, so
        there is nothing to do."""
        self.counters.invlpg += 1

    def flushed(self, cpu: int) -> None:
        """See :meth:`mmu.api.Mmu.flushed`."""
        self.tlb.flushed(cpu)

    def check(self) -> None:
        """See :meth:`mmu.api.Mmu.check`. O(shadow pages)."""
        audit(self)


@lru_cache(maxsize=4)
def hardware_tests(smep: bool, smap: bool) -> list[tuple[int, int]]:
    """Return, for each access, (mask, want): a leaf allows it if ``spte & mask == want``.

    Hardware's own rules for an entry with CR0.WP = 1 and EFER.NXE = 1 (SDM 4.6.1).
    """
    tests = []
    for access in range(1024):
        mask = want = SPTE_PRESENT
        if access & ACCESS_USER and not access & ACCESS_IMPLICIT:
            mask |= SPTE_USER
            want |= SPTE_USER
        elif access & ACCESS_FETCH:
            mask |= SPTE_USER if smep else 0
        elif smap and (access & ACCESS_IMPLICIT or not access & ACCESS_AC):
            mask |= SPTE_USER
        if access & ACCESS_FETCH:
            mask |= SPTE_NX
        elif access & ACCESS_WRITE:
            mask |= SPTE_WRITABLE
            want |= SPTE_WRITABLE
        tests.append((mask, want))
    return tests
