# SPDX-License-Identifier: GPL-2.0-or-later
"""The architectural state of one processor as plain values, and the states that a run starts from.

A boot loader makes a `CpuState` and hands it to `Vcpu.set_state`; nothing here knows Unicorn.

Segment attributes are the middle word of a descriptor as the processor caches it (SDM 3A 3.4.5),
bits 8-15 and 20-23 of the descriptor's high half, moved to where VMX puts them (SDM 3C 24.4.1):

    15 14 13 12 | 11-8     | 7 | 6 5 | 4 | 3-0
    G  D/B L AVL| reserved | P | DPL | S | type
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "ATTR_CODE16",
    "ATTR_CODE32",
    "ATTR_CODE64",
    "ATTR_DATA16",
    "ATTR_DATA32",
    "GPRS",
    "SEGMENTS",
    "CpuState",
    "Segment",
    "Table",
]

# In the order of the ModRM register numbers, which is also the order of the engine.
GPRS = (
    "rax",
    "rcx",
    "rdx",
    "rbx",
    "rsp",
    "rbp",
    "rsi",
    "rdi",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
)
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")

ATTR_CODE16 = 0x009B
ATTR_DATA16 = 0x0093
ATTR_CODE32 = 0xC09B
ATTR_DATA32 = 0xC093
ATTR_CODE64 = 0xA09B
_ATTR_LDT = 0x0082
_ATTR_TSS_BUSY = 0x008B

_CR0_RESET = 0x6000_0010  # SDM 3A table 9-1: CD, NW, ET
_CR0_FLAT32 = 0x0000_0011  # PE, ET


class Segment(NamedTuple):
    """A segment register with its hidden part; `limit` is in bytes, granularity applied."""

    selector: int
    base: int
    limit: int
    attributes: int


class Table(NamedTuple):
    """GDTR or IDTR."""

    base: int
    limit: int


def _real_segment(selector: int, attributes: int = ATTR_DATA16) -> Segment:
    return Segment(selector, selector << 4, 0xFFFF, attributes)


_TABLE_AFTER_RESET = Table(0, 0xFFFF)
_LDTR_AFTER_RESET = Segment(0, 0, 0xFFFF, _ATTR_LDT)
_TR_AFTER_RESET = Segment(0, 0, 0xFFFF, _ATTR_TSS_BUSY)


@dataclass(slots=True)
class CpuState:
    """All that a boot loader may want to set; the rest is as after reset (SDM 3A 9.1.1).

    `gprs` names registers as in `GPRS`; those left out are 0. `segments` names all of `SEGMENTS`.
    """

    rip: int
    segments: dict[str, Segment]
    gprs: dict[str, int] = field(default_factory=dict)
    rflags: int = 0x2
    cr0: int = _CR0_RESET
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    gdtr: Table = _TABLE_AFTER_RESET
    idtr: Table = _TABLE_AFTER_RESET
    ldtr: Segment = _LDTR_AFTER_RESET
    tr: Segment = _TR_AFTER_RESET

    @classmethod
    def reset(cls) -> CpuState:
        """The state after power-up: the next instruction is at 0xfffffff0 (SDM 3A 9.1.4).

        >>> state = CpuState.reset()
        >>> hex(state.segments["cs"].base + state.rip)
        '0xfffffff0'
        """
        segments = {name: _real_segment(0) for name in SEGMENTS}
        segments["cs"] = Segment(0xF000, 0xFFFF_0000, 0xFFFF, ATTR_CODE16)
        return cls(rip=0xFFF0, segments=segments, gprs={"rdx": 0x600})

    @classmethod
    def real(cls, cs: int, ip: int, *, data: int = 0, sp: int = 0, **gprs: int) -> CpuState:
        """Real mode at cs:ip; DS, ES, SS, FS, GS hold `data`, SP `sp`, `gprs` others by name.

        >>> CpuState.real(0, 0x7C00, sp=0x7C00, rdx=0x80).gprs
        {'rdx': 128, 'rsp': 31744}
        """
        segments = {name: _real_segment(data) for name in SEGMENTS}
        segments["cs"] = _real_segment(cs, ATTR_CODE16)
        idtr = Table(0, 0x3FF)
        return cls(rip=ip, segments=segments, gprs={**gprs, "rsp": sp}, cr0=0x10, idtr=idtr)

    @classmethod
    def flat32(cls, entry: int, *, eax: int = 0, ebx: int = 0, esp: int = 0) -> CpuState:
        """Protected mode, paging off, flat 4 GiB segments: the multiboot 1 machine state (3.2).

        GDTR and IDTR are empty: the guest must load its own before it reloads a segment register.
        """
        segments = {name: Segment(0x10, 0, 0xFFFF_FFFF, ATTR_DATA32) for name in SEGMENTS}
        segments["cs"] = Segment(0x08, 0, 0xFFFF_FFFF, ATTR_CODE32)
        gprs = {"rax": eax, "rbx": ebx, "rsp": esp}
        none = Table(0, 0)
        return cls(rip=entry, segments=segments, gprs=gprs, cr0=_CR0_FLAT32, gdtr=none, idtr=none)
