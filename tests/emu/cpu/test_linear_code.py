# SPDX-License-Identifier: GPL-2.0-or-later
"""The processor's own look at linear memory: what it may remember of code, and for how long."""

from __future__ import annotations

import pytest

from emu.cpu.linear import LinearMemory
from mmu.api import MAP_EXEC, MAP_READ
from mmu.memory import Memory

CODE, OTHER = 0x5000, 0x6000


class MmuDouble:
    """Maps every page to one frame, and counts how often it is asked."""

    name = "double"

    def __init__(self):
        self.version = 0
        self.frame = CODE
        self.asked = 0
        self.is_kept = True

    def translate(self, cpu, gva, access):
        self.asked += 1
        return self.frame | MAP_READ | MAP_EXEC

    def keeps(self, cpu, gva):
        return self.is_kept


@pytest.fixture
def world():
    memory = Memory()
    memory.add_ram(0, 1 << 16)
    memory.write_block(CODE, b"\x90" * 16, "loader")
    memory.write_block(OTHER, b"\xcc" * 16, "loader")
    mmu = MmuDouble()
    linear = LinearMemory(0, mmu, memory)
    linear.begin()
    return linear, mmu, memory


def code(linear, space):
    linear.begin()
    return linear.read_code(0x1000, 1, False, space)


def test_code_is_found_again_in_its_address_space(world):
    linear, mmu, _ = world
    assert code(linear, 0xA000) == b"\x90"
    mmu.frame = OTHER
    linear.flush()
    assert code(linear, 0xB000) == b"\xcc"
    linear.flush()
    asked = mmu.asked
    assert code(linear, 0xA000) == b"\x90"
    assert mmu.asked == asked


def test_its_bytes_are_read_anew(world):
    linear, _, memory = world
    code(linear, 0xA000)
    linear.flush()
    memory.write_block(CODE, b"\xf4", "debugger")
    assert code(linear, 0xA000) == b"\xf4"


def test_nothing_outlives_a_translation_taken_back(world):
    linear, mmu, _ = world
    code(linear, 0xA000)
    mmu.frame = OTHER
    mmu.version += 1
    assert code(linear, 0xA000) == b"\xcc"


@pytest.mark.parametrize("why", ["no space of its own", "a table out of sync"])
def test_some_code_is_asked_for_after_every_flush(world, why):
    linear, mmu, _ = world
    mmu.is_kept = why == "no space of its own"
    space = 0 if mmu.is_kept else 0xA000
    code(linear, space)
    mmu.frame = OTHER
    linear.flush()
    assert code(linear, space) == b"\xcc"
