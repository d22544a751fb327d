# SPDX-License-Identifier: GPL-2.0-or-later
"""Enough of an ACPI Machine Language encoder to describe a small board (ACPI 6.3 chapter 20, 6.4).

Every function returns the bytes of one object; terms are joined by `+`.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "address_space",
    "buffer",
    "device",
    "eisa_id",
    "integer",
    "io_ports",
    "irq",
    "name",
    "package",
    "resources",
    "scope",
]

NAME, BUFFER, PACKAGE, SCOPE, DEVICE = b"\x08", b"\x11", b"\x12", b"\x10", b"\x5b\x82"
BYTE, WORD, DWORD, QWORD = 0x0A, 0x0B, 0x0C, 0x0E

# Kinds of an address space descriptor (6.4.3.5).
MEMORY, IO, BUS_NUMBER = range(3)
_FIXED = 0x0C  # both ends of the range are fixed


def integer(value: int) -> bytes:
    """Encode a number in the shortest form."""
    if value in (0, 1):
        return bytes((value,))
    for prefix, size in ((BYTE, 1), (WORD, 2), (DWORD, 4)):
        if value < 1 << 8 * size:
            return bytes((prefix,)) + value.to_bytes(size, "little")
    return bytes((QWORD,)) + value.to_bytes(8, "little")


def _sized(body: bytes) -> bytes:
    """Put the package length, which counts itself, in front of `body` (20.2.4)."""
    for extra in range(4):
        length = len(body) + 1 + extra
        if extra == 0 and length < 1 << 6:
            return bytes((length,)) + body
        if extra and length < 1 << 4 + 8 * extra:
            lead = extra << 6 | length & 0xF
            return bytes((lead,)) + (length >> 4).to_bytes(extra, "little") + body
    raise ValueError("AML package too long")


def _path(path: str) -> bytes:
    """Encode one name segment, with an optional root prefix."""
    root = path.startswith("\\")
    segment = path.removeprefix("\\").ljust(4, "_").encode(encoding="ascii")
    return (b"\\" if root else b"") + segment


def name(path: str, value: bytes) -> bytes:
    """Name (path, value)."""
    return NAME + _path(path) + value


def package(elements: Sequence[bytes]) -> bytes:
    """Package () {elements}."""
    return PACKAGE + _sized(bytes((len(elements),)) + b"".join(elements))


def buffer(data: bytes) -> bytes:
    """Buffer () {data}."""
    return BUFFER + _sized(integer(len(data)) + data)


def scope(path: str, body: bytes) -> bytes:
    """Scope (path) {body}."""
    return SCOPE + _sized(_path(path) + body)


def device(path: str, body: bytes) -> bytes:
    """Device (path) {body}."""
    return DEVICE + _sized(_path(path) + body)


def eisa_id(text: str) -> bytes:
    """Encode a seven-letter ID as EISA packs it: three letters of five bits, four hex digits.

    >>> eisa_id("PNP0A03").hex()
    '0c41d00a03'
    """
    a, b, c = (ord(letter) - 0x40 for letter in text[:3])
    packed = (a << 10 | b << 5 | c).to_bytes(2, "big") + bytes.fromhex(text[3:])
    return bytes((DWORD,)) + packed


# Resources (6.4).


def io_ports(first: int, count: int) -> bytes:
    """IO (Decode16, first, first, 1, count)."""
    port = first.to_bytes(2, "little")
    return b"\x47\x01" + port + port + bytes((1, count))


def irq(number: int) -> bytes:
    """IRQNoFlags () {number}: edge-triggered, active high."""
    return b"\x22" + (1 << number).to_bytes(2, "little")


def address_space(kind: int, first: int, last: int, size: int = 2) -> bytes:
    """Return the descriptor of a range that a bridge passes on; numbers of `size` bytes (2, 4)."""
    flags = {MEMORY: 1, IO: 3, BUS_NUMBER: 0}[kind]  # read-write; the whole range
    numbers = b"".join(n.to_bytes(size, "little") for n in (0, first, last, 0, last - first + 1))
    tag = {2: 0x88, 4: 0x87}[size]
    body = bytes((kind, _FIXED, flags)) + numbers
    return bytes((tag,)) + len(body).to_bytes(2, "little") + body


def resources(*descriptors: bytes) -> bytes:
    """ResourceTemplate () {descriptors}."""
    return buffer(b"".join(descriptors) + b"\x79\x00")
