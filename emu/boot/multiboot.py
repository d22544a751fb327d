# SPDX-License-Identifier: GPL-2.0-or-later
"""Multiboot 1 (Multiboot Specification 0.6.96): ELF32, ELF64, and the a.out kludge.

The header stands 4-aligned in the first 8 KiB of the file. An ELF64 kernel in multiboot clothing
is entered as any other: 32-bit protected mode, paging off. What lies where afterwards:

    kernel              where it says
    ELF symbols         behind the kernel
    modules             behind those, each on a page of its own
    info structure      in conventional memory, with strings, memory map and a GDT
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from emu.boot.elf import is_elf, load_segments, place_sections, read_elf
from emu.boot.layout import Placer, align_up, pack_e820, upper_kib
from emu.boot.request import Boot, BootRequest
from emu.errors import KernelError
from emu.state import CpuState, Table

__all__ = [
    "BOOT_MAGIC",
    "LOADER_NAME",
    "TEXT_FRAMEBUFFER",
    "Header",
    "explain_missing_header",
    "find_header",
    "load",
    "load_at_addresses",
    "place_gdt",
    "start_state",
]

HEADER_MAGIC = 0x1BADB002
BOOT_MAGIC = 0x2BADB002
LOADER_NAME = b"shadowcorn\0"
_SEARCH = 8192

# Header flags (spec 3.1.2); of the low half all must be understood.
_WANT_PAGE_ALIGNED = 1 << 0
_WANT_MEMORY = 1 << 1
_WANT_VIDEO = 1 << 2
_HAS_ADDRESSES = 1 << 16
_UNDERSTOOD = _WANT_PAGE_ALIGNED | _WANT_MEMORY | _WANT_VIDEO

# Info flags (spec 3.3).
_INFO_MEMORY = 1 << 0
_INFO_BOOT_DEVICE = 1 << 1
_INFO_CMDLINE = 1 << 2
_INFO_MODULES = 1 << 3
_INFO_ELF_SECTIONS = 1 << 5
_INFO_MMAP = 1 << 6
_INFO_LOADER_NAME = 1 << 9
_INFO_FRAMEBUFFER = 1 << 12
_INFO_SIZE = 116
_BOOT_DEVICE = 0x8000FFFF  # first hard disk, no partition
_PAGE = 4096
_STACK_SIZE = 4096

TEXT_FRAMEBUFFER = (0xB8000, 160, 80, 25, 16, 2)
"""Address, bytes a line, columns, lines, bits a cell, type 2: the text screen (spec 3.3)."""


@dataclass(frozen=True, slots=True)
class Header:
    """A valid header at byte `offset`; the addresses are None without the a.out kludge."""

    offset: int
    flags: int
    header_addr: int = 0
    load_addr: int = 0
    load_end_addr: int = 0
    bss_end_addr: int = 0
    entry_addr: int = 0


def find_header(image: bytes) -> Header | None:
    """Return the first valid header, or None."""
    magic = struct.pack("<I", HEADER_MAGIC)
    offset = image.find(magic, 0, _SEARCH)
    while offset >= 0:
        if not offset % 4 and offset + 12 <= min(len(image), _SEARCH):
            _, flags, checksum = struct.unpack_from("<III", image, offset)
            if (HEADER_MAGIC + flags + checksum) & 0xFFFFFFFF == 0:
                return _with_addresses(image, offset, flags)
        offset = image.find(magic, offset + 1, _SEARCH)
    return None


def _with_addresses(image: bytes, offset: int, flags: int) -> Header:
    if not flags & _HAS_ADDRESSES:
        return Header(offset, flags)
    if offset + 32 > len(image):
        raise KernelError("the file ends within its multiboot header")
    return Header(offset, flags, *struct.unpack_from("<5I", image, offset + 12))


def explain_missing_header(image: bytes) -> str | None:
    """Return what is wrong with something that was meant to be a header, or None."""
    offset = image.find(struct.pack("<I", HEADER_MAGIC))
    if offset < 0 or offset + 12 > len(image):
        return None
    _, flags, checksum = struct.unpack_from("<III", image, offset)
    right = -(HEADER_MAGIC + flags) & 0xFFFFFFFF
    if offset % 4:
        return f"the multiboot header at byte {offset:#x} is not 4-aligned: align it"
    if checksum != right:
        return f"the multiboot header's checksum is {checksum:#x} where {right:#x} is right"
    if offset + 12 > _SEARCH:
        return (
            f"the multiboot header at byte {offset:#x} is not in the first 8 KiB of the file: "
            "put its section first, or link with ld -n"
        )
    return None


def load(image: bytes, request: BootRequest) -> Boot:
    """Load a multiboot 1 kernel and its modules; see the module's text."""
    header = find_header(image)
    if header is None:
        raise KernelError(explain_missing_header(image) or "no multiboot header")
    unknown = header.flags & 0xFFFF & ~_UNDERSTOOD
    if unknown:
        raise KernelError(f"the multiboot header requires unknown features (flags {unknown:#x})")
    if header.flags & _WANT_VIDEO:
        request.warn("the kernel asks for a video mode: it gets text mode 80x25")
    placer = Placer(request.memory, request.reserved, request.clean)
    if header.flags & _HAS_ADDRESSES:
        entry = load_at_addresses(image, header, placer)
        kind = "multiboot, addresses in the header"
    elif is_elf(image):
        elf = read_elf(image)
        load_segments(elf, placer)
        entry = elf.entry
        kind = f"multiboot ELF{elf.bits}"
    else:
        raise KernelError(
            "the multiboot header has no load addresses (flag 16) and the file is no ELF: "
            "link it as ELF or fill in the addresses"
        )
    if entry >> 32:
        raise KernelError(f"the entry point {entry:#x} is above 4 GiB: multiboot starts in 32 bits")
    info = _Info(image, request, placer).build(sections=not header.flags & _HAS_ADDRESSES)
    state = start_state(entry, BOOT_MAGIC, info, placer)
    return Boot(state, "multiboot", f"{kind}, entry {entry:#x}")


