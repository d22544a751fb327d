# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory slots that come, move and go while a guest runs."""

from __future__ import annotations

import pytest

from emu.machine import Machine
from guests import load

HIGH = 1 << 32


@pytest.mark.parametrize(("guest", "cpus"), [("context_switch", 1), ("shootdown", 2)])
@pytest.mark.parametrize(
    ("mmu", "jit"), [("shadow", "auto"), ("shadow", "off"), ("uncached", "off")]
)
def test_a_guest_that_does_not_use_them_goes_on(guest: str, cpus: int, mmu: str, jit: str) -> None:
    """With its dirty log on, which knows frames by number."""
    written = set()
    with Machine(load(guest).path, mmu=mmu, jit=jit, cpus=cpus) as m:
        m.mmu.start_dirty_log()
        memory, slot = m.guest_memory, None
        for turn in range(1000):
            outcome = m.run(timeout=60, max_insns=2000)
            if outcome.kind.value != "instruction limit":
                break
            if slot is None:
                slot = memory.add_ram(HIGH, 1 << 20)
            elif turn % 3:
                memory.move(slot, HIGH + (2 << 20) if slot.gpa == HIGH else HIGH)
            else:
                memory.remove(slot)
                slot = None
            if turn % 5 == 0:
                written |= set(m.mmu.dirty_log())
        assert turn > 5
        assert outcome.exit_code == 33, outcome.report
        assert "checks passed" in m.serial.text
        assert len(written) > 20


# mov eax,[0x800000]; mov dword ptr [0x800004],0x55; cli; hlt
LOOK = "a100008000 c7050400800055000000 faf4"


@pytest.mark.parametrize("jit", ["auto", "off"])
@pytest.mark.parametrize("mmu", ["shadow", "uncached", "lockstep"])
def test_a_guest_sees_what_is_there_now(mmu: str, jit: str) -> None:
    """Nothing, then RAM, then the same RAM elsewhere, then nothing again."""
    with Machine(
        bytes.fromhex(LOOK), format="flat32", address=0x10_0000, memory=4 << 20, mmu=mmu, jit=jit
    ) as m:

        def look() -> int:
            m.regs.rip = 0x10_0000
            m.cpus[0].halted = False
            m.run(timeout=60)
            return m.regs.rax & 0xFFFF_FFFF

        assert look() == 0xFFFF_FFFF
        slot = m.guest_memory.add_ram(0x80_0000, 0x10_0000)
        m.phys[0x80_0000] = 0x77
        assert look() == 0x77
        assert m.phys[0x80_0004] == 0x55
        m.guest_memory.move(slot, 0xA0_0000)
        assert look() == 0xFFFF_FFFF
        assert m.phys[0xA0_0000] == 0x77
        other = m.guest_memory.add_ram(0x80_0000, 0x1000)
        assert look() == 0
        assert m.phys[0x80_0004] == 0x55
        m.guest_memory.remove(other)
        m.guest_memory.move(slot, 0x80_0000)
        assert look() == 0x77
        m.guest_memory.remove(slot)
        assert look() == 0xFFFF_FFFF
