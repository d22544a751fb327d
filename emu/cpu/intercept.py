# SPDX-License-Identifier: GPL-2.0-or-later
"""Single instructions that Unicorn gets wrong or keeps to itself, taken over one by one.

The engine still holds QEMU's emulation of AMD's SVM. We run every guest as an SVM guest
(`HF_GUEST`), set the intercept bits we want (AMD APM 2, 15.9), and an intercepted instruction
arrives in the interrupt hook as `VMEXIT + exit code`, RIP on the instruction and nothing of it
done. It costs the others nothing, needs no search for opcodes, and an exit takes 0.5 us.

    MOV CR0/CR4, MOV CR8    checks that QEMU leaves out (emu.cpu.control); the task priority
    MOV from CR0, SMSW      SMSW with a 32-bit register is a 32-bit move; CR4.UMIP
    MOV CR3                 bad PDPTEs, reserved bits; and a reload of the same CR3 is seen
    RDMSR, WRMSR            emu.cpu.msr
    MOV DR                  MOV to DR, and all under DR7.GD (emu.cpu.debug)
    IRET                    only while there are breakpoints on execution: RF
    PUSHF                   only in real mode: the image has no RF
    PAUSE                   the vCPU yields, or waits
    HLT                     what no block may go on to ends it as one (emu.cpu.translation)
    INVLPG                  under plug-ins that cannot do without: the whole TLB goes
    SGDT, SIDT, SLDT, STR   only under CR4.UMIP
    LGDT, LIDT              in 64-bit code: a base that is not canonical
    LTR                     of a null selector
    all exceptions          so that QEMU never turns one into a double fault by itself
    VINTR, NMI              not instructions: interrupt windows (emu.cpu.pins)
    SMI                     not SMM: the end of an instruction that is taken back (emu.cpu.hooks)

"Executed natively" is `step_over`: its intercept bit is off for one instruction, behind which the
trap flag, which the guest never gets to see, brings us back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.cpu import hidden as H
from emu.cpu.control import ControlRegisters
from emu.cpu.decode import (
    instruction_length,
    is_stack_access,
    length_of_prefixes,
    memory_operand_address,
)
from emu.cpu.faults import Event, Fault, Vector
from emu.cpu.hooks import TIMED_INSTRUCTION
from emu.cpu.msr import is_canonical
from emu.cpu.registers import EFLAGS_AC, EFLAGS_RF, EFLAGS_TF, EFLAGS_VM
from emu.cpu.slice import Exit
from emu.state import Table
from mmu.arch import ACCESS_AC, ACCESS_READ, ACCESS_USER, CR0_PE, CR0_PG, EFER_LMA

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["Intercepts"]

_CR4_UMIP = 1 << 11

_EXIT_READ_CR0 = 0x00
_EXIT_READ_CR8 = 0x08
_EXIT_WRITE_CR0 = 0x10
_EXIT_WRITE_CR3 = 0x13
_EXIT_WRITE_CR4 = 0x14
_EXIT_WRITE_CR8 = 0x18
_EXIT_READ_DR0 = 0x20
_EXIT_WRITE_DR0 = 0x30
_EXIT_IDTR_READ = 0x66
_EXIT_PUSHF = 0x70
_EXIT_IRET = 0x74
_EXIT_GDTR_READ = 0x67
_EXIT_LDTR_READ = 0x68
_EXIT_TR_READ = 0x69
_EXIT_IDTR_WRITE = 0x6A
_EXIT_GDTR_WRITE = 0x6B
_EXIT_TR_WRITE = 0x6D
_UMIP_EXITS = (_EXIT_IDTR_READ, _EXIT_GDTR_READ, _EXIT_LDTR_READ, _EXIT_TR_READ)
_APIC_MSRS = frozenset((0x6E0, *range(0x800, 0x900)))
_APIC_MSR = 400
"""An MSR of the local APIC is a device: 4 us, so that a timer cannot be set for ever and ever."""
_LOOP = 100  # instructions from a PAUSE to the same one, at most, in a loop that waits
_LONGEST_PAUSE = 2_000  # 20 us
_DR6_BD = 1 << 13
_DR6_BS = 1 << 14
_DR7_GD = 1 << 13


def _bit(exit_code: int) -> int:
    return 1 << exit_code - H.EXIT_FIRST


class Intercepts:
    """The intercepted instructions of one vCPU; `handlers` maps exit codes to what serves them."""

    def __init__(self, cpu: Vcpu) -> None:
        """Serve `cpu`."""
        self._cpu = cpu
        self._h = cpu.hidden.h
        self._d = cpu.hidden.d
        self._q = cpu.hidden.q
        self._control = ControlRegisters(cpu)
        self._pause_rip = -1
        self._pause_end = 0
        self._pause_time = 0
        self._flush_on_invlpg = cpu.mmu.flush_on_invlpg
        self.handlers: dict[int, Callable[[], None]] = {
            _EXIT_READ_CR0: self._read_cr0,
            _EXIT_READ_CR8: self._read_cr8,
            _EXIT_WRITE_CR0: self._write_cr0,
            _EXIT_WRITE_CR3: self._write_cr3,
            _EXIT_WRITE_CR4: self._write_cr4,
            _EXIT_WRITE_CR8: self._write_cr8,
            _EXIT_PUSHF: self._pushf,
            _EXIT_IRET: self._iret,
            _EXIT_GDTR_WRITE: self._load_table,
            _EXIT_IDTR_WRITE: self._load_table,
            _EXIT_TR_WRITE: self._ltr,
            H.EXIT_PAUSE: self._pause,
            H.EXIT_HLT: cpu.translation.serve,
            H.EXIT_INVLPG: self._invlpg,
            H.EXIT_MSR: self._msr,
            H.EXIT_SMI: cpu.hooks.finish_abort,
            **dict.fromkeys(range(_EXIT_READ_DR0, _EXIT_WRITE_DR0 + 8), self._debug_register),
            **dict.fromkeys(_UMIP_EXITS, self._umip),
        }

    def program(self) -> None:
        """Set the intercept bits that the present state asks for."""
        regs = self._cpu.regs
        h = self._h
        umip = bool(regs.cr4 & _CR4_UMIP)
        h[H.INTERCEPT_CR_READ_H] = 1 << 0 | 1 << 8
        h[H.INTERCEPT_CR_WRITE_H] = 1 << 0 | 1 << 3 | 1 << 4 | 1 << 8
        wanted = _bit(H.EXIT_NMI) | _bit(H.EXIT_SMI) | _bit(H.EXIT_VINTR) | _bit(H.EXIT_MSR)
        wanted |= _bit(H.EXIT_PAUSE) | _bit(H.EXIT_HLT)
        wanted |= _bit(_EXIT_TR_WRITE)
        if regs.efer & EFER_LMA:
            wanted |= _bit(_EXIT_GDTR_WRITE) | _bit(_EXIT_IDTR_WRITE)
        if self._flush_on_invlpg:
            wanted |= _bit(H.EXIT_INVLPG)
        if not regs.cr0 & CR0_PE:
            wanted |= _bit(_EXIT_PUSHF)
        if self._cpu.debug.has_code:
            wanted |= _bit(_EXIT_IRET)
        if umip:
            wanted |= sum(map(_bit, _UMIP_EXITS))
        self._q[H.INTERCEPT_Q] = wanted
        guarded = bool(regs.dr7 & _DR7_GD)
        h[H.INTERCEPT_DR_READ_H] = 0xFF if guarded else 0
        h[H.INTERCEPT_DR_WRITE_H] = 0xFF
        self._d[H.INTERCEPT_EXCEPTIONS_D] = 0xFFFF_FFFF & ~self._cpu.native_exceptions

    def set_control(self, name: str, value: int) -> None:
        """Set "cr0", "cr3" or "cr4" as MOV does, for a debugger; raises Fault."""
        setters = {
            "cr0": self._control.set_cr0,
            "cr3": self._control.set_cr3,
            "cr4": self._control.set_cr4,
        }
        setters[name](value)
        self.program()

    # --- Finishing an instruction -----------------------------------------------------------

    def finish(self, length: int) -> None:
        """Go on behind the instruction; with TF set, trap there."""
        cpu = self._cpu
        regs = cpu.regs
        d = self._d
        rip = self._q[H.RIP_Q] + length
        regs.rip = rip if d[H.HFLAGS_D] & H.HF_CS64 else rip & 0xFFFF_FFFF
        flags = d[H.EFLAGS_D]
        d[H.EFLAGS_D] = flags & ~EFLAGS_RF
        d[H.HFLAGS_D] &= ~H.HF_INHIBIT_IRQ
        if flags & EFLAGS_TF:
            regs.dr6 |= _DR6_BS
            cpu.events.deliver(Event(Vector.DB))

    def fault(self, fault: Fault) -> None:
        """Deliver what the instruction deserves in its stead."""
        self._cpu.events.deliver(Event(fault.vector, error_code=fault.error_code, cr2=fault.cr2))

    def step_over(self, exit_code: int) -> None:
        """Let the engine execute the instruction at RIP although it is intercepted."""
        if exit_code < 0x10:
            self._h[H.INTERCEPT_CR_READ_H] &= ~(1 << exit_code)
        elif exit_code < 0x20:
            self._h[H.INTERCEPT_CR_WRITE_H] &= ~(1 << exit_code - 0x10)
        else:
            self._q[H.INTERCEPT_Q] &= ~_bit(exit_code)
        self._cpu.step.begin()

    def _source(self, opcode: int = 0x22) -> tuple[int, int | None]:
        """Return (length, value) of the MOV to CR (0F 22) or DR (0F 23) at RIP; None for LMSW and
        CLTS."""
        cpu = self._cpu
        code = cpu.read_code(15)
        at = length_of_prefixes(code, cpu.bits)
        if code[at + 1] != opcode:
            return 0, None
        number = code[at + 2] & 7
        if cpu.bits == 64:
            if at and code[at - 1] & 0xF1 == 0x41:
                number |= 8
            return at + 3, self._q[number]
        return at + 3, self._q[number] & 0xFFFF_FFFF

    # --- Control registers (SDM 3A 2.5; MOV to CR, SDM 2B) -------------------------------------

    def _read_cr0(self) -> None:
        cpu = self._cpu
        code = cpu.read_code(15)
        at = length_of_prefixes(code, cpu.bits)
        modrm = code[at + 2]
        number = modrm & 7
        if cpu.bits == 64 and at and code[at - 1] & 0xF1 == 0x41:
            number |= 8
        if code[at + 1] == 0x20:
            self._q[number] = cpu.regs.cr0
        elif cpu.regs.cpl and cpu.regs.cr4 & _CR4_UMIP:
            self.fault(Fault(Vector.GP))
            return
        elif modrm >> 6 == 3 and (0x66 in code[:at]) == (cpu.bits == 16):
            self._q[number] = cpu.regs.cr0  # an operand size of 32 bits, or 64
        else:
            self.step_over(_EXIT_READ_CR0)
            return
        self.finish(at + 3)

    def _write_cr0(self) -> None:
        self._cpu.slice.stall(TIMED_INSTRUCTION)
        length, value = self._source()
        if value is None:  # LMSW and CLTS change nothing that concerns paging
            self.step_over(_EXIT_WRITE_CR0)
            return
        regs = self._cpu.regs
        old = regs.cr0
        try:
            self._control.set_cr0(value)
        except Fault as fault:
            self.fault(fault)
            return
        if (old ^ regs.cr0) & (CR0_PE | CR0_PG):
            self.program()
        self.finish(length)

    def _write_cr3(self) -> None:
        """MOV CR3, which takes no longer than others: kernels switch address spaces by it."""
        length, value = self._source()
        try:
            self._control.set_cr3(value or 0)
        except Fault as fault:
            self.fault(fault)
        else:
            self.finish(length)

    def _write_cr4(self) -> None:
        self._cpu.slice.stall(TIMED_INSTRUCTION)
        length, value = self._source()
        try:
            self._control.set_cr4(value or 0)
        except Fault as fault:
            self.fault(fault)
        else:
            self.program()
            self.finish(length)

    def _read_cr8(self) -> None:
        cpu = self._cpu
        cpu.slice.stall(TIMED_INSTRUCTION)
        code = cpu.read_code(15)
        at = length_of_prefixes(code, cpu.bits)
        number = code[at + 2] & 7
        if at and code[at - 1] & 0xF1 == 0x41:
            number |= 8
        self._q[number] = cpu.read_cr8()
        self.finish(at + 3)

    def _write_cr8(self) -> None:
        self._cpu.slice.stall(TIMED_INSTRUCTION)
        length, value = self._source()
        if value is None or value >> 4:
            self.fault(Fault(Vector.GP))
            return
        self._cpu.write_cr8(value)
        self.finish(length)

    # --- The others ---------------------------------------------------------------------------

    def _umip(self) -> None:
        """SGDT, SIDT, SLDT and STR with CR4.UMIP: #GP(0) for users (SDM 3A 2.5)."""
        if self._cpu.regs.cpl:
            self.fault(Fault(Vector.GP))
            return
        for exit_code in _UMIP_EXITS:
            self._q[H.INTERCEPT_Q] &= ~_bit(exit_code)
        self._cpu.step.begin()

    def _load_table(self) -> None:
        """LGDT and LIDT: in 64-bit code all of it (SDM 2A), elsewhere the engine's own.

        What is canonical does not depend on CR4.LA57, as for MSRs.
        """
        cpu = self._cpu
        code = cpu.read_code(15)
        is_gdt = code[length_of_prefixes(code, cpu.bits) + 2] >> 3 & 7 == 2
        if cpu.bits != 64:
            self.step_over(_EXIT_GDTR_WRITE if is_gdt else _EXIT_IDTR_WRITE)
            return
        try:
            operand = self._read_operand(code, 10)
            table = Table(operand >> 16, operand & 0xFFFF)
            if not is_canonical(table.base, cpu.cpuid.has("la57")):
                raise Fault(Vector.GP)
        except Fault as fault:
            self.fault(fault)
            return
        if is_gdt:
            cpu.regs.gdtr = table
        else:
            cpu.regs.idtr = table
        self.finish(instruction_length(code, cpu))

    def _ltr(self) -> None:
        """LTR: #GP(0) for a null selector, which the engine would load (SDM 2A)."""
        cpu = self._cpu
        code = cpu.read_code(15)
        at = length_of_prefixes(code, cpu.bits)
        modrm = code[at + 2]
        try:
            if modrm >> 6 == 3:
                rex = code[at - 1] if cpu.bits == 64 and at and code[at - 1] & 0xF0 == 0x40 else 0
                selector = self._q[modrm & 7 | (rex & 1) << 3]
            else:
                selector = self._read_operand(code, 2)
            if not selector & 0xFFFC:
                raise Fault(Vector.GP)
        except Fault as fault:
            self.fault(fault)
        else:
            self.step_over(_EXIT_TR_WRITE)

    def _read_operand(self, code: bytes, size: int) -> int:
        """Read the memory operand of the instruction at RIP at CPL 0; raises Fault."""
        cpu, linear = self._cpu, self._cpu.linear
        gva = memory_operand_address(code, cpu)
        assert gva is not None
        access = ACCESS_READ | (ACCESS_AC if self._d[H.EFLAGS_D] & EFLAGS_AC else 0)
        linear.begin()
        try:
            return int.from_bytes(linear.read_block(gva, size, access), "little")
        except Fault as fault:
            if fault.vector == Vector.GP and is_stack_access(code, cpu.regs.rip, cpu.bits):
                raise Fault(Vector.SS) from None
            raise

    def _debug_register(self) -> None:
        """Any access under DR7.GD is #DB (SDM 3B 17.2.4); else a write."""
        cpu = self._cpu
        regs = cpu.regs
        if regs.dr7 & _DR7_GD:
            regs.dr6 |= _DR6_BD
            cpu.events.deliver(Event(Vector.DB))
            self.program()
            return
        length, value = self._source(0x23)
        try:
            cpu.debug.write(cpu.read_code(length)[-1] >> 3 & 7, value or 0)
        except Fault as fault:
            self.fault(fault)
        else:
            self.program()
            self.finish(length)

    def _iret(self) -> None:
        self._q[H.INTERCEPT_Q] &= ~_bit(_EXIT_IRET)
        self._cpu.debug.iret()

    def _pushf(self) -> None:
        """PUSHF in real mode: Unicorn's image has RF as it is, the processor's has it clear."""
        cpu = self._cpu
        code = cpu.read_code(15)
        at = length_of_prefixes(code, cpu.bits)
        size = 4 if (0x66 in code[:at]) == (cpu.bits == 16) else 2
        try:
            self._push(cpu.regs.rflags & ~(EFLAGS_RF | EFLAGS_VM), size)
        except Fault as fault:
            self.fault(fault)
        else:
            self.finish(at + 1)

    def _push(self, value: int, size: int) -> None:
        """Push 2 or 4 bytes for an instruction outside 64-bit mode; raises Fault."""
        regs, linear = self._cpu.regs, self._cpu.linear
        mask = 0xFFFF_FFFF if self._d[H.HFLAGS_D] & H.HF_SS32 else 0xFFFF
        pointer = regs.rsp - size & mask
        access = ACCESS_USER if regs.cpl == 3 else ACCESS_READ
        address = regs.segment_base(2) + pointer & 0xFFFF_FFFF
        linear.begin()
        linear.stage(address, size, value, access, Vector.SS)
        linear.commit()
        regs.rsp = regs.rsp & ~mask | pointer

    def halt(self) -> None:
        """Do the HLT at RIP: leave the engine behind it, with nothing else to leave for."""
        cpu, d = self._cpu, self._d
        rip = self._q[H.RIP_Q] + length_of_prefixes(cpu.read_code(15), cpu.bits) + 1
        cpu.regs.rip = rip if d[H.HFLAGS_D] & H.HF_CS64 else rip & 0xFFFF_FFFF
        d[H.EFLAGS_D] &= ~EFLAGS_RF
        d[H.HFLAGS_D] &= ~H.HF_INHIBIT_IRQ
        # The engine looks at requests before it looks at an order to stop: what waits is delivered
        # on the way out.
        cpu.wakes_at_once = cpu.can_wake
        cpu.slice.pause()

    def _pause(self) -> None:
        """PAUSE. With others awake it is their turn; alone, a loop of PAUSEs waits for a device or
        for a time, so each takes twice as long as the one before, and no longer than the slice."""
        cpu = self._cpu
        rip = self._q[H.RIP_Q]
        now = cpu.slice.position()
        again = cpu.is_alone and rip == self._pause_rip and now - self._pause_end < _LOOP
        self._pause_time = min(2 * self._pause_time, _LONGEST_PAUSE) if again else TIMED_INSTRUCTION
        cpu.slice.stall(max(min(self._pause_time, cpu.slice.left()), 1))
        self._pause_rip, self._pause_end = rip, cpu.slice.position()
        self.finish(length_of_prefixes(cpu.read_code(15), cpu.bits) + 1)
        if not cpu.is_alone:
            cpu.slice.stop(Exit.YIELDED)

    def _invlpg(self) -> None:
        """INVLPG. The engine would drop one 4 KiB entry, even where the page is a large one.

        A plug-in that flushes by itself what its large entries stood for is content with that and
        says so by `flush_on_invlpg = False`; for all others the whole TLB goes.
        """
        cpu = self._cpu
        code = cpu.read_code(15)
        gva = memory_operand_address(code, cpu)
        if gva is not None:
            cpu.mmu.invlpg(cpu.index, gva)
        cpu.flush_tlb()
        cpu.mmu.flushed(cpu.index)
        self.finish(instruction_length(code, cpu))

    def _msr(self) -> None:
        cpu = self._cpu
        q = self._q
        index = q[1] & 0xFFFF_FFFF
        cpu.slice.stall(_APIC_MSR if index in _APIC_MSRS else TIMED_INSTRUCTION)
        length = length_of_prefixes(cpu.read_code(15), cpu.bits) + 2
        try:
            if self._d[H.ERROR_CODE_D]:  # exit_info_1: 1 for WRMSR
                cpu.hooks.forget_steady()
                cpu.msrs.write(index, q[2] << 32 & 0xFFFF_FFFF_0000_0000 | q[0] & 0xFFFF_FFFF)
            else:
                value = cpu.msrs.read(index)
                q[0] = value & 0xFFFF_FFFF
                q[2] = value >> 32 & 0xFFFF_FFFF
        except Fault as fault:
            self.fault(fault)
        else:
            self.finish(length)
