# SPDX-License-Identifier: GPL-2.0-or-later
"""Plug-ins by name: found, made, connected, adapted, and refused with one line."""

from __future__ import annotations

import pytest

from mmu.api import (
    DEFAULT_POOL,
    Mmu,
    MmuError,
    NotCanonical,
    PagingRegisters,
    PluginError,
    PoolError,
)
from mmu.kvm2007 import Kvm2007
from mmu.lockstep import LockstepMmu
from mmu.memory import Memory
from mmu.observe import Counters, MmuObserver
from mmu.plugins import adapt, find_mmu, make_mmu
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
        ("kvm2007", Kvm2007),
        ("mmu.uncached:UncachedMmu", UncachedMmu),
    ],
)
def test_plugins_by_name(memory, name, plugin):
    assert find_mmu(name) is plugin
    mmu = make_mmu(name, memory, ModelTlb(1))
    assert isinstance(mmu, plugin)
    assert memory.listeners == [mmu.written]
    assert memory.map_listeners == [mmu.remapped]


WRONG = {
    "no such name": ("shadows", "no MMU plug-in is called 'shadows'"),
    "no name": ("", "no MMU plug-in is called ''"),
    "a module alone": ("os", "no MMU plug-in is called 'os'"),
    "no such module": ("no.such.module:Class", "cannot load MMU plug-in 'no.such.module:Class'"),
    "no such class": ("mmu.uncached:NoSuchClass", "cannot load MMU plug-in"),
    "a module is no class": ("os:path", "'os:path' is no MMU plug-in: .* not a module"),
    "a number is no class": ("mmu.api:DEFAULT_POOL", "is no MMU plug-in: .* not a int"),
    "half a pair": ("lockstep:shadow", "give two plug-ins"),
    "a pair with nothing": ("lockstep:shadow,nothing", "no MMU plug-in is called 'nothing'"),
    "another class": (
        "json:JSONDecoder",
        "'json:JSONDecoder' is no MMU plug-in: it has no load, translate",
    ),
    "other arguments": (f"{__name__}:NoArguments", "cannot be made as an MMU plug-in is"),
    "methods are missing": (f"{__name__}:Half", "it has no invlpg, flushed, written, remapped"),
    "half a pair is none": (f"lockstep:shadow,{__name__}:Half", "it has no invlpg"),
}


class NoArguments:
    def __init__(self):
        pass

    load = translate = invlpg = flushed = written = remapped = check = __init__


class Half:
    """Has some of the methods."""

    def __init__(self, *args, **keywords):
        pass

    load = translate = check = __init__


@pytest.mark.parametrize(("name", "why"), WRONG.values(), ids=WRONG)
def test_what_is_no_plugin_is_refused_with_one_line(memory, name, why):
    with pytest.raises(PluginError, match=why) as caught:
        make_mmu(name, memory, ModelTlb(1))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, MmuError) and isinstance(caught.value, ValueError)
    assert memory.listeners == []


def test_policies_are_the_shadow_mmus(memory):
    mmu = make_mmu("shadow", memory, ModelTlb(1), policy="unsync=off,large=off")
    assert (mmu.policy.unsync, mmu.policy.large, mmu.policy.prefetch) == (False, False, True)
    with pytest.raises(ValueError, match="'uncached' has no policies"):
        make_mmu("uncached", memory, ModelTlb(1), policy="unsync=off")
    for wrong in ("unsync", "unsync=maybe", "nosuch=on"):
        with pytest.raises(ValueError, match="shadow policy"):
            make_mmu("shadow", memory, ModelTlb(1), policy=wrong)


def test_a_pool_too_small(memory):
    with pytest.raises(PoolError):
        make_mmu("shadow", memory, ModelTlb(1), pool=2)
    assert make_mmu("shadow", memory, ModelTlb(1)).pool.bound == DEFAULT_POOL


# --- Objects that are no subclass --------------------------------------------------------------


class Duck:
    """Has the methods, and no base class."""

    def __init__(self, memory, host, cpus, *, features, pool):
        self.calls = []

    def load(self, cpu, regs):
        self.calls.append("load")

    def translate(self, cpu, gva, access):
        self.calls.append("translate")
        return NotCanonical(gva)

    def written(self, gpa, size, source):
        self.calls.append("written")

    def invlpg(self, *arguments):
        pass

    flushed = remapped = check = invlpg


class CleverDuck(Duck):
    name = "clever"
    flush_on_invlpg = False
    version = 7

    def keeps(self, cpu, gva):
        return True


