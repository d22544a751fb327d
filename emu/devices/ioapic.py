# SPDX-License-Identifier: GPL-2.0-or-later
"""An 82093AA I/O APIC with 24 pins (Intel 82093AA data sheet, order number 290566).

A pin's request goes out as a message when its line and its redirection entry allow. A level-
triggered one then waits, with its remote IRR set, for the end of interrupt of its vector, and goes
out again if the line is still up. Edges on a masked pin are lost, as the data sheet says. The
polarity bit is kept without effect: a wire here says whether its device asks, not at what voltage.

Version 0x20 with an EOI register, as QEMU has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from emu.devices.apic_bus import UNMASKABLE, ApicBus, DeliveryMode, Message
from emu.ports import IrqLine, LogOnce
from emu.savable import Savable, State

__all__ = ["DEFAULT_BASE", "PINS", "IoApic", "isa_pin"]

DEFAULT_BASE = 0xFEC0_0000
SIZE = 0x1000
PINS = 24

# Memory-mapped registers.
INDEX, DATA, EOI = 0x00, 0x10, 0x40
# Behind index and data.
ID, VERSION, ARBITRATION = 0x00, 0x01, 0x02
REDIRECTION = range(0x10, 0x10 + 2 * PINS)
VERSION_VALUE = (PINS - 1) << 16 | 0x20
ID_MASK = 0x0F00_0000

# Redirection entry (data sheet 3.2.4).
VECTOR = 0xFF
MODE_SHIFT = 8
LOGICAL = 1 << 11
REMOTE_IRR = 1 << 14
LEVEL = 1 << 15
MASKED = 1 << 16
DESTINATION_SHIFT = 56
WRITABLE = 0xFF00_0000_0001_AFFF

# Delivery modes whose trigger is an edge whatever the entry says (data sheet, DELMOD).
_EDGE_ONLY = (DeliveryMode.SMI, DeliveryMode.NMI, DeliveryMode.INIT, DeliveryMode.EXTINT)


def isa_pin(irq: int) -> int:
    """Return the pin of an ISA IRQ: its own number, but 2 for the timer's IRQ 0, since the 8259s
    have taken that place. The MADT and the MP table say the same."""
    return 2 if irq == 0 else irq


@dataclass(slots=True)
class IoApicState:
    """The registers. Bit n of `lines` is what the device drives on pin n."""

    index: int = 0
    id: int = 0
    lines: int = 0
    entries: list[int] = field(default_factory=lambda: [MASKED] * PINS)


class IoApic(Savable):
    """The chip; one page of MMIO at `DEFAULT_BASE`."""

    def __init__(self, bus: ApicBus) -> None:
        """Send to the local APICs on `bus` and hear their ends of interrupt."""
        self._bus = bus
        self._log = LogOnce("ioapic")
        self.state = IoApicState()
        bus.io.append(self)

    def reset(self) -> None:
        """Mask every pin. What is on the lines stays."""
        self.state = IoApicState(lines=self.state.lines)

    def save(self) -> State:
        """Return the registers and what is on the lines."""
        return self._make_state(registers=self.state)

    def load(self, state: State) -> None:
        """Take a saved state."""
        (self.state,) = self._parts_of(state, registers=IoApicState)

    def line(self, pin: int) -> IrqLine:
        """Return an input. Raises ValueError if there is no such pin."""
        if not 0 <= pin < PINS:
            raise ValueError(f"no pin {pin}")
        return partial(self._set_line, pin)

    # Pins.

    def _set_line(self, pin: int, level: bool) -> None:
        state = self.state
        bit = 1 << pin
        rising = level and not state.lines & bit
        state.lines = state.lines | bit if level else state.lines & ~bit
        if _is_level(state.entries[pin]):
            self._service_level(pin)
        elif rising and not state.entries[pin] & MASKED:
            self._send(pin, level=False)

    def _service_level(self, pin: int) -> None:
        """Send a level-triggered request that is not under way yet."""
        state = self.state
        entry = state.entries[pin]
        if state.lines >> pin & 1 and not entry & (MASKED | REMOTE_IRR):
            state.entries[pin] = entry | REMOTE_IRR
            self._send(pin, level=True)

    def _send(self, pin: int, level: bool) -> None:
        entry = self.state.entries[pin]
        self._bus.send(
            Message(
                DeliveryMode(entry >> MODE_SHIFT & 7),
                entry & VECTOR,
                entry >> DESTINATION_SHIFT,
                bool(entry & LOGICAL),
                level,
            )
        )

    def end_of_interrupt(self, vector: int) -> None:
        """Take the remote IRR back of every level-triggered pin with this vector."""
        state = self.state
        for pin, entry in enumerate(state.entries):
            if entry & VECTOR == vector and entry & REMOTE_IRR:
                state.entries[pin] = entry & ~REMOTE_IRR
                self._service_level(pin)

    @property
    def is_unmaskable(self) -> bool:
        """Whether an open pin sends what IF does not hold back: NMI, INIT."""
        return any(
            not entry & MASKED and entry >> MODE_SHIFT & 7 in UNMASKABLE
            for entry in self.state.entries
        )

    # Registers.

    def read(self, offset: int, size: int) -> int:
        """Read the index, or the register that it chooses, or a part of either."""
        register, start = offset & ~0xF, offset & 0xF
        if start > 3:
            return 0
        if register == INDEX:
            return self.state.index >> 8 * start
        return self._read_data() >> 8 * start if register == DATA else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the index (any width), the register that it chooses, or an end of interrupt."""
        if offset == INDEX:
            self.state.index = value & 0xFF
        elif offset == DATA and size >= 4:
            self._write_data(value & 0xFFFF_FFFF)
        elif offset == EOI:
            self.end_of_interrupt(value & 0xFF)
        else:
            self._log(offset, "write of %d bytes at %#x", size, offset)

    def _read_data(self) -> int:
        state = self.state
        index = state.index
        if index in (ID, ARBITRATION):
            return state.id
        if index == VERSION:
            return VERSION_VALUE
        if index in REDIRECTION:
            pin, high = divmod(index - REDIRECTION[0], 2)
            return state.entries[pin] >> 32 * high & 0xFFFF_FFFF
        return 0

    def _write_data(self, value: int) -> None:
        state = self.state
        index = state.index
        if index == ID:
            state.id = value & ID_MASK
        elif index in REDIRECTION:
            pin, high = divmod(index - REDIRECTION[0], 2)
            self._write_entry(pin, value << 32 * high, 0xFFFF_FFFF << 32 * high & WRITABLE)
        else:
            self._log(("register", index), "write of %#x to register %#x", value, index)

    def _write_entry(self, pin: int, value: int, mask: int) -> None:
        entries = self.state.entries
        entry = entries[pin] & ~mask | value & mask
        if not _is_level(entry):
            entry &= ~REMOTE_IRR
        entries[pin] = entry
        if _is_level(entry):
            self._service_level(pin)


def _is_level(entry: int) -> bool:
    return bool(entry & LEVEL) and entry >> MODE_SHIFT & 7 not in _EDGE_ONLY
