# SPDX-License-Identifier: GPL-2.0-or-later
"""What the cases are worth: they pass on the shadow MMU, and each mutant fails one that was written
for its bug.
"""

from __future__ import annotations

import inspect
import re
from functools import partial

import pytest

from mmu.api import find_mmu
from mmu.mutants import CATALOGUE, Mutant

from . import test_cases_cache, test_cases_modes, test_cases_rights, test_cases_writes
from .conftest import PLAIN
from .rig import Rig

MODULES = (test_cases_rights, test_cases_writes, test_cases_modes, test_cases_cache)


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


def killers(mutant):
    """Yield (case, policy, what it said) for each case that fails on a mutant."""
    for number in mutant.case:
        for case in CASES[number]:
            for policy in (PLAIN, ""):
                try:
                    case(partial(Rig, mutant, policy=policy))
                except (TypeError, NameError):
                    raise  # the mutant itself is at fault
                except Exception as error:
                    yield case.__name__, policy, f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_mutant_is_killed(name):
    mutant = CATALOGUE[name]
    killer = next(killers(mutant), None)
    assert killer is not None, f"{name} lives: {mutant.bug}"
    case, policy, said = killer
    print(f"{name}: {mutant.bug}\n  killed by {case} [{policy}]: {said.splitlines()[0][:200]}")


def test_every_one_is_a_plugin_with_a_bug_of_its_own():
    assert len(CATALOGUE) >= 40
    assert len({mutant.bug for mutant in CATALOGUE.values()}) == len(CATALOGUE)
    for name, mutant in CATALOGUE.items():
        assert find_mmu(f"mmu.mutants:{name}") is mutant
        assert not hasattr(Rig(mutant).mmu, "block")


def test_a_mutant_without_a_mutation_lives():
    class Nothing(Mutant):
        bug = "none"
        case = (1, 10, 27)  # the rest runs where it stands

    assert next(killers(Nothing), None) is None


def test_every_case_of_the_catalogue_is_there():
    assert set(CASES) | {12} == {*range(1, 30)}, sorted({*range(1, 30)} - set(CASES))
