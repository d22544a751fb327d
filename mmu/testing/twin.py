# SPDX-License-Identifier: GPL-2.0-or-later
"""The architecture's truth, on a memory of its own, and what may differ from it for a while.

**A leaf table out of sync.** A store that goes through a TLB entry with W is not seen by the
plug-in, and need not be if the frame is a leaf table: the guest owes an invalidation before it may
count on the new entry (SDM 4.10.4). So for every word that was stored to unseen its old values are
kept. An answer that grants access may follow from an old value of its leaf entry, if that stood
there at a time since this vCPU's last invalidation of the page at which the entries above were what
they are now. A fault may never be stale, nor may upper entries be.

**Whose truth.** The plug-ins take theirs from `mmu.walker`, and so does the twin. So what that says
of an access is held, each time, against the SDM's tables in `mmu.testing.sdm`, which share nothing
with it: the fault, the frame, the page, A and D.
"""

from __future__ import annotations

from ..api import FRAME_MASK, NotCanonical, PagingRegisters
from ..arch import (
    ACCESS_AC,
    ACCESS_FETCH,
    ACCESS_IMPLICIT,
    ACCESS_USER,
    ACCESS_WRITE,
    PAGE_OFFSET,
    PAGE_SHIFT,
    PAGE_SIZE,
    PT_ACCESSED,
    PT_DIRTY,
    Features,
)
from ..memory import Memory, Slot
from ..walker import Context, Walk, set_accessed_dirty, walk
from . import sdm
from .difference import Difference

__all__ = ["Device", "Twin"]

_AD = PT_ACCESSED | PT_DIRTY


class Device:
    """A device in guest-physical memory that remembers what was written."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        """Return a pattern, P set."""
        return 0x5B5A_5B5A_5B5A_5B5B & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Remember it."""
        self.writes.append((offset, size, value))


