# SPDX-License-Identifier: GPL-2.0-or-later
"""Counters and tracepoints under KVM's names, and the wrapper that audits after every event.

A counter is a plain attribute that its owner adds one to. A tracepoint is a callable or None; the
one who would fire it looks first (``if trace is not None``), so one that is off costs a compare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .api import Answer, Mmu, PagingRegisters

Tracer = Callable[[str], None]
"""Takes one line: the tracepoint's name, a colon, and what happened."""


class CountsFills(Protocol):
    """Compiled code that answers misses and counts them by itself."""

    @property
    def fills(self) -> int:
        """How many it has answered."""

    @property
    def refills(self) -> int:
        """How many of them needed a new leaf."""

    @property
    def faults(self) -> int:
        """How many misses it found to be faults of the guest's."""

    @property
    def mmio_hits(self) -> int:
        """How many answers led to a device."""


class Counters:
    """What a memory management unit counts. KVM's names where KVM counts the same.

    ========================= ====================================================================
    pf_taken                  misses that the plug-in could not answer from what it had: walks
    pf_fixed                  of these, answered after building or changing entries
    pf_guest                  of these, the guest's own faults
    pf_emulate                writes answered with the trap window
    pf_spurious               of these, found to need nothing (the entry had appeared meanwhile)
    mmio_hit                  misses at a device or at nothing, answered from an entry: no walk
    mmu_cache_miss            shadow pages made
    mmu_cache_hit             shadow pages found again by (gfn, role)
    mmu_root_hit              roots found again on a CR3 load
    mmu_shadow_zapped         shadow pages taken out
    mmu_pte_write             writes to live guest tables
    mmu_pde_zapped            entries zapped by these writes
    mmu_flooded               shadow pages taken out for being written and not used
    mmu_reused                shadow pages taken out because their frame is plainly something else
    mmu_recycled              shadow pages taken out to make room
    mmu_unsync                leaf tables now out of sync
    tlb_flush                 TLB flushes that the plug-in asked for
    invlpg                    INVLPGs noted
    fills                     TLB misses answered or refused, all together
    code_dropped              frames whose translated code was dropped because they were written
    ========================= ====================================================================
    """

    __slots__ = (
        "code_dropped",
        "compiled",
        "fills",
        "invlpg",
        "mmio_hit",
        "mmu_cache_hit",
        "mmu_cache_miss",
        "mmu_flooded",
        "mmu_pde_zapped",
        "mmu_pte_write",
        "mmu_recycled",
        "mmu_reused",
        "mmu_root_hit",
        "mmu_shadow_zapped",
        "mmu_unsync",
        "pf_emulate",
        "pf_fixed",
        "pf_guest",
        "pf_spurious",
        "pf_taken",
        "tlb_flush",
    )

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)
        self.compiled: list[CountsFills] = []

    if TYPE_CHECKING:
        code_dropped: int
        fills: int
        invlpg: int
        mmio_hit: int
        mmu_cache_hit: int
        mmu_cache_miss: int
        mmu_flooded: int
        mmu_pde_zapped: int
        mmu_pte_write: int
        mmu_recycled: int
        mmu_reused: int
        mmu_root_hit: int
        mmu_shadow_zapped: int
        mmu_unsync: int
        pf_emulate: int
        pf_fixed: int
        pf_guest: int
        pf_spurious: int
        pf_taken: int
        tlb_flush: int

    def as_dict(self) -> dict[str, int]:
        """Return all counters by name, with what compiled code has counted."""
        counts = {name: getattr(self, name) for name in self.__slots__ if name != "compiled"}
        for block in self.compiled:
            counts["fills"] += block.fills
            counts["pf_taken"] += block.refills + block.faults
            counts["pf_guest"] += block.faults
            counts["fills"] += block.faults
            counts["pf_fixed"] += block.refills
            counts["mmio_hit"] += block.mmio_hits
        return counts


class Watcher(Protocol):
    """An audit of what each event touched: what ``Mmu.watch()`` returns where there is one."""

    def everything(self) -> None:
        """Audit all there is."""

    def event(self) -> None:
        """Audit what was touched since the last event."""

    def loaded(self, cpu: int) -> None:
        """The same after a load of CR3."""

    def translated(self, cpu: int, gva: int, answer: Answer) -> None:
        """The same after a miss was answered."""

    def written(self, gpa: int, size: int) -> None:
        """The same after bytes of guest memory changed."""


class _Whole:
    """The watcher of a plug-in that has none: everything, every time."""

    def __init__(self, mmu: Mmu) -> None:
        self.everything = self.event = mmu.check

    def loaded(self, cpu: int) -> None:
        self.event()

    def translated(self, cpu: int, gva: int, answer: Answer) -> None:
        self.event()

    def written(self, gpa: int, size: int) -> None:
        self.event()


class Audited:
    """A plug-in that is audited after every call which may have changed something.

    What is checked then is the plug-in's to say (see mmu/shadow/watch.py): the shadow cache checks
    what the call touched, and everything now and then. Compiled code would answer misses without
    our hearing of it, so there is none; the machine can audit with it at the end of every slice.
    """

    def __init__(self, mmu: Mmu) -> None:
        self.inner = mmu
        self.name = mmu.name
        self.counters = mmu.counters
        watch: Callable[[], Watcher] | None = getattr(mmu, "watch", None)
        self.watcher: Watcher = watch() if watch is not None else _Whole(mmu)

    def __getattr__(self, name: str) -> object:
        if name == "block":  # compiled code would answer misses unaudited
            raise AttributeError(name)
        return getattr(self.inner, name)

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """As :meth:`Mmu.load`, then audit."""
        self.inner.load(cpu, regs)
        self.watcher.loaded(cpu)

    def translate(self, cpu: int, gva: int, access: int) -> Answer:
        """As :meth:`Mmu.translate`, then audit."""
        answer = self.inner.translate(cpu, gva, access)
        self.watcher.translated(cpu, gva, answer)
        return answer

    def invlpg(self, cpu: int, gva: int) -> None:
        """As :meth:`Mmu.invlpg`, then audit."""
        self.inner.invlpg(cpu, gva)
        self.watcher.event()

    def flushed(self, cpu: int) -> None:
        """As :meth:`Mmu.flushed`, then audit."""
        self.inner.flushed(cpu)
        self.watcher.event()

    def written(self, gpa: int, size: int, source: str) -> None:
        """As :meth:`Mmu.written`, then audit."""
        self.inner.written(gpa, size, source)
        self.watcher.written(gpa, size)

    def remapped(self) -> None:
        """As :meth:`Mmu.remapped`, then audit everything."""
        self.inner.remapped()
        self.watcher.everything()

    def check(self) -> None:
        """Audit everything now."""
        self.watcher.everything()
