# SPDX-License-Identifier: GPL-2.0-or-later
"""The quick delivery beside the whole one: what the one does, the other would do, and what a route
was read from is looked at again at every event."""

from __future__ import annotations

import struct

import pytest

from emu.cpu.faults import Event, Shutdown, Source
from emu.state import Table

from .delivery_double import GDT, IDT, LONG0, STACK0, STACK3, Processor

EVENTS = {
    "page fault": Event(14, error_code=6, cr2=0x1234_5000),
    "general protection": Event(13, error_code=0),
    "undefined opcode": Event(6),
    "interrupt": Event(0x40, Source.EXTERNAL),
    "int n": Event(0x40, Source.SOFTWARE, start=0x1232),
    "debug": Event(1),
}


def nothing(cpu: Processor) -> None:
    """As before."""


def another_handler(cpu: Processor) -> None:
    for vector in (6, 13, 14, 0x40):
        cpu.gate64(vector, offset=0x6000)


def upper_half_of_the_handler(cpu: Processor) -> None:
    for vector in (6, 13, 14, 0x40):
        cpu.put(IDT + 16 * vector + 8, struct.pack("<I", 0x7FFF))


def trap_gates(cpu: Processor) -> None:
    for vector in (6, 13, 14, 0x40):
        cpu.gate64(vector, kind=0x8F)


def gates_not_present(cpu: Processor) -> None:
    for vector in (6, 13, 14, 0x40):
        cpu.gate64(vector, kind=0x0E)


def code_of_another_limit(cpu: Processor) -> None:
    cpu.put(GDT + LONG0, struct.pack("<H", 0x1234))


def code_not_present(cpu: Processor) -> None:
    cpu.put(GDT + LONG0 + 5, b"\x1b")


def shorter_idt(cpu: Processor) -> None:
    cpu.regs.idtr = Table(IDT, 6 * 16)


def shorter_gdt(cpu: Processor) -> None:
    cpu.regs.gdtr = Table(GDT, LONG0 + 3)


def tables_moved(cpu: Processor) -> None:
    memory = cpu.memory
    memory.write_block(0x10000, memory.read_block(GDT, 0x800), "loader")
    memory.write_block(0x11000, memory.read_block(IDT, 0x1000), "loader")
    memory.write_block(0x11000 + 14 * 16, b"\x00\x70", "loader")
    cpu.regs.gdtr, cpu.regs.idtr = Table(0x10000, 0x7F), Table(0x11000, 0xFFF)


def flushed(cpu: Processor) -> None:
    cpu.delivery._linear.flush()


CHANGES = (
    nothing,
    another_handler,
    upper_half_of_the_handler,
    trap_gates,
    gates_not_present,
    code_of_another_limit,
    code_not_present,
    shorter_idt,
    shorter_gdt,
    tables_moved,
    flushed,
)


def processor(cpl: int) -> Processor:
    cpu = Processor("long", cpl)
    for vector in (1, 6, 13, 14, 0x40):
        cpu.gate64(vector, kind=0xEE if vector == 0x40 else 0x8E)
    return cpu


def whole(cpu: Processor, event: Event) -> object:
    try:
        return cpu.delivery.deliver(event)
    except Shutdown as shutdown:
        return shutdown.args[0]


def quick_first(cpu: Processor, event: Event) -> tuple[object, bool]:
    before = cpu.snapshot()
    if cpu.delivery.quickly(event):
        return [event], True
    assert cpu.snapshot() == before, "it changed something and then gave up"
    return whole(cpu, event), False


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("name", EVENTS)
def test_a_quick_delivery_is_the_whole_one(name: str, cpl: int, change) -> None:
    event = EVENTS[name]
    one, other = processor(cpl), processor(cpl)
    taken = []
    for step in (nothing, nothing, change, nothing):
        for cpu in (one, other):
            cpu._long(cpl)
            cpu.regs.rip, cpu.regs.rsp = 0x1234, STACK3 if cpl else STACK0
            step(cpu)
        tried, quick = quick_first(one, event)
        assert tried == whole(other, event)
        assert one.snapshot() == other.snapshot()
        taken.append(quick)
    assert taken[:2] == [False, name != "debug"]
