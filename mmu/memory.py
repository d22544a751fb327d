# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest-physical memory: slots of RAM, ROM and MMIO, and the report of every write.

A slot is a range of guest-physical addresses, a multiple of 4 KiB at a multiple of 4 KiB. RAM and
ROM slots own one host buffer each, which the machine also gives to the engine that executes the
guest, so a byte exists once. What lies in no slot is a hole: it reads as all ones and swallows
writes, as an address on the bus does that no chip answers.

Every write made through this class is reported to the listeners after the bytes have changed.
Stores that the engine makes straight into RAM are not reported. The memory management unit makes
sure that none of these matters: it write-protects each frame whose writes it must see.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from typing import Literal, Protocol, runtime_checkable

from intervaltree import IntervalTree

from .arch import PAGE_OFFSET, PAGE_SHIFT, PAGE_SIZE

_MOST_KNOWN = 1 << 16
"""Frames whose slot is remembered; a guest that probes every address must not fill the host."""
WriteListener = Callable[[int, int, str], None]
"""Called as ``listener(gpa, size, source)`` after a write to RAM."""


class MemoryMapError(Exception):
    """A slot that cannot be: misaligned, empty, too high, or over another one."""


class MmioDevice(Protocol):
    """A device with registers in guest-physical memory. Offsets count from its slot's start."""

    def read(self, offset: int, size: int) -> int:
        """Return ``size`` bytes (1, 2, 4 or 8) at ``offset``, little endian."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Take ``size`` bytes at ``offset``."""


