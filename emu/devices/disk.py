# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk image: a raw file of 512-byte sectors.

Writes go to the file at once, with nothing held back here. With `snapshot` they stay in memory and
the file is opened for reading only.
"""

from __future__ import annotations

import stat
from pathlib import Path

from emu.errors import KernelError, NotSavableError, StateError
from emu.savable import Savable, State

__all__ = ["SECTOR_SIZE", "Disk"]

SECTOR_SIZE = 512
# What LBA48 can address.
MAX_SECTORS = 1 << 48


class Disk(Savable):
    """The sectors of one image. A file that ends inside a sector is filled up with zeros."""

    def __init__(self, path: Path, *, snapshot: bool = False, read_only: bool = False) -> None:
        """Open `path`. Raises KernelError if it is missing, empty, too large or no file, or cannot
        be written though neither `snapshot` nor `read_only` is asked for."""
        self.path = path
        _check_kind(path)
        self.read_only = read_only and not snapshot
        self._overlay: dict[int, bytes] | None = {} if snapshot else None
        self._is_changed = False  # the file was written
        try:
            self._file = path.open("rb" if snapshot or read_only else "r+b", buffering=0)
        except FileNotFoundError:
            raise KernelError(f"disk image {path}: no such file") from None
        except PermissionError:
            hint = "" if snapshot or read_only else " for writing (snapshot=on would do without)"
            raise KernelError(f"disk image {path}: cannot be opened{hint}") from None
        except (OSError, ValueError) as error:
            raise KernelError(f"disk image {path}: {_reason(error)}") from None
        try:
            size = self._file.seek(0, 2)
        except OSError as error:
            self._file.close()
            raise KernelError(f"disk image {path}: {_reason(error)}") from None
        self.sectors = -(-size // SECTOR_SIZE)
        """How many sectors there are."""
        self.padding = -size % SECTOR_SIZE
        """By how many zeros the last one is filled up."""
        if not 0 < self.sectors <= MAX_SECTORS:
            self._file.close()
            what = "is empty" if size == 0 else "is too large"
            raise KernelError(f"disk image {path} {what}")

    def read(self, sector: int, count: int) -> bytes:
        """Return `count` sectors. Raises OSError if the host cannot read them."""
        self._file.seek(sector * SECTOR_SIZE)
        wanted = count * SECTOR_SIZE
        data = bytearray()
        while len(data) < wanted and (piece := self._file.read(wanted - len(data))):
            data += piece
        data += bytes(wanted - len(data))
        if self._overlay:
            for n in range(count):
                written = self._overlay.get(sector + n)
                if written is not None:
                    data[n * SECTOR_SIZE : (n + 1) * SECTOR_SIZE] = written
        return bytes(data)

    def write(self, sector: int, data: bytes) -> None:
        """Write whole sectors. Raises OSError if the host cannot, or the disk is read-only."""
        if self.read_only:
            raise PermissionError(f"{self.path} is read-only")
        if self._overlay is not None:
            for start in range(0, len(data), SECTOR_SIZE):
                self._overlay[sector + start // SECTOR_SIZE] = data[start : start + SECTOR_SIZE]
            return
        self._is_changed = True
        self._file.seek(sector * SECTOR_SIZE)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or len(view) :]

    def save(self) -> State:
        """Return the sectors written since the start; the others are the file's.

        Raises NotSavableError for an image that was written in place: what was there is gone.
        """
        self._check_unchanged()
        return self._make_state(sectors=self.sectors, written=self._overlay)

    def load(self, state: State) -> None:
        """Take back what was written since. Raises StateError for a disk of another size, or one
        that was or is written in place."""
        sectors, written = self._parts_of(state, sectors=int, written=dict[int, bytes] | None)
        if sectors != self.sectors or (written is None) != (self._overlay is None):
            raise StateError(f"disk image {self.path}: the state is one of another disk")
        self._check_unchanged()
        self._overlay = written

    def _check_unchanged(self) -> None:
        if self._is_changed:
            raise NotSavableError(
                f"Disk cannot be saved: {self.path} was written in place (snapshot=on would do)"
            )

    def close(self) -> None:
        """Close the file; a snapshot's writes are gone."""
        self._file.close()


def _check_kind(path: Path) -> None:
    """Refuse a pipe before it is opened, since that could wait for ever; raises KernelError."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # `open` will say why
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode):
        raise KernelError(
            f"disk image {path} is a pipe or terminal: a file is needed that can be read anywhere"
        )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
