# SPDX-License-Identifier: GPL-2.0-or-later
"""Each invariant broken on purpose, in each way that the audit is to catch, by name.

A corruption is a function of a rig with three live address spaces, one a mode; `INVARIANTS` lists
them under the number that the audit must give.
"""

from __future__ import annotations

import pytest

from mmu.api import InvariantError
from mmu.shadow.pool import (
    SPTE_LARGE,
    SPTE_NX,
    SPTE_PRESENT,
    SPTE_TRAP,
    SPTE_USER,
    SPTE_WRITABLE,
)
from mmu.testing.sdm import RW, US, A, D, P

from ..rig import READ, WRITE, Rig
from ..tables import USER_RW

GVA = 0x40001000
LARGE_GVA = 0x40800000


@pytest.fixture
def rig():
    return live_rig()


def live_rig(policy="unsync=off,large=off"):
    """Two vCPUs: PAE on one; 32-bit and then 4-level paging on the other, all with hot entries."""
    rig = Rig(cpus=2, pool=40, policy=policy)
    rig.spaces = {}
    for number, mode in enumerate(("pae", "32-bit", "4-level")):
        tables = rig.spaces[mode] = rig.tables(mode, 0x100 + 0x20 * number)
        tables.map(GVA, 0x5000)
        tables.map(GVA + 0x1000, 0x6000, P | US)
        tables.map(GVA + 0x2000, 0x7000)
        tables.map(GVA + 0x3000, tables.gpa_of_entry(GVA, 2) & ~0xFFF)
        tables.map(LARGE_GVA, 0x800000, level=2)
        rig.enter(tables, cpu=number % 2)
        cpu = number % 2
        if mode == "4-level":
            cpu = 0
        rig.may(GVA, WRITE, cpu)
        rig.may(GVA + 0x1000, READ, cpu)
        rig.may(GVA + 0x2000, READ, cpu)
        rig.may(GVA + 0x3000, WRITE, cpu)
        rig.may(LARGE_GVA + 0x3000, WRITE, cpu)
    rig.mmu.check()
    return rig


def place_of(rig, gva=GVA, level=1, cpu=0):
    """The place of the spte at `level` for an address."""
    context = rig.mmu.contexts[cpu]
    place = context.root
    shifts = (*context.shifts, 12)
    for shift, at in zip(shifts, range(len(shifts), 0, -1), strict=True):
        place += gva >> shift & 511
        if at == level:
            return place
        place = (rig.mmu.words[place] & 0xF_FFFF_FFFF_F000) >> 3
    raise LookupError(level)


def change(rig, gva=GVA, level=1, cpu=0, flip=0, set_to=None):
    place = place_of(rig, gva, level, cpu)
    rig.mmu.words[place] = rig.mmu.words[place] ^ flip if set_to is None else set_to


def behind(rig, gva, level, entry, mode="4-level"):
    """Change a guest's entry without anybody hearing of it."""
    tables = rig.spaces[mode]
    gpa = tables.gpa_of_entry(gva, level)
    size = tables.entry_bytes
    rig.memory.slot_at(gpa).view[gpa : gpa + size] = entry.to_bytes(size, "little")


# --- 1 -----------------------------------------------------------------------------------------


def a_table_is_mapped_writable(rig):
    change(rig, GVA + 0x3000, flip=SPTE_WRITABLE)


def a_tlb_may_let_stores_to_a_table_through(rig):
    gfn = rig.spaces["4-level"].cr3 >> 12
    rig.mmu.tlb.written_epoch[gfn] = rig.mmu.tlb.epoch


def a_checked_entry_may_too(rig):
    gfn = rig.spaces["32-bit"].cr3 >> 12
    rig.mmu.tlb.checked_epoch[gfn] = rig.mmu.tlb.epoch


def an_upper_table_is_out_of_sync(rig):
    gfn = rig.spaces["4-level"].cr3 >> 12
    rig.mmu.cache.unsync.copies[gfn] = rig.memory.table64(gfn)


def a_table_lies_in_a_large_page(rig):
    rig.mmu.cache.rmap_large.add(0, place_of(rig, LARGE_GVA, 2))


