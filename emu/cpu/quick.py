# SPDX-License-Identifier: GPL-2.0-or-later
"""The usual delivery in long mode, in one function: what `Delivery` does for most events.

An event through an interrupt or trap gate without IST, to a 64-bit kernel at CPL 0, with IDT, GDT,
TSS and stack on pages that were used since the last flush and whose bytes are ours to touch.
What gate and descriptor mean is remembered, and both are read again at each event, to see whether
they are what they were. For everything else `QuickDelivery.deliver` returns False with nothing
changed, and `Delivery` does it: every check that may fail, fails there.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from emu.cpu import hidden as H
from emu.cpu.faults import FAULT_CLASS, Event, Source
from emu.cpu.linear import LinearMemory
from emu.cpu.registers import (
    DESC_A,
    DESC_B,
    DESC_C,
    DESC_CODE,
    DESC_DPL_SHIFT,
    DESC_G,
    DESC_L,
    DESC_P,
    DESC_S,
    EFLAGS_IF,
    EFLAGS_NT,
    EFLAGS_RF,
    EFLAGS_TF,
    EFLAGS_VM,
    Registers,
)
from mmu.arch import ACCESS_IMPLICIT, ACCESS_WRITE

__all__ = ["CODE_BITS", "KERNEL_CODE", "QuickDelivery"]

_FRAME = struct.Struct("<5Q")
_FRAME_WITH_CODE = struct.Struct("<6Q")
_RSP = 4
_CS_D = H.SEGS_D + H.SEG_DWORDS
_SS_D = H.SEGS_D + 2 * H.SEG_DWORDS
_CS_BASE_Q, _SS_BASE_Q = _CS_D + 2 >> 1, _SS_D + 2 >> 1
_GDT_BASE_Q, _IDT_BASE_Q, _TR_BASE_Q = (at + 2 >> 1 for at in (H.GDT_D, H.IDT_D, H.TR_D))
_IDT_LIMIT_D, _GDT_LIMIT_D = H.IDT_D + 4, H.GDT_D + 4
_CR2_Q = H.CR_Q + 2
_STACK = ACCESS_IMPLICIT | ACCESS_WRITE
_NOTHING = memoryview(b"")
# A look-up in an enumeration costs as much as a register.
_SOFTWARE, _EXCEPTION = Source.SOFTWARE, Source.EXCEPTION
_CLEARED = EFLAGS_TF | EFLAGS_NT | EFLAGS_RF | EFLAGS_VM
_KEPT_HFLAGS = ~(H.HF_CPL | H.HF_INHIBIT_IRQ | H.HF_SS32 | H.HF_ADDSEG)
_CODE64 = H.HF_CS32 | H.HF_CS64
KERNEL_CODE = DESC_P | DESC_S | DESC_CODE | DESC_A | DESC_L
CODE_BITS = KERNEL_CODE | DESC_B | DESC_C | 3 << DESC_DPL_SHIFT


def _gate(word: int) -> tuple[int, int, int, int]:
    """Return what the first word of a gate says: (selector, low half of the offset, DPL, flags that
    stay). Selector 0: not present, no interrupt or trap gate, an IST, or the LDT."""
    selector = word >> 16 & 0xFFFC
    # Present, and of type 14 or 15 (SDM 3A figure 6-8).
    if word >> 32 & 7 or word >> 40 & 0x9E != 0x8E or selector & 4:
        return 0, 0, 0, 0
    cleared = _CLEARED if word >> 40 & 1 else _CLEARED | EFLAGS_IF
    offset = word & 0xFFFF | word >> 32 & 0xFFFF_0000
    return selector, offset, word >> 45 & 3, ~cleared


def _code(word: int) -> tuple[int, int]:
    """Return (limit, flags) of a present, accessed, non-conforming 64-bit code segment of DPL 0;
    zeros for every other descriptor."""
    flags = word >> 32
    if flags & CODE_BITS != KERNEL_CODE:
        return 0, 0
    limit = word & 0xFFFF | flags & 0xF_0000
    return (limit << 12 | 0xFFF if flags & DESC_G else limit), flags


class _Route(NamedTuple):
    """Where a vector leads, what that was read from, and what must still be so."""

    flushes: int  # of the linear memory: then these pages are still those pages
    idt_base: int
    gdt_base: int
    gates: memoryview
    at: int
    gate: int
    gate_high: int
    descriptors: memoryview
    descriptor_at: int
    descriptor: int
    idt_limit: int  # at least
    gdt_limit: int  # at least
    selector: int
    rip: int
    dpl: int
    kept: int  # flags that stay
    limit: int
    code: int


_NO_ROUTE = _Route(-1, 0, 0, _NOTHING, 0, 0, 0, _NOTHING, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


class QuickDelivery:
    """Delivers on one vCPU what is usual."""

    def __init__(self, regs: Registers, linear: LinearMemory, state: H.HiddenState) -> None:
        """Work on these registers and this memory."""
        self._regs = regs
        self._linear = linear
        self._q = state.q
        self._d = state.d
        self._routes: dict[int, _Route] = {}

    def deliver(self, event: Event) -> bool:
        """Deliver, or return False with nothing changed. About 3 us."""
        vector, source, error_code, cr2, _ = event
        q, d, linear = self._q, self._d, self._linear
        hflags = d[H.HFLAGS_D]
        if not hflags & H.HF_LMA or vector == 1:  # what follows #DB is for the other
            return False
        linear.begin()
        views = linear.views
        route = self._routes.get(vector, _NO_ROUTE)
        flushes, idt, gdt, gates, at, gate, high, descriptors, place, descriptor = route[:10]
        if (
            flushes != linear.flushes
            or idt != q[_IDT_BASE_Q]
            or gdt != q[_GDT_BASE_Q]
            or gate != gates[at]
            or high != gates[at + 1]
            or descriptor != descriptors[place]
        ):
            found = self._find_route(vector)
            if found is None:
                return False
            self._routes[vector] = route = found
        idt_limit, gdt_limit, selector, rip, dpl, kept, limit, code = route[10:]
        if d[_IDT_LIMIT_D] < idt_limit or d[_GDT_LIMIT_D] < gdt_limit:
            return False
        inner = hflags & H.HF_CPL
        if source is _SOFTWARE and dpl < inner:
            return False
        rsp = pointer = q[_RSP]
        if inner:
            at = q[_TR_BASE_Q] + 4
            view = views.get((at >> 12) << 10 | ACCESS_IMPLICIT)
            at &= 0xFFF
            if view is None or at > 0xFF8 or d[H.TR_D + 4] < 11:
                return False
            pointer = int.from_bytes(view[at : at + 8], "little")
        size = 40 if error_code is None else 48
        pointer = (pointer & ~15) - size
        view = views.get((pointer >> 12) << 10 | _STACK)
        at = pointer & 0xFFF
        if view is None or at > 0x1000 - size:
            return False
        # Everything is checked: nothing below can fail.
        flags = self._regs.rflags
        saved = flags | EFLAGS_RF if source is _EXCEPTION and vector in FAULT_CLASS else flags
        frame = (q[H.RIP_Q], d[_CS_D] & 0xFFFF, saved, rsp, d[_SS_D] & 0xFFFF)
        if error_code is None:
            _FRAME.pack_into(view, at, *frame)
        else:
            _FRAME_WITH_CODE.pack_into(view, at, error_code, *frame)
        if cr2 is not None:
            q[_CR2_Q] = cr2
        if inner:  # SS becomes a null selector
            d[_SS_D] = d[_SS_D + 4] = d[_SS_D + 5] = q[_SS_BASE_Q] = 0
        d[_CS_D] = selector
        q[_CS_BASE_Q] = 0
        d[_CS_D + 4] = limit
        d[_CS_D + 5] = code
        big = H.HF_SS32 if d[_SS_D + 5] & DESC_B else 0
        d[H.HFLAGS_D] = hflags & _KEPT_HFLAGS | _CODE64 | big
        q[_RSP] = pointer
        q[H.RIP_Q] = rip
        d[H.EFLAGS_D] &= kept  # the arithmetic flags stay as lazy as they are
        return True

    def _find_route(self, vector: int) -> _Route | None:
        """Read the gate of a vector and the descriptor that it names; None unless both are usual
        and on pages that were used since the last flush."""
        q, linear = self._q, self._linear
        idt, gdt = q[_IDT_BASE_Q], q[_GDT_BASE_Q]
        if idt & 15 or gdt & 7:  # then a gate may lie in two pages, a descriptor between words
            return None
        at = idt + vector * 16
        gates = linear.words.get((at >> 12) << 10 | ACCESS_IMPLICIT)
        if gates is None:
            return None
        at = (at & 0xFFF) >> 3
        gate, high = gates[at], gates[at + 1]
        selector, offset, dpl, kept = _gate(gate)
        if not selector:
            return None
        place = gdt + selector
        descriptors = linear.words.get((place >> 12) << 10 | ACCESS_IMPLICIT)
        if descriptors is None:
            return None
        place = (place & 0xFFF) >> 3
        limit, code = _code(descriptors[place])
        if not code:
            return None
        return _Route(
            flushes=linear.flushes,
            idt_base=idt,
            gdt_base=gdt,
            gates=gates,
            at=at,
            gate=gate,
            gate_high=high,
            descriptors=descriptors,
            descriptor_at=place,
            descriptor=descriptors[place],
            idt_limit=vector * 16 + 15,
            gdt_limit=selector + 7,
            selector=selector,
            rip=high << 32 & 0xFFFF_FFFF_0000_0000 | offset,
            dpl=dpl,
            kept=kept,
            limit=limit,
            code=code,
        )
