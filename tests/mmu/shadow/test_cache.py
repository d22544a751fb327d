# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache by itself: pages, links, protection, zaps, floods, tables out of sync."""

from __future__ import annotations

from array import array

import pytest

from mmu.memory import Memory
from mmu.observe import Counters
from mmu.shadow.cache import FLOOD_WRITES, ShadowCache
from mmu.shadow.policy import Policy
from mmu.shadow.pool import (
    SPTE_LARGE,
    SPTE_NX,
    SPTE_PRESENT,
    SPTE_TRAP,
    SPTE_TRAP_WRITE,
    SPTE_USER,
    SPTE_WRITABLE,
    Pool,
)
from mmu.shadow.role import make_role
from mmu.tlb import TlbTracker

from ..rig import Device, ModelTlb

LONG, NARROW = 4, 2
LEAF = make_role(LONG, 1)
UPPER = make_role(LONG, 2)
DIRECT = make_role(LONG, 1, direct=True)


class Bench:
    """A cache over 16 MiB of RAM, with ROM and a device behind it."""

    def __init__(self, bound=12, policy=Policy()):  # noqa: B008
        self.memory = Memory()
        self.memory.add_ram(0, 16 << 20)
        self.memory.add_rom(16 << 20, b"rom")
        self.memory.add_mmio(32 << 20, 0x1000, Device())
        self.counters = Counters()
        self.host = ModelTlb(1)
        self.tlb = TlbTracker(self.memory, self.host, 1, self.counters)
        self.pool = Pool(bound, 1, 4)
        self.cache = ShadowCache(self.memory, self.tlb, self.pool, self.counters, policy)
        self.words = self.pool.words

    def leaf(self, page, index, gfn, flags=SPTE_WRITABLE):
        place = page.base + index
        self.cache.set_leaf(place, SPTE_PRESENT | gfn << 12 | flags)
        return place


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def cache(bench):
    return bench.cache


def test_a_page_is_made_once_and_found_by_its_key(bench, cache):
    page = cache.get_page(5, LEAF)
    assert cache.get_page(5, LEAF) is page
    assert cache.find(5, LEAF) is page
    assert cache.find(5, UPPER) is None
    other = cache.get_page(5, UPPER)
    assert cache.tables == {5: [page, other]}
    assert (bench.counters.mmu_cache_miss, bench.counters.mmu_cache_hit) == (2, 1)
    assert cache.get_page(5, DIRECT) not in cache.tables[5]


def test_the_first_page_of_a_frame_protects_it(bench, cache):
    page = cache.get_page(1, LEAF)
    places = [bench.leaf(page, index, 5) for index in (0, 9)]
    bench.leaf(page, 1, 6)
    bench.tlb.grant_write(0, 5, False)
    flushes, version = bench.host.flushes, cache.version
    cache.get_page(5, UPPER)
    for place in places:
        assert bench.words[place] & (SPTE_WRITABLE | SPTE_TRAP_WRITE) == SPTE_TRAP_WRITE
    assert bench.words[page.base + 1] & SPTE_WRITABLE
    assert not bench.tlb.may_be_writable(5)
    assert bench.host.flushes == flushes + 1
    assert cache.version > version
    assert cache.is_protected(5)
    assert not cache.is_protected(6)


def test_a_frame_in_no_tlb_is_protected_without_a_flush(bench, cache):
    cache.get_page(5, LEAF)
    assert bench.host.flushes == 0


def test_a_table_breaks_the_large_entries_around_it(bench, cache):
    assert cache.may_be_large(0x400)
    page = cache.get_page(1, UPPER)
    place = page.base + 3
    cache.set_leaf(place, SPTE_PRESENT | SPTE_LARGE | 0x400 << 12)
    cache.get_page(0x4FF, LEAF)
    assert bench.words[place] == 0
    assert list(cache.rmap_large.items()) == []
    assert not cache.may_be_large(0x400)
    cache.zap_page(cache.find(0x4FF, LEAF))
    assert cache.may_be_large(0x400)
    assert not cache.may_be_large(16 << 8), "ROM"
    assert not Bench(policy=Policy(large=False)).cache.may_be_large(0x400)


def test_leaves_are_in_the_reverse_map_as_long_as_they_stand(bench, cache):
    page = cache.get_page(1, LEAF)
    place = bench.leaf(page, 4, 5)
    assert cache.rmap.places(5) == (place,)
    bench.leaf(page, 4, 5, SPTE_USER)
    assert cache.rmap.places(5) == (place,)
    bench.leaf(page, 4, 6)
    assert (cache.rmap.places(5), cache.rmap.places(6)) == ((), (place,))
    bench.leaf(page, 4, 0x2000, SPTE_TRAP)
    assert cache.rmap.places(6) == ()
    cache.drop_leaf(place)
    assert bench.words[place] == 0


def test_links_know_each_other(bench, cache):
    parent, child = cache.get_page(1, UPPER), cache.get_page(2, LEAF)
    cache.link(parent.base + 7, child)
    cache.link(parent.base + 9, child)
    assert child.parents == {parent.base + 7, parent.base + 9}
    assert bench.pool.page_of(bench.words[parent.base + 7]) is child
    cache.unlink(parent.base + 7)
    assert child.parents == {parent.base + 9}
    cache.zap_page(child)
    assert bench.words[parent.base + 9] == 0
    assert cache.find(2, LEAF) is None
    assert 2 not in cache.tables


