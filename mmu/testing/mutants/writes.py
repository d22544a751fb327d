# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants that miss a write to a live table, or a part of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...arch import (
    PAGE_SHIFT,
)
from ...shadow.pool import ShadowPage
from .base import Mutant, around


class DirectoryEditZapsOneHalf(Mutant):
    """Linux ac1b714e78c8."""

    bug = "a write to a 32-bit directory entry zaps one of its two shadow entries"
    case = (5,)

    def _mutate(self) -> None:
        def zap_entry(zap: Callable[..., bool], page: ShadowPage, place: int) -> bool:
            if page.glevels == 2 and page.level == 2 and place & 1:
                return False
            return zap(page, place)

        around(self.cache, "zap_entry", zap_entry)


class WrongQuadrantZapped(Mutant):
    """Linux fce0657ff9f1."""

    bug = "a write to a 32-bit table is looked for in the next quadrant"
    case = (5, 6)

    def _mutate(self) -> None:
        def zap_bytes(
            zap: Callable[..., bool], page: ShadowPage, offset: int, *rest: Any, **but: int
        ) -> bool:
            if page.glevels == 2:
                offset ^= 0x800 if page.level == 1 else 0x400
            return zap(page, offset, *rest, **but)

        around(self.cache, "zap_bytes", zap_bytes)


class AllQuadrantsZapped(Mutant):
    """Harmless to the guest, and a waste."""

    bug = "a write to a 32-bit table zaps the entry of that number in every quadrant"
    case = (6,)
    dies = "claim"

    def _mutate(self) -> None:
        def zap_bytes(
            zap: Callable[..., bool], page: ShadowPage, offset: int, *rest: Any, **but: int
        ) -> bool:
            if page.glevels == 2:
                size = 0x800 if page.level == 1 else 0x400
                offset = offset % size + page.quadrant * size
            return zap(page, offset, *rest, **but)

        around(self.cache, "zap_bytes", zap_bytes)


class OnlyTheFirstEntryOfAWideStore(Mutant):
    """KVM, January 2007, patch 20."""

    bug = "a store over two entries changes the first"
    case = (7,)

    def _mutate(self) -> None:
        around(self.cache, "guest_wrote", lambda wrote, gpa, size, **more: wrote(gpa, 1, **more))


class MisalignedStoreUnseen(Mutant):
    """The same patch, the other way round."""

    bug = "a store that is not aligned to an entry is taken for none"
    case = (7,)
    dies = "stale"

    def _mutate(self) -> None:
        def guest_wrote(wrote: Callable[..., None], gpa: int, size: int, **more: int) -> None:
            if gpa & 3 == 0:
                wrote(gpa, size, **more)

        around(self.cache, "guest_wrote", guest_wrote)


class UpperHalfUnseen(Mutant):
    """KVM, January 2007, patch 26: wide atomic stores arrive in two halves."""

    bug = "the second half of an 8-byte entry is not looked at"
    case = (8, 28)

    def _mutate(self) -> None:
        def zap_bytes(
            zap: Callable[..., bool], page: ShadowPage, offset: int, *rest: Any, **but: int
        ) -> bool:
            return not (page.glevels > 2 and offset & 4) and zap(page, offset, *rest, **but)

        around(self.cache, "zap_bytes", zap_bytes)


class CrossingStoreLost(Mutant):
    """A store from the page before."""

    bug = "only the first page of a store is looked at"
    case = (13,)

    def written(self, gpa: int, size: int, source: str) -> None:
        """See :meth:`mmu.api.Mmu.written`."""
        super().written(gpa, min(size, 0x1000 - (gpa & 0xFFF)), source)


class HostWritesUnseen(Mutant):
    """CVE-2026-23401, -23402."""

    bug = "only the guest's own stores to its tables count"
    case = (13,)
    dies = "stale"

    def written(self, gpa: int, size: int, source: str) -> None:
        """See :meth:`mmu.api.Mmu.written`."""
        if source == "guest":
            super().written(gpa, size, source)


class UnlinkedTablesNotWatched(Mutant):
    """Linux 65855ed8b034."""

    bug = "a write to a table that nothing leads to now is not looked at"
    case = (11,)

    def _mutate(self) -> None:
        def zap_bytes(zap: Callable[..., bool], page: ShadowPage, *rest: Any, **but: int) -> bool:
            return bool(page.parents or page.pins) and zap(page, *rest, **but)

        around(self.cache, "zap_bytes", zap_bytes)
        around(self.cache.unsync, "try_unsync", lambda try_unsync, gfn: False)


class NeverCompared(Mutant):
    """The same, of a table out of sync."""

    bug = "entries of a table out of sync are not compared when they are used"
    case = (7, 11)

    def _mutate(self) -> None:
        def publish_table(note: Callable[[int], None], gfn: int) -> None:
            note(gfn)
            for page in self.cache.tables[gfn]:
                page.copy = None

        around(self.cache, "publish_table", publish_table)


class RefillForgotten(Mutant):
    """Changed, used, changed back."""

    bug = "an entry filled from a table out of sync is held against the table of before"
    case = (11,)

    def _mutate(self) -> None:
        around(self.cache.unsync, "renew_copy", lambda note, page, place: None)


class UpperTablesOutOfSync(Mutant):
    """One stale upper entry stands for too much."""

    bug = "a directory may go out of sync like a page table"
    case = (5, 11, 12)

    def _mutate(self) -> None:
        def try_unsync(_: Callable[..., bool], gfn: int) -> bool:
            if gfn in self.cache.tables and self.cache.policy.unsync:
                pages = self.cache.tables[gfn]
                levels = [page.level for page in pages]
                for page in pages:
                    page.level = 1
                done = self._try_unsync(gfn)
                for page, level in zip(pages, levels, strict=True):
                    page.level = level
                return done
            return False

        self._try_unsync = self.cache.unsync.try_unsync
        around(self.cache.unsync, "try_unsync", try_unsync)


class OnlyOnePageOfAFrame(Mutant):
    """Linux cea0f0e7ea54: a frame that is directory and table."""

    bug = "a write to a frame changes one of the pages that stand for it"
    case = (21, 28)

    def _mutate(self) -> None:
        def guest_wrote(wrote: Callable[..., None], gpa: int, size: int, **more: int) -> None:
            pages = self.cache.tables.get(gpa >> PAGE_SHIFT)
            if pages is None or len(pages) < 2:
                wrote(gpa, size, **more)
                return
            self.cache.tables[gpa >> PAGE_SHIFT] = pages[:1]
            wrote(gpa, size, **more)
            self.cache.tables[gpa >> PAGE_SHIFT] = pages

        around(self.cache, "guest_wrote", guest_wrote)
        around(self.cache.unsync, "try_unsync", lambda try_unsync, gfn: False)
        around(self.cache, "_detect_flood", lambda detect, page: None)


class OtherWidthsBitsForgotten(Mutant):
    """A at bit 37 of an 8-byte entry, seen as two of 4 bytes."""

    bug = "A and D set for entries of one width change none of the other"
    case = (28,)

    def _mutate(self) -> None:
        def guest_wrote(wrote: Callable[..., None], gpa: int, size: int, **more: int) -> None:
            if not more:
                wrote(gpa, size)

        around(self.cache, "guest_wrote", guest_wrote)
