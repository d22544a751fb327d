# SPDX-License-Identifier: GPL-2.0-or-later
"""Instructions that are #UD on this processor, and that the engine's translator must never see.

LOCK    before anything but a read-modify-write of memory (SDM 2A, LOCK). The translator ends
        the process at LOCK BT and at LOCK BTS, BTR, BTC of a register; others it executes.
VEX     of anything but BMI1 and BMI2 that CPUID shows: the processor has no AVX, and the
        translator decodes the legacy opcode behind the prefix.
C6, C7  with ModRM.reg other than 0: XABORT and XBEGIN without RTM, which it takes for MOV.
8F      with ModRM.reg other than 0: XOP, which it takes for POP.
0F      vector instructions that name a register and are given memory (shifts by an immediate,
        MOVMSKPS, MOVQ2DQ, MOVDQ2Q), VMREAD, VMWRITE and the SSE4A behind their opcodes (EXTRQ,
        INSERTQ): it gets the length of most wrong, and executes SSE4A, which CPUID has not.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.cpu.encoding import LONGEST, Encoding, Prefixes, decode, prefixes_of

__all__ = ["is_forbidden", "is_suspect"]

# One-byte opcodes that LOCK may precede -> the ModRM.reg for which it may.
_ALL = range(8)
_LOCKABLE_0 = {
    **dict.fromkeys([op + low for op in range(0, 0x38, 8) for low in (0, 1)], _ALL),
    **dict.fromkeys([0x80, 0x81, 0x82, 0x83], range(7)),
    **dict.fromkeys([0x86, 0x87], _ALL),
    **dict.fromkeys([0xF6, 0xF7], range(2, 4)),
    **dict.fromkeys([0xFE, 0xFF], range(2)),
}
_LOCKABLE_1 = {
    **dict.fromkeys([0xAB, 0xB3, 0xBB, 0xB0, 0xB1, 0xC0, 0xC1], _ALL),
    0xBA: range(5, 8),
    0xC7: range(1, 2),
}

_PREFIXES = b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3" + bytes(range(0x40, 0x50))
_SUSPECT = frozenset(_PREFIXES + b"\x0f\xc4\xc5\xc6\xc7\x8f")
_REGISTER_ONLY = frozenset(b"\x50\x71\x72\x73\x78\x79\xd6")  # after 0F, D6 with F2 or F3 alone
_VMX = frozenset(b"\x78\x79")  # VMREAD, VMWRITE
_MOVQ2DQ = 0xD6
_GROUPS = frozenset(b"\xc6\xc7\x8f")
_VEX = frozenset(b"\xc4\xc5")

# (map, opcode) -> what pp it is encoded with, and the feature it belongs to. All have VEX.L 0.
_BMI: dict[tuple[int, int], dict[int, str]] = {
    (2, 0xF2): {0: "bmi1"},
    (2, 0xF3): {0: "bmi1"},
    (2, 0xF5): {0: "bmi2", 2: "bmi2", 3: "bmi2"},
    (2, 0xF6): {3: "bmi2"},
    (2, 0xF7): {0: "bmi1", 1: "bmi2", 2: "bmi2", 3: "bmi2"},
    (3, 0xF0): {3: "bmi2"},
}
_BLS = range(1, 4)  # ModRM.reg in group 17


def is_suspect(first: int) -> bool:
    """Return whether an instruction with this first byte is worth a call of `is_forbidden`."""
    return first in _SUSPECT


def is_forbidden(
    code: bytes, bits: int, *, protected: bool, has: Callable[[str], bool]
) -> bool | None:
    """Return whether the instruction at the start of `code` is one of these; None if it takes more
    bytes than there are to know.

    `protected`: neither real nor virtual-8086 mode, so that C4 and C5 may be VEX. `has` says which
    features there are. What is longer than 15 bytes is #GP and the translator's business.
    """
    prefixes = prefixes_of(code[:LONGEST], bits)
    at = prefixes.length
    if at >= LONGEST:
        return False
    if at >= len(code):
        return None
    opcode = code[at]
    if opcode == 0x0F and not prefixes.lock:
        return _is_bad_vector(code[at + 1 : min(at + 3, LONGEST)], prefixes)
    if not prefixes.lock and opcode not in _GROUPS and opcode not in _VEX:
        return False
    if opcode in _VEX and bits != 64:
        if at + 1 >= len(code):
            return None if at + 1 < LONGEST else False
        if code[at + 1] < 0xC0:  # LES, LDS
            return prefixes.lock
        if not protected:
            return True
    found = decode(code, bits)
    if found is None:
        return None if len(code) < LONGEST else False
    if found.vex:
        return not _is_bmi(found, code[:at], has)
    reg = (found.modrm or 0) >> 3 & 7
    if found.map == 0 and opcode in _GROUPS and reg:
        return True
    return prefixes.lock and not _may_be_locked(found, reg)


def _is_bad_vector(code: bytes, prefixes: Prefixes) -> bool | None:
    """Return whether these two bytes after 0F are a vector instruction that takes no memory and is
    given some, VMREAD or VMWRITE; None if they are too few to know."""
    if code and code[0] not in _REGISTER_ONLY:
        return False
    if code and code[0] == _MOVQ2DQ and not prefixes.rep:
        return False  # MOVQ to memory
    if code and code[0] in _VMX:
        return True  # with 66 or F2, EXTRQ and INSERTQ of SSE4A, which is not offered either
    return code[1] < 0xC0 if len(code) == 2 else None


def _may_be_locked(found: Encoding, reg: int) -> bool:
    lockable = {0: _LOCKABLE_0, 1: _LOCKABLE_1}.get(found.map, {})
    return found.is_memory and reg in lockable.get(found.opcode, ())


def _is_bmi(found: Encoding, before: bytes, has: Callable[[str], bool]) -> bool:
    """Return whether a VEX instruction is one that CPUID shows. 66, F2, F3, LOCK and REX before
    VEX are #UD (SDM 2A 2.3.2 to 2.3.4)."""
    if any(byte & 0xF0 == 0x40 or byte in b"\x66\xf0\xf2\xf3" for byte in before):
        return False
    last = found.vex[-1]
    name = _BMI.get((found.map, found.opcode), {}).get(last & 3)
    if name is None or last & 4 or not has(name):
        return False
    if found.opcode == 0xF3:
        return (found.modrm or 0) >> 3 & 7 in _BLS
    return found.opcode != 0xF0 or last & 0x78 == 0x78