@runtime_checkable
class Peekable(Protocol):
    """A device whose contents can be looked at without any effect."""

    def peek(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``; change nothing."""


class Slot:
    """A range of guest-physical memory: ``kind`` is ``"ram"``, ``"rom"`` or ``"mmio"``.

    ``purpose`` is ``"main"``, or ``"video"`` for RAM of a device, which no memory map lists.
    ``view`` is the slot's bytes and ``host`` their address in this process (RAM and ROM only).
    """

    __slots__ = ("_anchor", "_buffer", "device", "gpa", "host", "kind", "purpose", "size", "view")

    def __init__(self, kind: str, gpa: int, size: int, device: MmioDevice | None = None) -> None:
        self.kind = kind
        self.gpa = gpa
        self.size = size
        self.device = device
        self.purpose = "main"
        self.host = 0
        self.view = memoryview(b"")
        if device is None:
            # An anonymous mapping costs host memory only where it is touched, on every system.
            self._buffer = mmap.mmap(-1, size)
            self.view = memoryview(self._buffer)
            self._anchor = ctypes.c_char.from_buffer(self._buffer)
            self.host = ctypes.addressof(self._anchor)

    @property
    def end(self) -> int:
        """The first address after the slot."""
        return self.gpa + self.size

    def __repr__(self) -> str:
        return f"<{self.kind} {self.gpa:#x}-{self.end - 1:#x}>"


def is_main_ram(slot: Slot) -> bool:
    """Tell whether a slot is RAM that belongs to no device."""
    return slot.kind == "ram" and slot.purpose == "main"


class Memory:
    """The guest-physical address space of one machine.

    ``phys_bits`` bounds it: no slot may reach past ``1 << phys_bits``.

    >>> memory = Memory()
    >>> _ = memory.add_ram(0, 0x10000)
    >>> memory.write(0x1ffe, 4, 0x11223344, "loader")
    >>> hex(memory.read(0x2000, 2)), hex(memory.read(0x20000, 4))
    ('0x1122', '0xffffffff')
    """

    def __init__(self, phys_bits: int = 40) -> None:
        self.phys_bits = phys_bits
        self.listeners: list[WriteListener] = []
        self.map_listeners: list[Callable[[], None]] = []
        self._slots = IntervalTree()
        self._recent: Slot | None = None  # nearly always the slot of the next access too
        self._slot_of: dict[int, Slot | None] = {}  # gfn -> slot, as far as it was asked for
        self._tables32: dict[int, memoryview] = {}
        self._tables64: dict[int, memoryview] = {}

    # --- The map ------------------------------------------------------------------------------

    def add_ram(self, gpa: int, size: int, purpose: str = "main") -> Slot:
        """Add ``size`` bytes of zeroed RAM at ``gpa``, for the ``purpose`` that `Slot` names.

        Raises:
            MemoryMapError: not whole pages, out of range, or over another slot.
        """
        slot = self._add("ram", gpa, size)
        slot.purpose = purpose
        return slot

    def add_rom(self, gpa: int, data: bytes) -> Slot:
        """Add read-only memory holding ``data``, padded to a whole page with ones."""
        size = -(-len(data) // PAGE_SIZE) * PAGE_SIZE
        slot = self._add("rom", gpa, size)
        slot.view[:] = data.ljust(size, b"\xff")
        return slot

    def add_mmio(self, gpa: int, size: int, device: MmioDevice) -> Slot:
        """Give the addresses from ``gpa`` to a device."""
        return self._add("mmio", gpa, size, device)

    def remove(self, slot: Slot) -> None:
        """Take a slot away, leaving a hole. Its buffer lives as long as somebody holds the slot.

        Raises:
            MemoryMapError: it is not there.
        """
        if self.slot_at(slot.gpa) is not slot:
            raise MemoryMapError(f"{slot!r} is not in the map")
        self._slots.removei(slot.gpa, slot.end, slot)
        self._changed()

    def move(self, slot: Slot, gpa: int) -> None:
        """Let a slot appear at another address, with its contents.

        Raises:
            MemoryMapError: it cannot be there; it then stays where it was.
        """
        self.remove(slot)
        old, slot.gpa = slot.gpa, gpa
        try:
            self._insert(slot)
        except MemoryMapError:
            slot.gpa = old
            self._insert(slot)
            raise

    def _changed(self) -> None:
        self._recent = None
        self._slot_of.clear()
        self._tables32.clear()
        self._tables64.clear()
        for listener in self.map_listeners:
            listener()

    def _add(self, kind: str, gpa: int, size: int, device: MmioDevice | None = None) -> Slot:
        if size <= 0 or size & PAGE_OFFSET:
            raise MemoryMapError(f"{kind} at {gpa:#x}, {size:#x} bytes: not whole 4 KiB pages")
        self._check_place(kind, gpa, size)
        slot = Slot(kind, gpa, size, device)
        self._insert(slot)
        return slot

    def _insert(self, slot: Slot) -> None:
        self._check_place(slot.kind, slot.gpa, slot.size)
        self._slots.addi(slot.gpa, slot.end, slot)
        self._changed()

    def _check_place(self, kind: str, gpa: int, size: int) -> None:
        what = f"{kind} at {gpa:#x}, {size:#x} bytes"
        if gpa & PAGE_OFFSET:
            raise MemoryMapError(f"{what}: not at a multiple of 4 KiB")
        if gpa < 0 or gpa + size > 1 << self.phys_bits:
            raise MemoryMapError(f"{what}: past the {self.phys_bits} physical bits")
        for other in self._slots.overlap(gpa, gpa + size):
            raise MemoryMapError(f"{what}: over {other.data!r}")

    def slot_at(self, gpa: int) -> Slot | None:
        """Return the slot that holds ``gpa``, or None for a hole. One look-up for a frame that was
        asked for before, O(log n) for another."""
        slot = self._recent
        if slot is not None and slot.gpa <= gpa < slot.gpa + slot.size:
            return slot
        gfn = gpa >> PAGE_SHIFT
        try:
            slot = self._slot_of[gfn]
        except KeyError:
            if len(self._slot_of) >= _MOST_KNOWN:
                self._slot_of.clear()
            slot = next((interval.data for interval in self._slots.at(gpa)), None)
            self._slot_of[gfn] = slot
        if slot is not None:
            self._recent = slot
        return slot

    def host_address(self, gpa: int) -> int:
        """Return where in this process a byte of RAM is, 0 if it is not RAM."""
        slot = self.slot_at(gpa)
        return slot.host + gpa - slot.gpa if slot is not None and slot.kind == "ram" else 0

    def slots(self) -> Iterator[Slot]:
        """Yield the slots by rising address."""
        return (interval.data for interval in sorted(self._slots))

    def ram_bytes(self) -> int:
        """Return how many bytes of RAM there are."""
        return sum(slot.size for slot in self.slots() if is_main_ram(slot))

    def top_of_ram(self) -> int:
        """Return the first address after the highest RAM slot, 0 without RAM."""
        return max((slot.end for slot in self.slots() if is_main_ram(slot)), default=0)

    # --- Reads and writes -----------------------------------------------------------------------

    def read(self, gpa: int, size: int) -> int:
        """Return ``size`` bytes (1, 2, 4 or 8) at ``gpa`` as a little-endian number."""
        slot = self.slot_at(gpa)
        if slot is not None and gpa + size <= slot.gpa + slot.size:
            offset = gpa - slot.gpa
            if slot.device is not None:
                return slot.device.read(offset, size) & ((1 << (8 * size)) - 1)
            return int.from_bytes(slot.view[offset : offset + size], "little")
        if slot is None and self.slot_at(gpa + size - 1) is None:
            return (1 << (8 * size)) - 1
        return int.from_bytes(self.read_block(gpa, size), "little")

    def write(self, gpa: int, size: int, value: int, source: str) -> None:
        """Write ``size`` bytes (1, 2, 4 or 8) at ``gpa``; ROM and holes ignore it."""
        slot = self.slot_at(gpa)
        value &= (1 << (8 * size)) - 1
        if slot is None or gpa + size > slot.gpa + slot.size:
            self.write_block(gpa, value.to_bytes(size, "little"), source)
        elif slot.device is not None:
            slot.device.write(gpa - slot.gpa, size, value)
        elif slot.kind == "ram":
            offset = gpa - slot.gpa
            slot.view[offset : offset + size] = value.to_bytes(size, "little")
            for listener in self.listeners:
                listener(gpa, size, source)

    def read_block(self, gpa: int, size: int) -> bytes:
        """Return ``size`` bytes at ``gpa``, over any number of slots; devices see byte reads."""
        recent = self._recent
        if recent is not None and recent.device is None:
            first = gpa - recent.gpa
            if first >= 0 and first + size <= recent.size:
                return bytes(recent.view[first : first + size])
        parts = []
        for slot, start, length in self._pieces(gpa, size):
            if slot is None:
                parts.append(b"\xff" * length)
            elif slot.device is not None:
                first = start - slot.gpa
                read = slot.device.read
                parts.append(bytes(read(first + i, 1) & 0xFF for i in range(length)))
            else:
                first = start - slot.gpa
                parts.append(bytes(slot.view[first : first + length]))
        return b"".join(parts)

    def peek(self, gpa: int, size: int) -> bytes:
        """Return ``size`` bytes at ``gpa`` without any effect: for debuggers and reports.

        RAM and ROM as they are. A device is asked only if it is ``Peekable``, because reading a
        register may change it; what others hold reads as all ones, like a hole.
        """
        parts = []
        for slot, start, length in self._pieces(gpa, size):
            if slot is None:
                parts.append(b"\xff" * length)
                continue
            first = start - slot.gpa
            if slot.device is None:
                parts.append(bytes(slot.view[first : first + length]))
            elif isinstance(slot.device, Peekable):
                parts.append(slot.device.peek(first, length).ljust(length, b"\xff")[:length])
            else:
                parts.append(b"\xff" * length)
        return b"".join(parts)

    def write_block(self, gpa: int, data: bytes | memoryview, source: str) -> None:
        """Write ``data`` at ``gpa``, over any number of slots; devices see byte writes."""
        done = 0
        for slot, start, length in self._pieces(gpa, len(data)):
            piece = data[done : done + length]
            done += length
            if slot is None or slot.kind == "rom":
                continue
            first = start - slot.gpa
            if slot.device is not None:
                for i, byte in enumerate(piece):
                    slot.device.write(first + i, 1, byte)
                continue
            slot.view[first : first + length] = piece
            for listener in self.listeners:
                listener(start, length, source)

    def _pieces(self, gpa: int, size: int) -> Iterator[tuple[Slot | None, int, int]]:
        """Yield (slot or None, gpa, length) for each stretch of a range in one slot or hole."""
        end = gpa + size
        while gpa < end:
            slot = self.slot_at(gpa)
            if slot is not None:
                stop = min(end, slot.end)
            else:
                above = [i.begin for i in self._slots.overlap(gpa, end)]
                stop = min(above, default=end)
            yield slot, gpa, stop - gpa
            gpa = stop

    # --- Page tables ------------------------------------------------------------------------------

    def table32(self, gfn: int) -> memoryview | None:
        """Return a frame as 1,024 32-bit words, or None if it is not RAM or ROM. One look-up."""
        table = self._tables32.get(gfn)
        return table if table is not None else self._table(gfn, "I", self._tables32)

    def table64(self, gfn: int) -> memoryview | None:
        """Return a frame as 512 64-bit words, or None if it is not RAM or ROM. One look-up."""
        table = self._tables64.get(gfn)
        return table if table is not None else self._table(gfn, "Q", self._tables64)

    def _table(
        self, gfn: int, word: Literal["I", "Q"], known: dict[int, memoryview]
    ) -> memoryview | None:
        gpa = gfn << PAGE_SHIFT
        slot = self.slot_at(gpa)
        if slot is None or slot.device is not None:
            return None
        first = gpa - slot.gpa
        page = slot.view[first : first + PAGE_SIZE]
        if slot.kind == "rom":
            page = page.toreadonly()
        known[gfn] = table = page.cast("B").cast(word)
        return table
