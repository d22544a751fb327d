# SPDX-License-Identifier: GPL-2.0-or-later
"""The page-table linter: what no processor refuses and no kernel means.

:func:`lint` looks at one address space, every leaf and every table of it, and yields a
:class:`Remark` for each rule that it breaks; neighbouring pages that break one rule in the same way
make one remark. It only reads. What it looks at are the guest's tables alone, so it works under
every plug-in, and on a stopped machine at any position.

>>> from mmu.api import PagingRegisters
>>> from mmu.arch import Features
>>> memory = Memory()
>>> _ = memory.add_ram(0, 0x10000)
>>> memory.write(0x1000, 4, 0x2007, "example")  # a 32-bit directory and its table
>>> memory.write(0x2004, 4, 0x2007, "example")  # a page: the table itself, for user mode
>>> context = Context(Features())
>>> _ = context.load(memory, PagingRegisters(0x8001_0001, 0x1000, 0, 0))
>>> for remark in lint(memory, context, off=("smep-off", "smap-off")):
...     print(remark)
error table-user: 0x1000-0x1fff urwx maps the page table in frame 0x2 for user mode
warning wx: 0x1000-0x1fff urwx is writable and executable
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum

from .arch import (
    ACC_EXEC,
    ACC_USER,
    ACC_WRITE,
    CR0_WP,
    CR4_SMAP,
    CR4_SMEP,
    PAGE_SHIFT,
    PAGE_SIZE,
    PT_DIRTY,
    PT_PAGE_SIZE,
    PT_PCD,
    PT_PRESENT,
    PT_PWT,
    Levels,
)
from .memory import Memory
from .ranges import MOST_TABLES, Mapping, TooManyTables, mappings, rights_letters
from .walker import Context

__all__ = ["RULES", "Place", "Remark", "Rule", "Severity", "lint"]


class Severity(Enum):
    """How sure it is that the kernel did not mean it."""

    ERROR = "error"
    """Whatever the kernel wants, this is not it: user mode can take the machine over."""
    WARNING = "warning"
    """Legal, and nearly always a mistake."""
    NOTE = "note"
    """Worth knowing."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A name for ``--lint-off``, how bad it is, and what it means."""

    name: str
    severity: Severity
    meaning: str


