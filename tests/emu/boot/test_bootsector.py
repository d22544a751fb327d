# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot sectors and disk images."""

from __future__ import annotations

import pytest

from emu.boot import Module, load
from emu.errors import KernelError

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
    ("image", "word"),
    [(SECTOR[:100], "truncated"), (SECTOR[:510] + b"\xaa\x55", "not 55 aa")],
    ids=["short", "signature swapped"],
)
def test_bad_input(request_of, image, word):
    with pytest.raises(KernelError, match=word):
        load(image, request_of(format="bootsector"))
