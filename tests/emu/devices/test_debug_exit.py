# SPDX-License-Identifier: GPL-2.0-or-later
"""The isa-debug-exit device."""

from __future__ import annotations

import pytest

from emu.devices.debug_exit import DebugExit
from emu.outcome import Kind, exit_code
from emu.ports import PortBus


@pytest.mark.parametrize(
    ("iosize", "size", "value", "guest_code"),
    [
        (1, 1, 0x10, 0x10),
        (4, 4, 0x12345678, 0x12345678),
        (2, 4, 0x12345678, 0x5678),
        (1, 4, 0x12345678, 0x78),
        (8, 2, 0xFFFF, 0xFFFF),
    ],
    ids=["byte", "double word", "only half decoded", "only a byte decoded", "larger than needed"],
)
def test_a_write_ends_the_run_once(stop, stops, iosize, size, value, guest_code):
    bus = PortBus()
    bus.add(0xF4, 0xF4 + iosize - 1, DebugExit(stop), width=min(iosize, 4))
    bus.write(0xF4, size, value)
    bus.write(0xF4, 1, 1)
    assert stops == [(Kind.GUEST_EXIT, guest_code)]
    assert exit_code(*stops[0]) == ((guest_code << 1) | 1) & 0xFF


def test_it_reads_as_zero_and_reading_ends_nothing(stop, stops):
    assert DebugExit(stop).read(0xF4, 4) == 0
    assert stops == []
