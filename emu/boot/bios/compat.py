# SPDX-License-Identifier: GPL-2.0-or-later
"""What IBM's BIOS had at fixed addresses of segment F000, and programs have called ever since.

Handlers are a jump to the stub of their vector; tables are data (IBM PC/AT Technical Reference,
BIOS listing; Phoenix, "System BIOS for IBM PCs", compatibility table). Fonts that IBM had in other
places lie below.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from emu.boot.bios.font import font

__all__ = [
    "CONFIGURATION",
    "DATA_VECTORS",
    "DISKETTE",
    "FONTS",
    "FONT_8_LOW",
    "VIDEO_FUNCTIONS",
    "fixed_places",
]

# Offset: the vector whose handler has its entry there.
_HANDLERS = {
    0xE2C3: 0x02,
    0xE3FE: 0x13,
    0xE6F2: 0x19,
    0xE739: 0x14,
    0xE82E: 0x16,
    0xE987: 0x09,
    0xEC59: 0x13,  # floppy disks; INT 40h
    0xEF57: 0x0E,
    0xEFD2: 0x17,
    0xF065: 0x10,
    0xF841: 0x12,
    0xF84D: 0x11,
    0xF859: 0x15,
    0xFE6E: 0x1A,
    0xFEA5: 0x08,
    0xFF54: 0x05,
}
_POST = 0xE05B
_IRET = 0xFF53
_DISK_TABLE, _DISK_TABLE_SIZE = 0xE401, 16
CONFIGURATION = 0xE6F5
_BAUD = 0xE729
DISKETTE = 0xEFC7
_VIDEO_JUMPS = 0xF045
_VIDEO_PARAMETERS = 0xF0A4
FONT_8_LOW = 0xFA6E
_VECTOR_OFFSETS = 0xFEF3
VIDEO_FUNCTIONS = 0xE080  # no fixed place: INT 10h AH=1Bh points to it
FONTS = {16: 0xBE00, 14: 0xCE00, 8: 0xDC00}
"""Offsets of the fonts by height; of 8x8 the upper 128 characters (the lower at F000:FA6E)."""

# Model FCh; a second 8259, a real-time clock, an EBDA; INT 16h AH=09h.
_CONFIGURATION = struct.pack("<HBBB5B", 8, 0xFC, 0, 1, 0x64, 0x40, 0, 0, 0)
_BAUD_DIVISORS = struct.pack("<8H", 0x417, 0x300, 0x180, 0xC0, 0x60, 0x30, 0x18, 0xC)
# Of a 1.44 MB diskette: specify bytes, motor off delay, 512 bytes a sector, 18 sectors a track,
# gap, data length, gap to format with, fill byte, head settle and motor start times.
_DISKETTE = bytes((0xAF, 0x02, 0x25, 0x02, 18, 0x1B, 0xFF, 0x6C, 0xF6, 0x0F, 0x08))
# Of the 6845, as the Color and Monochrome adapters had them: four modes, memory sizes, columns,
# mode control values.
_VIDEO = bytes.fromhex(
    "38282d0a1f06191c0207060700000000 71505a0a1f06191c0207060700000000"
    "38282d0a7f0664700201060700000000 6150520f190619190d0d0b0c00000000"
    "0008001000400040 2828505028285050 2c282d292a2e1e29"
)
# Modes 0 to 7 for text: 0-3 and 7; scan lines; character blocks; functions of INT 10h.
_VIDEO_SUPPORT = bytes.fromhex("8f0000000000000704010000 00000000")

DATA_VECTORS = {
    0x1D: _VIDEO_PARAMETERS,
    0x1E: DISKETTE,
    0x1F: FONTS[8],
    0x41: _DISK_TABLE,
    0x43: FONTS[16],
    0x46: _DISK_TABLE,
}
"""Vectors that point to data, by their offset in the ROM."""


def fixed_places(stub_offset: Callable[[int], int], post: int) -> dict[int, bytes]:
    """Return what stands where in the ROM, by offset; `post` is the offset of the power-on stub."""
    small = font(8)
    places = {
        **{at: _jump(at, stub_offset(vector)) for at, vector in _HANDLERS.items()},
        _POST: _jump(_POST, post),
        _IRET: b"\xcf",
        _DISK_TABLE: bytes(_DISK_TABLE_SIZE),
        CONFIGURATION: _CONFIGURATION,
        _BAUD: _BAUD_DIVISORS,
        DISKETTE: _DISKETTE,
        _VIDEO_JUMPS: struct.pack("<H", 0xF065) * 16,
        _VIDEO_PARAMETERS: _VIDEO,
        VIDEO_FUNCTIONS: _VIDEO_SUPPORT,
        FONT_8_LOW: small[: 128 * 8],
        FONTS[8]: small[128 * 8 :],
        FONTS[14]: font(14),
        FONTS[16]: font(16),
        _VECTOR_OFFSETS: _vector_offsets(),
    }
    return places


def _jump(at: int, target: int) -> bytes:
    """Return JMP rel16 from one offset to another."""
    return b"\xe9" + struct.pack("<H", target - (at + 3) & 0xFFFF)


def _vector_offsets() -> bytes:
    """Return the offsets of INT 08h to 1Fh, in order."""
    entry = {vector: at for at, vector in reversed(_HANDLERS.items())} | DATA_VECTORS
    return struct.pack("<24H", *(entry.get(vector, _IRET) for vector in range(0x08, 0x20)))
