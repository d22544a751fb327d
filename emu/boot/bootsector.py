# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot sectors: 512 bytes ending in 55 AA, alone or as the first sector of a disk image.

The sector goes to 0x7c00 and is entered in real mode with the drive's number in DL, as a BIOS
does; the whole image is that drive, served by INT 13h. The image is padded with zeros to whole
cylinders of the drive's geometry: assemblers write files of any size, and boot sectors read as much
as a kernel may grow to.
"""

from __future__ import annotations

from emu.boot.bios.disk import geometry_of
from emu.boot.layout import Placer
from emu.boot.request import Boot, BootRequest
from emu.errors import KernelError
from emu.state import CpuState

__all__ = ["is_boot_sector", "load"]

SECTOR = 512
_ADDRESS = 0x7C00
_FIRST_HARD_DISK = 0x80
_SIGNATURE = b"\x55\xaa"


def is_boot_sector(image: bytes) -> bool:
    """Tell whether the first sector ends in 55 AA."""
    return image[SECTOR - 2 : SECTOR] == _SIGNATURE


def load(image: bytes, request: BootRequest) -> Boot:
    """Load the first sector; see the module's text."""
    if len(image) < SECTOR:
        raise KernelError(f"truncated boot sector: {len(image)} bytes where {SECTOR} are needed")
    if not is_boot_sector(image):
        found = image[SECTOR - 2 : SECTOR].hex(" ")
        raise KernelError(f"no boot sector: bytes 510 and 511 are {found}, not 55 aa")
    for given, what in ((request.cmdline, "command line"), (request.modules, "module")):
        if given:
            request.warn(f"a boot sector is passed no {what}: it is ignored")
    Placer(request.memory, request.reserved, request.clean).put(
        _ADDRESS, image[:SECTOR], "the boot sector"
    )
    sectors = -(-len(image) // SECTOR)
    shape = geometry_of(sectors, floppy=request.drive < _FIRST_HARD_DISK)
    cylinder = shape.heads * shape.sectors
    disk = image.ljust(-(-sectors // cylinder) * cylinder * SECTOR, b"\0")
    state = CpuState.real(0, _ADDRESS, sp=_ADDRESS, rdx=request.drive)
    state.rflags = 0x202
    return Boot(state, "bootsector", f"boot sector, disk of {sectors} sectors", disk)
