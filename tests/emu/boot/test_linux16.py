# SPDX-License-Identifier: GPL-2.0-or-later
"""The 16-bit Linux boot protocol: where everything lies, and images that live by it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from emu.boot import Module, load
from emu.errors import KernelError
from emu.machine import Machine

from ..beside import EXIT, QEMU, needs_qemu

MIB = 1 << 20
CODE = b"\xf4KERNEL"
IPXE = Path("/usr/lib/ipxe/ipxe.lkrn")
MEMDISK = Path("/usr/lib/syslinux/memdisk")


def u16(data, offset):
    return int.from_bytes(data[offset : offset + 2], "little")


def u32(data, offset):
    return int.from_bytes(data[offset : offset + 4], "little")


@pytest.mark.parametrize(
    ("fields", "setup", "cmdline", "code"),
    [
        ({"version": 0x0207}, 0x10000, 0x20000, MIB),
        ({"version": 0x0201}, 0x90000, 0x99F00, MIB),
        ({"version": 0x0201, "loadflags": 0}, 0x90000, 0x99F00, 0x10000),
    ],
    ids=["2.02 and later", "before", "zImage"],
)
def test_where_everything_lies(bzimage, request_of, text_at, fields, setup, cmdline, code):
    request = request_of(cmdline="a b", modules=[Module(b"disk")], format="linux16")
    state = load(bzimage(code=CODE, **fields), request).state
    memory = request.memory
    segment = setup >> 4
    assert (state.segments["cs"].selector, state.rip) == (segment + 0x20, 0)
    assert {state.segments[name].selector for name in ("ds", "es", "ss", "fs", "gs")} == {segment}
    assert state.gprs["rsp"] == cmdline - setup - 16
    assert not state.rflags & 0x200
    assert text_at(memory, cmdline) == "a b"
    assert memory.read_block(code, len(CODE)) == CODE
    header = memory.read_block(setup, 1024)
    assert (header[0x210], header[0x211] & 0x80) == (0xFF, 0x80)
    assert u16(header, 0x224) == cmdline - setup - 0x200
    assert memory.read_block(u32(header, 0x218), u32(header, 0x21C)) == b"disk"
    if fields["version"] >= 0x0202:
        assert u32(header, 0x228) == cmdline
    else:
        assert (u16(header, 0x20), u16(header, 0x22)) == (0xA33F, cmdline - setup)


@pytest.mark.parametrize(
    ("cmdline", "mode"),
    [("vga=ask", 0xFFFD), ("quiet vga=0x317", 0x317), ("vga=normal", 0xFFFF), ("vga=x", 0)],
)
def test_the_video_mode_of_the_command_line(bzimage, request_of, cmdline, mode):
    request = request_of(cmdline=cmdline, format="linux16")
    load(bzimage(), request)
    assert u16(request.memory.read_block(0x10000, 512), 0x1FA) == mode


@pytest.mark.parametrize(
    ("image", "fields", "word"),
    [
        ({}, {"cmdline": "a" * 2048}, "command line has 2048"),
        ({"setup_sects": 200}, {}, "too large"),
        ({}, {"modules": [Module(bytes(16 * MIB))]}, "no room for the initrd"),
        ({"code": b""}, {}, "truncated"),
        ({"code": bytes(16 * MIB)}, {}, "-m"),
    ],
    ids=["command line", "real-mode part", "initrd", "no code", "memory too small"],
)
def test_bad_input(bzimage, request_of, image, fields, word):
    with pytest.raises(KernelError, match=word):
        load(bzimage(**image), request_of(format="linux16", **fields))


def test_no_linux_image(request_of):
    with pytest.raises(KernelError, match="no Linux setup header"):
        load(bytes(2048), request_of(format="linux16"))


@pytest.mark.parametrize("value", [0x00, 0x80, 0xFF])
def test_any_damaged_byte_of_the_header_loads_or_says_why(bzimage, request_of, value):
    image = bzimage(code32_start=0)
    for offset in range(0x1F1, 0x268):
        damaged = image[:offset] + bytes((value,)) + image[offset + 1 :]
        try:
            load(damaged, request_of(format="linux16", cmdline="x", modules=[Module(b"y")]))
        except KernelError as error:
            assert "\n" not in str(error)


def test_the_setup_code_runs_and_calls_the_firmware(bzimage):
    """It asks for low memory, 639 KiB, and exits with AH of that plus 0eh; again after a reset."""
    image = bytearray(bzimage(code32_start=0))
    start = 0x202 + image[0x201]
    code = bytes.fromhex(
        "cd12 80c40e 88e0 e6f4 f4"
    )  # int 12h; add ah, 0eh; mov al, ah; out 0f4h, al
    image[start : start + len(code)] = code
    with Machine(bytes(image), memory=8 * MIB) as m:
        assert m.boot.format == "linux16"
        for _ in range(2):
            assert m.run(timeout=60).guest_code == 0x10
            m.reset()


# --- Images that nobody here wrote ----------------------------------------------------------------


@pytest.mark.skipif(not IPXE.exists(), reason="ipxe.lkrn is not installed")
def test_ipxe_starts():
    with Machine(IPXE) as m:
        m.run(timeout=120)
        assert "Open Source Network Boot Firmware" in m.screen.text
        assert "No more network devices" in m.screen.text


DISK = (
    bytes.fromhex(
        "31c0 8ed8 8ec0 b80102 bb0080 b90200 ba0000 cd13 720f"  # sector 2 to 8000h; jc fail
        "813e00803412 7507"  # cmp word [8000h], 1234h; jne fail
    )
    + EXIT
    + bytes.fromhex("b011 e6f4 f4")  # fail: mov al, 11h; out 0f4h, al
).ljust(510, b"\0") + b"\x55\xaa\x34\x12"


@pytest.mark.skipif(not MEMDISK.exists(), reason="memdisk is not installed")
@pytest.mark.parametrize("where", ["here", pytest.param("qemu", marks=needs_qemu)])
def test_memdisk_boots_a_floppy_image(tmp_path, where):
    disk = DISK.ljust(1440 * 1024, b"\0")
    if where == "here":
        with Machine(MEMDISK, modules=[disk]) as m:
            assert m.run(timeout=120).guest_code == 0x10
            assert "MEMDISK" in m.screen.text
        return
    image = tmp_path / "disk"
    image.write_bytes(disk)
    words = [QEMU, "-kernel", str(MEMDISK), "-initrd", str(image), "-display", "none",
             "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]  # fmt: skip
    assert subprocess.run(words, stdin=subprocess.DEVNULL, timeout=60).returncode == 33
