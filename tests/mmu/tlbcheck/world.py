# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel without a processor: page tables in memory, and accesses made by calling the MMU.

`World` plays the engine, too: it keeps what was granted and asks the MMU on a miss only, so that a
use which the sanitizer forgot to expose goes unseen here as it would there.
"""

from __future__ import annotations

from mmu.api import FRAME_MASK, MAP_EXEC, MAP_TRAP, MAP_WRITE, PagingRegisters
from mmu.arch import ACCESS_FETCH, ACCESS_USER, ACCESS_WRITE, Features
from mmu.memory import Memory
from mmu.tlbcheck import CheckedMmu, Site

PRESENT, WRITE, USER, LARGE, DIRTY, GLOBAL = 1, 2, 4, 0x80, 0x40, 0x100
RW = PRESENT | WRITE
NX = 1 << 63
CR0 = 0x8001_0001  # PG, WP, PE
CR4 = 0xA0  # PAE, PGE
EFER = 0xD00  # LME, LMA, NXE
ROOT = 0x1000


class World:
    """Four-level paging, `cpus` vCPUs, tables at 0x1000: the low 2 MiB mapped one to one by 4 KiB
    pages, and `page` at 0x4000_0000 + n * 4096 by a table of its own at TABLE."""

    BASE = 0x4000_0000
    TABLE = 0x6000

    def __init__(self, cpus=1, serve=None):
        self.memory = Memory()
        self.memory.add_ram(0, 16 << 20)
        self.mmu = CheckedMmu(self.memory, self, cpus, features=Features())
        if serve is not None:
            self.mmu.serve = serve
        self.tlb = [{} for _ in range(cpus)]
        self.cpu = 0
        self.time = 0
        self.rsp = [0x9000 + 0x100000 * cpu for cpu in range(cpus)]
        self.user = [False] * cpus
        self.mmu.site = self.site
        self.mmu.current = lambda: self.cpu
        self.memory.listeners.append(self.mmu.written)
        self.poke(ROOT, 0x2000 | RW | USER)
        self.poke(0x2000, 0x3000 | RW | USER)
        self.poke(0x2008, 0x5000 | RW | USER)
        self.poke(0x3000, 0x4000 | RW | USER)
        self.poke(0x5000, self.TABLE | RW | USER)
        for n in range(512):
            self.poke(0x4000 + 8 * n, n << 12 | RW | GLOBAL)
        for cpu in range(cpus):
            self.load_cr3(cpu)

    def site(self, cpu):
        return Site(cpu, 0x1000 + self.time, self.time, 3 if self.user[cpu] else 0, self.rsp[cpu])

    # The engine.

    def flush_tlb(self, cpu):
        self.tlb[cpu].clear()

    def drop_code(self, gfn):
        pass

    def poke(self, gpa, value):
        """Write as a loader does: nobody is to blame."""
        self.memory.write(gpa, 8, value, "loader")

    def access(self, gva, access=0, cpu=0):
        """Make an access; return the frame, or the fault."""
        self.cpu = cpu
        self.time += 1
        if self.user[cpu]:
            access |= ACCESS_USER
        key = gva >> 12, access
        held = self.tlb[cpu].get(key)
        if held is None:
            held = self.mmu.translate(cpu, gva, access)
            if not isinstance(held, int):
                return held
            self.tlb[cpu][key] = held
        if access & ACCESS_WRITE:
            assert held & MAP_WRITE
        if access & ACCESS_FETCH:
            assert held & MAP_EXEC
        return (held & FRAME_MASK) >> 12

    def read(self, gva, cpu=0):
        return self.access(gva, 0, cpu)

    def write(self, gva, cpu=0):
        return self.access(gva, ACCESS_WRITE, cpu)

    def store(self, gpa, value, cpu=0):
        """Write eight bytes through the one-to-one map, as the kernel writes its tables."""
        self.write(gpa, cpu)
        held = self.tlb[cpu][gpa >> 12, ACCESS_WRITE]
        if held & MAP_TRAP:
            self.memory.write(gpa, 8, value, "guest")
        else:
            slot = self.memory.slot_at(gpa)
            slot.view[gpa : gpa + 8] = value.to_bytes(8, "little")

    def pte(self, n, value, cpu=0):
        """Write the entry of page `n` above BASE."""
        self.store(self.TABLE + 8 * n, value, cpu)

    def invlpg(self, gva, cpu=0):
        self.time += 1
        self.cpu = cpu
        self.flush_tlb(cpu)
        self.mmu.flushed(cpu)
        self.mmu.invlpg(cpu, gva)

    def load_cr3(self, cpu=0, cr3=ROOT, cr4=CR4):
        self.time += 1
        self.cpu = cpu
        self.flush_tlb(cpu)
        self.mmu.load(cpu, PagingRegisters(CR0, cr3, cr4, EFER))

    def enter_user(self, cpu=0):
        """Return to CPL 3: the first user fetch, at a page that is always there."""
        self.user[cpu] = True
        self.access(self.BASE + 511 * 4096, ACCESS_FETCH, cpu)

    def enter_kernel(self, cpu=0):
        self.user[cpu] = False

    @property
    def kinds(self):
        return [finding.kind.value for finding in self.mmu.findings]
