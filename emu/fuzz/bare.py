# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU with 2 MiB of RAM and nothing else, for instructions one at a time.

Every vector leads to a HLT. Tables and handlers are put back before an instruction that changed
them is followed by another.
"""

from __future__ import annotations

import random
from typing import Any

from emu.cpu.slice import Exit
from emu.cpu.vcpu import Vcpu
from emu.ports import PortBus
from emu.state import (
    ATTR_CODE16,
    ATTR_CODE32,
    ATTR_CODE64,
    ATTR_DATA32,
    GPRS,
    SEGMENTS,
    CpuState,
    Segment,
    Table,
)
from mmu.memory import Memory
from mmu.plugins import make_mmu

__all__ = ["Bare"]

_RAM = 2 << 20
_IDT, _HANDLER, _GDT, _TSS, _PML4, _PDPT, _TABLES_END = (
    0x0000,
    0x1000,
    0x1800,
    0x2000,
    0x3000,
    0x4000,
    0x5000,
)
_STACK, _INNER_STACK, _CODE, _DATA, _DATA_END = 0x8000, 0x7000, 0x9000, 0xA000, 0xF000
_CODE32, _DATA0, _CODE64, _CODE16, _TSS_SELECTOR = 8, 0x10, 0x18, 0x20, 0x50
_DPL3 = 0x28  # the same four again, for ring 3
_BUDGET = 4
_HLT = 0xF4

_LONG = ("compat", "long")
_BITS = {"real": 16, "v86": 16, "code16": 16, "code32": 32, "compat": 32, "long": 64}


class _Host:
    """A TlbHost for one vCPU."""

    cpu: Vcpu | None = None

    def flush_tlb(self, cpu: int) -> None:
        """Empty the TLB."""
        if self.cpu is not None:
            self.cpu.flush_tlb()

    def drop_code(self, gfn: int) -> None:
        """Forget translated code."""
        if self.cpu is not None:
            self.cpu.drop_code(gfn)


class Bare:
    """The vCPU in `mode` and `ring`; `execute` runs one instruction."""

    def __init__(self, mode: str, ring: int, registers: int, *, count_blocks: bool = False) -> None:
        """Make it; `registers` seeds what the general registers hold."""
        self.mode = mode
        self.bits = _BITS[mode]
        self.has_vex = mode not in ("real", "v86")
        self._ring = 3 if mode == "v86" else 0 if mode == "real" else ring
        self._rng = random.Random(registers)
        self._blocks = count_blocks  # a clock that does not stop behind one instruction
        self._memory = Memory()
        self._memory.add_ram(0, _RAM)
        host = _Host()
        mmu = make_mmu("uncached", self._memory, host)
        self.cpu = Vcpu(0, mmu, self._memory, PortBus(), count_blocks=count_blocks)
        host.cpu = self.cpu
        self._tables = self._make_tables()
        self._restore()

    def close(self) -> None:
        """Free the engine."""
        self.cpu.close()

    def execute(self, code: bytes) -> int | None:
        """Execute what `code` starts with; return how far RIP has moved, or None if an event was
        delivered or the processor has shut down."""
        if self._memory.read_block(0, _TABLES_END) != self._tables:
            self._restore()
        self._memory.write_block(_CODE, code.ljust(32, b"\xf4"), "loader")
        self.cpu.set_state(self._state())
        if self._blocks:
            self.cpu.run(_BUDGET)
            return None
        end = self.cpu.run(1)
        if self.cpu.regs.rip == _CODE and not self.cpu.record.recent and end is Exit.BUDGET:
            # A store into its own page: the engine counts it, drops the code, and begins again.
            end = self.cpu.run(2)
        if self.cpu.record.recent or end is not Exit.BUDGET:
            return None
        return self.cpu.regs.rip - _CODE

    # --- The machine ------------------------------------------------------------------------------

    def _restore(self) -> None:
        self._memory.write_block(0, self._tables, "loader")

    def _make_tables(self) -> bytes:
        memory = bytearray(_TABLES_END)

        def put(at: int, *words: int) -> None:
            for number, word in enumerate(words):
                memory[at + 8 * number : at + 8 * number + 8] = word.to_bytes(8, "little")

        if self.mode == "real":
            memory[_IDT : _IDT + 0x400] = _HANDLER.to_bytes(4, "little") * 256
        elif self.mode in _LONG:
            put(_IDT, *(_HANDLER | _CODE64 << 16 | 0xEE00 << 32, 0) * 128)
        else:
            put(_IDT, *(_HANDLER | _CODE32 << 16 | 0xEE00 << 32,) * 256)
        memory[_HANDLER] = _HLT
        flat = [0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF, 0x00009B000000FFFF]
        put(_GDT, 0, *flat, *(word | 3 << 45 for word in flat), 0)
        put(_GDT + _TSS_SELECTOR, 0x0000_8B00_0000_0067 | _TSS << 16, 0)
        if self.mode in _LONG:
            put(_TSS + 4, _INNER_STACK)
        else:
            put(_TSS, _INNER_STACK << 32, _DATA0)
        put(_PML4, _PDPT | 7)
        put(_PDPT, 0x87)
        return bytes(memory)

    def _state(self) -> CpuState:
        gprs = {name: self._value() for name in GPRS}
        gprs["rsp"] = _STACK
        if self.mode == "real":
            state = CpuState.real(0, _CODE, sp=_STACK)
            state.gprs.update({**gprs, "rsp": _STACK})
            return state
        add = 3 if self._ring else 0
        code = {"code16": _CODE16, "long": _CODE64}.get(self.mode, _CODE32)
        attributes = {"code16": ATTR_CODE16, "long": ATTR_CODE64}.get(self.mode, ATTR_CODE32)
        data = _DATA0
        if self._ring:
            code, data = code + _DPL3 - 8 | 3, data + _DPL3 - 8 | 3
        dpl = 0x60 if add else 0
        segments = {n: Segment(data, 0, 0xFFFF_FFFF, ATTR_DATA32 | dpl) for n in SEGMENTS}
        segments["cs"] = Segment(code, 0, 0xFFFF_FFFF, attributes | dpl)
        flags = 2
        if self.mode == "v86":
            segments = {n: Segment(0, 0, 0xFFFF, 0xF3) for n in SEGMENTS}
            flags |= 1 << 17 | 3 << 12
        options: dict[str, Any] = {"cr0": 0x11, "cr4": 0x600}
        if self.mode in _LONG:
            options = {"cr0": 0x8000_0011, "cr3": _PML4, "cr4": 0x620, "efer": 0x501}
        return CpuState(
            rip=_CODE,
            segments=segments,
            gprs=gprs,
            rflags=flags,
            gdtr=Table(_GDT, _TSS_SELECTOR + 15),
            idtr=Table(_IDT, 0x7FF),
            tr=Segment(_TSS_SELECTOR, _TSS, 0x67, 0x8B),
            **options,
        )

    def _value(self) -> int:
        """Return what a register holds: mostly an address in RAM, or a small number."""
        kind = self._rng.randrange(8)
        if kind == 0:
            return self._rng.getrandbits(64)
        return self._rng.randrange(64) if kind < 3 else self._rng.randrange(_DATA, _DATA_END)
