# SPDX-License-Identifier: GPL-2.0-or-later
"""The pool: bound, order of use, pins, and what a page finds in its table."""

from __future__ import annotations

import pytest

from mmu.api import PoolError
from mmu.shadow.pool import SPTE_PRESENT, TABLE_ENTRIES, Pool, upper_spte
from mmu.shadow.role import make_role


def pool_of(bound=6, cpus=1, levels=4):
    return Pool(bound, cpus, levels)


def fill(pool):
    return [pool.take(gfn, make_role(4, 1)) for gfn in range(pool.room)]


@pytest.mark.parametrize(("bound", "cpus", "levels"), [(3, 1, 4), (4, 1, 5), (4, 2, 4), (7, 4, 5)])
def test_a_bound_that_no_fault_could_live_with(bound, cpus, levels):
    with pytest.raises(PoolError, match=f"{bound} shadow pages are too few"):
        Pool(bound, cpus, levels)
    assert Pool(bound + 1, cpus, levels).room == bound + 1


def test_pages_have_tables_of_their_own_beside_the_roots():
    pool = pool_of(cpus=2)
    pages = fill(pool)
    tables = {page.base for page in pages} | {pool.root_table(cpu) for cpu in range(2)}
    assert len(tables) == 8
    assert all(base % TABLE_ENTRIES == 0 for base in tables)
    assert len(pool.words) == 8 * TABLE_ENTRIES
    for page in pages:
        assert pool.page_at(page.base) is pool.page_at(page.base + 511) is page
        assert list(page.places) == list(range(page.base, page.base + 512))
        assert not any(map(pool.is_root_place, page.places))
    for cpu in range(2):
        assert pool.page_at(pool.root_table(cpu)) is None
        assert pool.is_root_place(pool.root_table(cpu) + 3)


def test_an_upper_entry_leads_to_its_page():
    pool = pool_of()
    for page in fill(pool):
        spte = upper_spte(page)
        assert spte & SPTE_PRESENT
        assert pool.page_of(spte) is page


def test_a_recycled_table_is_empty():
    pool = pool_of()
    page = pool.take(1, make_role(4, 1))
    for place in page.places:
        pool.words[place] = (1 << 64) - 1
    pool.give_back(page)
    assert pool.page_at(page.base) is None
    again = pool.take(2, make_role(4, 1))
    assert not any(pool.words[again.base : again.base + 512])


def test_the_longest_unused_goes_first_and_pins_are_passed_over():
    pool = pool_of()
    pages = fill(pool)
    assert (len(pool), pool.room) == (6, 0)
    assert pool.oldest_unpinned() is pages[0]
    pool.touch(pages[0])
    assert pool.oldest_unpinned() is pages[1]
    pages[1].pins = 1
    assert pool.oldest_unpinned() is pages[2]
    assert list(pool) == [*pages[1:], pages[0]]
    for page in pages:
        page.pins = 1
    with pytest.raises(PoolError, match="in use"):
        pool.oldest_unpinned()


def test_a_page_in_words():
    page = pool_of().take(0x1F, make_role(2, 1, quadrant=1))
    assert repr(page) == "<shadow page gfn 1f l1 4-byte q1 wux>"
