# SPDX-License-Identifier: GPL-2.0-or-later
"""The seam: what the machine asks of a memory management unit, and what that may ask back.

A plug-in is a subclass of :class:`Mmu`. The machine calls it on a TLB miss, on a change of the
control registers, and after a write that it trapped. What the guest did wrong comes back as a value
(:class:`PageFault`, :class:`NotCanonical`); what the host did wrong is an exception::

    MmuError
    +-- InvariantError      an audit found the tables at odds with themselves or with the guest
    +-- PoolError           a bound on shadow pages too small for any fault to be answered
    +-- PluginError         a name that stands for no plug-in

:mod:`mmu.plugins` finds plug-ins by name and makes them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from .arch import (
    PFERR_FETCH,
    PFERR_PK,
    PFERR_PRESENT,
    PFERR_RSVD,
    PFERR_USER,
    PFERR_WRITE,
    Features,
)
from .memory import Memory
from .observe import CompiledBlock, Counters, MmuObserver

__all__ = [
    "DEFAULT_POOL",
    "FRAME_MASK",
    "MAP_EXEC",
    "MAP_READ",
    "MAP_TRAP",
    "MAP_WRITE",
    "Answer",
    "InvariantError",
    "Mapping",
    "Mmu",
    "MmuError",
    "MmuFactory",
    "NotCanonical",
    "PageFault",
    "PagingRegisters",
    "PluginError",
    "PoolError",
    "TlbHost",
    "Watcher",
    "describe_error_code",
]


class MmuError(Exception):
    """Root of what a memory management unit raises."""


class InvariantError(MmuError):
    """The audit failed. The message names the invariant and holds everything needed to see why."""


class PoolError(MmuError):
    """The pool of shadow pages is too small for this number of vCPUs and levels."""


class PluginError(MmuError, ValueError):
    """A name stands for no plug-in, or for one that cannot be made. One line for a person."""


# A Mapping is one int, because one is made on every TLB miss: the frame's address in bits 12 to
# 51, and below it what the TLB entry may be used for. Bits 0 to 2 are Unicorn's UC_PROT_* bits.
Mapping: TypeAlias = int
MAP_READ = 1
MAP_WRITE = 2
MAP_EXEC = 4
MAP_TRAP = 8
"""Every access through this TLB entry is to reach the host: the frame holds a live page table
and is about to be written, or it is a device, ROM about to be written, or nothing at all."""
FRAME_MASK = (1 << 52) - (1 << 12)


class PagingRegisters(NamedTuple):
    """The registers that decide a translation, as they are now. PKRU counts with CR4.PKE only."""

    cr0: int
    cr3: int
    cr4: int
    efer: int
    pkru: int = 0


class PageFault(NamedTuple):
    """The guest's own #PF: the address for CR2 and the error code (SDM 4.7)."""

    gva: int
    error_code: int

    def __str__(self) -> str:
        return f"#PF at {self.gva:#x} ({describe_error_code(self.error_code)})"


@dataclass(frozen=True, slots=True)
class NotCanonical:
    """The address cannot be translated at all: #GP(0), or #SS(0) for the stack (SDM 1, 3.3.7.1)."""

    gva: int


Answer: TypeAlias = "Mapping | PageFault | NotCanonical"


def describe_error_code(error_code: int) -> str:
    """Return a page-fault error code in words.

    >>> describe_error_code(0x7)
    'user write, protection'
    >>> describe_error_code(0x19)
    'supervisor fetch, reserved bit'
    """
    who = "user" if error_code & PFERR_USER else "supervisor"
    what = "fetch" if error_code & PFERR_FETCH else "write" if error_code & PFERR_WRITE else "read"
    if error_code & PFERR_RSVD:
        why = "reserved bit"
    elif error_code & PFERR_PK:
        why = "protection key"
    else:
        why = "protection" if error_code & PFERR_PRESENT else "not present"
    return f"{who} {what}, {why}"


class TlbHost(Protocol):
    """What a memory management unit asks of the machine. Both may be called inside a fill."""

    def flush_tlb(self, cpu: int) -> None:
        """Empty the TLB of one vCPU."""

    def drop_code(self, gfn: int) -> None:
        """Forget what was translated from the code in a frame, on every vCPU."""


class Watcher(Protocol):
    """Audits what each event touched; :meth:`Mmu.watch` returns one. Raises InvariantError."""

    def everything(self) -> None:
        """Audit the whole plug-in."""

    def event(self) -> None:
        """Audit what was touched since the last event."""

    def loaded(self, cpu: int) -> None:
        """Audit what a load of CR3 touched."""

    def translated(self, cpu: int, gva: int, answer: Answer) -> None:
        """Audit what the answer to a miss touched."""

    def written(self, gpa: int, size: int) -> None:
        """Audit what follows from bytes of guest memory that changed."""