RULES = {
    rule.name: rule
    for rule in (
        Rule("table-user", Severity.ERROR, "a page table is mapped for user mode"),
        Rule("kernel-user", Severity.ERROR, "a table of the processor's (GDT, IDT, LDT, TSS) or "
             "the kernel's own code can be reached from user mode"),
        Rule("wx", Severity.WARNING, "a page is writable and executable"),
        Rule("w-x-alias", Severity.WARNING, "a frame is writable here and executable there"),
        Rule("wp-off", Severity.WARNING, "CR0.WP is clear: the kernel writes read-only pages"),
        Rule("nx-off", Severity.WARNING, "the processor offers NX and EFER.NXE is clear"),
        Rule("smep-off", Severity.NOTE, "the processor offers SMEP and CR4.SMEP is clear"),
        Rule("smap-off", Severity.NOTE, "the processor offers SMAP and CR4.SMAP is clear"),
        Rule("zero-page", Severity.WARNING, "address 0 is mapped: null pointers do not fault"),
        Rule("global-user", Severity.WARNING, "a user page is global: it outlives its process in "
             "the TLB"),
        Rule("reserved-bits", Severity.WARNING, "a present entry has reserved bits set: any use "
             "of it faults"),
        Rule("beyond-ram", Severity.WARNING, "a page lies where there is neither memory nor a "
             "device"),
        Rule("large-over-hole", Severity.WARNING, "a large page covers memory and something else"),
        Rule("mixed-types", Severity.WARNING, "one frame is mapped with several cache types"),
        Rule("self-map", Severity.NOTE, "a table contains itself"),
        Rule("table-writable", Severity.NOTE, "a page table is mapped writable at another place "
             "than a self map's"),
        Rule("table-shared", Severity.NOTE, "a table is reached from two entries"),
        Rule("dirty-unused", Severity.NOTE, "an entry has D set and A clear: no access did that"),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Remark:
    """One rule broken by the pages from ``first`` to ``last``; ``entry_gpa`` is where the first of
    their entries stands, 0 for a remark on the whole address space. ``detail`` says how."""

    rule: Rule
    first: int
    last: int
    detail: str
    entry_gpa: int = 0
    frame: int = 0

    def __str__(self) -> str:
        return f"{self.rule.severity.value} {self.rule.name}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Place:
    """A range of linear addresses of the kernel's own: "the GDT" from ``first`` to ``last``."""

    name: str
    first: int
    last: int


def lint(
    memory: Memory,
    context: Context,
    *,
    places: Iterable[Place] = (),
    off: Iterable[str] = (),
    most_tables: int = MOST_TABLES,
) -> Iterator[Remark]:
    """Yield what is wrong with the address space of ``context``, the worst first.

    ``places`` are the kernel's own structures that user mode must not reach; ``off`` are names of
    rules to leave out. Tables and pages of a space that is larger than ``most_tables`` are looked
    at up to there. 2 us a leaf entry.

    Raises:
        ValueError: ``off`` names no rule.
    """
    off = frozenset(off)
    unknown = sorted(off - set(RULES))
    if unknown:
        raise ValueError(f"no lint rule is called {unknown[0]!r} (one of {', '.join(RULES)})")
    if context.levels is Levels.NONE:
        return
    space = _Space(memory, context, most_tables)
    order = list(Severity)
    found = [remark for remark in _all(space, tuple(places)) if remark.rule.name not in off]
    found.sort(key=lambda remark: order.index(remark.rule.severity))
    yield from found


@dataclass(slots=True)
class _Table:
    """A page table: where it is reached from, and at which levels."""

    parents: set[int] = field(default_factory=set)
    is_self_map: bool = False


class _Space:
    """One address space: its pages, and the tables on the way to them."""

    def __init__(self, memory: Memory, context: Context, most_tables: int) -> None:
        self.memory = memory
        self.context = context
        self.tables: dict[int, _Table] = {}
        self.bad: list[tuple[int, int]] = []  # entries with reserved bits: (gpa, entry)
        self.pages: list[Mapping] = []
        self._most_tables = most_tables
        self._read_tables()
        with suppress(TooManyTables):  # what was read is looked at
            self.pages.extend(mappings(memory, context, most_tables=most_tables))

    def is_nothing(self, page: Mapping) -> bool:
        """Return whether a page is all hole."""
        last = page.gpa + page.size - 1
        return self.memory.slot_at(page.gpa) is None and self.memory.slot_at(last) is None

    def is_mixed(self, page: Mapping) -> bool:
        """Return whether a large page covers more than one slot, or a part of one."""
        if page.page == PAGE_SIZE or self.is_nothing(page):
            return False
        slot = self.memory.slot_at(page.gpa)
        return slot is None or page.gpa + page.size > slot.end

    def _read_tables(self) -> None:
        context = self.context
        if context.levels is Levels.PAE:
            roots = [p & context.frame_mask for p in context.pdptes if p & PT_PRESENT]
        else:
            roots = [context.root_gpa]
        waiting = [(0, root >> PAGE_SHIFT, 0) for root in roots]
        seen: set[tuple[int, int]] = set()
        while waiting and len(seen) < self._most_tables:
            depth, gfn, parent = waiting.pop()
            table = self.tables.setdefault(gfn, _Table())
            if parent:
                table.parents.add(parent)
                table.is_self_map |= parent >> PAGE_SHIFT == gfn
            if (depth, gfn) in seen or depth >= len(context.plan):
                continue
            seen.add((depth, gfn))
            waiting.extend(self._children(depth, gfn))

    def _children(self, depth: int, gfn: int) -> Iterator[tuple[int, int, int]]:
        """Yield the tables that one points to; note its entries with reserved bits."""
        context = self.context
        level, _, index_mask, reserved, reserved_large, may_be_large = context.plan[depth]
        width = context.entry_bytes
        words = (self.memory.table32 if width == 4 else self.memory.table64)(gfn)
        for index, entry in enumerate(words[: index_mask + 1] if words is not None else ()):
            if not entry & PT_PRESENT:
                continue
            gpa = (gfn << PAGE_SHIFT) + index * width
            large = may_be_large and entry & PT_PAGE_SIZE
            if entry & (reserved_large if large else reserved):
                self.bad.append((gpa, entry))
            elif level > 1 and not large:
                yield depth + 1, (entry & context.frame_mask) >> PAGE_SHIFT, gpa


def _all(space: _Space, places: tuple[Place, ...]) -> Iterator[Remark]:
    yield from _of_registers(space.context)
    yield from _of_tables(space)
    for name, breaks, detail in (
        ("wx", _is_wx, "is writable and executable"),
        ("global-user", _is_global_user, "is a global page of user mode"),
        ("dirty-unused", _is_dirty_unused, "has D set and A clear"),
        ("beyond-ram", space.is_nothing, "is where neither memory nor a device is"),
        ("large-over-hole", space.is_mixed, "is one large page over memory and something else"),
    ):
        yield from _of_pages(space.pages, name, breaks, detail)
    yield from _of_frames(space)
    yield from _of_places(space.pages, places)
    if space.pages and space.pages[0].gva == 0:
        first = space.pages[0]
        yield _remark("zero-page", first, f"{_text(first)} is address 0")


def _of_registers(context: Context) -> Iterator[Remark]:
    regs = context.regs
    for name, missing, detail in (
        ("wp-off", not regs.cr0 & CR0_WP, "CR0.WP is clear"),
        ("nx-off", context.features.nx and context.levels >= Levels.PAE and not context.nxe,
         "EFER.NXE is clear"),
        ("smep-off", not regs.cr4 & CR4_SMEP, "CR4.SMEP is clear"),
        ("smap-off", not regs.cr4 & CR4_SMAP, "CR4.SMAP is clear"),
    ):  # fmt: skip
        if missing:
            yield Remark(RULES[name], 0, 0, detail)


def _of_tables(space: _Space) -> Iterator[Remark]:
    for gpa, entry in space.bad:
        detail = f"the entry {entry:#x} at {gpa:#x} has reserved bits set"
        yield Remark(RULES["reserved-bits"], 0, 0, detail, gpa)
    for gfn, table in sorted(space.tables.items()):
        if table.is_self_map:
            detail = f"the table in frame {gfn:#x} contains itself"
            yield Remark(RULES["self-map"], 0, 0, detail, gfn << PAGE_SHIFT, gfn)
        others = sorted(parent for parent in table.parents if parent >> PAGE_SHIFT != gfn)
        if len(others) > 1:
            where = ", ".join(f"{parent:#x}" for parent in others[:4])
            detail = f"the table in frame {gfn:#x} is reached from {len(others)} entries: {where}"
            yield Remark(RULES["table-shared"], 0, 0, detail, others[0], gfn)


def _of_pages(
    pages: list[Mapping], name: str, breaks: Callable[[Mapping], bool], detail: str
) -> Iterator[Remark]:
    """Yield a remark for each run of neighbouring pages that break a rule with equal rights."""
    held: Mapping | None = None
    last = 0
    for page in pages:
        if not breaks(page):
            continue
        if held is not None and page.gva == last + 1 and page.rights == held.rights:
            last = page.last
            continue
        if held is not None:
            yield _remark(name, held, f"{_text(held, last)} {detail}", last)
        held, last = page, page.last
    if held is not None:
        yield _remark(name, held, f"{_text(held, last)} {detail}", last)


def _is_wx(page: Mapping) -> bool:
    return page.rights & (ACC_WRITE | ACC_EXEC) == ACC_WRITE | ACC_EXEC


def _is_global_user(page: Mapping) -> bool:
    return page.is_global and bool(page.rights & ACC_USER)


def _is_dirty_unused(page: Mapping) -> bool:
    return page.entry & (PT_DIRTY | 1 << 5) == PT_DIRTY


def _of_frames(space: _Space) -> Iterator[Remark]:
    """Look at each page with the frames behind it: tables, holes, aliases."""
    writable: dict[int, Mapping] = {}
    executable: dict[int, Mapping] = {}
    types: dict[int, Mapping] = {}
    told: set[int] = set()
    for page in space.pages:
        frame = page.gpa >> PAGE_SHIFT
        tables = _tables_in(space, page)
        if tables:
            yield from _of_mapped_tables(space, page, tables)
        if page.page != PAGE_SIZE:
            continue  # aliases are looked for among small pages: large ones are direct maps
        if page.rights & ACC_WRITE:
            writable.setdefault(frame, page)
        if page.rights & ACC_EXEC:
            executable.setdefault(frame, page)
        known = types.setdefault(frame, page)
        if (known.entry ^ page.entry) & (PT_PCD | PT_PWT) and frame not in told:
            told.add(frame)
            detail = f"frame {frame:#x} is cached otherwise at {known.gva:#x} and {page.gva:#x}"
            yield _remark("mixed-types", page, detail, frame=frame)
    for frame in sorted(writable.keys() & executable.keys()):
        here, there = writable[frame], executable[frame]
        if here.gva != there.gva:
            detail = f"frame {frame:#x} is writable at {here.gva:#x}, executable at {there.gva:#x}"
            yield _remark("w-x-alias", here, detail, frame=frame)


def _of_mapped_tables(space: _Space, page: Mapping, tables: list[int]) -> Iterator[Remark]:
    """Look at a page that shows page tables, for user mode or writable."""
    if page.rights & ACC_USER:
        name, how = "table-user", "for user mode"
    else:
        tables = [gfn for gfn in tables if not space.tables[gfn].is_self_map]
        if not tables or not page.rights & ACC_WRITE:
            return
        name, how = "table-writable", "writable"
    what = f"the page table in frame {tables[0]:#x}"
    if len(tables) > 1:
        what = f"{len(tables)} page tables, the first in frame {tables[0]:#x},"
    yield _remark(name, page, f"{_text(page)} maps {what} {how}", frame=tables[0])


def _tables_in(space: _Space, page: Mapping) -> list[int]:
    first, last = page.gpa >> PAGE_SHIFT, page.gpa + page.size - 1 >> PAGE_SHIFT
    if last - first < len(space.tables):
        return [gfn for gfn in range(first, last + 1) if gfn in space.tables]
    return sorted(gfn for gfn in space.tables if first <= gfn <= last)


def _of_places(pages: list[Mapping], places: tuple[Place, ...]) -> Iterator[Remark]:
    for place in places:
        for page in pages:
            if page.rights & ACC_USER and page.gva <= place.last and place.first <= page.last:
                yield _remark("kernel-user", page, f"{_text(page)} has {place.name} in user mode")
                break


def _text(page: Mapping, last: int | None = None) -> str:
    end = page.last if last is None else last
    return f"{page.gva:#x}-{end:#x} {rights_letters(page.rights)}"


def _remark(
    name: str, page: Mapping, detail: str, last: int | None = None, frame: int = 0
) -> Remark:
    return Remark(
        RULES[name], page.gva, page.last if last is None else last, detail, page.entry_gpa, frame
    )
