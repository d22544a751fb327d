# SPDX-License-Identifier: GPL-2.0-or-later
"""The seam: plug-ins by name, and its small values in words."""

from __future__ import annotations

import pytest

from mmu.api import Mmu, PageFault, PagingRegisters, describe_error_code
from mmu.audited import Audited
from mmu.lockstep import LockstepMmu
from mmu.memory import Memory
from mmu.plugins import make_mmu
from mmu.shadow.mmu import ShadowMmu
from mmu.uncached import UncachedMmu

from .rig import ModelTlb


@pytest.fixture
def memory():
    memory = Memory()
    memory.add_ram(0, 0x10000)
    return memory


def test_audited_is_otherwise_the_plugin_and_without_compiled_code(memory):
    mmu = make_mmu("shadow", memory, ModelTlb(1), audit=True)
    assert isinstance(mmu, Audited)
    assert mmu.name == "shadow"
    assert isinstance(mmu.inner, ShadowMmu)
    assert mmu.compiled_block(0) is None, "compiled code would answer unaudited"


def test_audited_tells_the_watch_of_each_call(memory):
    mmu = make_mmu("shadow", memory, ModelTlb(1), audit=True)
    told = []
    for name in ("everything", "event", "loaded", "translated", "written"):
        setattr(mmu.watcher, name, lambda *arguments, name=name: told.append(name))
    mmu.load(0, PagingRegisters(0x11, 0, 0, 0))
    mmu.translate(0, 0x1000, 0)
    mmu.invlpg(0, 0x1000)
    mmu.flushed(0)
    mmu.written(0x1000, 4, "guest")
    mmu.remapped()
    mmu.check()
    memory.write(0x2000, 4, 1, "device")
    assert told == [
        *("loaded", "translated", "event", "event", "written"),
        *("everything", "everything", "written"),
    ]


class OnlyChecks(UncachedMmu):
    """A plug-in without a watch."""

    def __init__(self, *args, **keywords):
        super().__init__(*args, **keywords)
        self.checks = []

    def check(self):
        self.checks.append(1)


def test_a_plugin_without_a_watch_is_checked_after_each_call(memory):
    mmu = Audited(make_mmu("tests.mmu.test_api:OnlyChecks", memory, ModelTlb(1)))
    checks = mmu.inner.checks
    mmu.load(0, PagingRegisters(0x11, 0, 0, 0))
    mmu.translate(0, 0x1000, 0)
    mmu.invlpg(0, 0x1000)
    mmu.flushed(0)
    mmu.written(0x1000, 4, "guest")
    mmu.remapped()
    mmu.check()
    assert len(checks) == 7


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "supervisor read, not present"),
        (2, "supervisor write, not present"),
        (5, "user read, protection"),
        (7, "user write, protection"),
        (0x15, "user fetch, protection"),
        (9, "supervisor read, reserved bit"),
        (0x21, "supervisor read, protection key"),
    ],
)
def test_error_codes_in_words(code, words):
    assert describe_error_code(code) == words
    assert str(PageFault(0x1234, code)) == f"#PF at 0x1234 ({words})"


def test_counters_by_name(memory):
    mmu = make_mmu("shadow", memory, ModelTlb(1))
    counters = mmu.counters.as_dict()
    assert counters["tlb_flush"] == 0
    assert {"pf_fixed", "mmu_cache_miss", "fills"} <= set(counters)
    assert all(isinstance(count, int) for count in counters.values())


# --- Audited: every method of the seam is passed on ----------------------------------------------


def test_audited_passes_every_method_on(memory):
    """A method of `Mmu` that the wrapper forgets would get the default of the base class."""
    public = {name for name in vars(Mmu) if not name.startswith("_")}
    public -= {"observers", "observers_changed", "compiled_block", "watch"}  # the inner's own
    public -= {"name", "counters", "flush_on_invlpg", "reports_events"}  # copied once
    assert public <= vars(Audited).keys()
    assert public <= vars(LockstepMmu).keys() | {"version", "keeps", "describe_path"}
