# SPDX-License-Identifier: GPL-2.0-or-later
"""What all foreign hosts have in common: a folder of downloads, and commands that may fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The clone that is tested."""
PACKAGES = (
    "unicorn==2.1.4",
    "capstone>=5,<6",
    "intervaltree",
    "sortedcontainers",
    "pyelftools",
    "pytest",
    "pluggy",
    "iniconfig",
    "packaging",
    "colorama",
    "pygments",
    "hypothesis",
    "pytest-timeout",
    "pytest-xdist",
    "execnet",
)


class Missing(Exception):
    """Something that this host needs is not installed; the message names it."""


def need(program: str, package: str) -> str:
    """Return where a program is; raises Missing with the Debian package that has it."""
    found = shutil.which(program)
    if found is None:
        raise Missing(f"{program} is missing (apt-get install {package})")
    return found


def call(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
    """Run a command that must succeed."""
    words = [str(word) for word in command]
    whole = {**os.environ, **env} if env else None
    subprocess.run(words, check=True, env=whole, cwd=cwd, stdin=subprocess.DEVNULL)


def download_wheels(folder: Path, python: str, platforms: tuple[str, ...]) -> Path:
    """Download the wheels of PACKAGES for another platform; return their folder."""
    wheels = folder / "wheels"
    if not wheels.is_dir():
        words = [sys.executable, "-m", "pip", "download", "-q", "--only-binary", ":all:"]
        for platform in platforms:
            words += ["--platform", platform]
        call(*words, "--python-version", python, "--no-deps", "-d", wheels, *PACKAGES)
    return wheels


def unpack_wheels(wheels: Path, site_packages: Path) -> None:
    """Install wheels by unpacking them."""
    site_packages.mkdir(parents=True, exist_ok=True)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site_packages)


def run_and_show(command: list[str], env: dict[str, str], timeout: float) -> tuple[int, str]:
    """Run a command through pipes, show what it prints as it comes, and return code and text."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **env},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            text = line.decode("utf-8", "replace")
            lines.append(text)
            sys.stdout.write(text)
            sys.stdout.flush()
        code = process.wait(timeout)
    finally:
        process.kill()
    return code, "".join(lines)
