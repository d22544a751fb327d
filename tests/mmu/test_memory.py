# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest-physical memory: slots, holes, devices, listeners."""

from __future__ import annotations

import ctypes

import pytest

from mmu.memory import Memory, MemoryMapError


class Register:
    """A device of bytes, with a log of what it was asked."""

    def __init__(self):
        self.bytes = bytearray(range(256)) * 16
        self.log = []

    def read(self, offset, size):
        self.log.append(("read", offset, size))
        return int.from_bytes(self.bytes[offset : offset + size], "little") | 1 << 100

    def write(self, offset, size, value):
        self.log.append(("write", offset, size, value))


@pytest.fixture
def device():
    return Register()


@pytest.fixture
def memory(device):
    """RAM, ROM, a device and RAM side by side; a hole from 0x7000."""
    memory = Memory()
    memory.add_ram(0x1000, 0x3000)
    memory.add_rom(0x4000, bytes(range(256)))
    memory.add_mmio(0x5000, 0x1000, device)
    memory.add_ram(0x6000, 0x1000)
    return memory


@pytest.fixture
def heard(memory):
    heard = []
    memory.listeners.append(lambda *what: heard.append(what))
    return heard


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("offset", range(8))
def test_ram_keeps_every_width_at_every_alignment(memory, heard, size, offset):
    value = 0x8877665544332211 & (1 << 8 * size) - 1
    memory.write(0x2000 + offset, size, value, "guest")
    assert memory.read(0x2000 + offset, size) == value
    assert memory.read_block(0x2000 + offset, size) == value.to_bytes(size, "little")
    assert memory.read(0x2000 + offset + size, 1) == 0
    assert heard == [(0x2000 + offset, size, "guest")]


def test_a_value_too_wide_is_cut(memory):
    memory.write(0x2000, 1, 0x1FF, "guest")
    assert memory.read(0x2000, 2) == 0xFF


def test_listeners_hear_after_the_bytes_stand(memory):
    seen = []
    memory.listeners.append(lambda gpa, size, source: seen.append(memory.read(gpa, size)))
    memory.write(0x2000, 4, 77, "device")
    memory.write_block(0x2000, b"\x4e\x00\x00\x00", "loader")
    assert seen == [77, 78]


def test_rom_is_read_and_not_written(memory, heard):
    assert memory.read(0x4001, 2) == 0x0201
    assert memory.read(0x4100, 4) == 0xFFFFFFFF
    memory.write(0x4001, 2, 0, "guest")
    memory.write_block(0x4000, bytes(16), "loader")
    assert memory.read(0x4001, 2) == 0x0201
    assert heard == []


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_a_hole_reads_all_ones_and_swallows(memory, heard, size):
    memory.write(0x9000, size, 0, "guest")
    assert memory.read(0x9000, size) == (1 << 8 * size) - 1
    assert memory.read((1 << 40) - 8, size) == (1 << 8 * size) - 1
    assert heard == []


def test_a_device_gets_the_whole_access(memory, device, heard):
    assert memory.read(0x5010, 4) == 0x13121110
    memory.write(0x5020, 8, 5, "guest")
    assert device.log == [("read", 0x10, 4), ("write", 0x20, 8, 5)]
    assert heard == []


def test_an_access_over_several_slots(memory, device, heard):
    memory.write(0x3FFE, 4, 0x44332211, "guest")
    assert memory.read(0x3FFE, 4) == 0x01002211
    assert memory.read(0x4FFE, 4) == 0x0100FFFF
    memory.write(0x5FFE, 4, 0x44332211, "guest")
    assert device.log[-2:] == [("write", 0xFFE, 1, 0x11), ("write", 0xFFF, 1, 0x22)]
    assert memory.read(0x6000, 2) == 0x4433
    assert memory.read(0x6FFF, 2) == 0xFF00
    assert memory.read(0x0FFF, 2) == 0x00FF
    assert heard == [(0x3FFE, 2, "guest"), (0x6000, 2, "guest")]


