# SPDX-License-Identifier: GPL-2.0-or-later
"""Shadow pages and the bounded pool that they come from.

All tables stand in one host buffer of 64-bit words, 512 a table, so that a compiled walker can
follow them as hardware follows the tables that KVM writes. A *place* is the index of a word in
that buffer: table ``n`` owns the places ``512 * n`` to ``512 * n + 511``. An entry (spte)::

    63  62..59  51..12               11   10    9     7   2  1  0
    NX  pkey    frame, or for an     -    trap  trap  PS  U  W  P
                upper entry the           write
                table number

U, W, P, PS and NX (and pkey) mean what they mean to hardware with CR0.WP = 1 and EFER.NXE = 1;
an entry with PS stands at level 2 and maps 2 MiB.

trap        the frame is no RAM: a device, or nothing. Every access goes to the host.
trap write  the guest may write here, but the frame holds a guest page table (or is ROM): reads go
            straight, writes go to the host.
Beside the words there is a byte for every place, its *epoch*: when a TLB was last answered from the
entry there (see mmu.tlb), 0 for never. It is no part of the entry, since it is noted at every miss,
and a byte is written in less time than a bit field of a 64-bit word.

Besides its words every table has a *record* of four words, which tell compiled code what the table
stands for (see fast/record.py).

The first ``cpus`` tables are the vCPUs' *root tables* for guests with 32-bit addresses (KVM's
``pae_root``): four upper entries, one for each gigabyte. They are no shadow pages: they stand
outside the bound, and the directories under them are ordinary pages. Guests with more levels run on
a shadow page as root, which is *pinned* as long as a vCPU does.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterator
from itertools import chain

from ..api import PoolError
from ..arch import PAGE_SHIFT
from ..hostmemory import address_of
from ..memory import Memory
from .fast import record
from .role import access_of, describe_role, glevels_of, is_direct, level_of, pkey_of, quadrant_in

SPTE_PRESENT = 1 << 0
SPTE_WRITABLE = 1 << 1
SPTE_USER = 1 << 2
SPTE_LARGE = 1 << 7
SPTE_TRAP = 1 << 9
SPTE_TRAP_WRITE = 1 << 10
SPTE_PKEY_SHIFT = 59
SPTE_NX = 1 << 63
SPTE_FRAME = (1 << 52) - (1 << 12)
SPTE_UPPER = SPTE_PRESENT | SPTE_WRITABLE | SPTE_USER
"""What an entry above the leaves carries: all rights, as the page below has them in its role."""

TABLE_SHIFT = 9
TABLE_ENTRIES = 1 << TABLE_SHIFT
_EMPTY = memoryview(bytes(TABLE_ENTRIES * 8)).cast("Q")
_RECORD_WORDS = record.RECORD_BYTES // 8
_ABOUT, _TABLE, _COPY, _WRITES = (
    offset // 8 for offset in (record.ABOUT, record.TABLE, record.COPY, record.WRITES)
)
_NO_RECORD = memoryview(bytes(record.RECORD_BYTES)).cast("Q")
_NO_EPOCHS = bytes(TABLE_ENTRIES)
_STRETCH = 64
_EMPTY_STRETCH = bytes(_STRETCH * 8)
_NO_TABLE = memoryview(b"")


class ShadowPage:
    """A shadow page: 512 entries from place ``base``, standing for (``gfn``, ``role``).

    ``parents`` are the places of the upper entries that lead here; ``pins`` counts the vCPUs that
    run on this page as root; ``writes`` counts guest writes to its table since it was last used.
    An ``obsolete`` page, of an earlier ``generation`` than the pool's, is out of every look-up and
    only waits to be taken apart.

    A leaf page holds the guest's table that it stands for, so that a fault looks nothing up:
    ``table`` are the entries (None if there is no table, or it lies in no memory), ``table64`` the
    same bytes as 64-bit words. ``copy`` is None while the table is in sync, else the words that the
    page's entries were made from (see unsync.py). The entry for an address was made from word
    ``gva >> word_shift & 511``. ``alone``: no other page stands for the same frame. The page's
    record repeats these for compiled code; :meth:`publish` sets both.
    """

    __slots__ = (
        "_pool",
        "_record",
        "_records",
        "access",
        "alone",
        "base",
        "copy",
        "direct",
        "generation",
        "gfn",
        "glevels",
        "level",
        "parents",
        "pins",
        "pkey",
        "quadrant",
        "role",
        "table",
        "table64",
        "word_shift",
    )

    def __init__(self, gfn: int, role: int, base: int, pool: Pool) -> None:
        self.gfn = gfn
        self._pool = pool
        self._records = pool.records
        self._record = (base >> TABLE_SHIFT) * _RECORD_WORDS  # where the page's record starts
        self.generation = pool.generation
        self.role = role
        self.base = base
        self.level = level_of(role)
        self.glevels = glevels_of(role)
        self.quadrant = quadrant_in(role)
        self.direct = is_direct(role)
        self.access = access_of(role)
        self.pkey = pkey_of(role)
        self.table: memoryview | None = None
        self.table64 = _NO_TABLE
        self.copy: array[int] | None = None
        self.word_shift = 13 if self.glevels == 2 else 12
        self.alone = False
        self.parents: set[int] = set()
        self.pins = 0

    @property
    def obsolete(self) -> bool:
        """Whether everything was zapped since the page was made."""
        return self.generation != self._pool.generation

    @property
    def writes(self) -> int:
        """How often the guest's table was written since the page was last used."""
        return self._records[self._record + _WRITES]

    @writes.setter
    def writes(self, count: int) -> None:
        self._records[self._record + _WRITES] = count

    def publish(self, memory: Memory, copy: array[int] | None, alone: bool) -> None:
        """Set what the page, and compiled code, know of the guest's table; for a leaf page, after
        any change of that."""
        table64 = memory.table64(self.gfn)
        if table64 is not None:
            self.table64 = table64
            self.table = memory.table32(self.gfn) if self.glevels == 2 else table64
        self.copy = copy
        self.alone = alone
        host = memory.host_address(self.gfn << PAGE_SHIFT)
        if not host:
            return
        about = self.gfn << PAGE_SHIFT | record.ABOUT_IS_TABLE
        about |= self.access << record.ABOUT_ACCESS_SHIFT
        if self.glevels != 2:
            about |= record.ABOUT_WIDE
        if self.glevels >= 4:
            about |= record.ABOUT_HAS_PKEY
        if alone:
            about |= record.ABOUT_ALONE
        records, first = self._records, self._record
        records[first + _ABOUT] = about
        records[first + _TABLE] = host
        records[first + _COPY] = copy.buffer_info()[0] if copy is not None else 0

    def unpublish(self) -> None:
        """Hide the guest's table from compiled code."""
        self._records[self._record + _ABOUT] = 0

    @property
    def places(self) -> range:
        """The places of this page's entries."""
        return range(self.base, self.base + TABLE_ENTRIES)

    def __repr__(self) -> str:
        return f"<shadow page {describe_role(self.gfn, self.role)}>"


