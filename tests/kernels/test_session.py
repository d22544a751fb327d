# SPDX-License-Identifier: GPL-2.0-or-later
"""Cases run in child processes: a small Python program plays the emulator."""

from __future__ import annotations

import sys

import pytest

from emu.kernels.case import Case, Step, Verdict
from emu.kernels.session import Emulator, run_case

TALKER = """
import sys, time
print("ready>", flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "quit":
        print("bye", flush=True)
        sys.exit(0)
    if word == "die":
        sys.exit(4)
    print(f"you said {word}", flush=True)
"""
ENDLESS = "while True: print('PASS: again', flush=True)"


def emulator(program):
    return Emulator("child", [sys.executable, "-c", program])


def steps_case(*steps, **more):
    return Case(
        "suite", "name", judge="steps", steps=steps, seconds=more.pop("seconds", 20), **more
    )


def test_talks_in_turn():
    case = steps_case(Step("ready>", "one\n"), Step("said one", "quit\n"), Step("bye"))
    assert run_case(case, emulator(TALKER)).verdict is Verdict.PASS


def test_a_step_is_looked_for_behind_the_one_before():
    case = steps_case(Step("ready>", "one\n"), Step("said one"), Step("ready>"), seconds=1)
    result = run_case(case, emulator(TALKER))
    assert result.verdict is Verdict.TIMEOUT
    assert "never printed 'ready>'" in result.reason


@pytest.mark.parametrize(
    "last, verdict, reason",
    [
        pytest.param("quit\n", Verdict.PASS, "", id="clean"),
        pytest.param("die\n", Verdict.FAIL, "ended with exit code 4", id="with an error"),
    ],
)
def test_power_off_is_part_of_the_verdict(last, verdict, reason):
    case = steps_case(Step("ready>", last), power_off=True)
    result = run_case(case, emulator(TALKER))
    assert (result.verdict, result.reason) == (verdict, reason)


def test_an_early_end_is_a_crash():
    result = run_case(steps_case(Step("ready>", "die\n"), Step("never")), emulator(TALKER))
    assert result.verdict is Verdict.CRASH


def test_forbidden_words_fail_the_case():
    case = steps_case(Step("ready>", "panic\n"), Step("said"), forbidden="panic")
    assert run_case(case, emulator(TALKER)).verdict is Verdict.FAIL


def test_a_child_that_prints_for_ever_is_stopped():
    result = run_case(Case("suite", "name", seconds=0.5), emulator(ENDLESS))
    assert result.verdict is Verdict.TIMEOUT
    assert result.tally.passed > 0
    assert len(result.output) <= 20000


def test_disks_are_copies(tmp_path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"before")
    program = "import sys; open(sys.argv[1], 'wb').write(b'after'); print('done', flush=True)"
    case = steps_case(Step("done"), arguments=("{disk0}",), disks=(disk,))
    assert run_case(case, emulator(program)).verdict is Verdict.PASS
    assert disk.read_bytes() == b"before"
