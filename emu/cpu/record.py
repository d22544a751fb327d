# SPDX-License-Identifier: GPL-2.0-or-later
"""What has happened to a processor lately: for reports, `-d int`, and people."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from emu.cpu import compiled
from emu.cpu.faults import Event, Source
from emu.savable import Savable, State

__all__ = ["PastEvent", "Record"]

_NOTED = compiled.NOTED // 8


class PastEvent(NamedTuple):
    """An event that was delivered, or tried: where the processor stood, and at what instruction."""

    event: Event
    cs: int
    rip: int
    instruction: int


class Record(Savable):
    """The last few events of one vCPU, whoever delivered them."""

    def __init__(self, words: memoryview, watched: Callable[[], None]) -> None:
        """Read what compiled code has noted in the state block's `words`; call `watched` whenever
        somebody begins or ceases to look at every event."""
        self._words = words
        self._watched = watched
        self._listeners: tuple[Callable[[PastEvent], None], ...] = ()
        # As what a PastEvent is made of: few of them are ever looked at.
        self._recent: deque[tuple[Event, int, int, int]] = deque(maxlen=compiled.RING_ENTRIES)

    @property
    def is_watched(self) -> bool:
        """Whether somebody looks at every event."""
        return bool(self._listeners)

    def listen(self, listener: Callable[[PastEvent], None], wanted: bool) -> None:
        """Call `listener` with every event that is delivered, or no more."""
        others = tuple(known for known in self._listeners if known != listener)
        self._listeners = (*others, listener) if wanted else others
        self._watched()

    @property
    def recent(self) -> list[PastEvent]:
        """The last few events, the newest last."""
        self._collect()
        return list(map(PastEvent._make, self._recent))

    def note(self, event: Event, cs: int, rip: int, instruction: int) -> None:
        """Note an event that was delivered or tried."""
        if self._words[_NOTED]:
            self._collect()
        self._recent.append((event, cs, rip, instruction))
        for listener in self._listeners:
            listener(PastEvent(event, cs, rip, instruction))

    def clear(self) -> None:
        """Forget everything."""
        self._recent.clear()
        self._words[_NOTED] = 0

    def save(self) -> State:
        """Return the last few events."""
        self._collect()
        return self._make_state(recent=self._recent)

    def load(self, state: State) -> None:
        """Take a saved state."""
        (recent,) = self._parts_of(state, recent=list[tuple[Event, int, int, int]])
        self.clear()
        self._recent.extend(recent)

    def _collect(self) -> None:
        """Take over what compiled code has noted."""
        words = self._words
        count, words[_NOTED] = words[_NOTED], 0
        for number in range(max(count - compiled.RING_ENTRIES, 0), count):
            at = (compiled.RING + number % compiled.RING_ENTRIES * compiled.RING_ENTRY) // 8
            what, code, cr2, cs, rip, instruction = words[at : at + 6]
            source = Source(what >> 8 & 0xFF)
            if source is Source.SOFTWARE:
                event = Event(what & 0xFF, source, start=rip - 2)
            else:
                event = Event(what & 0xFF, source, code, cr2)
            self._recent.append((event, cs, rip, instruction))
