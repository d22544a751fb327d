# SPDX-License-Identifier: GPL-2.0-or-later
"""The reverse map: from a guest frame to the places of all sptes that map it.

Without it, making a frame read-only because it became a page table would mean a search through
every shadow page. Nearly every frame is mapped once or never, so a single place is kept as a
32-bit number in one array over all frames, and only further places (*aliases*) cost a set. KVM
packs its ``kvm_rmap_head`` the same way. The array is plain memory, so that compiled code can note
the first place of a frame by itself.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

from ..tlb import address_of, nonzero

_MANY = 0xFFFF_FFFF


class Rmap:
    """From gfn, below ``frames``, to places. Every operation is O(1); iterating is O(aliases)."""

    def __init__(self, frames: int) -> None:
        # For each frame 0 for none, a place plus one, or _MANY: then the set has them all.
        buffer = mmap.mmap(-1, 4 * max(frames, 1))
        self.heads = memoryview(buffer).cast("I")
        self.address = address_of(buffer)
        self._many: dict[int, set[int]] = {}

    def resize(self, frames: int) -> None:
        """Make room for more frames; what is noted stays."""
        if frames <= len(self.heads):
            return
        old = self.heads
        buffer = mmap.mmap(-1, 4 * frames)
        self.heads = memoryview(buffer).cast("I")
        self.address = address_of(buffer)
        for gfn in nonzero(old):
            self.heads[gfn] = old[gfn]

    def add(self, gfn: int, place: int) -> None:
        """Note that the spte at ``place`` maps ``gfn``; it must not be noted already."""
        head = self.heads[gfn]
        if head == 0:
            self.heads[gfn] = place + 1
        elif head == _MANY:
            self._many[gfn].add(place)
        else:
            self._many[gfn] = {head - 1, place}
            self.heads[gfn] = _MANY

    def remove(self, gfn: int, place: int) -> None:
        """Forget that the spte at ``place`` maps ``gfn``.

        Raises:
            KeyError: it was not noted.
        """
        head = self.heads[gfn]
        if head == place + 1:
            self.heads[gfn] = 0
        elif head == _MANY:
            places = self._many[gfn]
            places.remove(place)
            if not places:
                del self._many[gfn]
                self.heads[gfn] = 0
        else:
            raise KeyError(place)

    def places(self, gfn: int) -> tuple[int, ...]:
        """Return the places of all sptes that map ``gfn``; none for a frame past the end."""
        head = self.heads[gfn] if gfn < len(self.heads) else 0
        if head == 0:
            return ()
        return tuple(self._many[gfn]) if head == _MANY else (head - 1,)

    def items(self) -> Iterator[tuple[int, int]]:
        """Yield every (gfn, place)."""
        for gfn in nonzero(self.heads):
            for place in self.places(gfn):
                yield gfn, place
