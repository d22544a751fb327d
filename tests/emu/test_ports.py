# SPDX-License-Identifier: GPL-2.0-or-later
"""The port bus: decoding, splitting, and silence where nobody answers."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.devices.debugcon import DebugConsole
from emu.errors import UsageError
from emu.ports import LogOnce, PortBus, fan_out


class Recorder:
    """Answers each byte with the low byte of its port and remembers what was asked."""

    def __init__(self):
        self.calls = []

    def read(self, port, size):
        self.calls.append(("r", port, size))
        return int.from_bytes(bytes((port + i) & 0xFF for i in range(size)), "little")

    def write(self, port, size, value):
        self.calls.append(("w", port, size, value))


@pytest.fixture
def bus():
    return PortBus()


def test_a_byte_wide_chip_sees_a_double_word_as_four_bytes_low_port_first(bus):
    chip = Recorder()
    bus.add(0x40, 0x43, chip)
    assert bus.read(0x40, 4) == 0x43424140
    bus.write(0x40, 2, 0x1234)
    assert chip.calls == [
        ("r", 0x40, 1),
        ("r", 0x41, 1),
        ("r", 0x42, 1),
        ("r", 0x43, 1),
        ("w", 0x40, 1, 0x34),
        ("w", 0x41, 1, 0x12),
    ]


def test_a_wide_chip_takes_its_width_in_one_piece(bus):
    chip = Recorder()
    bus.add(0x1F0, 0x1F0 + 3, chip, width=2)
    bus.write(0x1F0, 2, 0xABCD)
    bus.write(0x1F0, 4, 0x11223344)
    assert chip.calls == [
        ("w", 0x1F0, 2, 0xABCD),
        ("w", 0x1F0, 2, 0x3344),
        ("w", 0x1F2, 2, 0x1122),
    ]


def test_an_access_over_the_end_of_a_chip_is_split_between_neighbours(bus):
    low, high = Recorder(), Recorder()
    bus.add(0x10, 0x11, low, width=4)
    bus.add(0x12, 0x13, high, width=4)
    assert bus.read(0x11, 2) == 0x1211
    assert (low.calls, high.calls) == ([("r", 0x11, 1)], [("r", 0x12, 1)])


def test_unknown_ports_read_all_ones_and_are_logged_once(bus, caplog):
    with caplog.at_level(logging.INFO, logger="shadowcorn.device.bus"):
        assert bus.read(0x5555, 2) == 0xFFFF
        assert bus.read(0x5555, 1) == 0xFF
        bus.write(0x5555, 1, 7)
        bus.write(0x5555, 1, 8)
    assert [r.getMessage() for r in caplog.records] == [
        "read from unknown port 0x5555",
        "read from unknown port 0x5556",
        "write of 0x7 to unknown port 0x5555",
    ]


def test_an_access_over_the_end_of_the_port_space_reads_all_ones_there(bus):
    bus.add(0xFFFF, 0xFFFF, DebugConsole())
    assert bus.read(0xFFFF, 4) == 0xFFFFFFE9
    bus.write(0xFFFF, 4, 0xFFFFFFFF)


@pytest.mark.parametrize(("first", "last"), [(-1, 0), (5, 4), (0xFFFF, 0x10000)])
def test_ports_that_do_not_exist_are_refused(bus, first, last):
    with pytest.raises(UsageError, match="no such"):
        bus.add(first, last, Recorder())


def test_two_chips_on_one_port_are_refused_and_the_first_stays(bus):
    chip = Recorder()
    bus.add(0xF4, 0xF7, chip)
    with pytest.raises(UsageError, match="0xf4 is already taken by Recorder"):
        bus.add(0xF0, 0xF4, DebugConsole())
    assert bus.read(0xF0, 1) == 0xFF
    assert bus.read(0xF4, 1) == 0xF4


def test_a_wire_drives_all_its_pins_in_order():
    seen = []
    wire = fan_out(
        lambda level: seen.append(("pic", level)), lambda level: seen.append(("io", level))
    )
    wire(True)
    wire(False)
    assert seen == [("pic", True), ("io", True), ("pic", False), ("io", False)]


def test_the_log_ends_at_its_limit(caplog):
    log = LogOnce("test")
    with caplog.at_level(logging.INFO, logger="shadowcorn.device.test"):
        for key in range(LogOnce.LIMIT + 10):
            log(key, "odd %d", key)
    assert len(caplog.records) == LogOnce.LIMIT


@given(st.integers(0, 0xFFFF), st.sampled_from([1, 2, 4]), st.integers(0, 2**64))
def test_no_access_raises_or_hands_out_too_many_bits(port, size, value):
    bus = PortBus()
    chip = Recorder()
    bus.add(0x8000, 0xFFFF, chip, width=2)
    assert 0 <= bus.read(port, size) < 1 << 8 * size
    bus.write(port, size, value)
    assert all(call[3] < 1 << 8 * call[2] for call in chip.calls if call[0] == "w")


def test_the_debug_console_prints_at_once_and_names_itself():
    out = []
    console = DebugConsole(out.append)
    for byte in "ok é".encode():
        console.write(0xE9, 1, byte)
    console.write(0xE9, 1, 0x1FF)
    assert b"".join(out) == "ok é".encode() + b"\xff"
    assert console.text == "ok é�"
    assert console.read(0xE9, 1) == 0xE9
