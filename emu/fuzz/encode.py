# SPDX-License-Identifier: GPL-2.0-or-later
"""Instructions as bytes, for all operating modes (SDM 2A, chapter 2).

    [lock, rep] [66] [67] [mandatory] [REX] opcode ModRM [SIB] [displacement] [immediate]

Only what the fuzzer needs: instructions with at most one memory operand, and register loads.
Registers go by their numbers, rax rcx rdx rbx rsp rbp rsi rdi r8 to r15.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Assembler", "Memory", "encode", "load_register"]

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory operand: ModRM without its reg field, what follows, and the REX bits it needs."""

    modrm: int
    tail: bytes
    rex: int = 0
    address_prefix: bool = False
    segment: bytes = b""


def based(base: int, displacement: int = 0, index: int | None = None, scale: int = 0) -> Memory:
    """Return [base + index << scale + displacement] with 32- or 64-bit addressing."""
    rex = base >> 3
    if displacement == 0 and base & 7 != RBP:
        mod, tail = 0, b""
    elif -128 <= displacement < 128:
        mod, tail = 0x40, displacement.to_bytes(1, "little", signed=True)
    else:
        mod, tail = 0x80, displacement.to_bytes(4, "little", signed=True)
    if index is None and base & 7 != RSP:
        return Memory(mod | base & 7, tail, rex)
    if index is None:
        index = RSP  # none
    sib = scale << 6 | (index & 7) << 3 | base & 7
    return Memory(mod | 4, bytes([sib]) + tail, rex | index >> 3 << 1)


def absolute(bits: int, address: int) -> Memory:
    """Return [address], of 32 bits, sign-extended in 64-bit mode."""
    tail = (address & 0xFFFF_FFFF).to_bytes(4, "little")
    if bits == 64:
        return Memory(4, b"\x25" + tail)
    return Memory(5, tail, address_prefix=bits == 16)


# 16-bit addressing: the registers of rm 0 to 7 (6 is plain disp16 with mod 0).
PAIRS_16 = ((RBX, RSI), (RBX, RDI), None, None, (RSI,), (RDI,), None, (RBX,))


def based_16(rm: int, displacement: int) -> Memory:
    """Return a 16-bit operand with a 16-bit displacement; `rm` as in `PAIRS_16`, 6 for none."""
    mod = 0 if rm == 6 else 0x80
    return Memory(mod | rm, (displacement & 0xFFFF).to_bytes(2, "little"))


def encode(
    bits: int,
    opcode: bytes,
    reg: int,
    memory: Memory,
    *,
    width: int = 4,
    immediate: bytes = b"",
    prefix: bytes = b"",
    byte_register: bool = False,
) -> bytes:
    """Return an instruction with a memory operand.

    `prefix` holds LOCK, REP and mandatory prefixes; `width` is the operand size in bytes, and
    chooses 66 and REX.W (a width of 1 chooses nothing: the opcode says it). With `byte_register`
    a REX is there for SPL to DIL, so that `reg` means the same in all modes.
    """
    code = prefix + memory.segment
    if memory.address_prefix:
        code += b"\x67"
    if (width == 2) != (bits == 16) and width in (2, 4):
        code += b"\x66"
    rex = memory.rex | (reg >> 3) << 2 | (8 if width == 8 and bits == 64 else 0)
    if bits == 64 and (rex or (byte_register and reg >= 4)):
        code += bytes([0x40 | rex])
    return code + opcode + bytes([memory.modrm | (reg & 7) << 3]) + memory.tail + immediate


def load_register(bits: int, register: int, value: int) -> bytes:
    """Return MOV register, value: all 32 bits, in 64-bit mode all 64."""
    low = bytes([0xB8 | register & 7]) + (value & 0xFFFF_FFFF).to_bytes(4, "little")
    if bits == 16:
        return b"\x66" + low
    if bits == 32:
        return low
    value &= (1 << 64) - 1
    rex = register >> 3
    if value >> 32 == 0:
        return (bytes([0x40 | rex]) if rex else b"") + low
    if value >> 31 == (1 << 33) - 1:  # sign-extended
        return bytes([0x48 | rex, 0xC7, 0xC0 | register & 7]) + low[1:]
    return bytes([0x48 | rex, 0xB8 | register & 7]) + value.to_bytes(8, "little")


class Assembler:
    """Code at an address, with labels; what the runtime of an image is put together with.

    `at(address)` operands are absolute in 32-bit code and relative to RIP in 64-bit code: the
    encoding is the same, ModRM with mod 0 and rm 5.
    """

    def __init__(self, bits: int, address: int) -> None:
        """Begin at `address`, 16-, 32- or 64-bit code."""
        self.bits = bits
        self.address = address
        self.code = bytearray()
        self._labels: dict[str, int] = {}
        self._fixups: list[tuple[int, str]] = []

    @property
    def here(self) -> int:
        """The address of the next byte."""
        return self.address + len(self.code)

    def raw(self, *parts: str | bytes) -> Assembler:
        """Append bytes; strings are hexadecimal."""
        for part in parts:
            self.code += bytes.fromhex(part) if isinstance(part, str) else part
        return self

    def imm32(self, opcode: str, value: int) -> Assembler:
        """Append an opcode and 32 bits."""
        return self.raw(opcode, (value & 0xFFFF_FFFF).to_bytes(4, "little"))

    def at(self, opcode: str, reg: int, address: int, immediate: bytes = b"") -> Assembler:
        """Append an instruction with the operand [address]; `reg` is ModRM's reg field."""
        self.raw(opcode, bytes([reg << 3 | 5]))
        place = address
        if self.bits == 64:
            place = address - (self.here + 4 + len(immediate))
        return self.raw((place & 0xFFFF_FFFF).to_bytes(4, "little"), immediate)

    def label(self, name: str) -> Assembler:
        """Name this place."""
        self._labels[name] = len(self.code)
        return self

    def jump(self, opcode: str, label: str) -> Assembler:
        """Append a jump or call with a 32-bit displacement."""
        self.raw(opcode)
        self._fixups.append((len(self.code), label))
        return self.raw(bytes(4))

    def where(self, label: str) -> int:
        """Return the address of a label."""
        return self.address + self._labels[label]

    def finish(self) -> bytes:
        """Return the code, all jumps resolved."""
        for place, label in self._fixups:
            distance = self._labels[label] - (place + 4)
            self.code[place : place + 4] = distance.to_bytes(4, "little", signed=True)
        return bytes(self.code)
