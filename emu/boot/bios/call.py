# SPDX-License-Identifier: GPL-2.0-or-later
"""What a service sees: the caller's registers and memory, and the board behind the firmware."""

from __future__ import annotations

from typing import Any, Protocol

from mmu.memory import Memory

__all__ = ["BDA", "BiosHost", "Call", "Ports"]

BDA = 0x400

_CF = 1 << 0
_ZF = 1 << 6
_SF = 1 << 7
_OF = 1 << 11


class Ports(Protocol):
    """The port bus, as `emu.ports.PortBus`."""

    def add(self, first: int, last: int, device: Any, width: int = 1) -> None:
        """Let `device` decode the ports."""

    def read(self, port: int, size: int) -> int:
        """Return what an IN gets."""

    def write(self, port: int, size: int, value: int) -> None:
        """Do an OUT."""


class BiosHost(Protocol):
    """What the firmware asks of the machine."""

    @property
    def guest_memory(self) -> Memory:
        """Guest-physical memory."""

    @property
    def ports(self) -> Ports:
        """The bus: the firmware adds its port and programs PIC, PIT and CRTC through it."""

    def registers(self) -> Any:
        """Registers of the vCPU that is executing the OUT right now, by attribute, read-write."""

    def now(self) -> int:
        """Virtual nanoseconds since power-on."""

    def restart(self) -> None:
        """Start the machine again, or end its run, behind the instruction that executes now."""


def _register16(name: str) -> property:
    def get(call: Call) -> int:
        return int(getattr(call.regs, name)) & 0xFFFF

    def put(call: Call, value: int) -> None:
        setattr(call.regs, name, getattr(call.regs, name) & ~0xFFFF | value & 0xFFFF)

    return property(get, put)


def _register8(name: str, shift: int) -> property:
    def get(call: Call) -> int:
        return int(getattr(call.regs, name)) >> shift & 0xFF

    def put(call: Call, value: int) -> None:
        kept = getattr(call.regs, name) & ~(0xFF << shift)
        setattr(call.regs, name, kept | (value & 0xFF) << shift)

    return property(get, put)


class Call:
    """One service call; `call.ax`, `call.al` and the like are the caller's registers."""

    __slots__ = ("host", "memory", "regs", "vector")

    def __init__(self, host: BiosHost, vector: int) -> None:
        """Take the registers of the vCPU that is in the stub of `vector`."""
        self.host = host
        self.memory = host.guest_memory
        self.regs = host.registers()
        self.vector = vector

    ax, bx, cx, dx = (_register16(name) for name in ("rax", "rbx", "rcx", "rdx"))
    si, di, bp = (_register16(name) for name in ("rsi", "rdi", "rbp"))
    al, bl, cl, dl = (_register8(name, 0) for name in ("rax", "rbx", "rcx", "rdx"))
    ah, bh, ch, dh = (_register8(name, 8) for name in ("rax", "rbx", "rcx", "rdx"))

    def linear(self, segment: str, offset: int) -> int:
        """Return the address of segment:offset; `segment` as "es"."""
        return int(getattr(self.regs, segment).base) + offset & 0xFFFFFFFF

    def set_segment(self, name: str, selector: int) -> None:
        """Load a segment register as real mode does; `name` as "es"."""
        segment = getattr(self.regs, name)
        setattr(self.regs, name, segment._replace(selector=selector, base=selector << 4))

    def read_bda(self, offset: int, size: int = 1) -> int:
        """Return a field of the BIOS data area."""
        return self.memory.read(BDA + offset, size)

    def write_bda(self, offset: int, value: int, size: int = 1) -> None:
        """Set a field of the BIOS data area."""
        self.memory.write(BDA + offset, size, value, "device")

    def _flag(self, mask: int, on: bool) -> None:
        flags = self.regs.rflags
        self.regs.rflags = flags | mask if on else flags & ~mask

    def carry(self, on: bool) -> None:
        """Set CF as the caller will see it."""
        self._flag(_CF, on)

    def zero(self, on: bool) -> None:
        """Set ZF as the caller will see it."""
        self._flag(_ZF, on)

    def clear_signals(self) -> None:
        """Tell the stub to return (the caller's own SF and OF come back with IRET)."""
        self._flag(_SF | _OF, False)

    def again_after_interrupt(self) -> None:
        """Tell the stub to HLT and to call again."""
        self._flag(_SF, True)

    def again_after_delay(self) -> None:
        """Tell the stub to call again some 40 virtual microseconds from now."""
        self._flag(_OF, True)
