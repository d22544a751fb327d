# SPDX-License-Identifier: GPL-2.0-or-later
"""The decoder of prefixes, operands and lengths, against capstone and the SDM's tables."""

from __future__ import annotations

import random

import pytest

from emu.cpu.encoding import RIP, decode, prefixes_of

capstone = pytest.importorskip("capstone")

_PREFIXES = b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3" + bytes(range(0x40, 0x50))
_MODES = {16: "CS_MODE_16", 32: "CS_MODE_32", 64: "CS_MODE_64"}


def _is_known(mnemonic: str, code: bytes, bits: int) -> bool:
    """Return whether capstone is wrong, or right about an instruction that Intel has not got."""
    # UD0 and UD1 have a ModRM byte (SDM 2B, UD). EXTRQ and INSERTQ are SSE4a, AMD's.
    if mnemonic in ("ud0", "ud1", "extrq", "insertq"):
        return True
    # Near branches ignore 66 in 64-bit code; RET's immediate has 16 bits (SDM 2B, Jcc, RET).
    return bits == 64 and 0x66 in code and mnemonic.startswith(("j", "call", "ret"))


def _disagreements(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    decoders = {
        bits: capstone.Cs(capstone.CS_ARCH_X86, getattr(capstone, name))
        for bits, name in _MODES.items()
    }
    found = []
    for _ in range(count):
        bits = rng.choice((16, 32, 64))
        prefixes = bytes(rng.choice(_PREFIXES) for _ in range(rng.choice((0, 0, 1, 2, 3))))
        code = prefixes + rng.choice((b"", b"", b"\x0f")) + rng.randbytes(18)
        theirs = next(decoders[bits].disasm_lite(code, 0, 1), None)
        if theirs is None:
            continue
        _, size, mnemonic, operands = theirs
        ours = decode(code, bits)
        length = 0 if ours is None else ours.length
        if length != size and not _is_known(mnemonic.split()[-1], code, bits):
            found.append(f"{bits} {code.hex()}: {length}, {mnemonic} {operands} has {size}")
    return found


def test_lengths_agree_with_capstone() -> None:
    assert _disagreements(1, 30_000) == []


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(2, 10))
def test_lengths_agree_with_capstone_on_millions(seed: int) -> None:
    assert _disagreements(seed, 500_000) == []


@pytest.mark.parametrize(
    ("code", "bits", "length", "rex"),
    [
        pytest.param("0f20c0", 64, 0, 0, id="none"),
        pytest.param("410f20c0", 64, 1, 0x41, id="REX"),
        pytest.param("48660f32", 64, 2, 0, id="REX before 66 does not count"),
        pytest.param("482e440f22c0", 64, 3, 0x44, id="the last REX counts"),
        pytest.param("48490f20c0", 64, 2, 0x49, id="REX after REX"),
        pytest.param("66f2410f20c0", 64, 3, 0x41, id="REX after legacy prefixes"),
        pytest.param("480f20c0", 32, 0, 0, id="DEC in 32-bit code"),
    ],
)
def test_a_rex_prefix_counts_only_before_the_opcode(
    code: str, bits: int, length: int, rex: int
) -> None:
    found = prefixes_of(bytes.fromhex(code), bits)
    assert (found.length, found.rex) == (length, rex)


@pytest.mark.parametrize(
    ("code", "bits", "base", "index", "scale", "displacement", "width"),
    [
        pytest.param("0f0138", 64, 0, None, 1, 0, 8, id="[rax]"),
        pytest.param("410f017c8d10", 64, 13, 1, 4, 0x10, 8, id="[r13+rcx*4+16]"),
        pytest.param("0f013d10000000", 64, RIP, None, 1, 0x10, 8, id="[rip+16]"),
        pytest.param("670f013df0ffffff", 64, RIP, None, 1, -16, 4, id="[eip-16]"),
        pytest.param("0f013c2500100000", 64, None, None, 1, 0x1000, 8, id="[0x1000]"),
        pytest.param("0f013d00100000", 32, None, None, 1, 0x1000, 4, id="[0x1000], 32 bits"),
        pytest.param("0f0138", 16, 3, 6, 1, 0, 2, id="[bx+si]"),
        pytest.param("0f013e3412", 16, None, None, 1, 0x1234, 2, id="[0x1234], 16 bits"),
        pytest.param("0f017e80", 16, 5, None, 1, -128, 2, id="[bp-128]"),
        pytest.param("420f013c20", 64, 0, 12, 1, 0, 8, id="[rax+r12]"),
    ],
)
def test_memory_operands(code, bits, base, index, scale, displacement, width) -> None:
    found = decode(bytes.fromhex(code), bits)
    assert found is not None
    assert found.length == len(code) // 2
    assert (found.base, found.scaled, found.scale) == (base, index, scale)
    assert (found.displacement, found.address_bytes) == (displacement, width)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("66" * 14 + "0f05", id="16 bytes"),
        pytest.param("0f01", id="ModRM missing"),
        pytest.param("0f013d0000", id="displacement cut off"),
        pytest.param("66", id="prefix alone"),
    ],
)
def test_what_is_no_whole_instruction(code: str) -> None:
    assert decode(bytes.fromhex(code), 64) is None


def test_control_registers_have_no_memory_form() -> None:
    found = decode(bytes.fromhex("0f2204"), 64)
    assert found is not None
    assert (found.length, found.is_memory) == (3, False)
