# SPDX-License-Identifier: GPL-2.0-or-later
"""The ACPI tables of the board (ACPI 6.3 chapter 5): where kernels learn what there is.

    RSDP -> RSDT, XSDT -> FADT -> FACS, DSDT
                       -> MADT (processors, I/O APIC, interrupt overrides)
                       -> HPET

The DSDT describes the PCI root with what it passes on, the ISA devices, and soft off. Everything is
made for given addresses; whoever writes it into memory reserves what it covers.
"""

from __future__ import annotations

from typing import NamedTuple

from emu.devices import aml, hpet, ioapic, lapic_state
from emu.devices.acpi_pm import ACPI_DISABLE, ACPI_ENABLE, APM_PORT, CONTROL, PM_BASE, STATUS, TIMER
from emu.devices.ioapic import isa_pin
from emu.devices.pci import RESET_PORT

__all__ = ["SCI_IRQ", "Tables", "build_acpi"]

OEM_ID = b"SHDWCN"
OEM_TABLE_ID = b"SHADOWCN"
CREATOR = b"SHDW"
REVISION = 1

SCI_IRQ = 9
# ISA IRQs that the PCI interrupt router may raise: level-triggered and active high, as the SCI.
LEVEL_IRQS = (5, SCI_IRQ, 10, 11)
LEVEL_HIGH = 0x000D

RESET_VALUE = 0x06
PCI_HOLE = (0xC000_0000, 0xFEBF_FFFF)

# FADT (5.2.9).
WBINVD, PROC_C1, NO_SLEEP_BUTTON, NO_FIXED_RTC, RESET_SUPPORTED = (
    1 << bit for bit in (0, 2, 5, 6, 10)
)
LEGACY_DEVICES, HAS_8042 = 1 << 0, 1 << 1
CENTURY = 0x32
NOT_SUPPORTED_LATENCY = 0x0FFF


class Tables(NamedTuple):
    """Tables ready to be written: bytes by guest-physical address.

    `entry` is where kernels find the first of them.
    """

    pieces: tuple[tuple[int, bytes], ...]
    entry: int


def _le(size: int, *values: int) -> bytes:
    return b"".join(value.to_bytes(size, "little") for value in values)


def _sum_to_zero(data: bytes, at: int) -> bytes:
    """Put into byte `at` what makes all bytes add up to 0."""
    checksum = -sum(data) + data[at] & 0xFF
    return data[:at] + bytes((checksum,)) + data[at + 1 :]


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    header = signature + _le(4, 36 + len(body)) + bytes((revision, 0)) + OEM_ID + OEM_TABLE_ID
    header += _le(4, REVISION) + CREATOR + _le(4, REVISION)
    return _sum_to_zero(header + body, 9)


def _port(address: int, bits: int, access: int = 0) -> bytes:
    """Return a generic address structure for an I/O port; access 1 is by the byte, 0 any."""
    return bytes((1, bits, 0, access)) + _le(8, address)


def _dsdt(serial_ports: int) -> bytes:
    isa = aml.name("_ADR", aml.integer(1 << 16))
    isa += aml.device(
        "KBD",
        aml.name("_HID", aml.eisa_id("PNP0303"))
        + aml.name("_CRS", aml.resources(aml.io_ports(0x60, 1), aml.io_ports(0x64, 1), aml.irq(1))),
    )
    isa += aml.device(
        "RTC",
        aml.name("_HID", aml.eisa_id("PNP0B00"))
        + aml.name("_CRS", aml.resources(aml.io_ports(0x70, 2), aml.irq(8))),
    )
    for number, (base, line) in enumerate(((0x3F8, 4), (0x2F8, 3))[:serial_ports], 1):
        isa += aml.device(
            f"COM{number}",
            aml.name("_HID", aml.eisa_id("PNP0501"))
            + aml.name("_UID", aml.integer(number))
            + aml.name("_CRS", aml.resources(aml.io_ports(base, 8), aml.irq(line))),
        )
    root = aml.name("_HID", aml.eisa_id("PNP0A03")) + aml.name("_UID", aml.integer(0))
    root += aml.name("_BBN", aml.integer(0))
    root += aml.name(
        "_CRS",
        aml.resources(
            aml.address_space(aml.BUS_NUMBER, 0, 0),
            aml.io_ports(0xCF8, 8),
            aml.address_space(aml.IO, 0, 0xCF7),
            aml.address_space(aml.IO, 0xD00, 0xFFFF),
            aml.address_space(aml.MEMORY, 0xA0000, 0xBFFFF, 4),
            aml.address_space(aml.MEMORY, *PCI_HOLE, 4),
        ),
    )
    soft_off = aml.name("\\_S5", aml.package([aml.integer(0)] * 4))
    body = soft_off + aml.scope("\\_SB", aml.device("PCI0", root + aml.device("ISA", isa)))
    return _table(b"DSDT", 1, body)


