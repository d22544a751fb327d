# SPDX-License-Identifier: GPL-2.0-or-later
"""The reverse map: from a guest frame to the places of all sptes that map it.

Without it, making a frame read-only because it became a page table would mean a search through
every shadow page. Nearly every frame is mapped once or never, so a single place is kept as a
32-bit number in an array, 512 frames a chunk, and only further places (*aliases*) cost a set.
KVM packs its ``kvm_rmap_head`` the same way.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

_CHUNK_SHIFT = 9
_CHUNK = array("I", bytes(4 << _CHUNK_SHIFT))
_MANY = 0xFFFF_FFFF


class Rmap:
    """From gfn to places. Every operation is O(1); iterating is O(aliases)."""

    def __init__(self) -> None:
        # In a chunk: 0 for none, a place plus one, or _MANY: then the set has them all.
        self._chunks: dict[int, array[int]] = {}
        self._many: dict[int, set[int]] = {}

    def add(self, gfn: int, place: int) -> None:
        """Note that the spte at ``place`` maps ``gfn``; it must not be noted already."""
        chunk = self._chunks.get(gfn >> _CHUNK_SHIFT)
        if chunk is None:
            chunk = self._chunks[gfn >> _CHUNK_SHIFT] = _CHUNK[:]
        index = gfn & (1 << _CHUNK_SHIFT) - 1
        head = chunk[index]
        if head == 0:
            chunk[index] = place + 1
        elif head == _MANY:
            self._many[gfn].add(place)
        else:
            self._many[gfn] = {head - 1, place}
            chunk[index] = _MANY

    def remove(self, gfn: int, place: int) -> None:
        """Forget that the spte at ``place`` maps ``gfn``.

        Raises:
            KeyError: it was not noted.
        """
        chunk = self._chunks[gfn >> _CHUNK_SHIFT]
        index = gfn & (1 << _CHUNK_SHIFT) - 1
        if chunk[index] == _MANY:
            places = self._many[gfn]
            places.remove(place)
            if not places:
                del self._many[gfn]
                chunk[index] = 0
        elif chunk[index] == place + 1:
            chunk[index] = 0
        else:
            raise KeyError(place)

    def places(self, gfn: int) -> tuple[int, ...]:
        """Return the places of all sptes that map ``gfn``."""
        chunk = self._chunks.get(gfn >> _CHUNK_SHIFT)
        head = chunk[gfn & (1 << _CHUNK_SHIFT) - 1] if chunk is not None else 0
        if head == 0:
            return ()
        return tuple(self._many[gfn]) if head == _MANY else (head - 1,)

    def items(self) -> Iterator[tuple[int, int]]:
        """Yield every (gfn, place)."""
        for number, chunk in self._chunks.items():
            for index, head in enumerate(chunk):
                if head:
                    gfn = number << _CHUNK_SHIFT | index
                    for place in self.places(gfn):
                        yield gfn, place
