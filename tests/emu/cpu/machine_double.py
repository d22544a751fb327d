# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU with RAM, an identity MMU and a port that keeps what is written: no board, no cache."""

from __future__ import annotations

from emu.cpu.vcpu import Exit, Vcpu
from emu.devices.bus import PortBus
from emu.state import CpuState
from mmu.api import MAP_EXEC, MAP_READ, MAP_TRAP, MAP_WRITE, PageFault
from mmu.arch import ACCESS_FETCH, ACCESS_WRITE
from mmu.memory import Memory

RAM = 1 << 20


class IdentityMmu:
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
        self.seen.append((gva, access))
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


class Rig:
    """`run` executes a hex program at 0x1000 in a given state until HLT."""

    def __init__(self, *, cpus: int = 1) -> None:
        self.memory = Memory()
        self.memory.add_ram(0, RAM)
        self.mmu = IdentityMmu(self.memory)
        self.bus = PortBus()
        self.port = Port()
        self.bus.add(0x500, 0x50F, self.port, 4)
        self.cpu = Vcpu(0, self.mmu, self.memory, self.bus, cpus=cpus, now=self.now)
        self.regs = self.cpu.regs

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

    def run(self, budget: int = 10_000) -> Exit:
        return self.cpu.run(budget)

    def close(self) -> None:
        self.cpu.close()
