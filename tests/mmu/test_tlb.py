# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tracker says that TLBs may hold, against a model TLB that holds everything."""

from __future__ import annotations

from random import Random

import pytest

from mmu.api import MAP_EXEC, MAP_READ, MAP_TRAP, MAP_WRITE
from mmu.memory import Memory
from mmu.observe import Counters
from mmu.tlb import EPOCHS, TlbTracker, frames_of, nonzero, trap_permissions

R, W, X = MAP_READ, MAP_WRITE, MAP_EXEC


class Host:
    """Holds every grant until a flush, and translated code until it is dropped."""

    def __init__(self, cpus):
        self.held = [set() for _ in range(cpus)]
        self.code = [set() for _ in range(cpus)]
        self.flushes = 0

    def flush_tlb(self, cpu):
        self.flushes += 1
        self.held[cpu].clear()

    def drop_code(self, gfn):
        for code in self.code:
            code.discard(gfn)

    def frames(self, right):
        return {gfn for held in self.held for gfn, rights in held if rights & right}


class Bench:
    """A tracker with its host; `write` and `fetch` are fills."""

    def __init__(self, cpus=1):
        self.memory = Memory()
        self.memory.add_ram(0, 0x40000)
        self.memory.add_rom(0x40000, b"rom")
        self.host = Host(cpus)
        self.counters = Counters()
        self.tracker = TlbTracker(self.memory, self.host, cpus, self.counters)

    def write(self, gfn, cpu=0, executable=False):
        rights = self.tracker.grant_write(cpu, gfn, executable)
        self.host.held[cpu].add((gfn, rights))
        for other, code in enumerate(self.host.code):
            assert gfn not in code or (rights & X and other == cpu)
        return rights

    def fetch(self, gfn, cpu=0):
        rights = self.tracker.grant_exec(cpu, gfn)
        self.host.held[cpu].add((gfn, rights))
        self.host.code[cpu].add(gfn)
        return rights

    def flush(self, cpu=0):
        self.host.held[cpu].clear()
        self.tracker.flushed(cpu)

    def check(self):
        """The rule, and that what is held is known to be."""
        for cpu, held in enumerate(self.host.held):
            for gfn, rights in held:
                if rights & W:
                    assert self.tracker.may_be_writable(gfn)
                if rights & X:
                    for other, theirs in enumerate(self.host.held):
                        for frame, by in theirs:
                            if frame == gfn and by & W:
                                assert by & X and other == cpu, "writable and executable"
        assert self.tracker.writable_and_executable() == []


def test_reads_and_writes_of_data_flush_nothing():
    bench = Bench()
    assert bench.write(1) == R | W
    assert bench.write(1, executable=True) == R | W
    assert bench.host.flushes == 0


def test_code_that_becomes_data():
    bench = Bench()
    assert bench.fetch(1) == R | X
    assert bench.write(1) == R | W
    assert bench.host.frames(X) == set()
    assert bench.host.code == [set()]
    assert bench.counters.code_dropped == 1
    bench.write(1)
    assert bench.counters.code_dropped == 1


def test_data_that_becomes_code():
    bench = Bench()
    bench.write(1)
    assert bench.fetch(1) == R | X
    assert bench.host.frames(W) == set()
    flushes = bench.host.flushes
    bench.fetch(1)
    assert bench.host.flushes == flushes


def test_code_that_writes_to_itself_gets_a_checked_entry():
    bench = Bench()
    bench.fetch(1)
    assert bench.write(1, executable=True) == R | W | X
    assert bench.host.flushes == 0
    assert bench.host.code == [{1}]
    assert bench.tracker.may_be_writable(1)


def test_code_of_long_ago_is_data():
    bench = Bench()
    bench.fetch(1)
    bench.flush()
    assert bench.write(1, executable=True) == R | W
    assert bench.host.code == [set()]
    assert bench.host.flushes == 0


def test_another_vcpus_code_is_never_checked():
    bench = Bench(2)
    bench.fetch(1, cpu=1)
    assert bench.write(1, cpu=0, executable=True) == R | W
    bench.check()
    bench.fetch(1, cpu=0)
    bench.fetch(1, cpu=1)
    assert bench.write(1, cpu=0, executable=True) == R | W
    bench.check()


def test_a_checked_entry_is_an_executable_one_for_as_long_as_it_is_held():
    bench = Bench(2)
    bench.fetch(1, cpu=0)
    bench.flush(1)
    bench.flush(0)
    assert bench.write(1, cpu=0, executable=True) == R | W | X
    bench.flush(1)
    bench.flush(0)
    bench.host.held[0].add((1, R | W | X))  # granted after its own flush, in the same epoch
    bench = Bench(2)
    bench.flush(0)
    bench.fetch(1, cpu=0)
    bench.flush(1)  # the epoch ends
    bench.write(1, cpu=0, executable=True)
    bench.flush(1)
    bench.check()
    bench.write(1, cpu=1)
    bench.check()


