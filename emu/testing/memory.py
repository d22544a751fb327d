# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory by the names of the kernel's variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emu.machine import Machine

__all__ = ["SymbolMemory"]

_NUMBERS = (1, 2, 4, 8)


class SymbolMemory:
    """`memory["ticks"]` is an unsigned number if the variable has 1, 2, 4 or 8 bytes, else bytes.

    A symbol without a size, as a label in assembly, stands for 8 bytes in a 64-bit kernel and 4 in
    a 32-bit one. An int or a slice is an address, as in `Machine.memory`.
    """

    def __init__(self, machine: Machine, address: Callable[[str | int], int]) -> None:
        self._machine = machine
        self._address = address

    def _extent(self, name: str) -> slice:
        start = self._address(name)
        found = self._machine.symbols.extent_of(name)
        size = found[1] if found is not None else 0
        return slice(start, start + (size or self._machine.symbols.bits // 8))

    def __getitem__(self, key: str | int | slice) -> Any:
        """Read; raises KeyError for an unknown symbol, LookupError where nothing is mapped."""
        if not isinstance(key, str):
            return self._machine.memory[key]
        extent = self._extent(key)
        data: bytes = self._machine.memory[extent]
        return int.from_bytes(data, "little") if len(data) in _NUMBERS else data

    def __setitem__(self, key: str | int | slice, value: int | bytes) -> None:
        """Write, as a debugger: rights do not matter. A number wraps to the variable's size."""
        if not isinstance(key, str):
            self._machine.memory[key] = value
            return
        extent = self._extent(key)
        size = extent.stop - extent.start
        if isinstance(value, int):
            value = (value % (1 << 8 * size)).to_bytes(size, "little")
        self._machine.memory[extent] = value
