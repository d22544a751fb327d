# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest's run is the same on every host: run with `-m hosts`, needs the network once.

The whole suite on another host is a command: see `tests.hosts.__main__`.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from emu.machine import Machine
from guests import load
from tests.hosts.arm64 import Arm64
from tests.hosts.host import Missing
from tests.hosts.wine import Wine

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(1800)]
FOLDER = Path.home() / ".cache" / "shadowcorn" / "hosts"
RUN = ("-m", "emu.cli", "run", "guest:smp_boot", "-smp", "4", "-display", "none")


def host(kind):
    try:
        return kind(FOLDER)
    except (Missing, subprocess.CalledProcessError, OSError) as error:
        pytest.skip(f"not to be had here: {error}")


def instructions(text):
    return int(re.search(r"([\d,]+) instructions", text)[1].replace(",", ""))


@pytest.fixture(scope="module")
def here():
    guest = load("smp_boot")
    with Machine(guest.path, memory=guest.memory, cpus=4) as machine:
        return machine.run(timeout=60).instructions


def test_windows_python_makes_the_same_run(here):
    code, text = host(Wine).run(*RUN, timeout=300)
    assert code == 33
    assert instructions(text) == here


@pytest.mark.parametrize("page", [4096, 16384], ids=["4 KiB pages", "16 KiB pages"])
def test_aarch64_makes_the_same_run(here, page):
    code, text = host(Arm64).run(*RUN, page=page, timeout=600)
    assert code == 33
    assert instructions(text) == here


def test_aarch64_with_addresses_of_48_bits():
    try:
        _, text = host(Arm64).boot()
    except (Missing, subprocess.CalledProcessError) as error:
        pytest.skip(f"not to be had here: {error}")
    assert text.count("code 33") == 3
