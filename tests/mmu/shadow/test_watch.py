# SPDX-License-Identifier: GPL-2.0-or-later
"""The watch: what an event broke is found by looking at what the event touched."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest

from mmu.api import InvariantError
from mmu.testing.mutants import Mutant, protection, roots, writes
from mmu.testing.setup import make_case
from mmu.testing.steps import Steps
from mmu.testing.world import World

from ..rig import READ, WRITE, Rig
from ..tables import USER_RW
from ..watched import Watched
from . import test_audit as broken
from .test_audit import GVA, LARGE_GVA, behind, live_rig, place_of

TOUCHED = {
    1: [broken.a_table_is_mapped_writable],
    2: [
        broken.a_leaf_is_writable,
        broken.a_leaf_is_writable_before_the_guest_knows,
        broken.a_leaf_in_a_direct_page_has_another_frame,
        broken.a_leaf_is_trapped_for_no_reason,
        broken.an_entry_is_neither_empty_nor_present,
        broken.an_upper_entry_leads_to_another_page,
        broken.a_large_entry_where_the_guest_has_a_table,
        broken.a_root_table_leads_to_a_strange_directory,
    ],
    3: [broken.an_upper_entry_holds_rights_back, broken.an_upper_entry_lacks_write],
}


@pytest.mark.parametrize(
    ("number", "corrupt"),
    [(number, corrupt) for number, all_of in TOUCHED.items() for corrupt in all_of],
    ids=lambda word: word.__name__ if callable(word) else str(word),
)
def test_an_entry_written_wrongly_is_found(number, corrupt):
    rig = live_rig()
    watch = rig.mmu.watch()
    watch.event()
    corrupt(rig)
    with pytest.raises(InvariantError, match=f"^invariant {number}: "):
        watch.event()
    assert watch.audits == 0


@pytest.mark.parametrize("mode", ["32-bit", "pae", "4-level"])
@pytest.mark.parametrize(("gva", "level"), [(GVA, 1), (GVA, 2), (LARGE_GVA, 2)])
def test_a_write_that_zapped_nothing_is_found(mode, gva, level):
    rig = live_rig()
    watch = rig.mmu.watch()
    behind(rig, gva, level, 0x9000 | USER_RW, mode)
    watch.event()  # nobody has said anything yet
    tables = rig.spaces[mode]
    with pytest.raises(InvariantError, match=r"^invariant 2: "):
        watch.written(tables.gpa_of_entry(gva, level), tables.entry_bytes)


def leaf_is_not_named(rig):
    place = place_of(rig)
    rig.mmu.cache.drop_leaf(place)
    rig.mmu.words[place] = 0x5000 | USER_RW


def leaf_is_dropped_and_named(rig):
    rig.mmu.words[place_of(rig)] = 0


def link_without_a_parent(rig):
    place = place_of(rig, GVA, 2)
    spte = rig.mmu.words[place]
    rig.mmu.cache.unlink(place)
    rig.mmu.words[place] = spte


def unlink_that_leaves_the_parent(rig):
    rig.mmu.words[place_of(rig, GVA, 2)] = 0


def a_page_goes_and_is_led_to(rig):
    place = place_of(rig, GVA, 2)
    spte = rig.mmu.words[place]
    rig.mmu.cache.zap_page(rig.mmu.pool.page_of(spte))
    rig.mmu.words[place] = spte


def a_root_in_use_goes(rig):
    rig.mmu.cache.zap_page(rig.mmu.contexts[0].root_page)


def a_page_goes_and_is_found_by_its_key(rig):
    page = rig.mmu.pool.page_at(place_of(rig))
    rig.mmu.cache.zap_page(page)
    rig.mmu.cache.pages[page.gfn << 24 | page.role] = page


def a_table_comes_and_stays_writable(rig):
    rig.mmu.cache.write_protect = lambda gfn: None
    rig.mmu.cache.get_page(5, rig.mmu.pool.page_at(place_of(rig)).role)


def more_pages_than_the_bound(rig):
    rig.mmu.pool.bound = len(rig.mmu.pool)
    rig.mmu.cache.get_page(0x300, rig.mmu.pool.page_at(place_of(rig)).role)


@pytest.mark.parametrize(
    ("number", "corrupt"),
    [
        (3, leaf_is_not_named),
        (3, leaf_is_dropped_and_named),
        (3, link_without_a_parent),
        (3, unlink_that_leaves_the_parent),
        (4, a_page_goes_and_is_led_to),
        (4, a_root_in_use_goes),
        (4, a_page_goes_and_is_found_by_its_key),
        (1, a_table_comes_and_stays_writable),
        (5, more_pages_than_the_bound),
    ],
    ids=lambda word: word.__name__ if callable(word) else str(word),
)
def test_notes_that_do_not_follow_are_found(number, corrupt):
    rig = live_rig()
    watch = rig.mmu.watch()
    corrupt(rig)
    with pytest.raises(InvariantError, match=f"^invariant {number}: "):
        watch.event()


def test_a_grant_is_looked_at():
    rig = live_rig()
    watch = rig.mmu.watch()
    tlb = rig.mmu.tlb
    tlb.grant_exec(0, 0x77)
    tlb.written_epoch[0x77] = tlb.epoch
    with pytest.raises(InvariantError, match=r"^invariant 6: "):
        watch.translated(0, GVA, 0x77000 | 5)
    gfn = rig.spaces["4-level"].cr3 >> 12
    tlb.written_epoch[gfn] = tlb.epoch
    with pytest.raises(InvariantError, match=r"^invariant 1: "):
        watch.translated(0, GVA, gfn << 12 | 3)


@pytest.mark.parametrize("pins", [0, 2])
def test_pins_are_counted_at_a_load(pins):
    rig = live_rig()
    watch = rig.mmu.watch()
    rig.mmu.contexts[0].root_page.pins = pins
    with pytest.raises(InvariantError, match=r"^invariant 4: "):
        watch.loaded(0)


def test_everything_is_checked_now_and_then():
    rig = live_rig()
    watch = rig.mmu.watch()
    rig.mmu.cache.rmap.add(5, place_of(rig, GVA + 0x10000))  # touches no entry
    with pytest.raises(InvariantError, match=r"^invariant 3: .*rmap only"):
        for _ in range(128):
            watch.event()
    assert (watch.events, watch.audits) == (128, 1)


def test_nothing_is_noted_without_a_watch():
    assert isinstance(Rig("shadow").mmu.words, memoryview)


def test_what_is_right_is_not_complained_of():
    for number in range(12):
        random = Random(f"watched {number}")
        case = make_case(random, "tests.mmu.watched:Watched")
        world = World(case)
        steps = Steps(random, case, world)
        for _ in range(200):
            world.do(steps.next())
        world.check_all()


def dies(mutant, act):
    class Both(mutant, Watched):
        pass

    assert issubclass(Both, Mutant)
    with pytest.raises(InvariantError):
        act(partial(Rig, Both, policy="unsync=off,large=off"))


def touches_many_pages(rigs):
    rig = rigs(pool=6)
    tables = rig.tables("4-level", 0x100)
    for number in range(8):
        tables.map(number << 30, 0x5000 + number * 0x1000)
    rig.enter(tables)
    for number in range(8):
        rig.may(number << 30, READ)


def edits_a_directory(rigs):
    rig = rigs()
    tables = rig.tables("32-bit", 0x100)
    for gva in (GVA, GVA | 1 << 21):
        tables.map(gva, 0x5000)
    directory = tables.gpa_of_entry(GVA, 2)
    tables.map(0xC0000000, directory & ~0xFFF)
    rig.enter(tables)
    for gva in (GVA, GVA | 1 << 21):
        rig.may(gva, READ)
    rig.store(0xC0000000 | directory & 0xFFF, 4, 0)


def maps_a_table_first(rigs):
    rig = rigs(cpus=2)
    tables = rig.tables("4-level", 0x100)
    tables.map(GVA, 0x180000)
    rig.enter(tables)
    rig.may(GVA, WRITE)
    others = rig.tables("4-level", 0x180)
    others.map(GVA, 0x5000)
    rig.enter(others, cpu=1)


@pytest.mark.parametrize(
    ("mutant", "act"),
    [
        (roots.ParentsNotUnlinked, touches_many_pages),
        (roots.ReverseMapLeaks, touches_many_pages),
        (writes.DirectoryEditZapsOneHalf, edits_a_directory),
        (writes.WrongQuadrantZapped, edits_a_directory),
        (protection.OldMappingsStayWritable, maps_a_table_first),
        (protection.TlbsNotFlushedOnProtect, maps_a_table_first),
    ],
    ids=lambda word: word.__name__,
)
def test_mutants_die_of_it(mutant, act):
    dies(mutant, act)
