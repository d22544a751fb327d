# SPDX-License-Identifier: GPL-2.0-or-later
"""What the results were measured on, in words."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

__all__ = ["describe_host"]


def describe_host(qemu: str | None = None) -> dict[str, str]:
    """The machine, the versions and the commit; what cannot be found out is left out."""
    cores = os.cpu_count() or 1
    found = {
        "processor": f"{cores} core{'s' * (cores > 1)}, {_processor()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for package in ("unicorn", "numba", "llvmlite"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    if qemu:
        found["qemu"] = qemu
    commit = _commit()
    if commit:
        found["commit"] = commit
    return found


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.processor() or "unknown processor"


def _commit() -> str | None:
    """The commit of the source tree, or None outside of one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=10", "--dirty"],
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode(encoding="utf-8").strip()
