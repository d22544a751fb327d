# SPDX-License-Identifier: GPL-2.0-or-later
"""What the cases are worth: they pass on the shadow MMU, and each mutant fails one that was written
for its bug, in the way that it declares. An exception that it does not declare is no kill.
"""

from __future__ import annotations

import inspect
import re
from functools import partial

import pytest

from mmu.api import InvariantError
from mmu.plugins import find_mmu
from mmu.testing.mutants import CATALOGUE, Mutant

from . import (
    test_cases_cache,
    test_cases_later,
    test_cases_modes,
    test_cases_rights,
    test_cases_vcpus,
    test_cases_writes,
)
from .conftest import PLAIN
from .rig import Rig, StaleEntry, WrongAnswer

MODULES = (
    test_cases_rights,
    test_cases_writes,
    test_cases_modes,
    test_cases_cache,
    test_cases_later,
    test_cases_vcpus,
)


def cases():
    """number -> the case functions that take a factory of rigs."""
    found = {}
    for module in MODULES:
        for name, function in vars(module).items():
            match = re.match(r"test_case_(\d\d)_", name)
            if match and list(inspect.signature(function).parameters) in (["rigs"], ["shadows"]):
                found.setdefault(int(match[1]), []).append(function)
    return found


CASES = cases()


def how_it_died(mutant, error):
    """An error as one of the words of `Mutant.dies`; raises it if it is none."""
    if mutant.crash is not None and isinstance(error, mutant.crash):
        return "crash"
    for kind, word in (
        (WrongAnswer, "answer"),
        (StaleEntry, "stale"),
        (InvariantError, "audit"),
        (AssertionError, "claim"),
    ):
        if isinstance(error, kind):
            return word
    raise error


def killers(mutant, *, audit):
    """Yield (how, case, policy, what it said) for each case that fails on a mutant."""
    for number in mutant.case:
        for case in CASES[number]:
            for policy in (PLAIN, ""):
                try:
                    case(partial(Rig, mutant, policy=policy, audit=audit))
                except Exception as error:
                    how = how_it_died(mutant, error)
                    yield how, case.__name__, policy, f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_mutant_is_killed(name):
    """With nothing but what a guest can see, in the way declared, unless that is the audit."""
    mutant = CATALOGUE[name]
    killer = next(killers(mutant, audit=mutant.dies == "audit"), None)
    assert killer is not None, f"{name} lives: {mutant.bug}"
    how, case, policy, said = killer
    print(f"{name}: {mutant.bug}\n  {how}, by {case} [{policy}]: {said.splitlines()[0][:200]}")
    assert how == mutant.dies


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_audit_does_not_keep_a_mutant_alive(name):
    """It looks first; what it is blind to must still be found by the rest."""
    assert next(killers(CATALOGUE[name], audit=True), None) is not None


def test_every_one_is_a_plugin_with_a_bug_of_its_own():
    assert len(CATALOGUE) >= 40
    assert len({mutant.bug for mutant in CATALOGUE.values()}) == len(CATALOGUE)
    for name, mutant in CATALOGUE.items():
        assert find_mmu(f"mmu.testing.mutants:{name}") is mutant
        assert Rig(mutant).mmu.compiled_block(0) is None
        assert mutant.dies in ("answer", "stale", "claim", "audit", "crash")
        assert (mutant.crash is not None) == (mutant.dies == "crash")


def test_a_mutant_without_a_mutation_lives():
    class Nothing(Mutant):
        bug = "none"
        case = (1, 10, 27)  # the rest runs where it stands

    for audit in (True, False):
        assert next(killers(Nothing, audit=audit), None) is None


def test_every_case_of_the_catalogue_is_there():
    assert set(CASES) | {12} == {*range(1, 35)}, sorted({*range(1, 35)} - set(CASES))
