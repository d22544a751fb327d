# SPDX-License-Identifier: GPL-2.0-or-later
"""A stack onto which the processor itself pushes a frame, in any mode: all of it or nothing."""

from __future__ import annotations

from emu.cpu.faults import Fault, Vector
from emu.cpu.linear import LinearMemory
from mmu.arch import ACCESS_IMPLICIT, ACCESS_WRITE

__all__ = ["Stack"]


class Stack:
    """A stack under construction: pushes are staged, nothing is written."""

    __slots__ = ("_base", "_ext", "_linear", "_mask", "_width", "access", "pointer")

    def __init__(
        self,
        linear: LinearMemory,
        base: int,
        pointer: int,
        mask: int,
        width: int,
        ext: int = 0,
        access: int = ACCESS_IMPLICIT,
    ) -> None:
        """Push values of `width` bytes below `pointer`, whose bits in `mask` move."""
        self._linear = linear
        self._base = base
        self._mask = mask
        self._width = width
        self._ext = ext
        self.pointer = pointer & mask
        self.access = access

    def push(self, *values: int) -> None:
        """Stage values, the first one at the highest address."""
        width = self._width
        size = width * len(values)
        bottom = self._base + self.pointer - size
        no_wrap = size <= self.pointer and (width == 8 or bottom + size <= 1 << 32)
        if not no_wrap or bottom & 0xFFF > 0x1000 - size:
            for value in values:
                self.pointer = self.pointer - width & self._mask
                self._stage(self._base + self.pointer, width, value)
            return
        # All in one page. The first push is the one that would fault.
        self.pointer -= size
        whole, mask = 0, (1 << 8 * width) - 1
        for value in values:
            whole = whole << 8 * width | value & mask
        self._stage(bottom, size, whole, bottom + size - width)

    def _stage(self, address: int, size: int, value: int, first: int | None = None) -> None:
        if self._width < 8:
            address &= 0xFFFF_FFFF
        try:
            if first is not None:
                self._linear.physical(first, self.access | ACCESS_WRITE, Vector.SS)
            self._linear.stage(address, size, value, self.access, Vector.SS)
        except Fault as fault:
            if fault.vector == Vector.SS:
                raise Fault(Vector.SS, self._ext) from None
            raise

    def pointer_in(self, old: int) -> int:
        """Return the new stack pointer register: bits outside the mask stay."""
        if self._mask == 0xFFFF:
            return old & ~0xFFFF | self.pointer
        return self.pointer
