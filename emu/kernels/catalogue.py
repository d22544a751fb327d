# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernels there are in a folder, and what each is to do.

Looked for, in the folder itself and two levels down, by names that their own projects gave them:

    invaders.exec                      the multiboot game of Debian's grub-invaders
    x86/unittests.cfg                  a built tree of kvm-unit-tests, of either architecture
    memtest86+ia32.bin, ...x64.bin     Memtest86+ 6 (the Linux boot protocol)
    xv6.img beside fs.img              xv6 for x86, built
    vmlinuz*                           Linux; boots an initramfs made here around `busybox`

Nothing is fetched or built. What is not found is listed as absent, with what to put there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from emu.kernels.case import Case, Step
from emu.kernels.initramfs import elf_bits, initramfs
from emu.kernels.unittests import cases_of_tree

__all__ = ["find_cases"]

_DEPTH = 2
_SCREEN = ("-nodefaults", "-display", "none", "-vga", "std")
_SERIAL = ("-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot")
_SHELL = r"^\$ |\n\$ "

LINUX_SCRIPT = """\
echo "kernel $(uname -r) on $(grep -c ^processor /proc/cpuinfo) cpus"
i=0; s=0; while [ $i -lt 1000 ]; do i=$((i+1)); s=$((s+i)); done; echo "sum $s"
seq 1 5000 | sort -n | md5sum
"""
_MD5 = "a5a208cd26b07cadade3450fe14d1d93"  # of the numbers 1 to 5000, a line each


def _folders(root: Path, depth: int = _DEPTH) -> Iterator[Path]:
    yield root
    if depth:
        for child in sorted(root.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _folders(child, depth - 1)


def find_cases(root: Path, work: Path) -> Iterator[Case]:
    """Yield every case for the kernels below `root`; what must be made goes to `work`."""
    folders = list(_folders(root)) if root.is_dir() else []
    yield from _invaders(folders)
    trees = [folder for folder in folders if (folder / "x86" / "unittests.cfg").is_file()]
    for tree in trees:
        if any((tree / "x86").glob("*.flat")):
            yield from cases_of_tree(tree, work)
    if not trees:
        yield Case("kvm-unit-tests", "all", absent="no built tree (x86/unittests.cfg)")
    yield from _memtest(folders)
    yield from _xv6(folders)
    yield from _linux(folders, work)


def _first(folders: list[Path], name: str) -> Path | None:
    return next((path for folder in folders if (path := folder / name).is_file()), None)


def _invaders(folders: list[Path]) -> Iterator[Case]:
    kernel = _first(folders, "invaders.exec")
    absent = "" if kernel else "no invaders.exec"
    arguments = (*_SCREEN, "-m", "16M", "-kernel", str(kernel))
    yield Case("invaders", "plays", arguments, judge="screen invaders", absent=absent, seconds=180)


def _memtest(folders: list[Path]) -> Iterator[Case]:
    for name in ("ia32", "x64"):
        file = f"memtest86+{name}.bin"
        kernel = _first(folders, file)
        for cpus in (1, 2):
            yield Case(
                "memtest86+",
                f"{name} cpus={cpus}",
                (*_SCREEN, "-m", "16M", "-smp", str(cpus), "-kernel", str(kernel)),
                judge="screen memtest",
                absent="" if kernel else f"no {file}",
                seconds=1800,
            )


def _xv6(folders: list[Path]) -> Iterator[Case]:
    image = _first(folders, "xv6.img")
    disk = image.with_name("fs.img") if image else None
    absent = "" if image and disk and disk.is_file() else "no xv6.img with an fs.img beside it"
    disks = (image, disk) if image and disk else ()
    drives = (
        "-drive",
        "file={disk0},index=0,media=disk,format=raw",
        "-drive",
        "file={disk1},index=1,media=disk,format=raw",
    )
    program = {
        "forktest": (Step(r"fork test OK"), 300.0),
        "stressfs": (Step(r"read\n\$ "), 600.0),
        "usertests": (Step(r"ALL TESTS PASSED"), 3600.0),
    }
    for cpus in (1, 2):
        for name, (step, seconds) in program.items():
            yield Case(
                "xv6",
                f"{name} cpus={cpus}",
                (*_SERIAL, "-vga", "std", *drives, "-smp", str(cpus), "-m", "512"),
                steps=(Step(_SHELL, f"{name}\n"), step),
                forbidden=r"panic:|FAIL",
                judge="steps",
                seconds=seconds,
                disks=disks,
                absent=absent,
            )


def _linux(folders: list[Path], work: Path) -> Iterator[Case]:
    kernels = [path for folder in folders for path in sorted(folder.glob("vmlinuz*"))]
    boxes = [path for folder in folders for path in folder.glob("busybox*") if path.is_file()]
    by_bits = {bits: box for box in boxes if (bits := elf_bits(box))}
    if not kernels:
        yield Case("Linux", "boots", absent="no vmlinuz*")
    for kernel in kernels:
        bits = 64 if _is_64_bit(kernel) else 32
        box = by_bits.get(bits) or (by_bits.get(32) if bits == 64 else None)
        archive = work / f"initramfs{bits}"
        if box is not None:
            archive.write_bytes(initramfs(box.read_bytes(), LINUX_SCRIPT))
        for cpus in (1, 2):
            yield Case(
                "Linux",
                f"{_version(kernel)} cpus={cpus}",
                (
                    *_SERIAL,
                    *("-smp", str(cpus), "-m", "256M", "-kernel", str(kernel)),
                    *("-initrd", str(archive), "-append", "console=ttyS0 panic=-1"),
                ),
                steps=(
                    Step(rf"kernel \S+ on {cpus} cpus"),
                    Step(r"sum 500500"),
                    Step(_MD5),
                    Step(r"^/ # |\n/ # ", "echo typed $((6*7))\n"),
                    Step(r"typed 42"),
                    Step(r"/ # ", "poweroff -f\n"),
                ),
                forbidden=r"Kernel panic|BUG:|Oops",
                judge="steps",
                power_off=True,
                seconds=1800,
                absent="" if box else f"no static busybox of {bits} bits",
            )


def _version(kernel: Path) -> str:
    """Return the release that a bzImage names (Linux boot protocol, `kernel_version`)."""
    data = kernel.read_bytes()
    at = int.from_bytes(data[0x20E:0x210], "little") + 0x200
    text = data[at : at + 128].split(b"\0")[0].decode("ascii", "replace").split(" ")[0]
    return text if re.fullmatch(r"[\w.+~-]+", text) else kernel.name


def _is_64_bit(kernel: Path) -> bool:
    """Return whether a bzImage has a 64-bit entry (`xloadflags`, XLF_KERNEL_64)."""
    with kernel.open("rb") as file:
        header = file.read(0x238)
    return len(header) == 0x238 and bool(header[0x236] & 1)
