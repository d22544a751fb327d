# SPDX-License-Identifier: GPL-2.0-or-later
"""The bar chart: how fast each column is beside the `native` plug-in, on a logarithmic axis.

Plain SVG, written by hand: a group of bars a load, one bar a column, a line at 1. Colours follow
the reader's light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

__all__ = ["bar_chart"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 110, 60, 74, 34
_PLOT = 560
_BAR, _GAP = 11, 12
_COLOURS = ("#2f6fb5", "#6aa84f", "#8a8f98", "#c27b30", "#8e5ea2", "#c0504d")
_STYLE = """
text{font:12px system-ui,sans-serif;fill:#222} .small{font-size:10px} .title{font-size:15px}
.grid{stroke:#0002} .one{stroke:#222;stroke-dasharray:3 3} .paper{fill:#fff}
@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#fff2}.one{stroke:#ddd}.paper{fill:#181a1d}}
"""


def bar_chart(
    title: str,
    columns: Sequence[str],
    groups: Mapping[str, Mapping[str, float]],
    note: str = "",
) -> str:
    """Return an SVG document.

    ``groups`` gives for each group (from top to bottom) the value of each column, above 0; a
    column may be missing. 1 is marked. Raises ValueError if there is no value at all.
    """
    values = [value for group in groups.values() for value in group.values()]
    if not values:
        raise ValueError("nothing to draw")
    low = math.floor(math.log10(min(*values, 0.9)))
    high = math.ceil(math.log10(max(*values, 1.1)))

    def x(value: float) -> float:
        return _LEFT + _PLOT * (math.log10(value) - low) / (high - low)

    parts: list[str] = []
    y = float(_TOP)
    for name, group in groups.items():
        shown = [column for column in columns if column in group]
        middle = y + len(shown) * _BAR / 2 + 4
        parts.append(
            f'<text x="{_LEFT - 8}" y="{middle:.0f}" text-anchor="end">{escape(name)}</text>'
        )
        for column in shown:
            parts.append(_bar(x(1), x(group[column]), y, columns.index(column), group[column]))
            y += _BAR
        y += _GAP
    height = y + _BOTTOM
    frame = [_tick(10.0**power, x(10.0**power), y) for power in range(low, high + 1)]
    frame.append(
        f'<line class="one" x1="{x(1):.1f}" x2="{x(1):.1f}" y1="{_TOP - 6}" y2="{y:.0f}"/>'
    )
    width = _LEFT + _PLOT + _RIGHT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
            f'width="{width}" height="{height:.0f}" role="img">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style>",
            f'<rect class="paper" width="{width}" height="{height:.0f}"/>',
            f'<text class="title" x="{_LEFT}" y="24">{escape(title)}</text>',
            *_legend(columns),
            *frame,
            *parts,
            f'<text class="small" x="{_LEFT}" y="{height - 6:.0f}">{escape(note)}</text>',
            "</svg>\n",
        ]
    )


def _bar(origin: float, end: float, y: float, colour: int, value: float) -> str:
    left, width = min(origin, end), abs(end - origin)
    text = f"{value:.3g}"
    return (
        f'<rect x="{left:.1f}" y="{y:.0f}" width="{max(width, 0.5):.1f}" height="{_BAR - 1}" '
        f'fill="{_COLOURS[colour % len(_COLOURS)]}"/>'
        f'<text class="small" x="{max(origin, end) + 4:.1f}" y="{y + _BAR - 2:.0f}">{text}</text>'
    )


def _tick(value: float, x: float, bottom: float) -> str:
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{bottom:.0f}"/>'
        f'<text class="small" x="{x:.1f}" y="{bottom + 12:.0f}" '
        f'text-anchor="middle">{value:g}</text>'
    )


def _legend(columns: Sequence[str]) -> list[str]:
    parts, x = [], float(_LEFT)
    for number, column in enumerate(columns):
        parts.append(
            f'<rect x="{x:.0f}" y="42" width="10" height="10" '
            f'fill="{_COLOURS[number % len(_COLOURS)]}"/>'
            f'<text x="{x + 15:.0f}" y="51">{escape(column)}</text>'
        )
        x += 34 + 6.6 * len(column)
    return parts
