# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores into live tables: whole entries, parts and rows of them, by all kinds of instructions.

Every one keeps to the classes of `emu.fuzz.layout`. The invalidation is the caller's business.
"""

from __future__ import annotations

import random

from emu.fuzz import layout as L
from emu.fuzz.encode import RAX, RBX, RCX, RDI, RDX, RSI, Memory, encode, load_register
from emu.fuzz.entries import Entries
from emu.fuzz.instructions import rows_for
from emu.fuzz.operands import Operands

__all__ = ["DEFINED_FLAGS", "Edits"]

DEFINED_FLAGS = b"\x39\xc0"
"""CMP EAX, EAX. What is left undefined differs between versions of QEMU."""

Edit = tuple[bytes, bytes, str]
"""Code that loads registers, the store itself, and a note."""


class Edits:
    """Makes edits for a guest. `accessed` as for `Entries`."""

    def __init__(
        self, rng: random.Random, mode: L.Mode, operands: Operands, *, accessed: bool
    ) -> None:
        """Choose by `rng`."""
        self._rng = rng
        self._mode = mode
        self._bits = mode.bits
        self._operands = operands
        self._accessed = accessed
        self.entries = Entries(rng, mode, accessed=accessed)
        self._byte_rows = [row for row, widths in rows_for(mode.bits) if widths == (1,)]
        self._byte_rows = [row for row in self._byte_rows if row.writes]
        self._ring = 0

    def edit(self, ring: int) -> Edit:
        """Return an edit that a slot in `ring` may do."""
        self._ring = ring
        return self._edit_of_entry()

    def _table_operand(self, offset: int) -> tuple[bytes, Memory]:
        """Return an operand for an offset in some table: by the arena, or straight."""
        rng, mode = self._rng, self._mode
        if self._ring == 0 and self._bits != 16 and rng.random() < 0.35:
            table = L.frame(L.T_FRAMES, rng.randrange(L.FRAME_COUNT))
            return self._operands.operand(mode.immune + table + offset)
        page = rng.randrange(L.FIRST_TABLE_PAGE, L.PAGES)
        return self._operands.operand(self._operands.address((page << 12) + offset))

    def _edit_of_entry(self) -> Edit:
        rng, bits = self._rng, self._bits
        at = rng.random()
        if self._mode.levels == 3 and self._ring == 0 and at < 0.08:
            return self._edit_pdpte()
        if at < 0.12:
            return self._edit_from_before()
        if at < 0.22:
            return self._edit_in_a_row()
        index, value, leaf = self.entries.new()
        offset = index * self._mode.entry_bytes
        width = self._mode.entry_bytes
        if at < 0.55 or (at < 0.8 and not leaf):
            return self._store_entry(offset, value, width)
        if at < 0.8:
            # Bytes of an entry, which leave its class as it is: see layout.
            byte = rng.randrange(2)
            row = rng.choice(self._byte_rows)
            setup, memory = self._table_operand(offset + byte)
            immediate = rng.randbytes(row.immediate_bytes(1))
            reg = rng.choice((RAX, RCX, RDX)) if row.reg is None else row.reg
            prefix = b"\xf0" if "l" in row.does and rng.random() < 0.5 else b""
            code = encode(
                bits, row.opcode, reg, memory, width=1, immediate=immediate, prefix=prefix
            )
            if "u" in row.does:
                code += DEFINED_FLAGS
            return setup, code, f"edit byte {byte} of {index}: {row.name}"
        # One flag, by a bit instruction; never PS, which changes the class of a link.
        bit = rng.choice((0, 1, 1, 2, 2, 5, 6, 6, 8, 9))
        if bit == 5 and not leaf and self._accessed:
            bit = 6
        if width == 8 and rng.random() < 0.2:
            offset, bit = offset + 4, 31  # NX
        digit = rng.choice((5, 6, 6, 7))
        setup, memory = self._table_operand(offset)
        prefix = b"\xf0" if rng.random() < 0.5 else b""
        code = encode(
            bits, b"\x0f\xba", digit, memory, width=4, immediate=bytes([bit]), prefix=prefix
        )
        return setup, code + DEFINED_FLAGS, f"edit bit {bit} of entry {index}"

    def _store_entry(self, offset: int, value: int, width: int) -> Edit:
        """The whole entry at once, or in halves, or exchanged."""
        rng, bits = self._rng, self._bits
        note = f"edit {offset:#x} := {value:#x}"
        setup, memory = self._table_operand(offset)
        if width == 8 and bits == 64:
            code = load_register(64, RAX, value)
            how = rng.randrange(3)
            prefix = b"\xf0" if how == 2 else b""
            opcode = (b"\x89", b"\x87", b"\x87")[how]
            return setup, code + encode(64, opcode, RAX, memory, width=8, prefix=prefix), note
        if width == 8:
            return self._store_entry_by_8(setup, memory, value, note)
        how = rng.randrange(5)
        if how == 0:
            immediate = value.to_bytes(4, "little")
            return setup, encode(bits, b"\xc7", 0, memory, width=4, immediate=immediate), note
        load = load_register(bits, RAX, value)
        if how == 4:
            # Compared with what is there: read first, so that it succeeds.
            compare = encode(bits, b"\x8b", RAX, memory)
            load = load_register(bits, RDX, value)
            swap = encode(bits, b"\x0f\xb1", RDX, memory, prefix=b"\xf0")
            return setup, compare + load + swap, note + " by cmpxchg"
        opcode = (b"\x89", b"\x87", b"\x0f\xc3")[how - 1]
        return setup, load + encode(bits, opcode, RAX, memory), note

    def _store_entry_by_8(self, setup: bytes, memory: Memory, value: int, note: str) -> Edit:
        """An 8-byte entry in a 32-bit guest: CMPXCHG8B as kernels do it, MOVQ, or two halves."""
        rng, bits = self._rng, self._bits
        low, high = value & 0xFFFF_FFFF, value >> 32
        how = rng.randrange(3)
        if how == 0:
            # The high half first, the low one with P last.
            first = encode(bits, b"\xc7", 0, _plus4(memory), immediate=high.to_bytes(4, "little"))
            second = encode(bits, b"\xc7", 0, memory, immediate=low.to_bytes(4, "little"))
            return setup, first + second, note + " in halves"
        if how == 1:
            push = b"\x68" + high.to_bytes(4, "little") + b"\x68" + low.to_bytes(4, "little")
            # MOVQ XMM0, [ESP]; MOVQ [entry], XMM0
            code = push + b"\xf3\x0f\x7e\x04\x24"
            return (
                setup,
                code
                + encode(bits, b"\x0f\xd6", 0, memory, width=0, prefix=b"\x66")
                + b"\x83\xc4\x08",
                note + " by movq",
            )
        # EDX:EAX as it is, ECX:EBX new; the operand must not need them.
        code = b"\x31\xc0\x31\xd2" + load_register(bits, RCX, high)
        swap = encode(bits, b"\x0f\xc7", 1, memory, prefix=b"\xf0", width=0)
        # It fails the first time unless the entry was empty, and has loaded EDX:EAX then.
        if memory.modrm & 7 == RBX or memory.modrm & 7 == 4:
            return setup, b"\x89\xd8" + swap + DEFINED_FLAGS, note + " by cmpxchg8b, failing"
        code += load_register(bits, RBX, low) + swap + swap + DEFINED_FLAGS
        return setup, code, note + " by cmpxchg8b"

    def _edit_pdpte(self) -> Edit:
        """A PDPTE in memory; it counts when CR3 is loaded, and has to be a good one."""
        rng, mode = self._rng, self._mode
        table = rng.choice(L.PDPT_FRAMES)
        value = self.entries.table() | 1
        offset = rng.randrange(2) * 8
        setup, memory = self._operands.operand(mode.immune + table + offset)
        code = encode(self._bits, b"\xc7", 0, memory, immediate=value.to_bytes(4, "little"))
        return setup, code, f"edit PDPTE {offset // 8} := {value:#x}"

    def _edit_from_before(self) -> Edit:
        """A store that begins in the last data page and ends in the first entry of a table."""
        rng = self._rng
        width = rng.choice((4, 8)) if self._bits == 64 else 4
        outside = rng.randrange(1, width)
        entry = self.entries.leaf(2).to_bytes(8, "little")
        data = rng.randbytes(outside) + entry[: width - outside]
        place = (L.FIRST_TABLE_PAGE << 12) - outside
        setup, memory = self._operands.operand(self._operands.address(place))
        load = load_register(self._bits, RAX, int.from_bytes(data, "little"))
        opcode, prefix = rng.choice(((b"\x89", b""), (b"\x87", b""), (b"\x87", b"\xf0")))
        code = encode(self._bits, opcode, RAX, memory, width=width, prefix=prefix)
        return setup, load + code, f"edit from {outside} bytes before"

    def _edit_in_a_row(self) -> Edit:
        """Several entries by one string instruction: set alike, or copied from another table."""
        rng, bits, mode = self._rng, self._bits, self._mode
        step = mode.entry_bytes
        pages = range(L.FIRST_TABLE_PAGE, L.PAGES)
        tables = rng.random() < 0.3
        # Pages of one class, at indexes that follow each other.
        first = rng.choice((11, 12)) if tables else rng.choice((2, 3, 5, 7))
        last = 15 if tables else 10
        count = rng.randrange(1, last - first + 2)
        offset = L.leaf_index(mode, first) * step
        target = self._operands.address((rng.choice(pages) << 12) + offset)
        code = b"\xfc" + load_register(bits, RDI, target)
        if rng.random() < 0.5 or (step == 8 and bits != 64):
            source = self._operands.address((rng.choice(pages) << 12) + offset)
            code += load_register(bits, RSI, source) + load_register(bits, RCX, count * step // 4)
            prefix = b"\x66" if bits == 16 else b""
            return code, b"\xf3" + prefix + b"\xa5", f"edit {count} entries by movs"
        value = self.entries.leaf(first)
        code += load_register(bits, RAX, value) + load_register(bits, RCX, count)
        if step == 8:
            return code, b"\xf3\x48\xab", f"edit {count} entries by stos"
        prefix = b"\x66" if bits == 16 else b""
        return code, b"\xf3" + prefix + b"\xab", f"edit {count} entries by stos"


def _plus4(memory: Memory) -> Memory:
    """Return the operand 4 bytes further on."""
    size = len(memory.tail)
    mod = memory.modrm >> 6
    if mod == 0 and not (size and memory.modrm & 7 != 4):
        # No displacement yet: make it one byte.
        return Memory(memory.modrm | 0x40, memory.tail + b"\x04", memory.rex)
    width = 1 if mod == 1 else 4
    head, tail = memory.tail[: size - width], memory.tail[size - width :]
    signed = mod != 0
    value = int.from_bytes(tail, "little", signed=signed) + 4
    if width == 1 and value > 127:
        head, width = memory.tail[: size - 1], 4
        return Memory(memory.modrm & 0x3F | 0x80, head + value.to_bytes(4, "little"), memory.rex)
    return Memory(memory.modrm, head + value.to_bytes(width, "little", signed=signed), memory.rex)
