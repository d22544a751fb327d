# SPDX-License-Identifier: GPL-2.0-or-later
"""The MP configuration table (Intel MultiProcessor Specification 1.4), for kernels without ACPI."""

from __future__ import annotations

from emu.devices import ioapic, lapic_state
from emu.devices.acpi_tables import LEVEL_HIGH, LEVEL_IRQS, Tables
from emu.devices.ioapic import isa_pin

__all__ = ["build_mp_table"]

OEM_ID, PRODUCT_ID = b"SHADOWCN", b"I440FX      "
SPECIFICATION = 4  # 1.4

# Entry types (4.3).
PROCESSOR, BUS, IO_APIC, IO_INTERRUPT, LOCAL_INTERRUPT = range(5)
CPU_ENABLED, CPU_BOOT = 1 << 0, 1 << 1
INT, NMI, _SMI, EXTINT = range(4)
PCI_BUS, ISA_BUS = 0, 1
ALL_APICS = 0xFF
LAPIC_VERSION, IO_APIC_VERSION = 0x14, 0x20
FLOATING_SIZE = 16


def _checksummed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((-sum(data) & 0xFF,)) + data[at + 1 :]


def _entries(cpus: int, signature: int, features: int) -> list[bytes]:
    io_apic = 0
    entries = [
        bytes((PROCESSOR, n, LAPIC_VERSION, CPU_ENABLED | (CPU_BOOT if n == 0 else 0)))
        + signature.to_bytes(4, "little")
        + features.to_bytes(4, "little")
        + bytes(8)
        for n in range(cpus)
    ]
    entries += [bytes((BUS, PCI_BUS)) + b"PCI   ", bytes((BUS, ISA_BUS)) + b"ISA   "]
    entries.append(
        bytes((IO_APIC, io_apic, IO_APIC_VERSION, 1)) + ioapic.DEFAULT_BASE.to_bytes(4, "little")
    )
    for irq in range(16):
        if irq == 2:
            continue
        flags = LEVEL_HIGH if irq in LEVEL_IRQS else 0
        entries.append(
            bytes((IO_INTERRUPT, INT))
            + flags.to_bytes(2, "little")
            + bytes((ISA_BUS, irq, io_apic, isa_pin(irq)))
        )
    for kind, pin in ((EXTINT, 0), (NMI, 1)):
        entries.append(bytes((LOCAL_INTERRUPT, kind, 0, 0, ISA_BUS, 0, ALL_APICS, pin)))
    return entries


def build_mp_table(at: int, *, cpus: int, signature: int = 0x600, features: int = 0x201) -> Tables:
    """Build the floating pointer at `at`, which kernels must find there, and the table behind it.

    `at` is 16-byte aligned and lies in the last KiB of base memory, in the extended BIOS data
    area or between 0xf0000 and 0xfffff. `signature` and `features` are EAX and EDX of CPUID leaf 1.
    Raises ValueError for a misaligned address.
    """
    if at & 15:
        raise ValueError(f"an MP floating pointer cannot be at {at:#x}")
    entries = _entries(cpus, signature, features)
    body = b"".join(entries)
    length = 44 + len(body)
    table = b"PCMP" + length.to_bytes(2, "little") + bytes((SPECIFICATION, 0))
    table += OEM_ID + PRODUCT_ID + bytes(6) + len(entries).to_bytes(2, "little")
    table += lapic_state.DEFAULT_BASE.to_bytes(4, "little") + bytes(4)
    table = _checksummed(table + body, 7)
    pointer = b"_MP_" + (at + FLOATING_SIZE).to_bytes(4, "little")
    pointer += bytes((1, SPECIFICATION, 0)) + bytes(5)
    return Tables(((at, _checksummed(pointer, 10) + table),), at)
