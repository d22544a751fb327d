# SPDX-License-Identifier: GPL-2.0-or-later
"""The processor's own accesses, over a live shadow MMU."""

from __future__ import annotations

import pytest

from emu.cpu.linear import LinearMemory
from mmu.testing.sdm import RW, A, D, P
from tests.mmu.rig import Rig

DATA, STACK, OTHER = 0x40000000, 0x80000000, 0xC0000000
KERNEL = P | RW | A | D


@pytest.fixture(params=["flushes seen", "flushes not seen"])
def machine(request):
    """A rig, its tables, and linear memory that hears of flushes or has the version alone."""
    rig = Rig("shadow")
    tables = rig.tables("4-level")
    tables.map(DATA, 0x5000, KERNEL)
    leaf = tables.gpa_of_entry(DATA, 1)
    tables.map(STACK, leaf & ~0xFFF, KERNEL)
    tables.map(OTHER, 0x6000, KERNEL)
    rig.enter(tables)
    linear = LinearMemory(0, rig.mmu, rig.memory)
    if request.param == "flushes seen":
        rig.tlb.on_flush = lambda cpu: linear.flush()
    return rig, tables, linear


def test_a_staged_write_is_told_if_its_frame_became_a_table_meanwhile(machine):
    """A push goes over a page table that only the next push of the same event brings into use."""
    rig, tables, linear = machine
    leaf = tables.gpa_of_entry(DATA, 1)
    linear.begin()
    linear.stage(STACK | leaf & 0xFFF, 8, 0x6000 | KERNEL)
    linear.stage(DATA, 8, 0x1234)
    assert rig.is_protected(leaf >> 12)
    linear.commit()
    assert tables.entry(DATA, 1) == 0x6000 | KERNEL
    rig.settle()
    rig.invlpg(DATA)
    assert rig.may(DATA) == 0x6000


def test_writes_that_nothing_came_between_are_not_told(machine):
    """Else every interrupt would pay for telling the MMU of its stack frame."""
    rig, _, linear = machine
    for _ in range(2):
        linear.begin()
        linear.stage(OTHER, 8, 0x1234)
        linear.commit()
    rig.memory.listeners.append(lambda *what: pytest.fail(f"told: {what}"))
    linear.begin()
    linear.stage(OTHER + 8, 8, 0x5678)
    linear.commit()
    assert rig.memory.read(0x6008, 8) == 0x5678
