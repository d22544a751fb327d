# SPDX-License-Identifier: GPL-2.0-or-later
"""How a run ended: what `Machine.run` returns and the command line turns into an exit code.

The guest's own exit codes are odd, as QEMU's isa-debug-exit makes them: `(value << 1) | 1`. Ours
are even, so that nobody has to guess who spoke.

`Stop` says why the machine stands still, and `Position` where in its run it stands. A stop changes
nothing: the machine goes on as if there had been none, wherever and however often it is stopped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

__all__ = ["EXIT_CODES", "Kind", "Outcome", "Position", "Stop", "exit_code"]


class Kind(Enum):
    """Why a run ended."""

    GUEST_EXIT = "guest exit"
    """The guest wrote to the isa-debug-exit port."""
    POWER_OFF = "power off"
    """The guest switched the machine off."""
    RESET = "reset"
    """The guest reset the machine, which ended the run: `Machine(reboot=True)` starts again."""
    IDLE = "idle"
    """Every vCPU is halted and nothing can ever wake one."""
    TRIPLE_FAULT = "triple fault"
    """A fault while a double fault was being delivered: the processor shut down."""
    FINDING = "TLB finding"
    """The TLB sanitizer found an error, and was told to be strict."""
    TIMEOUT = "timeout"
    """The given number of host seconds is over."""
    INSN_LIMIT = "instruction limit"
    """The given number of instructions has been executed."""
    POSITION = "position"
    """The given position of the run is reached."""
    PAUSED = "paused"
    """Somebody asked for a pause: Ctrl-C, a debugger."""
    STEP = "step"
    """One instruction has been executed."""
    BREAKPOINT = "breakpoint"
    """A breakpoint of the debugger's: the instruction there is the next one."""
    WATCHPOINT = "watchpoint"
    """A watchpoint of the debugger's: the instruction that made the access is done."""
    INTERNAL = "internal error"
    """shadowcorn itself failed; `Outcome.report` says how."""


EXIT_CODES = {
    Kind.POWER_OFF: 0,
    Kind.IDLE: 0,
    Kind.TRIPLE_FAULT: 4,
    Kind.INTERNAL: 6,
    Kind.RESET: 8,
    Kind.FINDING: 10,
    Kind.TIMEOUT: 124,
    Kind.INSN_LIMIT: 124,
    Kind.POSITION: 0,
    Kind.PAUSED: 124,
    Kind.STEP: 0,
    Kind.BREAKPOINT: 0,
    Kind.WATCHPOINT: 0,
}


def exit_code(kind: Kind, guest_code: int | None) -> int:
    """Return the process exit code for an ending; an isa-debug-exit value wraps at 8 bits.

    >>> exit_code(Kind.GUEST_EXIT, 16), exit_code(Kind.POWER_OFF, None)
    (33, 0)
    """
    if kind is Kind.GUEST_EXIT:
        return (((guest_code or 0) << 1) | 1) & 0xFF
    return EXIT_CODES[kind]


@dataclass(frozen=True, slots=True)
class Position:
    """A point of a run: the same kernel with the same options passes the same positions.

    `instructions` counts those that all vCPUs have executed since power-on, as the machine's clock
    counts them; time that a processor waits (PAUSE, a port) is not in it. `extra` is 0 where
    instructions are counted one by one. Where blocks are counted, four code bytes are an
    instruction, and `extra` (0 to 3) says how many bytes of the next one are executed.

    `cpu` and `turn` say whose turn it is and how far it is in it (instructions, waiting included).
    Both are None between two turns, and where only the count is known. While every processor is
    halted time passes, and the position stays.

    >>> print(Position(1204331, 0, 17), Position(12, extra=3))
    @1,204,331 @12+3
    >>> Position.parse("@1,204,331") == Position.parse("1204331") == Position(1204331)
    True
    """

    instructions: int
    cpu: int | None = None
    turn: int | None = None
    extra: int = 0

    def __str__(self) -> str:
        """Return the position for a person and for `--until`: without `cpu` and `turn`."""
        return f"@{self.instructions:,}" + (f"+{self.extra}" if self.extra else "")

    @property
    def exact(self) -> str:
        """The position with all its parts, as `parse` reads it.

        >>> Position(1204331, 1, 2017, 2).exact
        '@1204331+2:1.2017'
        """
        where = "" if self.cpu is None else f":{self.cpu}.{self.turn}"
        return f"@{self.instructions}" + (f"+{self.extra}" if self.extra else "") + where

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position that `str` or `exact` wrote; "@" and commas may be left out.

        Raises ValueError with one line for a person.
        """
        match = re.fullmatch(r"@?(\d[\d,]*)(?:\+([0-3]))?(?::(\d+)\.(\d[\d,]*))?", text.strip())
        if match is None:
            raise ValueError(f"a position is written as @1,204,331, not {text!r}")
        count, extra, cpu, turn = (
            None if part is None else int(part.replace(",", "")) for part in match.groups()
        )
        return cls(count or 0, cpu, turn, extra or 0)

    def is_reached_at(self, now: Position) -> bool:
        """Return whether a run that stands at `now` has come to this position or past it.

        >>> Position(10, 1, 0).is_reached_at(Position(10, 0, 500))
        False
        """
        if now.instructions != self.instructions:
            return now.instructions > self.instructions
        if self.cpu is not None and self.turn is not None:
            if now.cpu != self.cpu:
                return False
            if now.turn is not None and now.turn != self.turn:
                return now.turn > self.turn
        return now.extra >= self.extra


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the machine stands still, from the scheduler to `Machine.run` and the debugger.

    `cpu` is the index of the vCPU that caused it, or ran last; `position` is where it is in the
    run. `guest_code` is the value written to the isa-debug-exit port. For a breakpoint or a
    watchpoint `point` is its number, `address` the linear address that was met and `size` the bytes
    from there. `access` is "execute", "read" or "write"; `old` and `new` are the watched bytes
    before and after (None where they could not be read).
    """

    kind: Kind
    cpu: int
    position: Position
    guest_code: int | None = None
    point: int | None = None
    address: int | None = None
    size: int = 0
    access: str | None = None
    old: bytes | None = None
    new: bytes | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run.

    `guest_code` is the value written to the isa-debug-exit port (None for every other kind);
    `instructions` counts all vCPUs, `seconds` is host time; `report` is text for a person (the
    triple fault, the internal error) or empty; `cpu` is the index of the vCPU that ended the run.
    `stop` says the same with all that a debugger wants to know; `position` is where it is.
    """

    kind: Kind
    exit_code: int
    guest_code: int | None
    instructions: int
    seconds: float
    report: str
    cpu: int
    stop: Stop

    @property
    def position(self) -> Position:
        """Where in the run the machine stands."""
        return self.stop.position
