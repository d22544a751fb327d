# SPDX-License-Identifier: GPL-2.0-or-later
"""How instructions are encoded (SDM 2A chapter 2, appendix A): prefixes, opcode, ModRM, length.

One decoder for everything that is decoded by us. It knows the form of every instruction that this
processor has, legacy and VEX, and nothing of what they do:

    [legacy prefixes and REX, any order] [opcode: 1 byte, 0F x, 0F 38 x, 0F 3A x] [ModRM [SIB]]
    [displacement] [immediate]

A REX prefix counts only directly before the opcode (SDM 2A 2.2.1); any earlier one is ignored, and
is a byte of the instruction all the same. An instruction is at most 15 bytes long.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LONGEST", "Encoding", "Prefixes", "decode", "prefixes_of"]

LONGEST = 15
"""Bytes of the longest instruction; a longer one is #GP(0) (SDM 2A 2.3.11)."""

_LEGACY = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_SEGMENTS = {0x26: 0, 0x2E: 1, 0x36: 2, 0x3E: 3, 0x64: 4, 0x65: 5}
_LOCK, _OPERAND_SIZE, _ADDRESS_SIZE = 0xF0, 0x66, 0x67
_REP = frozenset(b"\xf2\xf3")


class Prefixes(NamedTuple):
    """The prefixes of an instruction: `length` bytes; `rex` is 0 where none counts; `segment` is
    the number of the last override, or None; `rep` is the last of F2 and F3, or 0."""

    length: int
    rex: int
    lock: bool
    operand_size: bool
    address_size: bool
    rep: int
    segment: int | None


def prefixes_of(code: bytes, bits: int) -> Prefixes:
    """Return the prefixes that `code` starts with, in code of 16, 32 or 64 bits.

    >>> prefixes_of(bytes.fromhex("48 66 0f 32"), 64)[:2]
    (2, 0)
    >>> prefixes_of(bytes.fromhex("66 48 0f 32"), 64)[:2]
    (2, 72)
    """
    at, rex, rep = 0, 0, 0
    lock = operand_size = address_size = False
    segment = None
    for byte in code:
        if byte in _LEGACY:
            rex = 0
            if byte == _LOCK:
                lock = True
            elif byte == _OPERAND_SIZE:
                operand_size = True
            elif byte == _ADDRESS_SIZE:
                address_size = True
            elif byte in _REP:
                rep = byte
            else:
                segment = _SEGMENTS[byte]
        elif bits == 64 and byte & 0xF0 == 0x40:
            rex = byte
        else:
            break
        at += 1
    if bits == 64 and segment is not None and segment < 4:
        segment = None  # ignored (SDM 1 3.3.7.1)
    return Prefixes(at, rex, lock, operand_size, address_size, rep, segment)


class Encoding(NamedTuple):
    """An instruction taken apart.

    `map` is 0 for one-byte opcodes, 1 for 0F, 2 for 0F 38, 3 for 0F 3A. `opcode_at` is where the
    last opcode byte stands, `modrm` None where there is none. `base` and `scaled` (the
    index) are register numbers or None; `base` is 16 for RIP. `vex` holds the VEX bytes, or none.
    """

    prefixes: Prefixes
    length: int
    map: int
    opcode: int
    opcode_at: int
    modrm: int | None
    base: int | None
    scaled: int | None
    scale: int
    displacement: int
    address_bytes: int
    vex: bytes

    @property
    def reg(self) -> int:
        """The register that ModRM.reg and REX.R name, 0 to 15."""
        return (self.modrm or 0) >> 3 & 7 | (self.prefixes.rex & 4) << 1

    @property
    def rm(self) -> int:
        """The register that ModRM.rm and REX.B name, 0 to 15."""
        return (self.modrm or 0) & 7 | (self.prefixes.rex & 1) << 3

    @property
    def is_memory(self) -> bool:
        """Whether ModRM names a memory operand."""
        control = self.map == 1 and 0x20 <= self.opcode <= 0x27
        return self.modrm is not None and self.modrm < 0xC0 and not control


RIP = 16

_MODRM_0 = frozenset(
    (
        *(op for op in range(0x40) if op & 7 < 4),
        *(0x62, 0x63, 0x69, 0x6B, 0xC0, 0xC1, 0xC4, 0xC5, 0xC6, 0xC7, 0xF6, 0xF7, 0xFE, 0xFF),
        *range(0x80, 0x90),
        *range(0xD0, 0xD4),
        *range(0xD8, 0xE0),
    )
)
_NO_MODRM_1 = frozenset(
    (
        *(4, 5, 6, 7, 8, 9, 0xA, 0xB, 0xC, 0xE, *range(0x30, 0x40), 0x77, *range(0x80, 0x90)),
        *(0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xAA, *range(0xC8, 0xD0)),
    )
)
# Immediates: how many bytes, or one of these.
_Z, _V, _FAR, _OFFSET = -1, -2, -3, -4  # operand size up to 4; up to 8; far pointer; address
_IMMEDIATE_0 = {
    **{op: 1 for op in range(0x40) if op & 7 == 4},
    **{op: _Z for op in range(0x40) if op & 7 == 5},
    **dict.fromkeys([0x6A, 0x6B, 0x80, 0x82, 0x83, 0xA8, 0xC0, 0xC1, 0xC6, 0xCD, 0xD4, 0xD5], 1),
    **dict.fromkeys([*range(0x70, 0x80), *range(0xB0, 0xB8), *range(0xE0, 0xE8), 0xEB], 1),
    **dict.fromkeys([0x68, 0x69, 0x81, 0xA9, 0xC7, 0xE8, 0xE9], _Z),
    **dict.fromkeys(range(0xB8, 0xC0), _V),
    **dict.fromkeys([0x9A, 0xEA], _FAR),
    **dict.fromkeys(range(0xA0, 0xA4), _OFFSET),
    0xC2: 2,
    0xCA: 2,
    0xC8: 3,
}
_IMMEDIATE_1 = {
    **dict.fromkeys([0x70, 0x71, 0x72, 0x73, 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6, 0x0F], 1),
    **dict.fromkeys(range(0x80, 0x90), _Z),
}
_BRANCHES = frozenset({(0, 0xE8), (0, 0xE9)} | {(1, op) for op in range(0x80, 0x90)})
_16_BIT = ((3, 6), (3, 7), (5, 6), (5, 7), (6, None), (7, None), (5, None), (3, None))


