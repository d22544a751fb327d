# SPDX-License-Identifier: GPL-2.0-or-later
"""The 16-bit Linux boot protocol (Linux Documentation/arch/x86/boot.rst).

The image's real-mode part is run, and finds out by BIOS calls what `emu.boot.linux` would tell a
kernel in its zero page.

Images in Linux's format that are no Linux do their work there: iPXE's ipxe.lkrn, syslinux's
memdisk. Everything lies where QEMU's loader puts it:

    protocol 2.02 and later     real-mode part 0x10000, command line 0x20000, the rest 1 MiB
    before                      real-mode part 0x90000, command line below 0x9a000, the rest 1 MiB
    not loaded high (zImage)    the same, but the rest at 0x10000
    initrd                      as high as the image allows
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from emu.boot.layout import Placer
from emu.boot.linux import is_linux
from emu.boot.request import Boot, BootRequest
from emu.errors import KernelError
from emu.state import CpuState

__all__ = ["load", "needs_real_mode"]

SECTOR = 512
_LOADER_UNDEFINED = 0xFF
_LOADED_HIGH, _CAN_USE_HEAP = 1 << 0, 1 << 7
_PAGE = 4096
_MIB = 0x100000
_INITRD_MAX_DEFAULT = 0x37FF_FFFF
_CMDLINE_DEFAULT = 255
_SETUP_SIZE_DEFAULT = 4
_OLD_MAGIC = 0xA33F  # the command line of protocols before 2.02, at 0x20 and 0x22
_VIDEO_MODES = {"normal": 0xFFFF, "ext": 0xFFFE, "ask": 0xFFFD}
_ENTRY_32_SINCE = 0x020A


class _Places(NamedTuple):
    setup: int
    cmdline: int
    code: int


def needs_real_mode(image: bytes) -> bool:
    """Tell whether an image in Linux's format has to be entered in its real-mode part: it says
    nothing of a 32-bit entry point, or is older than protocol 2.10, when loaders began to use it.
    """
    version, code32_start = _u16(image, 0x206), _u32(image, 0x214)
    return version < _ENTRY_32_SINCE or not code32_start


def _u16(image: bytes, offset: int) -> int:
    return int.from_bytes(image[offset : offset + 2], "little")


def _u32(image: bytes, offset: int) -> int:
    return int.from_bytes(image[offset : offset + 4], "little")


def load(image: bytes, request: BootRequest) -> Boot:
    """Load an image with its initrd and command line; see the module's text."""
    if not is_linux(image):
        raise KernelError("no Linux setup header (HdrS at byte 0x202)")
    setup_size = ((image[0x1F1] or _SETUP_SIZE_DEFAULT) + 1) * SECTOR
    if len(image) <= setup_size:
        raise KernelError(
            f"truncated Linux image: {len(image)} bytes, its real-mode part alone has {setup_size}"
        )
    version = _u16(image, 0x206)
    cmdline = request.cmdline.encode("utf-8", "surrogateescape") + b"\0"
    places = _places(image, version, cmdline)
    placer = Placer(request.memory, request.reserved, request.clean)
    if places.setup + setup_size > places.cmdline:
        raise KernelError(f"the real-mode part of this Linux image is too large: {setup_size:#x}")
    setup = bytearray(image[:setup_size])
    placer.claim(places.setup, places.cmdline - places.setup, "the real-mode part and its heap")
    placer.put(places.cmdline, cmdline, "the command line")
    placer.put(places.code, image[setup_size:], "the kernel")
    initrd = _place_initrd(image, version, request, placer)
    _fill_header(setup, version, places, initrd, request.cmdline)
    request.memory.write_block(places.setup, bytes(setup), "loader")
    segment = places.setup >> 4
    state = CpuState.real(segment + 0x20, 0, data=segment, sp=places.cmdline - places.setup - 16)
    text = f"Linux boot protocol {version >> 8}.{version & 0xFF:02}"
    return Boot(state, "linux16", f"{text}, entry {segment + 0x20:04x}:0000, real mode")


def _places(image: bytes, version: int, cmdline: bytes) -> _Places:
    high = bool(image[0x211] & _LOADED_HIGH)
    size = _u32(image, 0x238) if version >= 0x0206 else _CMDLINE_DEFAULT
    size = min(size, 0xFFFF)
    if len(cmdline) - 1 > size:
        raise KernelError(
            f"the command line has {len(cmdline) - 1} bytes, this kernel takes {size}"
        )
    if high and version >= 0x0202:
        return _Places(0x10000, 0x20000, _MIB)
    return _Places(0x90000, (0x9A000 - size - 1) & ~15, _MIB if high else 0x10000)


def _place_initrd(
    image: bytes, version: int, request: BootRequest, placer: Placer
) -> tuple[int, int]:
    """Put the modules, one after another, as high as the image allows; return address and size."""
    data = b""
    for module in request.modules:
        data += bytes(-len(data) % 4) + module.data
    if not data:
        return 0, 0
    high = (_u32(image, 0x22C) if version >= 0x0203 else _INITRD_MAX_DEFAULT) + 1
    gpa = placer.find(len(data), "the initrd", align=_PAGE, low=_MIB, high=high, top=True)
    request.memory.write_block(gpa, data, "loader")
    return gpa, len(data)


def _fill_header(
    setup: bytearray, version: int, places: _Places, initrd: tuple[int, int], cmdline: str
) -> None:
    """Fill in what a loader has to, under boot.rst's names."""
    offset = places.cmdline - places.setup
    mode = _video_mode(cmdline)
    if mode is not None:
        struct.pack_into("<H", setup, 0x1FA, mode)  # vid_mode
    if version >= 0x0202:
        struct.pack_into("<I", setup, 0x228, places.cmdline)  # cmd_line_ptr
    else:
        struct.pack_into("<HH", setup, 0x20, _OLD_MAGIC, offset)
    setup[0x210] = _LOADER_UNDEFINED  # type_of_loader
    struct.pack_into("<II", setup, 0x218, *initrd)  # ramdisk_image, ramdisk_size
    if version >= 0x0201:
        setup[0x211] |= _CAN_USE_HEAP
        struct.pack_into("<H", setup, 0x224, offset - 0x200)  # heap_end_ptr


def _video_mode(cmdline: str) -> int | None:
    """Return what vga= asks the setup code for, or None."""
    for word in cmdline.split():
        name, equals, value = word.partition("=")
        if name == "vga" and equals:
            try:
                return _VIDEO_MODES[value] if value in _VIDEO_MODES else int(value, 0) & 0xFFFF
            except ValueError:
                return None
    return None
