# SPDX-License-Identifier: GPL-2.0-or-later
"""The clock that counts blocks, without a compiler: a few instructions of this host's own.

Counting instructions one by one (`count=` of uc_emu_start) costs a guest ten times what its
instructions do. A hook per block is cheap only if it never enters Python, and
:func:`emu.cpu.compiled.count_block` is so short that its text for x86-64 and for aarch64 can be
kept here: it is that function, word for word. All of them tell the same time.

There is none for other processors, none on Apple silicon (memory that was written may be executed
there by entitled processes alone), and none where the system refuses; then instructions are
counted, unless there is compiled code.
"""

from __future__ import annotations

import platform
import sys
from functools import lru_cache

from emu.cpu.executable import executable

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

#   ldr   x4, [x3]          COUNTER
#   ldr   x5, [x3, 8]       LIMIT
#   cmp   x4, x5
#   b.ge  stop
#   mov   w2, w2            size, without what is above it
#   ldr   x6, [x3, 64]      BYTES
#   add   x2, x2, x6
#   and   x6, x2, 3
#   str   x6, [x3, 64]
#   add   x4, x4, x2, lsr 2
#   str   x4, [x3]
#   ret
# stop:
#   mov   x6, 1
#   str   x6, [x3, 80]      STOPPED
#   ldr   x6, [x3, 40]      STOP, which gets the same uc
#   br    x6
AARCH64 = bytes.fromhex(
    "640040f9 650440f9 9f0005eb 2a010054 e203022a 662040f9 4200068b 46044092 662000f9"
    "8408428b 640000f9 c0035fd6 260080d2 662800f9 661440f9 c0001fd6"
)


@lru_cache(maxsize=1)
def block_counter() -> int | None:
    """Return the address of the hook for UC_HOOK_BLOCK, or None where there is none."""
    machine = platform.machine().lower()
    try:
        if machine in ("x86_64", "amd64"):
            return executable(WINDOWS if sys.platform == "win32" else SYSTEM_V)
        if machine in ("aarch64", "arm64") and sys.platform.startswith("linux"):
            return executable(AARCH64)
    except (OSError, ValueError, AttributeError):
        pass
    return None
