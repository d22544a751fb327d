# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine of two vCPUs and 64 KiB that runs a script of stops: no engine, no sockets."""

from __future__ import annotations

from emu.debug.control import Control
from emu.debug.gdb.protocol import Parser, What, frame
from emu.debug.gdb.session import Session, SessionOptions
from emu.outcome import Kind, Outcome, Position, Stop, exit_code

SIZE = 0x10000
VIRTUAL = 0xFFFF_8000_0000_0000
"""Where the memory is mapped for `translate`, beside its own addresses."""


class FakeTarget:
    cpus = 2

    def __init__(self, stops: list[Stop] | None = None) -> None:
        self.current = 0
        self.code_bits = [64, 64]
        self.memory = bytearray(range(256)) * (SIZE // 256)
        self.registers: dict[tuple[int, str], int] = {(0, "pc"): 0x1234, (1, "pc"): 0x5678}
        self.points: dict[int, tuple[int, int, str]] = {}
        self.stops = list(stops or [])
        self.log: list[object] = []
        self._paused = False
        self._next_point = 1

    # What a debugger looks at

    def bits(self, cpu: int) -> int:
        return self.code_bits[cpu]

    def is_halted(self, cpu: int) -> bool:
        return cpu == 1

    def read_register(self, cpu: int, name: str) -> int:
        return self.registers.get((cpu, name), 0)

    def write_register(self, cpu: int, name: str, value: int) -> None:
        if name == "insn":
            raise ValueError("insn is a count")
        self.registers[cpu, name] = value

    def peek(self, gpa: int, size: int) -> bytes:
        if gpa + size > SIZE:
            raise LookupError("no memory there")
        return bytes(self.memory[gpa : gpa + size])

    def poke(self, gpa: int, data: bytes) -> None:
        if gpa + len(data) > SIZE:
            raise LookupError("no memory there")
        self.memory[gpa : gpa + len(data)] = data

    def translate(self, cpu: int, gva: int) -> int:
        gpa = gva - VIRTUAL if gva >= VIRTUAL else gva
        if gpa >= SIZE:
            raise LookupError("not mapped")
        return gpa

    def _add(self, *point: object) -> int:
        number = self._next_point
        self._next_point += 1
        self.points[number] = point  # type: ignore[assignment]
        return number

    def add_breakpoint(self, address: int) -> int:
        return self._add(address, 1, "execute")

    def add_watchpoint(self, address: int, size: int, access: str) -> int:
        return self._add(address, size, access)

    def remove_point(self, point: int) -> None:
        del self.points[point]

    def restart(self) -> None:
        self.log.append("restart")

    # What runs

    def pause(self) -> None:
        self._paused = True

    def resume(
        self,
        timeout: float | None = None,
        max_insns: int | None = None,
        until: Position | None = None,
    ) -> Outcome:
        return self._run("resume")

    def step(self, cpu: int, timeout: float | None = None) -> Outcome:
        return self._run(("step", cpu))

    def _run(self, how: object) -> Outcome:
        if self._paused:
            self._paused = False
            return outcome(Stop(Kind.PAUSED, self.current, Position(0)))
        self.log.append(how)
        if not self.stops:
            return outcome(Stop(Kind.POWER_OFF, self.current, Position(0)))
        stop = self.stops.pop(0)
        self.current = stop.cpu
        return outcome(stop)


def outcome(stop: Stop) -> Outcome:
    code = exit_code(stop.kind, stop.guest_code)
    return Outcome(stop.kind, code, stop.guest_code, 0, 0.0, "", stop.cpu, stop)


def stop(kind: Kind, cpu: int = 0, **rest: object) -> Stop:
    return Stop(kind, cpu, Position(0), **rest)  # type: ignore[arg-type]


class Rig:
    """A session on a fake machine, and the debugger's end of it."""

    def __init__(self, stops: list[Stop] | None = None, **options: object) -> None:
        self.target = FakeTarget(stops)
        self.control = Control(self.target, stopped=True)
        self.sent = bytearray()
        self.session = Session(
            self.target, self.control, self.sent.extend, SessionOptions(**options)
        )

    def say(self, data: bytes) -> list[bytes]:
        """Send bytes as they are; return the packets that come back."""
        self.sent.clear()
        self.session.receive(data)
        return self.packets()

    def packets(self) -> list[bytes]:
        found = [
            event.data for event in Parser().feed(bytes(self.sent)) if event.what is What.PACKET
        ]
        self.sent.clear()
        return found

    def ask(self, packet: bytes) -> bytes:
        """Send one packet; return the only reply, b"none" if none came."""
        replies = self.say(frame(packet))
        assert len(replies) <= 1
        return replies[0] if replies else b"none"

    def run(self, packet: bytes) -> bytes:
        """Send a packet that resumes; return what the machine's stop makes of it."""
        replies = self.say(frame(packet))
        while self.control.is_running and not replies:
            self.run_once()
            replies = self.packets()
        return b"|".join(replies)

    def run_once(self) -> None:
        result = self.control._run_once()
        if result.stop.kind is Kind.PAUSED:
            return
        self.control.hold()
        for call in tuple(self.control.on_stop):
            call(result)

    def connect(self, features: bytes = b"multiprocess+;swbreak+;hwbreak+;exec-events+") -> bytes:
        return self.ask(b"qSupported:" + features)