# --- 2 -----------------------------------------------------------------------------------------


def the_guests_entry_went_unseen(rig):
    behind(rig, GVA, 1, 0)


def the_guests_entry_lost_its_rights(rig):
    behind(rig, GVA, 1, 0x5000 | P | RW | A | D)


def the_guests_entry_has_another_frame(rig):
    behind(rig, GVA, 1, 0x9000 | USER_RW | A | D)


def the_guests_entry_has_a_reserved_bit(rig):
    behind(rig, GVA, 1, 0x5000 | USER_RW | A | D | 1 << 50)


def the_guests_entry_was_cleaned(rig):
    behind(rig, GVA, 1, 0x5000 | USER_RW | A)


def the_guests_entry_forbids_to_execute(rig):
    behind(rig, GVA, 1, 0x5000 | USER_RW | A | D | 1 << 63)


def the_guests_entry_has_another_key(rig):
    behind(rig, GVA, 1, 0x5000 | USER_RW | A | D | 1 << 59)


def an_upper_guest_entry_leads_elsewhere(rig):
    behind(rig, GVA, 2, 0x9000 | USER_RW | A)


def an_upper_guest_entry_lost_rights(rig):
    entry = rig.spaces["4-level"].entry(GVA, 3)
    behind(rig, GVA, 3, entry & ~RW)


def a_directory_entry_of_a_32_bit_guest_went(rig):
    behind(rig, GVA, 2, 0, "32-bit")


def a_large_guest_page_moved(rig):
    behind(rig, LARGE_GVA, 2, 0xA00000 | USER_RW | A | D | 0x80)


def a_large_guest_page_is_clean(rig):
    behind(rig, LARGE_GVA, 2, 0x800000 | USER_RW | A | 0x80)


def a_large_guest_page_became_a_table(rig):
    behind(rig, LARGE_GVA, 2, 0x800000 | USER_RW | A)


def a_large_guest_page_has_another_key(rig):
    behind(rig, LARGE_GVA, 2, 0x800000 | USER_RW | A | D | 0x80 | 3 << 59)


def a_leaf_is_the_users(rig):
    behind(rig, GVA, 1, 0x5000 | P | RW | A | D)


def a_leaf_is_writable(rig):
    change(rig, GVA + 0x1000, flip=SPTE_WRITABLE)


def a_leaf_is_writable_before_the_guest_knows(rig):
    change(rig, GVA + 0x2000, flip=SPTE_WRITABLE)


def a_leaf_in_a_direct_page_has_another_frame(rig):
    place = place_of(rig, LARGE_GVA + 0x3000)
    rig.mmu.cache.drop_leaf(place)
    rig.mmu.cache.set_leaf(place, 0x900000 | SPTE_PRESENT)


def a_leaf_in_a_direct_page_is_wider(rig):
    page = rig.mmu.pool.page_at(place_of(rig, LARGE_GVA + 0x3000))
    page.access &= ~SPTE_USER


def a_leaf_is_trapped_for_no_reason(rig):
    place = place_of(rig)
    spte = rig.mmu.words[place]
    rig.mmu.cache.drop_leaf(place)
    rig.mmu.words[place] = spte | SPTE_TRAP


def an_entry_is_neither_empty_nor_present(rig):
    change(rig, GVA + 0x10000, set_to=0x5000)


def an_upper_entry_leads_to_another_page(rig):
    one, other = place_of(rig, GVA, 2), place_of(rig, GVA, 3)
    page = rig.mmu.pool.page_of(rig.mmu.words[other])
    rig.mmu.cache.unlink(one)
    rig.mmu.cache.link(one, page)


def a_large_entry_where_the_guest_has_a_table(rig):
    place = place_of(rig, GVA, 2)
    rig.mmu.cache.unlink(place)
    rig.mmu.cache.set_leaf(place, 0x800000 | SPTE_PRESENT | SPTE_LARGE)


