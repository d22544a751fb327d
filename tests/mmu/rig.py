# SPDX-License-Identifier: GPL-2.0-or-later
"""The bench that the MMU tests run on: guest memory, a plug-in, and a model of what TLBs hold.

`Rig` stands for the machine. Every access made through it is predicted from the SDM (`sdm.py`)
before the plug-in sees it, compared with the answer and with A and D in guest memory afterwards,
granted to the model TLB, and followed by the audit and by a look at what the model TLB holds. So
a test says what it does and what it wants to see, and all else is checked by the way.

An answer must be what the tables give now. A TLB entry may say what the tables gave at any time
since the last invalidation that covers it (SDM 4.10.2 to 4.10.4): the rig keeps, for each page that
a vCPU has used, every translation that there was since (`possible`).
"""

from __future__ import annotations

from collections import Counter

from mmu.api import (
    FRAME_MASK,
    MAP_EXEC,
    MAP_READ,
    MAP_TRAP,
    MAP_WRITE,
    NotCanonical,
    PageFault,
    PagingRegisters,
)
from mmu.arch import Features
from mmu.memory import Memory
from mmu.plugins import make_mmu
from mmu.testing import sdm
from mmu.testing.sdm import Access, Cpuid, Regs, Translation, Verdict
from mmu.walker import pdptes_valid

from .model_tlb import ModelTlb
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

MODES = {
    "none": Regs(),
    "32-bit": Regs(pg=True, pse=True, wp=True),
    "pae": Regs(pg=True, pae=True, nxe=True, wp=True),
    "4-level": Regs(pg=True, pae=True, lma=True, nxe=True, wp=True),
    "5-level": Regs(pg=True, pae=True, lma=True, la57=True, nxe=True, wp=True),
}
PAGED = tuple(mode for mode in MODES if mode != "none")


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


class Device:
    """A device in guest-physical memory that remembers what was written."""

    def __init__(self):
        self.writes = []

    def read(self, offset, size):
        return 0x5A5A5A5A5A5A5A5A & ((1 << 8 * size) - 1)

    def write(self, offset, size, value):
        self.writes.append((offset, size, value))


class WrongAnswer(AssertionError):
    """A guest sees it: another fault, frame, A or D than the SDM's, or a store not trapped."""


class StaleEntry(AssertionError):
    """A TLB holds, or the plug-in lets somebody keep, what it must not."""


class WatchedMemory(Memory):
    """Memory that says so before its bytes change."""

    before_write = staticmethod(lambda: None)

    def write(self, gpa, size, value, source):
        self.before_write()
        super().write(gpa, size, value, source)

    def write_block(self, gpa, data, source):
        self.before_write()
        super().write_block(gpa, data, source)


