# SPDX-License-Identifier: GPL-2.0-or-later
"""The events of the shadow MMU as lines of text, as KVM's tracepoints print them."""

from __future__ import annotations

from collections.abc import Callable

from .api import PageFault
from .observe import MmuObserver
from .shadow.role import describe_role

__all__ = ["TraceLines"]


class TraceLines(MmuObserver):
    """Hands each event to ``write`` as a line: the tracepoint's name, a colon, what happened.

    >>> TraceLines(print).walker_error(0, 0x1000, 0x7)
    kvm_mmu_walker_error: #PF at 0x1000 (user write, protection)
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def pagetable_walk(self, cpu: int, gva: int, access: int) -> None:
        """See :meth:`MmuObserver.pagetable_walk`."""
        self._write(f"kvm_mmu_pagetable_walk: addr {gva:x} pferr {access & 0x1F:x}")

    def walker_error(self, cpu: int, gva: int, error_code: int) -> None:
        """See :meth:`MmuObserver.walker_error`."""
        self._write(f"kvm_mmu_walker_error: {PageFault(gva, error_code)}")

    def get_page(self, gfn: int, role: int, is_new: bool) -> None:
        """See :meth:`MmuObserver.get_page`."""
        how = "new" if is_new else "existing"
        self._write(f"kvm_mmu_get_page: {describe_role(gfn, role)} {how}")

    def set_spte(self, place: int, gfn: int, spte: int) -> None:
        """See :meth:`MmuObserver.set_spte`."""
        self._write(f"kvm_mmu_set_spte: gfn {gfn:x} spte {spte:x}")

    def prepare_zap_page(self, gfn: int, role: int) -> None:
        """See :meth:`MmuObserver.prepare_zap_page`."""
        self._write(f"kvm_mmu_prepare_zap_page: {describe_role(gfn, role)}")

    def unsync_page(self, gfn: int) -> None:
        """See :meth:`MmuObserver.unsync_page`."""
        self._write(f"kvm_mmu_unsync_page: gfn {gfn:x}")

    def sync_page(self, gfn: int) -> None:
        """See :meth:`MmuObserver.sync_page`."""
        self._write(f"kvm_mmu_sync_page: gfn {gfn:x}")

    def pte_write(self, gpa: int, size: int) -> None:
        """See :meth:`MmuObserver.pte_write`."""
        self._write(f"kvm_mmu_pte_write: gpa {gpa:x} size {size}")

    def tlb_flush(self) -> None:
        """See :meth:`MmuObserver.tlb_flush`."""
        self._write("kvm_mmu_tlb_flush")
