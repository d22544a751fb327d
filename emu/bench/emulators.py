# SPDX-License-Identifier: GPL-2.0-or-later
"""What a load is run on: a class with ``run`` for each kind; ``make_emulator`` names them.

The guest marks its measured region by a ``B`` and an ``E`` on port 0xe9. Here a
:class:`Stopwatch` is behind that port and reads the host's clock: as a hook inside this process,
or, for QEMU, at the other end of a pipe.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from emu.bench.loads import CACHE_OFF, JIT, PURE, Load
from emu.errors import UsageError
from guests import PASSED

__all__ = ["BenchError", "Emulator", "InProcess", "Qemu", "Sample", "Stopwatch", "make_emulator"]

QEMU = "qemu-system-x86_64"
_ANSWER = re.compile(r"^\w+: (\d+) operations, checksum ([0-9a-f]{16})$", re.MULTILINE)
CACHE_OFF_PLUGIN = "emu.bench.plugins:CacheOff"
_TIMEOUT = 600.0
_MIB = 1 << 20


class BenchError(Exception):
    """A benchmark did not run to its end; the message is for a person."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: seconds in the measured region, what the guest answered, the plug-in's counters."""

    seconds: float
    operations: int
    answer: str
    counters: dict[str, int] = field(default_factory=dict)

    @property
    def each(self) -> float:
        """Seconds of one operation."""
        return self.seconds / self.operations


class Emulator(Protocol):
    """Anything that runs a load."""

    name: str

    def run(self, load: Load, operations: int) -> Sample:
        """Run it once. Raises BenchError."""

    def can_run(self, load: Load) -> bool:
        """Return whether it has what the load needs."""


class Stopwatch:
    """Adds up the time between every ``B`` and the next ``E``; call it with bytes as they come."""

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self.seconds = 0.0
        self._began: float | None = None

    def __call__(self, data: bytes) -> None:
        """Take bytes from the guest's port."""
        now = time.perf_counter()
        for byte in data:
            if byte == ord("B"):
                self._began = time.perf_counter()
            elif byte == ord("E") and self._began is not None:
                self.seconds += now - self._began
                self._began = None


def _sample(load: Load, watch: Stopwatch, text: str, counters: dict[str, int]) -> Sample:
    match = _ANSWER.search(text.replace("\r", ""))
    if match is None:
        raise BenchError(f"{load.name}: no answer, but {text[-200:]!r}")
    return Sample(watch.seconds, int(match[1]), match[2], counters)


class InProcess:
    """This project's machine, under one plug-in."""

    def __init__(self, name: str, mmu: str, *, policy: str = "", **options: Any) -> None:
        """``policy`` is the shadow cache's, as text; ``options`` go to the Machine: ``jit``,
        ``clock``, ``shadow_pages``."""
        self.name = name
        self.mmu = mmu
        self.policy = policy
        self.options = options

    def can_run(self, load: Load) -> bool:
        """Everything; but the cache is switched off only where switches are measured."""
        return self.mmu != CACHE_OFF_PLUGIN or load.fills > 0

    def run(self, load: Load, operations: int) -> Sample:
        """Run it once in a machine of its own. Raises BenchError."""
        from emu.board import BoardOptions
        from emu.machine import Machine

        watch = Stopwatch()
        with Machine(
            load.guest.path,
            mmu=self.mmu,
            memory=load.guest.memory,
            append=load.command_line(operations),
            board=BoardOptions(debugcons=((0xE9, watch),)),
            **self.options,
        ) as machine:
            if self.policy:
                machine.mmu.set_policy(self.policy)
            outcome = machine.run(timeout=_TIMEOUT)
            if outcome.exit_code != PASSED:
                raise BenchError(
                    f"{load.name} under {self.name}: {outcome.kind.value}"
                    f"\n{machine.serial.text}{outcome.report}"
                )
            return _sample(load, watch, machine.serial.text, machine.mmu.counters.as_dict())


class Qemu:
    """QEMU's TCG, as a process."""

    name = "qemu"

    def __init__(self) -> None:
        """Raises UsageError where QEMU is not on PATH."""
        path = shutil.which(QEMU)
        if path is None:
            raise UsageError(f"{QEMU} is not on PATH")
        self._path = path

    def version(self) -> str:
        """The first line of its --version."""
        text = subprocess.run([self._path, "--version"], capture_output=True, check=False).stdout
        return text.decode(encoding="utf-8", errors="replace").partition("\n")[0]

    def can_run(self, load: Load) -> bool:
        """Everything."""
        return True

    def run(self, load: Load, operations: int) -> Sample:
        """Run it once in a process of its own. Raises BenchError."""
        watch = Stopwatch()
        with tempfile.TemporaryDirectory() as folder:
            serial = Path(folder) / "serial"
            command = self._command(load, operations, serial)
            pipe, null = subprocess.PIPE, subprocess.DEVNULL
            with subprocess.Popen(command, stdin=null, stdout=pipe, bufsize=0) as process:
                try:
                    assert process.stdout is not None
                    while data := process.stdout.read(1):
                        watch(data)
                    code = process.wait(_TIMEOUT)
                finally:
                    process.kill()
            text = serial.read_text(encoding="ascii") if serial.exists() else ""
        if code != PASSED:
            raise BenchError(f"{load.name} under qemu: exit code {code}\n{text}")
        return _sample(load, watch, text, {})

    def _command(self, load: Load, operations: int, serial: Path) -> list[str]:
        return [
            self._path,
            *("-accel", "tcg", "-cpu", "max", "-m", str(load.guest.memory // _MIB)),
            *("-kernel", str(load.guest.path), "-append", load.command_line(operations)),
            *("-display", "none", "-monitor", "none", "-no-reboot", "-nodefaults"),
            *("-serial", f"file:{serial}", "-debugcon", "stdio"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
        ]


def make_emulator(name: str) -> Emulator:
    """The emulator of a column. Raises UsageError, also for one that is not there."""
    if name == JIT:
        return InProcess(name, "shadow", jit="on")
    if name == PURE:
        return InProcess(name, "shadow", jit="off", clock="blocks")
    if name == f"{JIT}, {CACHE_OFF}":
        return InProcess(name, CACHE_OFF_PLUGIN, jit="on")
    if name == f"{PURE}, {CACHE_OFF}":
        return InProcess(name, CACHE_OFF_PLUGIN, jit="off", clock="blocks")
    if name == "native":
        return InProcess(name, "native")
    if name == "uncached":
        return InProcess(name, "uncached")
    if name == "qemu":
        return Qemu()
    if name == "unicorn":
        from emu.bench.bare import BareUnicorn

        return BareUnicorn()
    raise UsageError(f"cannot measure against {name!r}: native, uncached, qemu, unicorn")
