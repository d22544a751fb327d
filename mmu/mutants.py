# SPDX-License-Identifier: GPL-2.0-or-later
"""Wrong on purpose: each class is the shadow MMU with one bug that a real one had, or nearly had.

They show what the tests are worth: `tests/mmu/test_mutants.py` runs the cases against each and
wants it killed, by a case of a number in ``case``. And as plug-ins (``mmu.mutants:Kvm2007``) they
show what the bug does to a guest, and what ``lockstep:mmu.mutants:Kvm2007,uncached`` says to it.

The bugs are written as patches of one instance: :func:`_around` puts a function around a method.
``bug`` says in a line what is wrong. ``CATALOGUE`` lists them by name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from .api import Answer, PageFault, PagingRegisters, TlbHost
from .arch import (
    ACC_ALL,
    ACC_EXEC,
    ACC_USER,
    ACC_WRITE,
    CR0_PG,
    PAGE_SHIFT,
    PFERR_PRESENT,
    PFERR_RSVD,
    PT_PRESENT,
    Features,
    Levels,
)
from .memory import Memory
from .shadow.context import ShadowContext
from .shadow.mmu import ShadowMmu
from .shadow.pool import SPTE_PRESENT, SPTE_TRAP_WRITE, SPTE_WRITABLE, ShadowPage
from .shadow.role import (
    ACCESS_SHIFT,
    GLEVELS_MASK,
    NXE,
    PKE_ANDNOT_WP,
    PKEY_SHIFT,
    PSE,
    QUADRANT_SHIFT,
    SMAP_ANDNOT_WP,
    SMEP_ANDNOT_WP,
    WP,
    is_direct,
    level_of,
)
from .walker import Walk, read_pdptes

__all__ = ["CATALOGUE", "Mutant"]


def _around(owner: object, name: str, wrapper: Callable[..., Any]) -> None:
    """Call ``wrapper(original, *args)`` instead of ``owner.name(*args)``."""
    setattr(owner, name, partial(wrapper, getattr(owner, name)))


def _instead(owner: object, name: str, function: Callable[..., Any]) -> None:
    setattr(owner, name, function)


def _no_compiled_code(self: object) -> None:
    raise AttributeError("block")  # it would answer without the bug


class Mutant(ShadowMmu):
    """The shadow MMU, to be broken by :meth:`mutate`."""

    bug: ClassVar[str]
    case: ClassVar[tuple[int, ...]]
    forgotten_mode_bits: ClassVar[int] = 0
    context_class: ClassVar[type[ShadowContext]] = ShadowContext
    block: Any = property(_no_compiled_code)

    def __init__(
        self, memory: Memory, host: TlbHost, cpus: int, *, features: Features, pool: int
    ) -> None:
        super().__init__(memory, host, cpus, features=features, pool=pool)
        self.name = type(self).__name__
        for context in self.contexts:
            context.__class__ = self.context_class
        self.mutate()

    def mutate(self) -> None:
        """Put the bug in."""

    def _enter_root_page(self, context: ShadowContext) -> None:
        context.mode &= ~self.forgotten_mode_bits
        super()._enter_root_page(context)

    def _link_known_directory(self, context: ShadowContext, quarter: int) -> None:
        context.mode &= ~self.forgotten_mode_bits
        super()._link_known_directory(context, quarter)


# --- The key ----------------------------------------------------------------------------------


class _KeyWithoutAccess(ShadowContext):
    __slots__ = ()

    def child_key(self, found: Walk, level: int, direct_rights: int) -> tuple[int, int]:
        gfn, role = super().child_key(found, level, direct_rights)
        return gfn, role | (0 if is_direct(role) else ACC_ALL << ACCESS_SHIFT)


class Kvm2007(Mutant):
    """The key as it was published."""

    bug = "inherited access is not in the key (CVE-2021-38198)"
    case = (1,)
    context_class = _KeyWithoutAccess


class _DirectKeyWithoutAccess(ShadowContext):
    __slots__ = ()

    def child_key(self, found: Walk, level: int, direct_rights: int) -> tuple[int, int]:
        gfn, role = super().child_key(found, level, direct_rights)
        return gfn, role | (ACC_ALL << ACCESS_SHIFT if is_direct(role) else 0)


class DirectPagesShared(Mutant):
    """A large page's small ones are shared by all who map it, with the rights of any of them."""

    bug = "direct pages of other rights are one page"
    case = (2, 3)
    context_class = _DirectKeyWithoutAccess

    def mutate(self) -> None:
        """Put the bug in."""
        _around(
            self.faults,
            "_build",
            lambda build, context, found, rights, to_level: build(
                context, found, ACC_ALL, to_level
            ),
        )


