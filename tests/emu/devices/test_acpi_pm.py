# SPDX-License-Identifier: GPL-2.0-or-later
"""PIIX4 power management: the timer, the SCI, soft off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.clock import PIT_RATE, PM_TIMER_RATE, Clock
from emu.devices.acpi_pm import AcpiPm, ApmPort
from emu.outcome import Kind
from emu.ports import PortBus

STATUS, ENABLE, CONTROL, TIMER = 0x600, 0x602, 0x604, 0x608
HALF = 1 << 23
OFF = [(Kind.POWER_OFF, None)]


class Board:
    def __init__(self, clock, wire, stop):
        self.pm = AcpiPm(clock, wire, stop)
        self.bus = PortBus()
        self.bus.add(0x600, 0x63F, self.pm, width=4)
        self.bus.add(0xB2, 0xB3, ApmPort(self.pm))
        self.r, self.w = self.bus.read, self.bus.write


@pytest.fixture
def board(clock, wire, stop):
    return Board(clock, wire, stop)


def test_the_timer_runs_three_times_as_fast_as_the_pit_and_wraps_at_24_bits(board, clock):
    for ns in (0, 1_000_000, 999_999_999, 10**10 + 7):
        clock.run_to(ns)
        timer = board.r(TIMER, 4)
        assert timer == PM_TIMER_RATE.ticks(ns) % (1 << 24)
        assert PM_TIMER_RATE.ticks(ns) // 3 == PIT_RATE.ticks(ns)
    assert board.r(TIMER + 3, 1) == 0
    assert board.r(TIMER + 1, 1) == board.r(TIMER, 4) >> 8 & 0xFF


def test_half_a_turn_sets_the_status_bit(board, clock):
    clock.run_to(PM_TIMER_RATE.ns(HALF) - 1)
    assert board.r(STATUS, 2) == 0
    clock.run_for(1)
    assert board.r(STATUS, 2) == 1
    board.w(STATUS, 2, 0)
    assert board.r(STATUS, 2) == 1
    board.w(STATUS, 2, 1)
    assert board.r(STATUS, 2) == 0
    assert clock.next_event is None


def test_and_raises_the_sci_when_asked_to(board, clock, wire):
    board.w(0xB2, 1, 0xF1)
    board.w(ENABLE, 2, 1)
    for turn in range(1, 4):
        clock.run_to(PM_TIMER_RATE.ns(turn * HALF) - 1)
        assert not wire.level
        clock.run_for(1)
        assert wire.level
        board.w(STATUS, 2, 1)
        assert not wire.level
    board.w(ENABLE, 2, 0)
    assert clock.next_event is None


def test_the_power_button_is_heard_in_acpi_mode_only(board, wire):
    board.w(ENABLE, 2, 0xFFFF)
    assert board.r(ENABLE, 2) == 0x521
    board.pm.press_power_button()
    assert not wire.level
    board.w(0xB2, 1, 0xF1)
    assert (wire.level, board.r(CONTROL, 2)) == (True, 1)
    assert board.r(STATUS, 4) == 0x0521_0100
    board.w(0xB2, 1, 0xF0)
    assert (wire.level, board.r(CONTROL, 2)) == (False, 0)


@pytest.mark.parametrize(
    ("port", "size", "value", "expected"),
    [
        (CONTROL, 2, 0x2000, OFF),
        (CONTROL, 2, 0x2001, OFF),
        (CONTROL + 1, 1, 0x20, OFF),
        (CONTROL, 4, 0x2000, OFF),
        (ENABLE, 4, 0x2000_0000, OFF),
        (CONTROL, 2, 0x0001, []),
        (CONTROL, 2, 0x2400, []),
        (STATUS, 2, 0x2000, []),
    ],
    ids=["S5", "S5 with SCI", "high byte", "wide", "upper half", "no sleep", "S3", "elsewhere"],
)
def test_soft_off(board, stops, port, size, value, expected):
    board.w(port, size, value)
    assert stops == expected


def test_registers_by_the_byte(board):
    board.w(CONTROL, 1, 0x01)
    board.w(CONTROL + 1, 1, 0x14)
    assert board.r(CONTROL, 2) == 0x1401
    assert board.r(CONTROL + 1, 1) == 0x14
    board.w(ENABLE + 1, 1, 0x01)
    board.w(ENABLE, 1, 0x20)
    assert board.r(ENABLE, 2) == 0x120


def test_apm_ports_read_back(board):
    board.w(0xB2, 2, 0x5A42)
    assert board.r(0xB2, 2) == 0x5A42


def test_reset_leaves_acpi_mode(board, clock, wire):
    board.w(0xB2, 1, 0xF1)
    board.w(ENABLE, 2, 0x101)
    board.pm.press_power_button()
    board.pm.reset()
    assert (wire.level, board.r(STATUS, 4), board.r(CONTROL, 2)) == (False, 0, 0)


@given(
    st.lists(
        st.tuples(st.integers(0x600, 0x63F), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1)),
        max_size=40,
    )
)
def test_random_accesses_do_no_harm(steps):
    clock = Clock()
    board = Board(clock, lambda level: None, lambda kind, code: None)
    for port, size, value in steps:
        board.w(port, size, value)
        assert 0 <= board.r(port, size) < 1 << 8 * size
        clock.run_due(clock.now + value)