def _facs() -> bytes:
    return b"FACS" + _le(4, 64) + bytes(24) + b"\x01" + bytes(31)


def _fadt(facs: int, dsdt: int) -> bytes:
    status, control, timer = (PM_BASE + offset for offset in (STATUS, CONTROL, TIMER))
    flags = WBINVD | PROC_C1 | NO_SLEEP_BUTTON | NO_FIXED_RTC | RESET_SUPPORTED
    body = _le(4, facs, dsdt) + bytes((0, 0)) + _le(2, SCI_IRQ) + _le(4, APM_PORT)
    body += bytes((ACPI_ENABLE, ACPI_DISABLE, 0, 0))
    body += _le(4, status, 0, control, 0, 0, timer, 0, 0)
    body += bytes((4, 2, 0, 4, 0, 0, 0, 0))  # lengths of those blocks
    body += _le(2, NOT_SUPPORTED_LATENCY, NOT_SUPPORTED_LATENCY, 0, 0)
    body += bytes((0, 0, 0, 0, CENTURY)) + _le(2, LEGACY_DEVICES | HAS_8042) + b"\0"
    body += _le(4, flags) + _port(RESET_PORT, 8, 1) + bytes((RESET_VALUE, 0, 0, 0))
    body += _le(8, facs, dsdt)
    none = bytes(12)
    body += _port(status, 32) + none + _port(control, 16) + none + none
    body += _port(timer, 32) + none + none
    return _table(b"FACP", 3, body)


def _madt(cpus: int) -> bytes:
    body = _le(4, lapic_state.DEFAULT_BASE, 1)  # there are 8259s too
    for number in range(cpus):
        body += bytes((0, 8, number, number)) + _le(4, 1)
    body += bytes((1, 12, 0, 0)) + _le(4, ioapic.DEFAULT_BASE, 0)
    body += bytes((2, 10, 0, 0)) + _le(4, isa_pin(0)) + _le(2, 0)
    for irq in LEVEL_IRQS:
        body += bytes((2, 10, 0, irq)) + _le(4, isa_pin(irq)) + _le(2, LEVEL_HIGH)
    body += bytes((4, 6, 0xFF)) + _le(2, 0) + b"\x01"  # NMI on LINT1 of every processor
    return _table(b"APIC", 1, body)


def _hpet() -> bytes:
    block = hpet.CAPABILITIES_VALUE & 0xFFFF_FFFF
    address = bytes((0, 64, 0, 0)) + _le(8, hpet.BASE)
    return _table(b"HPET", 1, _le(4, block) + address + b"\0" + _le(2, 100) + b"\0")


def _rsdp(rsdt: int, xsdt: int) -> bytes:
    data = b"RSD PTR \0" + OEM_ID + b"\x02" + _le(4, rsdt, 36) + _le(8, xsdt) + bytes(4)
    # The first 20 bytes, all there was in ACPI 1.0, have a checksum of their own.
    return _sum_to_zero(_sum_to_zero(data[:20], 8) + data[20:], 32)


def build_acpi(
    tables_at: int,
    rsdp_at: int,
    *,
    cpus: int,
    serial_ports: int = 1,
    with_hpet: bool = True,
) -> Tables:
    """Build the tables for `cpus` processors whose APIC IDs count from 0.

    `tables_at` is 64-byte aligned, below 4 GiB, and RAM (the FACS is written to); `rsdp_at` is
    16-byte aligned between 0xe0000 and 0xfffff, where kernels look. Raises ValueError otherwise.
    """
    if tables_at & 63 or tables_at >= 1 << 32:
        raise ValueError(f"ACPI tables cannot be at {tables_at:#x}")
    if rsdp_at & 15 or not 0xE0000 <= rsdp_at < 0x100000:
        raise ValueError(f"nobody looks for an RSDP at {rsdp_at:#x}")
    image = bytearray()

    def put(table: bytes) -> int:
        address = tables_at + len(image)
        image.extend(table + bytes(-len(table) % 64))
        return address

    listed = [put(_fadt(put(_facs()), put(_dsdt(serial_ports)))), put(_madt(cpus))]
    if with_hpet:
        listed.append(put(_hpet()))
    rsdt = put(_table(b"RSDT", 1, _le(4, *listed)))
    xsdt = put(_table(b"XSDT", 1, _le(8, *listed)))
    return Tables(((tables_at, bytes(image)), (rsdp_at, _rsdp(rsdt, xsdt))), rsdp_at)
