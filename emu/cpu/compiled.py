# SPDX-License-Identifier: GPL-2.0-or-later
"""The vCPU's hooks that are worth compiling: the TLB fill and the count of blocks.

Both run in the engine's place of calling, never enter Python on their usual way, and are written
in the subset of Python that emu/jit.py compiles. ``fill`` reads the privilege from the live state,
asks :func:`mmu.shadow.compiled.hit`, and calls the Python hook for what that leaves open.
``count_block`` is the clock of such a run: it advances by the code bytes of each block, four of
which count as an instruction, and stops the engine between blocks when the slice is over. It is as
deterministic as counting instructions, and not the same.

The *state block* is what a vCPU's hooks share with Python, 64-bit words at the offsets below.
"""

from __future__ import annotations

import ctypes

from emu.cpu import hidden as H
from emu.cpu import raw
from mmu.plain import load32, load64, store64
from mmu.shadow.compiled import hit

# Byte offsets in a state block.
COUNTER = 0  # instructions of this slice, by the blocks that were begun
LIMIT = 8  # no block is begun when COUNTER has reached it
ENV = 16  # address of the live processor state
HIT_BLOCK = 24  # address of the MMU's block for this vCPU
PYTHON_FILL = 32  # the hook that decides what the compiled one does not
STOP = 40  # uc_emu_stop
CR3 = 48  # as the MMU was last told
SMAP = 56  # not 0: user accesses to pages with a descriptor table go to Python
BYTES = 64  # code bytes not yet counted, 0 to 3
FILLS_LEFT = 72  # fills until Python is to look at the TLB's size
STOPPED = 80  # 1: LIMIT was reached
TR_BASE = 88  # another base in TR: Python looks whether a task switch is under way
STATE_BYTES = 96

_HFLAGS = H.HFLAGS_D * 4
_CR3 = (H.CR_Q + 3) * 8
_GDT = H.GDT_D * 4
_LDT = H.LDT_D * 4
_TR = H.TR_D * 4
_CS64 = H.HF_CS64
_WINDOW = 1 << 40


def call_fill(function: int, uc: int, gva: int, kind: int, entry: int, state: int) -> int:
    """Call a TLB fill hook by its address."""
    return int(raw.FILL_CALLBACK(function)(uc, gva & (1 << 64) - 1, kind, entry, state))


def call_stop(function: int, uc: int) -> int:
    """Call uc_emu_stop by its address."""
    return int(raw.STOP_FUNCTION(function)(uc))


def fill(uc: int, gva: int, kind: int, entry: int, state: int) -> int:
    """UC_HOOK_TLB_FILL: answer from the shadow tables, or have Python answer."""
    env = load64(state + ENV)
    hflags = load32(env + _HFLAGS)
    user = 1 if hflags & 3 == 3 else 0
    left = load64(state + FILLS_LEFT)
    python = left == 0 or load64(env + _TR + 8) != load64(state + TR_BASE)
    if kind == 18:
        if load64(env + _CR3) != load64(state + CR3):
            python = True
        if gva >> 32 != 0 and hflags & _CS64 == 0:
            python = True
    elif user == 1 and load64(state + SMAP) != 0:
        page = gva >> 12
        for table in (_GDT, _LDT, _TR):
            base = load64(env + table + 8)
            last = base + load32(env + table + 16)
            if base >> 12 <= page and page <= last >> 12:
                python = True
    if not python:
        answer = hit(load64(state + HIT_BLOCK), gva, kind - 16, user)
        if answer != 0:
            paddr = answer & 0x000F_FFFF_FFFF_F000
            if answer & 8 != 0:
                paddr |= _WINDOW
            store64(entry, paddr)
            store64(entry + 8, answer & 7)
            store64(state + FILLS_LEFT, left - 1)
            return 1
    return call_fill(load64(state + PYTHON_FILL), uc, gva, kind, entry, state)


def count_block(uc: int, address: int, size: int, state: int) -> None:
    """UC_HOOK_BLOCK: let time pass for a block that is about to run."""
    counter = load64(state + COUNTER)
    if counter >= load64(state + LIMIT):
        store64(state + STOPPED, 1)
        call_stop(load64(state + STOP), uc)
    else:
        total = load64(state + BYTES) + size
        store64(state + BYTES, total & 3)
        store64(state + COUNTER, counter + (total >> 2))


class StateBlock:
    """One vCPU's state block."""

    def __init__(self) -> None:
        self._memory = (ctypes.c_uint64 * (STATE_BYTES // 8))()
        self.address = ctypes.addressof(self._memory)
        self.words = memoryview(self._memory).cast("B").cast("Q")
