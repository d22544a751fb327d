# SPDX-License-Identifier: GPL-2.0-or-later
"""The shadow MMU: contexts, roots and faults, in the order in which things happen.

**A CR3 load** (:meth:`ShadowMmu.load`). The root is looked up by (gfn, role). If the address space
was here before, its tables are there: one dict look-up, and not one shadow fault afterwards.

**A TLB miss** (:meth:`ShadowMmu.translate`). The shadow tables are walked from the vCPU's root, as
hardware would. If the leaf allows the access, that is the answer; the guest's tables are not
looked at.

**A shadow fault** (:mod:`mmu.shadow.fault`). If only the leaf entry is missing, the guest PTE that
it shadows decides. Otherwise the guest's tables are walked. A fault of the guest's own is returned.
Else the walk has set A and D, and the path of shadow pages is built along it: at each level the
page for (gfn of the guest's table, role) is got from the cache, found or made, and linked. That an
existing page is found is the point of it all. Below a large guest page, and with paging off, the
pages are direct. At last the leaf is set.

**A write to a page table** (:meth:`ShadowMmu.written`). The cache zaps what followed from the bytes
that changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..api import (
    FRAME_MASK,
    MAP_EXEC,
    MAP_READ,
    MAP_WRITE,
    Answer,
    NotCanonical,
    PagingRegisters,
    TlbHost,
)
from ..arch import (
    ACCESS_FETCH,
    ACCESS_WRITE,
    PAGE_SHIFT,
    Features,
    Levels,
    is_canonical,
    pkey_denies,
)
from ..memory import Memory
from ..observe import CompiledBlock, Counters
from ..tlb import TlbTracker
from ..walker import Context
from .audit import audit
from .cache import ShadowCache
from .context import SHIFTS, SHIFTS_32, ShadowContext, hardware_tests, plain_tests
from .fast.publish import publish, publish_root
from .fast.record import Block
from .fault import Faults
from .policy import Policy
from .pool import (
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
from .role import describe_role, mode_bits
from .roots import ShadowRoots
from .watch import Watch


class ShadowMmu(ShadowRoots):
    """The plug-in. ``pool`` is the most shadow pages that may stand at once, all vCPUs together.

    Raises:
        PoolError: ``pool`` is less than one path of tables and the other vCPUs' roots need.
    """

    name = "shadow"
    context_class: ClassVar[type[ShadowContext]] = ShadowContext
    reports_events = True
    flush_on_invlpg = False
    """The engine's own INVLPG, of one 4 KiB entry, is enough. A change of a large page has flushed
    the TLBs by itself: it stands in a table that is write-protected, and an spte stands for it as
    long as a TLB may hold a piece of it."""

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
        self.epochs = self.pool.epochs
        self.faults = Faults(memory, self.tlb, self.pool, self.cache, self.counters)
        self.contexts = [self._new_context(cpu, Context(features)) for cpu in range(cpus)]
        self.cache.paths = [context.paths for context in self.contexts]
        self._blocks: dict[int, Block] = {}
        self._choose_plain_tests()

    def _new_context(self, cpu: int, paging: Context) -> ShadowContext:
        root = self.pool.root_table(cpu)
        return self.context_class(paging, root, None, SHIFTS_32, 0, hardware_tests(False, False))

    def _choose_plain_tests(self) -> None:
        """Say which misses :meth:`translate` may answer from the leaf alone: after any change of
        what else has a say. A fetch under SMAP grants no read, with several vCPUs it is noted who
        runs the code; with dirty logging on every write is."""
        for context in self.contexts:
            paging = context.paging
            context.plain = plain_tests(
                paging.smep,
                paging.smap,
                not self.tlb.is_logging,
                self.tlb.cpus == 1 and not paging.smap,
                paging.pke,
                paging.regs.pkru if paging.pke else 0,
                paging.wp,
            )

    # --- CR3 ----------------------------------------------------------------------------------

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """See :meth:`mmu.api.Mmu.load`. A known address space costs one dict look-up (four for
        guests with 32-bit addresses) in addition to decoding the registers."""
        context = self.contexts[cpu]
        paging = context.paging
        changed = paging.load(self.memory, regs)
        self.tlb.flushed(cpu)
        self._leave_root(cpu, context)
        if changed:
            context.mode = mode_bits(regs.cr0, regs.cr4, regs.efer)
            context.shifts = SHIFTS[paging.levels]
            context.tests = hardware_tests(paging.smep, paging.smap)
            self._choose_plain_tests()
        if paging.levels >= Levels.FOUR:
            self._enter_root_page(context)
        else:
            self._enter_root_table(cpu, context)
        self._publish(cpu, changed)

    def compiled_block(self, cpu: int) -> CompiledBlock | None:
        """See :meth:`mmu.api.Mmu.compiled_block`: the block for :func:`mmu.shadow.fast.walk.hit`,
        kept up to date from the first call."""
        block = self._blocks.get(cpu)
        if block is None:
            block = self._blocks[cpu] = Block(cpu)
            self.counters.compiled.append(block)
            self._publish(cpu)
        return block

    def observers_changed(self) -> None:
        """See :meth:`mmu.api.Mmu.observers_changed`: compiled code answers nothing while somebody
        observes."""
        self.tlb.observers = self.cache.observers = self.observers
        for cpu in self._blocks:
            self._publish(cpu)

    def _publish(self, cpu: int, changed: bool = True) -> None:
        """Show compiled code the vCPU's root, and with ``changed`` everything else too."""
        block = self._blocks.get(cpu)
        if block is None:
            return
        if changed:
            publish(block, self.contexts[cpu], self.cache)
        publish_root(block, self.contexts[cpu].root)

    # --- A TLB miss ---------------------------------------------------------------------------

    def translate(self, cpu: int, gva: int, access: int) -> Answer:
        """See :meth:`mmu.api.Mmu.translate`. 0.5 us for a hit in a leaf page among the paths.

        Four steps: find the leaf page, in ``paths`` or by a walk; check that its entry is in sync;
        check that the entry allows the access; grant. The check here passes only what needs no
        second look. The grant repeats, without a call, what :meth:`Faults.answer` gives then.
        """
        self.counters.fills += 1
        context = self.contexts[cpu]
        page = context.paths.get(gva >> 21)
        if page is None:
            return self._walk(cpu, context, gva, access)
        place = page.base + (gva >> 12 & 511)
        spte = self.words[place]
        mask, want = context.plain[access]
        copy = page.copy
        if copy is not None:
            word = gva >> page.word_shift & 511
            if copy[word] != page.table64[word]:
                gva &= context.paging.gva_mask
                return self.faults.leaf_fault(cpu, context, page, place, gva, access)
        if spte & mask != want:
            return self._look_again(cpu, context, page, place, gva, access)
        # What `Faults.answer` says to these, which nothing but the leaf decides.
        tlb = self.tlb
        gpa = spte & SPTE_FRAME
        rights = MAP_READ
        if access & ACCESS_WRITE:
            if tlb.fetched_epoch[gpa >> PAGE_SHIFT]:
                return self.faults.answer(cpu, context, place, spte, gpa, access)
            tlb.written_epoch[gpa >> PAGE_SHIFT] = tlb.epoch
            rights = MAP_READ | MAP_WRITE
        elif access & ACCESS_FETCH:
            gfn = gpa >> PAGE_SHIFT
            if tlb.written_epoch[gfn] or not tlb.fetched_epoch[gfn]:
                return self.faults.answer(cpu, context, place, spte, gpa, access)
            tlb.fetched_epoch[gfn] = tlb.epoch
            rights = MAP_READ | MAP_EXEC
        self.epochs[place] = tlb.epoch
        return gpa | rights

    def _look_again(
        self, cpu: int, context: ShadowContext, page: ShadowPage, place: int, gva: int, access: int
    ) -> Answer:
        """Answer from a leaf that is in sync, or serve the fault at it."""
        spte = self.words[place]
        mask, want = context.tests[access]
        if spte & mask == want or (
            spte & SPTE_TRAP_WRITE and (spte | SPTE_WRITABLE) & mask == want
        ):
            paging = context.paging
            if not paging.pke or not self._pkey_denies(paging, spte, access):
                if spte & SPTE_TRAP:
                    self.counters.mmio_hit += 1
                return self.faults.answer(cpu, context, place, spte, spte & SPTE_FRAME, access)
        gva &= context.paging.gva_mask
        return self.faults.leaf_fault(cpu, context, page, place, gva, access)

    def _walk(self, cpu: int, context: ShadowContext, gva: int, access: int) -> Answer:
        """Walk the shadow tables from the root, and note the path if it leads to a leaf page."""
        paging = context.paging
        whole, gva = gva, gva & paging.gva_mask
        if not is_canonical(gva, paging.canonical_bits):
            return NotCanonical(gva)
        words = self.words
        place = context.root
        for shift in context.shifts:
            place += gva >> shift & 511
            spte = words[place]
            if spte & (SPTE_PRESENT | SPTE_LARGE) != SPTE_PRESENT:
                if not spte & SPTE_PRESENT:
                    return self.faults.fault(cpu, context, gva, access)
                return self._answer_large(cpu, context, place, gva, access)
            place = (spte & SPTE_FRAME) >> 3  # a table number << 12 -> its first place
        page = self.pool.page_at(place)
        assert page is not None  # under the directories there are no root tables
        place += gva >> 12 & 511
        context.paths[whole >> 21] = page
        if page.copy is not None and self.cache.unsync.is_stale(place):
            return self.faults.leaf_fault(cpu, context, page, place, gva, access)
        return self._look_again(cpu, context, page, place, gva, access)

    def _answer_large(
        self, cpu: int, context: ShadowContext, place: int, gva: int, access: int
    ) -> Answer:
        """Answer from an entry that stands for 2 MiB, or serve the fault at it."""
        spte = self.words[place]
        mask, want = context.tests[access]
        paging = context.paging
        if spte & mask != want or (paging.pke and self._pkey_denies(paging, spte, access)):
            return self.faults.fault(cpu, context, gva, access)
        gpa = spte & FRAME_MASK | gva & 0x1F_F000
        return self.faults.answer(cpu, context, place, spte, gpa, access)

    def _pkey_denies(self, paging: Context, spte: int, access: int) -> bool:
        pkey = spte >> SPTE_PKEY_SHIFT & 15
        return bool(spte & SPTE_USER) and pkey_denies(paging.regs.pkru, pkey, access, wp=paging.wp)

    # --- Everything else ----------------------------------------------------------------------

    def written(self, gpa: int, size: int, source: str) -> None:
        """See :meth:`mmu.api.Mmu.written`. One look-up for a frame that is no table."""
        end = gpa + size
        while gpa < end:
            gfn = gpa >> PAGE_SHIFT
            length = min(end, gfn + 1 << PAGE_SHIFT) - gpa
            self.tlb.changed(gfn)
            if source == "guest" and not self.cache.is_protected(gfn):
                # The store was trapped, yet the frame is no table any more (or a table that may
                # be written): some TLB entry still sends stores to us. Let it be answered anew.
                self._stop_trapping(gpa)
            if gfn in self.cache.tables:
                self.cache.guest_wrote(gpa, length)
                if source == "guest" and length < 4 and gpa & 3:
                    # Nobody sets a part of an entry, but for the flags in its first byte. Unaligned
                    # stores arrive in such pieces. KVM: detect_write_misaligned.
                    self.reused(gpa)
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

    def reused(self, gpa: int) -> bool:
        """Take a hint that a frame is no page table any more, from the kind of a write to it that
        would be trapped. Return whether such writes need no trap now. A hint that is wrong costs
        the tables being built again.
        """
        gfn = gpa >> PAGE_SHIFT
        if self.policy.reuse and self.cache.is_protected(gfn):
            self.cache.zap_reused(gfn)
        return not self.cache.is_protected(gfn)

    def invlpg(self, cpu: int, gva: int) -> None:
        """See :meth:`mmu.api.Mmu.invlpg`. There is nothing to do: entries that may be stale are
        compared with the guest's at every miss, and large pages stand in protected tables."""
        self.counters.invlpg += 1

    @property
    def version(self) -> int | None:
        """See :attr:`mmu.api.Mmu.version`."""
        return self.cache.version

    def is_protected(self, gfn: int) -> bool:
        """See :meth:`mmu.api.Mmu.is_protected`."""
        return self.cache.is_protected(gfn)

    def keeps(self, cpu: int, gva: int) -> bool:
        """See :meth:`mmu.api.Mmu.keeps`. A translation from a table out of sync is not kept: the
        guest may change the table and execute INVLPG, and neither is seen."""
        context = self.contexts[cpu]
        known = context.paths.get(gva >> 21)
        if known is not None:
            return known.copy is None and bool(self.words[known.base + (gva >> 12 & 511)])
        _, place, spte = context.path(self.words, gva)[-1]
        page = self.pool.page_at(place)
        return (
            bool(spte & SPTE_PRESENT)
            and page is not None
            and page.gfn not in self.cache.unsync.copies
        )

    def flushed(self, cpu: int) -> None:
        """See :meth:`mmu.api.Mmu.flushed`."""
        self.tlb.flushed(cpu)

    def remapped(self) -> None:
        """See :meth:`mmu.api.Mmu.remapped`. Everything goes, as with KVM's memory slots."""
        self._leave_everything()
        self.tlb.remapped()
        self.cache.remapped()
        self._enter_roots()  # they are protected in the new maps of frames

    # --- For the owner of the machine ---------------------------------------------------------

    def set_policy(self, text: str) -> None:
        """Change the policy (see :meth:`mmu.shadow.policy.Policy.but`) and start afresh."""
        self.cache.policy = self.policy = self.policy.but(text)
        self.zap_all()

    def zap_all(self) -> None:
        """See :meth:`mmu.api.Mmu.zap_all`. The pages themselves are taken apart lazily."""
        self._leave_everything()
        self._enter_roots()

    def _leave_everything(self) -> None:
        for cpu, context in enumerate(self.contexts):
            self._leave_root(cpu, context)
        self.cache.zap_all_fast()

    def _enter_roots(self) -> None:
        for cpu, context in enumerate(self.contexts):
            if context.paging.levels >= Levels.FOUR:
                self._enter_root_page(context)
            self._publish(cpu)

    def shrink(self, pages: int) -> int:
        """See :meth:`mmu.api.Mmu.shrink`, and KVM's mmu_shrink_scan. Roots in use stay."""
        return self.cache.shrink(pages)

    def start_dirty_log(self) -> None:
        """See :meth:`mmu.api.Mmu.start_dirty_log`."""
        self.tlb.start_dirty_log()
        self._choose_plain_tests()
        for cpu in self._blocks:
            self._publish(cpu)

    def dirty_log(self) -> list[int]:
        """See :meth:`mmu.api.Mmu.dirty_log`."""
        return self.tlb.dirty_log()

    def stop_dirty_log(self) -> None:
        """See :meth:`mmu.api.Mmu.stop_dirty_log`."""
        self.tlb.stop_dirty_log()
        self._choose_plain_tests()
        for cpu in self._blocks:
            self._publish(cpu)

    def pdptes(self, cpu: int) -> list[int]:
        """See :meth:`mmu.api.Mmu.pdptes`."""
        return list(self.contexts[cpu].paging.pdptes)

    def restore_pdptes(self, cpu: int, pdptes: Sequence[int]) -> None:
        """See :meth:`mmu.api.Mmu.restore_pdptes`."""
        context = self.contexts[cpu]
        context.paging.pdptes = list(pdptes)
        if context.paging.levels is Levels.PAE:
            self._leave_root(cpu, context)
            self._enter_root_table(cpu, context)
            self._publish(cpu)

    def describe_path(self, cpu: int, gva: int) -> str:
        """See :meth:`mmu.api.Mmu.describe_path`."""
        context = self.contexts[cpu]
        gva &= context.paging.gva_mask
        lines = [f"{gva:#x} in the shadow tables of vCPU {cpu}"]
        for level, place, spte in context.path(self.words, gva):
            page = self.pool.page_at(place)
            name = describe_role(page.gfn, page.role) if page else "root table"
            lines.append(f"  level {level} [{place & 511:3}] {spte:#018x}  {name}")
        return "\n".join(lines)

    def check(self) -> None:
        """See :meth:`mmu.api.Mmu.check`. O(shadow pages)."""
        audit(self)

    def watch(self) -> Watch:
        """See :meth:`mmu.api.Mmu.watch`."""
        return Watch(self)
