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
QUANTA = {"default": {}, "short": {"quantum": 701}}


def run(guest: Guest, options: dict[str, Any]) -> tuple[str, int]:
    with Machine(kernel=guest.path, memory=guest.memory, **options) as machine:
        outcome = machine.run(timeout=250 if options.get("audit") else 60)
        assert outcome.kind.value == "guest exit", f"{outcome}\n{machine.serial.text}"
        return machine.serial.text, outcome.exit_code


@pytest.mark.parametrize("options", PLUG_INS.values(), ids=list(PLUG_INS))
@pytest.mark.parametrize("guest", GUESTS.values(), ids=list(GUESTS))
def test_guest_gives_its_expected_output(guest: Guest, options: dict[str, Any]) -> None:
    text, code = run(guest, options)
    assert text == guest.expected
    assert code == guest.exit_code


@pytest.mark.parametrize("quantum", QUANTA.values(), ids=list(QUANTA))
@pytest.mark.parametrize("plug_in", ["shadow", "audit", "uncached", "pool-8"])
@pytest.mark.parametrize(
    ("guest", "cpus"),
    [
        pytest.param(guest, cpus, id=f"{guest.name}-{cpus}")
        for guest in GUESTS.values()
        for cpus in (2, 4)
    ],
)
def test_the_number_of_vcpus_does_not_show(
    guest: Guest, cpus: int, plug_in: str, quantum: dict[str, int]
) -> None:
    if not guest.needs_smp and (plug_in != "shadow" or quantum):
        pytest.skip("one vCPU does all the work: once is enough")
    text, code = run(guest, {**PLUG_INS[plug_in], **quantum, "cpus": cpus})
    assert text == guest.expected
    assert code == guest.exit_code


def test_the_same_seed_gives_the_same_run_instruction_for_instruction() -> None:
    guest = GUESTS["spinlock"]
    counts = set()
    for _ in range(2):
        with Machine(kernel=guest.path, memory=guest.memory, cpus=3) as machine:
            counts.add(machine.run(timeout=60).instructions)
    assert len(counts) == 1
