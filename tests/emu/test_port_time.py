# SPDX-License-Identifier: GPL-2.0-or-later
"""What takes longer than an instruction: ports, device registers, what hypervisors see, PAUSE."""

from __future__ import annotations

import pytest

from emu.machine import Machine

# mov cx, 1000; l: (two bytes or more); dec cx; jnz l; out 0xf4, al
KERNELS = {
    "nothing": "9090",
    "in": "e480",
    "out": "e680",
    "rdtsc": "0f31",
    "cpuid": "6651 31c0 0fa2 6659",
    "rdmsr": "6651 b910000000 0f32 6659",
    "wrmsr": "6651 b9030100c0 31c0 31d2 0f30 6659",
    "wrmsr, TSC deadline": "6651 b9e0060000 31c0 31d2 0f30 6659",
    "mov cr0": "0f20c0 0f22c0",
    "mov cr0, CR0.WP toggled": "0f20c0 3500000100 0f22c0",
    "mov cr4": "0f20e0 0f22e0",
    "mov cr4, CR4.PGE toggled": "0f20e0 3480 0f22e0",
    "HPET read": "a1f000d0fe",
}
NS = {
    "in": 1000,
    "out": 1000,
    "wrmsr, TSC deadline": 4000,
}  # all others take 500, or what is said of them below
NS |= {name: 10_500 for name in KERNELS if "toggled" in name}


def run(body, clock="auto"):
    loop = bytes.fromhex(body)
    code = bytes.fromhex("66b9e803") + loop + b"\x66\x49\x75" + bytes((254 - len(loop) - 2,))
    with Machine(code + b"\xe6\xf4", format="flat32", clock=clock) as machine:
        outcome = machine.run(timeout=60)
        assert outcome.kind.name == "GUEST_EXIT", outcome
        return machine.clock.now, outcome.instructions


@pytest.mark.parametrize("what", [name for name in KERNELS if name != "nothing"])
def test_each_takes_its_time_and_is_no_instruction_more(what):
    idle_ns, _ = run(KERNELS["nothing"])
    ns, instructions = run(KERNELS[what])
    each = (ns - idle_ns) / 1000
    assert NS.get(what, 500) <= each < NS.get(what, 500) + 100
    assert instructions < 10_000


def test_a_switch_of_address_spaces_takes_no_time_of_its_own():
    idle_ns, _ = run(KERNELS["nothing"])
    ns, _ = run("0f20d8 0f22d8")  # mov eax,cr3; mov cr3,eax
    assert ns - idle_ns < 1000 * 50


def test_a_loop_of_pauses_waits_ever_longer():
    ns, _ = run("f390")
    assert ns > 1000 * 15_000


def test_pauses_far_apart_do_not_add_up():
    ns, _ = run("f390" + "90" * 110, clock="instructions")
    assert ns < 1000 * (110 * 10 + 1_000)


def test_a_pause_is_never_longer_than_the_next_event_is_away():
    loop = bytes.fromhex("f390 ebfc")
    with Machine(loop, format="flat32") as machine:
        machine.run(max_insns=300, timeout=60)
        when = machine.clock.now + 7_000
        came = []
        machine.clock.at(when, lambda: came.append(machine.clock.now))
        machine.run(max_insns=300, timeout=60)
        assert len(came) == 1
        assert when <= came[0] < when + 1_000
