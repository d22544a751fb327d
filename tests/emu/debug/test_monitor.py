# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from emu.debug.console import PROMPT, Console
from emu.debug.monitor import COMMANDS, Monitor
from emu.machine import Machine
from guests import load


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(load("context_switch").path) as machine:
        machine.run(max_insns=200_000)
        yield machine


@pytest.fixture
def monitor(machine) -> Monitor:
    return Monitor(machine)


def test_info_mem_has_qemus_columns_and_an_x(monitor):
    lines = monitor.execute("info mem").splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]{16} [0-9a-f]{16} [u-]r[w-][x-]", line)


def test_info_tlb_says_what_a_walk_says(monitor, machine):
    lines = monitor.execute("info tlb").splitlines()
    for line in lines[::7]:
        gva, gpa, flags = re.fullmatch(r"([0-9a-f]{16}): ([0-9a-f]{16}) (\S{9})", line).groups()
        assert machine.walk(int(gva, 16)).gpa == int(gpa, 16)
        assert ("W" in flags) == bool(machine.walk(int(gva, 16)).entries[-1][2] & 2)


def test_addresses_are_translated(monitor, machine):
    assert monitor.execute("gva2gpa 0x100000") == f"gpa: {machine.walk(0x100000).gpa:#x}"
    assert monitor.execute("gva2gpa 0xdead00000000") == "Unmapped"
    host = int(monitor.execute("gpa2hva 0x100000").split()[-1], 16)
    assert host == machine.guest_memory.host_address(0x100000)
    assert monitor.execute("gpa2hva 0xff00000000").startswith("No memory")


def test_memory_is_shown(monitor, machine):
    word = int.from_bytes(machine.phys[0x100000:0x100004], "little")
    assert monitor.execute("xp/1xw 0x100000") == f"0000000000100000: 0x{word:08x}"
    assert monitor.execute("x/1xw 0x100000") == monitor.execute("xp/1xw 0x100000")
    assert len(monitor.execute("xp/64xb 0x100000").splitlines()) == 4
    assert ": " in monitor.execute("x/2i $rip")
    assert "not mapped" in monitor.execute("x 0xdead00000000")


def test_expressions_add_numbers_and_registers(monitor, machine):
    assert monitor.execute("p/d 0x10 + 2 - 1") == "17"
    assert int(monitor.execute("p $rip"), 16) == machine.regs.rip
    assert monitor.execute("p nosuch") == "'nosuch' is no number, register or symbol"


def test_ranges_are_filtered(monitor):
    assert monitor.execute("pt -has 0x100000").count("\n") == 0
    assert "0x100000" in monitor.execute("pt -has 0x100000")
    assert all(" u" not in line.split("->")[1] for line in monitor.execute("pt -k").splitlines())


def test_every_command_says_something_of_nonsense_and_nothing_breaks(monitor):
    draw = random.Random(3)
    names = [name for name in COMMANDS if name != "system_reset"]
    for _ in range(1500):
        rest = "".join(draw.choice("0123456789abcdefx/-+$ puwx") for _ in range(draw.randrange(12)))
        assert isinstance(monitor.execute(f"{draw.choice(names)}{draw.choice(' /')}{rest}"), str)


@pytest.mark.parametrize("command", ["stop", "cont", "quit"])
def test_who_does_not_run_the_machine_cannot_stop_it(monitor, command):
    assert monitor.execute(command).startswith("nobody controls")


def test_a_console_takes_lines_in_pieces(machine):
    sent = bytearray()
    console = Console(Monitor(machine), sent.extend)
    console.receive(b"p/d 1")
    console.receive(b"+1\n" + b"x" * 10_000)
    assert bytes(sent) == PROMPT + b"2\n" + PROMPT
    assert machine.monitor("p/d 2+2") == "4"


def test_a_look_changes_nothing(machine, monitor):
    before = machine.position, bytes(machine.phys[0x100000:0x200000])
    for name in COMMANDS:
        if name != "system_reset":
            monitor.execute(f"{name} 0x100000")
    assert (machine.position, bytes(machine.phys[0x100000:0x200000])) == before
