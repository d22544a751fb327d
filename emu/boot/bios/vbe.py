# SPDX-License-Identifier: GPL-2.0-or-later
"""INT 10h AH=4Fh: VESA BIOS Extension 3.0, over Bochs' display registers.

All modes have a linear framebuffer; there is no window at A000:0, so bit 14 of the mode number is
asked for. Without the display each function is refused, as without VBE.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from emu.boot.bios.call import Call

__all__ = ["MODES", "Vbe"]

_INDEX, _DATA = 0x1CE, 0x1CF
_ID, _X, _Y, _BPP, _ENABLE, _VIRT_WIDTH, _X_OFFSET, _Y_OFFSET = 0, 1, 2, 3, 4, 6, 8, 9
_ENABLED, _LINEAR, _NO_CLEAR = 1, 0x40, 0x80
_PCI, _PCI_DATA = 0xCF8, 0xCFC
_DISPLAY = 0x8000_1000  # 00:02.0
_IDENTITY = 0x1111_1234
_LFB, _KEEP = 0x4000, 0x8000
_MEMORY_64K = 256
_OK, _FAILED = 0x004F, 0x014F
_OEM = b"shadowcorn\0"

MODES = {
    0x100: (640, 400, 8), 0x101: (640, 480, 8), 0x103: (800, 600, 8), 0x105: (1024, 768, 8),
    0x107: (1280, 1024, 8),
    0x110: (640, 480, 15), 0x113: (800, 600, 15), 0x116: (1024, 768, 15), 0x119: (1280, 1024, 15),
    0x111: (640, 480, 16), 0x114: (800, 600, 16), 0x117: (1024, 768, 16), 0x11A: (1280, 1024, 16),
    0x112: (640, 480, 24), 0x115: (800, 600, 24), 0x118: (1024, 768, 24), 0x11B: (1280, 1024, 24),
    0x140: (320, 200, 32), 0x141: (640, 400, 32), 0x142: (640, 480, 32), 0x143: (800, 600, 32),
    0x144: (1024, 768, 32), 0x145: (1280, 1024, 32),
}  # fmt: skip
"""Width, height and bits a pixel by mode number; those from 140h on are Bochs'."""
# Size and position of red, green, blue and what is left, by depth.
_COLOURS = {
    8: bytes(8),
    15: bytes((5, 10, 5, 5, 5, 0, 1, 15)),
    16: bytes((5, 11, 6, 5, 5, 0, 0, 0)),
    24: bytes((8, 16, 8, 8, 8, 0, 0, 0)),
    32: bytes((8, 16, 8, 8, 8, 0, 8, 24)),
}
# BIOS data area: reserved by IBM for adapters, used as SeaBIOS does.
_MODE_NUMBER = 0xBA


