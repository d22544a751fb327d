# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual time and its event queue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.clock import (
    NS_PER_SECOND,
    PIT_RATE,
    PM_TIMER_RATE,
    RTC_RATE,
    TSC_RATE,
    Clock,
    Rate,
    next_expiry,
)
from emu.errors import StateError

RATES = {"pit": PIT_RATE, "pm timer": PM_TIMER_RATE, "rtc": RTC_RATE, "tsc": TSC_RATE}


def test_events_run_in_order_of_time_then_of_insertion():
    clock, seen = Clock(), []
    for when, name in ((30, "c"), (10, "a"), (30, "d"), (20, "b")):
        clock.at(when, lambda name=name: seen.append(name))
    clock.run_due(29)
    assert seen == ["a", "b"]
    clock.run_due(30)
    assert seen == ["a", "b", "c", "d"]
    assert clock.next_event is None


def test_a_cancelled_event_neither_runs_nor_is_awaited():
    clock, seen = Clock(), []
    event = clock.at(10, lambda: seen.append(1))
    clock.at(20, lambda: seen.append(2))
    clock.cancel(event)
    clock.cancel(event)
    clock.cancel(None)
    assert clock.next_event == 20
    clock.run_due(20)
    assert seen == [2]


def test_timers_set_over_and_over_do_not_pile_up():
    clock, seen = Clock(), []
    kept = [clock.at(n, lambda n=n: seen.append(n)) for n in (5, 10**15 + 1)]
    event = None
    for n in range(10_000):
        clock.cancel(event)
        event = clock.at(10**15 - n, lambda: seen.append("last"))
    assert len(clock._queue) < 200
    clock.run_due(10**16)
    assert seen == [5, "last", 10**15 + 1]
    clock.cancel(kept[0])
    assert clock._cancelled == 0


def test_an_event_may_cancel_another_that_is_due_at_the_same_time():
    clock, seen = Clock(), []
    clock.at(5, lambda: clock.cancel(victim))
    victim = clock.at(5, lambda: seen.append("victim"))
    clock.run_due(5)
    assert seen == []


def test_an_event_that_re_arms_itself_in_the_past_does_not_hang_the_host():
    clock, runs = Clock(), []

    def again() -> None:
        runs.append(clock.now)
        clock.at(0, again)

    clock.at(0, again)
    clock.run_due(7)
    assert runs == [7]
    assert clock.next_event == 0
    clock.run_due(7)
    assert runs == [7, 7]


def test_now_includes_the_progress_of_the_running_slice():
    clock = Clock()
    clock.run_due(100)
    clock.progress = lambda: 40
    assert clock.now == 140


def test_time_does_not_run_backwards():
    clock = Clock()
    clock.run_due(10)
    with pytest.raises(ValueError, match="backwards"):
        clock.run_due(9)


def test_only_an_event_before_all_others_cuts_the_slice_short():
    clock, calls = Clock(), []
    clock.on_earlier = lambda: calls.append(clock.next_event)
    clock.at(50, lambda: None)
    clock.at(60, lambda: None)
    clock.at(40, lambda: None)
    assert calls == [50, 40]


def test_an_event_armed_by_another_runs_in_its_turn():
    clock, seen = Clock(), []
    clock.at(10, lambda: clock.at(30, lambda: seen.append("late")))
    clock.run_due(10)
    assert clock.next_event == 30
    clock.run_due(31)
    assert seen == ["late"]


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
@given(ticks=st.integers(0, 2**64))
def test_a_tick_is_reached_at_its_first_nanosecond_and_not_before(rate: Rate, ticks):
    ns = rate.ns(ticks)
    assert rate.ticks(ns) == ticks
    if ticks:
        assert rate.ticks(ns - 1) == ticks - 1


@given(ns=st.integers(0, 10**18))
def test_three_acpi_ticks_are_one_pit_tick(ns):
    assert PM_TIMER_RATE.ticks(ns) // 3 == PIT_RATE.ticks(ns)


@pytest.mark.parametrize(
    ("rate", "hertz"),
    [(PIT_RATE, 1193181), (PM_TIMER_RATE, 3579545), (RTC_RATE, 32768), (TSC_RATE, 10**9)],
    ids=RATES,
)
def test_a_second_of_each_rate(rate, hertz):
    assert rate.ticks(NS_PER_SECOND) == hertz


@given(st.integers(-1000, 1000), st.integers(1, 50), st.integers(-1000, 1000))
def test_next_expiry_is_the_first_in_phase_after_now(start, period, after):
    expiry = next_expiry(start, period, after)
    assert expiry > after
    assert expiry >= start
    assert (expiry - start) % period == 0
    assert expiry == start or expiry - period <= after


class Alarm:
    """Somebody who waits for one event."""

    def __init__(self, clock, name, seen):
        self.clock, self.name, self.seen, self.event = clock, name, seen, None

    def arm(self, when):
        self.event = self.clock.at(when, self.ring)

    def ring(self):
        self.seen.append((self.clock.now, self.name))


def test_a_loaded_clock_keeps_time_and_the_order_of_one_moment():
    clock, seen = Clock(), []
    alarms = [Alarm(clock, name, seen) for name in "abcd"]
    for alarm, when in zip(alarms, (50, 50, 40, 50), strict=True):
        alarm.arm(when)
    clock.cancel(alarms[1].event)
    clock.run_due(40)
    saved = clock.save(), [clock.save_event(alarm.event) for alarm in alarms]
    assert saved[1] == [(50, 0), None, None, (50, 3)]
    clock.run_due(60)

    again, seen_again = Clock(), []
    again.run_due(99)  # time may go back
    again.at(99, lambda: seen_again.append("of before"))
    again.load(saved[0])
    twins = [Alarm(again, alarm.name, seen_again) for alarm in alarms]
    for twin, event in reversed(list(zip(twins, saved[1], strict=True))):
        twin.event = again.load_event(event, twin.ring)
    again.check_events()
    assert again.now == 40
    assert again.save() == saved[0]
    again.at(50, lambda: seen_again.append("new"))  # comes after those that were there before
    again.run_due(60)
    assert seen == [(40, "c"), (60, "a"), (60, "d")]
    assert seen_again == [(60, "a"), (60, "d"), "new"]


def test_a_loaded_event_can_be_cancelled_and_saved_again():
    clock = Clock()
    event = clock.at(50, lambda: None)
    state, saved = clock.save(), clock.save_event(event)
    clock.load(state)
    loaded = clock.load_event(saved, lambda: None)
    assert clock.next_event == 50
    assert clock.save_event(loaded) == saved
    clock.cancel(loaded)
    assert clock.next_event is None


def test_an_event_that_nobody_saves_or_puts_back_is_missed():
    clock = Clock()
    event = clock.at(50, Alarm(clock, "a", []).ring)
    state = clock.save()
    with pytest.raises(StateError, match=r"no chip: 50 ns \(Alarm.ring\)$"):
        clock.check_events()
    clock.save_event(event)
    clock.check_events()
    clock.load(state)
    with pytest.raises(StateError, match=r"no chip: 50 ns$"):
        clock.check_events()


def test_an_event_of_another_clock_is_refused():
    clock = Clock()
    with pytest.raises(StateError, match="without the event"):
        clock.load_event((50, 0), lambda: None)
    assert clock.load_event(None, lambda: None) is None
