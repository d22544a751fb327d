# SPDX-License-Identifier: GPL-2.0-or-later
"""Events and system calls as compiled code: the usual cases of `emu.cpu.quick` and `syscall`.

    interrupt  UC_HOOK_INTR: INT n, and the page fault that a fill refused by compiled code means
    syscall    UC_HOOK_INSN: SYSCALL in 64-bit mode (`enter`)

Each asks the shadow tables for what the processor itself reads and writes (IDT, GDT, TSS, stack),
as it would a TLB, changes nothing before everything is known to be in order, and leaves all else
to the Python hook that it stands in front of: other gates than interrupt and trap gates without
IST, other targets than 64-bit code at CPL 0, exceptions that the engine finds, a slice that is
about to end. The text is in the subset of Python that emu/jit.py compiles.
"""

from __future__ import annotations

from emu.cpu import hidden as H
from emu.cpu import raw
from emu.cpu.compiled import (
    BASE,
    BOX,
    COUNTER,
    ENV,
    EVENTS,
    EXIT_REQUEST,
    FILLS_LEFT,
    INVALID,
    NOTED,
    PAGE_FAULT,
    PLAN,
    PYTHON_INTERRUPT,
    PYTHON_SYSCALL,
    READ_REGISTER,
    REFUSED,
    REFUSED_GVA,
    RING,
    RING_ENTRIES,
    RING_ENTRY,
    reach,
)
from emu.cpu.faults import Source
from emu.cpu.quick import CODE_BITS, KERNEL_CODE
from emu.cpu.registers import (
    DESC_B,
    DESC_G,
    EFLAGS_DF,
    EFLAGS_IF,
    EFLAGS_NT,
    EFLAGS_RF,
    EFLAGS_TF,
    EFLAGS_VM,
)
from emu.cpu.syscall import CODE64, DATA32
from mmu.hostmemory import load8, load32, load64, store8, store32, store64

# Byte offsets in env.
_RCX, _RSP, _R11 = 8, 32, 88
_RIP = H.RIP_Q * 8
_EFLAGS = H.EFLAGS_D * 4
_CC_SRC = H.CC_SRC_Q * 8
_CC_OP = H.CC_OP_D * 4
_DF = H.DF_D * 4
_HFLAGS = H.HFLAGS_D * 4
_CS = (H.SEGS_D + H.SEG_DWORDS) * 4
_SS = (H.SEGS_D + 2 * H.SEG_DWORDS) * 4
_TR, _GDT, _IDT = H.TR_D * 4, H.GDT_D * 4, H.IDT_D * 4
_BASE, _LIMIT, _FLAGS = 8, 16, 20  # in a segment register
_CR2 = (H.CR_Q + 2) * 8
_EFER = H.EFER_Q * 8
_STAR, _LSTAR, _FMASK = H.STAR_Q * 8, H.LSTAR_Q * 8, H.FMASK_Q * 8
_IS_INT = H.IS_INT_D * 4
_OLD_EXCEPTION = H.OLD_EXCEPTION_D * 4

_EFER_SCE, _EFER_LMA = 1 << 0, 1 << 10
_CC_OP_EFLAGS = 1
_ARITHMETIC = 0x8D5
_NO_LAZY = ~(_ARITHMETIC | EFLAGS_DF)
_CLEARED = EFLAGS_TF | EFLAGS_NT | EFLAGS_RF | EFLAGS_VM
_HFLAGS_KEPT = ~(H.HF_CPL | H.HF_INHIBIT_IRQ | H.HF_SS32 | H.HF_ADDSEG)
_CODE64 = H.HF_CS32 | H.HF_CS64
_ALL = 0xFFFF_FFFF
_EXCEPTION, _SOFTWARE = int(Source.EXCEPTION), int(Source.SOFTWARE)


def call_interrupt(function: int, uc: int, number: int, data: int) -> int:
    """Call an interrupt hook by its address."""
    raw.INTR_CALLBACK(function)(uc, number, data)
    return 0


def call_syscall(function: int, uc: int, data: int) -> int:
    """Call a SYSCALL hook by its address."""
    raw.SYSCALL_CALLBACK(function)(uc, data)
    return 0


def call_read_register(function: int, uc: int, register: int, box: int) -> int:
    """Call uc_reg_read by its address."""
    return int(raw.READ_FUNCTION(function)(uc, register, box))


# --- RFLAGS ---------------------------------------------------------------------------------


