# SPDX-License-Identifier: GPL-2.0-or-later
"""Leaf tables out of sync: the guest writes them freely, and their entries are compared when used.

Trapping every store is dear when a guest edits many entries of one table. So a *leaf* table may
be let go out of sync: it is writable, and for each of its words we remember what the sptes behind
it came from. A TLB miss that finds such an spte compares the word with what stands there now; a
stale one is made anew. So nobody need tell us when the guest invalidates: its INVLPG or CR3 load
empties the TLB, and the misses that follow look for themselves. (KVM, which does not see the
misses, brings tables back in sync at CR3 loads and INVLPG.) Upper tables always stay protected: to
look at one more guest word for each level would be a walk of the guest's tables.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..arch import PAGE_SIZE
from .role import gpte_of_spte

if TYPE_CHECKING:
    from .cache import ShadowCache
    from .pool import ShadowPage

_LINE = 64  # tables are compared by so many bytes at a time


class UnsyncTables:
    """The tables of one cache that are out of sync, in ``came_from``: from gfn to what, for each
    64-bit word of the table, the sptes behind it came from."""

    def __init__(self, cache: ShadowCache) -> None:
        self._cache = cache
        self.copies: dict[int, array[int]] = {}

    def try_unsync(self, gfn: int) -> bool:
        """Let a table go out of sync, so that the store which is at hand need not be trapped.

        Returns False if the frame must stay protected: an upper level of tables stands on it.
        """
        cache = self._cache
        if not cache.policy.unsync:
            return False
        table = cache.memory.table64(gfn)
        if table is None or any(page.level > 1 for page in cache.tables[gfn]):
            return False
        self.copies[gfn] = array("Q", table)
        cache.version += 1
        cache.set_frame_state(gfn, False)
        cache.publish_table(gfn)
        cache.counters.mmu_unsync += 1
        for observer in cache.observers:
            observer.unsync_page(gfn)
        return True

    def sync(self, gfn: int) -> None:
        """Bring a table back in sync: zap what followed from changed entries, protect it again."""
        cache = self._cache
        before = self.copies.pop(gfn).tobytes()
        cache.set_frame_state(gfn, True)
        cache.publish_table(gfn)
        for observer in cache.observers:
            observer.sync_page(gfn)
        table = cache.memory.table64(gfn)
        now = table.tobytes() if table is not None else b"\xff" * PAGE_SIZE
        held = False
        if before != now:
            for offset in _changed_words(before, now):
                for page in cache.tables[gfn]:
                    held |= cache.zap_bytes(page, offset, 8)
        if held:
            cache.tlb.flush_all()
        cache.write_protect(gfn)

    def is_stale(self, place: int) -> bool:
        """Return whether the guest's entry behind a leaf has changed unseen. The leaf then says
        nothing, and the next fault sets it anew."""
        page = self._cache.pool.page_at(place)
        if page is None or page.copy is None:
            return False
        word = _word_behind(page, place)
        return page.table64[word] != page.copy[word]

    def renew_copy(self, page: ShadowPage, place: int) -> None:
        """Note what word a leaf of a table out of sync is set from.

        Only one word is remembered for all pages of the table, so if it has changed, the other
        sptes that came from it are zapped; they are stale, and nobody may count on stale entries.
        """
        copy, table = page.copy, page.table64
        assert copy is not None
        if page.alone and page.table is table:  # one word, one entry
            copy[place & 511] = table[place & 511]
            return
        word = _word_behind(page, place)
        now = table[word]
        if now != copy[word]:
            copy[word] = now
            cache = self._cache
            for sibling in cache.tables[page.gfn]:
                cache.zap_bytes(sibling, 8 * word, 8, but=place)


def _word_behind(page: ShadowPage, place: int) -> int:
    """Return which 64-bit word of its table a leaf of a page comes from."""
    index = place & 511
    if page.glevels == 2:
        return gpte_of_spte(index, 1, page.quadrant) >> 1
    return index


def _changed_words(before: bytes, now: bytes) -> Iterable[int]:
    """Yield the offsets of the 8-byte words that differ between two pages."""
    for line in range(0, PAGE_SIZE, _LINE):
        if before[line : line + _LINE] != now[line : line + _LINE]:
            for offset in range(line, line + _LINE, 8):
                if before[offset : offset + 8] != now[offset : offset + 8]:
                    yield offset
