# SPDX-License-Identifier: GPL-2.0-or-later
"""The size of the engine's TLB, which must not depend on the host's time.

QEMU's TLB grows at a flush that finds it well used, and shrinks at one that finds it little used
for 100 ms of the host's time. When it shrinks there are other misses afterwards: other counters,
and for a guest that leaves stale entries another run. Here the 100 ms are the guest's: the moment
from which QEMU counts is kept in the far future, and set far into the past when so many
instructions are executed.

That moment lies before the processor's state (QEMU 5's CPUNegativeOffsetState): for each of three
MMU indices a description of 696 bytes, which begins with address and mask of the large pages and
then this moment; after them for each index mask and address of the entries; then the instruction
count, whose place `emu.cpu.calibration` finds. It is the host's time in ns when the engine is made,
so that we know whether it is there; where it is not, the TLB does as it likes.
"""

from __future__ import annotations

import sys
import time

from emu.cpu.hidden import HiddenState, view

__all__ = ["EngineTlb"]

_INDICES = 3
_DESCRIPTION = 696
_DESCRIPTIONS = 8 + _INDICES * _DESCRIPTION
_MASKS = 16 * _INDICES
_MOMENT = 16
_HOUR_NS = 3_600 * 1_000_000_000
_NEVER, _LONG_AGO = 1 << 62, 0
_WINDOW = 10_000_000  # instructions: 100 ms of virtual time


class EngineTlb:
    """The TLB of one engine that has just been made; `is_known`: the moments were found."""

    def __init__(self, hidden: HiddenState) -> None:
        """Look for them in the engine of `hidden`."""
        first = hidden.icount_address - _MASKS - _DESCRIPTIONS
        self._moments = [
            view(first + index * _DESCRIPTION + _MOMENT, 8, "Q") for index in range(_INDICES)
        ]
        self._next_window = _WINDOW
        self._may_shrink = False
        now = time.time_ns()
        self.is_known = sys.maxsize > 1 << 32 and all(
            abs(moment[0] - now) < _HOUR_NS for moment in self._moments
        )

    def begin_slice(self, executed: int) -> None:
        """Tell how many instructions are executed: if it is time, the next flush may shrink the
        TLB."""
        if executed >= self._next_window:
            self._next_window = executed + _WINDOW
            self._may_shrink = True
        self._hold(_NEVER)

    def before_flush(self) -> None:
        """Call it before each flush, which is when the TLB changes its size. 0.15 us."""
        self._hold(_LONG_AGO if self._may_shrink else _NEVER)
        self._may_shrink = False

    def _hold(self, moment: int) -> None:
        if self.is_known:
            first, second, third = self._moments
            first[0] = second[0] = third[0] = moment
