# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw binaries: put at an address and jumped to.

`flat32` (also `flat`) starts in 32-bit protected mode with flat segments and paging off, at
0x100000 unless told; `flat16` in real mode, at 0x7c00 unless told. Nothing is passed to the
program. ESP is 0x7c00, or below the extended BIOS data area where the image lies there.
"""

from __future__ import annotations

from emu.boot.layout import Placer
from emu.boot.multiboot import place_gdt
from emu.boot.request import Boot, BootRequest
from emu.errors import KernelError
from emu.state import CpuState

__all__ = ["load_flat16", "load_flat32"]

_LOW_STACK = 0x7C00
_HIGH_STACK = 0x9FC00
_DEFAULT32 = 0x100000
_DEFAULT16 = 0x7C00


def load_flat32(image: bytes, request: BootRequest) -> Boot:
    """Load at `request.address` and start at `request.entry` in flat 32-bit protected mode."""
    address, entry = _place(image, request, _DEFAULT32)
    placer = Placer(request.memory, request.reserved, request.clean)
    placer.put(address, image, "the image")
    stack = _stack(address, len(image))
    state = CpuState.flat32(entry, esp=stack)
    state.gdtr = place_gdt(placer)
    return Boot(state, "flat32", f"flat binary at {address:#x}, entry {entry:#x}, 32-bit")


def load_flat16(image: bytes, request: BootRequest) -> Boot:
    """Load at `request.address` and start at `request.entry` in real mode.

    CS is 0 where the entry is in the first 64 KiB; above, CS:IP has the lowest IP.
    """
    address, entry = _place(image, request, _DEFAULT16)
    if entry > 0xFFFFF:
        raise KernelError(f"the entry point {entry:#x} is above 1 MiB: real mode cannot reach it")
    Placer(request.memory, request.reserved, request.clean).put(address, image, "the image")
    segment, offset = (0, entry) if entry < 0x10000 else (entry >> 4, entry & 15)
    stack = _stack(address, len(image))
    sp = stack if stack < 0x10000 else 0xFC00
    state = CpuState.real(segment, offset, sp=sp)
    state.rflags = 0x202
    if stack >= 0x10000:
        state.segments["ss"] = state.segments["ss"]._replace(selector=0x9000, base=0x90000)
    where = f"{segment:04x}:{offset:04x}"
    return Boot(state, "flat16", f"flat binary at {address:#x}, entry {where}, real mode")


def _place(image: bytes, request: BootRequest, default: int) -> tuple[int, int]:
    if not image:
        raise KernelError("the kernel file is empty")
    address = default if request.address is None else request.address
    entry = address if request.entry is None else request.entry
    if not address <= entry < address + len(image):
        raise KernelError(
            f"the entry point {entry:#x} lies outside the image at "
            f"{address:#x}-{address + len(image) - 1:#x}"
        )
    for given, what in ((request.cmdline, "command line"), (request.modules, "module")):
        if given:
            request.warn(f"a flat binary is passed no {what}: it is ignored")
    return address, entry


def _stack(address: int, size: int) -> int:
    taken = address < _LOW_STACK and address + size > _LOW_STACK - 0x400
    return _HIGH_STACK if taken else _LOW_STACK
