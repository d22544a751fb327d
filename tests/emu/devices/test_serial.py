# SPDX-License-Identifier: GPL-2.0-or-later
"""The 16550A: data sheet behaviour as a driver sees it."""

from __future__ import annotations

import pytest

from emu.devices.serial import (
    IER_DLM,
    IIR_FCR,
    LCR,
    LSR,
    MCR,
    MSR,
    RBR_THR_DLL,
    SCR,
    Serial,
)

BASE = 0x3F8
# What no interrupt, and each interrupt, looks like in IIR.
NONE, MODEM, EMPTY, RECEIVED, LINE, TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C
ALL = 0x0F


class Port:
    """A driver's view."""

    def __init__(self, clock, wire):
        self.out = []
        self.chip = Serial(clock, wire, self.out.append, BASE)

    def r(self, register):
        return self.chip.read(BASE + register, 1)

    def w(self, register, value):
        self.chip.write(BASE + register, 1, value)

    def take(self):
        """Poll as a guest does, until nothing is there."""
        taken = bytearray()
        while self.r(LSR) & 1:
            taken.append(self.r(RBR_THR_DLL))
        return bytes(taken)


@pytest.fixture
def port(clock, wire):
    return Port(clock, wire)


def test_what_is_sent_reaches_the_sink_byte_by_byte(port):
    for byte in b"Hi\xff":
        assert port.r(LSR) == 0x60
        port.w(RBR_THR_DLL, byte)
    assert port.out == [b"H", b"i", b"\xff"]
    assert (port.chip.sent, port.chip.text) == (b"Hi\xff", "Hi�")


def test_polled_input_comes_in_order_and_none_is_lost(port):
    text = bytes(range(200))
    port.chip.feed(text[:50])
    port.chip.feed(text[50:])
    assert port.take() == text
    assert port.r(RBR_THR_DLL) == 0


@pytest.mark.parametrize("depth", [1, 5, 16, 40])
def test_a_fifo_reset_before_the_guest_listens_eats_one_byte_at_most(port, depth):
    port.chip.feed(b"x" * depth)
    port.w(IIR_FCR, 0x07)
    port.w(IIR_FCR, 0x07)
    assert len(port.take()) >= depth - 2


def test_the_divisor_latch_hides_two_registers(port):
    port.w(IER_DLM, 0x05)
    port.w(LCR, 0x83)
    port.w(RBR_THR_DLL, 0x34)
    port.w(IER_DLM, 0x12)
    assert (port.r(RBR_THR_DLL), port.r(IER_DLM)) == (0x34, 0x12)
    assert port.chip.state.divisor == 0x1234
    port.w(LCR, 0x03)
    assert port.r(IER_DLM) == 0x05
    assert port.out == []


@pytest.mark.parametrize(
    ("register", "written", "read"),
    [(IER_DLM, 0xFF, 0x0F), (LCR, 0xFF, 0xFF), (MCR, 0xEF, 0x0F), (SCR, 0xA5, 0xA5)],
    ids=["ier", "lcr", "mcr", "scratch"],
)
def test_registers_keep_the_bits_that_exist(port, register, written, read):
    port.w(register, written)
    assert port.r(register) == read


def test_status_registers_cannot_be_written(port):
    port.w(LSR, 0)
    port.w(MSR, 0)
    assert (port.r(LSR), port.r(MSR)) == (0x60, 0xB0)


def test_fifo_is_told_by_iir_and_needs_its_enable_bit(port):
    assert port.r(IIR_FCR) == NONE
    port.w(IIR_FCR, 0xC6)
    assert port.r(IIR_FCR) == NONE
    port.w(IIR_FCR, 0xC7)
    assert port.r(IIR_FCR) == 0xC0 | NONE


def test_enabling_the_empty_interrupt_raises_it_and_iir_clears_it(port, wire):
    port.w(IER_DLM, 0x02)
    assert wire.level
    assert port.r(IIR_FCR) == EMPTY
    assert not wire.level
    assert port.r(IIR_FCR) == NONE
    port.w(RBR_THR_DLL, ord("x"))
    assert wire.level
    # Another byte without a look at IIR must give another edge to an edge-triggered 8259.
    edges = wire.edges
    port.w(RBR_THR_DLL, ord("y"))
    assert wire.edges == edges + 1


def test_received_interrupt_lasts_until_the_byte_is_read(port, wire):
    port.w(IER_DLM, 0x01)
    port.chip.feed(b"ab")
    assert wire.level
    assert port.r(IIR_FCR) == RECEIVED
    assert port.r(RBR_THR_DLL) == ord("a")
    assert wire.level
    assert port.r(RBR_THR_DLL) == ord("b")
    assert not wire.level


