# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants that serve a fault wrongly, and what the TLBs and engines then hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...api import Answer, PageFault
from ...arch import (
    ACC_EXEC,
    ACC_USER,
    ACC_WRITE,
    PAGE_SHIFT,
    PFERR_PRESENT,
    PFERR_RSVD,
    is_present,
)
from ...shadow.context import ShadowContext
from ...shadow.pool import SPTE_PRESENT, ShadowPage
from ...walker import Walk
from .base import Mutant, around, instead


class StaleDirty(Mutant):
    """A page is writable and its D never set."""

    bug = "a leaf is writable where the guest's entry is, dirty or not"
    case = (4,)

    def _mutate(self) -> None:
        def make_leaf(make: Callable[..., int], gfn: int, rights: int, **more: Any) -> int:
            more["writable"] = more["writable"] or bool(rights & ACC_WRITE)
            return make(gfn, rights, **more)

        around(self.cache, "make_leaf", make_leaf)


class CleanedEntriesUnseen(Mutant):
    """D cleared by the guest, to see it set again."""

    bug = "a write that changes nothing but A and D of an entry is not looked at"
    case = (4,)

    def _mutate(self) -> None:
        def guest_wrote(wrote: Callable[..., None], gpa: int, size: int, **more: int) -> None:
            if size > 1:
                wrote(gpa, size, **more)

        around(self.cache, "guest_wrote", guest_wrote)


class SmepForgottenWithWpOff(Mutant):
    """kvm-unit-tests, check_smep_andnot_wp."""

    bug = "a user page made a supervisor's under CR0.WP = 0 stays executable under SMEP"
    case = (18,)

    def _mutate(self) -> None:
        def install(
            install: Callable[..., Any], context: ShadowContext, found: Walk, rights: int
        ) -> Any:
            if found.rights & ACC_USER and not rights & ACC_USER:
                rights |= found.rights & ACC_EXEC
            return install(context, found, rights)

        around(self.faults, "_install", install)


class PrefetchTakesAnything(Mutant):
    """kvm-unit-tests, check_pfec_on_prefetch_pte."""

    bug = "prefetch fills neighbours that were not accessed, are clean or have reserved bits"
    case = (19,)

    def _mutate(self) -> None:
        def prefetch(
            _: Callable[..., None], context: ShadowContext, page: ShadowPage, place: int
        ) -> None:
            wide = page.glevels != 2
            table = (self.memory.table64 if wide else self.memory.table32)(page.gfn)
            for step in range(1, min(8, 512 - (place & 511))):
                gpte = table[(page.quadrant << 9 | place & 511) + step] if table else 0
                if is_present(gpte) and not self.words[place + step] & SPTE_PRESENT:
                    rights = page.access & (gpte & (ACC_WRITE | ACC_USER) | ACC_EXEC)
                    gfn = (gpte & context.paging.frame_mask) >> PAGE_SHIFT
                    writable = bool(rights & ACC_WRITE)
                    self.cache.set_leaf(
                        place + step, self.cache.make_leaf(gfn, rights, writable=writable)
                    )

        around(self.faults, "_prefetch", prefetch)


class ReservedWithoutPresent(Mutant):
    """QEMU 7.2's TCG."""

    bug = "a reserved-bit fault has P clear in its error code"
    case = (29,)

    def translate(self, cpu: int, gva: int, access: int) -> Answer:
        """See :meth:`mmu.api.Mmu.translate`."""
        answer = super().translate(cpu, gva, access)
        if isinstance(answer, PageFault) and answer.error_code & PFERR_RSVD:
            return PageFault(answer.gva, answer.error_code & ~PFERR_PRESENT)
        return answer


class LargePagesLeftInPieces(Mutant):
    """SDM 4.10.4.1."""

    bug = "INVLPG of one address leaves the other pieces of a large page in the TLB"
    case = (27,)
    dies = "stale"

    def _mutate(self) -> None:
        around(self.cache, "_may_map_large", lambda may, page: False)


class DirectoryEditsNotFlushed(Mutant):
    """The same, with the page known."""

    bug = "a change of an upper entry flushes nothing"
    case = (27,)
    dies = "stale"

    def _mutate(self) -> None:
        around(self.cache, "_is_running", lambda is_running, page: False)
        around(self.cache, "zap_entry", lambda zap, page, place: zap(page, place) and False)


class StampedTooEarly(Mutant):
    """An entry granted after a flush, and noted before it."""

    bug = "a leaf is stamped with the epoch before the grant, which may flush"
    case = (27,)
    dies = "stale"

    def _mutate(self) -> None:
        answer = self.faults.answer

        def stamp(
            cpu: int, context: ShadowContext, place: int, spte: int, gpa: int, access: int
        ) -> int:
            epoch = self.tlb.epoch
            mapping = answer(cpu, context, place, spte, gpa, access)
            self.epochs[place] = epoch
            return mapping

        instead(self.faults, "answer", stamp)


class CodeNotDropped(Mutant):
    """A program loaded over another."""

    bug = "translated code of a frame stays when its bytes change"
    case = (22,)
    dies = "claim"

    def _mutate(self) -> None:
        around(self.tlb, "changed", lambda changed, gfn: None)


class WritableAndExecutable(Mutant):
    """One engine writes what another runs."""

    bug = "a frame may be fetched from while a TLB lets stores to it through"
    case = (22,)
    dies = "stale"

    def _mutate(self) -> None:
        def grant_exec(grant: Callable[[int, int], int], cpu: int, gfn: int) -> int:
            kept = self.tlb.written_epoch[gfn]
            self.tlb.written_epoch[gfn] = 0
            rights = grant(cpu, gfn)
            self.tlb.written_epoch[gfn] = kept
            return rights

        around(self.tlb, "grant_exec", grant_exec)


class CheckedForOthersToo(Mutant):
    """The checked entry of one engine hides stores from another."""

    bug = "an entry is writable and executable though another vCPU runs the code"
    case = (22,)
    dies = "stale"

    def _mutate(self) -> None:
        def grant_write(
            grant: Callable[[int, int, bool], int], cpu: int, gfn: int, executable: bool
        ) -> int:
            self.tlb.runners[gfn] = 1 << cpu
            return grant(cpu, gfn, executable)

        around(self.tlb, "grant_write", grant_write)


class FetchesOpenPagesToReads(Mutant):
    """Execute-only memory by protection keys."""

    bug = "an entry granted for a fetch may be read whatever SMAP and keys say"
    case = (18,)

    def _mutate(self) -> None:
        faults = self.faults
        around(
            faults,
            "answer",
            lambda answer, *args: answer(*args) | (1 if args[5] & 16 else 0),
        )
