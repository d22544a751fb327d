# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's command line as QEMU reads it: which options there are, and which take an argument.

An option may be spelled with one dash or two; the argument is always the next word, whatever that
looks like (`-append -v`). `split` turns such words into (name, value) pairs. Options that QEMU
knows and shadowcorn has no use for are in `emu.cli.table`: some change nothing that a guest could
see, others are worth a warning, a few are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from emu.cli.table import OPTIONS, How, Row
from emu.errors import UsageError

__all__ = [
    "FOREIGN_LOG_ITEMS",
    "KNOWN_DEVICES",
    "REFUSED",
    "SILENT",
    "UNSUPPORTED",
    "Option",
    "properties",
    "split",
    "split_commas",
]


class Option(NamedTuple):
    """An option as it was written; `name` is None for a positional argument."""

    name: str | None
    value: str | None


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _passed_over(how: How) -> dict[str, Row]:
    return {name: row for name, row in OPTIONS.items() if row.how is how}


SILENT = _passed_over(How.SILENT)
"""Options without a visible effect here."""

UNSUPPORTED = _passed_over(How.WARNS)
"""Options that would have an effect under QEMU: passed over with a warning."""

REFUSED = _passed_over(How.REFUSED)
"""Options that cannot be passed over."""

FOREIGN_LOG_ITEMS = _names(
    "in_asm out_asm op op_opt op_ind exec cpu fpu pcall cpu_reset page nochain plugin strace tid "
    "vpu"
)
"""Items of -d that would need what Unicorn does not tell us, or that nobody needs here."""

KNOWN_DEVICES = {
    "isa-debug-exit": "ISA",
    "isa-debugcon": "ISA",
    "isa-serial": "ISA",
    "pc-testdev": "ISA",
    "ide-hd": "IDE",
    "ide-cd": "IDE",
}
"""What `-device` takes, and the bus that `-device help` names for it."""


def split(words: Sequence[str], takes_value: dict[str, bool]) -> Iterator[Option]:
    """Yield the options and positional arguments among `words`.

    `takes_value` holds all options known to the caller; QEMU's others are added here. Also takes
    `--name=value`, as everybody else writes it. Raises UsageError for an unknown option, or one
    whose argument is missing.
    """
    known = {name: row.takes_value for name, row in OPTIONS.items()} | takes_value
    rest = iter(words)
    for word in rest:
        if word == "--":
            for value in rest:
                yield Option(None, value)
            return
        if not word.startswith("-") or word == "-":
            yield Option(None, word)
            continue
        name, equals, value = word[2 if word.startswith("--") else 1 :].partition("=")
        if name not in known or (equals and not known[name]):
            raise UsageError(_unknown(word, known))
        if not known[name]:
            yield Option(name, None)
        elif equals:
            yield Option(name, value)
        else:
            following = next(rest, None)
            if following is None:
                raise UsageError(f"{word} needs an argument")
            yield Option(name, following)


def _unknown(word: str, known: dict[str, bool]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word.lstrip("-"), known, 1)
    hint = f", did you mean -{near[0]}?" if near else ""
    return f"unknown option {word}{hint} (--help lists the options)"


def split_commas(text: str) -> list[str]:
    """Split at commas; a doubled comma is one that is meant.

    >>> split_commas("a,b=1,,2")
    ['a', 'b=1,2']
    """
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def properties(text: str, first: str) -> dict[str, str]:
    """Return the properties in `[first=]value,name=value,flag,...`; a bare flag is "on".

    >>> properties("isa-debug-exit,iobase=0xf4", "driver")
    {'driver': 'isa-debug-exit', 'iobase': '0xf4'}
    """
    found = {}
    for index, part in enumerate(split_commas(text)):
        name, equals, value = part.partition("=")
        if not equals and not index:
            name, value = first, part
        elif not equals:
            value = "off" if name.startswith("no") else "on"
        found[name] = value
    return found
