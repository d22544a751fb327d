# SPDX-License-Identifier: GPL-2.0-or-later
"""Each chip saved in mid-operation: the original and its copy then do the same, to the edge."""

from __future__ import annotations

import copy

import pytest

from emu.clock import Event
from emu.devices.acpi_pm import AcpiPm, ApmPort
from emu.devices.apic_bus import ApicBus, DeliveryMode
from emu.devices.cmos import Cmos
from emu.devices.debug_exit import DebugExit
from emu.devices.debugcon import DebugConsole
from emu.devices.disk import Disk
from emu.devices.fw_cfg import CHUNK, FwCfg
from emu.devices.hpet import Hpet
from emu.devices.ide import ACCESS_NS, IdeChannel
from emu.devices.ioapic import IoApic
from emu.devices.keyboard import KEY_NS, Keyboard
from emu.devices.lapic import LocalApic
from emu.devices.pci import PciHost, i440fx_functions
from emu.devices.pic import PicPair
from emu.devices.pit import Pit
from emu.devices.port61 import SystemControlB
from emu.devices.port92 import A20Gate, SystemControlA
from emu.devices.power import ShutdownPort
from emu.devices.ps2 import KeyboardController
from emu.devices.serial import Serial
from emu.devices.testdev import TestDevice
from emu.devices.vga import Vga
from emu.errors import NotSavableError, StateError
from emu.ports import PortBus
from emu.savable import to_plain
from mmu.memory import Memory
from tests.emu.devices.conftest import TurnedClock

MS = 1_000_000


class Bench:
    """A clock, chips by name on a port bus, and a log of what is on every wire, and when."""

    def __init__(self, open_disk):
        self.clock = TurnedClock()
        self.bus = PortBus()
        self.open_disk = open_disk
        self.chips = {}
        self.log = []

    def wire(self, name):
        return lambda *what: self.log.append((self.clock.now, name, *what))

    def add(self, name, chip, *ports, width=1):
        self.chips[name] = chip
        for first, last in ports:
            self.bus.add(first, last, chip, width)
        return chip

    def out(self, port, *values, size=1):
        for value in values:
            self.bus.write(port, size, value)

    def read(self, port, count=1, size=1):
        return [self.bus.read(port, size) for _ in range(count)]

    def save(self):
        state = {"clock": self.clock.save()}
        state |= {name: chip.save() for name, chip in self.chips.items()}
        self.clock.check_events()
        return state

    def load(self, state):
        self.clock.load(state["clock"])
        for name, chip in self.chips.items():
            chip.load(state[name])
        self.clock.check_events()


class Case:
    """`build` a bench, `begin` an operation, `go_on` to its end and return what was seen."""

    def build(self, bench):
        raise NotImplementedError

    def begin(self, bench):
        raise NotImplementedError

    def go_on(self, bench):
        raise NotImplementedError


class PitCase(Case):
    def build(self, b):
        b.pit = b.add("pit", Pit(b.clock, b.wire("irq 0")), (0x40, 0x43))
        b.add("port61", SystemControlB(b.pit), (0x61, 0x61))

    def begin(self, b):
        b.out(0x43, 0x36)
        b.out(0x40, 0x34, 0x12)
        b.clock.run_for(5 * MS)  # in the second period
        b.out(0x40, 0x00, 0x30)  # the next count, for the end of the half period
        b.out(0x43, 0x00)  # latched,
        b.read(0x40)  # and half read
        b.out(0x61, 0x01)
        b.out(0x43, 0xB0)
        b.out(0x42, 0x00, 0x80)
        b.clock.run_for(3 * MS)
        b.out(0x61, 0x00)  # counter 2 stands half-way
        b.out(0x42, 0x55)  # and has got half a count

    def go_on(self, b):
        seen = b.read(0x40, 3) + b.read(0x61)
        b.out(0x42, 0x01)
        b.out(0x61, 0x01)
        for _ in range(40):
            b.clock.run_for(MS)
            b.out(0x43, 0xCA)  # read back both
            seen += b.read(0x40, 3) + b.read(0x42, 3) + b.read(0x61)
        return seen


