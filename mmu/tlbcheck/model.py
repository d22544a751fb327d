# SPDX-License-Identifier: GPL-2.0-or-later
"""A TLB and paging-structure caches without capacity, and the table words their entries came from.

An :class:`Entry` is either a translation (a TLB entry) or a pointer to a table (a
paging-structure-cache entry: PML4E, PDPTE and PDE caches, SDM 3A 4.10.3). Both remember the words
of the walk that made them with the values read, so that a later write to a word can be compared
with what the entry stands for. PDPTE registers of PAE paging are registers, not a cache: an entry
made through one has the register's value among its words, and the address it was loaded from.

Generations make a CR3 load cost nothing: an entry is alive while its generation is the vCPU's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Flag
from typing import NamedTuple

from ..arch import (
    ACC_ALL,
    ACC_EXEC,
    PAGE_SHIFT,
    PT_DIRTY,
    PT_GLOBAL,
    PT_NX,
    PT_PAGE_SIZE,
    PT_PKEY,
    PT_PRESENT,
    PT_USER,
    PT_WRITABLE,
)
from ..walker import Context

__all__ = ["Change", "Effect", "Entry", "Flush", "Site", "TableFrame", "VcpuCaches", "effect_of"]


PAGE_SHIFTS = (12, 21, 22, 30)
"""The sizes of pages, smallest first: 4 KiB, 2 MiB, 4 MiB (32-bit paging), 1 GiB."""
STRUCTURE_SHIFTS = (21, 22, 30, 39, 48)
"""The ranges that the entries pointing to tables cover."""


class Site(NamedTuple):
    """Where and when something happened: the vCPU, its linear RIP, the position of the run in
    instructions, its privilege level, and its linear RSP. ``cpu`` -1 is no vCPU but a device."""

    cpu: int
    rip: int = 0
    position: int = 0
    cpl: int = 0
    rsp: int = 0


class Word(NamedTuple):
    """One entry of a guest's table on the path of a walk: its level, where it stands, its value."""

    level: int
    gpa: int
    value: int


class Effect(Flag):
    """What a change of a table word means for an entry that came from the old value."""

    NONE = 0
    """Rights grew, A or D was set, A was cleared, ignored bits: no invalidation is owed (SDM 3A
    4.10.4.3)."""
    REMAPPED = 1
    """Another frame, another table, or another page size."""
    NARROWED = 2
    """Not present, or a right less."""
    CLEANED = 4
    """D is clear and the entry believes that it is set."""


def effect_of(
    context: Context, word: Word, now: int, *, is_leaf: bool, dirty: bool, width: int
) -> Effect:
    """Return what it means for an entry that ``word`` holds ``now`` instead of ``word.value``.

    ``is_leaf``: the word maps the page; ``dirty``: the entry was filled by, or since used for, a
    store; ``width`` is the size of a table word in bytes, 4 or 8.
    """
    old = word.value
    if not now & PT_PRESENT:
        return Effect.NARROWED
    effect = Effect.NONE
    if word.level > 1 and (old ^ now) & PT_PAGE_SIZE and not _is_register(context, word):
        effect |= Effect.REMAPPED
    frame_mask = context.frame_mask if width == 8 else 0xFFFF_F000
    if (old ^ now) & frame_mask:
        effect |= Effect.REMAPPED
    lost = old & ~now
    if lost & (PT_WRITABLE | PT_USER) and not _is_register(context, word):
        effect |= Effect.NARROWED
    if width == 8 and context.nxe and now & ~old & PT_NX:
        effect |= Effect.NARROWED
    if now & ~old & PT_USER and (context.smep or context.smap):
        effect |= Effect.NARROWED  # a supervisor page that becomes a user page: SMEP and SMAP
    if is_leaf and context.pke and (old ^ now) & PT_PKEY:
        effect |= Effect.NARROWED
    if is_leaf and dirty and not now & PT_DIRTY:
        effect |= Effect.CLEANED
    return effect


def _is_register(context: Context, word: Word) -> bool:
    """A PDPTE of PAE paging has neither rights nor a page size."""
    return context.entry_bytes == 8 and len(context.plan) == 2 and word.level == 3


@dataclass(slots=True)
class Change:
    """A write to a table word that left entries pending. ``ranges`` are the (shift, address bits)
    that the word stood for in any entry: one, or two where a self map shows the table."""

    gpa: int
    level: int
    old: int
    new: int
    site: Site
    sequence: int
    source: str
    effect: Effect
    ranges: set[tuple[int, int]] = field(default_factory=set)
    returned: bool = False
    """Whether the writer has been in CPL 3, or halted, since."""

    def covers(self, gva: int) -> bool:
        """Return whether an INVLPG of ``gva`` is in the range of the word."""
        return any(gva >> shift == bits for shift, bits in self.ranges)


class Flush(NamedTuple):
    """One invalidation: ``what`` is "INVLPG", "CR3 reload", "CR3 load" or "full flush". For an
    INVLPG, ``operand`` is the word of memory at ``gva``, or None: a kernel that passed the address
    of a variable in place of its value is told so."""

    sequence: int
    what: str
    gva: int
    site: Site
    operand: int | None = None


