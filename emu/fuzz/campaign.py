# SPDX-License-Identifier: GPL-2.0-or-later
"""Many cases, on as many processes or machines as there are.

Cases go out in chunks of consecutive numbers and their results are taken in order of the numbers,
so what a campaign finds depends on the seed and on how far it got, and on nothing else: not on the
number of jobs, nor on who was faster. Anything with `submit` and `shutdown(wait)` as
`concurrent.futures.Executor` has them will do; Dask's, for one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from typing import Any

from emu.fuzz.case import Case, Failure, Result
from emu.fuzz.minimise import minimise

__all__ = ["TARGETS", "Campaign", "InlineExecutor", "Totals", "local_executor", "replay"]

TARGETS = {
    "mmu": "emu.fuzz.mmu",
    "program": "emu.fuzz.program",
    "decode": "emu.fuzz.decode",
}
"""The fuzzers: modules with `run(seed, number, options)`, `make(seed, number, options)`,
`replay(case)`, and the constants `CHUNK` and `BLANK`."""

MOST_FAILURES = 20
"""A campaign ends after so many failures: they will have one cause."""

_TICK = 0.5  # seconds between two looks at the time

_Work = tuple[int, int, "Future[list[Result]]"]  # the first case, how many, and what comes of them


def run_chunk(
    target: str, seed: int, first: int, count: int, options: dict[str, Any]
) -> list[Result]:
    """Run some cases; this is what a worker does."""
    module = import_module(TARGETS[target])
    return [module.run(seed, number, options) for number in range(first, first + count)]


def shrink(target: str, case: Case, failure: Failure) -> tuple[Case, Failure]:
    """Minimise a failing case; a worker's job too, as it may take the worker down."""
    module = import_module(TARGETS[target])
    return minimise(case, failure, module.replay, blank=module.BLANK, most_runs=module.MOST_RUNS)


def replay(case: Case) -> Failure | None:
    """Run a case again, whatever it is one of."""
    failure: Failure | None = import_module(TARGETS[case["kind"]]).replay(case)
    return failure


class InlineExecutor(Executor):
    """Does the work at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call `fn` and return its result as a future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def local_executor(jobs: int) -> Executor:
    """Return a pool of processes, started afresh on every system: no state is inherited."""
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))


def _is_death(error: Exception) -> bool:
    """Return whether an error says that the process of a worker died. Dask's, which is not to be
    imported for this, starts the work on other workers first, and then raises KilledWorker."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"


@dataclass(slots=True)
class Totals:
    """What a campaign has done so far."""

    cases: int = 0
    steps: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    failures: list[Result] = field(default_factory=list)


