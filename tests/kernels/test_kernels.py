# SPDX-License-Identifier: GPL-2.0-or-later
"""Other people's kernels: what docs/kernels.json says of each still holds, where it is found.

`SHADOWCORN_KERNELS` names a folder with them (`shadowcorn kernels --list FOLDER` tells what is
found there); what is missing is skipped with its reason. They take minutes: `-m kernels`.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from emu.kernels.case import Case, Verdict
from emu.kernels.catalogue import find_cases
from emu.kernels.command import run_on_shadowcorn
from emu.kernels.report import read_json

TABLE = Path(__file__).parents[2] / "docs" / "kernels.json"
VARIABLE = "SHADOWCORN_KERNELS"


def found_cases() -> list[Case]:
    """Every case for the folder's kernels; one that says what is missing if there is no folder."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return [Case("kernels", "all", absent=f"set {VARIABLE} to a folder with kernels")]
    work = tempfile.mkdtemp(prefix="shadowcorn-")
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    return list(find_cases(Path(folder), Path(work)))


@pytest.mark.kernels
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("case", found_cases(), ids=lambda case: case.key)
def test_it_does_as_the_table_says(case):
    if case.absent:
        pytest.skip(case.absent)
    row = read_json(TABLE).get(case.key)
    if row is not None and row.ours.verdict is not Verdict.PASS:
        pytest.skip(f"the table says {row.ours.verdict.value}: {row.ours.reason}")
    result = run_on_shadowcorn(case)
    assert result.verdict is Verdict.PASS, f"{result.reason}\n{result.output}"