def decode(code: bytes, bits: int, *, vex: bool = True) -> Encoding | None:
    """Return the instruction that `code` starts with, or None if it is longer than `code` or than
    15 bytes. An opcode that is not defined is taken for one with ModRM where the map is regular.

    `vex`: C4 and C5 may be VEX prefixes: not in real and virtual-8086 mode.

    >>> decode(bytes.fromhex("67 0f 01 3d 10 00 00 00"), 64).length
    8
    """
    try:
        found = _decode(code[:LONGEST], bits, vex)
    except IndexError:
        return None
    return found if found.length <= min(len(code), LONGEST) else None


def _decode(code: bytes, bits: int, vex_is_possible: bool) -> Encoding:
    prefixes = prefixes_of(code, bits)
    at = prefixes.length
    opcode = code[at]
    number = 0
    vex = b""
    if opcode in (0xC4, 0xC5) and vex_is_possible and (bits == 64 or code[at + 1] >= 0xC0):
        size = 2 if opcode == 0xC5 else 3
        vex = code[at : at + size]
        number = 1 if size == 2 else vex[1] & 0x1F
        at += size
        opcode = code[at]
        inverted = vex[1] ^ 0xFF
        rex = 0x40 | (inverted >> 5 & 7 if size == 3 else inverted >> 5 & 4)
        rex |= vex[2] >> 4 & 8 if size == 3 else 0
        prefixes = prefixes._replace(rex=rex if bits == 64 else 0x40)
    elif opcode == 0x0F:
        at += 1
        opcode, number = code[at], 1
        if opcode in (0x38, 0x3A):
            number = 2 if opcode == 0x38 else 3
            at += 1
            opcode = code[at]
    opcode_at = at
    at += 1
    address_bytes = _address_bytes(prefixes, bits)
    modrm = base = index = None
    scale, displacement = 1, 0
    if _has_modrm(number, opcode):
        modrm = code[at]
        at += 1
        control = number == 1 and 0x20 <= opcode <= 0x27  # MOV CR, MOV DR: always registers
        if modrm < 0xC0 and not control:
            at, base, index, scale, displacement = _memory(code, at, modrm, prefixes, bits)
    at += _immediate(number, opcode, modrm, prefixes, bits)
    return Encoding(
        prefixes,
        at,
        number,
        opcode,
        opcode_at,
        modrm,
        base,
        index,
        scale,
        displacement,
        address_bytes,
        vex,
    )


def _address_bytes(prefixes: Prefixes, bits: int) -> int:
    if bits == 64:
        return 4 if prefixes.address_size else 8
    return 4 if (bits == 32) != prefixes.address_size else 2


def _has_modrm(number: int, opcode: int) -> bool:
    if number == 0:
        return opcode in _MODRM_0
    return number != 1 or opcode not in _NO_MODRM_1


def _memory(
    code: bytes, at: int, modrm: int, prefixes: Prefixes, bits: int
) -> tuple[int, int | None, int | None, int, int]:
    """Decode SIB and displacement (SDM 2A tables 2-1 to 2-3): end, base, index, scale,
    displacement."""
    mod, rm = modrm >> 6, modrm & 7
    index: int | None = None
    scale = 1
    base: int | None
    if _address_bytes(prefixes, bits) == 2:
        base, index = _16_BIT[rm]
        size = (0, 1, 2)[mod]
        if mod == 0 and rm == 6:
            base, size = None, 2
    else:
        size = (0, 1, 4)[mod]
        base = rm | (prefixes.rex & 1) << 3
        if rm == 4:
            sib = code[at]
            at += 1
            scale = 1 << (sib >> 6)
            index = sib >> 3 & 7 | (prefixes.rex & 2) << 2
            index = None if index == 4 else index
            base = sib & 7 | (prefixes.rex & 1) << 3
            if sib & 7 == 5 and mod == 0:
                base, size = None, 4
        elif rm == 5 and mod == 0:
            base, size = RIP if bits == 64 else None, 4
    part = code[at : at + size]
    if len(part) < size:
        raise IndexError
    return at + size, base, index, scale, int.from_bytes(part, "little", signed=True)


def _immediate(number: int, opcode: int, modrm: int | None, prefixes: Prefixes, bits: int) -> int:
    if number == 3:
        return 1
    if number == 0 and opcode in (0xF6, 0xF7):
        if (modrm or 0) >> 3 & 7 > 1:
            return 0
        kind = 1 if opcode == 0xF6 else _Z
    else:
        kind = (_IMMEDIATE_0 if number == 0 else _IMMEDIATE_1 if number == 1 else {}).get(opcode, 0)
    if kind >= 0:
        return kind
    wide = bits == 64 and bool(prefixes.rex & 8)
    near = bits == 64 and (number, opcode) in _BRANCHES
    size = 4 if wide or near or (bits == 16) == prefixes.operand_size else 2
    if kind == _Z:
        return size
    if kind == _V:
        return 8 if wide else size
    return size + 2 if kind == _FAR else _address_bytes(prefixes, bits)
