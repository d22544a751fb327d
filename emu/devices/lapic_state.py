# SPDX-License-Identifier: GPL-2.0-or-later
"""The registers of a local APIC as data (SDM 3A chapter 10): places, bits, and state.

`lapic` says what they do, `lapic_registers` how the guest gets at them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from emu.devices.apic_bus import DeliveryMode

DEFAULT_BASE = 0xFEE0_0000

# IA32_APIC_BASE (SDM 3A 10.4.4, 10.12.1).
APIC_BASE_MSR = 0x1B
BASE_BSP = 1 << 8
BASE_X2APIC = 1 << 10
BASE_ENABLE = 1 << 11
TSC_DEADLINE_MSR = 0x6E0
X2APIC_MSRS = range(0x800, 0x900)

# Registers by offset / 16, which is also MSR - 0x800 (SDM 3A tables 10-1 and 10-6).
ID, VERSION = 0x02, 0x03
TPR, APR, PPR, EOI, REMOTE_READ, LDR, DFR, SVR = range(0x08, 0x10)
ISR, TMR, IRR = range(0x10, 0x18), range(0x18, 0x20), range(0x20, 0x28)
ESR = 0x28
ICR, ICR_HIGH = 0x30, 0x31
LVT_TIMER, LVT_THERMAL, LVT_COUNTERS, LVT_LINT0, LVT_LINT1, LVT_ERROR = range(0x32, 0x38)
INITIAL_COUNT, CURRENT_COUNT, DIVIDE, SELF_IPI = 0x38, 0x39, 0x3E, 0x3F

VERSION_VALUE = 0x0005_0014  # six LVT entries, an integrated APIC

SVR_ENABLE = 1 << 8
SVR_BITS = 0x3FF
DFR_CLUSTER, DFR_FLAT = 0x0, 0xF

LVT_MODE_SHIFT = 8
LVT_REMOTE_IRR = 1 << 14
LVT_LEVEL = 1 << 15
LVT_MASKED = 1 << 16
LVT_EXTINT = DeliveryMode.EXTINT << LVT_MODE_SHIFT
# The bits of each entry that can be written (figure 10-8).
LVT_BITS = {
    LVT_TIMER: 0x7_00FF,
    LVT_THERMAL: 0x1_07FF,
    LVT_COUNTERS: 0x1_07FF,
    LVT_LINT0: 0x1_A7FF,
    LVT_LINT1: 0x1_A7FF,
    LVT_ERROR: 0x1_00FF,
}

ICR_BITS = 0x000C_CFFF
ICR_LOGICAL = 1 << 11
ICR_ASSERT = 1 << 14
ICR_LEVEL = 1 << 15
ICR_SHORTHAND_SHIFT = 18
TO_DESTINATION, TO_SELF, TO_ALL, TO_OTHERS = range(4)

# Error status (10.5.3).
SEND_ILLEGAL_VECTOR = 1 << 5
RECEIVED_ILLEGAL_VECTOR = 1 << 6
ILLEGAL_REGISTER = 1 << 7

FIRST_VECTOR = 16  # below are the exceptions: illegal as interrupts


class CpuPins(Protocol):
    """What the APIC does to its processor."""

    def set_intr(self, level: bool) -> None:
        """Drive INTR."""
        ...

    def nmi(self) -> None:
        """Deliver an NMI."""
        ...

    def init(self) -> None:
        """Deliver INIT."""
        ...

    def sipi(self, vector: int) -> None:
        """Deliver a start-up IPI."""
        ...


@dataclass(slots=True)
class LapicState:
    """The registers, as reset and INIT leave them (10.4.7.1)."""

    id: int
    tpr: int = 0
    ldr: int = 0
    dfr: int = DFR_FLAT
    svr: int = 0xFF
    isr: int = 0  # 256-bit sets: bit v is vector v
    tmr: int = 0
    irr: int = 0
    esr: int = 0
    errors: int = 0  # since ESR was last written
    icr: int = 0
    icr_high: int = 0
    extint: bool = False  # a message told to ask the 8259s
    lvt: dict[int, int] = field(default_factory=lambda: dict.fromkeys(LVT_BITS, LVT_MASKED))
