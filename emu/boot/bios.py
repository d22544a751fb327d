# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware: a ROM of small stubs at 0xf0000 whose services are written in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from emu.boot.request import Disk
from mmu.memory import Memory

__all__ = ["Bios", "BiosHost"]


class BiosHost(Protocol):
    """What the services ask of the machine."""

    @property
    def memory(self) -> Memory:
        """Guest-physical memory."""

    @property
    def ports(self) -> Any:
        """The PortBus: the firmware adds its own port and programs PIC, PIT and CRTC through it."""

    def registers(self) -> Any:
        """Registers of the vCPU that is executing the OUT right now, by attribute, read-write."""

    def now(self) -> int:
        """Virtual nanoseconds since power-on."""


class Bios:
    """INT 10h to 1Ah as a PC BIOS serves them."""

    def __init__(self, tables: Mapping[int, bytes] | None = None) -> None:
        """`tables` maps guest-physical addresses in 0xf2000-0xfdfff to bytes put there."""
        self.tables = dict(tables or {})
        self.disks: dict[int, Disk] = {}

    def install(self, memory: Memory) -> None:
        """Add the ROM slot and write vectors and data area."""
        raise NotImplementedError

    def attach(self, host: BiosHost) -> None:
        """Add the service port to the bus and program the board as a BIOS leaves it."""
        raise NotImplementedError
