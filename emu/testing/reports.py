# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel says about its tests, whatever its protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Report", "TestLine", "Verdict"]


class Verdict(Enum):
    """What a kernel says about one test."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"
    XFAIL = "xfail"
    """Failed, as expected."""
    XPASS = "xpass"
    """Passed, though it was expected to fail."""


@dataclass(frozen=True, slots=True)
class TestLine:
    """One test that a kernel reports; `output` is what was printed since the one before."""

    __test__ = False

    name: str
    verdict: Verdict
    reason: str = ""
    output: str = ""


@dataclass(slots=True)
class Report:
    """The tests in order, and what is wrong with the report as a whole, in words.

    `has_plan` says that the kernel announced how much was to come.
    """

    protocol: str
    tests: list[TestLine] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    has_plan: bool = False

    def add(self, name: str, verdict: Verdict, reason: str, output: list[str]) -> None:
        """Add a test, and empty `output`, which it takes along."""
        text = "\n".join(output).strip("\n")
        self.tests.append(TestLine(name or "unnamed", verdict, reason.strip(), text))
        output.clear()