class DirectPagesFightOver(Mutant):
    """Linux d28c6cfbbc5e: right, but each use of the one tears down the other."""

    bug = "the direct page is rebuilt each time its other user comes by"
    case = (2,)

    def mutate(self) -> None:
        """Put the bug in."""
        kept: dict[int, ShadowPage] = {}

        def get_page(get: Callable[[int, int], ShadowPage], gfn: int, role: int) -> ShadowPage:
            if is_direct(role) and role & GLEVELS_MASK:
                old = kept.get(gfn)
                if old is not None and old.role != role and old in set(self.pool):
                    self.cache.zap_page(old)
            page = get(gfn, role)
            if page.direct:
                kept[gfn] = page
            return page

        _around(self.cache, "get_page", get_page)


class DirectPagesWritableBeforeDirty(Mutant):
    """Linux c22885050e65."""

    bug = "a direct page is writable before its large entry is dirty, and shared with a clean one"
    case = (4,)

    def mutate(self) -> None:
        """Put the bug in."""

        def build(
            build: Callable[..., Any], context: ShadowContext, found: Walk, rights: int, level: int
        ) -> Any:
            may_write = found.rights & ACC_WRITE or not context.paging.wp
            return build(context, found, rights | ACC_WRITE if may_write else rights, level)

        _around(self.faults, "_build", build)
        _around(self.cache, "may_be_large", lambda may, gfn: False)


class _KeyWithoutLevels(ShadowContext):
    __slots__ = ()

    def child_key(self, found: Walk, level: int, direct_rights: int) -> tuple[int, int]:
        gfn, role = super().child_key(found, level, direct_rights)
        if level_of(role) > 1 or is_direct(role):
            return gfn, role
        return gfn, role & ~GLEVELS_MASK | Levels.PAE


class WidthsShareAKey(Mutant):
    """One frame, read as 4-byte and as 8-byte entries."""

    bug = "the levels of the guest's tables are not in the key"
    case = (28,)
    context_class = _KeyWithoutLevels


class _KeyWithoutQuadrant(ShadowContext):
    __slots__ = ()

    def child_key(self, found: Walk, level: int, direct_rights: int) -> tuple[int, int]:
        gfn, role = super().child_key(found, level, direct_rights)
        return gfn, role & ~(1 << QUADRANT_SHIFT) if level == 1 else role


class HalvesShareAKey(Mutant):
    """Entry 0 and entry 512 of a 32-bit table."""

    bug = "the quadrant of a page table is not in the key"
    case = (5, 6)
    context_class = _KeyWithoutQuadrant


class _DirectKeyWithoutPkey(ShadowContext):
    __slots__ = ()

    def child_key(self, found: Walk, level: int, direct_rights: int) -> tuple[int, int]:
        gfn, role = super().child_key(found, level, direct_rights)
        return gfn, role & ~(15 << PKEY_SHIFT)


class KeysShareADirectPage(Mutant):
    """Two large pages of one frame, one of them with a protection key."""

    bug = "the protection key of a large page is not in the key of its direct page"
    case = (27,)
    context_class = _DirectKeyWithoutPkey


class NxNotInKey(Mutant):
    """Linux 5f0b819995e1."""

    bug = "EFER.NXE is not in the key"
    case = (16,)
    forgotten_mode_bits = NXE


class WpNotInKey(Mutant):
    """kvm-unit-tests, check_toggle_cr0_wp."""

    bug = "CR0.WP is not in the key"
    case = (17,)
    forgotten_mode_bits = WP | SMEP_ANDNOT_WP | SMAP_ANDNOT_WP | PKE_ANDNOT_WP


class SmepNotInKey(Mutant):
    """A page written under CR0.WP = 0 before CR4.SMEP was set."""

    bug = "CR4.SMEP with CR0.WP = 0 is not in the key"
    case = (18,)
    forgotten_mode_bits = SMEP_ANDNOT_WP


