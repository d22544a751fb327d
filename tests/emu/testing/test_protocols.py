# SPDX-License-Identifier: GPL-2.0-or-later
"""Test reports of every protocol, as kernels print them: whole, broken off, and contradictory."""

from __future__ import annotations

import pytest

from emu.testing.protocols import FINAL, detect, parse

KUNIT = """\
[    0.412210] KTAP version 1
[    0.412301] 1..2
[    0.412311]     KTAP version 1
[    0.412312]     # Subtest: list-kunit-test
[    0.412313]     1..3
[    0.412314]     ok 1 list_test_list_init
[    0.412315]     # list_test_move: EXPECTATION FAILED at lib/list-test.c:40
[    0.412316]     Expected a == b, but
[    0.412317]     not ok 2 list_test_move
[    0.412318]     ok 3 list_test_swap # SKIP no swap
[    0.412319] # list-kunit-test: pass:1 fail:1 skip:1 total:3
[    0.412320] not ok 1 list-kunit-test
[    0.412321]     KTAP version 1
[    0.412322]     # Subtest: hash
[    0.412323]     1..1
[    0.412324]         KTAP version 1
[    0.412325]         # Subtest: params
[    0.412326]         1..2
[    0.412327]         ok 1 small
[    0.412328]         ok 2 large
[    0.412329]     ok 1 params
[    0.412330] ok 2 hash
"""
TAP13 = """\
Booting...
TAP version 13
1..4
ok 1 - pages are mapped
not ok 2 - fork
  ---
  message: "child said 3"
  ok: 1
  ...
not ok 3 - exec # TODO not written
ok 4 # SKIP no network
"""
KVM = """\
enabling apic
PASS: xapic: self ipi
FAIL: apic timer: fires
XFAIL: known: bug
SKIP: tsc deadline not supported
SUMMARY: 4 tests, 1 unexpected failures, 1 expected failures, 1 skipped
"""
RUST = """\
Running 3 tests
blog_os::vga_buffer::test_println_simple...\t[ok]
blog_os::allocator::many_boxes...\tallocating
[ok]
blog_os::test_breakpoint_exception...\t[failed]

Error: panicked at src/main.rs:42
"""
ZTEST = """\
*** Booting Zephyr OS build v3.7.0 ***
Running TESTSUITE mem_map
===================================================================
START - test_map
 PASS - test_map in 0.001 seconds
===================================================================
START - test_rights
    Assertion failed at main.c:41
 FAIL - test_rights in 0.002 seconds
===================================================================
START - test_execute
 SKIP - test_execute in 0.001 seconds
===================================================================
TESTSUITE mem_map failed.
------ TESTSUITE SUMMARY START ------
SUITE FAIL -  50.00% [mem_map]: pass = 1, fail = 1, skip = 1, total = 3 duration = 0.004 seconds
 - PASS - [mem_map.test_map] duration = 0.001 seconds
------ TESTSUITE SUMMARY END ------
===================================================================
PROJECT EXECUTION FAILED
"""
XV6 = """\
$ usertests
usertests starting
test copyin: OK
test kernmem: usertrap(): unexpected scause 0xd pid=7
            sepc=0x201a stval=0x80000000
OK
test forkforkfork: FAILED
SOME TESTS FAILED
"""
XV6_OLD = """\
usertests starting
arg test passed
createdelete test
createdelete ok
linkunlink test
linkunlink ok
ALL TESTS PASSED
"""
MIMIKER = """\
Running test "vm_map"
mapped
[TEST PASSED]
Running test "pipe"
[TEST FAILED]
"""


def told(text, protocol="auto"):
    report = parse(text, protocol)
    return report.protocol, [(t.name, t.verdict.value) for t in report.tests], report.problems


@pytest.mark.parametrize(
    "text, protocol, tests",
    [
        pytest.param(
            KUNIT,
            "ktap",
            [
                ("list-kunit-test/list_test_list_init", "pass"),
                ("list-kunit-test/list_test_move", "fail"),
                ("list-kunit-test/list_test_swap", "skip"),
                ("hash/params/small", "pass"),
                ("hash/params/large", "pass"),
            ],
            id="ktap of KUnit",
        ),
        pytest.param(
            TAP13,
            "ktap",
            [
                ("pages are mapped", "pass"),
                ("fork", "fail"),
                ("exec", "xfail"),
                ("no network", "skip"),
            ],
            id="tap 13",
        ),
        pytest.param(
            KVM,
            "kvm-unit-tests",
            [
                ("xapic: self ipi", "pass"),
                ("apic timer: fires", "fail"),
                ("known: bug", "xfail"),
                ("tsc deadline not supported", "skip"),
            ],
            id="kvm-unit-tests",
        ),
        pytest.param(
            RUST,
            "rust",
            [
                ("blog_os::vga_buffer::test_println_simple", "pass"),
                ("blog_os::allocator::many_boxes", "pass"),
                ("blog_os::test_breakpoint_exception", "fail"),
            ],
            id="rust",
        ),
        pytest.param(
            "running 2 tests\ntest a::b ... ok\ntest c ... FAILED\n\ntest result: FAILED.\n",
            "rust",
            [("a::b", "pass"), ("c", "fail")],
            id="libtest",
        ),
        pytest.param(
            ZTEST,
            "ztest",
            [
                ("mem_map/test_map", "pass"),
                ("mem_map/test_rights", "fail"),
                ("mem_map/test_execute", "skip"),
            ],
            id="ztest",
        ),
        pytest.param(
            XV6,
            "xv6",
            [("copyin", "pass"), ("kernmem", "pass"), ("forkforkfork", "fail")],
            id="xv6",
        ),
        pytest.param(
            XV6_OLD,
            "xv6",
            [("arg test", "pass"), ("createdelete", "pass"), ("linkunlink", "pass")],
            id="xv6 for x86",
        ),
        pytest.param(MIMIKER, "mimiker", [("vm_map", "pass"), ("pipe", "fail")], id="mimiker"),
    ],
)
def test_whole_reports(text, protocol, tests):
    assert told(text) == (protocol, tests, [])


