# SPDX-License-Identifier: GPL-2.0-or-later
"""-chardev, -device and -drive: what is plugged into the board, and what its other end is."""

from __future__ import annotations

from dataclasses import replace

from emu.cli import qemu
from emu.cli.options import DebugExit, Drive, RunOptions, parse_number
from emu.errors import UsageError

__all__ = ["add_chardev", "add_device", "add_drive", "character_device", "insert_disk"]


def character_device(options: RunOptions, value: str, chardevs: dict[str, str]) -> str:
    """Return where the output of a character device goes; raises UsageError for nonsense."""
    kind, _, rest = value.partition(":")
    if kind == "mon":
        return character_device(options, rest, chardevs)
    if kind == "chardev":
        if rest not in chardevs:
            raise UsageError(f"there is no -chardev with id={rest}")
        return chardevs[rest]
    if value in ("stdio", "null", "none"):
        return "null" if value == "none" else value
    if kind == "file" and rest:
        return value
    if kind in ("vc", "pty", "tcp", "udp", "telnet", "unix", "websocket", "pipe", "braille",
                "msmouse", "ringbuf", "socket") or value.startswith("/dev/"):  # fmt: skip
        options.warn(f"character device {value} is not available: its output is dropped")
        return "null"
    raise UsageError(f"{value} is no character device: stdio, null or file:PATH")


def add_chardev(options: RunOptions, value: str, chardevs: dict[str, str]) -> None:
    """-chardev: give a character device a name, for others to refer to."""
    fields = qemu.properties(value, "backend")
    if "id" not in fields:
        raise UsageError(f"-chardev {value} needs an id=")
    backend = fields.get("backend", "")
    target = f"file:{fields.get('path', '')}" if backend == "file" else backend
    chardevs[fields["id"]] = character_device(options, target, chardevs)


def add_device(options: RunOptions, value: str, chardevs: dict[str, str],
            unplugged: dict[str, Drive]) -> None:  # fmt: skip
    """-device: plug in what is known, warn of the rest."""
    fields = qemu.properties(value, "driver")
    driver = fields.get("driver", "")
    if driver == "isa-debug-exit":
        iobase = parse_number(fields.get("iobase", "0x501"), "iobase")
        iosize = parse_number(fields.get("iosize", "2"), "iosize")
        if not 0 < iosize <= 4 or iobase + iosize > 0x10000:
            raise UsageError(f"-device {value}: no such I/O ports")
        options.debug_exit = DebugExit(iobase, iosize)
    elif driver == "isa-debugcon":
        where = fields.get("chardev")
        target = character_device(options, f"chardev:{where}" if where else "null", chardevs)
        options.debugcon.append((parse_number(fields.get("iobase", "0xe9"), "iobase"), target))
    elif driver == "isa-serial":
        where = fields.get("chardev")
        options.serial.append(
            character_device(options, f"chardev:{where}" if where else "null", chardevs)
        )
    elif driver == "pc-testdev":
        options.test_device = True
    elif driver in ("ide-hd", "ide-cd") and fields.get("drive") in unplugged:
        drive = unplugged.pop(fields["drive"])
        if driver == "ide-cd":
            drive = replace(drive, snapshot=False, read_only=True, is_cd=True)
        index = place(options, fields)
        insert_disk(options, replace(drive, index=index if index >= 0 else drive.index))
    elif driver not in ("pci-testdev", "VGA"):
        options.warn(f"device {driver} is not available: passed over")


def insert_disk(options: RunOptions, drive: Drive) -> None:
    """Connect a disk to the IDE bus; index -1 takes the first free place."""
    taken = {other.index for other in options.drives}
    index = drive.index
    if index < 0:
        order = (2, 3, 0, 1, 4) if drive.is_cd else range(5)
        index = next(i for i in order if i not in taken)
    if index in taken:
        raise UsageError(f"two disks are to be number {index}: {drive.path} is the second")
    if index > 3:
        raise UsageError(f"{drive.path}: there is room for four disks (index 0 to 3)")
    options.drives.append(replace(drive, index=index))


def place(options: RunOptions, fields: dict[str, str]) -> int:
    """Return what index=, or bus= and unit=, say: two units on each of two IDE buses; -1 for
    nothing said. A bus without a unit means its first free one."""
    if "index" in fields:
        if "bus" in fields or "unit" in fields:
            raise UsageError("a drive has either index=, or bus= and unit=")
        return parse_number(fields["index"], "index")
    if "bus" not in fields and "unit" not in fields:
        return -1
    bus = parse_number(fields.get("bus", "0").removeprefix("ide."), "bus")
    if "unit" not in fields:
        return 2 * bus + any(drive.index == 2 * bus for drive in options.drives)
    unit = parse_number(fields["unit"], "unit")
    if unit > 1:
        raise UsageError(f"unit={unit}: an IDE bus has units 0 and 1")
    return 2 * bus + unit


def add_drive(options: RunOptions, value: str, unplugged: dict[str, Drive]) -> None:
    """-drive: a disk or floppy image; with if=none it waits for its -device."""
    fields = qemu.properties(value, "file")
    path = fields.get("file")
    kind = fields.get("if", "ide")
    is_cd = fields.get("media") == "cdrom"
    if kind in ("pflash", "mtd", "sd"):
        options.warn(f"-drive if={kind} is passed over: there is no flash memory, no SD card")
        return
    if not path:
        raise UsageError(f"-drive {value} needs file=PATH")
    if fields.get("format", "raw") != "raw":
        raise UsageError(
            f"-drive {value}: only raw images can be read (qemu-img convert -O raw makes one)"
        )
    index = place(options, fields)
    read_only = is_cd or fields.get("readonly") == "on"
    snapshot = fields.get("snapshot") == "on" and not is_cd
    drive = Drive(path, index, snapshot, read_only, is_cd)
    if kind == "floppy":
        options.floppies[max(index, 0)] = replace(drive, index=max(index, 0))
    elif kind == "none":
        unplugged[fields.get("id", "")] = drive
    else:
        if kind != "ide":
            options.warn(
                f"-drive if={kind}: there is no such controller, {path} becomes an IDE disk"
            )
        insert_disk(options, drive)
