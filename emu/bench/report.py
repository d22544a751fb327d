# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as tables, as Markdown, as JSON and as a chart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from emu.bench.loads import CACHE_OFF
from emu.bench.runner import Judged, LoadResult, judge, speed_ratio
from emu.bench.scale import Figure
from emu.bench.svg import bar_chart
from emu.bench.tables import Table, show_ratio, show_time

__all__ = ["Report"]

_AGAINST = "native"


@dataclass(slots=True)
class Report:
    """All that was measured; ``sections`` are figures under a heading."""

    host: dict[str, str]
    yardstick: float
    runs: int
    seconds: float
    results: list[LoadResult] = field(default_factory=list)
    sections: dict[str, list[Figure]] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """The columns that were measured, in the order in which they came."""
        seen: dict[str, None] = {}
        for result in self.results:
            seen.update(dict.fromkeys(result.columns))
        return list(seen)

    # --- For people ---------------------------------------------------------------------------

    def text(self) -> str:
        """Everything for a terminal."""
        return self._written(lambda heading: f"\n{heading}\n", Table.text, "")

    def markdown(self) -> str:
        """Everything in Markdown, without a title."""
        return self._written(lambda heading: f"\n## {heading}\n\n", Table.markdown, "- ")

    def _written(self, heading: Any, table: Any, bullet: str) -> str:
        host = "".join(f"{bullet}{name}: {value}\n" for name, value in self.host.items())
        parts = [host]
        if self.results:
            parts += [
                f"{bullet}yardstick (an empty emu_start of a hlt): {show_time(self.yardstick)}\n",
                f"{bullet}medians of {self.runs} runs in turn, each at least {self.seconds:g} s of "
                "guest work\n",
                heading("Time of an operation"),
                table(self._times()),
                heading("Speed beside the native plug-in"),
                table(self._ratios()),
                heading("Goals"),
                table(self._goals(judge(self.results))),
                *self._missing(heading, bullet),
            ]
        for name, figures in self.sections.items():
            parts += [heading(name), table(self._figures(figures))]
        return "".join(parts)

    def _times(self) -> Table:
        table = Table(["load", "operation", *self.columns], left=2)
        for result in self.results:
            cells = [
                f"{show_time(column.each)}" if column else "-"
                for column in map(result.columns.get, self.columns)
            ]
            table.add(result.load.name, result.load.unit, *cells)
        return table

    def _ratios(self) -> Table:
        columns = [c for c in self.columns if c != _AGAINST]
        table = Table(["load", *columns])
        for result in self.results:
            ratios = (speed_ratio(result, column, _AGAINST) for column in columns)
            table.add(
                result.load.name, *(f"{show_ratio(r)} x" if r is not None else "-" for r in ratios)
            )
        return table

    def _goals(self, judged: Iterable[Judged]) -> Table:
        table = Table(["load", "column", "goal", "measured", ""], left=3)
        for one in judged:
            goal = one.goal
            value = "-" if one.value is None else show_ratio(one.value)
            table.add(goal.load, goal.column, goal.text(), value, one.verdict)
        return table

    def _missing(self, heading: Any, bullet: str) -> list[str]:
        lines = [
            f"{bullet}{result.load.name}, {column}: {' '.join(reason.split())}\n"
            for result in self.results
            for column, reason in result.missing.items()
        ]
        return [heading("Not measured"), *lines] if lines else []

    def _figures(self, figures: Sequence[Figure]) -> Table:
        if not any(figure.most for figure in figures):
            table = Table(["", "measured"])
            for figure in figures:
                table.add(figure.name, figure.shown)
            return table
        table = Table(["", "measured", "for the goal", "goal", ""])
        for figure in figures:
            value = show_ratio(figure.value) if figure.most is not None else ""
            table.add(figure.name, figure.shown, value, figure.goal, figure.verdict)
        return table

    # --- For programs -------------------------------------------------------------------------

    def chart(self) -> str:
        """The bar chart as SVG: speed beside `native`. Raises ValueError if that was not run."""
        columns = [c for c in self.columns if c != _AGAINST and CACHE_OFF not in c]
        groups = {
            result.load.name: {
                column: ratio
                for column in columns
                if (ratio := speed_ratio(result, column, _AGAINST)) is not None
            }
            for result in self.results
        }
        note = f"{self.host.get('processor', '')}; commit {self.host.get('commit', 'unknown')}"
        title = "Speed beside Unicorn's own MMU (1 = as fast; longer to the right is better)"
        return bar_chart(title, columns, {k: v for k, v in groups.items() if v}, note)

    def as_dict(self) -> dict[str, Any]:
        """Everything for JSON; times in seconds, runs in the order in which they were made."""
        return {
            "host": self.host,
            "yardstick_seconds": self.yardstick,
            "runs": self.runs,
            "seconds": self.seconds,
            "loads": [_load_dict(result) for result in self.results],
            "goals": [
                {
                    "load": one.goal.load,
                    "column": one.goal.column,
                    "goal": one.goal.text(),
                    "bound": one.goal.bound,
                    "measured": one.value,
                    "verdict": one.verdict,
                }
                for one in (judge(self.results) if self.results else ())
            ],
            "sections": {
                name: [
                    {"name": f.name, "value": f.value, "shown": f.shown, "most": f.most}
                    for f in figures
                ]
                for name, figures in self.sections.items()
            },
        }


def _load_dict(result: LoadResult) -> dict[str, Any]:
    return {
        "name": result.load.name,
        "operation": result.load.unit,
        "columns": {
            name: {
                "operations": column.operations,
                "seconds_each": column.each,
                "yardsticks_each": column.in_yardsticks,
                "speed_beside_native": speed_ratio(result, name, _AGAINST),
                "runs_seconds": [sample.seconds for sample in column.samples],
                "runs_yardstick": column.yardsticks,
                "answer": column.samples[-1].answer,
                "counters": column.samples[-1].counters,
            }
            for name, column in result.columns.items()
        },
        "missing": result.missing,
    }
