# SPDX-License-Identifier: GPL-2.0-or-later
"""The walk over the shadow tables as compiled code: what hardware does under KVM.

:func:`hit` says the same as the first half of :meth:`ShadowMmu.translate`, on plain memory: it
follows the tables from the vCPU's root and answers if the leaf allows the access and no rule needs
a second look. For everything else it returns 0 and Python decides. It never enters Python, builds
nothing, and leaves behind only what Python would: the epoch in the leaf and in the tracker's bytes.

The function is written in a small subset of Python (signed 64-bit integers, ``while``, ``if``, and
the loads and stores that it is given), so that the same text runs compiled and, for tests, as it
stands. What compiles it is not this package's business (see emu/jit.py).

A vCPU's *block* is the 64-bit words that :func:`hit` starts from; :class:`Block` keeps them.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from ..arch import ACCESS_FETCH, ACCESS_USER, ACCESS_WRITE
from ..plain import load8, load64, store8, store64

if TYPE_CHECKING:
    from ..tlb import TlbTracker
    from .context import ShadowContext
    from .pool import Pool

# Byte offsets in a block.
WORDS = 0  # address of the shadow tables
ROOT = 8  # first place of the root
TOP_SHIFT = 16  # shift of the top level: 30, 39 or 48
GVA_MASK = 24
CANONICAL = 32  # the highest bits that must be alike start here; 63 for none
BLOCKED = 40  # not 0: Python answers everything (protection keys)
NO_WRITES = 48  # not 0: Python answers writes (dirty logging)
NO_FETCHES = 56  # not 0: Python answers fetches (several vCPUs, SMAP)
TRACKER = 64  # address of the tracker's shared words: epoch, and the addresses of its bytes
FILLS = 72  # counts answers
TESTS = 80  # (mask, want) for read, write, fetch; supervisor, then user
BLOCK_BYTES = TESTS + 6 * 16

KINDS = (0, ACCESS_WRITE, ACCESS_FETCH)


def hit(block: int, gva: int, kind: int, user: int) -> int:
    """Return the Mapping for an access, or 0 if Python must decide.

    ``kind``: 0 read, 1 write, 2 fetch; ``user``: 1 at CPL 3.
    """
    if load64(block + BLOCKED) != 0:
        return 0
    gva &= load64(block + GVA_MASK)
    top = gva >> load64(block + CANONICAL)
    if top != 0 and top != -1:
        return 0
    words = load64(block + WORDS)
    place = load64(block + ROOT)
    shift = load64(block + TOP_SHIFT)
    while True:
        leaf = words + ((place + ((gva >> shift) & 511)) << 3)
        spte = load64(leaf)
        if spte & 0x81 != 1:
            if spte & 1 == 0:
                return 0
            gpa = (spte & 0x000F_FFFF_FFFF_F000) | (gva & 0x1F_F000)
            break
        if shift == 12:
            gpa = spte & 0x000F_FFFF_FFFF_F000
            break
        place = (spte & 0x000F_FFFF_FFFF_F000) >> 3
        shift -= 9
    test = block + TESTS + user * 48 + kind * 16
    if spte & load64(test) != load64(test + 8):
        return 0
    tracker = load64(block + TRACKER)
    epoch = load64(tracker)
    if spte & 512 != 0:  # SPTE_TRAP: a device, or nothing
        if kind == 2:
            return 0
        answer = gpa | (11 if kind == 1 else 9)
    elif kind == 0:
        answer = gpa | 1
    elif kind == 1:
        gfn = gpa >> 12
        if load64(block + NO_WRITES) != 0 or load8(load64(tracker + 16) + gfn) != 0:
            return 0
        store8(load64(tracker + 8) + gfn, epoch)
        answer = gpa | 3
    else:
        gfn = gpa >> 12
        fetched = load64(tracker + 16) + gfn
        if load64(block + NO_FETCHES) != 0 or load8(load64(tracker + 8) + gfn) != 0:
            return 0
        if load8(fetched) == 0:
            return 0
        store8(fetched, epoch)
        answer = gpa | 5
    store64(leaf, (spte & ~(127 << 52)) | (epoch << 52))
    store64(block + FILLS, load64(block + FILLS) + 1)
    return answer


class Block:
    """One vCPU's block, kept up to date by the shadow MMU."""

    def __init__(self) -> None:
        self._memory = (ctypes.c_uint64 * (BLOCK_BYTES // 8))()
        self.address = ctypes.addressof(self._memory)
        self.words = memoryview(self._memory).cast("B").cast("Q")

    @property
    def fills(self) -> int:
        """How many misses :func:`hit` has answered."""
        return self.words[FILLS // 8]

    def set_root(self, root: int) -> None:
        """Let the walk start at another place."""
        self.words[ROOT // 8] = root

    def publish(self, context: ShadowContext, pool: Pool, tlb: TlbTracker) -> None:
        """Show a vCPU's context, all but its root, to the compiled code. About 2 us."""
        words = self.words
        paging = context.paging
        words[WORDS // 8] = pool.address
        words[TOP_SHIFT // 8] = context.shifts[0]
        words[GVA_MASK // 8] = paging.gva_mask  # all ones: -1
        words[CANONICAL // 8] = paging.canonical_bits - 1
        words[BLOCKED // 8] = paging.pke
        words[NO_WRITES // 8] = tlb.is_logging
        words[NO_FETCHES // 8] = tlb.cpus > 1 or paging.smap
        words[TRACKER // 8] = tlb.shared_address
        at = TESTS // 8
        for user in (0, ACCESS_USER):
            for kind in KINDS:
                words[at], words[at + 1] = context.tests[kind | user]
                at += 2
