# SPDX-License-Identifier: GPL-2.0-or-later
"""Loads and stores at addresses of this process: what compiled code is made of, in Python.

Functions that are to be compiled (see :mod:`mmu.shadow.compiled`) call these. Compiled, a load is
one instruction; as they stand here, the same functions run in Python, slowly, for tests. Words are
signed, as the compiled code has them. Addresses are taken on trust.
"""

from __future__ import annotations

import ctypes


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
