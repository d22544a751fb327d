# SPDX-License-Identifier: GPL-2.0-or-later
"""A processor without an engine: registers over plain bytes, identity-mapped memory."""

from __future__ import annotations

import struct

from emu.cpu import hidden as H
from emu.cpu.delivery import Delivery
from emu.cpu.linear import LinearMemory
from emu.cpu.registers import Registers, attributes_to_flags
from emu.state import (
    ATTR_CODE16,
    ATTR_CODE32,
    ATTR_CODE64,
    ATTR_DATA16,
    ATTR_DATA32,
    Segment,
    Table,
)
from mmu.memory import Memory

from .machine_double import IdentityMmu

GDT, LDT, IDT, TSS = 0x1000, 0x1800, 0x2000, 0x4000
STACK0, STACK3, HANDLER = 0x9000, 0xA000, 0x5000
CODE0, DATA0, CODE3, DATA3 = 0x08, 0x10, 0x1B, 0x23
CONFORMING, NOT_PRESENT, CODE16, TSS_SELECTOR = 0x28, 0x30, 0x38, 0x40
LONG0, LONG3 = 0x50, 0x5B
_TABLE = (
    (0, 0),
    (0x9B, 0xC),  # 08 code, DPL 0
    (0x93, 0xC),  # 10 data, DPL 0
    (0xFB, 0xC),  # 18 code, DPL 3
    (0xF3, 0xC),  # 20 data, DPL 3
    (0x9F, 0xC),  # 28 conforming code
    (0x1B, 0xC),  # 30 code, not present
    (0x9B, 0x0),  # 38 16-bit code
    (0x8B, 0x0),  # 40 TSS
    (0, 0),
    (0x9B, 0xA),  # 50 64-bit code
    (0xFB, 0xA),  # 58 64-bit code, DPL 3
)


class State:
    """The views of `HiddenState` that the registers use, over a bytearray."""

    def __init__(self) -> None:
        self.b = memoryview(bytearray(H.ENV_BYTES))
        self.q = self.b.cast("Q")
        self.d = self.b.cast("I")


class Processor:
    """Tables as above; `mode` is "real", "protected", "vm86" or "long"."""

    def __init__(self, mode: str, cpl: int = 0) -> None:
        self.memory = Memory()
        self.memory.add_ram(0, 0x40000)
        self.mmu = IdentityMmu(self.memory)
        self.state = State()
        self.regs = regs = Registers(0, self.state)
        self.state.d[H.CC_OP_D] = 1
        self.delivery = Delivery(
            regs, LinearMemory(0, self.mmu, self.memory), self.state, print, lambda: None
        )
        for number, (access, flags) in enumerate(_TABLE):
            self.put(
                GDT + 8 * number, struct.pack("<HHBBBB", 0xFFFF, 0, 0, access, flags << 4 | 0xF, 0)
            )
        self.put(GDT + TSS_SELECTOR, struct.pack("<HHBBBB", 0x67, TSS, 0, 0x8B, 0, 0))
        regs.gdtr = Table(GDT, 8 * len(_TABLE) - 1)
        regs.idtr = Table(0 if mode == "real" else IDT, 0x3FF if mode == "real" else 0xFFF)
        regs.ldtr = Segment(0, 0, 0, 0)
        regs.rip, regs.rsp = 0x1234, STACK3 if cpl else STACK0
        getattr(self, "_" + mode)(cpl)

    def _real(self, _cpl: int) -> None:
        regs = self.regs
        regs.cr0 = 0x10
        regs.rflags = 0x3
        for number in range(6):
            flags = attributes_to_flags(ATTR_CODE16 if number == 1 else ATTR_DATA16)
            regs.set_segment(number, 0, 0, 0xFFFF, flags)
        regs.rsp = 0x8000

    def _protected(self, cpl: int) -> None:
        regs = self.regs
        regs.cr0 = 0x11
        regs.rflags = 0x202
        self._segments(cpl, ATTR_CODE32, ATTR_DATA32)
        self.put(TSS, struct.pack("<III", 0, STACK0, DATA0))
        regs.tr = Segment(TSS_SELECTOR, TSS, 0x67, 0x8B)

    def _vm86(self, _cpl: int) -> None:
        self._protected(3)
        regs = self.regs
        regs.rflags = 0x2_3202
        for number, selector in enumerate((0x111, 0x100, 0x900, 0x222, 0x333, 0x444)):
            regs.set_segment(number, selector, selector << 4, 0xFFFF, attributes_to_flags(0xF3))
        regs.rsp = 0x100

    def _long(self, cpl: int) -> None:
        regs = self.regs
        regs.cr0 = 0x11
        regs.efer = 0x500
        regs.rflags = 0x202
        self._segments(cpl, ATTR_CODE64, ATTR_DATA32, LONG3 if cpl else LONG0)
        self.put(TSS + 4, struct.pack("<QQQ", STACK0, 0, 0))
        self.put(TSS + 36, struct.pack("<Q", 0xB008))
        regs.tr = Segment(TSS_SELECTOR, TSS, 0x67, 0x8B)

    def _segments(self, cpl: int, code: int, data: int, selector: int | None = None) -> None:
        regs = self.regs
        dpl = cpl << 5
        for number in range(6):
            regs.set_segment(
                number, DATA3 if cpl else DATA0, 0, 0xFFFF_FFFF, attributes_to_flags(data | dpl)
            )
        chosen = selector if selector is not None else CODE3 if cpl else CODE0
        regs.set_segment(1, chosen, 0, 0xFFFF_FFFF, attributes_to_flags(code | dpl))

    def put(self, gpa: int, data: bytes) -> None:
        self.memory.write_block(gpa, data, "loader")

    def gate(
        self, vector: int, *, selector: int = CODE0, offset: int = HANDLER, kind: int = 0x8E
    ) -> None:
        """A 32- or 16-bit gate; `kind` is the access byte."""
        word = struct.pack("<HHBBH", offset & 0xFFFF, selector, 0, kind, offset >> 16)
        self.put(IDT + 8 * vector, word)

    def gate64(
        self,
        vector: int,
        *,
        selector: int = LONG0,
        offset: int = HANDLER,
        kind: int = 0x8E,
        ist: int = 0,
    ) -> None:
        word = struct.pack(
            "<HHBBHII", offset & 0xFFFF, selector, ist, kind, offset >> 16 & 0xFFFF, offset >> 32, 0
        )
        self.put(IDT + 16 * vector, word)

    def words(self, width: int, count: int) -> list[int]:
        """The top of the stack."""
        address = self.regs.segment_base(2) + self.regs.rsp
        return [self.memory.read(address + width * n, width) for n in range(count)]

    def snapshot(self) -> tuple[bytes, bytes]:
        """Everything that delivery could change, but CR2."""
        cr2, self.regs.cr2 = self.regs.cr2, 0
        state = bytes(self.state.b)
        self.regs.cr2 = cr2
        return state, self.memory.read_block(0, 0x40000)
