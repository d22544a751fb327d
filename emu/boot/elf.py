# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF kernels: what is to be loaded where, checked before a byte of it is.

pyelftools reads the structures; it is imported by the functions, since it takes a tenth of a
second. It is never asked to interpret more than headers, so that a damaged file is an error of
ours with a line that helps, whatever is wrong with it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emu.errors import KernelError

if TYPE_CHECKING:
    from emu.boot.layout import Placer

__all__ = ["ElfImage", "ElfSections", "is_elf", "load_segments", "place_sections", "read_elf"]

_MACHINES = {"EM_386", "EM_X86_64"}
_SYMBOLS = {"SHT_SYMTAB", "SHT_STRTAB"}
_SECTION_LIMIT = 0x4000


@dataclass(frozen=True, slots=True)
class ElfSegment:
    """A PT_LOAD program header and its bytes in the file."""

    vaddr: int
    paddr: int
    memsz: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ElfImage:
    """A kernel's segments; `entry` is guest-physical, `bits` 32 or 64."""

    segments: tuple[ElfSegment, ...]
    entry: int
    bits: int


@dataclass(frozen=True, slots=True)
class ElfSections:
    """The section header table, its addresses true in guest memory; not itself placed yet."""

    count: int
    entry_size: int
    names: int
    table: bytes


def is_elf(image: bytes) -> bool:
    """Tell whether the image starts with the ELF magic."""
    return image[:4] == b"\x7fELF"


def _damage() -> tuple[type[Exception], ...]:
    """Return what pyelftools raises over damaged files, meant and unmeant."""
    from elftools.common.exceptions import ELFError

    return (ELFError, ValueError, KeyError, AttributeError, OverflowError, OSError)


def _open(image: bytes) -> Any:
    from elftools.elf.elffile import ELFFile

    try:
        return ELFFile(io.BytesIO(image))
    except _damage() as error:
        raise KernelError(f"truncated or damaged ELF file: {error or 'bad header'}") from error


def _headers(elf: Any, offset: int, count: int, size: int, layout: Any, what: str) -> list[Any]:
    from elftools.common.utils import struct_parse

    need = layout.sizeof()
    if count and size < need:
        raise KernelError(f"damaged ELF file: {what} headers of {size} bytes, not {need}")
    try:
        return [struct_parse(layout, elf.stream, offset + i * size) for i in range(count)]
    except _damage() as error:
        raise KernelError(f"truncated ELF file: its {what} headers are not all there") from error


def read_elf(image: bytes) -> ElfImage:
    """Return the loadable segments of an x86 executable; raises KernelError for all else."""
    elf = _open(image)
    _check_header(elf.header)
    header = elf.header
    wanted = _headers(
        elf, header.e_phoff, header.e_phnum, header.e_phentsize, elf.structs.Elf_Phdr, "program"
    )
    segments = []
    for phdr in wanted:
        if phdr.p_type != "PT_LOAD" or not phdr.p_memsz:
            continue
        if phdr.p_filesz > phdr.p_memsz:
            raise KernelError(f"damaged ELF file: segment at {phdr.p_paddr:#x} is larger in file")
        if phdr.p_offset + phdr.p_filesz > len(image):
            raise KernelError(
                f"truncated ELF file: the segment for {phdr.p_paddr:#x} ends at byte "
                f"{phdr.p_offset + phdr.p_filesz} of the file, which has {len(image)}"
            )
        data = image[phdr.p_offset : phdr.p_offset + phdr.p_filesz]
        segments.append(ElfSegment(phdr.p_vaddr, phdr.p_paddr, phdr.p_memsz, data))
    if not segments:
        raise KernelError("the ELF file has nothing to load (no PT_LOAD segment): link it")
    return ElfImage(tuple(segments), _physical_entry(header.e_entry, segments), elf.elfclass)


def _check_header(header: Any) -> None:
    if header.e_ident.EI_DATA != "ELFDATA2LSB" or header.e_machine not in _MACHINES:
        machine = str(header.e_machine).removeprefix("EM_")
        raise KernelError(
            f"this ELF file is for {machine}, not for x86: build it for i386 or x86-64"
        )
    kind = header.e_type
    if kind == "ET_REL":
        raise KernelError("this is a relocatable object file: link it into an executable first")
    if kind == "ET_DYN":
        raise KernelError(
            "this is a position-independent executable or library: "
            "link it with -static -no-pie at a fixed address"
        )
    if kind != "ET_EXEC":
        raise KernelError(f"this ELF file is no executable (its type is {kind})")


def _physical_entry(entry: int, segments: list[ElfSegment]) -> int:
    for segment in segments:
        if segment.vaddr <= entry < segment.vaddr + segment.memsz:
            return entry - segment.vaddr + segment.paddr
    if any(segment.paddr <= entry < segment.paddr + segment.memsz for segment in segments):
        return entry
    raise KernelError(
        f"the entry point {entry:#x} lies in no loaded segment: name it with ENTRY() or ld -e"
    )


def load_segments(elf: ElfImage, placer: Placer) -> None:
    """Write the segments to their physical addresses; raises KernelError where they cannot be."""
    for index, segment in enumerate(elf.segments):
        placer.put(segment.paddr, segment.data, f"segment {index}", size=segment.memsz)


def place_sections(image: bytes, placer: Placer, low: int) -> ElfSections | None:
    """Put the symbol and string tables into memory and return the section header table.

    Their addresses in the table are made true, as GRUB does. Returns None where the file has no
    (or no sound) section table.
    """
    elf = _open(image)
    header = elf.header
    count, size = header.e_shnum, header.e_shentsize
    if not 0 < count <= _SECTION_LIMIT or header.e_shoff + count * size > len(image):
        return None
    layout = elf.structs.Elf_Shdr
    sections = _headers(elf, header.e_shoff, count, size, layout, "section")
    for section in sections:
        if section.sh_type in _SYMBOLS and not section.sh_addr and section.sh_size:
            data = image[section.sh_offset : section.sh_offset + section.sh_size]
            if len(data) == section.sh_size and placer.room(len(data), low=low):
                section.sh_addr = placer.add(data, "ELF symbols", low=low)
    table = b"".join(layout.build(section) for section in sections)
    return ElfSections(count, layout.sizeof(), header.e_shstrndx, table)
