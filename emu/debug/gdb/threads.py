# SPDX-License-Identifier: GPL-2.0-or-later
"""What the client can do, and the vCPUs as it names them: threads of process 1, from 1."""

from __future__ import annotations

from dataclasses import dataclass

from emu.debug.gdb.access import Access
from emu.debug.gdb.protocol import PacketError, number
from emu.debug.gdb.target import DebugTarget

__all__ = ["Client", "Threads"]


@dataclass(slots=True)
class Client:
    """What the client has said that it can do, in `qSupported`."""

    multiprocess: bool = False
    exec_events: bool = False
    swbreak: bool = False
    hwbreak: bool = False
    acks: bool = True


class Threads:
    """Thread-ids (gdb manual E.1) for vCPUs, and the packets about them."""

    def __init__(self, target: DebugTarget, client: Client, access: Access) -> None:
        """Name the vCPUs of `target`; `access.cpu` is the one that is selected."""
        self._target = target
        self._client = client
        self._access = access
        self.stepped: int | None = None
        """The vCPU that `Hc` has chosen for the next step, None for the selected one."""

    def name(self, cpu: int) -> bytes:
        """Return the thread-id of a vCPU."""
        return b"p1.%x" % (cpu + 1) if self._client.multiprocess else b"%x" % (cpu + 1)

    def parse(self, text: bytes) -> int | None:
        """Return the vCPU that a thread-id means, None for all; raises PacketError."""
        if text.startswith(b"p"):
            process, dot, text = text[1:].partition(b".")
            if process not in (b"1", b"-1", b"0"):
                raise PacketError
            if not dot:
                return None
        if text == b"-1":
            return None
        thread = number(text, self._target.cpus)
        return self._access.cpu if thread == 0 else thread - 1

    def select(self, text: bytes) -> bytes:
        """H: Hg for registers and memory, Hc for steps."""
        cpu = self.parse(text[1:])
        if text[:1] == b"g":
            self._access.cpu = self._access.cpu if cpu is None else cpu
        elif text[:1] == b"c":
            self.stepped = None if text[1:] == b"0" else cpu
        else:
            return b""
        return b"OK"

    def is_alive(self, text: bytes) -> bytes:
        """T."""
        self.parse(text)
        return b"OK"

    def current(self, _rest: bytes) -> bytes:
        """qC."""
        return b"QC" + self.name(self._access.cpu)

    def all(self, _rest: bytes) -> bytes:
        """qfThreadInfo."""
        return b"m" + b",".join(self.name(cpu) for cpu in range(self._target.cpus))

    def _state(self, cpu: int) -> str:
        return f"CPU#{cpu} [{'halted' if self._target.is_halted(cpu) else 'running'}]"

    def info(self, rest: bytes) -> bytes:
        """qThreadExtraInfo, in QEMU's words."""
        cpu = self.parse(rest[1:])
        if cpu is None:
            raise PacketError
        return self._state(cpu).encode("ascii").hex().encode("ascii")

    def xml(self) -> bytes:
        """Return the list of threads for qXfer:threads:read (gdb manual E.17)."""
        lines = [
            f'<thread id="{self.name(cpu).decode()}" core="{cpu}" name="CPU#{cpu}">'
            f"{self._state(cpu)}</thread>\n"
            for cpu in range(self._target.cpus)
        ]
        return ("<threads>\n" + "".join(lines) + "</threads>\n").encode("ascii")
