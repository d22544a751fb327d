# SPDX-License-Identifier: GPL-2.0-or-later
"""INT 1Ah AH=00h to 07h, and INT 70h: the count of ticks, the clock in the CMOS, its alarm.

Times and dates are BCD, as they stand in the CMOS (MC146818 data sheet).
"""

from __future__ import annotations

from collections.abc import Callable

from emu.boot.bios.call import BDA, Call, Ports
from mmu.memory import Memory

__all__ = ["Rtc"]

_INDEX, _DATA = 0x70, 0x71
_SECONDS, _MINUTES, _HOURS, _DAY, _MONTH, _YEAR, _CENTURY = 0, 2, 4, 7, 8, 9, 0x32
_ALARM = (1, 3, 5)  # seconds, minutes, hours
_B, _C = 0x0B, 0x0C
_DAYLIGHT, _ALARM_ON, _SET = 1 << 0, 1 << 5, 1 << 7

# BIOS data area.
_TICKS = 0x6C
_MIDNIGHT = 0x70
TICKS_A_DAY = 0x1800B0
_PIT_HZ = 1_193_182  # IRQ 0 comes every 65,536 of these

Service = Callable[[Call], bool | None]


class Rtc:
    """The services of INT 1Ah that are about time, by AH."""

    def __init__(self) -> None:
        """Fill the table of functions."""
        self.functions: dict[int, Service] = {
            0x00: self._get_ticks,
            0x01: self._set_ticks,
            0x02: self._get_time,
            0x03: self._set_time,
            0x04: self._get_date,
            0x05: self._set_date,
            0x06: self._set_alarm,
            0x07: self._alarm_off,
        }

    @staticmethod
    def start(memory: Memory, ports: Ports) -> None:
        """Set the count of ticks to the time of day."""
        seconds = 0
        for index in (_HOURS, _MINUTES, _SECONDS):
            ports.write(_INDEX, 1, index)
            value = ports.read(_DATA, 1)
            seconds = 60 * seconds + 10 * (value >> 4) + (value & 0xF)
        ticks = min(seconds * _PIT_HZ >> 16, TICKS_A_DAY - 1)
        memory.write(BDA + _TICKS, 4, ticks, "loader")

    @staticmethod
    def tick(call: Call) -> None:
        """IRQ 0: count it."""
        ticks = call.read_bda(_TICKS, 4) + 1
        if ticks >= TICKS_A_DAY:
            ticks = 0
            call.write_bda(_MIDNIGHT, 1)
        call.write_bda(_TICKS, ticks, 4)

    def interrupt(self, call: Call) -> None:
        """IRQ 8: clear what has happened, and have the stub call INT 4Ah for an alarm."""
        happened = self._get(call, _C) & self._get(call, _B)
        if happened & _ALARM_ON:
            call.again_after_interrupt()  # the sign that this stub reads otherwise

    def _get_ticks(self, call: Call) -> None:
        ticks = call.read_bda(_TICKS, 4)
        call.cx, call.dx = ticks >> 16, ticks & 0xFFFF
        call.ah, call.al = 0, call.read_bda(_MIDNIGHT)
        call.write_bda(_MIDNIGHT, 0)
        call.carry(False)

    def _set_ticks(self, call: Call) -> None:
        call.write_bda(_TICKS, call.cx << 16 | call.dx, 4)
        call.write_bda(_MIDNIGHT, 0)
        call.ah = 0
        call.carry(False)

    @staticmethod
    def _get(call: Call, index: int) -> int:
        call.host.ports.write(_INDEX, 1, index)
        return call.host.ports.read(_DATA, 1)

    @staticmethod
    def _put(call: Call, index: int, value: int) -> None:
        call.host.ports.write(_INDEX, 1, index)
        call.host.ports.write(_DATA, 1, value)

    def _put_all(self, call: Call, registers: dict[int, int], b: int) -> None:
        """Write time registers with the clock stopped, and register B afterwards."""
        self._put(call, _B, b | _SET)
        for index, value in registers.items():
            self._put(call, index, value)
        self._put(call, _B, b & ~_SET)
        call.ah, call.al = 0, b & ~_SET
        call.carry(False)

    def _get_time(self, call: Call) -> None:
        registers = (_SECONDS, _MINUTES, _HOURS)
        call.dh, call.cl, call.ch = (self._get(call, index) for index in registers)
        call.dl = self._get(call, _B) & _DAYLIGHT
        call.ah, call.al = 0, call.ch
        call.carry(False)

    def _set_time(self, call: Call) -> None:
        b = self._get(call, _B) & ~_DAYLIGHT | call.dl & _DAYLIGHT
        self._put_all(call, {_SECONDS: call.dh, _MINUTES: call.cl, _HOURS: call.ch}, b)

    def _get_date(self, call: Call) -> None:
        registers = (_DAY, _MONTH, _YEAR, _CENTURY)
        call.dl, call.dh, call.cl, call.ch = (self._get(call, index) for index in registers)
        call.ah, call.al = 0, call.ch
        call.carry(False)

    def _set_date(self, call: Call) -> None:
        date = {_DAY: call.dl, _MONTH: call.dh, _YEAR: call.cl, _CENTURY: call.ch}
        self._put_all(call, date, self._get(call, _B))

    def _set_alarm(self, call: Call) -> None:
        """CF if there is one already; else IRQ 8 at CH:CL:DH, which calls INT 4Ah."""
        call.ax = 0
        b = self._get(call, _B)
        call.carry(bool(b & _ALARM_ON))
        if not b & _ALARM_ON:
            for index, value in zip(_ALARM, (call.dh, call.cl, call.ch), strict=True):
                self._put(call, index, value)
            self._put(call, _B, b & ~_SET | _ALARM_ON)

    def _alarm_off(self, call: Call) -> None:
        b = self._get(call, _B)
        self._put(call, _B, b & ~_ALARM_ON)
        call.ah, call.al = 0, b
        call.carry(False)
