# SPDX-License-Identifier: GPL-2.0-or-later
"""Task switches through a task gate in the IDT (SDM 3A 7.3).

JMP, CALL and IRET to a task are the engine's own; only events come here. Every check that can
fail before the switch is committed leaves the old task as it was; what fails later (segments of
the new task) is a fault in the new task, as on the processor: `Fault.in_new_task`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.cpu.faults import Event, Fault, Vector
from emu.cpu.linear import LinearMemory
from emu.cpu.registers import (
    CS,
    DESC_A,
    DESC_B,
    DESC_C,
    DESC_CODE,
    DESC_DPL_SHIFT,
    DESC_P,
    DESC_S,
    DESC_W,
    DS,
    EFLAGS_NT,
    EFLAGS_VM,
    ES,
    FS,
    GS,
    SS,
    Registers,
)
from emu.state import Segment

if TYPE_CHECKING:
    from emu.cpu.delivery import Delivery, Descriptor

__all__ = ["switch_task"]

_BUSY = 2
_AVAILABLE_TSS = frozenset({1, 9})
_CR0_TS = 1 << 3
_CR0_PG = 1 << 31
_DR7_LOCAL = 0x155  # L0 to L3, LE
# Offsets of the dynamic fields of a 32-bit TSS (SDM 3A figure 7-2) and of a 16-bit one (7-10).
_EIP32, _EIP16 = 0x20, 0x0E
_LIMIT32, _LIMIT16 = 0x67, 0x2B


class _Tss:
    """One task state segment, as (base, limit) and its shape."""

    def __init__(self, linear: LinearMemory, base: int, wide: bool) -> None:
        self.linear = linear
        self.base = base
        self.wide = wide
        self.width = 4 if wide else 2
        self.first = _EIP32 if wide else _EIP16

    def read_registers(self) -> list[int]:
        """Return EIP, EFLAGS and the eight general registers."""
        return [self.read(self.first + self.width * n, self.width) for n in range(10)]

    def read_selectors(self) -> list[int]:
        """Return ES, CS, SS, DS (FS, GS) and the LDT's selector."""
        first = self.first + 10 * self.width
        count = 7 if self.wide else 5
        return [self.read(first + self.width * n, 2) for n in range(count)]

    def read(self, offset: int, size: int) -> int:
        return self.linear.read(self.base + offset & 0xFFFF_FFFF, size)

    def stage(self, offset: int, size: int, value: int) -> None:
        self.linear.stage(self.base + offset & 0xFFFF_FFFF, size, value)


def switch_task(
    regs: Registers,
    linear: LinearMemory,
    tables: Delivery,
    selector: int,
    event: Event,
    ext: int,
) -> bool:
    """Switch to the task of a task gate and push the error code there; raises Fault.

    Returns whether the new task wants a #DB before its first instruction (SDM 3A 7.2.1, T).
    """
    target = _find_tss(tables, selector, ext)
    wide = bool(target.flags >> 8 & 8)
    if target.limit < (_LIMIT32 if wide else _LIMIT16):
        raise Fault(Vector.TS, selector & 0xFFFC | ext)
    old = regs.tr
    old_tss = _Tss(linear, old.base, bool(old.attributes & 8))
    new_tss = _Tss(linear, target.base, wide)
    registers = new_tss.read_registers()
    selectors = new_tss.read_selectors()
    new_cr3 = new_tss.read(0x1C, 4) if wide else None
    traps = wide and bool(new_tss.read(0x64, 2) & 1)
    _save(regs, old_tss)
    new_tss.stage(0, 2, old.selector)
    # The old TSS stays busy: the new task is nested in it.
    linear.stage(target.address + 4, 4, target.flags | _BUSY << 8)
    linear.commit()
    attributes = (target.flags | _BUSY << 8) >> 8 & 0xF0FF
    regs.tr = Segment(selector, target.base, target.limit, attributes)
    regs.cr0 |= _CR0_TS
    regs.dr7 &= ~_DR7_LOCAL
    tables.breakpoints_changed()
    if new_cr3 is not None and regs.cr0 & _CR0_PG:
        tables.load_cr3(new_cr3)
    _load_registers(regs, registers, wide)
    linear.begin()
    try:
        _load_segments(regs, linear, tables, selectors, ext)
        if event.error_code is not None:
            _push_error_code(regs, linear, event.error_code, 4 if wide else 2, ext)
    except Fault as fault:
        fault.in_new_task = True
        raise
    return traps


def _find_tss(tables: Delivery, selector: int, ext: int) -> Descriptor:
    """Read and check the descriptor of an available TSS."""
    error = selector & 0xFFFC | ext
    if selector & 4 or not selector & 0xFFFC:
        raise Fault(Vector.GP, error)
    target = tables.descriptor(selector, Vector.GP, ext)
    if target.flags & DESC_S or target.flags >> 8 & 0xF not in _AVAILABLE_TSS:
        raise Fault(Vector.GP, error)
    if not target.flags & DESC_P:
        raise Fault(Vector.NP, error)
    return target


def _save(regs: Registers, tss: _Tss) -> None:
    at = tss.first
    for value in (regs.rip, regs.rflags, *(regs.gpr(n) for n in range(8))):
        tss.stage(at, tss.width, value & (1 << 8 * tss.width) - 1)
        at += tss.width
    for number in range(6 if tss.wide else 4):
        tss.stage(at, 2, regs.segment_selector(number))
        at += tss.width