def get_flags(uc: int, state: int, env: int) -> int:
    """Return RFLAGS, the arithmetic flags computed from what the engine last did."""
    if load32(env + _CC_OP) == _CC_OP_EFLAGS:
        lazy = (load64(env + _CC_SRC) & _ARITHMETIC) | (load32(env + _DF) & EFLAGS_DF)
        return (load32(env + _EFLAGS) & _NO_LAZY) | lazy | 2
    call_read_register(load64(state + READ_REGISTER), uc, raw.EFLAGS, state + BOX)
    return load32(state + BOX) | 2


def set_flags(env: int, flags: int) -> int:
    """Set RFLAGS; returns 0."""
    store32(env + _EFLAGS, flags | 2)
    store64(env + _CC_SRC, flags & _ARITHMETIC)
    store32(env + _CC_OP, _CC_OP_EFLAGS)
    store32(env + _DF, _ALL if flags & EFLAGS_DF != 0 else 1)
    return 0


# --- Delivery (SDM 3A 6.14) -----------------------------------------------------------------


def deliver(uc: int, state: int, vector: int, source: int, has_code: int, code: int) -> int:
    """Deliver through the IDT and return 1, or return 0 with nothing changed."""
    env = load64(state + ENV)
    hflags = load32(env + _HFLAGS)
    inner = hflags & 3
    at = vector * 16
    base = load64(env + _IDT + _BASE)
    if load64(env + _EFER) & _EFER_LMA == 0 or base & 15 != 0 or vector == 1:
        return 0
    if at + 15 > load32(env + _IDT + _LIMIT):
        return 0
    host = reach(state, base + at, 0, 0)
    if host == 0:
        return 0
    gate = load64(host)
    selector = (gate >> 16) & 0xFFFC
    # Present, of type 14 or 15, no IST (SDM 3A figure 6-8); and not in the LDT.
    if (gate >> 32) & 7 != 0 or (gate >> 40) & 0x9E != 0x8E or selector & 4 != 0 or selector == 0:
        return 0
    if source == _SOFTWARE and (gate >> 45) & 3 < inner:
        return 0
    rip = (load64(host + 8) << 32) | ((gate >> 32) & 0xFFFF_0000) | (gate & 0xFFFF)
    base = load64(env + _GDT + _BASE)
    if base & 7 != 0 or selector + 7 > load32(env + _GDT + _LIMIT):
        return 0
    host = reach(state, base + selector, 0, 0)
    if host == 0:
        return 0
    limit = load32(host) & 0xFFFF
    descriptor = load32(host + 4)
    if descriptor & CODE_BITS != KERNEL_CODE:
        return 0
    limit |= descriptor & 0xF_0000
    if descriptor & DESC_G != 0:
        limit = (limit << 12) | 0xFFF
    rsp = load64(env + _RSP)
    pointer = rsp
    if inner != 0:
        at = load64(env + _TR + _BASE) + 4
        if at & 0xFFF > 0xFF8 or load32(env + _TR + _LIMIT) < 11:
            return 0
        host = reach(state, at, 0, 0)
        if host == 0:
            return 0
        pointer = load64(host)
    size = 48 if has_code != 0 else 40
    pointer = (pointer & -16) - size
    if pointer & 0xFFF > 0x1000 - size:
        return 0
    host = reach(state, pointer, 1, 0)
    if host == 0:
        return 0
    # Everything is checked.
    flags = get_flags(uc, state, env)
    if has_code != 0:
        store64(host, code)
        host += 8
    store64(host, load64(env + _RIP))
    store64(host + 8, load32(env + _CS) & 0xFFFF)
    store64(host + 16, flags | EFLAGS_RF if source == _EXCEPTION else flags)
    store64(host + 24, rsp)
    store64(host + 32, load32(env + _SS) & 0xFFFF)
    note(state, env, vector | source << 8, code)
    if inner != 0:  # SS becomes a null selector
        store32(env + _SS, 0)
        store64(env + _SS + _BASE, 0)
        store32(env + _SS + _LIMIT, 0)
        store32(env + _SS + _FLAGS, 0)
    store32(env + _CS, selector)
    store64(env + _CS + _BASE, 0)
    store32(env + _CS + _LIMIT, limit)
    store32(env + _CS + _FLAGS, descriptor)
    hflags = (hflags & _HFLAGS_KEPT) | _CODE64
    if load32(env + _SS + _FLAGS) & DESC_B != 0:
        hflags |= H.HF_SS32
    store32(env + _HFLAGS, hflags)
    store64(env + _RSP, pointer)
    store64(env + _RIP, rip)
    flags &= ~_CLEARED
    if (gate >> 40) & 1 == 0:
        flags &= ~EFLAGS_IF
    set_flags(env, flags)
    return 1


