# SPDX-License-Identifier: GPL-2.0-or-later
"""INT 14h: the serial ports, by their numbers in the BIOS data area (16550 data sheet)."""

from __future__ import annotations

from collections.abc import Callable

from emu.boot.bios.call import BDA, Call, Ports
from mmu.memory import Memory

__all__ = ["SerialPorts"]

_BASES = (0x3F8, 0x2F8, 0x3E8, 0x2E8)
_DATA, _LINE_CONTROL, _MODEM_CONTROL, _LINE_STATUS, _MODEM_STATUS = 0, 3, 4, 5, 6
_DIVISOR_ACCESS = 0x80
_TIMED_OUT = 0x80
_DTR_RTS = 3
_FLOATING = 0xFF
# By bits 7-5 of AL: 110, 150, 300, 600, 1200, 2400, 4800, 9600 baud.
_DIVISORS = (0x417, 0x300, 0x180, 0xC0, 0x60, 0x30, 0x18, 0xC)
_EQUIPMENT = 0x10
_EQUIPMENT_SHIFT = 9


class SerialPorts:
    """The services of INT 14h, by AH. A port that is not there leaves everything as it is."""

    def __init__(self) -> None:
        """Fill the table of functions."""
        self.functions: dict[int, Callable[[Call], bool | None]] = {
            0x00: self._initialise,
            0x01: self._send,
            0x02: self._receive,
            0x03: self._status,
        }

    @staticmethod
    def find(memory: Memory, ports: Ports) -> None:
        """Write down the ports that answer, and their number in the equipment word."""
        found = [base for base in _BASES if ports.read(base + _LINE_STATUS, 1) != _FLOATING]
        for number in range(len(_BASES)):
            base = found[number] if number < len(found) else 0
            memory.write(BDA + 2 * number, 2, base, "loader")
        equipment = memory.read(BDA + _EQUIPMENT, 2) & ~(7 << _EQUIPMENT_SHIFT)
        equipment |= len(found) << _EQUIPMENT_SHIFT
        memory.write(BDA + _EQUIPMENT, 2, equipment, "loader")

    @staticmethod
    def _base(call: Call) -> int:
        """Return the first of a port's eight ports, 0 if it is not there."""
        return call.read_bda(2 * call.dx, 2) & ~7 if call.dx < len(_BASES) else 0

    def _initialise(self, call: Call) -> bool | None:
        base, ports = self._base(call), call.host.ports
        if base:
            divisor = _DIVISORS[call.al >> 5]
            ports.write(base + _LINE_CONTROL, 1, call.al & 0x1F | _DIVISOR_ACCESS)
            ports.write(base + _DATA, 1, divisor & 0xFF)
            ports.write(base + _DATA + 1, 1, divisor >> 8)
            ports.write(base + _LINE_CONTROL, 1, call.al & 0x1F)
        return self._status(call)

    def _status(self, call: Call) -> bool | None:
        base, ports = self._base(call), call.host.ports
        if not base:
            return None
        call.ah = ports.read(base + _LINE_STATUS, 1)
        call.al = ports.read(base + _MODEM_STATUS, 1)
        call.carry(False)
        return None

    def _send(self, call: Call) -> None:
        base, ports = self._base(call), call.host.ports
        if base:
            ports.write(base + _MODEM_CONTROL, 1, ports.read(base + _MODEM_CONTROL, 1) | _DTR_RTS)
            ports.write(base + _DATA, 1, call.al)
            call.ah = ports.read(base + _LINE_STATUS, 1)
            call.carry(False)

    def _receive(self, call: Call) -> None:
        base, ports = self._base(call), call.host.ports
        if not base:
            return
        status = ports.read(base + _LINE_STATUS, 1)
        call.carry(False)
        if status & 1:
            call.al = ports.read(base + _DATA, 1)
            call.ah = status & 0x1E
        else:
            call.ah = status | _TIMED_OUT
