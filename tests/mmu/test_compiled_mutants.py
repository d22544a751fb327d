# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants of the compiled half: its text, changed in one place and run as it stands in Python."""

from __future__ import annotations

import inspect
from functools import partial

import pytest

from mmu.shadow import compiled

from .compiled_first import CompiledFirst
from .conftest import PLAIN
from .rig import Rig
from .test_mutants import CASES

MUTANTS = {
    "a stale leaf is not compared": ("if stale or spte &", "if spte &", (7, 11)),
    "the dirty log is not asked for": (
        "load64(block + NO_WRITES) != 0 or load8(load64(tracker + 16) + gfn)",
        "load8(load64(tracker + 16) + gfn)",
        (30,),
    ),
    "code is written unseen": (
        "load64(block + NO_WRITES) != 0 or load8(load64(tracker + 16) + gfn) != 0",
        "load64(block + NO_WRITES) != 0",
        (22,),
    ),
    "what is writable is fetched from": (
        "if load8(load64(tracker + TRACKER_WRITTEN) + gfn) != 0:\n"
        "            return 0\n"
        "        if load8(fetched) == 0:\n",
        "if False:\n",
        (31,),
    ),
    "who runs a frame is not asked": (
        "load32(runners + (gfn << 2)) & load64(block + RUNNER) == 0",
        "False",
        (22,),
    ),
    "a kernel's fetch under SMAP lets it read": (
        "if user == 0 and spte & 4 != 0 and load64(block + SMAP) != 0:",
        "if False:",
        (18,),
    ),
    "a grant of W is not noted": ("store8(load64(tracker + 8) + gfn, epoch)", "pass", (34,)),
    "the epoch is not noted": (
        "store8(load64(block + EPOCHS) + place, epoch)",
        "pass",
        (27,),
    ),
    "a table is mapped writable": (
        " or load8(load64(block + STATES) + gfn) != FRAME_RAM",
        "",
        (11, 12, 21, 22, 23),
    ),
    "A and D are not stored": ("store64(table + (index << 3), now)", "pass", (4, 19)),
    "a page is writable before D is set": (
        "if rights & 2 != 0 and now & 0x40 != 0:",
        "if rights & 2 != 0:",
        (4, 19),
    ),
    "reserved bits mean nothing": (
        "gpte & 1 == 0 or gpte & load64(block + RESERVED) != 0",
        "gpte & 1 == 0",
        (19,),
    ),
    "the levels above are not asked": (
        "rights = (about >> NOTE_ACCESS_SHIFT) & ((gpte & 6) | 1)",
        "rights = (gpte & 6) | 1",
        (1,),
    ),
    "the reverse map is not told": ("store32(slot, place + 1)", "pass", (10, 11, 22)),
    "the reverse map keeps the old": ("store32(old_slot, 0)", "pass", (7, 11)),
    "A and D disturb no other width": (
        "if about & NOTE_ALONE == 0 or load8(fetched)",
        "if load8(fetched)",
        (28,),
    ),
    "NX is not looked at": ("if wide != 0 and gpte & _NX != 0:", "if False:", (16, 19)),
    "a fetch is answered like a read": ("if kind == 2:\n            return 0", "pass", (26,)),
}


def mutated(old, new):
    """`hit` from a copy of the module with one thing changed."""
    text = inspect.getsource(compiled)
    assert text.count(old) == 1, f"{text.count(old)} times: {old}"
    names = {"__name__": compiled.__name__, "__package__": compiled.__package__}
    exec(compile(text.replace(old, new), "mutant", "exec"), names)
    return names["hit"]


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_killed(name):
    old, new, numbers = MUTANTS[name]

    class Mutated(CompiledFirst):
        hit = staticmethod(mutated(old, new))

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
