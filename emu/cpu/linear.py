# SPDX-License-Identifier: GPL-2.0-or-later
"""Linear memory as the processor itself sees it: descriptor tables, TSS, stacks, code bytes.

Every access is translated by the MMU like one of the guest's, A and D bits included, and a fault
comes out as `Fault`. Writes are collected first and performed by `commit`, so that an event whose
delivery faults half-way has changed no memory.
"""

from __future__ import annotations

from emu.cpu.faults import Fault, Vector
from mmu.api import FRAME_MASK, Mmu, NotCanonical
from mmu.arch import ACCESS_FETCH, ACCESS_IMPLICIT, ACCESS_USER, ACCESS_WRITE
from mmu.memory import Memory

__all__ = ["LinearMemory"]

_PAGE = 0xFFF
_MASK64 = (1 << 64) - 1


class LinearMemory:
    """The linear address space of one vCPU, for the processor's own accesses.

    Addresses are 64-bit in 64-bit mode and else 32-bit; the caller truncates.
    """

    def __init__(self, index: int, mmu: Mmu, memory: Memory) -> None:
        """Look through `mmu` as vCPU `index`."""
        self._sees_flushes = mmu.name != "native"  # there the engine empties its TLB unseen
        self._index = index
        self._translate = mmu.translate
        self._memory = memory
        self._pages: dict[tuple[int, int], int] = {}
        self._writes: list[tuple[int, int, int]] = []

    def begin(self) -> None:
        """Forget uncommitted writes: call before each use."""
        self._writes.clear()
        if not self._sees_flushes:
            self._pages.clear()

    def flush(self) -> None:
        """Forget what was translated, because the vCPU's TLB is emptied.

        Translations are kept as long as a TLB would keep them, and no longer: the MMU counts on
        it that what it granted is gone after a flush.
        """
        self._pages.clear()

    def physical(self, gva: int, access: int, vector: int = Vector.GP) -> int:
        """Return the guest-physical address, or raise Fault: #PF, or `vector` if not canonical."""
        key = (gva >> 12, access)
        frame = self._pages.get(key)
        if frame is None:
            answer = self._translate(self._index, gva, access)
            if isinstance(answer, int):
                frame = answer & FRAME_MASK
                self._pages[key] = frame
            elif isinstance(answer, NotCanonical):
                raise Fault(vector, 0)
            else:
                raise Fault(Vector.PF, answer.error_code, gva)
        return frame | gva & _PAGE

    def read(self, gva: int, size: int, access: int = ACCESS_IMPLICIT) -> int:
        """Read `size` bytes (1, 2, 4, 8), by default as an implicit supervisor access."""
        if gva & _PAGE <= 0x1000 - size:
            return self._memory.read(self.physical(gva, access), size)
        return int.from_bytes(self.read_block(gva, size, access), "little")

    def read_block(self, gva: int, size: int, access: int = ACCESS_IMPLICIT) -> bytes:
        """Read bytes over page boundaries; the CR2 of a fault is the first byte not reached."""
        parts = []
        while size:
            length = min(size, 0x1000 - (gva & _PAGE))
            parts.append(self._memory.read_block(self.physical(gva, access), length))
            gva = gva + length & _MASK64
            size -= length
        return b"".join(parts)

    def stage(
        self, gva: int, size: int, value: int, access: int = ACCESS_IMPLICIT, vector: int = 13
    ) -> None:
        """Check a write of `size` bytes (2, 4, 8) and keep it for `commit`."""
        access |= ACCESS_WRITE
        if gva & _PAGE <= 0x1000 - size:
            self._writes.append((self.physical(gva, access, vector), size, value))
            return
        low = 0x1000 - (gva & _PAGE)
        first = self.physical(gva, access, vector)
        second = self.physical(gva + low & _MASK64, access, vector)
        self._writes.append((first, low, value & (1 << 8 * low) - 1))
        self._writes.append((second, size - low, value >> 8 * low))

    def commit(self) -> None:
        """Perform the staged writes, neighbours together, as the guest's own stores."""
        writes = self._writes
        position = 0
        while position < len(writes):
            address, size, value = writes[position]
            position += 1
            # A stack frame comes from the top down.
            while position < len(writes) and writes[position][0] + writes[position][1] == address:
                address, more, low = writes[position]
                value = value << 8 * more | low & (1 << 8 * more) - 1
                size += more
                position += 1
            data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
            self._memory.write_block(address, data, "processor")
        writes.clear()

    def read_code(self, gva: int, size: int, user: bool) -> bytes:
        """Return up to `size` bytes of code, fewer where the next page would fault."""
        access = ACCESS_FETCH | (ACCESS_USER if user else 0)
        try:
            return self.read_block(gva, size, access)
        except Fault:
            length = 0x1000 - (gva & _PAGE)
            try:
                return self.read_block(gva, length, access) if length < size else b""
            except Fault:
                return b""
