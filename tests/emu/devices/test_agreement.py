# SPDX-License-Identifier: GPL-2.0-or-later
"""Every clock of the board, against every other: one virtual time, to the tick."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.clock import PIT_RATE, PM_TIMER_RATE, RTC_RATE, Clock
from emu.devices.acpi_pm import AcpiPm
from emu.devices.apic_bus import ApicBus
from emu.devices.cmos import Cmos
from emu.devices.hpet import Hpet
from emu.devices.lapic import LocalApic
from emu.devices.pit import Pit
from emu.devices.port61 import SystemControlB

SECOND = 10**9


class Cpu:
    def set_intr(self, level): ...

    def nmi(self): ...

    def init(self): ...

    def sipi(self, vector): ...


def nothing(*_):
    pass


class Board:
    def __init__(self):
        self.clock = Clock()
        self.pit = Pit(self.clock, nothing)
        self.port61 = SystemControlB(self.pit)
        self.pm = AcpiPm(self.clock, nothing, nothing)
        self.hpet = Hpet(self.clock, lambda pin: nothing, nothing, nothing)
        self.apic = LocalApic(0, self.clock, ApicBus(), Cpu())
        self.cmos = Cmos(self.clock, nothing, ram_below_4g=1 << 20)
        self.apic.registers.write(0x3E0, 4, 0xB)

    def pm_timer(self):
        return self.pm.read(0x608, 4) & 0xFFFFFF

    def pit_count(self):
        self.pit.write(0x43, 1, 0x80)
        return self.pit.read(0x42, 1) | self.pit.read(0x42, 1) << 8


@given(
    start=st.integers(0, 10 * SECOND),
    steps=st.lists(st.integers(1, SECOND // 100), min_size=1, max_size=20),
)
def test_counters_started_together_stay_together(start, steps):
    board = Board()
    clock = board.clock
    clock.run_due(start)
    board.port61.write(0x61, 1, 1)
    for port, value in ((0x43, 0xB4), (0x42, 0), (0x42, 0)):
        board.pit.write(port, 1, value)
    board.apic.registers.write(0x380, 4, 0xFFFFFFFF)
    board.hpet.write(0x10, 4, 1)
    pit_start = board.pit.tick() + 1  # loaded by the next CLK
    pm_start = PM_TIMER_RATE.ticks(start)
    for step in steps:
        clock.run_due(clock.now + step)
        now = clock.now
        elapsed = now - start
        assert 0xFFFFFFFF - board.apic.registers.read(0x390, 4) == elapsed
        assert board.hpet.read(0xF0, 8) == now // 10 - start // 10
        pm = pm_start + (board.pm_timer() - pm_start & 0xFFFFFF)
        while pm < PM_TIMER_RATE.ticks(now):
            pm += 1 << 24
        assert pm == PM_TIMER_RATE.ticks(now)
        pit = pm // 3
        assert board.pit_count() == (-(pit - pit_start) & 0xFFFF if pit >= pit_start else 0)


@pytest.mark.parametrize("milliseconds", [1, 10, 50])
def test_a_calibration_loop_finds_the_same_frequency_by_any_two_clocks(milliseconds):
    """As kernels do: a one-shot of counter 2 against whatever else counts."""
    board = Board()
    clock = board.clock
    count = 1193182 * milliseconds // 1000
    board.port61.write(0x61, 1, 1)
    for port, value in ((0x43, 0xB0), (0x42, count & 0xFF), (0x42, count >> 8)):
        board.pit.write(port, 1, value)
    tsc, pm = clock.now, board.pm_timer()
    board.apic.registers.write(0x380, 4, 0xFFFFFFFF)
    while not board.port61.read(0x61, 1) & 0x20:
        clock.run_due(clock.now + 1000)
    elapsed = clock.now - tsc
    assert abs(elapsed - milliseconds * 1_000_000) < 3000
    assert 0xFFFFFFFF - board.apic.registers.read(0x390, 4) == elapsed
    assert (board.pm_timer() - pm) & 0xFFFFFF == PM_TIMER_RATE.ticks(elapsed)


def test_a_second_of_the_rtc_is_one_of_the_others():
    board = Board()
    seconds = []
    while len(seconds) < 3:
        before = board.cmos.state.seconds + RTC_RATE.ticks(board.clock.now) // 32768
        board.clock.run_due(board.clock.now + SECOND // 1000)
        after = board.cmos.state.seconds + RTC_RATE.ticks(board.clock.now) // 32768
        if after != before:
            seconds.append(board.clock.now)
    assert seconds == [SECOND, 2 * SECOND, 3 * SECOND]
    assert PIT_RATE.ticks(SECOND) == PM_TIMER_RATE.ticks(SECOND) // 3
