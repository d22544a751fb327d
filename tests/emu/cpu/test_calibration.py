# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding Unicorn's hidden state: what may be a pointer, and reads that cannot crash."""

from __future__ import annotations

import ctypes
import threading

import pytest

from emu.cpu import calibration


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (0, False),
        (0xFFF8, False),
        (0x10000, True),
        (0x10004, False),
        (0x7FFF_FFFF_FFF8, True),
        (0x8000_0000_0000, True),
        (0xFFFF_8C00_1230, True),
        (0xFFFF_FFFF_FFFF_FFF8, False),
    ],
    ids=[
        "nothing",
        "the first pages",
        "the lowest",
        "not aligned",
        "47 bits, x86-64's last",
        "48 bits, aarch64's upper half",
        "48 bits, a heap of aarch64",
        "the kernel's",
    ],
)
def test_what_may_be_a_pointer(word, expected):
    assert calibration._may_be_pointer(word) is expected


def test_reading_gives_what_is_there():
    data = bytes(range(256)) * 64
    buffer = ctypes.create_string_buffer(data, len(data))
    assert calibration._reader()(ctypes.addressof(buffer) + 3, 9000) == data[3:9003]


@pytest.mark.parametrize(
    "address",
    [0x10000 - 8, 0xFFFF_FFF0_0000, 0x00FF_0000_0000_0000, 0xFFFF_FFFF_FFFF_F000],
    ids=["low", "48 bits", "56 bits", "the kernel's"],
)
def test_reading_what_cannot_be_read_gives_nothing(address):
    assert calibration._reader()(address, 64) == b""


def test_the_layout_is_found_in_a_thread_too():
    calibration.layout.cache_clear()  # the heap of a thread is elsewhere
    found = []
    thread = threading.Thread(target=lambda: found.append(calibration.layout()))
    thread.start()
    thread.join()
    calibration.layout.cache_clear()
    assert found == [calibration.layout()]
