# SPDX-License-Identifier: GPL-2.0-or-later
"""Who lets the machine run, and who stops it: gdb, monitors, the command line.

Everything here happens on the machine's thread but `post` and `quit`. Other threads read sockets
and post calls; a call that comes while the machine runs pauses it, is made, and the run goes on as
if nothing had been (see `emu.schedule`: a pause changes nothing). While the machine stands still
the thread waits for calls. Nobody polls: without calls a run costs what it costs without this.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Protocol

from emu.outcome import Kind, Outcome, Position, exit_code

__all__ = ["ENDS", "Control", "Runner"]

ENDS = frozenset(
    {Kind.GUEST_EXIT, Kind.POWER_OFF, Kind.RESET, Kind.IDLE, Kind.TRIPLE_FAULT, Kind.FINDING,
     Kind.INTERNAL, Kind.TIMEOUT, Kind.INSN_LIMIT, Kind.POSITION}
)  # fmt: skip
"""Stops that end a run, unless somebody who debugs the machine wants to look at it first."""

_WAIT = 0.2  # seconds: how soon a signal is noticed on systems where a wait holds it back


class Runner(Protocol):
    """What runs: a `Target`."""

    def resume(
        self,
        timeout: float | None = None,
        max_insns: int | None = None,
        until: Position | None = None,
    ) -> Outcome:
        """Run until something stops it: `Machine.run`."""

    def step(self, cpu: int, timeout: float | None = None) -> Outcome:
        """Run until vCPU `cpu` has executed one instruction, or something else stops it."""

    def pause(self) -> None:
        """Have `resume` return soon, or the next one at once; any thread."""


Call = Callable[[], None]


class Control:
    """The run of one machine under the hands of several.

    `on_stop` are called at each stop with its outcome; one that returns True keeps the machine even
    at an end of the run. `holders` says how many debuggers are connected: while there are any, only
    time that the machine runs counts against `timeout`.
    """

    def __init__(
        self,
        target: Runner,
        *,
        stopped: bool = False,
        timeout: float | None = None,
        max_insns: int | None = None,
        until: Position | None = None,
    ) -> None:
        """Control `target`, which stands still at first if `stopped`."""
        self._target = target
        self._calls: SimpleQueue[Call] = SimpleQueue()
        self._timeout = timeout
        self._left = max_insns
        self._step: int | None = None
        self._until = until
        self._quits: Kind | None = None
        self._finished: Outcome | None = None
        self.is_running = not stopped
        self.holders = 0
        self.on_stop: list[Callable[[Outcome], bool]] = []
        self.last: Outcome | None = None
        """How the machine has stopped, None before it ran."""

    # --- From other threads ---------------------------------------------------------------------

    def post(self, call: Call) -> None:
        """Have `call` made on the machine's thread, soon; from any thread."""
        self._calls.put(call)
        if self.is_running:
            self._target.pause()

    def quit(self, kind: Kind = Kind.PAUSED) -> None:
        """End `run`; from any thread and from signal handlers."""
        self._quits = kind
        self.post(lambda: None)

    # --- On the machine's thread ------------------------------------------------------------------

    def hold(self) -> None:
        """Let the machine stand still after this call."""
        self.is_running = False
        self._step = None

    def go(self, step: int | None = None) -> None:
        """Let the machine run after this call: for one instruction of vCPU `step`, or on."""
        self.is_running = True
        self._step = step

    def finish(self, outcome: Outcome) -> None:
        """Have `run` return `outcome`, an end at which the machine was kept."""
        self._finished = outcome

    def run(self) -> Outcome:
        """Run, stop and wait as is wanted, until the run ends."""
        while True:
            self._make_calls(wait=not self.is_running)
            if self._finished is not None:
                return self._finished
            if self._quits is not None:
                return self._outcome(self._quits)
            if not self.is_running:
                if self._timeout is not None and self._timeout <= 0:
                    return self._outcome(Kind.TIMEOUT)
                continue
            outcome = self._run_once()
            kind = outcome.stop.kind
            if kind is Kind.PAUSED:
                continue
            self.hold()
            self.last = outcome
            is_kept = False
            for call in tuple(self.on_stop):
                is_kept |= call(outcome)
            if kind in ENDS and not is_kept:
                return outcome

    def _run_once(self) -> Outcome:
        timeout = None if self._timeout is None else max(self._timeout, 0)
        if self._step is not None:
            outcome = self._target.step(self._step, timeout)
        else:
            outcome = self._target.resume(timeout, self._left, self._until)
            if outcome.stop.kind is Kind.POSITION:
                self._until = None
        if self._timeout is not None:
            self._timeout -= outcome.seconds
        if self._left is not None:
            self._left = max(self._left - outcome.instructions, 0)
        return outcome

    def _outcome(self, kind: Kind) -> Outcome:
        """Return an outcome where the machine stands: a run of no instruction."""
        self._target.pause()
        outcome = self._target.resume()
        code = exit_code(kind, None)
        return replace(outcome, kind=kind, exit_code=code, stop=replace(outcome.stop, kind=kind))

    def _make_calls(self, *, wait: bool) -> None:
        """Make the calls that have come; with `wait`, wait for one, but not for long."""
        try:
            if wait:
                started = time.monotonic()
                try:
                    self._calls.get(timeout=_WAIT)()
                finally:
                    if self._timeout is not None and not self.holders:
                        self._timeout -= time.monotonic() - started
            while self._quits is None and self._finished is None:
                self._calls.get_nowait()()
        except Empty:
            pass
