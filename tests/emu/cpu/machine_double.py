# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU with RAM, an identity MMU and a port that keeps what is written: no board, no cache."""

from __future__ import annotations

from typing import Any

from emu.cpu.slice import Exit
from emu.cpu.vcpu import Vcpu
from emu.ports import PortBus
from emu.state import ATTR_CODE64, ATTR_DATA32, SEGMENTS, CpuState, Segment, Table
from mmu.api import MAP_EXEC, MAP_READ, MAP_TRAP, MAP_WRITE, Mmu, NotCanonical, PageFault
from mmu.arch import ACCESS_FETCH, ACCESS_WRITE
from mmu.memory import Memory

from .snippets import CODE

RAM = 1 << 20


class IdentityMmu(Mmu):
    """Maps every address to itself; `faults` are pages that refuse with an error code."""

    name = "identity"

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.faults: dict[int, int] = {}
        self.loads: list = []
        self.invlpgs: list[int] = []
        self.seen: list[tuple[int, int]] = []

    def load(self, cpu, regs):
        self.loads.append(regs)

    def translate(self, cpu, gva, access):
        return self.answer(cpu, gva, access)

    def answer(self, cpu, gva, access):
        self.seen.append((gva, access))
        if gva >> 47 not in (0, 0x1FFFF):
            return NotCanonical(gva)
        error = self.faults.get(gva >> 12)
        if error is not None:
            return PageFault(gva, error | access & 0x17)
        frame = gva & 0xFF_FFFF_F000
        slot = self.memory.slot_at(frame)
        if slot is None or slot.device is not None:
            return frame | MAP_READ | MAP_WRITE | MAP_EXEC | MAP_TRAP
        if access & ACCESS_FETCH:
            return frame | MAP_READ | MAP_EXEC
        return frame | MAP_READ | (MAP_WRITE if access & ACCESS_WRITE else 0)

    def invlpg(self, cpu, gva):
        self.invlpgs.append(gva)

    def flushed(self, cpu):
        pass

    def written(self, gpa, size, source):
        pass

    def remapped(self):
        pass

    def check(self):
        pass


class Port:
    """Keeps (port, size, value) of every OUT; IN gives 0x5a."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []
        self.on_write = lambda port, value: None

    def read(self, port, size):
        return 0x5A5A5A5A & (1 << 8 * size) - 1

    def write(self, port, size, value):
        self.written.append((port, size, value))
        self.on_write(port, value)

    @property
    def values(self) -> list[int]:
        return [value for _, _, value in self.written]


GDT, IDT, TSS, HANDLERS = 0x4000, 0x3000, 0x4800, 0x2000
CODE0, DATA0, CODE3, DATA3, TSS_SELECTOR, LONG0, LONG3 = 0x08, 0x10, 0x1B, 0x23, 0x28, 0x38, 0x43
_DESCRIPTORS = (
    0,
    0x00CF9B000000FFFF,
    0x00CF93000000FFFF,
    0x00CFFB000000FFFF,
    0x00CFF3000000FFFF,
    0x0000_8B00_4800_0067,
    0,
    0x00AF9B000000FFFF,
    0x00AFFB000000FFFF,
)


class Interrupts:
    """An interrupt source that gives vector 0x40 for each `raise_`."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.waiting = 0

    def raise_(self, count: int = 1) -> None:
        self.waiting += count
        self._rig.cpu.set_intr(True)

    def pending(self) -> bool:
        return self.waiting > 0

    def acknowledge(self) -> int:
        self.waiting -= 1
        self._rig.cpu.set_intr(self.waiting > 0)
        return 0x40