def test_a_zapped_page_lets_its_children_stand(bench, cache):
    parent, child = cache.get_page(1, UPPER), cache.get_page(2, LEAF)
    cache.link(parent.base, child)
    place = bench.leaf(child, 0, 5)
    version = cache.version
    cache.zap_page(parent)
    assert cache.find(2, LEAF) is child
    assert child.parents == set()
    assert cache.rmap.places(5) == (place,)
    cache.zap_page(child)
    assert cache.rmap.places(5) == ()
    assert cache.version > version
    assert bench.counters.mmu_shadow_zapped == 2


def test_room_is_made_by_recycling_the_longest_unused(bench, cache):
    pages = [cache.get_page(gfn, LEAF) for gfn in range(12)]
    pages[0].pins = 1
    cache.get_page(1, LEAF)
    cache.reserve(3)
    assert bench.pool.room == 3
    assert cache.find(0, LEAF) is pages[0]
    assert cache.find(1, LEAF) is pages[1]
    assert [gfn for gfn in range(12) if not cache.find(gfn, LEAF)] == [2, 3, 4]
    assert bench.counters.mmu_recycled == 3


def test_everything_goes_at_once_and_is_taken_apart_by_and_by(bench, cache):
    for gfn in range(10):
        page = cache.get_page(gfn, LEAF)
        bench.leaf(page, 0, 0x100 + gfn)
    cache.zap_all_fast()
    assert not cache.pages
    assert not cache.tables
    assert len(bench.pool) == 10
    again = cache.get_page(3, LEAF)
    assert not any(bench.words[again.base : again.base + 512])
    cache.reserve(1)
    assert len(cache.obsolete) == 8
    cache.reserve(12)
    assert cache.obsolete == []
    assert bench.pool.room == 12
    assert list(cache.rmap.items()) == []


def test_shrinking_takes_the_obsolete_first(bench, cache):
    for gfn in range(4):
        cache.get_page(gfn, LEAF)
    cache.zap_all_fast()
    kept = cache.get_page(9, LEAF)
    assert cache.shrink(3) == 3
    assert cache.find(9, LEAF) is kept
    assert cache.shrink(9) == 2
    assert len(bench.pool) == 0


@pytest.mark.parametrize(
    ("role", "offset", "size", "zapped"),
    [
        (make_role(LONG, 1), 16, 8, [2]),
        (make_role(LONG, 1), 20, 1, [2]),
        (make_role(LONG, 1), 20, 8, [2, 3]),
        (make_role(LONG, 1), 12, 16, [1, 2, 3]),
        (make_role(NARROW, 1), 8, 4, [2]),
        (make_role(NARROW, 1), 4, 8, [1, 2]),
        (make_role(NARROW, 1), 0x800, 8, []),
        (make_role(NARROW, 1, quadrant=1), 0x808, 4, [2]),
        (make_role(NARROW, 1, quadrant=1), 0x7FE, 4, [0]),
        (make_role(NARROW, 2), 4, 4, [2, 3]),
        (make_role(NARROW, 2), 0x3FC, 8, [510, 511]),
        (make_role(NARROW, 2, quadrant=1), 0x3FC, 8, [0, 1]),
        (make_role(NARROW, 2, quadrant=3), 0xFFC, 4, [510, 511]),
        (make_role(NARROW, 2, quadrant=2), 0x7FF, 2, [0, 1]),
    ],
)
def test_a_write_zaps_what_followed_from_its_bytes(bench, cache, role, offset, size, zapped):
    page = cache.get_page(5, role)
    for index in range(512):
        if page.level > 1:
            cache.link(page.base + index, cache.get_page(0x100, LEAF))
        else:
            bench.leaf(page, index, 0x200)
    cache.guest_wrote(0x5000 + offset, size)
    empty = [index for index in range(512) if not bench.words[page.base + index]]
    assert empty == zapped
    assert bench.counters.mmu_pde_zapped == len(zapped)


def test_accessed_and_dirty_concern_the_other_width_only(bench, cache):
    wide, narrow = cache.get_page(5, make_role(LONG, 1)), cache.get_page(5, make_role(NARROW, 1))
    for page in (wide, narrow):
        for index in range(4):
            bench.leaf(page, index, 0x200)
    cache.guest_wrote(0x5008, 8, entry_bytes=8)
    assert all(bench.words[wide.base + index] for index in range(4))
    assert [bool(bench.words[narrow.base + index]) for index in range(4)] == [1, 1, 0, 0]
    cache.guest_wrote(0x5000, 4, entry_bytes=4)
    assert [bool(bench.words[wide.base + index]) for index in range(4)] == [0, 1, 1, 1]
    assert bench.counters.mmu_pte_write == 0
    assert wide.writes == narrow.writes == 0


