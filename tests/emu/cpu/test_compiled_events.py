# SPDX-License-Identifier: GPL-2.0-or-later
"""Events and system calls served by compiled code: what Python sees of them, and what it keeps."""

from __future__ import annotations

import ctypes

import pytest

from emu.bench.command import has_jit
from emu.cpu import compiled
from emu.cpu.faults import Source
from emu.cpu.hidden import HF_CS64
from emu.machine import Machine
from guests import PASSED, load
from guests.bench import BENCH_GUESTS

pytestmark = pytest.mark.skipif(not has_jit(), reason="no compiled code without numba")


def run(name, parameters, jit="on", prepare=lambda machine: None):
    """Run a benchmark guest; return (serial text, recent events, counters)."""
    guest = BENCH_GUESTS[f"bench-{name}"]
    with Machine(guest.path, memory=guest.memory, append=parameters, jit=jit) as machine:
        prepare(machine)
        assert machine.run(timeout=60).exit_code == PASSED
        return machine.serial.text, machine.cpus[0].record.recent, machine.mmu.counters.as_dict()


@pytest.mark.parametrize("name", ["fault", "syscall"])
def test_recent_events_are_those_of_python(name):
    _, compiled_events, _ = run(name, "n=50")
    _, python_events, _ = run(name, "n=50", jit="off")
    assert [past.event for past in compiled_events] == [past.event for past in python_events]
    assert [past.rip for past in compiled_events] == [past.rip for past in python_events]
    assert len(compiled_events) == compiled.RING_ENTRIES
    numbers = [past.instruction for past in compiled_events]
    assert numbers == sorted(numbers)


def test_guest_faults_are_counted():
    for jit in ("on", "off"):
        assert run("fault", "n=50", jit=jit)[2]["pf_guest"] == 50


def test_whoever_watches_sees_every_event():
    seen = []
    run("syscall", "n=50", prepare=lambda m: m.cpus[0].record.listen(seen.append, True))
    assert [past.event.source for past in seen] == [Source.SOFTWARE] * 50


def test_compiled_code_serves_the_usual_events():
    python = []

    def prepare(machine):
        delivery = machine.cpus[0].delivery
        quickly = delivery.quickly

        def count(event):
            python.append(event)
            return quickly(event)

        delivery.quickly = count

    for name, parameters in (("fault", "n=500"), ("syscall", "n=500"), ("syscall", "n=500 m=1")):
        python.clear()
        run(name, parameters, prepare=prepare)
        assert len(python) < 20, f"{name}: {len(python)} events reached Python"


@pytest.mark.parametrize("name", ["ring3", "demand", "write_protect", "context_switch"])
def test_guests_give_their_output(name):
    guest = load(name)
    with Machine(guest.path, memory=guest.memory, jit="on") as machine:
        machine.run(timeout=60)
        assert machine.serial.text == guest.expected


# --- is_plain ---------------------------------------------------------------------------------


def is_plain(monkeypatch, code, hflags=HF_CS64):
    """Ask `is_plain` about code bytes, whose page stands for all of memory."""
    page = (ctypes.c_uint8 * 64)(*bytes.fromhex(code))
    env = (ctypes.c_uint8 * 6144)()
    ctypes.c_uint32.from_buffer(env, compiled._HFLAGS).value = hflags
    state = compiled.StateBlock()
    state.words[compiled.ENV // 8] = ctypes.addressof(env)
    monkeypatch.setattr(compiled, "reach", lambda *_: ctypes.addressof(page))
    return bool(compiled.is_plain(state.address))


@pytest.mark.parametrize(
    "code",
    ["8907", "488b07", "f3a4", "f048ff07", "660f6f07", "0fb607", "50", "e800000000", "f2480faf07"],
    ids=["mov", "mov 64", "rep movsb", "lock inc", "movdqa", "movzx", "push", "call", "imul"],
)
def test_ordinary_instructions(monkeypatch, code):
    assert is_plain(monkeypatch, code) == (code != "f2480faf07")


@pytest.mark.parametrize(
    "code",
    [
        "8ed8",
        "48cf",
        "cb",
        "ff1f",
        "ff2f",
        "0f0007",
        "0f02c0",
        "0fb207",
        "0fa1",
        "6c",
        "ec",
        "e4f4",
    ],
    ids=[
        "mov ds",
        "iretq",
        "retf",
        "far call",
        "far jmp",
        "sldt",
        "lar",
        "lss",
        "pop fs",
        "insb",
        "in dx",
        "in imm",
    ],
)
@pytest.mark.parametrize("prefix", ["", "66", "48", "f3", "64"])
def test_instructions_that_reach_for_more(monkeypatch, code, prefix):
    assert not is_plain(monkeypatch, prefix + code)


def test_code_of_other_sizes_is_pythons(monkeypatch):
    assert not is_plain(monkeypatch, "8907", hflags=0)


# --- Sites --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["syscall", "fault"])
def test_the_usual_returns_of_a_kernel_never_enter_python(name):
    looks = []

    def prepare(machine):
        sites = machine.cpus[0].sites
        look = sites._look

        def count(code):
            looks.append(code)
            return look(code)

        sites._look = count

    run(name, "n=500", prepare=prepare)
    assert len(looks) < 100
