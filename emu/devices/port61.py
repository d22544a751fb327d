# SPDX-License-Identifier: GPL-2.0-or-later
"""System control port B, port 0x61: the gate and output of the speaker's timer.

82371SB (PIIX3) data sheet 2.6.2. Bit 4 toggles with every memory refresh, which older kernels use
as a 15 us clock; counter 1 paced it with a count of 18 on every PC.
"""

from __future__ import annotations

from emu.devices.pit import Pit
from emu.savable import Savable, State

__all__ = ["SystemControlB"]

GATE_2 = 1 << 0
WRITABLE = 0x0F
REFRESH = 1 << 4
OUT_2 = 1 << 5
SPEAKER_COUNTER = 2
REFRESH_TICKS = 18


class SystemControlB(Savable):
    """Port 0x61, one byte."""

    def __init__(self, pit: Pit) -> None:
        """Gate and watch counter 2 of `pit`."""
        self._pit = pit
        self.control = 0
        """Bits 0 to 3: timer gate, speaker data, and two enables of parity checks we never fail."""

    def reset(self) -> None:
        """Close the gate."""
        self.write(0x61, 1, 0)

    def save(self) -> State:
        """Return the control bits; the gate is the 8254's."""
        return self._make_state(control=self.control)

    def load(self, state: State) -> None:
        """Take a saved state."""
        (self.control,) = self._parts_of(state, control=int)

    def read(self, port: int, size: int) -> int:
        """Return the control bits, the refresh toggle and OUT of counter 2."""
        value = self.control
        if self._pit.tick() // REFRESH_TICKS & 1:
            value |= REFRESH
        if self._pit.out(SPEAKER_COUNTER):
            value |= OUT_2
        return value

    def write(self, port: int, size: int, value: int) -> None:
        """Set the control bits; the others are read-only."""
        self.control = value & WRITABLE
        self._pit.set_gate(SPEAKER_COUNTER, bool(value & GATE_2))
