# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns, virtual time and endings, with processors that only count."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from emu.clock import NS_PER_INSN, Clock
from emu.cpu.slice import Exit
from emu.outcome import Kind, Position, Stop
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
        self.counts_blocks = False
        self.points = SimpleNamespace(release=lambda: None)
        self._open = False
        self._begun = self._budget = 0
        self._left = self._kicked = False
        self._reason = Exit.BUDGET

    def progress(self) -> int:
        return self._begun if self._open else 0

    def extra(self) -> int:
        return 0

    def take_hit(self) -> None:
        return None

    def limit(self, budget: int) -> None:
        self._budget = min(self._budget, max(budget, self._begun))

    def leave(self) -> None:
        self._left = True

    def kick(self) -> None:
        self._kicked = True

    def run(self, budget: int, cut: int | None = None) -> Exit:
        self.halted = False
        self._open, self._begun, self._budget, self._left = True, 0, budget, False
        self._reason = Exit.BUDGET
        return self.go_on(cut)

    def go_on(self, cut: int | None = None) -> Exit:
        while self._begun < self._budget and not self._left and self._reason is Exit.BUDGET:
            if self._kicked or (cut is not None and self._begun >= cut):
                self._kicked = False
                return Exit.SUSPENDED
            self._begun += 1
            action = self.script.get(self.executed + self._begun)
            if action == "halt":
                self.halted, self._reason = True, Exit.HALT
            elif action == "die":
                self._reason = Exit.SHUTDOWN
            elif action is not None:
                action()
        self.slices.append(self._begun)
        self.end_slice()
        return self._reason

    def end_slice(self) -> None:
        self.executed += self._begun
        self._open = False


def ending(stop: Stop) -> tuple[Kind, int | None]:
    return stop.kind, stop.guest_code


def test_one_processor_runs_to_the_limit_and_not_an_instruction_more() -> None:
    cpu, clock = Processor(), Clock()
    scheduler = Scheduler([cpu], clock)
    assert ending(scheduler.run(max_insns=250_001)) == (Kind.INSN_LIMIT, None)
    assert scheduler.executed == 250_001
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
    scheduler = Scheduler([cpu], clock)
    scheduler.run(max_insns=20)
    assert scheduler.executed == 20
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
    assert ending(Scheduler([cpu], clock).run(timeout=5)) == (Kind.IDLE, None)


def test_a_timer_wired_as_nmi_wakes_with_interrupts_off() -> None:
    clock = Clock()
    cpu = Processor(script={10: "halt"})
    cpu.listens = False
    clock.at(5_000, lambda: setattr(cpu, "can_wake", True))
    scheduler = Scheduler([cpu], clock)
    scheduler.is_unmaskable = lambda: True
    assert ending(scheduler.run(max_insns=20)) == (Kind.INSN_LIMIT, None)
    assert clock.now == 5_000 + 100


def test_halted_with_a_masked_timer_times_out() -> None:
    clock = Clock()
    cpu = Processor(script={10: "halt"})

    def again() -> None:
        clock.at(clock.now + 1000, again)

    again()
    stop = Scheduler([cpu], clock).run(timeout=0.05)
    assert ending(stop) == (Kind.TIMEOUT, None)


def test_stop_ends_behind_the_instruction() -> None:
    clock = Clock()
    cpu = Processor(script={33: lambda: scheduler.stop(Kind.GUEST_EXIT, 5)})
    scheduler = Scheduler([cpu], clock)
    assert ending(scheduler.run()) == (Kind.GUEST_EXIT, 5)
    assert cpu.executed == 33


def test_the_first_stop_counts() -> None:
    clock = Clock()

    def both() -> None:
        scheduler.stop(Kind.POWER_OFF)
        scheduler.stop(Kind.GUEST_EXIT, 1)

    scheduler = Scheduler([Processor(script={3: both})], clock)
    assert ending(scheduler.run()) == (Kind.POWER_OFF, None)


