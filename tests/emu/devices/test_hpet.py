# SPDX-License-Identifier: GPL-2.0-or-later
"""The HPET: counter, comparators, routes, legacy replacement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.clock import MIN_PERIOD_NS, Clock
from emu.devices.hpet import Hpet

CONFIGURATION, STATUS, COUNTER = 0x10, 0x20, 0xF0
LEVEL, INTERRUPT, PERIODIC, SET_VALUE, BITS_32 = 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 8
ENABLE, LEGACY = 1, 2
MS = 1_000_000
TICKS_PER_MS = 100_000


def timer(number):
    return 0x100 + 0x20 * number


def route(pin):
    return pin << 9


class Wires:
    def __init__(self, wire_type):
        self.make = wire_type
        self.pins = {}

    def __call__(self, pin):
        return self.pins.setdefault(pin, self.make())


class Board:
    def __init__(self, clock, wire_type):
        self.clock = clock
        self.pins = Wires(wire_type)
        self.irq_0, self.irq_8 = wire_type(), wire_type()
        self.chip = Hpet(clock, self.pins, self.irq_0, self.irq_8)

    def r(self, offset, size=8):
        return self.chip.read(offset, size) & (1 << 8 * size) - 1

    def w(self, offset, value, size=8):
        self.chip.write(offset, size, value)


@pytest.fixture
def board(clock, wire):
    return Board(clock, type(wire))


def test_capabilities_tell_the_period_and_three_timers(board):
    assert board.r(0) == 0x0098_9680_8086_A201
    board.w(0, 0)
    assert board.r(0, 4) == 0x8086A201
    assert board.r(4, 4) == 10_000_000
    assert board.r(timer(2)) == 0x00FF_0104_0000_0030


def test_the_counter_runs_while_enabled_at_ten_ns_a_tick(board, clock):
    clock.run_for(MS)
    assert board.r(COUNTER) == 0
    board.w(CONFIGURATION, ENABLE)
    clock.run_for(MS)
    assert board.r(COUNTER) == TICKS_PER_MS
    board.w(CONFIGURATION, 0)
    clock.run_for(MS)
    assert board.r(COUNTER) == TICKS_PER_MS
    board.w(COUNTER, 0x1_2345_6789)
    board.w(CONFIGURATION, ENABLE)
    clock.run_for(100)
    assert board.r(COUNTER) == 0x1_2345_6793
    assert board.r(COUNTER + 4, 4) == 1
    assert board.r(COUNTER + 1, 1) == 0x67


def test_the_counter_by_halves(board):
    board.w(COUNTER, 0x11111111, 4)
    board.w(COUNTER + 4, 0x22222222, 4)
    assert board.r(COUNTER) == 0x22222222_11111111


@pytest.mark.parametrize(("size", "offset"), [(1, 0), (2, 0), (4, 2), (8, 4)])
def test_narrow_and_misaligned_writes_are_ignored(board, size, offset):
    board.w(COUNTER + offset, 0xFF, size)
    assert board.r(COUNTER) == 0


def test_a_one_shot_comes_once_at_its_match(board, clock):
    board.w(timer(0), INTERRUPT | route(16))
    board.w(timer(0) + 8, 500)
    board.w(CONFIGURATION, ENABLE)
    pin = board.pins.pins[16]
    clock.run_for(4990)
    assert pin.edges == 0
    clock.run_for(10)
    assert pin.edges == 1
    clock.run_for(1000 * MS)
    assert pin.edges == 1
    board.w(timer(0) + 8, board.r(COUNTER) + 10)
    clock.run_for(100)
    assert pin.edges == 2


def test_a_match_just_missed_comes_after_the_counter_has_wrapped(board, clock):
    board.w(timer(0), INTERRUPT | BITS_32 | route(16))
    board.w(COUNTER, 0xFFFF_F000)
    board.w(CONFIGURATION, ENABLE)
    board.w(timer(0) + 8, 0xFFFF_EFFF)
    clock.run_for(10 * ((1 << 32) - 1) - 10)
    assert board.pins.pins[16].edges == 0
    clock.run_for(10)
    assert board.pins.pins[16].edges == 1


def test_a_64_bit_match_just_missed_queues_nothing(board, clock):
    board.w(timer(0), INTERRUPT | route(16))
    board.w(COUNTER, 100)
    board.w(CONFIGURATION, ENABLE)
    board.w(timer(0) + 8, 99)
    assert clock.next_event is None


@pytest.mark.parametrize("halves", [False, True], ids=["64-bit writes", "32-bit writes"])
def test_periodic_as_kernels_set_it_up(board, clock, halves):
    board.w(CONFIGURATION, ENABLE)
    width = BITS_32 if halves else 0
    board.w(timer(0), INTERRUPT | PERIODIC | SET_VALUE | width | route(16), 4)
    if halves:
        board.w(timer(0) + 8, 1000, 4)
        board.w(timer(0) + 8, 5000, 4)
    else:
        board.w(timer(0) + 8, 1000)
        board.w(timer(0) + 8, 5000)
    pin = board.pins.pins[16]
    clock.run_for(10_000)
    assert pin.edges == 1
    assert board.r(timer(0) + 8) == 6000
    clock.run_for(MS)
    assert pin.edges == 21
    assert board.r(timer(0) + 8) == 106_000
    assert not board.r(timer(0)) & SET_VALUE


def test_a_64_bit_set_value_in_two_halves(board):
    board.w(timer(0), PERIODIC | SET_VALUE)
    board.w(timer(0) + 8, 5, 4)
    board.w(timer(0) + 12, 7, 4)
    assert board.r(timer(0) + 8) == 7 << 32 | 5
    board.w(timer(0) + 12, 9, 4)
    assert board.r(timer(0) + 8) == 7 << 32 | 5


def test_an_unwatched_periodic_comparator_moves_on(board, clock):
    board.w(timer(1), PERIODIC | SET_VALUE | BITS_32)
    board.w(timer(1) + 8, 3_000_000_000)
    board.w(CONFIGURATION, ENABLE)
    assert clock.next_event is None
    clock.run_for(10 * (3_000_000_000 * 7 + 5))
    assert board.r(timer(1) + 8) == 3_000_000_000 * 8 % (1 << 32)


@pytest.mark.parametrize("period", [1, 2, 3, 999])
def test_an_absurd_period_is_bounded_and_stays_in_phase(board, clock, period):
    board.w(timer(0), INTERRUPT | PERIODIC | SET_VALUE | route(16))
    board.w(timer(0) + 8, period)
    board.w(CONFIGURATION, ENABLE)
    ns = 5 * MS
    clock.run_for(ns)
    edges = board.pins.pins[16].edges
    assert ns // (2 * MIN_PERIOD_NS) <= edges <= ns // MIN_PERIOD_NS + 1
    assert board.r(timer(0) + 8) == (ns // 10 // period + 1) * period
    assert clock.next_event // 10 % period == 0


def test_a_level_interrupt_lasts_until_its_status_is_cleared(board, clock):
    board.w(timer(2), INTERRUPT | LEVEL | route(20))
    board.w(timer(2) + 8, 100)
    board.w(CONFIGURATION, ENABLE)
    clock.run_for(1000)
    pin = board.pins.pins[20]
    assert (pin.level, board.r(STATUS)) == (True, 4)
    board.w(STATUS, 3)
    assert pin.level
    board.w(STATUS, 4)
    assert (pin.level, board.r(STATUS)) == (False, 0)


def test_status_is_set_without_the_interrupt_enable(board, clock):
    board.w(timer(2), LEVEL | route(20))
    board.w(timer(2) + 8, 100)
    board.w(CONFIGURATION, ENABLE)
    clock.run_for(1000)
    assert (board.pins.pins[20].level, board.r(STATUS)) == (False, 4)
    board.w(timer(2), INTERRUPT | LEVEL | route(20))
    assert board.pins.pins[20].level


def test_a_route_that_is_not_there_goes_nowhere(board, clock):
    board.w(timer(0), INTERRUPT | route(31))
    board.w(timer(0) + 8, 100)
    board.w(CONFIGURATION, ENABLE)
    clock.run_for(1000)
    assert not any(pin.level for pin in board.pins.pins.values())


class TestLegacy:
    def test_timers_0_and_1_replace_the_pit_and_the_rtc(self, board, clock):
        for number in (0, 1):
            board.w(timer(number), INTERRUPT | route(16))
            board.w(timer(number) + 8, 100 * (number + 1))
        board.w(CONFIGURATION, ENABLE | LEGACY)
        board.chip.pit_irq(True)
        board.chip.rtc_irq(True)
        assert (board.irq_0.edges, board.irq_8.edges) == (0, 0)
        clock.run_for(1000)
        assert (board.irq_0.edges, board.irq_8.edges) == (1, 0)
        clock.run_for(1000)
        assert (board.irq_0.edges, board.irq_8.edges) == (1, 1)
        assert board.pins.pins[16].edges == 0

    def test_without_it_they_pass(self, board):
        board.chip.pit_irq(True)
        board.chip.rtc_irq(True)
        board.chip.pit_irq(False)
        assert (board.irq_0.edges, board.irq_0.level, board.irq_8.level) == (1, False, True)

    def test_leaving_it_gives_the_lines_back_as_they_are(self, board):
        board.w(CONFIGURATION, LEGACY)
        board.chip.rtc_irq(True)
        board.w(CONFIGURATION, 0)
        assert (board.irq_0.level, board.irq_8.level) == (False, True)
        board.w(CONFIGURATION, LEGACY)
        board.chip.reset()
        assert board.irq_8.level


def test_reset_stops_everything(board, clock):
    board.w(timer(0), INTERRUPT | PERIODIC | SET_VALUE | route(16))
    board.w(timer(0) + 8, 5000)
    board.w(CONFIGURATION, ENABLE)
    board.chip.reset()
    assert clock.next_event is None
    assert (board.r(CONFIGURATION), board.r(COUNTER)) == (0, 0)


@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("w"),
                st.one_of(
                    st.sampled_from([0x10, 0x20, 0xF0, 0x100, 0x108, 0x10C, 0x120, 0x128, 0x148]),
                    st.integers(0, 0xFFF),
                ),
                st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 0x3FF)),
            ),
            st.tuples(st.just("run"), st.integers(0, MS), st.none()),
        ),
        max_size=40,
    ),
    st.sampled_from([1, 2, 4, 8]),
)
def test_random_accesses_do_no_harm(steps, size):
    clock = Clock()
    chip = Hpet(clock, lambda pin: lambda level: None, lambda level: None, lambda level: None)
    for what, where, value in steps:
        if what == "w":
            chip.write(where, size, value & (1 << 8 * size) - 1)
            assert chip.read(where, size) >= 0
            continue
        end, turns = clock.now + where, 0
        while (event := clock.next_event) is not None and event <= end:
            clock.run_due(max(event, clock.now))
            turns += 1
        clock.run_due(end)
        assert turns <= 3 * (where // MIN_PERIOD_NS + 2)
