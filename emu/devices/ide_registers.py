# SPDX-License-Identifier: GPL-2.0-or-later
"""The registers of an ATA channel as data, and the sector addresses in them (T13/1410D, ATA-6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

from emu.devices.disk import Disk
from emu.devices.ide_identify import Geometry
from emu.savable import Savable, State

# Command block registers (7.2 to 7.15); the control block is one port.
DATA, ERROR_FEATURES, COUNT, LBA_LOW, LBA_MID, LBA_HIGH, DEVICE, STATUS_COMMAND = range(8)

STATUS_BUSY = 0x80
STATUS_READY = 0x50  # DRDY, and DSC of old
STATUS_DATA = 0x08
STATUS_ERROR = 0x01

ERROR_ABORTED = 0x04
ERROR_NO_SECTOR = 0x10
ERROR_UNCORRECTABLE = 0x40
DIAGNOSTIC_PASSED = 0x01

# The count register of a packet device is its interrupt reason (ATA/ATAPI-6 8.24).
REASON_COMMAND = 0x01
REASON_TO_HOST = 0x02

DEVICE_SLAVE = 0x10
DEVICE_LBA = 0x40
DEVICE_HEAD = 0x0F

CONTROL_NO_INTERRUPT = 0x02
CONTROL_RESET = 0x04
CONTROL_HIGH_ORDER = 0x80


class Pending(Enum):
    """What the channel does when the time of the drive is over."""

    NOTHING = "nothing"
    COMMAND = "command"
    """Execute the command of the command register."""
    RESET = "reset"
    """Come out of a software reset."""
    READ_BLOCK = "read block"
    """Give the next block of a read."""
    STORED = "stored"
    """Say what became of the block that was written."""
    PACKET = "packet"
    """Execute the packet in the buffer."""
    PACKET_DATA = "packet data"
    """Give the next part of the reply to a packet, or its status."""


@dataclass(slots=True)
class Drive(Savable):
    """What one disk remembers beside its sectors."""

    SIGNATURE: ClassVar[int] = 0
    """What the cylinder registers hold after a reset (9.12)."""

    disk: Disk
    geometry: Geometry
    multiple: int = 0

    @classmethod
    def of(cls, disk: Disk) -> Drive:
        """Return the drive with `disk` in it."""
        return cls(disk, Geometry.of(disk.sectors))

    def reset(self) -> None:
        """Do what power-on does."""
        self.multiple = 0
        self.geometry = Geometry.of(self.disk.sectors)

    def save(self) -> State:
        """Return that, and the disk's own state."""
        return self._make_state(
            geometry=self.geometry, multiple=self.multiple, disk=self.disk.save()
        )

    def load(self, state: State) -> None:
        """Take a saved state."""
        geometry, multiple, disk = self._parts_of(
            state, geometry=Geometry, multiple=int, disk=State
        )
        self.disk.load(disk)
        self.geometry, self.multiple = geometry, multiple


@dataclass(slots=True)
class IdeState:
    """The registers of the channel, and the transfer under way."""

    # Both drives take what is written; each has results of its own.
    master: list[int] = field(default_factory=lambda: [0] * 8)
    slave: list[int] = field(default_factory=lambda: [0] * 8)
    high_order: list[int] = field(default_factory=lambda: [0] * 8)  # what was written before
    status: int = STATUS_READY
    error: int = DIAGNOSTIC_PASSED
    control: int = 0
    interrupt: bool = False
    command: int = 0
    buffer: bytearray = field(default_factory=bytearray)
    position: int = 0
    sector: int = 0  # the next one of the transfer
    left: int = 0  # sectors that are not in or through the buffer yet
    block: int = 1  # sectors in the buffer at a time
    writing: bool = False
    active: int | None = None  # 0 or 1: whose command goes on, whichever is selected now
    pending: Pending = Pending.NOTHING
    failure: int = 0  # why the block in the buffer could not be written, as the error register says
    limit: int = 0  # bytes that the driver takes at a time of the reply to a packet

    @property
    def registers(self) -> list[int]:
        """The command block registers of the drive that is selected."""
        return self.slave if self.master[DEVICE] & DEVICE_SLAVE else self.master


# Addresses (6.2).


def decode_address(state: IdeState, drive: Drive, extended: bool) -> tuple[int, int] | None:
    """Return first sector and count of a command, or None if the first is not on the disk."""
    new, old = state.registers, state.high_order
    low, mid, high = new[LBA_LOW], new[LBA_MID], new[LBA_HIGH]
    if extended:
        count = (old[COUNT] << 8 | new[COUNT]) or 0x1_0000
        upper = (old[LBA_LOW], old[LBA_MID], old[LBA_HIGH])
        sector = int.from_bytes((low, mid, high, *upper), "little")
    else:
        count = new[COUNT] or 0x100
        head = new[DEVICE] & DEVICE_HEAD
        if new[DEVICE] & DEVICE_LBA:
            sector = head << 24 | high << 16 | mid << 8 | low
        elif 0 < low <= drive.geometry.sectors and head < drive.geometry.heads:
            track = (high << 8 | mid) * drive.geometry.heads + head
            sector = track * drive.geometry.sectors + low - 1
        else:
            return None
    return (sector, count) if sector < drive.disk.sectors else None


def store_address(state: IdeState, sector: int, extended: bool) -> None:
    """Put a sector number into the registers, where LBA is used."""
    new, old = state.registers, state.high_order
    if not new[DEVICE] & DEVICE_LBA:
        return
    new[LBA_LOW], new[LBA_MID], new[LBA_HIGH] = sector.to_bytes(6, "little")[:3]
    if extended:
        old[LBA_LOW], old[LBA_MID], old[LBA_HIGH] = sector.to_bytes(6, "little")[3:]
    else:
        new[DEVICE] = new[DEVICE] & ~DEVICE_HEAD | sector >> 24 & DEVICE_HEAD
