# SPDX-License-Identifier: GPL-2.0-or-later
"""The exhaustive enumeration, block by block; `-m fuzz` for the full products."""

from __future__ import annotations

from itertools import product

import pytest

from .enumeration import BLOCKS, GVA, OTHER_CPUS, run, run_all

NOT_THERE = {("32-bit", "keys"), ("pae", "keys")} | {
    (mode, "pdptes") for mode in GVA if mode != "pae"
}


@pytest.mark.parametrize(
    ("mode", "block"),
    [pair for pair in product(GVA, BLOCKS) if pair not in NOT_THERE],
    ids=lambda word: word,
)
def test_every_combination_is_as_the_sdm_says(mode, block):
    count = run(mode, block)
    print(f"{mode} {block}: {count:,} comparisons")
    assert count > 300


@pytest.mark.parametrize(
    ("cpuid", "mode"),
    OTHER_CPUS,
    ids=[f"{mode}-{'-'.join(map(str, cpuid))}" for cpuid, mode in OTHER_CPUS],
)
def test_every_reserved_bit_of_other_processors(cpuid, mode):
    count = sum(run(mode, block, cpuid=cpuid) for block in ("endings", "addresses"))
    print(f"{mode} of {cpuid}: {count:,} comparisons")
    assert count > 300


@pytest.mark.fuzz
@pytest.mark.timeout(7200)
def test_every_combination_in_full():
    assert run_all(full=True).total() > 10_000_000
