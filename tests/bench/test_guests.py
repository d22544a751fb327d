# SPDX-License-Identifier: GPL-2.0-or-later
"""Each benchmark once, small, for its answer. Nothing is timed."""

import shutil

import pytest

from emu.bench.bare import BareUnicorn
from emu.bench.command import has_jit
from emu.bench.emulators import QEMU, make_emulator
from emu.bench.loads import CACHE_OFF, JIT, LOADS, PURE
from guests.bench import BENCH_GUESTS

COLUMNS = (JIT, PURE, "uncached", "native", "qemu")
# The cache is only switched off where switches are measured.
RUNS = [(load, column) for load in LOADS.values() for column in COLUMNS]
RUNS += [(load, f"{PURE}, {CACHE_OFF}") for load in LOADS.values() if load.fills]


@pytest.mark.parametrize(("load", "column"), RUNS, ids=[f"{r[0].name}, {r[1]}" for r in RUNS])
def test_answer(load, column):
    if column == JIT and not has_jit():
        pytest.skip("no compiled code without numba")
    if column == "qemu" and shutil.which(QEMU) is None:
        pytest.skip(f"no {QEMU} on PATH")
    emulator = make_emulator(column)
    assert emulator.can_run(load)
    sample = emulator.run(load, load.small)
    assert sample.operations == load.small
    assert sample.answer == load.answer
    assert sample.seconds > 0


@pytest.mark.parametrize(
    "load",
    [load for load in LOADS.values() if load.bare],
    ids=lambda load: load.name.replace(" ", "-"),
)
def test_answer_of_the_engine_alone(load):
    assert BareUnicorn().run(load, load.small).answer == load.answer


def test_every_guest_is_a_load_or_measures_scale():
    used = {load.guest.name for load in LOADS.values()} | {"bench-alias"}
    assert used == set(BENCH_GUESTS)


def _alu(turns: int) -> int:
    """What alu.asm computes."""
    mask = (1 << 64) - 1
    state, total = 1, 0
    for _ in range(turns):
        state ^= state << 13 & mask
        state ^= state >> 7
        state ^= state << 17 & mask
        total = total + state * 0x2545F4914F6CDD1D & mask
    return total


def _chase(loads: int, mebibytes: int) -> int:
    """What chase.asm computes: the sum of the numbers of the lines."""
    lines, state, total = mebibytes << 14, 0, 0
    for _ in range(loads):
        state = state * 0x5851F42D4C957F2D + 0x14057B7EF767814F & (1 << 64) - 1
        total += (state >> 38) % lines
    return total


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("alu", _alu(1000)),
        ("chase 4 MiB", _chase(80_000, 4)),
        ("chase 64 MiB", _chase(80_000, 64)),
    ],
)
def test_answer_is_what_the_source_says(name, answer):
    assert LOADS[name].answer == f"{answer:016x}"
