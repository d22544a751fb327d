# SPDX-License-Identifier: GPL-2.0-or-later
"""From the thread that reads input to the machine's own: calls that wait for their turn.

The machine looks into the box every virtual millisecond, by an event of its clock. While the guest
has nothing to do but wait for input, that event is all there is, and each look waits as long for
the box in host time: an idle guest costs no processor, and its clock keeps the pace of the host's.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.machine import Machine

__all__ = ["Inbox"]

_INTERVAL_NS = 1_000_000
_IDLE_SECONDS = 0.001


class Inbox:
    """A queue of calls for the machine's thread."""

    def __init__(self, machine: Machine) -> None:
        """Start to look; the box is open until `close`."""
        self._machine = machine
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._open = True
        self._rearm()

    def post(self, call: Callable[[], None]) -> None:
        """Have `call` called on the machine's thread; from any thread."""
        self._calls.put(call)

    def close(self) -> None:
        """Say that nothing more will come; from any thread."""
        self._calls.put(self._shut)

    def _shut(self) -> None:
        self._open = False

    def _rearm(self) -> None:
        self._machine.clock.at(self._machine.clock.now + _INTERVAL_NS, self._look)

    def _look(self) -> None:
        idle = all(cpu.halted for cpu in self._machine.cpus)
        try:
            call = self._calls.get(timeout=_IDLE_SECONDS) if idle else self._calls.get_nowait()
            while True:
                call()
                call = self._calls.get_nowait()
        except Empty:
            pass
        if self._open:
            self._rearm()
