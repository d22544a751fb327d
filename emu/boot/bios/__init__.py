# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware: a ROM of small stubs whose services are written in Python.

    rom.py       the stubs, and how they ask
    call.py      the caller's registers and memory
    compat.py    what stands at fixed addresses; font.py
    video.py     INT 10h
    disk.py      INT 13h
    serial.py    INT 14h
    system.py    INT 11h, 12h, 15h
    keyboard.py  INT 09h, 16h
    rtc.py       INT 1Ah, 70h; pci.py: INT 1Ah AH=B1h

There is firmware under every kernel, as there is on a real board: multiboot kernels read the BIOS
data area, and some go back to real mode to call it. What a service does not know it refuses as
others do, mostly with CF set (INT 15h with AH = 86h, INT 13h with AH = 01h), and says so in the log
once. Addresses of buffers are segment:offset without
paging: a caller in VM86 mode has to have them mapped one to one.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Mapping, Sequence

from emu.boot.bios.call import BDA, BiosHost, Call
from emu.boot.bios.cd import FIRST_CD
from emu.boot.bios.compat import DATA_VECTORS
from emu.boot.bios.disk import Disks, Floppy, MemoryDisk
from emu.boot.bios.keyboard import Keyboard
from emu.boot.bios.pci import PciBios
from emu.boot.bios.rom import (
    HARDWARE_VECTORS,
    POST,
    ROM_BASE,
    SERVICE_PORT,
    VECTORS,
    build_rom,
    stub_offset,
    vector_of,
)
from emu.boot.bios.rtc import Rtc
from emu.boot.bios.serial import SerialPorts
from emu.boot.bios.system import System
from emu.boot.bios.video import Video
from emu.boot.layout import EBDA
from emu.boot.request import Disk, Emulation, SectorReader
from emu.errors import StateError
from emu.savable import Savable, State
from mmu.memory import Memory

__all__ = ["RESUME_CODES", "SERVICE_PORT", "Bios", "BiosHost", "Call", "MemoryDisk"]

RESUME_CODES = frozenset((0x05, 0x0A))
"""Shutdown codes in CMOS by which a program has the firmware jump through the dword 0040:0067 after
a reset (IBM PC/AT Technical Reference, BIOS listing): 05h with an end of interrupt, 0Ah without."""

FIRST_HARD_DISK = 0x80
_UNSUPPORTED = 0x86
_SET_MODE, _SET_VESA_MODE = 0x00, 0x4F02  # INT 10h, AH and AX
_FREE_VECTORS = range(0x60, 0x68)  # left to programs

# The BIOS data area as it stands after power-on self-test: offset, struct format, values.
_DATA_AREA = (
    (0x00, "<H", 0x3F8),  # COM1
    (0x0E, "<H", EBDA >> 4),
    (0x10, "<H", 0x0222),  # equipment: FPU, 80x25 colour, one serial port
    (0x13, "<H", EBDA >> 10),
    (0x1A, "<HH", 0x1E, 0x1E),  # keyboard ring: head, tail
    (0x49, "<BHHH", 3, 80, 0x1000, 0),  # video mode, columns, page size, page start
    (0x60, "<HBHB", 0x0607, 0, 0x3D4, 0x29),  # cursor shape, active page, CRTC port, mode control
    (0x80, "<HH", 0x1E, 0x3E),  # keyboard ring: start, end
    (0x96, "<B", 0x10),  # a keyboard with 101 keys
    (0x84, "<BHBB", 24, 16, 0x60, 0xF9),  # last row, character height, EGA information
)
_EQUIPMENT = 0x10
_FLOPPIES_PRESENT = 1
_HARD_DISKS = 0x75
_LOW_MEMORY = 0x500  # interrupt vectors and BIOS data area
_TEXT, _TEXT_SIZE = 0xB8000, 0x8000
_CMOS, _SHUTDOWN = 0x70, 0x0F
_EOI = 0x20

# (port, value): the 8259 pair at vectors 08h and 70h, IRQs masked as SeaBIOS leaves them; the
# 8254's channel 0 at 18.2 Hz.
_BOARD = (
    (0x20, 0x11),
    (0x21, HARDWARE_VECTORS[0]),
    (0x21, 0x04),
    (0x21, 0x01),
    (0xA0, 0x11),
    (0xA1, HARDWARE_VECTORS[8]),
    (0xA1, 0x02),
    (0xA1, 0x01),
    (0x21, 0xB8),
    (0xA1, 0x8E),
    (0x43, 0x34),
    (0x40, 0x00),
    (0x40, 0x00),
)

