# SPDX-License-Identifier: GPL-2.0-or-later
"""Multiboot 1: what the kernel finds, and what a bad kernel file is told."""

from __future__ import annotations

import struct

import pytest

from emu.boot import Module, load
from emu.boot.multiboot import BOOT_MAGIC, find_header
from emu.errors import KernelError

MIB = 1 << 20


def info_of(boot, memory):
    names = (
        "flags lower upper device cmdline mods mods_addr shnum shentsize shaddr shndx "
        "mmap_length mmap_addr drives_length drives_addr config loader"
    )
    raw = memory.read_block(boot.state.gprs["rbx"], 68)
    return dict(zip(names.split(), struct.unpack("<17I", raw), strict=True))


def test_segments_lie_where_they_say_and_bss_is_zero(kernel, request_of):
    request = request_of()
    boot = load(kernel(code=b"hello"), request)
    assert request.memory.read_block(0x10001C, 5) == b"hello"
    assert not any(request.memory.read_block(0x100030, 0x1000))
    assert boot.state.rip == 0x100010
    assert boot.state.gprs["rax"] == BOOT_MAGIC
    assert boot.format == "multiboot"


@pytest.mark.parametrize("bits", [32, 64])
def test_start_state_is_flat_protected_mode_whatever_the_elf_class(kernel, request_of, bits):
    state = load(kernel(bits=bits), request_of()).state
    assert state.cr0 & 0x8000_0001 == 1
    assert state.efer == 0
    assert state.rflags & 0x200 == 0
    assert all((s.base, s.limit) == (0, 0xFFFFFFFF) for s in state.segments.values())


def test_gdt_agrees_with_the_selectors(kernel, request_of):
    request = request_of()
    state = load(kernel(), request).state
    for name, segment in state.segments.items():
        assert segment.selector + 7 <= state.gdtr.limit
        descriptor = request.memory.read(state.gdtr.base + segment.selector, 8)
        assert descriptor >> 40 & 0xFF == (0x9B if name == "cs" else 0x93)


def test_information(kernel, request_of, text_at):
    request = request_of(name="k.elf", cmdline="console=com1 x")
    info = info_of(load(kernel(), request), request.memory)
    assert info["flags"] & 0x24F == 0x24F
    assert (info["lower"], info["upper"]) == (639, 15 * 1024)
    assert text_at(request.memory, info["cmdline"]) == "k.elf console=com1 x"
    assert text_at(request.memory, info["loader"]) == "shadowcorn"


def test_memory_map_has_ram_and_what_is_reserved(kernel, request_of):
    request = request_of(reserved=[(15 * MIB, MIB, 3)])
    info = info_of(load(kernel(), request), request.memory)
    raw = request.memory.read_block(info["mmap_addr"], info["mmap_length"])
    entries = [struct.unpack_from("<IQQI", raw, i) for i in range(0, len(raw), 24)]
    assert entries == [
        (20, 0, 0x9FC00, 1),
        (20, 0x9FC00, 0x400, 2),
        (20, 0xF0000, 0x10000, 2),
        (20, MIB, 14 * MIB, 1),
        (20, 15 * MIB, MIB, 3),
    ]


def test_modules_are_page_aligned_behind_the_kernel(kernel, request_of, text_at):
    modules = [Module(b"a" * 5000, "one x=1"), Module(b"b", "two"), Module(b"", "none")]
    request = request_of(modules=modules)
    info = info_of(load(kernel(), request), request.memory)
    assert info["mods"] == 3
    end = 0x102000
    for index, module in enumerate(modules):
        row = request.memory.read_block(info["mods_addr"] + 16 * index, 16)
        start, stop, string, _ = struct.unpack("<4I", row)
        assert start % 4096 == 0
        assert start >= end
        assert request.memory.read_block(start, stop - start) == module.data
        assert text_at(request.memory, string) == module.cmdline
        end = stop


