# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that holds machine code of our own."""

from __future__ import annotations

import ctypes
import mmap
import sys

__all__ = ["executable"]

_kept: list[object] = []


def executable(text: bytes) -> int:
    """Return where this code lies now, ready to be called, for as long as the process lives.

    Raises OSError, ValueError or AttributeError where the system gives no such memory.
    """
    return _on_windows(text) if sys.platform == "win32" else _on_posix(text)


def _on_posix(text: bytes) -> int:
    """Write the text, and only then ask for the right to execute it: so nothing is ever both
    writable and executable, and Linux makes the instruction cache of an aarch64 agree."""
    size = -(-len(text) // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    memory[: len(text)] = text
    code = (ctypes.c_uint8 * len(text)).from_buffer(memory)  # keeps the mapping
    address = ctypes.addressof(code)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if protect(address, size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "no executable memory")
    _kept.append(code)
    return address


def _on_windows(text: bytes) -> int:
    commit_and_reserve, read_write_execute = 0x3000, 0x40
    allocate = getattr(ctypes, "windll").kernel32.VirtualAlloc  # noqa: B009 (absent elsewhere)
    allocate.restype = ctypes.c_void_p
    address = allocate(None, len(text), commit_and_reserve, read_write_execute)
    if not address:
        raise OSError("no executable memory")
    ctypes.memmove(address, text, len(text))
    return int(address)
