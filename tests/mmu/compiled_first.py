# SPDX-License-Identifier: GPL-2.0-or-later
"""The shadow MMU as a machine with compiled code uses it: `hit` first, then `fault`, then Python.

The text that is compiled runs here as it stands, in Python.
"""

from __future__ import annotations

from mmu.api import PageFault
from mmu.shadow.fast.publish import KINDS
from mmu.shadow.fast.record import KIND_FETCH
from mmu.shadow.fast.walk import fault, hit
from mmu.shadow.mmu import ShadowMmu

SIGN = 1 << 63


class CompiledFirst(ShadowMmu):
    """`hits` counts the answers of `hit`, `refused` those of `fault`, `asked` the questions."""

    hit = staticmethod(hit)
    fault = staticmethod(fault)

    def __init__(self, memory, host, cpus, *, features, pool):
        super().__init__(memory, host, cpus, features=features, pool=pool)
        self.vcpu_blocks = [self.compiled_block(cpu) for cpu in range(cpus)]
        self.hits = 0
        self.refused = 0
        self.asked = 0

    def translate(self, cpu, gva, access):
        if not access & 0x300:
            self.asked += 1
            signed = gva - 2 * (gva & SIGN)
            block = self.vcpu_blocks[cpu].address
            kind, user = KINDS.index(access & 18), access >> 2 & 1
            answer = self.hit(block, signed, kind, user)
            if answer:
                self.hits += 1
                return answer
            code = self.fault(block, signed, kind, user) if kind != KIND_FETCH else 0
            if code:
                self.refused += 1
                return PageFault(gva & self.contexts[cpu].paging.gva_mask, code - 1)
        return super().translate(cpu, gva, access)
