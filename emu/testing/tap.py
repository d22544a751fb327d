# SPDX-License-Identifier: GPL-2.0-or-later
"""TAP 13 and 14 (testanything.org) and KTAP 1 (docs.kernel.org/dev-tools/ktap).

Subtests are indented and come before the result that sums them up. Every level has a plan of its
own. A level whose result or plan is missing is a problem of the report; its tests count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from emu.testing.reports import Report, TestLine, Verdict

__all__ = ["HEADER", "PLAN", "ktap"]

PLAN = re.compile(r"^( *)1\.\.(\d+)\s*(?:#\s*(.*))?$")
_RESULT = re.compile(r"^( *)(not )?ok\b(?: +(\d+)\b)?(?:\s+(?:- )?)?(.*)$")
HEADER = re.compile(r"^ *K?TAP version \d+", re.I)
_DIRECTIVE = re.compile(r"(?<!\\)#\s*(SKIP|TODO|XFAIL|ERROR|TIMEOUT)\b:?(.*)$", re.I)


@dataclass(slots=True)
class _Level:
    """One document, or one of its subtests: all results of one indentation."""

    indent: int
    name: str = ""
    plan: int | None = None
    count: int = 0
    tests: list[TestLine] = field(default_factory=list)
    skipped: str | None = None

    def problems(self) -> Iterable[str]:
        where = f"{self.name}: " if self.name else ""
        if self.plan is None:
            yield f"{where}there is no plan (1..N)"
        elif self.count != self.plan:
            yield f"{where}the plan says 1..{self.plan}, {self.count} are reported"


class _Tap:
    def __init__(self, report: Report) -> None:
        self.report = report
        self.levels: list[_Level] = []
        self.output: list[str] = []
        self.next_name = ""
        self.yaml: str | None = None

    def level(self, indent: int) -> _Level:
        """Return the level of that indentation, begun if need be; deeper ones stay open."""
        while self.levels and self.levels[-1].indent > indent:
            child = self.levels.pop()
            self.lose(child)
        if not self.levels or self.levels[-1].indent < indent:
            self.levels.append(_Level(indent, self.next_name))
            self.next_name = ""
        return self.levels[-1]

    def lose(self, child: _Level) -> None:
        """Take over the tests of subtests whose own result has not come."""
        self.report.problems += child.problems()
        self.report.problems.append(f"{child.name or 'subtests'}: began, and has no result")
        (self.levels[-1].tests if self.levels else self.report.tests).extend(child.tests)

    def line(self, line: str) -> None:
        if self.yaml is not None:
            self.output.append(line)
            if line.strip() == "...":
                self.yaml = None
        elif HEADER.match(line):
            indent = len(line) - len(line.lstrip(" "))
            if indent == 0:
                self.finish()
            if self.levels and self.levels[-1].indent < indent:
                self.level(indent)
        elif found := PLAN.match(line):
            self.plan(len(found[1]), int(found[2]), found[3] or "")
        elif (found := _RESULT.match(line)) and not line.lstrip().startswith("ok:"):
            self.result(len(found[1]), not found[2], found[3], found[4])
        elif line.startswith("Bail out!"):
            self.report.problems.append(line.strip())
        else:
            self.comment(line)

    def comment(self, line: str) -> None:
        text = line.strip()
        if text.startswith("# Subtest"):
            self.next_name = text.partition(":")[2].strip()
            if self.levels and len(line) - len(line.lstrip(" ")) == self.levels[-1].indent:
                last = self.levels[-1]
                if not last.count and not last.name and last.indent:
                    last.name, self.next_name = self.next_name, ""
        elif text == "---":
            self.yaml = text
            self.output.append(line)
        elif text:
            self.output.append(line)

    def plan(self, indent: int, count: int, comment: str) -> None:
        level = self.level(indent)
        self.report.has_plan = True
        if level.plan is not None:
            self.report.problems.append("there are two plans")
        level.plan = count
        if comment[:4].upper() == "SKIP":
            level.skipped = comment[4:].strip() or "skipped"

    def result(self, indent: int, ok: bool, number: str | None, rest: str) -> None:
        child = None
        while self.levels and self.levels[-1].indent > indent:
            if child is not None:
                self.lose(child)
            child = self.levels.pop()
        level = self.level(indent)
        level.count += 1
        if number is not None and int(number) != level.count:
            self.report.problems.append(f"test {number} is reported in place of {level.count}")
            level.count = max(int(number), level.count)
        verdict, reason, name = _tap_verdict(ok, rest)
        name = name or f"test {number or level.count}"
        if child is not None:
            child.name = name
            self.report.problems += child.problems()
        if child is None or not child.tests:
            if child is not None and child.skipped is not None and ok:
                verdict, reason = Verdict.SKIP, child.skipped
            self.add(level, name, verdict, reason)
            return
        level.tests += [
            TestLine(f"{name}/{test.name}", test.verdict, test.reason, test.output)
            for test in child.tests
        ]
        if verdict is Verdict.FAIL and all(t.verdict is not Verdict.FAIL for t in child.tests):
            self.add(level, name, verdict, reason or "failed, though no subtest did")

    def add(self, level: _Level, name: str, verdict: Verdict, reason: str) -> None:
        level.tests.append(TestLine(name, verdict, reason, "\n".join(self.output)))
        self.output.clear()

    def finish(self) -> None:
        """End the document: another may follow."""
        while len(self.levels) > 1:
            self.lose(self.levels.pop())
        for level in self.levels:
            self.report.problems += level.problems()
            self.report.tests += level.tests
        self.levels.clear()


def _tap_verdict(ok: bool, rest: str) -> tuple[Verdict, str, str]:
    """Return verdict, reason and name of what follows the number."""
    directive = _DIRECTIVE.search(rest)
    word, reason = (directive[1].upper(), directive[2].strip()) if directive else ("", "")
    name = (rest[: directive.start()] if directive else rest).strip().replace("\\#", "#")
    if not name and word == "SKIP":  # kselftest: # SKIP name
        name, reason = reason, ""
    if word == "SKIP":
        return Verdict.SKIP, reason, name
    if word in ("TODO", "XFAIL"):
        return (Verdict.XPASS if ok and word == "TODO" else Verdict.XFAIL), reason, name
    if word:
        return Verdict.FAIL, f"{word} {reason}".strip(), name
    return (Verdict.PASS if ok else Verdict.FAIL), reason, name


def ktap(lines: list[str], report: Report) -> None:
    """Read KTAP and TAP, one document or several one after the other, into `report`."""
    tap = _Tap(report)
    for line in lines:
        tap.line(line.replace("\t", "    "))
    tap.finish()
