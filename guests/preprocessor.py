# SPDX-License-Identifier: GPL-2.0-or-later
"""The assembler's preprocessor: the part of NASM's that the guests use.

``%include``, ``%define`` (with parameters), ``%undef``, ``%assign``, ``%macro`` (ranges of
parameter counts, defaults, greedy ``+``, ``%%local`` labels, ``%0``), ``%rep``,
``%if``/``%ifdef``/``%ifndef``/``%ifidn``/``%elif``/``%else``, ``%error``. The result is a flat
list of lines that know where they came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from guests.expression import NAME, ExpressionError, evaluate, pieces, split_outside


class AssemblyError(ValueError):
    """A source cannot be assembled; the message begins with file and line."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of source after expansion, with the place to name in a message."""

    text: str
    file: str
    number: int

    def error(self, message: object) -> AssemblyError:
        """An error that points at this line."""
        return AssemblyError(f"{self.file}:{self.number}: {message}: {self.text.strip()}")


@dataclass(slots=True)
class _Macro:
    least: int
    most: int
    greedy: bool
    defaults: list[str]
    body: list[Line] = field(default_factory=list)


@dataclass(slots=True)
class _Define:
    parameters: list[str] | None
    text: str


_WORD = re.compile(rf"(?<![0-9A-Za-z_.?%$]){NAME}")
_CONDITIONS = ("%if", "%ifdef", "%ifndef", "%ifidn")
_MAX_DEPTH = 64


def strip_comment(text: str) -> str:
    """``text`` up to its first semicolon outside quotes."""
    kept = ""
    for piece, quoted in pieces(text):
        if not quoted and ";" in piece:
            return (kept + piece.split(";", 1)[0]).rstrip()
        kept += piece
    return kept.rstrip()


