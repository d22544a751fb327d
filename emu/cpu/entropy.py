# SPDX-License-Identifier: GPL-2.0-or-later
"""RDRAND and RDSEED: numbers that look random, and are the same in every run of one seed."""

from __future__ import annotations

from emu.savable import Savable, State

__all__ = ["Entropy"]

_MASK64 = (1 << 64) - 1
_STEP = 0x9E37_79B9_7F4A_7C15  # 2**64 by the golden ratio, odd


class Entropy(Savable):
    """A stream of 64-bit numbers: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, figure 17).

    >>> Entropy(0, 0).next() == Entropy(0, 0).next()
    True
    >>> len({Entropy(seed, index).next() for seed in range(9) for index in range(9)})
    81
    """

    __slots__ = ("_position",)

    def __init__(self, seed: int, index: int) -> None:
        """Start the stream of vCPU `index` in a machine whose seed is any number of 64 bits."""
        self._position = _mix(_mix(seed & _MASK64) + index)

    def save(self) -> State:
        """Return where the stream is."""
        return self._make_state(position=self._position)

    def load(self, state: State) -> None:
        """Take a saved state."""
        (self._position,) = self._parts_of(state, position=int)

    def next(self) -> int:
        """Return the next 64 bits."""
        self._position = self._position + _STEP & _MASK64
        return _mix(self._position)


def _mix(value: int) -> int:
    """Spread the bits of a word over all of it, one to one."""
    value = (value + _STEP) & _MASK64
    value = (value ^ value >> 30) * 0xBF58_476D_1CE4_E5B9 & _MASK64
    value = (value ^ value >> 27) * 0x94D0_49BB_1331_11EB & _MASK64
    return value ^ value >> 31
