# SPDX-License-Identifier: GPL-2.0-or-later
"""How a run ended: what `Machine.run` returns and the command line turns into an exit code.

The guest's own exit codes are odd, as QEMU's isa-debug-exit makes them: `(value << 1) | 1`. Ours
are even, so that nobody has to guess who spoke.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["EXIT_CODES", "Kind", "Outcome", "exit_code"]


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
class Outcome:
    """The end of a run.

    `guest_code` is the value written to the isa-debug-exit port (None for every other kind);
    `instructions` counts all vCPUs, `seconds` is host time; `report` is text for a person (the
    triple fault, the internal error) or empty; `cpu` is the index of the vCPU that ended the run.
    """

    kind: Kind
    exit_code: int
    guest_code: int | None
    instructions: int
    seconds: float
    report: str
    cpu: int
