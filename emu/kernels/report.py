# SPDX-License-Identifier: GPL-2.0-or-later
"""The table: results as Markdown for people and as JSON for programs.

The JSON file is also the memory: results of cases that were not run this time are kept, so that a
long suite can be run in parts. Neither file says where anything lay on the machine it ran on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emu.kernels.case import Case, Result, Tally, Verdict

__all__ = ["Row", "markdown", "read_json", "write_json"]

_FORMAT = 1
_REASON = 150


@dataclass(frozen=True, slots=True)
class Row:
    """A case by name, its result here and, if it was run there, under QEMU."""

    suite: str
    name: str
    ours: Result
    qemu: Result | None = None

    @property
    def key(self) -> str:
        """Return `suite/name`."""
        return f"{self.suite}/{self.name}"


def absent_row(case: Case) -> Row:
    """Return the row of a case that cannot be run."""
    return Row(case.suite, case.name, Result(Verdict.SKIP, reason=case.absent))


def _packed(result: Result | None) -> dict[str, Any] | None:
    if result is None:
        return None
    tally = result.tally
    return {
        "verdict": result.verdict.name,
        "seconds": round(result.seconds, 2),
        "reason": result.reason,
        "passed": tally.passed,
        "failed": tally.failed,
        "skipped": tally.skipped,
        "failures": list(tally.failures),
    }


def _unpacked(data: dict[str, Any] | None) -> Result | None:
    if data is None:
        return None
    tally = Tally(data["passed"], data["failed"], data["skipped"], tuple(data["failures"]))
    return Result(Verdict[data["verdict"]], data["seconds"], data["reason"], tally)


def write_json(path: Path, rows: Mapping[str, Row]) -> None:
    """Write `rows`, by their keys."""
    data = {
        "format": _FORMAT,
        "results": [
            {
                "suite": row.suite,
                "name": row.name,
                "shadowcorn": _packed(row.ours),
                "qemu": _packed(row.qemu),
            }
            for row in rows.values()
        ],
    }
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8", newline="\n")


def read_json(path: Path) -> dict[str, Row]:
    """Return what `write_json` wrote; an empty dict if there is no such file."""
    if not path.is_file():
        return {}
    data = json.loads(path.read_text(encoding="utf-8"))
    rows = {}
    for entry in data["results"]:
        ours = _unpacked(entry["shadowcorn"])
        assert ours is not None
        row = Row(entry["suite"], entry["name"], ours, _unpacked(entry["qemu"]))
        rows[row.key] = row
    return rows


def _cell(result: Result | None) -> str:
    if result is None:
        return "-"
    tally = result.tally
    counts = f" {tally.passed}/{tally.passed + tally.failed}" if tally.passed + tally.failed else ""
    seconds = f", {result.seconds:.1f} s" if result.seconds else ""
    return f"{result.verdict.value}{counts}{seconds}"


def _remark(row: Row) -> str:
    """Say why a row is not a pass, and whether QEMU does no better."""
    parts = []
    if row.ours.reason:
        parts.append(row.ours.reason)
    if row.qemu is not None and row.qemu.reason and row.ours.verdict is Verdict.PASS:
        parts.append(f"QEMU: {row.qemu.reason}")
    text = " ".join("; ".join(parts).split())
    text = text if len(text) <= _REASON else text[: _REASON - 3] + "..."
    printable = "".join(char if char.isprintable() else "?" for char in text)
    return printable.replace("|", "\\|")


def markdown(rows: Iterable[Row], head: str) -> str:
    """Return the table, a section for each suite, under `head`."""
    suites: dict[str, list[Row]] = {}
    for row in rows:
        suites.setdefault(row.suite, []).append(row)
    lines = [head.rstrip(), ""]
    for suite, members in suites.items():
        lines += [f"## {suite}", "", _sum(members), ""]
        lines += ["| kernel | shadowcorn | QEMU TCG | remark |", "|---|---|---|---|"]
        for row in members:
            cells = (row.name, _cell(row.ours), _cell(row.qemu), _remark(row))
            lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
        lines.append("")
    return "\n".join(lines)


def _sum(rows: list[Row]) -> str:
    passed = sum(row.ours.verdict is Verdict.PASS for row in rows)
    skipped = sum(row.ours.verdict is Verdict.SKIP for row in rows)
    theirs = [row for row in rows if row.qemu is not None and row.qemu.verdict is Verdict.PASS]
    both = sum(row.ours.verdict is Verdict.PASS for row in theirs)
    text = f"{passed} of {len(rows)} pass, {skipped} are skipped."
    if theirs:
        text += f" Of the {len(theirs)} that pass under QEMU, {both} pass here."
    return text
