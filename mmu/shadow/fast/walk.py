# SPDX-License-Identifier: GPL-2.0-or-later
"""The walk over the shadow tables as compiled code: what hardware does under KVM, and a bit more.

:func:`hit` gives the answer of :meth:`ShadowMmu.translate`: it follows the tables from the vCPU's
root and answers if the leaf allows the access. If the leaf is missing or too narrow, :func:`refill`
makes it from the guest's entry, as :meth:`Faults.leaf_fault` does. :func:`fault` finds the page
fault of the guest's own if the guest's leaf entry alone decides it. All three return 0 where a rule
needs a second look, and then Python decides. They never enter Python, and leave behind what Python
would: the epochs of the leaf and of the tracker, A and D, the reverse map.

The functions are written in a small subset of Python (signed 64-bit integers, ``while``, ``if``,
calls of each other, and the loads and stores of :mod:`mmu.hostmemory`), so that the same text runs
compiled and, for tests, as it stands. emu/jit.py compiles it. Words are signed here, so the bit NX
is the sign. The names in capitals are the offsets and bits of record.py and pool.py.

A host address is called ``at_...``, or by the record that it points to: ``block``, ``record``.
"""

from __future__ import annotations

from ...api import MAP_EXEC, MAP_READ, MAP_TRAP, MAP_WRITE
from ...arch import (
    ACC_EXEC,
    ACC_USER,
    ACC_WRITE,
    PAGE_SHIFT,
    PFERR_PRESENT,
    PFERR_USER,
    PFERR_WRITE,
    PT_ACCESSED,
    PT_DIRTY,
    PT_PRESENT,
)
from ...hostmemory import load8, load32, load64, store8, store32, store64
from ..pool import (
    SPTE_FRAME,
    SPTE_LARGE,
    SPTE_PKEY_SHIFT,
    SPTE_PRESENT,
    SPTE_TRAP,
    SPTE_USER,
    SPTE_WRITABLE,
    TABLE_SHIFT,
)
from .record import (
    ABOUT,
    ABOUT_ACCESS_SHIFT,
    ABOUT_ALONE,
    ABOUT_HAS_PKEY,
    ABOUT_IS_TABLE,
    ABOUT_WIDE,
    BLOCKED,
    CANONICAL,
    CHECK_BYTES,
    CHECKS,
    COPY,
    EPOCHS,
    FAULTS,
    FILLS,
    FRAME_BITS,
    FRAME_RAM,
    FRAMES,
    GVA_MASK,
    KEY_BYTES,
    KEYS,
    KIND_FETCH,
    KIND_READ,
    KIND_WRITE,
    MMIO_HITS,
    NO_WRITES,
    RECORD_BYTES,
    RECORDS,
    REFILLS,
    RESERVED,
    RMAP,
    ROOT,
    RUNNER,
    SMAP,
    STATES,
    TABLE,
    TABLES,
    TOP_SHIFT,
    TRACKER,
    TRACKER_EPOCH,
    TRACKER_FETCHED,
    TRACKER_RUNNERS,
    TRACKER_WRITTEN,
    USER_CHECKS,
    USER_KEYS,
    WRITES,
)

FUNCTIONS = (
    *("find_entry", "table_record", "at_guest_entry", "guest_entry", "is_stale", "key_denies"),
    *("grant", "make_leaf", "rmap_slot", "refill", "hit", "fault"),
)
"""What is to be compiled, each after those that it calls."""

NOWHERE = -1
NX = -(1 << 63)
PKEY = 15 << SPTE_PKEY_SHIFT
INDEX = (1 << TABLE_SHIFT) - 1  # of an entry in a table of 512
INDEX_32 = 1023  # of an entry in a 32-bit guest's table
LARGE_OFFSET = INDEX << PAGE_SHIFT  # which 4 KiB of a large page
SPTE_BYTES_SHIFT = 3
RIGHTS = ACC_WRITE | ACC_USER  # where an entry has them, a union of ACC_* has them too
A_AND_D = PT_ACCESSED | PT_DIRTY


