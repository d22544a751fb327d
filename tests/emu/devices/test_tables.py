# SPDX-License-Identifier: GPL-2.0-or-later
"""ACPI and MP tables, read as kernels read them; and the AML encoder."""

from __future__ import annotations

import shutil
import struct
import subprocess

import pytest

from emu.devices import aml
from emu.devices.acpi_tables import build_acpi
from emu.devices.mptable import build_mp_table

TABLES_AT, RSDP_AT = 0x7FE0000, 0xF6000


class Memory:
    def __init__(self, tables):
        self.bytes = {}
        for base, data in tables.pieces:
            self.bytes.update(enumerate(data, base))

    def read(self, address, size):
        return bytes(self.bytes[address + n] for n in range(size))

    def table(self, address):
        length = int.from_bytes(self.read(address + 4, 4), "little")
        data = self.read(address, length)
        assert data[:4] == b"FACS" or sum(data) & 0xFF == 0
        return data


def acpi(**kwargs):
    tables = build_acpi(TABLES_AT, RSDP_AT, **{"cpus": 2, **kwargs})
    memory = Memory(tables)
    rsdp = memory.read(tables.entry, 36)
    (rsdt,) = struct.unpack_from("<I", rsdp, 16)
    (xsdt,) = struct.unpack_from("<Q", rsdp, 24)
    addresses = [n for (n,) in struct.iter_unpack("<I", memory.table(rsdt)[36:])]
    assert addresses == [n for (n,) in struct.iter_unpack("<Q", memory.table(xsdt)[36:])]
    found = {memory.table(address)[:4]: memory.table(address) for address in addresses}
    for offset, width in ((36, "<I"), (40, "<I"), (132, "<Q"), (140, "<Q")):
        (address,) = struct.unpack_from(width, found[b"FACP"], offset)
        table = memory.table(address)
        assert found.setdefault(table[:4], table) == table
    return rsdp, found


def entries(table, start):
    """Split a MADT into (type, bytes)."""
    while start < len(table):
        yield table[start], table[start : start + table[start + 1]]
        start += table[start + 1]


class TestAcpi:
    def test_the_root_pointer_has_both_checksums(self):
        rsdp, _ = acpi()
        assert rsdp[:8] == b"RSD PTR "
        assert rsdp[15] == 2
        assert sum(rsdp[:20]) & 0xFF == sum(rsdp) & 0xFF == 0

    @pytest.mark.parametrize("with_hpet", [True, False])
    def test_every_table_is_found_and_adds_up(self, with_hpet):
        _, tables = acpi(with_hpet=with_hpet)
        expected = {b"FACP", b"APIC", b"DSDT", b"FACS"}
        assert set(tables) == expected | ({b"HPET"} if with_hpet else set())

    def test_the_fadt_names_ports_that_are_there(self):
        fadt = acpi()[1][b"FACP"]
        assert len(fadt) == 244
        assert struct.unpack_from("<HIBB", fadt, 46) == (9, 0xB2, 0xF1, 0xF0)
        assert struct.unpack_from("<IIIIII", fadt, 56) == (0x600, 0, 0x604, 0, 0, 0x608)
        assert (fadt[88], fadt[89], fadt[91], fadt[108]) == (4, 2, 4, 0x32)
        assert struct.unpack_from("<H", fadt, 109) == (3,)
        assert struct.unpack_from("<BBBBQB", fadt, 116) == (1, 8, 0, 1, 0xCF9, 6)
        (flags,) = struct.unpack_from("<I", fadt, 112)
        assert flags & 1 << 10
        assert not flags & 1 << 8  # the timer has 24 bits
        assert struct.unpack_from("<Q", fadt, 152) == (0x600,)
        assert struct.unpack_from("<Q", fadt, 176) == (0x604,)
        assert struct.unpack_from("<Q", fadt, 212) == (0x608,)

    def test_the_facs_is_aligned_as_it_must_be(self):
        fadt = acpi()[1][b"FACP"]
        assert struct.unpack_from("<I", fadt, 36)[0] % 64 == 0
        assert acpi()[1][b"FACS"][4:8] == b"\x40\0\0\0"

    @pytest.mark.parametrize("cpus", [1, 2, 16])
    def test_the_madt_lists_processors_and_overrides(self, cpus):
        madt = acpi(cpus=cpus)[1][b"APIC"]
        assert struct.unpack_from("<II", madt, 36) == (0xFEE00000, 1)
        by_type = {}
        for kind, entry in entries(madt, 44):
            by_type.setdefault(kind, []).append(entry)
        assert [(e[2], e[3], e[4]) for e in by_type[0]] == [(n, n, 1) for n in range(cpus)]
        assert [struct.unpack_from("<II", e, 4) for e in by_type[1]] == [(0xFEC00000, 0)]
        overrides = [struct.unpack_from("<BIH", e, 3) for e in by_type[2]]
        assert overrides[0] == (0, 2, 0)
        assert (9, 9, 0xD) in overrides
        assert by_type[4] == [bytes((4, 6, 0xFF, 0, 0, 1))]

    def test_the_hpet_is_where_it_is(self):
        table = acpi()[1][b"HPET"]
        assert struct.unpack_from("<IBBBBQ", table, 36) == (0x8086A201, 0, 64, 0, 0, 0xFED00000)

    def test_the_dsdt_has_soft_off_as_power_control_expects_it(self):
        dsdt = acpi()[1][b"DSDT"]
        assert dsdt[36:].startswith(b"\x08\\_S5_\x12\x06\x04\0\0\0\0")
        assert b"COM1" in dsdt
        assert b"COM2" not in dsdt
        assert b"COM2" in acpi(serial_ports=2)[1][b"DSDT"]

    @pytest.mark.skipif(shutil.which("iasl") is None, reason="iasl is not installed")
    def test_a_disassembler_takes_every_table(self, tmp_path):
        for signature, table in acpi()[1].items():
            path = tmp_path / f"{signature.decode()}.dat"
            path.write_bytes(table)
            done = subprocess.run(
                ["iasl", "-d", path.name],
                capture_output=True,
                text=True,
                check=True,
                cwd=tmp_path,
            )
            text = (tmp_path / f"{signature.decode()}.dsl").read_text(encoding="utf-8")
            said = done.stdout + done.stderr + text
            assert "rror" not in said.replace("0 Errors", "")
            assert "nvalid" not in said

    @pytest.mark.parametrize(
        ("tables_at", "rsdp_at"),
        [(0x7FE0010, RSDP_AT), (1 << 32, RSDP_AT), (TABLES_AT, 0xF6001), (TABLES_AT, 0x100000)],
        ids=["misaligned", "high", "RSDP misaligned", "RSDP in nowhere"],
    )
    def test_addresses_that_cannot_be(self, tables_at, rsdp_at):
        with pytest.raises(ValueError, match="0x"):
            build_acpi(tables_at, rsdp_at, cpus=1)


