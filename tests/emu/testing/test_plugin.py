# SPDX-License-Identifier: GPL-2.0-or-later
"""The plug-in in a pytest of its own: fixtures, suites, reports, xdist; no false green."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emu.testing import test_protocols as samples
from tests.emu.testing.talker import CRASH, EXIT, FAIL, FLAT, HALT, HANG, run_pytest, talker

ROOT = Path(__file__).parents[3]
SUITE = """\
from emu.testing import kernel_suite

test_suite = kernel_suite("kernel.bin", options={options!r}, {more})
"""


def make_suite(folder, text, end=EXIT, more="", port=0x3F8):
    (folder / "kernel.bin").write_bytes(talker(text, end, port))
    (folder / "test_kernel.py").write_text(
        SUITE.format(options=FLAT, more=more), encoding="utf-8", newline="\n"
    )


def make_test(folder, body, image=None):
    if image is not None:
        (folder / "kernel.bin").write_bytes(image)
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    text = f"FLAT = {FLAT!r}\n\ndef test_it(kernel):\n{lines}"
    (folder / "test_kernel.py").write_text(text, encoding="utf-8", newline="\n")


# --- The fixture ----------------------------------------------------------------------------------


def test_a_test_of_ten_lines(tmp_path):
    make_test(tmp_path, 'm = kernel()\nm.expect_exact("A20 is open")\nm.run_to_exit(code=0x10)')
    done = run_pytest(tmp_path, "--kernel", "guest:hello")
    assert (done.code, done.outcomes) == (0, {"test_it": "passed"}), done.text


def test_no_kernel_is_a_failure_and_not_skipped(tmp_path):
    make_test(tmp_path, "kernel()")
    done = run_pytest(tmp_path)
    assert done.outcomes == {"test_it": "failure"}
    assert "no kernel: pytest --kernel FILE" in done.text


def test_a_kernel_that_is_not_there_is_a_line(tmp_path):
    make_test(tmp_path, "kernel('build/kernel.elf')")
    done = run_pytest(tmp_path)
    assert "could not load kernel" in done.text
    assert "Traceback" not in done.text and "emu/" not in done.text


def test_the_kernel_of_the_settings(tmp_path):
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nkernel = guest:hello\n", encoding="utf-8", newline="\n"
    )
    make_test(tmp_path, 'kernel().expect("hello")')
    assert run_pytest(tmp_path).code == 0


def test_a_failure_explains_itself(tmp_path):
    body = 'm = kernel("kernel.bin", options=FLAT)\nm.serial.feed("x")\nm.expect("ready")'
    make_test(tmp_path, body, talker("starting\n", CRASH))
    done = run_pytest(tmp_path)
    assert done.outcomes == {"test_it": "failure"}
    for words in (
        "no match for 'ready' on serial: the run ended (triple fault on vCPU 0 at @",
        "shadowcorn: this run again",
        "shadowcorn run kernel.bin --format flat32 --address 0x100000 -m 4M --until @",
        "# fed to the serial line at @0: b'x'",
        "starting",
        "Last events, the newest below:",
        "registers of vCPU 0:",
    ):
        assert words in done.text, words
    assert "_wait" not in done.text, "frames of ours"
    folder = tmp_path / "shadowcorn" / "test_kernel.py-test_it"
    assert (folder / "serial.log").read_bytes() == b"starting\n"
    assert "triple fault" in (folder / "report.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "when, folders",
    [("always", {"test_good", "test_bad"}), ("failure", {"test_bad"}), ("never", set())],
)
def test_when_files_are_written(tmp_path, when, folders):
    (tmp_path / "test_kernel.py").write_text(
        "def test_good(kernel):\n    kernel().expect('hello')\n\n"
        "def test_bad(kernel):\n    kernel().expect('goodbye')\n",
        encoding="utf-8",
        newline="\n",
    )
    run_pytest(tmp_path, "--kernel", "guest:hello", "--shadowcorn-report", when)
    found = tmp_path.glob("shadowcorn/*")
    assert {path.name.rpartition("-")[2] for path in found} == folders


def test_a_slow_host_is_an_error_and_no_failure(tmp_path):
    body = 'kernel("kernel.bin", options=FLAT).expect("x", insns=1 << 60)'
    make_test(tmp_path, body, talker("", HANG))
    done = run_pytest(tmp_path, "--kernel-timeout", "0.3")
    assert done.outcomes == {"test_it": "error"}


def test_fixtures_are_documented(tmp_path):
    make_test(tmp_path, "pass")
    text = run_pytest(tmp_path, "--fixtures", "-v").text
    assert "Boot kernels in machines of their own" in text
    assert "m.expect(regex)" in text


def test_start_up_imports_nothing_of_the_emulator():
    program = (
        "import sys, emu.testing.plugin\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "heavy = {'unicorn', 'capstone', 'elftools', 'numba'} & names\n"
        "print(sorted(heavy), 'emu.machine' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["[]", "False"], done.stderr


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="no source tree")
def test_the_entry_point_is_declared():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points.pytest11]\nshadowcorn = "emu.testing.plugin"\n' in text


# --- Suites ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, end, more, outcomes",
    [
        pytest.param(
            samples.TAP13,
            EXIT,
            "minimum=4",
            {
                "pages are mapped": "passed",
                "fork": "failure",
                "exec": "skipped",
                "no network": "skipped",
                "(run)": "passed",
            },
            id="tap",
        ),
        pytest.param(
            samples.KVM.replace("\nFAIL", "\nPASS").replace("1 unexp", "0 unexp"),
            "b000 e6f4 f4",
            "",
            {
                "xapic: self ipi": "passed",
                "apic timer: fires": "passed",
                "known: bug": "skipped",
                "tsc deadline not supported": "skipped",
                "(run)": "passed",
            },
            id="kvm-unit-tests",
        ),
        pytest.param(
            samples.RUST,
            FAIL,
            "",
            {
                "blog_os.vga_buffer.test_println_simple": "passed",
                "blog_os.allocator.many_boxes": "passed",
                "blog_os.test_breakpoint_exception": "failure",
                "(run)": "failure",
            },
            id="rust, which panics",
        ),
        pytest.param(
            samples.ZTEST.replace("FAIL", "PASS").replace("PASSED", "SUCCESSFUL"),
            HANG,
            "",
            {
                "mem_map/test_map": "passed",
                "mem_map/test_rights": "passed",
                "mem_map/test_execute": "skipped",
                "(run)": "passed",
            },
            id="ztest, which never ends",
        ),
        pytest.param(
            samples.XV6_OLD,
            HANG,
            "",
            {
                "arg test": "passed",
                "createdelete": "passed",
                "linkunlink": "passed",
                "(run)": "passed",
            },
            id="xv6",
        ),
        pytest.param(
            samples.MIMIKER.replace("FAILED", "PASSED"),
            EXIT,
            "minimum=2",
            {"vm_map": "passed", "pipe": "passed", "(run)": "passed"},
            id="mimiker",
        ),
    ],
)
def test_one_item_for_each_line(tmp_path, text, end, more, outcomes):
    make_suite(tmp_path, text, end, more)
    assert run_pytest(tmp_path).outcomes == outcomes


GOOD = "TAP version 14\n1..2\nok 1 a\nok 2 b\n"


@pytest.mark.parametrize(
    "text, end, more, problem",
    [
        pytest.param(GOOD, CRASH, "", "did not end by itself: triple fault", id="crash at the end"),
        pytest.param(GOOD[:-7], CRASH, "", "triple fault", id="crash in the middle"),
        pytest.param(GOOD, HANG, "insns=2_000_000", "within 2,000,000 instructions", id="hang"),
        pytest.param(GOOD, HALT, "", "did not end by itself: idle", id="halt"),
        pytest.param(GOOD, FAIL, "", "ended with 0x11, not 0x10 or 0x0", id="exit code"),
        pytest.param(GOOD[:-7], EXIT, "", "the plan says 1..2, 1 are", id="broken off"),
        pytest.param(GOOD.replace("1..2\n", ""), EXIT, "", "there is no plan", id="no plan"),
        pytest.param(GOOD, EXIT, "minimum=3", "2 tests are reported, at least 3", id="floor"),
        pytest.param(GOOD + "panic: no\n", EXIT, "", "the kernel panicked", id="panic"),
        pytest.param("hello\n", EXIT, "", "nothing that was printed is a test", id="no report"),
        pytest.param("[TEST PASSED]\n", EXIT, "", "nothing says how many", id="no minimum"),
        pytest.param("", EXIT, "", "0 tests are reported, at least 1", id="silence"),
    ],
)
def test_no_false_green(tmp_path, text, end, more, problem):
    make_suite(tmp_path, text, end, more)
    done = run_pytest(tmp_path)
    assert done.code == 1
    assert done.outcomes["(run)"] == "failure"
    assert problem in done.text
    assert "shadowcorn: this run again" in done.text


def test_a_suite_on_the_debug_console_until_a_line(tmp_path):
    make_suite(tmp_path, GOOD + "all done\n", HANG, 'on="debugcon", until="^all done$"', 0xE9)
    assert run_pytest(tmp_path).outcomes == {"a": "passed", "b": "passed", "(run)": "passed"}


def test_a_suite_without_its_kernel_is_an_error(tmp_path):
    make_suite(tmp_path, GOOD)
    (tmp_path / "kernel.bin").unlink()
    done = run_pytest(tmp_path)
    assert done.code == 2
    assert "could not load kernel" in done.text


def test_single_tests_can_be_chosen(tmp_path):
    make_suite(tmp_path, "TAP version 14\n1..3\nok 1 a::b\nok 2 c\nok 3 c\n")
    assert run_pytest(tmp_path, "test_kernel.py::test_suite::a.b").outcomes == {"a.b": "passed"}
    assert run_pytest(tmp_path, "test_kernel.py::test_suite::c #2").outcomes == {"c #2": "passed"}


def test_hostile_names(tmp_path):
    names = ["\x1b[31mred\x1b[0m", "a\x07b", "", "../../etc", "x" * 3000, "[", "caf\u00e9"]
    lines = "".join(f"not ok {n} {name}\n" for n, name in enumerate(names, 1))
    make_suite(tmp_path, f"TAP version 14\n1..{len(names)}\n{lines}")
    done = run_pytest(tmp_path)
    assert len(done.outcomes) == len(names) + 1
    assert {"red", "a?b", "test 3", "../../etc", "caf\u00e9"} <= set(done.outcomes)


def test_xdist_runs_the_same_tests(tmp_path):
    pytest.importorskip("xdist")
    make_suite(tmp_path, samples.TAP13)
    alone = run_pytest(tmp_path)
    spread = run_pytest(tmp_path, "-n", "2")
    assert alone.outcomes == spread.outcomes
    assert "ok 1" in (tmp_path / "shadowcorn/test_kernel.py-test_suite/serial.log").read_text(
        "utf-8"
    )


def test_two_runs_have_one_junit_but_for_times(tmp_path):
    make_suite(tmp_path, samples.RUST, CRASH)
    body = 'm = kernel("guest:smp_boot", smp=4)\nm.expect("round 2")\nm.expect("never")'
    (tmp_path / "test_more.py").write_text(
        "def test_more(kernel):\n" + "".join(f"    {line}\n" for line in body.splitlines()),
        encoding="utf-8",
        newline="\n",
    )

    def timeless():
        xml = run_pytest(tmp_path, "-o", "junit_logging=all").junit
        return re.sub(r'(time|timestamp)="[^"]*"', "", xml)

    first = timeless()
    assert (
        '<property name="shadowcorn" value="shadowcorn run guest:smp_boot -smp 4 --until' in first
    )
    assert first == timeless()