@pytest.mark.parametrize(("code", "level"), [(0, 1), (1, 4), (2, 8), (3, 14)])
def test_trigger_level_then_character_timeout(port, wire, clock, code, level):
    port.w(LCR, 0x83)
    port.w(RBR_THR_DLL, 1)  # 115200 8N1: a character is 86.8 us
    port.w(LCR, 0x03)
    port.w(IIR_FCR, code << 6 | 1)
    port.w(IER_DLM, 0x01)
    port.chip.feed(b"x" * (level - 1))
    assert not wire.level
    port.chip.feed(b"x")
    assert port.r(IIR_FCR) == 0xC0 | RECEIVED
    port.r(RBR_THR_DLL)
    if level > 1:
        assert not wire.level
        clock.run_for(347_000)
        assert not wire.level
        clock.run_for(300)
        assert port.r(IIR_FCR) == 0xC0 | TIMEOUT
        port.r(RBR_THR_DLL)
        assert not wire.level
    port.take()
    clock.run_for(10**9)
    assert not wire.level


def test_input_beyond_the_fifo_waits_on_the_line(port, wire):
    port.w(IIR_FCR, 0x01)
    port.w(IER_DLM, 0x01)
    port.chip.feed(bytes(range(100)))
    assert len(port.chip.state.received) == 16
    assert port.take() == bytes(range(100))
    assert not wire.level


def test_interrupts_are_told_in_order_of_priority(port, wire):
    port.w(MCR, 0x10)
    port.w(MSR, 0)
    port.r(MSR)
    port.w(RBR_THR_DLL, 1)
    port.w(RBR_THR_DLL, 2)  # overrun: no FIFO
    port.w(MCR, 0x11)  # DTR comes up, so DSR does
    port.w(IER_DLM, ALL)
    seen = []
    for clear in (LSR, RBR_THR_DLL, IIR_FCR, MSR):
        seen.append(port.r(IIR_FCR))
        if clear != IIR_FCR:
            port.r(clear)
    assert seen == [LINE, RECEIVED, EMPTY, MODEM]
    assert port.r(IIR_FCR) == NONE
    assert not wire.level


class TestLoopback:
    @pytest.fixture(autouse=True)
    def loop(self, port):
        port.w(MCR, 0x10)
        port.r(MSR)

    def test_bytes_come_back_and_go_nowhere_else(self, port):
        port.w(IIR_FCR, 0x01)
        for byte in b"\xae\x55":
            port.w(RBR_THR_DLL, byte)
        assert port.take() == b"\xae\x55"
        assert port.out == []

    def test_the_line_is_cut_off_meanwhile(self, port):
        port.chip.feed(b"typed")
        assert port.take() == b""
        port.w(MCR, 0)
        assert port.take() == b"typed"

    @pytest.mark.parametrize(
        ("control", "status"),
        [(0x1, 0x22), (0x2, 0x11), (0x4, 0x40), (0x8, 0x88)],
        ids=["DTR to DSR", "RTS to CTS", "OUT1 to RI", "OUT2 to DCD"],
    )
    def test_modem_control_shows_in_modem_status(self, port, control, status):
        port.w(MCR, 0x10 | control)
        assert port.r(MSR) == status
        assert port.r(MSR) == status & 0xF0
        port.w(MCR, 0x10)
        assert port.r(MSR) == (0x04 if control == 0x4 else status & 0x0F)

    def test_leaving_it_brings_the_cable_back(self, port):
        port.w(MCR, 0)
        assert port.r(MSR) == 0xBB

    def test_overrun_with_fifo_keeps_the_sixteen(self, port):
        port.w(IIR_FCR, 0x01)
        for byte in range(17):
            port.w(RBR_THR_DLL, byte)
        assert port.r(LSR) == 0x63
        assert port.r(LSR) == 0x61
        assert port.take() == bytes(range(16))

    def test_overrun_without_fifo_keeps_the_newest(self, port):
        port.w(RBR_THR_DLL, 1)
        port.w(RBR_THR_DLL, 2)
        assert port.r(LSR) == 0x63
        assert port.r(RBR_THR_DLL) == 2

    def test_a_break_is_a_zero_with_its_error_on_top_of_the_fifo(self, port, wire):
        port.w(IIR_FCR, 0x01)
        port.w(IER_DLM, 0x04)
        port.w(RBR_THR_DLL, 7)
        port.w(LCR, 0x43)
        # Behind the 7: in the FIFO, not yet on top.
        assert port.r(LSR) == 0xE1
        assert not wire.level
        assert port.r(RBR_THR_DLL) == 7
        assert wire.level
        assert port.r(IIR_FCR) == 0xC0 | LINE
        assert port.r(LSR) == 0xF9
        assert not wire.level
        assert port.r(LSR) == 0x61
        assert port.r(RBR_THR_DLL) == 0


def test_master_reset_forgets_the_registers_but_not_the_line(port, wire):
    port.w(IER_DLM, ALL)
    port.chip.feed(b"abc")
    port.chip.reset()
    assert not wire.level
    assert (port.r(IER_DLM), port.r(LCR), port.r(MCR), port.r(IIR_FCR)) == (0, 0, 0, NONE)
    assert port.take() == b"bc"


def test_a_divisor_of_zero_still_times_out(port, wire, clock):
    port.w(LCR, 0x80)
    port.w(RBR_THR_DLL, 0)
    port.w(LCR, 0x00)
    port.w(IIR_FCR, 0xC1)
    port.w(IER_DLM, 0x01)
    port.chip.feed(b"x")
    clock.run_for(1_000_000)
    assert wire.level