class PitFastCase(PitCase):
    def begin(self, b):
        b.out(0x43, 0x34)
        b.out(0x40, 0x03, 0x00)  # 400 kHz: edges are merged
        b.clock.run_for(12_345)

    def go_on(self, b):
        b.clock.run_for(MS)
        return b.read(0x40, 2)


class SerialCase(Case):
    def build(self, b):
        b.serial = b.add("com1", Serial(b.clock, b.wire("irq 4"), b.wire("sent")), (0x3F8, 0x3FF))

    def begin(self, b):
        b.out(0x3FA, 0xC1)  # FIFO, 14 bytes
        b.out(0x3F9, 0x0F)
        b.out(0x3F8, 0x41)
        b.serial.feed(b"abc")
        b.clock.run_for(100_000)  # the character timeout runs
        b.out(0x3FC, 0x12)  # loopback,
        b.out(0x3F8, 0x42)
        b.out(0x3FB, 0x43)  # with a break
        b.serial.feed(b"more than fits into the FIFO at once")

    def go_on(self, b):
        seen = b.read(0x3FD) + b.read(0x3FE) + b.read(0x3FA, 2)
        b.clock.run_for(50 * MS)
        seen += b.read(0x3FA) + b.read(0x3F8, 6) + b.read(0x3FD)
        b.out(0x3FC, 0x00)
        seen += b.read(0x3FA) + b.read(0x3F8, 50)
        b.serial.feed(b"!")
        b.clock.run_for(50 * MS)
        return [*seen, *b.read(0x3FA), b.serial.sent]


