# SPDX-License-Identifier: GPL-2.0-or-later
"""Loads and stores at addresses."""

from __future__ import annotations

import ctypes

import pytest

from mmu import hostmemory


@pytest.fixture
def address():
    buffer = (ctypes.c_uint8 * 16)(*range(0xF0, 0x100))
    yield ctypes.addressof(buffer)
    assert len(buffer) == 16


def test_loads_are_little_endian_and_64_bits_are_signed(address):
    assert hostmemory.load8(address + 1) == 0xF1
    assert hostmemory.load32(address + 4) == 0xF7F6F5F4
    assert hostmemory.load64(address) == 0xF7F6F5F4F3F2F1F0 - (1 << 64)


@pytest.mark.parametrize(
    ("store", "value", "width"),
    [
        (hostmemory.store8, 0x12, 1),
        (hostmemory.store32, 0x12345678, 4),
        (hostmemory.store64, -2, 8),
    ],
    ids=["8", "32", "64"],
)
def test_stores_touch_their_bytes_and_no_others(address, store, value, width):
    store(address + 4, value)
    after = ctypes.string_at(address, 16)
    assert after[4 : 4 + width] == (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    assert after[:4] == bytes(range(0xF0, 0xF4))
    assert after[4 + width :] == bytes(range(0xF4 + width, 0x100))
