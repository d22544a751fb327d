# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark's own arithmetic, tables, chart and command line, on emulators made of numbers."""

import json
from dataclasses import dataclass, field
from xml.etree import ElementTree

import pytest

from emu.bench import command as command_module
from emu.bench.command import command
from emu.bench.emulators import BenchError, Sample, Stopwatch, make_emulator
from emu.bench.loads import GOALS, JIT, LOADS, PURE, Goal, Measure, find_loads
from emu.bench.plugins import CacheOff
from emu.bench.report import Report
from emu.bench.runner import judge, measure, speed_ratio
from emu.bench.scale import Figure
from emu.bench.svg import bar_chart
from emu.bench.tables import Table
from emu.board import BoardOptions
from emu.errors import UsageError
from emu.machine import Machine

LOAD = LOADS["switch 16"]


@dataclass
class Numbers:
    """An emulator that takes so long an operation, slower and slower by ``drift`` a run."""

    name: str
    each: float
    answer: str = LOAD.answer
    drift: float = 1.0
    asked: list[int] = field(default_factory=list)

    def can_run(self, load):
        return True

    def run(self, load, operations):
        self.asked.append(operations)
        self.each *= self.drift
        return Sample(self.each * operations, operations, self.answer)


class OneMicrosecond:
    def measure(self, times=0):
        return 1e-6


def measured(*emulators, load=LOAD, runs=3, seconds=0.5):
    return measure(
        load, emulators, OneMicrosecond(), runs=runs, seconds=seconds, tell=lambda text: None
    )


def test_work_is_sized_to_the_seconds():
    slow, fast = Numbers("slow", 1e-3), Numbers("fast", 1e-9)
    result = measured(slow, fast)
    for emulator in (slow, fast):
        column = result.columns[emulator.name]
        assert 0.5 <= column.samples[0].seconds < 0.8
        assert emulator.asked[0] == LOAD.small


def test_a_sizing_step_does_not_leap():
    fast = Numbers("fast", 1e-9)
    measured(fast)
    steps = [b / a for a, b in zip(fast.asked, fast.asked[1:], strict=False)]
    assert max(steps) <= 30


def test_ratios_hold_while_the_host_slows_down():
    ours, theirs = Numbers(JIT, 1e-6, drift=1.5), Numbers("native", 4e-6, drift=1.5)
    result = measured(ours, theirs, seconds=1e-6)
    assert speed_ratio(result, JIT, "native") == pytest.approx(4.0)


def test_a_wrong_answer_is_left_out_and_told():
    result = measured(Numbers(JIT, 1e-6, answer="0" * 16), Numbers("native", 1e-6))
    assert list(result.columns) == ["native"]
    assert "0000000000000000" in result.missing[JIT]


def test_a_failure_in_a_later_run_takes_the_column_out():
    class Tired(Numbers):
        def run(self, load, operations):
            if len(self.asked) > 4:
                raise BenchError("tired")
            return super().run(load, operations)

    result = measured(Tired(JIT, 1e-3), Numbers("native", 1e-3), runs=9)
    assert list(result.columns) == ["native"]
    assert result.missing == {JIT: "tired"}


@pytest.mark.parametrize(
    ("measure_of", "bound", "verdict"),
    [
        (Measure.SPEED, 2.0, "met"),
        (Measure.SPEED, 2.1, "short"),
        (Measure.YARDSTICKS, 64.0, "met"),
        (Measure.YARDSTICKS, 63.0, "short"),
        (Measure.YARDSTICKS_A_FILL, 1.0, "met"),
        (Measure.YARDSTICKS_A_FILL, 0.9, "short"),
        (Measure.CACHE, 4.0, "met"),
        (Measure.CACHE, 4.1, "short"),
    ],
)
def test_goals_are_judged(measure_of, bound, verdict):
    result = measured(
        Numbers(JIT, 64e-6), Numbers("native", 128e-6), Numbers(f"{JIT}, cache off", 256e-6)
    )
    (judged,) = judge([result], [Goal(LOAD.name, JIT, measure_of, bound)])
    assert judged.verdict == verdict


def test_a_geometric_mean_needs_every_load():
    goal = Goal("all", JIT, Measure.QEMU, 2)
    both = [
        measured(Numbers(JIT, 4e-6), Numbers("qemu", 1e-6)),
        measured(Numbers(JIT, 1e-6), Numbers("qemu", 1e-6)),
    ]
    assert judge(both, [goal])[0].value == pytest.approx(2.0)
    missing = [*both, measured(Numbers(JIT, 1e-6))]
    assert judge(missing, [goal])[0].verdict == "not measured"


def test_every_goal_is_about_a_load_and_our_own_columns():
    assert {goal.load for goal in GOALS} == {*LOADS, "all"}
    assert {goal.column for goal in GOALS} == {JIT, PURE}


# --- What is shown ----------------------------------------------------------------------------


