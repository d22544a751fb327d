# SPDX-License-Identifier: GPL-2.0-or-later
"""Plug-ins with a bug each, for the fuzzers to find."""

from __future__ import annotations

from mmu.shadow.mmu import ShadowMmu


class HalfZap(ShadowMmu):
    """Zaps only the first of the two entries that follow from a 32-bit directory entry."""

    def __init__(self, *args, **keywords):
        super().__init__(*args, **keywords)
        zap_entry = self.cache.zap_entry

        def zap_even_entry(page, place):
            if page.glevels == 2 and page.level == 2 and place & 1:
                return False
            return zap_entry(page, place)

        self.cache.zap_entry = zap_even_entry


class Deaf(ShadowMmu):
    """Does not hear of writes from outside the processors."""

    def written(self, gpa, size, source):
        if source == "guest":
            super().written(gpa, size, source)


class PiecesUnremembered(ShadowMmu):
    """Answers a supervisor's write to a user's read-only page under SMAP or keys without an spte:
    right for a small page, but the pieces of a large one stay in the TLB over INVLPG of another."""

    def __init__(self, *args, **keywords):
        super().__init__(*args, **keywords)
        self.faults._grant_unremembered = self._grant

    def _grant(self, cpu, *rest):
        found = rest[-1]
        gpa = found.frame << 12
        slot = self.memory.slot_at(gpa)
        if self.cache.is_protected(found.frame) or slot is None or slot.kind != "ram":
            return gpa | 11
        return gpa | self.tlb.grant_write(cpu, found.frame, False)


class Dies(ShadowMmu):
    """Takes the process along at its third INVLPG."""

    def invlpg(self, cpu, gva):
        import os

        super().invlpg(cpu, gva)
        if self.counters.invlpg == 3:
            os._exit(1)

    flush_on_invlpg = True


class NeverDirty(ShadowMmu):
    """Lets a store through to a page whose D it has not set."""

    def translate(self, cpu, gva, access):
        answer = super().translate(cpu, gva, access & ~2 if access & 2 else access)
        if access & 2 and isinstance(answer, int):
            return super().translate(cpu, gva, access) if answer & 8 else answer | 2
        return answer
