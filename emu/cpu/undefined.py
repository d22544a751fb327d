# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine takes for undefined (#UD) and is not.

INT1            QEMU leaves it out
RDPMC           there are no counters, and that is #GP (SDM 2B)
RDRAND, RDSEED  the engine would ask the host for a number; it is told that it has neither
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.cpu.decode import length_of_prefixes
from emu.cpu.entropy import Entropy
from emu.cpu.faults import Event, Fault, Source, Vector
from emu.cpu.hooks import TIMED_INSTRUCTION
from emu.cpu.registers import EFLAGS_ARITHMETIC, EFLAGS_CF

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["Undefined"]

_INT1 = 0xF1
_RDPMC = 0x33
_GROUP_9 = 0xC7
_RANDOM = {6: "rdrand", 7: "rdseed"}  # ModRM.reg in group 9
_OPERAND_SIZE, _LOCK, _REPNE, _REP = 0x66, 0xF0, 0xF2, 0xF3


class Undefined:
    """The undefined instructions of one vCPU."""

    def __init__(self, cpu: Vcpu, seed: int) -> None:
        """Serve `cpu` in a machine with this seed."""
        self._cpu = cpu
        self.entropy = Entropy(seed, cpu.index)

    def serve(self) -> bool:
        """Do the instruction at RIP; False with nothing changed if it is truly undefined."""
        cpu = self._cpu
        code = cpu.read_code(15)
        at = length_of_prefixes(code, cpu.bits)
        prefixes, opcode = code[:at], code[at : at + 3].ljust(3, b"\0")
        if opcode[0] == _INT1:
            self._int1(at + 1)
        elif opcode[0] != 0x0F or _LOCK in prefixes:
            return False
        elif opcode[1] == _RDPMC:
            cpu.intercepts.fault(Fault(Vector.GP))
        elif opcode[1] == _GROUP_9 and opcode[2] >> 6 == 3:
            return self._random(prefixes, opcode[2])
        else:
            return False
        return True

    def _int1(self, length: int) -> None:
        cpu = self._cpu
        start = cpu.regs.rip
        cpu.regs.rip = start + length
        cpu.events.deliver(Event(Vector.DB, Source.ICEBP, start=start))

    def _random(self, prefixes: bytes, modrm: int) -> bool:
        """RDRAND and RDSEED of a register (SDM 2B): there is always a number, so CF is set."""
        cpu = self._cpu
        name = _RANDOM.get(modrm >> 3 & 7, "")
        if not name or not cpu.cpuid.has(name) or _REP in prefixes or _REPNE in prefixes:
            return False
        cpu.slice.stall(TIMED_INSTRUCTION)
        regs, number, value = cpu.regs, modrm & 7, self.entropy.next()
        rex = prefixes[-1] if cpu.bits == 64 and prefixes and prefixes[-1] & 0xF0 == 0x40 else 0
        number |= (rex & 1) << 3
        if rex & 8:
            regs.set_gpr(number, value)
        elif (_OPERAND_SIZE in prefixes) == (cpu.bits == 16):
            regs.set_gpr(number, value & 0xFFFF_FFFF)
        else:
            regs.set_gpr(number, regs.gpr(number) & ~0xFFFF | value & 0xFFFF)
        regs.rflags = regs.rflags & ~EFLAGS_ARITHMETIC | EFLAGS_CF
        cpu.intercepts.finish(len(prefixes) + 3)
        return True
