# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of text, for a terminal and for Markdown, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Table", "show_ratio", "show_time"]


def show_time(seconds: float) -> str:
    """Seconds with three significant digits, in a unit that suits.

    >>> show_time(0.0000123456), show_time(0.5), show_time(2.5e-9)
    ('12.3 us', '500 ms', '2.50 ns')
    """
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 0.9995:
            return f"{_digits(seconds * scale)} {unit}"
    return f"{_digits(seconds * 1e9)} ns"


def show_ratio(value: float) -> str:
    """A ratio with two digits at least.

    >>> show_ratio(12.34), show_ratio(1.234), show_ratio(0.0456)
    ('12.3', '1.23', '0.046')
    """
    return _digits(value) if value >= 0.1 else f"{value:.2g}"


def _digits(value: float) -> str:
    return (
        f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
    )


@dataclass(slots=True)
class Table:
    """A heading, and rows of as many cells; the first ``left`` columns are words."""

    heading: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    left: int = 1

    def add(self, *cells: str) -> None:
        """Add a row."""
        assert len(cells) == len(self.heading)
        self.rows.append(cells)

    def text(self) -> str:
        """The table for a terminal."""
        lines = [self.heading, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.heading))]
        written = ["  ".join(self._cells(line, widths)).rstrip() for line in lines]
        written.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join(written) + "\n"

    def _cells(self, line: Sequence[str], widths: Sequence[int]) -> list[str]:
        return [
            cell.ljust(width) if number < self.left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]

    def markdown(self) -> str:
        """The table in Markdown."""
        rule = ["---" if number < self.left else "---:" for number in range(len(self.heading))]
        lines = [self.heading, rule, *self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)
