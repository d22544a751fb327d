# SPDX-License-Identifier: GPL-2.0-or-later
"""What debugs a machine works on this one class: the gdb stub, the monitor, Python, a screen.

    target = Target(machine)
    point = target.add_breakpoint(0x100010)
    stop = target.resume(timeout=5)         # Stop(kind=Kind.BREAKPOINT, cpu=0, position=@..., ...)
    target.read("rip"), target.peek(0x100010, 16), target.translate(0x100010)
    target.step(0)

The rules that a caller can build on:

*A look changes nothing.* Reading a register, memory or a translation sets no A or D bit, fills no
TLB, counts nothing and asks no device that a read could change.

*A stop changes nothing.* The guest executes the same instructions at the same virtual times whether
it is stopped or not, however often and wherever: at a limit, a breakpoint, after a step. Host time
is not seen by the guest. Only the MMU's counters of TLB misses may differ.

*One thread.* All methods belong to the thread that runs the machine, but `pause`, which any thread
may call. None may be called while `resume` or `step` runs, save `pause`.

*The schedule goes on.* `step` and `resume` run the vCPUs in the turns that they would have had.
Stepping vCPU 1 therefore lets others run until it is the turn of vCPU 1. `Stop.cpu` says who
stopped.

Addresses of breakpoints and watchpoints are linear, on every vCPU and in every address space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from emu.cpu.faults import Fault
from emu.cpu.points import Watch
from emu.cpu.registers import EFLAGS_VM
from emu.debug.registers import FloatingPoint
from emu.errors import UsageError
from emu.outcome import Kind, Outcome, Position, Stop
from emu.state import GPRS, SEGMENTS, Segment, Table
from mmu.arch import ACCESS_IMPLICIT, CR0_PE
from mmu.walker import Walk

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu
    from emu.machine import Machine

__all__ = ["Point", "Target", "Unreadable", "Value"]

Value = int | Segment | Table
"""A register's value: Segment for segment registers, LDTR and TR; Table for GDTR and IDTR."""

_MSRS = {
    "efer": 0xC000_0080,
    "fs_base": 0xC000_0100,
    "gs_base": 0xC000_0101,
    "k_gs_base": 0xC000_0102,
}
_DEBUG = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")
_CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8")
_FLAGS = 0x003F_7FD5  # that a debugger may set; bit 1 is always set
_MASK64 = (1 << 64) - 1


class Unreadable(LookupError):
    """A linear address that no page maps. `address` is the first such byte."""

    def __init__(self, address: int) -> None:
        """Make the error for `address`."""
        super().__init__(f"{address:#x} is not mapped")
        self.address = address


@dataclass(frozen=True, slots=True)
class Point:
    """A breakpoint or watchpoint: `size` bytes from the linear `address`. `access` is "execute",
    "read", "write" or "access" (either). `number` names it in `Stop.point` and `remove`."""

    number: int
    address: int
    size: int
    access: str


