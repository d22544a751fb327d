# SPDX-License-Identifier: GPL-2.0-or-later
"""The Linux boot protocol (Linux Documentation/arch/x86/boot.rst), as memtest86+ speaks it too.

The real-mode part of the image is not run: its setup header goes into a zero page, and the
protected-mode part is entered by the 32-bit protocol, which 64-bit kernels have as well. What
lies where afterwards:

    kernel          at its preferred address, init_size bytes
    initrd          as high as the kernel allows; several files make one, each 4-aligned
    zero page       in conventional memory, with the command line and a GDT
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from emu.boot.layout import EBDA, Placer, Range, align_up, pack_e820
from emu.boot.request import Boot, BootRequest
from emu.errors import KernelError
from emu.state import ATTR_CODE32, ATTR_DATA32, SEGMENTS, CpuState, Segment, Table

__all__ = ["BOOT_CS", "BOOT_DS", "SetupHeader", "is_linux", "load", "parse"]

SECTOR = 512
BOOT_CS = 0x10
BOOT_DS = 0x18
_HEADER = 0x1F1
_MAGIC = b"HdrS"
_OLDEST = 0x0202  # before it, no 32-bit command line pointer
_LOADED_HIGH = 1 << 0
_LOADER_UNDEFINED = 0xFF
_PAGE = 4096
_INITRD_MAX_DEFAULT = 0x37FFFFFF
_CMDLINE_DEFAULT = 255
_E820_MAX = 128
# Above what kernels put into low memory themselves: AP trampolines, memtest86+ its own copy.
_LOW_ROOM = 0x80000

# The zero page (Documentation/arch/x86/zero-page.rst), what is not in the setup header.
_SCREEN_INFO = 0x000
_ACPI_RSDP = 0x070
_ALT_MEM_K = 0x1E0
_E820_COUNT = 0x1E8
_E820_TABLE = 0x2D0


@dataclass(frozen=True, slots=True)
class SetupHeader:
    """The fields of the setup header that a loader needs, under boot.rst's names."""

    raw: bytes
    """From byte 0x1f1 of the file to the end of the header."""
    setup_size: int
    """Bytes of the file before the protected-mode part."""
    version: int
    loadflags: int
    code32_start: int
    initrd_addr_max: int
    kernel_alignment: int
    relocatable: bool
    cmdline_size: int
    pref_address: int
    init_size: int


def is_linux(image: bytes) -> bool:
    """Tell whether the image has a setup header."""
    return image[0x202:0x206] == _MAGIC and image[0x1FE:0x200] == b"\x55\xaa"


def parse(image: bytes) -> SetupHeader:
    """Return the setup header; raises KernelError for an image that is too old or truncated."""
    if not is_linux(image):
        raise KernelError("no Linux setup header (HdrS at byte 0x202)")
    if len(image) < 0x268:
        raise KernelError("truncated Linux image: the file ends within its setup header")
    version = _u16(image, 0x206)
    if version < _OLDEST or not image[0x211] & _LOADED_HIGH:
        raise KernelError(
            f"this Linux image (boot protocol {version >> 8}.{version & 0xFF:02}) is too old: "
            "it must be a bzImage of protocol 2.02 or later"
        )
    setup_size = ((image[0x1F1] or 4) + 1) * SECTOR
    wanted = setup_size + 16 * _u32(image, 0x1F4)
    if len(image) <= setup_size or len(image) + 15 < wanted:
        raise KernelError(f"truncated Linux image: {len(image)} bytes where {wanted} are needed")
    protected = len(image) - setup_size
    return SetupHeader(
        raw=image[_HEADER : 0x202 + image[0x201]],
        setup_size=setup_size,
        version=version,
        loadflags=image[0x211],
        code32_start=_u32(image, 0x214),
        initrd_addr_max=_u32(image, 0x22C) if version >= 0x0203 else _INITRD_MAX_DEFAULT,
        kernel_alignment=_u32(image, 0x230) if version >= 0x0205 else 0,
        relocatable=version >= 0x0205 and image[0x234] != 0,
        cmdline_size=_u32(image, 0x238) if version >= 0x0206 else _CMDLINE_DEFAULT,
        pref_address=_u64(image, 0x258) if version >= 0x020A else 0,
        init_size=max(_u32(image, 0x260), protected) if version >= 0x020A else protected,
    )


def _u16(image: bytes, offset: int) -> int:
    return int.from_bytes(image[offset : offset + 2], "little")


def _u32(image: bytes, offset: int) -> int:
    return int.from_bytes(image[offset : offset + 4], "little")


def _u64(image: bytes, offset: int) -> int:
    return int.from_bytes(image[offset : offset + 8], "little")


