# SPDX-License-Identifier: GPL-2.0-or-later
"""Random worlds: by hypothesis, which makes what fails small, and by seeds, which are quicker."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from . import world
from .compiled_first import CompiledFirst
from .world import (
    MODE_BITS,
    MODE_NAMES,
    OFFSETS,
    PKRUS,
    POLICIES,
    SIZES,
    TABLES,
    WORDS,
    World,
    random_entry,
    random_pdpte,
)

SEED = st.integers(0, 1 << 32)
CPU = st.integers(0, 3)
GVA = st.integers(0, 64 * 24 - 1)
KIND = st.integers(0, 13)
ENTRY = st.builds(lambda seed, frame: random_entry(Random(seed), frame), SEED, st.integers(0, 7))
WIDE = st.builds(lambda low, high: high << 64 | low, ENTRY, ENTRY)
OFFSET = st.one_of(
    st.sampled_from([word * 8 for word in WORDS]),
    st.integers(0, 0xFF8),
    st.sampled_from([0x7F9, 0x7FF, 0xFF9, 0xFFC, 0xFFF]),
)


class Worlds(RuleBasedStateMachine):
    """Each rule is a step of `World`, which checks everything after it."""

    @initialize(
        seed=SEED,
        cpus=st.integers(1, 4),
        pool=st.integers(0, 4),
        policy=st.sampled_from(POLICIES),
        plugin=st.sampled_from(["shadow", CompiledFirst]),
    )
    def begin(self, seed, cpus, pool, policy, plugin):
        self.world = World(seed, cpus, pool, policy, plugin)

    @rule(cpu=CPU, gva=GVA, kind=KIND)
    def access(self, cpu, gva, kind):
        self.world.access(cpu, gva, kind)

    @rule(cpu=CPU, gva=GVA, first=KIND)
    def burst(self, cpu, gva, first):
        self.world.burst(cpu, gva, first)

    @rule(
        cpu=CPU,
        gva=GVA,
        offset=st.integers(0, len(OFFSETS) - 1),
        size=st.integers(0, len(SIZES) - 1),
        value=WIDE,
        user=st.booleans(),
        times=st.sampled_from([1, 1, 4]),
    )
    def store(self, cpu, gva, offset, size, value, user, times):
        self.world.store(cpu, gva, offset, size, value, user, times)

    @rule(
        number=st.integers(0, 1000),
        offset=st.integers(0, len(OFFSETS) - 1),
        size=st.integers(0, 3),
        value=WIDE,
    )
    def store_held(self, number, offset, size, value):
        self.world.store_held(number, offset, size, value)

    @rule(cpu=CPU, gva=GVA, depth=st.integers(0, 4), value=ENTRY, kind=KIND, how=st.integers(0, 15))
    def remap(self, cpu, gva, depth, value, kind, how):
        self.world.remap(cpu, gva, depth, value, kind, how)

    @rule(cpu=CPU, gva=GVA, bit=st.integers(0, len(MODE_BITS) + 1), first=KIND)
    def toggle(self, cpu, gva, bit, first):
        self.world.toggle(cpu, gva, bit, first)

    @rule(cpu=CPU, gva=GVA, seed=SEED)
    def reload_pdptes(self, cpu, gva, seed):
        self.world.reload_pdptes(cpu, gva, seed)

    @rule(
        frame=st.sampled_from(TABLES),
        offset=OFFSET,
        size=st.sampled_from([8, 8, 4, 1, 2, 16]),
        value=WIDE,
        source=st.integers(0, 2),
    )
    def edit(self, frame, offset, size, value, source):
        self.world.edit(frame, offset, size, value, source)

    @rule(word=st.integers(0, 63), seed=SEED)
    def edit_pdpt(self, word, seed):
        self.world.edit(world.PDPT, word * 8, 8, random_pdpte(Random(seed)), 0)

    @rule(frame=st.sampled_from(TABLES), seed=SEED)
    def repair(self, frame, seed):
        self.world.repair(frame, seed)

    @rule(
        cpu=CPU,
        mode=st.integers(0, len(MODE_NAMES) - 1),
        root=st.integers(0, 15),
        bits=st.integers(0, (1 << len(MODE_BITS)) - 1),
        pkru=st.integers(0, len(PKRUS) - 1),
        offset=st.integers(0, 383),
    )
    def load(self, cpu, mode, root, bits, pkru, offset):
        self.world.load(cpu, mode, root, bits, pkru, offset)

    @rule(cpu=CPU, bit=st.integers(0, len(MODE_BITS) + 1))
    def flip(self, cpu, bit):
        self.world.flip(cpu, bit)

    @rule(cpu=CPU, gva=GVA)
    def invlpg(self, cpu, gva):
        self.world.invlpg(cpu, gva)

    @rule(cpu=CPU)
    def flush(self, cpu):
        self.world.flush(cpu)

    @rule(what=st.integers(0, 4), number=st.integers(0, 3))
    def owner(self, what, number):
        self.world.owner(what, number)


QUICK = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(
    QUICK, max_examples=3000, stateful_step_count=100, derandomize=False, print_blob=True
)


class TestWorlds(Worlds.TestCase):
    settings = QUICK


@pytest.mark.fuzz
@pytest.mark.timeout(7200)
class TestManyWorlds(Worlds.TestCase):
    settings = LONG


@pytest.mark.parametrize("seed", range(100))
def test_world_by_seed(seed):
    done = world.run(seed, 120)
    assert done.rig.checked > 50


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_worlds_by_many_seeds():
    for seed in range(10_000, 14_000):
        world.run(seed, 200)
