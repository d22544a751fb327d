# SPDX-License-Identifier: GPL-2.0-or-later
"""Power management of the PIIX4, where QEMU's i440FX firmware puts it (82371AB data sheet 7.2).

    0x600  PM1a status      0x602  PM1a enable      0x604  PM1a control      0x608  PM timer
    0xb2   APM control: 0xf1 hands the machine over to ACPI, 0xf0 back       0xb3   APM status

The timer is 24 bits of the 3.579545 MHz clock that is exactly three times the PIT's. It sets a
status bit whenever its highest bit changes; that is worked out when somebody looks, and an event
is queued only while the guest wants to be interrupted for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from emu.clock import PM_TIMER_RATE, Clock, Event, EventState
from emu.devices.power import (
    SCI_ENABLE,
    SLEEP_ENABLE,
    SLEEP_TYPE_MASK,
    SLEEP_TYPE_OFF,
    SLEEP_TYPE_SHIFT,
)
from emu.outcome import Kind
from emu.ports import IrqLine, LogOnce, Stop
from emu.savable import Savable, State

__all__ = ["ACPI_DISABLE", "ACPI_ENABLE", "PM_BASE", "AcpiPm", "ApmPort"]

PM_BASE = 0x600
PM_SIZE = 0x40
STATUS, ENABLE, CONTROL, TIMER = 0x00, 0x02, 0x04, 0x08

# PM1 status and enable (ACPI 4.8.3.1); status bits are cleared by writing ones.
TIMER_STATUS = 1 << 0
GLOBAL_STATUS = 1 << 5
POWER_BUTTON = 1 << 8
RTC_STATUS = 1 << 10
EVENTS = TIMER_STATUS | GLOBAL_STATUS | POWER_BUTTON | RTC_STATUS
CONTROL_BITS = 0x1C03

TIMER_BITS = 24
HALF_TURN = 1 << (TIMER_BITS - 1)

APM_PORT = 0xB2
ACPI_ENABLE, ACPI_DISABLE = 0xF1, 0xF0


@dataclass(slots=True)
class AcpiPmState:
    """The registers."""

    status: int = 0
    enable: int = 0
    control: int = 0
    half_turns: int = 0  # of the timer, up to which `status` is complete


class AcpiPm(Savable):
    """Ports 0x600 to 0x63f, width 4."""

    def __init__(self, clock: Clock, sci: IrqLine, stop: Stop) -> None:
        """Raise `sci` (IRQ 9, level-triggered); call `stop(Kind.POWER_OFF, None)` for S5."""
        self._clock = clock
        self._sci = sci
        self._stop = stop
        self._log = LogOnce("acpi_pm")
        self._event: Event | None = None
        self.state = AcpiPmState()

    def reset(self) -> None:
        """Leave ACPI mode, all events off."""
        self.state = AcpiPmState(half_turns=self._half_turns())
        self._update()

    def save(self) -> State:
        """Return the registers, and when the timer raises the SCI."""
        return self._make_state(registers=self.state, event=self._clock.save_event(self._event))

    def load(self, state: State) -> None:
        """Take a saved state."""
        registers, event = self._parts_of(state, registers=AcpiPmState, event=EventState)
        self._event = self._clock.load_event(event, self._turned)
        self.state = registers

    def press_power_button(self) -> None:
        """Ask the guest to shut down, if it listens."""
        self.state.status |= POWER_BUTTON
        self._update()

    def set_acpi_mode(self, on: bool) -> None:
        """Do what firmware's SMI handler does for the APM commands: set or clear SCI_EN."""
        self.state.control = self.state.control & ~SCI_ENABLE | (SCI_ENABLE if on else 0)
        self._update()

    # Ports.

    def read(self, port: int, size: int) -> int:
        """Read registers, from any byte of them."""
        self._sync()
        state = self.state
        block = (
            state.status
            | state.enable << 8 * ENABLE
            | state.control << 8 * CONTROL
            | self._timer() << 8 * TIMER
        )
        return block >> 8 * (port - PM_BASE)

    def write(self, port: int, size: int, value: int) -> None:
        """Write registers; a byte or a double word works too, as parts and pairs of words."""
        self._sync()
        state = self.state
        offset = port - PM_BASE
        written = value << 8 * (offset & 1)
        mask = (1 << 8 * size) - 1 << 8 * (offset & 1)
        for register in range(offset & ~1, offset + size, 2):
            part, kept = written & 0xFFFF, ~mask & 0xFFFF
            if register == STATUS:
                state.status &= ~part
            elif register == ENABLE:
                state.enable = state.enable & kept | part & EVENTS
            elif register == CONTROL:
                self._write_control(state.control & kept | part)
            else:
                self._log(register, "write of %#x at %#x", part, PM_BASE + register)
            written >>= 16
            mask >>= 16
        self._update()

    def _write_control(self, value: int) -> None:
        self.state.control = value & CONTROL_BITS
        if value & SLEEP_ENABLE:
            kind = (value & SLEEP_TYPE_MASK) >> SLEEP_TYPE_SHIFT
            if kind == SLEEP_TYPE_OFF:
                self._stop(Kind.POWER_OFF, None)
            else:
                self._log(("sleep", kind), "sleep type %d is not there", kind)

    # Timer and SCI.

    def _timer(self) -> int:
        return PM_TIMER_RATE.ticks(self._clock.now) & ((1 << TIMER_BITS) - 1)

    def _half_turns(self) -> int:
        return PM_TIMER_RATE.ticks(self._clock.now) // HALF_TURN

    def _sync(self) -> None:
        state = self.state
        half_turns = self._half_turns()
        if half_turns != state.half_turns:
            state.half_turns = half_turns
            state.status |= TIMER_STATUS

    def _update(self) -> None:
        """Drive the SCI, and await the timer if it is to raise it."""
        state = self.state
        active = bool(state.status & state.enable & EVENTS) and bool(state.control & SCI_ENABLE)
        self._sci(active)
        self._clock.cancel(self._event)
        self._event = None
        if state.enable & TIMER_STATUS and not active:
            next_turn = (self._half_turns() + 1) * HALF_TURN
            self._event = self._clock.at(PM_TIMER_RATE.ns(next_turn), self._turned)

    def _turned(self) -> None:
        self._sync()
        self._update()


class ApmPort(Savable):
    """Ports 0xb2 and 0xb3: what firmware's SMI handler would be asked for, done at once."""

    def __init__(self, pm: AcpiPm) -> None:
        """Switch `pm` between legacy and ACPI mode."""
        self._pm = pm
        self._log = LogOnce("apm")
        self._values = [0, 0]

    def save(self) -> State:
        """Return what was last written to either port."""
        return self._make_state(values=self._values)

    def load(self, state: State) -> None:
        """Take a saved state."""
        (values,) = self._parts_of(state, values=tuple[int, int])
        self._values = list(values)

    def read(self, port: int, size: int) -> int:
        """Return what was last written."""
        return self._values[port - APM_PORT]

    def write(self, port: int, size: int, value: int) -> None:
        """Take a command (0xb2) or its parameter (0xb3)."""
        self._values[port - APM_PORT] = value
        if port != APM_PORT:
            return
        if value in (ACPI_ENABLE, ACPI_DISABLE):
            self._pm.set_acpi_mode(value == ACPI_ENABLE)
        else:
            self._log(value, "unknown APM command %#x", value)
