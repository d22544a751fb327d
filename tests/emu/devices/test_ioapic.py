# SPDX-License-Identifier: GPL-2.0-or-later
"""The I/O APIC: edges, levels, remote IRR, and its two windows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.clock import Clock
from emu.devices.apic_bus import ApicBus, DeliveryMode
from emu.devices.ioapic import PINS, IoApic, isa_pin
from emu.devices.lapic import LocalApic

MASKED, LEVEL, REMOTE_IRR, LOGICAL = 1 << 16, 1 << 15, 1 << 14, 1 << 11
PIN = 14


class Bus(ApicBus):
    """Remembers what is sent."""

    def __init__(self):
        super().__init__()
        self.sent = []

    def send(self, message):
        self.sent.append(message)


class Board:
    def __init__(self, bus=None):
        self.bus = bus or Bus()
        self.chip = IoApic(self.bus)
        self.pin = self.chip.line(PIN)

    def r(self, index):
        self.chip.write(0, 4, index)
        return self.chip.read(0x10, 4)

    def w(self, index, value):
        self.chip.write(0, 4, index)
        self.chip.write(0x10, 4, value)

    def redirect(self, low, destination=0, pin=PIN):
        self.w(0x10 + 2 * pin, low)
        self.w(0x11 + 2 * pin, destination << 24)

    def entry(self, pin=PIN):
        return self.r(0x10 + 2 * pin) | self.r(0x11 + 2 * pin) << 32


@pytest.fixture
def board():
    return Board()


def test_identification(board):
    assert board.r(1) == 0x170020
    board.w(1, 0)
    assert board.r(1) == 0x170020
    board.w(0, 0xFFFFFFFF)
    assert board.r(0) == board.r(2) == 0x0F000000
    board.w(2, 0)
    assert board.r(2) == 0x0F000000


def test_every_pin_is_masked_at_reset(board):
    assert [board.entry(pin) for pin in range(PINS)] == [MASKED] * PINS
    board.redirect(0x50)
    board.pin(True)
    board.chip.reset()
    assert board.entry() == MASKED


@pytest.mark.parametrize(
    ("irq", "pin"), [(0, 2), (1, 1), (8, 8), (15, 15)], ids=["timer", "keyboard", "rtc", "disk"]
)
def test_where_isa_irqs_arrive(irq, pin):
    assert isa_pin(irq) == pin


def test_there_are_24_pins(board):
    for pin in (-1, 24):
        with pytest.raises(ValueError, match="no pin"):
            board.chip.line(pin)


def test_read_only_and_reserved_bits_of_an_entry(board):
    board.redirect(0xFFFFFFFF, 0xFF)
    board.w(0x11 + 2 * PIN, 0xFFFFFFFF)
    assert board.entry() == 0xFF00_0000_0001_AFFF


class TestEdges:
    def test_each_rise_is_a_message(self, board):
        board.redirect(0x52, 3)
        for level in (True, True, False, True, False):
            board.pin(level)
        assert [(m.vector, m.destination, m.level) for m in board.bus.sent] == [
            (0x52, 3, False)
        ] * 2
        assert not board.entry() & REMOTE_IRR

    def test_masked_they_are_lost(self, board):
        board.redirect(MASKED | 0x52)
        board.pin(True)
        board.redirect(0x52)
        assert board.bus.sent == []
        board.pin(False)
        board.pin(True)
        assert len(board.bus.sent) == 1

    @pytest.mark.parametrize("mode", list(DeliveryMode), ids=lambda mode: mode.name)
    def test_every_delivery_mode_goes_out_as_it_is(self, board, mode):
        board.redirect(mode << 8 | LOGICAL | 0x52, 0xA5)
        board.pin(True)
        (message,) = board.bus.sent
        assert (message.mode, message.logical, message.destination) == (mode, True, 0xA5)

    def test_an_nmi_is_an_edge_even_when_programmed_as_level(self, board):
        board.redirect(DeliveryMode.NMI << 8 | LEVEL)
        board.pin(True)
        assert not board.entry() & REMOTE_IRR
        board.chip.end_of_interrupt(0)
        assert len(board.bus.sent) == 1


class TestLevels:
    def test_one_message_until_its_end_then_again_while_it_is_up(self, board):
        board.redirect(LEVEL | 0x52)
        board.pin(True)
        board.pin(True)
        assert [m.level for m in board.bus.sent] == [True]
        assert board.entry() & REMOTE_IRR
        board.chip.end_of_interrupt(0x53)
        assert len(board.bus.sent) == 1
        board.chip.end_of_interrupt(0x52)
        assert len(board.bus.sent) == 2
        board.pin(False)
        board.chip.end_of_interrupt(0x52)
        assert len(board.bus.sent) == 2
        assert not board.entry() & REMOTE_IRR

    def test_masked_they_wait(self, board):
        board.redirect(MASKED | LEVEL | 0x52)
        board.pin(True)
        assert board.bus.sent == []
        board.redirect(LEVEL | 0x52)
        assert len(board.bus.sent) == 1

    def test_masking_under_way_stops_the_next(self, board):
        board.redirect(LEVEL | 0x52)
        board.pin(True)
        board.redirect(MASKED | LEVEL | 0x52)
        assert board.entry() & REMOTE_IRR
        board.chip.end_of_interrupt(0x52)
        assert len(board.bus.sent) == 1
        board.redirect(LEVEL | 0x52)
        assert len(board.bus.sent) == 2

    def test_a_new_destination_under_way_keeps_the_remote_irr(self, board):
        board.redirect(LEVEL | 0x52)
        board.pin(True)
        board.pin(False)
        board.w(0x11 + 2 * PIN, 1 << 24)
        assert board.entry() & REMOTE_IRR
        board.chip.end_of_interrupt(0x52)
        assert not board.entry() & REMOTE_IRR

    def test_becoming_an_edge_drops_the_remote_irr(self, board):
        board.redirect(LEVEL | 0x52)
        board.pin(True)
        board.redirect(0x52)
        assert not board.entry() & REMOTE_IRR

    def test_the_eoi_register(self, board):
        board.redirect(LEVEL | 0x52)
        board.pin(True)
        board.chip.write(0x40, 4, 0x52)
        assert len(board.bus.sent) == 2


class TestWindows:
    def test_the_index_may_be_written_by_the_byte(self, board):
        board.chip.write(0, 1, 1)
        assert board.chip.read(0, 4) == 1
        assert board.chip.read(0x10, 1) & 0xFF == 0x20
        assert board.chip.read(0x12, 2) & 0xFFFF == 0x17

    def test_data_is_written_in_32_bits_only(self, board):
        board.chip.write(0, 4, 0)
        board.chip.write(0x10, 1, 0xFF)
        board.chip.write(0x12, 4, 0x0F000000)
        assert board.r(0) == 0

    @pytest.mark.parametrize("index", [3, 0x0F, 0x40, 0xFF])
    def test_registers_that_are_not_there(self, board, index):
        board.w(index, 0xFFFFFFFF)
        assert board.r(index) == 0
        assert board.chip.read(0x20, 4) == board.chip.read(4, 4) == 0


class Cpu:
    def set_intr(self, level):
        self.intr = level

    def nmi(self): ...

    def init(self): ...

    def sipi(self, vector): ...


def test_with_a_local_apic_a_level_comes_back_after_its_eoi():
    bus, cpu = ApicBus(), Cpu()
    apic = LocalApic(0, Clock(), bus, cpu)
    apic.registers.write(0xF0, 4, 0x1FF)
    board = Board(bus)
    board.redirect(LEVEL | 0x52)
    board.pin(True)
    for _ in range(3):
        assert cpu.intr
        assert apic.acknowledge() == 0x52
        assert not cpu.intr
        apic.registers.write(0xB0, 4, 0)
    board.pin(False)
    apic.acknowledge()
    apic.registers.write(0xB0, 4, 0)
    assert not cpu.intr


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("pin"), st.integers(0, PINS - 1), st.booleans()),
            st.tuples(st.just("reg"), st.integers(0, 0x41), st.integers(0, 0xFFFFFFFF)),
            st.tuples(st.just("mem"), st.integers(0, 0xFFF), st.integers(0, 0xFFFFFFFF)),
            st.tuples(st.just("eoi"), st.integers(0, 255), st.none()),
        ),
        max_size=60,
    )
)
def test_whatever_happens_level_requests_are_under_way_exactly_once(steps):
    board = Board()
    lines = [board.chip.line(pin) for pin in range(PINS)]
    for what, where, value in steps:
        if what == "pin":
            lines[where](value)
        elif what == "reg":
            board.w(where, value)
        elif what == "mem":
            board.chip.write(where, 1 << (value & 3), value)
            assert board.chip.read(where, 4) >= 0
        else:
            board.chip.end_of_interrupt(where)
        for pin, entry in enumerate(board.chip.state.entries):
            assert 0 <= entry < 1 << 64
            level = entry & LEVEL and entry >> 8 & 7 in (0, 1, 3, 6)
            up = board.chip.state.lines >> pin & 1
            if level and up and not entry & MASKED:
                assert entry & REMOTE_IRR
            if not level:
                assert not entry & REMOTE_IRR
