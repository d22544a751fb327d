# SPDX-License-Identifier: GPL-2.0-or-later
"""The shadow MMU's own promises: what costs a fault and what does not, and what its owner may ask.

That its answers are right is the business of the cases, the enumeration and the random worlds.
"""

from __future__ import annotations

import pytest

from mmu.api import MAP_READ, MAP_TRAP, MAP_WRITE
from mmu.testing.sdm import RW, US, A, D, P, Regs
from mmu.trace import TraceLines

from ..rig import (
    DEVICE,
    FETCH,
    HOLE,
    MODES,
    PAGED,
    READ,
    USER_READ,
    USER_WRITE,
    WRITE,
    Rig,
    access_bits,
    paging_registers,
)
from ..tables import USER_RW

GVA = 0x40001000
HOT = USER_RW | A | D


def started(mode="4-level", **kwargs):
    rig = Rig(**kwargs)
    tables = rig.tables(mode)
    tables.map(GVA, 0x5000)
    rig.enter(tables)
    return rig, tables


def spent(rig, *names):
    """A function that tells what has been counted since."""
    before = rig.counters
    return lambda: tuple((rig.counters - before)[name] for name in names)


@pytest.mark.parametrize("mode", PAGED)
def test_a_hit_reads_nothing_of_the_guests(mode):
    rig, _ = started(mode)
    rig.may(GVA, WRITE)
    view = rig.memory.slot_at(0).view
    first, last = 0x100000, 0x110000
    guest = bytes(view[first:last])
    view[first:last] = bytes(last - first)  # nobody heard of it
    assert rig.mmu.translate(0, GVA, access_bits(WRITE)) == 0x5000 | MAP_READ | MAP_WRITE
    assert rig.mmu.translate(0, GVA, access_bits(USER_READ)) == 0x5000 | MAP_READ
    view[first:last] = guest
    rig.mmu.check()


def test_one_fault_for_each_right_that_is_new():
    rig, _ = started()
    taken = spent(rig, "pf_taken", "pf_fixed", "fills")
    for access in (READ, READ, FETCH, USER_READ, WRITE, USER_WRITE, WRITE):
        rig.may(GVA, access)
    assert taken() == (2, 2, 7), "a read, and the first write, which sets D"


def test_a_page_that_is_dirty_costs_one_fault():
    rig, tables = started()
    tables.map(GVA + 0x10000, 0x6000, HOT)
    taken = spent(rig, "pf_taken")
    rig.may(GVA + 0x10000, READ)
    rig.may(GVA + 0x10000, WRITE)
    assert taken() == (1,)


@pytest.mark.parametrize("mode", PAGED)
def test_an_address_space_that_was_here_is_found(mode):
    rig, tables = started(mode)
    other = rig.tables(mode, 0x200)
    other.map(GVA, 0x6000)
    rig.may(GVA, WRITE)
    rig.enter(other)
    rig.may(GVA, WRITE)
    made = spent(rig, "mmu_cache_miss", "pf_taken")
    for _ in range(3):
        for space, frame in ((tables, 0x5000), (other, 0x6000)):
            rig.enter(space)
            assert rig.may(GVA, WRITE) == frame
    assert made() == (0, 0)
    assert rig.counters["mmu_root_hit"] >= 6


def test_two_vcpus_share_their_tables():
    rig, tables = started(cpus=2)
    rig.may(GVA, WRITE, 0)
    made = spent(rig, "mmu_cache_miss", "pf_taken")
    rig.enter(tables, cpu=1)
    rig.may(GVA, WRITE, 1)
    assert made() == (0, 0)
    assert rig.mmu.contexts[0].root_page is rig.mmu.contexts[1].root_page
    assert rig.mmu.contexts[0].root_page.pins == 2


