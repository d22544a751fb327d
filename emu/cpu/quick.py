# SPDX-License-Identifier: GPL-2.0-or-later
"""The usual delivery in long mode, in one function: what `Delivery` does for most events.

An event through an interrupt or trap gate without IST, to a 64-bit kernel at CPL 0, with IDT, GDT,
TSS and stack on pages that were used since the last flush and whose bytes are ours to touch.
Nothing is kept of what the tables say: gate and descriptor are read anew, and only what their words
mean is remembered. For everything else `QuickDelivery.deliver` returns False with nothing changed,
and `Delivery` does it: every check that may fail, fails there.
"""

from __future__ import annotations

import struct
from functools import lru_cache

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
_CR2_Q = H.CR_Q + 2
_EFER_LMA = 1 << 10
_CLEARED = EFLAGS_TF | EFLAGS_NT | EFLAGS_RF | EFLAGS_VM
_KEPT_HFLAGS = ~(H.HF_CPL | H.HF_INHIBIT_IRQ | H.HF_SS32 | H.HF_ADDSEG)
_CODE64 = H.HF_CS32 | H.HF_CS64
KERNEL_CODE = DESC_P | DESC_S | DESC_CODE | DESC_A | DESC_L
CODE_BITS = KERNEL_CODE | DESC_B | DESC_C | 3 << DESC_DPL_SHIFT


@lru_cache(maxsize=512)
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


@lru_cache(maxsize=64)
def _code(word: int) -> tuple[int, int]:
    """Return (limit, flags) of a present, accessed, non-conforming 64-bit code segment of DPL 0;
    zeros for every other descriptor."""
    flags = word >> 32
    if flags & CODE_BITS != KERNEL_CODE:
        return 0, 0
    limit = word & 0xFFFF | flags & 0xF_0000
    return (limit << 12 | 0xFFF if flags & DESC_G else limit), flags


class QuickDelivery:
    """Delivers on one vCPU what is usual."""

    def __init__(self, regs: Registers, linear: LinearMemory, state: H.HiddenState) -> None:
        """Work on these registers and this memory."""
        self._regs = regs
        self._linear = linear
        self._q = state.q
        self._d = state.d

    def deliver(self, event: Event) -> bool:
        """Deliver, or return False with nothing changed. About 4 us."""
        vector, source, error_code, cr2, _ = event
        q, d, linear = self._q, self._d, self._linear
        at = vector * 16
        base = q[_IDT_BASE_Q]
        # What follows #DB, and a table that is not aligned, is for the other.
        if not q[H.EFER_Q] & _EFER_LMA or at + 15 > d[H.IDT_D + 4] or base & 15 or vector == 1:
            return False
        linear.begin()
        words, views = linear.words, linear.views
        at += base
        page = words.get((at >> 12) << 10 | ACCESS_IMPLICIT)
        if page is None:
            return False
        at = (at & 0xFFF) >> 3
        selector, offset, dpl, kept = _gate(page[at])
        base = q[_GDT_BASE_Q]
        if not selector or base & 7 or selector + 7 > d[H.GDT_D + 4]:
            return False
        rip = page[at + 1] << 32 & 0xFFFF_FFFF_0000_0000 | offset
        at = base + selector
        page = words.get((at >> 12) << 10 | ACCESS_IMPLICIT)
        if page is None:
            return False
        limit, code = _code(page[(at & 0xFFF) >> 3])
        hflags = d[H.HFLAGS_D]
        inner = hflags & H.HF_CPL
        if not code or (source is Source.SOFTWARE and dpl < inner):
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
        view = views.get((pointer >> 12) << 10 | ACCESS_IMPLICIT | ACCESS_WRITE)
        at = pointer & 0xFFF
        if view is None or at > 0x1000 - size:
            return False
        # Everything is checked: nothing below can fail.
        flags = self._regs.rflags
        saved = flags | EFLAGS_RF if source is Source.EXCEPTION and vector in FAULT_CLASS else flags
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
        self._regs.rflags = flags & kept
        return True
