# SPDX-License-Identifier: GPL-2.0-or-later
"""The contract of docs/tlb.md, row by row, on a kernel without a processor."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from mmu.api import PageFault
from mmu.tlbcheck.mmu import Serve

_spec = importlib.util.spec_from_file_location(
    "tlbcheck_world", Path(__file__).with_name("world.py")
)
_world = importlib.util.module_from_spec(_spec)
sys.modules["tlbcheck_world"] = _world
_spec.loader.exec_module(_world)
from tlbcheck_world import (  # noqa: E402
    CR4,
    DIRTY,
    GLOBAL,
    LARGE,
    PRESENT,
    RW,
    USER,
    World,
)

BASE = World.BASE
OLD, NEW = 0x300, 0x400
A, B = OLD << 12 | RW, NEW << 12 | RW


def mapped(cpus=1, flags=0, serve=None):
    """A world in which page 0 of BASE is mapped to OLD and has been used on every vCPU, and page
    511 is user code."""
    world = World(cpus, serve)
    world.poke(World.TABLE, A | USER | flags)
    world.poke(World.TABLE + 8 * 511, 0x500 << 12 | RW | USER)
    for cpu in range(cpus):
        assert world.write(BASE, cpu) == OLD
    return world


# --- The writer's own uses ------------------------------------------------------------------------


def test_a_remap_without_a_flush_is_stale_remap():
    world = mapped()
    world.pte(0, B)
    assert world.read(BASE) == NEW
    (finding,) = world.mmu.findings
    assert finding.kind.value == "stale-remap"
    assert (finding.frame, finding.fresh_frame, finding.gva) == (OLD, NEW, BASE)
    assert finding.old & ~0x60 == A | USER and finding.new == B
    assert finding.writer.cpu == finding.user.cpu == 0
    assert "nothing was flushed" in finding.hint


def test_a_remap_with_a_flush_is_nothing():
    world = mapped()
    world.pte(0, B)
    world.invlpg(BASE)
    assert world.read(BASE) == NEW
    assert world.kinds == []


def test_a_flush_of_the_variable_that_holds_the_address_is_named():
    world = mapped()
    world.read(0x1F000)
    world.poke(0x1FF8, BASE)
    world.pte(0, B)
    world.invlpg(0x1FF8)
    world.read(BASE)
    assert world.kinds == ["stale-remap"]
    assert "0x1ff8, the address of the variable that holds 0x40000000" in world.mmu.findings[0].hint


def test_an_unmapped_page_used_by_the_writer_is_stale_unmapped():
    world = mapped()
    world.pte(0, 0)
    assert isinstance(world.read(BASE), PageFault)
    assert world.kinds == ["stale-unmapped"]


def test_a_right_taken_and_used_by_the_writer_is_stale_unmapped():
    world = mapped()
    world.pte(0, OLD << 12 | PRESENT | USER | DIRTY)
    assert world.read(BASE) == OLD
    assert world.kinds == []
    assert isinstance(world.write(BASE), PageFault)
    assert world.kinds == ["stale-unmapped"]


def test_a_right_taken_and_used_in_user_mode_is_a_warning():
    world = mapped()
    world.enter_user()
    world.write(BASE)
    world.enter_kernel()
    world.pte(0, OLD << 12 | PRESENT | USER | DIRTY)
    world.enter_user()
    assert isinstance(world.write(BASE), PageFault)
    assert world.kinds == ["narrowing-pending"]


def test_a_store_through_an_entry_whose_word_lost_d_is_stale_dirty():
    world = mapped()
    world.pte(0, A | USER)
    assert world.read(BASE) == OLD
    assert world.kinds == []
    world.write(BASE)
    assert world.kinds == ["stale-dirty"]


# --- What owes no flush ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(OLD << 12 | PRESENT, A, id="W gained"),
        pytest.param(A, A | USER, id="U gained"),
        pytest.param(A | 0x60, A | 0x40, id="A cleared"),
        pytest.param(A, A | 0x60, id="A and D set"),
        pytest.param(A, A | 0xE00, id="ignored bits"),
        pytest.param(0, A, id="P gained"),
    ],
)
def test_growing_rights_owe_nothing(before, after):
    world = World()
    world.poke(World.TABLE, before)
    world.read(BASE)
    world.pte(0, after)
    world.read(BASE)
    world.write(BASE)
    assert world.kinds == []
    assert world.mmu.obligations() == []


def test_a_word_put_back_before_the_use_is_nothing():
    world = mapped()
    world.pte(0, 0)
    world.pte(0, A | USER | DIRTY)
    world.write(BASE)
    assert world.kinds == []
    assert world.mmu.obligations() == []


def test_an_entry_never_used_again_is_an_obligation_only():
    world = mapped()
    world.pte(0, B)
    assert world.kinds == []
    ((entry, change),) = world.mmu.obligations()
    assert entry.covers(BASE) and change.gpa == World.TABLE


# --- Incomplete flushes ---------------------------------------------------------------------------


def test_a_cr3_reload_spares_global_pages():
    world = mapped(flags=GLOBAL)
    world.pte(0, B)
    world.load_cr3()
    world.read(BASE)
    assert world.kinds == ["incomplete-flush"]
    assert "CR3 reload spares global pages" in world.mmu.findings[0].hint


def test_a_toggle_of_pge_spares_nothing():
    world = mapped(flags=GLOBAL)
    world.pte(0, B)
    world.load_cr3(cr4=CR4 & ~0x80)
    world.load_cr3(cr4=CR4)
    world.read(BASE)
    assert world.kinds == []


def test_a_dropped_directory_entry_of_which_one_page_was_flushed():
    world = mapped()
    world.poke(World.TABLE + 8, 0x301 << 12 | RW)
    world.read(BASE + 0x1000)
    world.store(0x5000, 0)
    world.invlpg(BASE)
    assert isinstance(world.read(BASE), PageFault)
    assert world.kinds == []
    assert isinstance(world.read(BASE + 0x1000), PageFault)
    assert world.kinds == ["incomplete-flush"]
    assert "1 of 512 pages" in world.mmu.findings[0].hint


def test_one_invlpg_drops_a_whole_large_page():
    world = World()
    world.poke(0x5000, 0x40_0000 | RW | LARGE)
    for n in range(4):
        world.read(BASE + n * 4096)
    world.store(0x5000, 0x80_0000 | RW | LARGE)
    world.invlpg(BASE + 0x5000)
    for n in range(4):
        assert world.read(BASE + n * 4096) == 0x800 + n
    assert world.kinds == []


def test_the_pieces_of_a_large_page_make_one_finding():
    world = World()
    world.poke(0x5000, 0x40_0000 | RW | LARGE)
    for n in range(4):
        world.read(BASE + n * 4096)
    world.store(0x5000, 0x80_0000 | RW | LARGE)
    for n in range(4):
        world.read(BASE + n * 4096)
    assert world.kinds == ["stale-remap"]


# --- Several vCPUs --------------------------------------------------------------------------------


def test_another_vcpu_inside_the_window_is_silent():
    world = mapped(2)
    world.pte(0, B, cpu=0)
    assert world.read(BASE, cpu=1) == NEW
    assert world.kinds == []
    assert world.mmu.window_uses == 1


def test_one_of_two_vcpus_flushed_and_the_writer_back_in_user_mode():
    world = mapped(2)
    world.pte(0, B | USER, cpu=0)
    world.invlpg(BASE, cpu=0)
    world.read(BASE, cpu=1)
    assert world.kinds == []
    world.enter_user(0)
    world.read(BASE, cpu=1)
    assert world.kinds == ["incomplete-flush"]
    finding = world.mmu.findings[0]
    assert finding.user.cpu == 1 and finding.writer.cpu == 0
    assert "not on cpu1" in finding.hint
    assert "cpu1 none" in str(finding)


def test_a_shootdown_that_arrives_is_nothing():
    world = mapped(2)
    world.pte(0, B | USER, cpu=0)
    world.invlpg(BASE, cpu=0)
    world.read(BASE, cpu=1)
    world.invlpg(BASE, cpu=1)
    world.enter_user(0)
    world.read(BASE, cpu=1)
    assert world.kinds == []


def test_no_shootdown_at_all_is_stale_remap_when_the_writer_halts():
    world = mapped(2)
    world.pte(0, B, cpu=0)
    world.read(BASE, cpu=1)
    world.mmu.halted(0)
    world.read(BASE, cpu=1)
    assert world.kinds == ["stale-remap"]


def test_a_frame_written_elsewhere_before_the_shootdown_is_stale_frame():
    world = mapped(2)
    world.pte(0, 0, cpu=0)
    world.read(BASE, cpu=1)
    assert world.kinds == []
    world.write(OLD << 12 & 0x1FFFFF, cpu=0)  # not the frame
    world.read(BASE, cpu=1)
    assert world.kinds == []
    world.pte(7, A, cpu=0)
    world.write(BASE + 7 * 4096, cpu=0)
    world.read(BASE, cpu=1)
    assert world.kinds == ["stale-frame"]
    assert "written" in str(world.mmu.findings[0]) or "mapped" in str(world.mmu.findings[0])


def test_a_device_write_is_a_new_use_of_the_frame():
    world = mapped(2)
    world.pte(0, 0, cpu=0)
    world.memory.write_block(OLD << 12, b"sector", "device")
    world.read(BASE, cpu=1)
    assert world.kinds == ["stale-frame"]


def test_a_frame_made_a_table_is_a_new_use():
    world = mapped(2)
    world.pte(0, 0, cpu=0)
    world.poke(OLD << 12, 0x320 << 12 | RW)
    world.store(0x5008, OLD << 12 | RW, cpu=0)
    assert world.read(BASE + (1 << 21), cpu=0) == 0x320
    world.read(BASE, cpu=1)
    assert world.kinds == ["stale-frame"]


# --- Structure caches -----------------------------------------------------------------------------


def reused_table(cpus=2):
    """The table of BASE is unlinked, then reused for data that reads as an entry; vCPU 1 has
    its directory entry cached and no translation of page 3."""
    world = mapped(cpus)
    world.poke(World.TABLE + 8 * 3, 0x303 << 12 | RW)
    world.poke(0x7000 + 8 * 3, 0x333 << 12 | RW)
    world.store(0x5000, 0x7000 | RW | USER, cpu=0)
    return world


def test_a_walk_through_a_reused_table_is_stale_table():
    world = reused_table()
    world.store(World.TABLE + 8 * 3, 0x666 << 12 | RW, cpu=0)
    assert world.read(BASE + 3 * 4096, cpu=1) == 0x333
    assert "stale-table" in world.kinds


def test_clearing_a_table_that_was_unlinked_is_no_reuse():
    world = reused_table()
    world.store(World.TABLE + 8 * 3, 0, cpu=0)
    world.read(BASE + 3 * 4096, cpu=1)
    assert world.kinds == []


def test_any_invlpg_empties_the_structure_caches():
    world = reused_table(1)
    world.invlpg(0x123000)
    world.store(World.TABLE + 8 * 3, 0x666 << 12 | RW, cpu=0)
    assert world.read(BASE + 3 * 4096) == 0x333
    assert world.kinds == []


# --- What is served -------------------------------------------------------------------------------


def test_lazy_serves_the_stale_entry():
    world = mapped(serve=Serve.LAZY)
    world.pte(0, B)
    assert world.read(BASE) == OLD
    world.invlpg(BASE)
    assert world.read(BASE) == NEW


def test_lazy_serves_the_walk_through_a_stale_directory_entry():
    world = mapped(serve=Serve.LAZY)
    world.poke(World.TABLE + 8 * 3, 0x303 << 12 | RW)
    world.poke(0x7000 + 8 * 3, 0x333 << 12 | RW)
    world.store(0x5000, 0x7000 | RW | USER)
    assert world.read(BASE + 3 * 4096) == 0x303
    world.invlpg(0)
    assert world.read(BASE + 3 * 4096) == 0x303  # by its own translation, which INVLPG 0 spares
    world.invlpg(BASE + 3 * 4096)
    assert world.read(BASE + 3 * 4096) == 0x333


def test_lazy_faults_once_where_rights_have_grown():
    world = World(serve=Serve.LAZY)
    world.poke(World.TABLE, OLD << 12 | PRESENT)
    world.read(BASE)
    world.pte(0, A)
    assert isinstance(world.write(BASE), PageFault)
    assert world.write(BASE) == OLD


def test_eager_owes_nothing():
    world = mapped(serve=Serve.EAGER)
    world.pte(0, B)
    assert world.read(BASE) == NEW
    assert world.kinds == [] and world.mmu.obligations() == []
