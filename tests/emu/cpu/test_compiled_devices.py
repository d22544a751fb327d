# SPDX-License-Identifier: GPL-2.0-or-later
"""Steady registers of devices: compiled code says what Python would, and takes as long."""

from __future__ import annotations

import pytest

from emu.bench.command import has_jit
from emu.cpu import compiled, raw
from emu.cpu.compiled_devices import DEVICE_READ, read_device
from emu.devices import lapic_page
from emu.machine import Machine

ID = 0xFEE0_0020

needs_jit = pytest.mark.skipif(not has_jit(), reason="no compiled code without numba")


# --- The text -------------------------------------------------------------------------------


@pytest.fixture(name="block")
def make_block():
    """A state block, and what was read by Python."""
    state = compiled.StateBlock()
    asked = []
    python = raw.MMIO_READ_CALLBACK(lambda uc, gpa, size, data: asked.append((gpa, size)) or 77)
    state.words[compiled.PYTHON_READ // 8] = raw.address_of(python)
    state.asked = asked
    state.keep = python
    return state


def spent(state):
    return state.words[compiled.COUNTER // 8], state.words[compiled.STALLED // 8]


def test_what_was_noted_is_said_again_and_takes_as_long(block):
    block.note_steady(ID, 4, 0x0100_0000)
    assert read_device(1, ID, 4, block.address) == 0x0100_0000
    assert spent(block) == (DEVICE_READ, DEVICE_READ)
    assert not block.asked


@pytest.mark.parametrize(
    ("gpa", "size"),
    [(ID, 1), (ID, 2), (ID + 1, 4), (ID + 0x1000, 4), (ID + 0x80, 4), (0, 4)],
    ids=["a byte", "two bytes", "another byte", "another page", "the same entry", "an empty entry"],
)
def test_all_else_is_read_by_python(block, gpa, size):
    block.note_steady(ID, 4, 0x0100_0000)
    assert read_device(1, gpa, size, block.address) == 77
    assert block.asked == [(gpa, size)]
    assert spent(block) == (0, 0)


def test_what_is_forgotten_is_read_by_python(block):
    block.note_steady(ID, 4, 0x0100_0000)
    block.forget_steady()
    assert read_device(1, ID, 4, block.address) == 77


def test_entries_do_not_reach_beyond_the_block(block):
    for gpa in range(0xFEE0_0000, 0xFEE0_1000, 16):
        block.note_steady(gpa, 4, 1)
    assert block.words[compiled.PYTHON_READ // 8] == raw.address_of(block.keep)
    assert len(block.words) * 8 == compiled.STATE_BYTES


# --- The whole ------------------------------------------------------------------------------


def moves(opcode, address):
    return f"{opcode} {address.to_bytes(4, 'little').hex()}"


READ_ID, WRITE_ID = moves("a1", ID), moves("a3", ID)
RESULTS = 0x500
SHOW, SHOW_TOO = moves("a3", RESULTS), moves("a3", RESULTS + 4)
# mov ecx,100; l: mov eax,[ID]; dec ecx; jnz l
LOOP = f"b964000000 {READ_ID} 49 75f8"
KERNELS = {
    "a loop": f"{LOOP} {SHOW}",
    "a store to it": f"{LOOP} b800000005 {WRITE_ID} {READ_ID} {SHOW}",
    "another size": f"{LOOP} 0fb605 {(ID + 3).to_bytes(4, 'little').hex()} {SHOW}",
    # mov ecx,0x1b; rdmsr; and ah,0xf7 (off); wrmsr
    "the APIC switched off": f"{LOOP} b91b000000 0f32 80e4f7 0f30 {READ_ID} {SHOW}",
    # ...; or ah,4 (x2APIC): memory shows it no more
    "the APIC switched to MSRs": f"{LOOP} b91b000000 0f32 80cc04 0f30 {READ_ID} {SHOW}",
    # ...; and eax,0xfff; or eax,0xfed10000: it is elsewhere now
    "the APIC moved": f"{LOOP} b91b000000 0f32 25ff0f0000 0d0000d1fe 0f30 {READ_ID} {SHOW}"
    + moves("a1", 0xFED1_0020)
    + SHOW_TOO,
}


def run(code, jit):
    machine = Machine(bytes.fromhex(code) + b"\xe6\xf4", format="flat32", jit=jit, clock="blocks")
    with machine:
        reads = []
        page = lapic_page._Page.read
        lapic_page._Page.read = lambda self, *at: reads.append(at) or page(self, *at)
        try:
            outcome = machine.run(timeout=60)
        finally:
            lapic_page._Page.read = page
        assert outcome.kind.name == "GUEST_EXIT", outcome
        shown = bytes(machine.memory[RESULTS : RESULTS + 8])
        return (shown, machine.clock.now, outcome.instructions, outcome.exit_code), len(reads)


@needs_jit
@pytest.mark.parametrize("name", KERNELS)
def test_with_and_without_compiled_code_is_the_same(name):
    with_code, reads = run(KERNELS[name], "on")
    without, all_reads = run(KERNELS[name], "off")
    assert with_code == without
    assert reads < 10 < all_reads
