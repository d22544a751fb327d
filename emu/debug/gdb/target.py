# SPDX-License-Identifier: GPL-2.0-or-later
"""What a debugger needs of the machine, as a protocol: tests do without one."""

from __future__ import annotations

from typing import Protocol

__all__ = ["DebugTarget"]


class DebugTarget(Protocol):
    """What a session needs of the machine, beside what runs it."""

    @property
    def cpus(self) -> int:
        """How many vCPUs there are."""

    @property
    def current(self) -> int:
        """The vCPU that ran last."""

    def bits(self, cpu: int) -> int:
        """Return the width of the code of a vCPU: 16, 32 or 64."""

    def is_halted(self, cpu: int) -> bool:
        """Return whether a vCPU waits for an interrupt."""

    def read_register(self, cpu: int, name: str) -> int:
        """Return a register by its name in `emu.debug.gdb.registers` (`Register.source`)."""

    def write_register(self, cpu: int, name: str, value: int) -> None:
        """Set a register; raises ValueError for one, or a value, that cannot be."""

    def peek(self, gpa: int, size: int) -> bytes:
        """Return physical memory without any effect; raises LookupError where there is none."""

    def poke(self, gpa: int, data: bytes) -> None:
        """Write physical memory; raises LookupError where there is none."""

    def translate(self, cpu: int, gva: int) -> int:
        """Return where a virtual address is; raises LookupError if it is not mapped."""

    def add_breakpoint(self, address: int) -> int:
        """Stop before the instruction at a linear address, on any vCPU; return its number."""

    def add_watchpoint(self, address: int, size: int, access: str) -> int:
        """Stop behind an "access", "read" or "write" of linear addresses; return its number."""

    def remove_point(self, point: int) -> None:
        """Remove a breakpoint or a watchpoint."""

    def restart(self) -> None:
        """Reset the machine."""
