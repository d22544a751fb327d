# SPDX-License-Identifier: GPL-2.0-or-later
"""Bugs that real shadow MMUs had with writes to live tables. The numbers are our catalogue's."""

from __future__ import annotations

from mmu.testing.sdm import RW, US, A, D, P

from .rig import PAGED, READ, USER_READ, USER_WRITE, WRITE
from .tables import USER_RW

WINDOW = 0x80000000
HOT = USER_RW | A | D


def window(tables, gpa):
    """An address through which the guest can write its table at `gpa`."""
    tables.map(WINDOW | gpa & ~0xFFF, gpa & ~0xFFF, HOT)
    return WINDOW | gpa


def guest_sets(rig, tables, gva, level, entry):
    """The guest stores an entry through a window."""
    where = window(tables, tables.gpa_of_entry(gva, level))
    return rig.store(where, tables.entry_bytes, entry)


def test_case_05_a_directory_entry_of_a_32_bit_guest_owns_two_shadow_entries(rigs):
    """Linux ac1b714e78c8: only the first 2 MiB half was zapped."""
    rig = rigs()
    tables = rig.tables("32-bit")
    low, high = 0x40001000, 0x40201000
    tables.map(low, 0x5000)
    tables.map(high, 0x6000)
    tables.map(low + 0x400000, 0x7000)
    tables.map(high + 0x400000, 0x8000)
    rig.enter(tables)
    for gva, frame in ((low, 0x5000), (high, 0x6000)):
        assert rig.may(gva, WRITE) == frame
    guest_sets(rig, tables, low, 2, tables.entry(low + 0x400000, 2))
    rig.invlpg(low)
    rig.invlpg(high)
    assert rig.may(low) == 0x7000
    assert rig.may(high) == 0x8000
    rig.edit(tables.gpa_of_entry(low, 2), 4, 0)
    rig.change()
    assert rig.faults(low) == 0
    assert rig.faults(high) == 0


IN_TABLE = [0x40000000 + (index << 12) for index in (0, 511, 512, 1023)]
IN_DIRECTORY = [(index << 22) + 0x1000 for index in (1, 255, 257, 511, 513, 767, 769, 1023)]


def quadrants_in_use(rig):
    """A 32-bit guest with hot entries in every quadrant of a table and of the directory."""
    tables = rig.tables("32-bit")
    for number, gva in enumerate(IN_TABLE + IN_DIRECTORY):
        tables.map(gva, 0x10000 + (number << 12))
    rig.enter(tables)
    for gva in IN_TABLE + IN_DIRECTORY:
        rig.may(gva, WRITE)
    return tables


def test_case_06_the_quadrant_of_the_entry_changes(rigs):
    """Linux fce0657ff9f1: the wrong quadrant was zapped."""
    rig = rigs()
    tables = quadrants_in_use(rig)
    for level, gvas in ((1, IN_TABLE), (2, IN_DIRECTORY)):
        for number, gva in enumerate(gvas):
            rig.edit(tables.gpa_of_entry(gva, level), 4, 0)
            rig.invlpg(gva)
            assert rig.faults(gva) == 0
            for other in gvas[number + 1 :]:
                rig.may(other, READ)


def test_case_06_and_no_other_one(shadows):
    """The same: or all of them."""
    rig = shadows(policy="flood=off,prefetch=off")
    tables = quadrants_in_use(rig)
    for level, gvas in ((1, IN_TABLE), (2, IN_DIRECTORY)):
        for number, gva in enumerate(gvas):
            before = rig.counters
            rig.edit(tables.gpa_of_entry(gva, level), 4, 0)
            for other in gvas[number + 1 :]:
                rig.may(other, READ)
            changes = rig.counters - before
            assert changes["mmu_pde_zapped"] == 1
            assert not changes["pf_fixed"], "the others stand"


