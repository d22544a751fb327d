# SPDX-License-Identifier: GPL-2.0-or-later
"""The 8259A pair: initialization, priorities, ends of interrupt, spurious vectors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.devices.pic import PicPair

IRQS = [n for n in range(16) if n != 2]


class Board:
    """The pair with a driver's shorthands. Initialized as PC kernels do: vectors 0x20 and 0x28."""

    def __init__(self, intr=lambda level: None, icw1=0x11, icw4=0x01):
        self.pic = PicPair(intr)
        self.lines = {irq: self.pic.line(irq) for irq in IRQS}
        self.init(icw1, icw4)

    def init(self, icw1=0x11, icw4=0x01):
        for port, base, icw3 in ((0x20, 0x20, 4), (0xA0, 0x28, 2)):
            self.w(port, icw1)
            self.w(port + 1, base)
            if not icw1 & 2:
                self.w(port + 1, icw3)
            if icw1 & 1:
                self.w(port + 1, icw4)

    def r(self, port):
        return self.pic.read(port, 1)

    def w(self, port, value):
        self.pic.write(port, 1, value)

    def up(self, *irqs):
        for irq in irqs:
            self.lines[irq](True)

    def down(self, *irqs):
        for irq in irqs:
            self.lines[irq](False)

    def take(self):
        """Return the IRQ that the processor gets, or None."""
        return self.pic.acknowledge() - 0x20 if self.pic.pending() else None

    def eoi(self, irq):
        if irq >= 8:
            self.w(0xA0, 0x20)
        self.w(0x20, 0x20)

    def isr(self):
        self.w(0x20, 0x0B)
        self.w(0xA0, 0x0B)
        return self.r(0xA0) << 8 | self.r(0x20)

    def irr(self):
        self.w(0x20, 0x0A)
        self.w(0xA0, 0x0A)
        return self.r(0xA0) << 8 | self.r(0x20)


@pytest.fixture
def board(wire):
    return Board(wire)


@pytest.mark.parametrize("irq", IRQS)
def test_every_irq_gives_its_vector_once_per_edge(board, wire, irq):
    board.up(irq)
    assert wire.level
    assert board.pic.acknowledge() == 0x20 + irq
    assert not wire.level
    assert board.isr() == 1 << irq | (4 if irq >= 8 else 0)
    board.eoi(irq)
    assert board.isr() == 0
    assert board.take() is None
    board.down(irq)
    board.up(irq)
    assert board.take() == irq


def test_the_cascade_is_no_input(board):
    for irq in (2, 16, -1):
        with pytest.raises(ValueError, match="IRQ"):
            board.pic.line(irq)


def test_fixed_priorities_run_from_0_and_8_to_15_sit_at_2(board):
    board.up(*IRQS)
    order = []
    while (irq := board.take()) is not None:
        order.append(irq)
        board.eoi(irq)
    assert order == [0, 1, 8, 9, 10, 11, 12, 13, 14, 15, 3, 4, 5, 6, 7]


def test_nesting_lets_only_the_more_urgent_through(board):
    board.up(4)
    assert board.take() == 4
    board.up(5)
    assert board.take() is None
    board.up(3)
    assert board.take() == 3
    board.eoi(3)
    assert board.take() is None
    board.eoi(4)
    assert board.take() == 5


def test_a_slave_in_service_holds_back_the_slave_until_both_eois(board):
    board.up(10)
    assert board.take() == 10
    board.up(9)
    assert board.take() is None  # the master does not know better
    board.w(0xA0, 0x60 | 2)
    assert board.take() is None
    board.w(0x20, 0x60 | 2)
    assert board.take() == 9


def test_special_fully_nested_lets_the_slave_go_on_but_nobody_below(board):
    board.init(icw4=0x11)
    board.up(10)
    assert board.take() == 10
    board.up(3)
    assert board.take() is None
    board.up(9)
    assert board.take() == 9


def test_masked_requests_wait(board, wire):
    board.w(0x21, 0xFF)
    board.up(1)
    assert not wire.level
    assert board.irr() == 2
    board.w(0x21, 0xFD)
    assert board.r(0x21) == 0xFD
    assert board.take() == 1


def test_a_request_taken_back_is_forgotten(board, wire):
    board.up(4)
    board.down(4)
    assert not wire.level
    assert board.irr() == 0


@pytest.mark.parametrize(("irq", "vector"), [(4, 0x27), (12, 0x2F)], ids=["master", "slave"])
def test_spurious_when_the_request_is_gone_at_the_acknowledge(board, irq, vector):
    board.up(irq)
    # Seen by the processor; then the device, or the mask, takes it back.
    if irq < 8:
        board.down(irq)
    else:
        # A race inside the pair: the master has asked, the slave is masked before its INTA.
        board.pic.slave.state.imr = 0xFF
    assert board.pic.acknowledge() == vector
    assert board.isr() == (0 if irq < 8 else 4)


def test_level_triggered_asks_again_until_the_line_falls(board):
    board.pic.write(0x4D1, 1, 0xFF)
    assert (board.pic.read(0x4D0, 1), board.pic.read(0x4D1, 1)) == (0, 0xDE)
    board.up(11)
    for _ in range(3):
        assert board.take() == 11
        assert board.take() is None
        board.eoi(11)
    board.down(11)
    assert board.take() is None


