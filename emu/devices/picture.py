# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of a screen, and how they become a PNG file (PNG specification, third edition)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from emu.devices.bochs_vbe import DisplayMode

__all__ = ["Picture", "from_framebuffer", "from_text"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB_8 = bytes((8, 2, 0, 0, 0))


@dataclass(frozen=True, slots=True)
class Picture:
    """`height` rows of `width` pixels, three bytes each: red, green, blue."""

    width: int
    height: int
    rgb: bytes

    def png(self) -> bytes:
        """Return the bytes of a PNG file."""
        row = 3 * self.width
        lines = b"".join(b"\0" + self.rgb[y * row : (y + 1) * row] for y in range(self.height))
        header = struct.pack(">II", self.width, self.height) + _RGB_8
        return (
            _SIGNATURE
            + _chunk(b"IHDR", header)
            + _chunk(b"IDAT", zlib.compress(lines, 9))
            + _chunk(b"IEND", b"")
        )


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def from_framebuffer(
    memory: bytes | memoryview, mode: DisplayMode, palette: Sequence[bytes]
) -> Picture:
    """Return what `mode` shows of `memory`; `palette` is 256 colours, for 8 bits a pixel. What is
    not there is black."""
    size = -(-mode.depth // 8)
    rows = []
    for y in range(mode.height):
        start = mode.start + y * mode.pitch
        row = bytes(memory[start : start + mode.width * size]).ljust(mode.width * size, b"\0")
        rows.append(_row(row, mode.depth, palette))
    return Picture(mode.width, mode.height, b"".join(rows))


def _row(row: bytes, depth: int, palette: Sequence[bytes]) -> bytes:
    if depth == 8:
        return b"".join(palette[pixel] for pixel in row)
    if depth in (24, 32):
        step = depth // 8
        rgb = bytearray(len(row) // step * 3)
        rgb[0::3], rgb[1::3], rgb[2::3] = row[2::step], row[1::step], row[0::step]
        return bytes(rgb)
    words = struct.unpack(f"<{len(row) // 2}H", row)
    if depth == 15:
        parts = ((word >> 10 & 31, word >> 5 & 31, word & 31) for word in words)
        return bytes(part << 3 | part >> 2 for pixel in parts for part in pixel)
    wide = ((word >> 11, word >> 5 & 63, word & 31) for word in words)
    return b"".join(
        bytes((red << 3 | red >> 2, green << 2 | green >> 4, blue << 3 | blue >> 2))
        for red, green, blue in wide
    )


def from_text(
    cells: Sequence[Sequence[tuple[int, int]]], font: bytes, colours: Sequence[bytes]
) -> Picture:
    """Return rows of (character, attribute) drawn with a font of 8 by 16 in 16 colours."""
    width = 8 * max(map(len, cells), default=0)
    lines = []
    for row in cells:
        for line in range(16):
            for character, attribute in row:
                shape = font[16 * character + line]
                pair = colours[attribute >> 4 & 7], colours[attribute & 15]
                lines += [pair[shape >> bit & 1] for bit in range(7, -1, -1)]
    return Picture(width, 16 * len(cells), b"".join(lines))
