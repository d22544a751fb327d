# SPDX-License-Identifier: GPL-2.0-or-later
"""Unicorn alone: its own MMU, no clock, no machine around it; and the yardstick.

It shows what the engine itself costs, so that neither the `native` plug-in's clock nor its devices
are taken for it. Exceptions cannot be delivered, so only loads without them run here.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

from elftools.elf.elffile import ELFFile

from emu.bench.emulators import BenchError, Sample, Stopwatch, _sample
from emu.bench.loads import Load
from guests import PASSED

__all__ = ["BareUnicorn", "Yardstick"]

# The binding is untyped.
_unicorn: Any = importlib.import_module("unicorn")
_x86: Any = importlib.import_module("unicorn.x86_const")
_INFO = 0x1000
_COMMAND_LINE = 0x1100
_SENT = 0x60  # line status: both transmitter registers are empty


class Yardstick:
    """The cost of leaving and entering Unicorn: one empty ``emu_start`` of a ``hlt``."""

    def __init__(self) -> None:
        """Make the engine."""
        self._uc = _unicorn.Uc(_unicorn.UC_ARCH_X86, _unicorn.UC_MODE_64)
        self._uc.mem_map(0x1000, 0x1000)
        self._uc.mem_write(0x1000, b"\xf4")
        # Without this, every start translates the instruction before `until`.
        self._uc.ctl_exits_enabled(True)
        self._uc.ctl_set_exits([])

    def measure(self, times: int = 20_000) -> float:
        """Return the seconds of one, the mean of ``times``."""
        start = self._uc.emu_start
        for _ in range(times // 10):
            start(0x1000, 0)
        began = time.perf_counter()
        for _ in range(times):
            start(0x1000, 0)
        return (time.perf_counter() - began) / times


class BareUnicorn:
    """A multiboot loader, COM1's transmitter and two ports, and nothing else."""

    name = "unicorn"

    def can_run(self, load: Load) -> bool:
        """Only what needs no exception."""
        return load.bare

    def run(self, load: Load, operations: int) -> Sample:
        """Run it once in an engine of its own. Raises BenchError."""
        watch = Stopwatch()
        sent = bytearray()
        endings: list[int] = []
        uc = _unicorn.Uc(_unicorn.UC_ARCH_X86, _unicorn.UC_MODE_32)

        def out(_uc: Any, port: int, _size: int, value: int, _data: Any) -> None:
            if port == 0xE9:
                watch(bytes((value & 0xFF,)))
            elif port == 0x3F8:
                sent.append(value & 0xFF)
            elif port == 0xF4:
                endings.append((value << 1 | 1) & 0xFF)
                uc.emu_stop()

        uc.hook_add(_unicorn.UC_HOOK_INSN, lambda *_: _SENT, None, 1, 0, _x86.UC_X86_INS_IN)
        uc.hook_add(_unicorn.UC_HOOK_INSN, out, None, 1, 0, _x86.UC_X86_INS_OUT)
        uc.ctl_exits_enabled(True)
        uc.ctl_set_exits([])
        entry = self._load(uc, load, operations)
        try:
            uc.emu_start(entry, 0)
        except _unicorn.UcError as error:
            raise BenchError(f"{load.name} under bare Unicorn: {error}") from None
        if endings != [PASSED]:
            raise BenchError(f"{load.name} under bare Unicorn: exit {endings} {bytes(sent)!r}")
        return _sample(load, watch, sent.decode(encoding="ascii"), {})

    def _load(self, uc: Any, load: Load, operations: int) -> int:
        """Put the guest and its command line into memory; return the entry point."""
        uc.mem_map(0, load.guest.memory)
        with load.guest.path.open("rb") as file:
            elf = ELFFile(file)
            for segment in elf.iter_segments("PT_LOAD"):
                uc.mem_write(segment["p_paddr"], segment.data())
            entry: int = elf["e_entry"]
        line = f"bench {load.command_line(operations)}".encode(encoding="ascii")
        uc.mem_write(_INFO, (4).to_bytes(16, "little") + _COMMAND_LINE.to_bytes(4, "little"))
        uc.mem_write(_COMMAND_LINE, line + b"\0")
        uc.reg_write(_x86.UC_X86_REG_EAX, 0x2BADB002)
        uc.reg_write(_x86.UC_X86_REG_EBX, _INFO)
        return entry
