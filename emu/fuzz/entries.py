# SPDX-License-Identifier: GPL-2.0-or-later
"""Table entries that keep to the classes of `emu.fuzz.layout`, and the tables to begin with."""

from __future__ import annotations

import random

from emu.fuzz import layout as L

__all__ = ["Entries"]

_FLAGS = (0x07, 0x07, 0x67, 0x67, 0x67, 0x27, 0x05, 0x65, 0x03, 0x63, 0x01, 0x47, 0x107, 0x0F)
_NX = 1 << 63
_PKEY_SHIFT = 59


class Entries:
    """Makes entries for a mode.

    With `accessed` all links have A set. It is what processors may disagree on: in the entries of a
    walk that ends in a fault, they may set A or not (SDM 4.8; here it stays, in QEMU it is set).
    """

    def __init__(self, rng: random.Random, mode: L.Mode, *, accessed: bool) -> None:
        """Choose by `rng`."""
        self._rng = rng
        self._link_flags = 0x20 if accessed else 0
        self._mode = mode
        self.roots = L.PDPT_FRAMES if mode.levels == 3 else (L.T_FRAMES, L.T_FRAMES + 0x1000)

    def table(self) -> int:
        """Return the address of a T frame."""
        return L.frame(L.T_FRAMES, self._rng.randrange(L.FRAME_COUNT))

    def _flags(self) -> int:
        rng = self._rng
        flags = 0 if rng.random() < 0.06 else rng.choice(_FLAGS)
        if self._mode.entry_bytes == 8:
            if rng.random() < 0.1:
                flags |= _NX
            if self._mode.levels >= 4 and rng.random() < 0.2:
                flags |= rng.randrange(16) << _PKEY_SHIFT
            if rng.random() < 0.03:
                flags |= 1 << rng.choice((40, 45, 51))  # reserved
        return flags

    def leaf(self, page: int) -> int:
        """Return an entry that maps page 0 to 15 of a window."""
        if L.is_table_page(page):
            return self.table() | self._flags()
        flags = self._flags()
        if self._rng.random() < 0.05:
            flags |= 0x80  # PAT
        return L.frame(L.D_FRAMES, self._rng.randrange(L.FRAME_COUNT)) | flags

    def link(self, *, level: int = 0) -> int:
        """Return an entry that leads to a table, or maps a large page of data."""
        rng, mode = self._rng, self._mode
        if level != 1 and rng.random() < 0.12:
            return self._large()
        flags = self._flags()
        if rng.random() < 0.7:
            flags = 0x67 if rng.random() < 0.6 else 0x07
        assert mode.levels >= 2
        return self.table() | flags | self._link_flags

    def _large(self) -> int:
        rng = self._rng
        size = 4 << 20 if self._mode.entry_bytes == 4 else 2 << 20
        base = rng.randrange(L.LARGE_DATA, L.LARGE_DATA_END, size)
        value = base | self._flags() | 0x80 | self._link_flags
        if rng.random() < 0.05:
            value |= 1 << 13 if self._mode.entry_bytes == 8 else 1 << 21  # reserved
        return value

    def new(self) -> tuple[int, int, bool]:
        """Return (index, entry, whether it is a leaf) for any table."""
        rng, mode = self._rng, self._mode
        if rng.random() < 0.7:
            page = rng.randrange(L.PAGES)
            return L.leaf_index(mode, page), self.leaf(page), True
        index = rng.choice(L.LINKS) + rng.randrange(2)
        return index, self.link(), False

    # --- The tables to begin with ---------------------------------------------------------------

    def initial(self, windows: list[tuple[int, int]]) -> list[list[int]]:
        """Return (address, entry) for tables under both roots that map windows, given as (path,
        link): mostly in layers, as a kernel would have them, and now and then not."""
        found: dict[int, int] = {}
        for root in self.roots:
            for path, link in windows:
                self._map(found, root, path, link)
        return [[gpa, value] for gpa, value in sorted(found.items())]

    def _map(self, found: dict[int, int], root: int, path: int, link: int) -> None:
        rng, mode = self._rng, self._mode
        table = root
        for level in range(mode.levels, 2, -1):
            index = path >> 12 + 9 * (level - 1) & 511
            gpa = table + index * 8
            if gpa not in found or rng.random() < 0.3:
                below = self._layer(level - 1)
                found[gpa] = below | (1 if level == 3 == mode.levels else self._good())
            table = found[gpa] & 0xFFFF_F000
        for half in range(2):
            gpa = table + (link + half) * mode.entry_bytes
            if gpa not in found or rng.random() < 0.3:
                found[gpa] = self._layer(1) | self._good()
            leaf = found[gpa] & 0xFFFF_F000
            for page in range(L.PAGES):
                gpa = leaf + L.leaf_index(mode, page) * mode.entry_bytes
                if gpa not in found:
                    found[gpa] = self.leaf(page)

    def _good(self) -> int:
        flags = 0x67 if self._rng.random() < 0.9 else self._rng.choice((0x65, 0x63, 0x07))
        return flags | self._link_flags

    def _layer(self, level: int) -> int:
        """Return a T frame for a table at a level; the roots come first."""
        rng = self._rng
        if rng.random() < 0.1:
            return self.table()
        return L.frame(L.T_FRAMES, 2 + (4 - level) * 3 + rng.randrange(3) if level < 5 else 0)