def test_a_frame_is_protected_against_stores_through_any_entry():
    bench = Bench(2)
    bench.write(1, cpu=0)
    bench.fetch(2, cpu=1)
    bench.write(2, cpu=1, executable=True)
    for gfn in (1, 2):
        bench.tracker.protect(gfn)
        assert gfn not in bench.host.frames(W)
        assert not bench.tracker.may_be_writable(gfn)
    flushes = bench.host.flushes
    bench.tracker.protect(1)
    bench.tracker.protect(3)
    bench.tracker.protect(1 << 30)
    assert bench.host.flushes == flushes


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_no_old_grant_comes_back_with_its_epoch(cpus):
    bench = Bench(cpus)
    bench.write(1)
    bench.fetch(2)
    bench.write(2, executable=True)
    for cpu in range(cpus):
        bench.flush(cpu)
    for cpu in range(cpus):
        bench.flush(cpu)
    for gfn in (1, 2):
        bench.tracker.protect(gfn)
    for _ in range(3 * EPOCHS):
        for cpu in range(cpus):
            bench.flush(cpu)
        assert not bench.tracker.may_be_writable(1)
        assert not bench.tracker.may_be_writable(2)
        assert 1 <= bench.tracker.epoch < EPOCHS
        assert bench.tracker.shared[0] == bench.tracker.epoch


def test_one_vcpus_flush_ends_nothing_for_the_others():
    bench = Bench(2)
    bench.write(1, cpu=0)
    for _ in range(5):
        bench.flush(1)
    assert bench.tracker.may_be_writable(1)
    bench.flush(0)
    for _ in range(2):
        bench.flush(1)
        bench.flush(0)
    assert not bench.tracker.may_be_writable(1)


def test_a_change_from_outside_drops_code_and_nothing_else():
    bench = Bench()
    bench.fetch(1)
    bench.tracker.changed(1)
    bench.tracker.changed(2)
    bench.tracker.changed(1 << 30)
    assert bench.host.code == [set()]
    assert bench.counters.code_dropped == 1
    bench.fetch(1)
    bench.tracker.changed(1)
    assert bench.host.code == [set()], "and again"


def test_new_slots_make_room():
    bench = Bench()
    bench.fetch(1)
    assert frames_of(bench.memory) == 0x42
    bench.memory.add_ram(0x1000000, 0x1000)
    bench.tracker.remapped()
    assert bench.host.code == [set()]
    assert bench.host.held == [set()]
    assert bench.write(0x1000) == R | W
    assert bench.fetch(0x1000) == R | X


def test_the_dirty_log_has_every_frame_written():
    bench = Bench()
    with pytest.raises(ValueError, match="off"):
        bench.tracker.dirty_log()
    bench.write(1)
    bench.tracker.start_dirty_log()
    assert bench.tracker.is_logging
    assert bench.host.frames(W) == set()
    bench.write(2)
    bench.tracker.changed(3)
    assert bench.tracker.dirty_log() == [2, 3]
    assert bench.host.frames(W) == set(), "so that the next store is seen"
    assert bench.tracker.dirty_log() == []
    bench.tracker.stop_dirty_log()
    assert not bench.tracker.is_logging
    bench.write(2)


@pytest.mark.parametrize("cpus", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_fills_and_flushes_keeps_the_rule(cpus, seed):
    random = Random(seed)
    bench = Bench(cpus)
    for _ in range(600):
        cpu, gfn = random.randrange(cpus), random.randrange(3)
        step = random.random()
        if step < 0.35:
            bench.write(gfn, cpu, executable=random.random() < 0.6)
        elif step < 0.7:
            bench.fetch(gfn, cpu)
        elif step < 0.9:
            bench.flush(cpu)
        elif step < 0.95:
            bench.tracker.protect(gfn)
            assert gfn not in bench.host.frames(W)
        else:
            bench.tracker.changed(gfn)
            assert all(gfn not in code for code in bench.host.code)
        bench.check()


@pytest.mark.parametrize(
    ("access", "rights"),
    [(0, R), (2, R | W), (16, X), (4, R), (6, R | W), (20, X), (0x100, R), (0x202, R | W)],
)
def test_a_frame_that_is_no_memory_grants_what_was_asked(access, rights):
    assert trap_permissions(access) == rights | MAP_TRAP


def test_nonzero_skips_what_is_empty():
    words = memoryview(bytearray(8 * 5000)).cast("Q")
    for index in (0, 7, 1023, 1024, 4999):
        words[index] = 1 << index % 64
    assert list(nonzero(words)) == [0, 7, 1023, 1024, 4999]
    assert list(nonzero(memoryview(b""))) == []


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_grant_forgotten_is_held_in_no_epoch(cpus):
    """An epoch of 0 stands for never, whatever the epoch of now: a 1 there would come round."""
    bench = Bench(cpus)
    tracker = bench.tracker
    for _ in range(2 * EPOCHS):
        bench.fetch(5, 0)
        bench.write(5, 0, executable=True)
        bench.fetch(5, cpus - 1)
        if cpus > 1:
            assert not tracker.is_held(tracker.checked_epoch[5]), tracker.epoch
        tracker.protect(5)
        for epochs in (tracker.written_epoch, tracker.checked_epoch):
            assert not tracker.is_held(epochs[5]), tracker.epoch
        bench.write(5)  # data again
        tracker.flush_all()
