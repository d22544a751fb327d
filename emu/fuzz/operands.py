# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the instructions of a random program aim: places in windows, and operands for them."""

from __future__ import annotations

import random

from emu.fuzz import layout as L
from emu.fuzz.encode import (
    PAIRS_16,
    RBP,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    Memory,
    absolute,
    based,
    based_16,
    load_register,
)

__all__ = ["Operands"]

_INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000)
_BASES = (RBX, RSI, RDI)
_BASES_64 = (RBX, RSI, RDI, 8, 9, 12, 13)


class Operands:
    """Chooses addresses in the windows of a guest, and ways to name them."""

    def __init__(self, rng: random.Random, mode: L.Mode, windows: list[int]) -> None:
        """Choose by `rng`."""
        self._rng = rng
        self._bits = mode.bits
        self._windows = windows

    def place(self, size: int, *, write: bool) -> int:
        """Return an offset into a window for an access of `size` bytes, often over a page end."""
        rng = self._rng
        pages = L.FIRST_TABLE_PAGE if write else L.PAGES
        page = rng.randrange(pages)
        at = rng.random()
        if at < 0.4:
            offset = 4096 - rng.randrange(1, size + 2)
        elif at < 0.5:
            offset = rng.randrange(size + 1)
        else:
            offset = rng.randrange(0, 4096, rng.choice((1, 4, 8, 16)))
        place = (page << 12) + offset
        end = pages << 12 if write or self._bits == 16 else (pages + 1) << 12
        return max(min(place, end - size), 0)

    def address(self, place: int) -> int:
        """Return what a data segment's offset is for a place in some window."""
        if self._bits == 16:
            return place
        return self._rng.choice(self._windows) + place & (1 << 64) - 1

    def operand(self, address: int) -> tuple[bytes, Memory]:
        """Return code that loads registers, and the operand [address] by them."""
        rng, bits = self._rng, self._bits
        if bits == 16 and rng.random() < 0.5:
            return self._operand_16(address)
        if bits != 64 and rng.random() < 0.2:
            return b"", absolute(bits, address)
        base = rng.choice(_BASES_64 if bits == 64 else _BASES)
        displacement = rng.choice((0, 0, 0, 8, -8, 127, -128, 0x1000, -0x1000))
        if bits == 16:
            displacement = max(displacement, 0)
            displacement = min(displacement, address)
        if rng.random() < 0.2:
            index, scale = rng.choice([r for r in (RCX, RDX, RBP) if r != base]), rng.randrange(4)
            step = rng.choice((0, 1, 3))
            address -= step << scale
            if address >= displacement:
                code = load_register(bits, index, step)
                memory = based(base, displacement, index, scale)
                return code + load_register(bits, base, address - displacement), self._wide(memory)
            address += step << scale
        code = load_register(bits, base, address - displacement)
        return code, self._wide(based(base, displacement))

    def _wide(self, memory: Memory) -> Memory:
        """Return the operand with the prefix for 32-bit addressing where that is no default."""
        if self._bits != 16:
            return memory
        return Memory(memory.modrm, memory.tail, memory.rex, True)

    def _operand_16(self, address: int) -> tuple[bytes, Memory]:
        rm = self._rng.choice((0, 1, 4, 5, 6, 7))
        registers = PAIRS_16[rm] or ()
        left = address
        code = b""
        for register in registers:
            part = self._rng.randrange(left + 1)
            code += b"\xb8"[:0] + bytes([0xB8 | register]) + part.to_bytes(2, "little")
            left -= part
        return code, based_16(rm, left)

    def value(self, width: int) -> int:
        """Return a number of so many bytes, often one at some edge."""
        rng = self._rng
        if rng.random() < 0.5:
            return rng.choice(_INTERESTING) & (1 << 8 * width) - 1
        return rng.getrandbits(8 * width)
