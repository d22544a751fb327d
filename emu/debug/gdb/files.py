# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's files for gdb (gdb manual F.5): one, /proc/1/maps, made of the guest's page tables.

gdb's `info proc mappings` reads it, and so do the scripts that stand on that command.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.debug.gdb.protocol import MOST_BYTES, escape, hex_bytes, number

__all__ = ["Files"]

_MAPS = b"/proc/1/maps"
_MOST_OPEN = 16
_NOT_FOUND, _BAD_FILE, _TOO_MANY, _INVALID = 2, 9, 24, 22


class Files:
    """The files that one debugger has opened."""

    def __init__(self, maps: Callable[[int], bytes] | None) -> None:
        """`maps` gives the text for a vCPU; without it there is no file, and no such packet."""
        self._maps = maps
        self._open: dict[int, bytes] = {}

    def answer(self, rest: bytes, cpu: int) -> bytes:
        """Return the reply to `vFile` and what follows that."""
        if self._maps is None:
            return b""
        operation, _, arguments = rest[1:].partition(b":")
        fields = arguments.split(b",")
        if operation == b"setfs":
            return b"F0"
        if operation == b"open":
            if hex_bytes(fields[0]) != _MAPS:
                return self._error(_NOT_FOUND)
            if len(self._open) >= _MOST_OPEN:
                return self._error(_TOO_MANY)
            file = next(n for n in range(3, 4 + _MOST_OPEN) if n not in self._open)
            self._open[file] = self._maps(cpu)
            return b"F%x" % file
        if operation == b"close":
            known = self._open.pop(number(fields[0]), None)
            return b"F0" if known is not None else self._error(_BAD_FILE)
        if operation == b"pread":
            if len(fields) != 3:
                return self._error(_INVALID)
            file, size, offset = (number(field) for field in fields)
            if file not in self._open:
                return self._error(_BAD_FILE)
            data = self._open[file][offset : offset + min(size, MOST_BYTES // 2 - 16)]
            return b"F%x;" % len(data) + escape(data)
        return b""

    @staticmethod
    def _error(code: int) -> bytes:
        return b"F-1,%x" % code
