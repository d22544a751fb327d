# SPDX-License-Identifier: GPL-2.0-or-later
"""PAE's PDPTE registers are the processor's own: what is in memory counts when they are loaded."""

from __future__ import annotations

import pytest

from emu.machine import Machine

from .cpu.machine_double import Rig

GVA = 0x40001000
TABLES = 0x20_0000
OLD, NEW = 0x1111_1111, 0x2222_2222

# mov eax,0x200000; mov cr3,eax; mov eax,cr4; or eax,0x20; mov cr4,eax
# mov eax,cr0; or eax,0x80000000; mov cr0,eax; mov ebx,[0x40001000]
ENTER = "b800002000 0f22d8 0f20e0 83c820 0f22e0 0f20c0 0d00000080 0f22c0 8b1d00100040"
# mov dword ptr [0x200008],0x204001
EDIT = "c7050800200001402000"
# mov ecx,0xc0000080; rdmsr; wrmsr
WRITE_EFER = "b9800000c0 0f32 0f30"
# mov eax,cr3; mov cr3,eax
RELOAD = "0f20d8 0f22d8"
# invlpg [0x40001000]; mov esi,[0x40001000]; cli; hlt
LOOK = "0f013d00100040 8b3500100040 faf4"
# mov esi,[0x80000000]: a page fault, and no IDT
SHUT_DOWN = "8b3500000080"


def pae(code: str, mmu: str, jit: str = "off") -> Machine:
    """A kernel that enters PAE paging: the first 2 MiB pages as they are, GVA by the directory at
    0x202000 to a page of OLD, by the one at 0x204000 to a page of NEW."""
    image = bytes.fromhex(ENTER + code)
    m = Machine(image, format="flat32", address=0x10_0000, memory=8 << 20, mmu=mmu, jit=jit)
    words = {
        TABLES: 0x20_1001,
        TABLES + 8: 0x20_2001,
        0x20_1000: 0x83,
        0x20_1008: 0x20_0083,
        0x20_2000: 0x20_3003,
        0x20_3008: 0x30_0003,
        0x20_4000: 0x20_5003,
        0x20_5008: 0x30_1003,
        0x30_0000: OLD,
        0x30_1000: NEW,
    }
    for gpa, word in words.items():
        m.phys[gpa : gpa + 8] = word.to_bytes(8, "little")
    return m


@pytest.mark.parametrize("jit", ["off", "auto"])
@pytest.mark.parametrize("mmu", ["shadow", "uncached", "lockstep"])
@pytest.mark.parametrize(
    ("code", "seen"),
    [
        pytest.param("", OLD, id="INVLPG"),
        pytest.param(WRITE_EFER, OLD, id="WRMSR EFER with its old value"),
        pytest.param(RELOAD, NEW, id="MOV CR3"),
    ],
)
def test_what_loads_them(mmu: str, jit: str, code: str, seen: int) -> None:
    with pae(EDIT + code + LOOK, mmu, jit) as m:
        m.run(timeout=60)
        assert (m.regs.rbx, m.regs.rsi) == (OLD, seen)


@pytest.mark.parametrize("mmu", ["shadow", "uncached", "lockstep", "native"])
def test_a_person_sees_what_the_processor_does(mmu: str) -> None:
    with pae(EDIT + "faf4", mmu) as m:
        m.run(timeout=60)
        known = mmu != "native"  # whose tables are Unicorn's
        assert m.walk(GVA).gpa == (0x30_0000 if known else 0x30_1000)
        assert int.from_bytes(m.memory[GVA : GVA + 4], "little") == (OLD if known else NEW)


def test_the_report_of_a_triple_fault_shows_the_registers() -> None:
    # mov dword ptr [0x200010],0x204001, and nothing loads it: the address is not mapped.
    with pae("c7051000200001402000" + SHUT_DOWN, "shadow") as m:
        report = m.run(timeout=60).report
        assert "PDPTE register 2: 0x0" in report


def test_a_task_switch_that_keeps_cr3_loads_nothing() -> None:
    rig = Rig()
    rig.cpu.fills.load_cr3(0x2000)
    before = len(rig.mmu.loads)
    rig.cpu.fills.load_cr3(0x2000)
    assert len(rig.mmu.loads) == before
    rig.cpu.fills.load_cr3(0x3000)
    assert rig.mmu.loads[before].cr3 == 0x3000
