# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that mean harm, on a whole machine: each run ends in time, and never by our failure."""

from __future__ import annotations

import random
import struct

import pytest

from emu.board import BoardOptions
from emu.machine import Machine
from emu.outcome import Kind
from emu.state import CpuState, Table

ENTRY, IDT, GDT, HANDLERS, STACKS = 0x10_0000, 0x20_0000, 0x20_0800, 0x20_1000, 0x30_0000
LAPIC, IOAPIC, HPET = 0xFEE0_0000, 0xFEC0_0000, 0xFED0_0000
EXIT = "b010 66baf400 ee f4 ebfd"  # mov al,10h; out f4h,al; hlt; jmp
TIMEOUT = 5.0
PATIENCE = 15.0  # host seconds in which a run of TIMEOUT must be over, on a busy host

EOI = "c705b000e0fe00000000"  # mov dword [fee000b0h],0
ENABLE = "c705f000e0feff010000"  # mov dword [fee000f0h],1ffh
SELF_IPI = "c7050003e0fe40000400"  # mov dword [fee00300h],40040h
# For faults with an error code: skip the two bytes of WRMSR; for interrupts: EOIs of all kinds.
SKIP = "8344240402 83c404 cf"
SERVE = f"50 {EOI} b020 e6a0 e620 58 cf"


def store(address: int, value: int) -> str:
    """Mov dword [address], value."""
    return "c705" + struct.pack("<II", address, value).hex()


def wrmsr(index: int, value: int) -> str:
    words = (index, value & 0xFFFF_FFFF, value >> 32)
    return "b9{} b8{} ba{} 0f30".format(*(struct.pack("<I", word).hex() for word in words))


def out(port: int, size: int, value: int) -> str:
    setup = "66ba" + struct.pack("<H", port).hex() + "b8" + struct.pack("<I", value).hex()
    return setup + {1: "ee", 2: "66ef", 4: "ef"}[size]


def machine(code: str, cpus: int = 1, serve: str = SERVE, **options) -> Machine:
    """A flat 32-bit kernel that all processors run, under an IDT that serves everything."""
    m = Machine(
        bytes.fromhex(code),
        format="flat32",
        address=ENTRY,
        memory=4 << 20,
        cpus=cpus,
        board=BoardOptions(test_device=True),
        **options,
    )
    handlers = (bytes.fromhex(serve), bytes.fromhex(SKIP), bytes.fromhex(EXIT))
    places = [HANDLERS + 0x100 * number for number in range(3)]
    for place, handler in zip(places, handlers, strict=True):
        m.phys[place : place + len(handler)] = handler
    for vector in range(256):
        place = places[0] if vector >= 32 or vector == 2 else places[1 if vector == 13 else 2]
        gate = place & 0xFFFF | 8 << 16 | 0x8E00 << 32 | place >> 16 << 48
        m.phys[IDT + 8 * vector : IDT + 8 * vector + 8] = gate.to_bytes(8, "little")
    for number, word in enumerate((0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF)):
        m.phys[GDT + 8 * number : GDT + 8 * number + 8] = word.to_bytes(8, "little")
    for cpu in m.cpus:
        cpu.set_state(CpuState.flat32(ENTRY, esp=STACKS + 0x4000 * (cpu.index + 1)))
        cpu.waits_for_sipi = False
        cpu.regs.gdtr, cpu.regs.idtr = Table(GDT, 0x17), Table(IDT, 0x7FF)
    return m


def run(m: Machine):
    with m:
        outcome = m.run(timeout=TIMEOUT)
        assert outcome.kind is not Kind.INTERNAL, outcome.report
        assert outcome.seconds < PATIENCE
        return outcome


# --- Interrupts without end ----------------------------------------------------------------------


@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize(
    "serve",
    [
        pytest.param(f"{EOI} cf", id="served"),
        pytest.param("cf", id="never ended"),
        pytest.param(f"{EOI} {SELF_IPI} cf", id="sent again by the handler"),
        pytest.param(f"fb {EOI} {SELF_IPI} cf", id="nested until the stack is gone"),
    ],
)
def test_self_ipis_without_end(cpus: int, serve: str) -> None:
    loop = SELF_IPI + "eb" + struct.pack("<b", -12).hex()
    with machine(ENABLE + "fb" + loop, cpus, serve) as m:
        outcome = m.run(timeout=0.5)
        assert outcome.kind in (Kind.TIMEOUT, Kind.TRIPLE_FAULT, Kind.GUEST_EXIT), outcome.report
        assert outcome.seconds < PATIENCE


