# SPDX-License-Identifier: GPL-2.0-or-later
"""INT 11h, 12h, 14h, 15h and 1Ah: what there is, how much memory, the serial port, the time."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from emu.boot.bios.call import Call
from emu.boot.layout import memory_map, upper_kib
from emu.savable import Savable, State

__all__ = ["System"]

_SMAP = 0x534D4150
_MIB16 = 16 << 10  # KiB
_UNSUPPORTED = 0x86
_COM1 = 0x3F8
_LINE_STATUS = 5
_CMOS_INDEX, _CMOS_DATA = 0x70, 0x71
_CMOS_CENTURY = 0x32
_MAX_MOVE = 0x8000  # words

# BIOS data area.
_EQUIPMENT = 0x10
_MEMORY_KIB = 0x13
_TICKS = 0x6C
_MIDNIGHT = 0x70
_TICKS_A_DAY = 0x1800B0

Service = Callable[[Call], bool | None]


class System(Savable):
    """The services of INT 11h, 12h, 14h, 15h and 1Ah."""

    def __init__(self, reserved: Sequence[tuple[int, int, int]] = ()) -> None:
        """`reserved` as in `BootRequest`: RAM that is not the kernel's."""
        self.reserved = tuple(reserved)
        self._until: int | None = None
        self.services15: dict[int, Service] = {
            0x24: self._a20,
            0x86: self._wait,
            0x87: self._move,
            0x88: self._extended_kib,
            0xE8: self._memory,
        }
        self.services1a: dict[int, Service] = {
            0x00: self._get_ticks,
            0x01: self._set_ticks,
            0x02: self._get_time,
            0x04: self._get_date,
        }
        self.services14: dict[int, Service] = {
            0x00: self._serial_status,
            0x01: self._serial_send,
            0x02: self._serial_receive,
            0x03: self._serial_status,
        }

    def save(self) -> State:
        """Return until when INT 15h AH=86h waits."""
        return self._make_state(until=self._until)

    def load(self, state: State) -> None:
        """Take a saved state."""
        (self._until,) = self._parts_of(state, until=int | None)

    def equipment(self, call: Call) -> None:
        """INT 11h."""
        call.ax = call.read_bda(_EQUIPMENT, 2)

    def base_memory(self, call: Call) -> None:
        """INT 12h."""
        call.ax = call.read_bda(_MEMORY_KIB, 2)

    def tick(self, call: Call) -> None:
        """IRQ 0: count it."""
        ticks = call.read_bda(_TICKS, 4) + 1
        if ticks >= _TICKS_A_DAY:
            ticks = 0
            call.write_bda(_MIDNIGHT, 1)
        call.write_bda(_TICKS, ticks, 4)

    # --- INT 15h ----------------------------------------------------------------------------------

    def _a20(self, call: Call) -> bool:
        """A20 cannot be shut here: it is always open."""
        if call.al == 2:
            call.al = 1
        elif call.al == 3:
            call.bx = 3
        elif call.al not in (0, 1):
            return False
        call.ah = 0
        call.carry(False)
        return True

    def _wait(self, call: Call) -> None:
        """CX:DX microseconds of virtual time; the stub comes back until they are over."""
        now = call.host.now()
        if self._until is None:
            self._until = now + 1000 * (call.cx << 16 | call.dx)
        if now < self._until:
            call.again_after_delay()
            return
        self._until = None
        call.carry(False)

    def _move(self, call: Call) -> None:
        """CX words from the source to the target descriptor of the table at ES:SI."""
        table = call.linear("es", call.si)
        source, target = (self._descriptor_base(call, table + offset) for offset in (0x10, 0x18))
        status = 0
        if call.cx > _MAX_MOVE:
            status = 2
        else:
            data = call.memory.read_block(source, 2 * call.cx)
            call.memory.write_block(target, data, "device")
        call.ah = status
        call.carry(status != 0)

    @staticmethod
    def _descriptor_base(call: Call, gpa: int) -> int:
        raw = call.memory.read(gpa, 8)
        return raw >> 16 & 0xFFFFFF | raw >> 32 & 0xFF000000

    def _upper_kib(self, call: Call) -> int:
        return upper_kib(memory_map(call.memory, self.reserved))

    def _extended_kib(self, call: Call) -> None:
        call.ax = min(self._upper_kib(call), 0xFFFF)
        call.carry(False)

    def _memory(self, call: Call) -> bool:
        if call.al == 0x20 and call.regs.rdx & 0xFFFFFFFF == _SMAP:
            return self._e820(call)
        if call.al not in (0x01, 0x81):
            return False
        upper = self._upper_kib(call)
        low, blocks = min(upper, _MIB16 - 1024), max(upper - (_MIB16 - 1024), 0) >> 6
        if call.al == 0x01:
            call.ax = call.cx = low
            call.bx = call.dx = min(blocks, 0xFFFF)
        else:
            call.regs.rax = call.regs.rcx = low
            call.regs.rbx = call.regs.rdx = blocks
        call.carry(False)
        return True

    def _e820(self, call: Call) -> bool:
        ranges = memory_map(call.memory, self.reserved)
        index = call.regs.rbx & 0xFFFFFFFF
        size = call.regs.rcx & 0xFFFFFFFF
        if index >= len(ranges) or size < 20:
            call.ah = _UNSUPPORTED
            call.carry(True)
            return True
        call.memory.write_block(
            call.linear("es", call.di), struct.pack("<QQI", *ranges[index]), "device"
        )
        call.regs.rax, call.regs.rcx = _SMAP, 20
        call.regs.rbx = index + 1 if index + 1 < len(ranges) else 0
        call.carry(False)
        return True

    # --- INT 1Ah ----------------------------------------------------------------------------------

    def _get_ticks(self, call: Call) -> None:
        ticks = call.read_bda(_TICKS, 4)
        call.cx, call.dx = ticks >> 16, ticks & 0xFFFF
        call.al = call.read_bda(_MIDNIGHT)
        call.ah = 0
        call.write_bda(_MIDNIGHT, 0)
        call.carry(False)

    def _set_ticks(self, call: Call) -> None:
        call.write_bda(_TICKS, call.cx << 16 | call.dx, 4)
        call.write_bda(_MIDNIGHT, 0)
        call.ah = 0
        call.carry(False)

    @staticmethod
    def _cmos(call: Call, index: int) -> int:
        call.host.ports.write(_CMOS_INDEX, 1, index)
        return call.host.ports.read(_CMOS_DATA, 1)

    def _get_time(self, call: Call) -> None:
        call.dh, call.cl, call.ch = (self._cmos(call, index) for index in (0, 2, 4))
        call.dl = 0
        call.carry(False)

    def _get_date(self, call: Call) -> None:
        call.dl, call.dh, call.cl = (self._cmos(call, index) for index in (7, 8, 9))
        call.ch = self._cmos(call, _CMOS_CENTURY)
        call.carry(False)

    # --- INT 14h ----------------------------------------------------------------------------------

    def _serial_status(self, call: Call) -> None:
        call.ah = call.host.ports.read(_COM1 + _LINE_STATUS, 1)
        call.al = call.host.ports.read(_COM1 + 6, 1)

    def _serial_send(self, call: Call) -> None:
        call.host.ports.write(_COM1, 1, call.al)
        call.ah = call.host.ports.read(_COM1 + _LINE_STATUS, 1)

    def _serial_receive(self, call: Call) -> None:
        status = call.host.ports.read(_COM1 + _LINE_STATUS, 1)
        if not status & 1:
            call.ah = 0x80  # timed out
            return
        call.al = call.host.ports.read(_COM1, 1)
        call.ah = status & 0x1E
