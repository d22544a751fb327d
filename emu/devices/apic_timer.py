# SPDX-License-Identifier: GPL-2.0-or-later
"""The timer of a local APIC (SDM 3A 10.5.4): one-shot, periodic, and TSC-deadline.

Its clock is 1 GHz, one tick a virtual nanosecond, before the divider; so count, PIT and TSC agree.
The state is the moment at which the count reaches zero; the current count follows from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emu.clock import MIN_PERIOD_NS, Clock, Event, EventState, next_expiry
from emu.savable import Savable, State

__all__ = ["ApicTimer"]

# Bits 18:17 of the LVT timer entry; 3 is reserved and does nothing.
ONE_SHOT, PERIODIC, DEADLINE, RESERVED = range(4)
MODE_SHIFT = 17
MASKED = 1 << 16

COUNT_MASK = 0xFFFF_FFFF


@dataclass(slots=True)
class TimerState:
    """The registers, and when the count runs out."""

    mode: int = ONE_SHOT
    masked: bool = True
    initial: int = 0
    divide: int = 0  # the divide configuration register
    expiry: int | None = None  # ns at which the count is, or was, first zero; None: stopped
    deadline: int = 0  # TSC value, 0: disarmed


class ApicTimer(Savable):
    """The timer; `fire` is called when the interrupt of its LVT entry is due."""

    def __init__(self, clock: Clock, tsc: Callable[[], int], fire: Callable[[], None]) -> None:
        """Count by `clock`; deadlines are compared with `tsc()`, which runs at the same rate."""
        self._clock = clock
        self._tsc = tsc
        self._fire = fire
        self._event: Event | None = None
        self.state = TimerState()

    def reset(self) -> None:
        """Stop, with the registers as INIT leaves them."""
        self.state = TimerState()
        self._rearm()

    def save(self) -> State:
        """Return the registers, and when the interrupt is due."""
        return self._make_state(registers=self.state, event=self._clock.save_event(self._event))

    def load(self, state: State) -> None:
        """Take a saved state."""
        registers, event = self._parts_of(state, registers=TimerState, event=EventState)
        self._event = self._clock.load_event(event, self._due)
        self.state = registers

    def set_entry(self, entry: int) -> None:
        """Take the LVT entry: its mode and mask. The count goes on over a change between one-shot
        and periodic; to or from TSC-deadline disarms the timer. What expired while it was masked
        is lost, as every masked local interrupt is (10.5.1)."""
        self._catch_up()
        state = self.state
        mode = entry >> MODE_SHIFT & 3
        if mode != state.mode:
            if DEADLINE in (mode, state.mode):
                state.expiry = None
                state.deadline = 0
            state.mode = mode
        state.masked = bool(entry & MASKED)
        self._rearm()

    # The count.

    def write_initial(self, value: int) -> None:
        """Start counting down from `value`; 0 stops. Ignored in TSC-deadline mode."""
        self._catch_up()
        state = self.state
        if state.mode == DEADLINE:
            return
        state.initial = value & COUNT_MASK
        state.expiry = None
        if state.initial:
            state.expiry = self._clock.now + state.initial * self._divisor()
        self._rearm()

    def current(self) -> int:
        """Return the current count."""
        self._settle()
        expiry = self.state.expiry
        if expiry is None:
            return 0
        return -((self._clock.now - expiry) // self._divisor())

    def write_divide(self, value: int) -> None:
        """Set the divide configuration. What is left of the count goes on at the new rate."""
        self._catch_up()
        left = self.current()
        state = self.state
        state.divide = value & 0x0B
        if state.expiry is not None:
            state.expiry = self._clock.now + left * self._divisor()
        self._rearm()

    def _divisor(self) -> int:
        divide = self.state.divide
        # Bits 3, 1 and 0: 0 is 2, 6 is 128, 7 is 1.
        return 1 << (((divide >> 1 & 4 | divide & 3) + 1) & 7)

    def _settle(self) -> None:
        """Bring an expiry that is past to the next period, or stop; a deadline disarms."""
        state = self.state
        now = self._clock.now
        if state.mode == DEADLINE and state.deadline <= self._tsc():
            state.deadline = 0
        if state.expiry is not None and state.expiry <= now:
            if state.mode == PERIODIC:
                state.expiry = next_expiry(state.expiry, state.initial * self._divisor(), now)
            else:
                state.expiry = None

    # The deadline.

    def read_deadline(self) -> int:
        """Return IA32_TSC_DEADLINE: 0 once it has passed."""
        self._settle()
        return self.state.deadline

    def write_deadline(self, value: int) -> None:
        """Arm for a TSC value, or disarm by 0. Ignored outside TSC-deadline mode."""
        self._catch_up()
        if self.state.mode == DEADLINE:
            self.state.deadline = value
            self._rearm()

    def tsc_changed(self) -> None:
        """Hear that the guest has set the TSC, so that a deadline is nearer or farther."""
        self._rearm()

    # The event.

    def _catch_up(self) -> None:
        """Do what is due by now, before a register changes: the instruction that writes it may be
        the one at which the count runs out."""
        event = self._event
        if event is not None and event.when <= self._clock.now:
            self._clock.cancel(event)
            self._due()
        else:
            self._settle()

    def _rearm(self, earliest: int = 0) -> None:
        state = self.state
        self._clock.cancel(self._event)
        self._event = None
        if state.masked:
            return
        now = self._clock.now
        when = state.expiry
        if state.mode == DEADLINE:
            when = now + max(state.deadline - self._tsc(), 0) if state.deadline else None
        elif when is not None and when < earliest:
            # Count and phase are kept; the interrupts in between are lost.
            when = next_expiry(when, state.initial * self._divisor(), earliest - 1)
        if when is not None:
            self._event = self._clock.at(when, self._due)

    def _due(self) -> None:
        self._event = None
        state = self.state
        if state.mode == DEADLINE:
            state.deadline = 0  # whatever the TSC says: the event is the deadline
        self._settle()
        self._rearm(self._clock.now + MIN_PERIOD_NS)
        if state.mode != RESERVED:
            self._fire()
