# SPDX-License-Identifier: GPL-2.0-or-later
"""How a guest reads and writes a local APIC: 4 KiB of memory, or MSRs (SDM 3A 10.4.1, 10.12).

The two show the same registers with small differences: x2APIC has 32-bit IDs, a 64-bit ICR and a
self-IPI register, and answers every breach with #GP, where xAPIC mode ignores it or notes an error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from emu.cpu.faults import Fault, Vector
from emu.devices import lapic_state as L
from emu.ports import LogOnce

if TYPE_CHECKING:
    from emu.devices.lapic import LocalApic

__all__ = ["LapicRegisters"]

PAGE_SIZE = 0x1000
_MASK_32 = 0xFFFF_FFFF
_VECTOR_SETS = (*L.ISR, *L.TMR, *L.IRR)
# Registers that can be written, but to no effect.
_READ_ONLY = frozenset({L.VERSION, L.APR, L.PPR, L.REMOTE_READ, L.CURRENT_COUNT, *_VECTOR_SETS})

# SDM 3A table 10-6: what RDMSR may read, and the bits that WRMSR may set.
_MSR_READABLE = frozenset(
    {
        *(L.ID, L.VERSION, L.TPR, L.PPR, L.LDR, L.SVR, L.ESR, L.ICR),
        *(L.INITIAL_COUNT, L.CURRENT_COUNT, L.DIVIDE),
        *(*L.LVT_BITS, *_VECTOR_SETS),
    }
)
_MSR_WRITABLE = {
    **L.LVT_BITS,
    L.TPR: 0xFF,
    L.EOI: 0,
    L.SVR: L.SVR_BITS,
    L.ESR: 0,
    L.ICR: 0xFFFF_FFFF_0000_0000 | L.ICR_BITS,
    L.INITIAL_COUNT: 0xFFFF_FFFF,
    L.DIVIDE: 0x0B,
    L.SELF_IPI: 0xFF,
}


class LapicRegisters:
    """The guest's access to one `LocalApic`."""

    def __init__(self, apic: LocalApic) -> None:
        """Give access to `apic`."""
        self._apic = apic
        self._log = LogOnce("lapic")
        self._readers = [self._read_missing] * (PAGE_SIZE >> 4)
        for index, reader in self._readers_by_index().items():
            self._readers[index] = reader

    # Memory.

    def read(self, offset: int, size: int) -> int:
        """Read 32 bits at a multiple of 16, or a part of them; the gaps read as 0. 0.2 us."""
        start = offset & 0xF
        return self._readers[offset >> 4]() >> 8 * start if start < 4 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write 32 bits at a multiple of 16; anything else is ignored."""
        if offset & 0xF or size < 4:
            self._log(("width", offset), "write of %d bytes at %#x", size, offset)
        elif not self._write_xapic(offset >> 4, value & 0xFFFF_FFFF):
            self._log(offset, "write to register %#x, which is not there", offset)
            self._apic.error(L.ILLEGAL_REGISTER)

    def _readers_by_index(self) -> dict[int, Callable[[], int]]:
        """Return what reads each register as xAPIC mode shows it, in the order of table 10-1."""
        apic, timer = self._apic, self._apic.timer
        # `apic.state` is another object after a reset: it is looked up at every read.
        readers: dict[int, Callable[[], int]] = {
            L.ID: lambda: apic.state.id << 24 & _MASK_32,
            L.VERSION: lambda: L.VERSION_VALUE,
            L.TPR: lambda: apic.state.tpr,
            L.APR: apic.ppr,
            L.PPR: apic.ppr,
            L.EOI: lambda: 0,
            L.REMOTE_READ: lambda: 0,
            L.LDR: lambda: apic.state.ldr << 24 & _MASK_32,
            L.DFR: lambda: apic.state.dfr << 28 | 0x0FFF_FFFF,
            L.SVR: lambda: apic.state.svr,
        }
        for n, index in enumerate(L.ISR):
            readers[index] = self._reader_of_set(lambda: apic.state.isr, 32 * n)
        for n, index in enumerate(L.TMR):
            readers[index] = self._reader_of_set(lambda: apic.state.tmr, 32 * n)
        for n, index in enumerate(L.IRR):
            readers[index] = self._reader_of_set(lambda: apic.state.irr, 32 * n)
        readers |= {
            L.ESR: lambda: apic.state.esr,
            L.ICR: lambda: apic.state.icr & _MASK_32,
            L.ICR_HIGH: lambda: apic.state.icr_high,
        }
        for index in L.LVT_BITS:
            readers[index] = self._reader_of_entry(index)
        return readers | {
            L.INITIAL_COUNT: lambda: timer.state.initial,
            L.CURRENT_COUNT: timer.current,
            L.DIVIDE: lambda: timer.state.divide,
        }

    @staticmethod
    def _reader_of_set(vectors: Callable[[], int], shift: int) -> Callable[[], int]:
        return lambda: vectors() >> shift & _MASK_32

    def _reader_of_entry(self, index: int) -> Callable[[], int]:
        return lambda: self._apic.state.lvt[index]

    def _read_missing(self) -> int:
        """Read a register that is not there."""
        self._apic.error(L.ILLEGAL_REGISTER)
        return 0

    def _write_xapic(self, index: int, value: int) -> bool:
        """Write a register in xAPIC format; returns whether it is there."""
        state = self._apic.state
        if index == L.ID:
            state.id = value >> 24
        elif index == L.LDR:
            state.ldr = value >> 24
        elif index == L.DFR:
            state.dfr = value >> 28
        elif index == L.ICR_HIGH:
            state.icr_high = value & 0xFF00_0000
        elif index == L.ICR:
            state.icr = value & L.ICR_BITS
            self._apic.send(value, state.icr_high >> 24, wide=False)
        else:
            return self._write_common(index, value)
        return True

    def _write_common(self, index: int, value: int) -> bool:
        """Write a register that is the same in both modes; returns whether it is there."""
        apic = self._apic
        if index in L.LVT_BITS:
            apic.write_lvt(index, value)
        elif index == L.TPR:
            apic.write_tpr(value)
        elif index == L.EOI:
            apic.end_of_interrupt()
        elif index == L.SVR:
            apic.write_svr(value)
        elif index == L.ESR:
            apic.latch_errors()
        elif index == L.INITIAL_COUNT:
            apic.timer.write_initial(value)
        elif index == L.DIVIDE:
            apic.timer.write_divide(value)
        else:
            return index in _READ_ONLY
        return True

    # MSRs.

    def msrs(self) -> dict[int, tuple[Callable[[], int], Callable[[int], None]]]:
        """Return a reader and a writer for each MSR of the APIC. Either raises Fault (#GP) where
        the processor does; x2APIC's are there in x2APIC mode only."""
        apic = self._apic
        table: dict[int, tuple[Callable[[], int], Callable[[int], None]]] = {
            L.APIC_BASE_MSR: (lambda: apic.base, apic.write_base),
            L.TSC_DEADLINE_MSR: (apic.timer.read_deadline, apic.timer.write_deadline),
        }
        for msr in L.X2APIC_MSRS:
            index = msr - L.X2APIC_MSRS[0]
            table[msr] = (partial(self._read_msr, index), partial(self._write_msr, index))
        return table

    def _read_msr(self, index: int) -> int:
        state = self._apic.state
        if not self._apic.x2apic or index not in _MSR_READABLE:
            raise Fault(Vector.GP)
        if index == L.ID:
            return state.id
        if index == L.LDR:
            return state.ldr
        if index == L.ICR:
            return state.icr | state.icr_high << 32
        return self._readers[index]()

    def _write_msr(self, index: int, value: int) -> None:
        apic = self._apic
        allowed = _MSR_WRITABLE.get(index)
        if not apic.x2apic or allowed is None or value & ~allowed:
            raise Fault(Vector.GP)
        if index == L.ICR:
            apic.state.icr, apic.state.icr_high = value & L.ICR_BITS, value >> 32
            apic.send(value & 0xFFFF_FFFF, value >> 32, wide=True)
        elif index == L.SELF_IPI:
            apic.send(value | L.TO_SELF << L.ICR_SHORTHAND_SHIFT, 0, wide=True)
        else:
            self._write_common(index, value)
