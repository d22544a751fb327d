# SPDX-License-Identifier: GPL-2.0-or-later
"""The board: which chips there are, at which ports, and how their pins are wired.

    0x20 0xa0 0x4d0  8259 pair --LINT0--> every vCPU  IRQ 0  8254 counter 0
    0x40  8254                                        IRQ 1  8042 keyboard
    0x60 0x64  8042 with a keyboard                   IRQ 4  COM1
    0x61 0x92  system control A and B                 IRQ 8  RTC
    0x70  RTC and CMOS
    0x3b4-0x3da 0x1ce  VGA   0x3f8  COM1              0xe9  debug console
    0x600  ACPI power management, 0xb2 APM            IRQ 9  ACPI
    0x1f0 0x170  IDE, where there are disks or CDs    IRQ 14, 15
    0x510  fw_cfg            0xcf8  PCI configuration
    0x8900 "Shutdown"        0xf4  isa-debug-exit     0xe0 0x2000  pc-testdev, if asked for
    0xfec00000  I/O APIC, on every IRQ                0xfee00000  a local APIC per vCPU
    0xfed00000  HPET, which may take over IRQ 0 and 8

Memory: RAM below 0xa0000, VGA memory to 0xc0000, firmware at 0xf0000, RAM from 1 MiB up to
`LOW_END`, and what is more from 4 GiB on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from emu.boot.bios.rom import ROM_BASE
from emu.boot.layout import memory_map
from emu.boot.request import Disk as FirmwareDisk
from emu.clock import Clock
from emu.cpu.vcpu import Vcpu
from emu.devices import hpet
from emu.devices.acpi_pm import PM_BASE, PM_SIZE, AcpiPm, ApmPort
from emu.devices.apic_bus import ApicBus
from emu.devices.atapi import CdDrive, Image
from emu.devices.bochs_vbe import BochsDisplay, VgaFunction
from emu.devices.cmos import Cmos
from emu.devices.debug_exit import DebugExit
from emu.devices.debugcon import DebugConsole
from emu.devices.disk import Disk
from emu.devices.fw_cfg import FwCfg, e820_item
from emu.devices.ide import IdeChannel
from emu.devices.ioapic import DEFAULT_BASE as IOAPIC_BASE
from emu.devices.ioapic import IoApic, isa_pin
from emu.devices.keyboard import Keyboard
from emu.devices.lapic import LocalApic
from emu.devices.lapic_page import ApicWindow
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
from emu.errors import NotSavableError, StateError, UsageError
from emu.ports import IrqLine, PortBus, Stop, TextSink, fan_out, nowhere
from emu.savable import Savable, State
from emu.state import CpuState
from mmu.memory import Memory, Slot

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
    since 1970 for the RTC, `disks` by number (0 and 1 on the first IDE channel), `cds` likewise the
    images in CD-ROM drives, `floppies` by
    number, which the firmware alone can reach: there is no controller; `fw_cfg` files by name;
    `test_device` adds QEMU's pc-testdev. `foreign_power` is whether there is Bochs' power-off port,
    0x8900, which QEMU's pc does not have. `reserved` is RAM that firmware keeps,
    `framebuffer` the video memory, for an engine that cannot have it later.
    """

    serial: Sequence[TextSink | None] = (None,)
    debugcons: Sequence[tuple[int, TextSink | None]] = ((0xE9, None),)
    debug_exit: tuple[int, int] | None = (0xF4, 4)
    start_time: int | None = None
    cpus: int = 1
    disks: Mapping[int, Disk] = field(default_factory=dict)
    cds: Mapping[int, Image] = field(default_factory=dict)
    floppies: Mapping[int, FirmwareDisk] = field(default_factory=dict)
    fw_cfg: Mapping[str, bytes] = field(default_factory=dict)
    test_device: bool = False
    hpet: bool = True
    foreign_power: bool = True
    reserved: Sequence[tuple[int, int, int]] = ()
    framebuffer: Slot | None = None
    extra: list[Callable[[Board], None]] = field(default_factory=list)


