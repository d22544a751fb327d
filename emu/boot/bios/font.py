# SPDX-License-Identifier: GPL-2.0-or-later
"""The character shapes in the ROM: 8x8 as drawn here, 8x14 and 8x16 made of it.

They are for programs that draw text themselves and take the shapes from the ROM (INT 10h AX=1130h,
F000:FA6E). The letters are after the public domain font "font8x8_basic" (Daniel Hepper, Marcel
Sondaar). Of the upper half of code page 437 there are blocks and shades; the rest is blank.
"""

from __future__ import annotations

__all__ = ["HEIGHTS", "font", "font8"]

HEIGHTS = (8, 14, 16)

# From 0x20 to 0x7e: eight rows of two hexadecimal digits, bit 0 leftmost.
_LETTERS = """
0000000000000000 183c3c1818001800 3636000000000000 36367f367f363600
0c3e031e301f0c00 006333180c666300 1c361c6e3b336e00 0606030000000000
180c0606060c1800 060c1818180c0600 00663cff3c660000 000c0c3f0c0c0000
00000000000c0c06 0000003f00000000 00000000000c0c00 6030180c06030100
3e63737b6f673e00 0c0e0c0c0c0c3f00 1e33301c06333f00 1e33301c30331e00
383c36337f307800 3f031f3030331e00 1c06031f33331e00 3f3330180c0c0c00
1e33331e33331e00 1e33333e30180e00 000c0c00000c0c00 000c0c00000c0c06
180c0603060c1800 00003f00003f0000 060c1830180c0600 1e3330180c000c00
3e637b7b7b031e00 0c1e33333f333300 3f66663e66663f00 3c66030303663c00
1f36666666361f00 7f46161e16467f00 7f46161e16060f00 3c66030373667c00
3333333f33333300 1e0c0c0c0c0c1e00 7830303033331e00 6766361e36666700
0f06060646667f00 63777f7f6b636300 63676f7b73636300 1c36636363361c00
3f66663e06060f00 1e3333333b1e3800 3f66663e36666700 1e33070e38331e00
3f2d0c0c0c0c1e00 3333333333333f00 33333333331e0c00 6363636b7f776300
6363361c1c366300 3333331e0c0c1e00 7f6331184c667f00 1e06060606061e00
03060c1830604000 1e18181818181e00 081c366300000000 00000000000000ff
0c0c180000000000 00001e303e336e00 0706063e66663b00 00001e3303331e00
3830303e33336e00 00001e333f031e00 1c36060f06060f00 00006e33333e301f
0706366e66666700 0c000e0c0c0c1e00 300030303033331e 070666361e366700
0e0c0c0c0c0c1e00 0000337f7f6b6300 00001f3333333300 00001e3333331e00
00003b66663e060f 00006e33333e3078 00003b6e66060f00 00003e031e301f00
080c3e0c0c2c1800 0000333333336e00 00003333331e0c00 0000636b7f7f3600
000063361c366300 00003333333e301f 00003f190c263f00 380c0c070c0c3800
1818180018181800 070c0c380c0c0700 6e3b000000000000
"""
_BLOCKS = {
    0xB0: b"\x22\x88" * 4,
    0xB1: b"\x55\xaa" * 4,
    0xB2: b"\xdd\x77" * 4,
    0xDB: b"\xff" * 8,
    0xDC: bytes(4) + b"\xff" * 4,
    0xDD: b"\xf0" * 8,
    0xDE: b"\x0f" * 8,
    0xDF: b"\xff" * 4 + bytes(4),
    0xFE: b"\0\0\x3c\x3c\x3c\x3c\0\0",
}


def _mirrored(row: int) -> int:
    return int(f"{row:08b}"[::-1], 2)


def font8() -> bytes:
    """Return 256 characters of 8 rows, bit 7 leftmost.

    >>> print("\\n".join(f"{row:08b}" for row in font8()[8 * ord("L") :][:8]).replace("0", "."))
    1111....
    .11.....
    .11.....
    .11.....
    .11...1.
    .11..11.
    1111111.
    ........
    """
    shapes = bytearray(256 * 8)
    for number, text in enumerate(_LETTERS.split(), 0x20):
        shapes[8 * number : 8 * number + 8] = bytes(_mirrored(row) for row in bytes.fromhex(text))
    for number, shape in _BLOCKS.items():
        shapes[8 * number : 8 * number + 8] = shape
    return bytes(shapes)


def font(height: int) -> bytes:
    """Return 256 characters of 8, 14 or 16 rows: each row twice, at 14 without the last two."""
    small = font8()
    if height == 8:
        return small
    tall = (small[start : start + 8] for start in range(0, len(small), 8))
    return b"".join(bytes(row for row in one for _ in range(2))[:height] for one in tall)
