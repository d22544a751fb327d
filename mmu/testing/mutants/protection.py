# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants that let stores to a live table through, or hold back those to what is none any more."""

from __future__ import annotations

from collections.abc import Callable

from ...shadow.pool import SPTE_TRAP_WRITE, SPTE_WRITABLE, ShadowPage
from .base import Mutant, around, instead


class OldMappingsStayWritable(Mutant):
    """A frame that becomes a table while somebody maps it."""

    bug = "a new table is not write-protected"
    case = (12, 22)
    dies = "stale"

    def _mutate(self) -> None:
        around(self.cache, "write_protect", lambda protect, gfn: None)


class OneAliasProtected(Mutant):
    """kvm-unit-tests, rmap_chain."""

    bug = "of a new table's mappings one loses its write right"
    case = (22,)
    dies = "claim"

    def _mutate(self) -> None:
        def protect(_: Callable[..., None], gfn: int) -> None:
            for place in self.cache.rmap.places(gfn)[:1]:
                spte = self.words[place]
                if spte & SPTE_WRITABLE:
                    self.words[place] = spte & ~SPTE_WRITABLE | SPTE_TRAP_WRITE
            self.tlb.protect(gfn)

        around(self.cache, "write_protect", protect)


class TlbsNotFlushedOnProtect(Mutant):
    """The tables are right, the TLBs are not."""

    bug = "a new table is write-protected in the shadow tables and not in the TLBs"
    case = (12, 22)
    dies = "stale"

    def _mutate(self) -> None:
        around(self.tlb, "protect", lambda protect, gfn: None)


class OtherVcpusNotFlushed(Mutant):
    """Linux f7d9c7b7b902 and its kind."""

    bug = "a flush empties the TLB of the first vCPU only"
    case = (12,)
    dies = "stale"

    def _mutate(self) -> None:
        host = self.tlb.host

        class FirstOnly:
            drop_code = staticmethod(host.drop_code)

            @staticmethod
            def flush_tlb(cpu: int) -> None:
                if cpu == 0:
                    host.flush_tlb(cpu)

        self.tlb.host = FirstOnly()


class LargePagesOverTables(Mutant):
    """Linux 404381c5839d."""

    bug = "a large entry is made where one of its frames is a table"
    case = (25,)

    def _mutate(self) -> None:
        def may_be_large(may: Callable[[int], bool], gfn: int) -> bool:
            kept = self.cache.tables_in_large
            self.cache.tables_in_large = {}
            try:
                return may(gfn)
            finally:
                self.cache.tables_in_large = kept

        around(self.cache, "may_be_large", may_be_large)


class LargePagesNotSplit(Mutant):
    """Linux d3c422bd3338."""

    bug = "a frame in a large page becomes a table and the large entry stays"
    case = (25,)

    def _mutate(self) -> None:
        def protect(_: Callable[..., None], gfn: int) -> None:
            for place in self.cache.rmap.places(gfn):
                spte = self.words[place]
                if spte & SPTE_WRITABLE:
                    self.words[place] = spte & ~SPTE_WRITABLE | SPTE_TRAP_WRITE
            self.tlb.protect(gfn)

        around(self.cache, "write_protect", protect)


class OnceATableAlwaysATable(Mutant):
    """KVM, January 2007, patch 27."""

    bug = "a frame that was a table is trapped for ever"
    case = (23,)
    dies = "claim"

    def _mutate(self) -> None:
        around(self.cache, "_detect_flood", lambda detect, page: None)


class TrapsNotTakenBack(Mutant):
    """The same, in the entries."""

    bug = "entries that send stores to the host go on when the frame is no table any more"
    case = (23,)

    def _mutate(self) -> None:
        def stays_trapped(stays: Callable[[int, int], bool], place: int, gpa: int) -> bool:
            return bool(self.words[place] & SPTE_TRAP_WRITE) or stays(place, gpa)

        around(self.faults, "_stays_trapped", stays_trapped)
        instead(self, "_stop_trapping", lambda gpa: None)


class UseDoesNotCount(Mutant):
    """KVM, January 2007, patch 24."""

    bug = "a directory that is written now and then is thrown out though it is used"
    case = (24,)
    dies = "claim"

    def _mutate(self) -> None:
        writes: dict[ShadowPage, int] = {}

        def detect_flood(detect: Callable[[ShadowPage], None], page: ShadowPage) -> None:
            writes[page] = writes.get(page, 0) + 1
            page.writes = writes[page]
            detect(page)

        around(self.cache, "_detect_flood", detect_flood)


class FlushOnEveryFault(Mutant):
    """Safe and slow."""

    bug = "rights that only grow are flushed for"
    case = (24,)
    dies = "claim"

    def _mutate(self) -> None:
        def set_leaf(set_leaf: Callable[[int, int], None], place: int, spte: int) -> None:
            set_leaf(place, spte)
            self.tlb.flush_all()

        around(self.cache, "set_leaf", set_leaf)
