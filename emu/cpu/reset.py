# SPDX-License-Identifier: GPL-2.0-or-later
"""The registers that a run starts from: power-up, INIT, or what a boot loader leaves behind."""

from __future__ import annotations

from emu.cpu import hidden as H
from emu.cpu import raw
from emu.cpu.engine import VMCB
from emu.cpu.hidden import HiddenState
from emu.cpu.registers import Registers, attributes_to_flags
from emu.state import GPRS, SEGMENTS, CpuState
from mmu.arch import CR0_CD, CR0_NW

__all__ = ["KEPT_BY_INIT", "reset_fpu", "set_registers", "state_after_init"]

KEPT_BY_INIT = (*range(H.SYSENTER_CS_D // 2, H.PAT_Q + 1), H.XCR0_Q)
"""The words of env that an INIT leaves alone: the MSRs, and XCR0 (SDM 3A table 9-1)."""
_KEPT_IN_CR0 = CR0_CD | CR0_NW


def state_after_init(regs: Registers) -> CpuState:
    """Return the state after an INIT: that after reset, with CR0.CD and CR0.NW as they are."""
    state = CpuState.reset()
    state.cr0 = state.cr0 & ~_KEPT_IN_CR0 | regs.cr0 & _KEPT_IN_CR0
    return state


def reset_fpu(handle: int) -> None:
    """Put the x87 FPU and SSE of an engine into their power-up state; an INIT does not."""
    for register, value in (
        (raw.FPCW, 0x40),
        (raw.FPSW, 0),
        (raw.MXCSR, 0x1F80),
    ):
        raw.reg_write(handle, register, value)


def set_registers(regs: Registers, hidden: HiddenState, state: CpuState) -> None:
    """Set every register but those of the FPU to `state`; what it leaves open is as after reset.

    No TLB is flushed, and nobody told.
    """
    d, q = hidden.d, hidden.q
    d[H.HFLAGS_D] = H.HF_GUEST
    d[H.HFLAGS2_D] = H.HF2_GIF
    q[H.VMCB_Q] = VMCB
    d[H.OLD_EXCEPTION_D] = 0xFFFF_FFFF
    d[H.IS_INT_D] = 0
    for number, name in enumerate(GPRS):
        regs.set_gpr(number, state.gprs.get(name, 0))
    regs.rip = state.rip
    regs.rflags = state.rflags
    regs.efer = state.efer
    regs.cr0 = state.cr0
    regs.cr2 = 0
    regs.cr3 = state.cr3
    regs.cr4 = state.cr4
    regs.cr8 = 0
    for number, name in enumerate(SEGMENTS):
        selector, base, limit, attributes = state.segments[name]
        regs.set_segment(number, selector, base, limit, attributes_to_flags(attributes))
    regs.gdtr, regs.idtr = state.gdtr, state.idtr
    regs.ldtr, regs.tr = state.ldtr, state.tr
    for number in range(8):
        q[H.DR_Q + number] = {6: 0xFFFF_0FF0, 7: 0x400}.get(number, 0)
    regs.pkru = 0
    q[H.XCR0_Q] = 1
    q[H.PAT_Q] = 0x0007_0406_0007_0406
