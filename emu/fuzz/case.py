# SPDX-License-Identifier: GPL-2.0-or-later
"""Cases, failures and reproducers: what all fuzzers have in common.

A *case* is a dict of plain JSON values that says everything about one run: no seed is needed to
run it again. Its list of `steps` may lose any of its members and still be a case, which is what
the minimiser lives on. A *reproducer* is a file with a case and what went wrong.

A case is made from (seed, number) alone, so number 17 of seed 5 is the same whoever runs it.
"""

from __future__ import annotations

import json
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emu.errors import UsageError
from mmu.testing.difference import Case, Difference

__all__ = ["Case", "Difference", "Failure", "Result", "describe_error", "random_of"]

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in a case: the sort, a text for a person, and the step it was noticed at."""

    kind: str
    message: str
    step: int = -1


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one case: how many steps it took, and the failure with its case, if any.

    `counts` adds to the campaign's totals, by name.
    """

    number: int
    steps: int
    failure: Failure | None = None
    case: Case | None = None
    counts: dict[str, int] = field(default_factory=dict)


def random_of(seed: int, number: int) -> random.Random:
    """Return the source of randomness of one case; strings seed alike on every system."""
    return random.Random(f"{seed}/{number}")


def describe_error(error: BaseException, step: int) -> Failure:
    """Make a failure of whatever a case raised."""
    if isinstance(error, Difference):
        return Failure(error.kind, str(error), step)
    name = type(error).__name__
    text = str(error)
    if name == "InvariantError":  # "invariant 2: ..."
        return Failure(text.partition(":")[0], text, step)
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "nowhere"
    return Failure(f"{name} in {where}", "".join(traceback.format_exception(error)[-6:]), step)


def save(path: Path, case: Case, failure: Failure) -> None:
    """Write a reproducer."""
    what = {
        "format": _FORMAT,
        "failure": {"kind": failure.kind, "message": failure.message, "step": failure.step},
        "case": {key: value for key, value in case.items() if key != "steps"},
        "steps": case["steps"],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_dump(what), encoding="utf-8", newline="\n")


def _dump(what: dict[str, Any]) -> str:
    """Return JSON with a line for each step."""
    head = {key: value for key, value in what.items() if key != "steps"}
    text = json.dumps(head, indent=1)
    steps = ",\n  ".join(json.dumps(step) for step in what["steps"])
    return f'{text[:-2]},\n "steps": [\n  {steps}\n ]\n}}\n'


def read(path: Path) -> tuple[Case, Failure]:
    """Return what a reproducer holds.

    Raises:
        UsageError: the file cannot be read or is no reproducer.
    """
    try:
        what = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{path} is no reproducer: {error}") from None
    try:
        if what["format"] != _FORMAT:
            raise UsageError(f"{path} is a reproducer of another version ({what['format']})")
        failure = Failure(**what["failure"])
        return {**what["case"], "steps": what["steps"]}, failure
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path} is no reproducer: {error!r}") from None


Predicate = Callable[[Case], "Failure | None"]