class SmapNotInKey(Mutant):
    """The same for CR4.SMAP."""

    bug = "CR4.SMAP with CR0.WP = 0 is not in the key"
    case = (18,)
    forgotten_mode_bits = SMAP_ANDNOT_WP


class PkeNotInKey(Mutant):
    """The same for CR4.PKE."""

    bug = "CR4.PKE with CR0.WP = 0 is not in the key"
    case = (18,)
    forgotten_mode_bits = PKE_ANDNOT_WP


class PseNotInKey(Mutant):
    """Bit 7 of a 32-bit directory entry."""

    bug = "CR4.PSE is not in the key"
    case = (15,)
    forgotten_mode_bits = PSE


# --- Writes to tables -------------------------------------------------------------------------


class DirectoryEditZapsOneHalf(Mutant):
    """Linux ac1b714e78c8."""

    bug = "a write to a 32-bit directory entry zaps one of its two shadow entries"
    case = (5,)

    def mutate(self) -> None:
        """Put the bug in."""

        def zap_entry(zap: Callable[..., bool], page: ShadowPage, place: int) -> bool:
            if page.glevels == 2 and page.level == 2 and place & 1:
                return False
            return zap(page, place)

        _around(self.cache, "zap_entry", zap_entry)


class WrongQuadrantZapped(Mutant):
    """Linux fce0657ff9f1."""

    bug = "a write to a 32-bit table is looked for in the next quadrant"
    case = (5, 6)

    def mutate(self) -> None:
        """Put the bug in."""

        def zap_bytes(
            zap: Callable[..., bool], page: ShadowPage, offset: int, *rest: Any, **but: int
        ) -> bool:
            if page.glevels == 2:
                offset ^= 0x800 if page.level == 1 else 0x400
            return zap(page, offset, *rest, **but)

        _around(self.cache, "_zap_bytes", zap_bytes)


class AllQuadrantsZapped(Mutant):
    """Harmless to the guest, and a waste."""

    bug = "a write to a 32-bit table zaps the entry of that number in every quadrant"
    case = (6,)

    def mutate(self) -> None:
        """Put the bug in."""

        def zap_bytes(
            zap: Callable[..., bool], page: ShadowPage, offset: int, *rest: Any, **but: int
        ) -> bool:
            if page.glevels == 2:
                size = 0x800 if page.level == 1 else 0x400
                offset = offset % size + page.quadrant * size
            return zap(page, offset, *rest, **but)

        _around(self.cache, "_zap_bytes", zap_bytes)


class OnlyTheFirstEntryOfAWideStore(Mutant):
    """KVM, January 2007, patch 20."""

    bug = "a store over two entries changes the first"
    case = (7,)

    def mutate(self) -> None:
        """Put the bug in."""
        _around(self.cache, "guest_wrote", lambda wrote, gpa, size, **more: wrote(gpa, 1, **more))


class MisalignedStoreUnseen(Mutant):
    """The same patch, the other way round."""

    bug = "a store that is not aligned to an entry is taken for none"
    case = (7,)

    def mutate(self) -> None:
        """Put the bug in."""

        def guest_wrote(wrote: Callable[..., None], gpa: int, size: int, **more: int) -> None:
            if gpa & 3 == 0:
                wrote(gpa, size, **more)

        _around(self.cache, "guest_wrote", guest_wrote)


class UpperHalfUnseen(Mutant):
    """KVM, January 2007, patch 26: wide atomic stores arrive in two halves."""

    bug = "the second half of an 8-byte entry is not looked at"
    case = (8, 28)

    def mutate(self) -> None:
        """Put the bug in."""

        def zap_bytes(
            zap: Callable[..., bool], page: ShadowPage, offset: int, *rest: Any, **but: int
        ) -> bool:
            return not (page.glevels > 2 and offset & 4) and zap(page, offset, *rest, **but)

        _around(self.cache, "_zap_bytes", zap_bytes)


class CrossingStoreLost(Mutant):
    """A store from the page before."""

    bug = "only the first page of a store is looked at"
    case = (13,)

    def written(self, gpa: int, size: int, source: str) -> None:
        """See :meth:`mmu.api.Mmu.written`."""
        super().written(gpa, min(size, 0x1000 - (gpa & 0xFFF)), source)


