# SPDX-License-Identifier: GPL-2.0-or-later
"""The text screen on a terminal, or on paper.

`text` shows the screen on standard error: once when the run ends, and, where that is a terminal
on which the guest's serial output does not stand, again and again in the same place while it runs.
`curses` takes the whole terminal. Both move the cursor by ANSI sequences, which every terminal of
the three systems understands (Windows since version 10), so no library is needed.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable
from typing import Protocol, TextIO

__all__ = ["Screen", "ScreenThread", "trimmed"]

_INTERVAL = 0.1  # seconds between two looks at the screen
_ALTERNATE = "\x1b[?1049h\x1b[H\x1b[2J"
_BACK = "\x1b[?1049l"


class Screen(Protocol):
    """The part of `emu.devices.vga.Vga` that is looked at."""

    @property
    def rows(self) -> list[str]:
        """The rows of the screen."""

    @property
    def cursor(self) -> tuple[int, int] | None:
        """Row and column of the cursor."""


def trimmed(rows: list[str]) -> list[str]:
    """Return the rows without blanks at their ends, and without blank rows at the end.

    >>> trimmed(["a  ", "", "b", "   ", ""])
    ['a', '', 'b']
    """
    rows = [row.rstrip().replace("\0", " ") for row in rows]
    while rows and not rows[-1].strip():
        rows.pop()
    return rows


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "ascii"
    try:
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        pass


class ScreenThread:
    """Shows a screen while its machine runs, and once more when it has ended."""

    def __init__(self, screen: Screen, *, whole: bool, may_redraw: Callable[[], bool],
                 stream: TextIO | None = None) -> None:  # fmt: skip
        """`whole` takes the whole terminal; otherwise `may_redraw` is asked before each update."""
        self._screen = screen
        self._whole = whole
        self._may_redraw = may_redraw
        self._stream = stream if stream is not None else sys.stderr
        self._shown: list[str] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="display", daemon=True)

    def start(self) -> None:
        """Begin to show the screen."""
        if os.name == "nt":
            os.system("")  # switches the console to ANSI sequences
        if self._whole:
            _write(self._stream, _ALTERNATE)
        self._thread.start()

    def stop(self) -> None:
        """Leave the terminal as it was; the screen itself is shown by `show_final`."""
        self._done.set()
        self._thread.join()
        if self._whole:
            _write(self._stream, _BACK)

    def show_final(self) -> None:
        """Print the screen as it is now, in place of what was drawn, unless it is blank."""
        rows = trimmed(self._screen.rows)
        if not self._whole and self._shown and self._may_redraw():
            if rows != self._shown:
                self._redraw(rows)
        elif rows:
            _write(self._stream, "\n".join(rows) + "\n")

    def _work(self) -> None:
        while not self._done.wait(_INTERVAL):
            if self._whole:
                self._draw_whole()
            elif self._may_redraw():
                self._redraw(trimmed(self._screen.rows))

    def _draw_whole(self) -> None:
        rows = trimmed(self._screen.rows)
        if rows != self._shown:
            self._shown = rows
            body = "".join(f"\x1b[{i + 1};1H{row}\x1b[K" for i, row in enumerate(rows))
            _write(self._stream, body + "\x1b[J")
        where = self._screen.cursor
        if where is not None:
            _write(self._stream, f"\x1b[{where[0] + 1};{where[1] + 1}H")

    def _redraw(self, rows: list[str]) -> None:
        height = shutil.get_terminal_size().lines
        if rows == self._shown or len(rows) >= height:  # what has scrolled off cannot be redrawn
            return
        up = f"\x1b[{len(self._shown)}A" if self._shown else ""
        _write(self._stream, up + "".join(f"{row}\x1b[K\n" for row in rows) + "\x1b[J")
        self._shown = rows
