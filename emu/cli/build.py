# SPDX-License-Identifier: GPL-2.0-or-later
"""From `RunOptions` to a `Machine`: files are read here, and guests looked up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu.cli.options import DEFAULT_MEMORY, Drive, RunOptions
from emu.cli.qemu import split_commas
from emu.cli.streams import Sink
from emu.errors import KernelError, UsageError

if TYPE_CHECKING:
    from emu.boot import Module
    from emu.cpu.cpuid import Identity
    from emu.devices.disk import Disk
    from emu.machine import Machine

__all__ = ["Kernel", "find_kernel", "make_machine"]

_GUEST = "guest:"
_MAX_IMAGE = 1 << 32
_CD = 0xE0


@dataclass(frozen=True, slots=True)
class Kernel:
    """What is to be booted: its bytes, how to name it, and the memory it would like.

    `path` is set where the kernel is told its file's name, as QEMU tells it.
    """

    image: bytes | None
    name: str
    memory: int = DEFAULT_MEMORY
    drive: int = 0x80
    format: str = "auto"
    path: str | None = None


def read_file(path: str, what: str) -> bytes:
    """Return the bytes of a file; raises KernelError, in QEMU's words, if it cannot be read."""
    try:
        file = Path(path)
        if file.stat().st_size > _MAX_IMAGE:
            raise KernelError(f"could not load {what} '{path}': it is larger than 4 GiB")
        return file.read_bytes()
    except OSError as error:
        raise KernelError(f"could not load {what} '{path}': {error.strerror or error}") from error
    except ValueError as error:  # a zero byte in the name
        raise KernelError(f"could not load {what}: {error}") from error


def find_kernel(options: RunOptions) -> Kernel:
    """Return the kernel: a file, a shipped guest, a CD, or the boot sector of a disk."""
    name = options.kernel
    if name is None:
        return _from_disk(options)
    if name.startswith(_GUEST):
        return _guest(name.removeprefix(_GUEST))
    recognise = options.format == "auto" and options.address is None
    if options.format == "cd" or (recognise and _is_bootable_cd(name)):
        return Kernel(None, name, format="cd", path=name)
    return Kernel(read_file(name, "kernel"), name, path=name)


def _guest(name: str) -> Kernel:
    from guests import GUESTS

    guest = GUESTS.get(name)
    if guest is None:
        from difflib import get_close_matches

        near = get_close_matches(name, GUESTS, 1)
        hint = f"did you mean guest:{near[0]}?" if near else "shadowcorn guests lists them"
        raise KernelError(f"no guest {name!r}: {hint}")
    return Kernel(read_file(str(guest.path), "kernel"), f"{_GUEST}{name}", guest.memory)


def _from_disk(options: RunOptions) -> Kernel:
    """Return the boot sector of the first drive, in the order of -boot, that has one.

    Without any, it is the first drive's, for the loader to say what is wrong with it.
    """
    by_index = sorted(options.drives, key=lambda drive: drive.index)
    first_hard = next((drive for drive in by_index if not drive.is_cd), None)
    first_cd = next((drive for drive in by_index if drive.is_cd), None)
    drives = {"a": (options.floppies.get(0), 0), "c": (first_hard, 0x80), "d": (first_cd, 0xE0)}
    found = [
        (_first_sector(drive.path), drive.path, number)
        for drive, number in (drives.get(letter, (None, 0)) for letter in options.boot_order)
        if drive is not None
    ]
    if not found:
        raise KernelError("no drive to boot from: -cdrom, -hda or -fda names one")
    for sector, path, number in found:
        if number == _CD:
            if len(found) == 1 or _is_bootable_cd(path):
                return Kernel(None, path, format="cd")
            continue
        any_will_do = number < 0x80 and options.boots_any_floppy
        if sector.endswith(b"\x55\xaa") or any_will_do:
            image = sector[:510] + b"\x55\xaa"
            return Kernel(image, path, drive=number, format="bootsector")
    sector, path, number = next(drive for drive in found if drive[2] != _CD)
    return Kernel(sector, path, drive=number, format="bootsector")


def _is_bootable_cd(path: str) -> bool:
    """Tell whether a file is the image of a CD that can be booted; False if it cannot be read."""
    from emu.boot.eltorito import is_bootable
    from emu.devices.disk import Disk

    try:
        disk = Disk(Path(path), read_only=True)
    except KernelError:
        return False
    try:
        return is_bootable(disk)
    except OSError:
        return False
    finally:
        disk.close()


def _first_sector(path: str) -> bytes:
    from emu.devices.disk import Disk

    disk = Disk(Path(path), read_only=True)
    try:
        return disk.read(0, 1)
    finally:
        disk.close()


def modules(options: RunOptions, image: bytes | None) -> list[Module]:
    """Return the files of -initrd: "file args" with commas between, or Linux's one file."""
    from emu.boot import Module
    from emu.boot.linux import is_linux

    found: list[Module] = []
    if not options.initrd:
        return found
    if image is not None and is_linux(image):
        return [Module(read_file(options.initrd, "initrd"), options.initrd)]
    for entry in split_commas(options.initrd):
        text = entry.lstrip()
        path = text.partition(" ")[0]
        if not path:
            raise UsageError(f"-initrd {options.initrd!r} names no file")
        found.append(Module(read_file(path, "initrd"), text))
    return found


