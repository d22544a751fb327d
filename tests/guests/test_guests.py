# SPDX-License-Identifier: GPL-2.0-or-later
"""Every shipped guest gives its expected output under every plug-in, on any number of vCPUs."""

from __future__ import annotations

from typing import Any

import pytest

from emu.machine import Machine
from guests import GUESTS, Guest

PLUG_INS: dict[str, dict[str, Any]] = {
    "shadow": {"mmu": "shadow"},
    "interpreted": {"mmu": "shadow", "jit": "off"},
    "uncached": {"mmu": "uncached"},
    "audit": {"mmu": "shadow", "audit": True},
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


@pytest.mark.parametrize("cpus", [2, 4])
@pytest.mark.parametrize("guest", ALONE, ids=lambda guest: guest.name)
def test_idle_vcpus_do_not_show(guest: Guest, cpus: int) -> None:
    assert run(guest, {"cpus": cpus}) == (guest.expected, guest.exit_code)


@pytest.mark.parametrize("quantum", [{}, {"quantum": 701}], ids=["default", "short"])
@pytest.mark.parametrize("plug_in", ["shadow", "uncached", "audit", "pool-8"])
@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize("guest", TOGETHER, ids=lambda guest: guest.name)
def test_the_number_of_vcpus_does_not_show(
    guest: Guest, cpus: int, plug_in: str, quantum: dict[str, int]
) -> None:
    options = {**PLUG_INS[plug_in], **quantum, "cpus": cpus}
    assert run(guest, options) == (guest.expected, guest.exit_code)


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
