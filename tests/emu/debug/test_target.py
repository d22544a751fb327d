# SPDX-License-Identifier: GPL-2.0-or-later
"""What a debugger sees and does, registers, memory, steps, breakpoints; and that it never shows."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator

import pytest

from emu.debug.target import Target, Unreadable
from emu.errors import UsageError
from emu.machine import Machine
from emu.outcome import Kind, Position
from emu.state import Segment, Table
from guests import GUESTS

CLOCKS = ("blocks", "instructions")
BASE = 0x10_0000
# mov ecx, 5; again: inc edx; nop; dec ecx; jnz again; cli; hlt
LOOP = bytes.fromhex("b905000000 42 90 49 75fb fa f4".replace(" ", ""))
AGAIN = BASE + 5


def machine_of(code: bytes, **options) -> Machine:
    return Machine(code, format="flat", address=BASE, entry=BASE, memory=4 << 20, **options)


@pytest.fixture(params=CLOCKS)
def loop(request: pytest.FixtureRequest) -> Iterator[Target]:
    with machine_of(LOOP, clock=request.param) as machine:
        target = Target(machine)
        target.write("rip", BASE)
        yield target


def everything(machine: Machine) -> dict[str, object]:
    state: dict[str, object] = {
        "position": machine.position,
        "clock": machine.clock.now,
        "serial": machine.serial.text,
        "screen": machine.screen.text,
        "executed": [(cpu.executed, cpu.stalled, cpu.halted) for cpu in machine.cpus],
        "registers": [cpu.regs.read_all() for cpu in machine.cpus],
    }
    for slot in machine.guest_memory.slots():
        if slot.kind == "ram":
            state[f"RAM at {slot.gpa:#x}"] = hashlib.sha256(slot.view).hexdigest()
    return state


# --- Steps ---------------------------------------------------------------------------------------


def test_a_step_is_one_instruction(loop: Target) -> None:
    seen = []
    for _ in range(6):
        assert loop.step().kind is Kind.STEP
        seen.append(loop.read("rip") - BASE)
    assert seen == [5, 6, 7, 8, 5, 6]


def test_each_step_is_at_a_later_position(loop: Target) -> None:
    positions = [loop.step().position for _ in range(20)]
    keys = [(p.instructions, p.extra) for p in positions]
    assert keys == sorted(set(keys))


def test_a_step_into_a_fault_ends_at_its_handler() -> None:
    guest = GUESTS["demand"]
    with Machine(guest.path, memory=guest.memory) as machine:
        target = Target(machine)
        machine.run(max_insns=5_000)
        before = machine.mmu.counters.pf_guest
        while machine.mmu.counters.pf_guest == before:
            stop = target.step()
            assert stop.kind is Kind.STEP
        handlers = target.read("idtr").base + 14 * 8
        gate = int.from_bytes(target.peek(handlers, 8), "little")
        assert target.read("rip") == gate >> 48 << 16 | gate & 0xFFFF


# --- Breakpoints ---------------------------------------------------------------------------------


def test_a_breakpoint_stops_before_its_instruction_each_time(loop: Target) -> None:
    point = loop.add_breakpoint(AGAIN)
    for turn in range(5):
        stop = loop.resume(timeout=10)
        assert (stop.kind, stop.point, stop.address) == (Kind.BREAKPOINT, point.number, AGAIN)
        assert (loop.read("rip"), loop.read("rdx")) == (AGAIN, turn)
    assert loop.resume(timeout=10).kind is Kind.IDLE


def test_a_breakpoint_in_the_midst_of_a_block(loop: Target) -> None:
    loop.add_breakpoint(AGAIN + 2)
    for turn in range(5):
        assert loop.resume(timeout=10).address == AGAIN + 2
        assert (loop.read("rdx"), loop.read("rcx")) == (turn + 1, 5 - turn)


def test_a_removed_breakpoint_stops_no_more(loop: Target) -> None:
    point = loop.add_breakpoint(AGAIN)
    loop.resume(timeout=10)
    loop.remove(point.number)
    assert loop.points == ()
    assert loop.resume(timeout=10).kind is Kind.IDLE


def test_a_step_passes_a_breakpoint_at_its_own_instruction(loop: Target) -> None:
    loop.add_breakpoint(AGAIN)
    loop.resume(timeout=10)
    assert loop.step().kind is Kind.STEP
    assert loop.read("rip") == AGAIN + 1


def test_a_step_onto_a_breakpoint_is_a_breakpoint(loop: Target) -> None:
    loop.add_breakpoint(AGAIN + 1)
    assert loop.step().kind is Kind.STEP
    stop = loop.step()
    assert stop.kind in (Kind.STEP, Kind.BREAKPOINT)
    assert loop.read("rip") == AGAIN + 1


def test_the_guests_own_breakpoint_at_the_same_address_is_a_db_too() -> None:
    # The handler of #DB counts in EBX; DR0 and the host's point are at the INC.
    handler = BASE + 0x40
    gate = 0x0008_0000 | handler & 0xFFFF | handler >> 16 << 48 | 0x8E00 << 32
    idt = bytes(8) + gate.to_bytes(8, "little")
    code = bytearray(0x100)
    code[:0x20] = (
        bytes.fromhex("0f011d")
        + (BASE + 0x90).to_bytes(4, "little")  # lidt
        + bytes.fromhex("b8")
        + (BASE + 0x20).to_bytes(4, "little")
        + bytes.fromhex("0f23c0")
        + bytes.fromhex("b802000000 0f23f8".replace(" ", ""))
    ).ljust(0x20, b"\x90")
    code[0x20:0x24] = bytes.fromhex("42faf490")  # inc edx; cli; hlt
    # handler: inc ebx; or dword [esp+8], 0x10000 (RF); iret
    code[0x40:0x4A] = bytes.fromhex("43 814c2408 00000100 cf".replace(" ", ""))
    code[0x80 : 0x80 + len(idt)] = idt
    code[0xA8:0xB8] = bytes.fromhex("ffff0000009bcf00 ffff00000093cf00".replace(" ", ""))
    code[0x90:0x96] = (0x0F).to_bytes(2, "little") + (BASE + 0x80).to_bytes(4, "little")
    for host in (False, True):
        with machine_of(bytes(code)) as machine:
            target = Target(machine)
            target.write("rsp", 0x20_0000)
            target.write("gdtr", Table(BASE + 0xA0, 0x17))
            if host:
                target.add_breakpoint(BASE + 0x20)
            stops = []
            while not stops or stops[-1] is Kind.BREAKPOINT:
                stops.append(target.resume(timeout=10).kind)
            assert (target.read("rbx"), target.read("rdx")) == (1, 1)
            assert (Kind.BREAKPOINT in stops) is host


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize(("name", "cpus"), [("context_switch", 1), ("smp_boot", 4), ("ring3", 1)])
def test_breakpoints_steps_and_looks_change_nothing(name: str, cpus: int, clock: str) -> None:
    guest = GUESTS[name]
    options = {"memory": guest.memory, "cpus": cpus, "clock": clock}
    with Machine(guest.path, **options) as machine:
        kind = machine.run(timeout=60).kind
        expected = everything(machine)
        end = machine.scheduler.executed
    draw = random.Random(f"{name} {clock}")
    with Machine(guest.path, **options) as machine:
        target = Target(machine)
        for _ in range(6):
            target.resume(until=Position(draw.randrange(end)), timeout=60)
            point = target.add_breakpoint(target.read("rip"))
            target.step(target.cpu, timeout=60)
            target.registers()
            target.code()
            target.resume(timeout=60, max_insns=2_000)
            target.remove(point.number)
        stop = target.resume(timeout=60)
        assert (stop.kind, everything(machine)) == (kind, expected)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_a_position_anywhere_is_found_again(cpus: int, clock: str) -> None:
    guest = GUESTS["smp_boot"]
    options = {"memory": guest.memory, "cpus": cpus, "clock": clock}
    with Machine(guest.path, **options) as machine:
        target = Target(machine)
        target.resume(until="@12,345", timeout=60)
        assert target.position.instructions == 12_345
        places = []
        for _ in range(20):
            target.step(machine.scheduler.current.index, timeout=60)
            places.append((target.position.exact, machine.regs.linear_rip))
    for position, rip in (places[7], places[-1]):
        with Machine(guest.path, **options) as machine:
            stop = machine.run(until=position, timeout=60)
            assert (stop.position.exact, machine.regs.linear_rip) == (position, rip)


def test_pause_from_another_thread_stops_an_endless_loop() -> None:
    with machine_of(b"\xeb\xfe") as machine:
        target = Target(machine)
        timer = threading.Timer(0.05, target.pause)
        timer.start()
        assert target.resume(timeout=30).kind is Kind.PAUSED
        timer.join()


# --- Registers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rax", 0x1122_3344_5566_7788),
        ("r15", (1 << 64) - 1),
        ("rip", 0x1234),
        ("rflags", 0xAD7),
        ("cr2", 0xFFFF_8000_0000_0000),
        ("cr4", 1 << 4),
        ("cr8", 7),
        ("efer", 1),
        ("fs_base", 0x1234_5678_9ABC),
        ("gs_base", 0x1234_5678_9ABC),
        ("k_gs_base", 0x1234_5678_9ABC),
        ("dr3", 0x40_1000),
        ("dr7", 0x400),
        ("pkru", 0x5555_5554),
        ("st0", 0x4000_C90F_DAA2_2168_C235),
        ("st7", 1),
        ("fctrl", 0x37F),
        ("xmm0", (1 << 128) - 1),
        ("xmm15", 1 << 127),
        ("mxcsr", 0x1FA0),
        ("fs", Segment(0x10, 0x1000, 0xFFFF_FFFF, 0xC093)),
    ],
)
def test_a_register_holds_what_is_written(name: str, value: object) -> None:
    with machine_of(LOOP) as machine:
        target = Target(machine)
        target.write(name, value)
        assert target.read(name) == value


def test_all_registers_have_a_value() -> None:
    with machine_of(LOOP) as machine:
        target = Target(machine)
        assert tuple(target.registers()) == target.names


@pytest.mark.parametrize(
    ("name", "value"),
    [("cr0", 1 << 31), ("cr4", 1 << 30), ("cr8", 16), ("ds", 8), ("rflags", 1 << 17), ("fop", 1)],
)
def test_what_the_processor_cannot_hold_is_refused(name: str, value: int) -> None:
    with machine_of(LOOP) as machine, pytest.raises(ValueError, match=name):
        Target(machine).write(name, value)


def test_setting_control_registers_takes_no_time() -> None:
    with machine_of(LOOP) as machine:
        target = Target(machine)
        machine.run(max_insns=2)
        before = target.position, machine.clock.now
        target.write("cr0", target.read("cr0") | 1 << 16)
        assert (target.position, machine.clock.now) == before


def test_an_unknown_register_is_a_key_error() -> None:
    with machine_of(LOOP) as machine, pytest.raises(KeyError):
        Target(machine).read("ymm0")


# --- Memory --------------------------------------------------------------------------------------


class Latch:
    """A device whose every read changes it."""

    reads = 0

    def read(self, offset: int, size: int) -> int:
        self.reads += 1
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Ignore it."""


