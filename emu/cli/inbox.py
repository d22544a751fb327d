# SPDX-License-Identifier: GPL-2.0-or-later
"""From the thread that reads input to the machine's own: calls that wait for their turn.

The scheduler looks into the box between two slices. No event of the guest's clock is made of that,
and what never comes leaves no trace: a run is the same with input at its end, and with input that
nobody types. While the guest has nothing to do, each virtual millisecond waits as long for the box
in host time: an idle guest costs no processor, and its clock keeps the pace of the host's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.machine import Machine

__all__ = ["Inbox"]

_MOST_CALLS = 64
_INTERVAL_NS = 1_000_000
_NS_PER_SECOND = 1_000_000_000


class Inbox:
    """A queue of calls for the machine's thread; `is_open` until the last of them is made."""

    def __init__(self, machine: Machine) -> None:
        """Have `machine` look; the box is open until `close`."""
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._slept = 0  # virtual ns for which nobody has waited yet
        self.is_open = True
        machine.scheduler.inbox = self

    def post(self, call: Callable[[], None]) -> None:
        """Have `call` called on the machine's thread; from any thread."""
        self._calls.put(call)

    def close(self) -> None:
        """Say that nothing more will come; from any thread."""
        self._calls.put(self._shut)

    def _shut(self) -> None:
        self.is_open = False

    def look(self) -> None:
        """Make the calls that wait, but no more than `_MOST_CALLS`: a source that never dries up
        must not keep the scheduler from looking at the time. 0.1 us when there are none."""
        for _ in range(_MOST_CALLS):
            if self._calls.empty():
                return
            self._calls.get()()

    def sleep(self, ns: int | None) -> int:
        """Wait while the guest sleeps for `ns`, or for ever; return the ns that have passed.

        That is 1 ms at most, and for less nobody waits until it has come to so much.
        """
        ns = _INTERVAL_NS if ns is None else min(ns, _INTERVAL_NS)
        self._slept += ns
        if self._slept >= _INTERVAL_NS:
            self._slept = 0
            with suppress(Empty):
                self._calls.get(timeout=_INTERVAL_NS / _NS_PER_SECOND)()
        return ns
