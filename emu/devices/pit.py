# SPDX-License-Identifier: GPL-2.0-or-later
"""The 8254 interval timer (Intel 82C54 data sheet, order number 231244).

Nothing ticks here. A counter is the number that was loaded and the tick at which it was: what it
reads and what its OUT pin shows follow by arithmetic, for each of the six modes. The one event in
the clock's queue is the next rising edge of counter 0, which is IRQ 0; counter 2 is gated and read
through port 0x61.

The IRQ line is drawn with its rising edges only: it falls just before it rises, and not in the
middle of a mode 3 period, so that an 8259 keeps the request as long as QEMU's does. Edges closer
than `MIN_PERIOD_NS` are merged; counters and OUT are exact nevertheless.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emu.clock import MIN_PERIOD_NS, PIT_RATE, Clock, Event, EventState, next_expiry
from emu.ports import IrqLine
from emu.savable import Savable, State

__all__ = ["Pit"]

BASE = 0x40
CONTROL = 3

# Control word (data sheet figure 7): SC1 SC0 RW1 RW0 M2 M1 M0 BCD.
SELECT_SHIFT = 6
READ_BACK = 3
RW_SHIFT = 4
RW_LATCH, RW_LOW, RW_HIGH, RW_BOTH = range(4)
MODE_SHIFT = 1
BCD = 1 << 0
# Read-back command (figure 10); both are active low.
READ_BACK_NO_COUNT = 1 << 5
READ_BACK_NO_STATUS = 1 << 4
# Status byte (figure 11).
STATUS_OUT = 1 << 7
STATUS_NULL_COUNT = 1 << 6

# Modes by number, as the data sheet has them.
TERMINAL_COUNT, ONE_SHOT, RATE_GENERATOR, SQUARE_WAVE, SOFTWARE_STROBE, HARDWARE_STROBE = range(6)
PERIODIC = (RATE_GENERATOR, SQUARE_WAVE)
TRIGGERED = (ONE_SHOT, HARDWARE_STROBE)


@dataclass(slots=True)
class CounterState:
    """One counter. Ticks are PIT ticks since power-on."""

    mode: int = SQUARE_WAVE
    access: int = RW_BOTH
    bcd: bool = False
    gate: bool = True
    count: int | None = None  # the count register, 1 to 0x10000; None: none written yet
    null_count: bool = True  # the count register is not in the counting element yet
    low_byte: int | None = None  # the first half of a two-byte write
    read_high: bool = False  # an unlatched two-byte read is half way
    latch: list[int] = field(default_factory=list)  # bytes of a latched count, next one first
    latched_status: int | None = None
    loaded: int | None = None  # what the counting element started from
    start: int = 0  # the tick at which it held `loaded`
    stopped: int | None = (
        None  # how many ticks it had counted when it was stopped, or None: it runs
    )
    switch: int | None = None  # the tick at which `count` will be loaded
    switch_low: bool = False  # mode 3: that load starts the low half of a period


class Counter:
    """One of the three counters. Every method takes the present tick."""

    def __init__(self, gate: bool) -> None:
        """Start without a count, OUT high, and `gate` on the GATE pin."""
        self.state = CounterState(gate=gate)

    # The counting element.

    def _sync(self, tick: int) -> None:
        """Do the load that has come due."""
        state = self.state
        if state.switch is None or tick < state.switch or state.count is None:
            return
        state.loaded = state.count
        state.start = state.switch
        if state.switch_low:
            state.start -= _high_half(state.loaded)
        state.stopped = None if state.gate or state.mode in TRIGGERED else 0
        state.switch = None
        state.switch_low = False
        state.null_count = False

    def _elapsed(self, tick: int) -> int:
        state = self.state
        return tick - state.start if state.stopped is None else state.stopped

    def value(self, tick: int) -> int:
        """Return what the counting element holds, as a two-byte read shows it."""
        self._sync(tick)
        state = self.state
        if state.loaded is None:
            return 0
        loaded, elapsed = state.loaded, self._elapsed(tick)
        if state.mode == RATE_GENERATOR:
            value = loaded - elapsed % loaded
        elif state.mode == SQUARE_WAVE:
            # Counts by two, from the next even number down, once in each half.
            elapsed %= loaded
            half = _high_half(loaded)
            value = (loaded & ~1) - 2 * (elapsed if elapsed < half else elapsed - half)
        else:
            value = loaded - elapsed
        if not state.bcd:
            return value & 0xFFFF
        value %= 10_000
        return value // 1000 << 12 | value // 100 % 10 << 8 | value // 10 % 10 << 4 | value % 10

    def out(self, tick: int) -> bool:
        """Return the level of the OUT pin."""
        self._sync(tick)
        state = self.state
        mode, loaded = state.mode, state.loaded
        if loaded is None:
            return mode != TERMINAL_COUNT
        elapsed = self._elapsed(tick)
        if mode == TERMINAL_COUNT:
            return state.switch is None and not self._half_written() and elapsed >= loaded
        if mode == ONE_SHOT:
            return elapsed >= loaded
        if mode in PERIODIC:
            # A count of 1 is illegal (data sheet, "Mode 2"); it gives no wave.
            if state.stopped is not None or loaded == 1:
                return True
            phase = elapsed % loaded
            return phase != loaded - 1 if mode == RATE_GENERATOR else phase < _high_half(loaded)
        return elapsed != loaded

    def next_rise(self, tick: int, not_before: int) -> int | None:
        """Return the tick of the next rising edge of OUT after `tick`, or None. Of a periodic
        wave, the first one at or after `not_before`."""
        self._sync(tick)
        state = self.state
        mode, count, loaded = state.mode, state.count, state.loaded
        if count is None or mode in TRIGGERED:
            return None
        if mode in PERIODIC:
            if state.switch is not None:
                if count == 1:
                    return None
                if state.switch_low:
                    return state.switch + count - _high_half(count)
                wave = loaded is not None and loaded > 1 and state.stopped is None
                return state.switch if wave else state.switch + count
            if loaded is None or loaded == 1 or state.stopped is not None:
                return None
            return next_expiry(state.start + loaded, loaded, max(tick, not_before - 1))
        # OUT is high `count` ticks after the load; the strobe of mode 4 is low for one more.
        late = int(mode == SOFTWARE_STROBE)
        if state.switch is not None:
            if late and not self.out(tick):
                return state.switch  # a load ends the strobe
            return state.switch + count + late if state.gate else None
        if loaded is None or state.stopped is not None:
            return None
        rise = state.start + loaded + late
        return rise if rise > tick else None

    def _half_written(self) -> bool:
        """Return whether mode 0 waits for the second byte: counting disabled, OUT low."""
        return self.state.mode == TERMINAL_COUNT and self.state.low_byte is not None

    def set_gate(self, level: bool, tick: int) -> None:
        """Drive the GATE pin (data sheet figure 21, "Gate Pin Operations Summary")."""
        self._sync(tick)
        state = self.state
        if level == state.gate:
            return
        state.gate = level
        if state.mode in TRIGGERED or (level and state.mode in PERIODIC):
            if level and state.count is not None:
                state.switch, state.switch_low = tick + 1, False
        elif not level:
            state.stopped = self._elapsed(tick)
            if state.mode in PERIODIC and state.loaded is not None:
                state.switch = None
        elif state.stopped is not None and not self._half_written():
            state.start, state.stopped = tick - state.stopped, None

    # The bus side.

    def set_mode(self, value: int) -> None:
        """Take a control word for this counter."""
        gate = self.state.gate
        mode = value >> MODE_SHIFT & 7
        self.state = CounterState(
            mode=mode & 3 if mode > HARDWARE_STROBE else mode,  # the third bit of 2 and 3 is free
            access=value >> RW_SHIFT & 3,
            bcd=bool(value & BCD),
            gate=gate,
        )

    def write(self, value: int, tick: int) -> None:
        """Take one byte of a count."""
        self._sync(tick)
        state = self.state
        if state.access == RW_LOW:
            self._write_count(value, tick)
        elif state.access == RW_HIGH:
            self._write_count(value << 8, tick)
        elif state.low_byte is None:
            state.low_byte = value
            if state.mode == TERMINAL_COUNT:
                # "Writing the first byte disables counting. OUT is set low immediately."
                state.stopped = self._elapsed(tick)
                state.switch = None
        else:
            low, state.low_byte = state.low_byte, None
            self._write_count(value << 8 | low, tick)

    def _write_count(self, value: int, tick: int) -> None:
        state = self.state
        if state.bcd:
            value = sum((value >> 4 * n & 0xF) * 10**n for n in range(4))
            state.count = value or 10_000
        else:
            state.count = value or 0x1_0000
        state.null_count = True
        if state.mode in TRIGGERED:
            return
        loaded = state.loaded
        if state.mode not in PERIODIC or loaded is None:
            state.switch, state.switch_low = tick + 1, False
        elif state.stopped is None and state.switch is None:
            # The present period (mode 3: half period) is finished first.
            phase = self._elapsed(tick) % loaded
            half = _high_half(loaded)
            to_low = state.mode == SQUARE_WAVE and phase < half and loaded > 1
            state.switch = tick - phase + (half if to_low else loaded)
            state.switch_low = to_low

    def latch_count(self, tick: int) -> None:
        """Freeze the count for the next read; a second latch before that does nothing."""
        state = self.state
        if state.latch:
            return
        value = self.value(tick)
        low, high = value & 0xFF, value >> 8
        if state.access == RW_LOW:
            state.latch = [low]
        elif state.access == RW_HIGH:
            state.latch = [high]
        else:
            state.latch = [high, low] if state.read_high else [low, high]

    def latch_status(self, tick: int) -> None:
        """Freeze the status byte for the next read."""
        state = self.state
        if state.latched_status is None:
            status = state.access << RW_SHIFT | state.mode << MODE_SHIFT | int(state.bcd)
            if self.out(tick):
                status |= STATUS_OUT
            if state.null_count:
                status |= STATUS_NULL_COUNT
            state.latched_status = status

    def read(self, tick: int) -> int:
        """Return the latched status, the latched count, or the count as it is."""
        state = self.state
        if state.latched_status is not None:
            status, state.latched_status = state.latched_status, None
            return status
        if state.latch:
            return state.latch.pop(0)
        value = self.value(tick)
        if state.access == RW_LOW:
            return value & 0xFF
        if state.access == RW_HIGH:
            return value >> 8
        state.read_high = not state.read_high
        return value & 0xFF if state.read_high else value >> 8


class Pit(Savable):
    """The chip: ports 0x40 to 0x43, byte-wide."""

    def __init__(self, clock: Clock, irq: IrqLine) -> None:
        """Drive `irq` (IRQ 0) with OUT of counter 0. The gates of 0 and 1 are tied high."""
        self._clock = clock
        self._irq = irq
        self._event: Event | None = None
        self._level = True  # of OUT 0, which needs a mode before it can fall
        self.counters = [Counter(gate=True), Counter(gate=True), Counter(gate=False)]

    def reset(self) -> None:
        """Forget all counts. (The chip has no reset pin; a machine reset comes with new power.)"""
        for counter in self.counters:
            counter.state = CounterState(gate=counter.state.gate)
        self._rearm()

    def save(self) -> State:
        """Return the counters, OUT 0 as IRQ 0 has it, and the next edge."""
        return self._make_state(
            counters=[counter.state for counter in self.counters],
            level=self._level,
            event=self._clock.save_event(self._event),
        )

    def load(self, state: State) -> None:
        """Take a saved state."""
        counters, level, event = self._parts_of(
            state,
            counters=tuple[CounterState, CounterState, CounterState],
            level=bool,
            event=EventState,
        )
        self._event = self._clock.load_event(event, self._rise)
        self._level = level
        for counter, registers in zip(self.counters, counters, strict=True):
            counter.state = registers

    def tick(self) -> int:
        """Return how many times the chip's CLK has ticked since power-on."""
        return PIT_RATE.ticks(self._clock.now)

    def out(self, counter: int) -> bool:
        """Return the OUT pin of a counter."""
        return self.counters[counter].out(self.tick())

    def set_gate(self, counter: int, level: bool) -> None:
        """Drive the GATE pin of a counter. The board has wired that of counter 2 only."""
        self.counters[counter].set_gate(level, self.tick())
        if counter == 0:
            self._update()

    def read(self, port: int, size: int) -> int:
        """Read a counter; the control word cannot be read."""
        register = port - BASE & 3
        return 0xFF if register == CONTROL else self.counters[register].read(self.tick())

    def write(self, port: int, size: int, value: int) -> None:
        """Write a count or a control word."""
        register = port - BASE & 3
        if register != CONTROL:
            self.counters[register].write(value, self.tick())
            if register == 0:
                self._update()
        elif value >> SELECT_SHIFT == READ_BACK:
            self._read_back(value)
        elif value >> RW_SHIFT & 3 == RW_LATCH:
            self.counters[value >> SELECT_SHIFT].latch_count(self.tick())
        else:
            self.counters[value >> SELECT_SHIFT].set_mode(value)
            if value >> SELECT_SHIFT == 0:
                self._update()

    def _read_back(self, value: int) -> None:
        tick = self.tick()
        for number, counter in enumerate(self.counters):
            if value >> number + 1 & 1:
                if not value & READ_BACK_NO_COUNT:
                    counter.latch_count(tick)
                if not value & READ_BACK_NO_STATUS:
                    counter.latch_status(tick)

    def _update(self) -> None:
        """Bring IRQ 0 and its next edge in line with counter 0, which was written."""
        counter = self.counters[0]
        if counter.state.mode not in PERIODIC or counter.state.loaded is None:
            level = counter.out(self.tick())
            if level != self._level:
                self._level = level
                self._irq(level)
        self._rearm()

    def _rearm(self, not_before: int = 0) -> None:
        self._clock.cancel(self._event)
        rise = self.counters[0].next_rise(self.tick(), not_before)
        self._event = None if rise is None else self._clock.at(PIT_RATE.ns(rise), self._rise)

    def _rise(self) -> None:
        self._level = True
        self._irq(False)
        self._irq(True)
        self._rearm(PIT_RATE.ticks(self._clock.now + MIN_PERIOD_NS - 1) + 1)


def _high_half(count: int) -> int:
    """How many ticks of a mode 3 period OUT is high: the longer half."""
    return (count + 1) // 2