class Preprocessor:
    """Expands one source file and what it includes."""

    def __init__(self, root: Path) -> None:
        """``root`` is the folder that %include starts from."""
        self._root = root
        self._macros: dict[str, _Macro] = {}
        self._defines: dict[str, _Define] = {}
        self._unique = 0

    def run(self, path: Path) -> list[Line]:
        """The expanded lines of ``path``; raises AssemblyError."""
        return list(self._expand(self._read(path), 0))

    def _read(self, path: Path) -> list[Line]:
        text = path.read_text(encoding="ascii")
        inside = path.is_relative_to(self._root)
        name = path.relative_to(self._root).as_posix() if inside else path.name
        lines: list[Line] = []
        continued = ""
        for number, raw in enumerate(text.splitlines(), 1):
            stripped = strip_comment(raw)
            if stripped.endswith("\\"):
                continued += stripped[:-1]
                continue
            lines.append(Line(continued + stripped, name, number))
            continued = ""
        return lines

    # -- blocks ---------------------------------------------------------------------------

    def _expand(self, lines: list[Line], depth: int) -> Iterator[Line]:
        if depth > _MAX_DEPTH:
            raise lines[0].error("macros or includes nest too deep")
        at = 0
        while at < len(lines):
            line = lines[at]
            at += 1
            word, _, rest = line.text.strip().partition(" ")
            if word in _CONDITIONS:
                end = self._block_end(lines, at, _CONDITIONS, "%endif")
                yield from self._expand(self._choose(lines[at - 1 : end]), depth)
                at = end + 1
            elif word == "%macro":
                end = self._block_end(lines, at, ("%macro",), "%endmacro")
                self._define_macro(line, rest, lines[at:end])
                at = end + 1
            elif word == "%rep":
                end = self._block_end(lines, at, ("%rep",), "%endrep")
                for _ in range(self._value(line, rest)):
                    yield from self._expand(lines[at:end], depth)
                at = end + 1
            elif word.startswith("%") and not word.startswith("%%"):
                yield from self._directive(line, word, rest.strip(), depth)
            else:
                yield from self._plain(line, depth)

    def _block_end(self, lines: list[Line], at: int, openers: tuple[str, ...], end: str) -> int:
        opener, depth = lines[at - 1], 1
        while at < len(lines):
            word = lines[at].text.strip().partition(" ")[0]
            depth += (word in openers) - (word == end)
            if depth == 0:
                return at
            at += 1
        raise opener.error(f"no {end} follows")

    def _choose(self, block: list[Line]) -> list[Line]:
        """The lines of the first branch of an %if block whose condition holds."""
        taken = self._condition(block[0])
        chosen: list[Line] = []
        done, depth = taken, 0
        for line in block[1:]:
            word = line.text.strip().partition(" ")[0]
            if depth == 0 and word in ("%else", "%elif"):
                taken = not done and (word == "%else" or self._condition(line))
                done = done or taken
                continue
            depth += (word in _CONDITIONS) - (word == "%endif")
            if taken:
                chosen.append(line)
        return chosen

    def _condition(self, line: Line) -> bool:
        word, _, rest = line.text.strip().partition(" ")
        if word in ("%ifdef", "%ifndef"):
            name = rest.strip()
            return (name in self._defines or name in self._macros) == (word == "%ifdef")
        if word == "%ifidn":
            sides = split_outside(self._substitute(line, rest))
            return len(sides) == 2 and sides[0] == sides[1]
        return self._value(line, rest) != 0

    # -- single lines ---------------------------------------------------------------------

    def _directive(self, line: Line, word: str, rest: str, depth: int) -> Iterator[Line]:
        if word == "%include":
            path = self._root / rest.strip("\"'")
            if not path.is_file():
                raise line.error("no such file")
            yield from self._expand(self._read(path), depth + 1)
        elif word == "%define":
            match = re.match(rf"({NAME})(\(([^)]*)\))?\s*(.*)$", rest)
            if match is None:
                raise line.error("bad %define")
            names = split_outside(match[3]) if match[2] else None
            self._defines[match[1]] = _Define(names, match[4])
        elif word == "%undef":
            self._defines.pop(rest, None)
        elif word == "%assign":
            name, _, text = rest.partition(" ")
            self._defines[name] = _Define(None, str(self._value(line, text)))
        elif word == "%error":
            raise line.error("%error")
        else:
            raise line.error("unknown directive")

    def _plain(self, line: Line, depth: int) -> Iterator[Line]:
        text = self._substitute(line, line.text)
        match = re.match(rf"\s*(?:({NAME}):\s*)?({NAME})\s*(.*)$", text)
        macro = self._macros.get(match[2]) if match else None
        if match is None or macro is None:
            if text.strip():
                yield Line(text, line.file, line.number)
            return
        if match[1]:
            yield Line(f"{match[1]}:", line.file, line.number)
        yield from self._expand(self._call(line, macro, match[3]), depth + 1)

    def _define_macro(self, line: Line, rest: str, body: list[Line]) -> None:
        match = re.match(rf"({NAME})\s+(\d+)(?:-(\d+))?(\+?)\s*(.*)$", rest.strip())
        if match is None:
            raise line.error("bad %macro")
        least = int(match[2])
        most = int(match[3] or least)
        self._macros[match[1]] = _Macro(
            least, most, bool(match[4]), split_outside(match[5]), list(body)
        )

    def _call(self, line: Line, macro: _Macro, text: str) -> list[Line]:
        given = split_outside(text)
        if macro.greedy and len(given) > macro.most:
            given[macro.most - 1 :] = [", ".join(given[macro.most - 1 :])]
        if not macro.least <= len(given) <= macro.most:
            raise line.error(f"{len(given)} parameters, {macro.least} to {macro.most} wanted")
        count = len(given)
        given += macro.defaults[count - macro.least :][: macro.most - count]
        given = [g[1:-1] if g.startswith("{") and g.endswith("}") else g for g in given]
        self._unique += 1
        unique = self._unique

        def replace(match: re.Match[str]) -> str:
            what = match.group(1) or match.group(2)
            if what == "%":
                return f"..@{unique}."
            index = int(what)
            if index == 0:
                return str(count)
            return given[index - 1] if index <= len(given) else ""

        body = []
        for inner in macro.body:
            expanded = re.sub(r"%(?:\{(\d+)\}|(\d|%))", replace, inner.text)
            body.append(Line(expanded, line.file, line.number))
        return body

    # -- %define --------------------------------------------------------------------------

    def _substitute(self, line: Line, text: str, depth: int = 0) -> str:
        if depth > _MAX_DEPTH:
            raise line.error("%define refers to itself")
        done, at = "", 0
        for start, end in self._words(text):
            if start < at:
                continue
            name = text[start:end]
            if name in ("__LINE__", "__FILE__"):
                value = str(line.number) if name == "__LINE__" else f'"{line.file}"'
                done, at = done + text[at:start] + value, end
                continue
            define = self._defines.get(name)
            if define is None:
                continue
            value = define.text
            if define.parameters is not None:
                if not text[end:].startswith("("):
                    continue
                close = self._closing(line, text, end)
                arguments = split_outside(text[end + 1 : close])
                if len(arguments) != len(define.parameters):
                    raise line.error(f"{name} takes {len(define.parameters)} parameters")
                for parameter, argument in zip(define.parameters, arguments, strict=True):
                    pattern = rf"(?<![0-9A-Za-z_]){re.escape(parameter)}(?![0-9A-Za-z_])"
                    value = re.sub(pattern, lambda _, a=argument: a, value)  # type: ignore[misc]
                end = close + 1
            done, at = done + text[at:start] + self._substitute(line, value, depth + 1), end
        return done + text[at:]

    @staticmethod
    def _words(text: str) -> Iterator[tuple[int, int]]:
        base = 0
        for piece, quoted in pieces(text):
            if not quoted:
                for match in _WORD.finditer(piece):
                    yield base + match.start(), base + match.end()
            base += len(piece)

    @staticmethod
    def _closing(line: Line, text: str, at: int) -> int:
        depth = 0
        for index in range(at, len(text)):
            depth += (text[index] == "(") - (text[index] == ")")
            if depth == 0:
                return index
        raise line.error("a parenthesis is open")

    def _value(self, line: Line, text: str) -> int:
        def unknown(name: str) -> int:
            raise ExpressionError(f"{name} has no value yet")

        try:
            return evaluate(self._substitute(line, text), unknown)
        except ExpressionError as error:
            raise line.error(error) from None
