# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory by index, as a debugger sees it: reading leaves no trace in the guest.

Addresses are walked by `mmu.walker`, which sets no bit and counts nothing, and bytes are read by
`Memory.peek`, which asks no device that a read could change.
"""

from __future__ import annotations

from typing import Any

from mmu.arch import ACCESS_IMPLICIT
from mmu.memory import Memory
from mmu.walker import Context, walk

__all__ = ["PhysicalView", "VirtualView"]


class PhysicalView:
    """Guest-physical memory by index: `phys[gpa]` is a byte, `phys[a:b]` bytes; both assignable."""

    def __init__(self, memory: Memory) -> None:
        """Look at `memory`."""
        self._memory = memory

    def __getitem__(self, key: int | slice) -> Any:
        """Return one byte as an int, or bytes."""
        if isinstance(key, slice):
            start, stop = _bounds(key)
            return self._memory.peek(start, stop - start)
        return self._memory.peek(key, 1)[0]

    def __setitem__(self, key: int | slice, value: int | bytes) -> None:
        """Write, as a debugger: caches and translated code hear of it."""
        start, data = _assignment(key, value)
        self._memory.write_block(start, data, "debugger")


class VirtualView:
    """Guest-virtual memory by index, as `PhysicalView`; an unmapped address raises LookupError."""

    def __init__(self, memory: Memory, context: Context) -> None:
        """Look at `memory` through the tables of `context`."""
        self._memory = memory
        self._context = context

    def _pieces(self, gva: int, size: int) -> list[tuple[int, int]]:
        pieces = []
        while size > 0:
            length = min(size, 0x1000 - gva % 0x1000)
            found = walk(self._memory, self._context, gva, ACCESS_IMPLICIT)
            if found.fault is not None:
                raise LookupError(f"{gva:#x} is not mapped")
            pieces.append((found.gpa, length))
            gva += length
            size -= length
        return pieces

    def peek(self, gva: int, size: int) -> bytes:
        """Return up to `size` bytes, fewer where a page is not mapped. The address wraps at 64
        bits."""
        parts = []
        while size > 0:
            length = min(size, 0x1000 - gva % 0x1000)
            found = walk(self._memory, self._context, gva, ACCESS_IMPLICIT)
            if found.fault is not None:
                break
            parts.append(self._memory.peek(found.gpa, length))
            gva = gva + length & (1 << 64) - 1
            size -= length
        return b"".join(parts)

    def __getitem__(self, key: int | slice) -> Any:
        """Return one byte as an int, or bytes."""
        if isinstance(key, slice):
            start, stop = _bounds(key)
            peek = self._memory.peek
            return b"".join(peek(gpa, n) for gpa, n in self._pieces(start, stop - start))
        return self._memory.peek(self._pieces(key, 1)[0][0], 1)[0]

    def __setitem__(self, key: int | slice, value: int | bytes) -> None:
        """Write, as a debugger: rights do not matter, caches and translated code hear of it."""
        start, data = _assignment(key, value)
        done = 0
        for gpa, length in self._pieces(start, len(data)):
            self._memory.write_block(gpa, data[done : done + length], "debugger")
            done += length


def _bounds(key: slice) -> tuple[int, int]:
    if key.start is None or key.stop is None or key.step not in (None, 1):
        raise IndexError("memory slices need a start and a stop, and no step")
    if key.stop < key.start:
        raise IndexError("memory slices run upwards")
    return key.start, key.stop


def _assignment(key: int | slice, value: int | bytes) -> tuple[int, bytes]:
    if isinstance(key, slice):
        start, stop = _bounds(key)
        if not isinstance(value, (bytes, bytearray)) or len(value) != stop - start:
            raise ValueError(f"{stop - start} bytes are needed")
        return start, bytes(value)
    if not isinstance(value, int) or not 0 <= value <= 0xFF:
        raise ValueError("a byte is a number from 0 to 255")
    return key, bytes((value,))