class Pool:
    """At most ``bound`` shadow pages, in the order of their last use, beside ``cpus`` root tables.

    Raises:
        PoolError: ``bound`` is less than one full path and the other vCPUs' roots need.
    """

    def __init__(self, bound: int, cpus: int, most_levels: int) -> None:
        least = most_levels + cpus - 1
        if bound < least:
            raise PoolError(
                f"{bound} shadow pages are too few: {cpus} vCPU(s) with up to {most_levels} "
                f"levels need {least}"
            )
        self.bound = bound
        self.cpus = cpus
        # Committed lazily by the host, so a large bound costs nothing until it is used.
        self._buffer = mmap.mmap(-1, (cpus + bound) * TABLE_ENTRIES * 8)
        self.words = memoryview(self._buffer).cast("Q")
        self.address = address_of(self._buffer)
        epochs = mmap.mmap(-1, (cpus + bound) * TABLE_ENTRIES)
        self.epochs = memoryview(epochs)
        self.epochs_address = address_of(epochs)
        records = mmap.mmap(-1, (cpus + bound) * record.RECORD_BYTES)
        self.records = memoryview(records).cast("Q")
        self.records_address = address_of(records)
        self._fresh = cpus  # the first table never used so far
        self._free: list[int] = []
        self.generation = 0
        self._by_use: dict[ShadowPage, None] = {}
        self._obsolete: dict[ShadowPage, None] = {}
        self._by_table: dict[int, ShadowPage] = {}

    def __len__(self) -> int:
        return len(self._by_table)

    def __iter__(self) -> Iterator[ShadowPage]:
        """Yield the pages, obsolete ones and then the longest unused first."""
        return chain(self._obsolete, self._by_use)

    @property
    def room(self) -> int:
        """How many pages can be taken before one must be recycled."""
        return self.bound - len(self._by_table)

    def root_table(self, cpu: int) -> int:
        """Return the first place of a vCPU's root table."""
        return cpu << TABLE_SHIFT

    def is_root_place(self, place: int) -> bool:
        """Return whether a place lies in a vCPU's root table."""
        return place >> TABLE_SHIFT < self.cpus

    def entries(self, page: ShadowPage) -> list[tuple[int, int]]:
        """Return (place, spte) for the entries of a page that are not empty. Mostly few are, so
        empty stretches cost next to nothing."""
        found = []
        words = self.words
        for first in range(page.base, page.base + TABLE_ENTRIES, _STRETCH):
            stretch = words[first : first + _STRETCH]
            if stretch.tobytes() != _EMPTY_STRETCH:
                found += [(place, spte) for place, spte in enumerate(stretch, first) if spte]
        return found

    def take(self, gfn: int, role: int) -> ShadowPage:
        """Return a new page with all entries empty; there must be room."""
        if self._free:
            table = self._free.pop()
            base = table << TABLE_SHIFT
            self.words[base : base + TABLE_ENTRIES] = _EMPTY
            self.epochs[base : base + TABLE_ENTRIES] = _NO_EPOCHS
        else:
            table = self._fresh
            self._fresh += 1
            base = table << TABLE_SHIFT
        self.records[table * _RECORD_WORDS : (table + 1) * _RECORD_WORDS] = _NO_RECORD
        page = ShadowPage(gfn, role, base, self)
        self._by_use[page] = None
        self._by_table[table] = page
        return page

    def give_back(self, page: ShadowPage) -> None:
        """Take a page that nothing leads to any more out of the pool."""
        del (self._obsolete if page in self._obsolete else self._by_use)[page]
        table = page.base >> TABLE_SHIFT
        del self._by_table[table]
        page.unpublish()
        self._free.append(table)

    def begin_generation(self) -> list[ShadowPage]:
        """Make every page obsolete; return those that were not. No page is looked at."""
        self.generation += 1
        pages = self._by_use
        self._obsolete |= pages
        self._by_use = {}
        return list(pages)

    def touch(self, page: ShadowPage) -> None:
        """Note a use. Two dict operations."""
        del self._by_use[page]
        self._by_use[page] = None

    def page_of(self, spte: int) -> ShadowPage:
        """Return the page that a present upper entry leads to."""
        return self._by_table[(spte & SPTE_FRAME) >> 12]

    def page_at(self, place: int) -> ShadowPage | None:
        """Return the page that owns a place; None for a root table or a free table."""
        return self._by_table.get(place >> TABLE_SHIFT)

    def oldest_unpinned(self) -> ShadowPage:
        """Return the longest unused page that is no vCPU's root."""
        for page in self._by_use:
            if not page.pins:
                return page
        raise PoolError("every shadow page is a root in use")  # excluded by the least bound


def upper_spte(page: ShadowPage) -> int:
    """Return an upper entry that leads to ``page``."""
    return SPTE_UPPER | (page.base >> TABLE_SHIFT) << 12
