# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot sectors and disk images."""

from __future__ import annotations

import pytest

from emu.boot import Module, load
from emu.errors import KernelError
from emu.machine import Machine

SECTOR = b"\xeb\xfe" + bytes(508) + b"\x55\xaa"


@pytest.mark.parametrize("tail", [0, 1, 512, 5000])
def test_first_sector_is_entered_and_the_whole_is_the_disk(request_of, tail):
    request = request_of()
    boot = load(SECTOR + b"\xaa" * tail, request)
    assert request.memory.read_block(0x7C00, 1024) == SECTOR + bytes(512)
    assert (boot.state.segments["cs"].selector, boot.state.rip) == (0, 0x7C00)
    assert boot.state.gprs["rdx"] == 0x80
    assert len(boot.disk_image) % 512 == 0
    assert boot.disk_image.rstrip(b"\0") == (SECTOR + b"\xaa" * tail).rstrip(b"\0")
    assert boot.format == "bootsector"


def test_what_is_not_passed_on_is_said(request_of):
    warnings = []
    load(SECTOR, request_of(cmdline="x", modules=[Module(b"")], warn=warnings.append))
    assert len(warnings) == 2


@pytest.mark.parametrize(
    ("drive", "sectors", "padded"),
    [(0x80, 1, 1008), (0x80, 1009, 2016), (0, 3, 36), (0, 2880, 2880)],
    ids=["one cylinder", "two cylinders", "floppy", "whole floppy"],
)
def test_the_disk_is_padded_to_whole_cylinders(request_of, drive, sectors, padded):
    boot = load(SECTOR.ljust(512 * sectors, b"x"), request_of(drive=drive))
    assert len(boot.disk_image) == 512 * padded
    assert boot.disk_image[512:] == (b"x" * 512 * (sectors - 1)).ljust(512 * (padded - 1), b"\0")


def test_a_boot_sector_reads_zeros_behind_its_image():
    """It reads 16 sectors into 0x8000, where one more is in the file, and exits with CF."""
    code = bytes.fromhex(
        "31c0 8ec0"  # xor ax, ax; mov es, ax
        "b81002 bb0080 b90200 b600 cd13"  # mov ax, 210h; mov bx, 8000h; mov cx, 2; int 13h
        "0f92c0 e6f4 f4"  # setc al; out 0f4h, al; hlt
    )
    image = code.ljust(510, b"\0") + b"\x55\xaa" + b"y" * 512
    with Machine(image, memory=1 << 21) as m:
        m.phys[0x8000:0xA000] = b"z" * 0x2000
        assert m.run(timeout=60).guest_code == 0
        assert m.phys[0x8000:0xA000] == (b"y" * 512).ljust(0x2000, b"\0")


@pytest.mark.parametrize(
    ("image", "word"),
    [(SECTOR[:100], "truncated"), (SECTOR[:510] + b"\xaa\x55", "not 55 aa")],
    ids=["short", "signature swapped"],
)
def test_bad_input(request_of, image, word):
    with pytest.raises(KernelError, match=word):
        load(image, request_of(format="bootsector"))
