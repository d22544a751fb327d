# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests on QEMU: an oracle that shares no code with this emulator.

What QEMU's TCG (7.2) does apart from the SDM, the guests leave open: the P bit of a reserved-bit
fault is masked, and so is the W bit of a read-modify-write of a page that is not present.
"""

from __future__ import annotations

import shutil
import subprocess

import pytest

from guests import GUESTS, Guest

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not on PATH")

CASES = [
    pytest.param(guest, cpus, id=f"{guest.name}-{cpus}")
    for guest in GUESTS.values()
    for cpus in guest.cpus
]
# QEMU's clocks follow the host's, which may be busy elsewhere in the middle of a measurement.
ATTEMPTS = {"ticks": 5}


def run(guest: Guest, cpus: int) -> tuple[int, str]:
    assert QEMU is not None
    if guest.boot == "sector":
        boot = ["-drive", f"format=raw,if=floppy,readonly=on,file={guest.path}"]
    else:
        boot = ["-kernel", str(guest.path)]
    command = [QEMU, "-accel", "tcg", "-cpu", "max", "-m", "64", "-smp", str(cpus), *boot]
    command += ["-serial", "stdio", "-display", "none", "-no-reboot"]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
    )
    return done.returncode, done.stdout.decode("ascii")


@pytest.mark.parametrize(("guest", "cpus"), CASES)
def test_guest_gives_its_expected_output(guest: Guest, cpus: int) -> None:
    for _ in range(ATTEMPTS.get(guest.name, 1)):
        code, text = run(guest, cpus)
        if text == guest.expected:
            break
    assert text == guest.expected
    assert code == guest.exit_code
