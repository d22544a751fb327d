# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants with what came after 2007: dirty log, slots at run time, MMIO sptes, shrinker, epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...api import MAP_TRAP
from ...shadow.pool import SPTE_TRAP
from .base import Mutant, around, instead


class DirtyLogStartsTooLate(Mutant):
    """What is in a TLB is written unseen."""

    bug = "the dirty log starts without a flush"
    case = (30,)
    dies = "claim"

    def _mutate(self) -> None:
        instead(self.tlb, "start_dirty_log", lambda: setattr(self.tlb, "_dirty", set()))


class DirtyLogReadOnce(Mutant):
    """The second round of a migration misses what the first saw."""

    bug = "reading the dirty log does not flush, so what is hot is logged once"
    case = (30,)
    dies = "claim"

    def _mutate(self) -> None:
        def dirty_log() -> list[int]:
            written = sorted(self.tlb._dirty or ())
            self.tlb._dirty = set()
            return written

        instead(self.tlb, "dirty_log", dirty_log)


class DirtyLogWithoutTables(Mutant):
    """A and D are writes, too."""

    bug = "A and D set by the MMU, and what devices write, are not in the dirty log"
    case = (30,)
    dies = "claim"

    def _mutate(self) -> None:
        def changed(changed: Callable[[int], None], gfn: int) -> None:
            kept, self.tlb._dirty = self.tlb._dirty, None
            changed(gfn)
            self.tlb._dirty = kept

        around(self.tlb, "changed", changed)


class SlotsUnheard(Mutant):
    """What was a hole is trapped for ever, what was RAM is written through."""

    bug = "sptes stay when memory slots come and go"
    case = (31,)

    def remapped(self) -> None:
        """See :meth:`mmu.api.Mmu.remapped`."""
        self.tlb.remapped()
        self.cache.rmap.resize(len(self.tlb.written_epoch))


class SlotsGoUnflushed(Mutant):
    """A TLB leads to memory that is somebody else's now."""

    bug = "TLBs are not emptied when memory slots come and go"
    case = (31,)
    dies = "claim"

    def _mutate(self) -> None:
        host = self.tlb.host

        def remapped(remapped: Callable[[], None]) -> None:
            class Deaf:
                drop_code = staticmethod(host.drop_code)

                @staticmethod
                def flush_tlb(cpu: int) -> None:
                    pass

            self.tlb.host = Deaf()
            remapped()
            self.tlb.host = host

        around(self, "remapped", remapped)


class DevicesMapped(Mutant):
    """Xen and KVM both had devices taken for memory."""

    bug = "an spte of a device does not trap"
    case = (32,)

    def _mutate(self) -> None:
        def answer(answer: Callable[..., int], *args: Any) -> int:
            return answer(*args) & ~MAP_TRAP if args[3] & SPTE_TRAP else answer(*args)

        around(self.faults, "answer", answer)


class DevicesNeverDirty(Mutant):
    """D is set by hardware, for devices too."""

    bug = "an spte of a device is writable before D is set"
    case = (32,)

    def _mutate(self) -> None:
        def make_leaf(make: Callable[..., int], gfn: int, rights: int, **more: Any) -> int:
            spte = make(gfn, rights, **more)
            return make(gfn, rights, **{**more, "writable": True}) if spte & SPTE_TRAP else spte

        around(self.cache, "make_leaf", make_leaf)


class DevicesWalked(Mutant):
    """Right and slow: what MMIO sptes were made to end."""

    bug = "a miss on a device walks the guest's tables every time"
    case = (32,)
    dies = "claim"

    def _mutate(self) -> None:
        def answer(answer: Callable[..., int], cpu: int, context: Any, place: int, spte: int,
                   gpa: int, access: int) -> int:  # fmt: skip
            mapping = answer(cpu, context, place, spte, gpa, access)
            if spte & SPTE_TRAP:
                self.cache.drop_leaf(place)
            return mapping

        around(self.faults, "answer", answer)


class ShrinkTakesRoots(Mutant):
    """A vCPU runs on freed memory."""

    bug = "the shrinker takes roots that are in use"
    case = (33,)
    dies = "claim"

    def _mutate(self) -> None:
        def shrink(pages: int) -> int:
            oldest = list(self.pool)[:pages]
            for page in oldest:
                self.cache.zap_page(page)
            return len(oldest)

        instead(self.cache, "shrink", shrink)


class EpochsEndTooSoon(Mutant):
    """What was granted between two vCPUs' flushes is held, and forgotten."""

    bug = "an epoch is over when the last vCPU has flushed, whatever the first was granted since"
    case = (34,)
    dies = "stale"

    def _mutate(self) -> None:
        self.tlb._window = 1
