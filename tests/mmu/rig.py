# SPDX-License-Identifier: GPL-2.0-or-later
"""The bench that the MMU tests run on: guest memory, a plug-in, and a model of what TLBs hold.

`Rig` stands for the machine. Every access made through it is predicted from the SDM (`sdm.py`)
before the plug-in sees it, compared with the answer and with A and D in guest memory afterwards,
granted to the model TLB, and followed by the audit and by a look at everything that the model TLB
holds. So a test says what it does and what it wants to see, and all else is checked by the way.

`ModelTlb` is the test double for `mmu.api.TlbHost`. It keeps every grant until a flush or an INVLPG
takes it away, which is the worst that an engine can do, and so sees three kinds of wrong:

* a *stale* entry: it allows what the guest's tables forbid, though the guest did all that it owes
  (SDM 4.10.4). An entry may be stale after a change of the tables until the guest invalidates;
* a store that reaches a live page table unseen, or a trap that should not be;
* a frame writable in one entry and executable in another, or code that has changed under an
  engine that does not know.
"""

from __future__ import annotations

from contextlib import contextmanager

from mmu.api import (
    FRAME_MASK,
    MAP_EXEC,
    MAP_READ,
    MAP_TRAP,
    MAP_WRITE,
    NotCanonical,
    PageFault,
    PagingRegisters,
    make_mmu,
)
from mmu.arch import Features
from mmu.memory import Memory
from mmu.walker import pdptes_valid

from . import sdm
from .sdm import Access, Cpuid, Regs, Verdict
from .tables import Tables

RAM = 16 << 20
ROM = 0x2000000
DEVICE = 0x3000000
HOLE = 0x4000000

READ, WRITE, FETCH = Access("r"), Access("w"), Access("x")
USER_READ, USER_WRITE, USER_FETCH = (Access(what, user=True) for what in "rwx")
ALL_ACCESSES = (
    *(Access(what, user) for user in (False, True) for what in "rwx"),
    *(Access(what, ac=True) for what in "rw"),
    *(Access(what, user, implicit=True) for user in (False, True) for what in "rw"),
    *(Access(what, implicit=True, ac=True) for what in "rw"),
)


class GeneralProtection(Exception):
    """The load of a control register that the processor refuses (bad PDPTEs)."""


def access_bits(access: Access) -> int:
    """An access as the seam wants it."""
    return (
        {"r": 0, "w": 2, "x": 16}[access.what]
        | (4 if access.user else 0)
        | (0x100 if access.implicit else 0)
        | (0x200 if access.ac else 0)
    )


def paging_registers(regs: Regs) -> PagingRegisters:
    """Control bits as registers."""
    cr0 = 0x11 | regs.pg << 31 | regs.wp << 16
    cr4 = regs.pse << 4 | regs.pae << 5 | regs.pge << 7 | regs.la57 << 12
    cr4 |= regs.smep << 20 | regs.smap << 21 | regs.pke << 22
    efer = regs.lma << 8 | regs.lma << 10 | regs.nxe << 11
    return PagingRegisters(cr0, regs.cr3, cr4, efer, regs.pkru)


MODES = {
    "none": Regs(),
    "32-bit": Regs(pg=True, pse=True, wp=True),
    "pae": Regs(pg=True, pae=True, nxe=True, wp=True),
    "4-level": Regs(pg=True, pae=True, lma=True, nxe=True, wp=True),
    "5-level": Regs(pg=True, pae=True, lma=True, la57=True, nxe=True, wp=True),
}
PAGED = tuple(mode for mode in MODES if mode != "none")


class Device:
    """A device in guest-physical memory that remembers what was written."""

    def __init__(self):
        self.writes = []

    def read(self, offset, size):
        return 0x5A5A5A5A5A5A5A5A & ((1 << 8 * size) - 1)

    def write(self, offset, size, value):
        self.writes.append((offset, size, value))


class Entry:
    """What one TLB entry allows, for one kind of access to one page."""

    __slots__ = ("access", "excused", "mapping", "page", "size")

    def __init__(self, page, access, mapping, size):
        self.page = page
        self.access = access
        self.mapping = mapping
        self.size = size
        self.excused = False

    def __repr__(self):
        rights = "".join(
            c for c, bit in zip("rwxt", (1, 2, 4, 8), strict=True) if self.mapping & bit
        )
        return f"<TLB {self.page:#x} -> {self.mapping & FRAME_MASK:#x} {rights}, {self.access}>"


