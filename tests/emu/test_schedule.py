# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns, virtual time and endings, with processors that only count."""

from __future__ import annotations

import pytest

from emu.clock import NS_PER_INSN, Clock
from emu.cpu.slice import Exit
from emu.outcome import Kind
from emu.schedule import Scheduler


class Processor:
    """Executes what it is told to, and what its script says: {instruction number: action}."""

    def __init__(self, index: int = 0, script=None) -> None:
        self.index = index
        self.script = script or {}
        self.executed = 0
        self.halted = False
        self.can_wake = False
        self.listens = True
        self.shut_down = False
        self.slices: list[int] = []
        self.stalled = 0
        self._running = False
        self._begun = self._budget = 0
        self._left = False

    def progress(self) -> int:
        return self._begun if self._running else 0

    def limit(self, budget: int) -> None:
        self._budget = min(self._budget, max(budget, self._begun))

    def leave(self) -> None:
        self._left = True

    kick = leave

    def run(self, budget: int) -> Exit:
        if self.halted:
            self.halted = False
        self._running, self._begun, self._budget, self._left = True, 0, budget, False
        reason = Exit.BUDGET
        while self._begun < self._budget and not self._left and reason is Exit.BUDGET:
            self._begun += 1
            action = self.script.get(self.executed + self._begun)
            if action == "halt":
                self.halted, reason = True, Exit.HALT
            elif action == "die":
                reason = Exit.SHUTDOWN
            elif action is not None:
                action()
        self._running = False
        self.executed += self._begun
        self.slices.append(self._begun)
        return reason


def test_one_processor_runs_to_the_limit_and_not_an_instruction_more() -> None:
    cpu, clock = Processor(), Clock()
    scheduler = Scheduler([cpu], clock)
    assert scheduler.run(max_insns=250_001) == (Kind.INSN_LIMIT, None)
    assert cpu.executed == 250_001
    assert clock.now == 250_001 * NS_PER_INSN


def test_an_event_happens_at_its_instruction() -> None:
    cpu, clock = Processor(), Clock()
    scheduler = Scheduler([cpu], clock)
    seen = []
    clock.at(1234, lambda: seen.append((clock.now, cpu.executed)))
    scheduler.run(max_insns=1000)
    assert seen == [(1240, 124)]


def test_an_event_put_in_meanwhile_cuts_the_slice() -> None:
    clock = Clock()
    seen = []
    cpu = Processor(
        script={50: lambda: clock.at(clock.now + 70, lambda: seen.append(cpu.executed))}
    )
    Scheduler([cpu], clock).run(max_insns=1000)
    assert seen == [57]


def test_time_in_a_slice_is_what_has_been_executed() -> None:
    clock = Clock()
    seen = []
    cpu = Processor(script={7: lambda: seen.append(clock.now), 9: lambda: seen.append(clock.now)})
    Scheduler([cpu], clock).run(max_insns=10)
    assert seen == [70, 90]


def test_several_run_in_turn_and_time_is_shared() -> None:
    cpus, clock = [Processor(0), Processor(1), Processor(2)], Clock()
    Scheduler(cpus, clock, quantum=100).run(max_insns=900)
    assert [cpu.slices for cpu in cpus] == [[100] * 3] * 3
    assert clock.now == 300 * NS_PER_INSN


def test_time_never_runs_backwards_among_several() -> None:
    clock = Clock()
    times: list[int] = []
    cpus = [
        Processor(n, {i: lambda: times.append(clock.now) for i in range(1, 400, 3)})
        for n in range(3)
    ]
    cpus[1].script[150] = "halt"
    Scheduler(cpus, clock, quantum=37).run(max_insns=900)
    assert times == sorted(times)


def test_halt_skips_to_the_next_event() -> None:
    clock = Clock()
    cpu = Processor(script={10: "halt"})
    clock.at(5_000_000, lambda: setattr(cpu, "can_wake", True))
    Scheduler([cpu], clock).run(max_insns=20)
    assert cpu.executed == 20
    assert clock.now == 5_000_000 + 100


@pytest.mark.parametrize(
    ("armed", "listens"),
    [
        pytest.param(False, True, id="nothing armed"),
        pytest.param(True, False, id="a timer, but interrupts off and no NMI"),
    ],
)
def test_all_halted_for_ever_is_idle(armed: bool, listens: bool) -> None:
    clock = Clock()
    cpu = Processor(script={10: "halt"})
    cpu.listens = listens
    if armed:
        clock.at(100, lambda: None)
    assert Scheduler([cpu], clock).run(timeout=5) == (Kind.IDLE, None)


def test_a_timer_wired_as_nmi_wakes_with_interrupts_off() -> None:
    clock = Clock()
    cpu = Processor(script={10: "halt"})
    cpu.listens = False
    clock.at(5_000, lambda: setattr(cpu, "can_wake", True))
    scheduler = Scheduler([cpu], clock)
    scheduler.is_unmaskable = lambda: True
    assert scheduler.run(max_insns=20) == (Kind.INSN_LIMIT, None)
    assert clock.now == 5_000 + 100


def test_halted_with_a_masked_timer_times_out() -> None:
    clock = Clock()
    cpu = Processor(script={10: "halt"})

    def again() -> None:
        clock.at(clock.now + 1000, again)

    again()
    assert Scheduler([cpu], clock).run(timeout=0.05) == (Kind.TIMEOUT, None)


def test_stop_ends_behind_the_instruction() -> None:
    clock = Clock()
    cpu = Processor(script={33: lambda: scheduler.stop(Kind.GUEST_EXIT, 5)})
    scheduler = Scheduler([cpu], clock)
    assert scheduler.run() == (Kind.GUEST_EXIT, 5)
    assert cpu.executed == 33


def test_the_first_stop_counts() -> None:
    clock = Clock()

    def both() -> None:
        scheduler.stop(Kind.POWER_OFF)
        scheduler.stop(Kind.GUEST_EXIT, 1)

    scheduler = Scheduler([Processor(script={3: both})], clock)
    assert scheduler.run() == (Kind.POWER_OFF, None)


def test_shutdown_says_which() -> None:
    cpus, clock = [Processor(0), Processor(1, {7: "die"})], Clock()
    scheduler = Scheduler(cpus, clock, quantum=5)
    assert scheduler.run() == (Kind.TRIPLE_FAULT, None)
    assert scheduler.current is cpus[1]


def test_a_run_can_go_on() -> None:
    cpu, clock = Processor(), Clock()
    scheduler = Scheduler([cpu], clock)
    for _ in range(3):
        assert scheduler.run(max_insns=100) == (Kind.INSN_LIMIT, None)
    assert cpu.executed == 300
    assert clock.now == 3000
