# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engines of a machine would hold: TLB entries and translated code, kept as a model.

Nothing is ever evicted here that nobody asked to have evicted, which is the worst an engine can do.
Entries are kept by page, by whose access filled them (user, supervisor, supervisor with
EFLAGS.AC: QEMU has a TLB for each) and by the rights they grant.

Code is kept as a copy of the frame that it was translated from. An engine sees stores of its own
through an entry that is writable and executable at once, and no others; whatever else changes a
frame with code in it, somebody must drop the code.
"""

from __future__ import annotations

from ..api import FRAME_MASK, MAP_EXEC, MAP_TRAP, MAP_WRITE
from ..arch import (
    ACCESS_AC,
    ACCESS_FETCH,
    ACCESS_IMPLICIT,
    ACCESS_USER,
    PAGE_OFFSET,
    PAGE_SHIFT,
    PAGE_SIZE,
)
from ..memory import Memory
from .difference import Difference

__all__ = ["ModelTlb", "side_of"]

_Key = tuple[int, int, int]


def side_of(access: int) -> int:
    """Return which of an engine's TLBs serves an access: 0 supervisor, 1 user, 2 with AC."""
    if access & ACCESS_IMPLICIT:
        return 0
    if access & ACCESS_USER:
        return 1
    return 2 if access & ACCESS_AC and not access & ACCESS_FETCH else 0


class ModelTlb:
    """The TLBs of all vCPUs, and what their engines have translated; a `mmu.api.TlbHost`."""

    def __init__(self, memory: Memory, cpus: int) -> None:
        """Model `cpus` engines over `memory`."""
        self._memory = memory
        # (page, side, mapping) -> address bits of the guest's page
        self.entries: list[dict[_Key, int]] = [{} for _ in range(cpus)]
        self.code: list[dict[int, bytes]] = [{} for _ in range(cpus)]
        # What a plug-in said may be kept: (gva, access) -> (its version, the Mapping)
        self.kept: list[dict[tuple[int, int], tuple[int | None, int]]] = [{} for _ in range(cpus)]

    # --- What the MMU asks --------------------------------------------------------------------

    def flush_tlb(self, cpu: int) -> None:
        """Empty the TLB of one vCPU."""
        self.entries[cpu].clear()
        self.kept[cpu].clear()

    def drop_code(self, gfn: int) -> None:
        """Forget what was translated from a frame."""
        for frames in self.code:
            frames.pop(gfn, None)

    # --- What the engines do ------------------------------------------------------------------

    def grant(self, cpu: int, gva: int, access: int, mapping: int, shift: int) -> None:
        """Take an entry, and translate code if it was asked for to fetch."""
        page = gva & ~PAGE_OFFSET
        self.entries[cpu][page, side_of(access), mapping] = shift
        if access & ACCESS_FETCH and mapping & MAP_EXEC and not mapping & MAP_TRAP:
            gpa = mapping & FRAME_MASK
            self.code[cpu][gpa >> PAGE_SHIFT] = self._memory.read_block(gpa, PAGE_SIZE)

    def writable(self, cpu: int, gva: int, access: int) -> int | None:
        """Return an entry that lets a store through, or None for a miss."""
        page = gva & ~PAGE_OFFSET
        side = side_of(access)
        for entry_page, entry_side, mapping in self.entries[cpu]:
            if entry_page == page and entry_side == side and mapping & MAP_WRITE:
                return mapping
        return None

    def drop(self, cpu: int, gva: int) -> None:
        """Drop a vCPU's entries for one 4 KiB page: what the engine does for INVLPG."""
        page = gva & ~PAGE_OFFSET
        entries = self.entries[cpu]
        for key in [key for key in entries if key[0] == page]:
            del entries[key]
        self.kept[cpu].clear()

    def saw_store(self, cpu: int, mapping: int, gpa: int) -> None:
        """Note a store through an entry; the engine itself handles code in a checked one."""
        gfn = gpa >> PAGE_SHIFT
        if mapping & MAP_EXEC and gfn in self.code[cpu]:
            self.code[cpu][gfn] = self._memory.read_block(gfn << PAGE_SHIFT, PAGE_SIZE)

    # --- What must hold -----------------------------------------------------------------------

    def check(self) -> None:
        """Look for code that is out of date, and frames writable here and executable there.

        Raises:
            Difference: there is one.
        """
        for cpu, frames in enumerate(self.code):
            for gfn, then in frames.items():
                if self._memory.read_block(gfn << PAGE_SHIFT, PAGE_SIZE) != then:
                    raise Difference("stale code", f"vCPU {cpu} runs old code of gfn {gfn:x}")
        fetched = {
            (mapping & FRAME_MASK, cpu)
            for cpu, entries in enumerate(self.entries)
            for _, _, mapping in entries
            if mapping & MAP_EXEC and not mapping & MAP_TRAP
        }
        executable = {frame for frame, _ in fetched}
        for cpu, entries in enumerate(self.entries):
            for page, _, mapping in entries:
                frame = mapping & FRAME_MASK
                if mapping & MAP_TRAP or not mapping & MAP_WRITE or frame not in executable:
                    continue
                runners = {other for fetch, other in fetched if fetch == frame}
                if not mapping & MAP_EXEC or runners != {cpu}:
                    what = f"gfn {frame >> PAGE_SHIFT:x} is writable at {page:#x} on vCPU {cpu}"
                    raise Difference("W and X", f"{what}, executable on {sorted(runners)}")
