# SPDX-License-Identifier: GPL-2.0-or-later
"""What a disk says of itself: its geometry, and the words of IDENTIFY DEVICE (T13/1410D 8.15)."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["IDENTITY_WORDS", "Geometry", "identify", "put_text"]

IDENTITY_WORDS = 256
MODEL = "SHADOWCORN HARDDISK"
FIRMWARE = "1.0"
MAX_MULTIPLE = 16
MAX_CYLINDERS = 16_383
MAX_LBA28 = (1 << 28) - 1


class Geometry(NamedTuple):
    """How CHS addresses are counted."""

    cylinders: int
    heads: int
    sectors: int

    @classmethod
    def of(cls, total: int, heads: int = 16, sectors: int = 63) -> Geometry:
        """Return the geometry of a disk of `total` sectors."""
        return cls(min(total // (heads * sectors), MAX_CYLINDERS), heads, sectors)


def put_text(words: list[int], first: int, count: int, text: str) -> None:
    """Put text into words as ATA has it: padded with blanks, each pair of letters swapped."""
    letters = text.ljust(2 * count)[: 2 * count].encode(encoding="ascii")
    for n in range(count):
        words[first + n] = letters[2 * n] << 8 | letters[2 * n + 1]


def identify(total: int, geometry: Geometry, multiple: int, slave: bool) -> list[int]:
    """Return the words of IDENTIFY DEVICE for a disk of `total` sectors."""
    words = [0] * IDENTITY_WORDS
    default = Geometry.of(total)
    words[0] = 0x0040  # a fixed drive
    words[1], words[3], words[6] = default
    put_text(words, 10, 10, f"SC{int(slave):05d}")
    put_text(words, 23, 4, FIRMWARE)
    put_text(words, 27, 20, MODEL)
    words[47] = 0x8000 | MAX_MULTIPLE
    words[48] = 1  # 32-bit data port
    words[49] = 1 << 11 | 1 << 9  # IORDY, LBA; no DMA
    words[50] = 1 << 14
    words[51] = 2 << 8
    words[53] = 0x0003  # words 54 to 58 and 64 to 70 are valid
    words[54:57] = geometry
    capacity = geometry.cylinders * geometry.heads * geometry.sectors
    words[57], words[58] = capacity & 0xFFFF, capacity >> 16
    words[59] = 0x0100 | multiple if multiple else 0
    lba28 = min(total, MAX_LBA28)
    words[60], words[61] = lba28 & 0xFFFF, lba28 >> 16
    words[64] = 0x0003  # PIO modes 3 and 4
    words[67] = words[68] = 120  # ns a cycle, without and with IORDY
    words[80] = 0x0070  # ATA-4 to ATA-6
    # Command sets supported (82 to 84) and enabled (85 to 87): write cache, power management;
    # LBA48, FLUSH CACHE, FLUSH CACHE EXT.
    words[82] = words[85] = 1 << 5 | 1 << 3
    words[83] = words[86] = 1 << 13 | 1 << 12 | 1 << 10
    words[83] |= 1 << 14
    words[84] = words[87] = 1 << 14
    words[93] = 1 << 14 | (0x0B00 if slave else 0x000B)
    for n in range(4):
        words[100 + n] = total >> 16 * n & 0xFFFF
    return words
