# SPDX-License-Identifier: GPL-2.0-or-later
"""Delivery through every kind of gate, and every way in which it can fail (SDM 3A chapter 6)."""

from __future__ import annotations

import struct

import pytest

from emu.cpu.faults import Event, Shutdown, Source
from emu.state import Segment, Table

from .delivery_double import (
    CODE0,
    CODE3,
    CODE16,
    CONFORMING,
    DATA0,
    DATA3,
    GDT,
    HANDLER,
    IDT,
    LONG0,
    LONG3,
    NOT_PRESENT,
    STACK0,
    STACK3,
    TSS,
    TSS_SELECTOR,
    Processor,
)

SOFTWARE = Event(0x40, Source.SOFTWARE, start=0x1232)
EXTERNAL = Event(0x40, Source.EXTERNAL)


def vectors(tried: list[Event]) -> list[tuple[int, int | None]]:
    return [(event.vector, event.error_code) for event in tried]


# --- Real mode -----------------------------------------------------------------------------------


def test_real_mode_frame() -> None:
    cpu = Processor("real")
    cpu.put(0x40 * 4, struct.pack("<HH", 0x5678, 0x0F00))
    cpu.regs.rflags = 0x303
    cpu.delivery.deliver(EXTERNAL)
    regs = cpu.regs
    assert (regs.rip, regs.cs.selector, regs.cs.base) == (0x5678, 0x0F00, 0xF000)
    assert cpu.words(2, 3) == [0x1234, 0, 0x303]
    assert regs.rsp == 0x8000 - 6
    assert regs.rflags == 0x3  # IF and TF cleared


def test_real_mode_pushes_no_error_code() -> None:
    cpu = Processor("real")
    cpu.put(13 * 4, struct.pack("<HH", HANDLER, 0))
    cpu.delivery.deliver(Event(13, error_code=0))
    assert cpu.regs.rsp == 0x8000 - 6


def test_real_mode_stack_wraps_at_64_kib() -> None:
    cpu = Processor("real")
    cpu.put(0x40 * 4, struct.pack("<HH", HANDLER, 0))
    cpu.regs.rsp = 0x1_0002
    cpu.delivery.deliver(EXTERNAL)
    assert cpu.regs.rsp == 0x1_FFFC
    assert cpu.memory.read(0, 2) == 0x0003
    assert cpu.memory.read(0xFFFC, 2) == 0x1234


def test_vector_table_too_short_shuts_the_processor_down() -> None:
    cpu = Processor("real")
    cpu.regs.idtr = Table(0, 0)
    before = cpu.snapshot()
    with pytest.raises(Shutdown):
        cpu.delivery.deliver(EXTERNAL)
    assert cpu.snapshot() == before


# --- Protected mode ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "width", "interrupts"),
    [
        pytest.param(0x8E, 4, False, id="32-bit interrupt gate"),
        pytest.param(0x8F, 4, True, id="32-bit trap gate"),
        pytest.param(0x86, 2, False, id="16-bit interrupt gate"),
        pytest.param(0x87, 2, True, id="16-bit trap gate"),
    ],
)
def test_same_privilege(kind: int, width: int, interrupts: bool) -> None:
    cpu = Processor("protected")
    cpu.gate(0x40, kind=kind)
    cpu.regs.rflags = 0x4302
    cpu.delivery.deliver(EXTERNAL)
    assert cpu.words(width, 3) == [0x1234, CODE0, 0x4302]
    assert cpu.regs.rip == HANDLER
    assert cpu.regs.rflags == (0x202 if interrupts else 0x2)  # NT and TF gone
    assert cpu.regs.rsp == STACK0 - 3 * width


def test_error_code_is_on_top_and_rf_in_the_image() -> None:
    cpu = Processor("protected")
    cpu.gate(14)
    cpu.delivery.deliver(Event(14, error_code=6, cr2=0x1234_5678))
    assert cpu.words(4, 4) == [6, 0x1234, CODE0, 0x1_0202]
    assert cpu.regs.cr2 == 0x1234_5678


@pytest.mark.parametrize("event", [EXTERNAL, SOFTWARE, Event(3, Source.SOFTWARE), Event(1)])
def test_no_rf_in_the_image_of_what_is_no_fault(event: Event) -> None:
    cpu = Processor("protected")
    cpu.gate(event.vector)
    cpu.delivery.deliver(event)
    assert not cpu.words(4, 3)[2] & 1 << 16