def test_shutdown_says_which() -> None:
    cpus, clock = [Processor(0), Processor(1, {7: "die"})], Clock()
    scheduler = Scheduler(cpus, clock, quantum=5)
    assert ending(scheduler.run()) == (Kind.TRIPLE_FAULT, None)
    assert scheduler.current is cpus[1]


def test_a_run_can_go_on() -> None:
    cpu, clock = Processor(), Clock()
    scheduler = Scheduler([cpu], clock)
    for _ in range(3):
        assert ending(scheduler.run(max_insns=100)) == (Kind.INSN_LIMIT, None)
    assert scheduler.executed == 300
    assert clock.now == 3000


def test_a_limit_leaves_the_turns_as_they_were() -> None:
    cpus, clock = [Processor(0), Processor(1)], Clock()
    scheduler = Scheduler(cpus, clock, quantum=100)
    for _ in range(40):
        scheduler.run(max_insns=13)
    assert [cpu.slices for cpu in cpus] == [[100] * 3, [100] * 2]
    assert scheduler.position == Position(520, 1, 20)
    assert clock.now == 260 * NS_PER_INSN


def test_a_limit_leaves_the_events_where_they_were() -> None:
    def events(limit: int | None) -> list[tuple[int, int]]:
        clock = Clock()
        seen: list[tuple[int, int]] = []
        cpus = [Processor(0), Processor(1)]

        def again() -> None:
            seen.append((clock.now, sum(cpu.executed for cpu in cpus)))
            clock.at(clock.now + 333, again)

        clock.at(77, again)
        scheduler = Scheduler(cpus, clock, quantum=50)
        while scheduler.executed < 1000:
            scheduler.run(max_insns=min(limit or 1000, 1000 - scheduler.executed))
        return seen

    assert events(7) == events(1) == events(None)


def test_an_event_put_in_between_two_runs_ends_the_suspended_slice() -> None:
    cpu, clock = Processor(), Clock()
    scheduler = Scheduler([cpu], clock)
    scheduler.run(max_insns=30)
    seen = []
    clock.at(clock.now + 70, lambda: seen.append(cpu.executed))
    scheduler.run(max_insns=30)
    assert seen == [37]


def test_an_interrupt_stops_without_a_change_and_once() -> None:
    cpu, clock = Processor(script={33: lambda: scheduler.interrupt()}), Clock()
    scheduler = Scheduler([cpu], clock)
    assert ending(scheduler.run()) == (Kind.PAUSED, None)
    assert scheduler.position == Position(33, 0, 33)
    assert scheduler.run(max_insns=10).kind is Kind.INSN_LIMIT
    assert (cpu.slices, scheduler.executed) == ([], 43)


def test_an_interrupt_between_two_runs_stops_the_next_at_once() -> None:
    scheduler = Scheduler([Processor()], Clock())
    scheduler.interrupt()
    assert scheduler.run(max_insns=10) == Stop(Kind.PAUSED, 0, Position(0))


def test_a_run_stops_at_a_position() -> None:
    cpus, clock = [Processor(0), Processor(1)], Clock()
    scheduler = Scheduler(cpus, clock, quantum=100)
    stop = scheduler.run(until=Position(250))
    assert (stop.kind, stop.position) == (Kind.POSITION, Position(250, 0, 50))


def test_the_end_of_one_turn_is_not_the_beginning_of_the_next() -> None:
    cpus, clock = [Processor(0), Processor(1)], Clock()
    scheduler = Scheduler(cpus, clock, quantum=100)
    assert scheduler.run(until=Position(100)).position == Position(100)
    assert scheduler.run(until=Position(100, 1, 0)).position == Position(101, 1, 1)


def test_a_reset_ends_a_suspended_slice() -> None:
    cpus, clock = [Processor(0), Processor(1)], Clock()
    scheduler = Scheduler(cpus, clock, quantum=100)
    scheduler.run(max_insns=130)
    scheduler.reset()
    assert (scheduler.executed, clock.now) == (130, 65 * NS_PER_INSN)
    scheduler.run(max_insns=100)
    assert cpus[0].executed == 200
