# SPDX-License-Identifier: GPL-2.0-or-later
"""Telling formats apart, and telling people what they handed over."""

from __future__ import annotations

import pytest

from emu.boot import detect
from emu.errors import KernelError


def test_multiboot_wins_over_a_boot_sector(header):
    assert detect((header(1 << 16, (0, 0, 0, 0, 0)).ljust(510, b"\0")) + b"\x55\xaa") == "multiboot"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "linux"),
        ({"code32_start": 0}, "linux16"),
        ({"version": 0x0207}, "linux16"),
        ({"version": 0x020A}, "linux"),
    ],
    ids=["bzImage", "no 32-bit entry", "protocol 2.07", "protocol 2.10"],
)
def test_linux_wins_over_a_boot_sector(bzimage, fields, name):
    assert detect(bzimage(**fields)) == name


@pytest.mark.parametrize(
    ("start", "word"),
    [
        (b"MZ", "PE"),
        (b"\xcf\xfa\xed\xfe", "Mach-O"),
        (b"\x1f\x8b", "gzip"),
        (b"#!/bin/sh", "script"),
        (b"!<arch>", "archive"),
        (b"what", "--format"),
    ],
)
def test_mistakes_are_named(start, word):
    with pytest.raises(KernelError, match=word):
        detect(start.ljust(600, b"\1"))


def test_plain_elf_is_told_about_the_header(elf):
    image = elf(segments=[(0x100000, 0x100000, bytes(64), 64)])
    with pytest.raises(KernelError, match="no multiboot header"):
        detect(image)
