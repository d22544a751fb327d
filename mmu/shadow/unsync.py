# SPDX-License-Identifier: GPL-2.0-or-later
"""Leaf tables out of sync: the guest writes them freely, and an entry is compared when it is used.

Trapping every store is dear when a guest edits many entries of one table. So a *leaf* table may go
out of sync: the guest may write it, and a *copy* of the table holds each word as it was when the
sptes that follow from it were made. A TLB miss that finds such an spte compares the guest's word
with the copy, and makes a stale spte anew. INVLPG and CR3 loads therefore need no work: both empty
the TLB, and each later miss revalidates the entry it uses. (KVM does not see the misses. It brings
tables back in sync at CR3 loads and INVLPG.) Upper tables always stay protected: revalidating them
would read one more guest word at each level, which is a walk of the guest's tables.

A word is 64 bits wide whatever the guest's mode. In a 32-bit guest's table it holds two entries::

    guest's table     | entry 6 | entry 7 |        one word, number 3
    its copy          |       word 3      |
    shadow page       spte 6 and spte 7            both were made from word 3

When spte 6 is made anew, word 3 of the copy is renewed, and that would make a stale spte 7 look
fresh. So :meth:`UnsyncTables.renew_copy` zaps spte 7 if the word has changed. The same holds for
every other shadow page of the frame: one copy serves all of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from ..arch import PAGE_SIZE
from .entries import ShadowEntries
from .pool import ShadowPage
from .role import gpte_of_spte

_LINE = 64  # bytes that are compared at a time


class UnsyncTables:
    """The tables out of sync of one machine. ``copies``: from gfn to the copy."""

    def __init__(self, entries: ShadowEntries) -> None:
        self._entries = entries
        self.copies = entries.copies

    def try_unsync(self, gfn: int) -> bool:
        """Let a table go out of sync, so that the store that is about to happen needs no trap.

        Returns False if the frame must stay protected: an upper level of tables stands on it.
        """
        entries = self._entries
        if not entries.policy.unsync:
            return False
        table = entries.memory.table64(gfn)
        if table is None or any(page.level > 1 for page in entries.tables[gfn]):
            return False
        self.copies[gfn] = array("Q", table)
        entries.version += 1
        entries.set_frame_state(gfn, False)
        entries.publish_table(gfn)
        entries.counters.mmu_unsync += 1
        for observer in entries.observers:
            observer.unsync_page(gfn)
        return True

    def sync(self, gfn: int) -> None:
        """Bring a table back in sync: zap what followed from changed entries, protect it again."""
        entries = self._entries
        before = self.copies.pop(gfn).tobytes()
        entries.set_frame_state(gfn, True)
        entries.publish_table(gfn)
        for observer in entries.observers:
            observer.sync_page(gfn)
        table = entries.memory.table64(gfn)
        now = table.tobytes() if table is not None else b"\xff" * PAGE_SIZE
        held = False
        if before != now:
            for offset in _changed_words(before, now):
                for page in entries.tables[gfn]:
                    held |= entries.zap_bytes(page, offset, 8)
        if held:
            entries.tlb.flush_all()
        entries.write_protect(gfn)

    def is_stale(self, place: int) -> bool:
        """Return whether the guest's entry that a leaf was made from has changed since. Such a leaf
        says nothing, and the next fault makes it anew."""
        page = self._entries.pool.page_at(place)
        if page is None or page.copy is None:
            return False
        word = word_of_leaf(page, place)
        return page.table64[word] != page.copy[word]

    def renew_copy(self, page: ShadowPage, place: int) -> None:
        """Renew the copy of the word that a leaf is about to be made from, and zap the other sptes
        that were made from it if it has changed. They are stale, so no TLB has to be flushed."""
        copy, table = page.copy, page.table64
        assert copy is not None
        if page.alone and page.table is table:  # one word, one entry
            copy[place & 511] = table[place & 511]
            return
        word = word_of_leaf(page, place)
        now = table[word]
        if now != copy[word]:
            copy[word] = now
            entries = self._entries
            for sibling in entries.tables[page.gfn]:
                entries.zap_bytes(sibling, 8 * word, 8, but=place)


def word_of_leaf(page: ShadowPage, place: int) -> int:
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
