# SPDX-License-Identifier: GPL-2.0-or-later
"""The walk over the shadow tables as compiled code: what hardware does under KVM, and a bit more.

:func:`hit` says the same as :meth:`ShadowMmu.translate`, on plain memory: it follows the tables
from the vCPU's root and answers if the leaf allows the access. If the leaf is missing or too
narrow, :func:`refill` makes it from the guest's entry, as :meth:`Faults.leaf_fault` does. For
everything else, and wherever a rule needs a second look, both return 0 and Python decides. They
never enter Python, and leave behind what Python would: the epochs of the leaf and of the
tracker, A and D, the reverse map.

The functions are written in a small subset of Python (signed 64-bit integers, ``while``, ``if``,
and the loads and stores that they are given), so that the same text runs compiled and, for tests,
as it stands. What compiles it is not this package's business (see emu/jit.py).

A vCPU's *block* is the 64-bit words that :func:`hit` starts from; :class:`Block` keeps them.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from ..arch import ACCESS_FETCH, ACCESS_USER, ACCESS_WRITE
from ..plain import load8, load32, load64, store8, store32, store64
from .context import denied_keys

if TYPE_CHECKING:
    from .cache import ShadowCache
    from .context import ShadowContext

# Byte offsets in a block.
WORDS = 0  # address of the shadow tables
ROOT = 8  # first place of the root
TOP_SHIFT = 16  # shift of the top level: 30, 39 or 48
GVA_MASK = 24
CANONICAL = 32  # the highest bits that must be alike start here; 63 for none
BLOCKED = 40  # not 0: Python answers everything (tracing)
NO_WRITES = 48  # not 0: Python answers writes (dirty logging)
SMAP = 56  # not 0: Python answers a supervisor's fetches from user pages
TRACKER = 64  # address of the tracker's shared words: see TRACKER_*
FILLS = 72  # counts answers
REFILLS = 80  # of these, answered after making the leaf
NOTES = 88  # address of the tables' notes
RESERVED = 96  # reserved bits of the guest's leaf entries
FRAME_BITS = 104  # the bits of an entry that are an address
FRAMES = 112  # how many frames the arrays below have
STATES = 120  # address of a byte a frame: FRAME_*
SLOTS = 128  # address of the reverse map's array
FAULTS = 136  # counts the guest's faults found
EPOCHS = 144  # address of a byte a place: the epoch of the last answer from it
MMIO_HITS = 152  # counts answers that lead to a device or to nothing
TESTS = 160  # (mask, want) for read, write, fetch; supervisor, then user
KEYS = TESTS + 6 * 16  # a bit for each protection key that forbids; read, write, fetch; likewise
RUNNER = KEYS + 6 * 8  # the vCPU's bit in the tracker's `runners`
BLOCK_BYTES = RUNNER + 8

# Byte offsets in the tracker's words (`TlbTracker.shared`).
TRACKER_WRITTEN = 8
TRACKER_FETCHED = 16
TRACKER_RUNNERS = 24  # 0: there is one vCPU

# A frame's state.
FRAME_OTHER = 0  # no RAM
FRAME_RAM = 1
FRAME_TABLE = 3  # RAM that holds a guest page table in sync

# The first word of a table's note: the table's frame, and
NOTE_IS_TABLE = 1 << 0  # a leaf table of the guest's, in RAM
NOTE_WIDE = 1 << 1  # of 8-byte entries
NOTE_ACCESS_SHIFT = 4  # three bits: the inherited access
NOTE_ALONE = 1 << 7  # no other shadow page stands for the same frame
NOTE_HAS_PKEY = 1 << 8  # entries carry protection keys

KINDS = (0, ACCESS_WRITE, ACCESS_FETCH)

_FRAME = (1 << 52) - (1 << 12)
_NX = -(1 << 63)
_PKEY = 15 << 59


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
    large = False
    while True:
        place += (gva >> shift) & 511
        spte = load64(words + (place << 3))
        if shift == 12:
            break
        if spte & 0x81 != 1:
            if spte & 1 == 0:
                return 0
            large = True
            break
        place = (spte & _FRAME) >> 3
        shift -= 9
    stale = False
    if not large:
        note = load64(block + NOTES) + ((place >> 9) << 5)
        came_from = load64(note + 16)
        if came_from != 0:
            if load64(note) & NOTE_WIDE != 0:
                word = ((gva >> 12) & 511) << 3
            else:
                word = ((gva >> 13) & 511) << 3
            stale = load64(came_from + word) != load64(load64(note + 8) + word)
    test = block + TESTS + user * 48 + kind * 16
    # A fetch is granted together with a read.
    keys = load64(block + KEYS + user * 24 + (8 if kind == 1 else 0))
    if stale or spte & load64(test) != load64(test + 8):
        if large:
            return 0
        spte = refill(block, place, gva, kind, test, keys)
        if spte == 0:
            return 0
    elif keys != 0 and spte & 4 != 0 and (keys >> ((spte >> 59) & 15)) & 1 != 0:
        return 0
    gpa = spte & _FRAME
    if large:
        gpa |= gva & 0x1F_F000
    tracker = load64(block + TRACKER)
    epoch = load64(tracker)
    if spte & 512 != 0:  # SPTE_TRAP: a device, or nothing
        if kind == 2:
            return 0
        answer = gpa | (11 if kind == 1 else 9)
        store64(block + MMIO_HITS, load64(block + MMIO_HITS) + 1)
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
        fetched = load64(tracker + TRACKER_FETCHED) + gfn
        if user == 0 and spte & 4 != 0 and load64(block + SMAP) != 0:
            return 0
        if load8(load64(tracker + TRACKER_WRITTEN) + gfn) != 0:
            return 0
        if load8(fetched) == 0:
            return 0
        runners = load64(tracker + TRACKER_RUNNERS)
        if runners != 0 and load32(runners + (gfn << 2)) & load64(block + RUNNER) == 0:
            return 0
        store8(fetched, epoch)
        answer = gpa | 5
    store8(load64(block + EPOCHS) + place, epoch)
    store64(block + FILLS, load64(block + FILLS) + 1)
    return answer


def refill(block: int, place: int, gva: int, kind: int, test: int, keys: int) -> int:
    """Make the leaf at ``place`` from the guest's entry if that allows the access; else return 0.

    Nothing is changed before everything is known to be in order. ``test`` is where the permission
    check stands, ``keys`` are the protection keys that forbid the access.
    """
    note = load64(block + NOTES) + ((place >> 9) << 5)
    about = load64(note)
    if about & NOTE_IS_TABLE == 0:
        return 0
    table = load64(note + 8)
    wide = about & NOTE_WIDE
    index = (gva >> 12) & 511 if wide != 0 else (gva >> 12) & 1023
    gpte = load64(table + (index << 3)) if wide != 0 else load32(table + (index << 2))
    if gpte & 1 == 0 or gpte & load64(block + RESERVED) != 0:
        return 0
    rights = (about >> NOTE_ACCESS_SHIFT) & ((gpte & 6) | 1)
    if wide != 0 and gpte & _NX != 0:
        rights &= 6
    now = gpte | (0x60 if kind == 1 else 0x20)
    spte = (gpte & load64(block + FRAME_BITS)) | 1 | (rights & 4)
    if rights & 1 == 0:
        spte |= _NX
    if rights & 2 != 0 and now & 0x40 != 0:
        spte |= 2
    if spte & load64(test) != load64(test + 8):
        return 0
    if about & NOTE_HAS_PKEY != 0:
        spte |= gpte & _PKEY
        if keys != 0 and spte & 4 != 0 and (keys >> ((spte >> 59) & 15)) & 1 != 0:
            return 0
    gfn = (spte & _FRAME) >> 12
    if gfn >= load64(block + FRAMES) or load8(load64(block + STATES) + gfn) != FRAME_RAM:
        return 0
    at = load64(block + WORDS) + (place << 3)
    old = load64(at)
    slot = load64(block + SLOTS) + (gfn << 3)
    moved = old & 1 == 0 or (old ^ spte) & (_FRAME | 512) != 0
    old_slot = 0
    if moved:
        if load32(slot) != 0:
            slot += 4
        if load32(slot) != 0:
            return 0
        if old & 513 == 1:
            old_slot = load64(block + SLOTS) + (((old & _FRAME) >> 12) << 3)
            if load32(old_slot) != place + 1:
                old_slot += 4
            if load32(old_slot) != place + 1:
                return 0
    if now != gpte:
        fetched = load64(load64(block + TRACKER) + 16) + ((about & _FRAME) >> 12)
        if about & NOTE_ALONE == 0 or load8(fetched) != 0 or load64(block + NO_WRITES) != 0:
            return 0
    came_from = load64(note + 16)
    if came_from != 0:
        if about & NOTE_ALONE == 0:
            return 0
        word = index << 3 if wide != 0 else (index >> 1) << 3
        if wide == 0 and load64(came_from + word) != load64(table + word):
            return 0
    if now != gpte:
        if wide != 0:
            store64(table + (index << 3), now)
        else:
            store32(table + (index << 2), now)
    if came_from != 0:
        store64(came_from + word, load64(table + word))
    if old_slot != 0:
        store32(old_slot, 0)
    if moved:
        store32(slot, place + 1)
    store64(note + 24, 0)
    store64(at, spte)
    store64(block + REFILLS, load64(block + REFILLS) + 1)
    return spte


def fault(block: int, gva: int, kind: int, user: int) -> int:
    """Return 1 + the error code if the guest's leaf entry, and it alone, denies a read or write,
    or 0 if Python must decide. To be asked after :func:`hit`; changes nothing but a count.
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
    while shift != 12:
        spte = load64(words + ((place + ((gva >> shift) & 511)) << 3))
        if spte & 0x81 != 1:
            return 0
        place = (spte & _FRAME) >> 3
        shift -= 9
    about_at = load64(block + NOTES) + ((place >> 9) << 5)
    about = load64(about_at)
    if about & NOTE_IS_TABLE == 0:
        return 0
    table = load64(about_at + 8)
    if about & NOTE_WIDE != 0:
        gpte = load64(table + (((gva >> 12) & 511) << 3))
    else:
        gpte = load32(table + (((gva >> 12) & 1023) << 2))
    code = 1 + (2 if kind == 1 else 0) + 4 * user
    if gpte & 1 != 0:
        # What a supervisor may not, depends on CR0.WP and SMAP.
        rights = (about >> NOTE_ACCESS_SHIFT) & gpte
        if user == 0 or gpte & load64(block + RESERVED) != 0:
            return 0
        if rights & 4 != 0 and (kind == 0 or rights & 2 != 0):
            return 0
        keys = load64(block + KEYS + user * 24 + kind * 8)
        if keys != 0 and rights & 4 != 0 and (keys >> ((gpte >> 59) & 15)) & 1 != 0:
            return 0  # the error code says so
        code += 1
    store64(block + FAULTS, load64(block + FAULTS) + 1)
    return code