def test_a_device_is_remembered():
    rig, tables = started()
    tables.map(GVA + 0x10000, DEVICE, HOT)
    tables.map(GVA + 0x20000, HOLE, HOT)
    for gva, gpa in ((GVA + 0x10000, DEVICE), (GVA + 0x20000, HOLE)):
        assert rig.access(gva, READ) == gpa | MAP_READ | MAP_TRAP
        taken = spent(rig, "pf_taken")
        assert rig.access(gva, WRITE) == gpa | MAP_READ | MAP_WRITE | MAP_TRAP
        rig.access(gva, READ)
        assert taken() == (0,)
    rig.store(GVA + 0x10000 + 0x20, 4, 0x1234)
    assert rig.device.writes == [(0x20, 4, 0x1234)]


@pytest.mark.parametrize("mode", PAGED)
def test_a_large_page_of_plain_ram_costs_one_fault(mode):
    rig, tables = started(mode)
    tables.map(0x40800000, 0x800000, USER_RW | A | D, level=2)
    rig.may(0x40800000)
    taken = spent(rig, "pf_taken", "mmu_cache_miss")
    for page in range(0, 0x200000, 0x20000):
        assert rig.may(0x40800000 + page, WRITE) == 0x800000 + page
    assert taken() == (0, 0)


@pytest.mark.parametrize("mode", PAGED)
def test_a_directory_found_again_may_have_small_pages_where_a_large_one_can_be_now(mode):
    """The table that stood among its frames is gone, and so is the path that led there."""
    rig, tables = started(mode)
    large, leaf = 0x40800000, 0x804000
    tables.map(large, 0x800000, HOT, level=2)
    rig.memory.write(leaf, 8, 0x5000 | HOT, "loader")
    tables.set(0x40000000, 2, leaf | USER_RW)
    rig.enter(tables)
    rig.may(0x40000000)
    rig.may(large + 0x1000, WRITE)
    assert len(list(rig.mmu.cache.rmap_large.items())) == 0
    rig.edit(tables.gpa_of_entry(0x40000000, 2), tables.entry_bytes, 0)
    cache = rig.mmu.cache
    for page in list(rig.mmu.pool):
        if page.gfn == leaf >> 12 and not page.direct:
            cache.zap_page(page)
    upper = [page for page in rig.mmu.pool if page.level == 3]
    for page in upper:
        cache.zap_page(page)
    if not upper:
        other = rig.tables(mode, 0x200)
        rig.enter(other)
        rig.enter(tables)
    rig.settle()
    assert rig.may(large + 0x1000, WRITE) == 0x801000
    assert rig.may(large + 0x9000, WRITE) == 0x809000


def test_a_large_page_is_made_small_where_policy_or_memory_says():
    for policy, frame in (("large=off", 0x800000), ("", 0xE00000), ("", 0), ("", DEVICE)):
        rig, tables = started(policy=policy)
        if frame == 0xE00000:
            rig.memory.remove(rig.memory.slot_at(0))
            rig.memory.add_ram(0, 0xF00000)
            tables = rig.tables("4-level")
            rig.change(cr3=tables.cr3)
        tables.map(0x40800000, frame & ~0x1FFFFF, HOT, level=2)
        taken = spent(rig, "pf_fixed")
        for page in range(0, 0x8000, 0x1000):
            rig.may(0x40800000 + page)
        assert taken() == (8,)


@pytest.mark.parametrize("access", [READ, WRITE, FETCH, USER_READ, USER_WRITE], ids=str)
@pytest.mark.parametrize("state", ["fresh", "written", "fetched", "logged"])
@pytest.mark.parametrize("mode", PAGED)
def test_an_answer_on_a_known_path_is_the_long_ones(mode, state, access):
    """`translate` says to plain cases what `Faults.answer` says to all, and leaves the same."""
    seen = []
    for long_way in (False, True):
        rig, _ = started(mode)
        rig.may(GVA, WRITE)
        rig.may(GVA, READ)
        if state == "logged":
            rig.mmu.start_dirty_log()
        elif state != "fresh":
            rig.may(GVA, WRITE if state == "written" else FETCH)
            rig.mmu.flushed(0)
        context = rig.mmu.contexts[0]
        assert context.paths
        if long_way:
            context.plain = [(0, 1)] * 1024
        tlb, answers = rig.mmu.tlb, []
        for _ in range(2):
            answers.append(rig.mmu.translate(0, GVA, access_bits(access)))
        epochs = tlb.written_epoch[5], tlb.checked_epoch[5], tlb.fetched_epoch[5]
        seen.append((answers, tlb.epoch, epochs, bytes(rig.mmu.epochs), bytes(rig.mmu.words)))
        rig.mmu.check()
    assert seen[0] == seen[1]


