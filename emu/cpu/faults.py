# SPDX-License-Identifier: GPL-2.0-or-later
"""Events of the processor as values: exceptions, interrupts, and what follows from one in another.

Vectors, classes and error codes are those of SDM 3A chapter 6.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "EXT",
    "IDT",
    "Event",
    "Fault",
    "Shutdown",
    "Source",
    "Vector",
    "combine",
    "describe_event",
]

# Bits of an error code that names a selector or a gate (SDM 3A 6.13).
EXT = 1 << 0
IDT = 1 << 1


class Vector(IntEnum):
    """Exception vectors (SDM 3A table 6-1)."""

    DE = 0
    DB = 1
    NMI = 2
    BP = 3
    OF = 4
    BR = 5
    UD = 6
    NM = 7
    DF = 8
    TS = 10
    NP = 11
    SS = 12
    GP = 13
    PF = 14
    MF = 16
    AC = 17
    MC = 18
    XM = 19


class Source(IntEnum):
    """What an event comes from: it decides gate checks, the EXT bit and the return address."""

    EXCEPTION = 0
    """A fault or trap that the processor found."""
    EXTERNAL = 1
    """The INTR pin or NMI."""
    SOFTWARE = 2
    """INT n, INT3, INTO: the gate's DPL counts."""
    ICEBP = 3
    """INT1: software, but without the check of the gate's DPL."""


class Event(NamedTuple):
    """Something to be delivered through the IDT.

    `error_code` is None where none is pushed, `cr2` the address for CR2 or None. `start` is the
    offset of the instruction that a software event comes from, behind which RIP already stands;
    if delivery faults, RIP goes back there.
    """

    vector: int
    source: Source = Source.EXCEPTION
    error_code: int | None = None
    cr2: int | None = None
    start: int | None = None


class Fault(Exception):
    """An exception found while the processor itself reads or writes memory or checks tables."""

    def __init__(self, vector: int, error_code: int | None = 0, cr2: int | None = None) -> None:
        """Describe it as `Event` does."""
        super().__init__(vector, error_code, cr2)
        self.vector = vector
        self.error_code = error_code
        self.cr2 = cr2
        self.in_new_task = False
        """Found when a task switch was past its commit: the old instruction is left for good."""


class Shutdown(Exception):
    """A fault while a double fault was delivered."""


_CONTRIBUTORY = frozenset({Vector.DE, Vector.TS, Vector.NP, Vector.SS, Vector.GP})
# Exceptions whose saved image has RF set, so that a breakpoint does not hit twice
# (SDM 3B 17.3.1.1); #DB decides for itself.
FAULT_CLASS = frozenset({0, 5, 6, 7, 10, 11, 12, 13, 14, 16, 17, 19})


def combine(first: Event, fault: Fault) -> Event:
    """Return what is delivered when delivering `first` met `fault` (SDM 3A table 6-5).

    Raises Shutdown for a fault in a double fault.
    """
    serial = Event(fault.vector, Source.EXCEPTION, fault.error_code, fault.cr2)
    if first.source is not Source.EXCEPTION:
        return serial
    serious = fault.vector in _CONTRIBUTORY or fault.vector == Vector.PF
    if first.vector == Vector.DF and serious:
        raise Shutdown
    after_contributory = first.vector in _CONTRIBUTORY and fault.vector in _CONTRIBUTORY
    if after_contributory or (first.vector == Vector.PF and serious):
        return Event(Vector.DF, Source.EXCEPTION, 0, fault.cr2)
    return serial


def describe_event(event: Event) -> str:
    """Return an event in words, its error code decoded.

    >>> describe_event(Event(13, error_code=0x42))
    '#GP error code 0x42 (IDT entry 0x8)'
    >>> describe_event(Event(0x80, Source.SOFTWARE))
    'int 0x80'
    """
    if event.source is Source.EXTERNAL:
        return "NMI" if event.vector == Vector.NMI else f"interrupt {event.vector:#x}"
    if event.source is Source.SOFTWARE:
        return f"int {event.vector:#x}"
    try:
        text = "#" + Vector(event.vector).name
    except ValueError:
        text = f"exception {event.vector}"
    code = event.error_code
    if code is None:
        return text
    if event.vector == Vector.PF:
        from mmu.api import describe_error_code

        return f"{text} at {event.cr2 or 0:#x} ({describe_error_code(code)})"
    if code == 0:
        return text
    if code & IDT:
        what = f"IDT entry {code >> 3:#x}"
    else:
        what = f"{'LDT' if code & 4 else 'GDT'} selector {code & 0xFFFC:#x}"
    if code & EXT:
        what += ", external"
    return f"{text} error code {code:#x} ({what})"