def load(image: bytes, request: BootRequest) -> Boot:
    """Load a bzImage with its initrd and command line; see the module's text."""
    header = parse(image)
    placer = Placer(request.memory, request.reserved, request.clean)
    start = _place_kernel(image, header, placer)
    page = bytearray(_PAGE)
    page[_HEADER : _HEADER + len(header.raw)] = header.raw
    page[0x210] = _LOADER_UNDEFINED
    struct.pack_into("<I", page, 0x214, start)
    _add_screen(page)
    _add_memory(page, placer.map)
    struct.pack_into("<2I", page, 0x218, *_place_initrd(header, request, placer))
    struct.pack_into("<Q", page, _ACPI_RSDP, request.rsdp_gpa)
    cmdline = request.cmdline.encode("utf-8", "surrogateescape")
    if len(cmdline) > header.cmdline_size:
        raise KernelError(
            f"the command line has {len(cmdline)} bytes, this kernel takes {header.cmdline_size}"
        )
    where = {"low": _LOW_ROOM, "high": EBDA}
    struct.pack_into("<I", page, 0x228, placer.add(cmdline + b"\0", "the command line", **where))
    zero_page = placer.add(bytes(page), "the zero page", align=_PAGE, **where)
    state = _start_state(start, zero_page, placer)
    version = f"{header.version >> 8}.{header.version & 0xFF:02}"
    return Boot(state, "linux", f"Linux boot protocol {version}, entry {start:#x}")


def _place_kernel(image: bytes, header: SetupHeader, placer: Placer) -> int:
    """Put the protected-mode part where it wants to be, or where it fits if it may be moved."""
    code = image[header.setup_size :]
    start = header.pref_address if header.relocatable else header.code32_start
    start = start or header.code32_start
    if header.relocatable and not placer.fits(start, header.init_size):
        align = max(header.kernel_alignment, _PAGE)
        if align & (align - 1):
            raise KernelError(f"damaged Linux image: kernel_alignment is {align:#x}")
        start = placer.find(header.init_size, "the kernel", align=align, low=0x100000)
        placer.memory.write_block(start, code, "loader")
        return start
    placer.put(start, code, "the kernel", size=header.init_size)
    return start


def _place_initrd(header: SetupHeader, request: BootRequest, placer: Placer) -> tuple[int, int]:
    """Put the modules, one after another, as high as the kernel allows; return address and size."""
    data = b""
    for module in request.modules:
        data += bytes(-len(data) % 4) + module.data
    if not data:
        return 0, 0
    high = header.initrd_addr_max + 1
    gpa = placer.find(len(data), "the initrd", align=_PAGE, low=0x100000, high=high, top=True)
    request.memory.write_block(gpa, data, "loader")
    return gpa, len(data)


def _add_screen(page: bytearray) -> None:
    """Describe the VGA text mode that the machine starts in (struct screen_info)."""
    page[_SCREEN_INFO + 0x06] = 3  # orig_video_mode: 80x25 colour text
    page[_SCREEN_INFO + 0x07] = 80  # orig_video_cols
    page[_SCREEN_INFO + 0x0E] = 25  # orig_video_lines
    page[_SCREEN_INFO + 0x0F] = 1  # orig_video_isVGA
    page[_SCREEN_INFO + 0x10] = 16  # orig_video_points


def _add_memory(page: bytearray, ranges: list[Range]) -> None:
    ranges = ranges[:_E820_MAX]
    page[_E820_COUNT] = len(ranges)
    table = pack_e820(ranges)
    page[_E820_TABLE : _E820_TABLE + len(table)] = table
    upper = sum(r.size for r in ranges if r.kind == 1 and 0x100000 <= r.gpa < 1 << 32) >> 10
    struct.pack_into("<I", page, _ALT_MEM_K, upper)
    struct.pack_into("<H", page, 2, min(upper, 0xFC00))  # ext_mem_k


def _start_state(start: int, zero_page: int, placer: Placer) -> CpuState:
    """Return the 32-bit entry state: flat __BOOT_CS and __BOOT_DS, ESI = zero page, IF clear."""
    entries = (0, 0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
    gdt = placer.add(struct.pack("<4Q", *entries), "the GDT")
    stack = align_up(placer.find(_PAGE, "the stack", low=_LOW_ROOM, high=EBDA) + _PAGE - 16, 16)
    state = CpuState.flat32(start, esp=stack)
    state.gprs["rsi"] = zero_page
    data = Segment(BOOT_DS, 0, 0xFFFF_FFFF, ATTR_DATA32)
    state.segments = dict.fromkeys(SEGMENTS, data)
    state.segments["cs"] = Segment(BOOT_CS, 0, 0xFFFF_FFFF, ATTR_CODE32)
    state.gdtr = Table(gdt, 8 * len(entries) - 1)
    return state
