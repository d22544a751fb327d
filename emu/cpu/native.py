# SPDX-License-Identifier: GPL-2.0-or-later
"""The `native` plug-in: Unicorn's own MMU, for comparison.

The engine walks the guest's tables itself, and reports page faults as exceptions with CR2 and the
error code set. What the processor does on its own (delivery, descriptor reads) and the debugger
still need a translation; for them there is a plain walk. Devices and holes lie at their true
addresses. ROM can be written here, and a fetch from a device or a hole ends the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emu.cpu import raw
from mmu.api import MAP_EXEC, MAP_READ, MAP_WRITE, Answer, Mmu, PagingRegisters, TlbHost
from mmu.arch import PAGE_SHIFT, Features
from mmu.memory import Memory
from mmu.observe import Counters
from mmu.walker import Context, set_accessed_dirty, walk

__all__ = ["NativeMmu", "map_holes"]

_END = 1 << 40


class NativeMmu(Mmu):
    """Stands in the plug-in's place where Unicorn translates by itself."""

    name = "native"

    def __init__(
        self, memory: Memory, host: TlbHost, cpus: int, *, features: Features, pool: int = 0
    ) -> None:
        """Serve `cpus` vCPUs; `pool` means nothing."""
        self.counters = Counters()
        self._memory = memory
        self._host = host
        self._contexts = [Context(features) for _ in range(cpus)]

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """Take the control registers as they now are."""
        self._contexts[cpu].load(self._memory, regs)

    def translate(self, cpu: int, gva: int, access: int) -> Answer:
        """Walk for an access of the processor itself."""
        found = walk(self._memory, self._contexts[cpu], gva, access)
        if found.fault is not None:
            return found.fault
        set_accessed_dirty(self._memory, self._contexts[cpu], found)
        return found.frame << PAGE_SHIFT | MAP_READ | MAP_WRITE | MAP_EXEC

    def invlpg(self, cpu: int, gva: int) -> None:
        """Nothing is kept here."""
        self.counters.invlpg += 1

    def flushed(self, cpu: int) -> None:
        """Nothing is kept here."""

    def written(self, gpa: int, size: int, source: str) -> None:
        """Have code that the loader, a device or the debugger has changed translated again.

        The engine sees the guest's own stores. What the processor pushes is not looked at.
        """
        if source != "guest":
            self._host.drop_code(gpa >> PAGE_SHIFT)

    def remapped(self) -> None:
        """Nothing is kept here."""

    def check(self) -> None:
        """Nothing is kept here, so nothing can be wrong."""


def map_holes(
    handle: int, memory: Memory, access: Callable[[bool, int, int, int], int]
) -> list[Any]:
    """Map what is neither RAM nor ROM to `access(read, gpa, size, value)`; keep the result."""
    keep: list[Any] = []
    start = 0
    ends = [(slot.gpa, slot.end) for slot in memory.slots() if slot.device is None]
    for gpa, end in [*ends, (_END, _END)]:
        if gpa > start:
            keep.append(_map_hole(handle, start, gpa - start, access))
        start = end
    return keep


def _map_hole(
    handle: int, base: int, size: int, access: Callable[[bool, int, int, int], int]
) -> tuple[Any, Any]:
    def read(_uc: int, offset: int, width: int, _data: int) -> int:
        return access(True, base + offset, width, 0)

    def write(_uc: int, offset: int, width: int, value: int, _data: int) -> None:
        access(False, base + offset, width, value)

    callbacks = raw.MMIO_READ_CALLBACK(read), raw.MMIO_WRITE_CALLBACK(write)
    raw.map_mmio(handle, base, size, *callbacks)
    return callbacks
