# SPDX-License-Identifier: GPL-2.0-or-later
"""The framing of gdb's remote protocol (gdb manual E.1): `$data#checksum`, `+`, `-`, and 0x03.

Bytes come from outside in any pieces and may be anything. `Parser` turns them into events and holds
no more than `MOST_BYTES` of a packet; what is longer comes out as one event without its data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

__all__ = [
    "MOST_BYTES",
    "Event",
    "PacketError",
    "Parser",
    "What",
    "escape",
    "frame",
    "hex_bytes",
    "number",
    "unescape",
]

MOST_BYTES = 0x4000
"""The longest packet that is taken, and told in `qSupported` as PacketSize."""

_INTERRUPT = 0x03
_DOLLAR, _HASH, _ESCAPE = b"$#}"
_HEX = frozenset(b"0123456789abcdefABCDEF")


class PacketError(Exception):
    """A packet that makes no sense, or asks for what cannot be: the reply is `Enn`."""

    def __init__(self, number: int = 0x16) -> None:
        super().__init__(f"E{number:02x}")
        self.number = number


class What(Enum):
    """What has come."""

    PACKET = auto()
    """A packet with the right checksum; `data` is escaped still."""
    TOO_LONG = auto()
    """A packet of more than `MOST_BYTES`."""
    DAMAGED = auto()
    """A packet whose checksum is wrong."""
    ACK = auto()
    NAK = auto()
    INTERRUPT = auto()
    """Ctrl-C, between two packets."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has come, and for a packet its bytes."""

    what: What
    data: bytes = b""


class Parser:
    """Turns bytes into events.

    >>> parser = Parser()
    >>> [event.what.name for event in parser.feed(b"+$g#6")]
    ['ACK']
    >>> [event.data for event in parser.feed(b"7")]
    [b'g']
    """

    def __init__(self) -> None:
        """Expect the beginning of a packet."""
        self._data: bytearray | None = None  # of the packet that has begun
        self._is_too_long = False
        self._sum: bytearray | None = None  # digits of its checksum

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield what `data` completes. Bytes between packets that mean nothing are dropped."""
        for byte in data:
            event = self._take(byte)
            if event is not None:
                yield event

    def _take(self, byte: int) -> Event | None:
        if self._sum is not None:
            self._sum.append(byte)
            return self._finish() if len(self._sum) == 2 else None
        if self._data is None:
            if byte == _DOLLAR:
                self._data = bytearray()
                self._is_too_long = False
                return None
            what = {0x2B: What.ACK, 0x2D: What.NAK, _INTERRUPT: What.INTERRUPT}.get(byte)
            return None if what is None else Event(what)
        if byte == _HASH:
            self._sum = bytearray()
        elif byte == _DOLLAR:  # the other side has begun anew
            self._data.clear()
            self._is_too_long = False
        elif len(self._data) < MOST_BYTES:
            self._data.append(byte)
        else:
            self._is_too_long = True
        return None

    def _finish(self) -> Event:
        data, digits = bytes(self._data or b""), bytes(self._sum or b"")
        self._data = self._sum = None
        if self._is_too_long:
            return Event(What.TOO_LONG)
        if not _HEX.issuperset(digits) or int(digits, 16) != sum(data) & 0xFF:
            return Event(What.DAMAGED)
        return Event(What.PACKET, data)


def frame(data: bytes) -> bytes:
    """Return a packet with its checksum; `escape` binary data first.

    >>> frame(b"OK")
    b'$OK#9a'
    """
    return b"$%s#%02x" % (data, sum(data) & 0xFF)


def escape(data: bytes) -> bytes:
    """Return binary data as a packet may hold it (gdb manual E.1, "Binary Data").

    >>> escape(b"a#b")
    b'a}\\x03b'
    """
    if not any(byte in data for byte in b"$#}*"):
        return data
    out = bytearray()
    for byte in data:
        out += bytes((_ESCAPE, byte ^ 0x20)) if byte in b"$#}*" else bytes((byte,))
    return bytes(out)


def unescape(data: bytes) -> bytes:
    """Return what `escape` was given.

    >>> unescape(b"a}\\x03b")
    b'a#b'
    """
    if _ESCAPE not in data:
        return data
    out = bytearray()
    rest = iter(data)
    for byte in rest:
        if byte == _ESCAPE:
            following = next(rest, None)
            if following is None:
                raise PacketError
            byte = following ^ 0x20
        out.append(byte)
    return bytes(out)


def number(text: bytes, most: int = (1 << 64) - 1) -> int:
    """Return a number of the protocol's: hexadecimal, no sign, no prefix, up to `most`.

    Raises PacketError for anything else.
    """
    if not text or len(text) > 16 or not _HEX.issuperset(text):
        raise PacketError
    value = int(text, 16)
    if value > most:
        raise PacketError
    return value


def hex_bytes(text: bytes) -> bytes:
    """Return the bytes that pairs of digits stand for; raises PacketError."""
    if len(text) % 2 or not _HEX.issuperset(text):
        raise PacketError
    return bytes.fromhex(text.decode("ascii"))
