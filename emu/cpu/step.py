# SPDX-License-Identifier: GPL-2.0-or-later
"""One instruction executed alone: by the trap flag, which the guest never gets to see.

For an instruction that is intercepted and then left to the engine after all, and for one that must
be done before something else is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.cpu import hidden as H
from emu.cpu.faults import Vector
from emu.cpu.registers import EFLAGS_RF, EFLAGS_TF

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["SINGLE_STEP", "Step"]

SINGLE_STEP = H.VMEXIT + H.EXIT_EXCEPTION + Vector.DB


class Step:
    """The single-stepping of one vCPU; `is_active` while an instruction is executed alone."""

    def __init__(self, cpu: Vcpu) -> None:
        """Serve `cpu`."""
        self._cpu = cpu
        self._d = cpu.hidden.d
        self.is_active = False
        self._tf = 0
        self._dr6 = 0
        self._loads_flags = False
        self.resumes = False
        """Whether a breakpoint on the instruction has been seen to already."""

    def begin(
        self, *, counted: bool = True, resumes: bool = False, loads_flags: bool = False
    ) -> None:
        """Have the interrupt hook called behind the next instruction.

        `counted`: the instruction has been counted already, and will be again. `resumes`: it has no
        breakpoint, whatever DR7 says. `loads_flags`: the trap flag will be the guest's behind it.
        """
        cpu, d = self._cpu, self._d
        self.is_active = True
        cpu.choose_who_serves_events()
        self._tf = d[H.EFLAGS_D] & EFLAGS_TF
        self._dr6 = cpu.regs.dr6
        self._loads_flags = loads_flags
        self.resumes = counted or resumes
        d[H.EFLAGS_D] |= EFLAGS_TF
        if counted:
            cpu.slice.count(-1)

    def end(self, number: int) -> bool:
        """Undo `begin`, whatever came; returns True if it was the trap we asked for."""
        cpu = self._cpu
        self.is_active = False
        cpu.choose_who_serves_events()
        cpu.pins.step_is_over()
        cpu.intercepts.program()
        completed = number == SINGLE_STEP
        if completed and not self._loads_flags:
            self._d[H.EFLAGS_D] &= ~EFLAGS_RF
        if self._tf:
            return False
        if not (completed and self._loads_flags):
            self._d[H.EFLAGS_D] &= ~EFLAGS_TF
        if not completed:
            return False
        cpu.regs.dr6 = self._dr6
        return True
