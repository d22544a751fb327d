# SPDX-License-Identifier: GPL-2.0-or-later
"""The roots that vCPUs run on: found or made at a CR3 load, pinned or linked, and left again.

A guest with four or five levels runs on a shadow page, which is pinned. A guest with 32-bit
addresses runs on the root table of the vCPU's own, whose four entries lead to the directories.
"""

from __future__ import annotations

from ..api import Mmu
from ..arch import PAGE_SHIFT
from .cache import ShadowCache
from .context import ShadowContext
from .pool import Pool
from .role import make_role


class ShadowRoots(Mmu):
    """The part of the shadow MMU that looks after roots."""

    cache: ShadowCache
    pool: Pool
    words: memoryview

    def _leave_root(self, cpu: int, context: ShadowContext) -> None:
        """Unpin the root page, or empty the root table."""
        context.paths.clear()
        if context.root_page is not None:
            context.root_page.pins -= 1
            context.root_page = None
            return
        first = self.pool.root_table(cpu)
        for place in range(first, first + 4):
            if self.words[place]:
                self.cache.unlink(place)

    def _enter_root_page(self, context: ShadowContext) -> None:
        """Find or make the root page for CR3, and pin it."""
        paging = context.paging
        gfn = paging.root_gpa >> PAGE_SHIFT
        role = make_role(context.mode, paging.levels)
        page = self.cache.find(gfn, role)
        if page is None:
            self.cache.reserve(1)
            page = self.cache.get_page(gfn, role)
        else:
            self.counters.mmu_root_hit += 1
            self.pool.touch(page)
        page.pins += 1
        context.root_page = page
        context.root = page.base

    def _enter_root_table(self, cpu: int, context: ShadowContext) -> None:
        """Use the vCPU's root table of four, with what directories there are already."""
        context.root = self.pool.root_table(cpu)
        for gigabyte in range(4):
            self._link_known_directory(context, gigabyte)

    def _link_known_directory(self, context: ShadowContext, gigabyte: int) -> None:
        """Put the directory of one gigabyte into the root table if the cache has it."""
        key = context.directory_key(gigabyte)
        if key is not None:
            page = self.cache.find(*key)
            if page is not None:
                self.counters.mmu_root_hit += 1
                self.pool.touch(page)
                self.cache.link(context.root + gigabyte, page)
