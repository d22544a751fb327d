# SPDX-License-Identifier: GPL-2.0-or-later
"""LGDT, LIDT and LTR: what the processor refuses and the engine would take (SDM 2A)."""

from __future__ import annotations

import pytest

from emu.cpu.slice import Exit

from .machine_double import TSS_SELECTOR, Rig

GP, PF, SS, DB = 13, 14, 12, 1
OPERAND = 0x7000


@pytest.fixture(name="rig")
def make_rig():
    rig = Rig()
    yield rig
    rig.close()


def load(rig: Rig, code: str, base: int, limit: int = 0x5FF) -> None:
    """Run 64-bit `code` with RSI and R9 at an operand of ten bytes."""
    rig.long("nmi twice")
    rig.put(0x1000, code + "f4")
    rig.put(OPERAND, limit.to_bytes(2, "little") + base.to_bytes(8, "little"))
    rig.regs.rsi = rig.regs.r9 = OPERAND
    assert rig.run() is Exit.HALT


@pytest.mark.parametrize(
    ("code", "table"),
    [
        pytest.param("0f0116", "gdtr", id="lgdt"),
        pytest.param("0f011e", "idtr", id="lidt"),
        pytest.param("410f0111", "gdtr", id="lgdt [r9]"),
        pytest.param("660f0116", "gdtr", id="lgdt with 66"),
        pytest.param("480f011e", "idtr", id="lidt with REX.W"),
    ],
)
def test_a_table_at_a_canonical_base(rig: Rig, code: str, table: str) -> None:
    load(rig, code, 0xFFFF_8000_0000_3000, 0x123)
    assert not rig.events
    assert getattr(rig.regs, table) == (0xFFFF_8000_0000_3000, 0x123)
    assert rig.regs.rip == 0x1001 + len(code) // 2


@pytest.mark.parametrize("base", [1 << 56, 0xFE00 << 48, 0x8000 << 48])
@pytest.mark.parametrize(("code", "table"), [("0f0116", "gdtr"), ("0f011e", "idtr")])
def test_a_table_at_a_base_that_is_not_canonical(rig: Rig, code, table, base) -> None:
    rig.long("nmi twice")
    before = getattr(rig.regs, table)
    load(rig, code, base)
    assert rig.events == [(GP, 0x1000)]
    assert rig.cpu.record.recent[0].event.error_code == 0
    assert getattr(rig.regs, table) == before


def test_an_operand_that_faults(rig: Rig) -> None:
    rig.long("nmi twice")
    rig.put(0x1000, "0f0116f4")
    rig.mmu.faults[6] = 0
    rig.regs.rsi = 0x5FFC
    assert rig.run() is Exit.HALT
    assert rig.events == [(PF, 0x1000)]
    assert rig.regs.cr2 == 0x6000


@pytest.mark.parametrize(
    ("code", "vector"), [("0f0116", GP), ("0f015500", SS)], ids=["by rsi", "by rbp"]
)
def test_an_operand_that_is_not_canonical(rig: Rig, code: str, vector: int) -> None:
    rig.long("nmi twice")
    rig.put(0x1000, code + "f4")
    rig.regs.rsi = rig.regs.rbp = 1 << 60
    assert rig.run() is Exit.HALT
    assert rig.events == [(vector, 0x1000)]


def test_lgdt_traps_behind_itself(rig: Rig) -> None:
    rig.long("nmi twice")
    rig.put(0x1000, "0f0116 90 f4")
    rig.put(OPERAND, (8 * 16).to_bytes(2, "little") + (0x4000).to_bytes(8, "little"))
    rig.regs.rsi = OPERAND
    rig.regs.rflags |= 0x100
    assert rig.run() is Exit.HALT
    assert rig.events == [(DB, 0x1003)]


def test_lgdt_of_32_bit_code_keeps_to_the_engine(rig: Rig) -> None:
    rig.protected("nmi twice")
    rig.put(0x1000, "0f0116f4")
    rig.put(OPERAND, bytes.fromhex("2301 785634f2"))
    rig.regs.rsi = OPERAND
    assert rig.run() is Exit.HALT
    assert not rig.events
    assert rig.regs.gdtr == (0xF234_5678, 0x123)


@pytest.mark.parametrize("mode", ["protected", "long"])
@pytest.mark.parametrize(
    ("code", "selector"),
    [
        pytest.param("0f00d8", 0, id="ltr ax, 0"),
        pytest.param("0f00d8", 3, id="ltr ax, 3"),
        pytest.param("0f001e", 0, id="ltr [rsi]"),
    ],
)
def test_ltr_of_a_null_selector(rig: Rig, mode: str, code: str, selector: int) -> None:
    getattr(rig, mode)("nmi twice")
    rig.put(0x1000, code + "f4")
    rig.put(OPERAND, selector.to_bytes(2, "little"))
    rig.regs.rax, rig.regs.rsi = 0x1234_0000 | selector, OPERAND
    before = rig.regs.tr
    assert rig.run() is Exit.HALT
    assert rig.events == [(GP, 0x1000)]
    assert rig.cpu.record.recent[0].event.error_code == 0
    assert rig.regs.tr == before


@pytest.mark.parametrize("mode", ["protected", "long"])
@pytest.mark.parametrize("code", ["0f00d8", "0f001e"], ids=["ltr ax", "ltr [rsi]"])
def test_ltr_of_a_tss(rig: Rig, mode: str, code: str) -> None:
    getattr(rig, mode)("nmi twice")
    rig.put(0x1000, code + "f4")
    rig.put(OPERAND, TSS_SELECTOR.to_bytes(2, "little"))
    rig.put(0x4000 + TSS_SELECTOR + 5, "89")
    rig.regs.rax, rig.regs.rsi = TSS_SELECTOR, OPERAND
    assert rig.run() is Exit.HALT
    assert not rig.events
    assert rig.regs.tr.selector == TSS_SELECTOR
    assert rig.memory.read(0x4000 + TSS_SELECTOR + 5, 1) == 0x8B


def test_ltr_of_r9(rig: Rig) -> None:
    rig.long("nmi twice")
    rig.put(0x1000, "410f00d9f4")
    rig.regs.rcx, rig.regs.r9 = TSS_SELECTOR, 0
    assert rig.run() is Exit.HALT
    assert rig.events == [(GP, 0x1000)]


def test_a_base_is_checked_from_when_long_mode_is_entered(rig: Rig) -> None:
    """32-bit code sets CR0.PG with EFER.LME, jumps to 64-bit code, and loads a GDTR there."""
    rig.protected("nmi twice")
    rig.put(0x1000, "0f22c0 ea0011000038 00")
    rig.put(0x1100, "0f0116 f4")
    rig.put(OPERAND, bytes(2) + (1 << 60).to_bytes(8, "little"))
    rig.regs.cr4, rig.regs.efer = 0x20, 0x100
    rig.regs.rax, rig.regs.rsi = 0x8000_0011, OPERAND
    before = rig.regs.gdtr
    rig.run()
    assert rig.events[0] == (GP, 0x1100)
    assert rig.regs.gdtr == before