def test_elcr_spares_the_legacy_devices(board):
    board.pic.write(0x4D0, 1, 0xFF)
    assert board.pic.read(0x4D0, 1) == 0xF8


def test_making_a_raised_line_level_triggered_makes_it_a_request(board):
    board.up(5)
    board.init()
    assert board.take() is None  # ICW1 reset the edge
    board.pic.write(0x4D0, 1, 0x20)
    assert board.take() == 5


def test_icw1_clears_mask_service_and_edges(board):
    board.w(0x21, 0xA5)
    board.w(0xA1, 0xFF)
    board.up(1, 3)
    board.take()
    board.init()
    assert (board.r(0x21), board.r(0xA1), board.isr(), board.irr()) == (0, 0, 0, 0)


def test_ltim_makes_every_input_level_triggered(board):
    board.init(icw1=0x19)
    board.up(6)
    assert board.take() == 6
    board.eoi(6)
    assert board.take() == 6


@pytest.mark.parametrize("icw1", [0x10, 0x11, 0x12, 0x13], ids=["-", "ICW4", "single", "both"])
def test_initialization_takes_as_many_words_as_it_said(icw1):
    board = Board(icw1=icw1)
    board.w(0x21, 0x5A)
    assert board.r(0x21) == 0x5A
    board.w(0x21, 0)
    board.up(3)
    assert board.pic.acknowledge() == 0x23


def test_auto_eoi_leaves_nothing_in_service(board):
    board.init(icw4=0x03)
    board.up(5, 12)
    assert [board.take(), board.take()] == [12, 5]
    assert board.isr() == 0


def test_rotate_on_non_specific_eoi_makes_it_the_last(board):
    board.up(3)
    assert board.take() == 3
    board.down(3)
    board.w(0x20, 0xA0)
    board.up(3, 4)
    assert board.take() == 4


def test_rotate_on_specific_eoi(board):
    board.up(3)
    assert board.take() == 3
    board.w(0x20, 0xE0 | 3)
    assert board.isr() == 0
    board.up(0, 5)
    assert board.take() == 5


def test_set_priority_touches_nothing_in_service(board):
    board.w(0x20, 0xC0 | 4)
    board.up(0, 5)
    assert board.take() == 5
    assert board.isr() == 0x20


def test_rotate_in_auto_eoi(board):
    board.init(icw4=0x03)
    board.w(0x20, 0x80)
    order = []
    for _ in range(4):
        board.down(0, 1)
        board.up(0, 1)
        order.append(board.take())
    assert order == [0, 1, 0, 1]
    board.w(0x20, 0x00)
    for _ in range(2):
        board.down(0, 1)
        board.up(0, 1)
        assert board.take() == 0


def test_a_non_specific_eoi_ends_the_most_urgent(board):
    board.up(5)
    board.take()
    board.up(1)
    board.take()
    board.w(0x20, 0x20)
    assert board.isr() == 0x20


def test_special_mask_opens_what_the_masked_handler_holds_back(board):
    board.up(3)
    assert board.take() == 3
    board.up(6)
    assert board.take() is None
    board.w(0x21, 0x08)
    board.w(0x20, 0x68)
    assert board.take() == 6
    board.w(0x20, 0x20)  # sees 6 only: 3 is masked
    assert board.isr() == 0x08
    board.w(0x20, 0x48)  # mode off again
    board.up(7)
    assert board.take() is None


def test_poll_is_an_acknowledge_by_reading(board, wire):
    board.up(4)
    board.w(0x20, 0x0C)
    assert board.r(0x20) == 0x84
    assert not wire.level
    board.w(0x20, 0x0B)
    assert board.r(0x20) == 0x10
    board.w(0x20, 0x0C)
    assert board.r(0x20) == 0
    assert board.r(0x20) == 0x10  # the poll was for one read


def test_polling_the_slave_leaves_the_master_without_request(board):
    board.up(9)
    board.w(0xA0, 0x0C)
    assert board.r(0xA0) == 0x81
    assert board.take() is None


def test_reset_keeps_the_lines(board):
    board.up(1)
    board.pic.reset()
    assert not board.pic.pending()
    board.down(1)
    board.up(1)
    assert board.pic.acknowledge() == 1


ACTION = st.one_of(
    st.tuples(st.just("line"), st.sampled_from(IRQS), st.booleans()),
    st.tuples(
        st.just("write"),
        st.sampled_from([0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1]),
        st.integers(0, 255),
    ),
    st.tuples(st.just("read"), st.sampled_from([0x20, 0x21, 0xA0, 0xA1]), st.none()),
    st.tuples(st.just("ack"), st.none(), st.none()),
)


@given(st.lists(ACTION, max_size=60))
def test_whatever_happens_the_registers_stay_bytes_and_int_tells_the_truth(actions):
    levels = [False]
    board = Board(lambda level: levels.append(level))
    for what, where, value in actions:
        if what == "line":
            board.lines[where](value)
        elif what == "write":
            board.w(where, value)
        elif what == "read":
            assert 0 <= board.r(where) <= 0xFF
        else:
            assert 0 <= board.pic.acknowledge() <= 0xFF
        assert levels[-1] == board.pic.pending()
        assert board.pic.pending() == (board.pic.master.requested() is not None)
        for chip in (board.pic.master, board.pic.slave):
            assert chip.state.irr & ~chip.state.lines == 0
        assert bool(board.pic.master.state.lines & 4) == (board.pic.slave.requested() is not None)
