# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's pc-testdev, by which kvm-unit-tests pull wires and poke ports.

0xe0-0xe3      a 32-bit latch, of any width         0x2000-0x2017  the level of an interrupt line
0xe4-0xe7      forget how a page was mapped         0xff000000     64 KiB of latch in memory
0xe8           an 8-bit latch
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from emu.ports import IrqLine, PortBus
from emu.savable import Savable, State
from mmu.memory import Memory

__all__ = ["TestDevice"]

LATCH, FLUSH, BYTE_LATCH, LINES = 0xE0, 0xE4, 0xE8, 0x2000
MEMORY_BASE, MEMORY_SIZE = 0xFF00_0000, 0x1_0000


class TestDevice(Savable):
    """The device. Its memory is an MMIO device of its own, so that accesses are trapped."""

    __test__ = False  # it is no test case, whatever its name says to a test runner

    def __init__(
        self, lines: Sequence[IrqLine], flush: Callable[[int], None] | None = None
    ) -> None:
        """Drive `lines`, by IRQ number; call `flush` with a page address to have it remapped."""
        self._lines = lines
        self._flush = flush
        self._latch = bytearray(4)
        self._byte = 0
        self.memory = _Latch(MEMORY_SIZE)

    def attach(self, ports: PortBus, memory: Memory) -> None:
        """Put everything where it belongs. Raises UsageError or MemoryMapError if taken."""
        ports.add(LATCH, LATCH + 3, self, width=4)
        ports.add(FLUSH, FLUSH + 3, self, width=4)
        ports.add(BYTE_LATCH, BYTE_LATCH, self)
        ports.add(LINES, LINES + len(self._lines) - 1, self)
        memory.add_mmio(MEMORY_BASE, MEMORY_SIZE, self.memory)

    def save(self) -> State:
        """Return both latches; its memory is a device of its own."""
        return self._make_state(latch=self._latch, byte=self._byte)

    def load(self, state: State) -> None:
        """Take a saved state."""
        self._latch, self._byte = self._parts_of(state, latch=bytearray, byte=int)

    def read(self, port: int, size: int) -> int:
        """Read a latch; the other ports read as zeros."""
        if LATCH <= port < LATCH + 4:
            start = port - LATCH
            return int.from_bytes(self._latch[start : start + size], "little")
        return self._byte if port == BYTE_LATCH else 0

    def write(self, port: int, size: int, value: int) -> None:
        """Write a latch, set a line to whether the value is not 0, or flush a page."""
        if LATCH <= port < LATCH + 4:
            start = port - LATCH
            self._latch[start : start + size] = value.to_bytes(size, "little")
        elif port == BYTE_LATCH:
            self._byte = value
        elif port >= LINES:
            self._lines[port - LINES](bool(value))
        elif self._flush is not None:
            self._flush(value & ~0xFFF)


class _Latch(Savable):
    """Memory that is a device."""

    def __init__(self, size: int) -> None:
        self._bytes = bytearray(size)

    def save(self) -> State:
        return self._make_state(bytes=self._bytes)

    def load(self, state: State) -> None:
        (self._bytes,) = self._parts_of(state, bytes=bytearray)

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self._bytes[offset : offset + size] = value.to_bytes(size, "little")
