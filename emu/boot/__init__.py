# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways to start a kernel, one file each, and the one function that picks among them.

What the machine does, in this order:

    from emu.boot import Bios, BootRequest, load
    bios = Bios(tables)                # ROM at 0xf0000; tables: {gpa: bytes} of ACPI, MP, ...
                                       # that want to lie in 0xf2000-0xfbdff
    bios.install(memory)               # the ROM slot, interrupt vectors and BIOS data area
    boot = load(image, BootRequest(memory, cmdline=..., modules=...))
    vcpu.set_state(boot.state)
    bios.attach(host)                  # its port on the bus, PIC and PIT as a BIOS leaves them
    bios.insert(0x80, disk)            # any drives, `Disk` of emu.boot.request; `boot.disk_image`
                                       # is to be one: emu.boot.MemoryDisk(boot.disk_image)

and after a reset `bios.start_again(host)` and `load` once more, with `clean=False` in the request.

`load` raises `KernelError` with one line that says what is wrong with the image and what to do.
Memory is written with source "loader" only. `BiosHost` in `emu.boot.bios` says what `host` is.
"""

from __future__ import annotations

from emu.boot.bios import RESUME_CODES, Bios, BiosHost, MemoryDisk
from emu.boot.detect import detect, load
from emu.boot.request import FORMATS, Boot, BootRequest, Disk, Module

__all__ = [
    "FORMATS",
    "RESUME_CODES",
    "Bios",
    "BiosHost",
    "Boot",
    "BootRequest",
    "Disk",
    "MemoryDisk",
    "Module",
    "detect",
    "load",
]
