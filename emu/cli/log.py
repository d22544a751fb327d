# SPDX-License-Identifier: GPL-2.0-or-later
"""The log of -d: where it goes, and what happens when it can be written no longer."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from pathlib import Path

from emu.cli import say

__all__ = ["LogFile", "LogStream"]


class _Ends:
    """A handler whose first failure is one line, after which it takes no more records."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say what went wrong; the run goes on without a log."""
        assert isinstance(self, logging.Handler)
        error = sys.exc_info()[1]
        self.addFilter(lambda record: False)
        say(f"the log ends here: {getattr(error, 'strerror', None) or error}")


class LogFile(_Ends, logging.FileHandler):
    """The file of -D; its lines end with LF on every host."""

    def _open(self) -> io.TextIOWrapper:
        """Open it as `logging.FileHandler` would, but for the line ends."""
        raw = Path(self.baseFilename).open(f"{self.mode}b")  # noqa: SIM115 (logging closes it)
        return io.TextIOWrapper(raw, encoding=self.encoding, errors=self.errors, newline="\n")

    def close(self) -> None:
        """Close the file; what a full disk does not take is lost, and has been told."""
        with contextlib.suppress(OSError):
            super().close()


class LogStream(_Ends, logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error."""
