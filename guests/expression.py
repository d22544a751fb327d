# SPDX-License-Identifier: GPL-2.0-or-later
"""Integer expressions of the assembler: numbers, names, NASM's operators.

``evaluate`` computes one expression; ``split_outside`` and ``words`` are the two ways in which
the rest of the assembler takes text apart without looking into quotes or brackets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Lookup = Callable[[str], int]

NAME = r"[A-Za-z_.?][A-Za-z0-9_.?$#@~]*"
_TOKEN = re.compile(
    rf"""\s*(?:
      (?P<number>0[xX][0-9a-fA-F_]+|0[bB][01_]+|[0-9][0-9_]*)
    | (?P<string>"[^"]*"|'[^']*')
    | (?P<name>{NAME}|\$\$|\$)
    | (?P<op><<|>>|==|!=|<=|>=|&&|\|\||[-+*/%&|^~!()<>])
    )""",
    re.VERBOSE,
)
# Binding strength as in NASM's critical expressions, weakest first.
_BINARY: dict[str, tuple[int, Callable[[int, int], int]]] = {
    "||": (1, lambda a, b: int(bool(a) or bool(b))),
    "&&": (2, lambda a, b: int(bool(a) and bool(b))),
    "==": (3, lambda a, b: int(a == b)),
    "!=": (3, lambda a, b: int(a != b)),
    "<": (3, lambda a, b: int(a < b)),
    ">": (3, lambda a, b: int(a > b)),
    "<=": (3, lambda a, b: int(a <= b)),
    ">=": (3, lambda a, b: int(a >= b)),
    "|": (4, lambda a, b: a | b),
    "^": (5, lambda a, b: a ^ b),
    "&": (6, lambda a, b: a & b),
    "<<": (7, lambda a, b: a << b),
    ">>": (7, lambda a, b: a >> b),
    "+": (8, lambda a, b: a + b),
    "-": (8, lambda a, b: a - b),
    "*": (9, lambda a, b: a * b),
    "/": (9, lambda a, b: a // b),
    "%": (9, lambda a, b: a % b),
}
_UNARY: dict[str, Callable[[int], int]] = {
    "-": lambda a: -a,
    "+": lambda a: a,
    "~": lambda a: ~a,
    "!": lambda a: int(not a),
}


class ExpressionError(ValueError):
    """The text is not an expression."""


def tokens(text: str) -> list[tuple[str, str]]:
    """The (kind, text) tokens of an expression; raises ExpressionError on anything else."""
    found, at = [], 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise ExpressionError(f"cannot read {text[at:]!r}")
        found.append((match.lastgroup, match.group(match.lastgroup)))
        at = match.end()
    return found


def character_constant(text: str) -> int:
    """The little-endian number that a quoted string of at most 8 characters stands for."""
    return int.from_bytes(text.encode("latin-1"), "little")


class _Parser:
    def __init__(self, text: str, lookup: Lookup) -> None:
        self.rest = tokens(text)
        self.lookup = lookup
        self.text = text

    def primary(self) -> int:
        if not self.rest:
            raise ExpressionError(f"{self.text!r} ends too early")
        kind, text = self.rest.pop(0)
        if kind == "number":
            return int(text.replace("_", ""), 10 if text.isdigit() else 0)
        if kind == "string":
            return character_constant(text[1:-1])
        if kind == "name":
            return self.lookup(text)
        if text == "(":
            value = self.binary(1)
            if not self.rest or self.rest.pop(0)[1] != ")":
                raise ExpressionError(f"a parenthesis is open in {self.text!r}")
            return value
        if text in _UNARY:
            return _UNARY[text](self.primary())
        raise ExpressionError(f"{text!r} cannot stand here in {self.text!r}")

    def binary(self, weakest: int) -> int:
        left = self.primary()
        while self.rest and self.rest[0][1] in _BINARY:
            strength, apply = _BINARY[self.rest[0][1]]
            if strength < weakest:
                break
            self.rest.pop(0)
            left = apply(left, self.binary(strength + 1))
        return left


def evaluate(text: str, lookup: Lookup) -> int:
    """The value of ``text``; ``lookup`` gives the value of a name (or raises).

    Raises ExpressionError.

    >>> evaluate("(1 << 3 | 2) * 2 + 'A'", lambda name: 0)
    85
    """
    parser = _Parser(text, lookup)
    value = parser.binary(1)
    if parser.rest:
        raise ExpressionError(f"{parser.rest[0][1]!r} is too much in {text!r}")
    return value


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """(piece, is it quoted) for the alternating unquoted and quoted pieces of ``text``."""
    for match in re.finditer(r"\"[^\"]*\"|'[^']*'|[^\"']+|[\"']", text):
        piece = match.group()
        yield piece, len(piece) > 1 and piece[0] in "\"'"


def split_outside(text: str, separator: str = ",") -> list[str]:
    """Split at ``separator`` outside quotes, brackets, parentheses and braces; ends stripped.

    >>> split_outside('"a,b", [x, y], z')
    ['"a,b"', '[x, y]', 'z']
    """
    parts, depth, current = [], 0, ""
    for piece, quoted in pieces(text):
        if quoted:
            current += piece
            continue
        for char in piece:
            if char == separator and depth == 0:
                parts.append(current.strip())
                current = ""
                continue
            depth += (char in "[({") - (char in "])}")
            current += char
    parts.append(current.strip())
    return parts if parts != [""] else []
