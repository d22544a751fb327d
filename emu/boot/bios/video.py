# SPDX-License-Identifier: GPL-2.0-or-later
"""INT 10h: the 80x25 text screen, mode 13h, and VBE (`emu.boot.bios.vbe`).

Cells are a character and an attribute byte at 0xb8000, pages of 4 KiB. The cursor of each page
stands in the BIOS data area; that of the active page is also the one that the CRTC shows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from emu.boot.bios.call import Call
from emu.boot.bios.compat import FONT_8_LOW, FONTS, VIDEO_FUNCTIONS
from emu.boot.bios.modes import MODE_3, MODE_13, colours_256, program
from emu.boot.bios.vbe import Vbe

__all__ = ["Video"]

_VGA = 0xB8000
_GRAPHICS = 0xA0000
_MODE_13 = 0x13
_ROM = 0xF000
_NO_CHARACTERS = 0xE08F  # a zero byte: no character of a font differs in 9x14 or 9x16
_PAGE = 0x1000
_PAGES = 8
_COLUMNS = 80
_ROWS = 25
_GREY = 0x07
_TEXT_MODES = (0, 1, 2, 3)
_CRTC = 0x3D4
_BELL, _BACKSPACE, _TAB, _LINE_FEED, _RETURN = 7, 8, 9, 10, 13

# BIOS data area.
_MODE = 0x49
_CURSORS = 0x50
_SHAPE = 0x60
_ACTIVE_PAGE = 0x62


class Video:
    """The services of INT 10h, by AH."""

    def __init__(self) -> None:
        """Fill the table of functions."""
        self._vbe = Vbe()
        self.functions: dict[int, Callable[[Call], bool | None]] = {
            0x00: self._set_mode,
            0x01: self._set_shape,
            0x02: self._set_cursor,
            0x03: self._get_cursor,
            0x04: self._light_pen,
            0x05: self._select_page,
            0x06: self._scroll,
            0x07: self._scroll,
            0x08: self._read_cell,
            0x09: self._write_cells,
            0x0A: self._write_cells,
            0x0B: self._accept,
            0x0E: self._teletype,
            0x0F: self._get_mode,
            0x10: self._palette,
            0x11: self._font,
            0x12: self._alternate_select,
            0x13: self._write_string,
            0x1A: self._display_code,
            0x1B: self._state_information,
            0x4F: self._vbe.serve,
        }

    def _accept(self, call: Call) -> None:
        """Colours and blinking: the text screen has but one palette."""

    def _set_mode(self, call: Call) -> bool:
        if call.al & 0x7F == _MODE_13:
            self._set_mode_13(call)
            return True
        if call.al & 0x7F not in (*_TEXT_MODES, 7):
            return False
        self._leave_graphics(call)
        for page in range(_PAGES):
            self._put_cursor(call, page, 0, 0)
        call.write_bda(_ACTIVE_PAGE, 0)
        call.write_bda(_MODE, 3)
        if not call.al & 0x80:
            call.memory.write_block(_VGA, bytes((0x20, _GREY)) * (_PAGE * _PAGES // 2), "device")
        self._show(call, 0)
        call.al = 0x30
        return True

    def _set_mode_13(self, call: Call) -> None:
        """320 x 200 pixels in 256 colours, a byte each from A000:0 on."""
        self._vbe.leave(call)
        ports = call.host.ports
        program(ports.write, ports.read, MODE_13)
        self._write_colours(call, 0, colours_256())
        if not call.al & 0x80:
            call.memory.write_block(_GRAPHICS, bytes(0x10000), "device")
        call.write_bda(_MODE, _MODE_13)
        call.al = 0x20

    def _leave_graphics(self, call: Call) -> None:
        """Let the registers be those of mode 3, if a program's or a mode's are in them."""
        self._vbe.leave(call)
        if call.read_bda(_MODE) == _MODE_13:
            ports = call.host.ports
            program(ports.write, ports.read, MODE_3)
            colours = bytes(
                42 * (n >> high & 1) + 21 * (n >> low & 1)
                for n in range(64)
                for high, low in ((2, 5), (1, 4), (0, 3))
            )
            self._write_colours(call, 0, colours)

    @staticmethod
    def _write_colours(call: Call, first: int, colours: bytes) -> None:
        call.host.ports.write(0x3C8, 1, first)
        for gun in colours:
            call.host.ports.write(0x3C9, 1, gun)

    def _palette(self, call: Call) -> None:
        """AH=10h: AL=10h and 12h set colours of the DAC, 15h and 17h read them; the attribute
        controller's palette is accepted and stays."""
        ports = call.host.ports
        where = call.linear("es", call.dx)
        match int(call.al):
            case 0x10:
                self._write_colours(call, call.bl, bytes((call.dh, call.ch, call.cl)))
            case 0x12:
                count = 3 * min(call.cx, 256)
                self._write_colours(call, call.bl, call.memory.read_block(where, count))
            case 0x15:
                ports.write(0x3C7, 1, call.bl)
                call.dh, call.ch, call.cl = (ports.read(0x3C9, 1) for _ in range(3))
            case 0x17:
                ports.write(0x3C7, 1, call.bl)
                colours = bytes(ports.read(0x3C9, 1) for _ in range(3 * min(call.cx, 256)))
                call.memory.write_block(where, colours, "device")

    def _set_shape(self, call: Call) -> None:
        call.write_bda(_SHAPE, call.cx, 2)
        self._crtc(call, 0x0A, call.ch)
        self._crtc(call, 0x0B, call.cl)

    def _set_cursor(self, call: Call) -> None:
        self._put_cursor(call, call.bh % _PAGES, call.dh, call.dl)

    def _get_cursor(self, call: Call) -> None:
        call.dx = call.read_bda(_CURSORS + 2 * (call.bh % _PAGES), 2)
        call.cx = call.read_bda(_SHAPE, 2)

    def _select_page(self, call: Call) -> None:
        page = call.al % _PAGES
        call.write_bda(_ACTIVE_PAGE, page)
        call.write_bda(0x4E, page * _PAGE, 2)
        start = page * _PAGE // 2
        self._crtc(call, 0x0C, start >> 8)
        self._crtc(call, 0x0D, start & 0xFF)
        self._show(call, page)

    def _get_mode(self, call: Call) -> None:
        call.ah, call.al = _COLUMNS, call.read_bda(_MODE)
        call.bh = call.read_bda(_ACTIVE_PAGE)

    def _light_pen(self, call: Call) -> None:
        call.ah = 0  # there is none

    def _font(self, call: Call) -> bool:
        """AH=11h: AL=30h tells where the fonts are; what loads fonts changes nothing here."""
        if call.al != 0x30:
            loads: int = call.al & 0x0F
            return loads <= 4
        call.cx, call.dl = 16, _ROWS - 1
        if call.bh < 2:  # what INT 1Fh and INT 43h point to
            vector = 4 * (0x1F, 0x43)[call.bh]
            offset, segment = call.memory.read(vector, 2), call.memory.read(vector + 2, 2)
        else:
            heights = {2: FONTS[14], 3: FONT_8_LOW, 4: FONTS[8], 6: FONTS[16]}
            offset, segment = heights.get(call.bh, _NO_CHARACTERS), _ROM
        call.bp = offset
        call.set_segment("es", segment)
        return True

    def _alternate_select(self, call: Call) -> bool:
        """AH=12h: BL=10h asks for the memory; the others switch what is fixed here."""
        if call.bl == 0x10:
            call.bh, call.bl, call.cx = 0, 3, 9  # colour, 256 KiB, switches as of an EGA
        elif call.bl in range(0x30, 0x37):
            call.al = 0x12
        elif call.bl != 0x20:
            return False
        return True

    def _display_code(self, call: Call) -> bool:
        """AH=1Ah: a VGA with a colour screen, whatever AL=01h sets."""
        if call.al > 1:
            return False
        if call.al == 0:
            call.bx = 0x0008
        call.al = 0x1A
        return True

    def _state_information(self, call: Call) -> bool:
        """AH=1Bh: 64 bytes at ES:DI (RBIL table 00043)."""
        if call.bx:
            return False
        state = bytearray(64)
        struct.pack_into("<HH", state, 0, VIDEO_FUNCTIONS, _ROM)
        state[4:34] = bytes(call.read_bda(_MODE + i) for i in range(30))
        state[34:37] = bytes((_ROWS, 16, 0))
        state[37] = 8  # display combination code
        struct.pack_into("<HBB", state, 39, 16, _PAGES, 2)  # colours, pages, 400 scan lines
        state[49] = 3  # 256 KiB
        call.memory.write_block(call.linear("es", call.di), bytes(state), "device")
        call.al = 0x1B
        return True

    # --- Cells ------------------------------------------------------------------------------------

    @staticmethod
    def _address(page: int, row: int, column: int) -> int:
        return _VGA + page * _PAGE + 2 * (_COLUMNS * row + column) % _PAGE

    def _cursor(self, call: Call, page: int) -> tuple[int, int]:
        position = call.read_bda(_CURSORS + 2 * page, 2)
        return position >> 8, position & 0xFF

    def _put_cursor(self, call: Call, page: int, row: int, column: int) -> None:
        call.write_bda(_CURSORS + 2 * page, row << 8 | column, 2)
        if page == call.read_bda(_ACTIVE_PAGE):
            self._show(call, page)

    def _show(self, call: Call, page: int) -> None:
        row, column = self._cursor(call, page)
        where = page * _PAGE // 2 + _COLUMNS * row + column
        self._crtc(call, 0x0E, where >> 8 & 0xFF)
        self._crtc(call, 0x0F, where & 0xFF)

    @staticmethod
    def _crtc(call: Call, index: int, value: int) -> None:
        call.host.ports.write(_CRTC, 1, index)
        call.host.ports.write(_CRTC + 1, 1, value)

    def _scroll(self, call: Call) -> None:
        top, left = call.ch, call.cl
        bottom, right = min(call.dh, _ROWS - 1), min(call.dl, _COLUMNS - 1)
        page = call.read_bda(_ACTIVE_PAGE)
        self._scroll_window(call, page, (top, left, bottom, right), call.al, call.bh, call.ah == 7)

    def _scroll_window(self, call: Call, page: int, window: tuple[int, int, int, int], lines: int,
                       attribute: int, down: bool) -> None:  # fmt: skip
        top, left, bottom, right = window
        width, height = right - left + 1, bottom - top + 1
        if width <= 0 or height <= 0:
            return
        rows = [
            call.memory.read_block(self._address(page, row, left), 2 * width)
            for row in range(top, bottom + 1)
        ]
        lines = lines if 0 < lines < height else height
        blank = [bytes((0x20, attribute)) * width] * lines
        rows = blank + rows[: height - lines] if down else rows[lines:] + blank
        for row, cells in zip(range(top, bottom + 1), rows, strict=True):
            call.memory.write_block(self._address(page, row, left), cells, "device")

    def _read_cell(self, call: Call) -> None:
        page = call.bh % _PAGES
        call.ax = call.memory.read(self._address(page, *self._cursor(call, page)), 2)

    def _write_cells(self, call: Call) -> None:
        """Functions 09h (with attribute) and 0Ah (without): CX times, the cursor stays."""
        page = call.bh % _PAGES
        start = self._address(page, *self._cursor(call, page))
        for i in range(min(call.cx, _COLUMNS * _ROWS)):
            where = _VGA + page * _PAGE + (start + 2 * i) % _PAGE
            call.memory.write(where, 1, call.al, "device")
            if call.ah == 9:
                call.memory.write(where + 1, 1, call.bl, "device")

    def _teletype(self, call: Call) -> None:
        self._print(call, call.read_bda(_ACTIVE_PAGE), call.al, None)

    def _print(self, call: Call, page: int, char: int, attribute: int | None) -> None:
        row, column = self._cursor(call, page)
        if char == _RETURN:
            column = 0
        elif char == _LINE_FEED:
            row += 1
        elif char == _BACKSPACE:
            column = max(column - 1, 0)
        elif char == _TAB:
            for _ in range(8 - column % 8):
                self._print(call, page, 0x20, attribute)
            return
        elif char != _BELL:
            where = self._address(page, row, column)
            call.memory.write(where, 1, char, "device")
            if attribute is not None:
                call.memory.write(where + 1, 1, attribute, "device")
            column += 1
        if column >= _COLUMNS:
            row, column = row + 1, 0
        if row >= _ROWS:
            colour = call.memory.read(self._address(page, _ROWS - 1, 0) + 1, 1)
            window = (0, 0, _ROWS - 1, _COLUMNS - 1)
            self._scroll_window(call, page, window, row - _ROWS + 1, colour, False)
            row = _ROWS - 1
        self._put_cursor(call, page, row, column)

    def _write_string(self, call: Call) -> None:
        """Function 13h: AL bit 0 moves the cursor, bit 1 says that attributes are in the string."""
        page, moves, coloured = call.bh % _PAGES, call.al & 1, call.al & 2
        before = self._cursor(call, page)
        self._put_cursor(call, page, call.dh, call.dl)
        size = call.cx * (2 if coloured else 1)
        text = call.memory.read_block(call.linear("es", call.bp), size)
        for i in range(call.cx):
            char, colour = (text[2 * i], text[2 * i + 1]) if coloured else (text[i], call.bl)
            self._print(call, page, char, colour)
        if not moves:
            self._put_cursor(call, page, *before)
