# SPDX-License-Identifier: GPL-2.0-or-later
"""Multiboot 2 (Multiboot2 Specification 2.0): tags in the header, tags in the information.

The header stands 8-aligned in the first 32 KiB of the file. Kernels start in the i386 machine
state; the entry points for EFI are not for a machine with a BIOS and are passed over, as GRUB does
there. What lies where afterwards is as in `emu.boot.multiboot`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from emu.boot.elf import ElfSections, is_elf, load_segments, place_sections, read_elf
from emu.boot.layout import Placer, align_up, pack_e820, upper_kib
from emu.boot.multiboot import (
    LOADER_NAME,
    TEXT_FRAMEBUFFER,
    Header,
    load_at_addresses,
    start_state,
)
from emu.boot.request import Boot, BootRequest
from emu.errors import KernelError

__all__ = ["BOOT_MAGIC", "Header2", "explain_missing_header", "find_header", "load"]

HEADER_MAGIC = 0xE85250D6
BOOT_MAGIC = 0x36D76289
_SEARCH = 32768
_ARCH_I386 = 0
_PAGE = 4096

# Header tags (spec 3.1.3 and on).
_TAG_END = 0
_TAG_INFORMATION = 1
_TAG_ADDRESS = 2
_TAG_ENTRY = 3
_TAG_CONSOLE = 4
_TAG_FRAMEBUFFER = 5
_TAG_MODULE_ALIGN = 6
_TAG_EFI_BOOT_SERVICES = 7
_TAG_EFI32_ENTRY = 8
_TAG_EFI64_ENTRY = 9
_TAG_RELOCATABLE = 10
# Nothing to do: modules are always aligned, and a kernel that may be moved need not be.
_HARMLESS = {
    _TAG_CONSOLE,
    _TAG_MODULE_ALIGN,
    _TAG_EFI_BOOT_SERVICES,
    _TAG_EFI32_ENTRY,
    _TAG_EFI64_ENTRY,
    _TAG_RELOCATABLE,
}
_OPTIONAL = 1

# Information tags (spec 3.6).
_INFO_END = 0
_INFO_CMDLINE = 1
_INFO_LOADER_NAME = 2
_INFO_MODULE = 3
_INFO_MEMORY = 4
_INFO_BOOT_DEVICE = 5
_INFO_MMAP = 6
_INFO_FRAMEBUFFER = 8
_INFO_ELF_SECTIONS = 9
_INFO_ACPI_OLD = 14
_INFO_ACPI_NEW = 15
_INFO_LOAD_BASE = 21
_PROVIDED = {
    _INFO_CMDLINE,
    _INFO_LOADER_NAME,
    _INFO_MODULE,
    _INFO_MEMORY,
    _INFO_BOOT_DEVICE,
    _INFO_MMAP,
    _INFO_FRAMEBUFFER,
    _INFO_ELF_SECTIONS,
    _INFO_ACPI_OLD,
    _INFO_ACPI_NEW,
    _INFO_LOAD_BASE,
}
_RSDP_V1_SIZE = 20


class _Tag(NamedTuple):
    kind: int
    flags: int
    body: bytes


@dataclass(slots=True)
class Header2:
    """A valid header at byte `offset`; `addresses` and `entry` are None where not given."""

    offset: int
    addresses: tuple[int, int, int, int] | None = None
    entry: int | None = None
    graphics: bool = False
    unsupported: list[str] = field(default_factory=list)


def find_header(image: bytes) -> Header2 | None:
    """Return the first valid header, or None; raises KernelError where its tags make no sense."""
    for offset in _candidates(image):
        magic, arch, length, checksum = struct.unpack_from("<4I", image, offset)
        if offset % 8 or offset + 16 > _SEARCH or (magic + arch + length + checksum) & 0xFFFFFFFF:
            continue
        if arch != _ARCH_I386:
            raise KernelError(
                f"the multiboot 2 header is for architecture {arch}, not for i386 (0)"
            )
        return _parse(image, offset, length)
    return None


def _candidates(image: bytes) -> Iterator[int]:
    magic = struct.pack("<I", HEADER_MAGIC)
    offset = image.find(magic)
    while 0 <= offset <= len(image) - 16:
        yield offset
        offset = image.find(magic, offset + 1)


def explain_missing_header(image: bytes) -> str | None:
    """Return what is wrong with something that was meant to be a header, or None."""
    for offset in _candidates(image):
        magic, arch, length, checksum = struct.unpack_from("<4I", image, offset)
        right = -(magic + arch + length) & 0xFFFFFFFF
        if offset % 8:
            return f"the multiboot 2 header at byte {offset:#x} is not 8-aligned: align it"
        if checksum != right:
            return f"the multiboot 2 header's checksum is {checksum:#x} where {right:#x} is right"
        return (
            f"the multiboot 2 header at byte {offset:#x} is not in the first 32 KiB of the file: "
            "put its section first, or link with ld -n"
        )
    return None


def _tags(image: bytes, start: int, end: int) -> Iterator[_Tag]:
    offset = start
    while offset + 8 <= end:
        kind, flags, size = struct.unpack_from("<HHI", image, offset)
        if kind == _TAG_END:
            return
        if size < 8 or offset + size > end:
            break
        yield _Tag(kind, flags, image[offset + 8 : offset + size])
        offset = align_up(offset + size, 8)
    raise KernelError(f"the multiboot 2 header's tags are damaged at byte {offset:#x} of the file")


def _parse(image: bytes, offset: int, length: int) -> Header2:
    if offset + length > len(image):
        raise KernelError("the file ends within its multiboot 2 header")
    header = Header2(offset)
    for tag in _tags(image, offset + 16, offset + length):
        _apply(header, tag)
    return header


def _apply(header: Header2, tag: _Tag) -> None:
    words = struct.unpack_from(f"<{len(tag.body) // 4}I", tag.body)
    required = not tag.flags & _OPTIONAL
    if tag.kind == _TAG_ADDRESS and len(words) >= 4:
        header.addresses = (words[0], words[1], words[2], words[3])
    elif tag.kind == _TAG_ENTRY and words:
        header.entry = words[0]
    elif tag.kind == _TAG_FRAMEBUFFER:
        header.graphics = len(words) >= 3 and words[2] != 0
    elif tag.kind == _TAG_INFORMATION:
        missing = sorted(set(words) - _PROVIDED)
        if missing and required:
            header.unsupported.append(f"information of type {', '.join(map(str, missing))}")
    elif tag.kind not in _HARMLESS and required:
        header.unsupported.append(f"header tag {tag.kind}")


def load(image: bytes, request: BootRequest) -> Boot:
    """Load a multiboot 2 kernel and its modules; see the module's text."""
    header = find_header(image)
    if header is None:
        raise KernelError(explain_missing_header(image) or "no multiboot 2 header")
    if header.unsupported:
        raise KernelError(
            f"the multiboot 2 header requires what is not provided: {'; '.join(header.unsupported)}"
        )
    if header.graphics:
        request.warn("the kernel asks for a video mode: it gets text mode 80x25")
    placer = Placer(request.memory, request.reserved, request.clean)
    entry, base, kind = _load_image(image, header, placer)
    if entry >> 32:
        raise KernelError(f"the entry point {entry:#x} is above 4 GiB: multiboot starts in 32 bits")
    low = align_up(placer.end, _PAGE)
    sections = place_sections(image, placer, low) if is_elf(image) else None
    info = placer.add(
        _information(request, placer, low, base, sections), "the information", align=8
    )
    state = start_state(entry, BOOT_MAGIC, info, placer)
    return Boot(state, "multiboot2", f"{kind}, entry {entry:#x}")


