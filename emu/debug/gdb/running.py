# SPDX-License-Identifier: GPL-2.0-or-later
"""Resuming and stopping: the packets c, s, C, S, vCont and ?, Ctrl-C, and the stop replies.

All-stop only, as under QEMU. A vCPU has its turn when the schedule says so, and a debugger changes
nothing about that: a step of one vCPU lets the others have their turns.

Mode switches are followed. gdb reads the description of the registers only when a process begins,
so a stop in code of another width is first reported as an exec event: gdb then reads the
description again, inserts its breakpoints again, and resumes. That resume is answered with the
real stop, and the machine does not move.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.debug.control import ENDS, Control
from emu.debug.gdb.access import Access
from emu.debug.gdb.points import Points
from emu.debug.gdb.protocol import MOST_BYTES, PacketError, number
from emu.debug.gdb.registers import View
from emu.debug.gdb.target import DebugTarget
from emu.debug.gdb.threads import Client, Threads
from emu.outcome import Kind, Outcome

__all__ = ["Running"]

_SIGINT, _SIGTRAP, _SIGABRT, _SIGSEGV = 2, 5, 6, 11
_SIGNALS = {Kind.TRIPLE_FAULT: _SIGSEGV, Kind.INTERNAL: _SIGABRT}
_KEPT = frozenset({Kind.TRIPLE_FAULT, Kind.IDLE, Kind.FINDING, Kind.INTERNAL, Kind.POSITION})
"""Ends at which the debugger gets to look at the machine; the next resume ends the run."""


class Running:
    """How one debugger has the machine run, and hears that it stands still."""

    def __init__(
        self,
        target: DebugTarget,
        control: Control,
        client: Client,
        access: Access,
        threads: Threads,
        points: Points,
        *,
        reply: Callable[[bytes], None],
        view_of: Callable[[int], View],
        kernel: str,
    ) -> None:
        """Hold the machine. `view_of` gives the registers that a vCPU is to be seen with now;
        `kernel` is the path that an exec event names."""
        self._target = target
        self._control = control
        self._client = client
        self._access = access
        self._threads = threads
        self._points = points
        self._reply = reply
        self._view_of = view_of
        self._kernel = kernel.encode("utf-8", "surrogateescape").hex().encode("ascii")
        self._awaits_stop = False
        self._held_back: bytes | None = None  # the stop reply that comes after an exec event
        self._range: tuple[int, int, int] | None = None  # vCPU, start, end of a range step
        self._end: Outcome | None = None  # the run is over: the next resume says so
        self._stop_reply = b""
        control.hold()
        control.holders += 1
        control.on_stop.append(self._stopped)

    def close(self) -> None:
        """Let the machine be; where the run is over, let it end."""
        self._control.holders -= 1
        self._control.on_stop.remove(self._stopped)
        if self._end is not None:
            self._control.finish(self._end)
            self._end = None

    # --- Stops ------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Ctrl-C."""
        if self._control.is_running:
            self._control.hold()
            self._range = None
            self._report(_SIGINT, self._target.current)

    def _stopped(self, outcome: Outcome) -> bool:
        """The machine has stopped; return whether it is to be kept at an end."""
        stop = outcome.stop
        if stop.kind is Kind.STEP and self._is_in_range(stop.cpu):
            self._control.go(stop.cpu)
            return True
        self._range = None
        if stop.kind in ENDS and stop.kind not in _KEPT:
            self._say_end(outcome)
            return False
        if stop.kind in ENDS and stop.kind is not Kind.POSITION:
            self._end = outcome
            if self._awaits_stop:
                self.console(f"shadowcorn: {outcome.report or stop.kind.value}")
        client = self._client
        reason = self._points.reason(stop, swbreak=client.swbreak, hwbreak=client.hwbreak)
        self._report(_SIGNALS.get(stop.kind, _SIGTRAP), stop.cpu, reason)
        return True

    def _is_in_range(self, cpu: int) -> bool:
        if self._range is None or self._range[0] != cpu:
            return False
        return self._range[1] <= self._target.read_register(cpu, "pc") < self._range[2]

    def _say_end(self, outcome: Outcome) -> None:
        if self._awaits_stop:
            self._awaits_stop = False
            process = b";process:1" if self._client.multiprocess else b""
            self._reply(b"W%02x%s" % (outcome.exit_code & 0xFF, process))

    def _report(self, signal: int, cpu: int, reason: bytes = b"") -> None:
        """Say that the machine stands still, if the debugger waits to hear it."""
        self._access.cpu = cpu
        thread = self._threads.name(cpu)
        self._stop_reply = b"T%02x%sthread:%s;" % (signal, reason, thread)
        if not self._awaits_stop:
            return
        self._awaits_stop = False
        view = self._view_of(cpu)
        if view is self._access.view or not self._client.exec_events:
            self._reply(self._stop_reply)
            return
        self._access.view = view
        self._held_back = self._stop_reply
        self._reply(b"T05exec:%s;thread:%s;" % (self._kernel, thread))

    def why(self, _rest: bytes) -> bytes:
        """?"""
        thread = self._threads.name(self._access.cpu)
        return self._stop_reply or b"T%02xthread:%s;" % (_SIGTRAP, thread)

    def console(self, text: str) -> None:
        """Show text on the debugger's console, while it waits for a stop or for a command."""
        data = (text.rstrip("\n") + "\n").encode("utf-8", "replace").hex().encode("ascii")
        size = MOST_BYTES - 16
        for start in range(0, len(data), size):
            self._reply(b"O" + data[start : start + size])

    # --- Resuming ---------------------------------------------------------------------------------

    def _resume(self, step: int | None = None) -> None:
        """Let the machine run; or say what is still to be said about where it stands."""
        self._awaits_stop = True
        if self._held_back is not None:
            reply, self._held_back = self._held_back, None
            self._awaits_stop = False
            self._reply(reply)
        elif self._end is not None:
            outcome, self._end = self._end, None
            self._say_end(outcome)
            self._control.finish(outcome)
        else:
            self._control.go(step)

    def go_on(self, rest: bytes) -> None:
        """c."""
        self._jump(rest)
        self._range = None
        self._resume()

    def step(self, rest: bytes) -> None:
        """s."""
        self._jump(rest)
        self._range = None
        cpu = self._threads.stepped
        self._resume(self._access.cpu if cpu is None else cpu)

    def go_on_with_signal(self, rest: bytes) -> None:
        """C: as c, a machine has no signals."""
        self.go_on(rest.partition(b";")[2])

    def step_with_signal(self, rest: bytes) -> None:
        """S."""
        self.step(rest.partition(b";")[2])

    def _jump(self, rest: bytes) -> None:
        if rest:
            self._target.write_register(self._access.cpu, "pc", number(rest))

    def actions(self, rest: bytes) -> bytes | None:
        """vCont and vCont?: for each thread the leftmost action that names it (gdb manual E.2)."""
        if rest == b"?":
            return b"vCont;c;C;s;S;t;r"
        chosen: dict[int, bytes] = {}
        for action in rest.split(b";")[1:]:
            what, _, thread = action.partition(b":")
            if what[:1] not in (b"c", b"C", b"s", b"S", b"t", b"r"):
                raise PacketError
            cpu = self._threads.parse(thread) if thread else None
            for each in range(self._target.cpus) if cpu is None else (cpu,):
                chosen.setdefault(each, what)
        if not chosen:
            raise PacketError
        steps = [cpu for cpu, what in chosen.items() if what[:1] in (b"s", b"S", b"r")]
        if not steps:
            if all(what == b"t" for what in chosen.values()):
                return self.why(b"")
            self._range = None
            self._resume()
            return None
        cpu = self._access.cpu if self._access.cpu in steps else steps[0]
        within: tuple[int, int, int] | None = None
        if chosen[cpu].startswith(b"r"):
            start, _, end = chosen[cpu][1:].partition(b",")
            within = cpu, number(start), number(end)
        self._range = within
        self._resume(cpu)
        return None