class Campaign:
    """A run of cases 0, 1, 2, ... of one seed.

    `make_executor` is called at the start, and again if a worker process dies; `width` chunks are
    under way at a time. `on_progress` is called about twice a second, `on_failure` with every
    failure, minimised if it is the first of its kind.
    """

    def __init__(
        self,
        target: str,
        seed: int,
        options: dict[str, Any],
        make_executor: Callable[[], Executor],
        *,
        width: int,
        on_progress: Callable[[Totals], None] = lambda totals: None,
        on_failure: Callable[[Result], None] = lambda result: None,
    ) -> None:
        """Prepare; `run` starts it."""
        self._target = target
        self._seed = seed
        self._options = options
        self._make_executor = make_executor
        self._width = width
        self._on_progress = on_progress
        self._on_failure = on_failure
        self._module = import_module(TARGETS[target])
        self._executor: Executor | None = None
        self._kinds: set[str] = set()
        self._under_way: deque[_Work] = deque()
        self.totals = Totals()

    def run(self, *, seconds: float | None = None, cases: int | None = None) -> Totals:
        """Run `cases` cases, or for `seconds`: what a worker has begun by then is finished, what
        none has is dropped."""
        started = time.monotonic()
        self._executor = self._make_executor()
        try:
            self._run(started, seconds, cases)
        finally:
            # Not left to `shutdown`: not every executor's can cancel.
            for _, _, future in self._under_way:
                future.cancel()
            self._executor.shutdown(wait=False)
            self.totals.seconds = time.monotonic() - started
        return self.totals

    def _run(self, started: float, seconds: float | None, cases: int | None) -> None:
        under_way = self._under_way
        next_number = 0
        while len(self.totals.failures) < MOST_FAILURES:
            left = None if seconds is None else seconds - (time.monotonic() - started)
            while len(under_way) < self._width:
                count = self._most_cases(left)
                if cases is not None:
                    count = min(count, cases - next_number)
                if count <= 0:
                    break
                under_way.append((next_number, count, self._submit(next_number, count)))
                next_number += count
            if left is not None and left <= 0:
                while len(under_way) > 1 and under_way[-1][2].cancel():
                    under_way.pop()
            if not under_way:
                return
            first, count, future = under_way[0]
            try:
                results = self._wait(future, started, seconds)
            except Exception as error:
                if not _is_death(error):
                    raise
                results = self._one_by_one(first, count)
                self._start_again()
            if results is None:
                continue
            under_way.popleft()
            for result in results:
                self._take(result)

    def _most_cases(self, left: float | None) -> int:
        """Return how many cases to hand out at once: fewer when there are only `left` seconds, by
        what the cases took so far, and none where those under way will need the time."""
        chunk: int = self._module.CHUNK
        totals = self.totals
        if left is None:
            return chunk
        if left <= 0:
            return 0
        if not totals.cases:
            return chunk
        fit = left * totals.cases / totals.seconds - sum(count for _, count, _ in self._under_way)
        if fit < 1:
            return 0 if self._under_way else 1
        return min(chunk, max(int(fit) // self._width, 1))

    def _start_again(self) -> None:
        """Hand out what is under way once more: where one worker's death breaks the executor, the
        rest broke with it."""
        for index, (first, count, future) in enumerate(self._under_way):
            if index:
                future.cancel()
                self._under_way[index] = first, count, self._submit(first, count)

    def _submit(self, first: int, count: int) -> Future[list[Result]]:
        assert self._executor is not None
        arguments = self._target, self._seed, first, count, self._options
        return self._executor.submit(run_chunk, *arguments)

    def _wait(self, future: Future[Any], started: float, seconds: float | None = None) -> Any:
        """Return what comes of some work, or None if `seconds` since the start have just passed."""
        while True:
            before = self.totals.seconds
            self.totals.seconds = time.monotonic() - started
            if seconds is not None and before < seconds <= self.totals.seconds:
                return None
            self._on_progress(self.totals)
            try:
                return future.result(timeout=_TICK)
            except FutureTimeout:
                if future.done():
                    raise  # the worker's own

    def _take(self, result: Result) -> None:
        totals = self.totals
        totals.cases += 1
        totals.steps += result.steps
        for name, count in result.counts.items():
            totals.counts[name] = totals.counts.get(name, 0) + count
        if result.failure is None or len(totals.failures) >= MOST_FAILURES:
            return
        if result.failure.kind not in self._kinds and result.case is not None:
            self._kinds.add(result.failure.kind)
            result = self._minimised(result)
        totals.failures.append(result)
        self._on_failure(result)

    def _minimised(self, result: Result) -> Result:
        assert self._executor is not None
        assert result.failure is not None and result.case is not None
        if result.failure.kind == "process died":
            return result
        job = self._executor.submit(shrink, self._target, result.case, result.failure)
        try:
            case, failure = self._wait(job, time.monotonic() - self.totals.seconds)
        except Exception as error:
            if not _is_death(error):
                raise
            self._executor = self._make_executor()
            return result
        return Result(result.number, result.steps, failure, case, result.counts)

    def _one_by_one(self, first: int, count: int) -> list[Result]:
        """A worker process has died: find out over which case."""
        results = []
        for number in range(first, first + count):
            self._executor = self._make_executor()
            try:
                results += self._submit(number, 1).result()
            except Exception as error:
                if not _is_death(error):
                    raise
                failure = Failure("process died", f"the process that ran case {number} died")
                case = self._module.make(self._seed, number, self._options)
                results.append(Result(number, 0, failure, case))
                self._executor = self._make_executor()
        return results
