# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw binaries."""

from __future__ import annotations

import pytest

from emu.boot import Module, load
from emu.errors import KernelError


def test_flat32_defaults_to_1_mib(request_of):
    request = request_of(format="flat32")
    boot = load(b"\xf4code", request)
    assert request.memory.read_block(0x100000, 5) == b"\xf4code"
    assert boot.state.rip == 0x100000
    assert boot.state.cr0 & 1
    assert boot.format == "flat32"


def test_an_address_makes_a_flat_image_of_anything(request_of):
    boot = load(b"\xf4" * 32, request_of(address=0x20000, entry=0x20010))
    assert (boot.format, boot.state.rip) == ("flat32", 0x20010)


@pytest.mark.parametrize(
    ("address", "entry", "cs", "ip"),
    [(0x1000, None, 0, 0x1000), (0x10000, 0x10018, 0x1001, 8), (0xFF00, 0x10000, 0x1000, 0)],
)
def test_flat16_entry(request_of, address, entry, cs, ip):
    request = request_of(format="flat16", address=address, entry=entry)
    state = load(bytes(0x200), request).state
    assert (state.segments["cs"].selector, state.rip) == (cs, ip)
    assert state.segments["cs"].base == cs << 4
    assert state.cr0 & 1 == 0


@pytest.mark.parametrize("address", [0x1000, 0x7000, 0x7C00, 0x50000])
@pytest.mark.parametrize("format_", ["flat16", "flat32"])
def test_stack_is_ram_outside_the_image(request_of, format_, address):
    image = bytes(0x8000)
    state = load(image, request_of(format=format_, address=address)).state
    top = state.segments["ss"].base + state.gprs["rsp"]
    assert 0x1000 < top <= 0x9FC00
    assert top <= address or top - 0x400 >= address + len(image)


def test_what_is_not_passed_on_is_said(request_of):
    warnings = []
    request = request_of(cmdline="x", modules=[Module(b"")], warn=warnings.append, address=0x8000)
    load(b"\xf4", request)
    assert len(warnings) == 2


@pytest.mark.parametrize(
    ("image", "fields", "word"),
    [
        (b"", {"format": "flat32"}, "empty"),
        (b"\xf4", {"address": 1 << 30}, "-m"),
        (b"\xf4", {"address": 0xB8000}, "usable RAM"),
        (b"\xf4", {"address": 0x1000, "entry": 0x1001}, "entry point"),
        (b"\xf4", {"format": "flat16", "address": 0x200000}, "1 MiB"),
        (b"\xf4", {"format": "zimage"}, "no such format"),
    ],
    ids=["empty", "past ram", "in vga memory", "entry outside", "real mode too high", "no format"],
)
def test_bad_input(request_of, image, fields, word):
    with pytest.raises(KernelError, match=word):
        load(image, request_of(**fields))
