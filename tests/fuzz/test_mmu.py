# SPDX-License-Identifier: GPL-2.0-or-later
"""The MMU fuzzer: finds nothing in what is sound, and what was planted in what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.fuzz import mmu
from emu.fuzz.case import read
from emu.fuzz.minimise import minimise

HERE = Path(__file__).parent
REPRODUCERS = sorted((HERE / "reproducers").glob("mmu-*.json"))


@pytest.mark.parametrize("plugin", ["shadow", "uncached"])
def test_nothing_is_found_in_a_few_cases(plugin):
    for number in range(6):
        result = mmu.run(2024, number, {"mmu": plugin})
        assert result.failure is None, result.failure.message


@pytest.mark.fuzz
def test_nothing_is_found_in_many_cases():
    for number in range(3000):
        result = mmu.run(2025, number, {})
        assert result.failure is None, result.failure.message


def test_a_case_is_made_of_seed_and_number_alone():
    first, again = (mmu.run(1, 3, {}) for _ in range(2))
    assert first == again
    assert mmu.run(1, 4, {}).steps != first.steps or mmu.run(1, 4, {}).counts != first.counts


def first_failure(plugin, seed=0, most=60):
    for number in range(most):
        result = mmu.run(seed, number, {"mmu": plugin})
        if result.failure is not None:
            return result
    raise AssertionError(f"{plugin} was not caught")


@pytest.mark.parametrize("bug", ["HalfZap", "Deaf"])
def test_a_planted_bug_is_found_and_made_small(bug):
    result = first_failure(f"tests.fuzz.planted:{bug}")
    case, failure = minimise(result.case, result.failure, mmu.replay)
    assert failure.kind == result.failure.kind
    assert len(case["steps"]) <= 12
    assert mmu.replay(case) == failure
    for gone in range(len(case["steps"])):
        fewer = {**case, "steps": case["steps"][:gone] + case["steps"][gone + 1 :]}
        other = mmu.replay(fewer)
        assert other is None or other.kind != failure.kind, f"step {gone} is not needed"
    sound = {**case, "mmu": "shadow"}
    assert mmu.replay(sound) is None


def test_pieces_of_a_large_page_left_by_invlpg_are_found():
    """Under CR0.WP = 0 with SMAP or protection keys, where no spte may say what was granted."""
    for number in range(40):
        options = {"mmu": "tests.fuzz.planted:PiecesUnremembered", "theme": "pieces"}
        failure = mmu.run(3, number, options).failure
        if failure is not None:
            break
    assert failure is not None and failure.kind == "stale entry", failure


@pytest.mark.parametrize("path", REPRODUCERS, ids=lambda path: path.stem)
def test_what_was_found_once_is_found_no_more(path):
    case, _ = read(path)
    failure = mmu.replay(case)
    assert failure is None, failure.message
