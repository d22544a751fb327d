# SPDX-License-Identifier: GPL-2.0-or-later
"""What a loader is given, and what it gives back.

    Machine --BootRequest--> emu.boot.load --> one file per format --Boot--> Machine

A loader reads the image, writes into guest-physical memory with source "loader", and returns the
`Boot`: the state that vCPU 0 starts in. It knows neither Unicorn nor devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from emu.state import CpuState
from mmu.memory import Memory

__all__ = ["FORMATS", "Boot", "BootRequest", "Disk", "Emulation", "Module", "SectorReader"]

FORMATS = (
    "auto", "multiboot", "multiboot2", "linux", "linux16", "bootsector", "cd", "flat", "flat32",
    "flat16",
)  # fmt: skip
"""What `BootRequest.format` may be; `flat` is `flat32`."""


@dataclass(frozen=True, slots=True)
class Module:
    """A file passed along with the kernel: `-initrd "file args"`; `cmdline` is the whole string."""

    data: bytes
    cmdline: str = ""


def _ignore(_: str) -> None:
    return None


@dataclass(slots=True)
class BootRequest:
    """Everything about a run that a loader may need.

    `memory` has all its slots, firmware ROM and tables included. `name` is what the kernel sees as
    argv[0]. `address` and `entry` (guest-physical) are for flat images only, `drive` (0x80 the
    first hard disk, 0 the first floppy) is where a boot sector comes from. `reserved` are
    (gpa, size, E820 type) of RAM that the board keeps for itself, `rsdp` the bytes of the ACPI
    root pointer if there is one and `rsdp_gpa` where it lies. `cd` is the disc to boot from, by
    sectors of 512 bytes, where the format is "cd". `clean` says that RAM above 1 MiB is
    zero, as after power-on. `warn` is told what was ignored.
    """

    memory: Memory
    cmdline: str = ""
    name: str = "kernel"
    modules: Sequence[Module] = ()
    format: str = "auto"
    address: int | None = None
    entry: int | None = None
    drive: int = 0x80
    reserved: Sequence[tuple[int, int, int]] = ()
    rsdp: bytes = b""
    rsdp_gpa: int = 0
    cd: SectorReader | None = None
    clean: bool = True
    warn: Callable[[str], None] = _ignore


@dataclass(frozen=True, slots=True)
class Boot:
    """A loaded kernel.

    `state` goes to `Vcpu.set_state` of vCPU 0; `format` is one of `FORMATS` without "auto";
    `description` is one line for a person. `disk_image` is set where the image itself is the
    disk that the firmware and the IDE controller must show as drive 0x80. `emulation` is the part
    of a CD that the firmware must show as a floppy or hard disk.
    """

    state: CpuState
    format: str
    description: str
    disk_image: bytes | None = None
    emulation: Emulation | None = None


class SectorReader(Protocol):
    """What sectors of 512 bytes can be read from."""

    @property
    def sectors(self) -> int:
        """The number of sectors."""

    def read(self, lba: int, count: int) -> bytes:
        """Return `count` sectors from `lba` on, zeros after the end."""


@dataclass(frozen=True, slots=True)
class Emulation:
    """How the firmware boots from a CD (El Torito 1.0).

    `media` is 0 (no emulation), 1 to 3 (a floppy of 1.2, 1.44 or 2.88 MB) or 4 (a hard disk);
    `drive` the firmware's number of what was booted from, `block` the first block of the image (of
    2,048 bytes), `segment` where it was loaded, `count` the sectors of 512 bytes that were loaded.
    `shape` is cylinders, heads and sectors a track of the drive that is emulated.
    """

    media: int
    drive: int
    block: int
    segment: int
    count: int
    shape: tuple[int, int, int] = (0, 0, 0)


class Disk(Protocol):
    """A drive as the firmware sees it; the IDE controller's drive is one. Sectors of 512 bytes."""

    @property
    def sectors(self) -> int:
        """The number of sectors."""

    def read(self, lba: int, count: int) -> bytes:
        """Return `count` sectors from `lba` on."""

    def write(self, lba: int, data: bytes) -> None:
        """Replace the sectors from `lba` on by `data`."""

    def close(self) -> None:
        """Let go of the file behind it, if any."""
