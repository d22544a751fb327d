# SPDX-License-Identifier: GPL-2.0-or-later
"""INT 13h: disks, by cylinder-head-sector and by LBA (Phoenix Enhanced Disk Drive 3.0).

Hard disks show a translated geometry of 63 sectors and as few heads as keep the cylinders within
1,024; floppies (drives 0 and 1) the geometry of the format that their size fits. A floppy image
may be shorter than its format: what is missing reads as zeros, as under QEMU.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from emu.boot.bios.call import Call
from emu.boot.bios.cd import FIRST_CD, CdDisk, CdEmulation, EmulatedDisk
from emu.boot.bios.compat import DISKETTE
from emu.boot.request import Disk
from emu.errors import NotSavableError
from emu.savable import Savable, State

__all__ = ["SECTOR", "Disks", "Floppy", "Geometry", "MemoryDisk", "geometry_of"]

SECTOR = 512
_CD_BLOCK = 2048
_HARD = 0x80
_EXTENDED = 0x41  # functions from here on are hard disks' alone
_Service = Callable[[Call], int | None]

# Status codes, as AH returns them.
_OK = 0x00
_BAD_COMMAND = 0x01
_WRITE_PROTECTED = 0x03
_CHANGED = 0x06
_CONTROLLER_FAILED = 0x20
_NOT_READY = 0x80
_NOT_REMOVABLE = 0xB2

# BIOS data area.
_STATUS = 0x74
_HARD_COUNT = 0x75

_FLOPPIES = {
    320: (40, 1, 8),
    360: (40, 1, 9),
    640: (40, 2, 8),
    720: (40, 2, 9),
    1440: (80, 2, 9),
    2400: (80, 2, 15),
    2880: (80, 2, 18),
    5760: (80, 2, 36),
}
_FLOPPY_TYPES = {720: 1, 2400: 2, 1440: 3, 2880: 4, 5760: 5}


class Geometry(NamedTuple):
    """How many cylinders, heads, and sectors a track."""

    cylinders: int
    heads: int
    sectors: int

    @property
    def total(self) -> int:
        """The number of sectors in all."""
        return self.cylinders * self.heads * self.sectors


def geometry_of(sectors: int, *, floppy: bool = False) -> Geometry:
    """Return the geometry that a disk of `sectors` sectors shows.

    >>> geometry_of(2880, floppy=True)
    Geometry(cylinders=80, heads=2, sectors=18)
    >>> geometry_of(4 << 21)
    Geometry(cylinders=522, heads=255, sectors=63)
    """
    if floppy:
        fitting = [shape for size, shape in sorted(_FLOPPIES.items()) if size >= sectors]
        small = sectors < 2400 and sectors not in _FLOPPIES
        return Geometry(*(_FLOPPIES[2880] if small or not fitting else fitting[0]))
    heads = next((n for n in (16, 32, 64, 128) if sectors <= 1024 * n * 63), 255)
    return Geometry(min(max(sectors // (heads * 63), 1), 1024), heads, 63)


class MemoryDisk(Savable):
    """A drive whose sectors are bytes of this process: what is written is gone after the run."""

    def __init__(self, image: bytes) -> None:
        """Show `image`, padded to whole sectors."""
        self._image = image
        self._written: set[int] = set()
        self.data = bytearray(image + bytes(-len(image) % SECTOR))

    @property
    def sectors(self) -> int:
        """The number of sectors."""
        return len(self.data) // SECTOR

    def read(self, lba: int, count: int) -> bytes:
        """Return `count` sectors from `lba` on; beyond the end they are zeros."""
        return bytes(self.data[lba * SECTOR : (lba + count) * SECTOR]).ljust(count * SECTOR, b"\0")

    def write(self, lba: int, data: bytes) -> None:
        """Replace the sectors from `lba` on by `data`; the disk grows to hold them."""
        self.data += bytes(max(lba * SECTOR + len(data) - len(self.data), 0))
        self.data[lba * SECTOR : lba * SECTOR + len(data)] = data
        self._written.update(range(lba, lba + -(-len(data) // SECTOR)))

    def save(self) -> State:
        """Return the sectors that were written."""
        written = {lba: self.read(lba, 1) for lba in sorted(self._written)}
        return self._make_state(size=len(self.data), written=written)

    def load(self, state: State) -> None:
        """Take back what was written since."""
        size, written = self._parts_of(state, size=int, written=dict[int, bytes])
        self.data = bytearray(self._image.ljust(size, b"\0"))
        for lba, data in written.items():
            self.data[lba * SECTOR : (lba + 1) * SECTOR] = data
        self._written = set(written)

    def close(self) -> None:
        """Do nothing: there is no file behind it."""


class Floppy(Savable):
    """A floppy drive with a disk in it: at least as many sectors as its format has.

    Sectors beyond the image's end read as zeros. The first write to one of them extends the image
    to the whole format, so that the next run finds the same geometry and all that was written.
    """

    def __init__(self, disk: Disk) -> None:
        """Show `disk`, which may be shorter than its format."""
        self._disk = disk
        self._end = disk.sectors
        self.sectors = max(geometry_of(disk.sectors, floppy=True).total, disk.sectors)
        """The number of sectors."""

    def read(self, lba: int, count: int) -> bytes:
        """Return `count` sectors from `lba` on."""
        there = max(min(count, self._end - lba), 0)
        data = self._disk.read(lba, there) if there else b""
        return data.ljust(count * SECTOR, b"\0")

    def write(self, lba: int, data: bytes) -> None:
        """Replace the sectors from `lba` on by `data`."""
        if lba * SECTOR + len(data) > self._end * SECTOR:
            self._disk.write(self.sectors - 1, bytes(SECTOR))
            self._end = self.sectors
        self._disk.write(lba, data)

    def save(self) -> State:
        """Return how far the image goes now, and its own state. Raises NotSavableError if that has
        none, as a file that was written in place."""
        if not isinstance(self._disk, Savable):
            raise NotSavableError(f"{type(self._disk).__name__} cannot be saved: it is no Savable")
        return self._make_state(end=self._end, disk=self._disk.save())

    def load(self, state: State) -> None:
        """Take a saved state."""
        end, disk = self._parts_of(state, end=int, disk=State)
        if isinstance(self._disk, Savable):
            self._disk.load(disk)
        self._end = end

    def close(self) -> None:
        """Close the image."""
        self._disk.close()


class Disks:
    """The services of INT 13h, by AH; `drives` is by drive number."""

    def __init__(self, drives: dict[int, Disk]) -> None:
        """Serve `drives`, which may change later."""
        self._real = drives
        self.cd = CdEmulation()
        self.functions: dict[int, _Service] = {
            0x00: self._reset,
            0x01: self._status,
            0x02: self._read,
            0x03: self._write,
            0x04: self._verify,
            0x08: self._parameters,
            0x09: self._hard_only,
            0x0C: self._hard_only,
            0x0D: self._hard_only,
            0x10: self._hard_only,
            0x11: self._hard_only,
            0x14: self._hard_only,
            0x15: self._type,
            0x16: self._change_line,
            0x41: self._extensions,
            0x42: self._read_lba,
            0x43: self._write_lba,
            0x44: self._verify_lba,
            0x45: self._hard_only,
            0x46: self._eject,
            0x47: self._hard_only,
            0x48: self._drive_parameters,
            0x49: self._extended_change_line,
            0x4B: self.cd.serve,
            0x4E: self._set_hardware,
        }

    @property
    def drives(self) -> dict[int, Disk]:
        """The drives by number, one that a CD emulates among them."""
        return self.cd.drives(self._real)

    def serve(self, call: Call) -> bool:
        """Do what AH asks; False if it is not known."""
        function = self.functions.get(call.ah)
        if function is None:
            self._finish(call, _BAD_COMMAND)
            return False
        if call.ah not in (0x01, 0x4B) and call.dl not in self.drives:
            self._finish(call, _NOT_READY if call.dl < _HARD else _BAD_COMMAND)
            return True
        if call.ah >= _EXTENDED and call.ah != 0x4B and call.dl < _HARD:
            self._finish(call, _BAD_COMMAND)
            return True
        status: int | None = function(call)
        if status is not None:
            self._finish(call, status)
        return True

    @staticmethod
    def _finish(call: Call, status: int) -> None:
        call.ah = status
        call.write_bda(_STATUS, status)
        call.carry(status != _OK)

    def _drive(self, call: Call) -> tuple[Disk, Geometry]:
        disk = self.drives[call.dl]
        if isinstance(disk, EmulatedDisk):
            return disk, Geometry(*disk.shape)
        return disk, geometry_of(disk.sectors, floppy=call.dl < _HARD)

    def _reset(self, call: Call) -> int:
        return _OK

    @staticmethod
    def _hard_only(call: Call) -> int:
        """Recalibrating, diagnostics, locking and the like: done at once, or no floppy's affair."""
        return _OK if call.dl >= _HARD else _BAD_COMMAND

    @staticmethod
    def _eject(call: Call) -> int:
        return _NOT_REMOVABLE

    @staticmethod
    def _change_line(call: Call) -> int:
        """AH=16h: a floppy may have been changed, a hard disk has no such line."""
        return _CHANGED if call.dl < _HARD else _BAD_COMMAND

    @staticmethod
    def _extended_change_line(call: Call) -> int:
        """AH=49h: a CD may have been changed, a hard disk not."""
        return _CHANGED if call.dl >= FIRST_CD else _OK

    @staticmethod
    def _set_hardware(call: Call) -> int:
        """AH=4Eh: DMA or not, prefetch or not; all is as fast as it can be."""
        return _OK if call.al in (1, 3, 4, 6) else _BAD_COMMAND

    def _status(self, call: Call) -> None:
        status = call.read_bda(_STATUS)
        call.ah = status
        call.carry(status != _OK)

    def _chs(self, call: Call) -> int | None:
        """Return the LBA of CH, CL, DH, or None if there is no such sector, as on a CD."""
        if call.dl >= FIRST_CD:
            return None
        _, shape = self._drive(call)
        head: int = call.dh
        sector: int = call.cl & 0x3F
        cylinder: int = call.ch | (call.cl & 0xC0) << 2
        if not 1 <= sector <= shape.sectors or head >= shape.heads:
            return None
        return (cylinder * shape.heads + head) * shape.sectors + sector - 1

    def _transfer(self, call: Call, lba: int | None, count: int, gpa: int, how: str) -> int:
        disk = self.drives[call.dl]
        if lba is None or not count or lba + count > disk.sectors:
            return _BAD_COMMAND
        try:
            if how == "read":
                call.memory.write_block(gpa, disk.read(lba, count), "device")
            elif how == "write":
                size = _CD_BLOCK if isinstance(disk, CdDisk) else SECTOR
                disk.write(lba, call.memory.read_block(gpa, count * size))
        except PermissionError:
            return _WRITE_PROTECTED
        except OSError:
            return _CONTROLLER_FAILED
        return _OK

    def _transfer_chs(self, call: Call, how: str) -> int:
        count = call.al
        status = self._transfer(call, self._chs(call), count, call.linear("es", call.bx), how)
        if status not in (_OK, _BAD_COMMAND):
            call.al = 0  # sectors transferred
        return status

    def _read(self, call: Call) -> int:
        return self._transfer_chs(call, "read")

    def _write(self, call: Call) -> int:
        return self._transfer_chs(call, "write")

    def _verify(self, call: Call) -> int:
        return self._transfer_chs(call, "verify")

    def _parameters(self, call: Call) -> int:
        if call.dl >= FIRST_CD:
            return _BAD_COMMAND
        hard = call.dl >= _HARD
        disk, shape = self._drive(call)
        last = shape.cylinders - 1
        call.ch, call.cl = last & 0xFF, shape.sectors | last >> 2 & 0xC0
        call.dh = shape.heads - 1
        call.dl = sum((number >= _HARD) == hard for number in self.drives if number < FIRST_CD)
        call.al = 0
        if hard:
            call.bl = 0
        else:
            call.bx = _FLOPPY_TYPES.get(disk.sectors, 4)
            call.set_segment("es", 0xF000)
            call.di = DISKETTE
        return _OK

    def _type(self, call: Call) -> int | None:
        """AH=15h: 1 a floppy, 3 a hard disk of CX:DX sectors; AH is no status, if CF is clear."""
        if call.dl >= FIRST_CD:
            return _BAD_COMMAND
        call.write_bda(_STATUS, _OK)
        if call.dl < _HARD:
            call.ah = 1
        else:
            sectors = self.drives[call.dl].sectors
            call.ah = 3
            call.cx, call.dx = sectors >> 16, sectors & 0xFFFF
        call.carry(False)
        return None

    # --- Extensions -------------------------------------------------------------------------------

    def _extensions(self, call: Call) -> int | None:
        if call.bx != 0x55AA:
            return _BAD_COMMAND
        call.write_bda(_STATUS, _OK)
        call.bx, call.cx, call.ax = 0xAA55, 3, 0x2100  # access, locking and ejecting; EDD 1.1
        call.carry(False)
        return None

    def _transfer_lba(self, call: Call, how: str) -> int:
        packet = call.linear("ds", call.si)
        size, _, count, offset, segment, lba = struct.unpack(
            "<BBHHHQ", call.memory.read_block(packet, 16)
        )
        if size < 16:
            return _BAD_COMMAND
        status = self._transfer(call, lba, count, (segment << 4) + offset, how)
        if status != _OK:
            call.memory.write(packet + 2, 2, 0, "device")
        return status

    def _read_lba(self, call: Call) -> int:
        return self._transfer_lba(call, "read")

    def _write_lba(self, call: Call) -> int:
        return self._transfer_lba(call, "write")

    def _verify_lba(self, call: Call) -> int:
        return self._transfer_lba(call, "verify")

    def _drive_parameters(self, call: Call) -> int:
        where = call.linear("ds", call.si)
        if call.memory.read(where, 2) < 26:
            return _BAD_COMMAND
        disk, shape = self._drive(call)
        fields = struct.pack("<HHIIIQH", 26, 2, *shape, disk.sectors, SECTOR)
        if isinstance(disk, CdDisk):  # removable, lockable; as many sectors as the disc has
            unknown = (0xFFFF_FFFF,) * 3
            fields = struct.pack("<HHIIIQH", 26, 0x74, *unknown, (1 << 64) - 1, _CD_BLOCK)
        call.memory.write_block(where, fields, "device")
        return _OK