class HostWritesUnseen(Mutant):
    """CVE-2026-23401, -23402."""

    bug = "only the guest's own stores to its tables count"
    case = (13,)

    def written(self, gpa: int, size: int, source: str) -> None:
        """See :meth:`mmu.api.Mmu.written`."""
        if source == "guest":
            super().written(gpa, size, source)


class UnlinkedTablesNotWatched(Mutant):
    """Linux 65855ed8b034."""

    bug = "a write to a table that nothing leads to now is not looked at"
    case = (11,)

    def mutate(self) -> None:
        """Put the bug in."""

        def zap_bytes(zap: Callable[..., bool], page: ShadowPage, *rest: Any, **but: int) -> bool:
            return bool(page.parents or page.pins) and zap(page, *rest, **but)

        _around(self.cache, "_zap_bytes", zap_bytes)
        _around(self.cache, "try_unsync", lambda try_unsync, gfn: False)


class NeverCompared(Mutant):
    """The same, of a table out of sync."""

    bug = "entries of a table out of sync are not compared when they are used"
    case = (7, 11)

    def mutate(self) -> None:
        """Put the bug in."""
        _around(self.cache, "is_stale", lambda is_stale, place: False)


class RefillForgotten(Mutant):
    """Changed, used, changed back."""

    bug = "an entry filled from a table out of sync is held against the table of before"
    case = (11,)

    def mutate(self) -> None:
        """Put the bug in."""
        _around(self.cache, "_note_refill", lambda note, place: None)
        _around(self.cache, "forget_stale", lambda forget, place: self.cache.drop_leaf(place))


class UpperTablesOutOfSync(Mutant):
    """One stale upper entry stands for too much."""

    bug = "a directory may go out of sync like a page table"
    case = (5, 11, 12)

    def mutate(self) -> None:
        """Put the bug in."""

        def try_unsync(_: Callable[..., bool], gfn: int) -> bool:
            if gfn in self.cache.tables and self.cache.policy.unsync:
                pages = self.cache.tables[gfn]
                levels = [page.level for page in pages]
                for page in pages:
                    page.level = 1
                done = self._try_unsync(gfn)
                for page, level in zip(pages, levels, strict=True):
                    page.level = level
                return done
            return False

        self._try_unsync = self.cache.try_unsync
        _around(self.cache, "try_unsync", try_unsync)


class OnlyOnePageOfAFrame(Mutant):
    """Linux cea0f0e7ea54: a frame that is directory and table."""

    bug = "a write to a frame changes one of the pages that stand for it"
    case = (21, 28)

    def mutate(self) -> None:
        """Put the bug in."""

        def guest_wrote(wrote: Callable[..., None], gpa: int, size: int, **more: int) -> None:
            pages = self.cache.tables.get(gpa >> PAGE_SHIFT)
            if pages is None or len(pages) < 2:
                wrote(gpa, size, **more)
                return
            self.cache.tables[gpa >> PAGE_SHIFT] = pages[:1]
            wrote(gpa, size, **more)
            self.cache.tables[gpa >> PAGE_SHIFT] = pages

        _around(self.cache, "guest_wrote", guest_wrote)
        _around(self.cache, "try_unsync", lambda try_unsync, gfn: False)
        _around(self.cache, "_detect_flood", lambda detect, page: None)


class OtherWidthsBitsForgotten(Mutant):
    """A at bit 37 of an 8-byte entry, seen as two of 4 bytes."""

    bug = "A and D set for entries of one width change none of the other"
    case = (28,)

    def mutate(self) -> None:
        """Put the bug in."""

        def guest_wrote(wrote: Callable[..., None], gpa: int, size: int, **more: int) -> None:
            if not more:
                wrote(gpa, size)

        _around(self.cache, "guest_wrote", guest_wrote)


# --- Write protection -------------------------------------------------------------------------


class OldMappingsStayWritable(Mutant):
    """A frame that becomes a table while somebody maps it."""

    bug = "a new table is not write-protected"
    case = (12, 22)

    def mutate(self) -> None:
        """Put the bug in."""
        _around(self.cache, "_write_protect", lambda protect, gfn: None)