def _load_image(image: bytes, header: Header2, placer: Placer) -> tuple[int, int, str]:
    """Load the kernel; return its entry point, lowest address, and a description."""
    if header.addresses is not None:
        if header.entry is None:
            raise KernelError("the multiboot 2 header has load addresses but no entry address tag")
        plain = Header(header.offset, 0, *header.addresses, header.entry)
        entry = load_at_addresses(image, plain, placer)
        return entry, plain.load_addr, "multiboot 2, addresses in the header"
    if not is_elf(image):
        raise KernelError(
            "the multiboot 2 header has no load addresses and the file is no ELF: "
            "link it as ELF or add the address tag"
        )
    elf = read_elf(image)
    load_segments(elf, placer)
    entry = elf.entry if header.entry is None else header.entry
    base = min(segment.paddr for segment in elf.segments)
    return entry, base, f"multiboot 2 ELF{elf.bits}"


def _tag(kind: int, body: bytes) -> bytes:
    size = 8 + len(body)
    return struct.pack("<II", kind, size) + body + bytes(-size % 8)


def _string(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape") + b"\0"


def _information(request: BootRequest, placer: Placer, low: int, base: int,
                 sections: ElfSections | None) -> bytes:  # fmt: skip
    tags = [
        _tag(_INFO_CMDLINE, _string(f"{request.name} {request.cmdline}".rstrip())),
        _tag(_INFO_LOADER_NAME, LOADER_NAME),
        _tag(_INFO_LOAD_BASE, struct.pack("<I", base & 0xFFFFFFFF)),
    ]
    for index, module in enumerate(request.modules):
        low = align_up(max(low, placer.end), _PAGE)
        start = placer.add(module.data, f"module {index}", align=_PAGE, low=low)
        span = struct.pack("<II", start, start + len(module.data))
        tags.append(_tag(_INFO_MODULE, span + _string(module.cmdline)))
    lower = next((piece.end for piece in placer.map if piece.gpa == 0), 0) >> 10
    tags.append(_tag(_INFO_MEMORY, struct.pack("<II", lower, upper_kib(placer.map))))
    tags.append(_tag(_INFO_BOOT_DEVICE, struct.pack("<III", 0x80, 0xFFFFFFFF, 0xFFFFFFFF)))
    tags.append(_tag(_INFO_MMAP, struct.pack("<II", 24, 0) + pack_e820(placer.map, "<QQIxxxx")))
    tags.append(_tag(_INFO_FRAMEBUFFER, struct.pack("<QIIIBBH", *TEXT_FRAMEBUFFER, 0)))
    if sections is not None:
        shape = struct.pack("<3I", sections.count, sections.entry_size, sections.names)
        tags.append(_tag(_INFO_ELF_SECTIONS, shape + sections.table))
    if request.rsdp:
        tags.append(_tag(_INFO_ACPI_OLD, request.rsdp[:_RSDP_V1_SIZE]))
    if len(request.rsdp) > _RSDP_V1_SIZE:
        tags.append(_tag(_INFO_ACPI_NEW, request.rsdp))
    tags.append(_tag(_INFO_END, b""))
    body = b"".join(tags)
    return struct.pack("<II", 8 + len(body), 0) + body
