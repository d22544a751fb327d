# SPDX-License-Identifier: GPL-2.0-or-later
"""SYSCALL and SYSENTER (SDM 2B): Unicorn hands them over and does nothing itself.

The hooks run in the middle of the instruction; afterwards Unicorn adds its length to RIP. SYSRET
and SYSEXIT are the engine's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.cpu import hidden as H
from emu.cpu.decode import length_of_prefixes
from emu.cpu.faults import Event, Vector
from emu.cpu.registers import (
    CS,
    DESC_A,
    DESC_B,
    DESC_CODE,
    DESC_G,
    DESC_L,
    DESC_P,
    DESC_S,
    DESC_W,
    EFLAGS_IF,
    EFLAGS_RF,
    EFLAGS_TF,
    EFLAGS_VM,
    SS,
)

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["CODE64", "DATA32", "syscall", "sysenter"]

_CODE = DESC_G | DESC_P | DESC_S | DESC_CODE | DESC_W | DESC_A
CODE64 = _CODE | DESC_L
_CODE32 = _CODE | DESC_B
DATA32 = DESC_G | DESC_B | DESC_P | DESC_S | DESC_W | DESC_A
_LIMIT = 0xFFFF_FFFF
_MASK64 = (1 << 64) - 1


def _length(cpu: Vcpu) -> int:
    """Return the length of the two-byte instruction at RIP, prefixes included."""
    code = cpu.read_code(15)
    return length_of_prefixes(code, 64 if cpu.hidden.d[H.HFLAGS_D] & H.HF_CS64 else 32) + 2


def _refuse(cpu: Vcpu, length: int, event: Event) -> None:
    """Deliver `event`. With TF set the engine traps behind the instruction, whatever comes of it:
    then the event takes the trap's place."""
    if cpu.hidden.d[H.EFLAGS_D] & EFLAGS_TF:
        cpu.events.instead_of_trap(event)
    else:
        cpu.events.deliver(event)
    cpu.regs.rip -= length


def syscall(cpu: Vcpu) -> None:
    """SYSCALL. In compatibility and legacy mode, where Intel's processors say #UD, as on AMD's
    (APM 3, SYSCALL), which QEMU emulates too.
    """
    q, d = cpu.hidden.q, cpu.hidden.d
    length = _length(cpu)
    if not q[H.EFER_Q] & 1 or not d[H.HFLAGS_D] & H.HF_PE:
        _refuse(cpu, length, Event(Vector.UD))
        return
    regs = cpu.regs
    hflags = d[H.HFLAGS_D]
    flags = regs.rflags
    selector = q[H.STAR_Q] >> 32 & 0xFFFC
    q[1] = q[H.RIP_Q] + length & (_MASK64 if hflags & H.HF_CS64 else _LIMIT)
    if hflags & H.HF_LMA:
        q[11] = cpu.step.without_trap(flags) & ~EFLAGS_RF
        flags &= ~q[H.FMASK_Q]
        target = q[H.LSTAR_Q if hflags & H.HF_CS64 else H.CSTAR_Q]
    else:
        flags &= ~(EFLAGS_IF | EFLAGS_VM)
        target = q[H.STAR_Q] & _LIMIT
    regs.set_segment(SS, selector + 8, 0, _LIMIT, DATA32)
    regs.set_segment(CS, selector, 0, _LIMIT, CODE64 if hflags & H.HF_LMA else _CODE32)
    regs.rflags = flags & ~EFLAGS_RF
    q[H.RIP_Q] = target - length & _MASK64


def sysenter(cpu: Vcpu) -> None:
    """SYSENTER in protected, compatibility and 64-bit mode."""
    q, d = cpu.hidden.q, cpu.hidden.d
    length = _length(cpu)
    selector = d[H.SYSENTER_CS_D] & 0xFFFC
    if not selector:
        _refuse(cpu, length, Event(Vector.GP, error_code=0))
        return
    regs = cpu.regs
    # Only VM and IF change. The arithmetic flags stay in whatever form the engine has them.
    d[H.EFLAGS_D] &= ~(EFLAGS_VM | EFLAGS_IF | EFLAGS_RF)
    long_mode = d[H.HFLAGS_D] & H.HF_LMA
    regs.set_segment(SS, selector + 8, 0, _LIMIT, DATA32)
    regs.set_segment(CS, selector, 0, _LIMIT, CODE64 if long_mode else _CODE32)
    mask = _MASK64 if long_mode else _LIMIT
    q[4] = q[H.SYSENTER_ESP_Q] & mask
    q[H.RIP_Q] = (q[H.SYSENTER_EIP_Q] & mask) - length & _MASK64
