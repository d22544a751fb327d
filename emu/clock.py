# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual time: one clock under every timer of the machine, and the queue of what is to happen.

The unit is the virtual nanosecond, counted from power-on in a Python int; nothing here looks at the
host's clock, so that a run repeats itself exactly. The scheduler advances time by what the vCPUs
execute (`NS_PER_INSN` each) or, when all of them are halted, straight to the next event.

No timer ticks. A chip that counts asks `Clock.now` when somebody reads the count, converts it by a
`Rate`, and puts an `Event` into the queue only for the moment at which a pin changes. The rates of
the board's chips stand here side by side because they must agree: the PIT and the ACPI timer are
divided from one crystal, so that one PIT tick is three ACPI ticks exactly, as on a real board.

A saved clock is the time and the rank that the next event gets. Each pending event is saved by the
chip that waits for it, as time and rank, and comes back with both: events of one moment keep their
order.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from emu.errors import StateError
from emu.savable import Savable, State

__all__ = [
    "MIN_PERIOD_NS",
    "NS_PER_INSN",
    "NS_PER_SECOND",
    "PIT_RATE",
    "PM_TIMER_RATE",
    "RTC_RATE",
    "TSC_RATE",
    "Clock",
    "Event",
    "EventState",
    "Rate",
    "next_expiry",
]

NS_PER_SECOND = 1_000_000_000

# What one instruction costs. The TSC runs at 1 GHz, so that TSC == Clock.now.
NS_PER_INSN = 10

# A periodic timer raises its pin at most once in this time, whatever period the guest asked for:
# at 1,000 instructions an interrupt, a handler still gets somewhere and the host is not drowned.
# Edges in between are lost, as they are in a masked 8259. What the counters *read* is not affected.
MIN_PERIOD_NS = 10_000