class Window(Latch):
    """A device that can be looked at."""

    def peek(self, offset: int, size: int) -> bytes:
        return bytes(range(offset & 0xFF, (offset & 0xFF) + size))


def test_a_look_asks_no_device_that_a_read_changes() -> None:
    with machine_of(LOOP) as machine:
        latch, window = Latch(), Window()
        machine.guest_memory.add_mmio(0x1000_0000, 0x1000, latch)
        machine.guest_memory.add_mmio(0x1000_1000, 0x1000, window)
        target = Target(machine)
        assert target.peek_physical(0x1000_0FFE, 4) == b"\xff\xff\x00\x01"
        assert target.peek(0x1000_0000, 2) == machine.phys[0x1000_0000:0x1000_0002] == b"\xff\xff"
        assert machine.memory[0x1000_0000] == 0xFF
        assert latch.reads == window.reads == 0


def test_a_look_leaves_accessed_bits_and_counters_alone() -> None:
    guest = GUESTS["context_switch"]
    with Machine(guest.path, memory=guest.memory) as machine:
        machine.run(max_insns=50_000)
        before, counters = everything(machine), machine.mmu.counters.as_dict()
        target = Target(machine)
        target.peek(target.read("rip"), 64)
        target.translate(0x40_0000)
        target.code(48)
        assert (everything(machine), machine.mmu.counters.as_dict()) == (before, counters)


