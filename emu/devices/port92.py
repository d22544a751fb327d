# SPDX-License-Identifier: GPL-2.0-or-later
"""System control port A, port 0x92 of the PS/2: fast A20 and fast reset; and the A20 gate itself.

Two chips hold the A20 line, this port and the keyboard controller; it is up when either says so.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.ports import IrqLine
from emu.savable import Savable, State

__all__ = ["A20Gate", "SystemControlA"]

FAST_RESET = 1 << 0
A20 = 1 << 1


class A20Gate(Savable):
    """The OR gate behind address line 20."""

    def __init__(self, output: IrqLine | None = None) -> None:
        """Drive `output` whenever the line changes; it starts up, as firmware leaves it. The board
        has none: its memory does not wrap at 1 MiB (README, Limits)."""
        self._output = output
        self._inputs: dict[str, bool] = {}
        self.enabled = True
        """Whether address bit 20 passes."""

    def save(self) -> State:
        """Return what each input has been driven to, and the line."""
        return self._make_state(inputs=self._inputs, enabled=self.enabled)

    def load(self, state: State) -> None:
        """Take a saved state."""
        self._inputs, self.enabled = self._parts_of(state, inputs=dict[str, bool], enabled=bool)

    def input(self, name: str) -> IrqLine:
        """Return the input that the chip `name` drives; all down until first driven."""

        def drive(level: bool) -> None:
            self._inputs[name] = level
            enabled = any(self._inputs.values())
            if enabled != self.enabled:
                self.enabled = enabled
                if self._output is not None:
                    self._output(enabled)

        return drive


class SystemControlA(Savable):
    """Port 0x92, one byte."""

    def __init__(self, a20: IrqLine, reset: Callable[[], None]) -> None:
        """Drive `a20` with bit 1 and call `reset` when bit 0 goes from 0 to 1."""
        self._a20 = a20
        self._reset = reset
        self.value = 0
        """The register as it reads."""

    def reset(self) -> None:
        """Clear the register. The keyboard controller holds A20 up."""
        self.write(0x92, 1, 0)

    def save(self) -> State:
        """Return the register."""
        return self._make_state(value=self.value)

    def load(self, state: State) -> None:
        """Take a saved state."""
        (self.value,) = self._parts_of(state, value=int)

    def read(self, port: int, size: int) -> int:
        """Return what was last written."""
        return self.value

    def write(self, port: int, size: int, value: int) -> None:
        """Set A20; a rising bit 0 resets the processor."""
        rising = value & ~self.value
        self.value = value & 0xFF
        self._a20(bool(value & A20))
        if rising & FAST_RESET:
            self._reset()
