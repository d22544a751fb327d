# SPDX-License-Identifier: GPL-2.0-or-later
"""A monitor at the other end of a socket or of standard input: lines in, a prompt out."""

from __future__ import annotations

from collections.abc import Callable

from emu.debug.monitor import Monitor

__all__ = ["PROMPT", "Console"]

PROMPT = b"(qemu) "
_MOST_LINE = 4096


class Console:
    """One connected person, on the machine's thread."""

    def __init__(self, monitor: Monitor, send: Callable[[bytes], None]) -> None:
        """Prompt."""
        self._monitor = monitor
        self._send = send
        self._line = b""
        self.is_open = True
        send(PROMPT)

    def receive(self, data: bytes) -> None:
        """Execute the lines that have come; a line without end is dropped when it is too long."""
        *lines, self._line = (self._line + data).split(b"\n")
        self._line = self._line[:_MOST_LINE]
        for line in lines:
            text = self._monitor.execute(line[:_MOST_LINE].decode("utf-8", "replace"))
            self._send((text + "\n").encode("utf-8", "replace") if text else b"")
            self._send(PROMPT)

    def close(self) -> None:
        """Forget the person."""
        self.is_open = False
