# SPDX-License-Identifier: GPL-2.0-or-later
"""Small CD images with an El Torito boot catalogue, made here."""

from __future__ import annotations

import struct

BLOCK = 2048
CATALOGUE, IMAGE = 19, 20


def iso(boot: bytes, *, media=0, segment=0, count=4, blocks=0, bootable=0x88, checksum=0) -> bytes:
    """Return a CD whose boot image, from block 20 on, is `boot`; `blocks` is how many it has.

    Each block after the boot image is filled with its number.
    """
    volume = bytearray(b"\1CD001\1".ljust(BLOCK, b"\0"))
    record = b"\0CD001\1" + b"EL TORITO SPECIFICATION".ljust(64, b"\0")
    record += struct.pack("<I", CATALOGUE)
    validation = bytearray(b"\1".ljust(30, b"\0") + b"\x55\xaa")
    words = struct.unpack("<16H", validation)
    struct.pack_into("<H", validation, 28, -sum(words) + checksum & 0xFFFF)
    entry = struct.pack("<BBHBxHI", bootable, media, segment, 0, count, IMAGE)
    parts = [bytes(BLOCK)] * 16
    parts += [volume, record, b"\xffCD001\1", bytes(validation) + entry]
    image = b"".join(bytes(part).ljust(BLOCK, b"\0") for part in parts)
    image += boot + bytes(-len(boot) % BLOCK)
    while len(image) < blocks * BLOCK:
        image += struct.pack("<I", len(image) // BLOCK) * (BLOCK // 4)
    made = bytearray(image)
    struct.pack_into("<I", made, 16 * BLOCK + 80, len(made) // BLOCK)
    return bytes(made)
