# SPDX-License-Identifier: GPL-2.0-or-later
"""Switching off by Bochs' port, and port 0x92."""

from __future__ import annotations

import pytest

from emu.devices.port92 import A20Gate, SystemControlA
from emu.devices.power import ShutdownPort
from emu.outcome import Kind
from emu.ports import PortBus

OFF = [(Kind.POWER_OFF, None)]


@pytest.fixture
def bus(stop):
    bus = PortBus()
    bus.add(0x8900, 0x8900, ShutdownPort(stop))
    return bus


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"Shutdown", OFF),
        (b"ShutShutdown", OFF),
        (b"SShutdown", OFF),
        (b"Shutdow", []),
        (b"shutdown", []),
        (b"ShutdownShutdown", OFF * 2),
    ],
    ids=lambda v: v.decode() if isinstance(v, bytes) else "",
)
def test_spelling_shutdown(bus, stops, text, expected):
    for letter in text:
        bus.write(0x8900, 1, letter)
    assert stops == expected
    assert bus.read(0x8900, 1) == 0xFF


def test_fast_reset_needs_a_rising_bit():
    resets = []
    port = SystemControlA(lambda level: None, lambda: resets.append(1))
    for value in (0, 1, 1, 3, 0, 1):
        port.write(0x92, 1, value)
    assert len(resets) == 2
    assert port.read(0x92, 1) == 1


def test_a20_is_up_while_either_chip_holds_it():
    seen = []
    gate = A20Gate(seen.append)
    keyboard, port = gate.input("8042"), SystemControlA(gate.input("port 92"), lambda: None)
    assert gate.enabled
    keyboard(True)
    port.write(0x92, 1, 0)
    assert gate.enabled
    keyboard(False)
    assert not gate.enabled
    port.write(0x92, 1, 2)
    assert gate.enabled
    assert seen == [False, True]
