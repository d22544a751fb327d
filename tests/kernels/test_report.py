# SPDX-License-Identifier: GPL-2.0-or-later
"""The table and its memory, the initramfs, and what is found in a folder."""

from __future__ import annotations

import pytest

from emu.kernels.case import Result, Tally, Verdict
from emu.kernels.catalogue import find_cases
from emu.kernels.command import command
from emu.kernels.initramfs import elf_bits, initramfs
from emu.kernels.report import Row, markdown, read_json, write_json

ROWS = [
    Row("kut", "good", Result(Verdict.PASS, 1.25, tally=Tally(3, 0, 0)), Result(Verdict.PASS, 0.5)),
    Row(
        "kut",
        "bad",
        Result(Verdict.FAIL, 2.0, "a | b\nc", Tally(1, 2, 0, ("a | b",))),
        Result(Verdict.PASS, 1.0),
    ),
    Row("linux", "boots", Result(Verdict.SKIP, reason="no vmlinuz*")),
]


def test_results_survive_the_file(tmp_path):
    path = tmp_path / "kernels.json"
    write_json(path, {row.key: row for row in ROWS})
    assert list(read_json(path).values()) == ROWS


def test_no_file_is_no_results(tmp_path):
    assert read_json(tmp_path / "none.json") == {}


def test_table():
    lines = markdown(ROWS, "# Head").splitlines()
    assert "1 of 2 pass, 0 are skipped. Of the 2 that pass under QEMU, 1 pass here." in lines
    assert "| good | pass 3/3, 1.2 s | pass, 0.5 s | |" in lines
    assert "| bad | FAIL 1/3, 2.0 s | pass, 1.0 s | a \\| b c |" in lines
    assert "| boots | skip | - | no vmlinuz* |" in lines


def read_archive(data):
    """Yield (name, mode, content) of a newc archive."""
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        body = at + 110 + name_size + 3 & ~3
        if name == "TRAILER!!!":
            return
        yield name, mode, data[body : body + size]
        at = body + size + 3 & ~3


def test_initramfs_holds_busybox_and_the_script():
    files = {name: (mode, data) for name, mode, data in read_archive(initramfs(b"abc", "echo hi"))}
    assert files["bin/busybox"] == (0o100755, b"abc")
    assert files["bin/sh"] == (0o120777, b"busybox")
    assert files["dev/console"] == (0o020600, b"")
    assert b"\necho hi\nexec setsid cttyhack sh\n" in files["init"][1]


@pytest.mark.parametrize(
    "head, bits",
    [
        pytest.param(b"\x7fELF\x01\x01", 32, id="32 bits"),
        pytest.param(b"\x7fELF\x02\x01", 64, id="64 bits"),
        pytest.param(b"#!/bin/sh", 0, id="a script"),
        pytest.param(b"", 0, id="empty"),
    ],
)
def test_elf_class(tmp_path, head, bits):
    path = tmp_path / "busybox"
    path.write_bytes(head)
    assert elf_bits(path) == bits


def test_an_empty_folder_says_what_it_lacks(tmp_path):
    reasons = {case.key: case.absent for case in find_cases(tmp_path, tmp_path)}
    assert reasons["invaders/plays"] == "no invaders.exec"
    assert reasons["Linux/boots"] == "no vmlinuz*"
    assert all(reasons.values())


def test_the_command_writes_a_table_of_skips(tmp_path, capsys):
    table = tmp_path / "table.md"
    assert command([str(tmp_path), "--markdown", str(table)]) == 0
    assert "invaders/plays: " in capsys.readouterr().out
    assert str(tmp_path) not in table.read_text(encoding="utf-8")
