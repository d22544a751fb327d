# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants of the compiled half: its text, changed in one place and run as it stands in Python."""

from __future__ import annotations

import inspect
from functools import partial

import pytest

from mmu.shadow.fast import walk

from .compiled_first import CompiledFirst
from .conftest import PLAIN
from .rig import Rig
from .test_mutants import CASES

MUTANTS = {
    "a stale leaf is not compared": (
        "if not is_allowed or is_stale(table_record(block, place), gva) != 0:",
        "if not is_allowed:",
        (7, 11),
    ),
    "the dirty log is not asked for": (
        "load64(block + NO_WRITES) != 0 or load8(at_fetched) != 0:\n            return 0\n"
        "        store8",
        "load8(at_fetched) != 0:\n            return 0\n        store8",
        (30,),
    ),
    "code is written unseen": (
        "load64(block + NO_WRITES) != 0 or load8(at_fetched) != 0:\n            return 0\n"
        "        store8",
        "load64(block + NO_WRITES) != 0:\n            return 0\n        store8",
        (22,),
    ),
    "what is writable is fetched from": (
        "load8(at_written) != 0 or load8(at_fetched) == 0:",
        "False:",
        (31,),
    ),
    "who runs a frame is not asked": (
        "load32(runners + (gpa >> PAGE_SHIFT << 2)) & load64(block + RUNNER) == 0",
        "False",
        (22,),
    ),
    "a kernel's fetch under SMAP lets it read": (
        "if user == 0 and spte & SPTE_USER != 0 and load64(block + SMAP) != 0:",
        "if False:",
        (18,),
    ),
    "a grant of W is not noted": ("store8(at_written, epoch)", "pass", (34,)),
    "the epoch is not noted": (
        "store8(load64(block + EPOCHS) + place, load64(load64(block + TRACKER) + TRACKER_EPOCH))",
        "pass",
        (27,),
    ),
    "a table is mapped writable": (
        " or load8(load64(block + STATES) + gfn) != FRAME_RAM",
        "",
        (11, 12, 21, 22, 23),
    ),
    "A and D are not stored": ("store64(at_entry, gpte)", "pass", (4, 19)),
    "a page is writable before D is set": (
        "if rights & ACC_WRITE != 0 and gpte & PT_DIRTY != 0:",
        "if rights & ACC_WRITE != 0:",
        (4, 19),
    ),
    "reserved bits mean nothing": (
        "gpte & PT_PRESENT == 0 or gpte & load64(block + RESERVED) != 0",
        "gpte & PT_PRESENT == 0",
        (19,),
    ),
    "the levels above are not asked": (
        "rights = (about >> ABOUT_ACCESS_SHIFT) & ((gpte & RIGHTS) | ACC_EXEC)",
        "rights = (gpte & RIGHTS) | ACC_EXEC",
        (1,),
    ),
    "the reverse map is not told": ("store32(at_slot, place + 1)", "pass", (10, 11, 22)),
    "the reverse map keeps the old": ("store32(at_old_slot, 0)", "pass", (7, 11)),
    "A and D disturb no other width": (
        "if about & ABOUT_ALONE == 0 or load8(at_fetched)",
        "if load8(at_fetched)",
        (28,),
    ),
    "NX is not looked at": (
        "if about & ABOUT_WIDE != 0 and gpte & NX != 0:",
        "if False:",
        (16, 19),
    ),
    "a fetch is answered like a read": (
        "if kind == KIND_FETCH:\n            return 0",
        "pass",
        (26,),
    ),
    "a fault of a supervisor is decided by W alone": (
        "if user == 0 or gpte & load64(block + RESERVED) != 0:",
        "if gpte & load64(block + RESERVED) != 0:",
        (17, 18),
    ),
}


def mutated(old, new):
    """The functions of a copy of the module with one thing changed."""
    text = inspect.getsource(walk)
    assert text.count(old) == 1, f"{text.count(old)} times: {old}"
    names = {"__name__": walk.__name__, "__package__": walk.__package__}
    exec(compile(text.replace(old, new), "mutant", "exec"), names)
    return names


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_killed(name):
    old, new, numbers = MUTANTS[name]
    changed = mutated(old, new)

    class Mutated(CompiledFirst):
        hit = staticmethod(changed["hit"])
        fault = staticmethod(changed["fault"])

    for number in numbers:
        for case in CASES[number]:
            for policy in ("", PLAIN):
                try:
                    case(partial(Rig, Mutated, policy=policy))
                except AssertionError as error:
                    print(f"{name}: {case.__name__} [{policy}]: {str(error).splitlines()[:1]}")
                    return
                except Exception as error:
                    if type(error).__name__ != "InvariantError":
                        raise
                    print(f"{name}: {case.__name__} [{policy}]: {str(error)[:200]}")
                    return
    pytest.fail(f"{name}: lives")