def report():
    result = measured(Numbers(JIT, 1e-6), Numbers("native", 3e-6))
    result.missing["qemu"] = "not\nthere"
    return Report(
        {"processor": "1 core of <sand>", "commit": "abc"},
        1e-6,
        3,
        0.5,
        [result],
        {"Scale": [Figure("4 spaces", 1.0, "1 us", 1.3), Figure("5 spaces", 1.4, "2 us", 1.3)]},
    )


@pytest.mark.parametrize("words", ["switch 16", "3.00 x", "not there", "short", "1.00 us", "sand"])
def test_text_and_markdown_say(words):
    assert words in report().text()
    assert words in report().markdown()


def test_json_has_every_run_and_every_verdict():
    data = json.loads(json.dumps(report().as_dict()))
    (load,) = data["loads"]
    assert len(load["columns"][JIT]["runs_seconds"]) == 3
    assert load["columns"][JIT]["speed_beside_native"] == pytest.approx(3.0)
    assert {"met", "short", "not measured"} >= {goal["verdict"] for goal in data["goals"]}
    assert data["sections"]["Scale"][1]["most"] == 1.3


def test_chart_is_xml_with_a_bar_for_each_value():
    root = ElementTree.fromstring(report().chart())
    bars = [e for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("height") == "10"]
    legend_and_bar = 2
    assert len(bars) == legend_and_bar


def test_bars_grow_with_the_logarithm():
    svg = bar_chart("t", ["a"], {"ten": {"a": 10.0}, "hundred": {"a": 100.0}})
    widths = [
        float(e.get("width"))
        for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect")
        if e.get("height") == "10" and e.get("y") != "42"
    ]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)


def test_chart_of_nothing():
    with pytest.raises(ValueError, match="nothing"):
        bar_chart("t", ["a"], {})


def test_table_lines_up():
    table = Table(["name", "n"])
    table.add("long name", "1")
    table.add("x", "1000")
    assert table.text().splitlines() == [
        "name          n",
        "---------  ----",
        "long name     1",
        "x          1000",
    ]


# --- The parts that touch a guest ---------------------------------------------------------------


def test_stopwatch_adds_regions_up(monkeypatch):
    times = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(times)))
    watch = Stopwatch()
    for data in (b"E", b"B", b"E", b"B", b"E"):
        watch(data)
    assert watch.seconds == 2.0


def test_cache_off_makes_its_pages_at_every_switch():
    made = {}
    for mmu in ("shadow", "emu.bench.plugins:CacheOff"):
        with Machine(
            LOAD.guest.path,
            mmu=mmu,
            append=LOAD.command_line(64),
            board=BoardOptions(),
            jit="off",
        ) as machine:
            assert machine.run(timeout=60).exit_code == 33
            made[mmu] = machine.mmu.counters.mmu_cache_miss
            machine.mmu.check()
    assert made[f"{CacheOff.__module__}:{CacheOff.__qualname__}"] > 4 * made["shadow"]


# --- The command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "loads"),
    [("alu", ["alu"]), ("chase", ["chase 4 MiB", "chase 64 MiB"]), ("", list(LOADS))],
)
def test_names_of_loads(names, loads):
    assert [load.name for load in find_loads(names)] == loads


def test_small_run(capsys):
    assert command(["--small", "--only", "alu,ptwrite", "--against", "uncached", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"alu, uncached: {LOADS['alu'].answer}" in lines
    assert f"ptwrite, {PURE}: {LOADS['ptwrite'].answer}" in lines


def test_small_run_that_answers_wrongly(capsys, monkeypatch):
    broken = Numbers("broken", 1e-6, answer="bad")
    monkeypatch.setattr(command_module, "_emulators", lambda *_: [broken])
    assert command(["--small", "--only", "alu"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_full_run_writes_its_files(tmp_path, monkeypatch, capsys):
    columns = [
        Numbers(JIT, 1e-6, LOADS["alu"].answer),
        Numbers("native", 2e-6, LOADS["alu"].answer),
    ]
    monkeypatch.setattr(command_module, "_emulators", lambda *_: columns)
    files = {name: tmp_path / f"out.{name}" for name in ("json", "svg", "markdown")}
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert command(["--only", "alu", "--runs", "2", "--seconds", "0.001", "--quiet", *words]) == 0
    assert "2.00 x" in capsys.readouterr().out
    assert json.loads(files["json"].read_text(encoding="utf-8"))["runs"] == 2
    assert "| alu |" in files["markdown"].read_text(encoding="utf-8")
    ElementTree.fromstring(files["svg"].read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "words",
    [
        ["--only", "nothing"],
        ["--runs", "0"],
        ["--seconds", "-1"],
        ["--against", "windows", "--only", "alu"],
        ["--runs", "many"],
    ],
    ids=["unknown load", "no runs", "negative time", "unknown column", "not a number"],
)
def test_bad_command_lines(words):
    with pytest.raises(UsageError):
        command([*words, "--quiet"])


def test_unknown_emulator():
    with pytest.raises(UsageError, match="windows"):
        make_emulator("windows")
