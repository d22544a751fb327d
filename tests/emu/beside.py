# SPDX-License-Identifier: GPL-2.0-or-later
"""One boot sector here and under QEMU: what it sends to port 0xe9, and how it exits."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from emu.board import BoardOptions
from emu.machine import Machine

QEMU = shutil.which("qemu-system-x86_64")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not on PATH")
EXIT = bytes.fromhex("b010 e6f4 f4 ebfd")  # mov al, 10h; out 0f4h, al; halt for ever


def boot_sector(code: bytes) -> bytes:
    """Return a bootable image that starts with `code`, which may be longer than a sector: what is
    behind the signature is on the disk, but is not loaded."""
    head, tail = code[:510], code[510:]
    return head.ljust(510, b"\0") + b"\x55\xaa" + tail


def under_qemu(tmp_path, image: bytes, *words: str, drive: str = "-hda", timeout=60) -> bytes:
    """Return what `image` sends under QEMU; fails if it does not exit with 0x10."""
    disk, out = tmp_path / "disk", tmp_path / "debugcon"
    disk.write_bytes(image)
    command = [
        QEMU, *(("-drive", f"file={disk},format=raw") if drive == "-hda" else (drive, str(disk))),
        "-snapshot", "-m", "32", "-display", "none", "-serial", "null", "-net", "none",
        "-debugcon", f"file:{out}", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
        *words,
    ]  # fmt: skip
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
    )
    assert done.returncode == 33, done.stderr
    return out.read_bytes()


def here(image: bytes, **options) -> bytes:
    """Return what `image` sends on our machine."""
    sent = bytearray()
    board = options.pop("board", BoardOptions())
    board.debugcons = ((0xE9, sent.extend),)
    with Machine(image, memory=32 << 20, board=board, **options) as m:
        outcome = m.run(timeout=60)
        assert outcome.guest_code == 0x10, outcome
    return bytes(sent)
