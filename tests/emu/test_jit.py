# SPDX-License-Identifier: GPL-2.0-or-later
"""The name of the cached object code follows from everything that is compiled into it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from emu import jit
from emu.cpu import compiled, compiled_events
from mmu.shadow.fast import walk

LLVM = SimpleNamespace(get_host_cpu_name=lambda: "some-cpu")
pytest.importorskip("llvmlite")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (walk, "SPTE_TRAP"),  # defined in mmu.shadow.pool
        (walk, "RESERVED"),  # in mmu.shadow.fast.record
        (walk, "PT_DIRTY"),  # in mmu.arch
        (compiled_events, "EFLAGS_IF"),  # in emu.cpu.registers
        (compiled, "_HFLAGS"),  # made from emu.cpu.hidden
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_number_from_another_module_gives_another_name(monkeypatch, module, name):
    before = jit._fingerprint(LLVM)
    assert jit._fingerprint(LLVM) == before
    monkeypatch.setattr(module, name, getattr(module, name) ^ 1 << 40)
    assert jit._fingerprint(LLVM) != before


def test_each_function_comes_after_those_that_it_calls():
    known = set()
    names = {function.__name__ for function in jit._functions()}
    for function in jit._functions():
        called = names & set(function.__code__.co_names)
        assert called <= known, function.__name__
        known.add(function.__name__)
