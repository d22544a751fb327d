# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's isa-debug-exit: the guest writes a value, the run ends with exit code `(value << 1) | 1`.

Where it sits and how many ports it takes is the user's choice (`iobase=`, `iosize=`).
"""

from __future__ import annotations

from emu.outcome import Kind
from emu.ports import Stop
from emu.savable import Savable, State

__all__ = ["DebugExit"]


class DebugExit(Savable):
    """Ports that end the run. Put it on the bus with a width of `min(iosize, 4)`."""

    def __init__(self, stop: Stop) -> None:
        """Call `stop(Kind.GUEST_EXIT, value)` at the first write."""
        self._stop = stop
        self._done = False

    def reset(self) -> None:
        """Be ready for another first write."""
        self._done = False

    def save(self) -> State:
        """Return whether the first write has come."""
        return self._make_state(done=self._done)

    def load(self, state: State) -> None:
        """Take a saved state."""
        (self._done,) = self._parts_of(state, done=bool)

    def read(self, port: int, size: int) -> int:
        """Return 0, as QEMU does."""
        return 0

    def write(self, port: int, size: int, value: int) -> None:
        """End the run. Of a write that the bus split, the first part counts."""
        if not self._done:
            self._done = True
            self._stop(Kind.GUEST_EXIT, value)