# --- Finding ----------------------------------------------------------------------------------


def find_entry(block: int, gva: int) -> int:
    """Return the place of the entry that maps an address: a leaf, present or not, or an entry that
    maps 2 MiB. NOWHERE if an entry above is missing, the address is not canonical, or Python is to
    answer everything."""
    if load64(block + BLOCKED) != 0:
        return NOWHERE
    gva &= load64(block + GVA_MASK)
    top = gva >> load64(block + CANONICAL)
    if top != 0 and top != -1:
        return NOWHERE
    tables = load64(block + TABLES)
    place = load64(block + ROOT)
    shift = load64(block + TOP_SHIFT)
    while shift != PAGE_SHIFT:
        place += (gva >> shift) & INDEX
        spte = load64(tables + (place << SPTE_BYTES_SHIFT))
        if spte & SPTE_PRESENT == 0:
            return NOWHERE
        if spte & SPTE_LARGE != 0:
            return place
        place = ((spte & SPTE_FRAME) >> PAGE_SHIFT) << TABLE_SHIFT
        shift -= TABLE_SHIFT
    return place + ((gva >> PAGE_SHIFT) & INDEX)


def table_record(block: int, place: int) -> int:
    """Return the record of the table that owns a place."""
    return load64(block + RECORDS) + (place >> TABLE_SHIFT) * RECORD_BYTES


def at_guest_entry(record: int, gva: int) -> int:
    """Return where the guest's leaf entry for an address is."""
    if load64(record + ABOUT) & ABOUT_WIDE != 0:
        return load64(record + TABLE) + (((gva >> PAGE_SHIFT) & INDEX) << 3)
    return load64(record + TABLE) + (((gva >> PAGE_SHIFT) & INDEX_32) << 2)


def guest_entry(record: int, at_entry: int) -> int:
    """Return the guest's entry."""
    if load64(record + ABOUT) & ABOUT_WIDE != 0:
        return load64(at_entry)
    return load32(at_entry)


def is_stale(record: int, gva: int) -> int:
    """Return whether the guest's table is out of sync and the word that the entry for an address
    was made from has changed since. One word holds two entries of a 32-bit guest."""
    copy = load64(record + COPY)
    if copy == 0:
        return 0
    table = load64(record + TABLE)
    offset = (at_guest_entry(record, gva) - table) & ~7
    return 1 if load64(copy + offset) != load64(table + offset) else 0


def key_denies(keys: int, spte: int) -> int:
    """Return whether one of the protection keys that deny the access is a user page's."""
    if keys == 0 or spte & SPTE_USER == 0:
        return 0
    return (keys >> ((spte >> SPTE_PKEY_SHIFT) & 15)) & 1


# --- Answering --------------------------------------------------------------------------------


def hit(block: int, gva: int, kind: int, user: int) -> int:
    """Return the Mapping for an access, or 0 if Python must decide.

    ``kind`` is KIND_*; ``user`` is 1 at CPL 3.
    """
    place = find_entry(block, gva)
    if place == NOWHERE:
        return 0
    spte = load64(load64(block + TABLES) + (place << SPTE_BYTES_SHIFT))
    check = block + CHECKS + user * USER_CHECKS + kind * CHECK_BYTES
    # A fetch is granted together with a read, so the keys that deny reads count for it.
    key_kind = KIND_WRITE if kind == KIND_WRITE else KIND_READ
    keys = load64(block + KEYS + user * USER_KEYS + key_kind * KEY_BYTES)
    is_allowed = spte & load64(check) == load64(check + 8)
    if spte & SPTE_LARGE != 0:
        if not is_allowed or key_denies(keys, spte) != 0:
            return 0
        gpa = (spte & SPTE_FRAME) | (gva & LARGE_OFFSET)
    else:
        if not is_allowed or is_stale(table_record(block, place), gva) != 0:
            spte = refill(block, place, gva, kind, check, keys)
            if spte == 0:
                return 0
        elif key_denies(keys, spte) != 0:
            return 0
        gpa = spte & SPTE_FRAME
    answer = grant(block, spte, gpa, kind, user)
    if answer != 0:
        store8(load64(block + EPOCHS) + place, load64(load64(block + TRACKER) + TRACKER_EPOCH))
        store64(block + FILLS, load64(block + FILLS) + 1)
    return answer