def test_case_07_every_entry_that_a_wide_or_misaligned_store_touches_changes(rigs):
    """KVM, January 2007, patch 20: an 8-byte store at table + 4 changed two 4-byte entries."""
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        width = tables.entry_bytes
        gvas = [0x40000000 + (index << 12) for index in range(8)]
        for gva in gvas:
            tables.map(gva, 0x10000, HOT)
        where = window(tables, tables.gpa_of_entry(gvas[0], 1))
        rig.enter(tables)
        table = where - WINDOW
        entries = [(0x10000 + (index << 12) | HOT).to_bytes(width, "little") for index in range(8)]
        for size in (1, 2, 4, 8, 16):
            for offset in range(2 * width, 3 * width + 1):
                rig.memory.write_block(table, b"".join(entries), "loader")
                rig.change()
                for gva in gvas:
                    rig.may(gva, WRITE)
                rig.store(where + offset, size, 0)
                for gva in gvas:
                    rig.invlpg(gva)
                    present = tables.entry(gva, 1) & P
                    answer = rig.access(gva, READ)
                    assert isinstance(answer, int) == bool(present)


def test_case_07_a_store_from_the_page_before_reaches_into_a_table(rigs):
    """The same: a store that crosses into a table changes its first entry."""
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        width = tables.entry_bytes
        gva = 0x40000000
        tables.map(gva, 0x5000)
        table = tables.gpa_of_entry(gva, 1)
        tables.map(WINDOW + 0xFFF000, 0x9000)
        tables.map(WINDOW + 0x1000000, table)
        rig.enter(tables)
        for before in range(1, width):
            rig.edit(table, width, 0x5000 | HOT)
            rig.change()
            assert rig.may(gva, WRITE) == 0x5000
            rig.store(WINDOW + 0x1000000 - before, width, 0)
            rig.invlpg(gva)
            assert (tables.entry(gva, 1) & P == 0) == (rig.access(gva, READ).__class__ is not int)
            rig.edit(table, width, 0x6000 | HOT)
            rig.invlpg(gva)
            assert rig.may(gva, READ) == 0x6000


def test_case_08_atomic_instructions_on_a_live_entry(rigs):
    """KVM, January 2007, patch 26. A locked instruction writes what it read if it does not match,
    so the same bytes again must do no harm, and cmpxchg16b covers two entries."""
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        width = tables.entry_bytes
        one, two = 0x40000000, 0x40001000
        tables.map(one, 0x5000, HOT)
        tables.map(two, 0x6000, HOT)
        gpa = tables.gpa_of_entry(one, 1)
        where = window(tables, gpa)
        rig.enter(tables)
        read = rig.memory.read

        def fresh(rig=rig, one=one, two=two):
            for gva in (one, two):
                rig.invlpg(gva)
            return rig.may(one, WRITE), rig.may(two, WRITE)

        assert fresh() == (0x5000, 0x6000)
        rig.store(where, width, read(gpa, width))  # a failed compare
        assert fresh() == (0x5000, 0x6000)
        rig.store(where, width, 0x7000 | HOT)  # xchg
        assert fresh() == (0x7000, 0x6000)
        rig.store(where, 4, read(gpa, 4) + 0x1000)  # lock xadd
        assert fresh() == (0x8000, 0x6000)
        rig.store(where, 4, read(gpa, 4) & ~RW)  # lock btr
        rig.invlpg(one)
        assert rig.faults(one, USER_WRITE) == 7
        rig.store(where, 4, read(gpa, 4) | RW)  # lock bts
        both = read(gpa, 8) if width == 4 else read(gpa, 8) | read(gpa + 8, 8) << 64
        assert fresh() == (0x8000, 0x6000)
        rig.store(where, 2 * width, both)  # cmpxchg8b or 16b that fails
        assert fresh() == (0x8000, 0x6000)
        rig.store(where, 2 * width, (0x9000 | HOT) | (0xA000 | HOT) << 8 * width)
        assert fresh() == (0x9000, 0xA000)


