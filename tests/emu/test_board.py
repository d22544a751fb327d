# SPDX-License-Identifier: GPL-2.0-or-later
"""The board as a whole: every chip can be saved, and two boards in one state do the same."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.board import BoardOptions
from emu.boot import MemoryDisk
from emu.cpu.faults import Fault
from emu.devices.disk import Disk
from emu.errors import NotSavableError, StateError
from emu.machine import Machine
from emu.savable import Savable

CHIPS = (
    *("pic", "lapic0", "lapic1", "ioapic", "hpet", "pit", "cmos", "port61", "a20", "port92"),
    *("keyboard", "ps2", "vga", "com1", "com2", "debugcon0xe9", "acpi_pm", "apm", "shutdown"),
    *("debug_exit", "fw_cfg", "pci", "display", "ide0x1f0", "TestDevice@0xe0", "Bios@0xea"),
    "_Latch@0xff000000",
)


def options(disk=None, **more):
    return BoardOptions(
        serial=(None, None), disks={} if disk is None else {0: disk}, test_device=True, **more
    )


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("board") / "disk.img"
    path.write_bytes(b"".join(n.to_bytes(4, "little") * 128 for n in range(2000)))
    return path


@pytest.fixture(scope="module")
def machines(image):
    """Two machines alike, with every chip that there is."""
    made = [
        Machine(
            b"\xf4",
            format="flat32",
            address=0x10_0000,
            memory=2 << 20,
            cpus=2,
            board=options(Disk(image, snapshot=True), floppies={0: MemoryDisk(bytes(1440 << 10))}),
        )
        for _ in range(2)
    ]
    yield made
    for machine in made:
        machine.close()


def save(machine):
    return machine.clock.save(), machine.board.save()


def load(machine, state):
    machine.clock.load(state[0])
    machine.board.load(state[1])


def test_every_chip_can_be_saved(machines):
    board = machines[0].board
    chips = board.chips()
    assert tuple(chips) == CHIPS
    for name, chip in chips.items():
        state = chip.save()
        assert state["type"] == type(chip).__name__, name
        assert type(chip).save is not Savable.save
        assert type(chip).load is not Savable.load
    on_the_bus = {id(device) for _, device in machines[0].ports.devices()}
    assert on_the_bus <= {id(chip) for chip in chips.values()}


class Mute:
    def read(self, port, size):
        return 0

    def write(self, port, size, value):
        pass


class Waiting(Mute, Savable):
    """A chip that forgets its event."""

    def save(self):
        return self._make_state()

    def load(self, state):
        self._parts_of(state)


@pytest.mark.parametrize(
    ("plug", "message"),
    [
        (lambda board: board.ports.add(0x300, 0x307, Mute()), "^Mute@0x300 cannot be saved"),
        (
            lambda board: board.memory.add_mmio(0xF000_0000, 0x1000, Mute()),
            "^Mute@0xf0000000 cannot be saved",
        ),
        (
            lambda board: board.ports.add(0x300, 0x307, type("Half", (Mute, Savable), {})()),
            "^Half cannot be saved",
        ),
    ],
    ids=["on the port bus", "in memory", "a Savable without save"],
)
def test_a_chip_of_others_that_cannot_be_saved_fails_by_name(plug, message):
    with (
        Machine(memory=1 << 20, board=BoardOptions(extra=[plug])) as machine,
        pytest.raises(NotSavableError, match=message),
    ):
        machine.board.save()


def test_an_event_that_no_chip_saves_fails_by_name():
    def plug(board):
        board.ports.add(0x300, 0x307, Waiting())
        board.clock.at(10**9, board.reset)

    with Machine(memory=1 << 20, board=BoardOptions(extra=[plug])) as machine:
        assert "Waiting@0x300" in machine.board.chips()
        machine.clock.save()
        with pytest.raises(StateError, match=r"1000000000 ns \(Board.reset\)"):
            machine.board.save()


def test_the_state_of_another_board_is_refused_by_name(machines):
    with Machine(memory=1 << 20) as other:
        state = save(other)
    with pytest.raises(StateError, match=r"other chips than the board: .*com2.*ide0x1f0.*lapic1"):
        load(machines[1], state)


# Everything but the firmware's service port, and the DMA of fw_cfg, which writes to RAM.
PORTS = [
    *(*range(0x20, 0x22), *range(0x40, 0x44), 0x60, 0x61, 0x64, 0x70, 0x71, 0x92, 0xA0, 0xA1),
    *(0xB2, 0xB3, 0xE0, 0xE4, 0xE8, 0xE9, 0xF4, *range(0x1F0, 0x1F8), *range(0x2F8, 0x300)),
    *(0x3B4, 0x3B5, 0x3BA, *range(0x3C0, 0x3D0), 0x3D4, 0x3D5, 0x3DA, 0x3F6),
    *(*range(0x3F8, 0x400), 0x4D0, 0x4D1, 0x510, 0x511, *range(0x600, 0x60C), 0x8900),
    *(0xCF8, 0xCF9, *range(0xCFC, 0xD00), *range(0x2000, 0x2018)),
]
MEMORY = [
    *(0xFEC0_0000, 0xFEC0_0010, 0xFEC0_0040, *range(0xFEE0_0000, 0xFEE0_0400, 16)),
    *(0xFED0_0000 + n for n in (0x10, 0x20, 0xF0, 0x100, 0x108, 0x120, 0x128, 0x140, 0x148)),
    0xFF00_0000,
]
VALUES = st.one_of(st.integers(0, 0xFF), st.integers(0, 0xFFFF_FFFF))
SIZES = st.sampled_from([1, 2, 4])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("out"), st.sampled_from(PORTS), SIZES, VALUES),
        st.tuples(st.just("in"), st.sampled_from(PORTS), SIZES),
        st.tuples(st.just("write"), st.sampled_from(MEMORY), VALUES),
        st.tuples(st.just("read"), st.sampled_from(MEMORY)),
        st.tuples(st.just("msr"), st.sampled_from([0x1B, 0x6E0, 0x80B, 0x830, 0x83F]), VALUES),
        st.tuples(st.just("base"), st.sampled_from([0x800, 0xC00, 0x1000_0800, 0])),
        st.tuples(st.just("take"), st.integers(0, 1)),
        st.tuples(st.just("feed"), st.binary(max_size=20)),
        st.tuples(st.just("type"), st.sampled_from(["a", "A1", "xyz"])),
        st.tuples(st.just("run"), st.sampled_from([100, 5_000, 1_000_000, 300_000_000])),
    ),
    max_size=40,
)


def do(machine, step):
    """Do a step as a guest or a person would; returns what they see of it."""
    what, *rest = step
    if what == "out":
        port, size, value = rest
        return machine.ports.write(port, size, value & (1 << 8 * size) - 1)
    if what == "in":
        return machine.ports.read(*rest)
    if what == "write":
        return machine.guest_memory.write(rest[0], 4, rest[1], "guest")
    if what == "read":
        return machine.guest_memory.read(rest[0], 4)
    if what == "base":
        with suppress(Fault):
            machine.cpus[1].msrs.write(0x1B, 0xFEE0_0000 + rest[0])
        return machine.cpus[1].msrs.read(0x1B)
    if what == "msr":
        with suppress(Fault):
            machine.cpus[1].msrs.write(*rest)
            return machine.cpus[1].msrs.read(rest[0])
    elif what == "take":
        apic = machine.board.local_apics[rest[0]]
        return apic.acknowledge() if apic.pending() else None
    elif what == "feed":
        machine.serial.feed(rest[0])
    elif what == "type":
        machine.keyboard.type(rest[0])
    else:
        clock = machine.clock
        end = clock.now + rest[0]
        while (when := clock.next_event) is not None and when <= end:
            clock.run_due(max(when, clock.now))
        clock.run_due(end)
    return None


@pytest.fixture(scope="module")
def power_on(machines):
    return save(machines[0])


@given(STEPS, STEPS)
@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
def test_two_boards_in_one_state_do_the_same(machines, power_on, before, after):
    one, two = machines
    load(one, power_on)
    for step in before:
        do(one, step)
    state = save(one)
    load(two, state)
    assert save(two) == state
    assert [do(two, step) for step in after] == [do(one, step) for step in after]
    assert save(two) == save(one)


def test_saving_changes_nothing(machines):
    first = save(machines[0])
    assert save(machines[0]) == first
