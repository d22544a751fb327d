# SPDX-License-Identifier: GPL-2.0-or-later
"""One instruction to bytes: keystone for the bulk, ourselves for what it gets wrong.

keystone-engine 0.9.2 (LLVM) cannot be trusted with operand size where the default differs from
32 bits: in 16-bit code it pushes and returns with 32 bits, in 32-bit code it gives LGDT a 24-bit
base, a far jump a 16-bit offset and PUSH DS two bytes; in 64-bit code some absolute addresses
come out as distances; an instruction that it half understands assembles to nothing, in silence.
So prefixes, branches, far transfers, string and stack instructions and the
descriptor-table loads are encoded here, and an empty answer is an error.
"""

from __future__ import annotations

import functools
import importlib
import re
from typing import Any

from guests.expression import ExpressionError, Lookup, evaluate, split_outside, tokens

_SIZES = {"byte": 8, "word": 16, "dword": 32, "qword": 64, "oword": 128}
_KEYSTONE_SIZE = {"oword": "xmmword"}
_PREFIXES = {
    "lock": 0xF0,
    "rep": 0xF3,
    "repe": 0xF3,
    "repz": 0xF3,
    "repne": 0xF2,
    "repnz": 0xF2,
    "o64": 0x48,
}
_CONDITIONS = "o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"
_ALIASES = {"c": "b", "nc": "ae", "z": "e", "nz": "ne", "na": "be", "nbe": "a", "pe": "p"}
_ALIASES |= {"po": "np", "nae": "b", "nb": "ae", "nge": "l", "nl": "ge", "ng": "le", "nle": "g"}
_JCC = {f"j{c}": n for n, c in enumerate(_CONDITIONS)}
_JCC |= {f"j{alias}": _JCC[f"j{c}"] for alias, c in _ALIASES.items()}
_LOOPS = {"loopne": 0xE0, "loopnz": 0xE0, "loope": 0xE1, "loopz": 0xE1, "loop": 0xE2}
_COUNTED = {"jcxz": 16, "jecxz": 32, "jrcxz": 64}
# No operand: opcode, operand size (0: that of the code).
_PLAIN: dict[str, tuple[int, int]] = {
    "ret": (0xC3, 0),
    "leave": (0xC9, 0),
    "retf": (0xCB, 0),
    "retfw": (0xCB, 16),
    "retfd": (0xCB, 32),
    "retfq": (0xCB, 64),
    "iret": (0xCF, 0),
    "iretw": (0xCF, 16),
    "iretd": (0xCF, 32),
    "iretq": (0xCF, 64),
    "pusha": (0x60, 0),
    "popa": (0x61, 0),
    "pushaw": (0x60, 16),
    "popaw": (0x61, 16),
    "pushad": (0x60, 32),
    "popad": (0x61, 32),
    "pushf": (0x9C, 0),
    "popf": (0x9D, 0),
    "pushfw": (0x9C, 16),
    "popfw": (0x9D, 16),
    "pushfd": (0x9C, 32),
    "popfd": (0x9D, 32),
}
_STRINGS = {"movs": 0xA4, "cmps": 0xA6, "stos": 0xAA, "lods": 0xAC, "scas": 0xAE}
_STRINGS |= {"ins": 0x6C, "outs": 0x6E}
for _name, _opcode in _STRINGS.items():
    for _letter, _size in (("b", 8), ("w", 16), ("d", 32), ("q", 64)):
        _PLAIN[_name + _letter] = (_opcode | (_size != 8), 0 if _size == 8 else _size)
