# SPDX-License-Identifier: GPL-2.0-or-later
"""The clock of a few instructions: it is `count_block`, and tells compiled code's time."""

from __future__ import annotations

import ctypes
import re

import capstone
import pytest

from emu.bench.command import has_jit
from emu.cpu import blockclock, compiled, raw
from emu.cpu.blockclock import AARCH64, SYSTEM_V, WINDOWS, block_counter
from emu.errors import UsageError
from emu.machine import Machine
from guests import PASSED, load

needs_counter = pytest.mark.skipif(block_counter() is None, reason="not on this host")


def disassembled(code, **names):
    """Its instructions, with the argument registers called by their roles."""
    lines = []
    for one in capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(code, 0):
        text = f"{one.mnemonic} {one.op_str}"
        for register, role in names.items():
            text = re.sub(rf"\b{register}\b", role, text)
        lines.append(text)
    return lines


def test_both_texts_are_the_same_program():
    here = disassembled(SYSTEM_V, rcx="STATE", rdx="SIZE", edx="size", r8="REST", r8d="rest")
    there = disassembled(WINDOWS, r9="STATE", r8="SIZE", r8d="size", rdx="REST", edx="rest")
    assert here == there
    assert len(here) == 14


@needs_counter
@pytest.mark.parametrize(
    ("counter", "limit", "rest", "size"),
    [(0, 10, 0, 4), (5, 10, 3, 9), (9, 10, 0, 400), (10, 10, 1, 4), (0, 0, 0, 1), (3, 2, 2, 2)],
)
def test_it_does_what_count_block_does(counter, limit, rest, size):
    stopped = []
    stop = raw.STOP_FUNCTION(lambda uc: stopped.append(uc) or 0)
    results = []
    for hook in (raw.BLOCK_CALLBACK(block_counter()), compiled.count_block):
        state = compiled.StateBlock()
        words = state.words
        words[compiled.COUNTER // 8], words[compiled.LIMIT // 8] = counter, limit
        words[compiled.BYTES // 8] = rest
        words[compiled.STOP // 8] = ctypes.cast(stop, ctypes.c_void_p).value
        hook(0x1234, 0, size, state.address)
        results.append((words.tolist(), stopped.copy()))
        stopped.clear()
    assert results[0] == results[1]


@needs_counter
@pytest.mark.skipif(not has_jit(), reason="no compiled code without numba")
@pytest.mark.parametrize("name", ["hello", "ring3", "demand"])
def test_it_tells_the_time_of_compiled_code(name, monkeypatch):
    guest = load(name)
    times = []
    for jit in ("off", "on"):
        with Machine(guest.path, memory=guest.memory, jit=jit, clock="blocks") as machine:
            outcome = machine.run(timeout=60)
            assert outcome.exit_code == PASSED
            assert machine.serial.text == guest.expected
            times.append((outcome.instructions, machine.clock.now))
        monkeypatch.setattr(blockclock, "block_counter", lambda: None)
    assert times[0] == times[1]


def test_the_text_for_aarch64_is_the_same_program():
    lines = [
        f"{one.mnemonic} {one.op_str}".strip()
        for one in capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM).disasm(AARCH64, 0)
    ]
    assert lines == [
        "ldr x4, [x3]",
        "ldr x5, [x3, #8]",
        "cmp x4, x5",
        "b.ge #0x30",
        "mov w2, w2",
        f"ldr x6, [x3, #{compiled.BYTES:#x}]",
        "add x2, x2, x6",
        "and x6, x2, #3",
        f"str x6, [x3, #{compiled.BYTES:#x}]",
        "add x4, x4, x2, lsr #2",
        "str x4, [x3]",
        "ret",
        "mov x6, #1",
        f"str x6, [x3, #{compiled.STOPPED:#x}]",
        f"ldr x6, [x3, #{compiled.STOP:#x}]",
        "br x6",
    ]


def test_without_it_instructions_are_counted(monkeypatch):
    monkeypatch.setattr(blockclock, "block_counter", lambda: None)
    guest = load("hello")
    counts = []
    for clock in ("auto", "instructions"):
        with Machine(guest.path, memory=guest.memory, jit="off", clock=clock) as machine:
            assert machine.clock_kind == "instructions"
            counts.append(machine.run(timeout=60).instructions)
    assert counts[0] == counts[1]


def test_without_it_blocks_are_refused(monkeypatch):
    monkeypatch.setattr(blockclock, "block_counter", lambda: None)
    with pytest.raises(UsageError, match="cannot count blocks"):
        Machine(load("hello").path, jit="off", clock="blocks")