@pytest.mark.parametrize(
    "text, problem",
    [
        pytest.param("TAP version 13\nok 1 a\nok 2 b\n", "there is no plan", id="no plan"),
        pytest.param("TAP version 13\n1..3\nok 1 a\n", "says 1..3, 1 are", id="broken off"),
        pytest.param("1..2\nok 1 a\nok 3 b\n", "test 3 is reported in place of 2", id="a gap"),
        pytest.param("1..1\n1..1\nok 1 a\n", "two plans", id="two plans"),
        pytest.param("TAP version 13\n1..1\nBail out! no disk\nok 1 a\n", "no disk", id="bail out"),
        pytest.param(
            "KTAP version 1\n1..1\n  KTAP version 1\n  # Subtest: s\n  1..2\n  ok 1 a\nok 1 s\n",
            "s: the plan says 1..2, 1 are reported",
            id="subtests broken off, and said to be ok",
        ),
        pytest.param(
            "KTAP version 1\n1..1\n  # Subtest: s\n  1..2\n  ok 1 a\n",
            "s: began, and has no result",
            id="crash in a subtest",
        ),
        pytest.param("PASS: a\nPASS: b\n", "no SUMMARY", id="kvm without a summary"),
        pytest.param("PASS: a\nSUMMARY: 2 tests\n", "counts 2 tests, 1", id="kvm lost a line"),
        pytest.param(
            "PASS: a\nSUMMARY: 1 tests, 1 unexpected failures\n", "none is", id="kvm lost a failure"
        ),
        pytest.param("Running 2 tests\na...\t[ok]\n", "2 tests were to run, 1", id="rust"),
        pytest.param("START - t\n PASS - t in 0.001 seconds\n", "PROJECT EXECUTION", id="ztest"),
        pytest.param("test a: OK\n", "ALL TESTS PASSED", id="xv6 without its verdict"),
        pytest.param("test a: OK\nSOME TESTS FAILED\n", "though no test", id="xv6 lost a failure"),
        pytest.param("hello, world\n", "nothing that was printed is a test report", id="nothing"),
    ],
)
def test_reports_that_are_not_whole(text, problem):
    assert any(problem in line for line in parse(text).problems), parse(text).problems


@pytest.mark.parametrize(
    "text, name",
    [
        pytest.param("Running 2 tests\na...\t[ok]\nb...\t", "b", id="rust"),
        pytest.param("START - t\nwell\n", "t", id="ztest"),
        pytest.param("test a: OK\ntest b: ", "b", id="xv6"),
        pytest.param('Running test "a"\n', "a", id="mimiker"),
    ],
)
def test_a_test_that_began_and_did_not_end_has_failed(text, name):
    report = parse(text, {"a": "mimiker"}.get(name, "auto"))
    assert (report.tests[-1].name, report.tests[-1].reason) == (name, "began, and has no result")


def test_a_suite_that_failed_though_no_subtest_did_is_a_failure():
    text = "KTAP version 1\n1..1\n  # Subtest: s\n  1..1\n  ok 1 a\nnot ok 1 s\n"
    assert told(text)[1] == [("s/a", "pass"), ("s", "fail")]


def test_diagnostics_go_with_the_test_after_them():
    (test,) = [test for test in parse(KUNIT).tests if test.verdict.value == "fail"]
    assert "Expected a == b" in test.output


def test_boot_messages_with_dots_are_no_tests():
    assert detect("Initializing memory... done\nSetting up paging...\n") == ""
    report = parse("Booting...\nloading...\nRunning 1 tests\na...\t[ok]\n")
    assert [test.name for test in report.tests] == ["a"]


def test_unknown_protocols_are_refused():
    with pytest.raises(ValueError, match="one of auto, ktap"):
        parse("", "junit")


@pytest.mark.parametrize("text", [ZTEST, XV6, XV6_OLD], ids=["ztest", "xv6", "xv6 for x86"])
def test_reports_of_kernels_that_go_on_have_a_last_line(text):
    assert FINAL.search(text)