def grant(block: int, spte: int, gpa: int, kind: int, user: int) -> int:
    """Return the Mapping for a frame that the access may use, and note the grant; 0 if the rule of
    translated code (:mod:`mmu.tlb`) needs a second look."""
    if spte & SPTE_TRAP != 0:  # a device, or nothing
        if kind == KIND_FETCH:
            return 0
        store64(block + MMIO_HITS, load64(block + MMIO_HITS) + 1)
        if kind == KIND_WRITE:
            return gpa | MAP_READ | MAP_WRITE | MAP_TRAP
        return gpa | MAP_READ | MAP_TRAP
    if kind == KIND_READ:
        return gpa | MAP_READ
    tracker = load64(block + TRACKER)
    epoch = load64(tracker + TRACKER_EPOCH)
    at_written = load64(tracker + TRACKER_WRITTEN) + (gpa >> PAGE_SHIFT)
    at_fetched = load64(tracker + TRACKER_FETCHED) + (gpa >> PAGE_SHIFT)
    if kind == KIND_WRITE:
        if load64(block + NO_WRITES) != 0 or load8(at_fetched) != 0:
            return 0
        store8(at_written, epoch)
        return gpa | MAP_READ | MAP_WRITE
    if user == 0 and spte & SPTE_USER != 0 and load64(block + SMAP) != 0:
        return 0  # the entry may not allow reads
    if load8(at_written) != 0 or load8(at_fetched) == 0:
        return 0
    runners = load64(tracker + TRACKER_RUNNERS)
    if runners != 0 and load32(runners + (gpa >> PAGE_SHIFT << 2)) & load64(block + RUNNER) == 0:
        return 0
    store8(at_fetched, epoch)
    return gpa | MAP_READ | MAP_EXEC


# --- Making a leaf ----------------------------------------------------------------------------


def make_leaf(block: int, about: int, gpte: int) -> int:
    """Return the leaf that follows from a guest's entry whose A and D are as they will be; 0 if
    the entry is not present, has reserved bits, or leads to a frame that is no ordinary RAM."""
    if gpte & PT_PRESENT == 0 or gpte & load64(block + RESERVED) != 0:
        return 0
    rights = (about >> ABOUT_ACCESS_SHIFT) & ((gpte & RIGHTS) | ACC_EXEC)
    if about & ABOUT_WIDE != 0 and gpte & NX != 0:
        rights &= ~ACC_EXEC
    frame = gpte & load64(block + FRAME_BITS)
    gfn = frame >> PAGE_SHIFT
    if gfn >= load64(block + FRAMES) or load8(load64(block + STATES) + gfn) != FRAME_RAM:
        return 0
    spte = frame | SPTE_PRESENT | (rights & ACC_USER)
    if rights & ACC_EXEC == 0:
        spte |= NX
    if rights & ACC_WRITE != 0 and gpte & PT_DIRTY != 0:
        spte |= SPTE_WRITABLE
    if about & ABOUT_HAS_PKEY != 0:
        spte |= gpte & PKEY
    return spte


def rmap_slot(block: int, spte: int, holds: int) -> int:
    """Return which of the two slots of a leaf's frame in the reverse map holds a value; 0 if none
    does. (0: an empty slot; ``place + 1``: the place.)"""
    at_slot = load64(block + RMAP) + (((spte & SPTE_FRAME) >> PAGE_SHIFT) << 3)
    if load32(at_slot) == holds:
        return at_slot
    return at_slot + 4 if load32(at_slot + 4) == holds else 0


