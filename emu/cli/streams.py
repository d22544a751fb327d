# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the guest's bytes go, and where its input comes from.

Output goes out byte by byte as the guest sends it. Input is read by a thread of its own, which
blocks without asking the operating system for anything that one of them lacks, and is handed to
the machine between two slices of execution. A pipe that nobody reads any more ends the run.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

from emu.errors import UsageError

__all__ = ["InputThread", "Outputs", "Sink"]

Sink = Callable[[bytes], None]

_TAIL = 4096


class Tail:
    """Keeps the last bytes that went through."""

    def __init__(self, sink: Sink | None, size: int = _TAIL) -> None:
        """Pass everything on to `sink`."""
        self._sink = sink
        self._bytes: deque[int] = deque(maxlen=size)

    def __call__(self, data: bytes) -> None:
        """Take bytes."""
        self._bytes.extend(data)
        if self._sink is not None:
            self._sink(data)

    @property
    def text(self) -> str:
        """The last bytes as text; what is no UTF-8 is replaced."""
        return bytes(self._bytes).decode("utf-8", "replace")


class Outputs:
    """The files and standard output of one run, each opened once."""

    def __init__(self, on_broken: Callable[[], None]) -> None:
        """Call `on_broken` when standard output is closed by its reader."""
        self._files: dict[str, IO[bytes]] = {}
        self._on_broken = on_broken
        self.broken = False
        """Whether standard output has been closed by its reader."""
        self.failure = ""
        """Why something could not be written, in a line: a full disk, and not a reader gone."""
        self.stdout_used = False
        """Whether the guest has written to standard output."""

    def sink(self, where: str) -> Sink | None:
        """Return the sink for "stdio", "null" or "file:PATH"; raises UsageError."""
        if where == "null":
            return None
        if where == "stdio":
            return self._to_stdout()
        path = where.removeprefix("file:")
        if path not in self._files:
            try:
                self._files[path] = Path(path).open("wb", buffering=0)  # noqa: SIM115
            except OSError as error:
                raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
        return self._to_file(self._files[path])

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _to_file(self, file: IO[bytes]) -> Sink:
        def write(data: bytes) -> None:
            try:
                file.write(data)
            except OSError as error:
                self.failed(file.name, error)

        return write

    def _to_stdout(self) -> Sink | None:
        stream = getattr(sys.stdout, "buffer", None)
        if stream is None:
            return None

        def write(data: bytes) -> None:
            if self.broken:
                return
            self.stdout_used = True
            try:
                stream.write(data)
                stream.flush()
            except OSError as error:
                self.failed("standard output", error)
            except ValueError:  # it is closed
                self._broke()

        return write

    def failed(self, where: str, error: OSError) -> None:
        """Note that a write has failed, and end the run: with a reader gone (EPIPE, on Windows
        EINVAL) nobody is there to be told why, for anything else the first reason is kept."""
        gone = (errno.EPIPE, errno.EINVAL) if sys.platform == "win32" else (errno.EPIPE,)
        if error.errno in gone:
            self._broke()
        elif not self.failure:
            self.failure = f"cannot write {where}: {error.strerror or error}"
            self._on_broken()

    def _broke(self) -> None:
        if not self.broken:
            self.broken = True
            self._on_broken()


class InputThread:
    """Reads standard input and calls `deliver` with what came, on a thread of its own.

    `read` blocks until there are bytes and returns none of them at the end of the input.
    """

    def __init__(self, read: Callable[[], bytes], deliver: Callable[[bytes], None],
                 on_end: Callable[[], None]) -> None:  # fmt: skip
        """Prepare; nothing is read before `start`."""
        self._read = read
        self._deliver = deliver
        self._on_end = on_end
        # A daemon, because a blocked read cannot be called off.
        self._thread = threading.Thread(target=self._work, name="stdin", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def _work(self) -> None:
        while True:
            try:
                data = self._read()
            except (OSError, ValueError):
                data = b""
            if not data:
                self._on_end()
                return
            self._deliver(data)


def stdin_descriptor() -> int | None:
    """Return the file descriptor of standard input, or None if there is none to read from."""
    try:
        return None if sys.stdin is None or sys.stdin.closed else sys.stdin.fileno()
    except (OSError, ValueError):
        return None


def blocking_reader(descriptor: int) -> Callable[[], bytes]:
    """Return a function that blocks until bytes are there; not through `sys.stdin`, whose lock a
    thread that never comes back would hold when the interpreter ends."""
    return lambda: os.read(descriptor, 4096)
