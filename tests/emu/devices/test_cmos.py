# SPDX-License-Identifier: GPL-2.0-or-later
"""The RTC: calendar, formats, its three interrupts; and the memory sizes beside it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.clock import RTC_RATE, Clock
from emu.devices.cmos import Cmos, _civil_from_days, _days_from_civil

MIB, GIB = 1 << 20, 1 << 30
SECOND = 10**9
START = int(datetime(2024, 2, 28, 23, 59, 58, tzinfo=timezone.utc).timestamp())
SEC, SEC_ALARM, MIN, MIN_ALARM, HOUR, HOUR_ALARM, DOW, DAY, MONTH, YEAR = range(10)
A, B, C, D = range(10, 14)
CENTURY = 0x32


class Board:
    def __init__(self, clock, wire, start=START, **kwargs):
        self.chip = Cmos(clock, wire, **{"ram_below_4g": 128 * MIB, "start": start, **kwargs})

    def r(self, index):
        self.chip.write(0x70, 1, index)
        return self.chip.read(0x71, 1)

    def w(self, index, value):
        self.chip.write(0x70, 1, index)
        self.chip.write(0x71, 1, value)

    def date(self):
        return tuple(self.r(i) for i in (CENTURY, YEAR, MONTH, DAY, HOUR, MIN, SEC))


@pytest.fixture
def board(clock, wire):
    return Board(clock, wire)


@given(st.integers(-800_000, 3_000_000))
def test_the_calendar_is_the_gregorian_one(days):
    year, month, day = _civil_from_days(days)
    assert _days_from_civil(year, month, day) == days
    if 1 <= year <= 9999:
        when = datetime(1970, 1, 1) + timedelta(days=days)
        assert (when.year, when.month, when.day) == (year, month, day)


def test_time_passes_with_the_virtual_clock_over_a_leap_day(board, clock):
    assert board.date() == (0x20, 0x24, 0x02, 0x28, 0x23, 0x59, 0x58)
    assert board.r(DOW) == 4  # a Wednesday
    clock.run_for(2 * SECOND)
    assert board.date() == (0x20, 0x24, 0x02, 0x29, 0x00, 0x00, 0x00)
    clock.run_for(86400 * SECOND)
    assert board.date() == (0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00)


@pytest.mark.parametrize(
    ("b", "hour", "expected"),
    [
        (0x02, 23, 0x23),
        (0x06, 23, 23),
        (0x00, 0, 0x12),
        (0x00, 12, 0x92),
        (0x00, 23, 0x91),
        (0x04, 23, 0x8B),
        (0x00, 9, 0x09),
    ],
    ids=["bcd 24", "binary 24", "midnight", "noon", "11 pm", "11 pm binary", "9 am"],
)
def test_hours_in_every_format(clock, wire, b, hour, expected):
    board = Board(clock, wire, start=hour * 3600)
    board.w(B, b)
    assert board.r(HOUR) == expected
    # And the other way.
    board.w(B, 0x80 | b)
    board.w(HOUR, expected)
    board.w(B, b)
    assert board.r(HOUR) == expected


def test_setting_the_time_as_kernels_do(board, clock):
    board.w(B, 0x82)
    for index, value in (
        (SEC, 0x30),
        (MIN, 0x15),
        (HOUR, 0x07),
        (DOW, 0x01),
        (DAY, 0x31),
        (MONTH, 0x12),
        (YEAR, 0x99),
        (CENTURY, 0x19),
    ):
        board.w(index, value)
    clock.run_for(5 * SECOND)
    assert board.r(SEC) == 0x30  # the registers are memory while SET is 1
    board.w(B, 0x02)
    clock.run_for(SECOND)
    assert board.date() == (0x19, 0x99, 0x12, 0x31, 0x07, 0x15, 0x31)
    assert board.r(DOW) == 1
    clock.run_for(86400 * SECOND)
    assert board.date()[:4] == (0x20, 0x00, 0x01, 0x01)
    assert board.r(DOW) == 2


def test_one_register_can_be_set_on_the_run(board):
    board.w(MIN, 0x07)
    assert board.date() == (0x20, 0x24, 0x02, 0x28, 0x23, 0x07, 0x58)


def test_nonsense_is_cut_to_the_range(board):
    board.w(B, 0x82)
    for index in (SEC, MIN, HOUR, DOW, DAY, MONTH, YEAR, CENTURY):
        board.w(index, 0xFF)
    board.w(B, 0x02)
    assert board.date() == (0x99, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59)


def test_update_in_progress_shows_two_ms_before_the_second(board, clock):
    assert not board.r(A) & 0x80
    clock.run_to(RTC_RATE.ns(32768 - 73) - 1)
    assert not board.r(A) & 0x80
    clock.run_to(RTC_RATE.ns(32768 - 73))
    assert board.r(A) & 0x80
    assert board.r(SEC) == 0x58
    clock.run_to(RTC_RATE.ns(32768))
    assert not board.r(A) & 0x80
    assert board.r(SEC) == 0x59


@pytest.mark.parametrize("a", [0x60, 0x70, 0x06])
def test_a_held_divider_stops_time_and_restarts_with_half_a_second(board, clock, a):
    board.w(A, a)
    clock.run_for(10 * SECOND)
    assert board.r(SEC) == 0x58
    assert board.r(A) == a
    board.w(A, 0x26)
    clock.run_for(SECOND // 2 - 100_000)
    assert board.r(SEC) == 0x58
    clock.run_for(200_000)
    assert board.r(SEC) == 0x59


class TestInterrupts:
    def test_update_ended_comes_every_second_if_read(self, board, wire, clock):
        board.w(B, 0x12)
        for edge in range(1, 4):
            clock.run_for(SECOND)
            assert wire.edges == edge
            assert board.r(C) & 0x90 == 0x90
            assert not wire.level
            assert board.r(C) == 0

    def test_unread_flags_keep_the_line_up_and_queue_nothing(self, board, wire, clock):
        board.w(B, 0x72)
        clock.run_for(3 * SECOND)
        assert (wire.level, wire.edges) == (True, 1)
        assert clock.next_event is None
        board.r(C)
        assert clock.next_event is not None

    @pytest.mark.parametrize(
        ("rate", "hertz"),
        [(1, 256), (2, 128), (3, 8192), (6, 1024), (13, 8), (15, 2), (0, 0)],
    )
    def test_periodic_at_every_rate(self, board, wire, clock, rate, hertz):
        board.w(A, 0x20 | rate)
        board.w(B, 0x42)
        end = clock.now + SECOND
        count = 0
        while (event := clock.next_event) is not None and event <= end:
            clock.run_to(event)
            assert board.r(C) & 0xC0 == 0xC0
            count += 1
        assert count == wire.edges == hertz

    def test_flags_are_set_without_their_enables(self, board, wire, clock):
        clock.run_for(SECOND)
        assert board.r(C) == 0x50
        assert wire.edges == 0

    def test_enabling_what_is_flagged_already_raises_the_line(self, board, wire, clock):
        clock.run_for(SECOND)
        board.w(B, 0x12)
        assert wire.level

    @pytest.mark.parametrize(
        ("hour", "minute", "second", "due"),
        [
            (0x00, 0x00, 0x00, 2),
            (0x23, 0x59, 0x59, 1),
            (0x23, 0x59, 0x58, 86400),
            (0xFF, 0xC0, 0x05, 7),
            (0xFF, 0x03, 0x10, 2 + 190),
            (0x01, 0xFF, 0xFF, 2 + 3600),
            (0xC0, 0xFF, 0xFF, 1),
            (0x22, 0xC0, 0x30, 2 + 22 * 3600 + 30),
            (0x1A, 0x00, 0x00, None),
            (0x10, 0x61, 0x00, None),
        ],
        ids=[
            "midnight",
            "next second",
            "this very second tomorrow",
            "every minute",
            "every hour",
            "any in an hour",
            "every second",
            "minute is free",
            "no such hour",
            "no such minute",
        ],
    )
    def test_alarm(self, board, wire, clock, hour, minute, second, due):
        for index, value in ((HOUR_ALARM, hour), (MIN_ALARM, minute), (SEC_ALARM, second)):
            board.w(index, value)
            assert board.r(index) == value
        board.w(B, 0x22)
        if due is None:
            clock.run_for(3 * 86400 * SECOND)
            assert not wire.level
            return
        clock.run_for(due * SECOND - 1)
        assert not wire.level
        clock.run_for(1)
        assert wire.level
        assert board.r(C) & 0xA0 == 0xA0

    def test_alarm_in_12_hour_format(self, clock, wire):
        board = Board(clock, wire, start=11 * 3600)
        board.w(B, 0x20)
        for index, value in ((HOUR_ALARM, 0x81), (MIN_ALARM, 0x00), (SEC_ALARM, 0x00)):
            board.w(index, value)
        clock.run_for(2 * 3600 * SECOND - 1)
        assert not wire.level
        clock.run_for(1)
        assert wire.level

    def test_set_clears_the_update_enable_and_holds_alarms(self, board, wire, clock):
        board.w(SEC_ALARM, 0xFF)
        board.w(B, 0xB2)
        assert board.r(B) == 0xA2
        clock.run_for(5 * SECOND)
        assert not wire.level

    def test_reset_disables_them_and_keeps_the_time(self, board, wire, clock):
        board.w(B, 0x76)
        clock.run_for(SECOND)
        board.chip.reset()
        assert not wire.level
        assert board.r(B) == 0x06
        assert board.r(SEC) == 59


@given(
    seconds=st.integers(0, 86_400 * 3),
    alarm=st.tuples(*[st.sampled_from([0x00, 0x07, 0x15, 0x23, 0x59, 0xFF])] * 3),
)
def test_the_next_alarm_is_the_first_that_matches(seconds, alarm):
    chip = Cmos(Clock(), lambda level: None, ram_below_4g=MIB)
    chip.state.ram[HOUR_ALARM], chip.state.ram[MIN_ALARM], chip.state.ram[SEC_ALARM] = alarm

    def matches(second):
        clock_face = (second // 3600 % 24, second // 60 % 60, second % 60)
        return all(
            code == 0xFF or code == value // 10 << 4 | value % 10
            for code, value in zip(alarm, clock_face, strict=True)
        )

    found = chip._next_alarm(seconds)
    if alarm[0] == 0x59:
        assert found is None
        return
    assert found > seconds
    assert matches(found)
    # Nothing between: check every second of the last two minutes, and every minute's candidates.
    step = 1 if found - seconds <= 600 else 60
    if step == 1:
        assert not any(matches(second) for second in range(seconds + 1, found))
    elif alarm[2] != 0xFF:
        wanted = (alarm[2] >> 4) * 10 + (alarm[2] & 15)
        first = seconds + 1 + (wanted - seconds - 1) % 60
        assert not any(matches(second) for second in range(first, found, 60))


@pytest.mark.parametrize(
    ("below", "above", "base", "extended", "above_16m", "above_4g"),
    [
        (MIB, 0, 640, 0, 0, 0),
        (16 * MIB, 0, 640, 15 * 1024, 0, 0),
        (128 * MIB, 0, 640, 0xFFFF, 112 * 16, 0),
        (3 * GIB, 2 * GIB, 640, 0xFFFF, (3 * GIB - 16 * MIB) >> 16, 2 * GIB >> 16),
        (512 << 10, 0, 512, 0, 0, 0),
    ],
    ids=["1M", "16M", "128M", "5G", "512K"],
)
def test_memory_sizes(clock, wire, below, above, base, extended, above_16m, above_4g):
    board = Board(clock, wire, ram_below_4g=below, ram_above_4g=above, cpus=4)

    def field(index, size):
        return sum(board.r(index + i) << 8 * i for i in range(size))

    assert field(0x15, 2) == base
    assert field(0x17, 2) == field(0x30, 2) == extended
    assert field(0x34, 2) == above_16m
    assert field(0x5B, 3) == above_4g
    assert board.r(0x5F) == 3
    assert board.r(0x2E) << 8 | board.r(0x2F) == sum(board.r(i) for i in range(0x10, 0x2E)) & 0xFFFF


def test_the_rest_is_memory_and_status_d_says_that_it_is_valid(board):
    board.w(0x0F, 0x0A)
    assert board.r(0x0F) == 0x0A
    board.w(D, 0)
    board.w(C, 0xFF)
    assert (board.r(D), board.r(C)) == (0x80, 0)


def test_the_index_port_masks_nmi_and_reads_as_all_ones(board):
    board.chip.write(0x70, 1, 0x80 | D)
    assert board.chip.nmi_masked
    assert board.chip.read(0x71, 1) == 0x80
    assert board.chip.read(0x70, 1) == 0xFF
    board.chip.write(0x70, 1, D)
    assert not board.chip.nmi_masked