@pytest.mark.parametrize("cpus", [1, 4])
def test_nmis_to_everybody(cpus: int) -> None:
    loop = store(LAPIC + 0x300, 0x0008_0400) + "eb" + struct.pack("<b", -12).hex()
    with machine(ENABLE + loop, cpus) as m:
        assert m.run(timeout=0.5).kind is Kind.TIMEOUT


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_inits_to_everybody(cpus: int) -> None:
    loop = store(LAPIC + 0x300, 0x0008_0500) + "eb" + struct.pack("<b", -12).hex()
    assert run(machine(ENABLE + loop, cpus)).kind is Kind.RESET  # the first one is in the firmware


# --- An APIC that goes away ----------------------------------------------------------------------


@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize(
    "base", [0xFEE0_0000, 0xFEE0_0C00, 0x1000_0800, 0xFEC0_0800, 0x0020_0800, 0xFF_FFFF_F800]
)
def test_apic_switched_off_or_moved_with_interrupts_on_their_way(cpus: int, base: int) -> None:
    timer = store(LAPIC + 0x320, 0x2_0041) + store(LAPIC + 0x3E0, 0xB) + store(LAPIC + 0x380, 1000)
    code = ENABLE + timer + "fb" + SELF_IPI * 2 + wrmsr(0x1B, base) + SELF_IPI + EOI
    code += "b900100000 e2fe" + wrmsr(0x1B, 0xFEE0_0800) + SELF_IPI
    outcome = run(machine(code + EXIT, cpus))
    assert outcome.kind is not Kind.TIMEOUT


# --- Processors that die -------------------------------------------------------------------------


@pytest.mark.parametrize("cpus", [2, 4])
def test_triple_fault_of_another_processor(cpus: int) -> None:
    code = f"{ENABLE} {store(LAPIC + 0x300, 0xC_4500)} {store(LAPIC + 0x300, 0xC_4608)} ebfe"
    with machine(code, cpus) as m:
        m.phys[0x8000:0x800E] = bytes.fromhex("2e0f011e0800 0f0b 000000000000")  # lidt cs:[8]; ud2
        for cpu in m.cpus[1:]:
            cpu.init()
        outcome = m.run(timeout=TIMEOUT)
    assert (outcome.kind, outcome.cpu) == (Kind.TRIPLE_FAULT, 1)
    assert "vCPU 1" in outcome.report


# --- Nonsense ------------------------------------------------------------------------------------

MSRS = (
    *(0x10, 0x1B, 0x3B, 0x6E0, 0x174, 0x1D9, 0x277, 0x2FF, 0x200, 0x201, 0x250),
    *range(0x800, 0x840),
    *(0xC000_0080, 0xC000_0081, 0xC000_0084, 0xC000_0100, 0xC000_0102, 0xC000_0103),
)


def word(rng: random.Random) -> int:
    """A value as drivers write them, or of no sense at all."""
    return rng.choice((0, 1, 0xFFFF_FFFF, 1 << rng.randrange(32), rng.getrandbits(32)))


def lapic(rng: random.Random) -> str:
    return store(LAPIC + rng.choice((16 * rng.randrange(64), rng.randrange(0xFFC))), word(rng))


def ioapic(rng: random.Random) -> str:
    return store(IOAPIC, rng.randrange(0x40)) + store(IOAPIC + 16, word(rng))


def hpet(rng: random.Random) -> str:
    return store(HPET + rng.choice((4 * rng.randrange(0x60), rng.randrange(0x3FC))), word(rng))


def msr(rng: random.Random) -> str:
    index = rng.choice(MSRS) if rng.random() < 0.9 else rng.getrandbits(32)
    return wrmsr(index, word(rng) | word(rng) << 32)


def port(rng: random.Random) -> str:
    number = rng.choice((rng.randrange(0x100), rng.randrange(0x3B0, 0x400), rng.getrandbits(16)))
    if number in range(0xF1, 0xF8):  # the way out
        number = 0x80
    return out(number, rng.choice((1, 2, 4)), word(rng))


KINDS = {"LAPIC": lapic, "I/O APIC": ioapic, "HPET": hpet, "MSRs": msr, "ports": port}


@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize("kind", [*KINDS, "everything"])
@pytest.mark.parametrize("seed", range(3))
def test_random_writes(kind: str, cpus: int, seed: int) -> None:
    rng = random.Random(f"{kind}/{cpus}/{seed}")
    makers = list(KINDS.values()) if kind == "everything" else [KINDS[kind]]
    code = ENABLE + "fb" + "".join(rng.choice(makers)(rng) for _ in range(400))
    run(machine(code + EXIT, cpus))
