# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual time by the host's clock: fast where nothing is compiled, and not deterministic.

Counting instructions one by one costs several times what executing them does. Here nobody counts: a
thread looks at the host's clock every now and then, says how many instructions the time would have
been good for, and stops the engine when the slice is over. No two runs are the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from emu.clock import NS_PER_INSN

__all__ = ["HostClock"]

_TICK_SECONDS = 0.0005


class HostClock:
    """Measures one vCPU's slices. `words` are its instruction counter, limit, and whether time is
    up; `stop` makes the engine leave, from any thread."""

    def __init__(self, counter: memoryview, stopped: memoryview, stop: Callable[[], None]) -> None:
        """Write to `counter` (two words: counter, limit) and `stopped` (one word)."""
        self._counter = counter
        self._stopped = stopped
        self._stop = stop
        self._began = 0
        self._runs = threading.Event()
        self._closed = False
        self._engine = threading.Lock()  # held while the engine is being stopped, or closed
        threading.Thread(target=self._watch, name="shadowcorn host clock", daemon=True).start()

    def begin(self, budget: int) -> None:
        """A slice of `budget` instructions begins."""
        self._stopped[0] = 0
        self._counter[0], self._counter[1] = 0, budget
        self._began = time.perf_counter_ns()
        self._runs.set()

    def end(self) -> tuple[int, bool]:
        """The engine was left: return what the slice was good for, and whether time was up."""
        self._runs.clear()
        return max(self.now(), 1), bool(self._stopped[0])

    def now(self) -> int:
        """Return how many instructions the time since `begin` is good for."""
        return (time.perf_counter_ns() - self._began) // NS_PER_INSN

    def close(self) -> None:
        """End the thread; the engine is not touched by it any more when this returns."""
        with self._engine:
            self._closed = True
        self._runs.set()

    def _watch(self) -> None:
        while self._runs.wait():
            time.sleep(_TICK_SECONDS)
            with self._engine:
                if self._closed:
                    return
                if self._runs.is_set() and self.now() >= self._counter[1]:
                    self._stopped[0] = 1
                    self._stop()
