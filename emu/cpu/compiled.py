# SPDX-License-Identifier: GPL-2.0-or-later
"""The vCPU's hooks that are worth compiling: the TLB fill and the count of blocks.

Both run in the engine's place of calling, never enter Python on their usual way, and are written
in the subset of Python that emu/jit.py compiles. ``fill`` reads the privilege from the live state,
asks :func:`mmu.shadow.fast.walk.hit`, and calls the Python hook for what that leaves open.
``count_block`` is the clock of such a run: it advances by the code bytes of each block, four of
which count as an instruction, and stops the engine between blocks when the slice is over. It is as
deterministic as counting instructions, and not the same.

The *state block* is what a vCPU's hooks share with Python, 64-bit words at the offsets below.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from emu.cpu import hidden as H
from emu.cpu import raw
from mmu.hostmemory import load8, load32, load64, store32, store64
from mmu.shadow.fast.walk import fault, hit

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
EVENTS = 96  # 0: Python serves every event and refuses every fill
PYTHON_INTERRUPT = 104  # the hooks that do what compiled ones do not
PYTHON_SYSCALL = 112
REFUSED = 120  # of a fill that compiled code refused: 1 + the error code; else 0
REFUSED_GVA = 128
EXCEPTION_INDEX = 136  # address of CPUState.exception_index
EXIT_REQUEST = 144  # address of CPUState.exit_request
INVALID = 152  # address of uc_struct.invalid_addr; invalid_error is behind it
READ_REGISTER = 160  # uc_reg_read
BOX = 168  # where that writes
RAM = 176  # slots of RAM: first and end (gpa), host address less gpa
RAM_SLOTS = 4
NOTED = 272  # how many events were noted since Python last looked
RING = 280  # the last of them: vector | source << 8, error code, CR2, CS, RIP, instruction
RING_ENTRIES = 8
RING_ENTRY = 48
BASE = RING + RING_ENTRIES * RING_ENTRY  # instructions executed when COUNTER was 0
PKRU = BASE + 8  # as the MMU was last told; KEYS_OFF if they are
STALLED = PKRU + 8  # how much of all instructions so far is time in which the vCPU waited
PYTHON_READ = STALLED + 8  # the hook that reads devices
PYTHON_SITE = PYTHON_READ + 8  # the code hook of sites
PLAN = PYTHON_SITE + 8  # the planned end of the slice; LIMIT may come first
STEADY = PLAN + 8  # what was read of devices' steady registers: gpa << 4 | size, value
STEADY_ENTRIES = 8
STEADY_ENTRY = 16
STATE_BYTES = STEADY + STEADY_ENTRIES * STEADY_ENTRY

KEYS_OFF = 1 << 32

PAGE_FAULT = 0x1000
"""Our own exception index: a fill was refused."""

_HFLAGS = H.HFLAGS_D * 4
_RIP = H.RIP_Q * 8
_CR3 = (H.CR_Q + 3) * 8
_GDT = H.GDT_D * 4
_LDT = H.LDT_D * 4
_TR = H.TR_D * 4
_PKRU = H.PKRU_D * 4
_CS64 = H.HF_CS64
_WINDOW = 1 << 40


class CompiledCode(NamedTuple):
    """The entry points of the compiled text, as addresses of C functions in this process."""

    fill: int
    count_block: int
    interrupt: int
    syscall: int
    read_device: int
    look_at_site: int


def call_fill(function: int, uc: int, gva: int, kind: int, entry: int, state: int) -> int:
    """Call a TLB fill hook by its address."""
    return int(raw.FILL_CALLBACK(function)(uc, gva & (1 << 64) - 1, kind, entry))


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
    told = load64(state + PKRU)
    if told != KEYS_OFF and load32(env + _PKRU) != told:
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
        if refuse(state, gva, kind - 16, user) != 0:
            return 0
    return call_fill(load64(state + PYTHON_FILL), uc, gva, kind, entry, state)


def refuse(state: int, gva: int, kind: int, user: int) -> int:
    """Return 1 if a miss is the guest's own page fault, which the interrupt hook will be called
    for, or 0 if Python must decide."""
    if load64(state + EVENTS) == 0 or kind == 2:
        return 0
    if user == 1 and is_plain(state) == 0:
        return 0
    code = fault(load64(state + HIT_BLOCK), gva, kind, user)
    if code == 0:
        return 0
    store64(state + REFUSED, code)
    store64(state + REFUSED_GVA, gva)
    store32(load64(state + EXCEPTION_INDEX), PAGE_FAULT)
    return 1


def is_plain(state: int) -> int:
    """Return 1 if the 64-bit instruction at RIP makes no access but as the program that it is part
    of: no descriptor is loaded, no gate passed, no port used (SDM 3A 4.6.1)."""
    env = load64(state + ENV)
    rip = load64(env + _RIP)
    if load32(env + _HFLAGS) & _CS64 == 0 or rip & 0xFFF > 0xFF0:
        return 0
    at = reach(state, rip, 0, 1)
    if at == 0:
        return 0
    last = at + 12
    while at < last:
        byte = load8(at)
        # Prefixes: operand and address size, REP, LOCK, segments, REX.
        legacy = byte & 0xFE == 0x66 or byte & 0xFE == 0xF2 or byte == 0xF0
        segment = byte & 0xE7 == 0x26 or byte & 0xFE == 0x64
        if legacy or segment or byte & 0xF0 == 0x40:
            at += 1
            continue
        if byte == 0x0F:
            byte = load8(at + 1)
            extends = byte & 0xF6 == 0xB6  # MOVZX, MOVSX
            vector = byte & 0xF8 == 0x10 or byte & 0xF8 == 0x28 or byte & 0xFE == 0x6E
            return 1 if extends or vector or byte == 0x7F or byte & 0xF0 == 0x40 else 0
        if byte == 0xFF:
            form = (load8(at + 1) >> 3) & 7
            return 0 if form == 3 or form == 5 else 1  # far CALL and JMP
        arithmetic = (byte < 0x40 and byte & 7 < 4) or byte & 0xFC == 0x80
        moves = byte & 0xFC == 0x88 or byte & 0xFE == 0xC6 or byte & 0xF0 == 0x50 or byte == 0x63
        others = byte & 0xFC == 0x84 or byte & 0xFE == 0xF6 or byte & 0xFC == 0xD0
        strings = byte & 0xFC == 0xA4 or byte & 0xFE == 0xAA or byte & 0xFC == 0xAC
        calls = byte == 0xE8 or byte & 0xFE == 0xC2
        return 1 if arithmetic or moves or others or strings or calls else 0
    return 0


def reach(state: int, gva: int, kind: int, user: int) -> int:
    """Return the host address of guest memory that may be read (``kind`` 0) or written (1) without
    telling anybody, or 0."""
    answer = hit(load64(state + HIT_BLOCK), gva, kind, user)
    if answer == 0 or answer & 8 != 0:
        return 0
    gpa = (answer & 0x000F_FFFF_FFFF_F000) | (gva & 0xFFF)
    at = state + RAM
    while at < state + NOTED:
        if load64(at) <= gpa and gpa < load64(at + 8):
            return gpa + load64(at + 16)
        at += 24
    return 0


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


_NOTHING_STEADY = memoryview(bytes(STEADY_ENTRIES * STEADY_ENTRY)).cast("Q")


class StateBlock:
    """One vCPU's state block."""

    def __init__(self) -> None:
        self._memory = (ctypes.c_uint64 * (STATE_BYTES // 8))()
        self.address = ctypes.addressof(self._memory)
        self.words = memoryview(self._memory).cast("B").cast("Q")
        self._steady = self.words[STEADY // 8 :]

    def note_steady(self, gpa: int, size: int, value: int) -> None:
        """Let compiled code answer this read of a device from now on; see :func:`forget_steady`."""
        at = (gpa >> 4) % STEADY_ENTRIES * 2
        self._steady[at], self._steady[at + 1] = gpa << 4 | size, value

    def forget_steady(self) -> None:
        """Have every device read by Python again."""
        self._steady[:] = _NOTHING_STEADY
