# SPDX-License-Identifier: GPL-2.0-or-later
"""Campaigns: the same results from any number of jobs, reproducer files, and the command."""

from __future__ import annotations

import json
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial

import pytest

from emu.errors import UsageError
from emu.fuzz import main
from emu.fuzz.campaign import Campaign, InlineExecutor, local_executor, replay
from emu.fuzz.case import Failure, Result, read, save
from emu.fuzz.minimise import minimise
from emu.fuzz.mmu import CHUNK

HALF_ZAP = {"mmu": "tests.fuzz.planted:HalfZap"}


def campaign(options, executor, width, cases, seed=0):
    return Campaign("mmu", seed, options, executor, width=width).run(cases=cases)


def told(totals):
    return totals.cases, totals.steps, totals.counts, totals.failures


def test_results_do_not_depend_on_the_number_of_jobs():
    inline = campaign(HALF_ZAP, InlineExecutor, 1, 16)
    spread = campaign(HALF_ZAP, lambda: local_executor(2), 6, 16)
    assert inline.failures
    assert told(inline) == told(spread)


def test_a_worker_that_dies_is_a_failure_of_one_case():
    totals = campaign({"mmu": "tests.fuzz.planted:Dies"}, lambda: local_executor(1), 2, 2)
    died = [result for result in totals.failures if result.failure.kind == "process died"]
    assert totals.cases == 2 and died
    assert died[0].case["number"] == died[0].number


def test_time_ends_a_campaign():
    totals = Campaign("mmu", 0, {}, InlineExecutor, width=1).run(seconds=0.01)
    assert totals.cases == 4  # one chunk


class LikeDask(InlineExecutor):
    """Dask's executor, in signature and in how a death is told."""

    shut = None

    def shutdown(self, wait=True):  # no cancel_futures
        LikeDask.shut = wait

    def submit(self, fn, *args, **kwargs):
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            LikeDask.submitted = args


class KilledWorker(Exception):
    """What `distributed.scheduler` raises, by its name."""


class KillsTheFourth(LikeDask):
    def submit(self, fn, *args, **kwargs):
        _, _, first, count, _ = args
        if first <= 3 < first + count:
            future = Future()
            future.set_exception(KilledWorker("task", "worker"))
            return future
        return super().submit(fn, *args, **kwargs)


def test_an_executor_of_dasks_signature_will_do():
    assert told(campaign({}, LikeDask, 2, 6)) == told(campaign({}, InlineExecutor, 1, 6))
    assert LikeDask.shut is False


def test_a_death_is_known_by_dasks_name_for_it_too():
    totals = campaign({}, KillsTheFourth, 2, 6)
    assert totals.cases == 6
    assert [(r.number, r.failure.kind) for r in totals.failures] == [(3, "process died")]


class NeverDone(InlineExecutor):
    """Does the first chunk, and keeps the rest waiting."""

    def __init__(self):
        self.futures = []

    def submit(self, fn, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs) if not self.futures else Future()
        self.futures.append(future)
        return future


def test_what_is_under_way_is_cancelled_when_a_campaign_is_broken_off():
    executor = NeverDone()

    def interrupted(totals):
        if totals.cases:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Campaign("mmu", 0, {}, lambda: executor, width=3, on_progress=interrupted).run(cases=40)
    assert len(executor.futures) > 2
    assert all(future.cancelled() for future in executor.futures[1:])


def test_dask_itself():
    distributed = pytest.importorskip("distributed")
    inline = campaign(HALF_ZAP, InlineExecutor, 1, 8)
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        spread = campaign(HALF_ZAP, lambda: client.get_executor(pure=False), 3, 8)
    assert told(inline) == told(spread)


class Slow(InlineExecutor):
    """A worker that takes a chunk at a time, each case a second by its clock."""

    def __init__(self, clock):
        self.clock = clock
        self.queue = []

    def submit(self, fn, target, seed, first, count, options):
        future = Future()
        future.cases = count
        future.result = partial(self.finish, future)
        self.queue.append(future)
        return future

    def finish(self, future, timeout=None):
        """Work until `timeout` is over or the future done."""
        if not self.queue[0].running():
            self.queue[0].set_running_or_notify_cancel()
            self.left = self.queue[0].cases
        step = min(timeout, self.left)
        self.clock[0] += step
        self.left -= step
        if self.left > 0:
            raise FutureTimeout
        self.queue.remove(future)
        return [Result(0, 1, None, None)] * future.cases


