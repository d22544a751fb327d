# SPDX-License-Identifier: GPL-2.0-or-later
"""The shadow MMU as it was before the patch of 2007: with no cache.

``--mmu emu.bench.plugins:CacheOff`` drops all shadow pages at every load of CR3, so that each
address space is built anew, fault by fault, whenever it is entered. What the cache is worth is the
ratio of the two.
"""

from __future__ import annotations

from mmu.api import PagingRegisters
from mmu.shadow.mmu import ShadowMmu

__all__ = ["CacheOff"]


class CacheOff(ShadowMmu):
    """The shadow plug-in that forgets at every CR3 load."""

    name = "cache-off"

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """Zap everything, then load; see :meth:`mmu.api.Mmu.load`."""
        self.zap_all()
        super().load(cpu, regs)
