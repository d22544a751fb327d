# SPDX-License-Identifier: GPL-2.0-or-later
"""What an instruction touches, for the few questions that a fault cannot answer by itself.

Only slow paths come here: `emu.cpu.encoding` takes some five microseconds an instruction.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from emu.cpu.encoding import RIP, decode

if TYPE_CHECKING:
    from emu.cpu.registers import Registers

__all__ = ["disassemble", "is_stack_access", "length_of_prefixes", "memory_operand_address"]


class RegisterFile(Protocol):
    """What an operand's address depends on; a Vcpu is one."""

    @property
    def regs(self) -> Registers:
        """The registers."""

    @property
    def bits(self) -> int:
        """How the instruction at RIP is decoded: 16, 32 or 64."""


_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")


@lru_cache(maxsize=1)
def _constants() -> Any:
    """Return capstone's numbers; imported when needed, as that takes as long as a small kernel."""
    from capstone import x86

    return x86


@lru_cache(maxsize=1)
def _stack_registers() -> frozenset[int]:
    names = ("RSP", "ESP", "SP", "RBP", "EBP", "BP")
    return frozenset(getattr(_constants(), f"X86_REG_{name}") for name in names)


_IMPLICIT_STACK = frozenset(
    [
        "push",
        "pop",
        "call",
        "ret",
        "retf",
        "retfq",
        "enter",
        "leave",
        "pushf",
        "popf",
        "pushfd",
        "popfd",
        "pushfq",
        "popfq",
        "pushal",
        "popal",
        "pushaw",
        "popaw",
        "iret",
        "iretd",
        "iretq",
        "lcall",
    ]
)


@lru_cache(maxsize=3)
def _decoder(bits: int) -> Any:
    import capstone

    mode = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[bits]
    decoder = capstone.Cs(capstone.CS_ARCH_X86, mode)
    decoder.detail = True
    return decoder


def _first(code: bytes, rip: int, bits: int) -> Any:
    return next(_decoder(bits).disasm(code, rip, 1), None)


def length_of_prefixes(code: bytes, bits: int) -> int:
    """Return how many prefix bytes, REX included, stand before the opcode. A REX prefix that
    counts is the last of them."""
    at = 0
    while at < len(code) and (code[at] in _PREFIXES or (bits == 64 and code[at] & 0xF0 == 0x40)):
        at += 1
    return at


def instruction_length(code: bytes, cpu: RegisterFile) -> int:
    """Return the length of the instruction at RIP; 0 if these bytes hold none."""
    found = decode(code, cpu.bits)
    return 0 if found is None else found.length


def is_stack_access(code: bytes, rip: int, bits: int) -> bool:
    """Return whether the memory operand of the instruction is in the stack segment.

    Decides between #SS and #GP for a non-canonical address (SDM 2A 2.2.1.3).
    """
    instruction = _first(code, rip, bits)
    if instruction is None:
        return False
    memory = [o for o in instruction.operands if o.type == _constants().X86_OP_MEM]
    for operand in memory:
        if operand.mem.segment not in (_constants().X86_REG_INVALID, _constants().X86_REG_SS):
            return False
        if operand.mem.segment == _constants().X86_REG_SS or operand.mem.base in _stack_registers():
            return True
    return not memory and instruction.mnemonic in _IMPLICIT_STACK


def memory_operand_address(code: bytes, cpu: RegisterFile) -> int | None:
    """Return the linear address of the memory operand of the instruction at RIP: what ModRM names,
    or what INS writes and OUTS reads. None if it has none.

    An offset wraps at the address size, RIP- and EIP-relative ones too (SDM 2A 2.2.1.6).
    """
    bits, regs = cpu.bits, cpu.regs
    found = decode(code, bits)
    if found is None:
        return None
    segment = _DS
    if found.is_memory:
        offset = found.displacement
        if found.base == RIP:
            offset += regs.rip + found.length
        elif found.base is not None:
            offset += regs.gpr(found.base)
            segment = _SS if found.base in (_RSP, _RBP) else _DS
        if found.scaled is not None:
            offset += regs.gpr(found.scaled) * found.scale
    elif found.map == 0 and found.opcode in _OUTPUTS:
        offset = regs.gpr(_RSI)
    elif found.map == 0 and found.opcode in _INPUTS:
        offset = regs.gpr(_RDI)
        segment = _ES
    else:
        return None
    if found.prefixes.segment is not None and segment != _ES:
        segment = found.prefixes.segment
    offset %= 1 << 8 * found.address_bytes
    if bits == 64:
        base = regs.segment_base(segment) if segment in (_FS, _GS) else 0
        return offset + base & (1 << 64) - 1
    return offset + regs.segment_base(segment) & 0xFFFF_FFFF


