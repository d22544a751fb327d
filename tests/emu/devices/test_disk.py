# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk images: what is kept, what is not, and what is refused."""

from __future__ import annotations

import pytest

from emu.devices.disk import Disk
from emu.errors import KernelError


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes([1]) * 512 + bytes([2]) * 512 + bytes([3]) * 100)
    return path


def test_a_file_that_ends_inside_a_sector_is_filled_up(image):
    disk = Disk(image)
    assert disk.sectors == 3
    assert disk.read(1, 2) == bytes([2]) * 512 + bytes([3]) * 100 + bytes(412)
    disk.close()


def test_writes_are_in_the_file_at_once(image):
    disk = Disk(image)
    disk.write(1, b"\xaa" * 512)
    assert image.read_bytes()[512:1024] == b"\xaa" * 512
    disk.write(2, b"\xbb" * 512)
    assert len(image.read_bytes()) == 3 * 512
    disk.close()


def test_a_snapshot_keeps_them_off_it(image):
    before = image.read_bytes()
    disk = Disk(image, snapshot=True)
    disk.write(0, b"\xaa" * 1024)
    assert disk.read(0, 3) == b"\xaa" * 1024 + bytes([3]) * 100 + bytes(412)
    disk.close()
    assert image.read_bytes() == before


def test_a_read_only_disk_refuses_them(image):
    disk = Disk(image, read_only=True)
    with pytest.raises(PermissionError):
        disk.write(0, bytes(512))
    assert disk.read(0, 1) == bytes([1]) * 512
    disk.close()


@pytest.mark.parametrize("what", ["missing", "empty", "directory"])
def test_what_is_no_disk_is_one_clear_line(tmp_path, what):
    path = tmp_path / what
    if what == "empty":
        path.touch()
    elif what == "directory":
        path.mkdir()
    with pytest.raises(KernelError) as error:
        Disk(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_written_says_what_would_help(image, monkeypatch):
    # The tests may run as somebody for whom no file is read-only.
    def refuse(self, mode, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(image), "open", refuse)
    with pytest.raises(KernelError, match="snapshot=on"):
        Disk(image)