def a_root_table_leads_to_a_strange_directory(rig):
    cache = rig.mmu.cache
    place = place_of(rig, GVA, 3, cpu=1)
    page = rig.mmu.pool.page_of(rig.mmu.words[place])
    cache.unlink(place)
    cache.link(place + 1, page)


# --- 3 -----------------------------------------------------------------------------------------


def a_leaf_is_not_in_the_reverse_map(rig):
    rig.mmu.cache.rmap.remove(5, place_of(rig))


def the_reverse_map_names_an_empty_entry(rig):
    rig.mmu.cache.rmap.add(5, place_of(rig, GVA + 0x10000))


def the_reverse_map_of_large_pages_names_an_empty_entry(rig):
    rig.mmu.cache.rmap_large.add(5, place_of(rig, GVA + 0x200000, 2))


def a_page_does_not_know_its_parent(rig):
    place = place_of(rig, GVA, 2)
    rig.mmu.pool.page_of(rig.mmu.words[place]).parents.remove(place)


def a_page_names_a_parent_that_is_none(rig):
    page = rig.mmu.pool.page_of(rig.mmu.words[place_of(rig, GVA, 2)])
    page.parents.add(place_of(rig, GVA, 3))


def an_upper_entry_holds_rights_back(rig):
    change(rig, GVA, 2, flip=SPTE_USER)


def an_upper_entry_lacks_write(rig):
    change(rig, GVA, 3, flip=SPTE_WRITABLE)


# --- 4 -----------------------------------------------------------------------------------------


def a_root_is_not_pinned(rig):
    rig.mmu.contexts[0].root_page.pins = 0


def a_page_is_pinned_by_nobody(rig):
    rig.mmu.pool.page_at(place_of(rig)).pins = 1


def a_vcpu_runs_on_a_page_that_is_gone(rig):
    root = rig.mmu.contexts[0].root_page
    root.pins = 0
    rig.mmu.cache.zap_page(root)


def a_vcpu_starts_elsewhere(rig):
    rig.mmu.contexts[0].root += 512


def a_path_remembered_leads_elsewhere(rig):
    paths = rig.mmu.contexts[0].paths
    paths[GVA >> 21] = rig.mmu.pool.page_at(place_of(rig, cpu=1))


def a_path_remembered_is_gone(rig):
    rig.may(GVA)
    rig.mmu.contexts[0].paths[GVA + 0x200000 >> 21] = rig.mmu.pool.page_at(place_of(rig))


def a_page_is_not_found_by_its_key(rig):
    page = rig.mmu.pool.page_at(place_of(rig))
    for key, value in list(rig.mmu.cache.pages.items()):
        if value is page:
            del rig.mmu.cache.pages[key]


def a_key_finds_a_page_that_is_gone(rig):
    rig.mmu.cache.pages[12345] = rig.mmu.pool.page_at(place_of(rig))


def a_page_is_not_among_the_tables_of_its_frame(rig):
    page = rig.mmu.pool.page_at(place_of(rig))
    rig.mmu.cache.tables[page.gfn].remove(page)


def a_recycled_page_still_stands_for_a_table(rig):
    page = rig.mmu.pool.page_at(place_of(rig))
    rig.mmu.cache.tables[0x3F] = [page]


def an_obsolete_page_is_led_to(rig):
    page = rig.mmu.pool.page_at(place_of(rig))
    page.generation -= 1
    rig.mmu.cache.obsolete.append(page)
    for key, value in list(rig.mmu.cache.pages.items()):
        if value is page:
            del rig.mmu.cache.pages[key]
    rig.mmu.cache.tables[page.gfn].remove(page)


# --- 5, 6 --------------------------------------------------------------------------------------


def there_are_more_pages_than_the_bound(rig):
    rig.mmu.pool.bound = len(rig.mmu.pool) - 1


def a_frame_is_writable_and_executable(rig):
    tlb = rig.mmu.tlb
    tlb.grant_exec(0, 0x77)
    tlb.written_epoch[0x77] = tlb.epoch


