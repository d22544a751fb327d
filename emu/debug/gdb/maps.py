# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's page tables as Linux prints a process's mappings (proc(5), /proc/PID/maps)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmu.arch import ACC_EXEC, ACC_USER, ACC_WRITE
from mmu.ranges import TooManyTables, mappings, ranges

if TYPE_CHECKING:
    from emu.machine import Machine

__all__ = ["maps_text"]

_MOST_LINES = 20_000


def maps_text(machine: Machine, cpu: int) -> bytes:
    """Return what a vCPU's tables map, a line for each range of equal rights; the name says whose
    it is, user's or the kernel's, and which physical address comes first."""
    lines = []
    try:
        found = mappings(machine.guest_memory, machine.address_space(cpu))
        for mapping in ranges(found, contiguous=False):
            rights = mapping.rights
            write = "w" if rights & ACC_WRITE else "-"
            execute = "x" if rights & ACC_EXEC else "-"
            owner = "user" if rights & ACC_USER else "kernel"
            lines.append(
                f"{mapping.gva:x}-{mapping.last + 1:x} r{write}{execute}p 00000000 00:00 0 "
                f"[{owner} {mapping.gpa:#x}]\n"
            )
            if len(lines) >= _MOST_LINES:
                break
    except TooManyTables:
        pass
    return "".join(lines).encode("ascii")
