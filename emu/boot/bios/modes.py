# SPDX-License-Identifier: GPL-2.0-or-later
"""What the registers of a VGA have in the modes that INT 10h AH=00h sets (IBM VGA XGA Technical
Reference, chapter 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["MODE_3", "MODE_13", "Registers", "colours_256", "program"]


class Registers(NamedTuple):
    """Miscellaneous output, and the four register files."""

    misc: int
    sequencer: bytes
    crtc: bytes
    graphics: bytes
    attribute: bytes


MODE_3 = Registers(
    0x67,
    bytes.fromhex("0300030002"),
    bytes.fromhex("5f4f50825581bf1f004f0d0e000000009c8e8f281f96b9a3ff"),
    bytes.fromhex("0000000000100e00ff"),
    bytes.fromhex("000102030405140738393a3b3c3d3e3f0c000f0800"),
)
MODE_13 = Registers(
    0x63,
    bytes.fromhex("03010f000e"),
    bytes.fromhex("5f4f50825480bf1f00410000000000009c8e8f284096b9a3ff"),
    bytes.fromhex("000000000040050fff"),
    bytes.fromhex("000102030405060708090a0b0c0d0e0f41000f0000"),
)

_EGA = bytes.fromhex(
    "000000 00002a 002a00 002a2a 2a0000 2a002a 2a1500 2a2a2a"
    "151515 15153f 153f15 153f3f 3f1515 3f153f 3f3f15 3f3f3f"
)
_GREYS = bytes.fromhex("0005080b0e1114181c2024282d32383f")
# Of 24 hues each: the steps from the darkest to the brightest gun, by brightness and saturation.
_STEPS = (
    (0, 16, 31, 47, 63), (31, 39, 47, 55, 63), (45, 49, 54, 58, 63),
    (0, 7, 14, 21, 28), (14, 17, 21, 24, 28), (20, 22, 24, 26, 28),
    (0, 4, 8, 12, 16), (8, 10, 12, 14, 16), (11, 12, 13, 15, 16),
)  # fmt: skip


def colours_256() -> bytes:
    """Return the 256 colours of mode 13h: 16 of the EGA, 16 greys, 9 rings of hues, black."""
    colours = bytearray(_EGA)
    for grey in _GREYS:
        colours += bytes((grey, grey, grey))
    for steps in _STEPS:
        low, high = steps[0], steps[4]
        up, down = steps[:4], steps[:0:-1]
        colours += b"".join(bytes((step, low, high)) for step in up)
        colours += b"".join(bytes((high, low, step)) for step in down)
        colours += b"".join(bytes((high, step, low)) for step in up)
        colours += b"".join(bytes((step, high, low)) for step in down)
        colours += b"".join(bytes((low, high, step)) for step in up)
        colours += b"".join(bytes((low, step, high)) for step in down)
    return bytes(colours.ljust(768, b"\0"))


def program(write: Callable[[int, int, int], None], read: Callable[[int, int], int],
            mode: Registers) -> None:  # fmt: skip
    """Write all registers of a mode by `write(port, size, value)`."""
    write(0x3C2, 1, mode.misc)
    for index, value in enumerate(mode.sequencer):
        write(0x3C4, 1, index)
        write(0x3C5, 1, value)
    write(0x3D4, 1, 0x11)
    write(0x3D5, 1, 0)  # unprotect registers 0 to 7
    for index, value in enumerate(mode.crtc):
        write(0x3D4, 1, index)
        write(0x3D5, 1, value)
    for index, value in enumerate(mode.graphics):
        write(0x3CE, 1, index)
        write(0x3CF, 1, value)
    read(0x3DA, 1)  # the next write to 0x3c0 is an index
    for index, value in enumerate(mode.attribute):
        write(0x3C0, 1, index)
        write(0x3C0, 1, value)
    write(0x3C0, 1, 0x20)
