# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests' small assembler: a subset of NASM's language to a flat image or an ELF file.

``preprocessor`` expands macros and includes, ``encoder`` makes the bytes of one instruction, and
this file lays them out: labels, sections, code size, data, alignment, passes until nothing
moves. NASM takes the same sources (``nasm -f bin``, ``image_end`` and ``bss_end`` given), which
makes it a check of ours; it puts .bss elsewhere where a section has ``vstart``.

Directives: ``bits``, ``org``, ``section NAME [vstart=ADDRESS] [align=BYTES]``, ``[section NAME]``
with ``__SECT__`` to return, ``global`` (ignored), ``equ``, ``times``, ``align``/``alignb``, ``db``
to ``dq``, ``resb`` to ``resq``. Sections stand in the file in the order .text, the others as met,
.bss last and unwritten; a section with ``vstart`` is linked to run there and has to be copied
there by the guest from ``section.NAME.start``.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

from guests.encoder import Encoder, EncodingError
from guests.expression import (
    NAME,
    ExpressionError,
    evaluate,
    split_outside,
)
from guests.preprocessor import AssemblyError, Line, Preprocessor

__all__ = ["AssemblyError", "Image", "Instruction", "assemble", "elf32"]

_DATA = {"db": 1, "dw": 2, "dd": 4, "dq": 8}
_RESERVE = {"resb": 1, "resw": 2, "resd": 4, "resq": 8}
_NOP = b"\x90"
_MAX_PASSES = 40
_SECTION_ALIGN = 16
_LABEL = re.compile(rf"\s*({NAME})\s*:\s*(.*)$")
_EQU = re.compile(rf"\s*({NAME})\s+equ\s+(.*)$", re.IGNORECASE)


@dataclass(slots=True)
class _Statement:
    line: Line
    labels: tuple[str, ...]
    scope: str
    word: str
    rest: str
    bits: int
    section: str
    size: int = 0
    wide: bool = False
    code: bytes = b""
    address: int = 0


