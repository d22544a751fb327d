# SPDX-License-Identifier: GPL-2.0-or-later
"""The seam: plug-ins by name, and its small values in words."""

from __future__ import annotations

import pytest

from mmu.api import (
    DEFAULT_POOL,
    PageFault,
    PagingRegisters,
    PoolError,
    describe_error_code,
    find_mmu,
    make_mmu,
)
from mmu.events import Audited
from mmu.memory import Memory
from mmu.shadow.mmu import ShadowMmu
from mmu.uncached import UncachedMmu

from .rig import ModelTlb


@pytest.fixture
def memory():
    memory = Memory()
    memory.add_ram(0, 0x10000)
    return memory


@pytest.mark.parametrize(
    ("name", "plugin"),
    [
        ("shadow", ShadowMmu),
        ("uncached", UncachedMmu),
        ("mmu.uncached:UncachedMmu", UncachedMmu),
    ],
)
def test_plugins_by_name(memory, name, plugin):
    assert find_mmu(name) is plugin
    mmu = make_mmu(name, memory, ModelTlb(1))
    assert isinstance(mmu, plugin)
    assert memory.listeners == [mmu.written]
    assert memory.map_listeners == [mmu.remapped]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("shadows", "no MMU plug-in is called 'shadows'"),
        ("no.such.module:Class", "cannot load MMU plug-in 'no.such.module:Class'"),
        ("mmu.uncached:NoSuchClass", "cannot load MMU plug-in"),
        ("", "no MMU plug-in"),
    ],
)
def test_names_that_name_nothing(name, why):
    with pytest.raises(ValueError, match=why):
        find_mmu(name)


def test_policies_are_the_shadow_mmus(memory):
    mmu = make_mmu("shadow", memory, ModelTlb(1), policy="unsync=off,large=off")
    assert (mmu.policy.unsync, mmu.policy.large, mmu.policy.prefetch) == (False, False, True)
    with pytest.raises(ValueError, match="no policies"):
        make_mmu("uncached", memory, ModelTlb(1), policy="unsync=off")
    for wrong in ("unsync", "unsync=maybe", "nosuch=on"):
        with pytest.raises(ValueError, match="shadow policy"):
            make_mmu("shadow", memory, ModelTlb(1), policy=wrong)


def test_a_pool_too_small(memory):
    with pytest.raises(PoolError):
        make_mmu("shadow", memory, ModelTlb(1), pool=2)
    assert make_mmu("shadow", memory, ModelTlb(1)).pool.bound == DEFAULT_POOL


def test_audited_is_otherwise_the_plugin_and_without_compiled_code(memory):
    mmu = make_mmu("shadow", memory, ModelTlb(1), audit=True)
    assert isinstance(mmu, Audited)
    assert mmu.name == "shadow"
    assert mmu.pool is mmu.inner.pool
    assert not hasattr(mmu, "block"), "compiled code would answer unaudited"


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
