# SPDX-License-Identifier: GPL-2.0-or-later
"""What an instruction touches, for the few questions that a fault cannot answer by itself.

Only slow paths come here: capstone takes some ten microseconds an instruction.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

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
    bits = cpu.bits
    short = bits != 16 and len(code) > 2 and code[:2] == b"\x0f\x01" and code[2] >> 6 == 0
    if short and code[2] & 7 not in (4, 5):
        return 3  # INVLPG [register]
    instruction = _first(code, cpu.regs.rip, bits)
    return 0 if instruction is None else int(instruction.size)


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
    """Return the linear address of the explicit memory operand of the instruction at RIP.

    None if it has none. `[register]` with a 32- or 64-bit register, as in nearly every INVLPG, is
    decoded by hand; all else takes capstone.
    """
    bits = cpu.bits
    at = length_of_prefixes(code, bits)
    if at == 0 and len(code) > 2 and code[0] == 0x0F and code[2] >> 6 == 0:
        number = code[2] & 7
        if number not in (4, 5) and bits != 16:
            base = cpu.regs.gpr(number)
            if bits == 64:
                return base
            return base + cpu.regs.segment_base(_DS) & 0xFFFF_FFFF
    instruction = _first(code, cpu.regs.rip, bits)
    if instruction is None:
        return None
    for operand in instruction.operands:
        if operand.type == _constants().X86_OP_MEM:
            return _address(instruction, operand.mem, cpu)
    return None


def _address(instruction: Any, memory: Any, cpu: RegisterFile) -> int:
    width = 1 << 8 * instruction.addr_size
    regs = cpu.regs
    offset = int(memory.disp)
    if memory.base == _constants().X86_REG_RIP:
        offset += regs.rip + instruction.size
    elif memory.base:
        offset += regs.gpr(_register_number(memory.base))
    if memory.index and memory.index != _constants().X86_REG_RIZ:
        offset += regs.gpr(_register_number(memory.index)) * memory.scale
    segment = _segment_numbers().get(memory.segment)
    if segment is None:
        segment = _SS if memory.base in _stack_registers() else _DS
    if cpu.bits == 64:
        base = regs.segment_base(segment) if segment in (_FS, _GS) else 0
        return int(offset % width + base) & (1 << 64) - 1
    return int(offset % width + regs.segment_base(segment)) & 0xFFFF_FFFF


def _register_number(register: int) -> int:
    """Return the ModRM number of a general register of any width."""
    return _register_numbers()[register]


_ES, _CS, _SS, _DS, _FS, _GS = range(6)


@lru_cache(maxsize=1)
def _segment_numbers() -> dict[int, int]:
    names = ("ES", "CS", "SS", "DS", "FS", "GS")
    return {getattr(_constants(), f"X86_REG_{name}"): n for n, name in enumerate(names)}


@lru_cache(maxsize=1)
def _register_numbers() -> dict[int, int]:
    names = {"R" + str(n) + suffix: n for n in range(8, 16) for suffix in ("", "D", "W")}
    for number, letters in enumerate(["AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI"]):
        names |= {prefix + letters: number for prefix in ("", "E", "R")}
    return {getattr(_constants(), f"X86_REG_{name}"): n for name, n in names.items()}


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
