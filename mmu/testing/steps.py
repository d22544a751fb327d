# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps of the MMU fuzzer: guests that build, share, edit and tear down page tables.

Bytes at random would never make four levels of tables. So the next step is chosen with an eye on
how the twin stands. There are *goals*, addresses that are to be mapped for some vCPU, and as long
as the walk for one ends in a fault, the entry that it lacks is written.
All tables lie in a few *hot* frames, which are also the frames that entries lead to; so tables are
shared, are data and tables at once, stand at several levels, and map each other and themselves.
In a *layered* case each level has frames of its own, as in a guest that is in its right mind: only
there will leaf tables be left out of sync for long.

A case may have a *theme*, some feature that is switched more often than others: `wp`, a supervisor
that writes to read-only pages; `pieces`, the same with large pages under SMAP and protection keys,
which TLBs hold in pieces of 4 KiB and INVLPG of any address must drop.

A run of steps is made in a *mood*, which says what happens more often: accesses, edits, changes of
mode, or everything alike.
"""

from __future__ import annotations

import random
from typing import Any

from ..arch import (
    ACCESS_AC,
    ACCESS_FETCH,
    ACCESS_IMPLICIT,
    ACCESS_READ,
    ACCESS_USER,
    ACCESS_WRITE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PGE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    PAGE_SHIFT,
    PT_ACCESSED,
    PT_DIRTY,
    PT_GLOBAL,
    PT_NX,
    PT_PAGE_SIZE,
    PT_PRESENT,
    PT_USER,
    PT_WRITABLE,
    Levels,
)
from .difference import Case
from .setup import EXTRA_SLOTS, POLICIES
from .world import World

__all__ = ["Steps"]

_ACCESSES = (
    *(ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH) * 3,
    *(ACCESS_READ | ACCESS_USER, ACCESS_WRITE | ACCESS_USER, ACCESS_FETCH | ACCESS_USER) * 3,
    *(ACCESS_READ | ACCESS_AC, ACCESS_WRITE | ACCESS_AC) * 2,
    *(ACCESS_READ | ACCESS_IMPLICIT, ACCESS_WRITE | ACCESS_IMPLICIT),
    *(ACCESS_READ | ACCESS_IMPLICIT | ACCESS_USER, ACCESS_WRITE | ACCESS_IMPLICIT | ACCESS_USER),
)
_TOPS = (
    *(0, 1 << 21, 1 << 22, 3 << 21, 1 << 30, 0x8000_0000, 0xC000_0000, 0xFFC0_0000, 0xFFE0_0000),
    *(1 << 39, 1 << 38, 0x7FFF_FFE0_0000, 0xFFFF_8000_0000_0000, 0xFFFF_FFFF_FFE0_0000),
    *(1 << 47, 1 << 48, 0xFF00_0000_0000_0000, 0x00FF_FFFF_FFE0_0000),
)
_PAGES = (0, 0, 1, 2, 3, 7, 8, 255, 256, 510, 511, 512, 513, 1023)
_OFFSETS = (0, 0, 0, 4, 8, 16, 1, 0x7FC, 0x800, 0xFF8, 0xFFC, 0xFFD, 0xFFF)
_FLAG_BITS = (
    *(PT_PRESENT, PT_WRITABLE, PT_WRITABLE, PT_USER, PT_USER, PT_ACCESSED, PT_DIRTY, PT_DIRTY),
    *(PT_PAGE_SIZE, PT_GLOBAL, PT_NX, PT_NX, 1 << 3, 1 << 4, 1 << 9, 1 << 12, 1 << 13, 1 << 21),
    *(1 << 40, 1 << 51, 1 << 59, 1 << 60, 1 << 62),
)
_MOODS = {
    #           access edit store load invlpg rare
    "even": (40, 15, 22, 6, 8, 1),
    "touch": (80, 3, 10, 2, 5, 0),
    "again": (70, 3, 20, 2, 5, 0),
    "edit": (30, 30, 30, 2, 10, 0),
    "switch": (40, 5, 10, 25, 5, 0),
    "chaos": (25, 10, 10, 10, 10, 20),
}
# What is toggled, how often WP is clear, and the flags of entries.
_COMMON_FLAGS = (0x67, 0x67, 0x67, 0x07, 0x27, 0x63, 0x65, 0x03, 0x05, 0x61, 0x47)
_READ_ONLY_FLAGS = (0x67, 0x65, 0x65, 0x25, 0x05, 0x61, 0x63)
_THEMES = {
    "any": (("wp", "wp", "nxe", "smep", "smap", "pge", "pse", "pke", "pkru"), 0.4, _COMMON_FLAGS),
    "wp": (("wp", "smep", "smap", "pke", "pkru"), 0.8, _READ_ONLY_FLAGS),
    "pieces": (("wp", "smap", "smap", "pke", "pke", "pkru"), 0.8, _READ_ONLY_FLAGS),
}
_KINDS = ("access", "edit", "store", "load", "invlpg", "rare")


class Steps:
    """Chooses one step after the other for a world."""

    def __init__(
        self, rng: random.Random, case: Case, world: World, theme: str | None = None
    ) -> None:
        """Choose by `rng`; a `theme` if it is not to be chosen."""
        self._rng = rng
        self._world = world
        self._twin = world.twin
        self._case = case
        frames = rng.choice((6, 10, 16, 24))  # at least one for each of five layers
        self._hot = list(range(1, 1 + frames))
        self._far: list[int] = [gpa >> PAGE_SHIFT for _, gpa, _ in case["slots"]] + [
            0x200,
            0x400,
            0xFFF,
        ]
        tops = rng.sample(_TOPS, rng.choice((2, 3, 5, 8)))
        pages = [(top, rng.choice(_PAGES)) for top in tops for _ in range(3)]
        self._pages = [top + (page << PAGE_SHIFT) for top, page in pages]
        self._layered = rng.random() < 0.4
        chosen = rng.choice(("any", "any", "wp", "pieces"))
        self._theme = theme or chosen
        self._queue: list[list[Any]] = []
        self._goals: list[tuple[int, int, int]] = []  # (vCPU, gva, tries left)
        self._recent: list[tuple[int, int]] = []  # (gva, access) of the last accesses
        self._mood = "even"
        self._left = 0

    def next(self) -> list[Any]:
        """Return a step."""
        rng = self._rng
        while True:
            if self._queue:
                return self._queue.pop(0)
            if not self._goals or rng.random() < 0.15:
                return self._any()
            step = self._towards(*self._goals.pop())
            if step is not None:
                return step

    def _any(self) -> list[Any]:
        rng = self._rng
        if self._left == 0:
            self._mood = rng.choice(tuple(_MOODS))
            self._left = rng.randrange(5, 40)
        self._left -= 1
        kind = rng.choices(_KINDS, _MOODS[self._mood])[0]
        cpu = rng.randrange(self._world.cpus)
        if self._theme == "pieces" and rng.random() < 0.2:
            return self._pieces(cpu) or self._access(cpu)
        step: list[Any] = getattr(self, f"_{kind}")(cpu)
        return step

    # --- Choices --------------------------------------------------------------------------------

    def _page(self, cpu: int) -> int:
        """Return one of the pages, mostly as an address that is canonical for the vCPU."""
        gva = self._rng.choice(self._pages)
        bits = self._twin.contexts[cpu].canonical_bits
        if self._rng.random() < 0.03:
            return gva
        return (gva & (1 << bits) - 1 ^ 1 << bits - 1) - (1 << bits - 1) & (1 << 64) - 1

    def _gva(self, cpu: int) -> int:
        """Return an address, mostly one that is mapped."""
        for _ in range(self._rng.choice((1, 3, 4, 6))):
            page = self._page(cpu)
            if self._twin.walk(cpu, page, ACCESS_READ | ACCESS_AC).fault is None:
                break
        return page + self._rng.choice(_OFFSETS)

    def _new_goals(self, cpu: int) -> None:
        for _ in range(self._rng.randrange(1, 6)):
            self._goals.append((cpu, self._page(cpu), 8))

    def _towards(self, cpu: int, gva: int, tries: int) -> list[Any] | None:
        """Return a step by which an address becomes mapped, or None if it is or cannot be."""
        found = self._twin.walk(cpu, gva, ACCESS_READ | ACCESS_AC)
        if found.fault is None:
            return ["access", cpu, gva, self._rng.choice(_ACCESSES)]
        if not tries:
            return None
        self._goals.append((cpu, gva, tries - 1))
        context = self._twin.contexts[cpu]
        if not found.entries:
            if context.levels is not Levels.PAE:
                self._goals.pop()  # not canonical
                return None
            return self._edit_pdpte(cpu, gva)
        level, gpa, _, _ = found.entries[-1]
        value = self._entry(level, context.entry_bytes)
        return self._write_entry(cpu, gva, gpa, context.entry_bytes, value)

    def _frame(self, level: int = 0) -> int:
        """Return a frame for an entry at `level` to lead to."""
        rng = self._rng
        at = rng.random()
        if self._layered and level and at < 0.97:
            if level == 1:
                level = rng.choice((1, 2))  # data, or a leaf table
            return rng.choice(self._hot[level - 1 :: 5])
        if at < 0.93:
            return rng.choice(self._hot)
        if at < 0.99:
            return rng.choice(self._far) + rng.randrange(3)
        return rng.randrange(1 << 28)

    def _root(self) -> int:
        roots = self._hot[4::5] if self._layered else self._hot[:4]
        return self._rng.choice(roots)

    def _flags(self) -> int:
        rng = self._rng
        flags = rng.choice(_THEMES[self._theme][2])
        if rng.random() < 0.12:
            flags ^= rng.choice(_FLAG_BITS)
        return flags

    def _entry(self, level: int, width: int) -> int:
        """Return a new entry for a table at a level, mostly a good one."""
        rng = self._rng
        value = self._frame(level) << PAGE_SHIFT | self._flags()
        if level in (2, 3) and rng.random() < (0.7 if self._theme == "pieces" else 0.2):
            large = 22 if width == 4 else 21 if level == 2 else 30
            base = rng.choice((0, 0, 1 << large, 2 << large, 1 << 32))
            value = base & (1 << 8 * width) - 1 | self._flags() | PT_PAGE_SIZE
            if width == 4 and base >> 32:
                value |= base >> 32 << 13  # PSE-36
        if width == 8 and rng.random() < 0.1:
            value |= PT_NX
        if width == 8 and rng.random() < 0.1:
            value |= rng.randrange(16) << 59
        return value & (1 << 8 * width) - 1

    # --- Steps ----------------------------------------------------------------------------------

    def _access(self, cpu: int) -> list[Any]:
        gva = self._gva(cpu)
        if self._rng.random() < 0.1:
            self._goals.append((cpu, gva, 6))
        access = self._rng.choice(_ACCESSES)
        self._recent = [*self._recent[-5:], (gva, access)]
        return ["access", cpu, gva, access]

    def _look_again(self, cpu: int) -> None:
        """Queue some of the last accesses once more, as they were or not quite."""
        rng = self._rng
        for gva, access in rng.sample(self._recent, min(3, len(self._recent))):
            again = access if rng.random() < 0.6 else rng.choice(_ACCESSES)
            self._queue.append(["access", cpu, gva, again])

    def _edit(self, cpu: int) -> list[Any]:
        """Write an entry on the path of some address; if the path is broken, the one it lacks."""
        rng = self._rng
        gva = self._gva(cpu)
        found = self._twin.walk(cpu, gva, rng.choice(_ACCESSES))
        if found.fault is not None:
            self._goals.append((cpu, gva, 6))
        if self._twin.contexts[cpu].levels is Levels.PAE and (
            not found.entries or rng.random() < 0.1
        ):
            return self._edit_pdpte(cpu, gva)
        if not found.entries:
            return self._load(cpu)
        broken = found.fault is not None and rng.random() < 0.75
        level, gpa, gpte, _ = found.entries[-1] if broken else rng.choice(found.entries)
        width = self._twin.contexts[cpu].entry_bytes
        anew = broken or rng.random() < 0.4
        value = self._entry(level, width) if anew else self._tweak(gpte)
        if rng.random() < 0.6:
            self._queue.append(["access", cpu, gva, rng.choice(_ACCESSES)])
        return self._write_entry(cpu, gva, gpa, width, value)

    def _tweak(self, gpte: int) -> int:
        rng = self._rng
        at = rng.random()
        if at < 0.15:
            return 0
        if at < 0.3:
            return gpte ^ (rng.choice(self._hot) ^ rng.choice(self._hot)) << PAGE_SHIFT
        if at < 0.4:
            return gpte & ~(PT_ACCESSED | PT_DIRTY)
        return gpte ^ rng.choice(_FLAG_BITS)

    def _edit_pdpte(self, cpu: int, gva: int) -> list[Any]:
        rng = self._rng
        regs = self._twin.contexts[cpu].regs
        value = self._frame() << PAGE_SHIFT | 1
        if rng.random() < 0.1:
            value ^= rng.choice((1, 2, 1 << 5, 1 << 8, 1 << 40, 1 << 63, 8))
        if rng.random() < 0.8:
            self._queue.append(["load", cpu, *regs])
        return ["write", (regs.cr3 & 0xFFFF_FFE0) + (gva >> 30 & 3) * 8, 8, value, "device"]

    def _write_entry(self, cpu: int, gva: int, gpa: int, width: int, value: int) -> list[Any]:
        """Return a step that brings an entry to memory, in one of many ways, and perhaps queue
        the invalidation that it calls for."""
        rng = self._rng
        value &= (1 << 8 * width) - 1
        if rng.random() < 0.5:
            regs = self._twin.contexts[cpu].regs
            again = ["load", cpu, *regs] if rng.random() < 0.3 else ["invlpg", cpu, gva]
            self._queue.insert(0, again)
        gpa, size, value = self._reshape(gpa, width, value)
        if rng.random() < 0.65:
            store = self._store_to(gpa, size, value)
            if store is not None:
                return store
        source = rng.choice(("guest", "guest", "device", "loader", "debugger"))
        if rng.random() < 0.1:
            return ["block", gpa, value.to_bytes(size, "little").hex(), source]
        return ["write", gpa, size, value, source]

    def _reshape(self, gpa: int, width: int, value: int) -> tuple[int, int, int]:
        """Return (gpa, size, value) of a store that covers some of an entry, or more than it."""
        rng = self._rng
        at = rng.random()
        if at < 0.55:
            return gpa, width, value
        twin = self._twin.memory
        if at < 0.7:
            size = rng.choice((1, 2, 4))
            offset = rng.randrange(0, width, size)
            return gpa + offset, size, value >> 8 * offset & (1 << 8 * size) - 1
        # A wider or misaligned store over the entry; around it everything stays as it is.
        start = max(gpa - rng.choice((0, 1, 2, 4, 5, 7)), 0)
        size = 8
        if start + size < gpa + width:
            start = gpa
        around = twin.read(start, 8)
        shift = 8 * (gpa - start)
        mask = (1 << 8 * width) - 1 << shift & (1 << 64) - 1
        return start, size, around & ~mask | value << shift & mask

    def _store_to(self, gpa: int, size: int, value: int) -> list[Any] | None:
        """Return a store by some vCPU through some address that leads to `gpa`."""
        rng = self._rng
        world = self._world
        cpus = list(range(world.cpus))
        rng.shuffle(cpus)
        for cpu in cpus:
            for page in rng.sample(self._pages, min(12, len(self._pages))):
                access = rng.choice((0, 0, ACCESS_USER, ACCESS_AC))
                found = self._twin.walk(cpu, page, access | ACCESS_WRITE)
                if found.fault is None and found.frame == gpa >> PAGE_SHIFT:
                    return ["store", cpu, page | gpa & 0xFFF, size, value, access]
        return None

    def _store(self, cpu: int) -> list[Any]:
        """A store of anything to anywhere; often the same again and again, as a flood."""
        rng = self._rng
        size = rng.choice((1, 2, 4, 4, 8, 8))
        value = self._entry(1, 8) if rng.random() < 0.7 else rng.randrange(256)
        if rng.random() < 0.3:
            value |= self._entry(1, 4) << 32
        access = rng.choice((0, 0, ACCESS_USER, ACCESS_AC, ACCESS_IMPLICIT))
        value &= (1 << 8 * size) - 1
        gva = self._gva(cpu)
        if rng.random() < 0.15:
            for n in range(1, rng.randrange(2, 7)):
                self._queue.append(["store", cpu, gva + 8 * n, size, value, access])
        return ["store", cpu, gva, size, value, access]

    def _load(self, cpu: int) -> list[Any]:
        rng = self._rng
        regs = self._twin.contexts[cpu].regs
        at = rng.random()
        self._look_again(cpu)
        if at < 0.2 and regs.cr0:
            return ["load", cpu, *regs]
        if at < 0.6 and regs.cr0:
            return ["load", cpu, *self._toggled(regs.cr3, cpu)]
        self._new_goals(cpu)
        if not regs.cr0:
            return self._new_mode(cpu, self._root() << PAGE_SHIFT)
        cr3 = self._root() << PAGE_SHIFT
        if rng.random() < 0.05:
            cr3 = self._frame() << PAGE_SHIFT | rng.choice((0, 0x20, 8, 0x18))
        if at < 0.85:
            return ["load", cpu, *regs._replace(cr3=cr3)]
        return self._new_mode(cpu, cr3)

    def _toggled(self, cr3: int, cpu: int) -> tuple[int, ...]:
        """One control bit more or less."""
        rng = self._rng
        cr0, _, cr4, efer, pkru = self._twin.contexts[cpu].regs
        bit = rng.choice(_THEMES[self._theme][0])
        if bit == "wp":
            cr0 ^= CR0_WP
        elif bit == "nxe":
            efer ^= EFER_NXE
        elif bit == "pkru":
            pkru = rng.getrandbits(32)
        else:
            bits = {"smep": CR4_SMEP, "smap": CR4_SMAP, "pge": CR4_PGE, "pse": CR4_PSE}
            cr4 ^= bits.get(bit, CR4_PKE)
        return cr0, cr3, cr4, efer, pkru

    def _new_mode(self, cpu: int, cr3: int) -> list[Any]:
        rng = self._rng
        cr0, cr4, efer = rng.choice(
            (
                *(((0, 0, 0),) if rng.random() < 0.3 else ()),
                (CR0_PG | CR0_PE, 0, 0),
                (CR0_PG | CR0_PE, CR4_PSE, 0),
                (CR0_PG | CR0_PE, CR4_PAE, 0),
                (CR0_PG | CR0_PE, CR4_PAE, 0),
                (CR0_PG | CR0_PE, CR4_PAE, EFER_LMA | EFER_LME),
                (CR0_PG | CR0_PE, CR4_PAE, EFER_LMA | EFER_LME),
                (CR0_PG | CR0_PE, CR4_PAE | CR4_LA57, EFER_LMA | EFER_LME),
            )
        )
        if not self._world.features.la57:
            cr4 &= ~CR4_LA57
        cr0 |= 0 if rng.random() < _THEMES[self._theme][1] else CR0_WP
        efer |= EFER_NXE if rng.random() < 0.7 else 0
        smap, pke = (0.6, 0.5) if self._theme == "pieces" else (0.3, 0.15)
        for bit, share in ((CR4_SMEP, 0.3), (CR4_SMAP, smap), (CR4_PKE, pke), (CR4_PGE, 0.3)):
            cr4 |= bit if rng.random() < share else 0
        if cr4 & CR4_PAE and not efer & EFER_LMA and rng.random() < 0.7:
            # PAE: four good entries, so that the load is not refused.
            self._queue.append(["load", cpu, cr0, cr3, cr4, efer, 0])
            words = [self._frame() << PAGE_SHIFT | 1 for _ in range(4)]
            data = b"".join(word.to_bytes(8, "little") for word in words)
            return ["block", cr3 & 0xFFFF_FFE0, data.hex(), "loader"]
        return ["load", cpu, cr0, cr3, cr4, efer, rng.choice((0, 0, rng.getrandbits(32)))]

    def _invlpg(self, cpu: int) -> list[Any]:
        if self._recent and self._rng.random() < 0.5:
            gva, access = self._rng.choice(self._recent)
            self._queue.append(["access", cpu, gva, access])
            return ["invlpg", cpu, gva]
        return ["invlpg", cpu, self._gva(cpu)]

    def _pieces(self, cpu: int) -> list[Any] | None:
        """Use some pieces of a large page, change its entry, INVLPG one address, use the others;
        None if the address chosen has no large page."""
        rng = self._rng
        access = rng.choice((ACCESS_WRITE, ACCESS_WRITE | ACCESS_AC, ACCESS_READ | ACCESS_AC))
        gva = self._gva(cpu)
        found = self._twin.walk(cpu, gva, access)
        if found.fault is not None or found.level < 2:
            return None
        _, gpa, gpte, _ = found.entries[-1]
        width = self._twin.contexts[cpu].entry_bytes
        size = 1 << self._twin.page_shift(cpu, found)
        first = gva & -size
        pieces = [first + (rng.randrange(size) & -size // 512) for _ in range(rng.choice((2, 3)))]
        changed = rng.choice((0, gpte & ~PT_PRESENT, gpte ^ size, gpte & ~(PT_DIRTY | PT_USER)))
        source = rng.choice(("guest", "device"))
        self._queue += [["access", cpu, piece, access] for piece in pieces[1:]]
        if rng.random() < 0.3:
            self._queue.append(["shrink", rng.randrange(1, 6)])
        self._queue.append(["write", gpa, width, changed & (1 << 8 * width) - 1, source])
        self._queue.append(["invlpg", cpu, rng.choice((pieces[0], gva))])
        self._queue += [["access", cpu, piece, access] for piece in pieces[1:]]
        return ["access", cpu, pieces[0], access]

    def _rare(self, cpu: int) -> list[Any]:
        rng = self._rng
        kind = rng.choice(("flushed", "block", "shrink", "zap", "policy", "log", "slots"))
        if kind == "flushed":
            return ["flushed", cpu]
        if kind == "block":
            return self._copy_of_a_table()
        if kind == "shrink":
            return ["shrink", rng.randrange(1, 6)]
        if kind == "zap":
            return ["zap"]
        if kind == "policy":
            return ["policy", f"{rng.choice(POLICIES)}={rng.choice(('on', 'off'))}"]
        if kind == "log":
            return ["log", rng.random() < 0.6]
        return self._change_slots()

    def _copy_of_a_table(self) -> list[Any]:
        """A whole frame at once: a copy of another, as fork does, or zeroes."""
        rng = self._rng
        source, target = rng.choice(self._hot), rng.choice(self._hot)
        data = self._twin.memory.read_block(source << PAGE_SHIFT, 4096)
        if rng.random() < 0.3:
            data = bytes(4096)
        start = rng.choice((0, 0, 2048, 8))
        end = rng.choice((4096, 2048 + 64, start + 64))
        start, end = min(start, end), max(start, end)
        where = rng.choice(("guest", "device", "debugger"))
        return ["block", target << PAGE_SHIFT | start, data[start:end].hex(), where]

    def _change_slots(self) -> list[Any]:
        rng = self._rng
        kind, gpa, pages = rng.choice(EXTRA_SLOTS)
        if gpa >> self._world.features.phys_bits:
            return ["zap"]
        at = rng.random()
        if at < 0.4:
            return ["add", kind, gpa, pages]
        if at < 0.7:
            return ["remove", gpa]
        if at < 0.9:
            return ["move", gpa, rng.choice((gpa + 0x10_0000, gpa - 0x4000, 0x60_0000, 0x40_0000))]
        # Low RAM itself, tables and all: gone, and back as zeroes.
        low = self._case["slots"][0]
        self._queue.append(["add", *low])
        return ["remove", 0]
