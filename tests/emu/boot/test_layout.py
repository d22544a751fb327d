# SPDX-License-Identifier: GPL-2.0-or-later
"""The E820 map and the placing of things."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.boot.layout import Placer, Range, memory_map, upper_kib
from emu.errors import KernelError
from mmu.memory import Memory

MIB = 1 << 20


def test_map_is_sorted_and_disjoint_whatever_is_reserved(request_of):
    memory = request_of().memory

    @given(st.lists(st.tuples(st.integers(0, 20 * MIB), st.integers(1, MIB), st.integers(2, 4))))
    def check(reserved):
        ranges = memory_map(memory, reserved)
        for piece, after in itertools.pairwise(ranges):
            assert piece.end <= after.gpa
        for gpa, size, _ in reserved:
            ram = [r for r in ranges if r.kind == 1]
            assert not any(r.gpa < gpa + size and gpa < r.end for r in ram)

    check()


def test_ram_in_one_slot_has_the_vga_hole_cut_out():
    memory = Memory()
    memory.add_ram(0, 4 * MIB)
    expected = [Range(0, 0x9FC00, 1), Range(0x9FC00, 0x400, 2), Range(MIB, 3 * MIB, 1)]
    assert memory_map(memory) == expected


def test_upper_memory_ends_at_the_first_hole(request_of):
    memory = request_of().memory
    assert upper_kib(memory_map(memory)) == 15 * 1024
    assert upper_kib(memory_map(memory, [(2 * MIB, 4096, 2)])) == 1024
    assert upper_kib([Range(0, 0x9FC00, 1)]) == 0


def test_nothing_is_handed_out_twice(request_of):
    placer = Placer(request_of().memory)
    placer.put(0x2000, b"x" * 0x1000, "first")
    taken = [Range(0x2000, 0x1000, 1)]
    for size in (0x800, 0x1000, 0x3000, 5):
        gpa = placer.find(size, "more", align=0x800)
        assert not any(piece.gpa < gpa + size and gpa < piece.end for piece in taken)
        taken.append(Range(gpa, size, 1))
    with pytest.raises(KernelError, match="overlaps first"):
        placer.put(0x2FFF, b"y", "last")


def test_top_is_the_highest_place(request_of):
    placer = Placer(request_of().memory)
    assert placer.find(0x1001, "initrd", align=0x1000, high=8 * MIB, top=True) == 8 * MIB - 0x2000


def test_bss_in_low_memory_is_zeroed_over_what_the_firmware_left(request_of):
    memory = request_of().memory
    memory.write_block(0x500, b"\xff" * 64, "loader")
    Placer(memory).put(0x500, b"a", "kernel", size=32)
    assert memory.read_block(0x500, 33) == b"a" + bytes(31) + b"\xff"
