# SPDX-License-Identifier: GPL-2.0-or-later
"""Bugs that real shadow MMUs had with the pool, large pages and several vCPUs. The numbers are our
catalogue's."""

from __future__ import annotations

from itertools import product

from mmu.testing.sdm import RW, A, D, G, P

from .rig import FETCH, PAGED, READ, USER_WRITE, WRITE
from .tables import USER_RW

HOT = USER_RW | A | D
GVA = 0x40001000
WINDOW = 0x80000000


def test_case_10_a_pool_of_four_serves_deep_walks(shadows):
    """KVM, January 2007, patch 25: the running root was freed, or faults went on for ever."""
    for mode, levels in (("4-level", 4), ("5-level", 5), ("pae", 2), ("32-bit", 2)):
        for cpus in (1, 2):
            la57 = mode == "5-level"
            rig = shadows(cpus=cpus, pool=(5 if la57 else 4) + cpus - 1, la57=la57)
            tables = rig.tables(mode)
            # Addresses that share nothing but the root.
            gvas = [GVA + (number << tables.levels[0][1]) for number in (-1, 0, 1, 2)][
                : 4 if levels > 3 else 2
            ]
            for number, gva in enumerate(gvas):
                gva &= (1 << {"4-level": 46, "5-level": 56}.get(mode, 32)) - 1
                tables.map(gva, 0x5000 + (number << 12))
                gvas[number] = gva
            for cpu in range(cpus):
                rig.enter(tables, cpu)
            for _ in range(3):
                for number, gva in enumerate(gvas):
                    for cpu in range(cpus):
                        before = rig.counters
                        assert rig.may(gva, WRITE, cpu) == 0x5000 + (number << 12)
                        assert rig.may(gva, READ, cpu) == 0x5000 + (number << 12)
                        assert (rig.counters - before)["pf_taken"] <= 1
                        root = rig.mmu.contexts[cpu].root_page
                        if levels > 3:
                            assert root is not None and root in set(rig.mmu.pool)


def test_case_10_every_address_space_finds_its_pages_in_a_pool_too_small_for_all(shadows):
    """Recycled roots: each comes back as it was, none is mistaken for another."""
    rig = shadows(pool=6)
    spaces = [rig.tables(PAGED[number % 4], 0x100 + 0x20 * number) for number in range(8)]
    for number, tables in enumerate(spaces):
        tables.map(GVA, 0x5000 + (number << 12))
    for _ in range(3):
        for number, tables in enumerate(spaces):
            rig.enter(tables)
            assert rig.may(GVA, USER_WRITE) == 0x5000 + (number << 12)
        spaces.append(spaces.pop(3))
        spaces = spaces[::-1]
        for number, tables in enumerate(spaces):
            rig.memory.write(
                tables.gpa_of_entry(GVA, 1),
                tables.entry_bytes,
                (0x5000 + (number << 12)) | HOT,
                "device",
            )


def test_case_10_a_warm_context_switch_takes_no_shadow_fault(shadows):
    """What the cache is for."""
    for mode in PAGED:
        rig = shadows()
        spaces = [rig.tables(mode, 0x100 + 0x20 * number) for number in range(3)]
        for number, tables in enumerate(spaces):
            tables.map(GVA, 0x5000 + (number << 12), HOT)
        for round_ in range(4):
            for number, tables in enumerate(spaces):
                before = rig.counters
                rig.enter(tables)
                assert rig.may(GVA, USER_WRITE) == 0x5000 + (number << 12)
                if round_:
                    assert not (rig.counters - before)["pf_taken"]


def test_case_12_an_entry_edited_by_another_vcpu(rigs):
    """Linux f7d9c7b7b902: a fault on one vCPU installed what another had changed meanwhile."""
    for mode in PAGED:
        rig = rigs(cpus=2, pool=16)
        tables = rig.tables(mode)
        tables.map(GVA, 0x5000, HOT)
        table = tables.gpa_of_entry(GVA, 1)
        tables.map(WINDOW, table & ~0xFFF, HOT)
        where = WINDOW | table & 0xFFF
        for cpu in (0, 1):
            rig.enter(tables, cpu)
        for number in range(4):
            rig.access(GVA, (READ, WRITE)[number % 2], 0)
            rig.access(GVA, WRITE, 1)
            for frame in (0, 0x6000 + (number << 12)):
                rig.store(where, tables.entry_bytes, frame | HOT if frame else 0, cpu=1)
                rig.invlpg(GVA, 1)
                if frame:
                    assert rig.may(GVA, WRITE, 1) == frame
                else:
                    assert rig.faults(GVA, WRITE, 1) == 2
                rig.invlpg(GVA, 0)  # the shootdown
                if frame:
                    assert rig.may(GVA, USER_WRITE, 0) == frame
                else:
                    assert rig.faults(GVA, USER_WRITE, 0) == 6


