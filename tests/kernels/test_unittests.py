# SPDX-License-Identifier: GPL-2.0-or-later
"""The list and the reports of kvm-unit-tests are read as that project means them."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.kernels.case import Verdict
from emu.kernels.unittests import PATIENCE, cases_of_tree, judge

CONFIG = """\
# a comment
[plain]
file = plain.flat

[two]
file = plain.flat
smp = 2
qemu_params = -cpu max,-smep -m 256
test_args = 'first "second third"'
timeout = 5

[other-architecture]
file = plain.flat
arch = i386

[virtual]
file = plain.flat
groups = vmx

[host]
file = plain.flat
qemu_params = -cpu host

[x2apic]
file = apic.flat

[unbuilt]
file = unbuilt.flat
"""


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "x86").mkdir()
    (tmp_path / "x86" / "unittests.cfg").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "x86" / "plain.flat").write_bytes(b"")
    (tmp_path / "x86" / "apic.flat").write_bytes(b"")
    (tmp_path / "config.mak").write_text("SRCDIR=.\nARCH=x86_64\n", encoding="utf-8")
    return tmp_path


def test_every_test_of_the_architecture_is_listed(tree):
    found = {case.name: case for case in cases_of_tree(tree, tree)}
    assert list(found) == [
        *("plain", "two", "virtual", "host", "x2apic", "x2apic, no hypercall", "unbuilt"),
    ]
    assert found["two"].suite == "kvm-unit-tests x86_64"
    assert found["two"].seconds == PATIENCE * 5
    reasons = [case.absent for case in found.values()]
    assert reasons == [
        "",
        "",
        "tests virtualization",
        "asks for the host's CPU",
        "",
        "",
        "was not built",
    ]


def test_the_command_line_is_the_projects_own(tree):
    (case,) = (case for case in cases_of_tree(tree, tree) if case.name == "two")
    words = list(case.arguments)
    assert words[words.index("-kernel") + 1] == str(tree / "x86" / "plain.flat")
    assert words[words.index("-smp") + 1] == "2"
    assert words[words.index("-append") + 1] == 'first "second third"'
    assert words[-4:] == ["-cpu", "max,-smep", "-m", "256"]
    assert "isa-debug-exit,iobase=0xf4,iosize=0x4" in words


def test_a_test_that_calls_kvm_is_run_without_that_too(tree):
    words = next(c.arguments for c in cases_of_tree(tree, tree) if c.name.endswith("no hypercall"))
    assert words[-2] == "-initrd"
    assert Path(words[-1]).read_text(encoding="utf-8") == "TEST_DEVICE=0\n"


@pytest.mark.parametrize(
    "code, output, verdict, reason",
    [
        pytest.param(1, "PASS: one\nSUMMARY: 1 tests\n", Verdict.PASS, "", id="passes"),
        pytest.param(1, "no lines at all\n", Verdict.PASS, "", id="the exit code alone"),
        pytest.param(1, "PASS: a\nFAIL: b\n", Verdict.FAIL, "b", id="a failure it hid"),
        pytest.param(3, "FAIL: a\nSUMMARY: x\n", Verdict.FAIL, "a", id="fails"),
        pytest.param(3, "XPASS: a\nSUMMARY: x\n", Verdict.FAIL, "a", id="passes unexpectedly"),
        pytest.param(77, "SKIP: no NX\n", Verdict.SKIP, "no NX", id="skips itself"),
        pytest.param(124, "PASS: a\n", Verdict.TIMEOUT, "did not end in time", id="times out"),
        pytest.param(None, "", Verdict.TIMEOUT, "did not end in time", id="was killed"),
        pytest.param(4, "PASS: a\ntriple fault\nx\n", Verdict.CRASH, "triple fault", id="crashes"),
        pytest.param(127, "Unhandled exception 6\nSTACK\n", Verdict.CRASH,
                     "Unhandled exception 6", id="dies of an exception"),
        pytest.param(0, "", Verdict.CRASH, "printed nothing", id="says nothing"),
    ],
)  # fmt: skip
def test_judgement(code, output, verdict, reason):
    result = judge(code, output, 1.0)
    assert (result.verdict, result.reason) == (verdict, reason)


def test_the_tally_counts_expected_failures_as_passes():
    tally = judge(1, "PASS: a\nXFAIL: b\nSKIP: c\nPASSED\n", 0.0).tally
    assert (tally.passed, tally.failed, tally.skipped) == (2, 0, 1)
