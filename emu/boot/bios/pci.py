# SPDX-License-Identifier: GPL-2.0-or-later
"""INT 1Ah AH=B1h: PCI configuration (PCI BIOS specification 2.1), real-mode calls.

There is no 32-bit entry point: EDI is 0 in the answer to the installation check.
"""

from __future__ import annotations

from collections.abc import Iterator

from emu.boot.bios.call import Call

__all__ = ["PciBios"]

_ADDRESS, _DATA = 0xCF8, 0xCFC
_NOT_SUPPORTED, _BAD_VENDOR, _NOT_FOUND, _BAD_REGISTER = 0x81, 0x83, 0x86, 0x87
_SIZES = {0: 1, 1: 2, 2: 4}


class PciBios:
    """The subfunctions of AH=B1h, by AL."""

    def serve(self, call: Call) -> None:
        """Do what AL asks; AH is 0, or a status with CF set."""
        subfunction: int = call.al
        match subfunction:
            case 0x01:
                status = self._present(call)
            case 0x02:
                status = self._find_device(call)
            case 0x03:
                status = self._find_class(call)
            case _ if 0x08 <= subfunction <= 0x0D:
                status = self._access(call, subfunction - 0x08)
            case _:
                status = _NOT_SUPPORTED
        call.ah = status
        call.carry(status != 0)

    @staticmethod
    def _read(call: Call, function: int, register: int) -> int:
        ports = call.host.ports
        ports.write(_ADDRESS, 4, 1 << 31 | function << 8 | register & 0xFC)
        return ports.read(_DATA, 4)

    def _present(self, call: Call) -> int:
        if self._read(call, 0, 0) == 0xFFFF_FFFF:
            return _NOT_SUPPORTED
        call.regs.rdx = int.from_bytes(b"PCI ", "little")
        call.regs.rdi = 0
        call.al = 1  # configuration mechanism 1
        call.bx = 0x0210
        call.cl = 0  # the last bus
        return 0

    def _functions(self, call: Call) -> Iterator[int]:
        """Yield bus, device and function of everything on bus 0, as BX has them."""
        for device in range(32):
            for function in range(8):
                number = device << 3 | function
                if self._read(call, number, 0) & 0xFFFF != 0xFFFF:
                    yield number
                elif not function:
                    break

    def _find(self, call: Call, register: int, shift: int, wanted: int) -> int:
        index: int = call.si
        for number in self._functions(call):
            if self._read(call, number, register) >> shift == wanted:
                if not index:
                    call.bx = number
                    return 0
                index -= 1
        return _NOT_FOUND

    def _find_device(self, call: Call) -> int:
        if call.dx == 0xFFFF:
            return _BAD_VENDOR
        return self._find(call, 0, 0, call.cx << 16 | call.dx)

    def _find_class(self, call: Call) -> int:
        return self._find(call, 8, 8, call.regs.rcx & 0xFF_FFFF)

    def _access(self, call: Call, operation: int) -> int:
        """Read a byte, word, double word (0 to 2) or write one (3 to 5) at register DI of BX."""
        size = _SIZES[operation % 3]
        register: int = call.di
        if register % size or register > 0xFF:
            return _BAD_REGISTER
        ports = call.host.ports
        ports.write(_ADDRESS, 4, 1 << 31 | call.bx << 8 | register & 0xFC)
        port = _DATA + register % 4
        if operation > 2:
            ports.write(port, size, call.regs.rcx & (1 << 8 * size) - 1)
        elif size == 4:
            call.regs.rcx = ports.read(port, 4)
        else:
            mask = (1 << 8 * size) - 1
            call.regs.rcx = call.regs.rcx & ~mask | ports.read(port, size) & mask
        return 0
