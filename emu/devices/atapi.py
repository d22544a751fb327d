# SPDX-License-Identifier: GPL-2.0-or-later
"""A CD-ROM drive: the packet commands (SFF-8020i, MMC-3) over the blocks of an image.

The drive is read-only and always has one disc, of one track and one session. `execute` takes a
packet of 12 bytes and prepares the reply, `take` returns it piece by piece: blocks are read from
the image when they are asked for. `emu.devices.ide_packet` has the registers in front of it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from emu.devices.ide_identify import IDENTITY_WORDS, put_text
from emu.ports import LogOnce
from emu.savable import Savable, State

__all__ = ["BLOCK_SIZE", "PACKET_SIZE", "CdDrive", "Image", "Sense", "identify_packet"]

BLOCK_SIZE = 2048
RAW_SIZE = 2352
SECTOR_SIZE = 512
PACKET_SIZE = 12
_PER_BLOCK = BLOCK_SIZE // SECTOR_SIZE
_READ_AHEAD = 32  # blocks in the buffer at a time
_LEAD_IN = 150  # frames from the beginning of the disc to block 0
_LEAD_OUT = 0xAA
_VENDOR, _PRODUCT, _REVISION = b"SHADOWCO", b"CD-ROM".ljust(16), b"1.0 "


class Sense:
    """Sense key, additional sense code and qualifier (SFF-8020i table 140)."""

    NONE = 0x00_00_00
    NO_MEDIUM = 0x02_3A_00
    READ_ERROR = 0x03_11_00
    BAD_COMMAND = 0x05_20_00
    BAD_ADDRESS = 0x05_21_00
    BAD_FIELD = 0x05_24_00
    REMOVAL_PREVENTED = 0x05_53_02


class Image(Protocol):
    """The image behind a drive: sectors of 512 bytes."""

    @property
    def sectors(self) -> int:
        """The number of sectors."""

    def read(self, lba: int, count: int) -> bytes:
        """Return `count` sectors from `lba` on, zeros after the end."""

    def close(self) -> None:
        """Let go of the file behind it, if any."""


@dataclass(slots=True)
class CdState:
    """What the drive remembers between commands, and the reply under way."""

    sense: int = Sense.NONE
    locked: bool = False
    is_open: bool = False
    data: bytearray = field(default_factory=bytearray)  # of the reply, not taken yet
    block: int = 0  # the next one that is not in `data`
    left: int = 0  # how many more there are to come
    raw: bool = False  # READ CD: with sync, header and check bytes


class CdDrive(Savable):
    """One drive with the disc `image` in it."""

    SIGNATURE = 0xEB14
    """What the byte count registers hold after a reset (ATA/ATAPI-6 9.12)."""

    def __init__(self, image: Image) -> None:
        """Show `image`; a part of a block at its end is filled up with zeros."""
        self.image = image
        self.blocks = -(-image.sectors // _PER_BLOCK)
        """The number of blocks of 2,048 bytes."""
        self._log = LogOnce("cd")
        self.state = CdState()
        self._commands: dict[int, Callable[[bytes], None]] = {
            0x00: self._test_unit_ready,
            0x03: self._request_sense,
            0x12: self._inquiry,
            0x1B: self._start_stop,
            0x1E: self._prevent_removal,
            0x25: self._read_capacity,
            0x28: self._read_10,
            0x2B: self._seek,
            0x43: self._read_toc,
            0x46: self._get_configuration,
            0x4A: self._get_event_status,
            0x51: self._read_disc_information,
            0x5A: self._mode_sense,
            0xA8: self._read_12,
            0xBB: self._set_speed,
            0xBD: self._mechanism_status,
            0xBE: self._read_cd,
        }

    def reset(self) -> None:
        """Do what power-on and DEVICE RESET do; the tray closes."""
        self.state = CdState()

    def save(self) -> State:
        """Return the state, and that of an image that has one."""
        image = self.image.save() if isinstance(self.image, Savable) else None
        return self._make_state(drive=self.state, image=image)

    def load(self, state: State) -> None:
        """Take a saved state."""
        drive, image = self._parts_of(state, drive=CdState, image=State | None)
        if image is not None and isinstance(self.image, Savable):
            self.image.load(image)
        self.state = drive

    # --- A command ------------------------------------------------------------------------------

    def execute(self, packet: bytes) -> bool:
        """Do what `packet` says, as far as nothing has been taken yet; False if that cannot be
        done: the sense data says why."""
        state = self.state
        self.cancel()
        command = self._commands.get(packet[0])
        if packet[0] != 0x03:  # REQUEST SENSE is what asks for it
            state.sense = Sense.NONE
        if command is None:
            self._log(packet[0], "unknown packet command %#04x", packet[0])
            self._fail(Sense.BAD_COMMAND)
        else:
            command(packet)
        return packet[0] == 0x03 or state.sense == Sense.NONE

    def cancel(self) -> None:
        """Forget the rest of a reply."""
        state = self.state
        state.data = bytearray()
        state.block = state.left = 0
        state.raw = False

    @property
    def remaining(self) -> int:
        """How many bytes of the reply have not been taken."""
        size = RAW_SIZE if self.state.raw else BLOCK_SIZE
        return len(self.state.data) + self.state.left * size

    def take(self, count: int) -> bytes | None:
        """Return the next bytes of the reply, at most `count`; None if the image cannot be read,
        as the sense data says then."""
        state = self.state
        while len(state.data) < count and state.left:
            blocks = min(state.left, _READ_AHEAD)
            try:
                data = self.image.read(state.block * _PER_BLOCK, blocks * _PER_BLOCK)
            except OSError as error:
                self._log(("read", state.block), "block %d: %s", state.block, error)
                self.cancel()
                self._fail(Sense.READ_ERROR)
                return None
            state.data += _raw_blocks(state.block, data) if state.raw else data
            state.block += blocks
            state.left -= blocks
        piece = bytes(state.data[:count])
        del state.data[:count]
        return piece

    def _fail(self, sense: int) -> None:
        self.state.sense = sense

    def _reply(self, data: bytes | bytearray, limit: int) -> None:
        """Return `data`, cut at the allocation length of the packet."""
        self.state.data = bytearray(data[:limit])

    def _has_medium(self) -> bool:
        if self.state.is_open:
            self._fail(Sense.NO_MEDIUM)
        return not self.state.is_open

    # --- The commands, by number ----------------------------------------------------------------

    def _test_unit_ready(self, packet: bytes) -> None:
        self._has_medium()

    def _request_sense(self, packet: bytes) -> None:
        sense = self.state.sense
        data = bytearray(18)
        data[0], data[2], data[7] = 0xF0, sense >> 16, 10
        data[12], data[13] = sense >> 8 & 0xFF, sense & 0xFF
        self.state.sense = Sense.NONE
        self._reply(data, packet[4])

    def _inquiry(self, packet: bytes) -> None:
        if packet[1] & 1:  # vital product data: there are no pages
            self._fail(Sense.BAD_FIELD)
            return
        # A removable CD-ROM; ATAPI response format; 31 more bytes.
        data = bytes((0x05, 0x80, 0x00, 0x21, 31, 0, 0, 0)) + _VENDOR + _PRODUCT + _REVISION
        self._reply(data, packet[4])

    def _start_stop(self, packet: bytes) -> None:
        """START STOP UNIT: bit 1 moves the tray, bit 0 says which way."""
        if packet[4] & 2:
            if self.state.locked and not packet[4] & 1:
                self._fail(Sense.REMOVAL_PREVENTED)
            else:
                self.state.is_open = not packet[4] & 1

    def _prevent_removal(self, packet: bytes) -> None:
        self.state.locked = bool(packet[4] & 1)

    def _read_capacity(self, packet: bytes) -> None:
        if self._has_medium():
            self._reply(struct.pack(">II", self.blocks - 1, BLOCK_SIZE), 8)

    def _read_10(self, packet: bytes) -> None:
        self._read(*struct.unpack_from(">IxH", packet, 2))

    def _read_12(self, packet: bytes) -> None:
        self._read(*struct.unpack_from(">II", packet, 2))

    def _read(self, block: int, count: int, raw: bool = False) -> None:
        if not self._has_medium():
            return
        if block + count > self.blocks:
            self._fail(Sense.BAD_ADDRESS)
            return
        self.state.block, self.state.left, self.state.raw = block, count, raw

    def _seek(self, packet: bytes) -> None:
        (block,) = struct.unpack_from(">I", packet, 2)
        if self._has_medium() and block >= self.blocks:
            self._fail(Sense.BAD_ADDRESS)

    def _read_cd(self, packet: bytes) -> None:
        """READ CD: the user data alone (10h), or whole sectors (F8h)."""
        (block,) = struct.unpack_from(">I", packet, 2)
        count = int.from_bytes(packet[6:9], "big")
        parts = packet[9] & 0xF8
        if parts == 0 or packet[1] >> 2 & 7 not in (0, 2) or parts not in (0x10, 0xF8):
            if parts:
                self._fail(Sense.BAD_FIELD)
            return
        self._read(block, count, raw=parts == 0xF8)

    def _read_toc(self, packet: bytes) -> None:
        if not self._has_medium():
            return
        as_time = bool(packet[1] & 2)
        limit = int.from_bytes(packet[7:9], "big")
        first = packet[6]
        match packet[2] & 0xF or packet[9] >> 6:
            case 0:
                if first > 1 and first != _LEAD_OUT:
                    self._fail(Sense.BAD_FIELD)
                    return
                tracks = [(1, 0)] if first <= 1 else []
                body = b"".join(
                    bytes((0, 0x14, number, 0)) + _place(block, as_time)
                    for number, block in [*tracks, (_LEAD_OUT, self.blocks)]
                )
                self._reply(struct.pack(">HBB", len(body) + 2, 1, 1) + body, limit)
            case 1:  # sessions: the first track of the last one
                body = bytes((0, 0x14, 1, 0)) + _place(0, as_time)
                self._reply(struct.pack(">HBB", len(body) + 2, 1, 1) + body, limit)
            case 2:
                self._reply(self._full_toc(), limit)
            case _:
                self._fail(Sense.BAD_FIELD)

    def _full_toc(self) -> bytes:
        """Format 2: the points of session 1, addresses always as minutes, seconds, frames."""
        points = ((0xA0, b"\0\1\0\0"), (0xA1, b"\0\1\0\0"), (0xA2, _place(self.blocks, True)))
        body = b"".join(
            bytes((1, 0x14, 0, point, 0, 0, 0)) + where
            for point, where in (*points, (1, _place(0, True)))
        )
        return struct.pack(">HBB", len(body) + 2, 1, 1) + body

    def _get_configuration(self, packet: bytes) -> None:
        """GET CONFIGURATION: profile 0008h, CD-ROM, is the current one."""
        profile = 0 if self.state.is_open else 0x0008
        features = struct.pack(">HBBHBB", 0, 0x03, 4, 0x0008, bool(profile), 0)
        data = struct.pack(">IHH", 4 + len(features), 0, profile) + features
        self._reply(data, int.from_bytes(packet[7:9], "big"))

    def _get_event_status(self, packet: bytes) -> None:
        """GET EVENT STATUS NOTIFICATION, polled: of the class "media" alone, and no event."""
        if not packet[1] & 1:
            self._fail(Sense.BAD_FIELD)
            return
        if packet[4] & 0x10:
            data = bytes((0, 6, 0x04, 0x10, 0, 0x01 if self.state.is_open else 0x02, 0, 0))
        else:
            data = bytes((0, 2, 0x80, 0x10))
        self._reply(data, int.from_bytes(packet[7:9], "big"))

    def _read_disc_information(self, packet: bytes) -> None:
        if self._has_medium():
            data = bytearray(34)
            data[1], data[2] = 32, 0x0E  # a complete disc, the last session is complete
            data[3:7] = b"\1\1\1\1"
            data[7] = 0x20
            self._reply(data, int.from_bytes(packet[7:9], "big"))

    def _mode_sense(self, packet: bytes) -> None:
        """MODE SENSE(10): the current values of pages 01h (errors) and 2Ah (capabilities)."""
        page, kind = packet[2] & 0x3F, packet[2] >> 6
        pages = {0x01: bytes((0x01, 6, 0, 5, 0, 0, 0, 0)), 0x2A: self._capabilities()}
        if kind == 3 or page not in (*pages, 0x3F):
            self._fail(Sense.BAD_FIELD)
            return
        body = b"".join(pages.values()) if page == 0x3F else pages[page]
        medium = 0x70 if self.state.is_open else 0x01
        data = struct.pack(">HB5x", len(body) + 6, medium) + body
        self._reply(data, int.from_bytes(packet[7:9], "big"))

    def _capabilities(self) -> bytes:
        lock = 0x2D if not self.state.locked else 0x2F  # a tray that can be locked and ejected
        speed = struct.pack(">HHHH", 706, 0, 512, 706)  # kB/s, volume levels, kB of buffer, kB/s
        return bytes((0x2A, 18, 0, 0, 0x71, 0x60, lock, 0)) + speed + bytes(4)

    def _set_speed(self, packet: bytes) -> None:
        """SET CD SPEED: the drive is as fast as it can be."""

    def _mechanism_status(self, packet: bytes) -> None:
        data = bytes((0, 0x10 if self.state.is_open else 0, 0, 0, 0, 1, 0, 0))
        self._reply(data, int.from_bytes(packet[8:10], "big"))


def _time(block: int) -> bytes:
    """Return a block's address as minute, second, frame."""
    frames = block + _LEAD_IN
    return bytes((frames // 75 // 60 & 0xFF, frames // 75 % 60, frames % 75))


def _place(block: int, as_time: bool) -> bytes:
    return b"\0" + _time(block) if as_time else struct.pack(">I", block & 0xFFFF_FFFF)


def _raw_blocks(first: int, data: bytes) -> bytes:
    """Return blocks as they are on the disc in mode 1; error detection and correction are zeros."""
    sync = b"\0" + b"\xff" * 10 + b"\0"
    tail = bytes(RAW_SIZE - len(sync) - 4 - BLOCK_SIZE)
    return b"".join(
        sync + _bcd(_time(first + n)) + b"\1" + data[n * BLOCK_SIZE : (n + 1) * BLOCK_SIZE] + tail
        for n in range(len(data) // BLOCK_SIZE)
    )


def _bcd(numbers: bytes) -> bytes:
    return bytes(number // 10 % 10 << 4 | number % 10 for number in numbers)


def identify_packet(slave: bool) -> list[int]:
    """Return the words of IDENTIFY PACKET DEVICE (ATA/ATAPI-6 8.16)."""
    words = [0] * IDENTITY_WORDS
    words[0] = 0x85C0  # a CD-ROM, removable; packets of 12 bytes within 50 us
    put_text(words, 10, 10, f"SC{int(slave):05d}")
    put_text(words, 23, 4, "1.0")
    put_text(words, 27, 20, "SHADOWCORN CD-ROM")
    words[49] = 1 << 11 | 1 << 9  # IORDY, LBA; no DMA
    words[51] = 2 << 8
    words[53] = 0x0002  # words 64 to 70 are valid
    words[64] = 0x0003  # PIO modes 3 and 4
    words[67] = words[68] = 120
    words[80] = 0x0070  # ATA/ATAPI-4 to 6
    words[82] = words[85] = 1 << 9 | 1 << 4  # DEVICE RESET, PACKET
    words[83] = words[84] = words[87] = 1 << 14
    words[93] = 1 << 14 | (0x0B00 if slave else 0x000B)
    return words