@pytest.mark.parametrize("mode", PAGED)
def test_a_path_is_walked_once_and_again_when_an_upper_entry_changes(mode):
    rig, tables = started(mode)
    paths = rig.mmu.contexts[0].paths
    rig.may(GVA)
    rig.may(GVA)
    assert list(paths) == [GVA >> 21]
    tables.map(GVA, 0x6000, level=1)
    assert list(paths) == [GVA >> 21], "a leaf is no path"
    rig.edit(tables.gpa_of_entry(GVA, 2), tables.entry_bytes, tables.entry(GVA, 2))
    assert not paths
    assert rig.may(GVA) == 0x6000
    rig.enter(tables)
    assert not paths


def test_prefetch_fills_what_follows_a_neighbour():
    for policy, faults in (("", 3), ("prefetch=off", 10)):
        rig, tables = started(policy=policy)
        for number in range(12):
            tables.map(0x40010000 + (number << 12), 0x6000 + (number << 12), HOT)
        taken = spent(rig, "pf_taken")
        for number in range(10):
            assert rig.may(0x40010000 + (number << 12), USER_READ) == 0x6000 + (number << 12)
        assert taken() == (faults,)


def test_prefetch_ends_with_the_last_table_of_the_pool():
    rig, tables = started(pool=5)
    tables.map(0x40200000, 0x5000, USER_RW)
    rig.may(0x40200000)
    for number in (509, 510, 511):
        tables.map(0x40000000 + (number << 12), 0x6000, USER_RW)
    for number in (509, 510, 511):
        assert rig.may(0x40000000 + (number << 12)) == 0x6000
    assert not rig.mmu.pool.room


def test_prefetch_takes_no_entry_that_was_not_accessed():
    rig, tables = started()
    for number in range(6):
        tables.map(0x40010000 + (number << 12), 0x6000, USER_RW | (A if number < 3 else 0))
    for number in range(2):
        rig.may(0x40010000 + (number << 12))
    assert not tables.entry(0x40013000, 1) & A
    taken = spent(rig, "pf_taken")
    rig.may(0x40012000, READ)
    assert taken() == (0,)
    rig.may(0x40013000, READ)
    assert tables.entry(0x40013000, 1) & A
    rig.may(0x40012000, WRITE)
    assert tables.entry(0x40012000, 1) & D


def test_a_table_that_goes_out_of_sync_is_written_without_traps():
    for policy, most in (("", 0), ("unsync=off,flood=off", 64)):
        rig, tables = started(policy=policy)
        for number in range(64):
            tables.map(0x40010000 + (number << 12), 0x6000, HOT)
        table = tables.gpa_of_entry(0x40010000, 1)
        tables.map(0x80000000, table & ~0xFFF, HOT)
        rig.may(0x40010000)
        rig.may(GVA)
        trapped = 0
        for number in range(64):
            trapped += rig.store(0x80000000 + (table & 0xFFF) + 8 * number, 8, 0x7000 | HOT)
        assert trapped == most
        for number in range(64):
            rig.invlpg(0x40010000 + (number << 12))
            assert rig.may(0x40010000 + (number << 12), WRITE) == 0x7000
        assert rig.counters["mmu_unsync"] == (1 if not most else 0)


def test_an_upper_table_never_goes_out_of_sync():
    rig, tables = started()
    rig.may(GVA)
    for level in (2, 3, 4):
        gpa = tables.gpa_of_entry(GVA, level)
        tables.map(0x80000000 + (level << 12), gpa & ~0xFFF, HOT)
        assert rig.store(0x80000000 + (level << 12) + (gpa & 0xFFF), 8, tables.entry(GVA, level))
    assert rig.counters["mmu_unsync"] == 0


