# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a guest shows what it does, and where a test types: the consoles of a `KernelMachine`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.outcome import Position
from emu.testing.transcript import Transcript

if TYPE_CHECKING:
    from emu.machine import Machine

__all__ = ["Console", "GuestTime", "Screen", "SerialLine"]


class Console:
    """Something that the guest writes to: the debug console, or the base of the serial line."""

    def __init__(self, name: str, transcript: Transcript) -> None:
        self.name = name
        self._transcript = transcript
        self.matched = 0
        """How much of `text` earlier matches have used up."""

    @property
    def text(self) -> str:
        """All that the guest has sent, without carriage returns and colours."""
        return self._transcript.text

    @property
    def sent(self) -> bytes:
        """The bytes as they were sent."""
        return bytes(self._transcript.sent)


class SerialLine(Console):
    """COM1: what the guest sends, and `feed`."""

    def __init__(self, transcript: Transcript, machine: Machine) -> None:
        super().__init__("serial", transcript)
        self._machine = machine
        self.fed: list[tuple[Position, bytes]] = []
        """What was fed, and where in the run."""

    def feed(self, data: str | bytes) -> None:
        """Type on the serial line; the guest gets each byte when it is ready for it. Text is sent
        as UTF-8, and a line ends as you write it, with "\\n" or "\\r"."""
        data = data.encode() if isinstance(data, str) else data
        self.fed.append((self._machine.position, data))
        self._machine.serial.feed(data)


class Screen(Console):
    """The text screen. It is looked at as a whole, each time."""

    def __init__(self, machine: Machine) -> None:
        super().__init__("screen", Transcript())
        self._machine = machine

    @property
    def text(self) -> str:
        """The screen now, a line per row, without blanks at their ends and at the bottom."""
        return "\n".join(row.rstrip() for row in self._machine.screen.text.split("\n")).rstrip()

    @property
    def sent(self) -> bytes:
        """The screen as UTF-8."""
        return self.text.encode()


class GuestTime:
    """Has `Machine.run` return every `ns` of the guest's time, however few instructions sleeping
    processors execute in it. It is what the scheduler looks into between two slices
    (`emu.schedule.Inbox`), not an event of the clock: it cuts no slice."""

    is_open = False

    def __init__(self, machine: Machine, ns: int) -> None:
        self._machine = machine
        self._ns = self._next = ns
        machine.scheduler.inbox = self

    def look(self) -> None:
        """Pause where `ns` have passed."""
        now = self._machine.clock.now
        if now >= self._next:
            self._next = now + self._ns
            self._machine.pause()

    def sleep(self, ns: int | None) -> int:
        """Never called: nothing comes from outside."""
        return ns or 0
