# SPDX-License-Identifier: GPL-2.0-or-later
"""Operands of the instructions that are taken over, and REX prefixes that do not count."""

from __future__ import annotations

import pytest

from emu.cpu.decode import instruction_length, memory_operand_address
from emu.cpu.slice import Exit

from .machine_double import Rig


class Registers:
    """Each register holds its number times 0x1111; FS starts at 0x40000."""

    rip = 0x1000

    def gpr(self, number: int) -> int:
        return 0x1111 * number

    def segment_base(self, number: int) -> int:
        return 0x1_0000 * number


class Cpu:
    regs = Registers()

    def __init__(self, bits: int) -> None:
        self.bits = bits


@pytest.mark.parametrize(
    ("code", "bits", "address"),
    [
        pytest.param("0f013d10000000", 64, 0x1017, id="RIP-relative"),
        pytest.param("670f013d10000000", 64, 0x1018, id="EIP-relative"),
        pytest.param("670f013d00e0ffff", 64, 0xFFFF_F008, id="EIP-relative wraps at 32 bits"),
        pytest.param("0f013d00e0ffff", 64, 0xFFFF_FFFF_FFFF_F007, id="RIP-relative at 64"),
        pytest.param("64670f013d10000000", 64, 0x4_1019, id="EIP-relative in FS"),
        pytest.param("482e0f013b", 64, 3 * 0x1111, id="a REX that does not count"),
        pytest.param("410f013b", 64, 11 * 0x1111, id="a REX that counts"),
        pytest.param("0f013b", 32, 0x3_0000 + 3 * 0x1111, id="DS in 32-bit code"),
        pytest.param("0f017d00", 32, 0x2_0000 + 5 * 0x1111, id="EBP is in SS"),
        pytest.param("2e0f017d00", 32, 0x1_0000 + 5 * 0x1111, id="override"),
        pytest.param("0f0138", 16, 0x3_0000 + 9 * 0x1111, id="[bx+si]"),
        pytest.param("6e", 32, 0x3_0000 + 6 * 0x1111, id="OUTSB"),
        pytest.param("646c", 32, 7 * 0x1111, id="INSB has no override"),
        pytest.param("0f20c0", 64, None, id="none"),
        pytest.param("8ed8", 64, None, id="register"),
    ],
)
def test_memory_operand_address(code: str, bits: int, address: int | None) -> None:
    assert memory_operand_address(bytes.fromhex(code), Cpu(bits)) == address


def test_no_instruction_has_no_length() -> None:
    assert instruction_length(b"\x0f", Cpu(64)) == 0


@pytest.fixture(name="rig")
def make_rig():
    rig = Rig()
    rig.long("nmi twice")
    yield rig
    rig.close()


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("48660f32", id="RDMSR"),
        pytest.param("482e0f22d8", id="MOV CR3"),
        pytest.param("48660f20c0", id="MOV from CR0"),
        pytest.param("482e440f22c0", id="MOV CR8"),
        pytest.param("482e0f23c0", id="MOV DR"),
        pytest.param("482e0f0138", id="INVLPG"),
        pytest.param("670f013d00000000", id="INVLPG, EIP-relative"),
        pytest.param("482e0fa2", id="CPUID"),
        pytest.param("482e0f31", id="RDTSC"),
        pytest.param("48f390", id="PAUSE"),
        pytest.param("48660fc7f0", id="RDRAND"),
    ],
)
def test_execution_goes_on_behind_the_instruction(rig: Rig, code: str) -> None:
    rig.put(0x1000, code + "f4")
    rig.regs.rcx = 0xC000_0080
    rig.regs.rax = 0
    for _ in range(3):
        if rig.run() is Exit.HALT:
            break
    assert (rig.regs.rip, rig.events) == (0x1000 + len(code) // 2 + 1, [])


def test_a_rex_that_does_not_count_names_no_register(rig: Rig) -> None:
    rig.put(0x1000, "492e0f22d8f4")  # with REX.B, were it one: R8
    rig.regs.rax, rig.regs.r8 = 0x5000, 0x6000
    assert rig.run() is Exit.HALT
    assert rig.regs.cr3 == 0x5000


def test_syscall_with_a_rex_that_does_not_count(rig: Rig) -> None:
    from emu.cpu import hidden as H

    rig.put(0x1000, "482e0f05")
    rig.put(0x2800, "f4")
    q = rig.cpu.hidden.q
    q[H.LSTAR_Q], q[H.STAR_Q] = 0x2800, 0x38 << 32
    assert rig.run() is Exit.HALT
    assert (rig.regs.rip, rig.regs.rcx) == (0x2801, 0x1004)
