# SPDX-License-Identifier: GPL-2.0-or-later
"""The 8254: computed counters against ones that really tick, and the chip as kernels use it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emu.clock import MIN_PERIOD_NS, PIT_RATE
from emu.devices.pit import Counter, Pit
from emu.devices.port61 import SystemControlB

SECOND = 10**9


class TickingCounter:
    """A counter that does on every CLK what the data sheet says. Two-byte binary counts."""

    def __init__(self, gate):
        self.gate = gate
        self.set_mode(3)

    def set_mode(self, mode):
        self.mode = mode
        self.cr = self.ce = self.low = None
        self.load = self.trigger = False
        self.out = mode != 0
        self.null = True
        self.struck = False

    def write(self, byte):
        if self.low is None:
            self.low = byte
            if self.mode == 0:
                self.out = False
                self.load = False
            return
        self.cr = (byte << 8 | self.low) or 0x10000
        self.low = None
        self.null = True
        if self.mode == 0:
            self.out = False
        if self.mode in (0, 4) or (self.mode in (2, 3) and self.ce is None):
            self.load = True

    def set_gate(self, level):
        if level and not self.gate and self.cr is not None and self.mode in (1, 2, 3, 5):
            self.trigger = True
        if not level and self.mode in (2, 3):
            self.trigger = False
            self.out = True
        self.gate = level

    def clk(self):
        if self.load or self.trigger:
            self.load = self.trigger = False
            self._load()
            self.struck = False
            self.high = True
            self.left = self._half()
            if self.mode == 1:
                self.out = False
            elif self.mode in (4, 5):
                self.out = True  # the strobe is low "for one CLK pulse", a load or not
        elif self.ce is not None and not (self.mode == 0 and self.low is not None):
            if self.mode in (2, 3):
                if self.gate:
                    self._wave()
            elif self.gate or self.mode in (1, 5):
                self._down()
        if self.mode in (2, 3) and self.ce is not None:
            in_wave = self.ce != 1 if self.mode == 2 else self.high
            self.out = not self.gate or in_wave

    def _load(self):
        self.ce = self.cr & ~1 if self.mode == 3 else self.cr
        self.null = False

    def _half(self):
        return (self.cr + self.cr % 2) // 2

    def _down(self):
        self.ce = (self.ce - 1) % 0x10000
        if self.mode in (0, 1):
            if self.ce == 0:
                self.out = True
        else:
            self.out = not (self.ce == 0 and not self.struck)
            self.struck |= self.ce == 0

    def _wave(self):
        if self.mode == 2:
            if self.ce == 1:
                self._load()
            else:
                self.ce -= 1
            return
        self.left -= 1
        if self.left:
            self.ce -= 2
            return
        self.high = not self.high
        self._load()
        self.left = self._half() if self.high else self.cr // 2


STEP = st.one_of(
    st.tuples(st.just("mode"), st.integers(0, 5)),
    st.tuples(st.just("count"), st.integers(2, 12)),
    st.tuples(st.just("byte"), st.integers(2, 9)),
    st.tuples(st.just("gate"), st.booleans()),
    st.tuples(st.just("run"), st.integers(1, 40)),
)


@given(st.integers(0, 5), st.booleans(), st.lists(STEP, max_size=40))
@example(4, True, [("run", 6), ("count", 7), ("run", 1)])  # a count written during the strobe
def test_arithmetic_equals_ticking_in_every_mode(mode, gate, steps):
    """OUT, the count and its null flag, after every operation and every tick."""
    compare_with_ticking(mode, gate, steps)


@pytest.mark.parametrize("mode", range(6), ids="mode {}".format)
@pytest.mark.parametrize("delay", [0, 1, 3, 5, 6], ids="count after {}".format)
@pytest.mark.parametrize("more", [0, 1, 2], ids="gate falls after {}".format)
@pytest.mark.parametrize("again", [0, 1, 4], ids="and rises after {}".format)
def test_a_gate_that_falls_and_rises_while_a_count_waits_to_be_loaded(mode, delay, more, again):
    """Data sheet, "Gate Pin Operations Summary": modes 2 and 3 begin anew when the gate rises."""
    steps = [("run", delay), ("count", 7), ("run", more), ("gate", False), ("run", again)]
    compare_with_ticking(mode, True, [*steps, ("gate", True), ("run", 20)])


def compare_with_ticking(mode, gate, steps):
    lazy, ticking = Counter(gate), TickingCounter(gate)
    tick = 100
    for what, value in [("mode", mode), ("count", 5), *steps]:
        if what == "mode":
            lazy.set_mode(0x30 | value << 1)
            ticking.set_mode(value)
        elif what == "count" or what == "byte":
            for byte in (value, 0)[: 1 + (what == "count")]:
                lazy.write(byte, tick)
                ticking.write(byte)
        elif what == "gate":
            lazy.set_gate(value, tick)
            ticking.set_gate(value)
        for _ in range(value if what == "run" else 0):
            tick += 1
            ticking.clk()
            assert_same(lazy, ticking, tick)
        assert_same(lazy, ticking, tick)


def assert_same(lazy, ticking, tick):
    assert lazy.out(tick) == ticking.out
    assert lazy.state.null_count == ticking.null
    if ticking.ce is not None:
        assert lazy.value(tick) == ticking.ce % 0x10000


@given(
    st.sampled_from([0, 2, 3, 4]),
    st.lists(st.tuples(st.integers(2, 12), st.integers(0, 30)), min_size=1, max_size=6),
)
def test_the_next_rise_is_where_out_rises(mode, counts):
    lazy, tick = Counter(True), 0
    lazy.set_mode(0x30 | mode << 1)
    for count, wait in counts:
        for byte in (count, 0):
            lazy.write(byte, tick)
        expected = lazy.next_rise(tick, 0)
        twin = Counter(True)
        twin.state = type(lazy.state)(
            **{name: getattr(lazy.state, name) for name in lazy.state.__slots__}
        )
        level = twin.out(tick)
        for later in range(tick + 1, tick + 60):
            was, level = level, twin.out(later)
            if level and not was:
                break
        else:
            later = None
        assert expected == later
        tick += wait


class Board:
    def __init__(self, clock, wire):
        self.clock, self.wire = clock, wire
        self.pit = Pit(clock, wire)
        self.port61 = SystemControlB(self.pit)

    def program(self, counter, mode, count, bcd=0):
        self.pit.write(0x43, 1, counter << 6 | 0x30 | mode << 1 | bcd)
        self.pit.write(0x40 + counter, 1, count & 0xFF)
        self.pit.write(0x40 + counter, 1, count >> 8)

    def r(self, port):
        return self.pit.read(port, 1)

    def read_count(self, counter):
        self.pit.write(0x43, 1, counter << 6)
        low = self.r(0x40 + counter)
        return low | self.r(0x40 + counter) << 8

    def run_ticks(self, ticks):
        self.clock.run_to(PIT_RATE.ns(self.pit.tick() + ticks))


@pytest.fixture
def board(clock, wire):
    return Board(clock, wire)


@pytest.mark.parametrize("mode", [2, 3], ids=["rate generator", "square wave"])
@pytest.mark.parametrize(("count", "per_second"), [(11932, 99), (1193, 1000), (0, 18)])
def test_irq_0_comes_at_the_programmed_rate(board, wire, clock, mode, count, per_second):
    board.program(0, mode, count)
    assert wire.edges == 0
    clock.run_for(SECOND)
    assert wire.edges == per_second


def test_one_shot_comes_once_after_count_plus_one_clocks(board, wire):
    board.program(0, 0, 1000)
    assert not wire.level
    board.run_ticks(1000)
    assert not wire.level
    board.run_ticks(1)
    assert wire.level
    board.run_ticks(200_000)
    assert wire.edges == 1
    board.program(0, 0, 10)
    assert not wire.level
    board.run_ticks(11)
    assert wire.edges == 2


def test_the_strobe_of_mode_4_is_an_interrupt_once(board, wire):
    board.program(0, 4, 100)
    board.run_ticks(101)
    assert not board.pit.out(0)
    assert wire.edges == 0
    board.run_ticks(1)
    assert wire.edges == 1
    board.run_ticks(200_000)
    assert wire.edges == 1


@pytest.mark.parametrize("mode", [1, 5], ids=["one-shot", "hardware strobe"])
def test_counter_0_cannot_be_triggered(board, wire, mode):
    board.program(0, mode, 10)
    board.run_ticks(100_000)
    assert wire.edges == 0


@pytest.mark.parametrize("mode", [6, 7], ids=["6 is 2", "7 is 3"])
def test_the_third_mode_bit_of_2_and_3_is_free(board, mode):
    board.program(0, mode, 100)
    board.pit.write(0x43, 1, 0xE2)
    assert board.r(0x40) >> 1 & 7 == mode - 4


def test_a_new_count_waits_for_the_end_of_the_period(board, wire):
    board.program(0, 2, 1000)
    board.run_ticks(501)
    board.pit.write(0x40, 1, 100)
    board.pit.write(0x40, 1, 0)
    assert board.read_count(0) == 500
    board.run_ticks(500)
    assert wire.edges == 1
    assert board.read_count(0) == 100
    board.run_ticks(1000)
    assert wire.edges == 11


@pytest.mark.parametrize("count", [1, 2, 3, 11])
@pytest.mark.parametrize("mode", [2, 3])
def test_an_absurd_rate_is_bounded_and_stays_in_phase(board, wire, clock, mode, count):
    board.program(0, mode, count)
    clock.run_for(SECOND // 100)
    assert wire.edges <= SECOND // 100 // MIN_PERIOD_NS
    assert bool(wire.edges) == (count > 1)
    if count > 1:
        assert wire.edges >= SECOND // 100 // (2 * MIN_PERIOD_NS)
        clock.run_to(clock.next_event)
        assert (board.pit.tick() - 1) % count == 0


class TestReading:
    def test_a_latched_count_stands_still(self, board):
        board.program(0, 2, 0x1234)
        board.run_ticks(1)
        board.pit.write(0x43, 1, 0x00)
        board.run_ticks(0x34)
        board.pit.write(0x43, 1, 0x00)  # a second latch is ignored
        assert (board.r(0x40), board.r(0x40)) == (0x34, 0x12)
        assert (board.r(0x40), board.r(0x40)) == (0x00, 0x12)

    @pytest.mark.parametrize(("access", "count"), [(1, 0x0040), (2, 0x4000)])
    def test_one_byte_access(self, board, access, count):
        board.pit.write(0x43, 1, access << 4 | 4)
        board.pit.write(0x40, 1, 0x40)
        board.run_ticks(1)
        assert board.pit.counters[0].state.count == count
        assert [board.r(0x40), board.r(0x40)] == [0x40, 0x40]
        board.pit.write(0x43, 1, 0x00)
        assert board.r(0x40) == 0x40
        board.run_ticks(1)
        assert board.r(0x40) == 0x3F

    def test_reads_and_writes_have_their_own_byte_order_state(self, board):
        board.program(0, 2, 0x1234)
        board.run_ticks(1)
        assert board.r(0x40) == 0x34
        board.pit.write(0x40, 1, 0xCD)
        assert board.r(0x40) == 0x12
        board.pit.write(0x40, 1, 0xAB)
        assert board.pit.counters[0].state.count == 0xABCD

    def test_read_back_gives_status_then_count(self, board):
        board.program(0, 3, 0x8000)
        board.program(2, 0, 0x5555)
        board.pit.write(0x43, 1, 0xC0 | 0x0A)  # both, of counters 0 and 2
        assert board.r(0x40) == 0x80 | 0x40 | 0x36
        assert board.r(0x42) == 0x40 | 0x30
        board.r(0x40), board.r(0x40), board.r(0x42), board.r(0x42)
        board.run_ticks(1)
        board.pit.write(0x43, 1, 0xE0 | 0x02)  # status only
        assert board.r(0x40) == 0x80 | 0x36
        board.pit.write(0x43, 1, 0xD0 | 0x02)  # count only
        assert board.r(0x40) | board.r(0x40) << 8 == 0x8000

    def test_the_first_of_two_status_latches_counts(self, board):
        board.program(0, 2, 0)
        board.pit.write(0x43, 1, 0xE2)
        board.run_ticks(5)
        board.pit.write(0x43, 1, 0xE2)
        assert board.r(0x40) == 0x80 | 0x40 | 0x34

    def test_counts_in_bcd(self, board):
        board.program(0, 2, 0x1000, bcd=1)
        board.run_ticks(2)
        assert board.read_count(0) == 0x0999
        board.program(0, 2, 0, bcd=1)
        board.run_ticks(1)
        assert board.read_count(0) == 0
        board.run_ticks(1)
        assert board.read_count(0) == 0x9999

    def test_the_control_word_reads_as_all_ones(self, board):
        assert board.r(0x43) == 0xFF

    def test_without_a_count_nothing_counts(self, board, wire):
        board.pit.write(0x43, 1, 0x34)
        board.run_ticks(100_000)
        assert (board.read_count(0), wire.edges) == (0, 0)


class TestPort61:
    def read(self, board):
        return board.port61.read(0x61, 1)

    def test_a_gated_one_shot_as_kernels_calibrate_with(self, board):
        board.port61.write(0x61, 1, 0x01)
        board.program(2, 0, 0xFFFF)
        board.run_ticks(0xFFFF)
        assert not self.read(board) & 0x20
        board.run_ticks(1)
        assert self.read(board) & 0x20

    def test_a_closed_gate_stops_the_count(self, board):
        board.program(2, 0, 1000)
        board.run_ticks(5000)
        assert board.read_count(2) == 1000
        board.port61.write(0x61, 1, 0x01)
        board.run_ticks(400)
        board.port61.write(0x61, 1, 0x00)
        board.run_ticks(5000)
        assert board.read_count(2) == 600

    def test_a_rising_gate_triggers_mode_1(self, board):
        board.program(2, 1, 100)
        board.run_ticks(50)
        assert self.read(board) & 0x20
        board.port61.write(0x61, 1, 0x01)
        board.run_ticks(1)
        assert not self.read(board) & 0x20
        board.run_ticks(100)
        assert self.read(board) & 0x20

    def test_only_four_bits_are_kept(self, board):
        board.port61.write(0x61, 1, 0xFF)
        assert self.read(board) & 0x0F == 0x0F
        assert self.read(board) & 0xC0 == 0
        board.port61.reset()
        assert self.read(board) & 0x0F == 0

    def test_refresh_toggles_every_15_us(self, board, clock):
        toggles, last = 0, None
        for _ in range(1000):
            bit = self.read(board) & 0x10
            toggles += last is not None and bit != last
            last = bit
            clock.run_for(1000)
        assert toggles == 1_000_000 // 15085


def test_reset_stops_the_interrupts(board, wire, clock):
    board.program(0, 2, 100)
    board.pit.reset()
    clock.run_for(SECOND)
    assert wire.edges == 0