def start_time(base: str | None) -> int | None:
    """Return what `-rtc base=` says in seconds since 1970; a date without a zone is UTC."""
    if base is None:
        return None
    from datetime import datetime, timezone

    try:
        when = datetime.fromisoformat(base)
    except ValueError:
        raise UsageError(f"-rtc base={base}: a date as 2024-01-31T12:00:00 is wanted") from None
    return int((when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp())


def make_machine(
    options: RunOptions,
    kernel: Kernel,
    serial: Sequence[Sink | None],
    debugcon: Sequence[tuple[int, Sink | None]],
    warn: Callable[[str], None],
) -> Machine:
    """Return the machine, loaded and ready to run; raises KernelError or UsageError."""
    from emu.board import BoardOptions
    from emu.machine import Machine

    disks, cds, floppies = open_disks(options, warn)
    debug_exit = options.debug_exit
    board = BoardOptions(
        serial=serial,
        debugcons=debugcon,
        debug_exit=(debug_exit.iobase, debug_exit.iosize) if debug_exit else None,
        start_time=start_time(options.rtc),
        disks=disks,
        cds=cds,
        floppies=floppies,
        fw_cfg=fw_cfg_files(options),
        test_device=options.test_device,
        hpet=options.hpet,
        foreign_power=options.foreign_power,
    )
    optional: dict[str, Any] = {}
    if options.shadow_pages is not None:
        optional["shadow_pages"] = options.shadow_pages
    if options.quantum is not None:
        optional["quantum"] = options.quantum
    features, identity = _processor(options, warn)
    off = options.tlb_check == "off"
    machine = Machine(
        kernel.path or kernel.image,
        mmu=options.mmu,
        memory=options.memory or kernel.memory,
        append=options.append,
        modules=modules(options, kernel.image),
        cpus=options.cpus,
        cpu_features=features,
        cpu_identity=identity,
        audit=options.audit or (options.audit_slices and "slices"),
        jit=options.jit,
        tlb_check="report" if options.tlb_obligations and off else options.tlb_check,
        tlb=options.tlb,
        clock=options.clock,
        seed=options.seed,
        format=options.format if options.format != "auto" else kernel.format,
        address=options.address,
        entry=options.entry,
        board=board,
        drive=kernel.drive,
        reboot=bool(options.reboot),
        warn=warn,
        **optional,
    )
    if options.shadow_policy:
        set_policy(machine, options.shadow_policy)
    return machine


def _processor(
    options: RunOptions, warn: Callable[[str], None]
) -> tuple[dict[str, bool], Identity | None]:
    """Return what -cpu comes to; without it `shadowcorn run` has all features, named by nobody."""
    if not options.cpu_said and not options.for_qemu:
        return {}, None
    from emu.cli.processor import processor

    return processor(options, warn)


def open_disks(
    options: RunOptions, warn: Callable[[str], None]
) -> tuple[dict[int, Disk], dict[int, Disk], dict[int, Disk]]:
    """Open the images of hard disks, CDs and floppies, by their places; raises KernelError."""
    hard: dict[int, Disk] = {}
    cds: dict[int, Disk] = {}
    floppies: dict[int, Disk] = {}
    if not options.drives and not options.floppies:
        return hard, cds, floppies
    refuse_sharing(options)
    try:
        for drive in options.drives:
            disks = cds if drive.is_cd else hard
            disks[drive.index] = open_disk(options, drive, warn)
        for drive in options.floppies.values():
            floppies[drive.index] = open_disk(options, drive, warn)
    except KernelError:
        for disk in (*hard.values(), *cds.values(), *floppies.values()):
            disk.close()
        raise
    return hard, cds, floppies


def open_disk(options: RunOptions, drive: Drive, warn: Callable[[str], None]) -> Disk:
    """Open one image; warns if it ends inside a sector."""
    from emu.devices.disk import SECTOR_SIZE, Disk

    snapshot = (drive.snapshot or options.snapshot) and not drive.is_cd
    disk = Disk(Path(drive.path), snapshot=snapshot, read_only=drive.read_only)
    if disk.padding:
        size = disk.sectors * SECTOR_SIZE - disk.padding
        warn(
            f"disk image {drive.path}: {size} bytes are no multiple of {SECTOR_SIZE}, "
            "the last sector is filled up with zeros"
        )
    return disk


def refuse_sharing(options: RunOptions) -> None:
    """Raise UsageError if one image is to be two disks and written to, as QEMU's locks refuse."""
    seen: dict[tuple[int, int], bool] = {}
    for drive in (*options.drives, *options.floppies.values()):
        try:
            status = Path(drive.path).stat()
        except (OSError, ValueError):
            continue  # opening it will say why
        writes = not (drive.snapshot or options.snapshot or drive.read_only)
        key = status.st_dev, status.st_ino
        if status.st_ino and key in seen and (writes or seen[key]):
            raise UsageError(
                f"{drive.path} is given as two disks, and would be written to by both or under the "
                "other: snapshot=on or readonly=on for both is the way"
            )
        seen[key] = writes or seen.get(key, False)


def fw_cfg_files(options: RunOptions) -> dict[str, bytes]:
    """Return the files of -fw_cfg."""
    return {
        file.name: file.data if file.path is None else read_file(file.path, "fw_cfg file")
        for file in options.fw_cfg
    }


def set_policy(machine: Machine, text: str) -> None:
    """Switch policies of the shadow MMU; raises UsageError."""
    try:
        machine.mmu.set_policy(text)
    except ValueError as error:
        machine.close()
        raise UsageError(f"--shadow-policy: {error}") from error
