# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import random

import pytest

from emu.debug.gdb.protocol import (
    MOST_BYTES,
    PacketError,
    Parser,
    What,
    escape,
    frame,
    hex_bytes,
    number,
    unescape,
)


def events(*pieces: bytes) -> list[tuple[str, bytes]]:
    parser = Parser()
    return [(event.what.name, event.data) for piece in pieces for event in parser.feed(piece)]


def test_a_packet_in_pieces_is_one_packet():
    assert events(b"$m0,", b"4#", b"f", b"d") == [("PACKET", b"m0,4")]


def test_what_stands_between_packets():
    assert events(b"+x-\x03\r\n$#00") == [
        ("ACK", b""),
        ("NAK", b""),
        ("INTERRUPT", b""),
        ("PACKET", b""),
    ]


def test_ctrl_c_inside_a_packet_is_data():
    assert events(frame(b"X0,1:\x03")) == [("PACKET", b"X0,1:\x03")]


@pytest.mark.parametrize("digits", [b"00", b"zz", b"6", b"#$"])
def test_a_wrong_checksum_is_damage(digits):
    assert events(b"$g#" + digits + b"0")[0][0] == "DAMAGED"


def test_a_packet_that_begins_anew_forgets_the_first():
    assert events(b"$m0,4$g#67") == [("PACKET", b"g")]


def test_a_packet_without_end_is_not_kept():
    parser = Parser()
    for _ in range(40):
        assert list(parser.feed(b"$" * (_ == 0) + b"a" * MOST_BYTES)) == []
    assert len(parser._data) == MOST_BYTES
    assert [event.what for event in parser.feed(b"#00")] == [What.TOO_LONG]
    assert [event.data for event in parser.feed(b"$g#67")] == [b"g"]


def test_any_bytes_survive_escaping():
    data = bytes(range(256)) * 3
    assert unescape(escape(data)) == data
    assert not set(b"$#*") & set(escape(data))


def test_an_escape_of_nothing_is_refused():
    with pytest.raises(PacketError):
        unescape(b"ab}")


@pytest.mark.parametrize("text", [b"", b"-1", b"0x10", b" 1", b"1_0", b"g", b"1" * 17, b"\xb2"])
def test_what_python_takes_for_a_number_and_gdb_does_not(text):
    with pytest.raises(PacketError):
        number(text)


def test_a_number_has_a_bound():
    assert number(b"ff", 255) == 255
    with pytest.raises(PacketError):
        number(b"100", 255)


@pytest.mark.parametrize("text", [b"0", b"zz", b"0 0", b"00 "])
def test_bytes_are_pairs_of_digits(text):
    with pytest.raises(PacketError):
        hex_bytes(text)


def test_random_bytes_make_no_trouble():
    draw = random.Random(7)
    parser = Parser()
    for _ in range(500):
        for event in parser.feed(bytes(draw.choice(b"$#+-\x03}gm0a") for _ in range(40))):
            assert len(event.data) <= MOST_BYTES
