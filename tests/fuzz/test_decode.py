# SPDX-License-Identifier: GPL-2.0-or-later
"""The decoder fuzzer: a sample of the sweep, what a case is, and a process that dies."""

from __future__ import annotations

import subprocess

import pytest

from emu.fuzz import decode
from emu.fuzz.case import Difference

SAMPLE = 24


@pytest.mark.parametrize("number", range(SAMPLE))
def test_a_sample_of_the_sweep_finds_nothing(number: int) -> None:
    result = decode.run(0, number, {})
    assert result.failure is None
    assert result.steps == 256


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(16))
def test_the_whole_sweep_finds_nothing(part: int) -> None:
    for number in range(part, decode.SWEEP, 16):
        assert decode.run(1, number, {}).failure is None


def test_a_sweep_has_every_mode_ring_and_opcode() -> None:
    seen = set()
    for number in range(decode.SWEEP):
        case = decode.make(0, number, {"steps": 0})
        seen.add((case["mode"], case["ring"], case["opcode"]))
    assert len(seen) == decode.SWEEP


def test_a_short_run_sees_every_mode() -> None:
    cases = [decode.make(0, number, {}) for number in range(48)]
    assert {case["mode"] for case in cases} == set(decode.MODES)


def test_a_case_is_made_from_its_number_alone() -> None:
    assert decode.make(3, 5, {}) == decode.make(3, 5, {"mmu": "shadow"})
    assert decode.make(3, 5, {}) != decode.make(4, 5, {})


def test_a_replay_runs_in_a_process_of_its_own() -> None:
    case = decode.make(0, 1, {})
    case["steps"] = case["steps"][:4]
    assert decode.replay(case) is None


def test_a_process_that_dies_is_told_with_the_bytes(monkeypatch) -> None:
    case = decode.make(0, 1, {})
    died = subprocess.CompletedProcess([], -6, stdout="0\n1\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: died)
    failure = decode.replay(case)
    assert failure is not None
    assert failure.kind == "process died"
    assert case["steps"][1] in failure.message


def test_another_length_than_ours_is_a_difference() -> None:
    class Bare:
        mode, bits, has_vex = "long", 64, True

        def execute(self, code: bytes) -> int:
            return 3

    with pytest.raises(Difference, match="wanted 1"):
        decode._check(Bare(), bytes.fromhex("90" * 15))
