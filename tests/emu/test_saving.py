# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole machine saved between two slices: a copy of it makes the same run to the end."""

from __future__ import annotations

import pytest

from emu.cpu.hidden import INTERRUPT_VIRQ
from emu.errors import NotSavableError, StateError
from emu.machine import Machine
from emu.outcome import Kind
from guests import load

from .test_pdptes import EDIT, LOOK, OLD, pae


def save(machine):
    """All parts' states, and RAM."""
    return {
        "clock": machine.clock.save(),
        "cpus": [cpu.save() for cpu in machine.cpus],
        "board": machine.board.save(),
        "turn": machine.scheduler.save(),
        "ram": [bytes(slot.view) for slot in machine.guest_memory.slots() if slot.kind == "ram"],
    }


def restore(machine, state):
    slots = [slot for slot in machine.guest_memory.slots() if slot.kind == "ram"]
    for slot, data in zip(slots, state["ram"], strict=True):
        slot.view[:] = data
    if machine.mmu.name != "native":
        machine.mmu.zap_all()
    machine.clock.load(state["clock"])
    for cpu, saved in zip(machine.cpus, state["cpus"], strict=True):
        cpu.load(saved)
    machine.board.load(state["board"])
    machine.scheduler.load(state["turn"])


def parts(state):
    """A state without RAM and what compares slowly."""
    return {name: part for name, part in state.items() if name != "ram"}


def ending(machine):
    """Run to the end; returns all that a person may see of it."""
    outcome = machine.run(timeout=60)
    regs = machine.regs.read_all()
    events = [cpu.record.recent for cpu in machine.cpus]
    return outcome.kind, outcome.guest_code, machine.clock.now, machine.serial.text, regs, events


def machine_of(name, **options):
    return Machine(load(name).path, memory=16 << 20, **options)


GUESTS = {
    "ring3": (1, (1, 3_000, 20_000)),
    "ticks": (1, (5_000, 21_000, 37_000)),
    "demand": (1, (5_000, 400_000)),
    "mode_mix": (1, (500, 2_000, 12_000)),
    "context_switch": (1, (30_000,)),
    "smp_boot": (2, (3_000, 30_000)),
    "spinlock": (2, (20_000,)),
    "smc_smp": (2, (9_000,)),
}


@pytest.mark.parametrize("jit", ["auto", "off"])
@pytest.mark.parametrize(
    ("name", "cpus", "position"),
    [
        pytest.param(name, cpus, position, id=f"{name} at {position}")
        for name, (cpus, positions) in GUESTS.items()
        for position in positions
    ],
)
def test_a_copy_makes_the_same_run(name, cpus, position, jit):
    with (
        machine_of(name, cpus=cpus, jit=jit) as original,
        machine_of(name, cpus=cpus, jit=jit) as other,
    ):
        assert original.run(timeout=60, max_insns=position).kind is Kind.INSN_LIMIT
        state = save(original)
        restore(other, state)
        assert parts(save(other)) == parts(state)
        expected = ending(original)
        assert ending(other) == expected
        restore(original, state)  # and back, in the machine itself
        assert ending(original) == expected
        original.mmu.check()


@pytest.mark.parametrize("mmu", ["uncached", "native", "lockstep"])
def test_it_does_so_under_every_mmu(mmu):
    with machine_of("demand", mmu=mmu) as original, machine_of("demand", mmu=mmu) as other:
        original.run(timeout=60, max_insns=30_000)
        restore(other, save(original))
        assert ending(other) == ending(original)


@pytest.mark.parametrize("mmu", ["shadow", "uncached", "lockstep"])
@pytest.mark.parametrize("jit", ["auto", "off"])
def test_pdptes_that_memory_no_longer_holds_come_back(mmu, jit):
    with pae(EDIT + LOOK, mmu, jit) as original, pae(EDIT + LOOK, mmu, jit) as other:
        original.run(timeout=20, max_insns=11)
        assert original.regs.rsi == 0
        assert original.phys[0x20_0008:0x20_000A] == b"\x01\x40"  # the edit is done
        state = save(original)
        restore(other, state)
        other.run(timeout=20)
        assert other.regs.rsi == OLD
        assert other.cpus[0].save()["pdptes"] == state["cpus"][0]["pdptes"]


def test_random_numbers_go_on():
    # l: rdrand eax; inc ecx; jmp l
    code = bytes.fromhex("0fc7f0 41 ebfa")
    options = {"format": "flat32", "address": 0x10_0000, "memory": 2 << 20}
    with Machine(code, **options) as original, Machine(code, seed=5, **options) as other:
        original.run(timeout=20, max_insns=300)
        restore(other, save(original))
        seen = []
        for machine in (original, other):
            machine.run(timeout=20, max_insns=300)
            seen.append((machine.regs.rax, machine.regs.rcx))
        assert seen[0] == seen[1]


def test_a_pin_that_is_up_stays_up():
    with Machine(memory=1 << 20) as original, Machine(memory=1 << 20) as other:
        original.board.irq(1)(True)
        original.ports.write(0x21, 1, 0)
        cpu = original.cpus[0]
        assert cpu.hidden.cpu[cpu.hidden.interrupt_request] & INTERRUPT_VIRQ
        restore(other, save(original))
        cpu = other.cpus[0]
        assert cpu.hidden.cpu[cpu.hidden.interrupt_request] & INTERRUPT_VIRQ
        cpu.regs.rflags |= 0x200
        assert cpu.can_wake


def test_breakpoints_of_the_guest_come_back():
    # l: inc eax; jmp l, with DR0 on the jump
    options = {"format": "flat32", "address": 0x10_0000, "memory": 2 << 20}
    with (
        Machine(b"\x40\xeb\xfd", **options) as original,
        Machine(b"\x40\xeb\xfd", **options) as other,
    ):
        original.cpus[0].debug.write(0, 0x10_0001)
        original.cpus[0].debug.write(7, 0x2)
        restore(other, save(original))
        assert ending(other)[0] is Kind.TRIPLE_FAULT  # the #DB, for want of an IDT
        assert other.regs.rax == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(index=1),
        lambda state: state["cpuid"].append(0),
        lambda state: state.update(env=state["env"][:-8]),
        lambda state: state["msrs"]["stored"].pop(),
    ],
    ids=["another vCPU", "other features", "registers too short", "other MSRs"],
)
def test_the_state_of_another_processor_is_refused(change):
    with Machine(memory=1 << 20) as machine:
        state = machine.cpus[0].save()
        change(state)
        with pytest.raises(StateError):
            machine.cpus[0].load(state)


def test_inside_a_slice_nothing_is_saved():
    refused = []

    class Port:
        def read(self, port, size):
            with pytest.raises(NotSavableError, match="an instruction is under way"):
                machine.cpus[0].save()
            refused.append(port)
            return 0

    options = {"format": "flat32", "address": 0x10_0000, "memory": 2 << 20}
    with Machine(bytes.fromhex("66ba0003 ec f4"), **options) as machine:
        machine.ports.add(0x300, 0x300, Port())
        machine.run(timeout=20)
    assert refused == [0x300]