def test_case_11_a_leaf_table_edited_while_unlinked_is_new_where_it_is_linked(rigs):
    """Linux 65855ed8b034: a table out of sync was linked again with its old entries. P 0 -> 1 asks
    for no flush (SDM 4.10.4.3), so there is none."""
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        here, there = 0x40001000, 0x40C01000
        tables.map(here, 0x5000, HOT)
        tables.map(here + 0x1000, 0x5000, HOT)
        tables.map(there + 0x400000, 0x5000)  # so that the table for `there` exists where needed
        leaf = tables.entry(here, 2)
        table_window = window(tables, tables.gpa_of_entry(here, 1))
        upper_window = window(tables, tables.gpa_of_entry(here, 2))
        other_window = window(tables, tables.gpa_of_entry(there, 2))
        size = tables.entry_bytes
        rig.enter(tables)
        rig.may(here, WRITE)
        rig.may(here + 0x1000, WRITE)
        for number in range(3):
            rig.store(upper_window, size, 0)
            rig.invlpg(here)
            rig.invlpg(here + 0x1000)
            assert rig.faults(here) == 0
            rig.store(table_window, size, (0x6000 + (number << 12)) | HOT)
            rig.store(table_window + size, size, 0)
            rig.store(other_window, size, leaf)
            assert rig.may(there, WRITE) == 0x6000 + (number << 12)
            assert rig.faults(there + 0x1000, WRITE) == 2
            rig.store(other_window, size, 0)
            rig.change()
            assert rig.faults(there) == 0
            rig.store(table_window + size, size, 0x5000 | HOT)
            rig.store(upper_window, size, leaf)
            assert rig.may(here + 0x1000) == 0x5000


def test_case_11_an_entry_restored_while_out_of_sync_is_what_it_was(rigs):
    """Changed, used, changed back: the table looks as it did when it was last in sync, the entry
    filled in between does not."""
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        gva = 0x40001000
        tables.map(gva, 0x5000, HOT)
        tables.map(gva + 0x1000, 0x5000, HOT)
        window(tables, tables.gpa_of_entry(gva, 1))
        rig.enter(tables)
        rig.may(gva + 0x1000, WRITE)
        for before, between in ((0x5000 | HOT, 0x6000 | HOT), (0, 0x6000 | HOT)):
            guest_sets(rig, tables, gva, 1, before)
            rig.change()
            rig.access(gva, READ)
            guest_sets(rig, tables, gva, 1, between)
            rig.invlpg(gva)
            assert rig.may(gva, WRITE) == 0x6000
            guest_sets(rig, tables, gva, 1, before)
            rig.change()
            answer = rig.access(gva, READ)
            assert isinstance(answer, int) == bool(before)


def test_case_13_writes_from_outside_are_seen(rigs):
    """CVE-2026-23401 and -23402: a device, a debugger, the loader or a snapshot writes a table."""
    for mode in PAGED:
        rig = rigs()
        tables = rig.tables(mode)
        gvas = [0x40000000 + (number << 12) for number in range(6)]
        for gva in gvas:
            tables.map(gva, 0x5000, HOT)
        rig.enter(tables)
        first = tables.gpa_of_entry(gvas[0], 1)
        width = tables.entry_bytes
        for number, source in enumerate(("device", "debugger", "loader")):
            for gva in gvas:
                rig.may(gva, WRITE)
            frame = 0x6000 + (number << 12)
            rig.edit(first, width, frame | HOT, source)
            rig.memory.write_block(
                first + width, (frame | HOT).to_bytes(width, "little") * 2, source
            )
            rig.invlpg(gvas[0])
            rig.invlpg(gvas[1])
            assert rig.may(gvas[0]) == rig.may(gvas[1]) == frame
        snapshot = rig.memory.read_block(0x100000, 0x20000)
        other = tables.entry(gvas[5], 1)
        for gva in gvas[:2]:
            rig.edit(tables.gpa_of_entry(gva, 1), width, other)
        rig.change()
        assert rig.may(gvas[0], WRITE) == rig.may(gvas[1], WRITE) == 0x5000
        rig.memory.write_block(0x100000, snapshot, "loader")
        rig.change()
        assert rig.may(gvas[0]) == rig.may(gvas[1]) == frame


