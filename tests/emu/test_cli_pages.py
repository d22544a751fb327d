# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowcorn pages` and `shadowcorn lint`."""

from __future__ import annotations

import json

from emu.cli import main


def test_pages_of_a_guest(capsys):
    assert main(["pages", "guest:context_switch", "--at", "100,000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("32-bit paging, CR3 0x")
    assert all(" -> 0x" in line for line in lines[1:])
    assert len(lines) > 3


def test_lint_of_a_guest(capsys):
    assert main(["lint", "guest:context_switch", "--at", "100000", "--lint-json"]) == 0
    remarks = json.loads(capsys.readouterr().out)
    assert {"wx", "zero-page"} <= {remark["rule"] for remark in remarks}
    off = ["--lint-off", "wx", "--lint-off", "zero-page"]
    assert main(["lint", "guest:context_switch", "--at", "100000", "--lint-json", *off]) == 0
    left = json.loads(capsys.readouterr().out)
    assert {remark["rule"] for remark in remarks} - {remark["rule"] for remark in left} == {
        "wx",
        "zero-page",
    }


def test_an_unknown_rule_is_bad_usage(capsys):
    assert main(["lint", "guest:hello", "--lint-off", "nonsense"]) == 2
    assert "no lint rule is called 'nonsense'" in capsys.readouterr().err
