# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants with registers, roots and the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...api import Answer, PagingRegisters, TlbHost
from ...arch import (
    CR0_PG,
    Features,
    Levels,
)
from ...memory import Memory
from ...shadow.context import ShadowContext
from ...shadow.pool import ShadowPage
from ...walker import read_pdptes
from .base import Mutant, around, instead


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
    dies = "crash"
    crash = AttributeError

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
    dies = "claim"

    def _mutate(self) -> None:
        instead(self.pool, "oldest_unpinned", lambda: next(iter(self.pool)))
        instead(self.pool, "touch", lambda page: None)


class RootsNotPinned(Mutant):
    """The same, further up."""

    bug = "a root in use is not pinned"
    case = (10,)
    dies = "audit"

    def _enter_root_page(self, context: ShadowContext) -> None:
        super()._enter_root_page(context)
        if context.root_page is not None:
            context.root_page.pins = 0

    def _leave_root(self, cpu: int, context: ShadowContext) -> None:
        if context.root_page is not None:
            context.root_page.pins = 1
        super()._leave_root(cpu, context)


class PoolWithoutBound(Mutant):
    """A guest that has the host's memory. (There is some beyond the bound, so that taking it is
    no crash.)"""

    bug = "nothing is ever recycled"
    case = (10,)
    dies = "audit"

    def __init__(
        self, memory: Memory, host: TlbHost, cpus: int, *, features: Features, pool: int
    ) -> None:
        super().__init__(memory, host, cpus, features=features, pool=64 * pool)
        self.pool.bound = pool

    def _mutate(self) -> None:
        around(self.cache, "reserve", lambda reserve, pages: None)


class ParentsNotUnlinked(Mutant):
    """A recycled page that somebody still leads to."""

    bug = "a page is taken out and its parents' entries stay"
    case = (10,)
    dies = "audit"

    def _mutate(self) -> None:
        def zap_page(zap: Callable[[ShadowPage], None], page: ShadowPage) -> None:
            entries = [(place, self.words[place]) for place in page.parents]
            zap(page)
            for place, spte in entries:
                self.words[place] = spte

        around(self.cache, "zap_page", zap_page)


class ReverseMapLeaks(Mutant):
    """Places of tables long recycled."""

    bug = "a page is taken out and its entries stay in the reverse map"
    case = (10,)
    dies = "audit"

    def _mutate(self) -> None:
        def zap_page(zap: Callable[[ShadowPage], None], page: ShadowPage) -> None:
            leaves = [(gfn, p) for gfn, p in self.cache.rmap.items() if p in page.places]
            zap(page)
            for gfn, place in leaves:
                self.cache.rmap.add(gfn, place)

        around(self.cache, "zap_page", zap_page)


class EverythingZappedOnCr3(Mutant):
    """What the cache was made to end."""

    bug = "a load of CR3 throws all shadow pages away"
    case = (10,)
    dies = "claim"

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """See :meth:`mmu.api.Mmu.load`."""
        self.zap_all()
        super().load(cpu, regs)


class TablesInNoMemoryCrash(Mutant):
    """Xen XSA-251 and its kind."""

    bug = "a table that lies in no memory is taken for one that does"
    case = (26,)
    dies = "crash"
    crash = IndexError

    def _mutate(self) -> None:
        def protect(protect: Callable[[int], None], gfn: int) -> None:
            protect(gfn)
            self.tlb.written_epoch[gfn] = 0

        around(self.cache, "write_protect", protect)