class Block:
    """One vCPU's block, kept up to date by the shadow MMU."""

    def __init__(self, cpu: int) -> None:
        self._memory = (ctypes.c_uint64 * (BLOCK_BYTES // 8))()
        self.address = ctypes.addressof(self._memory)
        self.words = memoryview(self._memory).cast("B").cast("Q")
        self.words[RUNNER // 8] = 1 << cpu

    @property
    def fills(self) -> int:
        """How many misses :func:`hit` has answered."""
        return self.words[FILLS // 8]

    @property
    def refills(self) -> int:
        """How many of them needed a new leaf."""
        return self.words[REFILLS // 8]

    @property
    def faults(self) -> int:
        """How many page faults of the guest's :func:`fault` has found."""
        return self.words[FAULTS // 8]

    @property
    def mmio_hits(self) -> int:
        """How many answers led to a device or to nothing."""
        return self.words[MMIO_HITS // 8]

    def set_root(self, root: int) -> None:
        """Let the walk start at another place."""
        self.words[ROOT // 8] = root

    def publish(self, context: ShadowContext, cache: ShadowCache) -> None:
        """Show a vCPU's context, all but its root, to the compiled code. About 3 us."""
        words = self.words
        paging = context.paging
        pool, tlb = cache.pool, cache.tlb
        words[WORDS // 8] = pool.address
        words[TOP_SHIFT // 8] = context.shifts[0]
        words[GVA_MASK // 8] = paging.gva_mask  # all ones: -1
        words[CANONICAL // 8] = paging.canonical_bits - 1
        words[BLOCKED // 8] = bool(cache.observers)
        words[NO_WRITES // 8] = tlb.is_logging
        words[SMAP // 8] = paging.smap
        words[TRACKER // 8] = tlb.shared_address
        words[NOTES // 8] = pool.notes_address
        words[RESERVED // 8] = paging.leaf_reserved
        words[FRAME_BITS // 8] = paging.frame_mask
        words[EPOCHS // 8] = pool.epochs_address
        words[FRAMES // 8] = len(cache.frame_state)
        words[STATES // 8] = cache.frame_state_address
        words[SLOTS // 8] = cache.rmap.address
        at = TESTS // 8
        for user in (0, ACCESS_USER):
            for kind in KINDS:
                words[at], words[at + 1] = context.tests[kind | user]
                at += 2
        denied = denied_keys(paging.regs.pkru, paging.wp) if paging.pke else {}
        for at, access in enumerate(kind | user for user in (0, ACCESS_USER) for kind in KINDS):
            words[KEYS // 8 + at] = denied.get(access, 0)
