# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the chips share: a clock that they turn, and wires that remember."""

from __future__ import annotations

import pytest

from emu.clock import Clock


class Wire:
    """A wire: `level` as it is, `edges` as often as it rose."""

    def __init__(self):
        self.level = False
        self.edges = 0

    def __call__(self, level):
        self.edges += level and not self.level
        self.level = level


class TurnedClock(Clock):
    """A clock that a test advances by hand, stopping at every event as an exact scheduler does."""

    __slots__ = ()

    def run_to(self, ns):
        while (event := self.next_event) is not None and event <= ns:
            self.run_due(max(event, self.now))
        self.run_due(ns)

    def run_for(self, ns):
        self.run_to(self.now + ns)


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def stops():
    """Collects what was passed to `stop`."""
    return []


@pytest.fixture
def stop(stops):
    return lambda kind, code: stops.append((kind, code))
