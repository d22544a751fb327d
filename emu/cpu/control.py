# SPDX-License-Identifier: GPL-2.0-or-later
"""MOV to CR0, CR3 and CR4, with the checks of SDM 3A 2.5 and 4.4.1 that QEMU leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.cpu import hidden as H
from emu.cpu.faults import Fault, Vector
from emu.cpu.registers import DESC_L
from mmu.api import PagingRegisters
from mmu.arch import (
    CR0_CD,
    CR0_NW,
    CR0_PDPTE_BITS,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PDPTE_BITS,
    EFER_LMA,
    EFER_LME,
)
from mmu.walker import pdptes_valid

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["ControlRegisters"]

_CR0_ET = 1 << 4
_CR0_KNOWN = 0xE005_003F
# CR4 bits by the feature that must be there (SDM 3A 2.5).
_CR4_FEATURES = (
    ("tsc", 1 << 2),  # TSD
    ("de", 1 << 3),
    ("pse", 1 << 4),
    ("pae", 1 << 5),
    ("mce", 1 << 6),
    ("pge", 1 << 7),
    ("fxsr", 1 << 9),  # OSFXSR
    ("sse", 1 << 10),  # OSXMMEXCPT
    ("umip", 1 << 11),
    ("la57", 1 << 12),
    ("fsgsbase", 1 << 16),
    ("xsave", 1 << 18),
    ("smep", 1 << 20),
    ("smap", 1 << 21),
    ("pku", 1 << 22),
)
_CR4_PCE = 1 << 8
# What a change of CR4 flushes (SDM 3A 4.10.4.1).
_CR4_FLUSH = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 12 | 1 << 20 | 1 << 21 | 1 << 22
_CR0_FLUSH = CR0_PG | CR0_WP | CR0_PE
_NEW_TRANSLATION = 1_000
"""A change of CR0 or CR4 that empties the TLB takes as long as so many instructions, 10 us: as on a
hypervisor, which has other shadow tables to find then. Guests time loops around them."""


class ControlRegisters:
    """The control registers of one vCPU, as far as they decide about paging and modes."""

    def __init__(self, cpu: Vcpu) -> None:
        """Serve `cpu`, whose features say which bits of CR4 exist."""
        self._cpu = cpu
        self._d = cpu.hidden.d
        cr4 = _CR4_PCE
        for name, bits in _CR4_FEATURES:
            if cpu.cpuid.has(name):
                cr4 |= bits
        self._cr4_known = cr4

    def set_cr0(self, value: int) -> None:
        """Do MOV CR0; raises Fault with nothing changed."""
        cpu = self._cpu
        regs = cpu.regs
        old = regs.cr0
        paging, was_paging = value & CR0_PG, old & CR0_PG
        if value >> 32 or (paging and not value & CR0_PE) or value & (CR0_NW | CR0_CD) == CR0_NW:
            raise Fault(Vector.GP)
        value = value & _CR0_KNOWN | _CR0_ET
        efer = regs.efer
        if paging and not was_paging and efer & EFER_LME:
            if not regs.cr4 & CR4_PAE or regs.segment_flags(1) & DESC_L:
                raise Fault(Vector.GP)
            efer |= EFER_LMA
        elif was_paging and not paging and efer & EFER_LMA:
            if cpu.bits == 64:
                raise Fault(Vector.GP)
            efer &= ~EFER_LMA
        if paging and (value ^ old) & CR0_PDPTE_BITS:
            self._check_pdptes(value, regs.cr3, regs.cr4, efer)
        regs.cr0 = value
        if efer != regs.efer:
            regs.efer = efer
            self._d[H.HFLAGS_D] &= ~H.HF_CS64
        if (value ^ old) & (_CR0_FLUSH | CR0_PDPTE_BITS):
            cpu.slice.stall(_NEW_TRANSLATION)
            cpu.reload_paging()

    def set_cr3(self, value: int) -> None:
        """Do MOV CR3; raises Fault with nothing changed."""
        cpu = self._cpu
        regs = cpu.regs
        if value >> 40 and regs.efer & EFER_LMA:
            raise Fault(Vector.GP)
        self._check_pdptes(regs.cr0, value, regs.cr4, regs.efer)
        regs.cr3 = value
        cpu.reload_paging()

    def set_cr4(self, value: int) -> None:
        """Do MOV CR4; raises Fault with nothing changed."""
        cpu = self._cpu
        regs = cpu.regs
        old = regs.cr4
        changed = value ^ old
        if value & ~self._cr4_known:
            raise Fault(Vector.GP)
        if regs.efer & EFER_LMA and (not value & CR4_PAE or changed & CR4_LA57):
            raise Fault(Vector.GP)
        if changed & CR4_PDPTE_BITS:
            self._check_pdptes(regs.cr0, regs.cr3, value, regs.efer)
        regs.cr4 = value
        if changed & _CR4_FLUSH:
            cpu.slice.stall(_NEW_TRANSLATION)
            cpu.reload_paging()

    def _check_pdptes(self, cr0: int, cr3: int, cr4: int, efer: int) -> None:
        """Raise Fault where the processor would refuse the PDPTEs (SDM 3A 4.4.1)."""
        cpu = self._cpu
        if not cr0 & CR0_PG or not cr4 & CR4_PAE or efer & EFER_LMA:
            return
        if not pdptes_valid(cpu.memory, PagingRegisters(cr0, cr3, cr4, efer), cpu.features):
            raise Fault(Vector.GP)
