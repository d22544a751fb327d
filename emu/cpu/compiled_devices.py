# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads of devices as compiled code: what a register said that cannot have changed since.

    read_device   the trap window's read callback, in front of `emu.cpu.hooks.Hooks.trapped_read`

A device says which of its registers are *steady* (`emu.devices.lapic_page` does): reading one has
no effect, and nothing changes it while a vCPU runs but what this vCPU itself does, by a store to a
device or a WRMSR. Python notes what it has read of them in the state block, and forgets it at each
of those and whenever the engine is entered. The text is in the subset of Python that emu/jit.py
compiles.
"""

from __future__ import annotations

from emu.cpu import raw
from emu.cpu.compiled import COUNTER, PYTHON_READ, STALLED, STEADY, STEADY_ENTRIES, STEADY_ENTRY
from mmu.hostmemory import load64, store64

DEVICE_READ = 50
"""A read of a device is not cached and not posted: it takes as long as so many instructions."""


def call_read(function: int, uc: int, gpa: int, size: int, data: int) -> int:
    """Call a read callback by its address."""
    return int(raw.MMIO_READ_CALLBACK(function)(uc, gpa, size, data))


def read_device(uc: int, gpa: int, size: int, state: int) -> int:
    """The read callback of the trap window."""
    at = state + STEADY + ((gpa >> 4) & (STEADY_ENTRIES - 1)) * STEADY_ENTRY
    if load64(at) != gpa << 4 | size:
        return call_read(load64(state + PYTHON_READ), uc, gpa, size, 0)
    store64(state + COUNTER, load64(state + COUNTER) + DEVICE_READ)
    store64(state + STALLED, load64(state + STALLED) + DEVICE_READ)
    return load64(at + 8)
