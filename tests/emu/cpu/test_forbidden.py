# SPDX-License-Identifier: GPL-2.0-or-later
"""What the translator must not see: LOCK where it may not stand, VEX, XBEGIN, XOP."""

from __future__ import annotations

import pytest

from emu.cpu.forbidden import is_forbidden


def judge(code: str, bits: int = 64, *, protected: bool = True, has=lambda name: True):
    return is_forbidden(bytes.fromhex(code).ljust(15, b"\x90"), bits, protected=protected, has=has)


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        pytest.param("f00fa3c0", True, id="BT register"),
        pytest.param("f00fa307", True, id="BT memory"),
        pytest.param("f00fab07", False, id="BTS memory"),
        pytest.param("f00fabc7", True, id="BTS register"),
        pytest.param("f00fba2701", True, id="BT memory, immediate"),
        pytest.param("f00fba2f01", False, id="BTS memory, immediate"),
        pytest.param("f00fbaff01", True, id="BTC register, immediate"),
        pytest.param("0fa3c0", False, id="BT without LOCK"),
        pytest.param("f0ff07", False, id="INC memory"),
        pytest.param("f0ffc0", True, id="INC register"),
        pytest.param("f03907", True, id="CMP"),
        pytest.param("f0833f00", True, id="CMP, immediate"),
        pytest.param("f0830701", False, id="ADD, immediate"),
        pytest.param("f08707", False, id="XCHG"),
        pytest.param("f00fc70f", False, id="CMPXCHG8B"),
        pytest.param("f0f4", True, id="HLT"),
        pytest.param("f090", True, id="NOP"),
        pytest.param("f00f22c0", True, id="MOV CR"),
        pytest.param("2ef0660fa3c0", True, id="LOCK between other prefixes"),
        pytest.param("c7f800000000", True, id="XBEGIN"),
        pytest.param("c6f800", True, id="XABORT"),
        pytest.param("c60700", False, id="MOV"),
        pytest.param("8fc8", True, id="XOP"),
        pytest.param("0f723600", True, id="PSLLD memory"),
        pytest.param("660f72f601", False, id="PSLLD register"),
        pytest.param("0f5007", True, id="MOVMSKPS memory"),
        pytest.param("0f50c7", False, id="MOVMSKPS register"),
        pytest.param("f30fd607", True, id="MOVQ2DQ memory"),
        pytest.param("f20fd6c7", False, id="MOVDQ2Q register"),
        pytest.param("660fd607", False, id="MOVQ memory"),
        pytest.param("0f78c0", True, id="VMREAD"),
        pytest.param("660f78c00102", True, id="EXTRQ"),
        pytest.param("0f7900", True, id="VMWRITE"),
        pytest.param("660f79c1", True, id="EXTRQ of a register"),
        pytest.param("f20f79c1", True, id="INSERTQ of a register"),
        pytest.param("8f07", False, id="POP"),
    ],
)
def test_in_every_mode(code: str, forbidden: bool, bits: int) -> None:
    assert judge(code, bits) is forbidden


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        pytest.param("c5f877", True, id="VZEROUPPER"),
        pytest.param("c5f805", True, id="VEX and SYSCALL's opcode"),
        pytest.param("c4e270f2c0", False, id="ANDN"),
        pytest.param("c4e274f2c0", True, id="ANDN with VEX.L"),
        pytest.param("66c4e270f2c0", True, id="66 before VEX"),
        pytest.param("48c4e270f2c0", True, id="REX before VEX"),
        pytest.param("c4e278f3c8", False, id="BLSR"),
        pytest.param("c4e278f3c0", True, id="group 17, reg 0"),
        pytest.param("c4e37bf0c001", False, id="RORX"),
        pytest.param("c4e270f6c0", True, id="MULX without F2"),
    ],
)
def test_vex(code: str, forbidden: bool) -> None:
    assert judge(code) is forbidden
    assert judge(code, has=lambda name: False)


@pytest.mark.parametrize(
    ("bits", "protected", "code", "forbidden"),
    [
        pytest.param(32, True, "c507", False, id="LDS"),
        pytest.param(32, True, "c407", False, id="LES"),
        pytest.param(32, True, "c5f877", True, id="VEX in 32-bit code"),
        pytest.param(16, False, "c5f877", True, id="LDS of a register in real mode"),
        pytest.param(16, False, "c407", False, id="LES in real mode"),
        pytest.param(32, True, "f0c507", True, id="LOCK LDS"),
        pytest.param(32, True, "48f00fa3c0", False, id="DEC, and then LOCK BT"),
    ],
)
def test_outside_64_bit_mode(bits: int, protected: bool, code: str, forbidden: bool) -> None:
    assert judge(code, bits, protected=protected) is forbidden


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        pytest.param("f0", None, id="LOCK alone"),
        pytest.param("f00f", None, id="opcode cut off"),
        pytest.param("f00fba", None, id="ModRM cut off"),
        pytest.param("c5", None, id="VEX cut off"),
        pytest.param("6690", False, id="enough"),
        pytest.param("f0" * 13 + "0fa3c0", False, id="16 bytes: #GP"),
    ],
)
def test_at_the_end_of_a_page(code: str, answer: bool | None) -> None:
    assert is_forbidden(bytes.fromhex(code), 64, protected=True, has=bool) is answer
