# SPDX-License-Identifier: GPL-2.0-or-later
"""The text screen, and the registers that kernels without a BIOS poke."""

from __future__ import annotations

import pytest

from emu.devices.vga import GLYPHS, TEXT_BASE, TEXT_SIZE, Vga
from emu.ports import PortBus


class Board:
    def __init__(self):
        self.memory = bytearray(b"\x20\x07" * (TEXT_SIZE // 2))
        self.vga = Vga(self.read_block)
        self.bus = PortBus()
        for first, last in Vga.PORTS:
            self.bus.add(first, last, self.vga)

    def read_block(self, gpa, size):
        assert (gpa, size) == (TEXT_BASE, TEXT_SIZE)
        return bytes(self.memory)

    def put(self, cell, text):
        self.memory[2 * cell : 2 * cell + 2 * len(text) : 2] = text

    def r(self, port):
        return self.bus.read(port, 1)

    def crtc(self, index, value):
        self.bus.write(0x3D4, 2, value << 8 | index)


@pytest.fixture
def board():
    return Board()


def test_the_screen_is_25_rows_of_80(board):
    assert board.vga.size == (25, 80)
    assert [len(row) for row in board.vga.rows] == [80] * 25
    assert board.vga.text == "\n" * 24


def test_text_shows_where_it_was_put(board):
    board.put(0, b"top")
    board.put(24 * 80 + 76, b"last")
    lines = board.vga.text.split("\n")
    assert lines[0] == "top"
    assert lines[24] == " " * 76 + "last"
    assert lines[1:24] == [""] * 23


@pytest.mark.parametrize(
    ("code", "glyph"),
    [
        (0, " "),
        (1, "☺"),
        (0x1F, "▼"),
        (0x41, "A"),
        (0x7F, "⌂"),
        (0x80, "Ç"),
        (0xDB, "█"),
        (255, " "),
    ],
    ids=str,
)
def test_code_page_437(code, glyph):
    assert len(GLYPHS) == 256
    assert GLYPHS[code] == glyph


def test_scrolling_by_start_address_wraps_round_the_memory(board):
    board.put(80, b"second")
    board.crtc(0x0D, 80)
    assert board.vga.text.startswith("second")
    board.put(0, b"wrapped")
    start = TEXT_SIZE // 2 - 80
    board.crtc(0x0C, start >> 8)
    board.crtc(0x0D, start & 0xFF)
    assert board.vga.text.split("\n")[1] == "wrapped"


@pytest.mark.parametrize(
    ("high", "low", "start", "expected"),
    [
        (0, 0, 0, (0, 0)),
        (0, 85, 0, (1, 5)),
        (7, 0xCF, 0, (24, 79)),
        (7, 0xD0, 0, None),
        (0, 3, 4, None),
    ],
    ids=["home", "second row", "last cell", "below", "above"],
)
def test_cursor(board, high, low, start, expected):
    board.crtc(0x0E, high)
    board.crtc(0x0F, low)
    board.crtc(0x0D, start)
    assert board.vga.cursor == expected


def test_a_hidden_cursor_is_nowhere(board):
    board.crtc(0x0A, 0x20)
    assert board.vga.cursor is None


def test_fifty_rows_by_a_font_of_eight_lines(board):
    board.crtc(0x09, 0x47)
    assert board.vga.size == (50, 80)
    assert len(board.vga.rows) == 50


def test_protected_registers_keep_their_values(board):
    board.crtc(0x01, 0x27)
    assert board.vga.size[1] == 80
    board.crtc(0x11, 0x0E)
    board.crtc(0x01, 0x27)
    assert board.vga.size[1] == 40


def test_a_graphics_mode_has_no_text(board):
    board.bus.write(0x3CE, 2, 0x0506)
    assert board.vga.text == ""


def test_status_toggles_and_makes_the_attribute_port_an_index_again(board):
    first = board.r(0x3DA)
    assert board.r(0x3DA) == first ^ 0x09
    board.bus.write(0x3C0, 1, 0x30)
    board.bus.write(0x3C0, 1, 0x0C)
    board.bus.write(0x3C0, 1, 0x31)
    board.r(0x3DA)
    board.bus.write(0x3C0, 1, 0x30)
    assert board.r(0x3C1) == 0x0C


def test_the_controller_moves_to_the_monochrome_ports(board):
    assert board.r(0x3CC) & 1
    assert board.r(0x3B5) == 0xFF
    board.bus.write(0x3C2, 1, 0x66)
    assert (board.r(0x3D4), board.r(0x3DA)) == (0xFF, 0xFF)
    board.bus.write(0x3B4, 2, 0x1234 & 0xFF00 | 0x0F)
    assert board.r(0x3B5) == 0x12
    assert board.r(0x3BA) != 0xFF


def test_the_palette_is_written_and_read_in_threes(board):
    board.bus.write(0x3C8, 1, 2)
    for value in (1, 2, 0xFF, 4):
        board.bus.write(0x3C9, 1, value)
    board.bus.write(0x3C7, 1, 2)
    assert [board.r(0x3C9) for _ in range(4)] == [1, 2, 0x3F, 4]
    assert (board.r(0x3C7), board.r(0x3C8)) == (3, 3)


def test_the_first_sixteen_colours(board):
    board.bus.write(0x3C7, 1, 7)
    assert [board.r(0x3C9) for _ in range(3)] == [42, 42, 42]
    board.bus.write(0x3C7, 1, 0x14)
    assert [board.r(0x3C9) for _ in range(3)] == [42, 21, 0]  # brown


def test_unknown_registers_are_ignored(board):
    for port in (0x3C4, 0x3CE, 0x3D4):
        board.bus.write(port, 2, 0xFFFF)
        assert board.r(port) == 0xFF
        assert board.r(port + 1) == 0xFF
    board.vga.reset()
    assert board.vga.size == (25, 80)