def test_a_block_over_everything(memory, heard):
    memory.write_block(0x0800, b"\x55" * 0x7000, "loader")
    assert memory.read_block(0x0F00, 0x200) == b"\xff" * 0x100 + b"\x55" * 0x100
    assert memory.read_block(0x4000, 4) == b"\x00\x01\x02\x03"
    assert memory.read(0x6FFF, 2) == 0xFF55
    assert heard == [(0x1000, 0x3000, "loader"), (0x6000, 0x1000, "loader")]


@pytest.mark.parametrize(
    ("gpa", "size", "why"),
    [
        (0x10800, 0x1000, "4 KiB"),
        (0x10000, 0x800, "4 KiB"),
        (0x10000, 0, "4 KiB"),
        (0x3000, 0x1000, "over <ram 0x1000-0x3fff>"),
        (0x0000, 0x2000, "over"),
        ((1 << 40) - 0x1000, 0x2000, "40 physical bits"),
        (-0x1000, 0x1000, "physical bits"),
    ],
)
def test_slots_that_cannot_be(memory, gpa, size, why):
    with pytest.raises(MemoryMapError, match=why):
        memory.add_ram(gpa, size)


def test_the_map_is_told_by_rising_address(memory):
    assert [slot.kind for slot in memory.slots()] == ["ram", "rom", "mmio", "ram"]
    assert memory.ram_bytes() == 0x4000
    assert memory.top_of_ram() == 0x7000
    assert Memory().top_of_ram() == 0
    assert memory.slot_at(0x5FFF).kind == "mmio"
    assert memory.slot_at(0x7000) is None
    assert memory.slot_at(0xFFF) is None


def test_a_slots_buffer_is_what_is_read(memory):
    slot = memory.slot_at(0x1000)
    slot.view[0x123] = 0x45
    assert memory.read(0x1123, 1) == 0x45
    memory.write(0x1124, 1, 0x46, "guest")
    assert ctypes.string_at(slot.host + 0x123, 2) == b"\x45\x46"


def test_tables_are_views_of_memory(memory):
    assert memory.table32(3)[0] == 0
    memory.write(0x3004, 4, 0xABCD, "loader")
    assert memory.table32(3)[1] == 0xABCD
    assert memory.table64(3)[0] == 0xABCD << 32
    memory.table64(3)[511] = 1 << 63
    assert memory.read(0x3FFF, 1) == 0x80
    assert memory.table64(4).readonly
    assert memory.table64(5) is None
    assert memory.table32(0x99) is None


def test_slots_come_go_and_move_and_the_listeners_hear(memory):
    heard = []
    memory.map_listeners.append(lambda: heard.append([s.gpa for s in memory.slots()]))
    slot = memory.slot_at(0x6000)
    memory.write(0x6000, 4, 0x1234, "loader")
    assert memory.table32(6)[0] == 0x1234
    memory.move(slot, 0x8000)
    assert memory.read(0x8000, 4) == 0x1234
    assert memory.read(0x6000, 4) == 0xFFFFFFFF
    assert memory.table32(6) is None
    memory.remove(slot)
    assert memory.read(0x8000, 4) == 0xFFFFFFFF
    memory.add_ram(0x8000, 0x1000)
    assert memory.read(0x8000, 4) == 0
    assert heard[-1] == [0x1000, 0x4000, 0x5000, 0x8000]
    with pytest.raises(MemoryMapError, match="not in the map"):
        memory.remove(slot)


def test_a_slot_that_cannot_move_stays(memory):
    slot = memory.slot_at(0x6000)
    memory.write(0x6000, 4, 0x1234, "loader")
    with pytest.raises(MemoryMapError):
        memory.move(slot, 0x3000)
    with pytest.raises(MemoryMapError):
        memory.move(slot, 0x8800)
    assert memory.read(0x6000, 4) == 0x1234
