# SPDX-License-Identifier: GPL-2.0-or-later
"""The real-time clock and its battery-backed memory (Motorola MC146818A data sheet, ADI-856).

Time is a number of seconds and the 32.768 kHz tick at which it became that; the date is worked out
when it is read, from the virtual clock only. The flags of register C are worked out too, from what
has passed since they were last looked at, so that events are queued for enabled interrupts only,
and none while IRQ 8 is up already.

The memory holds the sizes that firmware would have left there, as QEMU lays them out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emu.clock import RTC_RATE, Clock, Event, EventState, next_expiry
from emu.ports import IrqLine
from emu.savable import Savable, State

__all__ = ["DEFAULT_START", "Cmos"]

INDEX_PORT = 0x70
NMI_MASK = 1 << 7
SIZE = 128
SHUTDOWN = 0x0F  # why the processor was reset, for firmware to know

# Address map (data sheet figure 14); the century is where IBM's and everyone's firmware has it.
SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = range(6)
DAY_OF_WEEK, DAY_OF_MONTH, MONTH, YEAR = range(6, 10)
REG_A, REG_B, REG_C, REG_D = range(10, 14)
CENTURY = 0x32
TIME = (SECONDS, MINUTES, HOURS, DAY_OF_WEEK, DAY_OF_MONTH, MONTH, YEAR, CENTURY)

A_UPDATE_IN_PROGRESS = 1 << 7
A_DIVIDER = 7 << 4
A_DIVIDER_RUNS = 2 << 4  # a 32.768 kHz crystal; whatever else is chosen holds the chain
A_RATE = 0x0F
A_RESET = 0x26

B_SET = 1 << 7
B_PERIODIC = 1 << 6
B_ALARM = 1 << 5
B_UPDATE = 1 << 4
B_SQUARE_WAVE = 1 << 3
B_BINARY = 1 << 2
B_24_HOURS = 1 << 1
B_ENABLES = B_PERIODIC | B_ALARM | B_UPDATE  # the flags of register C have the same places

C_IRQ = 1 << 7
D_VALID = 1 << 7
PM = 1 << 7
DONT_CARE = 0xC0

TICKS_PER_SECOND = 32_768
# UIP rises 244 us before the update cycle, which takes 1984 us (data sheet table 6).
UPDATE_TICKS = 73

# 2026-01-01 00:00:00 UTC, in seconds since 1970: any fixed moment would do.
DEFAULT_START = 1_767_225_600
SECONDS_PER_DAY = 86_400

KIB, MIB = 1 << 10, 1 << 20


@dataclass(slots=True)
class CmosState:
    """What the battery keeps."""

    seconds: int  # since 1970, as of `tick`
    tick: int = 0
    day_offset: int = 0  # by how much the guest has set the day of the week off
    held: dict[int, int] | None = None  # the time registers while B.SET is 1
    index: int = 0
    a: int = A_RESET
    b: int = B_24_HOURS
    flags: int = 0
    synced: int = 0  # the tick up to which `flags` is complete
    ram: bytearray = field(default_factory=lambda: bytearray(SIZE))


class Cmos(Savable):
    """Ports 0x70 (index, and NMI mask) and 0x71 (data), byte-wide."""

    def __init__(
        self,
        clock: Clock,
        irq: IrqLine,
        *,
        ram_below_4g: int,
        ram_above_4g: int = 0,
        cpus: int = 1,
        start: int = DEFAULT_START,
    ) -> None:
        """Raise `irq` (IRQ 8). Memory sizes are in bytes; `start` is the time at power-on, in
        seconds since 1970, UTC."""
        self._clock = clock
        self._irq = irq
        self._event: Event | None = None
        self.nmi_masked = False
        """Whether the guest has masked NMI through bit 7 of the index port."""
        self.state = CmosState(seconds=start)
        _lay_out(self.state.ram, ram_below_4g, ram_above_4g, cpus)

    def reset(self) -> None:
        """Pull the RESET pin: interrupts off; time and memory stay."""
        self._sync()
        self.state.b &= ~(B_ENABLES | B_SQUARE_WAVE)
        self.state.flags = 0
        self.nmi_masked = False
        self._rearm()

    def save(self) -> State:
        """Return what the battery keeps, the NMI mask, and when IRQ 8 may rise next."""
        return self._make_state(
            registers=self.state,
            nmi_masked=self.nmi_masked,
            event=self._clock.save_event(self._event),
        )

    def load(self, state: State) -> None:
        """Take a saved state."""
        registers, nmi_masked, event = self._parts_of(
            state, registers=CmosState, nmi_masked=bool, event=EventState
        )
        self._event = self._clock.load_event(event, self._fire)
        self.state, self.nmi_masked = registers, nmi_masked

    @property
    def shutdown_code(self) -> int:
        """What a program has left for the firmware to find after a reset."""
        return self.state.ram[SHUTDOWN]

    def read(self, port: int, size: int) -> int:
        """Read the chosen register. The index port cannot be read."""
        if port == INDEX_PORT:
            return 0xFF
        state = self.state
        index = state.index
        if index in TIME:
            return self._time_registers()[index]
        if index == REG_A:
            return state.a | (A_UPDATE_IN_PROGRESS if self._update_in_progress() else 0)
        if index == REG_B:
            return state.b
        if index == REG_C:
            self._sync()
            value = state.flags | (C_IRQ if state.flags & state.b & B_ENABLES else 0)
            state.flags = 0
            self._rearm()
            return value
        return D_VALID if index == REG_D else state.ram[index]

    def write(self, port: int, size: int, value: int) -> None:
        """Choose a register, or write the chosen one."""
        state = self.state
        if port == INDEX_PORT:
            state.index = value & ~NMI_MASK
            self.nmi_masked = bool(value & NMI_MASK)
            return
        index = state.index
        self._sync()
        if index in TIME:
            self._write_time(index, value)
        elif index == REG_A:
            self._write_a(value)
        elif index == REG_B:
            self._write_b(value)
        elif index not in (REG_C, REG_D):
            state.ram[index] = value
        self._rearm()

    # Time.

    def _tick(self) -> int:
        return RTC_RATE.ticks(self._clock.now)

    def _running(self) -> bool:
        return self.state.a & A_DIVIDER == A_DIVIDER_RUNS

    def _seconds(self, tick: int) -> int:
        state = self.state
        if not self._running():
            return state.seconds
        return state.seconds + (tick - state.tick) // TICKS_PER_SECOND

    def _update_in_progress(self) -> bool:
        if self.state.held is not None or not self._running():
            return False
        phase = (self._tick() - self.state.tick) % TICKS_PER_SECOND
        return phase >= TICKS_PER_SECOND - UPDATE_TICKS

    def _time_registers(self) -> dict[int, int]:
        """Return the time registers as the guest sees them."""
        state = self.state
        if state.held is not None:
            return state.held
        days, second = divmod(self._seconds(self._tick()), SECONDS_PER_DAY)
        year, month, day = _civil_from_days(days)
        week_day = (days + 4 + state.day_offset) % 7 + 1  # 1970-01-01 was a Thursday; Sunday is 1
        return {
            SECONDS: self._encode(second % 60),
            MINUTES: self._encode(second // 60 % 60),
            HOURS: self._encode_hour(second // 3600),
            DAY_OF_WEEK: self._encode(week_day),
            DAY_OF_MONTH: self._encode(day),
            MONTH: self._encode(month),
            YEAR: self._encode(year % 100),
            CENTURY: self._encode(year // 100 % 100),
        }

    def _set_time(self, registers: dict[int, int]) -> None:
        """Make these the time; fields out of range are cut to it. The divider goes on."""
        state = self.state
        hour = registers[HOURS]
        if state.b & B_24_HOURS:
            hour = self._decode(hour, 0, 23)
        else:
            hour = self._decode(hour & ~PM, 1, 12) % 12 + (12 if hour & PM else 0)
        year = 100 * self._decode(registers[CENTURY], 0, 99) + self._decode(registers[YEAR], 0, 99)
        month = self._decode(registers[MONTH], 1, 12)
        day = self._decode(registers[DAY_OF_MONTH], 1, 31)
        days = _days_from_civil(year, month, day)
        minutes = 60 * hour + self._decode(registers[MINUTES], 0, 59)
        week_day = self._decode(registers[DAY_OF_WEEK], 1, 7)
        tick = self._tick()
        state.seconds = days * SECONDS_PER_DAY + 60 * minutes
        state.seconds += self._decode(registers[SECONDS], 0, 59)
        state.tick = tick - (tick - state.tick) % TICKS_PER_SECOND
        state.day_offset = (week_day - 1 - days - 4) % 7

    def _write_time(self, index: int, value: int) -> None:
        registers = self._time_registers()
        registers[index] = value
        if self.state.held is None:
            self._set_time(registers)

    def _encode(self, value: int) -> int:
        return value if self.state.b & B_BINARY else value // 10 << 4 | value % 10

    def _encode_hour(self, hour: int) -> int:
        if self.state.b & B_24_HOURS:
            return self._encode(hour)
        return self._encode(hour % 12 or 12) | (PM if hour >= 12 else 0)

    def _decode(self, value: int, low: int, high: int) -> int:
        if not self.state.b & B_BINARY:
            value = (value >> 4) * 10 + (value & 0xF)
        return min(max(value, low), high)

    # Control.

    def _write_a(self, value: int) -> None:
        state = self.state
        tick = self._tick()
        was_running, state.seconds = self._running(), self._seconds(tick)
        if was_running:
            state.tick = tick - (tick - state.tick) % TICKS_PER_SECOND
        state.a = value & ~A_UPDATE_IN_PROGRESS
        if self._running() and not was_running:
            # The first update comes half a second after the divider is let go.
            state.tick = tick - TICKS_PER_SECOND // 2

    def _write_b(self, value: int) -> None:
        state = self.state
        if value & B_SET:
            if state.held is None:
                state.held = self._time_registers()
            value &= ~B_UPDATE
        state.b = value
        if not value & B_SET and state.held is not None:
            held, state.held = state.held, None
            self._set_time(held)

    # Flags and interrupts.

    def _period(self) -> int:
        """Return the ticks between two periodic interrupts, 0 for none (data sheet table 5)."""
        rate = self.state.a & A_RATE
        if not rate or not self._running():
            return 0
        return 1 << (rate + 6 if rate <= 2 else rate - 1)

    def _sync(self) -> None:
        """Set the flags of what has happened since the last call."""
        state = self.state
        tick, since = self._tick(), state.synced
        state.synced = tick
        period = self._period()
        if period and (tick - state.tick) // period > (since - state.tick) // period:
            state.flags |= B_PERIODIC
        if state.held is None:
            before, now = self._seconds(since), self._seconds(tick)
            if now > before:
                state.flags |= B_UPDATE
                alarm = self._next_alarm(before)
                if alarm is not None and alarm <= now:
                    state.flags |= B_ALARM

    def _next_alarm(self, after: int) -> int | None:
        """Return the first second later than `after` that the alarm registers match, or None."""
        ram = self.state.ram
        hours = _matches(ram[HOURS_ALARM], [self._encode_hour(n) for n in range(24)])
        sixty = [self._encode(n) for n in range(60)]
        minutes = _matches(ram[MINUTES_ALARM], sixty)
        seconds = _matches(ram[SECONDS_ALARM], sixty)
        if not (hours and minutes and seconds):
            return None
        after += 1
        day, rest = divmod(after, SECONDS_PER_DAY)
        # From this second on, or else from the next minute, hour or day on.
        hour, minute, second = rest // 3600, rest // 60 % 60, rest % 60
        found = _first(seconds, second) if hour in hours and minute in minutes else None
        if found is None:
            found = seconds[0]
            next_minute = _first(minutes, minute + 1) if hour in hours else None
            if next_minute is None:
                minute = minutes[0]
                next_hour = _first(hours, hour + 1)
                day += next_hour is None
                hour = hours[0] if next_hour is None else next_hour
            else:
                minute = next_minute
        return day * SECONDS_PER_DAY + 3600 * hour + 60 * minute + found

    def _rearm(self) -> None:
        """Drive IRQ 8 and queue what will raise it next."""
        state = self.state
        active = bool(state.flags & state.b & B_ENABLES)
        self._irq(active)
        self._clock.cancel(self._event)
        self._event = None
        if active or not self._running():
            return
        tick = self._tick()
        due: list[int] = []
        period = self._period()
        if period and state.b & B_PERIODIC:
            due.append(next_expiry(state.tick, period, tick))
        if state.held is None:
            second = self._seconds(tick)
            if state.b & B_UPDATE:
                due.append(self._second_tick(second + 1))
            if state.b & B_ALARM and (alarm := self._next_alarm(second)) is not None:
                due.append(self._second_tick(alarm))
        if due:
            self._event = self._clock.at(RTC_RATE.ns(min(due)), self._fire)

    def _second_tick(self, second: int) -> int:
        return self.state.tick + (second - self.state.seconds) * TICKS_PER_SECOND

    def _fire(self) -> None:
        self._sync()
        self._rearm()


def _matches(alarm: int, encoded: list[int]) -> list[int]:
    """Return the values that an alarm register matches (data sheet, "Alarm Locations")."""
    if alarm & DONT_CARE == DONT_CARE:
        return list(range(len(encoded)))
    return [value for value, code in enumerate(encoded) if code == alarm]


def _first(values: list[int], at_least: int) -> int | None:
    return next((value for value in values if value >= at_least), None)


def _lay_out(ram: bytearray, below_4g: int, above_4g: int, cpus: int) -> None:
    """Write what firmware finds by sizing memory, each size in its unit and cut to its field."""

    def put(index: int, size: int, value: int) -> None:
        value = min(max(value, 0), (1 << 8 * size) - 1)
        ram[index : index + size] = value.to_bytes(size, "little")

    ram[0x14] = 0x06  # equipment: coprocessor, PS/2 pointing port, VGA, no floppy
    put(0x15, 2, min(below_4g // KIB, 640))
    put(0x17, 2, (below_4g - MIB) // KIB)
    put(0x30, 2, (below_4g - MIB) // KIB)
    put(0x34, 2, (below_4g - 16 * MIB) // (64 * KIB))
    put(0x5B, 3, above_4g // (64 * KIB))
    put(0x5F, 1, cpus - 1)
    checksum = sum(ram[0x10:0x2E])
    ram[0x2E], ram[0x2F] = checksum >> 8 & 0xFF, checksum & 0xFF


# The proleptic Gregorian calendar by arithmetic, for any year: years begin in March, so that the
# leap day is their last, and come in eras of 400.
_DAYS_PER_ERA = 146_097
_MARCH_0000_TO_1970 = 719_468


def _days_from_civil(year: int, month: int, day: int) -> int:
    """Return the days from 1970-01-01 to a date."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    days = 365 * of_era + of_era // 4 - of_era // 100 + of_year
    return era * _DAYS_PER_ERA + days - _MARCH_0000_TO_1970


def _civil_from_days(days: int) -> tuple[int, int, int]:
    """Return the year, month and day that is so many days after 1970-01-01."""
    era, days = divmod(days + _MARCH_0000_TO_1970, _DAYS_PER_ERA)
    of_era = (days - days // 1460 + days // 36_524 - days // 146_096) // 365
    of_year = days - (365 * of_era + of_era // 4 - of_era // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    return 400 * era + of_era + (month <= 2), month, day
