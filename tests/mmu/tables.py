# SPDX-License-Identifier: GPL-2.0-or-later
"""A builder of guest page tables, all modes alike.

>>> from mmu.memory import Memory
>>> memory = Memory(); _ = memory.add_ram(0, 0x100000)
>>> tables = Tables(memory, "32-bit", first_frame=0x10)
>>> tables.map(0xC0001000, 0x5000)
>>> hex(tables.cr3), hex(tables.gpa_of_entry(0xC0001000, 1)), hex(tables.entry(0xC0001000, 1))
('0x10000', '0x11004', '0x5007')
"""

from __future__ import annotations

from itertools import count

from mmu.testing.sdm import PS, RW, STEPS, US, P

USER_RW = P | RW | US


class Tables:
    """Tables of one address space, in frames from `first_frame` up; entries are written with
    `source` "loader", so that a live MMU hears of them.

    `frames` may be shared by several address spaces: it is an iterator of frame numbers.
    """

    def __init__(self, memory, mode, first_frame=0x100, frames=None):
        self.memory = memory
        self.mode = mode
        self.frames = count(first_frame) if frames is None else frames
        entry_bytes, index_bits, rows = STEPS.get(mode, (0, 0, []))
        self.entry_bytes = entry_bytes
        self.index_bits = index_bits
        self.levels = [(row[0], row[1]) for row in rows]
        if mode == "pae":
            self.levels.insert(0, (3, 30))
        self.cr3 = next(self.frames) << 12

    @property
    def top(self):
        """The highest level: 2, 3 (PAE), 4 or 5."""
        return self.levels[0][0]

    def gpa_of_entry(self, gva, level, make=False, flags=USER_RW):
        """Where the entry at `level` for `gva` lies. With `make`, missing tables are made and
        linked with `flags`."""
        table = self.cr3
        for at, shift in self.levels:
            index = gva >> shift & (3 if self.mode == "pae" and at == 3 else self._index_mask)
            gpa = table + index * self.entry_bytes
            if at == level:
                return gpa
            entry = self.memory.read(gpa, self.entry_bytes)
            if not entry & P:
                if not make:
                    raise LookupError(f"no table at level {at - 1} for {gva:#x}")
                entry = next(self.frames) << 12
                entry |= P if self.mode == "pae" and at == 3 else flags
                self.memory.write(gpa, self.entry_bytes, entry, "loader")
            table = entry & 0xFF_FFFF_F000
        raise LookupError(f"no level {level}")

    @property
    def _index_mask(self):
        return (1 << self.index_bits) - 1

    def entry(self, gva, level):
        """The entry at `level` for `gva` as it stands in memory."""
        return self.memory.read(self.gpa_of_entry(gva, level), self.entry_bytes)

    def set(self, gva, level, entry):
        """Store an entry; the tables above it are made if they are missing."""
        gpa = self.gpa_of_entry(gva, level, make=True)
        self.memory.write(gpa, self.entry_bytes, entry, "loader")

    def map(self, gva, gpa, flags=USER_RW, level=1, upper=USER_RW):
        """Map the page at `gva` to `gpa`, large if `level` is above 1. `upper`: flags of the
        tables that are made on the way."""
        where = self.gpa_of_entry(gva, level, make=True, flags=upper)
        entry = gpa | flags | (PS if level > 1 else 0)
        if level > 1 and self.entry_bytes == 4:  # PSE-36
            entry = entry & 0xFFFF_FFFF | gpa >> 32 << 13
        self.memory.write(where, self.entry_bytes, entry, "loader")

    def table_gpa(self, gva, level):
        """The table at `level` on the path of `gva`."""
        return (
            self.gpa_of_entry(gva, level) & ~0xFFF
            if level != 3 or self.mode != "pae"
            else (self.cr3)
        )