def test_case_21_a_frame_is_directory_and_table_at_once(rigs):
    """Linux cea0f0e7ea54: with a recursive slot a write through the window changes both."""
    for mode, slot in (("32-bit", 1023), ("4-level", 510), ("5-level", 510)):
        rig = rigs()
        tables = rig.tables(mode)
        top = tables.top
        tables.memory.write(
            tables.cr3 + slot * tables.entry_bytes,
            tables.entry_bytes,
            tables.cr3 | USER_RW,
            "loader",
        )
        gva = 0x40001000
        tables.map(gva, 0x5000, HOT)
        tables.map(gva + 0x400000, 0x6000, HOT)
        rig.enter(tables)
        high = {"32-bit": 0, "4-level": 0xFFFF << 48, "5-level": 0xFE << 56}[mode]

        def address_of_entry(level, gva, tables=tables, slot=slot, high=high):
            """The entry at `level` for `gva`, seen through the recursive slot."""
            bits = tables.index_bits
            linear = 0
            for turn in range(len(tables.levels)):
                shift = 12 + bits * (len(tables.levels) - 1 - turn)
                index = (
                    slot
                    if turn < level
                    else gva >> (12 + bits * (len(tables.levels) - 1 - turn + level))
                    & ((1 << bits) - 1)
                )
                linear |= index << shift
            index = gva >> (12 + bits * (level - 1)) & ((1 << bits) - 1)
            return high | linear | index * tables.entry_bytes

        size = tables.entry_bytes
        assert rig.may(gva, WRITE) == 0x5000
        for level in range(1, top + 1):
            where = address_of_entry(level, gva)
            assert rig.may(where) == tables.gpa_of_entry(gva, level)
        where = address_of_entry(2, gva)
        page_of_table = address_of_entry(1, gva) & ~0xFFF
        old = tables.entry(gva, 2)
        new = tables.entry(gva + 0x400000, 2)
        for entry, frame in ((new, 0x6000), (old, 0x5000), (new, 0x6000)):
            rig.store(where, size, entry)
            rig.invlpg(gva)
            rig.invlpg(page_of_table)
            assert rig.may(gva) == frame, "as a directory"
            assert rig.may(page_of_table) == entry & 0xFF_FFFF_F000, "as a table"
        rig.store(address_of_entry(1, gva), size, 0)
        rig.invlpg(gva)
        assert rig.faults(gva) == 0


def test_case_22_all_aliases_of_a_page_trap_once_it_is_a_table(rigs):
    """kvm-unit-tests, rmap_chain: thousands of mappings of one page, then it becomes a table."""
    rig = rigs(pool=64)
    tables = rig.tables("4-level")
    aliases = [0x100000000 + (number << 12) for number in range(2048)]
    page = 0x300000
    for gva in aliases:
        tables.map(gva, page, HOT)
    rig.enter(tables)
    for gva in aliases:
        answer = rig.mmu.translate(0, gva, 2)
        rig.tlb.grant(0, gva, WRITE, answer)
    rig.settle()
    assert not rig.store(aliases[0], 8, 0)
    # An upper table: these are always protected.
    rig.edit(page, 8, tables.entry(aliases[0], 2), "loader")
    tables.set(0x4000000000, 3, page | USER_RW)
    assert rig.may(0x4000000000) == page
    if rig.is_shadow:
        assert rig.is_protected(page >> 12)
        for gva in aliases:
            answer = rig.mmu.translate(0, gva, 2)
            assert answer & 8, f"{gva:#x} does not trap"
    for number in (0, 1, 1024, 2047):
        rig.may(aliases[number], WRITE)
    rig.store(aliases[77], 8, 0)
    rig.invlpg(0x4000000000)
    assert rig.faults(0x4000000000) == 0


