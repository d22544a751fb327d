# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things are in guest-physical memory at boot: the E820 map, and room for what is loaded.

0x00000  interrupt vectors, BIOS data area (0x400)
0x00600  conventional memory, usable
0x9fc00  extended BIOS data area: reserved (the MP floating pointer may stand here)
0xa0000  VGA memory: not in the map
0xf0000  firmware ROM: reserved
0x100000 usable up to what the board keeps for itself (`BootRequest.reserved`)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from emu.errors import KernelError
from mmu.memory import Memory

__all__ = [
    "E820_RAM",
    "E820_RESERVED",
    "EBDA",
    "Placer",
    "Range",
    "align_up",
    "memory_map",
    "pack_e820",
    "upper_kib",
]

# The types of ACPI 6.4 table 15.3.
E820_RAM = 1
E820_RESERVED = 2

EBDA = 0x9FC00
_LOW_END = 0xA0000
_LOWEST = 0x9000  # below lie what kernels use without asking: AP trampolines, boot sectors
_ONE_MIB = 0x100000
_4_GIB = 1 << 32
_FIRMWARE_WRITES_END = _ONE_MIB  # above it, RAM is as it was at power-on (zero) till a reset


class Range(NamedTuple):
    """`size` bytes from `gpa` on, of one E820 type."""

    gpa: int
    size: int
    kind: int

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.gpa + self.size


def align_up(value: int, alignment: int) -> int:
    """Return the first multiple of `alignment` (a power of two) that is not below `value`.

    >>> align_up(0x1001, 0x1000)
    8192
    """
    return (value + alignment - 1) & -alignment


def _cut(ranges: Iterable[Range], hole: Range) -> list[Range]:
    kept = []
    for piece in ranges:
        if hole.end <= piece.gpa or piece.end <= hole.gpa:
            kept.append(piece)
            continue
        if piece.gpa < hole.gpa:
            kept.append(Range(piece.gpa, hole.gpa - piece.gpa, piece.kind))
        if hole.end < piece.end:
            kept.append(Range(hole.end, piece.end - hole.end, piece.kind))
    return kept


def memory_map(memory: Memory, reserved: Sequence[tuple[int, int, int]] = ()) -> list[Range]:
    """Return the E820 map of the machine in address order: RAM as it may be used, and the rest.

    MMIO is left out, as firmware does. `reserved` wins over RAM.
    """
    slots = [(slot.gpa, slot.size, slot.kind) for slot in memory.slots() if slot.purpose == "main"]
    ranges = [Range(gpa, size, E820_RAM) for gpa, size, kind in slots if kind == "ram"]
    ranges = _cut(ranges, Range(EBDA, _ONE_MIB - EBDA, E820_RESERVED))
    fixed = [Range(gpa, size, E820_RESERVED) for gpa, size, kind in slots if kind == "rom"]
    if any(gpa <= EBDA < gpa + size for gpa, size, kind in slots if kind == "ram"):
        fixed.append(Range(EBDA, _LOW_END - EBDA, E820_RESERVED))
    for piece in (Range(*entry) for entry in reserved):
        fixed = [*_cut(fixed, piece), piece]
    for piece in fixed:
        ranges = _cut(ranges, piece)
    return _merged(sorted([*ranges, *fixed]))


def _merged(ranges: Iterable[Range]) -> list[Range]:
    result: list[Range] = []
    for piece in ranges:
        if result and result[-1].end == piece.gpa and result[-1].kind == piece.kind:
            piece = Range(result[-1].gpa, result.pop().size + piece.size, piece.kind)
        result.append(piece)
    return result


def pack_e820(ranges: Iterable[Range], fmt: str = "<QQI") -> bytes:
    """Return the entries one after another as base, length, type (INT 15h E820 order)."""
    return b"".join(struct.pack(fmt, *piece) for piece in ranges)


def upper_kib(ranges: Iterable[Range]) -> int:
    """Return the KiB of usable RAM from 1 MiB up to the first hole."""
    return next((r.end - _ONE_MIB for r in ranges if _covers(r, _ONE_MIB)), 0) >> 10


def _holds(piece: Range, wanted: Range) -> bool:
    return piece.kind == E820_RAM and piece.gpa <= wanted.gpa and wanted.end <= piece.end


def _covers(piece: Range, gpa: int) -> bool:
    return piece.kind == E820_RAM and piece.gpa <= gpa < piece.end


