# SPDX-License-Identifier: GPL-2.0-or-later
"""An HPET with three timers (IA-PC HPET Specification 1.0a), 64 bits wide, one tick every 10 ns.

The main counter is computed from the clock. A timer's comparator is brought up to date when it is
looked at: a periodic one has moved on by a whole number of periods. Events are queued only for
timers that interrupt; a periodic one does so at most every `MIN_PERIOD_NS`, its comparator moving
on regardless.

In legacy replacement mode timers 0 and 1 stand in for the 8254 and the RTC on IRQ 0 and 8, so those
two chips are wired through this one: `pit_irq` and `rtc_irq`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from emu.clock import MIN_PERIOD_NS, Clock, Event, EventState
from emu.ports import IrqLine, LogOnce
from emu.savable import Savable, State

__all__ = ["BASE", "SIZE", "Hpet"]

BASE = 0xFED0_0000
SIZE = 0x1000
TIMERS = 3
TICK_NS = 10

# General registers (2.3).
CAPABILITIES, CONFIGURATION, STATUS, COUNTER = 0x000, 0x010, 0x020, 0x0F0
# Femtoseconds a tick; vendor; legacy replacement and 64 bits possible; last timer; revision.
CAPABILITIES_VALUE = TICK_NS * 10**6 << 32 | 0x8086 << 16 | 0xA001 | TIMERS - 1 << 8
ENABLE = 1 << 0
LEGACY = 1 << 1

# Timer registers (2.3.8): at FIRST_TIMER + n * TIMER_STRIDE.
FIRST_TIMER, TIMER_STRIDE = 0x100, 0x20
T_CONFIGURATION, T_COMPARATOR = 0x00, 0x08
T_LEVEL = 1 << 1
T_INTERRUPT = 1 << 2
T_PERIODIC = 1 << 3
T_SET_VALUE = 1 << 6
T_32_BIT = 1 << 8
T_ROUTE_SHIFT = 9
T_ROUTE = 0x1F << T_ROUTE_SHIFT
T_WRITABLE = T_LEVEL | T_INTERRUPT | T_PERIODIC | T_SET_VALUE | T_32_BIT | T_ROUTE
ROUTES = 0x00FF_0104  # I/O APIC pins 2, 8 and 16 to 23
T_CAPABILITIES = ROUTES << 32 | 1 << 5 | 1 << 4  # 64 bits, periodic

MASK_64 = (1 << 64) - 1
MASK_32 = (1 << 32) - 1


@dataclass(slots=True)
class TimerState:
    """One timer."""

    configuration: int = 0
    comparator: int = MASK_64
    period: int = 0
    synced: int = 0  # the main counter up to which the comparator is complete
    high_half_next: bool = False  # a comparator set by its low half, the high one to follow
    last_ns: int = -MIN_PERIOD_NS  # when it last interrupted


@dataclass(slots=True)
class HpetState:
    """The registers."""

    configuration: int = 0
    status: int = 0
    base: int = 0  # the main counter while it stands, or when tick 0 of the clock was
    timers: list[TimerState] = field(default_factory=lambda: [TimerState() for _ in range(TIMERS)])


class Hpet(Savable):
    """The chip: one page of MMIO at `BASE`."""

    def __init__(
        self, clock: Clock, pin: Callable[[int], IrqLine], irq_0: IrqLine, irq_8: IrqLine
    ) -> None:
        """Raise I/O APIC pins by `pin(number)`, and the ISA IRQs 0 and 8."""
        self._clock = clock
        self._pins = {n: pin(n) for n in range(ROUTES.bit_length()) if ROUTES >> n & 1}
        self._legacy = (irq_0, irq_8)
        self._held = [False, False]
        self._events: list[Event | None] = [None] * TIMERS
        self._matches = [partial(self._match, number) for number in range(TIMERS)]
        self._log = LogOnce("hpet")
        self.state = HpetState()

    def pit_irq(self, level: bool) -> None:
        """Take OUT 0 of the 8254, which reaches IRQ 0 unless timer 0 replaces it."""
        self._pass_on(0, level)

    def rtc_irq(self, level: bool) -> None:
        """Take the RTC's interrupt, which reaches IRQ 8 unless timer 1 replaces it."""
        self._pass_on(1, level)

    def _pass_on(self, number: int, level: bool) -> None:
        self._held[number] = level
        if not self.state.configuration & LEGACY:
            self._legacy[number](level)

    def reset(self) -> None:
        """Stop, all timers off."""
        self._set_configuration(0)
        for number, event in enumerate(self._events):
            self._clock.cancel(event)
            self._events[number] = None
        self.state = HpetState()

    def save(self) -> State:
        """Return the registers, what the 8254 and the RTC drive, and when each timer matches."""
        return self._make_state(
            registers=self.state,
            held=self._held,
            events=[self._clock.save_event(event) for event in self._events],
        )

    def load(self, state: State) -> None:
        """Take a saved state."""
        registers, held, events = self._parts_of(
            state,
            registers=HpetState,
            held=tuple[bool, bool],
            events=tuple[EventState, EventState, EventState],
        )
        load_event = self._clock.load_event
        self._events = [
            load_event(e, match) for e, match in zip(events, self._matches, strict=True)
        ]
        self.state, self._held = registers, list(held)

    # Counting.

    def counter(self) -> int:
        """Return the main counter."""
        state = self.state
        if not state.configuration & ENABLE:
            return state.base
        return self._clock.now // TICK_NS + state.base & MASK_64

    def _sync(self, number: int) -> None:
        """Move a periodic comparator behind the counter on, and note a match by level."""
        timer = self.state.timers[number]
        now = self.counter()
        mask = _mask(timer)
        elapsed = now - timer.synced & MASK_64
        distance = timer.comparator - timer.synced & mask or mask + 1
        timer.synced = now
        if distance > elapsed:
            return
        if timer.configuration & T_LEVEL:
            self.state.status |= 1 << number
        period = timer.period & mask
        if timer.configuration & T_PERIODIC and period:
            periods = (elapsed - distance) // period + 1
            timer.comparator = timer.comparator + periods * period & mask

    def _sync_all(self) -> None:
        for number in range(TIMERS):
            self._sync(number)

    # Interrupts.

    def _line(self, number: int) -> IrqLine | None:
        if self.state.configuration & LEGACY and number < 2:
            return self._legacy[number]
        route = (self.state.timers[number].configuration & T_ROUTE) >> T_ROUTE_SHIFT
        return self._pins.get(route)

    def _drive(self, number: int, level: bool) -> None:
        line = self._line(number)
        if line is not None:
            line(level)

    def _rearm(self, number: int) -> None:
        """Queue the next interrupt of a timer. Call with the timer synced."""
        state = self.state
        timer = state.timers[number]
        self._clock.cancel(self._events[number])
        self._events[number] = None
        if not (state.configuration & ENABLE and timer.configuration & T_INTERRUPT):
            return
        mask = _mask(timer)
        ticks = timer.comparator - self.counter() & mask
        # A 64-bit match is for ever away if it has just been missed.
        ticks = ticks or mask + 1
        if ticks > MASK_64 >> 1:
            return
        now_tick = self._clock.now // TICK_NS
        period = timer.period & mask
        if timer.configuration & T_PERIODIC and period:
            earliest = -(-(timer.last_ns + MIN_PERIOD_NS) // TICK_NS)
            if now_tick + ticks < earliest:
                ticks += -(-(earliest - now_tick - ticks) // period) * period
        when = (now_tick + ticks) * TICK_NS
        self._events[number] = self._clock.at(when, self._matches[number])

    def _match(self, number: int) -> None:
        timer = self.state.timers[number]
        self._events[number] = None
        timer.last_ns = self._clock.now
        self._sync(number)
        if not timer.configuration & T_LEVEL:
            self._drive(number, False)
        self._drive(number, True)
        self._rearm(number)

    def _update_levels(self) -> None:
        """Drive the pins of level-triggered timers by their status bits."""
        for number, timer in enumerate(self.state.timers):
            if timer.configuration & T_LEVEL and timer.configuration & T_INTERRUPT:
                self._drive(number, bool(self.state.status >> number & 1))

    # Registers.

    def read(self, offset: int, size: int) -> int:
        """Read any part of a 64-bit register."""
        return self._register(offset & ~7) >> 8 * (offset & 7)

    def _register(self, offset: int) -> int:
        state = self.state
        if offset == CAPABILITIES:
            return CAPABILITIES_VALUE
        if offset == CONFIGURATION:
            return state.configuration
        if offset == COUNTER:
            return self.counter()
        if offset == STATUS:
            self._sync_all()
            return state.status
        number, register = divmod(offset - FIRST_TIMER, TIMER_STRIDE)
        if not 0 <= number < TIMERS:
            return 0
        timer = state.timers[number]
        if register == T_CONFIGURATION:
            return timer.configuration | T_CAPABILITIES
        if register == T_COMPARATOR:
            self._sync(number)
            return timer.comparator & _mask(timer)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a 64-bit register or an aligned half of one; anything else is ignored."""
        if size not in (4, 8) or offset & size - 1:
            self._log(("width", offset, size), "write of %d bytes at %#x", size, offset)
            return
        self._sync_all()
        register, shift = offset & ~7, 8 * (offset & 7)
        mask = (1 << 8 * size) - 1 << shift
        value = value << shift & mask
        state = self.state
        if register == CONFIGURATION:
            self._set_configuration(state.configuration & ~mask | value & (ENABLE | LEGACY))
        elif register == STATUS:
            state.status &= ~value
            self._update_levels()
        elif register == COUNTER:
            self._set_counter(self.counter() & ~mask | value)
        else:
            number, register = divmod(register - FIRST_TIMER, TIMER_STRIDE)
            if 0 <= number < TIMERS and register == T_CONFIGURATION:
                self._configure(number, value, mask)
            elif 0 <= number < TIMERS and register == T_COMPARATOR:
                self._set_comparator(number, value, mask)
            else:
                self._log(offset, "write of %#x to register %#x", value, offset)

    def _set_configuration(self, value: int) -> None:
        state = self.state
        counter = self.counter()
        if (value ^ state.configuration) & LEGACY:
            # Let go of the pins under the old wiring, take them up under the new.
            for number in (0, 1):
                self._drive(number, False)
            state.configuration = value
            for number in (0, 1):
                if not value & LEGACY:
                    self._legacy[number](self._held[number])
        state.configuration = value
        state.base = counter
        if value & ENABLE:
            state.base = counter - self._clock.now // TICK_NS & MASK_64
        for number in range(TIMERS):
            self._rearm(number)
        self._update_levels()

    def _set_counter(self, value: int) -> None:
        """Set the main counter. It should stand; if it runs, it runs on from there."""
        state = self.state
        state.base = value
        if state.configuration & ENABLE:
            state.base = value - self._clock.now // TICK_NS & MASK_64
        for number, timer in enumerate(state.timers):
            timer.synced = value
            self._rearm(number)

    def _configure(self, number: int, value: int, mask: int) -> None:
        timer = self.state.timers[number]
        mask &= T_WRITABLE
        configuration = timer.configuration & ~mask | value & mask
        changed = configuration ^ timer.configuration
        if changed & (T_ROUTE | T_INTERRUPT | T_LEVEL):
            self._drive(number, False)
        timer.configuration = configuration
        if configuration & T_32_BIT:
            timer.comparator &= MASK_32
            timer.period &= MASK_32
        if changed & T_LEVEL and not configuration & T_LEVEL:
            self.state.status &= ~(1 << number)
        self._rearm(number)
        self._update_levels()

    def _set_comparator(self, number: int, value: int, mask: int) -> None:
        """Write the comparator; of a periodic timer that is the period, and the comparator too
        only once after T_SET_VALUE (2.3.9.2.2)."""
        timer = self.state.timers[number]
        periodic = bool(timer.configuration & T_PERIODIC)
        low_half = bool(mask & 1)
        if (
            not periodic
            or timer.configuration & T_SET_VALUE
            or (timer.high_half_next and not low_half)
        ):
            timer.comparator = (timer.comparator & ~mask | value) & _mask(timer)
        # A 64-bit store may come as two halves, low one first: both belong to the set value.
        timer.high_half_next = bool(timer.configuration & T_SET_VALUE) and mask == MASK_32
        timer.configuration &= ~T_SET_VALUE
        if periodic:
            timer.period = (timer.period & ~mask | value) & _mask(timer)
        self._rearm(number)


def _mask(timer: TimerState) -> int:
    return MASK_32 if timer.configuration & T_32_BIT else MASK_64
