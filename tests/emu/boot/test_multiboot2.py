# SPDX-License-Identifier: GPL-2.0-or-later
"""Multiboot 2: header tags, information tags, and what a bad header is told."""

from __future__ import annotations

import struct

import pytest

from emu.boot import Module, detect, load
from emu.boot.multiboot2 import BOOT_MAGIC, find_header
from emu.errors import KernelError

MIB = 1 << 20
END = struct.pack("<HHI", 0, 0, 8)


def tag(kind, *words, flags=0):
    body = struct.pack(f"<{len(words)}I", *words)
    whole = struct.pack("<HHI", kind, flags, 8 + len(body)) + body
    return whole + bytes(-len(whole) % 8)


def header2(*tags, arch=0, length=None, checksum=None):
    body = b"".join(tags) + END
    size = 16 + len(body) if length is None else length
    right = -(0xE85250D6 + arch + size) & 0xFFFFFFFF
    return (
        struct.pack("<4I", 0xE85250D6, arch, size, right if checksum is None else checksum) + body
    )


@pytest.fixture
def kernel2(elf):
    def build(*tags, **kwargs):
        content = header2(*tags) + b"\x90" * 16
        kwargs.setdefault("segments", [(MIB, MIB, content, 0x2000)])
        return elf(entry=MIB + len(content) - 16, **kwargs)

    return build


def information(boot, memory):
    gpa = boot.state.gprs["rbx"]
    total = memory.read(gpa, 4)
    raw = memory.read_block(gpa, total)
    tags, offset = [], 8
    while offset < total:
        kind, size = struct.unpack_from("<II", raw, offset)
        tags.append((kind, raw[offset + 8 : offset + size]))
        offset = -(-(offset + size) // 8) * 8
    assert tags[-1] == (0, b"")
    return tags


@pytest.mark.parametrize("bits", [32, 64])
def test_start_state(kernel2, request_of, bits):
    boot = load(kernel2(bits=bits), request_of())
    assert boot.format == "multiboot2"
    assert boot.state.gprs["rax"] == BOOT_MAGIC
    assert boot.state.gprs["rbx"] % 8 == 0
    assert boot.state.cr0 & 0x8000_0001 == 1


def test_information_tags(kernel2, request_of):
    rsdp = b"RSD PTR " + bytes(28)
    modules = [Module(b"m" * 5000, "first arg"), Module(b"n", "second")]
    request = request_of(name="k", cmdline="a b", modules=modules, rsdp=rsdp)
    tags = information(load(kernel2(symbols=b"SYM!"), request), request.memory)
    by_kind = dict(tags)
    assert by_kind[1] == b"k a b\0"
    assert by_kind[2] == b"shadowcorn\0"
    assert struct.unpack("<II", by_kind[4]) == (639, 15 * 1024)
    assert by_kind[14] == rsdp[:20]
    assert by_kind[15] == rsdp
    assert struct.unpack("<I", by_kind[21]) == (MIB,)
    assert struct.unpack_from("<III", by_kind[9]) == (3, 40, 2)
    assert struct.unpack_from("<QIIIBB", by_kind[8]) == (0xB8000, 160, 80, 25, 16, 2)
    mmap = by_kind[6]
    assert struct.unpack_from("<II", mmap) == (24, 0)
    entries = [struct.unpack_from("<QQII", mmap, i) for i in range(8, len(mmap), 24)]
    assert (MIB, 15 * MIB, 1, 0) in entries
    found = [body for kind, body in tags if kind == 3]
    for module, body in zip(modules, found, strict=True):
        start, end = struct.unpack_from("<II", body)
        assert start % 4096 == 0
        assert request.memory.read_block(start, end - start) == module.data
        assert body[8:] == module.cmdline.encode() + b"\0"


def test_without_acpi_there_is_no_acpi_tag(kernel2, request_of):
    request = request_of()
    kinds = {kind for kind, _ in information(load(kernel2(), request), request.memory)}
    assert not kinds & {14, 15}


def test_load_addresses_and_entry_tag(request_of):
    addresses = (0x200000, 0x200000, 0, 0x210000)
    image = header2(tag(2, *addresses), tag(3, 0x200050)) + b"\xf4" * 64
    request = request_of()
    boot = load(image, request)
    assert boot.state.rip == 0x200050
    assert request.memory.read(0x200050, 1) == 0xF4


def test_entry_tag_wins_over_elf(kernel2, request_of):
    assert load(kernel2(tag(3, MIB + 4)), request_of()).state.rip == MIB + 4


def test_optional_and_harmless_tags_are_passed_over(kernel2, request_of):
    tags = (tag(4, 3), tag(6), tag(7), tag(8, 1), tag(9, 1), tag(10, 1, 2, 3, 4))
    load(kernel2(*tags, tag(77, 1, flags=1), tag(1, 1, 6, 99, flags=1)), request_of())


def test_graphics_request_warns(kernel2, request_of):
    warnings = []
    load(kernel2(tag(5, 1024, 768, 32)), request_of(warn=warnings.append))
    assert len(warnings) == 1


def test_header_search(header):
    assert find_header(bytes(32768 - 24) + header2()[:24]) is not None
    assert find_header(bytes(32768) + header2()) is None
    assert find_header(bytes(4) + header2()) is None
    assert detect(header2() + header()) == "multiboot"


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (header2(checksum=0), "checksum"),
        (bytes(4) + header2(), "8-aligned"),
        (bytes(32768) + header2(), "32 KiB"),
        (header2(arch=4), "architecture 4"),
        (header2(length=4096), "ends within"),
        (header2(tag(2, 1, 2, 3, 4)), "no entry address"),
        (header2(), "no load addresses"),
        (header2(tag(77)), "header tag 77"),
        (header2(tag(1, 1, 17)), "information of type 17"),
        (header2(struct.pack("<HHI", 6, 0, 4)), "damaged"),
        (header2(struct.pack("<HHI", 6, 0, 4000)), "damaged"),
    ],
    ids=[
        "checksum", "unaligned", "too far", "mips", "cut", "addresses without entry",
        "neither elf nor addresses", "unknown tag", "unknown information", "tag too small",
        "tag too large",
    ],
)  # fmt: skip
def test_bad_header_gets_one_clear_line(request_of, image, word):
    with pytest.raises(KernelError, match=word):
        load(image, request_of(format="multiboot2"))


@pytest.mark.parametrize("value", [0x00, 0x7F, 0xFF])
def test_any_damaged_byte_loads_or_says_why(kernel2, request_of, value):
    image = kernel2(tag(1, 1, 2), tag(3, MIB), tag(2, MIB, MIB, 0, 0))
    for position in range(len(image)):
        damaged = image[:position] + bytes([value]) + image[position + 1 :]
        try:
            load(damaged, request_of(format="multiboot2"))
        except KernelError as error:
            assert "\n" not in str(error)
