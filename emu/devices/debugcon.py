# SPDX-License-Identifier: GPL-2.0-or-later
"""The debug console of Bochs and QEMU: what is written to port 0xe9 is shown.

Reading gives 0xe9, by which a guest knows that it is there.
"""

from __future__ import annotations

from emu.ports import TextSink
from emu.savable import Savable, State

__all__ = ["DebugConsole"]

READBACK = 0xE9


class DebugConsole(Savable):
    """A byte-wide port that prints. `sink` gets every byte at once."""

    def __init__(self, sink: TextSink | None = None) -> None:
        """Print to `sink`, or only to `text`."""
        self._sink = sink
        self._sent = bytearray()

    @property
    def text(self) -> str:
        """Everything written so far; bytes that are not UTF-8 show as the replacement character."""
        return self._sent.decode(encoding="utf-8", errors="replace")

    def save(self) -> State:
        """Return everything written so far."""
        return self._make_state(sent=self._sent)

    def load(self, state: State) -> None:
        """Take a saved state. The sink does not get again what was written."""
        (self._sent,) = self._parts_of(state, sent=bytearray)

    def read(self, port: int, size: int) -> int:
        """Return the signature."""
        return READBACK

    def write(self, port: int, size: int, value: int) -> None:
        """Print one byte."""
        self._sent.append(value & 0xFF)
        if self._sink is not None:
            self._sink(bytes((value & 0xFF,)))
