# SPDX-License-Identifier: GPL-2.0-or-later
"""RDRAND and RDSEED without the host, RDPMC without counters, and what stays undefined."""

from __future__ import annotations

import pytest

from emu.cpu.slice import Exit

from .machine_double import Rig

DB, UD, GP = 1, 6, 13
BEFORE = 0x1122_3344_5566_7788
ARITHMETIC = 0x8D5


@pytest.fixture(name="run")
def make_run():
    """Run hex code with every arithmetic flag but CF set and BEFORE in RAX and R9."""
    rigs = []

    def run(
        code: str, mode: str = "long", seed: int = 0, index: int = 0, flags: int = 0, **features
    ) -> Rig:
        rig = Rig(seed=seed, index=index, cpus=index + 1, features=features)
        rigs.append(rig)
        getattr(rig, mode)("nmi twice")
        rig.put(0x1000, code + "f4")
        rig.regs.rflags = 0x8D4 | flags
        rig.regs.rax = rig.regs.r9 = BEFORE
        assert rig.run() is Exit.HALT
        return rig

    yield run
    for rig in rigs:
        rig.close()


@pytest.mark.parametrize(
    ("code", "mode", "register", "kept"),
    [
        pytest.param("0fc7f0", "protected", "rax", 0, id="rdrand eax"),
        pytest.param("660fc7f0", "protected", "rax", BEFORE & ~0xFFFF, id="rdrand ax"),
        pytest.param("0fc7f8", "protected", "rax", 0, id="rdseed eax"),
        pytest.param("0fc7f0", "long", "rax", 0, id="rdrand eax in 64-bit code"),
        pytest.param("480fc7f0", "long", "rax", None, id="rdrand rax"),
        pytest.param("490fc7f9", "long", "r9", None, id="rdseed r9"),
        pytest.param("66410fc7f1", "long", "r9", BEFORE & ~0xFFFF, id="rdrand r9w"),
    ],
)
def test_operand_sizes(run, code: str, mode: str, register: str, kept: int | None) -> None:
    rig, other = run(code, mode), run(code, mode, seed=1)
    value = getattr(rig.regs, register)
    assert value not in (BEFORE, getattr(other.regs, register))
    size = 2 if code.startswith("66") else 8 if kept is None else 4
    assert value >> 8 * size == (kept or 0) >> 8 * size
    assert rig.regs.rflags & ARITHMETIC == 1  # CF: there was a number
    assert rig.regs.rip == 0x1000 + len(code) // 2 + 1
    assert not rig.events


def test_16_bit_code() -> None:
    rig = Rig()
    rig.real("0fc7f0 f4")
    rig.regs.rax = 0x5566_7788
    assert rig.run() is Exit.HALT
    assert rig.regs.rax >> 16 == 0x5566
    assert rig.regs.rax & 0xFFFF != 0x7788
    rig.close()


MANY = "480fc7f0 480fc7f3 480fc7f9 490fc7f1"  # rdrand rax, rbx; rdseed rcx; rdrand r9


def numbers(run, **options) -> list[int]:
    regs = run(MANY, **options).regs
    return [regs.rax, regs.rbx, regs.rcx, regs.r9]


def test_one_seed_one_stream(run) -> None:
    first = numbers(run)
    assert len(set(first)) == 4
    assert numbers(run) == first
    assert not set(first) & set(numbers(run, seed=1))
    assert not set(first) & set(numbers(run, index=1))


@pytest.mark.parametrize(
    ("code", "features"),
    [
        pytest.param("0fc7f0", {"rdrand": False}, id="no rdrand"),
        pytest.param("0fc7f8", {"rdseed": False}, id="no rdseed"),
        pytest.param("f00fc7f0", {}, id="lock rdrand"),
        pytest.param("f30fc7f0", {}, id="rep rdrand"),
        pytest.param("f30fc7f8", {}, id="rdpid: not there"),
        pytest.param("0fc7e8", {}, id="group 9, 5"),
        pytest.param("0fff", {}, id="ud0"),
        pytest.param("f00f33", {}, id="lock rdpmc"),
    ],
)
def test_undefined(run, code: str, features: dict[str, bool]) -> None:
    rig = run(code, **features)
    assert rig.events == [(UD, 0x1000)]
    assert rig.regs.rax == BEFORE


def test_rdpmc_of_no_counter_is_gp(run) -> None:
    assert run("0f33").events == [(GP, 0x1000)]


def test_cpuid_shows_what_the_engine_has_not(run) -> None:
    rig = run("b801000000 31c9 0fa2 89ce b807000000 31c9 0fa2")
    assert rig.regs.rsi >> 30 & 1
    assert rig.regs.rbx >> 18 & 1


def test_trap_flag_traps_behind(run) -> None:
    assert run("0fc7f0", "protected", flags=0x100).events[0] == (DB, 0x1003)