def test_privilege_switch_through_a_32_bit_tss() -> None:
    cpu = Processor("protected", cpl=3)
    cpu.gate(0x40, kind=0xEE)
    cpu.delivery.deliver(SOFTWARE)
    regs = cpu.regs
    assert (regs.cpl, regs.cs.selector, regs.ss.selector) == (0, CODE0, DATA0)
    assert regs.rsp == STACK0 - 20
    assert cpu.words(4, 5) == [0x1234, CODE3, 0x202, STACK3, DATA3]


def test_privilege_switch_through_a_16_bit_tss() -> None:
    cpu = Processor("protected", cpl=3)
    cpu.put(TSS, struct.pack("<HHH", 0, STACK0, DATA0))
    cpu.regs.tr = Segment(TSS_SELECTOR, TSS, 0x2B, 0x83)
    cpu.gate(0x40, kind=0xEE)
    cpu.delivery.deliver(SOFTWARE)
    assert cpu.regs.rsp == STACK0 - 20
    assert cpu.words(4, 5) == [0x1234, CODE3, 0x202, STACK3, DATA3]


def test_conforming_handler_keeps_the_privilege() -> None:
    cpu = Processor("protected", cpl=3)
    cpu.gate(0x40, selector=CONFORMING, kind=0xEE)
    cpu.delivery.deliver(SOFTWARE)
    assert (cpu.regs.cpl, cpu.regs.cs.selector) == (3, CONFORMING | 3)
    assert cpu.regs.rsp == STACK3 - 12


def test_user_handler_pushes_with_the_rights_of_a_user() -> None:
    cpu = Processor("protected", cpl=3)
    cpu.gate(0x40, selector=CODE3, kind=0xEE)
    cpu.delivery.deliver(SOFTWARE)
    pushes = {access for gva, access in cpu.mmu.seen if gva >> 12 == STACK3 - 4 >> 12}
    assert pushes == {6}


def test_vm86_saves_and_clears_the_data_segments() -> None:
    cpu = Processor("vm86")
    cpu.gate(0x40)
    cpu.delivery.deliver(EXTERNAL)
    regs = cpu.regs
    frame = [0x1234, 0x100, 0x2_3202, 0x100, 0x900, 0x111, 0x222, 0x333, 0x444]
    assert cpu.words(4, 9) == frame
    assert [regs.segment(n).selector for n in (0, 3, 4, 5)] == [0, 0, 0, 0]
    assert regs.rflags & 0x2_0200 == 0
    assert regs.cpl == 0


@pytest.mark.parametrize(
    "selector", [pytest.param(CODE3, id="DPL 3"), pytest.param(CONFORMING, id="conforming")]
)
def test_vm86_handler_must_be_at_dpl_0(selector: int) -> None:
    cpu = Processor("vm86")
    cpu.gate(0x40, selector=selector)
    cpu.gate(13)
    tried = cpu.delivery.deliver(EXTERNAL)
    assert vectors(tried)[1] == (13, selector & 0xFFFC | 1)


def test_accessed_bits_are_set() -> None:
    cpu = Processor("protected", cpl=3)
    cpu.put(0x1000 + CODE0 + 5, b"\x9a")
    cpu.put(0x1000 + DATA0 + 5, b"\x92")
    cpu.gate(0x40)
    cpu.delivery.deliver(EXTERNAL)
    assert cpu.memory.read(0x1000 + CODE0 + 5, 1) == 0x9B
    assert cpu.memory.read(0x1000 + DATA0 + 5, 1) == 0x93


class Case:
    """One way to fail: prepare the processor, deliver, expect a fault."""

    def __init__(self, cpl: int, expected: tuple[int, int], event: Event = EXTERNAL, **gate: int):
        self.cpl, self.expected, self.event, self.gate = cpl, expected, event, gate
        self.prepare = lambda cpu: None

    def with_(self, prepare) -> Case:
        self.prepare = prepare
        return self


