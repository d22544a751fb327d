# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration mechanism #1 and what it finds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.devices.pci import PciHost, i440fx_functions
from emu.ports import PortBus


class Board:
    def __init__(self, ide=True):
        self.resets = []
        self.host = PciHost(i440fx_functions(ide=ide), self.resets.append)
        self.bus = PortBus()
        self.bus.add(0xCF8, 0xCFF, self.host, width=4)

    def select(self, device, function, register, bus=0):
        address = 1 << 31 | bus << 16 | device << 11 | function << 8 | register & 0xFC
        self.bus.write(0xCF8, 4, address)
        return 0xCFC + (register & 3)

    def r(self, device, function, register, size=4, bus=0):
        return self.bus.read(self.select(device, function, register, bus), size)

    def w(self, device, function, register, value, size=4):
        self.bus.write(self.select(device, function, register), size, value)


@pytest.fixture
def board():
    return Board()


@pytest.mark.parametrize(
    ("device", "function", "ident", "class_revision"),
    [
        (0, 0, 0x12378086, 0x06000002),
        (1, 0, 0x70008086, 0x06010000),
        (1, 1, 0x70108086, 0x01010000),
        (1, 3, 0x71138086, 0x06800003),
    ],
    ids=["host bridge", "ISA bridge", "IDE", "power management"],
)
def test_what_a_scan_finds(board, device, function, ident, class_revision):
    assert board.r(device, function, 0) == ident
    assert board.r(device, function, 8) == class_revision
    assert board.r(device, function, 0, 2) == 0x8086
    assert board.r(device, function, 2, 2) == ident >> 16
    assert board.r(device, function, 0x0A, 2) == class_revision >> 16


def test_nothing_else_is_there():
    board = Board(ide=False)
    found = [(d, f) for d in range(32) for f in range(8) if board.r(d, f, 0) != 0xFFFFFFFF]
    assert found == [(0, 0), (1, 0), (1, 3)]
    assert [bus for bus in range(256) if board.r(0, 0, 0, bus=bus) != 0xFFFFFFFF] == [0]
    board.w(5, 0, 4, 0)


def test_the_isa_bridge_says_that_it_has_more_functions(board):
    assert board.r(1, 0, 0x0E, 1) == 0x80
    assert board.r(0, 0, 0x0E, 1) == 0


def test_the_address_register_is_32_bits_and_keeps_what_it_should(board):
    board.bus.write(0xCF8, 4, 0xFFFFFFFF)
    assert board.bus.read(0xCF8, 4) == 0x80FFFFFC
    for port, size in ((0xCF8, 1), (0xCFA, 2), (0xCFB, 1), (0xCF8, 2)):
        board.bus.write(port, size, 0)
    assert board.bus.read(0xCF8, 4) == 0x80FFFFFC
    assert board.bus.read(0xCF8, 2) == 0xFFFF


def test_without_the_enable_bit_there_is_no_configuration(board):
    board.bus.write(0xCF8, 4, 0)
    assert board.bus.read(0xCFC, 4) == 0xFFFFFFFF
    board.bus.write(0xCFC, 4, 0)


def test_read_only_bytes_stay_and_writable_ones_are_kept(board):
    board.w(0, 0, 0, 0)
    assert board.r(0, 0, 0) == 0x12378086
    board.w(0, 0, 0x3C, 0xFF, 1)
    assert board.r(0, 0, 0x3C, 2) == 0x00FF
    board.w(0, 0, 0x04, 0xFFFF, 2)
    assert board.r(0, 0, 0x04) == 0x0547
    board.w(0, 0, 0x59, 0x30, 1)
    assert board.r(0, 0, 0x58) == 0x3000
    board.host.reset()
    assert board.r(0, 0, 0x58) == 0


def test_bars_size_as_absent(board):
    for bar in range(0x10, 0x28, 4):
        board.w(1, 1, bar, 0xFFFFFFFF)
        assert board.r(1, 1, bar) == 0


def test_the_power_management_base_is_where_the_ports_are(board):
    assert board.r(1, 3, 0x40) == 0x601
    assert board.r(1, 3, 0x80, 1) & 1
    assert board.r(1, 3, 0x3C, 2) == 0x0109


def test_the_reset_register_is_a_byte_in_the_address_register(board):
    board.bus.write(0xCF9, 1, 0x02)
    assert board.bus.read(0xCF9, 1) == 0x02
    assert board.resets == []
    board.bus.write(0xCF9, 1, 0x06)
    assert board.resets == [True]
    board.bus.write(0xCF8, 4, 0x0600)
    assert board.resets == [True]
    board.bus.write(0xCF9, 1, 0x00)
    board.bus.write(0xCF9, 1, 0x04)
    assert board.resets == [True, False]


@given(
    st.lists(
        st.tuples(st.integers(0xCF8, 0xCFF), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1)),
        max_size=40,
    )
)
def test_random_accesses_do_no_harm(steps):
    board = Board()
    for port, size, value in steps:
        board.bus.write(port, size, value)
        assert 0 <= board.bus.read(port, size) < 1 << 8 * size
    for function in board.host._functions.values():
        assert len(function.config) == 256
    assert board.r(0, 0, 0) == 0x12378086