def test_an_object_with_the_methods_is_wrapped(memory):
    mmu = make_mmu(f"{__name__}:Duck", memory, ModelTlb(1))
    assert isinstance(mmu, Mmu)
    assert mmu.name == f"{__name__}:Duck"
    assert isinstance(mmu.counters, Counters)
    mmu.load(0, PagingRegisters(0, 0, 0, 0))
    assert mmu.translate(0, 1 << 60, 0) == NotCanonical(1 << 60)
    memory.write(0x1000, 4, 1, "device")
    assert mmu.inner.calls == ["load", "translate", "written"]


def test_the_defaults_stand_for_what_it_does_not_have(memory):
    mmu = make_mmu(f"{__name__}:Duck", memory, ModelTlb(1))
    assert mmu.flush_on_invlpg
    assert (mmu.version, mmu.keeps(0, 0), mmu.reused(0), mmu.is_protected(0)) == (
        *(None, False, False, False),
    )
    assert (mmu.pdptes(0), mmu.compiled_block(0), mmu.watch()) == (None, None, None)
    assert (mmu.describe_path(0, 0), mmu.shrink(4), mmu.reports_events) == ("", 0, False)
    for refused in (mmu.zap_all, mmu.start_dirty_log, mmu.dirty_log, mmu.stop_dirty_log):
        with pytest.raises(ValueError, match="MMU plug-in"):
            refused()


def test_what_it_has_is_used_and_its_version_is_live(memory):
    mmu = make_mmu(f"{__name__}:CleverDuck", memory, ModelTlb(1))
    assert (mmu.name, mmu.flush_on_invlpg, mmu.version) == ("clever", False, 7)
    assert mmu.keeps(0, 0)
    mmu.inner.version = 8
    assert mmu.version == 8


def test_a_plugin_is_not_wrapped_twice(memory):
    mmu = make_mmu("shadow", memory, ModelTlb(1))
    assert adapt(mmu) is mmu
    with pytest.raises(PluginError, match="a int is no MMU plug-in: it has no load, translate"):
        adapt(5)


def test_lockstep_runs_ducks_too(memory):
    mmu = make_mmu(f"lockstep:uncached,{__name__}:CleverDuck", memory, ModelTlb(1))
    assert isinstance(mmu, LockstepMmu)
    assert (mmu.first.name, mmu.second.name) == ("uncached", "clever")


# --- Observers ---------------------------------------------------------------------------------


class Noted(MmuObserver):
    def __init__(self):
        self.events = []

    def pagetable_walk(self, cpu, gva, access):
        self.events.append(("walk", cpu, gva, access))

    def walker_error(self, cpu, gva, error_code):
        self.events.append(("error", gva, error_code))

    def tlb_flush(self):
        self.events.append(("flush",))


REGS = PagingRegisters(0x8001_0001, 0x1000, 0, 0)


@pytest.mark.parametrize("name", ["shadow", "uncached", "lockstep:uncached,uncached"])
@pytest.mark.parametrize("audit", [False, True])
def test_events_are_reported_until_told_otherwise(memory, name, audit):
    mmu = make_mmu(name, memory, ModelTlb(1), audit=audit)
    assert mmu.reports_events
    mmu.load(0, REGS)
    noted = Noted()
    mmu.observe(noted)
    mmu.translate(0, 0x5000, 2)
    mmu.zap_all()
    twice = 2 if "lockstep" in name else 1
    assert [e for e in noted.events if e[0] != "flush"] == [
        ("walk", 0, 0x5000, 2),
        ("error", 0x5000, 2),
    ] * twice
    assert ("flush",) in noted.events
    mmu.unobserve(noted)
    count = len(noted.events)
    mmu.translate(0, 0x5000, 2)
    mmu.zap_all()
    assert len(noted.events) == count
    with pytest.raises(ValueError, match="does not observe"):
        mmu.unobserve(noted)


def test_compiled_code_answers_nothing_while_somebody_observes(memory):
    from mmu.shadow.fast.walk import hit

    memory.write(0x1000, 4, 0x2003, "loader")
    memory.write(0x2000 + 4 * 5, 4, 0x3063, "loader")
    mmu = make_mmu("shadow", memory, ModelTlb(1))
    block = mmu.compiled_block(0)
    assert mmu.compiled_block(0) is block
    mmu.load(0, REGS)
    answer = mmu.translate(0, 0x5000, 0)
    assert hit(block.address, 0x5000, 0, 0) == answer == 0x3001
    noted = Noted()
    mmu.observe(noted)
    assert hit(block.address, 0x5000, 0, 0) == 0
    mmu.unobserve(noted)
    assert hit(block.address, 0x5000, 0, 0) == answer
