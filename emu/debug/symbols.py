# SPDX-License-Identifier: GPL-2.0-or-later
"""Names for addresses: the symbols of a kernel's ELF file, and file and line from its DWARF.

Nothing is read before a name is asked for. Damaged or missing tables give no names and no error:
names are a courtesy. Several files may be given, a kernel and its modules, each with the address
that it was loaded at.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

from emu.boot.elf import Symbols, is_elf, symbols

__all__ = ["KernelSymbols", "Lines", "lines"]


@dataclass(frozen=True, slots=True)
class Lines:
    """The line table of a kernel: from each of ``addresses``, rising, up to the next one the code
    is that of the ``places`` entry, (file, line), or of none where it is None."""

    addresses: list[int] = field(default_factory=list)
    places: list[tuple[str, int] | None] = field(default_factory=list)

    def at(self, address: int) -> tuple[str, int]:
        """Return file and line of the code at ``address``, ("", 0) where none is known.

        >>> table = Lines([0x1000, 0x1004, 0x1010], [("a.c", 3), ("a.c", 4), None])
        >>> table.at(0x1007), table.at(0x1010)
        (('a.c', 4), ('', 0))
        """
        index = bisect_right(self.addresses, address) - 1
        place = self.places[index] if index >= 0 else None
        return place if place is not None else ("", 0)


class KernelSymbols:
    """The names of one machine's code.

    >>> names = KernelSymbols(None)
    >>> names.name_of(0x1000), names.address_of("main")
    ('', None)
    """

    def __init__(self, image: bytes | None) -> None:
        self._files: list[_File] = []
        if image is not None and is_elf(image):
            self._files.append(_File(image, 0))

    def add(self, image: bytes, offset: int = 0) -> None:
        """Add an ELF file whose addresses are moved by ``offset``: a module, or the ELF file of a
        kernel that was booted as another format."""
        if is_elf(image):
            self._files.append(_File(image, offset))

    def name_of(self, address: int) -> str:
        """Return ``symbol+0x1c`` for an address, or "". The first call reads the symbols, a tenth
        of a second and more."""
        for file in self._files:
            name = file.symbols.name_of(address - file.offset)
            if name:
                return name
        return ""

    def line_of(self, address: int) -> tuple[str, int]:
        """Return file and line of an address, or ("", 0). The first call reads the DWARF line
        tables, seconds for a large kernel."""
        for file in self._files:
            place = file.lines.at(address - file.offset)
            if place[0]:
                return place
        return "", 0

    def address_of(self, name: str) -> int | None:
        """Return the address of a symbol, or None."""
        for file in self._files:
            address = file.by_name.get(name)
            if address is not None:
                return address + file.offset
        return None

    def extent_of(self, name: str) -> tuple[int, int] | None:
        """Return address and size in bytes of a symbol, variables included; the size is 0 where
        the file gives none. None for an unknown name. The first call reads all symbols."""
        for file in self._files:
            extent = file.extents.get(name)
            if extent is not None:
                return extent[0] + file.offset, extent[1]
        return None

    @property
    def bits(self) -> int:
        """The class of the kernel's ELF file, 32 or 64; 32 without one."""
        return 64 if self._files and self._files[0].is_64_bit else 32


class _File:
    def __init__(self, image: bytes, offset: int) -> None:
        self._image = image
        self.offset = offset

    @cached_property
    def symbols(self) -> Symbols:
        return symbols(self._image)

    @cached_property
    def lines(self) -> Lines:
        return lines(self._image)

    @cached_property
    def by_name(self) -> dict[str, int]:
        return dict(zip(self.symbols.names, self.symbols.addresses, strict=True))

    @property
    def is_64_bit(self) -> bool:
        return self._image[4:5] == b"\x02"

    @cached_property
    def extents(self) -> dict[str, tuple[int, int]]:
        return _extents(self._image)


def _extents(image: bytes) -> dict[str, tuple[int, int]]:
    """Return address and size of each symbol of an ELF file by its name; global ones first."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    found: dict[str, tuple[int, int]] = {}
    try:
        table = ELFFile(io.BytesIO(image)).get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            return found
        for symbol in table.iter_symbols():
            entry = symbol.entry
            known = symbol.name and entry.st_info.type in ("STT_FUNC", "STT_NOTYPE", "STT_OBJECT")
            if not known or entry.st_shndx == "SHN_UNDEF":
                continue
            if symbol.name not in found or entry.st_info.bind == "STB_GLOBAL":
                found[symbol.name] = entry.st_value, entry.st_size
    except (ELFError, ValueError, KeyError, AttributeError, OverflowError, OSError):
        return found  # a damaged table: what was read before the damage
    return found


def lines(image: bytes) -> Lines:
    """Return the line table of an ELF file from its DWARF, versions 2 to 5; empty without one."""
    from elftools.common.exceptions import DWARFError, ELFError
    from elftools.elf.elffile import ELFFile

    found: dict[int, tuple[str, int] | None] = {}
    try:
        elf = ELFFile(io.BytesIO(image))
        if not elf.has_dwarf_info():
            return Lines()
        dwarf = elf.get_dwarf_info()
        for unit in dwarf.iter_CUs():
            program = dwarf.line_program_for_CU(unit)
            if program is not None:
                _read_program(program, found)
    except (ELFError, DWARFError, ValueError, KeyError, AttributeError, IndexError, OSError):
        return Lines()
    addresses = sorted(found)
    return Lines(addresses, [found[address] for address in addresses])


def _read_program(program: object, found: dict[int, tuple[str, int] | None]) -> None:
    """Add the rows of one line program; the end of a sequence is code of no known line, unless
    another sequence begins there."""
    header = program.header  # type: ignore[attr-defined]
    files = _file_names(header)
    for entry in program.get_entries():  # type: ignore[attr-defined]
        state = entry.state
        if state is None:
            continue
        if state.end_sequence:
            found.setdefault(state.address, None)
        elif state.line:
            found[state.address] = files.get(state.file, ""), state.line


def _file_names(header: object) -> dict[int, str]:
    """Return the file names of a line program by their numbers, each with its directory."""
    version = header["version"]  # type: ignore[index]
    first = 0 if version >= 5 else 1
    directories = [_text(name) for name in header["include_directory"] or ()]  # type: ignore[index]
    if version < 5:
        directories.insert(0, "")
    names = {}
    for number, entry in enumerate(header["file_entry"] or (), first):  # type: ignore[index]
        name = _text(entry.name)
        folder = directories[entry.dir_index] if entry.dir_index < len(directories) else ""
        known = bool(folder) and not name.startswith("/") and entry.dir_index
        names[number] = str(PurePosixPath(folder) / name) if known else name
    return names


def _text(name: bytes | str) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
