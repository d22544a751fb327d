# SPDX-License-Identifier: GPL-2.0-or-later
"""The seam: what the machine asks of a memory management unit, and what that may ask back.

A plug-in is any object with the methods of :class:`Mmu`; no base class is needed. The machine
calls it on a TLB miss, on a change of the control registers, and after a write that it trapped.
What the guest did wrong comes back as a value (:class:`PageFault`, :class:`NotCanonical`); what
the host did wrong is an exception::

    MmuError
    +-- InvariantError      an audit found the tables at odds with themselves or with the guest
    +-- PoolError           a bound on shadow pages too small for any fault to be answered
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from .arch import (
    PFERR_FETCH,
    PFERR_PK,
    PFERR_PRESENT,
    PFERR_RSVD,
    PFERR_USER,
    PFERR_WRITE,
    Features,
)

if TYPE_CHECKING:
    from .events import Counters
    from .memory import Memory

__all__ = [
    "FRAME_MASK",
    "MAP_EXEC",
    "MAP_READ",
    "MAP_TRAP",
    "MAP_WRITE",
    "Answer",
    "DirtyLog",
    "InvariantError",
    "Mapping",
    "Mmu",
    "MmuError",
    "MmuFactory",
    "NotCanonical",
    "PageFault",
    "PagingRegisters",
    "PoolError",
    "TlbHost",
    "describe_error_code",
    "make_mmu",
]


class MmuError(Exception):
    """Root of what a memory management unit raises."""


class InvariantError(MmuError):
    """The audit failed. The message names the invariant and holds everything needed to see why."""


class PoolError(MmuError):
    """The pool of shadow pages is too small for this number of vCPUs and levels."""


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


class Mmu(Protocol):
    """A plug-in. ``cpu`` is always the number of a vCPU, from 0.

    Beside these a plug-in may have what :class:`DirtyLog` says, and, each looked for by its name:
    ``set_policy``; ``describe_path``; ``pdptes``, the PDPTE registers of a vCPU; ``reused``, which
    takes hints that a frame is no page table any more; ``version`` and ``keeps``, for those who
    keep translations; ``flush_on_invlpg`` (True if it is not there); ``block``, what compiled code
    starts from.
    """

    name: str
    counters: Counters

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """Take the control registers as they now are; the vCPU's TLB is taken to be empty.

        Called again with the same registers it stands for a reload of CR3: what the processor
        reads then (the PDPTE registers, SDM 4.4.1) is read again.
        """

    def translate(self, cpu: int, gva: int, access: int) -> Answer:
        """Answer a TLB miss; ``access`` is a union of ``arch.ACCESS_*``, ``gva`` any byte.

        Idempotent, as a miss may be asked twice and a probe is no access. Sets A and D in the
        guest's tables as the processor does. Grants EXEC for fetches and WRITE for writes only.
        """

    def invlpg(self, cpu: int, gva: int) -> None:
        """Note that the guest dropped a translation; the vCPU's TLB has dropped it already."""

    def flushed(self, cpu: int) -> None:
        """Note that the vCPU's TLB was emptied by somebody else than this unit."""

    def written(self, gpa: int, size: int, source: str) -> None:
        """Note that bytes of guest memory have changed (a trapped store, a device, a loader)."""

    def remapped(self) -> None:
        """Note that a memory slot came, went or moved: nothing derived from the map holds."""

    def check(self) -> None:
        """Audit; raises :class:`InvariantError`."""


class DirtyLog(Protocol):
    """What a plug-in may have beside: a log of the frames that were written (KVM_GET_DIRTY_LOG)."""

    def start_dirty_log(self) -> None:
        """Note from now on which frames are written, by whomever. Flushes every TLB."""

    def dirty_log(self) -> list[int]:
        """Return the gfns written since the log was started or last read, rising, and begin anew.

        A frame may be in it that was only granted for writing, and none is missing: but for what
        the host wrote through nobody (see :class:`mmu.memory.Memory`). Flushes every TLB.

        Raises:
            ValueError: it was not started.
        """

    def stop_dirty_log(self) -> None:
        """Note no more."""


class MmuFactory(Protocol):
    """What ``module:Class`` must name: something callable that gives an :class:`Mmu`."""

    def __call__(
        self, memory: Memory, host: TlbHost, cpus: int, *, features: Features, pool: int
    ) -> Mmu:
        """Make a memory management unit; ``pool`` bounds its shadow pages, where it has any."""


DEFAULT_POOL = 4096


def make_mmu(
    name: str,
    memory: Memory,
    host: TlbHost,
    cpus: int = 1,
    *,
    features: Features | None = None,
    pool: int = DEFAULT_POOL,
    policy: str = "",
    audit: bool = False,
) -> Mmu:
    """Make the plug-in called ``name`` (see :func:`find_mmu`) and connect
    it to ``memory``, so that it hears of every write and of every change of the slots.

    ``policy`` switches parts of the shadow cache, as ``unsync=off,prefetch=off`` (see
    :class:`mmu.shadow.policy.Policy`). With ``audit``, :meth:`Mmu.check` runs after every call
    that may change the tables.

    Raises:
        ValueError: no plug-in of that name, or a policy that it does not have.
        PoolError: ``pool`` is too small for ``cpus``.
    """
    factory = find_mmu(name)
    mmu = factory(memory, host, cpus, features=features or Features(), pool=pool)
    if policy:
        set_policy = getattr(mmu, "set_policy", None)
        if set_policy is None:
            raise ValueError(f"MMU plug-in {name!r} has no policies")
        set_policy(policy)
    if audit:
        from .events import Audited

        mmu = Audited(mmu)
    memory.listeners.append(mmu.written)
    memory.map_listeners.append(mmu.remapped)
    return mmu


def find_mmu(name: str) -> MmuFactory:
    """Return the plug-in class that ``name`` stands for, without making one: ``shadow``,
    ``uncached``, ``lockstep`` (or ``lockstep:FIRST,SECOND``), ``kvm2007`` (the shadow MMU with the
    key of that year, a bug) or ``module:Class``.

    Raises:
        ValueError: there is none of that name.
    """
    if name == "shadow":
        from .shadow.mmu import ShadowMmu

        return ShadowMmu
    if name == "uncached":
        from .uncached import UncachedMmu

        return UncachedMmu
    if name == "kvm2007":
        from .mutants.keys import Kvm2007

        return Kvm2007
    module_name, colon, class_name = name.partition(":")
    if module_name == "lockstep":
        from .lockstep import LockstepMmu, pair

        first, comma, second = class_name.partition(",")
        if colon and not comma:
            raise ValueError(f"{name!r}: give two plug-ins, lockstep:FIRST,SECOND")
        return pair(first, second) if colon else LockstepMmu
    if not colon:
        raise ValueError(
            f"no MMU plug-in is called {name!r} (shadow, uncached, lockstep, kvm2007, MODULE:CLASS)"
        )
    import importlib

    try:
        factory: Callable[..., Mmu] = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot load MMU plug-in {name!r}: {error}") from None
    return factory
