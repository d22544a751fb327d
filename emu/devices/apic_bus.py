# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages between APICs: who they are for, and what they carry (SDM 3A 10.6, 10.11).

Local APICs and I/O APICs send through one `ApicBus`. A message is delivered before `send` returns;
since that only ever sets a request bit or a processor's pin, messages cannot chase one another.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Protocol

__all__ = ["UNMASKABLE", "ApicBus", "DeliveryMode", "Message"]

BROADCAST_8, BROADCAST_32 = 0xFF, 0xFFFF_FFFF


class DeliveryMode(IntEnum):
    """Bits 10:8 of the ICR, of LVT entries and of redirection entries."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    RESERVED = 3
    NMI = 4
    INIT = 5
    STARTUP = 6
    EXTINT = 7


UNMASKABLE = frozenset({DeliveryMode.NMI, DeliveryMode.INIT, DeliveryMode.STARTUP})
"""What reaches a processor whatever its IF is."""


class Message(NamedTuple):
    """An interrupt on its way.

    `wide` says that `destination` has the 32 bits of x2APIC mode and not the 8 of xAPIC mode;
    `level` that the interrupt is level-triggered, so that its EOI goes back to the I/O APICs.
    """

    mode: DeliveryMode
    vector: int
    destination: int
    logical: bool = False
    level: bool = False
    wide: bool = False


class Receiver(Protocol):
    """A local APIC, as the bus sees it."""

    def matches(self, message: Message) -> bool:
        """Return whether the message's destination names this APIC."""
        ...

    def priority(self) -> int:
        """Return the arbitration priority: the lowest one gets lowest-priority messages."""
        ...

    def accept(self, mode: DeliveryMode, vector: int, level: bool) -> None:
        """Take a message."""
        ...


class EoiListener(Protocol):
    """An I/O APIC, as the bus sees it."""

    def end_of_interrupt(self, vector: int) -> None:
        """Hear that a processor has ended a level-triggered interrupt."""
        ...


class ApicBus:
    """What connects the APICs of one machine."""

    def __init__(self) -> None:
        """Connect nobody; APICs enter themselves into the lists."""
        self.local: list[Receiver] = []
        """The local APICs by processor index."""
        self.io: list[EoiListener] = []

    def send(self, message: Message) -> None:
        """Deliver to everyone whom the destination names. Linear in processors."""
        self.deliver(message, [apic for apic in self.local if apic.matches(message)])

    def deliver(self, message: Message, receivers: list[Receiver]) -> None:
        """Deliver to these; of a lowest-priority message's receivers the first least busy one."""
        mode, vector, level = message.mode, message.vector, message.level
        if mode is DeliveryMode.LOWEST_PRIORITY and receivers:
            receivers = [min(receivers, key=lambda apic: apic.priority())]
        for apic in receivers:
            apic.accept(mode, vector, level)

    def end_of_interrupt(self, vector: int) -> None:
        """Tell the I/O APICs that a level-triggered interrupt has ended."""
        for apic in self.io:
            apic.end_of_interrupt(vector)
