# SPDX-License-Identifier: GPL-2.0-or-later
"""What a memory management unit counts, and the events that it reports, both under KVM's names.

A counter is a plain attribute that its owner increments. An event is a call of a method of
:class:`MmuObserver`. Nothing is formatted or called while nobody observes: the code that would
report an event first tests a tuple of observers, which costs one branch.

This module imports nothing of the package, so that every other module may use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

__all__ = ["CompiledBlock", "Counters", "MmuObserver"]


class MmuObserver:
    """Receives the events of a memory management unit. A subclass overrides what it needs.

    An event is reported while the MMU works, so a method must not call the MMU, and must not
    change guest memory. The tables may be read. Observing switches compiled code off, because
    compiled code reports nothing.

    The seam itself shows the rest: who calls :meth:`mmu.api.Mmu.translate` knows each miss and its
    answer, and the listeners of :class:`mmu.memory.Memory` know each write.
    """

    def pagetable_walk(self, cpu: int, gva: int, access: int) -> None:
        """The guest's tables are walked. ``access``: ``arch.ACCESS_*`` (kvm_mmu_pagetable_walk)."""

    def walker_error(self, cpu: int, gva: int, error_code: int) -> None:
        """The guest's tables deny an access; the code is the #PF's (kvm_mmu_walker_error)."""

    def get_page(self, gfn: int, role: int, is_new: bool) -> None:
        """A shadow page was found, or made (kvm_mmu_get_page). See :mod:`mmu.shadow.role`."""

    def set_spte(self, place: int, gfn: int, spte: int) -> None:
        """A leaf entry was set (kvm_mmu_set_spte). ``place`` is its index in the shadow tables."""

    def prepare_zap_page(self, gfn: int, role: int) -> None:
        """A shadow page is about to be zapped (kvm_mmu_prepare_zap_page)."""

    def unsync_page(self, gfn: int) -> None:
        """A leaf table went out of sync: the guest now writes it freely (kvm_mmu_unsync_page)."""

    def sync_page(self, gfn: int) -> None:
        """A table is about to be brought back in sync (kvm_mmu_sync_page)."""

    def pte_write(self, gpa: int, size: int) -> None:
        """Bytes of a live guest table changed; called before what follows from them is zapped.

        KVM counts these as mmu_pte_write. A store of the guest's arrives in the pieces in which
        the engine delivers it.
        """

    def tlb_flush(self) -> None:
        """The TLBs of all vCPUs were emptied (kvm_mmu_tlb_flush counts the same)."""


class CompiledBlock(Protocol):
    """The words that the compiled walk of one vCPU starts from, and what it has counted."""

    @property
    def address(self) -> int:
        """Where the block is in this process."""

    @property
    def fills(self) -> int:
        """How many misses compiled code has answered."""

    @property
    def refills(self) -> int:
        """How many of them needed a new leaf."""

    @property
    def faults(self) -> int:
        """How many misses were the guest's own page faults."""

    @property
    def mmio_hits(self) -> int:
        """How many answers led to a device or to nothing."""


class Counters:
    """What a memory management unit counts, under KVM's names where KVM counts the same.

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
    mmu_shadow_zapped         shadow pages zapped
    mmu_pte_write             writes to live guest tables
    mmu_pde_zapped            entries zapped by these writes
    mmu_flooded               shadow pages zapped because they were written and not used
    mmu_reused                shadow pages zapped because their frame now holds something else
    mmu_recycled              shadow pages zapped to make room
    mmu_unsync                leaf tables that went out of sync
    tlb_flush                 TLB flushes that the plug-in asked for
    invlpg                    INVLPGs reported to the plug-in
    fills                     TLB misses answered or refused, all together
    code_dropped              frames whose translated code was dropped because they were written
    ========================= ====================================================================
    """

    _NAMES = (
        "code_dropped",
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
    __slots__ = (*_NAMES, "compiled")

    def __init__(self) -> None:
        for name in self._NAMES:
            setattr(self, name, 0)
        self.compiled: list[CompiledBlock] = []

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
        """Return all counters by name, including what compiled code has counted."""
        counts: dict[str, int] = {name: getattr(self, name) for name in self._NAMES}
        for block in self.compiled:
            counts["fills"] += block.fills + block.faults
            counts["pf_taken"] += block.refills + block.faults
            counts["pf_guest"] += block.faults
            counts["pf_fixed"] += block.refills
            counts["mmio_hit"] += block.mmio_hits
        return counts
