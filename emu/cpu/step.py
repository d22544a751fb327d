# SPDX-License-Identifier: GPL-2.0-or-later
"""One instruction executed alone: by the trap flag, which the guest never gets to see.

For an instruction that is intercepted and then left to the engine after all, and for one that must
be done before something else is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.cpu import hidden as H
from emu.cpu.decode import length_of_prefixes
from emu.cpu.faults import Vector
from emu.cpu.registers import EFLAGS_RF, EFLAGS_TF
from mmu.arch import ACCESS_READ, ACCESS_USER

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["SINGLE_STEP", "Step"]

_PUSHF, _LOADS_FLAGS = 0x9C, (0x9D, 0xCF)  # opcodes; the flags are loaded by POPF and IRET
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
        self._stores_flags = False
        self.resumes = False
        """Whether a breakpoint on the instruction has been seen to already."""

    def begin(self, *, counted: bool = True, resumes: bool = False) -> None:
        """Have the interrupt hook called behind the next instruction.

        `counted`: the instruction has been counted already, and will be again. `resumes`: it has no
        breakpoint, whatever DR7 says.
        """
        cpu, d = self._cpu, self._d
        code = cpu.read_code(15)
        opcode = code[length_of_prefixes(code, cpu.bits) :].ljust(1, b"\0")[0]
        self._loads_flags = opcode in _LOADS_FLAGS
        self._stores_flags = opcode == _PUSHF
        self.is_active = True
        cpu.choose_who_serves_events()
        self._tf = d[H.EFLAGS_D] & EFLAGS_TF
        self._dr6 = cpu.regs.dr6
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
        if completed and self._stores_flags and not self._tf:
            self._clear_trap_in_image()
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

    def without_trap(self, flags: int) -> int:
        """Return RFLAGS as the guest has them: without a trap flag that is only a step's."""
        return flags & ~EFLAGS_TF if self.is_active and not self._tf else flags

    def _clear_trap_in_image(self) -> None:
        """Take the trap flag of the step from what PUSHF has pushed."""
        regs, linear = self._cpu.regs, self._cpu.linear
        access = ACCESS_USER if regs.cpl == 3 else ACCESS_READ
        linear.begin()
        image = linear.read(regs.linear_rsp, 2, access)
        linear.stage(regs.linear_rsp, 2, image & ~EFLAGS_TF, access)
        linear.commit()
