# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person is told when the processor has shut down: events, registers, a walk, the code."""

from __future__ import annotations

from collections.abc import Callable

from emu.cpu.decode import disassemble
from emu.cpu.faults import Vector, describe_event
from emu.cpu.record import PastEvent
from emu.cpu.vcpu import Vcpu
from emu.state import SEGMENTS

__all__ = ["event_line", "registers_text", "triple_fault_report"]

_FLAG_NAMES = (
    (0, "CF"),
    (2, "PF"),
    (4, "AF"),
    (6, "ZF"),
    (7, "SF"),
    (8, "TF"),
    (9, "IF"),
    (10, "DF"),
    (11, "OF"),
    (14, "NT"),
    (16, "RF"),
    (17, "VM"),
    (18, "AC"),
)


def event_line(past: PastEvent) -> str:
    """Return one line about an event: what, where, when."""
    what = describe_event(past.event)
    return f"{what} at {past.cs:#06x}:{past.rip:#x}, instruction {past.instruction}"


def flags_text(rflags: int) -> str:
    """Return RFLAGS as the names of the bits that are set.

    >>> flags_text(0x3202)
    'IF IOPL=3'
    """
    names = [name for bit, name in _FLAG_NAMES if rflags >> bit & 1]
    if rflags >> 12 & 3:
        names.append(f"IOPL={rflags >> 12 & 3}")
    return " ".join(names)


def registers_text(cpu: Vcpu) -> str:
    """Return all registers, four general ones a line."""
    regs = cpu.regs
    names = [f"r{n}" for n in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")]
    names += [f"r{n}" for n in range(8, 16)]
    if cpu.bits != 64 and not any(regs.get(f"r{n}") for n in range(8, 16)):
        names = names[:8]
    lines = []
    for start in range(0, len(names), 4):
        lines.append("  ".join(f"{n:>3} {regs.get(n):016x}" for n in names[start : start + 4]))
    lines.append(f"rip {regs.rip:016x}  rflags {regs.rflags:08x} [{flags_text(regs.rflags)}]")
    lines.append(
        f"cr0 {regs.cr0:08x}  cr2 {regs.cr2:016x}  cr3 {regs.cr3:016x}  cr4 {regs.cr4:08x}"
        f"  efer {regs.efer:04x}"
    )
    for name in (*SEGMENTS, "ldtr", "tr"):
        segment = getattr(regs, name)
        lines.append(
            f"{name:>4} {segment.selector:04x}  base {segment.base:016x}"
            f"  limit {segment.limit:08x}  attributes {segment.attributes:04x}"
        )
    for name in ("gdtr", "idtr"):
        table = getattr(regs, name)
        lines.append(f"{name} base {table.base:016x}  limit {table.limit:04x}")
    return "\n".join(lines)


def triple_fault_report(cpu: Vcpu, walk: Callable[[int], str], code: bytes) -> str:
    """Return the report of a vCPU that has shut down; `walk(gva)` describes a translation, `code`
    are the bytes at RIP, as many as can be read."""
    parts = [f"vCPU {cpu.index} shut down: triple fault", "", "Last events, the newest below:"]
    parts += ["  " + event_line(past) for past in cpu.record.recent]
    parts += ["", "Registers:", _indent(registers_text(cpu))]
    last_pf = next((p for p in reversed(cpu.record.recent) if p.event.vector == Vector.PF), None)
    if last_pf is not None and last_pf.event.cr2 is not None:
        gva = last_pf.event.cr2
        parts += ["", f"Walk of CR2 {gva:#x}:", _indent(walk(gva))]
    parts += ["", "Code at RIP:", _indent(_code(cpu, code))]
    return "\n".join(parts)


def _code(cpu: Vcpu, code: bytes) -> str:
    if not code:
        return f"unreadable; walk of {cpu.regs.linear_rip:#x} fails"
    lines = disassemble(code, cpu.regs.linear_rip, cpu.bits, 6)
    return "\n".join(lines) or code[:16].hex(" ")


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())
