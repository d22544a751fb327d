# SPDX-License-Identifier: GPL-2.0-or-later
"""The dirty log of a running machine: no frame that changed is missing."""

from __future__ import annotations

import pytest

from emu.machine import Machine
from guests import load

GUESTS = {
    "ring3": ("ring3", 1),
    "write_protect": ("write_protect", 1),
    "shootdown": ("shootdown", 2),
    "code of two processors": ("smc_smp", 2),
    "ticks": ("ticks", 1),
}


def ram_of(m: Machine) -> list[tuple[int, bytes]]:
    return [(slot.gpa, bytes(slot.view)) for slot in m.guest_memory.slots() if slot.kind == "ram"]


def changed(before: list[tuple[int, bytes]], after: list[tuple[int, bytes]]) -> set[int]:
    frames = set()
    for (gpa, old), (_, new) in zip(before, after, strict=True):
        for at in range(0, len(old), 0x1000) if old != new else ():
            if old[at : at + 0x1000] != new[at : at + 0x1000]:
                frames.add(gpa + at >> 12)
    return frames


@pytest.mark.parametrize(("guest", "cpus"), GUESTS.values(), ids=GUESTS)
@pytest.mark.parametrize(
    ("mmu", "jit"),
    [("shadow", "off"), ("shadow", "auto"), ("uncached", "off"), ("lockstep", "off")],
)
def test_no_frame_that_changed_is_missing(guest: str, cpus: int, mmu: str, jit: str) -> None:
    """Whoever wrote it: the guest, the processor (stack frames, A and D), a device."""
    with Machine(load(guest).path, mmu=mmu, jit=jit, cpus=cpus, memory=16 << 20) as m:
        log = m.mmu
        log.start_dirty_log()
        before = ram_of(m)
        for _ in range(8):
            outcome = m.run(timeout=60, max_insns=3001)
            after = ram_of(m)
            missing = changed(before, after) - set(log.dirty_log())
            assert not missing, [hex(gfn) for gfn in sorted(missing)]
            before = after
        log.stop_dirty_log()
        if outcome.kind.value == "instruction limit":
            assert m.run(timeout=60).exit_code == 33


def test_writes_of_a_debugger_are_in_it() -> None:
    with Machine(load("hello").path) as m:
        m.mmu.start_dirty_log()
        m.phys[0x5_0000] = 1
        assert m.mmu.dirty_log() == [0x50]
        assert m.mmu.dirty_log() == []


@pytest.mark.parametrize("mmu", ["shadow", "uncached", "lockstep"])
def test_a_log_that_was_not_started_cannot_be_read(mmu: str) -> None:
    with Machine(load("hello").path, mmu=mmu) as m:
        for stop in (lambda: None, m.mmu.stop_dirty_log):
            stop()
            with pytest.raises(ValueError, match="start_dirty_log"):
                m.mmu.dirty_log()


def test_two_plug_ins_need_two_logs() -> None:
    with (
        Machine(load("hello").path, mmu="lockstep:uncached,emu.cpu.native:NativeMmu") as m,
        pytest.raises(ValueError, match=r"native.*has no dirty log"),
    ):
        m.mmu.start_dirty_log()