class Rig:
    """A machine without processors: registers, memory, TLBs, and the plug-in under test.

    RAM from 0 to 16 MiB, ROM at `ROM`, a device at `DEVICE`, nothing elsewhere. `checked` counts
    the accesses compared with the SDM. Without `audit`, only what a guest could see is found. What
    happens is also told to `on_load`, `on_access` and `on_store`, for who wants to do the same
    elsewhere.
    """

    def __init__(
        self,
        plugin="shadow",
        cpus=1,
        pool=64,
        cpuid=Cpuid(),  # noqa: B008
        memory=None,
        policy="",
        la57=True,
        audit=True,
    ):
        self._audit = audit
        self.cpuid = cpuid
        self.features = Features(
            phys_bits=cpuid.m, pse36=cpuid.pse36, gbpages=cpuid.page1gb, la57=la57
        )
        self.device = Device()
        if memory is None:
            memory = WatchedMemory()
            memory.add_ram(0, RAM)
            memory.add_rom(ROM, b"\x90" * 0x1000)
            memory.add_mmio(DEVICE, 0x1000, self.device)
        self.memory = memory
        self.cpus = cpus
        self.is_shadow = plugin != "uncached"
        self.policy = policy
        self.tlb = ModelTlb(cpus)
        self.tlb.on_flush = self._forget_kept
        self.kept = {}  # (cpu, page, access) -> the TLB entry, as long as the version stands
        self._kept_at = None
        self._edited = False
        self.mmu = self._make(plugin, pool, policy)
        self.regs = [Regs() for _ in range(cpus)]
        self.pdptes = [(0, 0, 0, 0) for _ in range(cpus)]
        self.possible = [{} for _ in range(cpus)]
        self.checked = 0
        self.on_load = lambda cpu, registers: None
        self.on_access = lambda cpu, gva, access, answer: None
        self.on_store = lambda gpa, piece, source: None
        memory.before_write = self.remember
        for cpu in range(cpus):
            self.mmu.load(cpu, paging_registers(Regs()))

    def _make(self, plugin, pool, policy):
        """Make the plug-in under test, by name or class, and connect it."""
        if isinstance(plugin, str):
            return make_mmu(
                plugin,
                self.memory,
                self.tlb,
                self.cpus,
                features=self.features,
                pool=pool,
                policy=policy,
            )
        mmu = plugin(self.memory, self.tlb, self.cpus, features=self.features, pool=pool)
        if policy:
            mmu.set_policy(policy)
        self.memory.listeners.append(mmu.written)
        self.memory.map_listeners.append(mmu.remapped)
        return mmu

    # --- Tables and registers ---------------------------------------------------------------------

    def tables(self, mode, first_frame=0x100, frames=None):
        """A builder of tables in this rig's memory."""
        return Tables(self.memory, mode, first_frame, frames)

    def enter(self, tables, cpu=0, **changes):
        """Run on an address space, in the usual state of its mode but for `changes`."""
        self.load(cpu, MODES[tables.mode]._replace(cr3=tables.cr3, **changes))

    def change(self, cpu=0, **changes):
        """Change some control bits, as MOV to CR or WRMSR does; none: reload CR3."""
        self.load(cpu, self.regs[cpu]._replace(**changes))

    def load(self, cpu, regs):
        """Load control registers, or raise `GeneralProtection` and change nothing (4.4.1)."""
        old = self.regs[cpu]
        if old.pg and regs.pg and (old.lma, old.la57) != (regs.lma, regs.la57):
            self.load(cpu, regs._replace(pg=False, lma=False))  # as the processor demands
            self.load(cpu, regs)
            return
        pdptes = self.pdptes[cpu]
        if sdm.loads_pdptes(old, regs):
            base = regs.cr3 & 0xFFFF_FFE0
            pdptes = tuple(self.peek(base + 8 * i, 8) for i in range(4))
            refused = sdm.pdptes_fault(pdptes, self.cpuid)
            valid = pdptes_valid(self.memory, paging_registers(regs), self.features)
            assert valid != refused, (pdptes, regs)
            if refused:
                raise GeneralProtection
        self.regs[cpu] = regs
        self.pdptes[cpu] = pdptes
        self.possible[cpu].clear()
        self.tlb.entries[cpu].clear()
        self._forget_kept(cpu)
        self.mmu.load(cpu, paging_registers(regs))
        self.on_load(cpu, paging_registers(regs))
        self.settle()

    def invlpg(self, gva, cpu=0):
        """INVLPG: all translations of the address go, and all of a large page around it
        (4.10.4.1), whatever address in it they were made for."""
        for page, found in self.possible[cpu].items():
            self.possible[cpu][page] = {
                cached
                for cached in found
                if page != gva & ~0xFFF and not _same_page(cached.page, page, gva)
            }
        self.mmu.invlpg(cpu, gva)
        if self.mmu.flush_on_invlpg:
            # An engine knows nothing of large pages. Unless the plug-in sees to them, all goes.
            self.tlb.entries[cpu].clear()
            self._forget_kept(cpu)
            self.mmu.flushed(cpu)
        else:
            self.tlb.invlpg(cpu, gva)
        for entry in self.tlb.entries[cpu].values():
            stale = self._what_is_stale(cpu, entry)
            if stale:
                raise StaleEntry(f"after INVLPG {gva:#x} on vCPU {cpu} {entry}: {stale}")
        self.settle()

    def full_flush(self, cpu=0):
        """Empty a TLB without the plug-in asking for it, as the engine may at any time."""
        self.tlb.entries[cpu].clear()
        self._forget_kept(cpu)
        self.mmu.flushed(cpu)
        self.settle()

    # --- Accesses ---------------------------------------------------------------------------------

    def predict(self, gva, access, cpu=0) -> Verdict:
        """What the SDM says of an access, as memory and registers stand."""
        return sdm.walk(self.peek, self.regs[cpu], gva, access, self.cpuid, self.pdptes[cpu])

    def path(self, gva, cpu=0):
        """What the tables give for an address: see `sdm.translate`."""
        return sdm.translate(self.peek, self.regs[cpu], gva, self.cpuid, self.pdptes[cpu])

    def writes_to(self, gva, cpu=0):
        """The frame that a supervisor's write to an address would reach; None if it faults."""
        verdict = self.predict(gva, WRITE, cpu)
        return verdict.frame if verdict.fault is None else None

    def access(self, gva, access, cpu=0):
        """A TLB miss. Returns the plug-in's answer, checked."""
        self.possible[cpu].setdefault(gva & ~0xFFF, set())
        verdict = self.predict(gva, access, cpu)
        before = [(gpa, self.peek(gpa, verdict.entry_bytes)) for gpa in verdict.sets or ()]
        answer = self.mmu.translate(cpu, gva, access_bits(access))
        self.checked += 1
        wrong = self._what_is_wrong(gva, access, cpu, verdict, before, answer)
        if wrong:
            raise WrongAnswer(wrong)
        self.on_access(cpu, gva, access, answer)
        if isinstance(answer, int):
            self._check_rights(answer, access)
            entry = self.tlb.grant(cpu, gva, access, answer)
            too_much = self._what_is_stale(cpu, entry)
            if too_much:
                raise WrongAnswer(f"{entry} granted for a {access}: {too_much}")
            if self.mmu.keeps(cpu, gva):
                self._check_kept()
                self.kept[cpu, entry.page, access] = entry
        self.settle()
        return answer

    def _what_is_wrong(self, gva, access, cpu, verdict, before, answer):
        """Hold an answer against its prediction; return the difference in words, or ""."""
        what = f"{access} of {gva:#x} on vCPU {cpu}, {self.regs[cpu]}: {answer!r}"
        if verdict.fault == "not canonical":
            return "" if answer == NotCanonical(gva) else f"{what}, wanted not canonical"
        if verdict.fault is not None:
            want = PageFault(gva if self.regs[cpu].lma else gva & 0xFFFF_FFFF, verdict.fault)
            return "" if answer == want else f"{what}, wanted {want}"
        if not isinstance(answer, int) or answer >> 12 != verdict.frame:
            return f"{what}, wanted frame {verdict.frame:#x}"
        for gpa, entry in before:
            want = entry | verdict.sets[gpa] if self._is_ram(gpa) else entry
            now = self.peek(gpa, verdict.entry_bytes)
            if now != want:
                return f"{what}, entry at {gpa:#x} is {now:#x}, wanted {want:#x}"
        return ""

    def _permits(self, cached, access, cpu):
        return not sdm.refusal(cached, access, self.regs[cpu]) and (
            access.what != "w" or cached.dirty
        )

    def _give_now(self, page, cpu):
        """What the tables give now. D in an entry of ROM cannot be set, and holds nobody up."""
        translation, used = self.path(page, cpu)
        if isinstance(translation, Translation) and used and not self._is_ram(used[-1][0]):
            translation = translation._replace(dirty=True)
        return translation

    def _check_rights(self, mapping, access):
        """The rights of a mapping: enough, no more than the access asks, rightly trapped."""
        frame = mapping & FRAME_MASK
        need = {"r": MAP_READ, "w": MAP_WRITE, "x": MAP_EXEC}[access.what]
        if not mapping & need:
            raise WrongAnswer(f"{mapping:#x} does not allow a {access}")
        may = {"r": MAP_READ, "w": MAP_READ | MAP_WRITE | MAP_EXEC, "x": MAP_READ | MAP_EXEC}
        if mapping & 7 & ~may[access.what]:
            raise WrongAnswer(f"{mapping:#x} allows more than a {access}")
        slot = self.memory.slot_at(frame)
        kind = slot.kind if slot is not None else "hole"
        if kind in ("mmio", "hole"):
            trap = True
        else:
            trap = access.what == "w" and (kind == "rom" or self.is_protected(frame >> 12))
        if bool(mapping & MAP_TRAP) != trap:
            raise WrongAnswer(f"{mapping:#x}: trap of {kind} should be {trap}")

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
        """Make a store that must succeed; returns whether it was trapped. See `try_store`."""
        trapped = self.try_store(gva, size, value, cpu, user, pieces)
        assert trapped is not None, f"the store to {gva:#x} faults"
        return trapped

    def try_store(self, gva, size, value, cpu=0, user=False, pieces=None):
        """Make a store as an engine does: all pages first, then piece by piece, each by the TLB
        entry that there is then. Returns whether a piece was trapped, or None for a fault.

        A store that is not trapped goes into RAM unseen by anyone. A trapped one arrives in
        `pieces` of bytes, by default as Unicorn has it: 8-byte stores as two, unaligned ones and
        ones over a page boundary as bytes.
        """
        access = Access("w", bool(user))
        room = 0x1000 - (gva & 0xFFF)
        found = [self.access(gva, access, cpu)]
        if room < size and isinstance(found[0], int):
            found.append(self.access(gva + room, access, cpu))
        if not all(isinstance(mapping, int) for mapping in found):
            return None
        if pieces is None:
            pieces = min(size, 4) if gva % size == 0 else 1
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        trapped = False
        for at in range(0, size, pieces):
            page = gva + at & ~0xFFF
            mapping = found[at >= room]
            if not mapping & MAP_TRAP and not self.tlb.has(cpu, page, access, mapping):
                mapping = self.access(gva + at, access, cpu)  # another fill had it flushed
                if not isinstance(mapping, int):
                    return None
            gpa = mapping & FRAME_MASK | gva + at & 0xFFF
            trapped |= bool(mapping & MAP_TRAP)
            self._store_piece(cpu, mapping, gpa, data[at : at + pieces])
        self.settle()
        return trapped

    def _store_piece(self, cpu, mapping, gpa, piece):
        if mapping & MAP_TRAP:
            self.memory.write(gpa, len(piece), int.from_bytes(piece, "little"), "guest")
            self.on_store(gpa, piece, "guest")
        else:
            self.store_unseen(cpu, mapping, gpa, piece)

    def store_unseen(self, cpu, mapping, gpa, piece):
        """A store by a TLB entry that is not trapped: straight into the buffer."""
        gfn = gpa >> 12
        if self.is_protected(gfn):
            raise StaleEntry(f"a store to {gpa:#x}, a live table, goes unseen")
        for other, frames in enumerate(self.tlb.code):
            checked = mapping & MAP_EXEC and other == cpu
            if gfn in frames and not checked:
                raise StaleEntry(f"vCPU {other} has stale code from {gpa:#x}")
        self.remember()
        slot = self.memory.slot_at(gpa)
        assert slot.kind == "ram", slot
        slot.view[gpa - slot.gpa : gpa - slot.gpa + len(piece)] = piece
        self.on_store(gpa, piece, None)

    def edit(self, gpa, size, value, source="device"):
        """A write from outside the processors, or one of the guest's that was trapped."""
        self.memory.write(gpa, size, value, source)
        self.settle()

    # --- What must hold ---------------------------------------------------------------------------

    def is_protected(self, gfn):
        """Whether a frame holds a live table whose stores must be seen, if the plug-in has any."""
        return self.mmu.is_protected(gfn)

    @property
    def _version(self):
        return self.mmu.version

    def _check_kept(self):
        """Translations that a plug-in keeps by version hold, INVLPG or not."""
        if self._version != self._kept_at:
            self.kept.clear()
            self._kept_at = self._version
        if not self._edited:
            return
        self._edited = False
        for (cpu, page, access), entry in self.kept.items():
            verdict = self.predict(page, access, cpu)
            unseen = entry.mapping & (MAP_WRITE | MAP_TRAP) == MAP_WRITE
            if unseen and self.is_protected(entry.gfn):
                raise StaleEntry(f"{entry} is kept")
            if verdict.fault is not None or verdict.frame != entry.gfn:
                raise StaleEntry(
                    f"{entry} of vCPU {cpu} is kept at version {self._kept_at}: {verdict}"
                )

    def _forget_kept(self, cpu):
        for key in [key for key in self.kept if key[0] == cpu]:
            del self.kept[key]

    def remember(self):
        """Before memory changes: what the tables give now is what a processor may keep."""
        self._edited = True
        for cpu, pages in enumerate(self.possible):
            for page, found in pages.items():
                translation, used = self.path(page, cpu)
                if isinstance(translation, Translation) and all(e & sdm.A for _, e in used):
                    found.add(translation)

    def settle(self):
        """Audit, and look for what no TLB may hold."""
        if self._audit:
            self.mmu.check()
        self._check_kept()
        writers = list(self.tlb.held(MAP_WRITE))
        for cpu, entry in writers:
            if self.is_protected(entry.gfn):
                raise StaleEntry(f"vCPU {cpu}: {entry} lets stores through")
        by_gfn = {}
        for cpu, entry in writers:
            by_gfn.setdefault(entry.gfn, []).append((cpu, entry))
        for cpu, entry in self.tlb.held(MAP_EXEC):
            for other, by in by_gfn.get(entry.gfn, ()):
                checked = by.mapping & MAP_EXEC and other == cpu
                if not checked:
                    raise StaleEntry(f"{entry} on vCPU {cpu} and {by} on vCPU {other}: W and X")

    def _what_is_stale(self, cpu, entry):
        """What a TLB entry allows and neither the tables nor a possible translation do, or ""."""
        for right, what in ((MAP_READ, "r"), (MAP_WRITE, "w"), (MAP_EXEC, "x")):
            if not entry.mapping & right:
                continue
            access = entry.access._replace(what=what)
            now = self._give_now(entry.page, cpu)
            choices = {now} | self.possible[cpu].get(entry.page, set())
            if not any(
                isinstance(found, Translation)
                and found.frame == entry.gfn
                and self._permits(found, access, cpu)
                for found in choices
            ):
                return f"{access} is allowed, the tables give {now}"
        return ""

    # --- Helpers ----------------------------------------------------------------------------------

    def peek(self, gpa, size):
        """Read an entry where RAM or ROM is, all ones elsewhere (a table there is no table)."""
        slot = self.memory.slot_at(gpa)
        if slot is None or slot.device is not None:
            return (1 << 8 * size) - 1
        return int.from_bytes(slot.view[gpa - slot.gpa : gpa - slot.gpa + size], "little")

    def _is_ram(self, gpa):
        slot = self.memory.slot_at(gpa)
        return slot is not None and slot.kind == "ram"

    @property
    def counters(self):
        """The plug-in's counters, by name."""
        return Counter(self.mmu.counters.as_dict())


def _same_page(size, one, other):
    return size > 0x1000 and one // size == other // size
