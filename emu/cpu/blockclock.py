# SPDX-License-Identifier: GPL-2.0-or-later
"""The clock that counts blocks, without a compiler: a few instructions of this host's own.

Counting instructions one by one (`count=` of uc_emu_start) costs a guest ten times what its
instructions do. A hook per block is cheap only if it never enters Python, and
:func:`emu.cpu.compiled.count_block` is so short that its x86-64 text can be kept here: it is that
function, word for word. Both clocks tell the same time.

There is none for other processors, and none where the system gives no memory that may be written
and executed; then instructions are counted.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from functools import lru_cache

__all__ = ["block_counter"]

# The hook gets (uc, address, size, state); offsets are those of a state block.
#         System V              Windows
#   mov   rax, [rcx]            rax, [r9]           COUNTER
#   cmp   rax, [rcx + 8]        rax, [r9 + 8]       LIMIT
#   jge   stop
#   mov   edx, edx              r8d, r8d            size, without what is above it
#   add   rdx, [rcx + 64]       r8, [r9 + 64]       BYTES
#   mov   r8d, edx              edx, r8d
#   and   r8d, 3                edx, 3
#   mov   [rcx + 64], r8        [r9 + 64], rdx
#   shr   rdx, 2                r8, 2
#   add   rax, rdx              rax, r8
#   mov   [rcx], rax            [r9], rax
#   ret
# stop:
#   mov   qword [rcx + 80], 1   qword [r9 + 80], 1  STOPPED
#   jmp   [rcx + 40]            [r9 + 40]           STOP, which gets the same uc
SYSTEM_V = bytes.fromhex(
    "488b01 483b4108 7d1c 89d2 48035140 4189d0 4183e003 4c894140 48c1ea02 4801d0 488901 c3"
    "48c7415001000000 ff6128"
)
WINDOWS = bytes.fromhex(
    "498b01 493b4108 7d1c 4589c0 4d034140 4489c2 83e203 49895140 49c1e802 4c01c0 498901 c3"
    "49c7415001000000 41ff6128"
)


@lru_cache(maxsize=1)
def block_counter() -> int | None:
    """Return the address of the hook for UC_HOOK_BLOCK, or None where there is none."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    try:
        return _on_windows() if sys.platform == "win32" else _on_posix()
    except (OSError, ValueError):
        return None


def _on_posix() -> int:
    protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=protection)
    memory[: len(SYSTEM_V)] = SYSTEM_V
    code = (ctypes.c_uint8 * len(SYSTEM_V)).from_buffer(memory)  # keeps the mapping
    _kept.append(code)
    return ctypes.addressof(code)


def _on_windows() -> int:
    commit_and_reserve, read_write_execute = 0x3000, 0x40
    allocate = getattr(ctypes, "windll").kernel32.VirtualAlloc  # noqa: B009 (absent elsewhere)
    allocate.restype = ctypes.c_void_p
    address = allocate(None, mmap.PAGESIZE, commit_and_reserve, read_write_execute)
    if not address:
        raise OSError("no executable memory")
    ctypes.memmove(address, WINDOWS, len(WINDOWS))
    return int(address)


_kept: list[object] = []
