# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels made to order: headers and ELF files of any shape, sound and broken."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest

from emu.boot import BootRequest
from mmu.memory import Memory

MIB = 1 << 20


@dataclass
class Elf:
    """An ELF file. `segments` are (vaddr, paddr, data, memsz); any header field can be replaced."""

    segments: list = field(default_factory=lambda: [(0x100000, 0x100000, b"", 0x100)])
    entry: int = 0x100000
    bits: int = 32
    machine: int | None = None
    type: int = 2
    symbols: bytes = b""
    data: int = 1

    def build(self):
        wide = self.bits == 64
        ehsize, phsize, shsize = (64, 56, 64) if wide else (52, 32, 40)
        word = "Q" if wide else "I"
        machine = self.machine if self.machine is not None else (62 if wide else 3)
        names = b"\0.symtab\0.shstrtab\0"
        position = ehsize + phsize * len(self.segments)
        position = -(-position // 16) * 16
        body, programs = b"", b""
        for vaddr, paddr, content, memsz in self.segments:
            offset = position + len(body)
            body += content + bytes(-len(content) % 16)
            size = len(content)
            if wide:
                programs += struct.pack("<IIQQQQQQ", 1, 7, offset, vaddr, paddr, size, memsz, 16)
            else:
                programs += struct.pack("<IIIIIIII", 1, offset, vaddr, paddr, size, memsz, 7, 16)
        tail, sections, count = b"", b"", 0
        if self.symbols:
            at = position + len(body)
            rows = [(0, 0, 0, 0), (1, 2, at, len(self.symbols))]
            rows.append((9, 3, at + len(self.symbols), len(names)))
            for name, kind, offset, size in rows:
                row = struct.pack(f"<II{word}{word}{word}{word}", name, kind, 0, 0, offset, size)
                sections += row + bytes(shsize - len(row))
            tail, count = self.symbols + names, 3
        shoff = position + len(body) + len(tail) if count else 0
        ident = b"\x7fELF" + bytes([2 if wide else 1, self.data, 1]) + bytes(9)
        header = ident + struct.pack(
            f"<HHI{word}{word}{word}IHHHHHH",
            self.type, machine, 1, self.entry, ehsize, shoff, 0,
            ehsize, phsize, len(self.segments), shsize, count, max(count - 1, 0),
        )  # fmt: skip
        front = header + programs
        return front + bytes(position - len(front)) + body + tail + sections


def multiboot_header(flags=0, addresses=(), *, checksum=None):
    right = -(0x1BADB002 + flags) & 0xFFFFFFFF
    fields = [0x1BADB002, flags, right if checksum is None else checksum, *addresses]
    return struct.pack(f"<{len(fields)}I", *fields)


def make_bzimage(
    *, version=0x020F, code=b"\xf4KERNEL" + bytes(9), setup_sects=1, loadflags=1, **fields
):
    image = bytearray((setup_sects + 1) * 512)
    image[0x1F1] = setup_sects
    struct.pack_into("<I", image, 0x1F4, (len(code) + 15) // 16)
    image[0x1FE:0x202] = b"\x55\xaa\xeb\x66"
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    image[0x211] = loadflags
    values = {
        0x214: ("I", "code32_start", MIB),
        0x22C: ("I", "initrd_addr_max", 0x7FFFFFFF),
        0x230: ("I", "kernel_alignment", 0x200000),
        0x234: ("B", "relocatable", 0),
        0x238: ("I", "cmdline_size", 2047),
        0x258: ("Q", "pref_address", MIB),
        0x260: ("I", "init_size", 0x10000),
    }
    for offset, (code_, name, default) in values.items():
        struct.pack_into(f"<{code_}", image, offset, fields.pop(name, default))
    assert not fields
    return bytes(image) + code


@pytest.fixture
def bzimage():
    """Build a Linux image; header fields by their names in boot.rst."""
    return make_bzimage


@pytest.fixture
def elf():
    """Build an ELF file: `elf(segments=..., entry=..., bits=...)`."""
    return lambda **kwargs: Elf(**kwargs).build()


@pytest.fixture
def header():
    """Build a multiboot 1 header."""
    return multiboot_header


@pytest.fixture
def kernel(elf, header):
    """Build a multiboot ELF kernel of one segment at 1 MiB: a header, 16 nops, then `code`."""

    def build(flags=0, *, code=b"", **kwargs):
        content = header(flags) + b"\x90" * 16 + code
        size = kwargs.pop("memsz", 0x2000)
        kwargs.setdefault("segments", [(0x100000, 0x100000, content, size)])
        return elf(**{"entry": 0x100010, **kwargs})

    return build


def make_memory(ram=16 * MIB):
    memory = Memory()
    memory.add_ram(0, min(ram, 0xA0000))
    memory.add_rom(0xF0000, bytes(0x10000))
    if ram > MIB:
        memory.add_ram(MIB, ram - MIB)
    return memory


@pytest.fixture
def request_of():
    """Build a BootRequest over a PC's memory of `ram` bytes; other fields by name."""
    return lambda ram=16 * MIB, **kwargs: BootRequest(make_memory(ram), **kwargs)


@pytest.fixture
def text_at():
    """Read a zero-terminated string: `text_at(memory, gpa)`."""

    def read(memory, gpa):
        return memory.read_block(gpa, 512).split(b"\0")[0].decode()

    return read
