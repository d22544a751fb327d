# SPDX-License-Identifier: GPL-2.0-or-later
"""The CD-ROM drive on an IDE channel, as drivers use it, and as hostile ones do."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.boot.bios.disk import MemoryDisk
from emu.devices.atapi import CdDrive, Sense
from emu.devices.ide import ACCESS_NS, IdeChannel
from emu.ports import PortBus
from tests.emu.devices.conftest import TurnedClock, Wire

BLOCKS = 100
BUSY, READY, DATA, ERROR = 0x80, 0x50, 0x08, 0x01
COMMAND, TO_HOST = 1, 2


def image():
    return MemoryDisk(b"".join(struct.pack("<I", n) * 512 for n in range(BLOCKS)))


class Channel:
    """A channel with a CD-ROM drive as its master."""

    def __init__(self, master=None, slave=None):
        self.clock, self.wire = TurnedClock(), Wire()
        self.cd = master or CdDrive(image())
        self.ide = IdeChannel(self.clock, self.wire, self.cd, slave, base=0x170, control=0x376)
        self.bus = PortBus()
        for first, last, width in self.ide.ports:
            self.bus.add(first, last, self.ide, width)

    def r(self, register):
        return self.bus.read(0x170 + register, 1)

    def w(self, register, value):
        self.bus.write(0x170 + register, 1, value)

    def command(self, value):
        self.w(7, value)
        self.clock.run_for(ACCESS_NS)
        return self.bus.read(0x376, 1)

    def packet(self, *head, limit=0xFFFE, device=0xA0):
        """Send a packet; return the reply and the error register."""
        self.w(6, device)
        self.w(1, 0)
        self.w(4, limit & 0xFF)
        self.w(5, limit >> 8)
        self.w(7, 0xA0)
        assert (self.r(7), self.r(2)) == (READY | DATA, COMMAND)
        data = bytes(head).ljust(12, b"\0")
        for n in range(0, 12, 2):
            self.bus.write(0x170, 2, int.from_bytes(data[n : n + 2], "little"))
        reply = bytearray()
        self.parts = []
        while True:
            assert self.bus.read(0x376, 1) == BUSY
            self.clock.run_for(ACCESS_NS)
            assert self.wire.level
            status = self.r(7)
            assert not self.wire.level
            if not status & DATA:
                assert self.r(2) == COMMAND | TO_HOST or status & ERROR
                return bytes(reply), self.r(1) if status & ERROR else 0
            assert self.r(2) == TO_HOST
            count = self.r(4) | self.r(5) << 8
            self.parts.append(count)
            part = b"".join(
                self.bus.read(0x170, 2).to_bytes(2, "little") for _ in range(-(-count // 2))
            )
            reply += part[:count]

    def sense(self):
        data, _ = self.packet(0x03, 0, 0, 0, 18)
        return data[2] << 16 | data[12] << 8 | data[13]


@pytest.fixture
def channel():
    return Channel()


def read_10(block, count):
    return (0x28, 0, *struct.pack(">IxH", block, count))


class TestIdentity:
    def test_the_signature_stands_after_reset_and_after_identify_device(self, channel):
        assert [channel.r(n) for n in (2, 3, 4, 5)] == [1, 1, 0x14, 0xEB]
        channel.w(4, 0)
        assert channel.command(0xEC) & ERROR
        assert channel.r(1) == 0x04
        assert [channel.r(n) for n in (2, 3, 4, 5)] == [1, 1, 0x14, 0xEB]

    def test_beside_a_disk_each_shows_its_own(self):
        channel = Channel(slave=MemoryDisk(bytes(1 << 16)))
        channel.bus.write(0x376, 1, 4)
        channel.bus.write(0x376, 1, 0)
        channel.clock.run_for(ACCESS_NS)
        assert (channel.r(4), channel.r(5)) == (0x14, 0xEB)
        channel.w(6, 0xB0)
        assert (channel.r(4), channel.r(5)) == (0, 0)

    def test_identify_packet_device(self, channel):
        assert channel.command(0xA1) == READY | DATA
        words = [channel.bus.read(0x170, 2) for _ in range(256)]
        assert words[0] == 0x85C0
        assert b"".join(w.to_bytes(2, "big") for w in words[27:36]) == b"SHADOWCORN CD-ROM "
        assert channel.bus.read(0x376, 1) == READY

    def test_device_reset(self, channel):
        channel.w(4, 1)
        channel.command(0x08)
        assert channel.r(4) == 0x14

    @pytest.mark.parametrize("command", [0x24, 0x30, 0xC8, 0xCA, 0xFF])
    def test_commands_for_disks_abort(self, channel, command):
        assert channel.command(command) & ERROR
        assert channel.r(1) == 0x04

    def test_a_packet_by_dma_aborts(self, channel):
        channel.w(1, 1)
        channel.command(0xA0)
        assert channel.r(7) & ERROR


class TestPackets:
    def test_read_gives_blocks(self, channel):
        data, error = channel.packet(*read_10(98, 2))
        assert not error
        assert data == struct.pack("<I", 98) * 512 + struct.pack("<I", 99) * 512

    def test_read_12_is_the_same(self, channel):
        data, _ = channel.packet(0xA8, 0, *struct.pack(">II", 7, 1))
        assert data == struct.pack("<I", 7) * 512

    def test_a_long_read_comes_in_parts_of_the_drivers_size(self, channel):
        data, _ = channel.packet(*read_10(0, 50), limit=2049)
        assert len(data) == 50 * 2048
        assert set(channel.parts) == {2048}

    def test_read_cd_gives_raw_sectors(self, channel):
        data, _ = channel.packet(0xBE, 0, 0, 0, 0, 5, 0, 0, 1, 0xF8)
        assert len(data) == 2352
        assert data[:16] == b"\0" + b"\xff" * 10 + b"\0" + b"\x00\x02\x05\x01"
        assert data[16:20] == struct.pack("<I", 5)

    def test_capacity(self, channel):
        assert channel.packet(0x25)[0] == struct.pack(">II", BLOCKS - 1, 2048)

    def test_inquiry_is_cut_at_its_length(self, channel):
        assert channel.packet(0x12, 0, 0, 0, 36)[0][:5] == b"\x05\x80\x00\x21\x1f"
        assert len(channel.packet(0x12, 0, 0, 0, 5)[0]) == 5

    def test_toc(self, channel):
        toc, _ = channel.packet(0x43, 0, 0, 0, 0, 0, 0, 0, 255)
        assert toc == b"\0\x12\1\1" + b"\0\x14\1\0\0\0\0\0" + b"\0\x14\xaa\0\0\0\0\x64"
        times, _ = channel.packet(0x43, 2, 0, 0, 0, 0, 0, 0, 255)
        assert times[8:12] == b"\0\0\2\0"
        assert channel.packet(0x43, 0, 1, 0, 0, 0, 0, 0, 255)[0][:4] == b"\0\x0a\1\1"
        assert len(channel.packet(0x43, 0, 2, 0, 0, 0, 0, 0, 255)[0]) == 48

    def test_mode_sense(self, channel):
        data, _ = channel.packet(0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 255)
        assert data[8:10] == b"\x2a\x12"
        assert struct.unpack(">H", data[:2])[0] == len(data) - 2

    def test_events_are_polled(self, channel):
        data, _ = channel.packet(0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8)
        assert data == b"\0\6\4\x10\0\2\0\0"
        assert channel.packet(0x4A, 0, 0, 0, 0x10, 0, 0, 0, 8)[1] == 0x54

    def test_the_tray_opens_unless_it_is_locked(self, channel):
        channel.packet(0x1E, 0, 0, 0, 1)
        assert channel.packet(0x1B, 0, 0, 0, 2)[1] >> 4 == 5
        assert channel.sense() == Sense.REMOVAL_PREVENTED
        channel.packet(0x1E)
        assert channel.packet(0x1B, 0, 0, 0, 2)[1] == 0
        assert channel.packet(0x00)[1] >> 4 == 2
        assert channel.sense() == Sense.NO_MEDIUM
        channel.packet(0x1B, 0, 0, 0, 3)
        assert channel.packet(0x00)[1] == 0

    @pytest.mark.parametrize(
        ("packet", "sense"),
        [
            (read_10(BLOCKS, 1), Sense.BAD_ADDRESS),
            (read_10(BLOCKS - 1, 2), Sense.BAD_ADDRESS),
            (read_10(0xFFFF_FFFF, 0xFFFF), Sense.BAD_ADDRESS),
            ((0xA8, 0, *struct.pack(">II", 1, 0xFFFF_FFFF)), Sense.BAD_ADDRESS),
            ((0x2A,), Sense.BAD_COMMAND),
            ((0xFF,) * 12, Sense.BAD_COMMAND),
            ((0x5A, 0, 0x05), Sense.BAD_FIELD),
            ((0x43, 0, 9), Sense.BAD_FIELD),
        ],
        ids=["end", "over the end", "far", "many", "write", "nonsense", "page", "toc"],
    )
    def test_what_cannot_be_done_leaves_sense_data(self, channel, packet, sense):
        data, error = channel.packet(*packet)
        assert (data, error >> 4) == (b"", sense >> 16)
        assert channel.sense() == sense
        assert channel.sense() == Sense.NONE

    def test_a_driver_that_takes_no_bytes_is_aborted(self, channel):
        assert channel.packet(*read_10(0, 1), limit=0) == (b"", 0x04)

    def test_a_medium_that_cannot_be_read(self, channel, monkeypatch):
        def fail(lba, count):
            raise OSError("gone")

        monkeypatch.setattr(channel.cd.image, "read", fail)
        assert channel.packet(*read_10(0, 1))[1] >> 4 == 3
        assert channel.sense() == Sense.READ_ERROR


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("w"), st.integers(0, 7), st.integers(0, 0xFFFF_FFFF)),
            st.tuples(st.just("packet"), st.binary(min_size=1, max_size=14), st.integers(0, 65535)),
            st.tuples(st.just("control"), st.integers(0, 255), st.just(0)),
            st.tuples(st.just("read"), st.integers(1, 3000), st.just(0)),
            st.tuples(st.just("wait"), st.integers(1, 3), st.just(0)),
        ),
        max_size=30,
    )
)
def test_no_program_harms_the_host_and_any_state_can_be_saved(program):
    channel, other = Channel(), Channel()
    for what, one, two in program:
        if what == "w":
            channel.w(one, two & 0xFF)
        elif what == "control":
            channel.bus.write(0x376, 1, one)
        elif what == "packet":
            channel.w(4, two & 0xFF)
            channel.w(5, two >> 8)
            channel.w(7, 0xA0)
            for byte in one:
                channel.bus.write(0x170, 1, byte)
        elif what == "read":
            for _ in range(one):
                channel.bus.read(0x170, 2)
        else:
            channel.clock.run_for(one * ACCESS_NS)
        assert len(channel.cd.state.data) <= 64 * 2352
    clock, state = channel.clock.save(), channel.ide.save()
    other.clock.load(clock)
    other.ide.load(state)
    assert other.ide.save() == state
    reads = [
        [chan.bus.read(0x170, 2) for _ in range(300)] + [chan.r(n) for n in range(1, 8)]
        for chan in (channel, other)
    ]
    assert reads[0] == reads[1]
