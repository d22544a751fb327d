# SPDX-License-Identifier: GPL-2.0-or-later
"""Which loader an image needs, told from its bytes.

Multiboot 1 wins over multiboot 2 where a kernel offers both, as under `qemu -kernel`. A Linux
image also ends its first sector in 55 AA, so it is looked for before boot sectors.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.boot import bootsector, eltorito, flat, linux, linux16, multiboot, multiboot2
from emu.boot.elf import is_elf, read_elf
from emu.boot.request import FORMATS, Boot, BootRequest
from emu.errors import KernelError

__all__ = ["detect", "load"]

_LOADERS: dict[str, Callable[[bytes, BootRequest], Boot]] = {
    "multiboot": multiboot.load,
    "multiboot2": multiboot2.load,
    "linux": linux.load,
    "linux16": linux16.load,
    "bootsector": bootsector.load,
    "cd": eltorito.load,
    "flat": flat.load_flat32,
    "flat32": flat.load_flat32,
    "flat16": flat.load_flat16,
}

# What people hand over by mistake: the first bytes, what that is, what to do.
_MISTAKES = (
    (b"MZ", "a PE (Windows or EFI) program", "build it with a multiboot header"),
    (b"\xcf\xfa\xed\xfe", "a Mach-O file", "build it with an ELF cross-compiler"),
    (b"\xce\xfa\xed\xfe", "a Mach-O file", "build it with an ELF cross-compiler"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"!<arch>", "a library or package archive", "link or unpack it first"),
    (b"#!", "a script", "hand over the kernel that it builds or starts"),
)


def detect(image: bytes) -> str:
    """Return the format of `image`, one of `FORMATS`; raises KernelError where there is none.

    >>> detect(bytes(510) + b"\\x55\\xaa")
    'bootsector'
    """
    if not image:
        raise KernelError("the kernel file is empty")
    if multiboot.find_header(image):
        return "multiboot"
    if multiboot2.find_header(image):
        return "multiboot2"
    if linux.is_linux(image):
        return "linux16" if linux16.needs_real_mode(image) else "linux"
    if is_elf(image):
        read_elf(image)
        raise KernelError(
            multiboot.explain_missing_header(image)
            or multiboot2.explain_missing_header(image)
            or "the ELF file has no multiboot header in its first 8 KiB: add one"
        )
    if bootsector.is_boot_sector(image):
        return "bootsector"
    reason = multiboot.explain_missing_header(image) or multiboot2.explain_missing_header(image)
    raise KernelError(reason or _unknown(image))


def _unknown(image: bytes) -> str:
    for start, what, advice in _MISTAKES:
        if image.startswith(start):
            return f"this is {what}: {advice}"
    return (
        "no multiboot header, Linux image or boot sector: "
        "a raw binary needs --format flat32 or flat16 (and --address)"
    )


def load(image: bytes, request: BootRequest) -> Boot:
    """Put `image` into memory and return the start state; raises KernelError.

    With format "auto", an address makes a flat image of anything.
    """
    name = request.format
    if name == "auto":
        name = "flat32" if request.address is not None else detect(image)
    loader = _LOADERS.get(name)
    if loader is None:
        raise KernelError(f"no such format {name!r}: one of {', '.join(FORMATS)}")
    return loader(image, request)
