# SPDX-License-Identifier: GPL-2.0-or-later
"""What firmware leaves in memory for kernels to find: the ACPI tables and the MP table.

    0xf2000   MP floating pointer and table (ROM)        0xf3000   RSDP (ROM)
    the last 128 KiB of RAM below 4 GiB: the other ACPI tables, E820 type 3 ("ACPI data")

A machine with less than `_SMALLEST` of RAM has no ACPI: its memory is the kernel's.
"""

from __future__ import annotations

from typing import NamedTuple

from emu.devices.acpi_tables import build_acpi
from emu.devices.mptable import build_mp_table
from mmu.memory import Memory

__all__ = ["FirmwareTables", "firmware_tables"]

_MP_TABLE = 0xF2000
_RSDP = 0xF3000
_RESERVED = 0x20000
_SMALLEST = 2 << 20
_E820_ACPI = 3


class FirmwareTables(NamedTuple):
    """`rom` and `ram` are bytes by guest-physical address, `reserved` as in `BootRequest`."""

    rom: dict[int, bytes]
    ram: dict[int, bytes]
    reserved: tuple[tuple[int, int, int], ...]
    rsdp: bytes
    rsdp_gpa: int

    def install(self, memory: Memory) -> None:
        """Write what lies in RAM; the rest is `Bios`'s to put into its ROM."""
        for gpa, data in self.ram.items():
            memory.write_block(gpa, data, "loader")


def firmware_tables(
    low_ram: int, cpus: int, serial_ports: int, *, with_hpet: bool = True
) -> FirmwareTables:
    """Make the tables of a board with `low_ram` bytes of RAM below 4 GiB."""
    ((mp_gpa, mp_table),) = build_mp_table(_MP_TABLE, cpus=cpus).pieces
    rom = {mp_gpa: mp_table}
    if low_ram < _SMALLEST:
        return FirmwareTables(rom, {}, (), b"", 0)
    top = low_ram - _RESERVED
    acpi = build_acpi(top, _RSDP, cpus=cpus, serial_ports=serial_ports, with_hpet=with_hpet)
    pieces = dict(acpi.pieces)
    rsdp = pieces.pop(_RSDP)
    rom[_RSDP] = rsdp
    return FirmwareTables(rom, pieces, ((top, _RESERVED, _E820_ACPI),), rsdp, _RSDP)
