# SPDX-License-Identifier: GPL-2.0-or-later
"""The ports by which kernels that read no ACPI tables switch the machine off.

- 0x604 (QEMU) and 0xb004 (Bochs, early QEMU): the PM1a control register of the PIIX4, where a
  program that knows its machine sets SLP_EN with sleep type 0.
- 0x8900 (Bochs): the letters of "Shutdown", one after the other.
"""

from __future__ import annotations

from emu.outcome import Kind
from emu.ports import LogOnce, Stop

__all__ = ["SLEEP_ENABLE", "SLEEP_TYPE_OFF", "ShutdownPort", "SleepControl"]

# PM1 control register, ACPI 4.8.3.2.1; what the sleep types mean is the PIIX4's choice
# (82371AB data sheet 7.2.4): 0 is soft off.
SCI_ENABLE = 1 << 0
SLEEP_TYPE_SHIFT = 10
SLEEP_TYPE_MASK = 7 << SLEEP_TYPE_SHIFT
SLEEP_ENABLE = 1 << 13
SLEEP_TYPE_OFF = 0


class SleepControl:
    """A PM1a control register that can do one thing: soft off. Two ports, width 2."""

    def __init__(self, stop: Stop) -> None:
        """Call `stop(Kind.POWER_OFF, None)` when the guest goes to sleep type 0."""
        self._stop = stop
        self._log = LogOnce("power")
        self.control = SCI_ENABLE
        """The register as it reads: SLP_EN is write-only."""

    def read(self, port: int, size: int) -> int:
        """Return the register, or one byte of it."""
        return self.control >> 8 * (port & 1)

    def write(self, port: int, size: int, value: int) -> None:
        """Set the register or one byte of it, and go to sleep if told so."""
        if size == 1:
            shift = 8 * (port & 1)
            value = self.control & ~(0xFF << shift) | value << shift
        self.control = value & ~SLEEP_ENABLE | SCI_ENABLE
        if value & SLEEP_ENABLE:
            kind = (value & SLEEP_TYPE_MASK) >> SLEEP_TYPE_SHIFT
            if kind == SLEEP_TYPE_OFF:
                self._stop(Kind.POWER_OFF, None)
            else:
                self._log(kind, "sleep type %d is not there", kind)


class ShutdownPort:
    """The port to which "Shutdown" is spelled; a wrong letter means starting again."""

    WORD = b"Shutdown"

    def __init__(self, stop: Stop) -> None:
        """Call `stop(Kind.POWER_OFF, None)` after the last letter."""
        self._stop = stop
        self._spelled = 0

    def reset(self) -> None:
        """Forget the letters so far."""
        self._spelled = 0

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