class Mmu(ABC):
    """A plug-in. ``cpu`` is always the number of a vCPU, from 0.

    Eight methods must be written. Everything after them has a default that suits a plug-in which
    remembers nothing. A plug-in that is no subclass is wrapped once, by
    :func:`mmu.plugins.adapt`; nobody else looks for a method by its name.
    """

    name: str
    counters: Counters

    # --- What every plug-in does --------------------------------------------------------------

    @abstractmethod
    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """Take the control registers as they now are; the vCPU's TLB is taken to be empty.

        A call with the same registers stands for a reload of CR3: what the processor reads then
        (the PDPTE registers, SDM 3A 4.4.1) is read again.
        """

    @abstractmethod
    def translate(self, cpu: int, gva: int, access: int) -> Answer:
        """Answer a TLB miss; ``access`` is a union of ``arch.ACCESS_*``, ``gva`` any byte.

        Idempotent: a miss may be asked twice. Sets A and D in the guest's tables as the processor
        does. Grants EXEC for fetches and WRITE for writes only.
        """

    @abstractmethod
    def invlpg(self, cpu: int, gva: int) -> None:
        """Note that the guest dropped a translation; the vCPU's TLB has dropped it already."""

    @abstractmethod
    def flushed(self, cpu: int) -> None:
        """Note that the vCPU's TLB was emptied, but not at this unit's request."""

    @abstractmethod
    def written(self, gpa: int, size: int, source: str) -> None:
        """Note that bytes of guest memory have changed (a trapped store, a device, a loader)."""

    @abstractmethod
    def remapped(self) -> None:
        """Note that a memory slot came, went or moved: nothing derived from the map holds."""

    @abstractmethod
    def check(self) -> None:
        """Audit everything; raises :class:`InvariantError`."""

    # --- What the vCPUs may use, with defaults --------------------------------------------------

    flush_on_invlpg: bool = True
    """Whether INVLPG must empty the vCPU's whole TLB. False: the engine's own INVLPG, which drops
    one 4 KiB entry, is enough, as the plug-in flushes by itself what a large page left there."""

    @property
    def version(self) -> int | None:
        """Grows whenever a translation that was given may be void; None: nothing may be kept."""
        return None

    def keeps(self, cpu: int, gva: int) -> bool:
        """Return whether a translation holds until ``version`` grows or the TLB is emptied."""
        return False

    def reused(self, gpa: int) -> bool:
        """Take a hint that a frame holds no page table any more: the write that is about to be
        trapped does not look like one to a table. Return whether such writes need no trap now."""
        return False

    def is_protected(self, gfn: int) -> bool:
        """Return whether stores to a frame must be trapped, because it holds a live page table."""
        return False

    def pdptes(self, cpu: int) -> list[int] | None:
        """Return a vCPU's PDPTE registers, which mean something under PAE paging only; None if
        the plug-in does not keep them."""
        return None

    def restore_pdptes(self, cpu: int, pdptes: Sequence[int]) -> None:
        """Take PDPTE registers that memory may no longer hold, of a saved processor: directly after
        `load`, before anything is translated. A plug-in that does not keep them has nothing to do.
        """
        return None

    def compiled_block(self, cpu: int) -> CompiledBlock | None:
        """Return what the compiled walk of a vCPU starts from, the same at every call; None if
        every miss must come to :meth:`translate`."""
        return None

    # --- What people may use, with defaults -----------------------------------------------------

    observers: tuple[MmuObserver, ...] = ()
    """Who is called at each event, in this order."""

    reports_events: bool = False
    """Whether the plug-in reports any event to its observers."""

    def observe(self, observer: MmuObserver) -> None:
        """Report events to ``observer`` from now on, until :meth:`unobserve`."""
        self.observers = (*self.observers, observer)
        self.observers_changed()

    def unobserve(self, observer: MmuObserver) -> None:
        """Report no more to ``observer``.

        Raises:
            ValueError: it does not observe.
        """
        if not any(known is observer for known in self.observers):
            raise ValueError(f"{observer!r} does not observe the MMU")
        self.observers = tuple(known for known in self.observers if known is not observer)
        self.observers_changed()

    def observers_changed(self) -> None:
        """Called after ``observers`` has changed, for a plug-in that hands them on."""
        return None

    def describe_path(self, cpu: int, gva: int) -> str:
        """Return the plug-in's own tables for an address as text, a line a level, or an empty
        string if it has none. Changes nothing."""
        return ""

    def set_policy(self, text: str) -> None:
        """Switch parts of the plug-in, as ``unsync=off,prefetch=off``.

        Raises:
            ValueError: an unknown policy; a plug-in without policies knows none.
        """
        raise ValueError(f"MMU plug-in {self.name!r} has no policies")

    def zap_all(self) -> None:
        """Forget every translation, and flush every TLB.

        Raises:
            ValueError: the plug-in cannot.
        """
        raise ValueError(f"MMU plug-in {self.name!r} has nothing to zap")

    def shrink(self, pages: int) -> int:
        """Give back up to ``pages`` of the tables longest unused; return how many went."""
        return 0

    def watch(self) -> Watcher | None:
        """Return an audit of what each event touches, from now on; None: audit everything."""
        return None

    # --- A log of the frames that were written, as KVM_GET_DIRTY_LOG ---------------------------

    def start_dirty_log(self) -> None:
        """Log which frames are written from now on, by any writer. Flushes every TLB.

        Raises:
            ValueError: the plug-in has no dirty log.
        """
        raise ValueError(f"MMU plug-in {self.name!r} has no dirty log")

    def dirty_log(self) -> list[int]:
        """Return the gfns written since the log was started or last read, rising, and empty it.

        It may name a frame that was only granted for writing. It misses none, except what the host
        wrote without :class:`mmu.memory.Memory`. Flushes every TLB.

        Raises:
            ValueError: it was not started.
        """
        raise ValueError(f"MMU plug-in {self.name!r} has no dirty log")

    def stop_dirty_log(self) -> None:
        """End the log.

        Raises:
            ValueError: the plug-in has no dirty log.
        """
        raise ValueError(f"MMU plug-in {self.name!r} has no dirty log")


class MmuFactory(Protocol):
    """Makes a plug-in; what ``MODULE:CLASS`` must name. Mostly the plug-in's class itself."""

    def __call__(
        self, memory: Memory, host: TlbHost, cpus: int, *, features: Features, pool: int
    ) -> Mmu:
        """Make a memory management unit; ``pool`` bounds its shadow pages, if it has any."""


DEFAULT_POOL = 4096
"""The bound on shadow pages, unless another is given."""
