# SPDX-License-Identifier: GPL-2.0-or-later
"""The board: which chips there are, at which ports, and how their pins are wired.

    0x20 0xa0 0x4d0  8259 pair --LINT0--> vCPU 0      IRQ 0  8254 counter 0
    0x40  8254                                        IRQ 1  8042 keyboard
    0x60 0x64  8042 with a keyboard                   IRQ 4  COM1
    0x61 0x92  system control A and B                 IRQ 8  RTC
    0x70  RTC and CMOS
    0x3b4-0x3da  VGA         0x3f8  COM1              0xe9  debug console
    0x604  ACPI sleep control, 0x8900 "Shutdown"      0xf4  isa-debug-exit
    0xfec00000  I/O APIC, on every IRQ                0xfee00000  a local APIC per vCPU

Memory: RAM below 0xa0000, VGA memory to 0xc0000, firmware at 0xf0000, RAM from 1 MiB up to
`LOW_END`, and what is more from 4 GiB on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from emu.clock import Clock
from emu.cpu.vcpu import Vcpu
from emu.devices.apic_bus import ApicBus
from emu.devices.bus import IrqLine, PortBus, Stop, TextSink
from emu.devices.cmos import Cmos
from emu.devices.debug_exit import DebugExit
from emu.devices.debugcon import DebugConsole
from emu.devices.ioapic import DEFAULT_BASE as IOAPIC_BASE
from emu.devices.ioapic import IoApic, isa_pin
from emu.devices.keyboard import Keyboard
from emu.devices.lapic import LocalApic
from emu.devices.lapic_page import ApicWindow
from emu.devices.pic import PicPair
from emu.devices.pit import Pit
from emu.devices.port61 import SystemControlB
from emu.devices.port92 import A20Gate, SystemControlA
from emu.devices.power import ShutdownPort, SleepControl
from emu.devices.ps2 import KeyboardController
from emu.devices.serial import Serial
from emu.devices.vga import Vga
from emu.errors import UsageError
from mmu.memory import Memory

__all__ = ["MIN_MEMORY", "Board", "BoardOptions", "add_memory"]

_MIB = 1 << 20
MIN_MEMORY = 1 * _MIB
_LOW_END = 3 << 30
_VGA = (0xA0000, 0x20000)
_FOUR_GIB = 1 << 32
_MAX_MEMORY = (1 << 39) - _FOUR_GIB


@dataclass(slots=True)
class BoardOptions:
    """What a person may choose about the chips; sinks get every byte as the guest sends it.

    `debug_exit` is (first port, how many) or None, `debugcons` (port, sink), `start_time` seconds
    since 1970 for the RTC.
    """

    serial: Sequence[TextSink | None] = (None,)
    debugcons: Sequence[tuple[int, TextSink | None]] = ((0xE9, None),)
    debug_exit: tuple[int, int] | None = (0xF4, 4)
    start_time: int | None = None
    cpus: int = 1
    extra: list[Callable[[Board], None]] = field(default_factory=list)


def add_memory(memory: Memory, size: int) -> tuple[int, int]:
    """Add `size` bytes of RAM as a PC has it; returns the bytes below and above 4 GiB."""
    if size < MIN_MEMORY:
        raise UsageError(f"-m {size} bytes is too little: at least 1M")
    if size > _MAX_MEMORY:
        raise UsageError(f"-m {size >> 20}M is too much: at most {_MAX_MEMORY >> 30}G")
    size &= ~0xFFF
    memory.add_ram(0, _VGA[0])
    memory.add_ram(*_VGA)
    low = min(size, _LOW_END)
    if low > _MIB:
        memory.add_ram(_MIB, low - _MIB)
    if size > low:
        memory.add_ram(_FOUR_GIB, size - low)
    return low, size - low


_COM_PORTS = ((0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3))


class Board:
    """All chips of one machine, by name."""

    def __init__(
        self,
        memory: Memory,
        clock: Clock,
        ports: PortBus,
        *,
        ram: tuple[int, int],
        cpus: Sequence[Vcpu],
        current: Callable[[], int],
        stop: Stop,
        reset: Callable[[], None],
        options: BoardOptions,
    ) -> None:
        """Build and wire the chips. `ram` is bytes below and above 4 GiB, `current()` the number
        of the vCPU that runs."""
        self.memory = memory
        self.clock = clock
        self.ports = ports
        self.apic_bus = ApicBus()
        self.pic = pic = PicPair(lambda level: self.local_apics[0].lint(0)(level))
        self.local_apics = [
            LocalApic(
                index,
                clock,
                self.apic_bus,
                cpu,
                tsc=cpu.msrs.tsc,
                pic=pic if index == 0 else None,
                x2apic=cpu.cpuid.has("x2apic"),
            )
            for index, cpu in enumerate(cpus)
        ]
        for cpu, apic in zip(cpus, self.local_apics, strict=True):
            _connect(cpu, apic)
        self.apic_window = ApicWindow(memory, self.local_apics, lambda: self.local_apics[current()])
        self.ioapic = IoApic(self.apic_bus)
        memory.add_mmio(IOAPIC_BASE, 0x1000, self.ioapic)
        for first, last in ((0x20, 0x21), (0xA0, 0xA1), (0x4D0, 0x4D1)):
            ports.add(first, last, pic)
        self.pit = pit = Pit(clock, self.irq(0))
        ports.add(0x40, 0x43, pit)
        self.system_b = SystemControlB(pit)
        ports.add(0x61, 0x61, self.system_b)
        self.a20 = A20Gate()
        self.system_a = SystemControlA(self.a20.input("port92"), reset)
        ports.add(0x92, 0x92, self.system_a)
        self.keyboard = Keyboard(clock)
        self.ps2 = KeyboardController(self.keyboard, self.irq(1), self.a20.input("ps2"), reset)
        for first, last in self.ps2.PORTS:
            ports.add(first, last, self.ps2)
        timing = {} if options.start_time is None else {"start": options.start_time}
        self.cmos = Cmos(
            clock,
            self.irq(8),
            ram_below_4g=ram[0],
            ram_above_4g=ram[1],
            cpus=options.cpus,
            **timing,
        )
        ports.add(0x70, 0x71, self.cmos)
        self.screen = Vga(memory.read_block)
        for first, last in self.screen.PORTS:
            ports.add(first, last, self.screen)
        self.serials = [
            Serial(clock, self.irq(irq) if number < 2 else _nowhere, sink, base)
            for number, (sink, (base, irq)) in enumerate(
                zip(options.serial, _COM_PORTS, strict=False)
            )
        ]
        for serial, (base, _) in zip(self.serials, _COM_PORTS, strict=False):
            ports.add(base, base + 7, serial)
        self.debugcons = [DebugConsole(sink) for _, sink in options.debugcons]
        for console, (port, _) in zip(self.debugcons, options.debugcons, strict=True):
            ports.add(port, port, console)
        self._add_endings(stop, options)
        for plug in options.extra:
            plug(self)

    def irq(self, number: int) -> IrqLine:
        """Return ISA interrupt line `number`: it goes to the 8259s and to the I/O APIC."""
        to_pic = self.pic.line(number)
        to_apic = self.ioapic.line(isa_pin(number))

        def drive(level: bool) -> None:
            to_pic(level)
            to_apic(level)

        return drive

    def _add_endings(self, stop: Stop, options: BoardOptions) -> None:
        self.ports.add(0x604, 0x605, SleepControl(stop), width=2)
        self.ports.add(0x8900, 0x8900, ShutdownPort(stop))
        if options.debug_exit is not None:
            first, count = options.debug_exit
            self.ports.add(first, first + count - 1, DebugExit(stop), width=min(count, 4))


def _connect(cpu: Vcpu, apic: LocalApic) -> None:
    """Put a local APIC between a processor and the rest of the board."""
    cpu.interrupts = apic
    cpu.read_cr8 = lambda: apic.cr8  # type: ignore[method-assign]
    cpu.write_cr8 = lambda value: setattr(apic, "cr8", value)  # type: ignore[method-assign]
    cpu.cpuid.apic_enabled = lambda: apic.enabled
    cpu.msrs.on_tsc_changed = apic.timer.tsc_changed
    for index, (read, write) in apic.registers.msrs().items():
        cpu.msrs.add(index, read, write)


def _nowhere(_level: bool) -> None:
    """A pin that is wired to nothing."""
