# SPDX-License-Identifier: GPL-2.0-or-later
"""CD-ROMs: the boot catalogue of "El Torito" Bootable CD-ROM Format Specification 1.0.

    block 16    primary volume descriptor (ECMA-119 8.4): how many blocks the volume has
    block 17    boot record volume descriptor (figure 7): where the catalogue is
    catalogue   validation entry, initial entry (figures 2 and 3), others that are not looked at

The image of the initial entry goes to its segment and is entered in real mode with the drive's
number in DL: 0xe0 is the CD itself, without emulation; else its image is a floppy or a hard disk.
"""

from __future__ import annotations

import struct

from emu.boot.bios.disk import MemoryDisk
from emu.boot.layout import Placer
from emu.boot.request import Boot, BootRequest, Emulation, SectorReader
from emu.errors import KernelError
from emu.state import CpuState

__all__ = ["CD_DRIVE", "find_catalogue", "is_bootable", "load"]

CD_DRIVE = 0xE0
"""The firmware's number of the first CD-ROM drive, as SeaBIOS has it."""
BLOCK = 2048
_PER_BLOCK = 4
_VOLUME, _BOOT_RECORD = 16, 17
_BOOTABLE = 0x88
_MEDIA = 0x0F
_DEFAULT_SEGMENT = 0x7C0
_FLOPPIES = {1: (80, 2, 15), 2: (80, 2, 18), 3: (80, 2, 36)}
_HARD_DISK = 4
_NAMES = ("no emulation", "a 1.2 MB floppy", "a 1.44 MB floppy", "a 2.88 MB floppy", "a hard disk")


def _read(cd: SectorReader, block: int, count: int = 1) -> bytes:
    return cd.read(block * _PER_BLOCK, count * _PER_BLOCK)


def _blocks(cd: SectorReader) -> int:
    return -(-cd.sectors // _PER_BLOCK)


def find_catalogue(cd: SectorReader) -> int | None:
    """Return the block of the boot catalogue, or None where there is no boot record."""
    if _blocks(cd) <= _BOOT_RECORD:
        return None
    record = _read(cd, _BOOT_RECORD)
    if record[:7] != b"\0CD001\1" or record[7:30] != b"EL TORITO SPECIFICATION":
        return None
    return int.from_bytes(record[0x47:0x4B], "little")


def is_bootable(cd: SectorReader) -> bool:
    """Tell whether `cd` has a boot record of El Torito's."""
    return find_catalogue(cd) is not None


def load(image: bytes, request: BootRequest) -> Boot:
    """Load the initial entry's image from `request.cd`, or from `image` if that is not set."""
    cd = request.cd if request.cd is not None else MemoryDisk(image)
    _check_size(cd)
    place = find_catalogue(cd)
    if place is None:
        raise KernelError(
            "the CD image has no El Torito boot record: nothing on it can be booted "
            "(grub-mkrescue makes images that can)"
        )
    for given, what in ((request.cmdline, "command line"), (request.modules, "module")):
        if given:
            request.warn(f"a CD is passed no {what}: it is ignored")
    entry = _initial_entry(cd, place)
    gpa = entry.segment << 4
    data = cd.read(entry.block * _PER_BLOCK, entry.count)
    Placer(request.memory, request.reserved, request.clean).put(gpa, data, "the CD's boot image")
    base, start = (0, gpa) if gpa < 0x10000 else (entry.segment, 0)
    state = CpuState.real(base, start, sp=0x7C00, rdx=entry.drive, rax=0xAA55)
    state.rflags = 0x202
    how = _NAMES[entry.media]
    description = f"CD, boot image at block {entry.block}, {how}"
    return Boot(state, "cd", description, emulation=entry)


def _check_size(cd: SectorReader) -> None:
    """Refuse an image that ends before its volume does: a download that was broken off."""
    if _blocks(cd) <= _VOLUME:
        raise KernelError(f"the CD image is cut short: {_blocks(cd)} blocks, no volume descriptor")
    volume = _read(cd, _VOLUME)
    if volume[:6] != b"\1CD001":
        return
    size = int.from_bytes(volume[80:84], "little")
    if size > _blocks(cd):
        raise KernelError(
            f"the CD image is cut short: its volume has {size} blocks of 2048 bytes, "
            f"the file {_blocks(cd)}"
        )


def _initial_entry(cd: SectorReader, place: int) -> Emulation:
    if place >= _blocks(cd):
        raise KernelError(f"the CD's boot catalogue, block {place}, is not in the image")
    catalogue = _read(cd, place)
    words = struct.unpack("<16H", catalogue[:32])
    if catalogue[0] != 1 or words[15] != 0xAA55 or sum(words) & 0xFFFF:
        raise KernelError("the CD's boot catalogue is damaged: its validation entry is wrong")
    bootable, media, segment, count, block = struct.unpack_from("<BBHxxHI", catalogue, 32)
    media &= _MEDIA
    if bootable != _BOOTABLE:
        raise KernelError("the CD's boot catalogue says that its first entry cannot be booted")
    if media >= len(_NAMES):
        raise KernelError(f"the CD's boot catalogue has an unknown kind of image, {media}")
    count = 1 if media else max(count, 1)
    if (block + -(-count // _PER_BLOCK)) > _blocks(cd):
        raise KernelError(
            f"the CD image is cut short: its boot image at block {block} ends after the file"
        )
    shape = _FLOPPIES.get(media, (0, 0, 0))
    drive = CD_DRIVE if not media else 0
    if media == _HARD_DISK:
        drive, shape = 0x80, _partition_shape(cd.read(block * _PER_BLOCK, 1))
    return Emulation(media, drive, block, segment or _DEFAULT_SEGMENT, count, shape)


def _partition_shape(sector: bytes) -> tuple[int, int, int]:
    """Return the geometry that a hard disk image has: its first partition ends with a cylinder
    (El Torito 1.0, section 2.2.2)."""
    head, sector_bits, cylinder = sector[0x1BE + 5 : 0x1BE + 8]
    return ((sector_bits & 0xC0) << 2 | cylinder) + 1, head + 1, max(sector_bits & 0x3F, 1)
