# SPDX-License-Identifier: GPL-2.0-or-later
"""Observers hear of everything they want to, of nothing else, and the guest hears of none."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from emu.cpu import compiled
from emu.cpu.faults import Vector
from emu.machine import Machine
from emu.observe import MachineObserver
from emu.outcome import Kind
from guests import GUESTS, Guest

HERE = [name for name in vars(MachineObserver) if not name.startswith("_")]


def observer_of(*names: str) -> tuple[MachineObserver, list[tuple[str, Any]]]:
    """Return an observer that overrides these methods, and the list of its calls."""
    calls: list[tuple[str, Any]] = []

    def method(name: str):
        return lambda self, *arguments: calls.append((name, arguments))

    return type("Observer", (MachineObserver,), {name: method(name) for name in names})(), calls


def machine_of(guest: Guest, **options) -> Machine:
    return Machine(guest.path, memory=guest.memory, **options)


def state(machine: Machine) -> list[object]:
    registers = [cpu.regs.read_all() for cpu in machine.cpus]
    ram = [bytes(s.view) for s in machine.guest_memory.slots() if s.kind == "ram"]
    return [machine.position, machine.clock.now, machine.serial.text, registers, ram]


@pytest.mark.parametrize("mmu", ["shadow", "uncached"])
@pytest.mark.parametrize(("name", "cpus"), [("context_switch", 1), ("ring3", 1), ("smp_boot", 4)])
def test_observing_all_there_is_changes_nothing(name: str, cpus: int, mmu: str) -> None:
    guest = GUESTS[name]
    with machine_of(guest, cpus=cpus, mmu=mmu) as machine:
        machine.run(timeout=60)
        expected = state(machine)
    with machine_of(guest, cpus=cpus, mmu=mmu) as machine:
        observer, calls = observer_of(*HERE)
        machine.run(timeout=60, max_insns=5_000)
        machine.observe(observer)
        machine.run(timeout=60)
        assert state(machine) == expected
        assert {name for name, _ in calls} >= {"turn", "stop", "port", "load", "fill"}


@pytest.mark.parametrize("jit", ["off", "auto"])
def test_an_observer_hears_of_events_from_the_moment_it_comes(jit: str) -> None:
    with machine_of(GUESTS["demand"], jit=jit) as machine:
        observer, calls = observer_of("event")
        machine.run(max_insns=400_000)
        before = machine.mmu.counters.as_dict()["pf_guest"]
        machine.observe(observer)
        machine.run(timeout=60)
        faults = [past for _, (_, past) in calls if past.event.vector == Vector.PF]
        assert len(faults) == machine.mmu.counters.as_dict()["pf_guest"] - before > 0


def test_an_observer_hears_of_every_fill() -> None:
    with machine_of(GUESTS["demand"], mmu="shadow") as machine:
        observer, calls = observer_of("fill")
        machine.run(max_insns=100_000)
        machine.observe(observer)
        before = machine.mmu.counters.as_dict()["fills"]
        machine.run(max_insns=100_000)
        assert len(calls) == machine.mmu.counters.as_dict()["fills"] - before > 0


def test_an_observer_hears_of_ports_and_irqs() -> None:
    guest = GUESTS["ticks"]
    with machine_of(guest) as machine:
        observer, calls = observer_of("port", "irq", "event")
        machine.observe(observer)
        machine.run(timeout=60)
        count = Counter(name for name, _ in calls)
        assert count["event"] >= count["irq"] > 0
        exits = [a for name, a in calls if name == "port" and a[1] == 0xF4]
        assert [(a[0], a[4]) for a in exits] == [(0, True)]


def test_an_observer_hears_of_turns_and_stops() -> None:
    with machine_of(GUESTS["smp_boot"], cpus=2) as machine:
        observer, calls = observer_of("turn", "stop")
        machine.observe(observer)
        machine.run(max_insns=20_000)
        assert calls[-1][0] == "stop"
        assert calls[-1][1][0].kind is Kind.INSN_LIMIT
        turns = [a for name, a in calls if name == "turn"]
        for index, cpu in enumerate(machine.cpus):
            assert sum(n for who, n in turns if who == index) == cpu.executed


def test_an_observer_hears_of_invlpg_where_the_plug_in_does() -> None:
    with machine_of(GUESTS["pse"], mmu="uncached") as machine:
        observer, calls = observer_of("invlpg")
        machine.observe(observer)
        machine.run(timeout=60)
        assert len(calls) == machine.mmu.counters.invlpg > 0


def test_one_that_has_gone_hears_nothing() -> None:
    with machine_of(GUESTS["context_switch"]) as machine:
        observer, calls = observer_of(*HERE)
        machine.observe(observer)
        machine.run(max_insns=1_000)
        machine.unobserve(observer)
        calls.clear()
        machine.run(timeout=60)
        assert calls == []


def test_two_hear_the_same_in_their_order() -> None:
    heard: list[str] = []

    class Listener(MachineObserver):
        def __init__(self, name: str) -> None:
            self.name = name

        def turn(self, cpu: int, instructions: int) -> None:
            heard.append(self.name)

    with machine_of(GUESTS["hello"]) as machine:
        machine.observe(Listener("first"))
        machine.observe(Listener("second"))
        machine.run(timeout=60)
    assert heard[:2] == ["first", "second"]
    assert heard.count("first") == heard.count("second")


def test_nobody_is_removed_twice() -> None:
    with machine_of(GUESTS["hello"]) as machine:
        observer, _ = observer_of("turn")
        machine.observe(observer)
        machine.unobserve(observer)
        with pytest.raises(ValueError, match="does not observe"):
            machine.unobserve(observer)


@pytest.mark.parametrize("names", [(), ("turn", "stop", "port", "load", "invlpg", "flushed")])
def test_compiled_code_stays_on_for_cheap_observers(names: tuple[str, ...]) -> None:
    pytest.importorskip("numba")
    with machine_of(GUESTS["demand"], jit="on", clock="blocks") as machine:
        observer, _ = observer_of(*names)
        machine.observe(observer)
        assert machine.cpus[0].state_block.words[compiled.EVENTS // 8] == 1
        machine.run(timeout=60)
        assert sum(block.fills for block in machine.mmu.counters.compiled) > 0