@pytest.mark.parametrize("seconds", [5, 20, 60])
@pytest.mark.parametrize("width", [3, 18])
def test_a_campaign_ends_in_time(monkeypatch, seconds, width):
    clock = [0.0]
    monkeypatch.setattr("emu.fuzz.campaign.time.monotonic", lambda: clock[0])
    totals = Campaign("mmu", 0, {}, lambda: Slow(clock), width=width).run(seconds=seconds)
    assert seconds - 2 <= totals.seconds <= seconds + CHUNK


def test_a_reproducer_goes_round_by_file(tmp_path):
    totals = campaign(HALF_ZAP, InlineExecutor, 1, 24)
    result = totals.failures[0]
    path = tmp_path / "sub" / "one.json"
    save(path, result.case, result.failure)
    case, failure = read(path)
    assert (case, failure) == (result.case, result.failure)
    assert replay(case) == result.failure


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "is no reproducer"),
        ("[]", "is no reproducer"),
        ("{}", "is no reproducer"),
        (json.dumps({"format": 99}), "of another version"),
    ],
    ids=["empty", "a list", "an empty object", "the future's"],
)
def test_what_is_no_reproducer_is_told_so(tmp_path, text, wrong):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=wrong):
        read(path)
    with pytest.raises(UsageError, match="cannot read"):
        read(tmp_path / "none.json")


class TestMinimise:
    def run(self, case):
        """Fails if 3 and 7 are there, 3 first; in another way without 3."""
        steps = [step for step in case["steps"] if step is not None]
        if 3 in steps and 7 in steps[steps.index(3) :]:
            return Failure("both", "", case["steps"].index(7))
        return Failure("other", "") if 7 in steps else None

    @pytest.mark.parametrize("length", [8, 100, 1000])
    def test_leaves_what_is_needed(self, length):
        case = {"steps": list(range(length))}
        small, failure = minimise(case, self.run(case), self.run)
        assert small == {"steps": [3, 7]}
        assert failure == Failure("both", "", 1)

    def test_keeps_places_where_they_mean_something(self):
        case = {"steps": [n if n else "" for n in range(50)]}
        small, _ = minimise(case, self.run(case), self.run, blank="")
        assert small == {"steps": ["", "", "", 3, "", "", "", 7]}

    def test_stops_after_so_many_runs(self):
        runs = []

        def count(case):
            runs.append(case)
            return self.run(case)

        case = {"steps": list(range(1000))}
        minimise(case, self.run(case), count, most_runs=5)
        assert len(runs) == 5


class TestCommand:
    def test_finds_nothing(self, capsys):
        assert main(["mmu", "--cases", "2", "--seed", "9"]) == 0
        assert "2 cases" in capsys.readouterr().out

    def test_saves_what_it_finds_and_runs_it_again(self, tmp_path, capsys):
        words = ["--cases", "20", "--mmu", HALF_ZAP["mmu"], "--save", str(tmp_path / "f")]
        assert main(words) == 1
        paths = sorted((tmp_path / "f").glob("mmu-0-*.json"))
        captured = capsys.readouterr()
        assert paths and "saved as" in captured.err and "failure" in captured.out
        assert main(["--replay", str(paths[0])]) == 1
        assert "invariant 2" in capsys.readouterr().out
        case, failure = read(paths[0])
        save(paths[0], {**case, "mmu": "shadow"}, failure)
        assert main(["--replay", str(paths[0])]) == 0
        assert "does not fail any more" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "wrong"),
        [
            (["--seconds", "0"], "more than 0"),
            (["--jobs", "-1"], "more than 0"),
            (["--seconds", "x"], "invalid float"),
            (["walker"], "invalid choice"),
            (["--mmu", "nosuch"], "no MMU plug-in"),
            (["--replay", "nosuch.json"], "cannot read"),
        ],
        ids=["no time", "no jobs", "not a number", "no such target", "no such MMU", "no file"],
    )
    def test_refuses_nonsense(self, words, wrong):
        with pytest.raises(UsageError, match=wrong):
            main(words)
