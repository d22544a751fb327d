# SPDX-License-Identifier: GPL-2.0-or-later
"""Registers and memory: the packets g, G, p, P, m, M and X."""

from __future__ import annotations

from emu.debug.gdb.protocol import MOST_BYTES, PacketError, hex_bytes, number, unescape
from emu.debug.gdb.registers import View
from emu.debug.gdb.target import DebugTarget

__all__ = ["Access"]

_PAGE = 0x1000
_FAULT = 0x0E  # EFAULT


class Access:
    """Reads and writes for one session.

    `cpu` is the vCPU that is meant, `view` the registers as the debugger knows them, `physical`
    whether addresses are physical (QEMU's PhyMemMode). Each method gets what follows the letter of
    its packet and returns the reply; all raise PacketError, LookupError where there is no memory,
    and ValueError for a register that cannot be written.
    """

    def __init__(self, target: DebugTarget, view: View) -> None:
        """Look at vCPU `target.current`."""
        self._target = target
        self.view = view
        self.cpu = target.current
        self.physical = False

    # --- Registers --------------------------------------------------------------------------------

    def _read(self, index: int) -> bytes:
        register = self.view.registers[index]
        value = self._target.read_register(self.cpu, register.source)
        mask = (1 << register.bits) - 1
        return (value & mask).to_bytes(register.size, "little").hex().encode("ascii")

    def _write(self, index: int, data: bytes) -> None:
        """Set a register, if it changes: what cannot be written may be written back by `G`. Bits
        that the view does not show stay as they are."""
        register = self.view.registers[index]
        if len(data) != register.size:
            raise PacketError
        value, mask = int.from_bytes(data, "little"), (1 << register.bits) - 1
        old = self._target.read_register(self.cpu, register.source)
        if value != old & mask:
            self._target.write_register(self.cpu, register.source, old & ~mask | value)

    def get_all(self, _rest: bytes) -> bytes:
        """g."""
        return b"".join(self._read(index) for index in range(len(self.view.registers)))

    def set_all(self, rest: bytes) -> bytes:
        """G; registers that are missing at the end stay as they are."""
        data = hex_bytes(rest)
        for index, register in enumerate(self.view.registers):
            piece, data = data[: register.size], data[register.size :]
            if len(piece) < register.size:
                break
            self._write(index, piece)
        return b"OK"

    def get(self, rest: bytes) -> bytes:
        """p."""
        return self._read(number(rest, len(self.view.registers) - 1))

    def set(self, rest: bytes) -> bytes:
        """P."""
        index, _, data = rest.partition(b"=")
        self._write(number(index, len(self.view.registers) - 1), hex_bytes(data))
        return b"OK"

    # --- Memory -----------------------------------------------------------------------------------

    def _place(self, text: bytes) -> tuple[int, int]:
        address, comma, size = text.partition(b",")
        if not comma:
            raise PacketError
        return number(address), number(size, MOST_BYTES)

    def _pieces(self, address: int, size: int) -> list[tuple[int, int]]:
        """Return (gpa, size) for each page of a range, up to what is not mapped."""
        found: list[tuple[int, int]] = []
        while size > 0 and address < 1 << 64:
            length = min(size, _PAGE - address % _PAGE)
            try:
                gpa = address if self.physical else self._target.translate(self.cpu, address)
            except LookupError:
                break
            found.append((gpa, length))
            address += length
            size -= length
        return found

    def read_memory(self, rest: bytes) -> bytes:
        """m: as much as can be read, and an error where that is nothing."""
        address, size = self._place(rest)
        data = b""
        for gpa, length in self._pieces(address, min(size, MOST_BYTES // 2 - 1)):
            try:
                data += self._target.peek(gpa, length)
            except LookupError:
                break
        if size and not data:
            raise PacketError(_FAULT)
        return data.hex().encode("ascii")

    def _write_bytes(self, address: int, size: int, data: bytes) -> bytes:
        if len(data) != size:
            raise PacketError
        pieces = self._pieces(address, size)
        if sum(length for _, length in pieces) < size:
            raise PacketError(_FAULT)
        for gpa, length in pieces:
            self._target.peek(gpa, length)  # there is memory everywhere, or nothing is written
        for gpa, length in pieces:
            self._target.poke(gpa, data[:length])
            data = data[length:]
        return b"OK"

    def write_memory(self, rest: bytes) -> bytes:
        """M: all of it, or an error and nothing."""
        place, _, digits = rest.partition(b":")
        return self._write_bytes(*self._place(place), hex_bytes(digits))

    def write_binary(self, rest: bytes) -> bytes:
        """X: all of it, or an error and nothing."""
        place, _, data = rest.partition(b":")
        return self._write_bytes(*self._place(place), unescape(data))

    def physical_mode(self, rest: bytes) -> bytes:
        """Qqemu.PhyMemMode and qqemu.PhyMemMode."""
        if not rest:
            return b"1" if self.physical else b"0"
        if rest not in (b":0", b":1"):
            raise PacketError
        self.physical = rest == b":1"
        return b"OK"
