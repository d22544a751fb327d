# SPDX-License-Identifier: GPL-2.0-or-later
"""The example for CI: it builds and passes, and fails when its kernel is broken."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.emu.testing.talker import run_pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "kernel-ci"
TESTS = {
    "allocate gives memory",
    "allocations are 16 bytes apart",
    "allocate refuses what is too large",
    "words are found in a command line",
    "(run)",
    "test_shell",
    "test_clock_that_stands_still_is_noticed",
    "test_panic_ends_the_machine",
    "test_two_processors_and_little_memory",
}

pytestmark = [
    pytest.mark.skipif(not EXAMPLE.exists(), reason="no source tree"),
    pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("make")), reason="no gcc, make"),
]


@pytest.fixture
def project(tmp_path):
    """A copy of the example."""
    folder = tmp_path / "kernel-ci"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("build", "__pycache__"))
    return folder


def build(folder):
    (folder / "probe.c").write_text("", encoding="utf-8", newline="\n")
    probe = ["gcc", "-m32", "-c", "-o", os.devnull, "probe.c"]
    if subprocess.run(probe, cwd=folder, capture_output=True).returncode:
        pytest.skip("gcc builds nothing for i386 here")
    done = subprocess.run(["make", "CC=gcc"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_readme_shows_its_tests():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.partition("### In CI")[2].partition("```python\n")[2].partition("```")[0]
    tests = (EXAMPLE / "tests" / "test_kernel.py").read_text(encoding="utf-8")
    assert block.strip() and block.strip() in tests


def test_it_passes(project):
    build(project)
    done = run_pytest(project)
    assert done.outcomes == dict.fromkeys(TESTS, "passed"), done.text


@pytest.mark.parametrize(
    "good, bad, failures",
    [
        pytest.param(
            "(size + 15) & -16", "size", {"allocations are 16 bytes apart", "(run)"}, id="allocator"
        ),
        pytest.param("1..4", "1..5", {"(run)"}, id="a test that is not run"),
        pytest.param(
            'print("kernel-ci is up',
            '__asm__("ud2"); print("',
            {"(run)", *(name for name in TESTS if name.startswith("test_"))},
            id="crash",
        ),
    ],
)
def test_it_notices(project, good, bad, failures):
    source = project / "kernel.c"
    text = source.read_text(encoding="utf-8")
    assert good in text
    source.write_text(text.replace(good, bad, 1), encoding="utf-8", newline="\n")
    build(project)
    outcomes = run_pytest(project).outcomes
    assert {name for name, how in outcomes.items() if how == "failure"} == failures


@pytest.mark.skipif(os.name == "nt", reason="the action's steps are for bash")
def test_the_steps_of_the_action(project):
    """What the action runs, as bash gets it."""
    build(project)
    action = (ROOT / "action.yml").read_text(encoding="utf-8")
    (step,) = re.findall(r"run: \|\n((?: {8}.*\n)+)", action)
    plugin = "-p emu.testing.plugin" if "shadowcorn" not in _plugins() else ""
    env = {
        **os.environ,
        "KERNEL": "",
        "ARGUMENTS": f"{plugin} -p no:cacheprovider tests",
        "FOLDER": "out",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))),
    }
    done = subprocess.run(
        ["bash", "-c", step], cwd=project, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "out" / "junit.xml").exists()


def _plugins():
    from importlib.metadata import entry_points

    return {entry.name for entry in entry_points(group="pytest11")}