class Rate(NamedTuple):
    """A frequency in Hz as the exact fraction `num / den`.

    >>> PIT_RATE.ticks(NS_PER_SECOND), PM_TIMER_RATE.ticks(NS_PER_SECOND)
    (1193181, 3579545)
    """

    num: int
    den: int = 1

    def ticks(self, ns: int) -> int:
        """Return how many whole periods `ns` holds."""
        return ns * self.num // (self.den * NS_PER_SECOND)

    def ns(self, ticks: int) -> int:
        """Return the first nanosecond at which `ticks` periods are over: never early."""
        return -(-ticks * self.den * NS_PER_SECOND // self.num)


# The 14.31818 MHz crystal that every PC since the 5150 divides.
_CRYSTAL_HZ = 14_318_180
PIT_RATE = Rate(_CRYSTAL_HZ, 12)
PM_TIMER_RATE = Rate(_CRYSTAL_HZ, 4)
# The watch crystal of the RTC is a crystal of its own on every board.
RTC_RATE = Rate(32_768)
TSC_RATE = Rate(NS_PER_SECOND)


def next_expiry(start: int, period: int, after: int) -> int:
    """Return the first of `start`, `start + period`, `start + 2 * period`... later than `after`.

    >>> next_expiry(100, 30, 99), next_expiry(100, 30, 100), next_expiry(100, 30, 171)
    (100, 130, 190)
    """
    return start if start > after else start + ((after - start) // period + 1) * period


class Event:
    """Something that will happen at `when` (virtual ns) unless cancelled; made by `Clock.at`."""

    __slots__ = ("_sequence", "callback", "when")

    def __init__(self, when: int, sequence: int, callback: Callable[[], None]) -> None:
        """Make an event that is in no queue yet."""
        self.when = when
        self._sequence = sequence
        self.callback: Callable[[], None] | None = callback

    def __lt__(self, other: Event) -> bool:
        """Order by time, then by insertion: two runs of one kernel see one order."""
        return (self.when, self._sequence) < (other.when, other._sequence)

    @property
    def sequence(self) -> int:
        """How many events had been put into the queue before this one: its rank."""
        return self._sequence


EventState = tuple[int, int] | None
"""A saved event: when it is due (virtual ns) and its rank, or None if nothing is awaited."""


class Clock(Savable):
    """The virtual clock and its event queue.

    >>> clock = Clock()
    >>> event = clock.at(100, lambda: print("a hundred"))
    >>> clock.next_event
    100
    >>> clock.run_due(250)
    a hundred
    >>> clock.now, clock.next_event
    (250, None)
    """

    __slots__ = ("_cancelled", "_inserted", "_missing", "_queue", "_time", "on_earlier", "progress")

    def __init__(self) -> None:
        """Start at power-on, with nothing awaited."""
        self._time = 0
        self._queue: list[Event] = []
        self._inserted = 0
        self._cancelled = 0  # events in the queue that will not happen
        # While a machine is saved or loaded: the events that no chip has saved or put back yet.
        self._missing: set[tuple[int, int]] = set()
        self.progress: Callable[[], int] = _nothing
        """How many ns the running slice has advanced since `run_due` was last called; set by the
        scheduler, and 0 whenever it calls `run_due`. Must not go backwards."""
        self.on_earlier: Callable[[], None] = _nothing_to_do
        """Called when `at` puts an event before all others: a slice that was to run beyond it must
        be cut short."""

    @property
    def now(self) -> int:
        """Virtual ns since power-on, what the running slice has executed included."""
        return self._time + self.progress()

    def at(self, when: int, callback: Callable[[], None]) -> Event:
        """Have `callback` called at `when` (ns; the past means: as soon as possible). O(log n).

        The callback finds `now` at or after `when`, since time passes in whole instructions. One
        that repeats itself must ask for a time later than `now` (see `next_expiry`).
        """
        event = Event(when, self._inserted, callback)
        self._inserted += 1
        earliest = self.next_event
        heappush(self._queue, event)
        if earliest is None or when < earliest:
            self.on_earlier()
        return event

    def cancel(self, event: Event | None) -> None:
        """Take an event back. One that has happened, was cancelled, or is None is left alone."""
        if event is None or event.callback is None:
            return
        event.callback = None
        self._cancelled += 1
        # A guest that keeps setting a far timer must not fill the host's memory.
        if self._cancelled > 64 and 2 * self._cancelled > len(self._queue):
            self._queue[:] = [event for event in self._queue if event.callback is not None]
            heapify(self._queue)
            self._cancelled = 0

    @property
    def next_event(self) -> int | None:
        """When the next event is due (ns), or None when nothing is awaited."""
        queue = self._queue
        while queue and queue[0].callback is None:
            heappop(queue)
            self._cancelled -= 1
        return queue[0].when if queue else None

    def run_due(self, now: int) -> None:
        """Make `now` the time and call, in order of time and insertion, everything due by then.

        What the callbacks themselves add waits for the next call even when it is due already, so
        that this always ends. Raises ValueError if time would run backwards.
        """
        if now < self._time:
            raise ValueError(f"time would run backwards, from {self._time} to {now} ns")
        self._time = now
        limit = self._inserted
        late: list[Event] = []
        queue = self._queue
        while queue and queue[0].when <= now:
            event = heappop(queue)
            callback = event.callback
            if callback is None:
                self._cancelled -= 1
                continue
            if event.sequence >= limit:
                late.append(event)
                continue
            event.callback = None
            callback()
        for event in late:
            heappush(queue, event)

    # Saving.

    def save(self) -> State:
        """Return time, rank of the next event, and the events that the chips have to save: after
        this, until `check_events`."""
        pending = sorted((e.when, e.sequence) for e in self._queue if e.callback is not None)
        self._missing = set(pending)
        return self._make_state(time=self._time, inserted=self._inserted, events=pending)

    def load(self, state: State) -> None:
        """Set the time, forwards or back, and empty the queue. The chips, loaded after this, put
        their events back; `check_events` then says whether all have."""
        time, inserted, events = self._parts_of(
            state, time=int, inserted=int, events=list[tuple[int, int]]
        )
        self._time, self._inserted = time, inserted
        self._queue.clear()
        self._cancelled = 0
        self._missing = set(events)

    def save_event(self, event: Event | None) -> EventState:
        """Return what `load_event` puts back. None for an event that is no longer pending."""
        if event is None or event.callback is None:
            return None
        saved = event.when, event.sequence
        self._missing.discard(saved)
        return saved

    def load_event(self, saved: EventState, callback: Callable[[], None]) -> Event | None:
        """Put a saved event back; `callback` is what it called. Raises StateError if the clock was
        not saved with it."""
        if saved is None:
            return None
        if saved not in self._missing:
            raise StateError(f"the clock was saved without the event {saved}")
        self._missing.remove(saved)
        event = Event(*saved, callback)
        heappush(self._queue, event)
        return event

    def check_events(self) -> None:
        """Raise StateError unless every event was saved, or put back, since `save` or `load`."""
        if not self._missing:
            return
        owners = {(event.when, event.sequence): event.callback for event in self._queue}
        lost = ", ".join(
            f"{when} ns{_owner(owners.get((when, rank)))}" for when, rank in sorted(self._missing)
        )
        raise StateError(f"events of the clock that belong to no chip: {lost}")


def _owner(callback: Callable[[], None] | None) -> str:
    """Return a callback's name, for a person."""
    return "" if callback is None else f" ({getattr(callback, '__qualname__', callback)})"


def _nothing() -> int:
    return 0


def _nothing_to_do() -> None:
    pass