def add_memory(memory: Memory, size: int) -> tuple[int, int]:
    """Add `size` bytes of RAM as a PC has it; returns the bytes below and above 4 GiB."""
    if size < MIN_MEMORY:
        raise UsageError(f"-m {size} bytes is too little: at least 1M")
    if size > _MAX_MEMORY:
        raise UsageError(f"-m {size >> 20}M is too much: at most {_MAX_MEMORY >> 30}G")
    size &= ~0xFFF
    low = min(size, _LOW_END)
    pieces = [(0, _VGA[0]), _VGA, (_MIB, low - _MIB), (_FOUR_GIB, size - low)]
    try:
        for gpa, length in pieces:
            if length > 0:
                memory.add_ram(gpa, length)
    except (OSError, OverflowError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"-m {size >> 20}M cannot be had from this host: {reason}") from error
    return low, size - low


_Chip = TypeVar("_Chip", bound=Savable)


class _Resettable(Protocol):
    def reset(self) -> None: ...


_COM_PORTS = ((0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3))


class Board(Savable):
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
        reset: Callable[[bool], None],
        options: BoardOptions,
    ) -> None:
        """Build and wire the chips. `ram` is bytes below and above 4 GiB, `current()` the number
        of the vCPU that runs; `reset(hard)` is called for the guest: of everything, or of the
        processors alone."""
        self.memory = memory
        self.clock = clock
        self.ports = ports
        self._named: dict[str, Savable] = {}
        self._add_interrupts(cpus, current)
        self._add_timers(options, ram)
        self._add_controls(partial(reset, False))
        self._add_consoles(options)
        self._add_power(stop, options.foreign_power)
        self._debug_exits: list[DebugExit] = []
        if options.debug_exit is not None:
            first, count = options.debug_exit
            self._debug_exits.append(self._name("debug_exit", DebugExit(stop)))
            ports.add(first, first + count - 1, self._debug_exits[0], width=min(count, 4))
        self._add_configuration(sum(ram), reset, options)
        self._add_disks(options.disks, options.cds)
        if options.test_device:
            self._add_test_device()
        for plug in options.extra:
            plug(self)

    def _name(self, name: str, chip: _Chip) -> _Chip:
        """Let `chip` be saved under `name`; returns it."""
        self._named[name] = chip
        return chip

    def reset(self, *, warm: bool = False) -> None:
        """Pull every chip's reset pin. What the host has typed, the time, the CMOS and the disks
        stay; port 0x92, too, where the start is `warm`: a jump of the firmware's, with no reset."""
        chips: list[_Resettable] = [self.hpet, self.ioapic, self.pic, self.pit, *self.local_apics]
        chips += [self.system_b, *([] if warm else [self.system_a]), self.keyboard, self.ps2]
        chips += [self.cmos, self.screen, *self.serials, self.power, self.shutdown_port]
        chips += [self.fw_cfg, self.pci, self.display, *self.ide, *self._debug_exits]
        for chip in chips:
            chip.reset()

    # --- Saving ---------------------------------------------------------------------------------

    def chips(self) -> dict[str, Savable]:
        """Return by name every chip that has a state of its own.

        What was put on the port bus or into memory by others (`BoardOptions.extra`, the firmware)
        is there too, by its type and address. Raises NotSavableError for one that is no Savable.
        """
        chips = dict(self._named)
        known = {id(chip) for chip in chips.values()}
        found: list[tuple[int, object]] = [*self.ports.devices()]
        found += [(slot.gpa, slot.device) for slot in self.memory.slots() if slot.device]
        for address, device in found:
            if id(device) in known or self.apic_window.owns(device):
                continue
            name = f"{type(device).__name__}@{address:#x}"
            if not isinstance(device, Savable):
                raise NotSavableError(f"{name} cannot be saved: it is no Savable")
            chips[name] = device
        return chips

    def save(self) -> State:
        """Return the states of all chips. Save the clock first, so that an event of no chip's is
        found: NotSavableError, as for a chip that has no state."""
        state = self._make_state(chips={name: chip.save() for name, chip in self.chips().items()})
        self.clock.check_events()
        return state

    def load(self, state: State) -> None:
        """Load all chips, after the clock. Raises StateError if they are not the same chips; the
        machine is of no use then."""
        (states,) = self._parts_of(state, chips=dict[str, State])
        chips = self.chips()
        if states.keys() != chips.keys():
            strange = ", ".join(sorted(states.keys() ^ chips.keys()))
            raise StateError(f"the state has other chips than the board: {strange}")
        for name, chip in chips.items():
            chip.load(states[name])
        self.clock.check_events()

    # --- Wires ----------------------------------------------------------------------------------

    def irq(self, number: int) -> IrqLine:
        """Return ISA interrupt line `number`: it goes to the 8259s and to the I/O APIC."""
        return fan_out(self.pic.line(number), self.ioapic.line(isa_pin(number)))

    def has_unmaskable_route(self) -> bool:
        """Return whether a device's interrupt could reach a processor as an NMI or INIT: by the I/O
        APIC, or by the 8259s through LINT0. (LINT1 is wired to nothing.)"""
        return self.ioapic.is_unmaskable or any(apic.is_unmaskable for apic in self.local_apics)

    # --- The chips, in the order of the drawing above -------------------------------------------

    def _add_interrupts(self, cpus: Sequence[Vcpu], current: Callable[[], int]) -> None:
        """Add the 8259s, the local APICs behind them, and the I/O APIC."""
        self.pic = pic = self._name("pic", PicPair())
        self.apic_bus = ApicBus()
        self.local_apics = [
            LocalApic(
                index,
                self.clock,
                self.apic_bus,
                cpu,
                tsc=cpu.msrs.tsc,
                pic=pic,
                x2apic=cpu.cpuid.has("x2apic"),
            )
            for index, cpu in enumerate(cpus)
        ]
        for cpu, apic in zip(cpus, self.local_apics, strict=True):
            self._name(f"lapic{cpu.index}", apic)
            cpu.connect(apic)
            cpu.after_init = partial(_start_in_rom, cpu)
        # INTR of the 8259s is on all processors' LINT0 (MP specification 1.4, figure 3-3).
        pic.connect(fan_out(*(apic.lint(0) for apic in self.local_apics)))
        self.apic_window = ApicWindow(self.memory, self.local_apics, current)
        self.ioapic = self._name("ioapic", IoApic(self.apic_bus))
        self.memory.add_mmio(IOAPIC_BASE, 0x1000, self.ioapic)
        for first, last in ((0x20, 0x21), (0xA0, 0xA1), (0x4D0, 0x4D1)):
            self.ports.add(first, last, pic)

    def _add_timers(self, options: BoardOptions, ram: tuple[int, int]) -> None:
        """Add the HPET, and the 8254 and the RTC whose interrupts it may take over."""
        clock, ports = self.clock, self.ports
        chip = hpet.Hpet(clock, self.ioapic.line, self.irq(0), self.irq(8))
        self.hpet = self._name("hpet", chip)
        if options.hpet:  # else nobody finds it, and it passes IRQ 0 and 8 on
            self.memory.add_mmio(hpet.BASE, hpet.SIZE, self.hpet)
        self.pit = self._name("pit", Pit(clock, self.hpet.pit_irq))
        ports.add(0x40, 0x43, self.pit)
        timing = {} if options.start_time is None else {"start": options.start_time}
        self.cmos = self._name(
            "cmos",
            Cmos(
                clock,
                self.hpet.rtc_irq,
                ram_below_4g=ram[0],
                ram_above_4g=ram[1],
                cpus=options.cpus,
                **timing,
            ),
        )
        ports.add(0x70, 0x71, self.cmos)

    def _add_controls(self, soft_reset: Callable[[], None]) -> None:
        """Add ports 0x61 and 0x92, the A20 gate, and the 8042 with its keyboard."""
        ports = self.ports
        self.system_b = self._name("port61", SystemControlB(self.pit))
        ports.add(0x61, 0x61, self.system_b)
        self.a20 = self._name("a20", A20Gate())
        self.system_a = self._name("port92", SystemControlA(self.a20.input("port92"), soft_reset))
        ports.add(0x92, 0x92, self.system_a)
        self.keyboard = self._name("keyboard", Keyboard(self.clock))
        a20 = self.a20.input("ps2")
        self.ps2 = self._name(
            "ps2", KeyboardController(self.keyboard, self.irq(1), a20, soft_reset)
        )
        for first, last in self.ps2.PORTS:
            ports.add(first, last, self.ps2)

    def _add_consoles(self, options: BoardOptions) -> None:
        """Add the screen, the serial ports and the debug consoles."""
        ports = self.ports
        self.screen = self._name("vga", Vga(self.memory.read_block))
        for first, last in self.screen.PORTS:
            ports.add(first, last, self.screen)
        self.serials: list[Serial] = []
        for number, (sink, (base, irq)) in enumerate(zip(options.serial, _COM_PORTS, strict=False)):
            line = self.irq(irq) if number < 2 else nowhere
            serial = self._name(f"com{number + 1}", Serial(self.clock, line, sink, base))
            ports.add(base, base + 7, serial)
            self.serials.append(serial)
        self.debugcons = [DebugConsole(sink) for _, sink in options.debugcons]
        for console, (port, _) in zip(self.debugcons, options.debugcons, strict=True):
            ports.add(port, port, self._name(f"debugcon{port:#x}", console))

    def _add_power(self, stop: Stop, foreign: bool) -> None:
        self.power = self._name("acpi_pm", AcpiPm(self.clock, self.irq(9), stop))
        self.ports.add(PM_BASE, PM_BASE + PM_SIZE - 1, self.power, width=4)
        self.ports.add(0xB2, 0xB3, self._name("apm", ApmPort(self.power)))
        self.shutdown_port = self._name("shutdown", ShutdownPort(stop))
        if foreign:
            self.ports.add(0x8900, 0x8900, self.shutdown_port)

    def _add_configuration(
        self, ram_size: int, reset: Callable[[bool], None], options: BoardOptions
    ) -> None:
        """Add what tells the guest about the board: fw_cfg and PCI configuration space."""
        cpus = options.cpus
        chip = FwCfg(self.clock, self.memory, ram_size=ram_size, cpus=cpus, max_cpus=cpus)
        self.fw_cfg = self._name("fw_cfg", chip)
        ram = (piece for piece in memory_map(self.memory, options.reserved) if piece.kind == 1)
        self.fw_cfg.add_file("etc/e820", e820_item(ram))
        for name, data in options.fw_cfg.items():
            self.fw_cfg.add_file(name, data)
        self.ports.add(0x510, 0x51B, self.fw_cfg, width=4)
        functions = i440fx_functions(ide=bool(options.disks or options.cds))
        functions[2, 0] = vga = VgaFunction()
        self.pci = self._name("pci", PciHost(functions, reset))
        self.ports.add(0xCF8, 0xCFF, self.pci, width=4)
        self.display = self._name("display", BochsDisplay(self.memory, vga, options.framebuffer))
        self.ports.add(*self.display.PORTS, self.display, width=2)
        self.screen.display = self.display

    def _add_disks(self, disks: Mapping[int, Disk], cds: Mapping[int, Image]) -> None:
        self.ide: list[IdeChannel] = []
        drives: dict[int, Disk | CdDrive] = {
            **disks,
            **{number: CdDrive(image) for number, image in cds.items()},
        }
        for first, irq, base, control in ((0, 14, 0x1F0, 0x3F6), (2, 15, 0x170, 0x376)):
            master, slave = drives.get(first), drives.get(first + 1)
            if master is None and slave is None:
                continue
            channel = IdeChannel(
                self.clock, self.irq(irq), master, slave, base=base, control=control
            )
            for low, high, width in channel.ports:
                self.ports.add(low, high, channel, width=width)
            self.ide.append(self._name(f"ide{base:#x}", channel))

    def _add_test_device(self) -> None:
        """Let the guest pull every interrupt line; line 2 is the I/O APIC's alone."""
        lines = [self.irq(n) if n != 2 else self.ioapic.line(2) for n in range(16)]
        lines += [self.ioapic.line(n) for n in range(16, 24)]
        TestDevice(lines).attach(self.ports, self.memory)


def _start_in_rom(cpu: Vcpu) -> None:
    """After an INIT, let the boot processor run the firmware where it is, at F000:FFF0.

    It starts 16 bytes below 4 GiB, where a board shows its ROM again. Here that is no slot: what
    the MMU keeps for each frame reaches up to the highest one.
    """
    start = CpuState.reset().segments["cs"].base
    if cpu.index == 0 and cpu.regs.cs.base == start:
        cpu.regs.cs = cpu.regs.cs._replace(base=ROM_BASE)
