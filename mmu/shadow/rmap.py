# SPDX-License-Identifier: GPL-2.0-or-later
"""The reverse map: from a guest frame to the places of all sptes that map it.

Without it, making a frame read-only because it became a page table would mean a search through
every shadow page. Most frames are mapped once or twice, by a user and by the kernel's map of all
memory; so every frame has two slots in one array, and only further places cost a set. KVM packs
its ``kvm_rmap_head`` for the same reason. The array is plain memory, so that compiled code can note
a place by itself.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

from ..hostmemory import address_of
from ..tlb import nonzero

SLOTS = 2


class Rmap:
    """From gfn, below ``frames``, to places. Every operation is O(1); iterating is O(aliases)."""

    def __init__(self, frames: int) -> None:
        # Two slots a frame, in no order: 0 for empty, or a place plus one.
        self._more: dict[int, set[int]] = {}
        self._make_room(frames)

    def _make_room(self, frames: int) -> None:
        buffer = mmap.mmap(-1, 4 * SLOTS * max(frames, 1))
        self.slots = memoryview(buffer).cast("I")
        self.address = address_of(buffer)

    def resize(self, frames: int) -> None:
        """Make room for more frames; what is noted stays."""
        old = self.slots
        if SLOTS * frames > len(old):
            self._make_room(frames)
            for index in nonzero(old):
                self.slots[index] = old[index]

    def add(self, gfn: int, place: int) -> None:
        """Note that the spte at ``place`` maps ``gfn``; it must not be noted already."""
        slots = self.slots
        first = SLOTS * gfn
        if slots[first] == 0:
            slots[first] = place + 1
        elif slots[first + 1] == 0:
            slots[first + 1] = place + 1
        else:
            self._more.setdefault(gfn, set()).add(place)

    def remove(self, gfn: int, place: int) -> None:
        """Forget that the spte at ``place`` maps ``gfn``.

        Raises:
            KeyError: it was not noted.
        """
        slots = self.slots
        first = SLOTS * gfn
        if slots[first] == place + 1:
            slots[first] = 0
        elif slots[first + 1] == place + 1:
            slots[first + 1] = 0
        else:
            more = self._more[gfn]
            more.remove(place)
            if not more:
                del self._more[gfn]

    def places(self, gfn: int) -> tuple[int, ...]:
        """Return the places of all sptes that map ``gfn``; none for a frame past the end."""
        first = SLOTS * gfn
        slots = self.slots[first : first + SLOTS]
        return (*(slot - 1 for slot in slots if slot), *self._more.get(gfn, ()))

    def names(self, gfn: int, place: int) -> bool:
        """Return whether the spte at ``place`` is noted for ``gfn``."""
        first = SLOTS * gfn
        return place + 1 in self.slots[first : first + SLOTS] or place in self._more.get(gfn, ())

    def items(self) -> Iterator[tuple[int, int]]:
        """Yield every (gfn, place)."""
        for index in nonzero(self.slots):
            yield index // SLOTS, self.slots[index] - 1
        for gfn, more in self._more.items():
            for place in more:
                yield gfn, place
