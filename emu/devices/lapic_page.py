# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the local APICs are in guest-physical memory.

Every processor sees its own registers at one address, and each can move its own by IA32_APIC_BASE.
So there is a page of MMIO wherever any processor has its APIC, and who reads there gets the APIC of
the processor that runs, if that one has its APIC there, and otherwise what is in a hole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from emu.devices import lapic_state as L
from emu.devices.lapic import LocalApic
from emu.ports import LogOnce
from mmu.memory import Memory, MemoryMapError, Slot

__all__ = ["ApicWindow"]

SIZE = 0x1000


_STEADY = (
    *(L.ID, L.VERSION, L.LDR, L.DFR, L.SVR, L.ICR, L.ICR_HIGH),
    *(L.LVT_TIMER, L.LVT_ERROR, L.INITIAL_COUNT, L.DIVIDE),
)


class _Page:
    """The MMIO page at one base."""

    steady = frozenset(index << 4 for index in _STEADY)
    """Offsets of registers that nothing changes but what their processor writes to a device or an
    MSR, and that reading does not change: see `emu.cpu.compiled_devices`."""

    def __init__(self, base: int, apics: Sequence[LocalApic], current: Callable[[], int]) -> None:
        self._base = base
        self._apics = apics
        self._current = current

    def read(self, offset: int, size: int) -> int:
        apic = self._apics[self._current()]
        if apic.mmio_base != self._base:
            return (1 << 8 * size) - 1
        return apic.registers.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        apic = self._apics[self._current()]
        if apic.mmio_base == self._base:
            apic.registers.write(offset, size, value)


class ApicWindow:
    """Keeps the memory map in step with where the APICs are."""

    def __init__(
        self, memory: Memory, apics: Sequence[LocalApic], current: Callable[[], int]
    ) -> None:
        """Map the pages of `apics`; `current()` is the index of the processor that runs now."""
        self._memory = memory
        self._apics = apics
        self._current = current
        self._log = LogOnce("lapic")
        self._slots: dict[int, Slot] = {}
        for apic in apics:
            apic.on_relocated = self._update
        self._update()

    def _page(self, base: int) -> _Page:
        return _Page(base, self._apics, self._current)

    def owns(self, device: object) -> bool:
        """Whether a device of the memory map is one of the pages: they have no state of their own,
        and follow from where the APICs are."""
        return isinstance(device, _Page)

    def _update(self) -> None:
        """Add and remove pages. A base on top of RAM or of another device stays unreachable,
        which is logged; on a board it would hide what is there from its own processor."""
        wanted = {base for apic in self._apics if (base := apic.mmio_base) is not None}
        for base in self._slots.keys() - wanted:
            self._memory.remove(self._slots.pop(base))
        for base in wanted - self._slots.keys():
            try:
                self._slots[base] = self._memory.add_mmio(base, SIZE, self._page(base))
            except MemoryMapError as error:
                self._log(base, "local APIC cannot be moved to %#x: %s", base, error)
