# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's `Target` as the stub sees it: registers as numbers, the pc as a linear address."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from emu.debug.target import Target
from emu.outcome import Kind, Outcome, Position
from emu.state import Segment, Table

if TYPE_CHECKING:
    from emu.machine import Machine

__all__ = ["MachineTarget"]

_UNKNOWN = frozenset({"fiseg", "fioff", "foseg", "fooff"})
_NO_SYSCALL = (1 << 64) - 1
_RIP_MASK = {16: 0xFFFF_FFFF, 32: 0xFFFF_FFFF, 64: (1 << 64) - 1}


class MachineTarget:
    """A machine to be debugged, and to be run by a `Control`."""

    def __init__(self, machine: Machine, target: Target | None = None) -> None:
        """Debug `machine`, by way of `target` if there is one already."""
        self._machine = machine
        self._target = target if target is not None else Target(machine)
        self._removed: set[int] = set()

    @property
    def cpus(self) -> int:
        """How many vCPUs there are."""
        return self._target.cpus

    @property
    def current(self) -> int:
        """The vCPU that ran last."""
        return self._target.cpu

    def bits(self, cpu: int) -> int:
        """Return the width of the code of a vCPU: 16, 32 or 64."""
        return self._target.bits(cpu)

    def is_halted(self, cpu: int) -> bool:
        """Return whether a vCPU waits for an interrupt, or for its start."""
        return self._target.activity(cpu) != "running"

    # --- Registers --------------------------------------------------------------------------------

    def read_register(self, cpu: int, name: str) -> int:
        """Return a register by its name in `emu.debug.gdb.registers` (`Register.source`)."""
        target = self._target
        if name == "pc":
            return self._machine.cpus[cpu].regs.linear_rip
        if name == "insn":
            return self._machine.scheduler.executed
        if name in _UNKNOWN:
            return 0
        if name == "orig_rax":
            return _NO_SYSCALL
        if name.startswith("pdpte"):
            pdptes = self._machine.cpus[cpu].fills.pdptes()
            return pdptes[int(name[5])] if pdptes else 0
        base, _, part = _KNOWN.get(name, name).partition(".")
        value = target.read(base, cpu)
        if isinstance(value, Segment):
            return value.base if part == "base" else value.selector
        if isinstance(value, Table):
            return value.limit if part == "limit" else value.base
        return value

    def write_register(self, cpu: int, name: str, value: int) -> None:
        """Set a register; raises ValueError for one, or a value, that cannot be."""
        target = self._target
        if name == "pc":
            regs, bits = self._machine.cpus[cpu].regs, target.bits(cpu)
            base = 0 if bits == 64 else regs.cs.base
            target.write("rip", value - base & _RIP_MASK[bits], cpu)
            return
        known, _, part = _KNOWN.get(name, name).partition(".")
        if name == "insn" or name in _UNKNOWN or name.startswith(("pdpte", "orig")):
            raise ValueError(f"{name} cannot be written")
        old = target.read(known, cpu)
        if isinstance(old, Segment) and part == "base":
            target.write(known, old._replace(base=value), cpu)
        elif isinstance(old, Table):
            field = "limit" if part == "limit" else "base"
            target.write(known, old._replace(**{field: value}), cpu)
        else:
            target.write(known, value, cpu)

    # --- Memory -----------------------------------------------------------------------------------

    def peek(self, gpa: int, size: int) -> bytes:
        """Return physical memory without any effect; raises LookupError past its last address."""
        if (gpa + size) >> self._machine.guest_memory.phys_bits:
            raise LookupError(f"{gpa:#x} is no physical address")
        return self._target.peek_physical(gpa, size)

    def poke(self, gpa: int, data: bytes) -> None:
        """Write physical memory."""
        self._target.poke_physical(gpa, data)

    def translate(self, cpu: int, gva: int) -> int:
        """Return where a virtual address is; raises LookupError if it is not mapped."""
        found = self._target.translate(gva, cpu)
        if found.fault is not None:
            raise LookupError(f"{gva:#x} is not mapped")
        return found.gpa

    # --- Points -----------------------------------------------------------------------------------

    def add_breakpoint(self, address: int) -> int:
        """Stop before the instruction at a linear address, on any vCPU; return its number."""
        return self._revived(address, 1, "execute") or self._target.add_breakpoint(address).number

    def add_watchpoint(self, address: int, size: int, access: str) -> int:
        """Stop behind an "access", "read" or "write" of linear addresses; return its number."""
        found = self._revived(address, size, access)
        return found or self._target.add_watchpoint(address, size, access).number

    def _revived(self, address: int, size: int, access: str) -> int:
        """Return a point that was removed since the machine stood still, 0 if there is none."""
        for point in self._target.points:
            place = point.address, point.size, point.access
            if place == (address, size, access) and point.number in self._removed:
                self._removed.remove(point.number)
                return point.number
        return 0

    def remove_point(self, point: int) -> None:
        """Remove a breakpoint or a watchpoint; it goes when the machine next runs on.

        gdb removes all its points at each stop and inserts them again: each time all translated
        code would have to go.
        """
        self._removed.add(point)

    # --- Running ----------------------------------------------------------------------------------

    def resume(
        self,
        timeout: float | None = None,
        max_insns: int | None = None,
        until: Position | None = None,
    ) -> Outcome:
        """Run until something stops it."""
        for point in self._removed:
            self._target.remove(point)
        self._removed.clear()
        self._target.resume(timeout=timeout, max_insns=max_insns, until=until)
        return self._last()

    def step(self, cpu: int, timeout: float | None = None) -> Outcome:
        """Run until vCPU `cpu` has executed one instruction, or something else stops it."""
        before = self._progress(cpu)
        self._target.step(cpu, timeout=timeout)
        outcome = self._last()
        if outcome.stop.kind is Kind.PAUSED and self._progress(cpu) != before:
            # The pause came in the same moment: the instruction is done, and must not be followed
            # by another.
            stop = replace(outcome.stop, kind=Kind.STEP, cpu=cpu)
            return replace(outcome, kind=Kind.STEP, stop=stop)
        return outcome

    def _progress(self, cpu: int) -> tuple[int, int, int]:
        vcpu = self._machine.cpus[cpu]
        return vcpu.executed + vcpu.progress(), vcpu.extra(), vcpu.regs.linear_rip

    def _last(self) -> Outcome:
        outcome = self._target.last
        assert outcome is not None
        for point in self._target.points:
            if point.access == "execute" and point.address == outcome.stop.address:
                return replace(outcome, stop=replace(outcome.stop, point=point.number))
        return outcome

    def pause(self) -> None:
        """Have `resume` or `step` return soon, or the next one at once; any thread."""
        self._target.pause()

    def restart(self) -> None:
        """Reset the machine."""
        self._machine.reset()


_KNOWN = {
    "eflags": "rflags",
    "gdtr_limit": "gdtr.limit",
    "idtr_limit": "idtr.limit",
    "ip": "rip",
    **{f"{name}_base": f"{name}.base" for name in ("cs", "ss", "ds", "es", "ldtr", "tr")},
}
"""Registers that the target knows by another name, or as a part of one."""
