# SPDX-License-Identifier: GPL-2.0-or-later
"""aarch64: Debian's Python under qemu-user, and under Debian's own kernel in qemu-system.

The kernel is the one that shows addresses of 48 bits: a Python that is loaded as position-
independent code, or runs the machine in a thread, has its heap above 2^47 there.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

from tests.hosts.host import ROOT, call, download_wheels, need, run_and_show, unpack_wheels

PYTHON = "3.11"
_PLATFORMS = tuple(f"manylinux_2_{minor}_aarch64" for minor in (28, 27, 17))
_PLATFORMS += ("manylinux2014_aarch64",)
_DEBS = (
    *("libc6", "python3.11", "python3.11-minimal", "libpython3.11-minimal", "libgcc-s1"),
    *("libpython3.11-stdlib", "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0"),
    *("liblzma5", "libsqlite3-0", "libncursesw6", "libtinfo6", "libreadline8", "libuuid1"),
    *("libcrypt1", "libstdc++6", "libdb5.3", "libnsl2", "libtirpc3", "libgomp1"),
)
_KERNEL = "linux-image-6.1.*-arm64"
_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /dev /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
export PYTHONPATH=/clone:/packages PYTHONHOME=/usr HOME=/tmp
R="-m emu.cli run guest:hello -display none"
echo "== plain"; /usr/bin/python3.11 $R; echo "code $?"
echo "== position-independent"; /lib/ld-linux-aarch64.so.1 /usr/bin/python3.11 $R; echo "code $?"
echo "== in a thread"; /usr/bin/python3.11 /thread.py; echo "code $?"
/bin/busybox poweroff -f
"""
_THREAD = """import threading
from emu.machine import Machine
from guests import load
codes = []
def run():
    with Machine(load("hello").path) as machine:
        codes.append(machine.run(timeout=60).exit_code)
thread = threading.Thread(target=run)
thread.start()
thread.join()
raise SystemExit(codes[0])
"""


class Arm64:
    """An aarch64 system's files in `folder`, made on first use: about a minute."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder = folder / "arm64"
        self._root = folder / "root"
        self._packages = folder / "packages"
        if not (folder / "ready").exists():
            self._make()

    def _make(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        _unpack_debs(self._folder / "debs", _DEBS, self._root)
        wheels = download_wheels(self._folder, PYTHON, _PLATFORMS)
        unpack_wheels(wheels, self._packages)
        (self._folder / "ready").touch()

    def run(self, *words: str, page: int = 4096, timeout: float = 3600) -> tuple[int, str]:
        """Run Python under qemu-user with `words`; `page` is the host's page size in bytes."""
        qemu = need("qemu-aarch64-static", "qemu-user-static")
        python = self._root / "usr/bin/python3.11"
        env = {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{self._packages}",
            "PYTHONHOME": str(self._root / "usr"),
        }
        command = [qemu, "-p", str(page), "-L", str(self._root), str(python), "-B", *words]
        return run_and_show(command, env, timeout)

    def suite(self, *words: str) -> int:
        """Run the guests and the processor's tests, or what `words` say."""
        chosen = words or ("tests/guests/test_guests.py", "tests/emu/cpu")
        return self.run("-m", "pytest", "-p", "no:cacheprovider", "-q", *chosen)[0]

    def boot(self, timeout: float = 600) -> tuple[int, str]:
        """Run `guest:hello` three ways under Debian's kernel for aarch64."""
        qemu = need("qemu-system-aarch64", "qemu-system-arm")
        system = self._folder / "system"
        if not system.is_dir():
            _unpack_debs(self._folder / "kernel", (_KERNEL, "busybox-static"), system)
        (kernel,) = sorted(system.glob("boot/vmlinuz-*"))[-1:]
        command = [qemu, "-M", "virt", "-cpu", "cortex-a72", "-m", "2G", "-nographic", "-no-reboot"]
        command += ["-kernel", str(kernel), "-initrd", str(self._initramfs(system))]
        command += ["-append", "console=ttyAMA0 quiet panic=-1"]
        return run_and_show(command, {}, timeout)

    def _initramfs(self, system: Path) -> Path:
        tree = self._folder / "initramfs"
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(self._root, tree, symlinks=True)
        shutil.copytree(self._packages, tree / "packages")
        for package in ("emu", "mmu", "guests"):
            shutil.copytree(ROOT / package, tree / "clone" / package)
        (tree / "bin").mkdir(exist_ok=True)
        shutil.copy(system / "bin/busybox", tree / "bin/busybox")
        (tree / "init").write_text(_INIT, encoding="ascii")
        (tree / "init").chmod(0o755)
        (tree / "thread.py").write_text(_THREAD, encoding="ascii")
        names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        cpio = [need("cpio", "cpio"), "-o", "-H", "newc", "--quiet"]
        made = subprocess.run(cpio, input=names.encode(), cwd=tree, capture_output=True, check=True)
        image = self._folder / "initramfs.gz"
        image.write_bytes(gzip.compress(made.stdout, 1))
        return image


def _unpack_debs(debs: Path, names: tuple[str, ...], root: Path) -> None:
    """Download Debian's packages for arm64 and unpack them; needs the architecture added
    (`dpkg --add-architecture arm64`) and the lists (`apt-get update`)."""
    need("dpkg-deb", "dpkg")
    debs.mkdir(parents=True, exist_ok=True)
    call("apt-get", "download", "-q", *(_exact(name) for name in names), cwd=debs)
    root.mkdir(parents=True, exist_ok=True)
    for deb in debs.glob("*.deb"):
        call("dpkg-deb", "-x", deb, root)


def _exact(name: str) -> str:
    """Return a package's name for arm64; of several that a pattern matches, the newest."""
    if "*" not in name:
        return f"{name}:arm64"
    pattern = "^" + name.replace(".", r"\.").replace("*", r"[0-9-]*") + "$"
    words = ["apt-cache", "pkgnames"]
    known = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    import re

    found = [one for one in known if re.match(pattern, one)]
    return f"{max(found, key=lambda one: [int(n) for n in re.findall('[0-9]+', one)])}:arm64"