def test_case_12_a_table_made_by_one_vcpu_is_written_by_another(rigs):
    """The second has a writable TLB entry for the frame when the first begins to use it."""
    for mode, writer, cpus in product(PAGED, (0, 1), (2, 4)):
        rig = rigs(cpus=cpus, pool=16)
        tables = rig.tables(mode)
        other = rig.tables(mode, 0x200)
        other.map(GVA, 0x5000, HOT)
        frame = other.gpa_of_entry(GVA, 2) & ~0xFFF  # an upper table where there is one
        tables.map(GVA, frame, HOT)
        rig.enter(tables, writer)
        assert not rig.store(GVA + 0xF00, 4, 0, writer)
        rig.enter(other, 1 - writer)
        assert rig.may(GVA, WRITE, 1 - writer) == 0x5000
        trapped = rig.store(GVA | other.gpa_of_entry(GVA, 2) & 0xFFF, 4, 0, writer)
        assert trapped == rig.is_shadow
        rig.invlpg(GVA, 1 - writer)
        assert rig.faults(GVA, WRITE, 1 - writer) == 2


def test_case_22_translated_code_and_stores_of_two_vcpus(rigs):
    """One frame is writable in no TLB while another engine runs from it."""
    rig = rigs(cpus=3, pool=16)
    tables = rig.tables("4-level")
    tables.map(GVA, 0x5000, HOT)
    tables.map(GVA + 0x1000, 0x5000, HOT)
    for cpu in range(3):
        rig.enter(tables, cpu)
    for _ in range(3):
        for cpu in (0, 1):
            rig.may(GVA, FETCH, cpu)
            rig.store(GVA + 0x1010, 4, 0x90909090, cpu=1 - cpu)
            rig.may(GVA, FETCH, cpu)
            rig.store(GVA + 0x10, 4, 0x90909090, cpu=cpu)
            rig.full_flush(cpu)
            rig.store(GVA + 0x1020, 4, 0x90909090, cpu=cpu)
            rig.full_flush(1 - cpu)
            rig.may(GVA + 0x1000, FETCH, cpu)
            rig.may(GVA, FETCH, 1 - cpu)
            rig.store(GVA + 0x20, 4, 0x90909090, cpu=cpu)
            rig.may(GVA, FETCH, 1 - cpu)
            rig.edit(0x5030, 4, 0, "device")
            assert 5 not in rig.tlb.code[0] | rig.tlb.code[1]


def test_case_25_a_table_inside_a_large_page_that_is_in_use(rigs):
    """Linux 404381c5839d, d3c422bd3338: the large entry came and went without end."""
    for mode in PAGED:
        rig = rigs()
        frames = iter(range(0x800, 0x900))  # tables at 8 MiB, within the large page below
        tables = rig.tables(mode, frames=frames)
        large = 0x40000000
        tables.map(large, 0x800000, level=2)
        tables.map(0x80000000, 0x5000, HOT)
        tables.set(0x80001000, 1, 0)
        rig.enter(tables)
        for turn in range(3):
            before = rig.counters
            for piece in (0, 0x1000, 0x2000, 0x3000, 0x4000, 0x50000, 0x1FF000):
                assert rig.may(large + piece, READ) == 0x800000 + piece
                assert rig.may(large + piece, WRITE) == 0x800000 + piece
            assert rig.may(0x80000000, WRITE) == 0x5000
            assert (rig.counters - before)["pf_taken"] <= 15
            entry = large | tables.gpa_of_entry(0x80001000, 1) & 0x1FFFFF
            rig.store(entry, tables.entry_bytes, 0x6000 + (turn << 12) | USER_RW)
            rig.invlpg(0x80001000)
            assert rig.may(0x80001000, WRITE) == 0x6000 + (turn << 12)


def test_case_25_a_frame_of_a_large_page_in_use_becomes_a_table(rigs):
    """The large entry must be broken, and stores through it must be seen from then on."""
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        large, frame = 0x40000000, 0x803000
        tables.map(large, 0x800000, level=2)
        tables.map(0x80000000, 0x5000, HOT)
        leaf = tables.entry(0x80000000, 2)
        rig.enter(tables)
        for page in (0, 0x3000, 0x4000):
            assert not rig.store(large + page, 8, 0)
        rig.store(large + 0x3008, 8, 0x6000 | HOT)
        rig.edit(tables.gpa_of_entry(0x80000000, 2), tables.entry_bytes, frame | USER_RW)
        rig.invlpg(0x80000000)
        index = 2 if mode == "32-bit" else 1
        gva = 0x80000000 + (index << 12)
        assert rig.may(gva, WRITE) == 0x6000
        rig.store(large + 0x3008, 8, 0x7000 | HOT)
        rig.invlpg(gva)
        assert rig.may(gva, WRITE) == 0x7000
        rig.edit(tables.gpa_of_entry(0x80000000, 2), tables.entry_bytes, leaf)
        rig.invlpg(0x80000000)
        assert rig.may(0x80000000, WRITE) == 0x5000
        rig.store(large + 0x3008, 8, 0)
        rig.may(large + 0x4000, WRITE)


