# SPDX-License-Identifier: GPL-2.0-or-later
"""The TLB sanitizer of a machine: connects the model of `mmu.tlbcheck` with processors and symbols.

The model knows pages, tables and invalidations. What it asks for comes from here: where a vCPU is
(:class:`mmu.tlbcheck.Site`), which one runs, when one halts, and how the kernel calls an address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from emu.outcome import Kind
from mmu.tlbcheck import CheckedMmu, Finding, Place, Site
from mmu.tlbcheck.judge import Level
from mmu.tlbcheck.mmu import Serve

if TYPE_CHECKING:
    from emu.machine import Machine

__all__ = ["TlbCheck"]


class TlbCheck:
    """The findings of a machine whose MMU is the ``tlbcheck`` plug-in.

    ``strict`` ends the run at the first ERROR. ``on_finding`` is called with each new finding.
    """

    def __init__(self, machine: Machine, mmu: CheckedMmu, *, strict: bool, tlb: str) -> None:
        self._machine = machine
        self._mmu = mmu
        self._strict = strict
        self._places: dict[int, Place] = {}
        self.on_finding: Callable[[Finding], None] | None = None
        mmu.serve = Serve(tlb)
        mmu.site = self._site
        mmu.current = lambda: machine.scheduler.current.index
        mmu.symbolize = self.place
        mmu.on_finding = self._found
        machine.scheduler.turn_listeners.append(self._turn)

    @property
    def findings(self) -> list[Finding]:
        """All findings so far, in the order of their first use."""
        return self._mmu.findings

    @property
    def errors(self) -> list[Finding]:
        """The findings that are no mere warnings."""
        return [finding for finding in self.findings if finding.level is Level.ERROR]

    @property
    def summary(self) -> str:
        """One line: how many errors, warnings, and legal uses."""
        errors = len(self.errors)
        return (
            f"TLB check: {errors} errors, {len(self.findings) - errors} warnings, "
            f"{self.window_uses:,} legal uses of stale entries"
        )

    @property
    def window_uses(self) -> int:
        """How many uses of stale entries were legal: another vCPU, inside the window."""
        return self._mmu.window_uses

    def obligations(self) -> list[str]:
        """Return a line for each entry that an invalidation is still owed to."""
        lines = []
        for entry, change in self._mmu.obligations():
            who = self.place(change.site.rip).symbol or f"{change.site.rip:#x}"
            lines.append(
                f"cpu{entry.cpu} {entry.start:#x}: level {change.level} entry at {change.gpa:#x}"
                f" {change.old:#x} -> {change.new:#x} by cpu{change.site.cpu} {who}"
                f" @{change.site.position:,}"
            )
        return lines

    def place(self, rip: int) -> Place:
        """Return the symbol, file and line of a linear address, as far as the kernel's ELF file
        tells. Cached."""
        known = self._places.get(rip)
        if known is None:
            symbols = self._machine.symbols
            known = self._places[rip] = Place(symbols.name_of(rip), *symbols.line_of(rip))
        return known

    def as_list(self) -> list[dict[str, Any]]:
        """Return the findings as plain data, for ``--json``."""
        return [finding.as_dict() for finding in self.findings]

    def _site(self, cpu: int) -> Site:
        vcpu = self._machine.cpus[cpu]
        regs = vcpu.regs
        return Site(
            cpu, regs.linear_rip, self._machine.scheduler.executed, regs.cpl, regs.linear_rsp
        )

    def _turn(self, _cpu: int, _instructions: int) -> None:
        for cpu in self._machine.cpus:
            if cpu.halted:
                self._mmu.halted(cpu.index)

    def _found(self, finding: Finding) -> None:
        if self.on_finding is not None:
            self.on_finding(finding)
        if self._strict and finding.level is Level.ERROR:
            self._machine.stop(Kind.FINDING)