class Target:
    """A machine, as a debugger sees it.

    `cpu` is the index of the vCPU that registers and linear addresses are those of where a method
    is not told another; `resume` and `step` set it to the one that stopped.
    """

    def __init__(self, machine: Machine) -> None:
        """Debug `machine`; it may have run already."""
        self._machine = machine
        self._points: dict[int, Point] = {}
        self._next_number = 1
        self.cpu = machine.scheduler.current.index
        self.last: Outcome | None = None
        """How the last `resume` or `step` ended, with the report of a triple fault."""

    # --- vCPUs ------------------------------------------------------------------------------------

    @property
    def cpus(self) -> int:
        """How many vCPUs there are; they are numbered from 0."""
        return len(self._machine.cpus)

    def activity(self, cpu: int | None = None) -> str:
        """Return what a vCPU does: "running", "halted", "waiting for a SIPI" or "shut down"."""
        vcpu = self._vcpu(cpu)
        if vcpu.waits_for_sipi:
            return "waiting for a SIPI"
        if vcpu.shut_down:
            return "shut down"
        return "halted" if vcpu.halted else "running"

    def bits(self, cpu: int | None = None) -> int:
        """Return how the instruction at CS:RIP is decoded: 16, 32 or 64."""
        return self._vcpu(cpu).bits

    def _vcpu(self, cpu: int | None) -> Vcpu:
        return self._machine.cpus[self.cpu if cpu is None else cpu]

    # --- Registers --------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The names that `read` and `write` know.

        rax to r15 (in gdb's order), rip, rflags; es, cs, ss, ds, fs, gs, ldtr, tr; gdtr, idtr; cr0,
        cr2, cr3, cr4, cr8; efer, fs_base, gs_base, k_gs_base; dr0 to dr3, dr6, dr7; pkru;
        st0 to st7 (80 bits), fctrl, fstat, ftag, fop; xmm0 to xmm15 (128 bits), mxcsr.
        """
        return (
            *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *GPRS[8:]),
            *("rip", "rflags", *SEGMENTS, "ldtr", "tr", "gdtr", "idtr"),
            *(*_CONTROL, *_MSRS, *_DEBUG, "pkru"),
            *FloatingPoint.NAMES,
        )

    def read(self, name: str, cpu: int | None = None) -> Value:
        """Return a register. Raises KeyError for a name that is not in `names`."""
        vcpu = self._vcpu(cpu)
        regs = vcpu.regs
        if name in FloatingPoint.NAMES:
            return FloatingPoint(vcpu).read(name)
        if name == "cr8":
            return vcpu.read_cr8()
        if name in _MSRS:
            return vcpu.msrs.read(_MSRS[name])
        if name in _DEBUG:
            return regs.dr(int(name[2]))
        if name not in self.names:
            raise KeyError(name)
        value: Value = getattr(regs, name)
        return value

    def registers(self, cpu: int | None = None) -> dict[str, Value]:
        """Return all registers by name."""
        return {name: self.read(name, cpu) for name in self.names}

    def write(self, name: str, value: Value, cpu: int | None = None) -> None:
        """Set a register, as far as the processor could hold the value.

        A segment register takes a Segment, or in real and virtual-8086 mode a selector. CR0, CR3,
        CR4, EFER and the debug registers are set as MOV and WRMSR set them, but take no time.
        Raises ValueError for a value that the processor refuses, KeyError for an unknown name.
        """
        if name not in self.names:
            raise KeyError(name)
        if value == self.read(name, cpu):
            return
        vcpu = self._vcpu(cpu)
        try:
            if isinstance(value, int):
                self._write_number(vcpu, name, value)
            elif _may_hold(name, value):
                setattr(vcpu.regs, name, value)
            else:
                raise ValueError(f"{name} cannot be {value!r}")
        except Fault:
            raise ValueError(f"{name} cannot be {value:#x}: the processor refuses it") from None

    def _write_number(self, vcpu: Vcpu, name: str, value: int) -> None:
        regs = vcpu.regs
        if name in FloatingPoint.NAMES:
            FloatingPoint(vcpu).write(name, value)
        elif name in ("cr0", "cr3", "cr4"):
            with vcpu.slice.no_time():
                vcpu.intercepts.set_control(name, value)
        elif name == "cr8":
            if value >> 4:
                raise ValueError("cr8 has four bits")
            vcpu.write_cr8(value)
        elif name in _MSRS:
            vcpu.msrs.write(_MSRS[name], value)
        elif name in _DEBUG:
            vcpu.debug.write(int(name[2]), value)
            vcpu.intercepts.program()
        elif name == "rflags":
            if (value ^ regs.rflags) & EFLAGS_VM:
                raise ValueError("rflags: virtual-8086 mode is entered by IRET alone")
            regs.rflags = value & _FLAGS
        elif name in SEGMENTS:
            if regs.cr0 & CR0_PE and not regs.rflags & EFLAGS_VM:
                raise ValueError(f"{name} takes a Segment in protected mode")
            old: Segment = getattr(regs, name)
            setattr(regs, name, old._replace(selector=value & 0xFFFF, base=(value & 0xFFFF) << 4))
        elif name in ("ldtr", "tr", "gdtr", "idtr"):
            raise ValueError(f"{name} takes a Segment or a Table")
        else:
            setattr(regs, name, value & _MASK64)

    # --- Memory -----------------------------------------------------------------------------------

    def peek(self, gva: int, size: int, cpu: int | None = None) -> bytes:
        """Return `size` bytes from a linear address. Raises Unreadable if a page is not mapped."""
        data = self._machine.view(self._index(cpu)).peek(gva, size)
        if len(data) < size:
            raise Unreadable(gva + len(data) & _MASK64)
        return data

    def peek_physical(self, gpa: int, size: int) -> bytes:
        """Return `size` bytes of guest-physical memory: RAM and ROM as they are, all ones for what
        nobody decodes and for devices that cannot be looked at."""
        return self._machine.guest_memory.peek(gpa, size)

    def poke(self, gva: int, data: bytes, cpu: int | None = None) -> None:
        """Write bytes, whatever the page's rights. The MMU and translated code are notified.

        Raises Unreadable, with nothing written, if a page is not mapped.
        """
        self.peek(gva, len(data), cpu)
        self._machine.view(self._index(cpu))[gva : gva + len(data)] = data

    def poke_physical(self, gpa: int, data: bytes) -> None:
        """Write bytes to RAM, the MMU and translated code notified. ROM and holes ignore it; a
        device takes them as writes of single bytes."""
        self._machine.guest_memory.write_block(gpa, data, "debugger")

    def translate(self, gva: int, cpu: int | None = None) -> Walk:
        """Walk the guest's tables: `Walk.fault` is None if the address is mapped, `Walk.gpa` then
        is the guest-physical address, `Walk.entries` the path."""
        return self._machine.walk(gva, ACCESS_IMPLICIT, self._index(cpu))

    def code(self, size: int = 16, cpu: int | None = None) -> bytes:
        """Return up to `size` bytes at CS:RIP, fewer where a page is missing."""
        return self._machine.code(size, self._index(cpu))

    def _index(self, cpu: int | None) -> int:
        return self.cpu if cpu is None else cpu

    # --- Running ----------------------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """Where in its run the machine stands."""
        return self._machine.position

    def resume(
        self,
        *,
        timeout: float | None = None,
        max_insns: int | None = None,
        until: Position | str | None = None,
    ) -> Stop:
        """Run until a point is met, the guest ends, `pause` is called, or a limit is reached.

        As `Machine.run`. A breakpoint at the instruction where the machine stopped for it does not
        stop it again.
        """
        return self._stopped(self._machine.run(timeout, max_insns, until))

    def step(self, cpu: int | None = None, *, timeout: float | None = None) -> Stop:
        """Run until a vCPU has executed one instruction (`Kind.STEP`), or something else stops it.

        An interrupt that is due comes first: the step then ends at the handler. One turn of a
        repeated string instruction is a step. A halted vCPU steps when it wakes; without `timeout`
        that may be never.
        """
        index = self._index(cpu)
        return self._stopped(self._machine.run(timeout, step=index))

    def pause(self) -> None:
        """Have `resume` or `step` return soon with `Kind.PAUSED`, or the next one at once. Any
        thread."""
        self._machine.pause()

    def _stopped(self, outcome: Outcome) -> Stop:
        self.last = outcome
        self.cpu = outcome.stop.cpu
        stop = outcome.stop
        if stop.kind in (Kind.BREAKPOINT, Kind.WATCHPOINT):
            executes = stop.kind is Kind.BREAKPOINT
            for point in self._points.values():
                if point.address == stop.address and (point.access == "execute") is executes:
                    access = "execute" if executes else stop.access
                    return replace(stop, point=point.number, size=point.size, access=access)
        return stop

    # --- Points -----------------------------------------------------------------------------------

    @property
    def points(self) -> Sequence[Point]:
        """The breakpoints and watchpoints, in the order in which they were made."""
        return tuple(self._points.values())

    def add_breakpoint(self, address: int) -> Point:
        """Stop before each execution of the instruction at a linear address, on any vCPU.

        The guest's memory is not written. Several at one address are several points; each stop
        names the first. The guest's own breakpoints (DR0 to DR3) are not touched: where both lie at
        one address the guest's #DB may come first.
        """
        return self._add(address, 1, "execute")

    def add_watchpoint(self, address: int, size: int = 8, access: str = "write") -> Point:
        """Stop after each instruction that makes an access to any of `size` bytes.

        `access` is "read", "write" or "access" (either). `Stop.old` and `Stop.new` are the bytes
        before and after; `Stop.access` is what the instruction did first. Every instruction that
        accesses the same page takes about 30 us more of the host's time, and of the guest's none.
        A read-modify-write is both. Not seen: what a device or the debugger writes, and what the
        processor itself reads and writes to deliver an event.

        Raises UsageError for a plug-in that knows nothing of TLB misses (native), ValueError for
        another `access` or a size outside 1 to 4096.
        """
        if access not in ("read", "write", "access") or not 1 <= size <= 4096:
            raise ValueError(f"no watchpoint for {access} of {size} bytes")
        if self._machine.mmu.name == "native":
            raise UsageError("watchpoints are not available under the native MMU")
        return self._add(address, size, access)

    def remove(self, number: int) -> None:
        """Take a point away. Raises KeyError if there is none of that number."""
        del self._points[number]
        self._set_points()

    def _add(self, address: int, size: int, access: str) -> Point:
        point = Point(self._next_number, address & _MASK64, size, access)
        self._next_number += 1
        self._points[point.number] = point
        self._set_points()
        return point

    def _set_points(self) -> None:
        addresses = {p.address for p in self._points.values() if p.access == "execute"}
        watches = [
            Watch(p.address, p.size, p.access)
            for p in self._points.values()
            if p.access != "execute"
        ]
        for cpu in self._machine.cpus:
            cpu.points.set(addresses)
            cpu.points.watch(watches)
            cpu.points.release()


def _may_hold(name: str, value: Value) -> bool:
    """Return whether a register takes values of this type."""
    if isinstance(value, Segment):
        return name in (*SEGMENTS, "ldtr", "tr")
    return isinstance(value, Table) and name in ("gdtr", "idtr")