def refill(block: int, place: int, gva: int, kind: int, check: int, keys: int) -> int:
    """Make the leaf at ``place`` from the guest's entry, and return it; 0 if that does not allow
    the access, or if more follows from the change than is seen here.

    ``check`` is where (mask, want) for the access stand, ``keys`` are the protection keys that
    deny it. First everything is decided; then everything is changed.
    """
    record = table_record(block, place)
    about = load64(record + ABOUT)
    if about & ABOUT_IS_TABLE == 0:
        return 0
    at_entry = at_guest_entry(record, gva)
    before = guest_entry(record, at_entry)
    gpte = before | (A_AND_D if kind == KIND_WRITE else PT_ACCESSED)
    spte = make_leaf(block, about, gpte)
    if spte == 0 or spte & load64(check) != load64(check + 8) or key_denies(keys, spte) != 0:
        return 0
    # Setting A or D changes the bytes of a table, which may follow elsewhere.
    if gpte != before:
        at_fetched = load64(load64(block + TRACKER) + TRACKER_FETCHED)
        at_fetched += (about & SPTE_FRAME) >> PAGE_SHIFT
        if about & ABOUT_ALONE == 0 or load8(at_fetched) != 0 or load64(block + NO_WRITES) != 0:
            return 0
    # Out of sync: the copy of the entry's word is to be renewed, and nothing else follows from it.
    at_word = at_entry & ~7
    at_copy = load64(record + COPY)
    if at_copy != 0:
        at_copy += at_word - load64(record + TABLE)
        if about & ABOUT_ALONE == 0:
            return 0
        if about & ABOUT_WIDE == 0 and load64(at_copy) != load64(at_word):
            return 0
    at_spte = load64(block + TABLES) + (place << SPTE_BYTES_SHIFT)
    old = load64(at_spte)
    at_old_slot = 0
    at_slot = 0
    if old & SPTE_PRESENT == 0 or (old ^ spte) & (SPTE_FRAME | SPTE_TRAP) != 0:
        at_slot = rmap_slot(block, spte, 0)
        if at_slot == 0:
            return 0
        if old & (SPTE_PRESENT | SPTE_TRAP) == SPTE_PRESENT:
            at_old_slot = rmap_slot(block, old, place + 1)
            if at_old_slot == 0:
                return 0

    if gpte != before:
        if about & ABOUT_WIDE != 0:
            store64(at_entry, gpte)
        else:
            store32(at_entry, gpte)
    if at_copy != 0:
        store64(at_copy, load64(at_word))
    if at_old_slot != 0:
        store32(at_old_slot, 0)
    if at_slot != 0:
        store32(at_slot, place + 1)
    store64(record + WRITES, 0)
    store64(at_spte, spte)
    store64(block + REFILLS, load64(block + REFILLS) + 1)
    return spte


# --- Refusing ---------------------------------------------------------------------------------


def fault(block: int, gva: int, kind: int, user: int) -> int:
    """Return 1 + the error code if the guest's leaf entry alone denies a read or a write; 0 if
    Python must decide. To be asked after :func:`hit`. Changes nothing but a count.
    """
    place = find_entry(block, gva)
    if place == NOWHERE:
        return 0
    record = table_record(block, place)
    about = load64(record + ABOUT)
    if about & ABOUT_IS_TABLE == 0:  # among others, the entry maps 2 MiB
        return 0
    gpte = guest_entry(record, at_guest_entry(record, gva))
    code = (PFERR_WRITE if kind == KIND_WRITE else 0) | (PFERR_USER if user != 0 else 0)
    if gpte & PT_PRESENT != 0:
        # What a supervisor may not do depends on CR0.WP and SMAP too.
        if user == 0 or gpte & load64(block + RESERVED) != 0:
            return 0
        rights = (about >> ABOUT_ACCESS_SHIFT) & gpte & RIGHTS
        if rights & ACC_USER != 0:
            if kind == KIND_READ or rights & ACC_WRITE != 0:
                return 0
            keys = load64(block + KEYS + user * USER_KEYS + kind * KEY_BYTES)
            if (keys >> ((gpte >> SPTE_PKEY_SHIFT) & 15)) & 1 != 0:
                return 0  # the error code has PK too
        code |= PFERR_PRESENT
    store64(block + FAULTS, load64(block + FAULTS) + 1)
    return 1 + code
