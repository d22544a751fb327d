# SPDX-License-Identifier: GPL-2.0-or-later
"""INT 13h for CDs: the drive itself (0xe0 and up), the drive that it emulates, AH=4Bh.

An emulated drive takes the place of the first floppy or hard disk, and those that are there count
from one more, until AX=4B00h ends the emulation.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.boot.bios.call import Call
from emu.boot.request import Emulation, SectorReader
from emu.savable import Savable, State

if TYPE_CHECKING:
    from emu.boot.request import Disk

__all__ = ["FIRST_CD", "CdDisk", "CdEmulation", "EmulatedDisk"]

FIRST_CD = 0xE0
_PER_BLOCK = 4
_ALL_DRIVES = 0x7F
_OK, _BAD_COMMAND = 0x00, 0x01


class CdDisk:
    """A CD as INT 13h shows it: blocks of 2,048 bytes, which cannot be written."""

    def __init__(self, image: SectorReader) -> None:
        """Show `image`."""
        self._image = image

    @property
    def sectors(self) -> int:
        """The number of blocks."""
        return -(-self._image.sectors // _PER_BLOCK)

    def read(self, lba: int, count: int) -> bytes:
        """Return `count` blocks from `lba` on."""
        return self._image.read(lba * _PER_BLOCK, count * _PER_BLOCK)

    def write(self, lba: int, data: bytes) -> None:
        """Refuse."""
        raise PermissionError("a CD is read-only")

    def close(self) -> None:
        """Do nothing: the image belongs to the board."""


class EmulatedDisk:
    """A floppy or hard disk whose sectors lie on a CD; they cannot be written."""

    def __init__(self, image: SectorReader, emulation: Emulation) -> None:
        """Show the part of `image` that `emulation` names."""
        self._image = image
        self._first = emulation.block * _PER_BLOCK
        self.shape = emulation.shape
        cylinders, heads, sectors = emulation.shape
        self.sectors = cylinders * heads * sectors
        """The number of sectors."""

    def read(self, lba: int, count: int) -> bytes:
        """Return `count` sectors from `lba` on."""
        return self._image.read(self._first + lba, count)

    def write(self, lba: int, data: bytes) -> None:
        """Refuse."""
        raise PermissionError("a CD is read-only")

    def close(self) -> None:
        """Do nothing: the image belongs to the board."""


class CdEmulation(Savable):
    """What the firmware has booted from, if it was a CD."""

    def __init__(self) -> None:
        """Have booted from something else."""
        self.entry: Emulation | None = None
        self._disk: EmulatedDisk | None = None
        self._is_active = False

    def start(self, image: SectorReader, entry: Emulation) -> None:
        """Be booted from `image` as `entry` says."""
        self.entry = entry
        self._disk = EmulatedDisk(image, entry) if entry.media else None
        self._is_active = True

    def save(self) -> State:
        """Return whether there still is an emulation; the rest comes from the image."""
        return self._make_state(is_active=self._is_active)

    def load(self, state: State) -> None:
        """Take a saved state."""
        (self._is_active,) = self._parts_of(state, is_active=bool)

    def drives(self, real: dict[int, Disk]) -> dict[int, Disk]:
        """Return the drives as programs see them."""
        disk, entry = self._disk, self.entry
        if disk is None or entry is None or not self._is_active:
            return real
        moved = {
            number + (number < FIRST_CD and (number ^ entry.drive) & 0x80 == 0): drive
            for number, drive in real.items()
        }
        return {**moved, entry.drive: disk}

    def serve(self, call: Call) -> int:
        """AX=4B00h ends the emulation, AX=4B01h does not; both fill the packet at DS:SI (El Torito
        1.0, figure 5)."""
        entry = self.entry
        if entry is None or not self._is_active or call.al > 1:
            return _BAD_COMMAND
        if call.dl not in (entry.drive, _ALL_DRIVES):
            return _BAD_COMMAND
        cylinders, heads, sectors = entry.shape
        packet = struct.pack(
            "<BBBBIHHHHBBB",
            *(0x13, entry.media, entry.drive, 0, entry.block, 0, 0, entry.segment, entry.count),
            *(cylinders & 0xFF, sectors | cylinders >> 2 & 0xC0, heads and heads - 1),
        )
        call.memory.write_block(call.linear("ds", call.si), packet, "device")
        if call.al == 0 and entry.media:
            self._is_active = False
        return _OK
