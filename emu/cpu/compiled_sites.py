# SPDX-License-Identifier: GPL-2.0-or-later
"""Sites as compiled code: IRETQ, far RET and SYSRET of a kernel that do what they usually do.

    look_at_site   the code hook in front of `emu.cpu.sites.Sites`

It changes nothing: either the engine may execute the instruction as it is, or Python is asked. The
text is in the subset of Python that emu/jit.py compiles.
"""

from __future__ import annotations

from emu.cpu import hidden as H
from emu.cpu import raw
from emu.cpu.compiled import ENV, FILLS_LEFT, PYTHON_SITE, reach
from emu.cpu.registers import DESC_A, EFLAGS_NT
from mmu.hostmemory import load32, load64

_RCX, _RSP = 8, 32
_RIP, _EFLAGS, _HFLAGS, _GDT = H.RIP_Q * 8, H.EFLAGS_D * 4, H.HFLAGS_D * 4, H.GDT_D * 4
_BASE, _LIMIT = 8, 16  # in a segment register
_CS64, _CPL = H.HF_CS64, H.HF_CPL
_IRETQ, _RETFQ, _SYSRETQ = 0xCF48, 0xCB48, 0x070F48
_HALF = 1 << 47  # of the addresses that are canonical under 4-level paging


def call_site(function: int, uc: int, address: int, size: int, data: int) -> int:
    """Call a code hook by its address."""
    raw.CODE_CALLBACK(function)(uc, address, size, data)
    return 0


def is_accessed(state: int, env: int, selector: int) -> int:
    """Return 1 if the descriptor that a selector names is in the GDT and has been accessed."""
    base = load64(env + _GDT + _BASE)
    selector &= 0xFFFC
    if selector & 4 != 0 or base & 7 != 0 or selector + 7 > load32(env + _GDT + _LIMIT):
        return 0
    host = reach(state, base + selector, 0, 0)
    return 1 if host != 0 and load32(host + 4) & DESC_A != 0 else 0


def is_usual(state: int) -> int:
    """Return 1 if the engine does right what is at RIP."""
    env = load64(state + ENV)
    rip = load64(env + _RIP)
    if load64(state + FILLS_LEFT) == 0 or load32(env + _HFLAGS) & (_CS64 | _CPL) != _CS64:
        return 0
    if rip & 0xFFF > 0xFFC:
        return 0
    host = reach(state, rip, 0, 0)
    if host == 0:
        return 0
    code = load32(host)
    if code & 0xFF_FFFF == _SYSRETQ:
        return 1 if (load64(env + _RCX) + _HALF) >> 48 == 0 else 0
    pointer = load64(env + _RSP)
    if (code & 0xFFFF != _IRETQ and code & 0xFFFF != _RETFQ) or pointer & 0xFFF > 0xFD8:
        return 0
    host = reach(state, pointer, 0, 0)
    if host == 0 or (load64(host) + _HALF) >> 48 != 0 or load32(env + _EFLAGS) & EFLAGS_NT != 0:
        return 0
    selector = load32(host + 8) & 0xFFFF
    if is_accessed(state, env, selector) == 0:
        return 0
    if code & 0xFFFF == _IRETQ:
        stack = load32(host + 32) & 0xFFFF
    elif selector & 3 != 0:
        stack = load32(host + 24) & 0xFFFF
    else:
        stack = 0
    return 1 if stack & 0xFFFC == 0 else is_accessed(state, env, stack)


def look_at_site(uc: int, address: int, size: int, state: int) -> None:
    """UC_HOOK_CODE at a site."""
    if is_usual(state) == 0:
        call_site(load64(state + PYTHON_SITE), uc, address, size, 0)