_ES, _CS, _SS, _DS, _FS, _GS = range(6)
_RSP, _RBP, _RSI, _RDI = range(4, 8)
_INPUTS, _OUTPUTS = frozenset(b"\x6c\x6d"), frozenset(b"\x6e\x6f")

_LOADS_SEGMENT = frozenset(b"\x8e\x9a\xca\xcb\xcf\xea")  # MOV SREG, far CALL, RET, IRET, JMP
_LOADS_SEGMENT_32 = frozenset(b"\x07\x17\x1f\xc4\xc5")  # POP SREG, LES, LDS
_LOADS_SEGMENT_0F = frozenset(b"\x00\x02\x03\xa1\xa9\xb2\xb4\xb5")  # VERR, LAR, LSL, POP, LSS
_PORTS = frozenset(b"\x6c\x6d\x6e\x6f\xe4\xe5\xe6\xe7\xec\xed\xee\xef")


def touches_descriptors(code: bytes, bits: int) -> bool:
    """Return whether the instruction may access GDT, LDT, TSS or an inner stack at CPL 3, by
    itself. Cheap: every page fault of a user program asks."""
    code = code[length_of_prefixes(code, bits) :].ljust(2, b"\0")
    opcode = code[0]
    if opcode == 0x0F:
        return code[1] in _LOADS_SEGMENT_0F
    if opcode == 0xFF:  # far CALL and JMP through memory
        return code[1] >> 3 & 7 in (3, 5)
    if opcode in _LOADS_SEGMENT_32:
        return bits != 64
    return opcode in _LOADS_SEGMENT or opcode in _PORTS


def operand_bytes(code: bytes, bits: int) -> int:
    """Return the size of the memory operand of an instruction that `touches_descriptors`: a
    selector, a far pointer, or what goes through a port."""
    at = length_of_prefixes(code, bits)
    prefixes, code = code[:at], code[at:].ljust(2, b"\0")
    if code[0] == 0x8E or (code[0] == 0x0F and code[1] in b"\x00\x02\x03"):
        return 2
    if code[0] in _PORTS:
        return 4
    if bits == 64 and prefixes and prefixes[-1] & 0xF8 == 0x48:
        return 10
    return 6 if (b"\x66" in prefixes) == (bits == 16) else 4


def stack_bytes(code: bytes, bits: int) -> tuple[int, int]:
    """Return what an instruction that `touches_descriptors` may access of its own stack, as two
    offsets to the stack pointer; (0, 0) for nothing."""
    code = code[length_of_prefixes(code, bits) :].ljust(2, b"\0")
    if code[0] == 0x9A or (code[0] == 0xFF and code[1] >> 3 & 7 == 3):
        return -2 * 8, 0
    if code[0] in b"\x07\x17\x1f\xca\xcb\xcf":
        return 0, 5 * 8
    if code[0] == 0x0F and code[1] in b"\xa1\xa9":
        return 0, 8
    return 0, 0


def disassemble(code: bytes, rip: int, bits: int, count: int) -> list[str]:
    """Return up to `count` instructions as lines of address, bytes and text."""
    lines = []
    for instruction in _decoder(bits).disasm(code, rip, count):
        text = f"{instruction.mnemonic} {instruction.op_str}".strip()
        lines.append(f"{instruction.address:#x}: {instruction.bytes.hex():<20} {text}")
    return lines
