# SPDX-License-Identifier: GPL-2.0-or-later
"""Which writes tell the MMU that their frame is no page table any more."""

from __future__ import annotations

import pytest

from mmu.api import MAP_READ, MAP_TRAP, MAP_WRITE

from .machine_double import DATA0, Rig

FRAME = 0x6000


@pytest.fixture
def rig():
    """The frame at 0x6000 is a table to the MMU until it is told otherwise; `told` keeps that."""
    rig = Rig()
    plain = rig.mmu.answer
    rig.told = []

    def answer(cpu, gva, access):
        if gva >> 12 == FRAME >> 12 and access & 2 and not rig.told:
            return FRAME | MAP_READ | MAP_WRITE | MAP_TRAP
        return plain(cpu, gva, access)

    def reused(gpa):
        rig.told.append(gpa)
        return True

    rig.mmu.answer = answer
    rig.mmu.reused = reused
    yield rig
    rig.close()


# mov dword ptr [0x6100],1; hlt
STORE = "c7050061000001000000f4"
CODES = {
    "store": (STORE, False),
    # mov esp,0x6800; push eax; hlt
    "push": ("bc00680000 50 f4", True),
    # mov esp,0x6800; call +0; hlt
    "call": ("bc00680000 e800000000 f4", True),
    # mov esp,0x7000; push eax: the page below the pointer
    "first push of a page": ("bc00700000 50 f4", True),
    # mov esp,0x6000; mov [0x6100],1: the stack ends here and grows downward
    "store above the stack": ("bc00600000" + STORE, False),
    # mov edi,0x6000; mov ecx,1024; rep stosd
    "rep stosd": ("bf00600000 b900040000 f3ab f4", True),
    "rep stosb": ("bf00600000 b900100000 f3aa f4", True),
    # mov ecx,8
    "short rep stosd": ("bf00600000 b908000000 f3ab f4", False),
    "stosd": ("bf00600000 b900040000 ab f4", False),
}


@pytest.mark.parametrize(("code", "told"), CODES.values(), ids=CODES)
def test_of_a_supervisor(rig, code, told):
    rig.flat32(code)
    rig.tables()
    rig.run()
    assert rig.told == ([FRAME] if told else [])


def test_of_user_mode(rig):
    rig.user("spin")
    rig.put(0x1000, STORE[:-2] + "ebfe")
    rig.run(50)
    assert rig.told == [FRAME]
    assert rig.memory.read(0x6100, 4) == 1


def test_of_the_processor(rig):
    """A stack frame for an exception, and there is no push at RIP."""
    rig.flat32("bc00680000 0f0b")
    rig.tables()
    rig.run()
    assert rig.told == [FRAME]
    assert rig.memory.read(0x67F8, 4) & 0xFFFF == rig.regs.cs.selector != DATA0


def test_the_store_that_told_is_done(rig):
    rig.flat32(CODES["rep stosd"][0])
    rig.tables()
    rig.regs.rax = 0x55555555
    rig.run()
    assert rig.memory.read_block(FRAME, 0x1000) == b"\x55" * 0x1000


def test_devices_are_not_asked_about(rig):
    rig.memory.add_mmio(0x40_0000, 0x1000, rig.port)
    rig.flat32("bc00084000 50 f4")
    rig.tables()
    rig.run()
    assert rig.told == []