def test_case_25_a_large_page_is_split_and_merged(rigs):
    """The guest replaces a large page by a table of the same frames and back."""
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        gva, frame = 0x40000000, 0x800000
        tables.map(gva, frame, level=2)
        large = tables.entry(gva, 2)
        other = gva + 0x400000
        tables.map(other, frame, P | RW | A)
        tables.map(other + 0x1000, 0x5000)
        small = tables.entry(other, 2)
        rig.enter(tables)
        for _ in range(3):
            for piece in (0, 0x1000, 0x5000):
                rig.may(gva + piece, READ)
                rig.may(gva + piece, USER_WRITE)
            rig.edit(tables.gpa_of_entry(gva, 2), tables.entry_bytes, small)
            rig.invlpg(gva + 0x3000)
            assert rig.faults(gva, USER_WRITE) == 7
            assert rig.may(gva + 0x1000, USER_WRITE) == 0x5000
            rig.faults(gva + 0x5000, READ)
            rig.edit(tables.gpa_of_entry(gva, 2), tables.entry_bytes, large)
            rig.change()


def test_case_27_invlpg_of_any_address_drops_all_of_a_large_page(rigs):
    """SDM 4.10.4.1. The engine's TLB holds a large page in pieces of 4 KiB; the guest may change
    the entry at a time when nothing watches it, and names one address only."""
    levels = [(mode, 2) for mode in PAGED] + [("4-level", 3), ("5-level", 3)]
    for mode, level in levels:
        for forget in ("nothing", "others", 1, 2, 3, 8):
            rig = rigs(pool=8)
            tables = rig.tables(mode)
            gva = 0x40000000 if level == 2 else 1 << 34
            frame = 0x800000 if level == 2 else 0
            tables.map(gva, frame, level=level)
            where = tables.gpa_of_entry(gva, level)
            for number in range(16):
                tables.map(0x80000000 + (number << 22), 0x5000)
            rig.enter(tables)
            for _ in range(2):
                rig.full_flush()
                for piece in (0, 0x1000, 0x100000, 0x1FF000):
                    rig.may(gva + piece, WRITE)
                    rig.may(gva + piece, READ)
            if forget == "others":
                for number in range(16):
                    rig.may(0x80000000 + (number << 22))
            elif forget != "nothing" and rig.is_shadow:
                rig.mmu.shrink(forget)  # the upper tables go first
                rig.settle()
            rig.edit(where, tables.entry_bytes, 0)
            rig.invlpg(gva + 0x5123)
            for piece in (0, 0x1000, 0x100000, 0x1FF000):
                assert rig.faults(gva + piece, WRITE) == 2


def test_case_27_a_piece_that_was_granted_after_a_flush_of_its_own(rigs):
    """A fetch of what was just written empties the TLBs first. What is granted then is held."""
    for first, second in ((WRITE, FETCH), (FETCH, WRITE)):
        rig = rigs()
        tables = rig.tables("4-level")
        gva = 0x40000000
        tables.map(gva, 0x800000, USER_RW | (1 << 63 if second is WRITE else 0), level=2)
        tables.map(0x80000000, 0x800000, HOT)
        rig.enter(tables)
        if second is WRITE:
            rig.may(0x80000000, first)
        else:
            rig.may(gva, first)
        rig.may(gva, second)
        rig.edit(tables.gpa_of_entry(gva, 2), 8, 0)
        rig.invlpg(gva + 0x5000)
        assert rig.faults(gva) == 0


def test_case_27_global_pages_go_with_invlpg_and_with_pge(rigs):
    """A processor may keep them over a load of CR3, we need not; INVLPG and CR4.PGE drop them."""
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        tables.map(GVA, 0x5000, USER_RW | G)
        where = tables.gpa_of_entry(GVA, 1)
        rig.enter(tables, pge=True)
        for frame, drop in ((0x6000, rig.invlpg), (0x7000, None), (0x8000, rig.invlpg)):
            rig.may(GVA, WRITE)
            rig.edit(where, tables.entry_bytes, frame | USER_RW | G)
            if drop is not None:
                drop(GVA)
            else:
                rig.change(pge=False)
                rig.change(pge=True)
            assert rig.may(GVA, WRITE) == frame


def test_case_27_large_pages_of_one_frame_with_other_keys(rigs):
    """Their direct pages must not be shared: the key stands in the leaf."""
    for level in (2, 3):
        rig = rigs()
        tables = rig.tables("4-level")
        frame = 0x800000 if level == 2 else 0
        free, kept = 1 << 34, (1 << 34) + (1 << 30)
        tables.map(free, frame, HOT, level=level)
        tables.map(kept, frame, HOT | 7 << 59, level=level)
        # A live table in the large page, so that it is mapped in small ones.
        tables.map(0x80000000, frame + 0x3000, HOT)
        rig.enter(tables, pke=True, pkru=1 << 14)
        for _ in range(2):
            rig.may(free + 0x1000, WRITE)
            assert rig.faults(kept + 0x1000, READ) == 0x21
            rig.change(pkru=0)
            rig.may(kept + 0x1000, WRITE)
            rig.change(pkru=1 << 14)
