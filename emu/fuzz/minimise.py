# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes a failing case small: delta debugging over its steps (Zeller and Hildebrandt, 2002).

The steps are cut into pieces and pieces are left out as long as the case still fails in the same
way; then the pieces get smaller. At the end no single step can be left out. The number of runs is
bounded, not the time, so that the result is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emu.fuzz.case import Case, Failure

__all__ = ["minimise"]

MOST_RUNS = 1500


def minimise(
    case: Case,
    failure: Failure,
    run: Callable[[Case], Failure | None],
    *,
    blank: Any = None,
    most_runs: int = MOST_RUNS,
) -> tuple[Case, Failure]:
    """Return a smaller case that fails with the same `kind`, and its failure.

    `run` executes a case. With `blank`, a step is not taken out but replaced by it, for cases in
    which the place of a step means something.
    """
    return _Minimiser(case, failure, run, blank, most_runs).minimise()


class _Minimiser:
    """The search: `steps` are the steps that are still in, as (place, step)."""

    def __init__(
        self,
        case: Case,
        failure: Failure,
        run: Callable[[Case], Failure | None],
        blank: Any,
        most_runs: int,
    ) -> None:
        self._case = case
        self._failure = failure
        self._run = run
        self._blank = blank
        self._runs_left = most_runs
        self._length = len(case["steps"])
        self._steps = [(place, step) for place, step in enumerate(case["steps"]) if step != blank]

    def minimise(self) -> tuple[Case, Failure]:
        self._cut_tail()
        pieces = 2
        while len(self._steps) > 1 and self._runs_left:
            size = -(-len(self._steps) // pieces)
            if self._drop_pieces(size):
                pieces = max(pieces - 1, 2)
            elif size == 1:
                break
            else:
                pieces = min(2 * pieces, len(self._steps))
        return self._made_of(self._steps), self._failure

    def _drop_pieces(self, size: int) -> bool:
        """Try to do without each piece, the last first; return whether one could go."""
        dropped = False
        start = (len(self._steps) - 1) // size * size
        while start >= 0:
            if self._try(self._steps[:start] + self._steps[start + size :]):
                dropped = True
            start -= size
        return dropped

    def _made_of(self, steps: list[tuple[int, Any]]) -> Case:
        if self._blank is None:
            return {**self._case, "steps": [step for _, step in steps]}
        kept = dict(steps)
        places = range(max(kept, default=-1) + 1)
        return {**self._case, "steps": [kept.get(place, self._blank) for place in places]}

    def _try(self, steps: list[tuple[int, Any]]) -> bool:
        """Keep these steps if they are enough to fail in the same way."""
        if not self._runs_left or not steps:
            return False
        self._runs_left -= 1
        failure = self._run(self._made_of(steps))
        if failure is None or failure.kind != self._failure.kind:
            return False
        self._steps = steps
        self._failure = failure
        self._cut_tail()
        return True

    def _cut_tail(self) -> None:
        """Leave out what comes behind the step at which the failure was noticed."""
        if self._failure.step >= 0 and self._blank is None:
            del self._steps[self._failure.step + 1 :]
