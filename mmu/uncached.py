# SPDX-License-Identifier: GPL-2.0-or-later
"""The plug-in that walks the guest's tables at every miss and remembers nothing.

It is the yardstick for the shadow cache: what :mod:`mmu.walker` says, said slowly.
"""

from __future__ import annotations

from collections.abc import Sequence

from .api import (
    MAP_READ,
    MAP_TRAP,
    MAP_WRITE,
    Answer,
    Mmu,
    PageFault,
    PagingRegisters,
    TlbHost,
)
from .arch import (
    ACC_USER,
    ACCESS_FETCH,
    ACCESS_IMPLICIT,
    ACCESS_USER,
    ACCESS_WRITE,
    PAGE_SHIFT,
    Features,
)
from .memory import Memory
from .observe import Counters
from .tlb import TlbTracker, trap_permissions
from .walker import Context, Walk, set_accessed_dirty, walk


class UncachedMmu(Mmu):
    """Walks at every miss. ``pool`` is accepted and means nothing: there are no shadow pages."""

    name = "uncached"
    reports_events = True

    def __init__(
        self, memory: Memory, host: TlbHost, cpus: int, *, features: Features, pool: int = 0
    ) -> None:
        self.counters = Counters()
        self.memory = memory
        self.tlb = TlbTracker(memory, host, cpus, self.counters)
        self.contexts = [Context(features) for _ in range(cpus)]

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """See :meth:`mmu.api.Mmu.load`."""
        self.contexts[cpu].load(self.memory, regs)
        self.tlb.flushed(cpu)

    def translate(self, cpu: int, gva: int, access: int) -> Answer:
        """See :meth:`mmu.api.Mmu.translate`. One walk."""
        self.counters.fills += 1
        self.counters.pf_taken += 1
        memory = self.memory
        context = self.contexts[cpu]
        for observer in self.observers:
            observer.pagetable_walk(cpu, gva, access)
        found = walk(memory, context, gva, access)
        if found.fault is not None:
            self.counters.pf_guest += 1
            if isinstance(found.fault, PageFault):
                for observer in self.observers:
                    observer.walker_error(cpu, *found.fault)
            return found.fault
        for gpa in set_accessed_dirty(memory, context, found):
            self.tlb.changed(gpa >> PAGE_SHIFT)
        self.counters.pf_fixed += 1
        return grant(memory, self.tlb, context, cpu, found)

    def invlpg(self, cpu: int, gva: int) -> None:
        """See :meth:`mmu.api.Mmu.invlpg`."""
        self.counters.invlpg += 1

    def flushed(self, cpu: int) -> None:
        """See :meth:`mmu.api.Mmu.flushed`."""
        self.tlb.flushed(cpu)

    def written(self, gpa: int, size: int, source: str) -> None:
        """See :meth:`mmu.api.Mmu.written`. Only translated code can be out of date here."""
        for gfn in range(gpa >> PAGE_SHIFT, (gpa + size - 1 >> PAGE_SHIFT) + 1):
            self.tlb.changed(gfn)

    def remapped(self) -> None:
        """See :meth:`mmu.api.Mmu.remapped`."""
        self.tlb.remapped()

    def pdptes(self, cpu: int) -> list[int]:
        """See :meth:`mmu.api.Mmu.pdptes`."""
        return list(self.contexts[cpu].pdptes)

    def restore_pdptes(self, cpu: int, pdptes: Sequence[int]) -> None:
        """See :meth:`mmu.api.Mmu.restore_pdptes`."""
        self.contexts[cpu].pdptes = list(pdptes)

    def observers_changed(self) -> None:
        """See :meth:`mmu.api.Mmu.observers_changed`."""
        self.tlb.observers = self.observers

    def zap_all(self) -> None:
        """See :meth:`mmu.api.Mmu.zap_all`: nothing is remembered but what the TLBs hold."""
        self.tlb.flush_all()

    def start_dirty_log(self) -> None:
        """See :meth:`mmu.api.Mmu.start_dirty_log`."""
        self.tlb.start_dirty_log()

    def dirty_log(self) -> list[int]:
        """See :meth:`mmu.api.Mmu.dirty_log`."""
        return self.tlb.dirty_log()

    def stop_dirty_log(self) -> None:
        """See :meth:`mmu.api.Mmu.stop_dirty_log`."""
        self.tlb.stop_dirty_log()

    def check(self) -> None:
        """Nothing is remembered, so nothing can be wrong."""


def grant(memory: Memory, tlb: TlbTracker, context: Context, cpu: int, found: Walk) -> int:
    """Return the Mapping for a walk that succeeded, without any shadow page."""
    gfn = found.frame
    access = found.access
    gpa = gfn << PAGE_SHIFT
    slot = memory.slot_at(gpa)
    if slot is None or slot.device is not None:
        return gpa | trap_permissions(access)
    if access & ACCESS_FETCH:
        rights = tlb.grant_exec(cpu, gfn)
        reads_too = context.may_read_too(found.rights & ACC_USER, found.pkey, access)
        return gpa | (rights if reads_too else rights & ~MAP_READ)
    if not access & ACCESS_WRITE:
        return gpa | MAP_READ
    if slot.kind == "rom":
        return gpa | MAP_READ | MAP_WRITE | MAP_TRAP
    fetch = access & (ACCESS_USER | ACCESS_IMPLICIT) | ACCESS_FETCH
    return gpa | tlb.grant_write(cpu, gfn, not context.denied[fetch] >> found.rights & 1)
