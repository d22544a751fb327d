# SPDX-License-Identifier: GPL-2.0-or-later
"""The multiboot hand-over beside QEMU's own, where qemu-system-x86_64 is on PATH."""

from __future__ import annotations

import shutil
import struct
import subprocess

import pytest

from emu.boot import Module
from emu.machine import Machine

QEMU = shutil.which("qemu-system-x86_64")

# Sends over COM1: the information structure (116 bytes), 48 bytes of the command line, the table of
# two modules (32 bytes), 32 bytes of each module's string, the memory map; then exits.
CODE = bytes.fromhex(
    "89dd 89ee b974000000 e84a000000"  # mov ebp, ebx; mov esi, ebp; mov ecx, 116; call send
    "8b7510 b930000000 e83d000000"  # mov esi, [ebp+16]; mov ecx, 48; call send
    "8b7518 b920000000 e830000000"  # mov esi, [ebp+24]; mov ecx, 32; call send
    "8b7d18 8b7708 b920000000 e820000000"  # mov edi, [ebp+24]; mov esi, [edi+8]; ...
    "8b7718 b920000000 e813000000"  # mov esi, [edi+24]; ...
    "8b7530 8b4d2c e808000000"  # mov esi, [ebp+48]; mov ecx, [ebp+44]; call send
    "b010 e6f4 fa f4 ebfc"  # mov al, 10h; out f4h, al; halt for ever
    "baf8030000 ac ee e2fc c3"  # send: mov edx, 3f8h; lodsb; out dx, al; loop; ret
)


@pytest.fixture
def hand_over(elf, header, tmp_path):
    image = elf(segments=[(0x100000, 0x100000, header(3) + CODE, 0x1000)], entry=0x10000C)
    kernel, one, two = (tmp_path / name for name in ("kernel", "one", "two"))
    kernel.write_bytes(image)
    one.write_bytes(b"1" * 5000)
    two.write_bytes(b"2" * 100)
    return kernel, one, two


def decode(raw):
    info = struct.unpack_from("<17I", raw)
    strings = [raw[116:164], raw[196:228], raw[228:260]]
    modules = struct.unpack_from("<8I", raw, 164)
    entries = [struct.unpack_from("<IQQI", raw, i) for i in range(260, len(raw), 24)]
    return {
        "flags": info[0] & 0x24F,
        "lower": info[1],
        "boot device": info[3],
        "strings": [text.split(b"\0")[0] for text in strings],
        "module count": info[5],
        "module sizes": [modules[1] - modules[0], modules[5] - modules[4]],
        "modules page-aligned": [modules[0] % 4096, modules[4] % 4096],
        "low memory": entries[:3],
        "upper memory starts": entries[3][:2],
    }


@pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not on PATH")
def test_multiboot_information_is_qemus(hand_over, tmp_path):
    kernel, one, two = hand_over
    out = tmp_path / "serial"
    words = [
        QEMU, "-kernel", str(kernel), "-append", "a=b c", "-initrd", f"{one} x=1,{two}",
        "-m", "32", "-display", "none", "-serial", f"file:{out}", "-no-reboot",
        "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
    ]  # fmt: skip
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    assert done.returncode == 33, done.stderr
    modules = [Module(one.read_bytes(), f"{one} x=1"), Module(two.read_bytes(), str(two))]
    with Machine(kernel, memory=32 << 20, append="a=b c", modules=modules) as m:
        assert m.run(timeout=60).exit_code == 33
        ours = decode(m.serial.sent)
    assert ours == decode(out.read_bytes())