FAILURES = {
    "vector behind the IDT": Case(0, (13, 0x203)).with_(
        lambda cpu: setattr(cpu.regs, "idtr", Table(IDT, 0x40 * 8 + 6))
    ),
    "no gate type": Case(0, (13, 0x203), kind=0x8C),
    "gate not present": Case(0, (11, 0x203), kind=0x0E),
    "int n below the gate's privilege": Case(3, (13, 0x202), SOFTWARE, kind=0x8E),
    "int n through a gate not present": Case(3, (11, 0x202), SOFTWARE, kind=0x6E),
    "null code selector": Case(0, (13, 1), selector=0),
    "code selector behind the GDT": Case(0, (13, 0xF1), selector=0xF0),
    "code selector in no LDT": Case(0, (13, 0xD), selector=0xC),
    "data segment for code": Case(0, (13, DATA0 | 1), selector=DATA0),
    "code not present": Case(0, (11, NOT_PRESENT | 1), selector=NOT_PRESENT),
    "code less privileged": Case(0, (13, CODE3 & ~3 | 1), selector=CODE3),
    "TSS too short": Case(3, (10, TSS_SELECTOR | 1)).with_(
        lambda cpu: setattr(cpu.regs, "tr", Segment(TSS_SELECTOR, TSS, 8, 0x8B))
    ),
    "null inner stack": Case(3, (10, 1)).with_(lambda cpu: cpu.put(TSS + 8, b"\0\0")),
    "inner stack behind the GDT": Case(3, (10, 0xF1)).with_(
        lambda cpu: cpu.put(TSS + 8, b"\xf0\0")
    ),
    "inner stack of the wrong privilege": Case(3, (10, DATA3 & ~3 | 1)).with_(
        lambda cpu: cpu.put(TSS + 8, bytes((DATA3, 0)))
    ),
    "inner stack in code": Case(3, (10, CODE0 | 1)).with_(
        lambda cpu: cpu.put(TSS + 8, bytes((CODE0, 0)))
    ),
    "inner stack not present": Case(3, (12, DATA0 | 1)).with_(
        lambda cpu: cpu.put(0x1000 + DATA0 + 5, b"\x13")
    ),
}


@pytest.mark.parametrize("case", FAILURES.values(), ids=FAILURES.keys())
def test_failing_delivery_becomes_the_right_fault(case: Case) -> None:
    cpu = Processor("protected", cpl=case.cpl)
    cpu.gate(case.event.vector, **case.gate)
    case.prepare(cpu)
    before = cpu.snapshot()
    with pytest.raises(Shutdown) as shutdown:  # no gate for the fault either
        cpu.delivery.deliver(case.event)
    assert vectors(shutdown.value.args[0])[1] == case.expected
    if case.event.start is None:
        assert cpu.snapshot() == before
    else:
        assert cpu.regs.rip == case.event.start


def test_page_fault_while_pushing_leaves_nothing_behind() -> None:
    cpu = Processor("protected", cpl=3)
    cpu.gate(0x40, kind=0xEE)
    cpu.gate(14, selector=CODE3)  # a handler that needs no other stack
    cpu.put(TSS + 4, struct.pack("<I", 0x9008))  # the frame crosses into page 8
    cpu.mmu.faults[8] = 0
    before = cpu.memory.read_block(0x8000, 0x1010)
    tried = cpu.delivery.deliver(SOFTWARE)
    assert vectors(tried) == [(0x40, None), (14, 2)]
    assert cpu.regs.cr2 == 0x8FFC
    assert cpu.memory.read_block(0x8000, 0x1010) == before
    assert cpu.words(4, 4)[1] == 0x1232  # back on the INT, on the user stack


def test_double_fault_through_its_own_gate() -> None:
    cpu = Processor("protected")
    cpu.gate(8)
    tried = cpu.delivery.deliver(Event(13, error_code=0x123))
    # The gate of vector 13 is all zeros: no gate at all.
    assert vectors(tried) == [(13, 0x123), (8, 0)]
    assert cpu.words(4, 2) == [0, 0x1234]


# --- Long mode -----------------------------------------------------------------------------------


def test_long_mode_frame_is_aligned_and_complete() -> None:
    cpu = Processor("long")
    cpu.gate64(14)
    cpu.regs.rsp = 0x9007
    cpu.delivery.deliver(Event(14, error_code=2, cr2=0xFFFF_8000_0000_1000))
    assert cpu.regs.rsp == 0x9000 - 48
    assert cpu.words(8, 6) == [2, 0x1234, LONG0, 0x1_0202, 0x9007, DATA0]
    assert cpu.regs.ss.selector == DATA0


