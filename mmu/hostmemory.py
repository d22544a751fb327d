# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of this process by its address: loads, stores, and where a buffer lies.

Functions that are to be compiled (see :mod:`mmu.shadow.fast.walk`) call the loads and stores.
Compiled, a load is one instruction. As they stand here, the same functions run in Python, slowly,
for tests. 64-bit words are signed, as compiled code has them. No address is checked.
"""

from __future__ import annotations

import ctypes
import mmap


def address_of(buffer: mmap.mmap) -> int:
    """Return where an anonymous mapping is; the caller must keep the mapping."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def load8(address: int) -> int:
    """Return the byte at an address."""
    return ctypes.c_uint8.from_address(address).value


def load32(address: int) -> int:
    """Return the 32-bit word at an address, without a sign."""
    return ctypes.c_uint32.from_address(address).value


def load64(address: int) -> int:
    """Return the 64-bit word at an address."""
    return ctypes.c_int64.from_address(address).value


def store8(address: int, value: int) -> None:
    """Set the byte at an address."""
    ctypes.c_uint8.from_address(address).value = value


def store32(address: int, value: int) -> None:
    """Set the 32-bit word at an address."""
    ctypes.c_uint32.from_address(address).value = value


def store64(address: int, value: int) -> None:
    """Set the 64-bit word at an address."""
    ctypes.c_int64.from_address(address).value = value
