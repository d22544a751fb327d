# SPDX-License-Identifier: GPL-2.0-or-later
"""-s, -S and -gdb: the stub of a run, and who controls the machine then."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from emu.cli import say
from emu.cli.options import RunOptions
from emu.debug.console import Console
from emu.debug.control import Control
from emu.debug.endpoint import Server, parse_endpoint
from emu.debug.gdb.adapter import MachineTarget
from emu.debug.gdb.maps import maps_text
from emu.debug.gdb.protocol import frame
from emu.debug.gdb.session import Session, SessionOptions
from emu.debug.monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.machine import Machine

__all__ = ["Debugging"]

_ARCHITECTURES = {"x86-64": "i386:x86-64"}
_BUSY = b"+" + frame(b"E.another debugger is connected")


class Debugging:
    """The stubs of one run; a context manager. `control` runs the machine."""

    def __init__(self, machine: Machine, options: RunOptions, kernel: str | None) -> None:
        """Listen where `options` say; raises UsageError if that cannot be."""
        self._machine = machine
        self._target = MachineTarget(machine)
        self.control = Control(
            self._target,
            stopped=options.stopped,
            timeout=options.timeout,
            max_insns=options.max_insns,
            until=options.until,
        )
        arch = _ARCHITECTURES.get(options.gdb_arch, options.gdb_arch)
        self._session_options = SessionOptions(
            arch=arch,
            kernel=str(Path(kernel).resolve()) if kernel else "kernel",
            monitor=self._monitor,
            maps=(lambda cpu: maps_text(machine, cpu)) if options.gdb_maps else None,
        )
        self._servers: list[Server] = []
        try:
            for where in options.gdb:
                self._listen(where)
            for where in options.monitors:
                self._listen_for_persons(where)
        except BaseException:
            self._close()
            raise

    def _listen(self, where: str) -> None:
        endpoint = parse_endpoint(where, "-gdb")
        server = Server(endpoint, self.control, self._connect, refusal=_BUSY, what="-gdb")
        self._servers.append(server)
        if endpoint.kind != "stdio":
            say(f"gdb may connect to {server.endpoint}")

    def _listen_for_persons(self, where: str) -> None:
        endpoint = parse_endpoint(where, "-monitor")
        busy = b"another monitor is connected\n"
        server = Server(endpoint, self.control, self._console, refusal=busy, what="-monitor")
        self._servers.append(server)
        if endpoint.kind != "stdio":
            say(f"the monitor is at {server.endpoint}")

    def _console(self, send: Callable[[bytes], None]) -> Console:
        return Console(Monitor(self._machine, self.control), send)

    def _connect(self, send: Callable[[bytes], None]) -> Session:
        return Session(self._target, self.control, send, self._session_options)

    def _monitor(self, command: str, cpu: int) -> str:
        return Monitor(self._machine, self.control, cpu).execute(command)

    def _close(self) -> None:
        for server in self._servers:
            server.close()

    def __enter__(self) -> Debugging:
        """Do nothing more."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening."""
        self._close()