# Two-byte system instructions whose default operand size keystone changes or does not know.
_SYSTEM = {
    "syscall": b"\x0f\x05",
    "sysret": b"\x0f\x07",
    "sysenter": b"\x0f\x34",
    "sysexit": b"\x0f\x35",
    "pushfq": b"\x9c",
    "popfq": b"\x9d",
}
# PUSH and POP of a segment register: the opcode of PUSH, POP is one more.
_SEGMENTS = {"es": b"\x06", "cs": b"\x0e", "ss": b"\x16", "ds": b"\x1e"}
_SEGMENTS |= {"fs": b"\x0f\xa0", "gs": b"\x0f\xa8"}
_TABLES = ("lgdt", "lidt", "sgdt", "sidt")
# Absolute addresses are made RIP-relative in 64-bit code: keystone forgets that for MOV r64, [m].
_RELATIVE = "0x5ca1ab1e"
_REGISTER = re.compile(
    r"(?:[abcd][lhx]|[sb]pl?|[sd]il?|[er]?(?:[abcd]x|[sb]p|[sd]i)|r(?:[89]|1[0-5])[bwd]?|[c-gs]s"
    r"|[cd]r\d+|st\d?|mm[0-7]|xmm\d+|[er]?ip)$"
)


class EncodingError(ValueError):
    """The instruction cannot be encoded."""


@functools.cache
def _keystone(bits: int) -> Any:
    module = importlib.import_module("keystone")
    mode = {16: module.KS_MODE_16, 32: module.KS_MODE_32, 64: module.KS_MODE_64}[bits]
    return module.Ks(module.KS_ARCH_X86, mode)


def keystone_problem() -> str | None:
    """Why keystone cannot be used here, or None. Its package can be there without its library."""
    try:
        encoding, _ = _keystone(32).asm("nop", 0)
    except Exception as error:
        return f"keystone-engine does not work here: {error or type(error).__name__}"
    return None if encoding == [0x90] else "keystone-engine cannot assemble nop"


def is_register(text: str) -> bool:
    """Whether ``text`` names a register."""
    return _REGISTER.match(text) is not None


def _number(value: int) -> str:
    return f"-{-value:#x}" if value < 0 else f"{value:#x}"