class Twin:
    """Guest memory and paging registers as they must be. `now` is the number of the step."""

    def __init__(self, features: Features, cpus: int) -> None:
        """Have no slots yet and paging off."""
        self.memory = Memory()
        self.device = Device()
        self.contexts = [Context(features) for _ in range(cpus)]
        self._cpuid = sdm.Cpuid(features.phys_bits, features.pse36, features.gbpages)
        self._regs = [sdm.Regs() for _ in range(cpus)]
        self._pdptes: list[list[int]] = [[0] * 4 for _ in range(cpus)]
        self.now = 0
        self.touched: set[int] = set()
        """Frames that were ever written."""
        self.logged: set[int] | None = None
        """Frames of RAM written since the dirty log was read; None if it is off."""
        self._changed: dict[int, int] = {}  # gpa of a 4-byte word -> when it last changed
        self._old: dict[int, list[tuple[int, int]]] = {}  # gpa of 8 bytes -> (until when, value)
        self._flushed = [0] * cpus
        self._invalidated: list[dict[int, int]] = [{} for _ in range(cpus)]

    # --- Registers ----------------------------------------------------------------------------

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """Load control registers, which empties the TLB."""
        self.contexts[cpu].load(self.memory, regs)
        new = sdm_registers(regs)
        if sdm.loads_pdptes(self._regs[cpu], new):
            base = regs.cr3 & 0xFFFF_FFE0
            self._pdptes[cpu] = [self._entry_at(base + 8 * index, 8) for index in range(4)]
        self._regs[cpu] = new
        self._flushed[cpu] = self.now

    def invalidate(self, cpu: int, gva: int) -> None:
        """INVLPG."""
        page = (gva & self.contexts[cpu].gva_mask) >> PAGE_SHIFT
        self._invalidated[cpu][page] = self.now

    def nothing_is_stale(self) -> None:
        """The plug-in has forgotten everything."""
        self._old.clear()
        self._changed.clear()

    def walk(self, cpu: int, gva: int, access: int) -> Walk:
        """Walk the tables as they stand."""
        return walk(self.memory, self.contexts[cpu], gva, access)

    def judge(self, cpu: int, gva: int, access: int) -> Walk:
        """Walk, and hold the walk against the SDM's tables."""
        found = self.walk(cpu, gva, access)
        verdict = self._verdict(cpu, gva, access)
        if found.fault is None:
            size = 1 << self.page_shift(cpu, found) if found.level else 0
            says: object = (found.frame, size)
        else:
            is_other = isinstance(found.fault, NotCanonical)
            says = "not canonical" if is_other else getattr(found.fault, "error_code", None)
        wants = verdict.fault if verdict.fault is not None else (verdict.frame, verdict.page)
        if says != wants:
            what = f"vCPU {cpu}, access {access:#x} to {gva:#x}, {self._regs[cpu]}"
            raise Difference("truth", f"{what}: the walker says {says}, the SDM {wants}")
        return found

    def _verdict(self, cpu: int, gva: int, access: int) -> sdm.Verdict:
        asked = sdm.Access(
            "x" if access & ACCESS_FETCH else "w" if access & ACCESS_WRITE else "r",
            bool(access & ACCESS_USER),
            bool(access & ACCESS_IMPLICIT),
            bool(access & ACCESS_AC),
        )
        return sdm.walk(self._entry_at, self._regs[cpu], gva, asked, self._cpuid, self._pdptes[cpu])

    def _entry_at(self, gpa: int, size: int) -> int:
        """Read an entry: all ones where no memory is."""
        slot = self.memory.slot_at(gpa)
        if slot is None or slot.device is not None:
            return (1 << 8 * size) - 1
        return int.from_bytes(slot.view[gpa - slot.gpa : gpa - slot.gpa + size], "little")

    def page_shift(self, cpu: int, found: Walk) -> int:
        """Return how many address bits the page has that a walk ended at."""
        return self.contexts[cpu].mode.shift(found.level) if found.level else PAGE_SHIFT

    # --- Tables out of sync -------------------------------------------------------------------

    def _old_values(self, cpu: int, found: Walk) -> list[int]:
        """Return what the 8 bytes with the leaf entry have held that a vCPU may still count on."""
        if not found.entries or found.entries[-1][0] != 1:
            return []
        word = found.entries[-1][1] & ~7
        if word not in self._old:
            return []
        page = found.gva >> PAGE_SHIFT
        since = max(self._flushed[cpu], self._invalidated[cpu].get(page, 0))
        width = self.contexts[cpu].entry_bytes
        for _, gpa, _, _ in found.entries[:-1]:
            for half in range(gpa, gpa + width, 4):
                since = max(since, self._changed.get(half, 0))
        return [value for until, value in self._old[word] if until > since]

    def is_stale(self, cpu: int, found: Walk, mapping: int) -> bool:
        """Return whether a Mapping follows from an old value of the leaf entry."""
        for value in self._old_values(cpu, found):
            word = found.entries[-1][1] & ~7
            now = self.memory.read(word, 8)
            poke(self.memory, word, value, 8)
            then = walk(self.memory, self.contexts[cpu], found.gva, found.access)
            poke(self.memory, word, now, 8)
            if then.fault is None and then.frame << PAGE_SHIFT == mapping & FRAME_MASK:
                return True
        return False

    def set_accessed_dirty(self, cpu: int, found: Walk, other: Memory) -> None:
        """Do what the processor does. Where the other may have answered from an old value of the
        leaf entry, that entry may also have stayed as it was in `other`."""
        context = self.contexts[cpu]
        stale = self._old_values(cpu, found)
        width = context.entry_bytes
        gpa = found.entries[-1][1] if found.entries else 0
        before = self.memory.read(gpa, width) if stale else 0
        wanted = self._entries_after(cpu, found)
        for changed in set_accessed_dirty(self.memory, context, found):
            self._note(changed, width)
        for at, entry in wanted.items():
            if self._entry_at(at, width) != entry:
                what = f"vCPU {cpu}, access {found.access:#x} to {found.gva:#x}: entry at {at:#x}"
                raise Difference(
                    "truth", f"{what} became {self._entry_at(at, width):#x}, the SDM: {entry:#x}"
                )
        if stale and other.read(gpa, width) == before:
            poke(self.memory, gpa, before, width)

    def _entries_after(self, cpu: int, found: Walk) -> dict[int, int]:
        """Return what the SDM makes of the entries on a path that is used, by their addresses."""
        width = self.contexts[cpu].entry_bytes
        sets = self._verdict(cpu, found.gva, found.access).sets or {}
        after: dict[int, int] = {}
        for _, gpa, _, _ in found.entries:
            slot = self.memory.slot_at(gpa)
            is_ram = slot is not None and slot.kind == "ram"
            after[gpa] = self._entry_at(gpa, width) | (sets.get(gpa, 0) if is_ram else 0)
        return after

    # --- Writes -------------------------------------------------------------------------------

    def write_unseen(self, gpa: int, data: bytes) -> None:
        """A store that nobody but the engine sees."""
        for word in range(gpa & ~7, gpa + len(data), 8):
            self._old.setdefault(word, []).append((self.now, self.memory.read(word, 8)))
        self._write(gpa, data)

    def write(self, gpa: int, data: bytes, size: int, source: str) -> None:
        """A write that is seen, which is the end of what was stale in whole words of it; of
        `size` bytes at once, or, if that is 0, as a block."""
        for word in range(gpa + 7 & ~7, gpa + len(data) - 7, 8):
            self._old.pop(word, None)
        slot = self.memory.slot_at(gpa)
        if size and slot is not None and slot.device is not None and gpa + size <= slot.end:
            self.memory.write(gpa, size, int.from_bytes(data, "little"), source)
        else:
            self._write(gpa, data)

    def _write(self, gpa: int, data: bytes) -> None:
        words = range(gpa & ~3, gpa + len(data), 4)
        before = [self.memory.read(word, 4) for word in words]
        self.memory.write_block(gpa, data, "loader")
        for word, then in zip(words, before, strict=True):
            if (self.memory.read(word, 4) ^ then) & ~_AD:
                self._changed[word] = self.now
        self._note(gpa, len(data))

    def _note(self, gpa: int, size: int) -> None:
        for gfn in range(gpa >> PAGE_SHIFT, (gpa + size - 1 >> PAGE_SHIFT) + 1):
            self.touched.add(gfn)
            if self.logged is not None:
                slot = self.memory.slot_at(gfn << PAGE_SHIFT)
                if slot is not None and slot.kind == "ram":
                    self.logged.add(gfn)

    # --- Comparison -----------------------------------------------------------------------------

    def slots_at(self, gpa: int, other: Memory) -> tuple[Slot, Slot] | None:
        """Return the slots at an address in the other memory and in this, if there are any."""
        theirs, ours = other.slot_at(gpa), self.memory.slot_at(gpa)
        return (theirs, ours) if theirs is not None and ours is not None else None

    def compare_frame(self, gfn: int, other: Memory) -> None:
        """Raise Difference if a frame of RAM or ROM is not the same in the other memory."""
        gpa = gfn << PAGE_SHIFT
        slots = self.slots_at(gpa, other)
        if slots is None or slots[0].device is not None:
            return
        theirs, ours = (slot.view[gpa - slot.gpa :][:PAGE_SIZE].tobytes() for slot in slots)
        if theirs != ours:
            at = next(i for i in range(0, PAGE_SIZE, 8) if theirs[i : i + 8] != ours[i : i + 8])
            is_, must = (int.from_bytes(page[at : at + 8], "little") for page in (theirs, ours))
            raise Difference("memory", f"{gpa + at:#x} holds {is_:#x}, wanted {must:#x}")


def sdm_registers(regs: PagingRegisters) -> sdm.Regs:
    """Return the control bits that paging asks about, each by its place in the SDM."""
    cr0, cr3, cr4, efer, pkru = regs
    return sdm.Regs(
        pg=bool(cr0 >> 31 & 1),
        cr3=cr3,
        lma=bool(efer >> 10 & 1),
        pae=bool(cr4 >> 5 & 1),
        la57=bool(cr4 >> 12 & 1),
        pse=bool(cr4 >> 4 & 1),
        nxe=bool(efer >> 11 & 1),
        wp=bool(cr0 >> 16 & 1),
        smep=bool(cr4 >> 20 & 1),
        smap=bool(cr4 >> 21 & 1),
        pke=bool(cr4 >> 22 & 1),
        pge=bool(cr4 >> 7 & 1),
        pkru=pkru,
    )


def poke(memory: Memory, gpa: int, value: int, size: int) -> None:
    """Set bytes of RAM that do not cross a page, behind everybody's back."""
    slot = memory.slot_at(gpa)
    if slot is not None and slot.kind == "ram":
        at = gpa - slot.gpa
        assert (gpa & PAGE_OFFSET) + size <= PAGE_SIZE
        slot.view[at : at + size] = value.to_bytes(size, "little")