def test_a_flood_of_writes_ends_the_page(bench, cache):
    page = cache.get_page(5, LEAF)
    for _ in range(FLOOD_WRITES - 1):
        cache.guest_wrote(0x5000, 8)
    page.writes = 0  # used
    for _ in range(FLOOD_WRITES - 1):
        cache.guest_wrote(0x5000, 8)
    assert cache.find(5, LEAF) is page
    cache.guest_wrote(0x5000, 8)
    assert cache.find(5, LEAF) is None
    assert bench.counters.mmu_flooded == 1


def test_no_flood_drowns_a_page_in_use():
    bench = Bench()
    pinned, root = bench.cache.get_page(5, LEAF), bench.cache.get_page(6, UPPER)
    pinned.pins = 1
    bench.cache.link(bench.pool.root_table(0) + 1, root)
    unwatched = Bench(policy=Policy(flood=False))
    unwatched.cache.get_page(5, LEAF)
    for _ in range(10):
        bench.cache.guest_wrote(0x5000, 8)
        bench.cache.guest_wrote(0x6000, 8)
        unwatched.cache.guest_wrote(0x5000, 8)
    assert bench.cache.find(5, LEAF) is pinned
    assert bench.cache.find(6, UPPER) is root
    assert unwatched.cache.find(5, LEAF) is not None


def test_a_leaf_table_may_go_out_of_sync_and_come_back(bench, cache):
    page = cache.get_page(5, LEAF)
    for index in range(4):
        bench.leaf(page, index, 0x200 + index)
    assert cache.unsync.try_unsync(5)
    assert not cache.is_protected(5)
    assert page.copy is cache.unsync.copies[5]
    assert page.copy == array("Q", bench.memory.table64(5))
    bench.memory.table64(5)[2] = 0x7777
    assert [cache.unsync.is_stale(page.base + index) for index in range(4)] == [0, 0, 1, 0]
    cache.unsync.sync(5)
    assert page.copy is None, "nothing is to be compared any more"
    assert cache.is_protected(5)
    assert [bool(bench.words[page.base + index]) for index in range(4)] == [1, 1, 0, 1]


def test_an_upper_table_may_not_and_brings_the_frame_back(bench, cache):
    leaf = cache.get_page(5, LEAF)
    bench.leaf(leaf, 3, 0x200)
    assert cache.unsync.try_unsync(5)
    bench.memory.table64(5)[3] = 1
    cache.get_page(5, UPPER)
    assert cache.is_protected(5)
    assert not bench.words[leaf.base + 3]
    assert not cache.unsync.try_unsync(5)
    assert not Bench(policy=Policy(unsync=False)).cache.unsync.try_unsync(5)


def test_an_entry_filled_while_out_of_sync_is_stale_when_its_word_is_what_it_was(bench, cache):
    table = bench.memory.table64(5)
    page, other = cache.get_page(5, LEAF), cache.get_page(5, make_role(LONG, 1, access=1))
    table[0], table[1] = 10, 11
    cache.unsync.try_unsync(5)
    bench.leaf(other, 0, 0x300)
    table[0] = 20
    bench.leaf(page, 0, 0x200)  # from 20: what came from 10 goes
    assert not bench.words[other.base]
    table[0] = 10
    assert cache.unsync.is_stale(page.base)
    assert not cache.unsync.is_stale(page.base + 1)
    bench.leaf(page, 0, 0x100)
    assert not cache.unsync.is_stale(page.base)


def test_the_halves_of_a_word_in_a_table_of_4_byte_entries(bench, cache):
    table = bench.memory.table32(5)
    page = cache.get_page(5, make_role(NARROW, 1))
    cache.unsync.try_unsync(5)
    bench.leaf(page, 0, 0x200)
    bench.leaf(page, 1, 0x201)
    table[0] = 7
    assert cache.unsync.is_stale(page.base)
    assert cache.unsync.is_stale(page.base + 1), "the word is compared as a whole"
    bench.leaf(page, 0, 0x300)
    assert not bench.words[page.base + 1]
    assert bench.words[page.base]


@pytest.mark.parametrize(
    ("gfn", "writable", "bits"),
    [
        (5, True, SPTE_WRITABLE),
        (5, False, 0),
        (6, True, SPTE_TRAP_WRITE),
        (16 << 8, True, SPTE_TRAP_WRITE),
        (16 << 8, False, 0),
        (32 << 8, True, SPTE_TRAP | SPTE_WRITABLE),
        (32 << 8, False, SPTE_TRAP),
        (1 << 27, True, SPTE_TRAP | SPTE_WRITABLE),
    ],
    ids=["ram", "clean ram", "table", "rom", "read-only rom", "device", "clean device", "hole"],
)
def test_leaves_for_all_kinds_of_frames(cache, gfn, writable, bits):
    cache.get_page(6, LEAF)
    assert cache.make_leaf(gfn, 7, writable=writable) == SPTE_PRESENT | SPTE_USER | gfn << 12 | bits
    assert cache.make_leaf(gfn, 0, writable=False) & (SPTE_NX | SPTE_USER) == SPTE_NX
    assert cache.make_leaf(gfn, 7, writable=False, pkey=9) >> 59 & 15 == 9