def test_long_mode_privilege_switch_loads_a_null_stack_segment() -> None:
    cpu = Processor("long", cpl=3)
    cpu.gate64(0x40)
    cpu.delivery.deliver(EXTERNAL)
    assert (cpu.regs.cpl, cpu.regs.ss.selector, cpu.regs.rsp) == (0, 0, STACK0 - 40)
    assert cpu.words(8, 5) == [0x1234, LONG3, 0x202, STACK3, DATA3]


@pytest.mark.parametrize("cpl", [0, 3])
def test_interrupt_stack_table(cpl: int) -> None:
    cpu = Processor("long", cpl=cpl)
    cpu.gate64(0x40, ist=1)
    cpu.delivery.deliver(EXTERNAL)
    assert cpu.regs.rsp == 0xB000 - 40


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        pytest.param({"selector": CODE0}, (13, CODE0 | 1), id="32-bit handler"),
        pytest.param({"selector": CODE16}, (13, CODE16 | 1), id="16-bit handler"),
        pytest.param({"kind": 0x85}, (13, 0x203), id="task gate"),
        pytest.param({"kind": 0x86}, (13, 0x203), id="16-bit gate"),
        pytest.param({"kind": 0x0E}, (11, 0x203), id="not present"),
        pytest.param({"ist": 7}, (10, TSS_SELECTOR | 1), id="IST behind the TSS"),
    ],
)
def test_long_mode_failures(gate: dict[str, int], expected: tuple[int, int]) -> None:
    cpu = Processor("long")
    cpu.regs.tr = Segment(TSS_SELECTOR, TSS, 0x3F, 0x8B)
    cpu.gate64(0x40, **gate)
    for vector in (10, 11, 13):
        cpu.gate64(vector)
    assert vectors(cpu.delivery.deliver(EXTERNAL))[1] == expected


def test_idt_limit_counts_16_byte_gates() -> None:
    cpu = Processor("long")
    cpu.regs.idtr = Table(IDT, 0x40 * 16 + 14)
    cpu.gate64(0x40)
    cpu.gate64(13)
    assert vectors(cpu.delivery.deliver(EXTERNAL))[1] == (13, 0x203)


def test_triple_fault_lists_what_was_tried() -> None:
    cpu = Processor("long")
    cpu.regs.idtr = Table(IDT, 0)
    before = cpu.snapshot()
    with pytest.raises(Shutdown) as shutdown:
        cpu.delivery.deliver(Event(14, error_code=0, cr2=0x1234))
    assert [event.vector for event in shutdown.value.args[0]] == [14, 8, 13]
    assert cpu.regs.cr2 == 0x1234
    cpu.regs.cr2 = 0
    assert cpu.snapshot() == before


# --- Task gates ----------------------------------------------------------------------------------


def new_task(cpu: Processor) -> None:
    """A 32-bit TSS at 0x6000, selector 0x48."""
    cpu.put(0x1000 + 0x48, struct.pack("<HHBBBB", 0x67, 0x6000, 0, 0x89, 0, 0))
    words = [0] * 26
    words[8:18] = [HANDLER, 2, *range(1, 5), 0xC000, *range(6, 9)]
    words[18:24] = [DATA0, CODE0, DATA0, DATA0, 0, 0]
    cpu.put(0x6000, struct.pack("<26I", *words))
    cpu.gate(8, selector=0x48, kind=0x85)


def test_task_gate_switches_and_nests() -> None:
    cpu = Processor("protected", cpl=3)
    new_task(cpu)
    cpu.regs.rbx = 0x77
    cpu.delivery.deliver(Event(8, error_code=0))
    regs = cpu.regs
    assert (regs.rip, regs.rax, regs.rdi, regs.cpl) == (HANDLER, 1, 8, 0)
    assert regs.rflags & 0x4000  # NT
    assert regs.cr0 & 8  # TS
    assert (regs.tr.selector, regs.tr.base) == (0x48, 0x6000)
    assert (regs.rsp, cpu.words(4, 1)) == (0xC000 - 4, [0])  # the error code
    assert cpu.memory.read(0x6000, 2) == TSS_SELECTOR  # back link
    assert cpu.memory.read(TSS + 0x20, 4) == 0x1234
    assert cpu.memory.read(TSS + 0x34, 4) == 0x77
    assert cpu.memory.read(TSS + 0x4C, 2) == CODE3
    assert cpu.memory.read(0x1000 + 0x48 + 5, 1) == 0x8B  # busy


