# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel to be run, how to talk to it, and how it did: the values that the other files share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

__all__ = ["Case", "Result", "Step", "Tally", "Verdict"]


class Verdict(Enum):
    """What came of a run."""

    PASS = "pass"
    FAIL = "FAIL"
    """It ran to its end and says that something is wrong."""
    SKIP = "skip"
    """It says itself that it cannot test this processor, or it was not run at all."""
    TIMEOUT = "TIMEOUT"
    """It did not end in time."""
    CRASH = "CRASH"
    """It ended without a verdict: a triple fault, an unexpected exception, an emulator's error."""


@dataclass(frozen=True, slots=True)
class Step:
    """One exchange with a kernel: wait until it prints `expect` (a regular expression), send."""

    expect: str
    send: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """The lines by which a kernel of kvm-unit-tests reports."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: tuple[str, ...] = ()
    """The first of its FAIL lines."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel with one command line, in QEMU's words.

    `suite` and `name` tell it from all others. `arguments` are what follows the emulator's name;
    `steps` must all happen, in their order, and `forbidden` (a regular expression) must never be
    printed. `judge` names the rule for the verdict: "unittest" reads the exit code and the report
    lines of kvm-unit-tests, "steps" looks at the steps alone, "screen" runs a scenario of
    `emu.kernels.scenario`. `power_off` says that the machine must switch itself off. `seconds` is
    the limit. `absent` is the reason why the case cannot be run, or empty.
    """

    suite: str
    name: str
    arguments: tuple[str, ...] = ()
    steps: Sequence[Step] = ()
    forbidden: str = ""
    judge: str = "unittest"
    power_off: bool = False
    seconds: float = 90.0
    disks: tuple[Path, ...] = ()
    absent: str = ""

    @property
    def key(self) -> str:
        """Return `suite/name`."""
        return f"{self.suite}/{self.name}"


@dataclass(frozen=True, slots=True)
class Result:
    """How a case did on one emulator; `seconds` is host time, `reason` one line for a person."""

    verdict: Verdict
    seconds: float = 0.0
    reason: str = ""
    tally: Tally = field(default_factory=Tally)
    output: str = ""
    """The end of what was printed; not part of the table."""