class OneAliasProtected(Mutant):
    """kvm-unit-tests, rmap_chain."""

    bug = "of a new table's mappings one loses its write right"
    case = (22,)

    def mutate(self) -> None:
        """Put the bug in."""

        def protect(_: Callable[..., None], gfn: int) -> None:
            for place in self.cache.rmap.places(gfn)[:1]:
                spte = self.words[place]
                if spte & SPTE_WRITABLE:
                    self.words[place] = spte & ~SPTE_WRITABLE | SPTE_TRAP_WRITE
            self.tlb.protect(gfn)

        _around(self.cache, "_write_protect", protect)


class TlbsNotFlushedOnProtect(Mutant):
    """The tables are right, the TLBs are not."""

    bug = "a new table is write-protected in the shadow tables and not in the TLBs"
    case = (12, 22)

    def mutate(self) -> None:
        """Put the bug in."""
        _around(self.tlb, "protect", lambda protect, gfn: None)


class OtherVcpusNotFlushed(Mutant):
    """Linux f7d9c7b7b902 and its kind."""

    bug = "a flush empties the TLB of the first vCPU only"
    case = (12,)

    def mutate(self) -> None:
        """Put the bug in."""
        host = self.tlb.host

        class FirstOnly:
            drop_code = staticmethod(host.drop_code)

            @staticmethod
            def flush_tlb(cpu: int) -> None:
                if cpu == 0:
                    host.flush_tlb(cpu)

        self.tlb.host = FirstOnly()


class LargePagesOverTables(Mutant):
    """Linux 404381c5839d."""

    bug = "a large entry is made where one of its frames is a table"
    case = (25,)

    def mutate(self) -> None:
        """Put the bug in."""

        def may_be_large(may: Callable[[int], bool], gfn: int) -> bool:
            kept = self.cache.tables_in_large
            self.cache.tables_in_large = {}
            try:
                return may(gfn)
            finally:
                self.cache.tables_in_large = kept

        _around(self.cache, "may_be_large", may_be_large)


class LargePagesNotSplit(Mutant):
    """Linux d3c422bd3338."""

    bug = "a frame in a large page becomes a table and the large entry stays"
    case = (25,)

    def mutate(self) -> None:
        """Put the bug in."""

        def protect(_: Callable[..., None], gfn: int) -> None:
            for place in self.cache.rmap.places(gfn):
                spte = self.words[place]
                if spte & SPTE_WRITABLE:
                    self.words[place] = spte & ~SPTE_WRITABLE | SPTE_TRAP_WRITE
            self.tlb.protect(gfn)

        _around(self.cache, "_write_protect", protect)


# --- Faults -----------------------------------------------------------------------------------


class StaleDirty(Mutant):
    """A page is writable and its D never set."""

    bug = "a leaf is writable where the guest's entry is, dirty or not"
    case = (4,)

    def mutate(self) -> None:
        """Put the bug in."""

        def make_leaf(make: Callable[..., int], gfn: int, rights: int, **more: Any) -> int:
            more["writable"] = more["writable"] or bool(rights & ACC_WRITE)
            return make(gfn, rights, **more)

        _around(self.cache, "make_leaf", make_leaf)


class CleanedEntriesUnseen(Mutant):
    """D cleared by the guest, to see it set again."""

    bug = "a write that changes nothing but A and D of an entry is not looked at"
    case = (4,)

    def mutate(self) -> None:
        """Put the bug in."""

        def guest_wrote(wrote: Callable[..., None], gpa: int, size: int, **more: int) -> None:
            if size > 1:
                wrote(gpa, size, **more)

        _around(self.cache, "guest_wrote", guest_wrote)


class SmepForgottenWithWpOff(Mutant):
    """kvm-unit-tests, check_smep_andnot_wp."""

    bug = "a user page made a supervisor's under CR0.WP = 0 stays executable under SMEP"
    case = (18,)

    def mutate(self) -> None:
        """Put the bug in."""

        def install(
            install: Callable[..., Any], context: ShadowContext, found: Walk, rights: int
        ) -> Any:
            if found.rights & ACC_USER and not rights & ACC_USER:
                rights |= found.rights & ACC_EXEC
            return install(context, found, rights)

        _around(self.faults, "_install", install)