def _integer(value: int, size: int) -> bytes:
    """``value`` in ``size`` bytes, as signed or unsigned, whichever holds it."""
    if not -(1 << (8 * size - 1)) <= value < 1 << (8 * size):
        raise EncodingError(f"{value:#x} does not fit {size} bytes")
    return (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little")


class Encoder:
    """Encodes instructions; remembers what keystone answered."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: dict[tuple[int, str], bytes] = {}
        self._target = 0

    def encode(self, text: str, bits: int, address: int, lookup: Lookup, wide: bool) -> bytes:
        """The bytes of one instruction.

        ``bits`` is the code size (16, 32, 64), ``address`` where the instruction stands,
        ``lookup`` the value of a name, ``wide`` forbids short branches (the caller's way to
        keep sizes from oscillating). Raises EncodingError or ExpressionError.
        """
        mnemonic, _, rest = text.strip().partition(" ")
        mnemonic, rest = mnemonic.lower(), rest.strip()
        if mnemonic in _PREFIXES or mnemonic in ("o16", "o32", "a16", "a32"):
            prefix = self._prefix(mnemonic, bits)
            return prefix + self.encode(rest, bits, address + len(prefix), lookup, wide)
        if mnemonic in _SYSTEM:
            return _SYSTEM[mnemonic]
        if mnemonic in _PLAIN and not rest:
            opcode, size = _PLAIN[mnemonic]
            return self._sized(bits, size) + bytes([opcode])
        operands = split_outside(rest)
        branch = self._branch(mnemonic, operands, bits, address, lookup, wide)
        if branch is not None:
            return branch
        if mnemonic in ("push", "pop") and rest.lower() in _SEGMENTS:
            push = _SEGMENTS[rest.lower()]
            return push if mnemonic == "push" else push[:-1] + bytes([push[-1] + 1])
        if mnemonic == "push" and len(operands) == 1:
            pushed = self._push(operands[0], bits, lookup)
            if pushed is not None:
                return pushed
        if mnemonic == "ret" and operands:
            return b"\xc2" + _integer(evaluate(operands[0], lookup), 2)
        written = ", ".join(self._operand(o, bits, lookup) for o in operands)
        code = self._ask(f"{mnemonic} {written}".strip(), bits)
        if _RELATIVE in written:
            return self._relative(code, address)
        return code[1:] if mnemonic in _TABLES and code[0] == 0x66 else code

    @staticmethod
    def _prefix(name: str, bits: int) -> bytes:
        if name in _PREFIXES:
            return bytes([_PREFIXES[name]])
        if int(name[1:]) == bits:
            return b""
        return b"\x66" if name[0] == "o" else b"\x67"

    @staticmethod
    def _sized(bits: int, size: int) -> bytes:
        """The prefix that gives an instruction ``size`` bits of operand in code of ``bits``."""
        if size == 64:
            return b"\x48"
        default = 16 if bits == 16 else 32
        return b"" if size in (0, default) else b"\x66"

    def _branch(
        self, mnemonic: str, operands: list[str], bits: int, at: int, lookup: Lookup, wide: bool
    ) -> bytes | None:
        """A direct branch, near or far, or None where the instruction is none."""
        if len(operands) != 1:
            return None
        target = operands[0]
        for word in ("short ", "near "):
            if target.startswith(word):
                target = target.removeprefix(word).strip()
                wide = wide or word == "near "
        direct = "[" not in target and not is_register(target.lower())
        if not direct:
            return None
        if ":" in target and mnemonic in ("jmp", "call"):
            return self._far(0xEA if mnemonic == "jmp" else 0x9A, target, bits, lookup)
        size = 2 if bits == 16 else 4

        def relative(length: int) -> int:
            return evaluate(target, lookup) - (at + length)

        if mnemonic in _LOOPS or mnemonic in _COUNTED:
            prefix = b"" if _COUNTED.get(mnemonic, bits) == bits else b"\x67"
            opcode = prefix + bytes([_LOOPS.get(mnemonic, 0xE3)])
            return opcode + _signed(relative(len(opcode) + 1), 1)
        if mnemonic == "call":
            return b"\xe8" + _signed(relative(1 + size), size)
        if mnemonic != "jmp" and mnemonic not in _JCC:
            return None
        if not wide and -128 <= relative(2) <= 127:
            code = 0xEB if mnemonic == "jmp" else 0x70 | _JCC[mnemonic]
            return bytes([code]) + _signed(relative(2), 1)
        opcode = b"\xe9" if mnemonic == "jmp" else bytes([0x0F, 0x80 | _JCC[mnemonic]])
        return opcode + _signed(relative(len(opcode) + size), size)

    def _far(self, opcode: int, target: str, bits: int, lookup: Lookup) -> bytes:
        size = 16 if bits == 16 else 32
        word, _, rest = target.partition(" ")
        if word in ("word", "dword"):
            size, target = _SIZES[word], rest
        if bits == 64:
            raise EncodingError("no direct far branch in 64-bit code")
        selector, _, offset = target.partition(":")
        return (
            self._sized(bits, size)
            + bytes([opcode])
            + _integer(evaluate(offset, lookup), size // 8)
            + _integer(evaluate(selector, lookup), 2)
        )

    @staticmethod
    def _push(operand: str, bits: int, lookup: Lookup) -> bytes | None:
        """PUSH of an immediate, or None where the operand is none."""
        word, _, rest = operand.partition(" ")
        size = _SIZES.get(word, bits)
        text = rest if word in _SIZES else operand
        if "[" in text or is_register(text.lower()):
            return None
        value = evaluate(text, lookup)
        prefix = b"\x66" if (size == 16) != (bits == 16) else b""
        if -128 <= value <= 127:
            return prefix + b"\x6a" + _integer(value, 1)
        return prefix + b"\x68" + _integer(value, 2 if size == 16 else 4)

    def _operand(self, text: str, bits: int, lookup: Lookup) -> str:
        """One operand in keystone's Intel syntax, every name and expression worked out."""
        size = ""
        word, _, rest = text.partition(" ")
        while word.lower() in _SIZES or word.lower() in ("strict", "far", "near", "ptr"):
            if word.lower() in _SIZES:
                size = _KEYSTONE_SIZE.get(word.lower(), word.lower())
            word, _, rest = (text := rest.strip()).partition(" ")
        if text.startswith("["):
            if not text.endswith("]"):
                raise EncodingError(f"bad operand {text!r}")
            memory = self._memory(text[1:-1].strip(), bits, lookup)
            return f"{size} ptr {memory}" if size else memory
        if is_register(text.lower()):
            return text.lower()
        return _number(evaluate(text, lookup))

    def _memory(self, text: str, bits: int, lookup: Lookup) -> str:
        """``segment:[base+index*scale+displacement]`` with the displacement summed up."""
        segment = ""
        if ":" in text:
            segment, text = text.split(":", 1)
            segment += ":"
        registers, rest = [], ""
        for sign, term in _terms(text):
            factors = split_outside(term, "*")
            if any(is_register(f.lower()) for f in factors):
                if sign == "-":
                    raise EncodingError(f"a register is subtracted in [{text}]")
                factors = [
                    f.lower() if is_register(f.lower()) else str(evaluate(f, lookup))
                    for f in factors
                ]
                registers.append("*".join(factors))
            else:
                rest += f" {sign} {term}"
        value = evaluate(rest, lookup) if rest else 0
        if bits == 16 and not registers and not 0 <= value <= 0xFFFF:
            raise EncodingError(f"{value:#x} does not fit a 16-bit address")
        if not registers and bits == 64:
            if segment:
                raise EncodingError("no absolute address behind a segment in 64-bit code")
            self._target = value
            return f"[rip+{_RELATIVE}]"
        if not registers:
            return f"{segment}[{value & ((1 << bits) - 1):#x}]"
        if bits == 32:
            value = (value + (1 << 31)) % (1 << 32) - (1 << 31)
        shown = f"{value:+#x}" if value else ""
        return f"{segment}[{'+'.join(registers)}{shown}]"

    def _relative(self, code: bytes, address: int) -> bytes:
        """``code`` with the distance to the target where the placeholder stands."""
        placeholder = int(_RELATIVE, 16).to_bytes(4, "little")
        if code.count(placeholder) != 1:
            raise EncodingError("no place for the distance")
        return code.replace(placeholder, _signed(self._target - (address + len(code)), 4))

    def _ask(self, text: str, bits: int) -> bytes:
        code = self._known.get((bits, text))
        if code is None:
            try:
                answer, _ = _keystone(bits).asm(text, 0)
            except Exception as error:
                raise EncodingError(f"keystone: {error}") from None
            code = self._known[bits, text] = bytes(answer or [])
        if not code:
            raise EncodingError(f"keystone makes nothing of {text!r}")
        return code


def _signed(value: int, size: int) -> bytes:
    if not -(1 << (8 * size - 1)) <= value < 1 << (8 * size - 1):
        raise EncodingError(f"a branch by {value:#x} does not fit {size} bytes")
    return value.to_bytes(size, "little", signed=True)


def _terms(text: str) -> list[tuple[str, str]]:
    """(sign, term) of the sum that stands in a memory operand."""
    terms, sign, depth, current = [], "+", 0, ""
    for kind, token in tokens(text):
        if kind == "op" and depth == 0 and token in "+-" and current:
            terms.append((sign, current))
            sign, current = token, ""
            continue
        depth += (token == "(") - (token == ")")
        current += token if kind != "op" or token in "()*" else f" {token} "
    if not current:
        raise ExpressionError(f"{text!r} ends too early")
    terms.append((sign, current))
    return terms
