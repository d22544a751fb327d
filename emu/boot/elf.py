# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF kernels: what is to be loaded where, checked before a byte of it is (System V ABI, ELF-64).

The three header formats are spelled out here: loading needs no more of them, and the smallest run
waits for nothing else. pyelftools reads the symbols (`symbols`), where somebody asks for a name.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import NamedTuple

from emu.boot.layout import Placer
from emu.errors import KernelError

__all__ = [
    "ElfImage",
    "ElfSections",
    "Symbols",
    "is_elf",
    "load_segments",
    "place_sections",
    "read_elf",
    "symbols",
]

_MAGIC = b"\x7fELF"
_IDENT_SIZE = 16
_LITTLE_ENDIAN = 1
_MACHINE_386, _MACHINE_X86_64 = 3, 62
# Names of others, for the person who took the wrong compiler.
_MACHINES = {2: "SPARC", 8: "MIPS", 20: "PowerPC", 21: "PowerPC", 22: "S390", 40: "ARM",
             50: "IA-64", 183: "AArch64", 243: "RISC-V", 258: "LoongArch"}  # fmt: skip
_TYPE_REL, _TYPE_EXEC, _TYPE_DYN = 1, 2, 3
_PT_LOAD = 1
_SHT_SYMTAB, _SHT_STRTAB = 2, 3
_SECTION_LIMIT = 0x4000
_CODE = ("STT_FUNC", "STT_NOTYPE")
_SYMBOL_LIMIT = 50_000  # a second's work; beyond it a person has better tools at hand
_FAR = 0x10000  # what lies further behind a symbol has nothing to do with it

# type machine version entry phoff shoff flags ehsize phentsize phnum shentsize shnum shstrndx
_HEADER = {32: "<HHIIIIIHHHHHH", 64: "<HHIQQQIHHHHHH"}
# Both orders of the program header's fields, and the place of each: type, offset, vaddr, paddr,
# filesz, memsz.
_PROGRAM = {32: ("<8I", (0, 1, 2, 3, 4, 5)), 64: ("<IIQQQQQQ", (0, 2, 3, 4, 5, 6))}
# name type flags addr offset size link info addralign entsize
_SECTION = {32: "<10I", 64: "<IIQQQQIIQQ"}


class _Header(NamedTuple):
    bits: int
    type: int
    machine: int
    entry: int
    phoff: int
    shoff: int
    phentsize: int
    phnum: int
    shentsize: int
    shnum: int
    shstrndx: int


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
    return image[:4] == _MAGIC


def _read_header(image: bytes) -> _Header:
    bits = {1: 32, 2: 64}.get(image[4] if len(image) > 4 else 0)
    if bits is None or len(image) < _IDENT_SIZE + struct.calcsize(_HEADER[bits]):
        raise KernelError("truncated or damaged ELF file: there is no whole header")
    fields = struct.unpack_from(_HEADER[bits], image, _IDENT_SIZE)
    kind, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, names = fields
    if image[5] != _LITTLE_ENDIAN or machine not in (_MACHINE_386, _MACHINE_X86_64):
        name = _MACHINES.get(machine, f"machine {machine}")
        raise KernelError(f"this ELF file is for {name}, not for x86: build it for i386 or x86-64")
    return _Header(
        bits, kind, machine, entry, phoff, shoff, phentsize, phnum, shentsize, shnum, names
    )


def read_elf(image: bytes) -> ElfImage:
    """Return the loadable segments of an x86 executable; raises KernelError for all else."""
    header = _read_header(image)
    _check_type(header.type)
    layout, places = _PROGRAM[header.bits]
    size = header.phentsize
    if header.phnum and size < struct.calcsize(layout):
        raise KernelError(f"damaged ELF file: program headers of {size} bytes")
    if header.phoff + header.phnum * size > len(image):
        raise KernelError("truncated ELF file: its program headers are not all there")
    segments = []
    for index in range(header.phnum):
        fields = struct.unpack_from(layout, image, header.phoff + index * size)
        kind, offset, vaddr, paddr, filesz, memsz = (fields[place] for place in places)
        if kind == _PT_LOAD and memsz:
            segments.append(_segment(image, offset, vaddr, paddr, filesz, memsz))
    if not segments:
        raise KernelError("the ELF file has nothing to load (no PT_LOAD segment): link it")
    return ElfImage(tuple(segments), _physical_entry(header.entry, segments), header.bits)


def _check_type(kind: int) -> None:
    if kind == _TYPE_REL:
        raise KernelError("this is a relocatable object file: link it into an executable first")
    if kind == _TYPE_DYN:
        raise KernelError(
            "this is a position-independent executable or library: "
            "link it with -static -no-pie at a fixed address"
        )
    if kind != _TYPE_EXEC:
        raise KernelError(f"this ELF file is no executable (its type is {kind})")


def _segment(
    image: bytes, offset: int, vaddr: int, paddr: int, filesz: int, memsz: int
) -> ElfSegment:
    if filesz > memsz:
        raise KernelError(f"damaged ELF file: the segment for {paddr:#x} is larger in file")
    end = offset + filesz
    if end > len(image):
        raise KernelError(
            f"truncated ELF file: the segment for {paddr:#x} ends at byte {end} of the file, "
            f"which has {len(image)}"
        )
    return ElfSegment(vaddr, paddr, memsz, image[offset:end])


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
    header = _read_header(image)
    layout = _SECTION[header.bits]
    count, size = header.shnum, header.shentsize
    if (
        not 0 < count <= _SECTION_LIMIT
        or size < struct.calcsize(layout)
        or header.shoff + count * size > len(image)
    ):
        return None
    table = b""
    for index in range(count):
        fields = list(struct.unpack_from(layout, image, header.shoff + index * size))
        _, kind, _, address, offset, length = fields[:6]
        if kind in (_SHT_SYMTAB, _SHT_STRTAB) and length and not address:
            data = image[offset : offset + length]
            if len(data) == length and placer.room(length, low=low):
                fields[3] = placer.add(data, "ELF symbols", low=low)
        table += struct.pack(layout, *fields)
    return ElfSections(count, struct.calcsize(layout), header.shstrndx, table)


@dataclass(frozen=True, slots=True)
class Symbols:
    """The functions and labels of a kernel, in order of address."""

    addresses: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def name_of(self, address: int) -> str | None:
        """Return `name+0x12` for an address behind a symbol, None where there is none near.

        >>> Symbols([0x1000, 0x1100], ["start", "main"]).name_of(0x1108)
        'main+0x8'
        """
        index = bisect_right(self.addresses, address) - 1
        if index < 0 or address - self.addresses[index] >= _FAR:
            return None
        offset = address - self.addresses[index]
        return f"{self.names[index]}+{offset:#x}" if offset else self.names[index]


def symbols(image: bytes) -> Symbols:
    """Return the symbols of an ELF file, empty for one without; a tenth of a second and more."""
    import io

    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    found: dict[int, str] = {}
    try:
        table = ELFFile(io.BytesIO(image)).get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection) or table.num_symbols() > _SYMBOL_LIMIT:
            return Symbols()
        for symbol in table.iter_symbols():
            entry = symbol.entry
            if symbol.name and entry.st_info.type in _CODE and isinstance(entry.st_shndx, int):
                found.setdefault(entry.st_value, symbol.name)
    except (ELFError, ValueError, KeyError, AttributeError, OverflowError, OSError):
        return Symbols()  # a damaged table: names are a courtesy
    return Symbols(sorted(found), [found[address] for address in sorted(found)])
