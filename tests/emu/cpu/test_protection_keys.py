# SPDX-License-Identifier: GPL-2.0-or-later
"""WRPKRU on a vCPU over the shadow MMU: the very next access goes by it."""

from __future__ import annotations

import pytest

from emu.cpu.vcpu import Vcpu
from emu.objects import compiled_code
from emu.ports import PortBus
from emu.state import ATTR_CODE64, ATTR_DATA32, SEGMENTS, CpuState, Segment, Table
from mmu.memory import Memory
from mmu.plugins import make_mmu
from mmu.testing.sdm import RW, US, A, D, P
from tests.mmu.tables import Tables

CODE, DATA, KEYED_CODE, SUPERVISORS = 0x1000, 0x4000_1000, 0x4000_2000, 0x4000_3000
IDT, HANDLER, STACK = 0x3000, 0x2000, 0x9000
KERNEL, USER = P | RW | A | D, P | RW | US | A | D
CLOSED = 1 << 2  # key 1: no access
LONG0 = 0x08

# xor ecx,ecx; xor edx,edx; mov eax,4; wrpkru
CLOSE = "31c9 31d2 b804000000 0f01ef"
# xor eax,eax; wrpkru
OPEN = "31c0 0f01ef"
# mov ebx,[0x40001000]
READ = "8b1c2500100040"
# mov [0x40001000],ebx
WRITE = "891c2500100040"
# mov ebx,[0x40003000]
READ_SUPERVISORS = "8b1c2500300040"


class Machine:
    """A processor in 64-bit mode at CPL 0 with CR4.PKE. `events` are (vector, error code, CR2)."""

    def __init__(self, mmu: str, jit: bool) -> None:
        self.memory = memory = Memory()
        memory.add_ram(0, 4 << 20)
        self.tables = tables = Tables(memory, "4-level", 0x20)
        for gva in (CODE, HANDLER, IDT, STACK - 0x1000, 0x4000):
            tables.map(gva, gva, KERNEL)
        tables.map(DATA, 0x10_0000, USER | 1 << 59)
        tables.map(KEYED_CODE, 0x10_1000, USER | 1 << 59)
        tables.map(SUPERVISORS, 0x10_2000, KERNEL | 1 << 59, upper=USER)
        self.mmu = make_mmu(mmu, memory, self)
        code = compiled_code() if jit else None
        self.cpu = Vcpu(0, self.mmu, memory, PortBus(), code=code, count_blocks=True)

    def flush_tlb(self, cpu: int) -> None:
        if hasattr(self, "cpu"):
            self.cpu.flush_tlb()

    def drop_code(self, gfn: int) -> None:
        self.cpu.drop_code(gfn)

    def run(self, code: str, at: int = CODE, gpa: int = CODE) -> list[tuple[int, int, int]]:
        memory = self.memory
        memory.write_block(gpa, bytes.fromhex(code), "loader")
        memory.write_block(HANDLER, b"\xf4", "loader")
        memory.write_block(0x4008, (0x00AF9B000000FFFF).to_bytes(8, "little"), "loader")
        gate = HANDLER | LONG0 << 16 | 0x8E00 << 32
        memory.write_block(IDT, (gate.to_bytes(8, "little") + bytes(8)) * 32, "loader")
        segments = {name: Segment(0x10, 0, 0xFFFF_FFFF, ATTR_DATA32) for name in SEGMENTS}
        segments["cs"] = Segment(LONG0, 0, 0xFFFF_FFFF, ATTR_CODE64)
        self.cpu.set_state(
            CpuState(
                rip=at,
                segments=segments,
                gprs={"rsp": STACK},
                cr0=0x8001_0011,
                cr3=self.tables.cr3,
                cr4=0x40_0020,
                efer=0x500,
            )
        )
        self.cpu.regs.gdtr = Table(0x4000, 0x17)
        self.cpu.regs.idtr = Table(IDT, 0x1FF)
        self.cpu.run(10_000)
        return [
            (past.event.vector, past.event.error_code, past.event.cr2)
            for past in self.cpu.record.recent
        ]


@pytest.fixture(params=["shadow", "shadow, compiled", "uncached"])
def machine(request):
    name, _, jit = request.param.partition(", ")
    machine = Machine(name, bool(jit))
    yield machine
    machine.cpu.close()


def test_an_open_key(machine):
    assert machine.run(READ + WRITE + READ + "f4") == []


def test_a_key_is_closed(machine):
    assert machine.run(READ + CLOSE + READ + "f4") == [(14, 0x21, DATA)]
    assert machine.run(READ + WRITE + CLOSE + WRITE + "f4") == [(14, 0x23, DATA)]


def test_it_is_opened_again(machine):
    assert machine.run(CLOSE + OPEN + READ + WRITE + "f4") == []


def test_pages_of_a_supervisor_have_no_key(machine):
    assert machine.run(CLOSE + READ_SUPERVISORS + "f4") == []


def test_code_that_closes_its_own_key_goes_on_and_cannot_read_itself(machine):
    """It is fetched anew after WRPKRU; what a fetch grants must not let reads through."""
    # jmp +0x40 ... mov rbx,[rip]; hlt
    code = CLOSE + "eb40" + "90" * 0x40 + "488b1d00000000" + "f4"
    events = machine.run(code, KEYED_CODE, 0x10_1000)
    assert [event[:2] for event in events] == [(14, 0x21)]
    assert events[0][2] >> 12 == KEYED_CODE >> 12


def test_keys_cost_compiled_code_nothing(machine):
    """Linux has them on and uses key 0: no miss may come to Python for it."""
    if not machine.mmu.counters.compiled:
        pytest.skip("no compiled code here")
    machine.tables.map(DATA, 0x10_0000, USER)
    block = machine.mmu.counters.compiled[0]
    before = block.fills
    # xor ecx,ecx; xor edx,edx; mov eax,0x55555554; wrpkru, then reads and INVLPG in turn
    turn = READ + "0f013c2500100040"
    assert machine.run("31c9 31d2 b854555555 0f01ef" + turn * 40 + "f4") == []
    assert block.fills - before >= 38