def _load_registers(regs: Registers, values: list[int], wide: bool) -> None:
    regs.rip = values[0]
    regs.rflags = values[1] & (0x37_FFFF if wide else 0xFFFF) | EFLAGS_NT
    for number, value in enumerate(values[2:]):
        # The high halves are undefined after a 16-bit task; as on the 386, ones.
        regs.set_gpr(number, value if wide else value | 0xFFFF_0000)


def _load_segments(
    regs: Registers, linear: LinearMemory, tables: Delivery, selectors: list[int], ext: int
) -> None:
    """Load LDTR and the segment registers (SDM 3A table 7-1, checks 7 and on)."""
    ldt = selectors.pop()
    selectors += [0] * (6 - len(selectors))
    if regs.rflags & EFLAGS_VM:
        for number, selector in enumerate(selectors):
            flags = DESC_P | DESC_S | DESC_W | 1 << 8 | 3 << DESC_DPL_SHIFT
            regs.set_segment(number, selector, selector << 4, 0xFFFF, flags)
    else:
        cpl = selectors[CS] & 3
        regs.set_segment(SS, selectors[SS], 0, 0, cpl << DESC_DPL_SHIFT)
        for number in (ES, CS, DS, FS, GS):
            regs.set_segment(number, selectors[number], 0, 0, 0)
    _load_ldt(regs, tables, ldt, ext)
    if regs.rflags & EFLAGS_VM:
        return
    _load_code(regs, tables, selectors[CS], ext)
    _load_stack(regs, tables, selectors[SS], selectors[CS] & 3, ext)
    for number in (ES, DS, FS, GS):
        _load_data(regs, tables, number, selectors[number], selectors[CS] & 3, ext)


def _load_ldt(regs: Registers, tables: Delivery, selector: int, ext: int) -> None:
    regs.ldtr = Segment(selector, 0, 0, 0)
    if not selector & 0xFFFC:
        return
    error = selector & 0xFFFC | ext
    if selector & 4:
        raise Fault(Vector.TS, error)
    found = tables.descriptor(selector, Vector.TS, ext)
    if found.flags & DESC_S or found.flags >> 8 & 0xF != 2 or not found.flags & DESC_P:
        raise Fault(Vector.TS, error)
    regs.ldtr = Segment(selector, found.base, found.limit, found.flags >> 8 & 0xF0FF)


def _load_code(regs: Registers, tables: Delivery, selector: int, ext: int) -> None:
    error = selector & 0xFFFC | ext
    if not selector & 0xFFFC:
        raise Fault(Vector.TS, ext)
    found = tables.descriptor(selector, Vector.TS, ext)
    rpl = selector & 3
    if found.flags & (DESC_S | DESC_CODE) != DESC_S | DESC_CODE:
        raise Fault(Vector.TS, error)
    if found.dpl > rpl or (found.dpl != rpl and not found.flags & DESC_C):
        raise Fault(Vector.TS, error)
    if not found.flags & DESC_P:
        raise Fault(Vector.NP, error)
    tables.access(found)
    regs.set_segment(CS, selector, found.base, found.limit, found.flags | DESC_A)


def _load_stack(regs: Registers, tables: Delivery, selector: int, cpl: int, ext: int) -> None:
    error = selector & 0xFFFC | ext
    if not selector & 0xFFFC:
        raise Fault(Vector.TS, ext)
    found = tables.descriptor(selector, Vector.TS, ext)
    writable = found.flags & (DESC_S | DESC_CODE | DESC_W) == DESC_S | DESC_W
    if not writable or found.dpl != cpl or selector & 3 != cpl:
        raise Fault(Vector.TS, error)
    if not found.flags & DESC_P:
        raise Fault(Vector.SS, error)
    tables.access(found)
    regs.set_segment(SS, selector, found.base, found.limit, found.flags | DESC_A)


def _load_data(
    regs: Registers, tables: Delivery, number: int, selector: int, cpl: int, ext: int
) -> None:
    if not selector & 0xFFFC:
        return
    error = selector & 0xFFFC | ext
    found = tables.descriptor(selector, Vector.TS, ext)
    code = found.flags & DESC_CODE
    if not found.flags & DESC_S or (code and not found.flags & DESC_W):
        raise Fault(Vector.TS, error)
    if not (code and found.flags & DESC_C) and found.dpl < max(cpl, selector & 3):
        raise Fault(Vector.TS, error)
    if not found.flags & DESC_P:
        raise Fault(Vector.NP, error)
    tables.access(found)
    regs.set_segment(number, selector, found.base, found.limit, found.flags | DESC_A)


def _push_error_code(
    regs: Registers, linear: LinearMemory, error_code: int, width: int, ext: int
) -> None:
    mask = 0xFFFF_FFFF if regs.segment_flags(SS) & DESC_B else 0xFFFF
    pointer = regs.rsp - width & mask
    address = regs.segment_base(SS) + pointer & 0xFFFF_FFFF
    linear.stage(address, width, error_code, vector=Vector.SS)
    linear.commit()
    regs.rsp = regs.rsp & ~mask | pointer