_log = logging.getLogger("shadowcorn.bios")


class Bios(Savable):
    """The firmware of one machine. `install` before the kernel is loaded, `attach` afterwards."""

    STATE_VERSION = 2

    def __init__(self, tables: Mapping[int, bytes] | None = None,
                 reserved: Sequence[tuple[int, int, int]] = (),
                 warn: Callable[[str], None] = lambda text: None) -> None:  # fmt: skip
        """Put `tables` (gpa: bytes, in 0xf2000-0xfbdff) into the ROM.

        `reserved` are (gpa, size, E820 type) of RAM that the board keeps, as in `BootRequest`.
        `warn` is called once if the guest asks for a graphics mode.
        """
        self._warn: Callable[[str], None] | None = warn
        self.rom = build_rom(tables)
        self.disks: dict[int, Disk] = {}
        """By drive number, 0x80 the first hard disk; may be filled after `install`."""
        self._host: BiosHost | None = None
        self._is_serving = False  # a guest may have named our port as a serial port's
        self._refused: set[tuple[int, int]] = set()
        self._disks = Disks(self.disks)
        self._video = Video()
        self._keyboard = Keyboard()
        self._system = System(reserved)
        self._rtc = Rtc()
        self._serial = SerialPorts()
        self._functions1a = {**self._rtc.functions, 0xB1: PciBios().serve}

    def install(self, memory: Memory) -> None:
        """Add the ROM slot, and write what the firmware keeps in RAM."""
        memory.add_rom(ROM_BASE, self.rom)
        self._write_data(memory)

    def _write_data(self, memory: Memory) -> None:
        """Write interrupt vectors, BIOS data area and extended data area."""
        memory.write_block(0, bytes(_LOW_MEMORY), "loader")
        for vector in VECTORS:
            if vector not in _FREE_VECTORS:
                offset = DATA_VECTORS.get(vector, stub_offset(vector))
                entry = offset | (ROM_BASE >> 4) << 16
                memory.write(4 * vector, 4, entry, "loader")
        for offset, layout, *values in _DATA_AREA:
            memory.write_block(BDA + offset, struct.pack(layout, *values), "loader")
        memory.write_block(EBDA, b"\1".ljust(1024, b"\0"), "loader")  # its size in KiB
        self._count_drives(memory)

    def boot_from_cd(self, image: SectorReader, entry: Emulation) -> None:
        """Have INT 13h show that the machine was booted from a CD, as `entry` says."""
        self._disks.cd.start(image, entry)
        if self._host is not None:
            self._count_drives(self._host.guest_memory)

    def attach(self, host: BiosHost) -> None:
        """Add the service port to the bus and leave PIC and PIT as a BIOS leaves them."""
        self._host = host
        host.ports.add(SERVICE_PORT, SERVICE_PORT, self)
        self._program_board(host)

    def _program_board(self, host: BiosHost) -> None:
        for port, value in _BOARD:
            host.ports.write(port, 1, value)
        self._serial.find(host.guest_memory, host.ports)
        self._rtc.start(host.guest_memory, host.ports)

    def start_again(self, host: BiosHost) -> None:
        """Do after a reset what `install` and `attach` did at power-on; the screen is cleared."""
        self._write_data(host.guest_memory)
        host.guest_memory.write_block(_TEXT, bytes(_TEXT_SIZE), "loader")
        self._program_board(host)

    def save(self) -> State:
        """Return what the services remember, and the drives that only they reach: a hard disk is
        saved by its controller. All else of the firmware is in RAM."""
        drives = {number: disk.save() for number, disk in self._own_drives().items()}
        return self._make_state(system=self._system.save(), drives=drives, cd=self._disks.cd.save())

    def load(self, state: State) -> None:
        """Take a saved state. Raises StateError if it has other drives."""
        system, drives, cd = self._parts_of(state, system=State, drives=dict[int, State], cd=State)
        own = self._own_drives()
        if drives.keys() != own.keys():
            raise StateError("Bios: the state has other drives than the machine")
        self._system.load(system)
        self._disks.cd.load(cd)
        for number, disk in own.items():
            disk.load(drives[number])

    def _own_drives(self) -> dict[int, Savable]:
        return {n: disk for n, disk in self.disks.items() if isinstance(disk, (Floppy, MemoryDisk))}

    def insert(self, number: int, disk: Disk) -> None:
        """Make `disk` drive `number` (0 the first floppy, 0x80 the first hard disk)."""
        self.disks[number] = disk if number >= FIRST_HARD_DISK else Floppy(disk)
        if self._host is not None:
            self._count_drives(self._host.guest_memory)

    def _count_drives(self, memory: Memory) -> None:
        drives = [number for number in self._disks.drives if number < FIRST_CD]
        hard = sum(drive >= FIRST_HARD_DISK for drive in drives)
        memory.write(BDA + _HARD_DISKS, 1, hard, "loader")
        if hard < len(drives):
            equipment = memory.read(BDA + _EQUIPMENT, 2) | _FLOPPIES_PRESENT
            memory.write(BDA + _EQUIPMENT, 2, equipment, "loader")

    # --- The service port -----------------------------------------------------------------------

    def read(self, port: int, size: int) -> int:
        """Return all ones: the port is for asking only."""
        return 0xFF

    def write(self, port: int, size: int, value: int) -> None:
        """Serve the stub whose OUT this is; an OUT from anywhere else does nothing."""
        if self._host is None or self._is_serving:
            return
        regs = self._host.registers()
        vector = vector_of(regs.cs.base + regs.rip & 0xFFFFFFFF)
        if vector is None:
            return
        call = Call(self._host, vector)
        call.clear_signals()
        self._is_serving = True
        try:
            if not self._serve(call):
                self._refuse(call)
        finally:
            self._is_serving = False

    def _serve(self, call: Call) -> bool:
        """Do what is asked; False if there is no such service."""
        system = self._system
        match call.vector:
            case _ if call.vector == POST:
                self._power_on_self_test(call.host)
            case 0x08:
                self._rtc.tick(call)
                system.tick(call)
            case 0x09:
                self._keyboard.interrupt(call)
            case 0x10:
                return self._by_ah(self._video.functions, call)
            case 0x11:
                system.equipment(call)
            case 0x12:
                system.base_memory(call)
            case 0x13:
                return self._disks.serve(call)
            case 0x14:
                return self._by_ah(self._serial.functions, call)
            case 0x15:
                return self._by_ah(system.services15, call)
            case 0x16:
                return self._by_ah(self._keyboard.functions, call)
            case 0x1A:
                return self._by_ah(self._functions1a, call)
            case 0x17:
                pass  # there is no parallel port: nothing changes
            case 0x70:
                self._rtc.interrupt(call)
            case _:
                return False
        return True

    @staticmethod
    def _power_on_self_test(host: BiosHost) -> None:
        """Come from reset, INIT, or a jump to FFFF:0: go on with a program that has asked for it in
        the CMOS (the stub jumps), or start the machine again."""
        ports = host.ports
        ports.write(_CMOS, 1, _SHUTDOWN)
        code = ports.read(_CMOS + 1, 1)
        ports.write(_CMOS + 1, 1, 0)
        if code not in RESUME_CODES:
            host.restart()
        elif code == 0x05:
            ports.write(0xA0, 1, _EOI)
            ports.write(0x20, 1, _EOI)

    @staticmethod
    def _by_ah(functions: Mapping[int, object], call: Call) -> bool:
        function = functions.get(call.ah)
        return callable(function) and function(call) is not False

    def _refuse(self, call: Call) -> None:
        key = (call.vector, call.ax)
        if key not in self._refused and len(self._refused) < 100:
            self._refused.add(key)
            _log.info("INT %02xh with AX=%04x is not served", call.vector, call.ax)
        sets_mode = call.ah == _SET_MODE or call.ax == _SET_VESA_MODE
        if call.vector == 0x10 and sets_mode and self._warn is not None:
            warn, self._warn = self._warn, None
            warn("the guest asks for a video mode that is not there: INT 10h has text, 13h and VBE")
        if call.vector in (0x10, 0x13, 0x14, 0x15, 0x16, 0x1A):
            if call.vector == 0x15:
                call.ah = _UNSUPPORTED
            call.carry(True)
