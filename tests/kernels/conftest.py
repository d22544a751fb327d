# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the kernels of other projects are found: nothing of theirs is in this repository.

`SHADOWCORN_KERNELS` names a folder as `python -m emu.kernels` takes it. Without it, the places are
tried where Debian's packages put such files (/boot).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "SHADOWCORN_KERNELS"
WELL_KNOWN = (Path("/boot"), Path("/usr/lib/shadowcorn-kernels"))


def folders() -> list[Path]:
    named = os.environ.get(VARIABLE)
    return [Path(named)] if named else [place for place in WELL_KNOWN if place.is_dir()]


@pytest.fixture(scope="session")
def kernel_file():
    """A function: the path of a kernel by its file name, or the test is skipped."""

    def find(name):
        for folder in folders():
            for pattern in (name, f"*/{name}", f"*/*/{name}"):
                for path in folder.glob(pattern):
                    return path
        pytest.skip(f"no {name}: set {VARIABLE} to a folder that has it")

    return find
