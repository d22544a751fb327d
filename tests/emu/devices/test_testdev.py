# SPDX-License-Identifier: GPL-2.0-or-later
"""The device that kvm-unit-tests use."""

from __future__ import annotations

import pytest

from emu.devices.testdev import TestDevice
from emu.ports import PortBus
from mmu.memory import Memory


class Board:
    def __init__(self, wire_type):
        self.wires = [wire_type() for _ in range(24)]
        self.flushed = []
        self.bus, self.memory = PortBus(), Memory()
        TestDevice(self.wires, self.flushed.append).attach(self.bus, self.memory)


@pytest.fixture
def board(wire):
    return Board(type(wire))


def test_the_latch_keeps_any_width_at_its_place(board):
    board.bus.write(0xE0, 4, 0x44332211)
    board.bus.write(0xE1, 1, 0xAA)
    board.bus.write(0xE2, 2, 0xCCBB)
    assert board.bus.read(0xE0, 4) == 0xCCBBAA11
    assert board.bus.read(0xE1, 2) == 0xBBAA
    assert board.bus.read(0xE3, 1) == 0xCC
    board.bus.write(0xE8, 1, 0x5A)
    assert board.bus.read(0xE8, 1) == 0x5A


def test_lines_follow_what_is_written(board):
    board.bus.write(0x200E, 1, 1)
    assert [n for n, wire in enumerate(board.wires) if wire.level] == [14]
    board.bus.write(0x200E, 1, 0)
    assert not board.wires[14].level
    assert board.bus.read(0x200E, 1) == 0


def test_a_page_is_flushed_by_its_address(board):
    board.bus.write(0xE4, 4, 0x00123456)
    assert board.flushed == [0x00123000]


def test_its_memory_keeps_what_is_written(board):
    board.memory.write(0xFF000FFE, 4, 0x11223344, "guest")
    assert board.memory.read(0xFF000FFE, 4) == 0x11223344
    assert board.memory.read(0xFF001000, 1) == 0x22
    board.memory.write(0xFF00FFFF, 2, 0xFFFF, "guest")
    assert board.memory.read(0xFF00FFFF, 1) == 0xFF
