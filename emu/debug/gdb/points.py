# SPDX-License-Identifier: GPL-2.0-or-later
"""Breakpoints and watchpoints: the packets Z and z.

Software and hardware breakpoints are the same here: nothing is written into guest memory, so they
hold before a kernel is loaded, over a reset, and in memory that is not writable. Inserting one
twice is inserting it once (gdb manual E.2 wants that, and gdb does it after an exec event).
"""

from __future__ import annotations

from emu.debug.gdb.protocol import PacketError, number
from emu.debug.gdb.target import DebugTarget
from emu.errors import UsageError
from emu.outcome import Kind, Stop

__all__ = ["Points"]

_ACCESSES = {2: "write", 3: "read", 4: "access"}
_REPLIES = {2: b"watch", 3: b"rwatch", 4: b"awatch"}
_MOST_POINTS = 1024
_MOST_WATCHED = 4096  # bytes of one watchpoint
_NO_SPACE = 0x1C  # ENOSPC

Key = tuple[int, int, int]  # type, address, kind or size


class Points:
    """The points that one debugger has inserted."""

    def __init__(self, target: DebugTarget) -> None:
        """Insert into `target`."""
        self._target = target
        self._numbers: dict[Key, int] = {}

    def _key(self, rest: bytes) -> Key:
        kind, _, place = rest.partition(b",")
        address, _, size = place.partition(b";")[0].partition(b",")
        return number(kind, 4), number(address), number(size, _MOST_WATCHED)

    def insert(self, rest: bytes) -> bytes:
        """Z."""
        key = which, address, size = self._key(rest)
        if key in self._numbers:
            return b"OK"
        if len(self._numbers) >= _MOST_POINTS:
            raise PacketError(_NO_SPACE)
        if which in (0, 1):
            self._numbers[key] = self._target.add_breakpoint(address)
            return b"OK"
        if not size:
            raise PacketError
        try:
            self._numbers[key] = self._target.add_watchpoint(address, size, _ACCESSES[which])
        except UsageError:
            return b""  # none of this kind: gdb then looks after each step
        return b"OK"

    def remove(self, rest: bytes) -> bytes:
        """z; also for what is not there."""
        point = self._numbers.pop(self._key(rest), None)
        if point is not None:
            self._target.remove_point(point)
        return b"OK"

    def clear(self) -> None:
        """Remove all."""
        for point in self._numbers.values():
            self._target.remove_point(point)
        self._numbers.clear()

    def reason(self, stop: Stop, *, swbreak: bool, hwbreak: bool) -> bytes:
        """Return what a stop reply says of the point that was met (gdb manual E.3)."""
        kinds = {key[0] for key, point in self._numbers.items() if point == stop.point}
        if stop.kind is Kind.WATCHPOINT and stop.address is not None:
            name = next((_REPLIES[kind] for kind in kinds if kind in _REPLIES), b"awatch")
            return b"%s:%x;" % (name, stop.address)
        if stop.kind is Kind.BREAKPOINT:
            if swbreak and 0 in kinds:
                return b"swbreak:;"
            if hwbreak and 1 in kinds:
                return b"hwbreak:;"
        return b""
