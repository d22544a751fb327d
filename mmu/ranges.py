# SPDX-License-Identifier: GPL-2.0-or-later
"""What an address space maps: the leaf entries of the guest's tables, and ranges of equal ones.

:func:`mappings` goes through the tables of a :class:`~mmu.walker.Context` in any mode, by rising
address, and yields one :class:`Mapping` a leaf entry. :func:`ranges` joins neighbours. Both only
read. The tables are the guest's, so they may be hostile: a table that names itself maps 2 to the
36th pages from 4 KiB of memory. `most_tables` therefore bounds the work; :class:`TooManyTables`
says where it ended.

>>> from mmu.api import PagingRegisters
>>> from mmu.arch import Features
>>> from mmu.memory import Memory
>>> memory = Memory()
>>> _ = memory.add_ram(0, 0x10000)
>>> memory.write(0x1000, 4, 0x2007, "example")  # a 32-bit directory, its table, two pages
>>> memory.write(0x2000, 8, 0x4005_0000_3005, "example")
>>> context = Context(Features())
>>> _ = context.load(memory, PagingRegisters(0x8000_0001, 0x1000, 0, 0))
>>> for found in ranges(mappings(memory, context)):
...     print(found)
0x0-0x1fff -> 0x3000 ur-x, 2 pages of 0x1000
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from .arch import (
    ACC_ALL,
    ACC_EXEC,
    ACC_USER,
    ACC_WRITE,
    PAGE_SHIFT,
    PT_GLOBAL,
    PT_NX,
    PT_PAGE_SIZE,
    PT_PRESENT,
    Levels,
    bits,
)
from .memory import Memory
from .walker import Context

__all__ = ["MOST_TABLES", "Mapping", "TooManyTables", "mappings", "ranges", "rights_letters"]

MOST_TABLES = 1 << 14
"""How many tables are read by default, a table as often as it is reached: about 0.3 s."""


class TooManyTables(Exception):
    """The bound on tables was met; what lies below `gva` is complete."""

    def __init__(self, gva: int) -> None:
        super().__init__(f"too many page tables: nothing is shown from {gva:#x}")
        self.gva = gva


@dataclass(frozen=True, slots=True)
class Mapping:
    """One leaf entry, or several in a row that map on as one.

    `gva` is where it begins (canonical in 4- and 5-level paging), `size` its bytes, `gpa` the
    first physical address. `rights` is a union of `ACC_*` over the path. `level` is that of the
    leaf entry, 1 to 3, and 0 without paging; `page` is the size of a page, `entry` the first leaf
    entry and `entry_gpa` where that is.
    """

    gva: int
    size: int
    gpa: int
    rights: int
    level: int
    page: int
    entry: int
    entry_gpa: int

    @property
    def last(self) -> int:
        """The last address."""
        return self.gva + self.size - 1

    @property
    def is_global(self) -> bool:
        """Whether the first entry is a global page."""
        return bool(self.level and self.entry & PT_GLOBAL)

    def __str__(self) -> str:
        pages = self.size // self.page
        return (
            f"{self.gva:#x}-{self.last:#x} -> {self.gpa:#x} {rights_letters(self.rights)}, "
            f"{pages} page{'s' * (pages != 1)} of {self.page:#x}"
        )


def rights_letters(rights: int) -> str:
    """Return rights as four letters; what is mapped can be read.

    >>> rights_letters(ACC_USER | ACC_WRITE), rights_letters(ACC_EXEC)
    ('urw-', '-r-x')
    """
    return "".join(
        (
            "u" if rights & ACC_USER else "-",
            "r",
            "w" if rights & ACC_WRITE else "-",
            "x" if rights & ACC_EXEC else "-",
        )
    )


def mappings(
    memory: Memory,
    context: Context,
    first: int = 0,
    last: int = (1 << 64) - 1,
    *,
    most_tables: int = MOST_TABLES,
) -> Iterator[Mapping]:
    """Yield what is mapped from address `first` to `last`, by rising address.

    An entry with reserved bits set maps nothing. Rights are those of the entries alone: what WP,
    SMEP, SMAP and protection keys say is not in them. Without paging the RAM and ROM slots are
    yielded, each as one mapping. 25 us a table of 512 entries, 1.5 us a leaf entry.

    Raises TooManyTables behind the last mapping if `most_tables` have been read.
    """
    if context.levels is Levels.NONE:
        yield from _slots(memory, first, last)
        return
    scan = _Scan(memory, context, first, last, most_tables)
    if context.levels is Levels.PAE:
        for index, pdpte in enumerate(context.pdptes):
            if pdpte & PT_PRESENT:
                yield from scan.table(0, pdpte & context.frame_mask, index << 30, ACC_ALL)
    else:
        yield from scan.table(0, context.root_gpa, 0, ACC_ALL)


def _slots(memory: Memory, first: int, last: int) -> Iterator[Mapping]:
    for slot in memory.slots():
        start, end = max(slot.gpa, first & ~0xFFF), min(slot.end, (last | 0xFFF) + 1, 1 << 32)
        if slot.kind != "mmio" and start < end:
            yield Mapping(start, end - start, start, ACC_ALL, 0, 0x1000, 0, 0)


class _Scan:
    """One pass over the tables of an address space."""

    def __init__(
        self, memory: Memory, context: Context, first: int, last: int, most_tables: int
    ) -> None:
        self._table_of = memory.table32 if context.entry_bytes == 4 else memory.table64
        self._context = context
        self._first, self._last = first, last
        self._left = most_tables
        # Where bit 47 or 56 is set, the address is sign-extended (SDM 1 3.3.7.1).
        levels = context.levels
        self._sign = 1 << context.canonical_bits - 1 if levels >= Levels.FOUR else 0

    def table(self, depth: int, table: int, base: int, rights: int) -> Iterator[Mapping]:
        """Yield what one table maps; `depth` is its row in the plan, `base` where it begins."""
        row = self._context.plan[depth]
        width, level, shift = self._context.entry_bytes, row[0], row[1]
        words = self._table_of(table >> PAGE_SHIFT)
        if words is None:
            return  # reads as all ones: reserved bits are set
        self._left -= 1
        span = 1 << shift
        at = (table & 0xFFF) // width
        for index, entry in enumerate(words[at : at + row[2] + 1]):
            if not entry & PT_PRESENT:
                continue
            gva = base | index << shift
            if gva & self._sign:
                gva |= (1 << 64) - 2 * self._sign
            if gva + span <= self._first or gva > self._last:
                continue
            large = row[5] and bool(entry & PT_PAGE_SIZE)
            if entry & (row[4] if large else row[3]):
                continue
            no_execute = width == 8 and entry & PT_NX
            now = rights & (entry & (ACC_WRITE | ACC_USER) | (0 if no_execute else ACC_EXEC))
            if large or level == 1:
                gpa = self._page(entry, shift, large)
                yield Mapping(gva, span, gpa, now, level, span, entry, table + index * width)
            elif self._left <= 0:
                raise TooManyTables(gva)
            else:
                yield from self.table(depth + 1, entry & self._context.frame_mask, gva, now)

    def _page(self, entry: int, shift: int, large: bool) -> int:
        context = self._context
        if context.entry_bytes == 4 and large:
            base = entry & 0xFFC0_0000
            if context.features.pse36:  # SDM 3A table 4-4
                base |= (entry & bits(13, 20)) << 19
            return base & context.frame_mask
        return entry & context.frame_mask & -(1 << shift)


def ranges(found: Iterable[Mapping], *, contiguous: bool = True) -> Iterator[Mapping]:
    """Join neighbours with equal rights; with `contiguous` also in physical memory, and only
    those with pages of one size."""
    held: Mapping | None = None
    for mapping in found:
        if held is not None and _joins(held, mapping, contiguous):
            held = replace(held, size=held.size + mapping.size)
            continue
        if held is not None:
            yield held
        held = mapping
    if held is not None:
        yield held


def _joins(held: Mapping, mapping: Mapping, contiguous: bool) -> bool:
    if mapping.gva != held.gva + held.size or mapping.rights != held.rights:
        return False
    if not contiguous:
        return True
    same = mapping.page == held.page and mapping.is_global == held.is_global
    return same and mapping.gpa == held.gpa + held.size
