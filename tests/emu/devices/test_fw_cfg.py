# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware configuration device by ports and by DMA."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.clock import Clock
from emu.devices.fw_cfg import CHUNK, CHUNK_NS, FwCfg, e820_item
from emu.errors import UsageError
from emu.ports import PortBus
from mmu.memory import Memory

READ, SKIP, SELECT, WRITE, ERROR = 2, 4, 8, 16, 1
DESCRIPTOR = 0x1000


class Board:
    def __init__(self, clock):
        self.memory = Memory()
        self.memory.add_ram(0, 0x40000)
        self.chip = FwCfg(clock, self.memory, ram_size=128 << 20, cpus=2, max_cpus=4)
        self.bus = PortBus()
        self.bus.add(0x510, 0x51B, self.chip, width=4)

    def item(self, key, count):
        self.bus.write(0x510, 2, key)
        return bytes(self.bus.read(0x511, 1) for _ in range(count))

    def files(self):
        count = int.from_bytes(self.item(0x19, 4), "big")
        entries = self.item(0x19, 4 + 64 * count)[4:]
        return {
            entry[8:].rstrip(b"\0").decode(): (
                int.from_bytes(entry[4:6], "big"),
                int.from_bytes(entry[:4], "big"),
            )
            for entry in (entries[64 * n : 64 * n + 64] for n in range(count))
        }

    def dma(self, control, length=0, address=0, descriptor=DESCRIPTOR):
        words = control.to_bytes(4, "big") + length.to_bytes(4, "big") + address.to_bytes(8, "big")
        self.memory.write_block(descriptor, words, "loader")
        raw = descriptor.to_bytes(8, "big")
        self.bus.write(0x514, 4, int.from_bytes(raw[:4], "little"))
        self.bus.write(0x518, 4, int.from_bytes(raw[4:], "little"))
        return int.from_bytes(self.memory.read_block(descriptor, 4), "big")


@pytest.fixture
def board(clock):
    return Board(clock)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (0x00, b"QEMU"),
        (0x01, b"\x03\0\0\0"),
        (0x03, (128 << 20).to_bytes(8, "little")),
        (0x05, b"\x02\0"),
        (0x0F, b"\x04\0"),
        (0x8002, b"\x01"),
        (0x7777, b"\0\0\0\0"),
    ],
    ids=["signature", "id", "ram size", "cpus", "max cpus", "irq 0 override", "nothing"],
)
def test_items(board, key, expected):
    assert board.item(key, len(expected)) == expected
    assert board.item(key | 0x4000, len(expected)) == expected
    assert board.bus.read(0x511, 1) == 0


def test_the_signature_is_chosen_at_first_and_after_a_reset(board):
    assert board.bus.read(0x511, 1) == ord("Q")
    board.bus.write(0x510, 2, 5)
    board.chip.reset()
    assert board.bus.read(0x511, 1) == ord("Q")


def test_reading_double_words_around_the_data_port_takes_one_byte(board):
    assert board.bus.read(0x510, 4) == ord("Q") << 8
    assert board.bus.read(0x511, 1) == ord("E")


def test_files_are_listed_by_name(board):
    board.chip.add_file("etc/e820", e820_item([(0, 0x9F000, 1)]))
    board.chip.add_file("bootorder", b"abc")
    files = board.files()
    assert list(files) == ["bootorder", "etc/e820"]
    assert files == {"bootorder": (0x20, 3), "etc/e820": (0x21, 20)}
    assert board.item(0x20, 3) == b"abc"
    assert board.item(0x21, 20) == bytes(8) + (0x9F000).to_bytes(8, "little") + b"\x01\0\0\0"


def test_an_item_can_be_replaced(board):
    board.chip.add(0x0E, b"\x01\0")
    assert board.item(0x0E, 2) == b"\x01\0"


@pytest.mark.parametrize("name", ["", "x" * 56], ids=["empty", "too long"])
def test_names_that_do_not_fit(board, name):
    with pytest.raises(UsageError, match="fw_cfg"):
        board.chip.add_file(name, b"")


