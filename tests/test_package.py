# SPDX-License-Identifier: GPL-2.0-or-later
"""The distribution: what belongs to it, which way imports run, and that its papers are true."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import entry_points, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("mmu", "emu", "guests")
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# POSIX only: kernels are to run on Windows too. Guarded uses are imported by name where needed.
POSIX_MODULES = {"fcntl", "termios", "pty", "tty", "resource", "grp", "pwd", "curses", "posix"}

needs_sources = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="no source tree")


def imports_of(path):
    """Return the modules that a file imports, at any depth of it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module)
    return {name.partition(".")[0] for name in found}


def relative(path):
    return path.relative_to(ROOT).as_posix()


@needs_sources
@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=relative)
def test_every_file_names_its_licence(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# SPDX-License-Identifier: GPL-2.0-or-later\n") or not text


@needs_sources
@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_run_one_way(path):
    used = imports_of(path)
    assert not used & POSIX_MODULES
    package = relative(path).partition("/")[0]
    if package == "mmu":
        assert not used & {"emu", "guests", "unicorn", "capstone"}
    elif package == "guests":
        assert not used & {"emu", "mmu", "unicorn", "capstone", "elftools"}


@needs_sources
@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_text_files_are_opened_with_their_encoding(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = {keyword.arg for keyword in node.keywords}
        if name in ("read_text", "write_text"):
            assert "encoding" in given, f"line {node.lineno}"
        if name == "write_text":  # what we write has the same line ends on every host
            assert "newline" in given, f"line {node.lineno}"
        if name == "open" and not any(
            isinstance(a, ast.Constant) and isinstance(a.value, str) and "b" in a.value
            for a in node.args
        ):
            modes = [a for a in node.args if isinstance(a, ast.Constant)]
            assert "encoding" in given or not modes or "b" in str(modes), f"line {node.lineno}"


def test_both_commands_are_installed():
    scripts = {e.name: e for e in entry_points(group="console_scripts") if "emu" in e.value}
    assert set(scripts) == {"shadowcorn", "shadowcorn-qemu"}
    for script in scripts.values():
        assert callable(script.load())


def test_what_is_imported_is_declared():
    declared = {re.split(r"[<>=;\[ ]", line)[0] for line in requires("shadowcorn") or ()}
    modules = {
        "unicorn": "unicorn",
        "capstone": "capstone",
        "intervaltree": "intervaltree",
        "elftools": "pyelftools",
        "keystone": "keystone-engine",
        "numba": "numba",
        "llvmlite": "numba",
        "distributed": "distributed",
        "hypothesis": "hypothesis",
        "pytest": "pytest",
    }
    for path in SOURCES:
        for name in imports_of(path) - set(PACKAGES):
            assert name in sys.stdlib_module_names or modules[name] in declared, (path, name)


def test_images_are_part_of_the_package():
    from guests import GUESTS

    for guest in GUESTS.values():
        assert guest.path.is_file()
        assert guest.source.is_file()
        assert guest.expected


@needs_sources
def test_ci_runs_what_the_readme_says():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in ("python -m pytest -n auto", "shadowcorn run guest:hello"):
        assert command in readme
        assert command in ci


@needs_sources
def test_readme_shows_what_hello_prints():
    from guests import GUESTS

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("$ shadowcorn run guest:hello\n")[2].partition("shadowcorn: ")[0]
    assert shown == GUESTS["hello"].expected


@needs_sources
def test_every_option_that_the_readme_names_exists():
    from emu.cli.parse import TAKES_VALUE

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh|console|yaml|make)\n(.*?)^```", readme, re.S | re.M)
    lines = [line for block in blocks for line in block.splitlines() if "shadowcorn run" in line]
    assert lines
    for line in lines:
        words = line.partition("shadowcorn run")[2].partition(";")[0].split()
        for word in words:
            if word.startswith("-"):
                assert word.lstrip("-").partition("=")[0] in TAKES_VALUE, line
