# SPDX-License-Identifier: GPL-2.0-or-later
"""A plug-in on one memory, the architecture's truth on a twin of it, and steps done to both.

After every step the plug-in is audited, all that it may have written is compared, and the model
TLBs are looked over. Every answer is held against a fresh walk of the twin; `mmu.testing.twin` says
what may differ, and for how long.

Steps are JSON lists, (name, arguments...). A step that makes no sense where it stands does nothing,
so any of them can be left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from ..api import (
    FRAME_MASK,
    MAP_EXEC,
    MAP_READ,
    MAP_TRAP,
    MAP_WRITE,
    Answer,
    PagingRegisters,
)
from ..arch import (
    ACCESS_AC,
    ACCESS_FETCH,
    ACCESS_IMPLICIT,
    ACCESS_USER,
    ACCESS_WRITE,
    CR0_PG,
    CR4_LA57,
    EFER_LMA,
    PAGE_OFFSET,
    PAGE_SHIFT,
    PAGE_SIZE,
    Features,
)
from ..memory import Memory, MemoryMapError
from ..plugins import make_mmu
from ..shadow.fast.publish import KINDS
from ..shadow.fast.walk import hit
from ..walker import Walk, pdptes_valid
from .difference import Case, Difference
from .tlb import ModelTlb
from .twin import Device, Twin

__all__ = ["World"]

_SIGN = 1 << 63


class World:
    """One case in the making: `do` executes a step and raises `Difference` or what the plug-in
    raised."""

    def __init__(self, case: Case) -> None:
        """Set up the slots and the plug-in of a case."""
        self.cpus: int = case["cpus"]
        self.features = Features(**case["features"])
        self.memory = Memory()
        self.device = Device()
        self.twin = Twin(self.features, self.cpus)
        for kind, gpa, pages in case["slots"]:
            self._add_slot(kind, gpa, pages)
        self.tlb = ModelTlb(self.memory, self.cpus)
        self.mmu = make_mmu(
            case["mmu"],
            self.memory,
            self.tlb,
            self.cpus,
            features=self.features,
            pool=case["pool"],
            policy=case.get("policy", ""),
        )
        self.compared = 0
        blocks = map(self.mmu.compiled_block, range(self.cpus)) if case.get("compiled") else ()
        self._blocks = [block for block in blocks if block is not None]
        self._steps: dict[str, Callable[..., None]] = {
            "load": self._load,
            "access": self._access_step,
            "store": self._store,
            "write": self._write,
            "block": self._write_block,
            "invlpg": self._invlpg,
            "flushed": self._flushed,
            "add": self._add,
            "remove": self._remove,
            "move": self._move,
            "policy": self._policy,
            "shrink": self._shrink,
            "zap": self._zap,
            "log": self._log,
        }
        for cpu in range(self.cpus):
            self._load(cpu, 0, 0, 0, 0, 0)

    def do(self, step: list[Any]) -> None:
        """Execute a step, then look at everything."""
        self.twin.now += 1
        name, *arguments = step
        self._steps[name](*arguments)
        self.check()

    # --- Registers and TLBs -------------------------------------------------------------------

    def _load(self, cpu: int, cr0: int, cr3: int, cr4: int, efer: int, pkru: int) -> None:
        if cpu >= self.cpus:
            return
        regs = PagingRegisters(cr0, cr3, cr4, efer, pkru)
        old = self.twin.contexts[cpu].regs
        is_other = (old.efer ^ efer) & EFER_LMA or (old.cr4 ^ cr4) & CR4_LA57
        if old.cr0 & cr0 & CR0_PG and is_other:
            self._load(cpu, cr0 & ~CR0_PG, cr3, cr4, efer & ~EFER_LMA, pkru)  # SDM 3A 4.1.2
        valid = pdptes_valid(self.twin.memory, regs, self.features)
        if pdptes_valid(self.memory, regs, self.features) != valid:
            raise Difference("memory", f"the PDPTEs at {cr3:#x} are not the same")
        if not valid:
            return  # #GP: nothing is loaded
        self.tlb.flush_tlb(cpu)
        self.twin.load(cpu, regs)
        self.mmu.load(cpu, regs)

    def _invlpg(self, cpu: int, gva: int) -> None:
        """INVLPG; a plug-in that needs not be told has the engine drop one 4 KiB entry."""
        if cpu >= self.cpus:
            return
        if self.mmu.flush_on_invlpg:
            self.mmu.invlpg(cpu, gva)
            self.tlb.flush_tlb(cpu)
            self.mmu.flushed(cpu)
        else:
            self.tlb.drop(cpu, gva)
        self.twin.invalidate(cpu, gva)
        self._check_invalidated(cpu, gva)

    def _check_invalidated(self, cpu: int, gva: int) -> None:
        """No entry of the page, large as it was, may be left that the tables do not bear out."""
        for (page, side, mapping), shift in self.tlb.entries[cpu].items():
            if page >> shift != gva >> shift:
                continue
            access = (0, ACCESS_USER, ACCESS_AC)[side]
            for right, kind in zip((MAP_READ, MAP_WRITE, MAP_EXEC), KINDS, strict=True):
                if mapping & right:
                    now = self.twin.walk(cpu, page, access | kind)
                    if now.fault is not None or now.frame << PAGE_SHIFT != mapping & FRAME_MASK:
                        what = f"vCPU {cpu} has {mapping:#x} for {page:#x} after INVLPG {gva:#x}"
                        raise Difference("stale entry", what)

    def _flushed(self, cpu: int) -> None:
        """The engine has emptied its TLB for a reason of its own."""
        if cpu < self.cpus:
            self.tlb.flush_tlb(cpu)
            self.mmu.flushed(cpu)

    # --- Accesses -----------------------------------------------------------------------------

    def _access_step(self, cpu: int, gva: int, access: int) -> None:
        if cpu < self.cpus:
            self._access(cpu, gva, access)

    def _access(self, cpu: int, gva: int, access: int) -> int | None:
        """A TLB miss: ask the plug-in, compare, fill. Returns the Mapping, None for a fault."""
        gva &= 2 * _SIGN - 1  # a row of stores may reach past the top
        found = self.twin.judge(cpu, gva, access)
        answer = self._ask(cpu, gva, access)
        self.compared += 1
        if found.fault is not None and answer == found.fault:
            return None
        if not isinstance(answer, int):
            self._disagree(cpu, found, answer)
        if found.fault is None and answer & FRAME_MASK == found.frame << PAGE_SHIFT:
            self.twin.set_accessed_dirty(cpu, found, self.memory)
        elif not self.twin.is_stale(cpu, found, answer):
            self._disagree(cpu, found, answer)
        self._check_rights(cpu, access, answer)
        self.tlb.grant(cpu, gva, access, answer, self.twin.page_shift(cpu, found))
        if self.mmu.keeps(cpu, gva):
            self.tlb.kept[cpu][gva, access] = (self.mmu.version, answer)
        return answer

    def _check_kept(self) -> None:
        """What the plug-in said could be kept must hold until its version grows."""
        for cpu, kept in enumerate(self.tlb.kept):
            for (gva, access), (version, answer) in tuple(kept.items()):
                if version != self.mmu.version:
                    del kept[gva, access]
                    continue
                now = self.twin.walk(cpu, gva, access)
                if now.fault is not None or now.frame << PAGE_SHIFT != answer & FRAME_MASK:
                    what = f"vCPU {cpu} was told to keep {answer:#x} for {gva:#x}, {access:#x}"
                    raise Difference("kept", what)

    def _ask(self, cpu: int, gva: int, access: int) -> Answer:
        """Ask as a vCPU does: first the compiled walk, where there is one, then the plug-in."""
        if self._blocks and not access & ACCESS_IMPLICIT:
            kind = KINDS.index(access & (ACCESS_WRITE | ACCESS_FETCH))
            user = 1 if access & ACCESS_USER else 0
            signed = (gva & 2 * _SIGN - 1) - 2 * (gva & _SIGN)
            quick = hit(self._blocks[cpu].address, signed, kind, user)
            if quick:
                return quick
        return self.mmu.translate(cpu, gva, access)

    def _disagree(self, cpu: int, found: Walk, answer: Answer) -> NoReturn:
        wanted = found.fault or f"frame {found.frame:#x}"
        got = f"{answer:#x}" if isinstance(answer, int) else str(answer)
        path = ", ".join(f"{gpa:#x}: {gpte:#x}" for _, gpa, gpte, _ in found.entries)
        mode = self.twin.contexts[cpu].mode.name
        what = f"vCPU {cpu} ({mode}), access {found.access:#x} to {found.gva:#x}"
        raise Difference("answer", f"{what}: {got}, wanted {wanted} [{path}]")

    def _check_rights(self, cpu: int, access: int, answer: int) -> None:
        """A Mapping must allow the access, no more than its kind needs, and trap where it must."""
        slot = self.memory.slot_at(answer & FRAME_MASK)
        is_memory = slot is not None and slot.device is None
        if access & ACCESS_FETCH:
            need, may = MAP_EXEC, MAP_READ | MAP_EXEC
        elif access & ACCESS_WRITE:
            need, may = MAP_WRITE, MAP_READ | MAP_WRITE | MAP_EXEC
        else:
            need, may = MAP_READ, MAP_READ
        if not is_memory or access & ACCESS_WRITE:
            may |= MAP_TRAP
        wrong = not answer & need or answer & ~FRAME_MASK & ~may
        if not is_memory or (slot is not None and slot.kind == "rom" and access & ACCESS_WRITE):
            wrong = wrong or not answer & MAP_TRAP
        if wrong:
            raise Difference("rights", f"vCPU {cpu}, {access:#x}: {answer:#x} of {slot!r}")

    # --- Writes ---------------------------------------------------------------------------------

    def _store(self, cpu: int, gva: int, size: int, value: int, access: int) -> None:
        """A store of the guest's, both pages first, then the bytes, as an engine does it."""
        if cpu >= self.cpus:
            return
        access |= ACCESS_WRITE
        mask = self.twin.contexts[cpu].gva_mask
        room = PAGE_SIZE - (gva & PAGE_OFFSET)
        pages = [gva] if size <= room else [gva, gva + room & mask]
        for page in pages:
            if self._writable(cpu, page, access) is None:
                return
        data = value.to_bytes(size, "little")
        step = size if gva % size == 0 else 1
        for at in range(0, size, step):
            mapping = self._writable(cpu, gva + at & mask, access)
            if mapping is None:
                return  # a store into its own tables has taken the page away
            self._store_piece(cpu, mapping, gva + at & PAGE_OFFSET, data[at : at + step])

    def _writable(self, cpu: int, gva: int, access: int) -> int | None:
        """Return the TLB entry for a store, filled if need be; None for a fault."""
        mapping = self.tlb.writable(cpu, gva, access)
        return mapping if mapping is not None else self._access(cpu, gva, access)

    def _store_piece(self, cpu: int, mapping: int, offset: int, piece: bytes) -> None:
        gpa = mapping & FRAME_MASK | offset
        if mapping & MAP_TRAP:
            # Unicorn hands over 8 bytes as two times 4.
            for at in range(0, len(piece), 4):
                part = piece[at : at + 4]
                self._write(gpa + at, len(part), int.from_bytes(part, "little"), "guest")
            return
        slot = self.memory.slot_at(gpa)
        if slot is None or slot.kind != "ram":
            raise Difference("rights", f"a store to {slot!r} at {gpa:#x} goes straight through")
        if self.mmu.is_protected(gpa >> PAGE_SHIFT):
            raise Difference("protection", f"a store to {gpa:#x}, a live table, goes unseen")
        at = gpa - slot.gpa
        slot.view[at : at + len(piece)] = piece
        self.tlb.saw_store(cpu, mapping, gpa)
        self.twin.write_unseen(gpa, piece)

    def _write(self, gpa: int, size: int, value: int, source: str) -> None:
        """A write that is seen: trapped, or from outside the processors."""
        self.memory.write(gpa, size, value, source)
        self.twin.write(gpa, value.to_bytes(size, "little"), size, source)

    def _write_block(self, gpa: int, text: str, source: str) -> None:
        data = bytes.fromhex(text)
        self.memory.write_block(gpa, data, source)
        self.twin.write(gpa, data, 0, source)

    # --- Slots ----------------------------------------------------------------------------------

    def _add_slot(self, kind: str, gpa: int, pages: int) -> None:
        for side in (self, self.twin):
            memory, device = side.memory, side.device
            if kind == "ram":
                memory.add_ram(gpa, pages << PAGE_SHIFT)
            elif kind == "rom":
                # Looks like entries that lead to the low frames.
                words = (n % 24 << PAGE_SHIFT | 0x67 for n in range(pages * 512))
                memory.add_rom(gpa, b"".join(word.to_bytes(8, "little") for word in words))
            else:
                memory.add_mmio(gpa, pages << PAGE_SHIFT, device)

    def _add(self, kind: str, gpa: int, pages: int) -> None:
        try:
            self._add_slot(kind, gpa, pages)
        except MemoryMapError:
            return
        self._remapped()

    def _remove(self, gpa: int) -> None:
        slots = self.twin.slots_at(gpa, self.memory)
        if slots is not None:
            self.memory.remove(slots[0])
            self.twin.memory.remove(slots[1])
            self._remapped()

    def _move(self, gpa: int, to: int) -> None:
        slots = self.twin.slots_at(gpa, self.memory)
        if slots is None:
            return
        try:
            self.memory.move(slots[0], to)
            self.twin.memory.move(slots[1], to)
        except MemoryMapError:
            pass  # it stays; the plug-in has been told of a change twice
        self._remapped()

    def _remapped(self) -> None:
        for cpu, entries in enumerate(self.tlb.entries):
            if entries or self.tlb.code[cpu]:
                raise Difference("stale entry", f"vCPU {cpu} keeps entries over a change of slots")
        self.twin.nothing_is_stale()

    # --- What the owner of a machine may do -----------------------------------------------------

    def _policy(self, text: str) -> None:
        try:
            self.mmu.set_policy(text)
        except ValueError:  # it has none
            return
        self.twin.nothing_is_stale()

    def _shrink(self, pages: int) -> None:
        self.mmu.shrink(pages)

    def _zap(self) -> None:
        try:
            self.mmu.zap_all()
        except ValueError:  # it cannot
            return
        self.twin.nothing_is_stale()

    def _log(self, on: bool) -> None:
        """Dirty logging: switch it on, or read the log if it is on, or off."""
        twin = self.twin
        try:
            if twin.logged is None and on:
                self.mmu.start_dirty_log()
            logged = set(self.mmu.dirty_log()) if twin.logged is not None else set()
        except ValueError:  # it has none
            return
        missing = (twin.logged or set()) - logged
        if missing:
            frames = ", ".join(f"{gfn:x}" for gfn in sorted(missing))
            raise Difference("dirty log", f"gfns written and not in the log: {frames}")
        if not on and twin.logged is not None:
            self.mmu.stop_dirty_log()
        twin.logged = set() if on else None

    # --- What must hold -------------------------------------------------------------------------

    def check(self) -> None:
        """Audit; compare what was written so far; look over the TLBs."""
        self.mmu.check()
        for gfn in self.twin.touched:
            self.twin.compare_frame(gfn, self.memory)
        if self.device.writes != self.twin.device.writes:
            raise Difference("memory", "the device has heard something else")
        self.tlb.check()
        self._check_kept()

    def check_all(self) -> None:
        """Compare all of memory: at the end, as it takes a while."""
        for slot in self.memory.slots():
            if slot.device is None:
                for gfn in range(slot.gpa >> PAGE_SHIFT, slot.end >> PAGE_SHIFT):
                    self.twin.compare_frame(gfn, self.memory)
