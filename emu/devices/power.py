# SPDX-License-Identifier: GPL-2.0-or-later
"""How kernels that read no ACPI tables switch the machine off.

- 0x604: the PM1a control register of the PIIX4 (`emu.devices.acpi_pm`), where a program that knows
  QEMU's pc sets SLP_EN with sleep type 0. (0xb004, where Bochs and early versions of QEMU have that
  register, is nothing here, as in QEMU today.)
- 0x8900 (Bochs): the letters of "Shutdown", one after the other. QEMU does not have it, and it is
  absent where the command line asks for QEMU's way of ending a run.
"""

from __future__ import annotations

from emu.outcome import Kind
from emu.ports import Stop
from emu.savable import Savable, State

__all__ = ["SLEEP_ENABLE", "SLEEP_TYPE_OFF", "ShutdownPort"]

# PM1 control register, ACPI 4.8.3.2.1; what the sleep types mean is the PIIX4's choice
# (82371AB data sheet 7.2.4): 0 is soft off.
SCI_ENABLE = 1 << 0
SLEEP_TYPE_SHIFT = 10
SLEEP_TYPE_MASK = 7 << SLEEP_TYPE_SHIFT
SLEEP_ENABLE = 1 << 13
SLEEP_TYPE_OFF = 0


class ShutdownPort(Savable):
    """The port to which "Shutdown" is spelled; a wrong letter means starting again."""

    WORD = b"Shutdown"

    def __init__(self, stop: Stop) -> None:
        """Call `stop(Kind.POWER_OFF, None)` after the last letter."""
        self._stop = stop
        self._spelled = 0

    def reset(self) -> None:
        """Forget the letters so far."""
        self._spelled = 0

    def save(self) -> State:
        """Return how many letters were right so far."""
        return self._make_state(spelled=self._spelled)

    def load(self, state: State) -> None:
        """Take a saved state."""
        (self._spelled,) = self._parts_of(state, spelled=int)

    def read(self, port: int, size: int) -> int:
        """Return all ones: there is nothing to read."""
        return 0xFF

    def write(self, port: int, size: int, value: int) -> None:
        """Take one letter."""
        if value == self.WORD[self._spelled]:
            self._spelled += 1
        else:
            self._spelled = int(value == self.WORD[0])
        if self._spelled == len(self.WORD):
            self._spelled = 0
            self._stop(Kind.POWER_OFF, None)