class Entry:
    """One entry of a vCPU's TLB (``is_leaf``) or of its paging-structure caches.

    It covers the addresses whose bits above ``shift`` are ``bits``. ``frame`` is the gfn of the
    page's first 4 KiB, or of the table that a structure entry points to; ``rights`` a union of
    ``ACC_*`` over the path; ``words`` the path from the root down.
    """

    __slots__ = (
        "bits",
        "changes",
        "cpu",
        "dirty",
        "dropped",
        "filled",
        "frame",
        "generation",
        "is_global",
        "is_leaf",
        "is_memory",
        "new_use",
        "pkey",
        "reported",
        "rights",
        "shift",
        "width",
        "words",
    )

    def __init__(self, cpu: int, shift: int, gva: int, words: tuple[Word, ...], width: int) -> None:
        self.cpu = cpu
        self.shift = shift
        self.bits = gva >> shift
        self.words = words
        self.width = width
        self.frame = 0
        self.rights = ACC_ALL
        self.dirty = False
        self.is_global = False
        self.is_leaf = True
        self.is_memory = False  # RAM or ROM, all of it
        self.pkey = 0
        self.generation = 0
        self.dropped = False
        self.reported = False
        self.filled = Site(cpu)
        self.changes: list[Change] = []
        self.new_use: tuple[str, Site] | None = None
        """Since it is pending: what its frame was used for anew, and where."""

    @property
    def start(self) -> int:
        """The first address it covers."""
        return self.bits << self.shift

    def frame_of(self, gva: int) -> int:
        """Return the gfn of the 4 KiB page of ``gva`` under this translation."""
        return self.frame + (gva >> PAGE_SHIFT & (1 << self.shift - PAGE_SHIFT) - 1)

    def covers(self, gva: int) -> bool:
        """Return whether ``gva`` is in its range."""
        return gva >> self.shift == self.bits

    def __repr__(self) -> str:
        what = "TLB" if self.is_leaf else "structure"
        return f"<{what} entry of cpu{self.cpu}: {self.start:#x}/{self.shift} -> {self.frame:#x}>"


class TableFrame:
    """A frame that live entries came from: its words with the entries made of each, and the
    structure entries that point to it."""

    __slots__ = ("limits", "pointers", "words", "written")

    def __init__(self) -> None:
        self.words: dict[int, list[Entry]] = {}
        self.limits: dict[int, int] = {}  # how many a list may have before it is pruned
        self.pointers: list[Entry] = []
        self.written: dict[int, tuple[int, Site]] = {}
        """gpa of a word -> sequence and site of its last write."""


class VcpuCaches:
    """What one vCPU may hold."""

    __slots__ = (
        "generation",
        "global_generation",
        "globals",
        "hot",
        "index",
        "pages",
        "pending",
        "silent",
        "structures",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.generation = 1
        self.global_generation = 1
        self.pages: dict[tuple[int, int], Entry] = {}
        self.globals: dict[tuple[int, int], Entry] = {}
        self.structures: dict[tuple[int, int], Entry] = {}
        self.pending: list[Entry] = []
        self.hot: dict[int, Entry] = {}
        """Page number -> an entry that serves it and is not pending: what `find` would find."""
        self.silent = False
        """Whether the engine was granted a page for which a pending entry is not yet judged."""

    def is_alive(self, entry: Entry) -> bool:
        """Return whether nothing has removed the entry yet."""
        if entry.dropped:
            return False
        if entry.is_global:
            return entry.generation == self.global_generation
        return entry.generation == self.generation

    def add(self, entry: Entry) -> None:
        """Hold an entry from now on."""
        key = entry.shift, entry.bits
        if not entry.is_leaf:
            entry.generation = self.generation
            self.structures[key] = entry
        elif entry.is_global:
            entry.generation = self.global_generation
            self.globals[key] = entry
        else:
            entry.generation = self.generation
            self.pages[key] = entry

    def find(self, gva: int) -> Entry | None:
        """Return a translation for ``gva`` that is not pending; the smallest page first."""
        for shift in PAGE_SHIFTS:
            key = shift, gva >> shift
            entry = self.pages.get(key) or self.globals.get(key)
            if entry is not None and not entry.changes:
                return entry
        return None

    def drop_page(self, gva: int) -> None:
        """INVLPG: every translation of ``gva``, global or not, and all structure entries (SDM 3A
        4.10.4.1)."""
        self.hot.clear()
        self._drop(gva, self.pages, PAGE_SHIFTS)
        self._drop(gva, self.globals, PAGE_SHIFTS)
        for entry in self.structures.values():
            entry.dropped = True
        self.structures.clear()
        self._prune()

    def drop_address(self, gva: int) -> None:
        """A page fault: the translations and structure entries of its address (4.10.4.1)."""
        self.hot.clear()
        self._drop(gva, self.pages, PAGE_SHIFTS)
        self._drop(gva, self.globals, PAGE_SHIFTS)
        self._drop(gva, self.structures, STRUCTURE_SHIFTS)
        self._prune()

    @staticmethod
    def _drop(gva: int, table: dict[tuple[int, int], Entry], shifts: tuple[int, ...]) -> None:
        for shift in shifts if table else ():
            entry = table.pop((shift, gva >> shift), None)
            if entry is not None:
                entry.dropped = True

    def drop_all(self, *, and_global: bool) -> None:
        """A CR3 load, or with ``and_global`` a change of CR0.PG, CR4.PGE, PAE or PSE."""
        self.hot.clear()
        self.generation += 1
        self.pages.clear()
        self.structures.clear()
        if and_global:
            self.global_generation += 1
            self.globals.clear()
        self._prune()

    def _prune(self) -> None:
        if self.pending:
            self.pending = [entry for entry in self.pending if self.is_alive(entry)]


def global_bit(value: int, context: Context) -> bool:
    """Return whether a mapping entry is global: its G bit, under CR4.PGE."""
    return bool(value & PT_GLOBAL) and bool(context.regs.cr4 & 1 << 7)


def rights_letters(rights: int) -> str:
    """Return rights as a finding shows them: ``rwx``, with a ``u`` before them for user pages."""
    return (
        ("u" if rights & PT_USER else "")
        + "r"
        + ("w" if rights & PT_WRITABLE else "-")
        + ("x" if rights & ACC_EXEC else "-")
    )