class TestDma:
    def test_the_port_reads_as_its_signature(self, board):
        raw = b"".join(board.bus.read(0x514 + n, 4).to_bytes(4, "little") for n in (0, 4))
        assert raw == b"QEMU CFG"

    def test_select_and_read_pads_with_zeros(self, board):
        board.memory.write_block(0x2000, b"\xee" * 16, "loader")
        assert board.dma(SELECT | READ, 8, 0x2000) == 0
        assert board.memory.read_block(0x2000, 9) == b"QEMU\0\0\0\0\xee"

    def test_reads_go_on_where_the_last_ended(self, board):
        board.dma(SELECT | READ, 1, 0x2000)
        board.dma(SKIP, 1)
        board.dma(READ, 2, 0x2000)
        assert board.memory.read_block(0x2000, 2) == b"MU"

    def test_writes_are_told_to_the_listeners_as_the_devices(self, board):
        heard = []
        board.memory.listeners.append(lambda gpa, size, source: heard.append((gpa, source)))
        board.dma(SELECT | READ, 4, 0x2000)
        assert (0x2000, "device") in heard
        assert (DESCRIPTOR, "device") in heard

    def test_writing_an_item_is_an_error(self, board):
        assert board.dma(SELECT | WRITE, 4, 0x2000) == ERROR
        assert board.item(0, 4) == b"QEMU"

    def test_an_address_out_of_this_world_is_an_error(self, board):
        assert board.dma(SELECT | READ, 4, 1 << 63) == ERROR

    def test_an_absurd_length_fills_ram_and_comes_back(self, board):
        board.memory.write_block(0x3F000, b"\xee" * 0x1000, "loader")
        assert board.dma(SELECT | READ, 0xFFFFFFFF, 0x2000) == 0
        assert board.memory.read_block(0x3F000, 0x1000) == bytes(0x1000)

    def test_many_zeros_come_bit_by_bit(self, board, clock):
        board.memory.add_ram(0x100000, 3 * CHUNK)
        board.memory.write_block(0x100000, b"\xee" * 3 * CHUNK, "loader")
        assert board.dma(SELECT | READ, 0xFFFFFFFF, 0x100000) == SELECT | READ  # not done yet
        assert board.memory.read_block(0x100000, 5) == b"QEMU\0"
        assert board.memory.read(0x100000 + CHUNK + 4, 1) == 0xEE
        assert board.dma(SELECT | READ, 4, 0x8000, 0x9000) == ERROR  # one at a time
        clock.run_for(2 * CHUNK_NS)
        assert board.memory.read_block(0x100004, 3 * CHUNK - 4) == bytes(3 * CHUNK - 4)
        assert board.memory.read(DESCRIPTOR, 4) == 0
        assert board.dma(SELECT | READ, 4, 0x8000, 0x9000) == 0

    def test_devices_are_passed_over(self, board):
        class Device:
            def write(self, offset, size, value):
                raise AssertionError("a device is written")

        board.memory.add_mmio(0x80000, 0x1000, Device())
        assert board.dma(SELECT | READ, 0x100000, 0x7F000) == 0

    @pytest.mark.parametrize("descriptor", [(1 << 64) - 16, 1 << 40, (1 << 39) - 8])
    def test_a_descriptor_in_nowhere_harms_nobody(self, board, descriptor):
        raw = descriptor.to_bytes(8, "big")
        board.bus.write(0x514, 4, int.from_bytes(raw[:4], "little"))
        board.bus.write(0x518, 4, int.from_bytes(raw[4:], "little"))


@given(
    st.lists(
        st.tuples(st.integers(0x510, 0x51B), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1)),
        max_size=30,
    )
)
def test_random_accesses_do_no_harm(steps):
    board = Board(Clock())
    for port, size, value in steps:
        board.bus.write(port, size, value)
        assert 0 <= board.bus.read(port, size) < 1 << 8 * size