def test_code_that_is_poked_is_executed(loop: Target) -> None:
    loop.add_breakpoint(AGAIN)
    loop.resume(timeout=10)
    loop.poke(AGAIN, b"\x4a")  # dec edx
    loop.step()
    assert loop.read("rdx") & 0xFFFF_FFFF == 0xFFFF_FFFF


def test_an_unmapped_address_says_which() -> None:
    guest = GUESTS["ring3"]
    with Machine(guest.path, memory=guest.memory) as machine:
        machine.run(max_insns=20_000)
        target = Target(machine)
        hole = next(page for page in range(0, 1 << 32, 0x1000) if target.translate(page).fault)
        with pytest.raises(Unreadable) as error:
            target.peek(hole - 2 if hole else 0, 4)
        assert error.value.address == hole


# --- Watchpoints ---------------------------------------------------------------------------------

# mov eax, [0x200000]; inc dword [0x200008]; mov [0x200004], eax; mov byte [0x201000], 1; cli; hlt
ACCESSES = bytes.fromhex("a100002000 ff0508002000 a304002000 c6050010200001 faf4".replace(" ", ""))


@pytest.fixture(params=CLOCKS)
def accesses(request: pytest.FixtureRequest) -> Iterator[Target]:
    with machine_of(ACCESSES, clock=request.param) as machine:
        machine.phys[0x20_0000:0x20_0010] = bytes(range(16))
        yield Target(machine)