class Placer:
    """Hands out usable RAM to what is loaded, each byte once, and writes it."""

    def __init__(self, memory: Memory, reserved: Sequence[tuple[int, int, int]] = (),
                 clean: bool = True) -> None:  # fmt: skip
        """Take the machine's memory as it stands; `reserved` and `clean` as in `BootRequest`."""
        self.memory = memory
        self._clean = clean
        self.map = memory_map(memory, reserved)
        self._free = [piece for piece in self.map if piece.kind == E820_RAM]
        self._claims: list[tuple[Range, str]] = []

    @property
    def end(self) -> int:
        """One past the highest byte handed out so far."""
        return max((piece.end for piece, _ in self._claims), default=0)

    def put(self, gpa: int, data: bytes, what: str, *, size: int = 0) -> None:
        """Write `data` at `gpa`, zeroes up to `size` bytes, and claim it all under the name `what`.

        Raises KernelError if that is not all usable RAM, or is partly taken.
        """
        size = max(size, len(data))
        self.claim(gpa, size, what)
        self.memory.write_block(gpa, data, "loader")
        zero_end = min(gpa + size, _FIRMWARE_WRITES_END) if self._clean else gpa + size
        zero_start = gpa + len(data)
        if zero_start < zero_end:
            self.memory.write_block(zero_start, bytes(zero_end - zero_start), "loader")

    def claim(self, gpa: int, size: int, what: str) -> None:
        """Take `size` bytes at `gpa`; raises KernelError as `put` does."""
        wanted = Range(gpa, size, E820_RAM)
        if not size:
            return
        if not any(_holds(piece, wanted) for piece in self.map):
            raise KernelError(self._outside(wanted, what))
        for taken, owner in self._claims:
            if taken.gpa < wanted.end and wanted.gpa < taken.end:
                raise KernelError(f"{what} at {_span(wanted)} overlaps {owner} at {_span(taken)}")
        self._take(wanted, what)

    def fits(self, gpa: int, size: int) -> bool:
        """Tell whether `claim` would take `size` bytes at `gpa`."""
        return any(_holds(piece, Range(gpa, size, E820_RAM)) for piece in self._free)

    def find(self, size: int, what: str, *, align: int = 16, low: int = _LOWEST,
             high: int = _4_GIB, top: bool = False) -> int:  # fmt: skip
        """Claim `size` bytes anywhere in [low, high) and return where; the highest place if `top`.

        Raises KernelError if there is no such room.
        """
        places = list(self._places(size, align, low, high, top))
        if not places:
            raise KernelError(
                f"no room for {what} ({_size(size)}) in {_size(self.memory.ram_bytes())} of RAM: "
                "give the machine more with -m"
            )
        gpa = max(places) if top else min(places)
        self._take(Range(gpa, size, E820_RAM), what)
        return gpa

    def room(self, size: int, *, align: int = 16, low: int = _LOWEST, high: int = _4_GIB) -> bool:
        """Tell whether `find` would find a place."""
        return any(True for _ in self._places(size, align, low, high, False))

    def _places(self, size: int, align: int, low: int, high: int, top: bool) -> Iterator[int]:
        for piece in self._free:
            start = align_up(max(piece.gpa, low), align)
            end = min(piece.end, high)
            if start + size <= end:
                yield (end - size) & -align if top else start

    def add(self, data: bytes, what: str, *, align: int = 16, low: int = _LOWEST,
            high: int = _4_GIB) -> int:  # fmt: skip
        """Write `data` wherever there is room in [low, high) and return where."""
        gpa = self.find(len(data), what, align=align, low=low, high=high)
        self.memory.write_block(gpa, data, "loader")
        return gpa

    def _take(self, wanted: Range, what: str) -> None:
        self._free = _cut(self._free, wanted)
        self._claims.append((wanted, what))

    def _outside(self, wanted: Range, what: str) -> str:
        text = f"{what} at {_span(wanted)} does not lie in usable RAM"
        top = max((piece.end for piece in self.map if piece.kind == E820_RAM), default=0)
        if wanted.end > top:
            return f"{text}, which ends at {top:#x}: give the machine more with -m"
        return f"{text}: move it with the linker script (usable are {self._usable()})"

    def _usable(self) -> str:
        return ", ".join(_span(piece) for piece in self.map if piece.kind == E820_RAM)


def _span(piece: Range) -> str:
    return f"{piece.gpa:#x}-{piece.end - 1:#x}"


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= _ONE_MIB else f"{align_up(size, 1024) >> 10} KiB"
