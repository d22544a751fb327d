# SPDX-License-Identifier: GPL-2.0-or-later
"""Every shipped guest gives its expected output under every plug-in, on any number of vCPUs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from emu.machine import Machine
from guests import GUESTS, Guest
from guests.asm import assemble, elf32
from guests.encoder import keystone_problem

KEYSTONE_PROBLEM = keystone_problem()

PLUG_INS: dict[str, dict[str, Any]] = {
    "shadow": {"mmu": "shadow"},
    "interpreted": {"mmu": "shadow", "jit": "off"},
    "uncached": {"mmu": "uncached"},
    "audit": {"mmu": "shadow", "audit": True},
    "audit-slices": {"mmu": "shadow", "audit": "slices"},
    "lockstep": {"mmu": "lockstep"},
    "pool-8": {"mmu": "shadow", "shadow_pages": 8},
    "native": {"mmu": "native"},
}
ALONE = [guest for guest in GUESTS.values() if not guest.needs_smp]
TOGETHER = [guest for guest in GUESTS.values() if guest.needs_smp]


def run(guest: Guest, options: dict[str, Any]) -> tuple[str, int]:
    with Machine(kernel=guest.path, memory=guest.memory, **options) as machine:
        outcome = machine.run(timeout=250 if options.get("audit") else 60)
        assert outcome.kind.value == "guest exit", f"{outcome}\n{machine.serial.text}"
        return machine.serial.text, outcome.exit_code


@pytest.mark.parametrize("options", PLUG_INS.values(), ids=list(PLUG_INS))
@pytest.mark.parametrize("guest", GUESTS.values(), ids=list(GUESTS))
def test_guest_gives_its_expected_output(guest: Guest, options: dict[str, Any]) -> None:
    assert run(guest, options) == (guest.expected, guest.exit_code)


@pytest.mark.parametrize("quantum", [{}, {"quantum": 701}], ids=["default", "short"])
@pytest.mark.parametrize("cpus", [2, 4])
@pytest.mark.parametrize("guest", ALONE, ids=lambda guest: guest.name)
def test_idle_vcpus_do_not_show(guest: Guest, cpus: int, quantum: dict[str, int]) -> None:
    options = {**PLUG_INS["audit"], **quantum, "cpus": cpus}
    assert run(guest, options) == (guest.expected, guest.exit_code)


@pytest.mark.parametrize("guest", ALONE, ids=lambda guest: guest.name)
def test_the_quantum_does_not_show_on_one_vcpu(guest: Guest) -> None:
    options = {**PLUG_INS["audit"], "quantum": 701}
    assert run(guest, options) == (guest.expected, guest.exit_code)


@pytest.mark.parametrize("quantum", [{}, {"quantum": 701}], ids=["default", "short"])
@pytest.mark.parametrize(
    "plug_in",
    ["shadow", "uncached", "audit", "audit-slices", "lockstep", "pool-8"],
)
@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize("guest", TOGETHER, ids=lambda guest: guest.name)
def test_the_number_of_vcpus_does_not_show(
    guest: Guest, cpus: int, plug_in: str, quantum: dict[str, int]
) -> None:
    options = {**PLUG_INS[plug_in], **quantum, "cpus": cpus}
    assert run(guest, options) == (guest.expected, guest.exit_code)


def seconds_of(guest: Guest, options: dict[str, Any]) -> float:
    with Machine(kernel=guest.path, memory=guest.memory, **options) as machine:
        started = time.process_time()
        machine.run(timeout=250)
        return time.process_time() - started


@pytest.mark.timing
@pytest.mark.parametrize("audit", [True, "slices"])
@pytest.mark.parametrize("guest", GUESTS.values(), ids=list(GUESTS))
def test_an_audit_costs_less_than_thirty_plain_runs(guest: Guest, audit: bool | str) -> None:
    plain = min(seconds_of(guest, {}) for _ in range(3))
    audited = min(seconds_of(guest, {"audit": audit}) for _ in range(2))
    print(f"{guest.name}: {plain:.3f} s, audited {audited:.3f} s, {audited / plain:.1f} times")
    assert audited < 30 * plain


@pytest.mark.parametrize("guest", TOGETHER, ids=lambda guest: guest.name)
def test_sixteen_vcpus(guest: Guest) -> None:
    assert run(guest, {"cpus": 16}) == (guest.expected, guest.exit_code)


def test_the_same_seed_gives_the_same_run_instruction_for_instruction() -> None:
    guest = GUESTS["spinlock"]
    counts = set()
    for _ in range(2):
        with Machine(kernel=guest.path, memory=guest.memory, cpus=3) as machine:
            counts.add(machine.run(timeout=60).instructions)
    assert len(counts) == 1


@pytest.mark.skipif(KEYSTONE_PROBLEM is not None, reason=str(KEYSTONE_PROBLEM))
@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param('CHECK eax, 5, "a value"', "FAIL a value: got 00000004", id="wrong value"),
        pytest.param("ud2", "FAIL unexpected exception 00000006", id="exception nobody waits for"),
        pytest.param(
            'FAULTS XPF, 0, 0, "a fault", nop', "FAIL a fault: got ffffffff", id="missing fault"
        ),
    ],
)
def test_a_guest_that_finds_something_wrong_says_so(
    tmp_path: Path, body: str, message: str
) -> None:
    source = tmp_path / "wrong.asm"
    source.write_text(
        '%include "inc/kernel32.inc"\n org ORIGIN\n bits 32\n MULTIBOOT\n'
        f"start: KERNEL32\n mov eax, 4\n {body}\n mov al, EXIT_PASSED\n jmp exit32\n"
        " KERNEL32_CODE\n",
        encoding="ascii",
    )
    image = elf32(assemble(source, GUESTS["hello"].source.parent))
    with Machine(kernel=image, memory=16 << 20) as machine:
        outcome = machine.run(timeout=60)
        assert machine.serial.text.startswith(message)
        assert outcome.exit_code == 35
