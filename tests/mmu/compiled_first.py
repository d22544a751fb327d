# SPDX-License-Identifier: GPL-2.0-or-later
"""The shadow MMU as a machine with compiled code uses it: `hit` first, Python for the rest.

The text that is compiled runs here as it stands, in Python.
"""

from __future__ import annotations

from mmu.shadow.compiled import hit
from mmu.shadow.mmu import ShadowMmu

KINDS = {0: 0, 2: 1, 16: 2}


class CompiledFirst(ShadowMmu):
    """`hits` counts the answers of `hit`, `asked` the questions."""

    hit = staticmethod(hit)

    def __init__(self, memory, host, cpus, *, features, pool):
        super().__init__(memory, host, cpus, features=features, pool=pool)
        self.vcpu_blocks = [self.compiled_block(cpu) for cpu in range(cpus)]
        self.hits = 0
        self.asked = 0

    def translate(self, cpu, gva, access):
        if not access & 0x300:
            self.asked += 1
            signed = gva - (1 << 64) if gva >> 63 else gva
            block = self.vcpu_blocks[cpu].address
            answer = self.hit(block, signed, KINDS[access & 18], access >> 2 & 1)
            if answer:
                self.hits += 1
                return answer
        return super().translate(cpu, gva, access)
