# SPDX-License-Identifier: GPL-2.0-or-later
"""SYSCALL and SYSENTER refused and under a trap flag, and steps that the guest must not see."""

from __future__ import annotations

import pytest

from emu.cpu.slice import Exit

from .machine_double import CODE0, HANDLERS, IDT, Rig

PF, GP, UD, NMI, DB = 14, 13, 6, 2, 1


@pytest.fixture(name="rig")
def make_rig():
    rig = Rig()
    yield rig
    rig.close()


TF = 0x100


@pytest.mark.parametrize(
    ("name", "mode", "vector"),
    [
        pytest.param("sysenter", "user", GP, id="sysenter"),
        pytest.param("sysenter", "long", GP, id="sysenter, 64-bit"),
        pytest.param("syscall", "user", UD, id="syscall"),
        pytest.param("syscall", "long", UD, id="syscall, 64-bit"),
    ],
)
def test_a_refused_system_call_is_not_trapped(rig: Rig, name, mode, vector) -> None:
    """A fault leaves the instruction undone: TF is in its frame, and no #DB follows."""
    getattr(rig, mode)(name)
    rig.put(HANDLERS, "90 90 f4")
    rig.regs.efer &= ~1
    rig.regs.rflags |= TF
    dr6 = rig.regs.dr6
    assert rig.run() is Exit.HALT
    assert rig.events == [(vector, 0x1000)]
    assert rig.regs.dr6 == dr6
    width = 8 if mode == "long" else 4
    above = width if vector == GP else 0
    frame = [rig.memory.read(rig.regs.rsp + above + n * width, width) for n in (0, 2)]
    assert frame[0] == 0x1000
    assert frame[1] & TF


def test_sysenter_with_a_trap_flag_is_trapped_at_its_target(rig: Rig) -> None:
    """SDM 2B, SYSENTER: TF stays set, and the trap comes behind the instruction."""
    rig.user("sysenter")
    for index, value in ((0x174, 0x08), (0x175, 0x7000), (0x176, 0x1200)):
        rig.cpu.msrs.write(index, value)
    rig.regs.rflags |= TF
    assert rig.run() is Exit.HALT
    assert rig.events == [(DB, 0x1200)]


class StackSelector:
    """MMIO at 0x400000 that gives a stack selector and sends an NMI."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        rig.memory.add_mmio(0x40_0000, 0x1000, self)

    def read(self, offset, size):
        self._rig.cpu.nmi()
        return 0x10


@pytest.mark.parametrize(
    ("code", "vector"),
    [
        pytest.param("0f34", GP, id="sysenter refused"),
        pytest.param("0f05", UD, id="syscall refused"),
        pytest.param("0f05", None, id="syscall"),
        pytest.param("9c", None, id="pushf"),
    ],
)
def test_the_trap_flag_of_a_step_is_never_seen(rig: Rig, code: str, vector: int | None) -> None:
    """An NMI that comes in the shadow of MOV SS waits for one instruction, executed alone."""
    rig.long("nmi twice")
    StackSelector(rig)
    rig.put(0x1000, "8e142500004000" + code + "9090f4")
    rig.regs.rsp = 0x8000
    rig.regs.efer |= 1
    if vector == UD:
        rig.regs.efer &= ~1
    rig.cpu.msrs.write(0xC000_0081, 0x0038_0038 << 32)
    rig.cpu.msrs.write(0xC000_0082, 0x1100)
    rig.put(0x1100, "f4")
    assert rig.run() is Exit.HALT
    if vector is not None:
        assert rig.events == [(vector, 0x1007), (NMI, 0x2000)]
        flags = 0x8000 - 6 * 8 + 3 * 8
        assert not rig.memory.read(flags, 2) & TF
        return
    assert rig.events == [(NMI, 0x1100 if code == "0f05" else 0x1008)]
    flags = rig.regs.r11 if code == "0f05" else rig.memory.read(0x7FF8, 8)
    assert flags & 2
    assert not flags & TF


@pytest.mark.parametrize(("mode", "width"), [("protected", 4), ("long", 8)])
def test_pushf_before_a_page_that_is_not_there_has_no_trap_flag(rig: Rig, mode, width) -> None:
    getattr(rig, mode)("nmi twice")
    rig.put(0x1FFF, "9c")
    rig.put(0x6000, "f4")
    gate = 0x6000 | (0x38 if mode == "long" else CODE0) << 16 | 0xEE00 << 32
    rig.put(IDT, gate.to_bytes(2 * width, "little") * 16)
    rig.mmu.faults[2] = 0
    rig.regs.rip = 0x1FFF
    rig.regs.rsp = 0x8000
    assert rig.run() is Exit.HALT
    assert rig.events == [(PF, 0x2000)]
    assert not rig.memory.read(0x8000 - width, 2) & TF


def test_a_data_breakpoint_on_what_pushf_pushes(rig: Rig) -> None:
    rig.protected("nmi twice")
    rig.put(0x1000, "9c 90 f4")
    rig.cpu.debug.write(0, 0x7FFC)
    rig.cpu.debug.write(7, 0xD_0002)
    assert rig.run() is Exit.HALT
    assert rig.events == [(DB, 0x1001)]
    assert not rig.memory.read(0x7FFC, 4) & TF
