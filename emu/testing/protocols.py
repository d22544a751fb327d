# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading test reports out of what a kernel printed.

`parse(text)` finds out which protocol a kernel speaks and returns a `Report`: the tests, and what
is wrong with the report as a whole (a plan that is not met, a verdict that is missing). A kernel
that falls silent in the middle must never look as if it had passed: each protocol has something
that says how much was to come, and `Report.problems` says where that is missing.

| protocol | a test | how much was to come |
|---|---|---|
| ktap | `ok 1 name`, nested by indentation; TAP 13 and 14 too | the plan, `1..N`, of every level |
| kvm-unit-tests | `PASS: name`, `FAIL:`, `SKIP:`, `XFAIL:`, `XPASS:` | `SUMMARY: N tests` |
| rust | `name...  [ok]`, `[failed]`; `test name ... ok` | `Running N tests` |
| ztest | `PASS - name in 0.001 seconds` | `PROJECT EXECUTION SUCCESSFUL` |
| xv6 | `test name: OK`, `FAILED` | `ALL TESTS PASSED` |
| mimiker | `[TEST PASSED]`, `[TEST FAILED]` | none: give a minimum |
"""

from __future__ import annotations

import re
from collections.abc import Callable

from emu.testing.reports import Report, TestLine, Verdict
from emu.testing.tap import HEADER, PLAN, ktap

__all__ = ["FINAL", "PROTOCOLS", "Report", "TestLine", "Verdict", "detect", "parse"]


FINAL = re.compile(
    r"^(?:PROJECT EXECUTION (?:SUCCESSFUL|FAILED)|ALL TESTS PASSED|SOME TESTS FAILED)\b.*\n", re.M
)
"""Ends a report of a kernel that then goes on for ever: a shell of xv6, an idle Zephyr."""

# The kernel log's time stamps, as <6>[    1.234567] or [    1.234567][    T1].
_STAMP = re.compile(r"^(?:<\d>)?\[ *\d+\.\d+\](?:\[ *\w+\])? ?")

_KVM = re.compile(r"^(PASS|FAIL|SKIP|XFAIL|XPASS):? +(.*)$")
_KVM_SUMMARY = re.compile(r"^SUMMARY: (\d+) tests?(?:, (\d+) unexpected failures?)?")
_RUST_BEGIN = re.compile(r"^(?:test )?([A-Za-z_][\w:<>,&']*?) ?\.\.\.\s*(.*)$")
_RUST_END = re.compile(r"(?:^|\s)(?:\[(ok|failed|ignored)\]|(ok|FAILED|ignored))\s*$", re.I)
_RUST_PLAN = re.compile(r"^running (\d+) tests?\b", re.I)
_ZTEST = re.compile(r"^ ?(PASS|FAIL|SKIP) - (\S+)(?: in [\d.]+ seconds)?\s*$")
_ZTEST_BEGIN = re.compile(r"^START - (\S+)")
_ZTEST_SUITE = re.compile(r"^Running TESTSUITE (\S+)")
_ZTEST_SUM = re.compile(r"^SUITE \w+ - .*\[(\S+)\]:.*\btotal = (\d+)")
_XV6_BEGIN = re.compile(r"^test (?!result:)([\w/-]+):(?: (.*)|)$")
_XV6_OLD = re.compile(r"^(\S+(?: \S+)?)(?: test)? (ok|passed|failed)$", re.I)
_MIMIKER = re.compile(r"\[TEST (PASSED|FAILED)\]")
_MIMIKER_NAME = re.compile(r"Running test:? *[\"']?([\w-]+)", re.I)
_END_OF_TEST = {"ok": Verdict.PASS, "passed": Verdict.PASS, "ignored": Verdict.SKIP}


def detect(text: str) -> str:
    """Return the protocol that a text is in, or "" for none.

    >>> detect("PASS: one\\nSUMMARY: 1 tests\\n"), detect("Booting... done\\n")
    ('kvm-unit-tests', '')
    """
    lines = [_STAMP.sub("", line) for line in text.splitlines()]
    if any(map(HEADER.match, lines)):
        return "ktap"
    marks: dict[str, tuple[re.Pattern[str], ...]] = {
        "ztest": (_ZTEST_SUITE, _ZTEST_BEGIN),
        "xv6": (_XV6_BEGIN, re.compile(r"^usertests starting")),
        "rust": (_RUST_PLAN, re.compile(r"^(?:test )?[\w:<>,&']+ ?\.\.\.\s*\[(?:ok|failed)\]")),
        "kvm-unit-tests": (_KVM, _KVM_SUMMARY),
        "ktap": (PLAN, re.compile(r"^ *(?:not )?ok\b(?: +\d+\b)")),
    }
    for name, patterns in marks.items():
        if any(pattern.match(line) for line in lines for pattern in patterns):
            return name
    return "mimiker" if _MIMIKER.search(text) else ""


def parse(text: str, protocol: str = "auto") -> Report:
    """Return the tests that `text` reports, and what is wrong with the report.

    Raises ValueError for an unknown protocol.

    >>> report = parse("TAP version 14\\n1..3\\nok 1 - boots\\nnot ok 2 - fork\\n")
    >>> [(test.name, test.verdict.value) for test in report.tests]
    [('boots', 'pass'), ('fork', 'fail')]
    >>> report.problems
    ['the plan says 1..3, 2 are reported']
    """
    if protocol == "auto":
        protocol = detect(text)
        if not protocol:
            return Report("none", problems=["nothing that was printed is a test report"])
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol {protocol!r}: one of auto, {', '.join(PROTOCOLS)}")
    report = Report(protocol)
    PROTOCOLS[protocol]([_STAMP.sub("", line) for line in text.splitlines()], report)
    return report


# --- The others -----------------------------------------------------------------------------------


def _kvm(lines: list[str], report: Report) -> None:
    output: list[str] = []
    summaries = 0
    count = 0
    for line in lines:
        if found := _KVM.match(line):
            report.add(found[2], Verdict[found[1]], "", output)
            count += 1
        elif found := _KVM_SUMMARY.match(line):
            summaries += 1
            if int(found[1]) != count:
                report.problems.append(f"the summary counts {found[1]} tests, {count} are reported")
            if int(found[2] or 0) and not any(
                test.verdict in (Verdict.FAIL, Verdict.XPASS) for test in report.tests
            ):
                report.problems.append(f"the summary counts {found[2]} failures, none is reported")
            count = 0
        elif line.strip():
            output.append(line)
    report.has_plan = summaries > 0
    if not summaries:
        report.problems.append("there is no SUMMARY: the run broke off")


def _rust(lines: list[str], report: Report) -> None:
    output: list[str] = []
    pending = ""
    plan = None
    for line in lines:
        begun = _RUST_BEGIN.match(line)
        if found := _RUST_PLAN.match(line):
            plan = (plan or 0) + int(found[1])
            pending = ""  # what looked like a test before was a message
            output.clear()
            continue
        if begun:
            if pending and plan is not None:
                report.add(pending, Verdict.FAIL, "began, and has no result", output)
            pending = begun[1]
            line = begun[2]
        ended = _RUST_END.search(line)
        if pending and ended:
            output.append(line[: ended.start()])
            word = (ended[1] or ended[2]).lower()
            report.add(pending, _END_OF_TEST.get(word, Verdict.FAIL), "", output)
            pending = ""
        elif line.strip():
            output.append(line)
    if pending and plan is not None:
        report.add(pending, Verdict.FAIL, "began, and has no result", output)
    report.has_plan = plan is not None
    if plan is not None and plan != len(report.tests):
        report.problems.append(f"{plan} tests were to run, {len(report.tests)} are reported")


def _ztest(lines: list[str], report: Report) -> None:
    output: list[str] = []
    suite = pending = ""
    counts: dict[str, int] = {}
    verdict = None
    for line in lines:
        if found := _ZTEST_SUITE.match(line):
            suite = found[1]
        elif found := _ZTEST_BEGIN.match(line):
            pending = found[1]
        elif found := _ZTEST.match(line):
            name = f"{suite}/{found[2]}" if suite else found[2]
            report.add(name, Verdict[found[1]], "", output)
            counts[suite] = counts.get(suite, 0) + 1
            pending = ""
        elif found := _ZTEST_SUM.match(line):
            if counts.get(found[1], 0) != int(found[2]):
                told = counts.get(found[1], 0)
                report.problems.append(f"{found[1]} counts {found[2]} tests, {told} are reported")
        elif found := re.match(r"PROJECT EXECUTION (\w+)", line):
            verdict = found[1]
        elif line.strip(" =-"):
            output.append(line)
    if pending:
        report.add(pending, Verdict.FAIL, "began, and has no result", output)
    _final(report, verdict == "SUCCESSFUL", verdict is not None, "PROJECT EXECUTION SUCCESSFUL")


def _xv6(lines: list[str], report: Report) -> None:
    output: list[str] = []
    pending = ""
    verdict = None
    for line in lines:
        if found := re.match(r"(ALL TESTS PASSED|SOME TESTS FAILED)", line):
            verdict = found[1]
            continue
        old = _XV6_OLD.match(line) if not pending else None
        if begun := _XV6_BEGIN.match(line):
            if pending:
                report.add(pending, Verdict.FAIL, "began, and has no result", output)
            pending, line = begun[1], begun[2] or ""
        elif old:
            report.add(old[1], _END_OF_TEST.get(old[2].lower(), Verdict.FAIL), "", output)
            continue
        ended = re.search(r"(?:^|\s)(OK|FAILED)\s*$", line)
        if pending and ended:
            output.append(line[: ended.start()])
            passed = ended[1] == "OK"
            report.add(pending, Verdict.PASS if passed else Verdict.FAIL, "", output)
            pending = ""
        elif line.strip():
            output.append(line)
    if pending:
        report.add(pending, Verdict.FAIL, "began, and has no result", output)
    _final(report, verdict == "ALL TESTS PASSED", verdict is not None, "ALL TESTS PASSED")


def _final(report: Report, passed: bool, is_there: bool, what: str) -> None:
    report.has_plan = is_there
    if not is_there:
        report.problems.append(f"there is no {what!r}: the run broke off")
    elif not passed and all(test.verdict is not Verdict.FAIL for test in report.tests):
        report.problems.append(f"there is no {what!r}, though no test is reported as failed")


def _mimiker(lines: list[str], report: Report) -> None:
    output: list[str] = []
    name = ""
    for line in lines:
        if found := _MIMIKER_NAME.search(line):
            if name:
                report.add(name, Verdict.FAIL, "began, and has no result", output)
            name = found[1]
        if found := _MIMIKER.search(line):
            verdict = Verdict.PASS if found[1] == "PASSED" else Verdict.FAIL
            report.add(name or f"test {len(report.tests) + 1}", verdict, "", output)
            name = ""
        elif line.strip():
            output.append(line)
    if name:
        report.add(name, Verdict.FAIL, "began, and has no result", output)


PROTOCOLS: dict[str, Callable[[list[str], Report], None]] = {
    "ktap": ktap,
    "tap": ktap,
    "kvm-unit-tests": _kvm,
    "rust": _rust,
    "ztest": _ztest,
    "xv6": _xv6,
    "mimiker": _mimiker,
}