def note(state: int, env: int, what: int, code: int) -> int:
    """Note an event for `emu.cpu.record`, before it changes anything; returns 0."""
    count = load64(state + NOTED)
    at = state + RING + (count % RING_ENTRIES) * RING_ENTRY
    store64(at, what)
    store64(at + 8, code)
    store64(at + 16, load64(env + _CR2))
    store64(at + 24, load32(env + _CS) & 0xFFFF)
    store64(at + 32, load64(env + _RIP))
    store64(at + 40, load64(state + BASE) + load64(state + COUNTER))
    store64(state + NOTED, count + 1)
    return 0


def take(uc: int, number: int, state: int) -> int:
    """Serve UC_HOOK_INTR and return 1, or return 0 with nothing changed."""
    if load64(state + EVENTS) == 0 or load64(state + FILLS_LEFT) == 0:
        return 0
    env = load64(state + ENV)
    if number == PAGE_FAULT:
        # Counted as an instruction, and then a Python hook's order to stop must be seen.
        counter = load64(state + COUNTER) + 1
        code = load64(state + REFUSED) - 1
        invalid = load64(state + INVALID)
        if code < 0 or counter >= load64(state + PLAN) or load32(invalid + 8) != raw.ERR_EXCEPTION:
            return 0
        gva = load64(invalid)
        refused = load64(state + REFUSED_GVA)
        if gva >> 12 != refused >> 12:
            gva = refused | (gva & 0xFFF)
        cr2 = load64(env + _CR2)
        store64(env + _CR2, gva)
        if deliver(uc, state, 14, _EXCEPTION, 1, code) == 0:
            store64(env + _CR2, cr2)
            return 0
        store32(invalid + 8, 0)
        store8(load64(state + EXIT_REQUEST), 0)
        store64(state + REFUSED, 0)
        store64(state + COUNTER, counter)
        return 1
    # INT3 and INTO have two forms each, which Python tells apart.
    if number < 0 or number > 255 or number == 3 or number == 4 or load32(env + _IS_INT) == 0:
        return 0
    if deliver(uc, state, number, _SOFTWARE, 0, 0) == 0:
        return 0
    store32(env + _IS_INT, 0)
    store32(env + _OLD_EXCEPTION, _ALL)
    return 1


def interrupt(uc: int, number: int, state: int) -> None:
    """UC_HOOK_INTR."""
    if take(uc, number, state) == 0:
        call_interrupt(load64(state + PYTHON_INTERRUPT), uc, number, 0)


# --- SYSCALL --------------------------------------------------------------------------------


def enter(uc: int, state: int) -> int:
    """Do a SYSCALL of 64-bit code and return 1, or return 0 with nothing changed."""
    if load64(state + EVENTS) == 0 or load64(state + FILLS_LEFT) == 0:
        return 0
    env = load64(state + ENV)
    hflags = load32(env + _HFLAGS)
    both = _EFER_SCE | _EFER_LMA
    if load64(env + _EFER) & both != both or hflags & H.HF_CS64 == 0:
        return 0
    rip = load64(env + _RIP)
    if rip & 0xFFF == 0xFFF:
        return 0
    host = reach(state, rip, 0, 1 if hflags & 3 == 3 else 0)
    # Unicorn will add the length to RIP; with prefixes it is not 2.
    if host == 0 or load8(host) != 0x0F or load8(host + 1) != 5:
        return 0
    flags = get_flags(uc, state, env)
    selector = (load64(env + _STAR) >> 32) & 0xFFFC
    store64(env + _RCX, rip + 2)
    store64(env + _R11, flags & ~EFLAGS_RF)
    store32(env + _SS, selector + 8)
    store64(env + _SS + _BASE, 0)
    store32(env + _SS + _LIMIT, _ALL)
    store32(env + _SS + _FLAGS, DATA32)
    store32(env + _CS, selector)
    store64(env + _CS + _BASE, 0)
    store32(env + _CS + _LIMIT, _ALL)
    store32(env + _CS + _FLAGS, CODE64)
    store32(env + _HFLAGS, (hflags & ~(H.HF_CPL | H.HF_ADDSEG)) | _CODE64 | H.HF_SS32)
    set_flags(env, flags & ~load64(env + _FMASK) & ~EFLAGS_RF)
    store64(env + _RIP, load64(env + _LSTAR) - 2)
    return 1


def syscall(uc: int, state: int) -> None:
    """UC_HOOK_INSN for SYSCALL."""
    if enter(uc, state) == 0:
        call_syscall(load64(state + PYTHON_SYSCALL), uc, 0)
