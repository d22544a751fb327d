# SPDX-License-Identifier: GPL-2.0-or-later
"""An emulator as a child process: run a case, talk over the serial line, note how it ended.

A reader thread collects what the child prints; the caller waits for patterns in it. Time limits
are the case's; a child that is late is killed, and the output so far is kept.
"""

from __future__ import annotations

import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shutil import copyfile, which
from tempfile import TemporaryDirectory

from emu.kernels import unittests
from emu.kernels.case import Case, Result, Verdict

__all__ = ["Emulator", "qemu", "run_case", "shadowcorn"]

_TAIL = 20000
_MOST = 64 << 20  # characters: a kernel that prints more than this prints for ever
_GRACE = 10.0  # a machine that has been told its time limit gets this long to report


class Emulator:
    """How to start an emulator: `command` and the arguments of its own."""

    def __init__(self, name: str, command: Sequence[str], limit: Sequence[str] = ()) -> None:
        """`limit`, if any, is followed by the number of seconds that a run may take."""
        self.name = name
        self._command = list(command)
        self._limit = list(limit)

    def command(self, arguments: Sequence[str], seconds: float) -> list[str]:
        """Return the whole command line of a run."""
        limit = [*self._limit, f"{seconds:g}"] if self._limit else []
        return [*self._command, *limit, *arguments]


def shadowcorn(extra: Sequence[str] = ()) -> Emulator:
    """Return shadowcorn as `shadowcorn-qemu` starts it, with options of ours."""
    start = "import sys; from emu.cli import main_qemu; sys.exit(main_qemu())"
    return Emulator("shadowcorn", [sys.executable, "-c", start, *extra], ["--timeout"])


def qemu() -> Emulator | None:
    """Return QEMU with its translator (not KVM), or None where it is not installed."""
    found = which("qemu-system-x86_64")
    return Emulator("QEMU", [found, "-accel", "tcg"]) if found else None


class _Child:
    """A running emulator with its output so far."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._chunks: queue.Queue[bytes | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._ended = False
        self._pieces: list[str] = []
        self._size = 0
        self._seen = 0

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        while chunk := stream.read1(65536):  # type: ignore[attr-defined]
            self._chunks.put(chunk)
        self._chunks.put(None)

    @property
    def output(self) -> str:
        """What was printed so far."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def _collect(self, until: float) -> bool:
        """Take the next piece of output; return False at its end or when time is up."""
        left = until - time.monotonic()
        if self._ended or left <= 0 or self._size > _MOST:
            return False
        try:
            chunk = self._chunks.get(timeout=left)
        except queue.Empty:
            return False
        if chunk is None:
            self._ended = True
            return False
        text = chunk.decode("utf-8", errors="replace").replace("\r", "")
        self._pieces.append(text)
        self._size += len(text)
        return True

    def wait_for(self, pattern: str, until: float) -> bool:
        """Return whether `pattern` is printed, after what was waited for before, in time."""
        expression = re.compile(pattern, re.MULTILINE)
        while True:
            found = expression.search(self.output, self._seen)
            if found:
                self._seen = found.end()
                return True
            if not self._collect(until):
                return False

    def send(self, text: str) -> None:
        stream = self._process.stdin
        assert stream is not None
        with suppress(OSError):  # it is gone; its output says why
            stream.write(text.encode())
            stream.flush()

    def finish(self, until: float) -> int | None:
        """Return the exit code, or None if the child had to be killed."""
        while self._collect(until):
            pass
        code: int | None = None
        try:
            code = self._process.wait(max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self.kill()
        return code

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def run_case(case: Case, emulator: Emulator) -> Result:
    """Run `case` on `emulator`; its disks are copied first, so that nothing of theirs changes."""
    with TemporaryDirectory(prefix="shadowcorn-") as folder:
        arguments = list(case.arguments)
        for number, disk in enumerate(case.disks):
            copy = Path(folder) / f"{number}{disk.suffix}"
            copyfile(disk, copy)
            arguments = [word.replace(f"{{disk{number}}}", str(copy)) for word in arguments]
        return _run(case, emulator.command(arguments, case.seconds))


def _run(case: Case, command: Sequence[str]) -> Result:
    began = time.monotonic()
    until = began + case.seconds
    child = _Child(command)
    try:
        missed = ""
        for step in case.steps:
            if not child.wait_for(step.expect, until):
                missed = step.expect
                break
            if step.send:
                child.send(step.send)
        if case.judge == "unittest":
            code = child.finish(until + _GRACE)
            return unittests.judge(code, child.output, time.monotonic() - began)
        code = child.finish(until + _GRACE) if case.power_off and not missed else None
        seconds = time.monotonic() - began
        return _judge_steps(case, child.output, missed, code, seconds)
    finally:
        child.kill()


def _judge_steps(case: Case, output: str, missed: str, code: int | None, seconds: float) -> Result:
    tail = output[-_TAIL:]
    bad = re.search(case.forbidden, output) if case.forbidden else None
    if bad:
        return Result(Verdict.FAIL, seconds, f"printed {bad[0].strip()!r}", output=tail)
    if missed:
        late = seconds >= case.seconds
        verdict = Verdict.TIMEOUT if late else Verdict.CRASH
        lines = [line.strip() for line in output.splitlines() if line.strip()] or ["nothing"]
        reason = f"never printed {missed!r}; last: {lines[-1][:100]}"
        return Result(verdict, seconds, reason, output=tail)
    if case.power_off and code != 0:
        how = "did not power off" if code is None else f"ended with exit code {code}"
        return Result(Verdict.FAIL, seconds, how, output=tail)
    return Result(Verdict.PASS, seconds, output=tail)
