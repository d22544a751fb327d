# SPDX-License-Identifier: GPL-2.0-or-later
"""Where everything is in the guest of a random program, in physical and in virtual memory.

A program is a row of *slots* of 64 bytes. Between them nothing must ever be lost: the runtime, its
tables and the log lie in an *immune* region that no slot ever aims at. All else is the *arena*:
table frames (T) and data frames (D), windows of 16 virtual pages onto them, and tables that the
program edits all the time.

**Why nothing can go wrong** in a way that only shows how wild the program was: an entry of a table
belongs to a class by its index alone, and every store into a table keeps to it.

    index             class     what an entry may lead to
    20 21 300 301     link      a T frame, or a large page of data
    n-2 n-1 0..8      data      a D frame                            (n: entries in a table)
    9..13             table     a T frame
    32 (36 37)        immune    the immune region; never edited, and only in the roots

So any T frame may stand at any level, be shared, or be data to itself, and whatever half of an
edit gets through, every address of the arena ends in the arena. A *window* is 16 pages that lie
over the end of one table and the start of the next: indexes n-2, n-1 under link 20 (or 300), and
0 to 13 under 21 (or 301). Its pages 0 to 10 are data, 11 to 15 tables.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MODES", "Mode", "leaf_index", "window_base"]

RAM = 64 << 20
LOAD = 0x10_0000

BOOT = 0x10_0000
RUNTIME = 0x10_1000
GDT = 0x10_3000
IDT = 0x10_4000
VARIABLES = 0x10_5000
TSS = 0x10_5800
IST_TOP = 0x10_6800  # all events of some 64-bit guests
ESP0_TOP = 0x10_7000  # events in ring 3 of the others
RING0_TOP = 0x10_7F00  # the stack of ring 0 slots
IMMUNE_TABLES = 0x10_8000  # to 0x10_F000
USER_STACK = 0x11_0000
PDPT_FRAMES = 0x11_6000, 0x11_7000
SLOTS = 0x11_8000
T_FRAMES = 0x12_0000
D_FRAMES = 0x13_0000
IMAGE_END = 0x14_0000
LOG = 0x18_0000
LOG_END = 0x1A_0000
LARGE_DATA = 16 << 20  # QEMU's firmware leaves something further up
LARGE_DATA_END = 24 << 20

FRAME_COUNT = 16  # T frames, and D frames
SLOT = 64
MOST_SLOTS = 512

# Virtual, as offsets from the immune base; what is not here is mapped at base + physical.
USER_SLOTS = 0x1C_0000
USER_STACK_PAGE = 0x1C_8000
USER_STACK_TOP = 0x1C_8F00

LINKS = (20, 300)
IMMUNE_INDEX = 32
PAGES = 16
FIRST_TABLE_PAGE = 11


@dataclass(frozen=True, slots=True)
class Mode:
    """An operating mode of the guest: operand size, levels of tables, width of entries."""

    name: str
    bits: int
    levels: int
    entry_bytes: int

    @property
    def entries(self) -> int:
        """Entries in a table."""
        return 4096 // self.entry_bytes

    @property
    def link_shift(self) -> int:
        """Address bits below the index of a link in the lowest directory."""
        return 22 if self.entry_bytes == 4 else 21

    @property
    def immune(self) -> int:
        """The virtual address of physical 0 in the immune mapping."""
        return {2: IMMUNE_INDEX << 22, 3: 2 << 30, 4: IMMUNE_INDEX << 39, 5: IMMUNE_INDEX << 48}[
            self.levels
        ]

    @property
    def stack_bytes(self) -> int:
        """What a plain PUSH moves the stack pointer by."""
        return self.bits // 8

    @property
    def upper_paths(self) -> tuple[int, ...]:
        """Every combination of indexes above the lowest directory, as address bits."""
        paths: tuple[int, ...] = (0,)
        if self.levels == 3:
            return 0, 1 << 30
        for level in range(3, self.levels + 1):
            shift = 12 + 9 * (level - 1)
            paths = tuple(path | index << shift for path in paths for index in LINKS)
        return paths


MODES = {
    mode.name: mode
    for mode in (
        #    name    bits levels entry
        Mode("16", 16, 2, 4),
        Mode("32", 32, 2, 4),
        Mode("pae", 32, 3, 8),
        Mode("64", 64, 4, 8),
        Mode("la57", 64, 5, 8),
    )
}


def window_base(mode: Mode, path: int, link: int) -> int:
    """Return the address of page 0 of a window, canonical in 64-bit modes."""
    base = path + (link << mode.link_shift) + (mode.entries - 2 << 12)
    if mode.bits == 64:
        top = 9 * mode.levels + 11
        base = (base ^ 1 << top) - (1 << top) & (1 << 64) - 1
    return base


def leaf_index(mode: Mode, page: int) -> int:
    """Return the index in a page table that maps page 0 to 15 of a window."""
    return page - 2 if page >= 2 else mode.entries - 2 + page


def is_table_page(page: int) -> bool:
    """Return whether a page of a window is of class table."""
    return page >= FIRST_TABLE_PAGE


def frame(first: int, number: int) -> int:
    """Return the address of one of the frames from `first` on."""
    return first + (number << 12)