class PrefetchTakesAnything(Mutant):
    """kvm-unit-tests, check_pfec_on_prefetch_pte."""

    bug = "prefetch fills neighbours that were not accessed, are clean or have reserved bits"
    case = (19,)

    def mutate(self) -> None:
        """Put the bug in."""

        def prefetch(
            _: Callable[..., None], context: ShadowContext, page: ShadowPage, place: int
        ) -> None:
            wide = page.glevels != 2
            table = (self.memory.table64 if wide else self.memory.table32)(page.gfn)
            for step in range(1, min(8, 512 - (place & 511))):
                gpte = table[(page.quadrant << 9 | place & 511) + step] if table else 0
                if gpte & PT_PRESENT and not self.words[place + step] & SPTE_PRESENT:
                    rights = page.access & (gpte & (ACC_WRITE | ACC_USER) | ACC_EXEC)
                    gfn = (gpte & context.paging.frame_mask) >> PAGE_SHIFT
                    writable = bool(rights & ACC_WRITE)
                    self.cache.set_leaf(
                        place + step, self.cache.make_leaf(gfn, rights, writable=writable)
                    )

        _around(self.faults, "_prefetch", prefetch)


class ReservedWithoutPresent(Mutant):
    """QEMU 7.2's TCG."""

    bug = "a reserved-bit fault has P clear in its error code"
    case = (29,)

    def translate(self, cpu: int, gva: int, access: int) -> Answer:
        """See :meth:`mmu.api.Mmu.translate`."""
        answer = super().translate(cpu, gva, access)
        if isinstance(answer, PageFault) and answer.error_code & PFERR_RSVD:
            return PageFault(answer.gva, answer.error_code & ~PFERR_PRESENT)
        return answer


# --- Registers and roots ----------------------------------------------------------------------


class PdptesAlwaysRead(Mutant):
    """KVM, January 2007, patch 3."""

    bug = "PDPTEs are read from memory at each walk"
    case = (9,)

    def translate(self, cpu: int, gva: int, access: int) -> Answer:
        """See :meth:`mmu.api.Mmu.translate`."""
        context = self.contexts[cpu]
        paging = context.paging
        if paging.levels is Levels.PAE:
            now = read_pdptes(self.memory, paging.regs.cr3)
            if now != paging.pdptes:
                self.load(cpu, paging.regs)
        return super().translate(cpu, gva, access)


class PdptesReadOnce(Mutant):
    """KVM, January 2007, patch 6."""

    bug = "PDPTEs are not read again by a load of the same CR3"
    case = (9,)

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """See :meth:`mmu.api.Mmu.load`."""
        paging = self.contexts[cpu].paging
        kept = paging.pdptes if paging.levels is Levels.PAE else None
        same = paging.regs.cr3 == regs.cr3
        super().load(cpu, regs)
        if kept is not None and same and paging.levels is Levels.PAE:
            paging.pdptes = kept


class InvlpgFollowsTheRoot(Mutant):
    """Linux 9f46c187e2e6."""

    bug = "INVLPG follows the root page, and there is none with paging off"
    case = (14,)

    def invlpg(self, cpu: int, gva: int) -> None:
        """See :meth:`mmu.api.Mmu.invlpg`."""
        super().invlpg(cpu, gva)
        root: Any = self.contexts[cpu].root_page
        self.pool.touch(root if self.contexts[cpu].paging.regs.cr0 & CR0_PG and root else root.base)


class LevelsOfTheModeBefore(Mutant):
    """CVE-2017-12188."""

    bug = "after a switch to more levels the walk still has the old number"
    case = (15,)

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """See :meth:`mmu.api.Mmu.load`."""
        context = self.contexts[cpu]
        before = context.shifts
        super().load(cpu, regs)
        if len(context.shifts) > len(before):
            context.shifts = before


class InitLeavesPagingOn(Mutant):
    """Linux 03a6e84069d1."""

    bug = "INIT leaves CR3 and the tables of a vCPU as they were"
    case = (15, 20)

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """See :meth:`mmu.api.Mmu.load`."""
        if regs.cr0 & CR0_PG or not self.contexts[cpu].paging.regs.cr0 & CR0_PG:
            super().load(cpu, regs)
        else:
            self.tlb.flushed(cpu)