@pytest.mark.parametrize(
    ("address", "size", "access", "stops"),
    [
        pytest.param(0x20_0000, 4, "read", [(5, "read")], id="a read"),
        pytest.param(0x20_0000, 4, "write", [], id="a read is no write"),
        pytest.param(0x20_0000, 4, "access", [(5, "read")], id="a read is an access"),
        pytest.param(0x20_0004, 4, "write", [(16, "write")], id="a write"),
        pytest.param(0x20_0007, 1, "write", [(16, "write")], id="the last byte of a write"),
        pytest.param(0x20_0004, 4, "read", [], id="a write is no read"),
        pytest.param(0x20_0008, 4, "read", [(11, "read")], id="read-modify-write reads"),
        pytest.param(0x20_0008, 4, "write", [(11, "write")], id="read-modify-write writes"),
        pytest.param(0x20_000C, 4, "access", [], id="beside all of them"),
        pytest.param(0x20_0002, 4, "access", [(5, "read"), (16, "write")], id="over two"),
        pytest.param(0x20_0FFE, 4, "write", [(23, "write")], id="over a page's end"),
    ],
)
def test_a_watchpoint_stops_after_the_access(
    accesses: Target, address: int, size: int, access: str, stops: list[tuple[int, str]]
) -> None:
    point = accesses.add_watchpoint(address, size, access)
    found = []
    while (stop := accesses.resume(timeout=10)).kind is Kind.WATCHPOINT:
        assert (stop.point, stop.address, stop.size) == (point.number, address, size)
        found.append((accesses.read("rip") - BASE, stop.access))
    assert (found, stop.kind) == (stops, Kind.IDLE)


def test_a_watchpoint_tells_the_bytes_before_and_after(accesses: Target) -> None:
    accesses.add_watchpoint(0x20_0006, 4)
    stop = accesses.resume(timeout=10)
    assert (stop.old, stop.new) == (b"\x06\x07\x08\x09", b"\x06\x07\x09\x09")
    stop = accesses.resume(timeout=10)
    assert (stop.old, stop.new) == (b"\x06\x07\x09\x09", b"\x02\x03\x09\x09")


def test_a_step_over_a_watched_access_is_a_watchpoint(accesses: Target) -> None:
    accesses.add_watchpoint(0x20_0000, 4, "read")
    assert accesses.step().kind is Kind.WATCHPOINT
    assert accesses.step().kind is Kind.STEP


def test_a_removed_watchpoint_stops_no_more(accesses: Target) -> None:
    accesses.remove(accesses.add_watchpoint(0x20_0000, 4, "access").number)
    assert accesses.resume(timeout=10).kind is Kind.IDLE


@pytest.mark.parametrize(("size", "access"), [(0, "read"), (4097, "read"), (4, "execute")])
def test_no_other_watchpoints(accesses: Target, size: int, access: str) -> None:
    with pytest.raises(ValueError, match="watchpoint"):
        accesses.add_watchpoint(0x1000, size, access)


def test_the_native_mmu_has_no_watchpoints() -> None:
    with machine_of(LOOP, mmu="native") as machine, pytest.raises(UsageError):
        Target(machine).add_watchpoint(0x1000)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("mmu", ["shadow", "uncached"])
@pytest.mark.parametrize(("name", "cpus"), [("smp_boot", 4), ("context_switch", 1), ("demand", 1)])
def test_watchpoints_change_nothing(name: str, cpus: int, mmu: str, clock: str) -> None:
    guest = GUESTS[name]
    options = {"memory": guest.memory, "cpus": cpus, "clock": clock, "mmu": mmu}
    with Machine(guest.path, **options) as machine:
        machine.run(max_insns=9_000)
        stack = machine.regs.rsp - 16
        kind = machine.run(timeout=60).kind
        expected = everything(machine)
    with Machine(guest.path, **options) as machine:
        machine.run(max_insns=9_000)
        target = Target(machine)
        point = target.add_watchpoint(stack, 8, "access")
        for _ in range(100):
            assert target.resume(timeout=60).kind is Kind.WATCHPOINT
        target.remove(point.number)
        assert (target.resume(timeout=60).kind, everything(machine)) == (kind, expected)
