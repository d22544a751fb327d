# SPDX-License-Identifier: GPL-2.0-or-later
"""Linear memory as the processor itself sees it: descriptor tables, TSS, stacks, code bytes.

Every access is translated by the MMU like one of the guest's, A and D bits included, and a fault
comes out as `Fault`. Writes are collected first and performed by `commit`, so that an event whose
delivery faults half-way has changed no memory.
"""

from __future__ import annotations

from emu.cpu.faults import Fault, Vector
from mmu.api import FRAME_MASK, MAP_EXEC, MAP_TRAP, Mmu, NotCanonical
from mmu.arch import ACCESS_FETCH, ACCESS_IMPLICIT, ACCESS_USER, ACCESS_WRITE
from mmu.memory import Memory

__all__ = ["LinearMemory"]

_PAGE = 0xFFF
_MASK64 = (1 << 64) - 1
_MOST_CODE_PAGES = 4096


class LinearMemory:
    """The linear address space of one vCPU, for the processor's own accesses.

    Addresses are 64-bit in 64-bit mode and else 32-bit; the caller truncates.

    What is translated is kept until the vCPU's TLB is emptied, as a TLB would: for each page and
    kind of access its frame, and the bytes of the frame where they can be read or written without
    telling anybody: RAM, and for writes RAM that the MMU has granted without a trap or a check for
    translated code. A plug-in under which INVLPG is not seen says what may be kept and for how
    long (`keeps`, `version`).
    """

    def __init__(self, index: int, mmu: Mmu, memory: Memory) -> None:
        """Look through `mmu` as vCPU `index`."""
        self._mmu = mmu
        self._sees_flushes = mmu.name != "native"  # there the engine empties its TLB unseen
        self._has_version = mmu.version is not None
        self._version: int | None = 0
        self._index = index
        self._translate = mmu.translate
        self._memory = memory
        self._frames: dict[int, int] = {}  # page << 10 | access -> frame address
        self.views: dict[int, memoryview] = {}  # the same -> its bytes
        self.words: dict[int, memoryview] = {}  # the same -> its 64-bit words
        self._code: dict[tuple[int, int], memoryview] = {}  # CR3 and the same -> its bytes
        self.flushes = 0
        """Grows whenever what was translated is forgotten."""
        self._writes: list[tuple[int, int, int, int]] = []  # gpa, size, value, key of the view

    def bind_translate(self) -> None:
        """Call the MMU's `translate` as it now is."""
        self._translate = self._mmu.translate

    def begin(self) -> None:
        """Forget uncommitted writes: call before each use."""
        if self._writes:
            self._writes.clear()
        if self._has_version:
            version = self._mmu.version
            if version != self._version:
                self._version = version
                self._code.clear()
                self.flush()
        elif not self._sees_flushes:
            self.flush()

    def flush(self) -> None:
        """Forget what was translated, because the vCPU's TLB is emptied.

        The MMU counts on it that what it granted is gone after a flush.
        """
        self.flushes += 1
        self._frames.clear()
        self.views.clear()
        self.words.clear()

    def physical(self, gva: int, access: int, vector: int = Vector.GP) -> int:
        """Return the guest-physical address, or raise Fault: #PF, or `vector` if not canonical."""
        key = (gva >> 12) << 10 | access
        frame = self._frames.get(key)
        if frame is None:
            answer = self._translate(self._index, gva, access)
            if isinstance(answer, NotCanonical):
                raise Fault(vector, 0)
            if not isinstance(answer, int):
                raise Fault(Vector.PF, answer.error_code, gva)
            if access & ACCESS_WRITE and answer & MAP_TRAP:
                answer = self._without_table(gva, access, answer)
            frame = answer & FRAME_MASK
            if self._has_version and not self._mmu.keeps(self._index, gva):
                return frame | gva & _PAGE
            self._frames[key] = frame
            told = MAP_TRAP | MAP_EXEC if access & ACCESS_WRITE else MAP_TRAP
            table = self._memory.table64(frame >> 12)
            if table is not None and not answer & told:
                self.views[key] = table.cast("B")
                self.words[key] = table
        return frame | gva & _PAGE

    def _without_table(self, gva: int, access: int, answer: int) -> int:
        """Return how a write that is to be told shall be answered: the processor itself writes to
        stacks and task state, so that a page table which it meets is one no more."""
        gpa = answer & FRAME_MASK
        if not self._memory.host_address(gpa) or not self._mmu.reused(gpa):
            return answer
        again = self._translate(self._index, gva, access)
        return again if isinstance(again, int) else answer

    def read(self, gva: int, size: int, access: int = ACCESS_IMPLICIT) -> int:
        """Read `size` bytes (1, 2, 4, 8), by default as an implicit supervisor access.

        0.3 us where the page was read since the last flush.
        """
        offset = gva & _PAGE
        view = self.views.get((gva >> 12) << 10 | access)
        if view is not None and offset <= 0x1000 - size:
            return int.from_bytes(view[offset : offset + size], "little")
        if offset <= 0x1000 - size:
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
        """Check a write of `size` bytes and keep it for `commit`."""
        access |= ACCESS_WRITE
        if gva & _PAGE <= 0x1000 - size:
            address = self.physical(gva, access, vector)
            self._writes.append((address, size, value, (gva >> 12) << 10 | access))
            return
        low = 0x1000 - (gva & _PAGE)
        first = self.physical(gva, access, vector)
        second = self.physical(gva + low & _MASK64, access, vector)
        self._writes.append((first, low, value & (1 << 8 * low) - 1, -1))
        self._writes.append((second, size - low, value >> 8 * low, -1))

    def commit(self) -> None:
        """Perform the staged writes as the guest's own stores.

        What was translated after a write was staged, or an earlier write, may have taken its view
        away: the frame may be a page table only since then.
        """
        for address, size, value, key in self._writes:
            data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
            view = self._view(key)
            if view is not None:
                offset = address & _PAGE
                view[offset : offset + size] = data
            else:
                self._memory.write_block(address, data, "processor")
        self._writes.clear()

    def _view(self, key: int) -> memoryview | None:
        """Return the bytes of a page if they may still be touched untold."""
        if self._has_version and self._mmu.version != self._version:
            return None
        return self.views.get(key)

    def read_code(self, gva: int, size: int, user: bool, space: int = 0) -> bytes:
        """Return up to `size` bytes of code, fewer where the next page would fault.

        `space` is CR3 in long mode, where it alone says what is mapped: code that was read in this
        address space before is found again after others were entered, while `version` stands.
        """
        access = ACCESS_FETCH | (ACCESS_USER if user else 0)
        offset = gva & _PAGE
        key = (gva >> 12) << 10 | access
        views = self.views
        view = views.get(key) or self._code.get((space, key))
        if view is not None and offset <= 0x1000 - size:
            return bytes(view[offset : offset + size])
        code = self._read_code_block(gva, size, access)
        if space and self._has_version and key in views:
            if len(self._code) >= _MOST_CODE_PAGES:
                self._code.clear()
            self._code[space, key] = views[key]
        return code

    def _read_code_block(self, gva: int, size: int, access: int) -> bytes:
        try:
            return self.read_block(gva, size, access)
        except Fault:
            length = 0x1000 - (gva & _PAGE)
            try:
                return self.read_block(gva, length, access) if length < size else b""
            except Fault:
                return b""