class RootsAreRecycled(Mutant):
    """KVM, January 2007, patch 25."""

    bug = "the longest unused page goes even if a vCPU runs on it"
    case = (10,)

    def mutate(self) -> None:
        """Put the bug in."""
        _instead(self.pool, "oldest_unpinned", lambda: next(iter(self.pool)))
        _instead(self.pool, "touch", lambda page: None)


class RootsNotPinned(Mutant):
    """The same, further up."""

    bug = "a root in use is not pinned"
    case = (10,)

    def _enter_root_page(self, context: ShadowContext) -> None:
        super()._enter_root_page(context)
        if context.root_page is not None:
            context.root_page.pins = 0

    def _leave_root(self, cpu: int, context: ShadowContext) -> None:
        if context.root_page is not None:
            context.root_page.pins = 1
        super()._leave_root(cpu, context)


class PoolWithoutBound(Mutant):
    """A guest that has the host's memory."""

    bug = "nothing is ever recycled"
    case = (10,)

    def mutate(self) -> None:
        """Put the bug in."""
        _around(self.cache, "reserve", lambda reserve, pages: None)


class ParentsNotUnlinked(Mutant):
    """A recycled page that somebody still leads to."""

    bug = "a page is taken out and its parents' entries stay"
    case = (10,)

    def mutate(self) -> None:
        """Put the bug in."""

        def zap_page(zap: Callable[[ShadowPage], None], page: ShadowPage) -> None:
            entries = [(place, self.words[place]) for place in page.parents]
            zap(page)
            for place, spte in entries:
                self.words[place] = spte

        _around(self.cache, "zap_page", zap_page)


class ReverseMapLeaks(Mutant):
    """Places of tables long recycled."""

    bug = "a page is taken out and its entries stay in the reverse map"
    case = (10,)

    def mutate(self) -> None:
        """Put the bug in."""

        def zap_page(zap: Callable[[ShadowPage], None], page: ShadowPage) -> None:
            leaves = [(gfn, p) for gfn, p in self.cache.rmap.items() if p in page.places]
            zap(page)
            for gfn, place in leaves:
                self.cache.rmap.add(gfn, place)

        _around(self.cache, "zap_page", zap_page)


class EverythingZappedOnCr3(Mutant):
    """What the cache was made to end."""

    bug = "a load of CR3 throws all shadow pages away"
    case = (10,)

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """See :meth:`mmu.api.Mmu.load`."""
        self.zap_all()
        super().load(cpu, regs)


class TablesInNoMemoryCrash(Mutant):
    """Xen XSA-251 and its kind."""

    bug = "a table that lies in no memory is taken for one that does"
    case = (26,)

    def mutate(self) -> None:
        """Put the bug in."""

        def protect(protect: Callable[[int], None], gfn: int) -> None:
            protect(gfn)
            self.tlb.written_epoch[gfn] = 0

        _around(self.cache, "_write_protect", protect)


# --- Tables no more ---------------------------------------------------------------------------


class OnceATableAlwaysATable(Mutant):
    """KVM, January 2007, patch 27."""

    bug = "a frame that was a table is trapped for ever"
    case = (23,)

    def mutate(self) -> None:
        """Put the bug in."""
        _around(self.cache, "_detect_flood", lambda detect, page: None)


class TrapsNotTakenBack(Mutant):
    """The same, in the entries."""

    bug = "entries that send stores to the host go on when the frame is no table any more"
    case = (23,)

    def mutate(self) -> None:
        """Put the bug in."""

        def stays_trapped(stays: Callable[[int, int], bool], place: int, gpa: int) -> bool:
            return bool(self.words[place] & SPTE_TRAP_WRITE) or stays(place, gpa)

        _around(self.faults, "_stays_trapped", stays_trapped)
        _instead(self, "_stop_trapping", lambda gpa: None)