class ModelTlb:
    """The TLBs of all vCPUs, and the code that their engines have translated."""

    def __init__(self, cpus):
        self.entries = [{} for _ in range(cpus)]
        self.code = [set() for _ in range(cpus)]
        self.flushes = 0
        self.dropped = []

    # --- mmu.api.TlbHost ---

    def flush_tlb(self, cpu):
        self.flushes += 1
        self.entries[cpu].clear()

    def drop_code(self, gfn):
        self.dropped.append(gfn)
        for frames in self.code:
            frames.discard(gfn)

    # --- what the engines do ---

    def grant(self, cpu, gva, access, mapping, size):
        page = gva & ~0xFFF
        kind = access._replace(what="r")
        self.entries[cpu][page, kind, mapping] = Entry(page, kind, mapping, size)
        if mapping & MAP_EXEC and not mapping & MAP_TRAP:
            self.code[cpu].add((mapping & FRAME_MASK) >> 12)

    def invlpg(self, cpu, gva):
        """The engine drops its 4 KiB entries for the page; it knows nothing of large pages."""
        entries = self.entries[cpu]
        for key in [key for key in entries if key[0] == gva & ~0xFFF]:
            del entries[key]

    def held(self):
        """Every (cpu, entry)."""
        return [(cpu, e) for cpu, entries in enumerate(self.entries) for e in entries.values()]

    def frames(self, right):
        """cpu -> frames for which an entry grants `right`, by direct access, with the entries."""
        return [
            (cpu, (e.mapping & FRAME_MASK) >> 12, e)
            for cpu, e in self.held()
            if e.mapping & right and not e.mapping & MAP_TRAP
        ]


