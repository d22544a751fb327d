# SPDX-License-Identifier: GPL-2.0-or-later
"""ATA by programmed I/O, as drivers do it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.clock import Clock
from emu.devices.disk import Disk
from emu.devices.ide import ACCESS_NS, IdeChannel
from emu.devices.ide_identify import Geometry
from emu.ports import PortBus

SECTORS = 40_000  # more than 16 cylinders of 16 heads
BUSY, READY, DATA, ERROR = 0x80, 0x50, 0x08, 0x01
NO_SECTOR, ABORTED = 0x10, 0x04


def sector(number):
    return number.to_bytes(4, "little") * 128


class Board:
    def __init__(self, clock, wire, master=None, slave=None):
        self.clock, self.wire = clock, wire
        self.ide = IdeChannel(clock, wire, master, slave)
        self.bus = PortBus()
        for first, last, width in self.ide.ports:
            self.bus.add(first, last, self.ide, width)

    def r(self, register):
        return self.bus.read(0x1F0 + register, 1)

    def w(self, register, value):
        self.bus.write(0x1F0 + register, 1, value)

    def address(self, lba, count, device=0xE0):
        for register, value in (
            (2, count & 0xFF),
            (3, lba & 0xFF),
            (4, lba >> 8 & 0xFF),
            (5, lba >> 16 & 0xFF),
            (6, device | lba >> 24 & 0xF),
        ):
            self.w(register, value)

    def address_48(self, lba, count, device=0xE0):
        self.w(6, device)
        for shift, low in ((24, count >> 8), (0, count & 0xFF)):
            self.w(2, low)
            for n in range(3):
                self.w(3 + n, lba >> shift + 8 * n & 0xFF)

    def command(self, value):
        self.w(7, value)
        if value in (0x30, 0x31, 0x34, 0x39, 0xC5):  # data may follow at once: no wait
            return self.bus.read(0x3F6, 1)
        assert self.r(7) == BUSY
        return self.settle()

    def settle(self):
        self.clock.run_for(ACCESS_NS)
        return self.bus.read(0x3F6, 1)

    def take(self, count, size=2):
        """Read `count` sectors block by block; returns data and interrupts seen."""
        data, edges = bytearray(), 0
        while len(data) < count * 512:
            if not self.bus.read(0x3F6, 1) & DATA:
                assert self.bus.read(0x3F6, 1) == BUSY
                self.settle()
            edges += self.wire.level
            assert self.r(7) == READY | DATA
            while self.bus.read(0x3F6, 1) & DATA:
                data += self.bus.read(0x1F0, size).to_bytes(size, "little")
        return bytes(data), edges

    def give(self, data, size=2):
        edges = 0
        for start in range(0, len(data), size):
            self.bus.write(0x1F0, size, int.from_bytes(data[start : start + size], "little"))
            if self.bus.read(0x3F6, 1) == BUSY:
                self.settle()
                edges += self.wire.level
                self.r(7)
        return edges


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("ide") / "disk.img"
    path.write_bytes(b"".join(sector(n) for n in range(SECTORS)))
    return path


@pytest.fixture
def disk(path):
    disk = Disk(path, snapshot=True)
    yield disk
    disk.close()


@pytest.fixture
def board(clock, wire, disk):
    return Board(clock, wire, disk)


class TestIdentify:
    def words(self, board):
        assert board.command(0xEC) == READY | DATA
        data, edges = board.take(1)
        assert edges == 1
        assert board.r(7) == READY
        return [int.from_bytes(data[n : n + 2], "little") for n in range(0, 512, 2)]

    def test_a_disk_with_its_size_and_no_dma(self, board):
        words = self.words(board)
        assert words[0] == 0x40
        assert words[60] | words[61] << 16 == SECTORS
        assert words[100] | words[101] << 16 == SECTORS
        assert words[49] & 0x300 == 0x200
        assert words[83] & 0x400
        assert (words[1], words[3], words[6]) == (SECTORS // 1008, 16, 63)
        model = b"".join(word.to_bytes(2, "big") for word in words[27:47])
        assert model.strip() == b"SHADOWCORN HARDDISK"
        assert words[63] == words[88] == 0

    def test_what_was_set_shows(self, board):
        board.w(2, 8)
        assert board.command(0xC6) == READY
        board.w(2, 32)
        board.w(6, 0xA7)
        assert board.command(0x91) == READY
        words = self.words(board)
        assert words[59] == 0x108
        assert words[54:57] == [SECTORS // 256, 8, 32]

    @pytest.mark.parametrize(
        ("total", "cylinders"), [(1, 0), (1008, 1), (1 << 40, 16383)], ids=["tiny", "one", "huge"]
    )
    def test_geometry(self, total, cylinders):
        assert Geometry.of(total) == (cylinders, 16, 63)


class TestRead:
    @pytest.mark.parametrize("size", [2, 4], ids=["words", "double words"])
    @pytest.mark.parametrize("count", [1, 3, 256])
    def test_sectors_one_interrupt_each(self, board, count, size):
        board.address(1000, count)
        assert board.command(0x20) == READY | DATA
        data, edges = board.take(count, size)
        assert data == b"".join(sector(1000 + n) for n in range(count))
        assert edges == count
        assert (board.r(7), board.wire.level) == (READY, False)
        assert board.r(2) == 0
        assert board.r(3) | board.r(4) << 8 == 1000 + count - 1

    def test_multiple_one_interrupt_a_block(self, board):
        board.w(2, 4)
        board.command(0xC6)
        board.address(7, 10)
        board.command(0xC4)
        data, edges = board.take(10)
        assert data == b"".join(sector(7 + n) for n in range(10))
        assert edges == 3

    def test_with_48_bits(self, board):
        board.address_48(0x9000, 300)
        board.command(0x24)
        data, _ = board.take(300)
        assert data == b"".join(sector(0x9000 + n) for n in range(300))
        board.bus.write(0x3F6, 1, 0x80)
        assert (board.r(2), board.r(3)) == (0, 0)
        board.w(2, 1)
        assert board.r(4) == (0x9000 + 299) >> 8

    def test_by_cylinder_head_and_sector(self, board):
        for register, value in ((2, 1), (3, 5), (4, 2), (5, 0), (6, 0xA3)):
            board.w(register, value)
        board.command(0x20)
        data, _ = board.take(1)
        assert data == sector((2 * 16 + 3) * 63 + 4)

    @pytest.mark.parametrize(
        ("registers", "command", "error"),
        [
            ((1, SECTORS & 0xFF, SECTORS >> 8, 0, 0xE0), 0x20, NO_SECTOR),
            ((1, SECTORS & 0xFF, SECTORS >> 8, 0, 0xE0), 0x40, NO_SECTOR),
            ((1, SECTORS & 0xFF, SECTORS >> 8, 0, 0xE0), 0x70, NO_SECTOR),
            ((1, 64, 0, 0, 0xA0), 0x7F, NO_SECTOR),
            ((1, 0, 0, 0, 0xA0), 0x20, NO_SECTOR),
            ((1, 64, 0, 0, 0xA0), 0x30, NO_SECTOR),
            ((1, 0, 0, 0, 0xE0), 0xC4, ABORTED),
            ((1, 0, 0, 0, 0xE0), 0xC8, ABORTED),
            ((1, 0, 0, 0, 0xE0), 0xA1, ABORTED),
            ((3, 0, 0, 0, 0xE0), 0xC6, ABORTED),
            ((32, 0, 0, 0, 0xE0), 0xC6, ABORTED),
            ((0, 0, 0, 0, 0xE0), 0x91, ABORTED),
        ],
        ids=[
            "behind the end",
            "verification behind the end",
            "seek behind the end",
            "seek to no such sector",
            "sector 0",
            "no such sector",
            "multiple not set",
            "DMA",
            "packet",
            "multiple of 3",
            "multiple of 32",
            "no sectors a track",
        ],
    )
    def test_commands_that_fail(self, board, registers, command, error):
        for register, value in enumerate(registers, 2):
            board.w(register, value)
        assert board.command(command) == READY | ERROR
        assert board.wire.level
        assert board.r(1) == error
        assert board.r(7) == READY | ERROR
        assert not board.wire.level
        assert board.bus.read(0x1F0, 2) == 0xFFFF


class TestWrite:
    @pytest.mark.parametrize(
        ("command", "multiple", "count", "edges"),
        [(0x30, 1, 3, 3), (0xC5, 4, 10, 3), (0x34, 1, 2, 2), (0x39, 8, 8, 1)],
        ids=["sectors", "multiple", "ext", "multiple ext"],
    )
    def test_data_arrives_with_an_interrupt_behind_each_block(
        self, board, disk, command, multiple, count, edges
    ):
        board.w(2, multiple)
        board.command(0xC6)
        board.r(7)
        data = b"".join(sector(0xABC000 + n) for n in range(count))
        if command in (0x34, 0x39):
            board.address_48(500, count)
        else:
            board.address(500, count)
        assert board.command(command) == READY | DATA
        assert not board.wire.level
        assert board.give(data) == edges
        assert board.r(7) == READY
        assert disk.read(500, count) == data
        assert disk.read(500 + count, 1) == sector(500 + count)

    def test_it_is_in_the_file_before_the_interrupt(self, clock, wire, tmp_path):
        path = tmp_path / "small.img"
        path.write_bytes(bytes(4 * 512))
        disk = Disk(path)
        board = Board(clock, wire, disk)
        board.address(2, 1)
        board.command(0x30)
        board.give(sector(7))
        assert path.read_bytes()[1024:1536] == sector(7)
        disk.close()

    def test_a_read_only_disk_aborts(self, clock, wire, path):
        disk = Disk(path, read_only=True)
        board = Board(clock, wire, disk)
        board.address(2, 1)
        assert board.command(0x30) == READY | ERROR
        assert board.r(1) == ABORTED
        disk.close()

    def test_an_error_of_the_host_is_one_of_the_disk(self, board, disk):
        board.address(2, 1)
        board.command(0x30)
        disk._overlay = None  # the file is open for reading only
        board.give(sector(1))
        assert board.r(7) == READY | ERROR
        assert board.r(1) == 0x40

    def test_selecting_the_other_drive_does_not_lead_data_astray(self, clock, wire, disk, tmp_path):
        path = tmp_path / "tiny.img"
        path.write_bytes(bytes(512))
        tiny = Disk(path)
        board = Board(clock, wire, disk, tiny)
        board.address(30_000, 1)
        board.command(0x30)
        board.w(6, 0xF0)
        board.give(sector(9))
        assert disk.read(30_000, 1) == sector(9)
        assert path.read_bytes() == bytes(512)
        tiny.close()


class TestTheEndOfTheDisk:
    """What is on the disk is transferred, and then the command ends (ATA-6 9.5, 9.6)."""

    FAILED = READY | ERROR

    def failed_at_the_end(self, board, left):
        assert board.bus.read(0x3F6, 1) == self.FAILED
        assert board.wire.level
        assert board.r(7) == self.FAILED
        assert board.r(1) == NO_SECTOR
        where = board.r(3) | board.r(4) << 8 | board.r(5) << 16 | (board.r(6) & 0xF) << 24
        assert (where, board.r(2)) == (SECTORS, left)

    def test_a_read(self, board):
        board.address(SECTORS - 2, 5)
        board.command(0x20)
        assert board.take(2) == (sector(SECTORS - 2) + sector(SECTORS - 1), 2)
        board.settle()
        self.failed_at_the_end(board, 3)

    def test_a_read_in_blocks(self, board):
        board.address(0, 4)
        board.command(0xC6)
        board.r(7)
        board.address(SECTORS - 6, 9)
        board.command(0xC4)
        assert board.take(6) == (b"".join(sector(SECTORS - 6 + n) for n in range(6)), 2)
        board.settle()
        self.failed_at_the_end(board, 3)

    def test_a_write(self, board, disk):
        board.address(SECTORS - 1, 2)
        board.command(0x30)
        board.bus.read(0x3F6, 1)
        for start in range(0, 512, 2):
            board.bus.write(0x1F0, 2, int.from_bytes(sector(7)[start : start + 2], "little"))
        board.settle()
        self.failed_at_the_end(board, 1)
        assert disk.read(SECTORS - 1, 1) == sector(7)

    @pytest.mark.parametrize("left", [0, 1])
    def test_a_verification(self, board, left):
        board.address(SECTORS - 3, 3 + left)
        board.command(0x40)
        if left:
            self.failed_at_the_end(board, 1)
        else:
            assert board.r(7) == READY

    @pytest.mark.parametrize("command", [0x70, 0x7F])
    def test_a_seek(self, board, command):
        board.address(SECTORS - 1, 0)
        assert board.command(command) == READY
        assert board.wire.level


class TestChannel:
    def test_a_drive_that_is_not_there_is_all_zeros(self, board):
        board.w(6, 0xF0)
        board.w(2, 0x55)
        assert [board.r(n) for n in range(1, 8)] == [0] * 7
        board.w(7, 0xEC)
        board.clock.run_for(10 * ACCESS_NS)
        assert (board.r(7), board.wire.level) == (0, False)
        board.w(6, 0xE0)
        assert board.r(7) == READY

    def test_two_drives_tell_themselves_apart(self, clock, wire, disk, path):
        other = Disk(path, snapshot=True)
        other.write(5, sector(1))
        board = Board(clock, wire, disk, other)
        for device, expected in ((0xE0, 5), (0xF0, 1)):
            board.address(5, 1, device)
            board.command(0x20)
            assert board.take(1)[0] == sector(expected)
        other.close()

    def test_software_reset_leaves_the_signature(self, board):
        board.address(1, 1)
        board.command(0x20)
        board.bus.write(0x3F6, 1, 0x04)
        assert (board.r(7), board.wire.level) == (BUSY, False)
        board.bus.write(0x3F6, 1, 0x00)
        assert board.settle() == READY
        assert [board.r(n) for n in range(1, 7)] == [1, 1, 1, 0, 0, 0]
        assert not board.wire.level

    def test_without_interrupts_the_line_stays_down(self, board):
        board.bus.write(0x3F6, 1, 0x02)
        board.command(0xEC)
        assert not board.wire.level
        board.bus.write(0x3F6, 1, 0x00)
        assert board.wire.level
        board.r(7)
        assert not board.wire.level

    def test_the_alternate_status_clears_nothing(self, board):
        board.command(0xE7)
        for _ in range(3):
            assert board.bus.read(0x3F6, 1) == READY
        assert board.wire.level

    @pytest.mark.parametrize(
        "command", [0xE7, 0xEA, 0x10, 0x40, 0x90, 0xE0, 0xE1], ids=lambda value: f"{value:#x}"
    )
    def test_commands_without_data(self, board, command):
        board.address(1, 1)
        assert board.command(command) == READY
        assert board.wire.level

    @pytest.mark.parametrize(
        ("feature", "count", "good"),
        [(0x03, 0x0C, True), (0x03, 0x45, False), (0x02, 0, True), (0x99, 0, False)],
        ids=["PIO 4", "UDMA", "write cache", "unknown"],
    )
    def test_set_features(self, board, feature, count, good):
        board.w(1, feature)
        board.w(2, count)
        assert board.command(0xEF) == (READY if good else READY | ERROR)

    def test_native_maximum_and_power(self, board):
        board.w(6, 0xE0)
        board.command(0xF8)
        assert board.r(3) | board.r(4) << 8 | board.r(5) << 16 == SECTORS - 1
        board.command(0xE5)
        assert board.r(2) == 0xFF

    @pytest.mark.parametrize(
        ("sectors", "last_28", "last_48"),
        [
            (1 << 28, (1 << 28) - 1, (1 << 28) - 1),
            ((1 << 28) + 5, (1 << 28) - 1, (1 << 28) + 4),
            (1 << 48, (1 << 28) - 1, (1 << 48) - 1),
        ],
        ids=["128 GiB", "a little more", "all that there can be"],
    )
    def test_the_native_maximum_is_clipped_to_its_bits(
        self, clock, wire, sectors, last_28, last_48
    ):
        disk = SimpleNamespace(sectors=sectors, read_only=False)
        board = Board(clock, wire, disk)
        board.w(6, 0xE0)
        board.command(0xF8)
        got = [board.r(n) for n in (3, 4, 5)] + [board.r(6) & 0xF]
        assert got == [*(last_28 & 0xFFFFFF).to_bytes(3, "little"), last_28 >> 24]
        board.command(0x27)
        low = bytes(board.r(n) for n in (3, 4, 5))
        board.bus.write(0x3F6, 1, 0x80)
        high = bytes(board.r(n) for n in (3, 4, 5))
        assert int.from_bytes(low + high, "little") == last_48

    def test_software_reset_clears_the_high_order_bytes(self, board):
        for value in (0x12, 0x34):
            for register in (2, 3, 4, 5):
                board.w(register, value)
        board.bus.write(0x3F6, 1, 0x80)
        assert [board.r(n) for n in (2, 3, 4, 5)] == [0x12] * 4
        board.bus.write(0x3F6, 1, 0x04)
        board.bus.write(0x3F6, 1, 0x00)
        board.settle()
        board.bus.write(0x3F6, 1, 0x80)
        assert [board.r(n) for n in (2, 3, 4, 5)] == [0] * 4

    def test_registers_are_deaf_while_busy(self, board):
        board.w(3, 0x11)
        board.w(7, 0xEC)
        board.w(3, 0x22)
        board.w(7, 0x90)
        board.settle()
        assert board.r(3) == 0x11
        assert board.r(7) & DATA

    def test_wide_accesses_to_registers_are_bytes(self, board):
        board.bus.write(0x1F2, 4, 0x44332211)
        assert [board.r(n) for n in (2, 3, 4, 5)] == [0x11, 0x22, 0x33, 0x44]
        assert board.bus.read(0x1F4, 2) == 0x4433


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([*range(0x1F0, 0x1F8), 0x1F0, 0x1F7, 0x1F7, 0x3F6]),
            st.sampled_from([1, 2, 4]),
            st.one_of(
                st.integers(0, 2**32 - 1),
                st.sampled_from([0x20, 0x24, 0x30, 0x34, 0xC4, 0xC5, 0xC6, 0xEC, 0x90, 1, 0, 0xE0]),
            ),
            st.integers(0, 3),
        ),
        max_size=80,
    )
)
def test_random_accesses_do_no_harm(path, steps):
    clock = Clock()
    disks = [Disk(path, snapshot=True) for _ in range(2)]
    board = Board(clock, lambda level: None, *disks)
    for port, size, value, ticks in steps:
        board.bus.write(port, size, value)
        assert 0 <= board.bus.read(port, size) < 1 << 8 * size
        clock.run_due(clock.now + ticks * ACCESS_NS)
        assert len(board.ide.state.buffer) <= 16 * 512
    for disk in disks:
        assert all(number < SECTORS for number in disk._overlay)
        disk.close()
