# SPDX-License-Identifier: GPL-2.0-or-later
"""Delivery of exceptions and interrupts, as SDM 3A chapter 6 (and 20.1.4, 20.3 for 16-bit modes).

    event -> gate -> code segment -> stack -> frame -> new state

`deliver` goes that way once per event; everything that can fault comes before anything changes,
and a fault on the way becomes the next event by table 6-5, up to `Shutdown`. The registers and
the memory are all that it knows, so that it runs without an engine.

Not emulated: limit checks of stack segments (the engine has none either), CET shadow stacks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from emu.cpu import hidden as H
from emu.cpu.faults import EXT, FAULT_CLASS, IDT, Event, Fault, Source, Vector, combine
from emu.cpu.linear import LinearMemory
from emu.cpu.quick import QuickDelivery
from emu.cpu.registers import (
    CS,
    DESC_A,
    DESC_B,
    DESC_C,
    DESC_CODE,
    DESC_DPL_SHIFT,
    DESC_G,
    DESC_L,
    DESC_P,
    DESC_S,
    DESC_W,
    DS,
    EFLAGS_AC,
    EFLAGS_IF,
    EFLAGS_NT,
    EFLAGS_RF,
    EFLAGS_TF,
    EFLAGS_VM,
    ES,
    FS,
    GS,
    SS,
    TR,
    Registers,
)
from emu.cpu.stack import Stack
from mmu.arch import ACCESS_IMPLICIT, ACCESS_USER

__all__ = ["Delivery", "Descriptor", "check_io_permission"]

_CR0_PE = 1
_EFER_LMA = 1 << 10
_DR6_BT = 1 << 15
_DR7_GD = 1 << 13
_TASK_GATE = 5
_GATE_TYPES = frozenset({5, 6, 7, 14, 15})
_GATE_TYPES_64 = frozenset({14, 15})
_TSS_TYPES_32 = frozenset({9, 11})
_IRET_FLAGS = 0x25_4DD5  # ID AC RF NT OF DF TF SF ZF AF PF CF
_FRAME_FLAGS = EFLAGS_TF | EFLAGS_NT | EFLAGS_RF | EFLAGS_VM


class Descriptor(NamedTuple):
    """A code or data segment descriptor as read: `flags` is its high half, `address` its own."""

    selector: int
    base: int
    limit: int
    flags: int
    address: int

    @property
    def dpl(self) -> int:
        """Descriptor privilege level."""
        return self.flags >> DESC_DPL_SHIFT & 3


@lru_cache(maxsize=64)
def _decode_descriptor(selector: int, word: int, address: int) -> Descriptor:
    """Decode a code or data descriptor (SDM 3A figure 3-8); a kernel uses a handful of them."""
    flags = word >> 32
    limit = word & 0xFFFF | flags & 0xF_0000
    if flags & DESC_G:
        limit = limit << 12 | 0xFFF
    return Descriptor(selector, word >> 16 & 0xFF_FFFF | flags & 0xFF00_0000, limit, flags, address)


class _Gate(NamedTuple):
    kind: int
    selector: int
    offset: int
    ist: int
    dpl: int
    present: bool


@lru_cache(maxsize=512)
def _decode_gate_64(word: int, high: int) -> _Gate:
    """Decode a gate of the 64-bit IDT (SDM 3A figure 6-8)."""
    return _Gate(
        kind=word >> 40 & 0x1F,
        selector=word >> 16 & 0xFFFF,
        offset=word & 0xFFFF | word >> 32 & 0xFFFF_0000 | high << 32,
        ist=word >> 32 & 7,
        dpl=word >> 45 & 3,
        present=bool(word >> 47 & 1),
    )


class Delivery:
    """Delivers events on one vCPU."""

    def __init__(
        self,
        regs: Registers,
        linear: LinearMemory,
        state: H.HiddenState,
        load_cr3: Callable[[int], None],
        breakpoints_changed: Callable[[], None],
    ) -> None:
        """Work on these registers and this memory; for a task switch `load_cr3` is MOV CR3, and
        `breakpoints_changed` is called when it has changed DR7."""
        self.load_cr3 = load_cr3
        self.breakpoints_changed = breakpoints_changed
        self._task_traps = False  # the T bit of the task just switched to
        self._regs = regs
        self._linear = linear
        self._d = state.d
        self.quickly = QuickDelivery(regs, linear, state).deliver
        """Deliver an event that needs nothing special, or return False with nothing changed."""

    def deliver(self, event: Event) -> list[Event]:
        """Deliver `event`, or what it turns into; returns every event tried, in order.

        A task with its T bit set has a #DB behind the event (SDM 3A 7.2.1).

        Raises Shutdown when a double fault cannot be delivered; the events tried so far are its
        argument. RIP, memory and all other registers are then as before.
        """
        tried = [event]
        regs = self._regs
        while True:
            if event.cr2 is not None:
                regs.cr2 = event.cr2
            try:
                self._linear.begin()
                if regs.efer & _EFER_LMA:
                    self._deliver_long(event)
                elif regs.cr0 & _CR0_PE:
                    self._deliver_protected(event)
                else:
                    self._deliver_real(event)
            except Fault as fault:
                if event.start is not None and not fault.in_new_task:
                    regs.rip = event.start
                event = self._next_event(tried, fault)
                tried.append(event)
            else:
                self._entered(event)
                if not self._task_traps:
                    return tried
                self._task_traps = False
                regs.dr6 |= _DR6_BT
                event = Event(Vector.DB)
                tried.append(event)

    def _next_event(self, tried: list[Event], fault: Fault) -> Event:
        from emu.cpu.faults import Shutdown

        try:
            return combine(tried[-1], fault)
        except Shutdown:
            last = Event(fault.vector, Source.EXCEPTION, fault.error_code, fault.cr2)
            if fault.cr2 is not None:
                self._regs.cr2 = fault.cr2
            raise Shutdown([*tried, last]) from None

    def _entered(self, event: Event) -> None:
        d = self._d
        d[H.HFLAGS_D] &= ~H.HF_INHIBIT_IRQ
        if event.vector == Vector.DB and event.source is not Source.SOFTWARE:
            self._regs.dr7 &= ~_DR7_GD

    # --- Real mode (SDM 3A 20.1.4) ----------------------------------------------------------

    def _deliver_real(self, event: Event) -> None:
        regs, linear = self._regs, self._linear
        table = regs.idtr
        at = event.vector * 4
        if at + 3 > table.limit:
            raise Fault(Vector.GP, event.vector * 8 + IDT)
        entry = linear.read(table.base + at & 0xFFFF_FFFF, 4)
        flags = regs.rflags
        stack = Stack(linear, regs.segment_base(SS), regs.rsp, self._stack_mask(), 2)
        stack.push(flags, regs.segment_selector(CS), regs.rip)
        linear.commit()
        regs.rsp = stack.pointer_in(regs.rsp)
        selector = entry >> 16
        regs.rip = entry & 0xFFFF
        # In this mode a load of CS changes nothing but selector and base.
        cs = regs.segment(CS)
        regs.cs = cs._replace(selector=selector, base=selector << 4)
        regs.rflags = flags & ~(EFLAGS_IF | EFLAGS_TF | EFLAGS_AC | EFLAGS_RF)

    def _stack_mask(self) -> int:
        return 0xFFFF_FFFF if self._regs.segment_flags(SS) & DESC_B else 0xFFFF

    # --- Protected mode (SDM 3A 6.12) -----------------------------------------------------------

    def _deliver_protected(self, event: Event) -> None:
        regs, linear = self._regs, self._linear
        ext = 0 if event.source is Source.SOFTWARE else EXT
        gate = self._gate(event, ext)
        if gate.kind == _TASK_GATE:
            self._task_gate(event, gate, ext)
            return
        old_flags = regs.rflags
        old_cpl = regs.cpl
        code = self._code_segment(gate.selector, old_cpl, ext)
        inner = not code.flags & DESC_C and code.dpl < old_cpl
        width = 4 if gate.kind & 8 else 2
        if inner:
            if old_flags & EFLAGS_VM and code.dpl != 0:
                raise Fault(Vector.GP, gate.selector & 0xFFFC | ext)
            cpl = code.dpl
            pointer, stack_segment = self.inner_stack(cpl, ext)
            mask = 0xFFFF_FFFF if stack_segment.flags & DESC_B else 0xFFFF
            stack = Stack(linear, stack_segment.base, pointer, mask, width, ext)
            above = [regs.segment_selector(SS), regs.rsp]
            if old_flags & EFLAGS_VM:
                above = [*map(regs.segment_selector, (GS, FS, DS, ES)), *above]
        else:
            if old_flags & EFLAGS_VM or (not code.flags & DESC_C and code.dpl != old_cpl):
                raise Fault(Vector.GP, gate.selector & 0xFFFC | ext)
            cpl = old_cpl
            stack = Stack(linear, regs.segment_base(SS), regs.rsp, self._stack_mask(), width, ext)
            stack.access = ACCESS_USER if cpl == 3 else ACCESS_IMPLICIT
            above = []
        self._push_frame(stack, event, old_flags, *above)
        if not code.flags & DESC_A:
            linear.stage(code.address + 4, 4, code.flags | DESC_A)
        linear.commit()
        if old_flags & EFLAGS_VM:
            regs.rflags = old_flags & ~EFLAGS_VM
            for number in (GS, FS, DS, ES):
                regs.set_segment(number, 0, 0, 0, 0)
        if inner:
            s = stack_segment
            regs.set_segment(SS, s.selector & ~3 | cpl, s.base, s.limit, s.flags)
            regs.rsp = pointer
        regs.rsp = stack.pointer_in(regs.rsp)
        regs.set_segment(CS, code.selector & ~3 | cpl, code.base, code.limit, code.flags | DESC_A)
        regs.rip = gate.offset
        self._new_flags(old_flags, gate)

    def _push_frame(self, stack: Stack, event: Event, flags: int, *above: int) -> None:
        """Push what an IRET will pop, the values of `above` first, and the error code."""
        if event.source is Source.EXCEPTION and event.vector in FAULT_CLASS:
            flags |= EFLAGS_RF
        regs = self._regs
        frame = (*above, flags, regs.segment_selector(CS), regs.rip)
        stack.push(*frame if event.error_code is None else (*frame, event.error_code))

    def _new_flags(self, flags: int, gate: _Gate) -> None:
        flags &= ~_FRAME_FLAGS
        if not gate.kind & 1:
            flags &= ~EFLAGS_IF
        self._regs.rflags = flags

    def _gate(self, event: Event, ext: int) -> _Gate:
        """Read and check the gate of a vector in protected mode."""
        vector = event.vector
        table = self._regs.idtr
        error = vector * 8 + IDT
        if vector * 8 + 7 > table.limit:
            raise Fault(Vector.GP, error | ext)
        word = self._linear.read(table.base + vector * 8 & 0xFFFF_FFFF, 8)
        kind = word >> 40 & 0x1F
        if kind not in _GATE_TYPES:
            raise Fault(Vector.GP, error | ext)
        offset = word & 0xFFFF
        if kind & 8:
            offset |= word >> 32 & 0xFFFF_0000
        gate = _Gate(kind, word >> 16 & 0xFFFF, offset, 0, word >> 45 & 3, bool(word >> 47 & 1))
        self._check_gate(event, gate, error, ext)
        return gate

    def _check_gate(self, event: Event, gate: _Gate, error: int, ext: int) -> None:
        if event.source is Source.SOFTWARE and gate.dpl < self._regs.cpl:
            raise Fault(Vector.GP, error)
        if not gate.present:
            raise Fault(Vector.NP, error | ext)

    def _code_segment(self, selector: int, cpl: int, ext: int) -> Descriptor:
        """Read and check the descriptor that a gate points to."""
        if not selector & 0xFFFC:
            raise Fault(Vector.GP, ext)
        code = self.descriptor(selector, Vector.GP, ext)
        is_code = code.flags & (DESC_S | DESC_CODE) == DESC_S | DESC_CODE
        if not is_code or code.dpl > cpl:
            raise Fault(Vector.GP, selector & 0xFFFC | ext)
        if not code.flags & DESC_P:
            raise Fault(Vector.NP, selector & 0xFFFC | ext)
        return code

    def descriptor(self, selector: int, vector: int, ext: int) -> Descriptor:
        """Read a code or data descriptor; outside its table it is Fault(`vector`, selector)."""
        regs = self._regs
        if selector & 4:
            ldtr = regs.ldtr
            base, limit = ldtr.base, ldtr.limit if ldtr.selector & 0xFFFC else -1
        else:
            base, limit = regs.gdtr
        index = selector & 0xFFF8
        if index + 7 > limit:
            raise Fault(vector, selector & 0xFFFC | ext)
        address = base + index
        if not regs.efer & _EFER_LMA:
            address &= 0xFFFF_FFFF
        return _decode_descriptor(selector, self._linear.read(address, 8), address)

    def access(self, found: Descriptor) -> None:
        """Set the accessed bit of a descriptor that is loaded (SDM 3A 3.4.5.1); raises Fault."""
        if not found.flags & DESC_A:
            self._linear.stage(found.address + 4, 4, found.flags | DESC_A)
            self._linear.commit()

    def inner_stack(self, cpl: int, ext: int) -> tuple[int, Descriptor]:
        """Return stack pointer and segment for level `cpl` from the TSS (SDM 3A 6.12.1); raises
        Fault. Its accessed bit is staged."""
        tr = self._regs.tr
        wide = tr.attributes & 0xF in _TSS_TYPES_32
        width = 4 if wide else 2
        at = width * (1 + 2 * cpl)
        if at + width + 1 > tr.limit:
            raise Fault(Vector.TS, tr.selector & 0xFFFC | ext)
        pointer = self._linear.read(tr.base + at & 0xFFFF_FFFF, width)
        selector = self._linear.read(tr.base + at + width & 0xFFFF_FFFF, 2)
        if not selector & 0xFFFC:
            raise Fault(Vector.TS, ext)
        stack = self.descriptor(selector, Vector.TS, ext)
        writable_data = stack.flags & (DESC_S | DESC_CODE | DESC_W) == DESC_S | DESC_W
        if selector & 3 != cpl or stack.dpl != cpl or not writable_data:
            raise Fault(Vector.TS, selector & 0xFFFC | ext)
        if not stack.flags & DESC_P:
            raise Fault(Vector.SS, selector & 0xFFFC | ext)
        if not stack.flags & DESC_A:
            self._linear.stage(stack.address + 4, 4, stack.flags | DESC_A)
        return pointer, stack

    def return_to_cpl_3(self, rip: int, selector: int, flags: int) -> None:
        """Do what an IRETD at CPL 3 does but for the stack pointer (SDM 2A); raises Fault."""
        regs = self._regs
        if not selector & 0xFFFC:
            raise Fault(Vector.GP)
        code = self.descriptor(selector, Vector.GP, 0)
        conforming = code.flags & DESC_C
        is_code = code.flags & (DESC_S | DESC_CODE) == DESC_S | DESC_CODE
        if not is_code or selector & 3 != 3 or not (conforming or code.dpl == 3):
            raise Fault(Vector.GP, selector & 0xFFFC)
        if not code.flags & DESC_P:
            raise Fault(Vector.NP, selector & 0xFFFC)
        self.access(code)
        regs.set_segment(CS, selector, code.base, code.limit, code.flags | DESC_A)
        regs.rip = rip
        old = regs.rflags
        loaded = _IRET_FLAGS | (EFLAGS_IF if old >> 12 & 3 == 3 else 0)
        regs.rflags = old & ~loaded | flags & loaded

    def _task_gate(self, event: Event, gate: _Gate, ext: int) -> None:
        from emu.cpu.task import switch_task

        # SDM 3A 7.3: the error code goes onto the new task's stack.
        self._task_traps = switch_task(self._regs, self._linear, self, gate.selector, event, ext)

    # --- Long mode (SDM 3A 6.14) -----------------------------------------------------------------

    def _deliver_long(self, event: Event) -> None:
        regs, linear = self._regs, self._linear
        ext = 0 if event.source is Source.SOFTWARE else EXT
        vector = event.vector
        table = regs.idtr
        error = vector * 8 + IDT
        if vector * 16 + 15 > table.limit:
            raise Fault(Vector.GP, error | ext)
        at = table.base + vector * 16
        gate = _decode_gate_64(linear.read(at, 8), linear.read(at + 8, 4))
        if gate.kind not in _GATE_TYPES_64:
            raise Fault(Vector.GP, error | ext)
        self._check_gate(event, gate, error, ext)
        old_cpl = regs.cpl
        code = self._code_segment(gate.selector, old_cpl, ext)
        if code.flags & (DESC_L | DESC_B) != DESC_L:
            raise Fault(Vector.GP, gate.selector & 0xFFFC | ext)
        inner = not code.flags & DESC_C and code.dpl < old_cpl
        cpl = code.dpl if inner else old_cpl
        if not code.flags & DESC_C and code.dpl > old_cpl:
            raise Fault(Vector.GP, gate.selector & 0xFFFC | ext)
        if gate.ist:
            pointer = self._tss_pointer(36 + (gate.ist - 1) * 8, ext)
        elif inner:
            pointer = self._tss_pointer(4 + cpl * 8, ext)
        else:
            pointer = regs.rsp
        old_flags = regs.rflags
        # Code at CPL 3 reached from CPL 3 pushes as the user that it is.
        access = ACCESS_USER if cpl == 3 else ACCESS_IMPLICIT
        stack = Stack(linear, 0, pointer & ~0xF, (1 << 64) - 1, 8, ext, access)
        self._push_frame(stack, event, old_flags, regs.segment_selector(SS), regs.rsp)
        if not code.flags & DESC_A:
            linear.stage(code.address + 4, 4, code.flags | DESC_A)
        linear.commit()
        if inner:
            regs.set_segment(SS, cpl, 0, 0, cpl << DESC_DPL_SHIFT)
        regs.rsp = stack.pointer
        regs.set_segment(CS, code.selector & ~3 | cpl, code.base, code.limit, code.flags | DESC_A)
        regs.rip = gate.offset
        self._new_flags(old_flags, gate)

    def _tss_pointer(self, at: int, ext: int) -> int:
        tr = self._regs.segment(TR)
        if at + 7 > tr.limit:
            raise Fault(Vector.TS, tr.selector & 0xFFFC | ext)
        return self._linear.read(tr.base + at, 8)


def check_io_permission(regs: Registers, linear: LinearMemory, port: int, size: int) -> None:
    """Look a port up in the I/O permission bitmap of the TSS (SDM 1 19.5.2); raises Fault."""
    tr = regs.tr
    if tr.attributes & 0x9F not in (0x89, 0x8B) or tr.limit < 0x67:
        raise Fault(Vector.GP, 0)
    at = linear.read(tr.base + 0x66, 2) + (port >> 3)
    if at + 1 > tr.limit:  # two bytes are read whatever the size
        raise Fault(Vector.GP, 0)
    bitmap = linear.read(tr.base + at, 2) >> (port & 7)
    if bitmap & (1 << size) - 1:
        raise Fault(Vector.GP, 0)
