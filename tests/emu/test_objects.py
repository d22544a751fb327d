# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiled code that comes along: of the text as it is, whole, and used without a compiler."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import pytest

from emu import jit, objects
from emu.cpu.compiled import CompiledCode

HELD = json.loads(objects.PATH.read_text(encoding="utf-8"))
needs_target = pytest.mark.skipif(objects.host() is None, reason="none for this host")


@pytest.fixture(autouse=True)
def forget():
    """What this process has found."""

    def clear():
        objects.came_along.cache_clear()
        objects.load.cache_clear()

    clear()
    yield clear
    clear()


def test_it_is_that_of_the_text():
    assert HELD["fingerprint"] == objects.fingerprint(), "run python -m emu.objects"


@pytest.mark.parametrize("target", objects.TARGETS)
def test_each_target_has_every_entry_point(target):
    found = HELD["targets"][target]
    code = base64.b64decode("".join(found["code"]))
    places = list(found["entries"].values())
    assert found["entries"].keys() == set(CompiledCode._fields)
    assert len({*places}) == len(places)
    assert all(0 <= place < len(code) for place in places)


@pytest.mark.parametrize(
    ("system", "machine", "target"),
    [
        ("linux", "x86_64", "x86_64"),
        ("darwin", "x86_64", "x86_64"),
        ("win32", "AMD64", "x86_64-windows"),
        ("linux", "aarch64", "aarch64"),
        ("darwin", "arm64", None),
        ("win32", "ARM64", None),
        ("linux", "riscv64", None),
    ],
)
def test_which_code_a_host_takes(monkeypatch, system, machine, target):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(objects.platform, "machine", lambda: machine)
    assert objects.host() == target


@needs_target
def test_code_of_another_text_is_not_used(monkeypatch, forget):
    assert objects.load() is not None
    forget()
    monkeypatch.setattr(objects, "fingerprint", lambda: "another")
    assert objects.load() is None


@needs_target
@pytest.mark.parametrize("text", ["", "{}", "[]", '{"fingerprint": 1, "targets": {}}'])
def test_a_file_that_is_broken_is_not_used(monkeypatch, tmp_path, text):
    path = tmp_path / "objects.json"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(objects, "PATH", path)
    monkeypatch.setattr(objects, "fingerprint", lambda: 1)
    assert objects.load() is None


def test_where_no_memory_may_be_executed_there_is_none(monkeypatch):
    def refuse(text):
        raise OSError("no")

    monkeypatch.setattr(objects, "executable", refuse)
    assert objects.load() is None


@needs_target
def test_no_package_is_needed_to_use_it():
    program = (
        "import sys; sys.modules['llvmlite'] = sys.modules['numba'] = None\n"
        "from emu.objects import compiled_code\n"
        "assert compiled_code() is not None\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.skipif(not jit.is_available(), reason="nothing to compile with")
def test_what_is_built_stands_alone_for_every_target():
    built = objects.build()
    assert built["fingerprint"] == objects.fingerprint()
    assert {name: found["entries"].keys() for name, found in built["targets"].items()} == {
        name: set(CompiledCode._fields) for name in objects.TARGETS
    }
