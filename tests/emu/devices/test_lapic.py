# SPDX-License-Identifier: GPL-2.0-or-later
"""Local APICs: priorities, IPIs, local interrupts, the timer, the two register interfaces."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.clock import MIN_PERIOD_NS, Clock
from emu.cpu.faults import Fault
from emu.devices.apic_bus import ApicBus, DeliveryMode, Message
from emu.devices.lapic import LocalApic
from emu.devices.lapic_page import ApicWindow
from mmu.memory import Memory

BASE = 0xFEE00000
ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR = (
    0x20,
    0x30,
    0x80,
    0xA0,
    0xB0,
    0xD0,
    0xE0,
    0xF0,
)
ISR, TMR, IRR, ESR, ICR, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
LVT_TIMER, LVT_LINT0, LVT_LINT1, LVT_ERROR = 0x320, 0x350, 0x360, 0x370
INITIAL, CURRENT, DIVIDE = 0x380, 0x390, 0x3E0
APIC_BASE, DEADLINE = 0x1B, 0x6E0
MASKED = 1 << 16
X2 = BASE | 0xC00


class Cpu:
    """The pins, remembering."""

    def __init__(self):
        self.intr = False
        self.log = []

    def set_intr(self, level):
        self.intr = level

    def nmi(self):
        self.log.append("nmi")

    def init(self):
        self.log.append("init")

    def sipi(self, vector):
        self.log.append(("sipi", vector))


class Pic:
    """An 8259 pair with one request."""

    def __init__(self):
        self.taken = 0

    def pending(self):
        return True

    def acknowledge(self):
        self.taken += 1
        return 0x20


class Board:
    def __init__(self, clock, cpus=1, enable=True, **kwargs):
        self.clock = clock
        self.bus = ApicBus()
        self.pic = Pic()
        self.cpus = [Cpu() for _ in range(cpus)]
        self.apics = [
            LocalApic(n, clock, self.bus, cpu, pic=self.pic, **kwargs)
            for n, cpu in enumerate(self.cpus)
        ]
        self.msrs = [apic.registers.msrs() for apic in self.apics]
        for n in range(cpus) if enable else ():
            self.w(SVR, 0x1FF, n)

    def r(self, offset, n=0):
        return self.apics[n].registers.read(offset, 4) & 0xFFFFFFFF

    def w(self, offset, value, n=0):
        self.apics[n].registers.write(offset, 4, value)

    def rdmsr(self, msr, n=0):
        return self.msrs[n][msr][0]()

    def wrmsr(self, msr, value, n=0):
        self.msrs[n][msr][1](value)

    def to_x2(self, n=0):
        self.wrmsr(APIC_BASE, X2, n)

    def ipi(self, command, destination=0, n=0):
        self.w(ICR_HIGH, destination << 24, n)
        self.w(ICR, command, n)

    def fixed(self, vector, n=0, level=False):
        self.apics[n].accept(DeliveryMode.FIXED, vector, level)

    def take(self, n=0):
        """The vector that the processor gets, or None."""
        assert self.cpus[n].intr == self.apics[n].pending()
        return self.apics[n].acknowledge() if self.cpus[n].intr else None

    def bit(self, base, vector, n=0):
        return self.r(base + (vector >> 5) * 16, n) >> (vector & 31) & 1


@pytest.fixture
def board(clock):
    return Board(clock)


@pytest.fixture
def four(clock):
    return Board(clock, cpus=4)


class TestReset:
    def test_registers(self, clock):
        board = Board(clock, cpus=2, enable=False)
        assert board.r(VERSION) == 0x50014
        assert [board.r(ID, n) for n in (0, 1)] == [0, 1 << 24]
        assert (board.r(SVR), board.r(DFR), board.r(LDR), board.r(TPR)) == (0xFF, 0xFFFFFFFF, 0, 0)
        assert [board.r(LVT_LINT0, n) for n in (0, 1)] == [0x700, MASKED]
        assert board.r(LVT_TIMER) == MASKED
        assert [board.rdmsr(APIC_BASE, n) for n in (0, 1)] == [BASE | 0x900, BASE | 0x800]

    def test_nothing_fixed_is_taken_before_the_software_enable(self, clock):
        board = Board(clock, enable=False)
        board.fixed(0x40)
        assert board.take() is None
        board.w(SVR, 0x1FF)
        assert board.take() is None

    def test_lvt_entries_stay_masked_before_it(self, clock):
        board = Board(clock, enable=False)
        board.w(LVT_TIMER, 0x40)
        assert board.r(LVT_TIMER) == MASKED | 0x40

    def test_clearing_it_masks_them(self, board):
        board.w(LVT_LINT1, 0x400)
        board.w(SVR, 0xFF)
        assert board.r(LVT_LINT1) == MASKED | 0x400


class TestPriorities:
    def test_an_interrupt_goes_from_request_to_service_to_its_end(self, board):
        board.fixed(0x41)
        assert board.bit(IRR, 0x41)
        assert board.take() == 0x41
        assert not board.bit(IRR, 0x41)
        assert board.bit(ISR, 0x41)
        assert board.r(PPR) == 0x40
        board.w(EOI, 0)
        assert not board.bit(ISR, 0x41)
        assert board.r(PPR) == 0
        assert board.take() is None

    def test_the_highest_vector_goes_first_and_classes_nest(self, board):
        for vector in (0x31, 0x52, 0x5F, 0x61):
            board.fixed(vector)
        assert board.take() == 0x61
        assert board.take() is None
        board.w(EOI, 0)
        assert board.take() == 0x5F
        assert board.take() is None  # 0x52 is of the same class
        board.fixed(0x70)
        assert board.take() == 0x70
        for _ in range(2):
            board.w(EOI, 0)
        assert board.take() == 0x52

    @pytest.mark.parametrize(
        ("tpr", "vector", "delivered"),
        [(0x3F, 0x41, True), (0x40, 0x4F, False), (0x4F, 0x50, True), (0xF0, 0xFF, False)],
    )
    def test_task_priority_holds_back_its_class(self, board, tpr, vector, delivered):
        board.w(TPR, tpr)
        board.fixed(vector)
        assert (board.take() is not None) == delivered
        board.w(TPR, 0)
        assert (board.take() is not None) != delivered

    def test_cr8_is_the_class_of_tpr(self, board):
        board.apics[0].cr8 = 5
        assert board.r(TPR) == 0x50
        board.w(TPR, 0xAB)
        assert board.apics[0].cr8 == 0xA
        board.fixed(0x95)
        assert not board.cpus[0].intr
        board.apics[0].cr8 = 8
        assert board.cpus[0].intr

    def test_processor_priority_is_the_higher_of_task_and_service(self, board):
        board.fixed(0x55)
        board.take()
        board.w(TPR, 0x53)
        assert board.r(PPR) == 0x53
        board.w(TPR, 0x44)
        assert board.r(PPR) == 0x50

    def test_a_request_masked_at_the_last_moment_is_spurious(self, board):
        board.w(SVR, 0x1EF)
        board.fixed(0x40)
        board.apics[0].state.tpr = 0xFF
        assert board.apics[0].acknowledge() == 0xEF
        assert not board.bit(ISR, 0xEF)
        board.w(EOI, 0)  # nothing to end: no harm
        board.w(TPR, 0)
        assert board.take() == 0x40

    def test_trigger_mode_and_the_eoi_broadcast(self, board):
        heard = []

        class Listener:
            def end_of_interrupt(self, vector):
                heard.append(vector)

        board.bus.io.append(Listener())
        for vector, level in ((0x45, True), (0x46, False)):
            board.fixed(vector, level=level)
            assert board.bit(TMR, vector) == level
            board.take()
            board.w(EOI, 0)
        assert heard == [0x45]
        board.fixed(0x45)
        assert not board.bit(TMR, 0x45)


class TestIpis:
    def received(self, board, vector=0x50):
        return [n for n in range(len(board.cpus)) if board.bit(IRR, vector, n)]

    @pytest.mark.parametrize(
        ("command", "destination", "receivers"),
        [
            (0x4050, 2, [2]),
            (0x4050, 0, [0]),
            (0x4050, 9, []),
            (0x4050, 0xFF, [0, 1, 2, 3]),
            (0x44050, 3, [0]),
            (0x84050, 3, [0, 1, 2, 3]),
            (0xC4050, 3, [1, 2, 3]),
        ],
        ids=["physical", "itself", "nobody", "broadcast", "self", "all", "others"],
    )
    def test_destinations(self, four, command, destination, receivers):
        four.ipi(command, destination)
        assert self.received(four) == receivers
        assert not four.r(ICR) & 0x1000

    @pytest.mark.parametrize(
        ("dfr", "ldrs", "destination", "receivers"),
        [
            (0xF, (1, 2, 4, 8), 0x06, [1, 2]),
            (0xF, (1, 2, 4, 0), 0x08, []),
            (0xF, (0x80, 0x80, 0, 0), 0x80, [0, 1]),
            (0x0, (0x11, 0x12, 0x21, 0x22), 0x13, [0, 1]),
            (0x0, (0x11, 0x12, 0x21, 0x22), 0x2F, [2, 3]),
            (0x0, (0x11, 0x12, 0x21, 0x22), 0x31, []),
            (0x0, (0x11, 0x12, 0x21, 0x22), 0xFF, [0, 1, 2, 3]),
        ],
        ids=["flat", "flat none", "flat shared", "cluster", "whole cluster", "no cluster", "all"],
    )
    def test_logical_destinations(self, four, dfr, ldrs, destination, receivers):
        for n, ldr in enumerate(ldrs):
            four.w(DFR, dfr << 28, n)
            four.w(LDR, ldr << 24, n)
        four.ipi(0x4850, destination)
        assert self.received(four) == receivers

    def test_lowest_priority_goes_to_the_least_busy_that_is_on(self, four):
        for n, tpr in enumerate((0x30, 0x20, 0x20, 0x10)):
            four.w(TPR, tpr, n)
        four.w(SVR, 0xFF, 3)
        four.ipi(0x84150)
        assert self.received(four) == [1]

    def test_init_sipi_and_nmi_reach_the_processor(self, four):
        four.ipi(0xC4500)
        four.ipi(0xC8500)  # the de-assert of old
        four.ipi(0x4608, 1)
        four.ipi(0x4400, 2)
        assert four.cpus[0].log == []
        assert four.cpus[1].log == ["init", ("sipi", 8)]
        assert four.cpus[2].log == ["init", "nmi"]

    def test_init_resets_the_registers_and_drops_requests(self, four):
        four.fixed(0x60, 1)
        four.w(TPR, 0x20, 1)
        four.ipi(0x4500, 1)
        assert not four.cpus[1].intr
        assert (four.r(SVR, 1), four.r(TPR, 1), four.r(LVT_LINT0, 1)) == (0xFF, 0, MASKED)
        assert four.r(ID, 1) == 1 << 24

    @pytest.mark.parametrize("mode", [2, 3, 7], ids=["smi", "reserved", "extint"])
    def test_modes_without_effect(self, four, mode):
        four.ipi(0x84050 | mode << 8)
        assert self.received(four) == []
        assert [cpu.log for cpu in four.cpus] == [[]] * 4

    def test_an_illegal_vector_is_not_sent_but_noted(self, board):
        board.w(LVT_ERROR, 0xE0)
        board.ipi(0x4400F)
        assert board.take() == 0xE0
        board.w(ESR, 0)
        assert board.r(ESR) == 0x20
        board.w(ESR, 0)
        assert board.r(ESR) == 0

    def test_an_illegal_error_vector_does_not_go_round_for_ever(self, board):
        board.w(LVT_ERROR, 0x05)
        board.ipi(0x44001)
        board.w(ESR, 0)
        assert board.r(ESR) == 0x60

    def test_an_illegal_vector_of_the_local_table_is_noted_when_it_is_generated(self, board, clock):
        board.w(LVT_TIMER, 0x0F)
        board.w(LVT_LINT1, 0x00)
        board.w(ESR, 0)
        assert board.r(ESR) == 0  # 10.5.1 would allow an error already
        board.w(INITIAL, 10)
        clock.run_for(100)
        board.w(ESR, 0)
        assert board.r(ESR) == 0x40
        board.apics[0].lint(1)(True)
        board.w(ESR, 0)
        assert (board.r(ESR), board.take()) == (0x40, None)

    def test_an_illegal_vector_received_is_noted(self, board):
        board.fixed(0x0F)
        board.w(ESR, 0)
        assert (board.r(ESR), board.take()) == (0x40, None)

    def test_ids_can_be_changed_and_shared(self, four):
        for n in (1, 2):
            four.w(ID, 7 << 24, n)
        four.ipi(0x4050, 7)
        assert self.received(four) == [1, 2]

    def test_init_keeps_an_id_that_was_written_and_reset_does_not(self, four):
        four.w(ID, 7 << 24, 1)
        four.ipi(0x4500, 7)
        assert four.cpus[1].log == ["init"]
        assert four.r(ID, 1) == 7 << 24
        four.apics[1].reset()
        assert four.r(ID, 1) == 1 << 24

    def test_an_apic_that_is_off_hears_nothing(self, four):
        four.wrmsr(APIC_BASE, BASE, 1)
        four.ipi(0xC4050)
        four.ipi(0xC4400)
        assert four.cpus[1].log == []
        four.wrmsr(APIC_BASE, BASE | 0x800, 1)
        four.w(SVR, 0x1FF, 1)
        assert four.take(1) is None


class TestLint:
    def test_extint_of_the_boot_processor_is_open_from_reset(self, clock):
        board = Board(clock, enable=False)
        lint0 = board.apics[0].lint(0)
        lint0(True)
        assert board.take() == 0x20
        assert board.pic.taken == 1
        lint0(False)
        assert board.take() is None

    def test_extint_has_no_priority_and_goes_first(self, board):
        board.w(LVT_LINT0, 0x700)
        board.w(TPR, 0xF0)
        board.fixed(0xF5)
        board.apics[0].lint(0)(True)
        assert board.take() == 0x20

    def test_an_extint_message_has_the_8259s_asked_once(self, four):
        four.bus.send(Message(DeliveryMode.EXTINT, 0, 2))
        assert [cpu.intr for cpu in four.cpus] == [False, False, True, False]
        assert four.take(2) == 0x20
        assert four.take(2) is None
        four.bus.send(Message(DeliveryMode.EXTINT, 0, 2))
        four.ipi(0x4500, 2)
        assert four.take(2) is None

    def test_a_masked_lint0_keeps_the_8259s_out(self, board):
        board.apics[0].lint(0)(True)
        board.w(LVT_LINT0, MASKED | 0x700)
        assert not board.cpus[0].intr
        board.w(LVT_LINT0, 0x700)
        assert board.cpus[0].intr

    def test_without_an_apic_the_pins_are_intr_and_nmi(self, board):
        board.w(LVT_LINT0, MASKED)
        board.wrmsr(APIC_BASE, BASE)
        board.apics[0].lint(0)(True)
        assert board.take() == 0x20
        board.apics[0].lint(1)(True)
        board.apics[0].lint(1)(True)
        assert board.cpus[0].log == ["nmi"]

    def test_lint1_as_nmi(self, board):
        board.w(LVT_LINT1, 0x400)
        for level in (True, True, False, True):
            board.apics[0].lint(1)(level)
        assert board.cpus[0].log == ["nmi", "nmi"]

    def test_a_fixed_edge(self, board):
        board.w(LVT_LINT1, 0x44)
        board.apics[0].lint(1)(True)
        assert board.take() == 0x44
        board.w(EOI, 0)
        assert board.take() is None

    def test_a_fixed_level_comes_again_until_it_falls(self, board):
        board.w(LVT_LINT1, 0x8044)
        board.apics[0].lint(1)(True)
        for _ in range(2):
            assert board.take() == 0x44
            assert board.r(LVT_LINT1) == 0xC044
            board.w(EOI, 0)
        board.apics[0].lint(1)(False)
        assert board.take() == 0x44
        board.w(EOI, 0)
        assert board.take() is None
        assert board.r(LVT_LINT1) == 0x8044


class TestTimer:
    def count_interrupts(self, board, ns):
        count, end = 0, board.clock.now + ns
        while (event := board.clock.next_event) is not None and event <= end:
            board.clock.run_to(event)
            while board.take() is not None:
                count += 1
                board.w(EOI, 0)
        board.clock.run_to(end)
        return count

    @pytest.mark.parametrize(
        ("divide", "by"),
        [(0xB, 1), (0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (0xA, 128)],
    )
    def test_one_shot_at_every_division(self, board, clock, divide, by):
        board.w(DIVIDE, divide)
        assert board.r(DIVIDE) == divide
        board.w(LVT_TIMER, 0x40)
        board.w(INITIAL, 1000)
        assert board.r(CURRENT) == 1000
        clock.run_for(10 * by)
        assert board.r(CURRENT) == 990
        assert self.count_interrupts(board, 990 * by - 1) == 0
        assert board.r(CURRENT) == 1
        assert self.count_interrupts(board, 1) == 1
        assert (board.r(CURRENT), board.r(INITIAL)) == (0, 1000)
        assert self.count_interrupts(board, 10**6) == 0

    def test_periodic(self, board, clock):
        board.w(DIVIDE, 0xB)
        board.w(LVT_TIMER, 0x20040)
        board.w(INITIAL, 100_000)
        assert self.count_interrupts(board, 1_000_000) == 10
        clock.run_for(30_000)
        assert board.r(CURRENT) == 70_000
        board.w(INITIAL, 0)
        assert self.count_interrupts(board, 1_000_000) == 0
        assert board.r(CURRENT) == 0

    def test_masked_it_counts_in_silence(self, board, clock):
        board.w(DIVIDE, 0xB)
        board.w(LVT_TIMER, MASKED | 0x20040)
        board.w(INITIAL, 100_000)
        assert clock.next_event is None
        clock.run_for(250_000)
        assert board.r(CURRENT) == 50_000
        board.w(LVT_TIMER, 0x20040)
        assert self.count_interrupts(board, 50_000) == 1

    def test_changing_the_mode_keeps_the_count(self, board, clock):
        board.w(DIVIDE, 0xB)
        board.w(LVT_TIMER, MASKED)
        board.w(INITIAL, 1000)
        clock.run_for(600)
        board.w(LVT_TIMER, MASKED | 0x20000)
        assert board.r(CURRENT) == 400
        clock.run_for(500)
        assert board.r(CURRENT) == 900
        board.w(LVT_TIMER, MASKED)
        clock.run_for(900)
        assert board.r(CURRENT) == 0
        board.w(LVT_TIMER, MASKED | 0x20000)
        clock.run_for(100)
        assert board.r(CURRENT) == 0

    def test_changing_the_division_scales_what_is_left(self, board, clock):
        board.w(DIVIDE, 0xB)
        board.w(LVT_TIMER, 0x40)
        board.w(INITIAL, 1000)
        clock.run_for(400)
        board.w(DIVIDE, 0x3)
        assert board.r(CURRENT) == 600
        assert self.count_interrupts(board, 600 * 16 - 1) == 0
        assert self.count_interrupts(board, 1) == 1

    @pytest.mark.parametrize("initial", [1, 2, 77])
    def test_an_absurd_period_is_bounded_and_the_count_right(self, board, clock, initial):
        board.w(DIVIDE, 0xB)
        board.w(LVT_TIMER, 0x20040)
        board.w(INITIAL, initial)
        ns = 1_000_000
        count = self.count_interrupts(board, ns)
        assert ns // (2 * MIN_PERIOD_NS) <= count <= ns // MIN_PERIOD_NS + 1
        clock.run_for(13)
        assert board.r(CURRENT) == initial - (ns + 13) % initial

    def test_tsc_deadline(self, board, clock):
        board.w(LVT_TIMER, 0x40040)
        board.w(INITIAL, 5)
        assert board.r(CURRENT) == 0
        clock.run_for(1000)
        board.wrmsr(DEADLINE, 1500)
        assert board.rdmsr(DEADLINE) == 1500
        assert self.count_interrupts(board, 499) == 0
        assert self.count_interrupts(board, 1) == 1
        assert board.rdmsr(DEADLINE) == 0
        board.wrmsr(DEADLINE, 3)  # in the past: at once
        assert self.count_interrupts(board, 0) == 1
        board.wrmsr(DEADLINE, 5000)
        board.wrmsr(DEADLINE, 0)
        assert self.count_interrupts(board, 10_000) == 0

    def test_a_deadline_follows_the_processors_tsc(self, clock):
        offset = [1_000_000]
        board = Board(clock, tsc=lambda: clock.now + offset[0])
        board.w(LVT_TIMER, 0x40040)
        board.wrmsr(DEADLINE, 1_000_500)
        offset[0] -= 200
        board.apics[0].timer.tsc_changed()
        assert self.count_interrupts(board, 699) == 0
        assert self.count_interrupts(board, 1) == 1

    def test_a_masked_deadline_passes(self, board, clock):
        board.w(LVT_TIMER, MASKED | 0x40040)
        board.wrmsr(DEADLINE, 100)
        clock.run_for(100)
        assert board.rdmsr(DEADLINE) == 0

    @pytest.mark.parametrize(
        ("entry", "later"),
        [(0x40, 0), (0x20040, 1), (0x40040, 0)],
        ids=["one-shot", "periodic", "deadline"],
    )
    def test_what_expired_masked_is_lost_at_the_unmasking(self, board, clock, entry, later):
        board.w(DIVIDE, 0xB)
        board.w(LVT_TIMER, MASKED | entry)
        if entry == 0x40040:
            board.wrmsr(DEADLINE, 1000)
        else:
            board.w(INITIAL, 1000)
        clock.run_for(1500)
        board.w(LVT_TIMER, entry)
        assert self.count_interrupts(board, 499) == 0
        assert self.count_interrupts(board, 1) == later

    @pytest.mark.parametrize(
        "write",
        [
            lambda board: board.w(LVT_TIMER, MASKED | 0x41),
            lambda board: board.w(INITIAL, 0),
            lambda board: board.w(DIVIDE, 0x3),
        ],
        ids=["mask", "stop", "divide"],
    )
    def test_a_write_at_the_moment_of_expiry_loses_nothing(self, board, clock, write):
        board.w(DIVIDE, 0xB)
        board.w(LVT_TIMER, 0x40)
        board.w(INITIAL, 1000)
        clock.progress = lambda: 1000  # the slice has got there, the event has yet to be called
        write(board)
        assert board.take() == 0x40

    @pytest.mark.parametrize("mode", [0, 0x20000])
    def test_leaving_deadline_mode_disarms(self, board, mode):
        board.w(LVT_TIMER, 0x40040)
        board.wrmsr(DEADLINE, 1000)
        board.w(LVT_TIMER, mode | 0x40)
        board.wrmsr(DEADLINE, 500)  # ignored here
        assert self.count_interrupts(board, 5000) == 0
        board.w(INITIAL, 1000)
        board.w(LVT_TIMER, 0x40040)
        assert board.r(CURRENT) == 0
        assert self.count_interrupts(board, 5000) == 0


class TestX2apic:
    def x2(self, register):
        return 0x800 + (register >> 4)

    def test_the_modes_and_the_ways_between_them(self, board):
        def refused(value):
            with pytest.raises(Fault):
                board.wrmsr(APIC_BASE, value)

        refused(BASE | 0x400)
        board.to_x2()
        refused(BASE | 0x400)
        refused(BASE | 0x800)
        board.wrmsr(APIC_BASE, BASE)
        assert not board.apics[0].enabled
        refused(BASE | 0x400)
        refused(X2)
        board.wrmsr(APIC_BASE, BASE | 0x800)
        assert board.rdmsr(APIC_BASE) == BASE | 0x900
        assert board.r(SVR) == 0xFF

    @pytest.mark.parametrize("bit", [0, 7, 9, 40, 63])
    def test_reserved_bits_of_the_base(self, board, bit):
        with pytest.raises(Fault):
            board.wrmsr(APIC_BASE, BASE | 0x800 | 1 << bit)

    def test_a_processor_without_it(self, clock):
        board = Board(clock, x2apic=False)
        with pytest.raises(Fault):
            board.to_x2()

    def test_its_msrs_are_not_there_in_xapic_mode(self, board):
        with pytest.raises(Fault):
            board.rdmsr(self.x2(ID))
        with pytest.raises(Fault):
            board.wrmsr(self.x2(EOI), 0)

    def test_ids(self, clock):
        board = Board(clock, cpus=18)
        for n in range(18):
            board.to_x2(n)
        assert board.rdmsr(self.x2(ID), 17) == 17
        assert board.rdmsr(self.x2(LDR), 17) == 0x1_0002
        assert board.rdmsr(self.x2(LDR), 3) == 0x8

    @pytest.mark.parametrize(
        ("register", "value"),
        [
            (ID, 0),
            (VERSION, 0),
            (PPR, 0),
            (LDR, 0),
            (DFR, 0),
            (ICR_HIGH, 0),
            (EOI, 1),
            (ESR, 1),
            (TPR, 0x100),
            (SVR, 0x10000),
            (LVT_TIMER, 1 << 19),
            (INITIAL, 1 << 32),
            (CURRENT, 0),
            (ISR, 0),
            (0x400, 0),
            (0x2F0, MASKED),
        ],
        ids=hex,
    )
    def test_writes_that_fault(self, board, register, value):
        board.to_x2()
        with pytest.raises(Fault):
            board.wrmsr(self.x2(register), value)

    @pytest.mark.parametrize("register", [EOI, DFR, ICR_HIGH, 0x3F0, 0x90, 0xC0, 0x2F0])
    def test_reads_that_fault(self, board, register):
        board.to_x2()
        with pytest.raises(Fault):
            board.rdmsr(self.x2(register))

    def test_a_wide_icr_and_the_self_ipi(self, four):
        for n in range(4):
            four.to_x2(n)
            four.wrmsr(self.x2(SVR), 0x1FF, n)
        four.wrmsr(self.x2(ICR), 2 << 32 | 0x4050)
        assert four.rdmsr(self.x2(ICR)) == 2 << 32 | 0x4050
        four.wrmsr(self.x2(ICR), 0x0000_000A << 32 | 0x4851)  # logical: cluster 0, 1 and 3
        four.wrmsr(self.x2(ICR), 0xFFFF_FFFF << 32 | 0x4052)
        four.wrmsr(0x83F, 0x53)
        got = [[v for v in range(0x50, 0x54) if four.apics[n].state.irr >> v & 1] for n in range(4)]
        assert got == [[0x52, 0x53], [0x51, 0x52], [0x50, 0x52], [0x51, 0x52]]

    def test_eight_bit_messages_reach_it(self, four):
        four.to_x2(1)
        four.wrmsr(self.x2(SVR), 0x1FF, 1)
        four.bus.send(Message(DeliveryMode.FIXED, 0x60, 0xFF))
        four.bus.send(Message(DeliveryMode.FIXED, 0x61, 1))
        four.bus.send(Message(DeliveryMode.FIXED, 0x62, 0x2, logical=True))
        assert four.apics[1].state.irr == 0b111 << 0x60

    def test_init_keeps_the_mode(self, board):
        board.to_x2()
        board.apics[0].accept(DeliveryMode.INIT, 0, False)
        assert board.rdmsr(self.x2(LDR)) == 1


class TestMemory:
    @pytest.mark.parametrize(
        ("offset", "size", "expected"),
        [
            (VERSION, 4, 0x00050014),
            (VERSION, 1, 0x14),
            (VERSION + 2, 2, 0x0005),
            (VERSION, 8, 0x00050014),
            (VERSION + 4, 4, 0),
            (0xFFC, 4, 0),
        ],
        ids=["whole", "byte", "half", "too wide", "gap", "end"],
    )
    def test_reads_of_every_kind(self, board, offset, size, expected):
        assert board.apics[0].registers.read(offset, size) & (1 << 8 * size) - 1 == expected

    @pytest.mark.parametrize(("offset", "size"), [(TPR, 1), (TPR, 2), (TPR + 1, 4), (TPR + 4, 4)])
    def test_writes_of_the_wrong_kind_are_ignored(self, board, offset, size):
        board.apics[0].registers.write(offset, size, 0x50)
        assert board.r(TPR) == 0

    def test_a_register_that_is_not_there_is_an_error(self, board):
        assert board.r(0x10) == 0
        board.w(0x10, 1)
        board.w(ESR, 0)
        assert board.r(ESR) == 0x80

    def test_read_only_registers_take_no_harm(self, board):
        for offset in (VERSION, PPR, ISR, TMR, IRR, CURRENT):
            before = board.r(offset)
            board.w(offset, 0xFFFFFFFF)
            assert board.r(offset) == before
        board.w(ESR, 0)
        assert board.r(ESR) == 0

    def test_the_page_shows_the_running_processors_apic_where_it_is(self, clock):
        board = Board(clock, cpus=2)
        memory, running = Memory(), [0]
        memory.add_ram(0, 0x10000)
        ApicWindow(memory, board.apics, lambda: running[0])
        assert memory.read(BASE + ID, 4) == 0
        running[0] = 1
        assert memory.read(BASE + ID, 4) == 1 << 24
        memory.write(BASE + TPR, 4, 0x30, "guest")
        assert (board.r(TPR, 0), board.r(TPR, 1)) == (0, 0x30)
        # The second moves: the first still has the old place, each only its own.
        board.wrmsr(APIC_BASE, 0xFED40000 | 0x800, 1)
        assert memory.read(0xFED40000 + VERSION, 4) == 0x50014
        assert memory.read(BASE + VERSION, 4) == 0xFFFFFFFF
        memory.write(BASE + TPR, 4, 0x70, "guest")
        running[0] = 0
        assert memory.read(BASE + TPR, 4) == 0
        assert memory.read(0xFED40000 + VERSION, 4) == 0xFFFFFFFF
        board.to_x2(0)
        assert memory.slot_at(BASE) is None
        board.apics[0].reset()
        assert memory.slot_at(BASE) is not None

    def test_a_base_on_top_of_ram_hides_the_apic_and_breaks_nothing(self, board):
        memory = Memory()
        memory.add_ram(0, 0x10000)
        ApicWindow(memory, board.apics, lambda: 0)
        board.wrmsr(APIC_BASE, 0x1000 | 0x800)
        assert memory.read(0x1000 + VERSION, 4) == 0
        assert memory.slot_at(BASE) is None
        board.wrmsr(APIC_BASE, BASE | 0x800)
        assert memory.read(BASE + VERSION, 4) == 0x50014


ACTION = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 0xFFF), st.integers(0, 0xFFFFFFFF)),
    st.tuples(
        st.just("write"),
        st.sampled_from(
            [TPR, EOI, LDR, DFR, SVR, ESR, ICR, ICR_HIGH, *range(0x320, 0x380, 16), INITIAL, DIVIDE]
        ),
        st.integers(0, 0xFFFFFFFF),
    ),
    st.tuples(st.just("read"), st.integers(0, 0xFFF), st.sampled_from([1, 2, 4, 8])),
    st.tuples(
        st.just("wrmsr"),
        st.one_of(st.sampled_from([APIC_BASE, DEADLINE]), st.integers(0x800, 0x8FF)),
        st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([BASE, BASE | 0x800, X2, 0])),
    ),
    st.tuples(st.just("lint"), st.integers(0, 1), st.booleans()),
    st.tuples(st.just("run"), st.integers(0, 100_000), st.none()),
    st.tuples(st.just("take"), st.none(), st.none()),
)


@given(st.lists(st.tuples(st.integers(0, 1), ACTION), max_size=60))
def test_whatever_happens_intr_tells_the_truth_and_events_are_bounded(steps):
    board = Board(Clock(), cpus=2)
    for n, (what, where, value) in steps:
        apic = board.apics[n]
        if what == "write":
            apic.registers.write(where, 4, value)
        elif what == "read":
            assert apic.registers.read(where, value) >= 0
        elif what == "wrmsr":
            with suppress(Fault):
                board.wrmsr(where, value, n)
        elif what == "lint":
            apic.lint(where)(value)
        elif what == "run":
            end, turns = board.clock.now + where, 0
            while (event := board.clock.next_event) is not None and event <= end:
                board.clock.run_due(max(event, board.clock.now))
                turns += 1
            board.clock.run_due(end)
            assert turns <= 2 * (where // MIN_PERIOD_NS + 2)
        else:
            assert 0 <= apic.acknowledge() <= 0xFF
        for apic, cpu in zip(board.apics, board.cpus, strict=True):
            assert cpu.intr == apic.pending()
            assert apic.state.irr >> 256 == apic.state.isr >> 256 == 0
