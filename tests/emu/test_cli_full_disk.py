# SPDX-License-Identifier: GPL-2.0-or-later
"""Output that cannot be written: a full disk is told, a reader who has gone is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def run(*words, stdout=subprocess.PIPE):
    command = [sys.executable, "-m", "emu.cli", "run", "guest:hello", "-display", "none", *words]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, timeout=120
    )


def test_standard_output_on_a_full_disk():
    with FULL.open("wb") as full:
        done = run(stdout=full)
    assert done.returncode == 2
    assert b"cannot write standard output: No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_serial_file_on_a_full_disk():
    done = run("-serial", f"file:{FULL}")
    assert done.returncode == 2
    assert f"cannot write {FULL}: No space left on device".encode() in done.stderr


def test_a_log_on_a_full_disk_ends_and_the_run_goes_on():
    done = run("-d", "int,mmu", "-D", str(FULL))
    assert done.returncode == 33
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"the log ends here: No space left on device") <= 1