class Rig:
    """`run` executes a hex program at 0x1000 in a given state until HLT."""

    def __init__(
        self, *, index: int = 0, cpus: int = 1, flush_on_invlpg: bool = True, **options: Any
    ) -> None:
        self.memory = Memory()
        self.memory.add_ram(0, RAM)
        self.mmu = IdentityMmu(self.memory)
        self.mmu.flush_on_invlpg = flush_on_invlpg
        self.bus = PortBus()
        self.port = Port()
        self.bus.add(0x500, 0x50F, self.port, 4)
        self.cpu = Vcpu(index, self.mmu, self.memory, self.bus, cpus=cpus, now=self.now, **options)
        self.regs = self.cpu.regs
        self.interrupts = self.cpu.pins.source = Interrupts(self)

    def now(self) -> int:
        return 10 * (self.cpu.executed + self.cpu.progress())

    def put(self, gpa: int, code: str | bytes) -> None:
        data = bytes.fromhex(code) if isinstance(code, str) else code
        self.memory.write_block(gpa, data, "loader")
        for gfn in range(gpa >> 12, gpa + len(data) - 1 >> 12) or (gpa >> 12,):
            self.cpu.drop_code(gfn)

    def real(self, code: str, **gprs: int) -> None:
        self.put(0x1000, code)
        self.cpu.set_state(CpuState.real(0, 0x1000, sp=0x8000, **gprs))

    def flat32(self, code: str) -> None:
        self.put(0x1000, code)
        self.cpu.set_state(CpuState.flat32(0x1000, esp=0x8000))

    def tables(self, handler: str = "f4") -> None:
        """A GDT, a TSS, and an IDT whose every gate leads to HLT, or to the hex code given."""
        self.put(GDT, b"".join(word.to_bytes(8, "little") for word in _DESCRIPTORS))
        gate = HANDLERS | CODE0 << 16 | 0xEE00 << 32
        self.put(IDT, gate.to_bytes(8, "little") * 0x80)
        self.put(
            TSS, (0).to_bytes(4, "little") + (0x9000).to_bytes(4, "little") + bytes((DATA0, 0))
        )
        self.put(HANDLERS, handler)
        self.regs.gdtr = Table(GDT, 8 * len(_DESCRIPTORS) - 1)
        self.regs.idtr = Table(IDT, 0x3FF)
        self.regs.tr = Segment(TSS_SELECTOR, TSS, 0x67, 0x8B)

    def protected(self, name: str, handler: str = "f4") -> None:
        """Flat 32-bit code of `snippets` with tables."""
        self.flat32(CODE[name].hex())
        self.tables(handler)

    def user(self, name: str, handler: str = "f4") -> None:
        """The same at CPL 3."""
        self.protected(name, handler)
        for number in range(6):
            flags = 0xCFFB00 if number == 1 else 0xCFF300
            self.regs.set_segment(number, CODE3 if number == 1 else DATA3, 0, 0xFFFF_FFFF, flags)

    def long(self, name: str, handler: str = "f4") -> None:
        """64-bit code of `snippets`, with 64-bit gates."""
        self.put(0x1000, CODE[name])
        segments = {n: Segment(DATA0, 0, 0xFFFF_FFFF, ATTR_DATA32) for n in SEGMENTS}
        segments["cs"] = Segment(LONG0, 0, 0xFFFF_FFFF, ATTR_CODE64)
        self.cpu.set_state(
            CpuState(
                rip=0x1000,
                segments=segments,
                gprs={"rsp": 0x8000},
                cr0=0x8000_0011,
                cr4=0x20,
                efer=0x501,
            )
        )
        self.tables(handler)
        gate = HANDLERS | LONG0 << 16 | 0xEE00 << 32
        self.put(IDT, (gate.to_bytes(8, "little") + bytes(8)) * 0x60)
        self.regs.idtr = Table(IDT, 0x5FF)

    @property
    def events(self) -> list[tuple[int, int]]:
        """(vector, RIP) of what was delivered."""
        return [(past.event.vector, past.rip) for past in self.cpu.record.recent]

    def run(self, budget: int = 10_000) -> Exit:
        return self.cpu.run(budget)

    def close(self) -> None:
        self.cpu.close()
