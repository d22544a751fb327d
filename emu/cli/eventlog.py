# SPDX-License-Identifier: GPL-2.0-or-later
"""`-d int`: a line of the log about each event that a processor is delivered."""

from __future__ import annotations

from logging import Logger

from emu.cpu.record import PastEvent
from emu.observe import MachineObserver
from emu.report import event_line

__all__ = ["EventLog"]


class EventLog(MachineObserver):
    """Writes a line about each event to a logger."""

    def __init__(self, log: Logger, names_cpus: bool) -> None:
        """Write to `log`; `names_cpus`: begin each line with the vCPU."""
        self._log = log
        self._names_cpus = names_cpus

    def event(self, cpu: int, past: PastEvent) -> None:
        """Write the line."""
        name = f"cpu {cpu}: " if self._names_cpus else ""
        self._log.debug("%s%s", name, event_line(past))