@pytest.mark.parametrize("bits", [32, 64])
def test_symbols_are_loaded_and_their_addresses_true(kernel, request_of, bits):
    request = request_of()
    info = info_of(load(kernel(bits=bits, symbols=b"SYMBOLS!"), request), request.memory)
    assert info["flags"] & 0x20
    assert (info["shnum"], info["shndx"]) == (3, 2)
    assert info["shentsize"] == (40 if bits == 32 else 64)
    row = info["shaddr"] + info["shentsize"]
    address = request.memory.read(row + 12 if bits == 32 else row + 16, bits // 8)
    assert request.memory.read_block(address, 8) == b"SYMBOLS!"


def test_higher_half_entry_becomes_physical(elf, header, request_of):
    content = header() + b"\x90" * 20
    segment = (0xC0100000, 0x100000, content, 0x1000)
    assert load(elf(segments=[segment], entry=0xC010000C), request_of()).state.rip == 0x10000C


def test_header_addresses_win_over_elf(request_of):
    load_addr = 0x200000
    addresses = (load_addr + 8, load_addr, load_addr + 0x40, load_addr + 0x80, load_addr + 0x28)
    flags = 1 << 16
    fields = struct.pack("<3I5I", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, *addresses)
    image = bytes(16) + b"12345678" + fields
    image += b"\xf4" * (0x50 - len(image) + 16)
    request = request_of()
    boot = load(image, request)
    assert boot.state.rip == load_addr + 0x28
    assert request.memory.read_block(load_addr, 8) == b"12345678"
    assert request.memory.read(load_addr + 0x3F, 1) == 0xF4
    assert not any(request.memory.read_block(load_addr + 0x40, 0x40))


def test_video_request_warns_and_gives_text(kernel, request_of):
    warnings = []
    request = request_of(warn=warnings.append)
    boot = load(kernel(1 << 2), request)
    assert len(warnings) == 1
    raw = request.memory.read_block(boot.state.gprs["rbx"] + 88, 22)
    assert struct.unpack("<QIIIBB", raw) == (0xB8000, 160, 80, 25, 16, 2)


def test_header_search_skips_look_alikes(header):
    unaligned = b"\x90" + header()
    bad_sum = header(checksum=1)
    image = unaligned + b"\x90" * 3 + bad_sum + header(3)
    assert find_header(image).offset == len(unaligned) + 3 + len(bad_sum)
    assert find_header(bytes(8192 - 12) + header()).offset == 8180
    assert find_header(bytes(8192 - 8) + header()) is None


ONE = 0x100000


def broken(elf, header):
    """Every way to get it wrong: the image and a word of the line that says so."""
    head = header() + b"\x90" * 20

    def one(memsz=0x1000, paddr=ONE, content=head, **kwargs):
        return elf(segments=[(paddr, paddr, content, memsz)], **{"entry": paddr + 12, **kwargs})

    a_out = header(1 << 16, (ONE, ONE, 0, 0, ONE + 32)) + bytes(32)
    return {
        "empty": (b"", "empty"),
        "elf header cut": (one()[:40], "truncated"),
        "program headers cut": (header() + b"", "no ELF"),
        "segment cut": (one()[:-8], "truncated"),
        "arm": (one(machine=40), "ARM"),
        "big endian": (one(data=2), "x86"),
        "relocatable": (one(type=1), "relocatable"),
        "pie": (one(type=3), "-no-pie"),
        "core": (one(type=4), "no executable"),
        "outside ram": (one(paddr=64 << 20), "-m"),
        "in vga memory": (one(paddr=0xB8000), "linker script"),
        "in rom": (one(paddr=0xF0000), "linker script"),
        "bss of 4 GiB": (one(memsz=0xFFFFFFFF), "-m"),
        "overlap": (elf(segments=[(ONE, ONE, head, 0x1000), (ONE, ONE + 0xFFF, b"x", 1)]), "overl"),
        "filesz over memsz": (one(memsz=8), "larger in file"),
        "nothing to load": (elf(segments=[(ONE, ONE, head, 0)]), "nothing to load"),
        "entry nowhere": (one(entry=0x10), "entry point"),
        "no header": (one(content=bytes(64)), "no multiboot header"),
        "bad checksum": (one(content=header(checksum=1) + bytes(20)), "checksum"),
        "unaligned": (one(content=b"\x90" + header() + bytes(20)), "4-aligned"),
        "header too far": (one(content=bytes(9000) + header(), memsz=10000), "8 KiB"),
        "unknown requirement": (one(content=header(1 << 4) + bytes(20)), "features"),
        "addresses cut": (header(1 << 16), "ends within"),
        "load above header": (
            header(1 << 16, (ONE, ONE + 4, 0, 0, ONE)) + bytes(64),
            "load_addr",
        ),
        "image before file": (
            header(1 << 16, (ONE + 64, ONE, 0, 0, ONE)) + bytes(64),
            "before the start",
        ),
        "load end past file": (
            header(1 << 16, (ONE, ONE, ONE + 4096, 0, ONE)) + bytes(64),
            "truncated",
        ),
        "load end before start": (
            header(1 << 16, (ONE, ONE, ONE - 1, 0, ONE)) + bytes(64),
            "load_end_addr 0xfffff is not above its load_addr",
        ),
        "a.out bss of 4 GiB": (
            header(1 << 16, (ONE, ONE, 0, 0xFFFFFFFF, ONE + 32)) + bytes(64),
            "-m",
        ),
        "a.out entry outside": (a_out.replace(struct.pack("<I", ONE + 32), bytes(4)), "entry"),
    }


BROKEN = [
    "empty", "elf header cut", "program headers cut", "segment cut", "arm", "big endian",
    "relocatable", "pie", "core", "outside ram", "in vga memory", "in rom", "bss of 4 GiB",
    "overlap", "filesz over memsz", "nothing to load", "entry nowhere", "no header",
    "bad checksum", "unaligned", "header too far", "unknown requirement", "addresses cut",
    "load above header", "image before file", "load end past file", "load end before start",
    "a.out bss of 4 GiB", "a.out entry outside",
]  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_bad_kernel_gets_one_clear_line(case, elf, header, request_of):
    image, word = broken(elf, header)[case]
    with pytest.raises(KernelError) as caught:
        load(image, request_of())
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_bad_case_is_run(elf, header):
    assert set(BROKEN) == set(broken(elf, header))


def test_module_larger_than_memory(kernel, request_of):
    with pytest.raises(KernelError, match="no room for module 0"):
        load(kernel(), request_of(modules=[Module(bytes(16 * MIB))]))


def test_machine_of_640_kib_has_no_room_for_a_kernel_at_1_mib(kernel, request_of):
    with pytest.raises(KernelError, match="-m"):
        load(kernel(), request_of(640 << 10))


@pytest.mark.parametrize("bits", [32, 64])
def test_any_cut_of_a_kernel_loads_or_says_why(kernel, request_of, bits):
    image = kernel(bits=bits, symbols=b"SYMBOLS!")
    for size in range(len(image)):
        try:
            load(image[:size], request_of())
        except KernelError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("value", [0x00, 0x7F, 0xFF])
@pytest.mark.parametrize("bits", [32, 64])
def test_any_damaged_byte_loads_or_says_why(kernel, request_of, bits, value):
    image = kernel(bits=bits, symbols=b"SYMBOLS!")
    for position in range(len(image)):
        damaged = image[:position] + bytes([value]) + image[position + 1 :]
        try:
            load(damaged, request_of())
        except KernelError as error:
            assert "\n" not in str(error)