class Rig:
    """A machine without processors: registers, memory, TLBs, and the plug-in under test.

    RAM from 0 to 16 MiB, ROM at `ROM`, a device at `DEVICE`, nothing elsewhere. `checked` is the
    number of accesses compared with the SDM.
    """

    def __init__(self, plugin="shadow", cpus=1, pool=64, cpuid=Cpuid(), memory=None):  # noqa: B008
        self.cpuid = cpuid
        self.features = Features(phys_bits=cpuid.m, pse36=cpuid.pse36, gbpages=cpuid.page1gb)
        self.device = Device()
        if memory is None:
            memory = Memory()
            memory.add_ram(0, RAM)
            memory.add_rom(ROM, b"\x90" * 0x1000)
            memory.add_mmio(DEVICE, 0x1000, self.device)
        self.memory = memory
        self.tlb = ModelTlb(cpus)
        self.mmu = make_mmu(plugin, memory, self.tlb, cpus, features=self.features, pool=pool)
        self.cpus = cpus
        self.regs = [Regs() for _ in range(cpus)]
        self.pdptes = [(0, 0, 0, 0) for _ in range(cpus)]
        self.checked = 0
        memory.listeners.append(self._excuse)
        for cpu in range(cpus):
            self.mmu.load(cpu, paging_registers(Regs()))

    # --- Tables and registers ---

    def tables(self, mode, first_frame=0x100, frames=None):
        """A builder of tables in this rig's memory."""
        return Tables(self.memory, mode, first_frame, frames)

    def enter(self, tables, cpu=0, **changes):
        """Run on an address space, in the usual state of its mode but for `changes`."""
        self.load(cpu, MODES[tables.mode]._replace(cr3=tables.cr3, **changes))

    def change(self, cpu=0, **changes):
        """Change some control bits, as MOV to CR or WRMSR does."""
        self.load(cpu, self.regs[cpu]._replace(**changes))

    def load(self, cpu, regs):
        """Load control registers, or raise `GeneralProtection` and change nothing (4.4.1)."""
        old = self.regs[cpu]
        if old.pg and regs.pg and (old.lma, old.la57) != (regs.lma, regs.la57):
            self.load(cpu, regs._replace(pg=False, lma=False))  # as the processor demands
            old = self.regs[cpu]
        pdptes = self.pdptes[cpu]
        if regs.mode == "pae" and (
            old.mode != "pae"
            or regs == old
            or (regs.cr3, regs.pse, regs.pge, regs.smep) != (old.cr3, old.pse, old.pge, old.smep)
        ):
            base = regs.cr3 & 0xFFFF_FFE0
            pdptes = tuple(self._peek(base + 8 * i, 8) for i in range(4))
            refused = sdm.pdptes_fault(pdptes, self.cpuid)
            valid = pdptes_valid(self.memory, paging_registers(regs), self.features)
            assert valid != refused, (pdptes, regs)
            if refused:
                raise GeneralProtection
        self.regs[cpu] = regs
        self.pdptes[cpu] = pdptes
        self.tlb.entries[cpu].clear()
        self.mmu.load(cpu, paging_registers(regs))
        self.settle()

    def invlpg(self, gva, cpu=0):
        """INVLPG: all that any page size mapped at `gva` may be cached (4.10.4.1)."""
        for entry in self.tlb.entries[cpu].values():
            if entry.size and entry.page // entry.size == gva // entry.size:
                entry.excused = False
        self.tlb.invlpg(cpu, gva)
        self.mmu.invlpg(cpu, gva)
        self.settle()

    # --- Accesses ---

    def predict(self, gva, access, cpu=0) -> Verdict:
        """What the SDM says of an access, as memory and registers stand."""
        return sdm.walk(self._peek, self.regs[cpu], gva, access, self.cpuid, self.pdptes[cpu])

    def access(self, gva, access, cpu=0):
        """A TLB miss. Returns the mapping, the error code of a #PF as a negative number minus one,
        or None for an address that is not canonical; see `translate` for the easier forms."""
        verdict = self.predict(gva, access, cpu)
        before = {gpa: self._peek(gpa, verdict.entry_bytes) for gpa in verdict.sets or ()}
        answer = self.mmu.translate(cpu, gva, access_bits(access))
        self.compare(gva, access, cpu, verdict, before, answer)
        if isinstance(answer, int):
            self.tlb.grant(cpu, gva, access, answer, verdict.page)
        self.settle()
        return answer

    def compare(self, gva, access, cpu, verdict, before, answer):
        """Hold an answer against its prediction."""
        self.checked += 1
        what = f"{access} of {gva:#x} on vCPU {cpu}, {self.regs[cpu]}"
        if verdict.fault == "not canonical":
            assert isinstance(answer, NotCanonical), f"{what}: {answer}, wanted not canonical"
        elif verdict.fault is not None:
            assert isinstance(answer, PageFault), f"{what}: {answer}, wanted #PF {verdict.fault:#x}"
            want = PageFault(self._linear(gva, cpu), verdict.fault)
            assert answer == want, f"{what}: {answer}, wanted {want}"
        else:
            assert isinstance(answer, int), f"{what}: {answer}, wanted frame {verdict.frame:#x}"
            assert answer >> 12 == verdict.frame, f"{what}: {answer:#x}, wanted {verdict.frame:#x}"
            self._check_rights(what, answer, access)
        for gpa, entry in before.items():
            bits = verdict.sets[gpa]
            want = entry | bits if self._is_ram(gpa) else entry
            now = self._peek(gpa, verdict.entry_bytes)
            assert now == want, f"{what}: entry at {gpa:#x} is {now:#x}, wanted {want:#x}"

    def _check_rights(self, what, mapping, access):
        """The rights of a mapping: enough, no more than the access asks, rightly trapped."""
        frame = mapping & FRAME_MASK
        need = {"r": MAP_READ, "w": MAP_WRITE, "x": MAP_EXEC}[access.what]
        assert mapping & need, f"{what}: {mapping:#x} does not allow it"
        slot = self.memory.slot_at(frame)
        kind = slot.kind if slot is not None else "hole"
        may = {"r": MAP_READ, "w": MAP_READ | MAP_WRITE | MAP_EXEC, "x": MAP_READ | MAP_EXEC}
        assert not mapping & 7 & ~may[access.what], f"{what}: {mapping:#x} allows too much"
        if kind in ("mmio", "hole"):
            trap = True
        elif access.what == "w":
            trap = kind == "rom" or frame >> 12 in self.shadowed()
        else:
            trap = False
        assert bool(mapping & MAP_TRAP) == trap, f"{what}: {mapping:#x} of {kind}, trap is {trap}"

    def may(self, gva, access=READ, cpu=0):
        """Make an access that must succeed; returns the guest-physical address."""
        answer = self.access(gva, access, cpu)
        assert isinstance(answer, int), answer
        return answer & FRAME_MASK | gva & 0xFFF

    def faults(self, gva, access=READ, cpu=0):
        """Make an access that must be a #PF; returns its error code."""
        answer = self.access(gva, access, cpu)
        assert isinstance(answer, PageFault), answer
        return answer.error_code

    def store(self, gva, size, value, cpu=0, user=False, pieces=None):
        """Make a store, all pages first, as an engine does; returns whether it was trapped.

        A store that is not trapped goes into RAM unseen by anyone. A trapped one arrives in
        `pieces` of bytes, by default as Unicorn has it: 8-byte stores as two, unaligned ones and
        ones over a page boundary as bytes.
        """
        access = Access("w", user)
        first = self.access(gva, access, cpu)
        assert isinstance(first, int), first
        room = 0x1000 - (gva & 0xFFF)
        second = self.access(gva + room, access, cpu) if room < size else 0
        assert isinstance(second, int), second
        if pieces is None:
            pieces = min(size, 4) if gva % size == 0 else 1
        data = value.to_bytes(size, "little")
        for at in range(0, size, pieces):
            mapping, offset = (first, gva + at & 0xFFF) if at < room else (second, at - room)
            piece = data[at : at + pieces]
            self._store_piece(cpu, mapping, offset, piece)
        self.settle()
        return bool((first | second) & MAP_TRAP)

    def _store_piece(self, cpu, mapping, offset, piece):
        gpa = mapping & FRAME_MASK | offset
        if mapping & MAP_TRAP:
            self.memory.write(gpa, len(piece), int.from_bytes(piece, "little"), "guest")
        else:
            self.store_unseen(cpu, mapping, gpa, piece)

    def store_unseen(self, cpu, mapping, gpa, piece):
        """A store by a TLB entry that is not trapped: straight into the buffer."""
        assert gpa >> 12 not in self.shadowed(), f"a store to {gpa:#x}, a live table, goes unseen"
        slot = self.memory.slot_at(gpa)
        assert slot.kind == "ram", slot
        for other, frames in enumerate(self.tlb.code):
            if gpa >> 12 in frames:
                checked = mapping & MAP_EXEC and other == cpu
                assert checked, f"vCPU {other} has code from {gpa:#x} and does not see a store"
        with self._excusing():
            slot.view[gpa - slot.gpa : gpa - slot.gpa + len(piece)] = piece

    def edit(self, gpa, size, value, source="device"):
        """A write from outside the processors, or one of the guest's that was trapped."""
        self.memory.write(gpa, size, value, source)
        self.settle()

    # --- What must hold ---

    def shadowed(self):
        """The frames with a live guest table, for a plug-in that has any."""
        cache = getattr(self.mmu, "cache", None)
        return cache.tables if cache is not None else ()

    def settle(self):
        """Audit, and look for what no TLB may hold."""
        self.mmu.check()
        self.check_tlb()

    def check_tlb(self):
        for cpu, entry in self.tlb.held():
            if not entry.excused:
                stale = self._stale(cpu, entry)
                assert not stale, f"stale on vCPU {cpu}: {entry}: {stale}"
        shadowed = self.shadowed()
        writable = self.tlb.frames(MAP_WRITE)
        for cpu, gfn, entry in writable:
            assert gfn not in shadowed, f"vCPU {cpu}: {entry} lets stores to a table through"
        for cpu, gfn, entry in self.tlb.frames(MAP_EXEC):
            for other, written, by in writable:
                if gfn == written:
                    checked = by.mapping & MAP_EXEC and other == cpu
                    assert checked, f"{entry} on vCPU {cpu}, {by} on vCPU {other}: W and X"

    def _stale(self, cpu, entry):
        """Return what a TLB entry allows and the tables do not, in words, or an empty string."""
        for right, what in ((MAP_READ, "r"), (MAP_WRITE, "w"), (MAP_EXEC, "x")):
            if not entry.mapping & right:
                continue
            if right == MAP_EXEC and entry.access.implicit:
                continue  # there is no such fetch
            verdict = self.predict(entry.page, entry.access._replace(what=what), cpu)
            if verdict.fault is not None:
                return f"{what} is #PF {verdict.fault}"
            if verdict.frame != (entry.mapping & FRAME_MASK) >> 12:
                return f"{what} is frame {verdict.frame:#x}"
            if what == "w":
                for gpa, bits in verdict.sets.items():
                    if self._peek(gpa, verdict.entry_bytes) & bits != bits and self._is_ram(gpa):
                        return "A or D is clear"
        return ""

    def _excuse(self, gpa, size, source):
        """After a write to memory: entries that it made stale are the guest's to invalidate."""
        for cpu, entry in self.tlb.held():
            if not entry.excused and self._stale(cpu, entry):
                entry.excused = True

    @contextmanager
    def _excusing(self):
        yield
        self._excuse(0, 0, "")

    # --- Helpers ---

    def _peek(self, gpa, size):
        """Read an entry where RAM or ROM is, all ones elsewhere (a table there is no table)."""
        slot = self.memory.slot_at(gpa)
        if slot is None or slot.device is not None:
            return (1 << 8 * size) - 1
        return int.from_bytes(slot.view[gpa - slot.gpa : gpa - slot.gpa + size], "little")

    def _is_ram(self, gpa):
        slot = self.memory.slot_at(gpa)
        return slot is not None and slot.kind == "ram"

    def _linear(self, gva, cpu):
        return gva if self.regs[cpu].lma else gva & 0xFFFF_FFFF