class Vbe:
    """The subfunctions of AH=4Fh, by AL."""

    def __init__(self) -> None:
        """Fill the table."""
        self._functions: dict[int, Callable[[Call], bool]] = {
            0x00: self._controller,
            0x01: self._mode_information,
            0x02: self._set_mode,
            0x03: self._get_mode,
            0x06: self._row_length,
            0x07: self._display_start,
            0x08: self._dac_width,
            0x09: self._palette,
        }

    def serve(self, call: Call) -> bool:
        """Do what AL asks; False where there is no display, or no such function."""
        function = self._functions.get(call.al)
        if function is None or self._pci(call, 0) != _IDENTITY:
            return False
        call.ax = _OK if function(call) else _FAILED
        return True

    def leave(self, call: Call) -> None:
        """Switch the display off: the registers of the VGA decide again."""
        if self._pci(call, 0) == _IDENTITY:
            self._put(call, _ENABLE, 0)
        call.write_bda(_MODE_NUMBER, 0, 2)

    @staticmethod
    def _pci(call: Call, register: int) -> int:
        ports = call.host.ports
        before = ports.read(_PCI, 4)
        ports.write(_PCI, 4, _DISPLAY | register)
        value = ports.read(_PCI_DATA, 4)
        ports.write(_PCI, 4, before)
        return value

    @staticmethod
    def _put(call: Call, index: int, value: int) -> None:
        call.host.ports.write(_INDEX, 2, index)
        call.host.ports.write(_DATA, 2, value)

    @staticmethod
    def _get(call: Call, index: int) -> int:
        call.host.ports.write(_INDEX, 2, index)
        return call.host.ports.read(_DATA, 2)

    def _controller(self, call: Call) -> bool:
        """AL=00h: VbeInfoBlock at ES:DI; the list of modes is in its reserved part."""
        where = call.linear("es", call.di)
        segment = call.regs.es.selector
        modes = struct.pack(f"<{len(MODES) + 1}H", *MODES, 0xFFFF)
        oem = 0x22 + len(modes)
        fields = struct.pack(
            "<4sHHHIHHH", b"VESA", 0x0300, call.di + oem & 0xFFFF, segment, 1,
            call.di + 0x22 & 0xFFFF, segment, _MEMORY_64K,
        )  # fmt: skip
        call.memory.write_block(where, fields.ljust(0x22, b"\0") + modes + _OEM, "device")
        return True

    def _mode_information(self, call: Call) -> bool:
        """AL=01h: ModeInfoBlock of mode CX at ES:DI."""
        mode = MODES.get(call.cx & 0x1FF)
        if mode is None:
            return False
        width, height, depth = mode
        pitch = width * -(-depth // 8)
        model = 4 if depth == 8 else 6  # packed pixels, direct colour
        info = bytearray(256)
        # Supported, colour, graphics, no window, linear framebuffer; then windows: none.
        struct.pack_into("<H", info, 0, 0x00DB)
        struct.pack_into("<HHHBBBBBBBBB", info, 0x10, pitch, width, height, 8, 16, 1, depth, 1,
                         model, 0, 0, 1)  # fmt: skip
        info[0x1F:0x27] = _COLOURS[depth]
        struct.pack_into("<I", info, 0x28, self._pci(call, 0x10) & ~0xF)
        struct.pack_into("<H", info, 0x32, pitch)
        info[0x36:0x3E] = _COLOURS[depth]
        call.memory.write_block(call.linear("es", call.di), bytes(info), "device")
        return True

    def _set_mode(self, call: Call) -> bool:
        """AL=02h: mode BX; bit 14 the linear framebuffer, bit 15 without clearing it."""
        mode = MODES.get(call.bx & 0x1FF)
        if mode is None or not call.bx & _LFB:
            return False
        self._put(call, _ENABLE, 0)
        for index, value in zip((_X, _Y, _BPP), mode, strict=True):
            self._put(call, index, value)
        self._put(call, _ENABLE, _ENABLED | _LINEAR | (_NO_CLEAR if call.bx & _KEEP else 0))
        call.write_bda(_MODE_NUMBER, call.bx, 2)
        return True

    def _get_mode(self, call: Call) -> bool:
        """AL=03h: BX is the mode, the text mode where none of these is set."""
        call.bx = call.read_bda(_MODE_NUMBER, 2) or call.read_bda(0x49)
        return True

    def _row_length(self, call: Call) -> bool:
        """AL=06h: BL=00h sets CX pixels a row, 01h asks, 02h sets bytes, 03h asks for the most."""
        size = -(-self._get(call, _BPP) // 8)
        if call.bl > 3 or not size:
            return False
        if call.bl in (0, 2):
            wanted = call.cx if call.bl == 0 else -(-call.cx // size)
            self._put(call, _VIRT_WIDTH, wanted)
            if self._get(call, _VIRT_WIDTH) != wanted:
                return False
        width = self._get(call, _VIRT_WIDTH)
        if call.bl == 3:
            width = min((_MEMORY_64K << 16) // max(self._get(call, _Y), 1) // size, 0xFFFF // size)
        call.bx, call.cx = width * size, width
        call.dx = min((_MEMORY_64K << 16) // max(width * size, 1), 0xFFFF)
        return True

    def _display_start(self, call: Call) -> bool:
        """AL=07h: BL=00h or 80h sets the pixel CX, DX at the upper left, 01h asks."""
        if call.bl & 0x7F == 0:
            self._put(call, _X_OFFSET, call.cx)
            self._put(call, _Y_OFFSET, call.dx)
            shown = self._get(call, _X_OFFSET), self._get(call, _Y_OFFSET)
            return shown == (call.cx, call.dx)
        if call.bl == 1:
            call.bh, call.cx = 0, self._get(call, _X_OFFSET)
            call.dx = self._get(call, _Y_OFFSET)
            return True
        return False

    @staticmethod
    def _dac_width(call: Call) -> bool:
        """AL=08h: the DAC has 6 bits a colour, whatever is asked for."""
        call.bh = 6
        return bool(call.bl <= 1)

    @staticmethod
    def _palette(call: Call) -> bool:
        """AL=09h: BL=00h or 80h sets CX colours from DX on: blue, green, red, none; 01h reads."""
        if call.bl not in (0x00, 0x01, 0x80) or call.dx + call.cx > 256:
            return False
        where, ports = call.linear("es", call.di), call.host.ports
        ports.write(0x3C7 if call.bl == 1 else 0x3C8, 1, call.dx)
        for n in range(call.cx):
            if call.bl == 1:
                red, green, blue = (ports.read(0x3C9, 1) for _ in range(3))
                call.memory.write_block(where + 4 * n, bytes((blue, green, red, 0)), "device")
            else:
                blue, green, red, _ = call.memory.read_block(where + 4 * n, 4)
                for gun in (red, green, blue):
                    ports.write(0x3C9, 1, gun)
        return True