@dataclass(slots=True)
class _Section:
    name: str
    order: int
    vstart: str | None = None
    align: int = _SECTION_ALIGN
    statements: list[_Statement] = field(default_factory=list)
    start: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction or directive of the source and what became of it."""

    address: int
    bits: int
    code: bytes
    place: str
    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """What a source assembled to: bytes for ``origin`` on, zeros from there to ``end``."""

    origin: int
    data: bytes
    end: int
    symbols: dict[str, int]
    instructions: tuple[Instruction, ...]

    @property
    def entry(self) -> int:
        """The address of ``start``, or of the first byte."""
        return self.symbols.get("start", self.origin)


def assemble(path: Path, root: Path) -> Image:
    """Assemble ``path``, whose includes are named from ``root``. Raises AssemblyError.

    Cost: about a second per 10,000 instructions, nearly all of it keystone's.
    """
    return _Assembler(Preprocessor(root).run(path)).run()


class _Assembler:
    def __init__(self, lines: list[Line]) -> None:
        self.origin_text = "0"
        self.sections: dict[str, _Section] = {}
        self.statements: list[_Statement] = []
        self.equs: dict[str, tuple[str, str, Line]] = {}
        self.symbols: dict[str, int] = {}
        self.encoder = Encoder()
        self.final = False
        self._section(".text", "", None)
        self._read(lines)

    # -- reading --------------------------------------------------------------------------

    def _section(self, name: str, attributes: str, line: Line | None) -> _Section:
        """The section ``name``; its attributes count where it is met first."""
        if name not in self.sections:
            section = _Section(name, len(self.sections))
            for attribute in attributes.split():
                key, _, value = attribute.partition("=")
                if key == "vstart":
                    section.vstart = value
                elif key == "align":
                    section.align = int(value, 0)
                elif line is not None:
                    raise line.error(f"unknown attribute {key}")
            self.sections[name] = section
        return self.sections[name]

    def _read(self, lines: list[Line]) -> None:
        bits, current, home, scope = 16, ".text", ".text", ""
        for line in lines:
            text = line.text.strip()
            if text == "__SECT__":
                current = home
                continue
            primitive = text.startswith("[section") and text.endswith("]")
            word, _, rest = (text[1:-1] if primitive else text).partition(" ")
            rest = rest.strip()
            if word == "section":
                name, _, attributes = rest.partition(" ")
                current = self._section(name, attributes, line).name
                home = home if primitive else current
                continue
            if word == "bits":
                bits = int(rest)
                continue
            if word == "org":
                self.origin_text = rest
                continue
            if word == "global":
                continue
            scope = self._statement(line, text, bits, current, scope)

    def _statement(self, line: Line, text: str, bits: int, section: str, scope: str) -> str:
        """Add one statement with its labels; returns the scope of local labels after it."""
        equ = _EQU.match(text)
        if equ:
            self.equs[self._full(equ[1], scope)] = (equ[2], scope, line)
            return scope
        labels: list[str] = []
        match = _LABEL.match(text)
        if match:
            labels.append(self._full(match[1], scope))
            if not match[1].startswith("."):
                scope = match[1]
            text = match[2]
        word, _, rest = text.strip().partition(" ")
        statement = _Statement(
            line, tuple(labels), scope, word.lower(), rest.strip(), bits, section
        )
        self.statements.append(statement)
        self.sections[section].statements.append(statement)
        return scope

    @staticmethod
    def _full(name: str, scope: str) -> str:
        local = name.startswith(".") and not name.startswith("..")
        return scope + name if local else name

    # -- passes ---------------------------------------------------------------------------

    def run(self) -> Image:
        self._check_labels()
        for _ in range(_MAX_PASSES):
            before = dict(self.symbols)
            self._pass()
            if self.final and before == self.symbols:
                return self._image()
            self.final = before.keys() == self.symbols.keys() and before == self.symbols
        raise self.statements[0].line.error("the sizes do not settle")

    def _check_labels(self) -> None:
        seen: set[str] = set()
        for statement in self.statements:
            for label in statement.labels:
                if label in seen or label in self.equs:
                    raise statement.line.error(f"{label} is defined twice")
                seen.add(label)

    def _ordered(self) -> list[_Section]:
        def place(section: _Section) -> tuple[int, int]:
            return {".text": 0, ".bss": 2}.get(section.name, 1), section.order

        return sorted(self.sections.values(), key=place)

    def _pass(self) -> None:
        self.origin = evaluate(self.origin_text, self._constant)
        at = self.origin
        for section in self._ordered():
            if section.order or section.statements:
                at += -at % (4096 if section.name == ".bss" else section.align)
            section.start = at
            self.symbols[f"section.{section.name}.start"] = at
            run_at = at if section.vstart is None else evaluate(section.vstart, self._constant)
            section.size = self._lay(section, run_at) - run_at
            at += section.size
            if section.name != ".bss":
                self.symbols["image_end"] = at
        self.symbols["bss_end"] = at
        for name, (text, scope, line) in self.equs.items():
            self.symbols[name] = self._evaluate(text, scope, line, self.origin, self.origin)

    def _constant(self, name: str) -> int:
        if name in self.equs:
            return evaluate(self.equs[name][0], self._constant)
        raise ExpressionError(f"{name} is not a constant")

    def _lay(self, section: _Section, at: int) -> int:
        start = at
        for statement in section.statements:
            for label in statement.labels:
                self.symbols[label] = at
            statement.address = at
            if statement.word:
                try:
                    statement.code = self._bytes(statement, at, start)
                except (EncodingError, ExpressionError) as error:
                    raise statement.line.error(error) from None
                # Branches only ever grow, so the passes come to an end.
                if len(statement.code) < statement.size and not self._is_data(statement):
                    statement.wide = True
                statement.size = len(statement.code)
            at += statement.size
        return at

    @staticmethod
    def _is_data(statement: _Statement) -> bool:
        word = statement.word
        return word in _DATA or word in _RESERVE or word in ("times", "align", "alignb")

    def _evaluate(self, text: str, scope: str, line: Line, at: int, start: int) -> int:
        def lookup(name: str) -> int:
            if name == "$":
                return at
            if name == "$$":
                return start
            full = self._full(name, scope)
            if full in self.symbols:
                return self.symbols[full]
            if full in self.equs:
                inner, inner_scope, inner_line = self.equs[full]
                return self._evaluate(inner, inner_scope, inner_line, at, start)
            if self.final:
                raise line.error(f"{name} is not defined")
            # Not known yet: a value of the size that an address has.
            return at

        return evaluate(text, lookup)

    def _bytes(self, statement: _Statement, at: int, start: int) -> bytes:
        word, rest = statement.word, statement.rest

        def value(text: str) -> int:
            return self._evaluate(text, statement.scope, statement.line, at, start)

        if word in _DATA:
            return b"".join(_datum(item, _DATA[word], value) for item in split_outside(rest))
        if word in _RESERVE:
            return bytes(value(rest) * _RESERVE[word])
        if word in ("align", "alignb"):
            fill = b"\0" if word == "alignb" or statement.section != ".text" else _NOP
            return fill * (-at % value(split_outside(rest)[0]))
        if word == "times":
            count, repeated = _split_times(rest)
            inner_word, _, inner_rest = repeated.partition(" ")
            inner = _Statement(
                statement.line,
                (),
                statement.scope,
                inner_word.lower(),
                inner_rest.strip(),
                statement.bits,
                statement.section,
            )
            times = value(count)
            if times < 0:
                raise ExpressionError(f"times {times}: the code before it is too long")
            return self._bytes(inner, at, start) * times
        return self.encoder.encode(
            f"{word} {rest}",
            statement.bits,
            at,
            value,
            statement.wide,
        )

    # -- results --------------------------------------------------------------------------

    def _image(self) -> Image:
        data = b""
        for section in self._ordered():
            if section.name == ".bss":
                break
            data += bytes(section.start - self.origin - len(data))
            data += b"".join(s.code for s in section.statements)
        instructions = tuple(
            Instruction(
                s.address, s.bits, s.code, f"{s.line.file}:{s.line.number}", f"{s.word} {s.rest}"
            )
            for section in self._ordered()
            for s in section.statements
            if s.word
        )
        end = self.symbols["bss_end"]
        visible = {n: v for n, v in self.symbols.items() if not n.startswith(".")}
        return Image(self.origin, data, end, visible, instructions)


def _split_times(rest: str) -> tuple[str, str]:
    """(count expression, repeated statement) of a TIMES."""
    match = re.match(
        r"(.*?)\s+((?:db|dw|dd|dq|nop|resb)\b.*)$", rest, flags=re.IGNORECASE | re.DOTALL
    )
    if match is None:
        raise ExpressionError("times repeats db, dw, dd, dq or nop only")
    return match[1], match[2]


def _datum(item: str, size: int, value: object) -> bytes:
    quoted = len(item) > 1 and item[0] in "\"'" and item[-1] == item[0]
    if quoted:
        text = item[1:-1].encode("latin-1")
        return text + bytes(-len(text) % size)
    assert callable(value)
    number = int(value(item))
    if not -(1 << (8 * size - 1)) <= number < 1 << (8 * size):
        raise ExpressionError(f"{number:#x} does not fit {size} bytes")
    return (number & ((1 << (8 * size)) - 1)).to_bytes(size, "little")


def elf32(image: Image) -> bytes:
    """An ELF32 executable with one loadable segment and a symbol table, deterministic.

    Symbols let a debugger and a crash report name the guest's functions.
    """
    names = sorted(
        (value, name)
        for name, value in image.symbols.items()
        if image.origin <= value < image.end and ".." not in name
    )
    strings, symbols = b"\0", bytes(16)
    for value, name in names:
        symbols += struct.pack("<IIIBBH", len(strings), value, 0, 0x10, 0, 1)
        strings += name.encode("ascii") + b"\0"
    section_names = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"
    header_size, page = 52 + 32, 4096
    file_at = header_size + (image.origin - header_size) % page
    body = bytes(file_at - header_size) + image.data
    body += bytes(-len(body) % 4)
    symbols_at = header_size + len(body)
    strings_at = symbols_at + len(symbols)
    names_at = strings_at + len(strings)
    sections_at = names_at + len(section_names)
    sections_at += -sections_at % 4
    size, memory = len(image.data), image.end - image.origin
    identification = b"\x7fELF\x01\x01\x01" + bytes(9)
    header = identification + struct.pack(
        "<HHIIIIIHHHHHH", 2, 3, 1, image.entry, 52, sections_at, 0, 52, 32, 1, 40, 5, 4
    )
    segment = struct.pack("<8I", 1, file_at, image.origin, image.origin, size, memory, 7, page)
    sections = bytes(40)
    sections += struct.pack("<10I", 1, 1, 7, image.origin, file_at, size, 0, 0, 16, 0)
    sections += struct.pack("<10I", 7, 2, 0, 0, symbols_at, len(symbols), 3, 1, 4, 16)
    sections += struct.pack("<10I", 15, 3, 0, 0, strings_at, len(strings), 0, 0, 1, 0)
    sections += struct.pack("<10I", 23, 3, 0, 0, names_at, len(section_names), 0, 0, 1, 0)
    tail = symbols + strings + section_names
    tail += bytes(sections_at - names_at - len(section_names))
    return header + segment + body + tail + sections
