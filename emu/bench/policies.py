# SPDX-License-Identifier: GPL-2.0-or-later
"""What each policy of the shadow cache is worth: the same work with one switched off at a time.

The answers must be the same, as no policy changes one. Beside the time stand the counters that a
policy is there to lower, for each operation: shadow faults, trapped stores, TLB flushes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from statistics import median

from emu.bench.emulators import BenchError, InProcess, Sample
from emu.bench.loads import LOADS
from emu.bench.scale import Figure, Tell, in_turn, ratio_of
from emu.bench.tables import show_ratio, show_time
from mmu.shadow.policy import Policy

__all__ = ["POLICIES", "policies"]

POLICIES = tuple(field.name for field in fields(Policy))
_OPERATIONS = {"switch 16": 4000, "fault": 20_000, "ptwrite": 20_000, "fork": 400}
"""Context switches, demand paging, entries edited one by one, and address spaces that come and
go as with fork and exit."""
_COUNTED = (("pf_taken", "faults"), ("mmu_pte_write", "trapped stores"), ("tlb_flush", "flushes"))
_ALL_ON = "all on"


def policies(jit: str, runs: int, tell: Tell, *, small: bool = False) -> list[Figure]:
    """Every load with all policies on, and with each one off; ``small`` runs say little of time.

    Raises:
        BenchError: a policy has changed an answer.
    """
    found = []
    for name, operations in _OPERATIONS.items():
        load = LOADS[name]
        wanted = load.small if small else operations
        jobs = [(f"{name}, {_ALL_ON}", InProcess(_ALL_ON, "shadow", jit=jit), load, wanted)]
        for policy in POLICIES:
            text = f"{policy} off"
            off = InProcess(text, "shadow", jit=jit, policy=f"{policy}=off")
            jobs.append((f"{name}, {text}", off, load, wanted))
        samples = in_turn(jobs, runs, tell)
        base = samples[jobs[0][0]]
        for key, mine in samples.items():
            if {sample.answer for sample in mine} != {base[0].answer}:
                raise BenchError(f"{key} answers otherwise than with all policies on")
            ratio = ratio_of(mine, base)
            each = show_time(median(sample.each for sample in mine))
            time = each if mine is base else f"{show_ratio(ratio)} x the time"
            found.append(Figure(key, ratio, f"{time}; {_counts(mine)}"))
    return found


def _counts(samples: Sequence[Sample]) -> str:
    """Return the counters of a run in words, for one operation each. They vary little."""
    last = samples[-1]
    return ", ".join(
        f"{last.counters[counter] / last.operations:.2f} {what}" for counter, what in _COUNTED
    )
