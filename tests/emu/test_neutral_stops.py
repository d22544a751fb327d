# SPDX-License-Identifier: GPL-2.0-or-later
"""A stop changes nothing: runs cut into pieces at random points end as runs in one piece.

Every shipped guest, 1, 2 and 4 vCPUs, both clocks, with compiled code and without, under every
plug-in. A default run draws a few of these combinations by a seed; `-m fuzz` takes them all.

Not compared are the counters of TLB misses: after a stop the engine looks its next block up by
address, where it would have jumped, and that may be a miss.
"""

from __future__ import annotations

import hashlib
import random
import time
from itertools import product

import pytest

from emu.machine import Machine
from emu.outcome import Kind, Position
from guests import GUESTS

MOST = 1_000_000  # instructions: enough for every guest but the longest, which end here
OF_MISSES = {"fills", "mmio_hit"}
OF_MISSES_WITHOUT_A_CACHE = {*OF_MISSES, "pf_taken", "pf_fixed"}  # each miss is a walk
PLUGINS = ("shadow", "uncached", "native", "lockstep", "tlbcheck")


def everything(machine: Machine) -> dict[str, object]:
    """Return all of a machine that a stop could have changed."""
    state: dict[str, object] = {
        "position": machine.position,
        "clock": machine.clock.now,
        "serial": machine.serial.text,
        "screen": machine.screen.text,
        "counters": counters(machine),
        "executed": [(cpu.executed, cpu.stalled, cpu.halted) for cpu in machine.cpus],
        "registers": [cpu.regs.read_all() for cpu in machine.cpus],
    }
    for slot in machine.guest_memory.slots():
        if slot.kind == "ram":
            state[f"RAM at {slot.gpa:#x}"] = hashlib.sha256(slot.view).hexdigest()
    return state


def counters(machine: Machine) -> dict[str, int]:
    cached = machine.mmu.name in ("shadow", "native")
    ignored = OF_MISSES if cached else OF_MISSES_WITHOUT_A_CACHE
    return {k: v for k, v in machine.mmu.counters.as_dict().items() if k not in ignored}


def whole(guest, **options) -> tuple[Kind, dict[str, object]]:
    with Machine(guest.path, memory=guest.memory, **options) as machine:
        kind = machine.run(timeout=200, max_insns=MOST).kind
        return kind, everything(machine)


def in_pieces(guest, cuts, **options) -> tuple[Kind, dict[str, object]]:
    """Run with a stop after each of `cuts` instructions, which comes round again."""
    with Machine(guest.path, memory=guest.memory, **options) as machine:
        for cut in cuts:
            left = MOST - machine.scheduler.executed
            outcome = machine.run(timeout=200, max_insns=min(cut, max(left, 0)))
            if outcome.kind is not Kind.INSN_LIMIT or cut >= left:
                return outcome.kind, everything(machine)
    raise AssertionError("cuts has an end")


def random_cuts(seed):
    draw = random.Random(seed)
    while True:
        yield round(10 ** draw.uniform(0, 5))


def check(guest, cuts, **options) -> None:
    kind, expected = whole(guest, **options)
    cut_kind, found = in_pieces(guest, cuts, **options)
    assert cut_kind is kind
    for what, value in expected.items():
        assert found[what] == value, what


def combinations():
    for guest, cpus, clock, jit, mmu in product(
        GUESTS.values(), (1, 2, 4), ("blocks", "instructions"), ("on", "off"), PLUGINS
    ):
        if mmu == "native" and cpus > 1:
            continue
        if (guest.name, mmu) == ("pse", "uncached") and cpus > 1:
            continue  # it fails in one piece, too, and by how many TLB misses there are
        yield guest, cpus, clock, jit, mmu


def named(combination):
    guest, cpus, clock, jit, mmu = combination
    return pytest.param(*combination, id=f"{guest.name} x{cpus} {clock} jit {jit} {mmu}")


ALL = list(combinations())
FEW = random.Random(20261126).sample(
    [row for row in ALL if row[2] == "blocks" and row[0].name != "demand"], 24
)


@pytest.mark.parametrize(("guest", "cpus", "clock", "jit", "mmu"), [named(row) for row in FEW])
def test_random_stops_change_nothing(guest, cpus, clock, jit, mmu):
    check_one(guest, cpus, clock, jit, mmu)


@pytest.mark.fuzz
@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("guest", "cpus", "clock", "jit", "mmu"), [named(row) for row in ALL])
def test_random_stops_change_nothing_anywhere(guest, cpus, clock, jit, mmu):
    check_one(guest, cpus, clock, jit, mmu)


def check_one(guest, cpus, clock, jit, mmu) -> None:
    if jit == "on":
        pytest.importorskip("numba")
    seed = f"{guest.name} {cpus} {clock} {mmu}"
    check(guest, random_cuts(seed), cpus=cpus, clock=clock, jit=jit, mmu=mmu)


@pytest.mark.parametrize("clock", ["blocks", "instructions"])
@pytest.mark.parametrize("name", ["smp_boot", "spinlock", "shootdown"])
def test_pieces_of_1237_instructions_change_nothing(name, clock):
    guest = GUESTS[name]
    check(guest, iter(lambda: 1237, 0), cpus=4, clock=clock)


def test_stops_after_every_instruction_change_nothing():
    guest = GUESTS["hello"]
    check(guest, iter(lambda: 1, 0), clock="instructions")


def test_a_position_is_found_again():
    guest = GUESTS["smp_boot"]
    with Machine(guest.path, memory=guest.memory, cpus=4) as machine:
        machine.run(timeout=60, max_insns=20_000)
        position, expected = machine.position, everything(machine)
    with Machine(guest.path, memory=guest.memory, cpus=4) as machine:
        machine.run(timeout=60, until=Position.parse(position.exact))
        assert machine.position == position
        assert everything(machine) == expected
        assert machine.run(timeout=60, until=position).kind is Kind.POSITION
        assert everything(machine) == expected


def test_the_hosts_time_does_not_show_in_the_tlb():
    # QEMU lets a TLB that was little used for 100 ms of host time shrink at the next flush.
    guest = GUESTS["context_switch"]
    fills = []
    for nap in (0.0, 0.11):
        with Machine(guest.path, memory=guest.memory) as machine:
            for _ in range(5):
                machine.run(max_insns=30_000)
                time.sleep(nap)
            machine.run(timeout=60)
            fills.append(machine.mmu.counters.as_dict()["fills"])
    assert fills[0] == fills[1]
