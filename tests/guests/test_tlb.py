# SPDX-License-Identifier: GPL-2.0-or-later
"""The TLB sanitizer on kernels with one bug each: what is found, where, and nothing without it."""

from __future__ import annotations

import pytest

from emu.machine import Machine
from guests.build import image_bytes
from guests.encoder import keystone_problem
from guests.tlb import TLB_GUESTS, TlbGuest
from mmu.tlbcheck import Finding

KEYSTONE_PROBLEM = keystone_problem()
ENOUGH = 500_000
"""Instructions; a kernel takes 15,000, but for the one that waits for ever."""

all_guests = pytest.mark.parametrize("guest", TLB_GUESTS.values(), ids=list(TLB_GUESTS))
found_guests = pytest.mark.parametrize(
    "guest",
    [guest for guest in TLB_GUESTS.values() if guest.finding],
    ids=lambda guest: guest.name,
)


def run(guest: TlbGuest, variant: str, tlb: str = "fresh") -> tuple[str, list[Finding]]:
    with Machine(
        kernel=guest.path,
        memory=guest.memory,
        cpus=guest.vcpus,
        append=variant,
        tlb_check="report",
        tlb=tlb,
    ) as machine:
        machine.run(timeout=60, max_insns=ENOUGH)
        assert machine.tlb_check is not None
        return machine.serial.text, machine.tlb_check.findings


@found_guests
@pytest.mark.parametrize("tlb", ["fresh", "lazy"])
def test_the_bug_is_found_with_both_sites(guest: TlbGuest, tlb: str) -> None:
    (finding,) = run(guest, "bug", tlb)[1]
    assert finding.kind.value == guest.finding
    assert (finding.page, finding.user.cpu) == (guest.page, guest.cpu)
    assert finding.symbolize(finding.user.rip).symbol.startswith(guest.user)
    assert finding.symbolize(finding.writer.rip).symbol.startswith(guest.writer)


@found_guests
def test_a_processor_that_keeps_stale_entries_runs_otherwise(guest: TlbGuest) -> None:
    assert run(guest, "bug", "lazy")[0] != run(guest, "bug", "eager")[0]


@all_guests
def test_the_kernel_without_the_bug_is_silent_and_runs_alike(guest: TlbGuest) -> None:
    texts = set()
    for tlb in ("fresh", "lazy", "eager"):
        text, findings = run(guest, "fixed", tlb)
        assert findings == []
        assert text.endswith("\n")
        texts.add(text)
    assert len(texts) == 1


@all_guests
@pytest.mark.skipif(KEYSTONE_PROBLEM is not None, reason=str(KEYSTONE_PROBLEM))
def test_the_committed_image_is_what_its_source_assembles_to(guest: TlbGuest) -> None:
    assert image_bytes(guest)[0] == guest.path.read_bytes()