def test_a_task_switch_sets_accessed_bits() -> None:
    """SDM 3A 3.4.5.1: whenever a segment register is loaded."""
    cpu = Processor("protected")
    new_task(cpu)
    entries = [GDT + (selector & 0xF8) + 5 for selector in (CODE3, DATA3, DATA0)]
    selectors = struct.pack("<6I", DATA0, CODE3, DATA3, DATA3, 0, 0)
    cpu.put(0x6000 + 0x48, selectors)
    for at in entries:
        cpu.put(at, bytes((cpu.memory.read(at, 1) & ~1,)))
    cpu.put(entries[2], b"\xf2")  # ES, for CPL 3
    cpu.delivery.deliver(Event(8, error_code=0))
    assert cpu.regs.cpl == 3
    assert [cpu.memory.read(at, 1) & 1 for at in entries] == [1, 1, 1]
    assert cpu.regs.cs.attributes & 1


def test_task_switch_disables_local_breakpoints_and_says_so() -> None:
    cpu = Processor("protected")
    new_task(cpu)
    cpu.regs.dr7 = 0x7FF
    seen: list[int] = []
    cpu.delivery.breakpoints_changed = lambda: seen.append(cpu.regs.dr7)
    cpu.delivery.deliver(Event(8, error_code=0))
    assert seen == [0x6AA]


@pytest.mark.parametrize(
    ("access", "limit", "expected"),
    [
        pytest.param(0x8B, 0x67, (13, 0x49), id="busy"),
        pytest.param(0x09, 0x67, (11, 0x49), id="not present"),
        pytest.param(0x89, 0x66, (10, 0x49), id="too short"),
        pytest.param(0x93, 0x67, (13, 0x49), id="no TSS"),
    ],
)
def test_bad_task_gates(access: int, limit: int, expected: tuple[int, int]) -> None:
    cpu = Processor("protected")
    new_task(cpu)
    cpu.put(0x1000 + 0x48, struct.pack("<HHBB", limit, 0x6000, 0, access))
    cpu.gate(0x40, selector=0x48, kind=0x85)
    for vector in (10, 11, 13):
        cpu.gate(vector)
    assert vectors(cpu.delivery.deliver(EXTERNAL))[1] == expected


@pytest.mark.parametrize("event", [SOFTWARE, EXTERNAL], ids=["INT n", "external"])
def test_a_fault_past_the_commit_is_the_new_tasks(event: Event) -> None:
    cpu = Processor("protected")
    new_task(cpu)
    cpu.put(0x6000 + 0x54, struct.pack("<I", NOT_PRESENT))  # DS: code, not present, in the new TSS
    cpu.gate(0x40, selector=0x48, kind=0xE5)
    cpu.gate(11, offset=0x7000)
    tried = vectors(cpu.delivery.deliver(event))
    assert tried == [(0x40, None), (11, NOT_PRESENT | (event is EXTERNAL))]
    # The handler returns to the new task's first instruction, and the old one stands behind INT n.
    assert (cpu.regs.rip, cpu.words(4, 3)[1:]) == (0x7000, [HANDLER, CODE0])
    assert cpu.memory.read(TSS + 0x20, 4) == 0x1234


def test_a_fault_before_the_commit_is_the_old_tasks() -> None:
    cpu = Processor("protected")
    cpu.gate(0x40, selector=0x48, kind=0x85)
    cpu.gate(13)
    cpu.delivery.deliver(SOFTWARE)
    assert cpu.words(4, 2)[1] == SOFTWARE.start


@pytest.mark.parametrize("traps", [False, True])
def test_the_t_bit_of_a_task_is_a_trap_behind_the_switch(traps: bool) -> None:
    cpu = Processor("protected")
    new_task(cpu)
    cpu.put(0x6000 + 0x64, struct.pack("<H", traps))
    cpu.gate(1, offset=0x7000)
    tried = vectors(cpu.delivery.deliver(Event(8, error_code=0)))
    assert tried == [(8, 0), (1, None)][: 1 + traps]
    assert bool(cpu.regs.dr6 & 1 << 15) is traps
    if traps:
        assert (cpu.regs.rip, cpu.regs.rsp) == (0x7000, 0xC000 - 16)
        assert cpu.words(4, 4) == [HANDLER, CODE0, 0x4002, 0]
