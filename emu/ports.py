# SPDX-License-Identifier: GPL-2.0-or-later
"""The I/O port space, and the types by which a chip is wired to the rest of the board.

A chip decodes a range of ports and says how wide an access it takes in one piece. What is wider, or
runs over the end of the range, is split into halves down to bytes, low port first, as the bridge to
the ISA bus does; each part finds its own chip. Ports that nobody decodes float high: they read as
all ones and ignore writes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple, Protocol

from emu.errors import UsageError
from emu.outcome import Kind

__all__ = [
    "InterruptSource",
    "IrqLine",
    "LogOnce",
    "PortBus",
    "PortDevice",
    "Stop",
    "TextSink",
    "fan_out",
    "nowhere",
]

IrqLine = Callable[[bool], None]
"""A wire: the level that its driver now puts on it. Calls that change nothing are harmless."""

Stop = Callable[[Kind, int | None], None]
"""End the run: the kind of ending, and the guest's own code for `Kind.GUEST_EXIT`, else None."""

TextSink = Callable[[bytes], None]
"""Where a chip's output goes, byte by byte as the guest sends it, unbuffered."""

PORTS = 0x1_0000


def nowhere(_level: bool) -> None:
    """A pin that is wired to nothing."""


def fan_out(*lines: IrqLine) -> IrqLine:
    """Return a wire that drives several pins, as an ISA IRQ does of the 8259s and the I/O APIC."""

    def drive(level: bool) -> None:
        for line in lines:
            line(level)

    return drive


class PortDevice(Protocol):
    """A chip on the port bus. Ports are absolute; `size` is 1, 2 or 4 and at most its width."""

    def read(self, port: int, size: int) -> int:
        """Return what the chip drives; bits beyond `size` bytes are dropped by the bus."""
        ...

    def write(self, port: int, size: int, value: int) -> None:
        """Take `value`, which has no bits beyond `size` bytes."""
        ...


class InterruptSource(Protocol):
    """What drives an INTR pin: a pair of 8259s, or a local APIC."""

    def pending(self) -> bool:
        """Return whether INTR is up."""
        ...

    def acknowledge(self) -> int:
        """Do the INTA cycles: take an interrupt into service, drive INTR as it then is, and return
        the vector."""
        ...


class LogOnce:
    """Say each odd thing that a guest does once, to the logger `shadowcorn.device.<chip>`."""

    # A guest can invent endless oddities; beyond this many the log has made its point.
    LIMIT = 1000

    __slots__ = ("_logger", "_seen")

    def __init__(self, chip: str) -> None:
        """Speak for `chip`, a short name as `serial`."""
        self._logger = logging.getLogger(f"shadowcorn.device.{chip}")
        self._seen: set[Hashable] = set()

    def __call__(self, key: Hashable, message: str, *args: object) -> None:
        """Log `message % args` at INFO unless `key` was logged before."""
        if key not in self._seen and len(self._seen) < self.LIMIT:
            self._seen.add(key)
            self._logger.info(message, *args)


class _Range(NamedTuple):
    last: int
    device: PortDevice
    width: int


class PortBus:
    """Which chip answers at which port.

    >>> from emu.devices.debugcon import DebugConsole
    >>> bus = PortBus()
    >>> bus.add(0xE9, 0xE9, DebugConsole())
    >>> hex(bus.read(0xE9, 1)), hex(bus.read(0xE8, 4))
    ('0xe9', '0xffffe9ff')
    """

    __slots__ = ("_log", "_ports")

    def __init__(self) -> None:
        """Start with no chip at all."""
        self._ports: dict[int, _Range] = {}
        self._log = LogOnce("bus")

    def add(self, first: int, last: int, device: PortDevice, width: int = 1) -> None:
        """Let `device` decode the ports `first` to `last`, taking up to `width` bytes at once.

        Raises UsageError if a port does not exist or is decoded already: whoever puts a device at
        an address of his own choice may get it wrong.
        """
        if not 0 <= first <= last < PORTS:
            raise UsageError(f"no such I/O ports: {first:#x}-{last:#x}")
        for port in range(first, last + 1):
            if port in self._ports:
                taken = type(self._ports[port].device).__name__
                raise UsageError(f"I/O port {port:#x} is already taken by {taken}")
        entry = _Range(last, device, width)
        for port in range(first, last + 1):
            self._ports[port] = entry

    def devices(self) -> Iterator[tuple[int, PortDevice]]:
        """Yield each chip once, with the first port that it decodes, in the order of ports."""
        seen = set()
        for port, entry in sorted(self._ports.items()):
            if id(entry.device) not in seen:
                seen.add(id(entry.device))
                yield port, entry.device

    def read(self, port: int, size: int) -> int:
        """Return what an IN of `size` bytes (1, 2 or 4) from `port` gets. One dict look-up."""
        entry = self._ports.get(port)
        if entry is not None and size <= entry.width and port + size - 1 <= entry.last:
            return entry.device.read(port, size) & ((1 << 8 * size) - 1)
        if size == 1:
            self._log(("read", port), "read from unknown port %#x", port)
            return 0xFF
        half = size // 2
        low = self.read(port, half)
        return low | self.read(port + half, half) << 8 * half

    def write(self, port: int, size: int, value: int) -> None:
        """Do an OUT of `size` bytes (1, 2 or 4) to `port`. One dict look-up."""
        entry = self._ports.get(port)
        if entry is not None and size <= entry.width and port + size - 1 <= entry.last:
            entry.device.write(port, size, value & ((1 << 8 * size) - 1))
        elif size == 1:
            self._log(("write", port), "write of %#x to unknown port %#x", value & 0xFF, port)
        else:
            half = size // 2
            self.write(port, half, value)
            self.write(port + half, half, value >> 8 * half)
