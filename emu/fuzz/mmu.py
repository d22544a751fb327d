# SPDX-License-Identifier: GPL-2.0-or-later
"""The MMU fuzzer: random steps on a plug-in without a processor, checked after every one.

    make (seed, number) --> case --> run --> Result

`mmu.testing.steps` chooses the steps while `mmu.testing.world` executes them and compares. What is
kept is the list of steps; `replay` executes it without choosing anything.
"""

from __future__ import annotations

from typing import Any

from emu.fuzz.case import Case, Failure, Result, describe_error, random_of
from mmu.testing.setup import make_case
from mmu.testing.steps import Steps
from mmu.testing.world import World

__all__ = ["BLANK", "CHUNK", "MOST_RUNS", "make", "replay", "run"]

CHUNK = 4
"""Cases a worker runs at a time: about a second."""
BLANK = None
MOST_RUNS = 1500

_STEPS = (60, 150, 300, 600)


def run(seed: int, number: int, options: dict[str, Any]) -> Result:
    """Make case `number` of `seed` and execute it; `options`: mmu, the plug-in's name, and theme,
    if it is to be the same in all cases (see `mmu.testing.steps`)."""
    rng = random_of(seed, number)
    case = make_case(rng, options.get("mmu", "shadow"))
    case.update(seed=seed, number=number)
    steps: list[list[Any]] = []
    case["steps"] = steps
    failure = None
    world = None
    try:
        world = World(case)
        choice = Steps(rng, case, world, options.get("theme"))
        for _ in range(rng.choice(_STEPS)):
            steps.append(choice.next())
            world.do(steps[-1])
        world.check_all()
    except Exception as error:
        failure = describe_error(error, len(steps) - 1)
    counts = {"accesses": world.compared} if world is not None else {}
    return Result(number, len(steps), failure, case if failure else None, counts)


def make(seed: int, number: int, options: dict[str, Any]) -> Case:
    """Return a case by its number, for when running it took the process along: no steps are
    known, `replay` chooses them again."""
    options = {"mmu": options.get("mmu", "shadow")}
    return {"kind": "mmu", "seed": seed, "number": number, "options": options, "steps": []}


def replay(case: Case) -> Failure | None:
    """Execute a case as it stands."""
    if "options" in case:
        return run(case["seed"], case["number"], case["options"]).failure
    done = -1
    try:
        world = World(case)
        for step in case["steps"]:
            done += 1
            world.do(step)
        world.check_all()
    except Exception as error:
        return describe_error(error, done)
    return None


def describe_step(step: list[Any]) -> str:
    """Return a step for a person: large numbers in hexadecimal."""
    words = (hex(word) if isinstance(word, int) and word > 9 else str(word) for word in step)
    return " ".join(words)