INVARIANTS = {
    1: [
        a_table_is_mapped_writable,
        a_tlb_may_let_stores_to_a_table_through,
        a_checked_entry_may_too,
        an_upper_table_is_out_of_sync,
        a_table_lies_in_a_large_page,
    ],
    2: [
        the_guests_entry_went_unseen,
        the_guests_entry_lost_its_rights,
        the_guests_entry_has_another_frame,
        the_guests_entry_has_a_reserved_bit,
        the_guests_entry_was_cleaned,
        the_guests_entry_forbids_to_execute,
        the_guests_entry_has_another_key,
        an_upper_guest_entry_leads_elsewhere,
        an_upper_guest_entry_lost_rights,
        a_directory_entry_of_a_32_bit_guest_went,
        a_large_guest_page_moved,
        a_large_guest_page_is_clean,
        a_large_guest_page_became_a_table,
        a_large_guest_page_has_another_key,
        a_leaf_is_the_users,
        a_leaf_is_writable,
        a_leaf_is_writable_before_the_guest_knows,
        a_leaf_in_a_direct_page_has_another_frame,
        a_leaf_in_a_direct_page_is_wider,
        a_leaf_is_trapped_for_no_reason,
        an_entry_is_neither_empty_nor_present,
        an_upper_entry_leads_to_another_page,
        a_large_entry_where_the_guest_has_a_table,
        a_root_table_leads_to_a_strange_directory,
    ],
    3: [
        a_leaf_is_not_in_the_reverse_map,
        the_reverse_map_names_an_empty_entry,
        the_reverse_map_of_large_pages_names_an_empty_entry,
        a_page_does_not_know_its_parent,
        a_page_names_a_parent_that_is_none,
        an_upper_entry_holds_rights_back,
        an_upper_entry_lacks_write,
    ],
    4: [
        a_root_is_not_pinned,
        a_page_is_pinned_by_nobody,
        a_vcpu_runs_on_a_page_that_is_gone,
        a_vcpu_starts_elsewhere,
        a_path_remembered_leads_elsewhere,
        a_path_remembered_is_gone,
        a_page_is_not_found_by_its_key,
        a_key_finds_a_page_that_is_gone,
        a_page_is_not_among_the_tables_of_its_frame,
        a_recycled_page_still_stands_for_a_table,
        an_obsolete_page_is_led_to,
    ],
    5: [there_are_more_pages_than_the_bound],
    6: [a_frame_is_writable_and_executable],
}


@pytest.mark.parametrize(
    ("number", "corrupt"),
    [(number, corrupt) for number, all_of in INVARIANTS.items() for corrupt in all_of],
    ids=lambda word: word.__name__ if callable(word) else str(word),
)
def test_the_audit_catches(rig, number, corrupt):
    corrupt(rig)
    with pytest.raises(InvariantError, match=f"^invariant {number}: "):
        rig.mmu.check()


def test_every_invariant_is_in_the_list():
    assert set(INVARIANTS) == {1, 2, 3, 4, 5, 6}


def test_the_message_holds_both_sides(rig):
    the_guests_entry_has_another_frame(rig)
    with pytest.raises(InvariantError) as caught:
        rig.mmu.check()
    text = str(caught.value)
    assert "spte" in text
    assert "gfn 9" in text or "another frame than 9" in text
    assert "vCPU 0: 4-level CR3 0x140000" in text
    assert "<shadow page gfn" in text


def test_the_audit_changes_nothing(rig):
    before = rig.memory.read_block(0, 0x200000), bytes(rig.mmu.words), rig.counters
    rig.mmu.check()
    assert before == (rig.memory.read_block(0, 0x200000), bytes(rig.mmu.words), rig.counters)


def test_a_large_entry_is_audited_too():
    rig = live_rig(policy="")
    place = place_of(rig, LARGE_GVA, 2)
    assert rig.mmu.words[place] & SPTE_LARGE
    rig.mmu.words[place] ^= SPTE_NX
    rig.mmu.check()  # fewer rights are no fault
    behind(rig, LARGE_GVA, 2, 0x800000 | P | RW | A | D | 0x80)
    with pytest.raises(InvariantError, match=r"^invariant 2: "):
        rig.mmu.check()