def test_asking_twice_changes_nothing_more():
    rig, _ = started()
    for access in (READ, WRITE, FETCH, USER_WRITE):
        first = rig.access(GVA, access)
        rig.access(GVA, access)
        words = bytes(rig.mmu.words)
        memory = rig.memory.read_block(0x100000, 0x10000)
        assert rig.access(GVA, access) == first
        assert (bytes(rig.mmu.words), rig.memory.read_block(0x100000, 0x10000)) == (words, memory)


def test_traces_are_kvms():
    rig, _ = started(policy="unsync=off")
    lines = []
    tracer = TraceLines(lines.append)
    rig.mmu.observe(tracer)
    rig.may(GVA, WRITE)
    rig.faults(GVA + 0x1000, USER_WRITE)
    rig.mmu.shrink(1)
    rig.may(GVA, WRITE)
    names = {line.split(":")[0] for line in lines}
    assert names >= {
        "kvm_mmu_pagetable_walk",
        "kvm_mmu_get_page",
        "kvm_mmu_set_spte",
        "kvm_mmu_walker_error",
        "kvm_mmu_prepare_zap_page",
    }
    assert any("4-level q0 wux nxe wp new" in line for line in lines)
    assert any(line.endswith("existing") for line in lines)
    assert any("user write, not present" in line for line in lines)
    rig.mmu.unobserve(tracer)
    count = len(lines)
    rig.may(GVA + 0, READ)
    assert len(lines) == count


def test_the_shadow_path_in_words():
    rig, _ = started()
    rig.may(GVA)
    lines = rig.mmu.describe_path(0, GVA).splitlines()
    assert lines[0] == "0x40001000 in the shadow tables of vCPU 0"
    assert [line.split()[1] for line in lines[1:]] == ["4", "3", "2", "1"]
    assert "gfn 100 l4 4-level" in lines[1]
    assert len(rig.mmu.describe_path(0, 1 << 46).splitlines()) == 2
    rig.load(0, Regs())
    assert "root table" in rig.mmu.describe_path(0, 0)


# --- What its owner may ask ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", PAGED)
def test_zapping_everything_changes_no_answer(mode):
    rig, tables = started(mode, cpus=2, pool=12)
    rig.enter(tables, cpu=1)
    for _ in range(4):
        rig.may(GVA, WRITE, 0)
        rig.may(GVA, WRITE, 1)
        rig.mmu.zap_all()
        rig.settle()
        assert list(rig.tlb.held()) == []
        assert rig.may(GVA, WRITE, 1) == 0x5000
        rig.change(cpu=1)
        assert rig.may(GVA, WRITE, 0) == 0x5000
    assert rig.counters["mmu_cache_miss"] > rig.counters["mmu_shadow_zapped"]


def test_shrinking_takes_the_longest_unused_and_no_root():
    rig, tables = started()
    rig.may(GVA)
    other = rig.tables("4-level", 0x200)
    other.map(GVA, 0x6000)
    rig.enter(other)
    rig.may(GVA)
    assert len(rig.mmu.pool) == 8 + len([p for p in rig.mmu.pool if p.glevels == 0])
    for _ in range(3):
        rig.mmu.shrink(2)
        rig.settle()
        assert rig.mmu.contexts[0].root_page in set(rig.mmu.pool)
    rig.mmu.shrink(100)
    assert list(rig.mmu.pool) == [rig.mmu.contexts[0].root_page]
    assert rig.mmu.shrink(100) == 0
    assert rig.may(GVA) == 0x6000
    rig.enter(tables)
    assert rig.may(GVA) == 0x5000


def test_the_dirty_log_misses_no_store():
    rig, tables = started()
    tables.map(GVA + 0x1000, 0x6000, HOT)
    tables.map(GVA + 0x2000, 0x7000, HOT)
    rig.may(GVA, WRITE)
    rig.may(GVA + 0x1000, WRITE)
    rig.mmu.start_dirty_log()
    rig.settle()
    for _ in range(2):
        rig.store(GVA, 4, 1)
        rig.may(GVA + 0x1000, READ)
        rig.edit(0x9000, 4, 1)
        assert {5, 9} <= set(rig.mmu.dirty_log())
        assert 6 not in rig.mmu.dirty_log()
        rig.settle()
    rig.may(GVA + 0x2000, WRITE)
    rig.mmu.stop_dirty_log()
    with pytest.raises(ValueError, match="off"):
        rig.mmu.dirty_log()


