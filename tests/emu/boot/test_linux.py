# SPDX-License-Identifier: GPL-2.0-or-later
"""The Linux boot protocol, on images made to order."""

from __future__ import annotations

import struct

import pytest

from emu.boot import Module, load
from emu.boot.linux import BOOT_CS, BOOT_DS
from emu.errors import KernelError

MIB = 1 << 20
CODE = b"\xf4KERNEL" + bytes(9)


def zero_page(boot, memory):
    return memory.read_block(boot.state.gprs["rsi"], 4096)


def u32(page, offset):
    return struct.unpack_from("<I", page, offset)[0]


def test_kernel_is_entered_as_boot_rst_asks(bzimage, request_of):
    request = request_of()
    boot = load(bzimage(), request)
    state = boot.state
    assert request.memory.read_block(MIB, len(CODE)) == CODE
    assert state.rip == MIB
    assert state.rflags & 0x200 == 0
    assert [state.gprs.get(name, 0) for name in ("rbp", "rdi", "rbx")] == [0, 0, 0]
    for name, segment in state.segments.items():
        assert segment.selector == (BOOT_CS if name == "cs" else BOOT_DS)
        descriptor = request.memory.read(state.gdtr.base + segment.selector, 8)
        assert descriptor >> 40 & 0xFF == (0x9B if name == "cs" else 0x93)


def test_zero_page(bzimage, request_of, text_at):
    request = request_of(cmdline="console=ttyS0 quiet", rsdp_gpa=0xE0000)
    page = zero_page(load(bzimage(), request), request.memory)
    assert page[0x1FE:0x200] == b"\x55\xaa"
    assert page[0x202:0x206] == b"HdrS"
    assert page[0x210] == 0xFF
    assert u32(page, 0x214) == MIB
    assert text_at(request.memory, u32(page, 0x228)) == "console=ttyS0 quiet"
    assert struct.unpack_from("<Q", page, 0x70)[0] == 0xE0000
    assert page[0x1E8] == 4
    entries = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * i) for i in range(4)]
    assert entries[0] == (0, 0x9FC00, 1)
    assert entries[-1] == (MIB, 15 * MIB, 1)
    assert (page[7], page[14], page[15]) == (80, 25, 1)


def test_initrds_become_one_high_up_and_4_aligned(bzimage, request_of):
    request = request_of(modules=[Module(b"abcde"), Module(b"fgh")])
    image = bzimage(initrd_addr_max=8 * MIB - 1)
    page = zero_page(load(image, request), request.memory)
    start, size = u32(page, 0x218), u32(page, 0x21C)
    assert request.memory.read_block(start, size) == b"abcde\0\0\0fgh"
    assert start % 4096 == 0
    assert start + size <= 8 * MIB
    assert start >= 7 * MIB


@pytest.mark.parametrize(
    ("fields", "entry"),
    [
        ({"pref_address": 4 * MIB, "relocatable": 1}, 4 * MIB),
        ({"pref_address": 64 * MIB, "relocatable": 1}, 2 * MIB),
        ({"pref_address": 4 * MIB, "relocatable": 0}, MIB),
        ({"version": 0x0204}, MIB),
    ],
    ids=["preferred", "moved", "not relocatable", "old protocol"],
)
def test_where_the_kernel_goes(bzimage, request_of, fields, entry):
    request = request_of()
    request.format = "linux"
    boot = load(bzimage(**fields), request)
    assert boot.state.rip == entry
    assert request.memory.read_block(entry, len(CODE)) == CODE


@pytest.mark.parametrize(
    ("header", "cut", "fields", "word"),
    [
        ({}, 0x240, {}, "truncated"),
        ({}, 1024, {}, "truncated"),
        ({"code": bytes(4096)}, -100, {}, "truncated"),
        ({"version": 0x0201}, None, {}, "too old"),
        ({"loadflags": 0}, None, {}, "bzImage"),
        ({"init_size": 32 * MIB}, None, {}, "-m"),
        ({"relocatable": 1, "init_size": 32 * MIB}, None, {}, "no room for the kernel"),
        ({"cmdline_size": 10}, None, {"cmdline": "a" * 11}, "command line has 11"),
        ({}, None, {"modules": [Module(bytes(16 * MIB))]}, "no room for the initrd"),
        (
            {"relocatable": 1, "pref_address": 1 << 40, "kernel_alignment": 3 << 20},
            None,
            {},
            "damaged",
        ),
    ],
    ids=[
        "header cut", "no code", "code cut", "protocol 2.01", "zimage", "memory too small",
        "memory too small to move", "long command line", "initrd too large", "bad alignment",
    ],
)  # fmt: skip
def test_bad_input(bzimage, request_of, header, cut, fields, word):
    with pytest.raises(KernelError, match=word):
        load(bzimage(**header)[:cut], request_of(format="linux", **fields))


@pytest.mark.parametrize("value", [0x00, 0x80, 0xFF])
def test_any_damaged_byte_of_the_header_loads_or_says_why(bzimage, request_of, value):
    image = bzimage(relocatable=1)
    for position in range(0x1F1, 0x268):
        damaged = image[:position] + bytes([value]) + image[position + 1 :]
        try:
            load(damaged, request_of(format="linux"))
        except KernelError as error:
            assert "\n" not in str(error)