def test_case_23_a_freed_table_becomes_plain_memory(rigs):
    """KVM, January 2007, patch 27: user data, a kernel stack or rep stos in what was a table."""
    for mode, size in (("32-bit", 4), ("pae", 8), ("4-level", 8), ("5-level", 8)):
        rig = rigs()
        tables = rig.tables(mode)
        gva = 0x40001000
        tables.map(gva, 0x5000)
        table = tables.gpa_of_entry(gva, 1) & ~0xFFF
        data = window(tables, table)
        rig.enter(tables)
        rig.may(gva, WRITE)
        guest_sets(rig, tables, gva, 2, 0)
        rig.invlpg(gva)
        trapped = sum(rig.store(data + at, size, 0x1234567) for at in range(0, 0x1000, size))
        assert trapped <= 8
        assert not rig.is_protected(table >> 12)
        assert not rig.store(data, size, 1)
        assert not rig.store(data, size, 1, user=True)


def test_case_24_a_directory_that_is_written_and_used_in_turn_stays(shadows):
    """The same: it must not count as flooded."""
    rig = shadows()
    tables = rig.tables("4-level")
    gva = 0x40001000
    tables.map(gva, 0x5000, HOT)
    tables.map(gva + 0x200000, 0x6000, HOT)
    where = window(tables, tables.gpa_of_entry(gva, 2))
    one, two = tables.entry(gva, 2), tables.entry(gva + 0x200000, 2)
    rig.enter(tables)
    rig.may(gva)
    rig.may(where, WRITE)
    before = rig.counters
    for turn in range(40):
        rig.store(where, 8, (one, two)[turn % 2])
        rig.invlpg(gva)
        assert rig.may(gva) == (0x5000, 0x6000)[turn % 2]
    changes = rig.counters - before
    assert not changes["mmu_flooded"]
    assert changes["mmu_cache_miss"] <= 1


def test_case_24_rights_that_only_grow_cost_no_flush(shadows):
    """SDM 4.10.4.3: P 0 -> 1 and wider rights need no invalidation."""
    rig = shadows()
    tables = rig.tables("pae")
    gva = 0x40001000
    tables.map(gva, 0x5000, P | US | A)
    tables.map(gva + 0x1000, 0x5000, HOT)
    tables.set(gva + 0x2000, 1, 0)
    rig.enter(tables)
    rig.may(gva + 0x1000)
    assert rig.faults(gva, USER_WRITE) == 7
    rig.edit(tables.gpa_of_entry(gva, 1), 8, 0x5000 | HOT)
    rig.edit(tables.gpa_of_entry(gva + 0x2000, 1), 8, 0x6000 | HOT)
    flushes = rig.tlb.flushes
    assert rig.may(gva, USER_WRITE) == 0x5000
    assert rig.may(gva + 0x2000, USER_WRITE) == 0x6000
    assert rig.tlb.flushes == flushes


def test_case_24_fork_costs_few_traps_and_keeps_hot_directories(rigs):
    """KVM, January 2007, patch 24: 1,024 entries made read-only, as fork does."""
    rig = rigs()
    tables = rig.tables("32-bit")
    gvas = [0x40000000 + (number << 12) for number in range(1024)]
    for number, gva in enumerate(gvas):
        tables.map(gva, (0x400 + number) << 12, HOT)
    where = window(tables, tables.gpa_of_entry(gvas[0], 1))
    rig.enter(tables)
    for gva in gvas[::16]:
        rig.may(gva, WRITE)
    trapped = 0
    for number, gva in enumerate(gvas):
        trapped += rig.store(where + 4 * number, 4, tables.entry(gva, 1) & ~RW)
    rig.change()
    assert trapped <= 8
    for gva in gvas[::64]:
        assert rig.faults(gva, USER_WRITE) == 7
        rig.may(gva, USER_READ)
