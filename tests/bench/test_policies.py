# SPDX-License-Identifier: GPL-2.0-or-later
"""The section of the benchmark that switches the cache's policies off one by one."""

from __future__ import annotations

import pytest

import emu.bench.policies as section
from emu.bench import command as command_module
from emu.bench.command import command
from emu.bench.emulators import BenchError, InProcess, Sample
from emu.bench.loads import LOADS


def silent(_text):
    pass


def test_every_policy_is_switched_off_on_every_load():
    figures = {f.name: f.shown for f in section.policies("off", 1, silent, small=True)}
    assert list(figures) == [
        f"{load}, {what}"
        for load in ("switch 16", "fault", "ptwrite", "fork")
        for what in ("all on", *(f"{policy} off" for policy in section.POLICIES))
    ]
    # What the policies are there for is seen in the counters.
    assert traps(figures["ptwrite, all on"]) < 0.1
    assert traps(figures["ptwrite, unsync off"]) > 0.9
    assert "x the time" in figures["fork, flood off"]
    assert "x the time" not in figures["fork, all on"]


def traps(shown):
    return float(shown.split(" trapped")[0].rsplit(" ", 1)[1])


def test_a_policy_that_changes_an_answer_is_no_policy(monkeypatch):
    def run(self, load, operations):
        answer = "bad" if self.policy == "flood=off" else "good"
        return Sample(1.0, operations, answer)

    monkeypatch.setattr(InProcess, "run", run)
    monkeypatch.setattr(section, "_counts", lambda samples: "")
    with pytest.raises(BenchError, match="switch 16, flood off"):
        section.policies("off", 1, silent)


def test_it_is_a_section_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr(command_module, "has_jit", lambda: False)
    monkeypatch.setattr(section, "_OPERATIONS", {"ptwrite": LOADS["ptwrite"].small})
    assert command(["--only", "policies", "--runs", "1", "--quiet", "--against", ""]) == 0
    out = capsys.readouterr().out
    assert "Policies of the shadow cache, jit off" in out
    assert "ptwrite, unsync off" in out