class UseDoesNotCount(Mutant):
    """KVM, January 2007, patch 24."""

    bug = "a directory that is written now and then is thrown out though it is used"
    case = (24,)

    def mutate(self) -> None:
        """Put the bug in."""
        writes: dict[ShadowPage, int] = {}

        def detect_flood(detect: Callable[[ShadowPage], None], page: ShadowPage) -> None:
            writes[page] = writes.get(page, 0) + 1
            page.writes = writes[page]
            detect(page)

        _around(self.cache, "_detect_flood", detect_flood)


class FlushOnEveryFault(Mutant):
    """Safe and slow."""

    bug = "rights that only grow are flushed for"
    case = (24,)

    def mutate(self) -> None:
        """Put the bug in."""

        def set_leaf(set_leaf: Callable[[int, int], None], place: int, spte: int) -> None:
            set_leaf(place, spte)
            self.tlb.flush_all()

        _around(self.cache, "set_leaf", set_leaf)


# --- TLBs and code ----------------------------------------------------------------------------


class LargePagesLeftInPieces(Mutant):
    """SDM 4.10.4.1."""

    bug = "INVLPG of one address leaves the other pieces of a large page in the TLB"
    case = (27,)

    def mutate(self) -> None:
        """Put the bug in."""
        _around(self.cache, "_may_map_large", lambda may, page: False)


class DirectoryEditsNotFlushed(Mutant):
    """The same, with the page known."""

    bug = "a change of an upper entry flushes nothing"
    case = (27,)

    def mutate(self) -> None:
        """Put the bug in."""
        _around(self.cache, "_is_running", lambda is_running, page: False)
        _around(self.cache, "zap_entry", lambda zap, page, place: zap(page, place) and False)


class StampedTooEarly(Mutant):
    """An entry granted after a flush, and noted before it."""

    bug = "a leaf is stamped with the epoch before the grant, which may flush"
    case = (27,)

    def mutate(self) -> None:
        """Put the bug in."""
        answer = self.faults.answer

        def stamp(
            cpu: int, context: ShadowContext, place: int, spte: int, gpa: int, access: int
        ) -> int:
            epoch = self.tlb.epoch
            mapping = answer(cpu, context, place, spte, gpa, access)
            self.words[place] = self.words[place] & ~(127 << 52) | epoch << 52
            return mapping

        _instead(self.faults, "answer", stamp)


class CodeNotDropped(Mutant):
    """A program loaded over another."""

    bug = "translated code of a frame stays when its bytes change"
    case = (22,)

    def mutate(self) -> None:
        """Put the bug in."""
        _around(self.tlb, "changed", lambda changed, gfn: None)


class WritableAndExecutable(Mutant):
    """One engine writes what another runs."""

    bug = "a frame may be fetched from while a TLB lets stores to it through"
    case = (22,)

    def mutate(self) -> None:
        """Put the bug in."""

        def grant_exec(grant: Callable[[int, int], int], cpu: int, gfn: int) -> int:
            kept = self.tlb.written_epoch[gfn]
            self.tlb.written_epoch[gfn] = 0
            rights = grant(cpu, gfn)
            self.tlb.written_epoch[gfn] = kept
            return rights

        _around(self.tlb, "grant_exec", grant_exec)


class CheckedForOthersToo(Mutant):
    """The checked entry of one engine hides stores from another."""

    bug = "an entry is writable and executable though another vCPU runs the code"
    case = (22,)

    def mutate(self) -> None:
        """Put the bug in."""

        def grant_write(
            grant: Callable[[int, int, bool], int], cpu: int, gfn: int, executable: bool
        ) -> int:
            self.tlb._runners[gfn] = 1 << cpu
            return grant(cpu, gfn, executable)

        _around(self.tlb, "grant_write", grant_write)


class FetchesOpenPagesToReads(Mutant):
    """Execute-only memory by protection keys."""

    bug = "an entry granted for a fetch may be read whatever SMAP and keys say"
    case = (18,)

    def mutate(self) -> None:
        """Put the bug in."""
        faults = self.faults
        _around(
            faults,
            "answer",
            lambda answer, *args: answer(*args) | (1 if args[5] & 16 else 0),
        )


def _catalogue() -> dict[str, type[Mutant]]:
    found: dict[str, type[Mutant]] = {}
    for kind in Mutant.__subclasses__():
        found[kind.__name__] = kind
    return found


CATALOGUE: dict[str, type[Mutant]] = _catalogue()
"""Every mutant by name."""
