# SPDX-License-Identifier: GPL-2.0-or-later
"""The records that Python keeps for compiled code: 64-bit words at fixed byte offsets.

There are four, all in memory of this process:

*The block*, one a vCPU: what a walk starts from. :class:`Block` owns it.

*The table record*, 32 bytes for each table of the pool: what compiled code must know of the guest
table that a shadow page stands for. :meth:`mmu.shadow.pool.ShadowPage.publish` is its one writer::

    ABOUT    the gfn of the guest's table in bits 12 and up, and the ABOUT_* bits below
    TABLE    where the guest's table is in this process
    COPY     0, or where the copy of a table out of sync is (see mmu.shadow.unsync)
    WRITES   how often the guest's table was written since it was last used

*The frame states*, a byte for each frame of memory: FRAME_*.

*The tracker's words*: the epoch of now, and where the tracker's bytes for each frame are
(see :mod:`mmu.tlb`).
"""

from __future__ import annotations

import ctypes

# --- The block: byte offsets ----------------------------------------------------------------
TABLES = 0  # address of the shadow tables
ROOT = 8  # first place of the root
TOP_SHIFT = 16  # shift of the top level: 30, 39 or 48
GVA_MASK = 24
CANONICAL = 32  # the bits of an address from here up must be alike; 63 for no check
BLOCKED = 40  # not 0: Python answers everything (somebody observes)
NO_WRITES = 48  # not 0: Python answers writes (dirty logging)
SMAP = 56  # not 0: Python answers a supervisor's fetches from user pages
TRACKER = 64  # address of the tracker's words
FILLS = 72  # counts answers
REFILLS = 80  # of these, answered after making the leaf
RECORDS = 88  # address of the table records
RESERVED = 96  # reserved bits of the guest's leaf entries
FRAME_BITS = 104  # the bits of a guest's leaf entry that are an address
FRAMES = 112  # how many frames have a state
STATES = 120  # address of the frame states
RMAP = 128  # address of the reverse map: two slots of 32 bits a frame, place + 1 or 0
FAULTS = 136  # counts the guest's faults found
EPOCHS = 144  # address of a byte a place: the epoch of the last answer from it
MMIO_HITS = 152  # counts answers that lead to a device or to nothing
CHECKS = 160  # (mask, want) for read, write, fetch; supervisor, then user
CHECK_BYTES = 16
USER_CHECKS = 3 * CHECK_BYTES
KEYS = CHECKS + 2 * USER_CHECKS  # a bit for each protection key that denies; in the same order
KEY_BYTES = 8
USER_KEYS = 3 * KEY_BYTES
RUNNER = KEYS + 2 * USER_KEYS  # the vCPU's bit in the tracker's `runners`
BLOCK_BYTES = RUNNER + 8

# What an access does, in the order of CHECKS and KEYS.
KIND_READ = 0
KIND_WRITE = 1
KIND_FETCH = 2

# --- A table record: byte offsets, and the bits of ABOUT --------------------------------------
ABOUT = 0
TABLE = 8
COPY = 16
WRITES = 24
RECORD_BYTES = 32

ABOUT_IS_TABLE = 1 << 0  # a leaf table of the guest's, in RAM
ABOUT_WIDE = 1 << 1  # of 8-byte entries; else of 4-byte ones
ABOUT_ACCESS_SHIFT = 4  # three bits: the access inherited from the levels above
ABOUT_ALONE = 1 << 7  # no other shadow page stands for the same frame
ABOUT_HAS_PKEY = 1 << 8  # the entries carry protection keys

# --- Frame states -----------------------------------------------------------------------------
FRAME_OTHER = 0  # no RAM
FRAME_RAM = 1
FRAME_TABLE = 3  # RAM that holds a guest page table in sync

# --- The tracker's words: byte offsets --------------------------------------------------------
TRACKER_EPOCH = 0
TRACKER_WRITTEN = 8  # address of a byte a frame: the epoch of the last grant of W
TRACKER_FETCHED = 16  # the same for X
TRACKER_RUNNERS = 24  # address of 32 bits a frame: the vCPUs that fetched from it; 0: there is one


class Block:
    """One vCPU's block: see :class:`mmu.observe.CompiledBlock`."""

    def __init__(self, cpu: int) -> None:
        self._memory = (ctypes.c_uint64 * (BLOCK_BYTES // 8))()
        self.address = ctypes.addressof(self._memory)
        self.words = memoryview(self._memory).cast("B").cast("Q")
        self.words[RUNNER // 8] = 1 << cpu

    @property
    def fills(self) -> int:
        """How many misses :func:`mmu.shadow.fast.walk.hit` has answered."""
        return self.words[FILLS // 8]

    @property
    def refills(self) -> int:
        """How many of them needed a new leaf."""
        return self.words[REFILLS // 8]

    @property
    def faults(self) -> int:
        """How many page faults of the guest's :func:`mmu.shadow.fast.walk.fault` has found."""
        return self.words[FAULTS // 8]

    @property
    def mmio_hits(self) -> int:
        """How many answers led to a device or to nothing."""
        return self.words[MMIO_HITS // 8]
