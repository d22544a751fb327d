# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine hands over in mid-instruction: the trap window, ports, and single instructions.

IN, OUT, SYSCALL, SYSENTER, CPUID, RDTSC and RDTSCP are hooks of Unicorn's own; what it keeps to
itself is taken over by emu.cpu.intercept. A hook must not raise, and it cannot leave the
instruction; one that deserves a fault is taken back as a whole (`Hooks.abort`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from emu.cpu import compiled, raw
from emu.cpu import hidden as H
from emu.cpu.compiled_devices import DEVICE_READ
from emu.cpu.delivery import check_io_permission
from emu.cpu.faults import Event, Fault
from emu.cpu.registers import EFLAGS_VM
from emu.cpu.syscall import syscall, sysenter

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu
    from emu.ports import PortBus

__all__ = ["Hooks"]

_PORT_CYCLE = 100
"""A port access takes as long as so many instructions: 1 us, as on the ISA bus, so that a guest
that polls a device does not poll it a thousand times between two of its ticks."""
_DEVICES = range(3 << 30, 4 << 30)
"""Where devices are in memory."""
TIMED_INSTRUCTION = 50
"""CPUID, RDTSC, RDMSR, WRMSR, MOV CR8 and MOV to CR0 and CR4 take long too, as where a hypervisor
looks at them. Guests wait in loops around RDTSC, and each turn costs us as much as a thousand
others."""
# Of env, what an instruction that is taken back may change: up to the error code.
_ABORT_BYTES = H.ERROR_CODE_D * 4


class Ports(Protocol):
    """Where IN and OUT go: `emu.ports.PortBus`, or who watches it."""

    def read(self, port: int, size: int) -> int:
        """Return what IN gets."""

    def write(self, port: int, size: int, value: int) -> None:
        """Do OUT."""


class Hooks:
    """The hooks of one vCPU that run inside an instruction."""

    def __init__(self, cpu: Vcpu, ports: PortBus) -> None:
        """Serve `cpu` with `ports`."""
        self._cpu = cpu
        self._ports: Ports = ports
        self._memory = cpu.memory
        self._hidden = cpu.hidden
        self._regs = cpu.regs
        self._linear = cpu.linear
        self._slice = cpu.slice
        self._state = cpu.state_block
        self._steady: dict[int, frozenset[int]] = {}  # by page
        self._aborted: tuple[Callable[[], None], bytes] | None = None
        self.is_aborting = False
        """Whether the instruction under way is being taken back."""

    def install(self, handle: int, keep: list[Any], syscall: int | None = None) -> None:
        """Hook the instructions; `keep` holds the callbacks as long as the engine lives. `syscall`
        is compiled code that serves SYSCALL and calls Python for what it leaves."""
        for callback, instruction in (
            (raw.IN_CALLBACK(self._in), raw.INSN_IN),
            (raw.OUT_CALLBACK(self._out), raw.INSN_OUT),
            (raw.SYSCALL_CALLBACK(self._syscall), raw.INSN_SYSCALL),
            (raw.SYSCALL_CALLBACK(self._sysenter), raw.INSN_SYSENTER),
            (raw.REPLACE_CALLBACK(self._cpuid), raw.INSN_CPUID),
            (raw.REPLACE_CALLBACK(self._rdtsc), raw.INSN_RDTSC),
            (raw.REPLACE_CALLBACK(self._rdtscp), raw.INSN_RDTSCP),
        ):
            keep.append(callback)
            if instruction == raw.INSN_SYSCALL and syscall is not None:
                state = self._cpu.state_block
                state.words[compiled.PYTHON_SYSCALL // 8] = raw.address_of(callback)
                raw.add_hook(handle, raw.HOOK_INSN, syscall, instruction, state.address)
            else:
                raw.add_hook(handle, raw.HOOK_INSN, callback, instruction)

    def use_ports(self, ports: Ports) -> None:
        """Send IN and OUT to `ports` from now on."""
        self._ports = ports

    def trapped_read(self, _uc: int, gpa: int, size: int, _data: int) -> int:
        """Serve a read in the trap window."""
        try:
            if gpa not in _DEVICES:
                return self._memory.read(gpa, size)
            self._slice.stall(DEVICE_READ)
            value = self._memory.read(gpa, size)
            if gpa & 0xFFF in self._steady_offsets(gpa):
                self._state.note_steady(gpa, size, value)
            return value
        except BaseException as error:
            self._cpu.fail(error)
            return 0

    def trapped_write(self, _uc: int, gpa: int, size: int, value: int, _data: int) -> None:
        """Serve a write in the trap window."""
        try:
            self._memory.write(gpa, size, value, "guest")
            if gpa in _DEVICES:
                self.forget_steady()
        except BaseException as error:
            self._cpu.fail(error)

    def _steady_offsets(self, gpa: int) -> frozenset[int]:
        """Return what compiled code may read again of the page of a device: see
        `emu.cpu.compiled_devices`."""
        offsets = self._steady.get(gpa >> 12)
        if offsets is None:
            slot = self._memory.slot_at(gpa)
            device = None if slot is None else slot.device
            offsets = self._steady[gpa >> 12] = getattr(device, "steady", None) or frozenset()
        return offsets

    def forget_steady(self) -> None:
        """Read all devices anew: one may have changed, or come to lie elsewhere."""
        self._steady.clear()
        self._state.forget_steady()

    def guarded(self, read: bool, gpa: int, size: int, value: int) -> int:
        """Serve an access to a device or a hole at its true address (native)."""
        if read:
            return self.trapped_read(0, gpa, size, 0)
        self.trapped_write(0, gpa, size, value, 0)
        return 0

    def _in(self, _uc: int, port: int, size: int, _data: int) -> int:
        try:
            if self._hidden.d[H.HFLAGS_D] & H.HF_CPL and not self._may_use_port(port, size):
                return 0
            self._slice.stall(_PORT_CYCLE)
            return self._ports.read(port & 0xFFFF, size)
        except BaseException as error:
            self._cpu.fail(error)
            return 0

    def _out(self, _uc: int, port: int, size: int, value: int, _data: int) -> None:
        try:
            if self._hidden.d[H.HFLAGS_D] & H.HF_CPL and not self._may_use_port(port, size):
                return
            self._slice.stall(_PORT_CYCLE)
            self._ports.write(port & 0xFFFF, size, value)
        except BaseException as error:
            self._cpu.fail(error)

    def _may_use_port(self, port: int, size: int) -> bool:
        """Check IN or OUT outside CPL 0 (SDM 1 19.5), which Unicorn lets pass; if False, the
        instruction is being aborted with the fault that it deserves."""
        if self._aborted is not None:
            return False
        flags = self._hidden.d[H.EFLAGS_D]
        if self._regs.cpl <= flags >> 12 & 3 and not flags & EFLAGS_VM:
            return True
        try:
            self._linear.begin()
            check_io_permission(self._regs, self._linear, port & 0xFFFF, size)
        except Fault as fault:
            event = Event(fault.vector, error_code=fault.error_code, cr2=fault.cr2)
            self.abort(partial(self._cpu.events.deliver, event))
            return False
        return True

    def abort(self, action: Callable[[], None]) -> None:
        """Take back the instruction whose hook is running, and do `action` in its stead.

        A hook cannot leave in mid-instruction. So the processor's state is kept; what the engine
        still executes of the translated block changes registers only, since the TLB is emptied
        and no fill succeeds; and at the first boundary or fill the state is put back.
        """
        self._aborted = action, bytes(self._hidden.b[:_ABORT_BYTES])
        self.is_aborting = True
        self._cpu.flush_tlb()
        self._cpu.fills.leave_all_to_python()
        hidden = self._hidden
        hidden.cpu[hidden.interrupt_request] |= H.INTERRUPT_SMI
        hidden.icount_high[0] = -1  # in mid-instruction, too: nothing of it will stay

    def finish_abort(self) -> None:
        """Do the second half of `abort`, from the interrupt hook."""
        self._cpu.pins.withdraw(H.INTERRUPT_SMI)
        aborted, self._aborted = self._aborted, None
        self.is_aborting = False
        if aborted is not None:
            action, state = aborted
            self._hidden.b[:_ABORT_BYTES] = state
            self._cpu.flush_tlb()
            self._cpu.mmu.flushed(self._cpu.index)
            if self._cpu.step.is_active:
                self._cpu.step.end(-1)
                self._cpu.debug.after_step(completed=False, is_over=False)
            action()

    def _syscall(self, _uc: int, _data: int) -> None:
        try:
            syscall(self._cpu)
        except BaseException as error:
            self._cpu.fail(error)

    def _sysenter(self, _uc: int, _data: int) -> None:
        try:
            sysenter(self._cpu)
        except BaseException as error:
            self._cpu.fail(error)

    def _cpuid(self, _uc: int, _data: int) -> int:
        try:
            q = self._hidden.q
            self._slice.stall(TIMED_INSTRUCTION)
            leaf = self._cpu.cpuid.leaf(q[0] & 0xFFFF_FFFF, q[1] & 0xFFFF_FFFF)
            if leaf is None:
                return 0
            q[0], q[3], q[1], q[2] = leaf
        except BaseException as error:
            self._cpu.fail(error)
        return 1

    def _rdtsc(self, _uc: int, _data: int) -> int:
        try:
            q = self._hidden.q
            self._slice.stall(TIMED_INSTRUCTION)
            tsc = self._cpu.msrs.tsc()
            q[0], q[2] = tsc & 0xFFFF_FFFF, tsc >> 32
        except BaseException as error:
            self._cpu.fail(error)
        return 1

    def _rdtscp(self, _uc: int, _data: int) -> int:
        self._rdtsc(0, 0)
        self._hidden.q[1] = self._hidden.q[H.TSC_AUX_Q] & 0xFFFF_FFFF
        return 1
