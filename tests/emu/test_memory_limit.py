# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs whose address space is limited, as by `ulimit -v`: slower, or refused in one line."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from emu.cpu import raw
from emu.errors import EngineError

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv.pop(1)) << 20,) * 2)
from emu.cli import main
sys.exit(main())
"""
needs_limits = pytest.mark.skipif(
    sys.platform != "linux" or importlib.util.find_spec("resource") is None,
    reason="no limit of the address space here",
)


def run(mebibytes, *words):
    command = [sys.executable, "-c", LIMITED, str(mebibytes), "run", "guest:hello"]
    return subprocess.run(
        [*command, "-display", "none", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=200,
    )


@needs_limits
@pytest.mark.parametrize("mebibytes", [250, 320, 400, 586, 900, 1300])
def test_a_run_with_little_memory_is_the_same_run(mebibytes):
    done = run(mebibytes)
    assert (done.returncode, b"11,832 instructions" in done.stderr) == (33, True), done.stderr


@needs_limits
def test_more_memory_than_there_is_for_the_guest_is_bad_usage():
    done = run(586, "-m", "2G")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"memory" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("room", "size"), [(4096, None), (2048, None), (2047, 512), (600, 256), (16, 8)]
)
def test_the_buffer_for_code_fits_twice(monkeypatch, room, size):
    monkeypatch.setattr(raw, "has_room", lambda size: size <= room << 20)
    assert raw._code_buffer() == (None if size is None else size << 20)


def test_no_room_for_a_buffer_is_an_error_and_not_the_end_of_the_process(monkeypatch):
    monkeypatch.setattr(raw, "has_room", lambda size: False)
    with pytest.raises(EngineError, match="not enough memory"):
        raw._code_buffer()