class KeyboardCase(Case):
    def build(self, b):
        keyboard = b.keyboard = b.add("keyboard", Keyboard(b.clock))
        controller = KeyboardController(keyboard, b.wire("irq 1"), b.wire("a20"), b.wire("reset"))
        b.add("ps2", controller, (0x60, 0x60), (0x64, 0x64))

    def begin(self, b):
        b.keyboard.type("Hi")
        b.clock.run_for(KEY_NS + KEY_NS // 2)  # the first press is out, the release to come
        b.read(0x60)
        b.out(0x60, 0xED)  # the LEDs are to follow
        b.out(0x64, 0xD1)  # the output port, too

    def go_on(self, b):
        seen = b.read(0x64) + b.read(0x60, 3)
        b.out(0x60, 0xDD, 0x02)
        for _ in range(20):
            seen += b.read(0x64) + b.read(0x60)
            b.clock.run_for(KEY_NS // 2)
        b.out(0x60, 0xFE)
        return seen + b.read(0x60, 2)


class KeyboardTranslationCase(KeyboardCase):
    def begin(self, b):
        b.out(0x60, 0xF0, 0x01)
        b.out(0x64, 0x60)
        b.out(0x60, 0x05)  # no translation
        b.keyboard.type("x")
        b.out(0x64, 0xAD)
        b.clock.run_for(3 * KEY_NS)

    def go_on(self, b):
        b.out(0x64, 0xAE, 0x20)
        seen = b.read(0x60, 6)
        b.clock.run_for(3 * KEY_NS)
        return seen + b.read(0x60, 6)


class RtcCase(Case):
    def build(self, b):
        b.add("cmos", Cmos(b.clock, b.wire("irq 8"), ram_below_4g=64 << 20), (0x70, 0x71))

    def register(self, b, index, *value):
        b.out(0x70, index)
        b.out(0x71, *value)

    def begin(self, b):
        self.register(b, 0x0B, 0x72)  # periodic, alarm and update interrupts
        self.register(b, 0x01, 0x03)  # alarm at second 3 of any minute
        self.register(b, 0x03, 0xFF)
        self.register(b, 0x05, 0xFF)
        self.register(b, 0x40, 0x5A)
        b.clock.run_for(999 * MS + 900_000)  # an update is in progress
        b.out(0x70, 0x80 | 0x0A)

    def go_on(self, b):
        seen = b.read(0x71)
        for _ in range(50):
            b.clock.run_for(70 * MS)
            b.out(0x70, 0x0C)
            seen += b.read(0x71)
            b.out(0x70, 0x00)
            seen += b.read(0x71)
        b.out(0x70, 0x40)
        return [*seen, *b.read(0x71), b.chips["cmos"].nmi_masked]


class RtcHeldCase(RtcCase):
    def begin(self, b):
        self.register(b, 0x0B, 0x82)  # B.SET: the time is being set
        self.register(b, 0x00, 0x58)
        self.register(b, 0x09, 0x99)
        b.clock.run_for(1500 * MS)

    def go_on(self, b):
        self.register(b, 0x04, 0x23)
        self.register(b, 0x0B, 0x12)
        b.clock.run_for(2500 * MS)
        seen = []
        for index in (0, 2, 4, 6, 7, 8, 9, 0x32, 0x0C):
            b.out(0x70, index)
            seen += b.read(0x71)
        return seen


class HpetCase(Case):
    def build(self, b):
        b.hpet = b.add(
            "hpet",
            Hpet(b.clock, lambda n: b.wire(f"pin {n}"), b.wire("irq 0"), b.wire("irq 8")),
        )

    def begin(self, b):
        w = b.hpet.write
        w(0x100, 8, 0x4C)  # timer 0: periodic, interrupts, value to be set
        w(0x108, 8, 0x2000)
        w(0x108, 8, 0x1000)
        w(0x120, 8, 20 << 9 | 0x06)  # timer 1: level-triggered on pin 20
        w(0x128, 8, 0x4321)
        w(0x140, 4, 0x48)  # timer 2: half a set value
        w(0x148, 4, 0x777)
        w(0x010, 8, 3)
        b.hpet.pit_irq(True)  # held back
        b.hpet.rtc_irq(True)
        b.clock.run_for(400_000)

    def go_on(self, b):
        seen = []
        b.hpet.write(0x14C, 4, 0)
        for step in range(20):
            b.clock.run_for(37_000)
            seen += [b.hpet.read(offset, 8) for offset in (0xF0, 0x20, 0x108, 0x128, 0x148)]
            if step == 10:
                b.hpet.write(0x20, 8, 2)
                b.hpet.write(0x10, 8, 1)  # the 8254 and the RTC get their lines back
        return seen


class LapicCase(Case):
    class Cpu:
        def __init__(self, wire):
            self.set_intr, self.nmi, self.init, self.sipi = map(
                wire, ("intr", "nmi", "init", "sipi")
            )

    def build(self, b):
        bus = ApicBus()
        b.pic = b.add("pic", PicPair(), (0x20, 0x21), (0xA0, 0xA1))
        b.apics = [
            b.add(f"lapic{n}", LocalApic(n, b.clock, bus, self.Cpu(b.wire), pic=b.pic))
            for n in range(2)
        ]
        for apic in b.apics:
            apic.registers.write(0xF0, 4, 0x1FF)
        b.io = b.add("ioapic", IoApic(bus))

    def begin(self, b):
        first, second = b.apics
        first.accept(DeliveryMode.FIXED, 0x61, False)
        first.acknowledge()  # in service
        first.accept(DeliveryMode.FIXED, 0x55, True)  # requested below it
        first.accept(DeliveryMode.EXTINT, 0, False)
        first.registers.write(0x3E0, 4, 0x3)
        first.registers.write(0x320, 4, 0x20040)  # the timer: periodic
        first.registers.write(0x380, 4, 4000)
        first.lint(0)(True)
        second.registers.write(0x360, 4, 0x8045)  # LINT1: level-triggered
        second.lint(1)(True)
        second.write_base(0xFEE0_0C00)
        second.registers.msrs()[0x832][1](0x400EC)  # TSC deadline
        second.registers.msrs()[0x6E0][1](500_000)
        b.io.write(0x00, 4, 0x10 + 2 * 5)
        b.io.write(0x10, 4, 0x8071)  # pin 5: level-triggered, to APIC 0
        b.io.line(5)(True)
        b.io.write(0x00, 4, 0x10 + 2 * 6 + 1)  # the index stands
        b.clock.run_for(70_000)

    def go_on(self, b):
        seen = [b.io.read(0x10, 4)]
        for _ in range(30):
            b.clock.run_for(30_000)
            for apic in b.apics:
                seen += [apic.pending(), apic.registers.read(0x390, 4), apic.mmio_base]
                seen.append(apic.acknowledge() if apic.pending() else None)
                seen.append(apic.registers.msrs()[0x6E0][0]())
                apic.end_of_interrupt()
        b.io.line(5)(False)
        seen += [
            apic.registers.read(offset, 4) for apic in b.apics for offset in range(0, 4096, 16)
        ]
        b.io.write(0x00, 4, 0x1A)
        return [*seen, b.io.read(0x10, 4)]


class PicCase(Case):
    def build(self, b):
        b.pic = b.add("pic", PicPair(b.wire("intr")), (0x20, 0x21), (0xA0, 0xA1), (0x4D0, 0x4D1))

    def begin(self, b):
        b.out(0x4D1, 0x08)
        b.out(0x20, 0x11)
        b.out(0x21, 0x20, 0x04, 0x01, 0x00)
        b.out(0xA0, 0x11)
        b.out(0xA1, 0x28, 0x02, 0x01, 0x00)
        b.pic.line(3)(True)
        b.pic.acknowledge()
        b.pic.line(1)(True)
        b.pic.line(11)(True)
        b.out(0x20, 0x0B)  # ISR is to be read
        b.out(0xA0, 0x11)
        b.out(0xA1, 0x70)  # the slave in mid-initialization

    def go_on(self, b):
        seen = b.read(0x20) + b.read(0x21)
        b.out(0xA1, 0x02, 0x03, 0x00)
        seen += [b.pic.acknowledge(), b.pic.pending()]
        b.out(0x20, 0x20, 0x0C)
        seen += b.read(0x20) + b.read(0xA0) + b.read(0x4D1)
        for irq in (1, 3, 11):
            b.pic.line(irq)(False)
        return [*seen, b.pic.acknowledge()]


class PmCase(Case):
    def build(self, b):
        pm = b.add(
            "acpi_pm", AcpiPm(b.clock, b.wire("sci"), b.wire("stop")), (0x600, 0x63F), width=4
        )
        b.add("apm", ApmPort(pm), (0xB2, 0xB3))

    def begin(self, b):
        b.out(0xB3, 0x77)
        b.out(0xB2, 0xF1)
        b.out(0x602, 0x0101, size=2)
        b.clock.run_for(5000 * MS)  # the timer has turned over and raised the SCI
        b.out(0x600, 0x0001, size=2)
        b.clock.run_for(1000 * MS)

    def go_on(self, b):
        seen = b.read(0x608, size=4)
        b.clock.run_for(5000 * MS)
        seen += b.read(0x600, size=4) + b.read(0x604, size=2) + b.read(0xB2) + b.read(0xB3)
        b.out(0x604, 0x2000, size=2)
        return seen


class PciCase(Case):
    def build(self, b):
        host = PciHost(i440fx_functions(ide=True), b.wire("reset"))
        b.add("pci", host, (0xCF8, 0xCFF), width=4)

    def begin(self, b):
        b.out(0xCF8, 0x8000_0960, size=4)
        b.out(0xCFC, 0x1234_5678, size=4)
        b.out(0xCF8, 0x8000_083C, size=4)
        b.out(0xCF9, 0x02)

    def go_on(self, b):
        seen = b.read(0xCF8, size=4) + b.read(0xCFC, size=4) + b.read(0xCF9)
        for offset in range(0, 256, 4):
            for function in (0x8000_0000, 0x8000_0800, 0x8000_0900, 0x8000_0B00):
                b.out(0xCF8, function | offset, size=4)
                seen += b.read(0xCFC, size=4)
        b.out(0xCF9, 0x06)
        return seen


class VgaCase(Case):
    def build(self, b):
        b.add("vga", Vga(lambda gpa, size: bytes(size)), *Vga.PORTS)

    def begin(self, b):
        b.out(0x3C8, 5)
        b.out(0x3C9, 1, 2)  # two guns of a colour
        b.read(0x3DA)
        b.out(0x3C0, 0x03)  # an attribute's index, the data to follow
        b.out(0x3D4, 0x0E)
        b.out(0x3D5, 0x07)

    def go_on(self, b):
        b.out(0x3C9, 3)
        b.out(0x3C0, 0x15)
        b.out(0x3C7, 5)
        seen = b.read(0x3C9, 3) + b.read(0x3DA, 2) + b.read(0x3D5)
        b.out(0x3C0, 0x03)
        return [*seen, *b.read(0x3C1), b.chips["vga"].cursor]


class FwCfgCase(Case):
    def build(self, b):
        b.memory = Memory()
        b.memory.add_ram(0, 4 << 20)
        chip = FwCfg(b.clock, b.memory, ram_size=4 << 20, cpus=1, max_cpus=1)
        chip.add_file("opt/name", b"contents")
        b.add("fw_cfg", chip, (0x510, 0x51B), width=4)

    def begin(self, b):
        words = b"".join(
            n.to_bytes(size, "big") for n, size in ((2, 4), (5 * CHUNK // 2, 4), (0x8000, 8))
        )
        b.memory.write_block(0x1000, words, "loader")
        b.out(0x514, 0, size=4)
        b.out(0x518, int.from_bytes((0x1000).to_bytes(4, "big"), "little"), size=4)
        b.out(0x510, 0x20, size=2)
        b.read(0x511, 3)  # in mid-item, while the DMA zeroes on
        b.out(0x514, 0x0100_0000, size=4)  # the high half of another address

    def go_on(self, b):
        seen = b.read(0x511, 6)
        for _ in range(4):
            seen.append(b.memory.read(0x1000, 4))
            b.clock.run_for(100_000)
        return seen


class SmallCase(Case):
    def build(self, b):
        gate = b.add("a20", A20Gate(b.wire("a20")))
        b.add("port92", SystemControlA(gate.input("port92"), b.wire("reset")), (0x92, 0x92))
        b.other = gate.input("ps2")
        b.add("shutdown", ShutdownPort(b.wire("stop")), (0x8900, 0x8900))
        b.add("exit", DebugExit(b.wire("stop")), (0xF4, 0xF4))
        b.add("debugcon", DebugConsole(b.wire("sent")), (0xE9, 0xE9))
        memory = Memory()
        device = TestDevice([b.wire(f"line {n}") for n in range(24)])
        device.attach(b.bus, memory)
        b.add("testdev", device)
        b.add("testdev memory", device.memory)

    def begin(self, b):
        b.other(True)
        b.out(0x92, 0x03)
        b.other(False)
        b.out(0x8900, *b"Shut")
        b.out(0xF4, 7)
        b.out(0xE9, *b"Hallo")
        b.out(0xE0, 0x1234_5678, size=4)
        b.out(0xE8, 0x9A)
        b.chips["testdev memory"].write(0x123, 4, 0xCAFE)

    def go_on(self, b):
        seen = b.read(0x92) + b.read(0xE0, size=4) + b.read(0xE8)
        b.out(0x92, 0x01)  # bit 0 is set already: no reset
        b.out(0x8900, *b"down")
        b.out(0xF4, 8)  # not the first
        b.out(0xE9, *b"!")
        b.out(0x2005, 1)
        memory = b.chips["testdev memory"].read(0x120, 8)
        return [*seen, b.chips["debugcon"].text, b.chips["a20"].enabled, memory]


class IdeCase(Case):
    """Two disks; `settle` lets the drive do its work."""

    def build(self, b):
        master, slave = b.open_disk(), b.open_disk()
        channel = IdeChannel(b.clock, b.wire("irq 14"), master, slave)
        b.add("ide", channel)
        for first, last, width in channel.ports:
            b.bus.add(first, last, channel, width)

    def command(self, b, command, lba=0, count=1, device=0xE0):
        for register, value in enumerate((0, count, lba, 0, 0, device, command), 1):
            b.out(0x1F0 + register, value)

    def settle(self, b):
        b.clock.run_for(ACCESS_NS)

    def registers(self, b):
        return b.read(0x3F6) + [b.read(0x1F0 + n) for n in range(1, 8)]


class IdeReadCase(IdeCase):
    def begin(self, b):
        self.command(b, 0x20, lba=7, count=3)
        self.settle(b)
        b.read(0x1F7)
        b.read(0x1F0, 256 + 100, size=2)  # all of one sector...
        self.settle(b)
        b.read(0x1F0, 100, size=2)  # ...and some of the next

    def go_on(self, b):
        seen = self.registers(b) + b.read(0x1F0, 156, size=2)
        self.settle(b)
        return seen + b.read(0x1F0, 300, size=2) + self.registers(b)


class IdeBusyCase(IdeCase):
    def begin(self, b):
        self.command(b, 0xC6, count=4)
        self.settle(b)
        self.command(b, 0xC4, lba=1, count=6)
        self.settle(b)
        b.read(0x1F0, 4 * 128, size=4)
        b.clock.run_for(ACCESS_NS // 2)  # the second block is on its way

    def go_on(self, b):
        seen = self.registers(b)
        self.settle(b)
        return seen + b.read(0x1F0, 2 * 128, size=4) + self.registers(b)


class IdeWriteCase(IdeCase):
    def begin(self, b):
        self.command(b, 0x30, lba=3, count=2)
        b.out(0x1F0, *range(256), size=2)
        b.clock.run_for(ACCESS_NS // 2)  # the first sector is stored, the drive still busy

    def go_on(self, b):
        seen = self.registers(b)
        self.settle(b)
        b.out(0x1F0, *range(1000, 1256), size=2)
        self.settle(b)
        seen += self.registers(b)
        self.command(b, 0x20, lba=3, count=2)
        self.settle(b)
        seen += b.read(0x1F0, 256, size=2)
        self.settle(b)
        return seen + b.read(0x1F0, 256, size=2)


class IdeHalfWrittenCase(IdeCase):
    def begin(self, b):
        self.command(b, 0x30, lba=9, count=1, device=0xF0)  # the slave
        b.out(0x1F0, *range(200), size=2)

    def go_on(self, b):
        b.out(0x1F0, *range(56), size=2)
        self.settle(b)
        seen = self.registers(b)
        self.command(b, 0x20, lba=9, count=1, device=0xF0)
        self.settle(b)
        return seen + b.read(0x1F0, 256, size=2)


class IdeResetCase(IdeCase):
    def begin(self, b):
        self.command(b, 0x91, count=17, device=0xA7)
        self.settle(b)
        b.out(0x3F6, 0x04, 0x00)
        b.clock.run_for(ACCESS_NS // 2)

    def go_on(self, b):
        seen = self.registers(b)
        self.settle(b)
        seen += self.registers(b)
        self.command(b, 0xEC)
        self.settle(b)
        return seen + b.read(0x1F0, 256, size=2)


CASES = {
    "8254 half-way through counts": PitCase,
    "8254 faster than its edges": PitFastCase,
    "UART with bytes in the FIFO and on the line": SerialCase,
    "keyboard in mid-stroke": KeyboardCase,
    "keyboard held off": KeyboardTranslationCase,
    "RTC in an update": RtcCase,
    "RTC being set": RtcHeldCase,
    "HPET periodic, in legacy mode": HpetCase,
    "APICs with IRR, ISR and timers": LapicCase,
    "8259s in service and in initialization": PicCase,
    "PM timer to interrupt": PmCase,
    "PCI configuration": PciCase,
    "VGA between two bytes": VgaCase,
    "fw_cfg in an item, with DMA under way": FwCfgCase,
    "small ports": SmallCase,
    "IDE in mid-sector of a read": IdeReadCase,
    "IDE between two blocks": IdeBusyCase,
    "IDE storing a sector": IdeWriteCase,
    "IDE in mid-sector of a write": IdeHalfWrittenCase,
    "IDE in a reset": IdeResetCase,
}


@pytest.fixture
def open_disk(tmp_path):
    """Open a disk of so many sectors, each full of its number."""
    opened = []

    def open_one(sectors=64, snapshot=True):
        path = tmp_path / f"{sectors}.img"
        path.write_bytes(b"".join(n.to_bytes(4, "little") * 128 for n in range(sectors)))
        opened.append(Disk(path, snapshot=snapshot))
        return opened[-1]

    yield open_one
    for disk in opened:
        disk.close()


def build(case, open_disk):
    bench = Bench(open_disk)
    case.build(bench)
    return bench


@pytest.mark.parametrize("case", [case() for case in CASES.values()], ids=CASES)
class TestMidOperation:
    def test_the_copy_goes_on_as_the_original(self, case, open_disk):
        original, other = build(case, open_disk), build(case, open_disk)
        case.begin(original)
        state = original.save()
        kept = copy.deepcopy(state)
        other.load(state)
        assert other.save() == state
        del original.log[:], other.log[:]
        memory = getattr(original, "memory", None)
        if memory is not None:  # RAM is not the chips' to save
            other.memory.write_block(0, memory.read_block(0, 4 << 20), "loader")
        assert case.go_on(other) == case.go_on(original)
        assert other.log == original.log
        assert other.save() == original.save()
        assert state == kept  # it does not change with the chip

    def test_it_goes_back_to_where_it_was(self, case, open_disk):
        bench = build(case, open_disk)
        case.begin(bench)
        state = bench.save()
        memory = getattr(bench, "memory", None)
        ram = memory and memory.read_block(0, 4 << 20)
        del bench.log[:]
        first = case.go_on(bench), list(bench.log)
        bench.load(state)
        if memory is not None:
            memory.write_block(0, ram, "loader")
        del bench.log[:]
        assert (case.go_on(bench), bench.log) == first

    def test_loading_drives_no_pin(self, case, open_disk):
        original, other = build(case, open_disk), build(case, open_disk)
        case.begin(original)
        del other.log[:]
        other.load(original.save())
        assert other.log == []

    def test_no_attribute_is_left_out(self, case, open_disk):
        original, other = build(case, open_disk), build(case, open_disk)
        case.begin(original)
        other.load(original.save())
        for name, chip in original.chips.items():
            assert remembered(other.chips[name]) == remembered(chip)


def remembered(chip):
    """All that is plain data in a chip's attributes, saved or not."""
    found = {}
    for name, value in vars(chip).items():
        if isinstance(value, Event):
            value = value.callback and (value.when, value.sequence)
        try:
            found[name] = to_plain(value)
        except TypeError:
            continue  # wires, parts with a state of their own
    return found


class TestDisk:
    def test_a_disk_written_in_place_is_refused_by_name(self, open_disk):
        disk = open_disk(snapshot=False)
        state = disk.save()
        disk.write(5, bytes(512))
        with pytest.raises(NotSavableError, match=r"^Disk .*64.img was written in place"):
            disk.save()
        with pytest.raises(NotSavableError, match="written in place"):
            disk.load(state)

    def test_the_state_of_another_disk_is_refused(self, open_disk):
        for disk in (open_disk(5), open_disk(snapshot=False)):
            with pytest.raises(StateError, match="another disk"):
                disk.load(open_disk().save())

    def test_a_channel_with_other_drives_is_refused(self, clock, wire, open_disk):
        one = IdeChannel(clock, wire, open_disk())
        two = IdeChannel(clock, wire, None, open_disk())
        with pytest.raises(StateError, match="other drives"):
            two.load(one.save())


def test_functions_of_another_board_are_refused():
    hosts = [PciHost(i440fx_functions(ide=ide), lambda hard: None) for ide in (True, False)]
    with pytest.raises(StateError, match="other functions"):
        hosts[0].load(hosts[1].save())
