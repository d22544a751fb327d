# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured, and what is to be reached, as data.

A *load* is a benchmark guest with its parameters; one *operation* of it is what its unit says. A
*goal* bounds one load in one column. ``runner`` fills in what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from guests.bench import BENCH_GUESTS, BenchGuest

__all__ = [
    "CACHE_OFF",
    "GOALS",
    "JIT",
    "LOADS",
    "PURE",
    "Goal",
    "Load",
    "Measure",
    "find_loads",
]

JIT = "shadow"
"""The column of the shadow plug-in with compiled code."""
PURE = "shadow, jit off"
"""The same without, under the same clock: blocks are counted, not instructions."""
CACHE_OFF = "cache off"
"""Suffix of the columns that drop all shadow pages at every CR3 load."""


@dataclass(frozen=True, slots=True)
class Load:
    """One line of the results.

    ``unit`` is what one operation is. ``small`` operations give ``answer``, on any emulator;
    sizing starts from there. ``bare``: nothing in it needs an exception to be delivered, so
    Unicorn alone can run it. ``fills`` is how many TLB misses an operation brings, 0 where that is
    not the point.
    """

    name: str
    guest: BenchGuest
    unit: str
    small: int
    answer: str
    parameters: str = ""
    bare: bool = True
    fills: int = 0

    def command_line(self, operations: int) -> str:
        """The guest's parameters for so many operations."""
        return f"n={operations} {self.parameters}".rstrip()


def _load(
    name: str,
    unit: str,
    small: int,
    answer: str,
    parameters: str = "",
    *,
    bare: bool = True,
    fills: int = 0,
) -> Load:
    guest = BENCH_GUESTS[f"bench-{name.partition(' ')[0]}"]
    return Load(name, guest, unit, small, answer, parameters, bare, fills)


_ALL = (
    _load("alu", "turn of 13 instructions", 1000, "6877f8faaff7d330"),
    _load("store", "64 KiB of quadword stores", 10, "79200b9eeea426ab"),
    _load("memcpy", "64 KiB copied", 10, "6a282ad5fb3f13e2"),
    _load("chase 4 MiB", "load", 80_000, "000000009bf17a4b", "m=4"),
    _load("chase 64 MiB", "load", 80_000, "00000009c7ba7a4b", "m=64"),
    _load("switch 16", "switch, 64 pages touched", 40, "291b7cca776b7489", "s=16", fills=64),
    _load("switch 128", "switch, 64 pages touched", 140, "e2ba7bac328d758a", "s=128", fills=64),
    _load("fault", "page fault served", 1000, "0000000002000b60", bare=False),
    _load("ptwrite", "entry rewritten and used", 1000, "f6d77e1feb38d2df"),
    _load("fork", "address space of 64 pages", 20, "8fcb05b15f07a28e"),
    _load("syscall int", "INT 0x80 and IRETQ", 1000, "5d052c49eafa0874", "m=0", bare=False),
    _load("syscall", "SYSCALL and SYSRET", 1000, "5d052c49eafa0874", "m=1", bare=False),
)

LOADS: dict[str, Load] = {load.name: load for load in _ALL}


def find_loads(names: str) -> list[Load]:
    """The loads that a comma-separated list names: "chase" means both; "" means all.

    Raises KeyError with one line for a person.
    """
    if not names:
        return list(_ALL)
    found: list[Load] = []
    for name in names.split(","):
        name = name.strip()
        some = [load for load in _ALL if load.name == name or load.name.split()[0] == name]
        if not some:
            raise KeyError(f"no benchmark {name!r}; there are: {', '.join(LOADS)}")
        found += [load for load in some if load not in found]
    return found


class Measure(Enum):
    """How a goal is measured; the value is its text with the bound put in."""

    SPEED = "at least {:g} x native's speed"
    YARDSTICKS = "at most {:g} yardsticks"
    YARDSTICKS_A_FILL = "at most {:g} yardsticks a fill"
    CACHE = "at least {:g} x as fast as with the cache off"
    QEMU = "within {:g} x QEMU's time, geometric mean"

    @property
    def more_is_better(self) -> bool:
        """Whether the bound is a lower one."""
        return self in (Measure.SPEED, Measure.CACHE)


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on a load in a column; ``load`` is "all" for a geometric mean."""

    load: str
    column: str
    measure: Measure
    bound: float

    def text(self) -> str:
        """The goal in words."""
        return self.measure.value.format(self.bound)

    def is_met(self, value: float) -> bool:
        """Whether a measured value reaches the bound."""
        return value >= self.bound if self.measure.more_is_better else value <= self.bound


def _goals(load: str, measure: Measure, jit: float, pure: float) -> tuple[Goal, Goal]:
    return Goal(load, JIT, measure, jit), Goal(load, PURE, measure, pure)


GOALS: tuple[Goal, ...] = (
    Goal("alu", JIT, Measure.SPEED, 0.9),
    Goal("alu", PURE, Measure.SPEED, 0.9),
    *_goals("store", Measure.SPEED, 4, 4),
    *_goals("memcpy", Measure.SPEED, 3, 3),
    *_goals("chase 4 MiB", Measure.SPEED, 2, 1.5),
    *_goals("chase 64 MiB", Measure.SPEED, 2, 1.5),
    Goal("switch 16", JIT, Measure.SPEED, 0.6),
    Goal("switch 16", PURE, Measure.YARDSTICKS_A_FILL, 1.5),
    Goal("switch 128", JIT, Measure.SPEED, 0.6),
    Goal("switch 128", PURE, Measure.YARDSTICKS_A_FILL, 1.5),
    *_goals("switch 16", Measure.CACHE, 8.3, 8.3),
    *_goals("switch 128", Measure.CACHE, 8.3, 8.3),
    *_goals("fault", Measure.YARDSTICKS, 6, 10),
    *_goals("ptwrite", Measure.YARDSTICKS, 2, 4),
    *_goals("fork", Measure.SPEED, 0.5, 0.1),
    *_goals("syscall int", Measure.YARDSTICKS, 5, 6),
    *_goals("syscall", Measure.YARDSTICKS, 5, 6),
    Goal("all", JIT, Measure.QEMU, 2),
)
