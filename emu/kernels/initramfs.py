# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux initramfs around somebody's static busybox: runs a script, then a shell on the console.

An archive in the "newc" format of cpio, as the kernel's `buffer-format` document has it: for each
file a header of 14 numbers, eight hexadecimal digits each, then name and data, both padded to four
bytes.
"""

from __future__ import annotations

import stat
from pathlib import Path

__all__ = ["elf_bits", "initramfs"]

_APPLETS = (
    *("sh", "mount", "grep", "echo", "cat", "uname", "seq", "sort", "md5sum", "poweroff"),
    *("ls", "ps", "dmesg", "setsid", "cttyhack"),
)
_INIT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
{script}
exec setsid cttyhack sh
"""


def elf_bits(path: Path) -> int:
    """Return 32 or 64 for an ELF file of that class, 0 for any other file."""
    with path.open("rb") as file:
        head = file.read(5)
    return {b"\x7fELF\x01": 32, b"\x7fELF\x02": 64}.get(head, 0)


def initramfs(busybox: bytes, script: str) -> bytes:
    """Return an archive whose /init runs `script` in busybox's shell, then a shell."""
    folders = dict.fromkeys(("bin", "dev", "proc"), (stat.S_IFDIR | 0o755, b""))
    files = {
        "bin/busybox": (stat.S_IFREG | 0o755, busybox),
        "init": (stat.S_IFREG | 0o755, _INIT.format(script=script).encode()),
    }
    links = {f"bin/{name}": (stat.S_IFLNK | 0o777, b"busybox") for name in _APPLETS}
    parts = [
        _entry(number, name, mode, data)
        for number, (name, (mode, data)) in enumerate((folders | files | links).items(), 1)
    ]
    parts.append(_entry(0, "dev/console", stat.S_IFCHR | 0o600, b"", device=(5, 1)))
    parts.append(_entry(0, "TRAILER!!!", 0, b""))
    return b"".join(parts)


def _entry(
    inode: int, name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)
) -> bytes:
    title = name.encode() + b"\0"
    # inode mode uid gid links mtime size, device, device of a node, name's size, checksum
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(title), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + title) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