class TestMp:
    def parts(self, cpus=2, at=0xF5000):
        tables = build_mp_table(at, cpus=cpus)
        memory = Memory(tables)
        pointer = memory.read(at, 16)
        (address,) = struct.unpack_from("<I", pointer, 4)
        (length,) = struct.unpack_from("<H", memory.read(address + 4, 2))
        return pointer, memory.read(address, length)

    def test_pointer_and_table_add_up(self):
        pointer, table = self.parts()
        assert pointer[:4] == b"_MP_"
        assert (pointer[8], pointer[9], pointer[11], pointer[12]) == (1, 4, 0, 0)
        assert sum(pointer) & 0xFF == sum(table) & 0xFF == 0
        assert table[:4] == b"PCMP"
        assert struct.unpack_from("<I", table, 36) == (0xFEE00000,)

    @pytest.mark.parametrize("cpus", [1, 2, 16])
    def test_entries(self, cpus):
        _, table = self.parts(cpus)
        (count,) = struct.unpack_from("<H", table, 34)
        at, found = 44, {}
        for _ in range(count):
            size = 20 if table[at] == 0 else 8
            found.setdefault(table[at], []).append(table[at : at + size])
            at += size
        assert at == len(table)
        assert [(e[1], e[3]) for e in found[0]] == [(n, 3 if n == 0 else 1) for n in range(cpus)]
        assert [e[2:8] for e in found[1]] == [b"PCI   ", b"ISA   "]
        assert struct.unpack("<BBBBI", found[2][0]) == (2, 0, 0x20, 1, 0xFEC00000)
        pins = {e[5]: e[7] for e in found[3]}
        assert pins == {irq: irq or 2 for irq in range(16) if irq != 2}
        assert [(e[1], e[6], e[7]) for e in found[4]] == [(3, 0xFF, 0), (1, 0xFF, 1)]

    def test_a_misaligned_pointer_is_refused(self):
        with pytest.raises(ValueError, match="0xf5008"):
            build_mp_table(0xF5008, cpus=1)


class TestAml:
    @pytest.mark.parametrize(
        ("value", "encoded"),
        [
            (0, "00"),
            (1, "01"),
            (2, "0a02"),
            (0x100, "0b0001"),
            (0x10000, "0c00000100"),
            (1 << 32, "0e0000000001000000"),
        ],
        ids=["zero", "one", "byte", "word", "double word", "quad word"],
    )
    def test_integers_are_as_short_as_can_be(self, value, encoded):
        assert aml.integer(value).hex() == encoded

    @pytest.mark.parametrize(
        ("size", "lead"),
        [(0, "05"), (58, "3f"), (59, "4104"), (4089, "4fff"), (4090, "810001")],
        ids=["none", "largest of one byte", "smallest of two", "largest of two", "three"],
    )
    def test_package_lengths_count_themselves(self, size, lead):
        encoded = aml.scope("_SB", bytes(size))
        assert encoded[0] == 0x10
        assert encoded[1 : 1 + len(lead) // 2].hex() == lead
        first = encoded[1]
        extra = first >> 6
        length = first & (0x3F if not extra else 0xF)
        for n in range(extra):
            length |= encoded[2 + n] << 4 + 8 * n
        assert length == len(encoded) - 1

    def test_eisa_ids(self):
        assert aml.eisa_id("PNP0501").hex() == "0c41d00501"