def test_slots_come_and_go_while_it_runs():
    rig, tables = started()
    tables.map(GVA + 0x1000, HOLE, HOT)
    rig.may(GVA, WRITE)
    assert rig.access(GVA + 0x1000, WRITE) & MAP_TRAP
    slot = rig.memory.add_ram(HOLE, 0x1000)
    rig.settle()
    assert not rig.access(GVA + 0x1000, WRITE) & MAP_TRAP
    rig.store(GVA + 0x1000, 4, 0x99)
    assert rig.memory.read(HOLE, 4) == 0x99
    rig.memory.move(slot, HOLE + 0x100000)
    rig.settle()
    assert rig.access(GVA + 0x1000, READ) & MAP_TRAP
    tables.map(GVA + 0x1000, HOLE + 0x100000, HOT)
    rig.invlpg(GVA + 0x1000)
    assert rig.access(GVA + 0x1000, READ) == HOLE + 0x100000 | MAP_READ
    rig.memory.remove(slot)
    rig.settle()
    assert rig.access(GVA + 0x1000, READ) & MAP_TRAP
    assert rig.may(GVA, WRITE) == 0x5000


def test_a_table_in_a_slot_that_goes():
    rig, tables = started()
    slot = rig.memory.add_ram(HOLE, 0x1000)
    rig.memory.write(HOLE + 8, 8, 0x6000 | HOT, "loader")
    tables.set(0x80000000, 2, HOLE | USER_RW)
    rig.change()
    assert rig.may(0x80001000, WRITE) == 0x6000
    rig.memory.remove(slot)
    rig.settle()
    assert rig.faults(0x80001000, WRITE) == 11


def test_a_policy_may_change_while_it_runs():
    rig, _ = started()
    for policy in ("unsync=off", "large=off,prefetch=off", "unsync=on", "flood=off", ""):
        rig.mmu.set_policy(policy)
        rig.settle()
        rig.may(GVA, WRITE)
        rig.store(GVA, 4, 1)
    assert not rig.mmu.policy.large
    assert rig.mmu.policy.unsync


def test_a_frame_of_real_mode_that_becomes_a_table_is_trapped():
    rig, tables = started()
    rig.load(0, Regs())
    where = tables.gpa_of_entry(GVA, 2)
    assert rig.store(where, 8, tables.entry(GVA, 2)) is False
    rig.enter(tables)
    rig.may(GVA)
    rig.load(0, Regs())
    assert rig.store(where, 8, 0) is True
    rig.enter(tables)
    assert rig.faults(GVA) == 0


def test_the_same_registers_again_are_a_reload():
    rig, tables = started("pae")
    regs = paging_registers(MODES["pae"]._replace(cr3=tables.cr3))
    rig.may(GVA)
    rig.memory.write(tables.gpa_of_entry(GVA, 3), 8, 0, "device")
    rig.mmu.load(0, regs)
    assert rig.mmu.translate(0, GVA, 0).error_code == 0


def test_rights_beyond_write_protection_are_forgotten_in_time():
    """CR0.WP = 0 made the entry a supervisor's; user mode gets its own again and keeps it."""
    rig = Rig()
    tables = rig.tables("4-level")
    tables.map(GVA, 0x5000, P | US | A)
    rig.enter(tables, wp=False)
    rig.may(GVA, WRITE)
    taken = spent(rig, "pf_taken")
    rig.may(GVA, WRITE)
    assert taken() == (0,)
    for _ in range(2):
        rig.may(GVA, USER_READ)
        assert rig.faults(GVA, USER_WRITE) == 7
        rig.may(GVA, WRITE)
    rig.change(wp=True)
    assert rig.faults(GVA, WRITE) == 3
    assert tables.entry(GVA, 1) == 0x5000 | P | US | A | D
    assert not tables.entry(GVA, 1) & RW
