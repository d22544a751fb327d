# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the columns in turn and compares what was measured at the same time.

Every column's work is sized until its measured region lasts ``seconds``. Then come the rounds: in
each, every column runs once, with the yardstick before and after, so that a machine that slows
down does so for all. A ratio is the median over the rounds of the ratios within a round; a time is
the median of the times.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from emu.bench.bare import Yardstick
from emu.bench.emulators import BenchError, Emulator, Sample
from emu.bench.loads import CACHE_OFF, GOALS, JIT, PURE, Goal, Load, Measure

__all__ = ["Column", "Judged", "LoadResult", "judge", "measure", "speed_ratio"]

_FIRST_GUESS = 0.02
_MOST_OPERATIONS = 4_000_000_000


@dataclass(slots=True)
class Column:
    """One emulator's runs of one load: a Sample and a yardstick (seconds) for every round."""

    operations: int
    samples: list[Sample] = field(default_factory=list)
    yardsticks: list[float] = field(default_factory=list)

    @property
    def each(self) -> float:
        """Median seconds of an operation."""
        return median(sample.each for sample in self.samples)

    @property
    def in_yardsticks(self) -> float:
        """Median cost of an operation in yardsticks."""
        pairs = zip(self.samples, self.yardsticks, strict=True)
        return median(sample.each / yardstick for sample, yardstick in pairs)

    @property
    def spread(self) -> float:
        """The slowest run over the fastest."""
        times = [sample.each for sample in self.samples]
        return max(times) / min(times)


@dataclass(slots=True)
class LoadResult:
    """All columns of one load, by name, and why others are missing."""

    load: Load
    columns: dict[str, Column] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def speed_ratio(result: LoadResult, column: str, against: str) -> float | None:
    """How many times as fast ``column`` is as ``against``, or None if one was not measured."""
    one, other = result.columns.get(column), result.columns.get(against)
    if one is None or other is None:
        return None
    pairs = zip(one.samples, other.samples, strict=True)
    return median(theirs.each / ours.each for ours, theirs in pairs)


def measure(
    load: Load,
    emulators: Sequence[Emulator],
    yardstick: Yardstick,
    *,
    runs: int,
    seconds: float,
    tell: Callable[[str], None],
) -> LoadResult:
    """Measure one load on all emulators that can run it: ``runs`` of at least ``seconds`` each.

    An emulator that fails or answers wrongly is left out and its reason kept.
    """
    result = LoadResult(load)
    ready: list[Emulator] = []
    for emulator in emulators:
        if not emulator.can_run(load):
            continue
        try:
            tell(f"{load.name}: {emulator.name}: sizing")
            result.columns[emulator.name] = _size(load, emulator, seconds)
            ready.append(emulator)
        except BenchError as error:
            result.missing[emulator.name] = str(error)
    for number in range(runs):
        for emulator in ready:
            if emulator.name not in result.columns:
                continue
            tell(f"{load.name}: {emulator.name}: run {number + 1} of {runs}")
            try:
                _run_once(load, emulator, yardstick, result.columns[emulator.name])
            except BenchError as error:
                del result.columns[emulator.name]
                result.missing[emulator.name] = str(error)
    return result


def _size(load: Load, emulator: Emulator, seconds: float) -> Column:
    """Find how many operations take ``seconds``; checks the answer on the way."""
    operations = load.small
    sample = emulator.run(load, operations)
    if sample.answer != load.answer or sample.operations != operations:
        raise BenchError(
            f"{load.name} under {emulator.name} answers {sample.answer} after "
            f"{sample.operations}, which should be {load.answer} after {operations}"
        )
    while sample.seconds < seconds * 0.95:
        # The first guesses are of small regions: not more than 30 times as much at once.
        wanted = seconds * 1.1 / max(sample.each, 1e-12)
        operations = min(_round(wanted), sample.operations * 30, _MOST_OPERATIONS)
        if operations <= sample.operations:
            break
        sample = emulator.run(load, operations)
    return Column(operations)


def _round(wanted: float) -> int:
    """Two significant digits, up, and a multiple of 8 from 80 on."""
    unit: int = 10 ** max(math.floor(math.log10(max(wanted, 1))) - 1, 0)
    operations = math.ceil(wanted / unit) * unit
    return operations if operations < 80 else operations + -operations % 8


def _run_once(load: Load, emulator: Emulator, yardstick: Yardstick, column: Column) -> None:
    gc.collect()
    before = yardstick.measure()
    sample = emulator.run(load, column.operations)
    after = yardstick.measure()
    if sample.operations != column.operations:
        raise BenchError(f"{load.name} under {emulator.name} did {sample.operations} operations")
    column.samples.append(sample)
    column.yardsticks.append((before + after) / 2)


# --- Goals ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """A goal with what was measured, None if it was not."""

    goal: Goal
    value: float | None

    @property
    def verdict(self) -> str:
        """ "met", "short" or "not measured"."""
        if self.value is None:
            return "not measured"
        return "met" if self.goal.is_met(self.value) else "short"


def judge(results: Sequence[LoadResult], goals: Sequence[Goal] = GOALS) -> list[Judged]:
    """Every goal of the loads that were run, beside its measured value."""
    by_name = {result.load.name: result for result in results}
    judged = []
    for goal in goals:
        if goal.load == "all":
            judged.append(Judged(goal, geometric_mean(results, goal.column, "qemu")))
        elif goal.load in by_name:
            judged.append(Judged(goal, _value(goal, by_name[goal.load])))
    return judged


def geometric_mean(results: Sequence[LoadResult], column: str, against: str) -> float | None:
    """The geometric mean of ``column``'s times over ``against``'s; None if one is missing."""
    ratios = [speed_ratio(result, against, column) for result in results]
    logs = [math.log(ratio) for ratio in ratios if ratio]
    if not logs or len(logs) < len(results):
        return None
    return math.exp(sum(logs) / len(logs))


def _value(goal: Goal, result: LoadResult) -> float | None:
    column = result.columns.get(goal.column)
    if goal.measure is Measure.SPEED:
        return speed_ratio(result, goal.column, "native")
    if goal.measure is Measure.CACHE:
        return speed_ratio(result, goal.column, f"{goal.column}, {CACHE_OFF}")
    if column is None:
        return None
    if goal.measure is Measure.YARDSTICKS_A_FILL:
        return column.in_yardsticks / result.load.fills
    return column.in_yardsticks


def shadow_columns(results: Sequence[LoadResult]) -> list[str]:
    """Which of the project's own two columns were measured."""
    return [n for n in (JIT, PURE) if any(n in result.columns for result in results)]