def load_at_addresses(image: bytes, header: Header, placer: Placer) -> int:
    """Load by the header's own addresses (the a.out kludge) and return the entry point."""
    if header.load_addr > header.header_addr:
        raise KernelError(
            f"the multiboot header's load_addr {header.load_addr:#x} is above its "
            f"header_addr {header.header_addr:#x}"
        )
    start = header.offset - (header.header_addr - header.load_addr)
    if start < 0:
        raise KernelError(
            f"the multiboot header's addresses put the start of the image {-start} bytes "
            "before the start of the file"
        )
    size = len(image) - start
    if header.load_end_addr:
        if header.load_end_addr <= header.load_addr:
            raise KernelError(
                f"the multiboot header's load_end_addr {header.load_end_addr:#x} is not above its "
                f"load_addr {header.load_addr:#x}"
            )
        size = header.load_end_addr - header.load_addr
    if not 0 < size <= len(image) - start:
        raise KernelError(
            f"truncated kernel: the multiboot header wants bytes {start} to {start + size} "
            f"of the file, which has {len(image)}"
        )
    total = max(size, header.bss_end_addr - header.load_addr)
    if not header.load_addr <= header.entry_addr < header.load_addr + total:
        raise KernelError(f"the entry point {header.entry_addr:#x} lies outside the loaded image")
    placer.put(header.load_addr, image[start : start + size], "the kernel", size=total)
    return header.entry_addr


def place_gdt(placer: Placer) -> Table:
    """Put a flat GDT (code 0x08, data 0x10) into memory and return its register value.

    The specification leaves GDTR undefined, but kernels that reload a data segment before their
    own LGDT work under QEMU and GRUB, and so they do here.
    """
    entries = (0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
    return Table(placer.add(struct.pack("<3Q", *entries), "the GDT"), 8 * len(entries) - 1)


def start_state(entry: int, magic: int, info: int, placer: Placer) -> CpuState:
    """Return the machine state of both multiboots, with more than they ask for: GDT and stack.

    The specifications leave ESP undefined too, and here as well some kernels rely on what QEMU and
    GRUB happen to leave.
    """
    stack = placer.find(_STACK_SIZE, "the stack") + _STACK_SIZE
    state = CpuState.flat32(entry, eax=magic, ebx=info, esp=stack)
    state.gdtr = place_gdt(placer)
    return state


class _Info:
    """Builds the information structure; everything it points to is placed first."""

    def __init__(self, image: bytes, request: BootRequest, placer: Placer) -> None:
        self.image = image
        self.request = request
        self.placer = placer
        self.kernel_end = align_up(placer.end, _PAGE)

    def build(self, *, sections: bool) -> int:
        placer, request = self.placer, self.request
        gpa = placer.find(_INFO_SIZE, "the multiboot information")
        info = bytearray(_INFO_SIZE)
        flags = _INFO_MEMORY | _INFO_BOOT_DEVICE | _INFO_CMDLINE | _INFO_MODULES
        flags |= _INFO_MMAP | _INFO_LOADER_NAME | _INFO_FRAMEBUFFER
        elf_sections = place_sections(self.image, placer, self.kernel_end) if sections else None
        if elf_sections is not None:
            flags |= _INFO_ELF_SECTIONS
            table = placer.add(elf_sections.table, "the ELF section table", low=self.kernel_end)
            s = elf_sections
            struct.pack_into("<4I", info, 28, s.count, s.entry_size, table, s.names)
        modules = self._modules()
        lower = next((r.end for r in placer.map if r.gpa == 0), 0) >> 10
        cmdline = self._string(f"{request.name} {request.cmdline}".rstrip(), "the command line")
        struct.pack_into("<4I", info, 4, lower, upper_kib(placer.map), _BOOT_DEVICE, cmdline)
        struct.pack_into("<2I", info, 20, len(request.modules), modules)
        mmap = b"".join(struct.pack("<I", 20) + pack_e820([piece]) for piece in placer.map)
        struct.pack_into("<2I", info, 44, len(mmap), placer.add(mmap, "the memory map"))
        struct.pack_into("<I", info, 64, placer.add(LOADER_NAME, "the loader's name"))
        struct.pack_into("<QIIIBB", info, 88, *TEXT_FRAMEBUFFER)
        struct.pack_into("<I", info, 0, flags)
        request.memory.write_block(gpa, bytes(info), "loader")
        return gpa

    def _string(self, text: str, what: str) -> int:
        return self.placer.add(text.encode("utf-8", "surrogateescape") + b"\0", what)

    def _modules(self) -> int:
        table = b""
        for index, module in enumerate(self.request.modules):
            what = f"module {index}"
            low = align_up(max(self.kernel_end, self.placer.end), _PAGE)
            start = self.placer.add(module.data, what, align=_PAGE, low=low)
            string = self._string(module.cmdline, what)
            table += struct.pack("<4I", start, start + len(module.data), string, 0)
        return self.placer.add(table, "the module table") if table else 0
