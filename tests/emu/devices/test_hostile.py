# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that write anything anywhere: no chip may raise, hang, or drown the host in events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.clock import MIN_PERIOD_NS, Clock
from emu.devices.acpi_pm import AcpiPm, ApmPort
from emu.devices.cmos import Cmos
from emu.devices.debug_exit import DebugExit
from emu.devices.debugcon import DebugConsole
from emu.devices.fw_cfg import FwCfg
from emu.devices.ide import IdeChannel
from emu.devices.keyboard import Keyboard
from emu.devices.pci import PciHost, i440fx_functions
from emu.devices.pic import PicPair
from emu.devices.pit import Pit
from emu.devices.port61 import SystemControlB
from emu.devices.port92 import A20Gate, SystemControlA
from emu.devices.power import ShutdownPort
from emu.devices.ps2 import KeyboardController
from emu.devices.serial import Serial
from emu.devices.vga import TEXT_SIZE, Vga
from emu.ports import PortBus
from mmu.memory import Memory


class Board:
    """Every chip on one bus, wired as a PC is; nothing behind the processor's pins."""

    def __init__(self):
        self.clock = Clock()
        self.bus = bus = PortBus()
        self.pic = pic = PicPair(lambda level: None)
        gate = A20Gate()
        self.keyboard = Keyboard(self.clock)
        self.serial = Serial(self.clock, pic.line(4))
        self.pit = Pit(self.clock, pic.line(0))
        self.vga = Vga(lambda gpa, size: bytes(TEXT_SIZE))
        controller = KeyboardController(self.keyboard, pic.line(1), gate.input("8042"), nothing)
        bus.add(0x20, 0x21, pic)
        bus.add(0xA0, 0xA1, pic)
        bus.add(0x4D0, 0x4D1, pic)
        bus.add(0x40, 0x43, self.pit)
        bus.add(0x61, 0x61, SystemControlB(self.pit))
        bus.add(0x92, 0x92, SystemControlA(gate.input("port 92"), nothing))
        bus.add(0x70, 0x71, Cmos(self.clock, pic.line(8), ram_below_4g=1 << 27))
        bus.add(0xE9, 0xE9, DebugConsole())
        bus.add(0xF4, 0xF7, DebugExit(nothing), width=4)
        power = AcpiPm(self.clock, pic.line(9), nothing)
        bus.add(0x600, 0x63F, power, width=4)
        bus.add(0xB2, 0xB3, ApmPort(power))
        bus.add(0xCF8, 0xCFF, PciHost(i440fx_functions(ide=True), nothing), width=4)
        memory = Memory()
        memory.add_ram(0, 0x10000)
        firmware = FwCfg(self.clock, memory, ram_size=0x10000, cpus=1, max_cpus=1)
        bus.add(0x510, 0x51B, firmware, width=4)
        ide = IdeChannel(self.clock, pic.line(14), None)
        for first, last, width in ide.ports:
            bus.add(first, last, ide, width)
        bus.add(0x8900, 0x8900, ShutdownPort(nothing))
        bus.add(0x3F8, 0x3FF, self.serial)
        for first, last in KeyboardController.PORTS:
            bus.add(first, last, controller)
        for first, last in Vga.PORTS:
            bus.add(first, last, self.vga)

    def run_for(self, ns):
        """Let events happen; return how many times there were any."""
        end, turns = self.clock.now + ns, 0
        while (event := self.clock.next_event) is not None and event <= end:
            self.clock.run_due(max(event, self.clock.now))
            turns += 1
        self.clock.run_due(end)
        return turns


def nothing(*_):
    pass


CHIPS = {
    "pic": [0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1],
    "pit": [0x40, 0x41, 0x42, 0x43, 0x61],
    "8042": [0x60, 0x64, 0x92],
    "cmos": [0x70, 0x71],
    "vga": [0x3B4, 0x3B5, 0x3BA, *range(0x3C0, 0x3D0), 0x3D4, 0x3D5, 0x3DA],
    "serial": list(range(0x3F8, 0x400)),
    "debug and power": [0xE9, 0xF4, 0x604, 0x8900, 0xB2, 0x600, 0x602],
    "pci and firmware": [0xCF8, 0xCF9, 0xCFC, 0x510, 0x511, 0x514, 0x518],
}
RUN_NS = 1_000_000


def accesses(ports):
    """Random accesses, mostly to the chip, with values that fields are sensitive to."""
    value = st.one_of(
        st.integers(0, 0xFF),
        st.integers(0, 0xFFFFFFFF),
        st.sampled_from([0, 1, 2, 0x80, 0xFF, 0xFFFF, 0xFFFFFFFF]),
    )
    return st.lists(
        st.tuples(
            st.sampled_from(["in", "out", "out", "out", "run", "host"]),
            st.sampled_from(ports),
            st.sampled_from([1, 1, 1, 2, 4]),
            value,
        ),
        max_size=80,
    )


@pytest.mark.parametrize("ports", CHIPS.values(), ids=CHIPS)
@given(data=st.data())
def test_random_accesses_do_no_harm(ports, data):
    board = Board()
    for what, port, size, value in data.draw(accesses(ports)):
        if what == "in":
            assert 0 <= board.bus.read(port, size) < 1 << 8 * size
        elif what == "out":
            board.bus.write(port, size, value)
        elif what == "host":
            board.serial.feed(b"x" * (value & 31))
            board.keyboard.type("aA")
        else:
            ns = value % RUN_NS
            # Three periodic sources, and a one-shot of each chip.
            assert board.run_for(ns) <= 3 * (ns // MIN_PERIOD_NS) + 10
        assert 0 <= board.pic.acknowledge() <= 0xFF or not board.pic.pending()
    assert isinstance(board.vga.text, str)


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("value", [0, 0x55, 0xFFFFFFFF], ids=hex)
def test_every_port_takes_every_width(width, value):
    board = Board()
    for port in range(0x1000):
        board.bus.write(port, width, value)
        assert board.bus.read(port, width) < 1 << 8 * width
    assert board.run_for(RUN_NS) <= 3 * RUN_NS // MIN_PERIOD_NS
