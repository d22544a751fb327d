# SPDX-License-Identifier: GPL-2.0-or-later
"""Far transfers, SYSRET, INS and OUTS: looked at before the engine executes them."""

from __future__ import annotations

import pytest

from emu.cpu.sites import sites
from emu.cpu.slice import Exit
from emu.state import Table

from .machine_double import CODE0, CODE3, DATA0, DATA3, GDT, HANDLERS, IDT, LONG0, LONG3, TSS, Rig

GP, PF, NP, UD, DB = 13, 14, 11, 6, 1
FAR = 1 << 47  # the first address that is not canonical
STACK = 0x8000
VM, NT, TF, IF, IOPL = 1 << 17, 1 << 14, 1 << 8, 1 << 9, 3 << 12
START = "eb00"  # the very first block of an engine is not told of


@pytest.fixture(name="rig")
def make_rig():
    rig = Rig()
    yield rig
    rig.close()


def words(rig: Rig, width: int, *values: int) -> None:
    """Put a frame where the stack pointer is."""
    rig.put(rig.regs.rsp, b"".join(value.to_bytes(width, "little") for value in values))


def long(rig: Rig, code: str, *frame: int) -> None:
    rig.long("nmi twice")
    rig.put(0x1000, START + code)
    rig.put(TSS + 4, (0x9000).to_bytes(8, "little"))
    rig.regs.rsp = STACK - 0x100
    words(rig, 8, *frame)


def user32(rig: Rig, code: str, *frame: int) -> None:
    rig.user("nmi twice")
    rig.put(0x1000, START + code)
    rig.regs.rsp = STACK - 0x100
    words(rig, 4, *frame)


def put_accessed(rig: Rig, selector: int, accessed: bool) -> None:
    at = GDT + (selector & 0xF8) + 5
    rig.put(at, bytes((rig.memory.read(at, 1) & ~1 | accessed,)))


def is_accessed(rig: Rig, selector: int) -> bool:
    return bool(rig.memory.read(GDT + (selector & 0xF8) + 5, 1) & 1)


# --- Finding them --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "bits", "found"),
    [
        pytest.param("90 48cf", 64, {1, 2}, id="iretq"),
        pytest.param("90 cf", 32, {1}, id="iretd"),
        pytest.param("66 cf", 32, {0, 1}, id="iretw"),
        pytest.param("90 cb", 32, {1}, id="retf"),
        pytest.param("90 48ca0800", 64, {1, 2}, id="retf 8"),
        pytest.param("480f07", 64, {0, 1}, id="sysretq"),
        pytest.param("90 ea001000000800", 32, {1}, id="jmp far"),
        pytest.param("90 ea00100800", 16, {1}, id="jmp far, 16-bit"),
        pytest.param("9a001000000800", 32, {0}, id="call far"),
        pytest.param("90 ff2c2500100000", 64, {1}, id="jmp far [0x1000]"),
        pytest.param("90 ff1e0010", 16, {1}, id="call far [0x1000], 16-bit"),
        pytest.param("90 48ff6d00", 64, {1, 2}, id="jmp far [rbp]"),
        pytest.param("90 ffe0", 64, set(), id="jmp rax"),
        pytest.param("90 c3", 64, set(), id="ret"),
        pytest.param("6c 90", 32, set(), id="ins"),
    ],
)
def test_where_they_may_be(code: str, bits: int, found: set[int]) -> None:
    assert sites(bytes.fromhex(code), bits, checks_ports=False) == found


def test_ports_may_be_anywhere() -> None:
    assert sites(bytes.fromhex("90 f36c 90 666f 90"), 32, checks_ports=True) == {1, 2, 4, 5}


def test_only_the_block_of_a_new_site_is_translated_again(rig: Rig) -> None:
    second = STACK - 0x80
    # jmp 0x1004; jmp 0x1006; iretq; and a second frame that leads on to 0x1100: hlt
    long(rig, "eb00 eb00 48cf", 0x1004, LONG0, 2, second, DATA0)
    for n, value in enumerate((0x1100, LONG0, 2, STACK, DATA0)):
        rig.put(second + 8 * n, value.to_bytes(8, "little"))
    rig.put(0x1100, "f4")
    translated = []
    read = rig.cpu.sites._read
    rig.cpu.sites._read = lambda address, size: translated.append(address) or read(address, size)
    assert rig.run() is Exit.HALT
    assert not rig.events
    assert [translated.count(block) for block in (0x1002, 0x1004, 0x1006)] == [1, 1, 2]


# --- Targets that are not canonical --------------------------------------------------------------


@pytest.mark.parametrize("target", [FAR, (1 << 64) - FAR - 1, 1 << 63])
@pytest.mark.parametrize(
    ("code", "frame"),
    [
        pytest.param("48cf", (LONG3, 0x202, 0x7000, DATA3), id="iretq to CPL 3"),
        pytest.param("48cf", (LONG0, 0x202, 0x7000, DATA0), id="iretq to CPL 0"),
        pytest.param("48cb", (LONG3, 0x7000, DATA3), id="retf to CPL 3"),
        pytest.param("48ca0800", (LONG3, 0, 0x7000, DATA3), id="retf 8 to CPL 3"),
        pytest.param("48cb", (LONG0,), id="retf to CPL 0"),
    ],
)
def test_a_return_faults_before_it_returns(rig: Rig, code: str, frame, target: int) -> None:
    long(rig, code, target, *frame)
    rsp = rig.regs.rsp
    assert rig.run() is Exit.HALT
    assert rig.events == [(GP, 0x1002)]
    error, rip, cs, _, old_rsp, _ = (rig.memory.read(rig.regs.rsp + 8 * n, 8) for n in range(6))
    assert (error, rip, cs, old_rsp) == (0, 0x1002, LONG0, rsp)


@pytest.mark.parametrize("target", [FAR - 1, (1 << 64) - FAR])
def test_the_last_canonical_addresses_are_left_to_themselves(rig: Rig, target: int) -> None:
    long(rig, "48cf", target, LONG3, 0x202, 0x7000, DATA3)
    rig.mmu.faults[target >> 12] = 0
    assert rig.run() is Exit.HALT
    assert rig.events == [(PF, target)]


def test_a_return_that_is_refused_for_its_segment_is_refused_for_that(rig: Rig) -> None:
    long(rig, "48cf", FAR, DATA3, 0x202, 0x7000, DATA3)
    assert rig.run() is Exit.HALT
    assert rig.events == [(GP, 0x1002)]
    assert rig.cpu.record.recent[0].event.error_code == DATA3 & ~3


def test_the_same_iretq_many_times(rig: Rig) -> None:
    """To 0x1100, which comes back by INT 0x40 for the next one."""
    long(rig, "48cf")
    rig.put(0x1100, "cd40")
    code = "83c301 83fb04 7415" + "6a23 6800700000 6802020000 6a43 6800110000 48cf".replace(" ", "")
    rig.put(HANDLERS, code.replace(" ", "") + "f4")
    words(rig, 8, 0x1100, LONG3, 0x202, 0x7000, DATA3)
    rig.regs.rbx = 0
    assert rig.run() is Exit.HALT
    assert rig.events == [(0x40, 0x1102)] * 4


@pytest.mark.parametrize("target", [FAR, 0x1100])
def test_sysret(rig: Rig, target: int) -> None:
    long(rig, "480f07")
    rig.put(0x1100, "0f0b")
    rig.cpu.msrs.write(0xC000_0081, 0x33 << 48)
    rig.regs.rcx, rig.regs.r11 = target, 0x202
    rsp = rig.regs.rsp = 0x7800
    assert rig.run() is Exit.HALT
    if target == FAR:
        assert rig.events == [(GP, 0x1002)]
        assert rig.memory.read(rig.regs.rsp + 16, 8) == LONG0
        assert rig.memory.read(rig.regs.rsp + 32, 8) == rsp
    else:
        assert rig.events == [(UD, 0x1100)]
        assert rig.memory.read(rig.regs.rsp + 8, 8) & 3 == 3


# --- IRETD at CPL 3 ------------------------------------------------------------------------------


def test_iretd_at_cpl_3_does_not_enter_vm86(rig: Rig) -> None:
    user32(rig, "cf", 0x1100, CODE3, VM | NT | IOPL | IF | 0xD7, 0x7000, 0, 0, 0, 0, 0)
    rig.put(0x1100, "90 f4")
    rsp = rig.regs.rsp
    assert rig.run() is Exit.HALT
    assert rig.events == [(GP, 0x1101)]
    _, eip, cs, flags, esp, ss = (rig.memory.read(rig.regs.rsp + 4 * n, 4) for n in range(6))
    assert (eip, cs, esp, ss) == (0x1101, CODE3, rsp + 12, DATA3)
    assert flags & ~0x1_0000 == NT | 0xD7


@pytest.mark.parametrize(
    ("selector", "vector", "error"),
    [
        pytest.param(0, GP, 0, id="null"),
        pytest.param(CODE0, GP, CODE0, id="an inner level"),
        pytest.param(DATA3, GP, DATA3 & ~3, id="data"),
        pytest.param(0xFFFB, GP, 0xFFF8, id="behind the GDT"),
    ],
)
def test_iretd_with_vm_at_cpl_3_checks_its_segment(rig: Rig, selector, vector, error) -> None:
    user32(rig, "cf", 0x1100, selector, VM | 2)
    assert rig.run() is Exit.HALT
    assert rig.events == [(vector, 0x1002)]
    assert rig.cpu.record.recent[0].event.error_code == error


def test_iretd_with_vm_at_cpl_0_enters_vm86(rig: Rig) -> None:
    rig.protected("nmi twice")
    rig.put(0x1000, START + "cf")
    rig.put(0x1100, "cd40")
    rig.regs.rsp = STACK - 0x100
    words(rig, 4, 0x100, 0x100, VM | IOPL | 2, 0x700, 0, 0, 0, 0, 0)
    assert rig.run() is Exit.HALT
    assert rig.events[0][0] == 0x40
    assert rig.memory.read(rig.regs.rsp + 8, 4) & VM


def test_iretd_at_cpl_3_traps_behind_itself(rig: Rig) -> None:
    user32(rig, "cf", 0x1100, CODE3, VM | 2)
    rig.put(0x1000, "9090")
    rig.put(0x1001, "eb00")
    rig.put(0x1003, "cf")
    rig.put(0x1100, "90 90")
    rig.put(HANDLERS, "cf")
    rig.regs.rflags |= TF
    rig.put(IDT + 8 * GP, (0x2800 | CODE0 << 16 | 0xEE00 << 32).to_bytes(8, "little"))
    rig.put(0x2800, "f4")
    rig.put(0x1101, "f4")
    assert rig.run() is Exit.HALT
    assert rig.events == [(DB, 0x1001), (DB, 0x1003), (DB, 0x1100), (GP, 0x1101)]


# --- INS and OUTS --------------------------------------------------------------------------------


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "unmapped"])
@pytest.mark.parametrize("vm86", [False, True], ids=["CPL 3", "VM86"])
@pytest.mark.parametrize(
    "code",
    [
        pytest.param("6c", id="insb"),
        pytest.param("6d", id="insd"),
        pytest.param("f36d", id="rep insd"),
        pytest.param("6e", id="outsb"),
        pytest.param("f36f", id="rep outsd"),
    ],
)
def test_a_refused_port_comes_before_memory(rig: Rig, code: str, mapped: bool, vm86: bool) -> None:
    user32(rig, "90" + code)
    if vm86:
        rig.regs.rflags = VM | IOPL | 2
        for number in range(6):
            rig.regs.set_segment(number, 0, 0, 0xFFFF, 0xF300)
    rig.put(0x5000, b"\x55" * 8)
    if not mapped:
        rig.mmu.faults[5] = 4
    regs = rig.regs
    regs.rsi = regs.rdi = 0x5000
    regs.rdx, regs.rcx = 0x500, 1
    assert rig.run() is Exit.HALT
    assert rig.events == [(GP, 0x1003)]
    assert rig.cpu.record.recent[0].event.error_code == 0
    assert rig.memory.read_block(0x5000, 8) == b"\x55" * 8
    assert rig.port.written == []


def test_an_allowed_port_reads_to_memory(rig: Rig) -> None:
    user32(rig, "6c f4")
    rig.regs.rflags |= IOPL
    rig.regs.rdi, rig.regs.rdx = 0x5000, 0x500
    assert rig.run() is Exit.HALT
    assert rig.events == [(GP, 0x1003)]
    assert rig.memory.read(0x5000, 1) == 0x5A


def test_no_repetition_is_no_access(rig: Rig) -> None:
    user32(rig, "f36c f4")
    rig.regs.rcx, rig.regs.rdi, rig.regs.rdx = 0, 0x5000, 0x500
    assert rig.run() is Exit.HALT
    assert rig.events == [(GP, 0x1004)]


# --- The accessed bit (SDM 3A 3.4.5.1) -----------------------------------------------------------


TRANSFERS = [
    pytest.param("ea001100000800", id="jmp far"),
    pytest.param("9a001100000800", id="call far"),
    pytest.param("ff2e", id="jmp far [esi]"),
    pytest.param("ff1e", id="call far [esi]"),
    pytest.param("cb", id="retf"),
    pytest.param("ca0400", id="retf 4"),
    pytest.param("cf", id="iretd"),
]


def transfer(rig: Rig, code: str) -> None:
    rig.protected("nmi twice")
    rig.put(0x1000, START + code)
    rig.put(0x1100, "f4")
    rig.put(0x7000, (0x1100).to_bytes(4, "little") + CODE0.to_bytes(2, "little"))
    rig.regs.rsi, rig.regs.rsp = 0x7000, 0x7800
    words(rig, 4, 0x1100, CODE0, 2)
    put_accessed(rig, CODE0, accessed=False)


@pytest.mark.parametrize("code", TRANSFERS)
def test_a_far_transfer_sets_it(rig: Rig, code: str) -> None:
    transfer(rig, code)
    assert rig.run() is Exit.HALT
    assert not rig.events
    assert rig.regs.rip == 0x1101
    assert is_accessed(rig, CODE0)


@pytest.mark.parametrize("code", TRANSFERS)
def test_a_far_transfer_that_cannot_set_it_faults(rig: Rig, code: str) -> None:
    transfer(rig, code)
    gates = (HANDLERS | LONG0 << 16 | 0xEE00 << 32).to_bytes(8, "little")
    rig.put(GDT + LONG0, (0x00CF9B000000FFFF).to_bytes(8, "little"))
    rig.put(IDT, gates * 0x20)

    def read_only(cpu, gva, access):
        if gva >> 12 == GDT >> 12 and access & 2:
            from mmu.api import PageFault

            return PageFault(gva, 3)
        return rig.mmu.answer(cpu, gva, access)

    rig.mmu.translate = read_only
    rig.cpu.linear._translate = read_only
    rsp = rig.regs.rsp
    assert rig.run() is Exit.HALT
    assert rig.events == [(PF, 0x1002)]
    assert rig.regs.cr2 == GDT + CODE0 + 4
    assert rig.regs.rsp == rsp - 16


def test_a_return_to_cpl_3_sets_two(rig: Rig) -> None:
    rig.protected("nmi twice")
    rig.put(0x1000, START + "cf")
    rig.put(0x1100, "f4")
    rig.regs.rsp = 0x7800
    words(rig, 4, 0x1100, CODE3, 2, 0x7000, DATA3)
    for selector in (CODE3, DATA3):
        put_accessed(rig, selector, accessed=False)
    assert rig.run() is Exit.HALT
    assert rig.events == [(GP, 0x1100)]
    assert is_accessed(rig, CODE3)
    assert is_accessed(rig, DATA3)


@pytest.mark.parametrize("code", ["9a000000004800", "ea000000004800"], ids=["call", "jmp"])
def test_a_call_gate_sets_that_of_its_target(rig: Rig, code: str) -> None:
    transfer(rig, code)
    rig.put(GDT + 0x48, (0x1100 | CODE0 << 16 | 0x8C00 << 32).to_bytes(8, "little"))
    rig.regs.gdtr = Table(GDT, 0x4F)
    assert rig.run() is Exit.HALT
    assert not rig.events
    assert is_accessed(rig, CODE0)


def test_a_call_gate_to_an_inner_level_sets_two(rig: Rig) -> None:
    user32(rig, "9a000000004b00")
    rig.put(0x1100, "f4")
    rig.put(GDT + 0x48, (0x1100 | CODE0 << 16 | 0xEC00 << 32).to_bytes(8, "little"))
    rig.regs.gdtr = Table(GDT, 0x4F)
    put_accessed(rig, CODE0, accessed=False)
    put_accessed(rig, DATA0, accessed=False)
    assert rig.run() is Exit.HALT
    assert not rig.events
    assert rig.regs.cpl == 0
    assert is_accessed(rig, CODE0)
    assert is_accessed(rig, DATA0)


def test_a_call_gate_before_any_ltr_does_no_harm() -> None:
    """As after reset: TR is busy, which the engine would take for no TSS, and abort."""
    rig = Rig()
    user32(rig, "9a000000004b00")
    rig.put(0x1100, "f4")
    rig.put(GDT + 0x48, (0x1100 | CODE0 << 16 | 0xEC00 << 32).to_bytes(8, "little"))
    rig.regs.gdtr = Table(GDT, 0x4F)
    rig.regs.tr = rig.regs.tr._replace(selector=0, base=0, limit=0xFFFF, attributes=0x8B)
    rig.put(0, bytes(4) + (0x9000).to_bytes(4, "little") + bytes((DATA0, 0)))
    assert rig.run() is Exit.HALT
    assert rig.regs.cpl == 0
    rig.close()


def test_a_transfer_that_is_refused_sets_nothing(rig: Rig) -> None:
    transfer(rig, "ea001100001b00")
    put_accessed(rig, CODE3, accessed=False)
    assert rig.run() is Exit.HALT
    assert rig.events == [(GP, 0x1002)]
    assert not is_accessed(rig, CODE3)


# --- The hooks -----------------------------------------------------------------------------------


def test_finding_them_takes_no_time(rig: Rig) -> None:
    transfer(rig, "ea001100000800")
    assert rig.run() is Exit.HALT
    assert rig.cpu.executed == 3


def test_there_are_only_so_many(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu.cpu.sites._MOST_SITES", 3)
    rig.protected("nmi twice")
    code = b""
    for n in range(8):
        code += b"\xea" + (0x1009 + 7 * n).to_bytes(4, "little") + b"\x08\0"
    rig.put(0x1000, bytes.fromhex(START) + code + b"\xf4")
    assert rig.run() is Exit.HALT
    assert not rig.events
    assert len(rig.cpu.sites._hooks) <= 3


@pytest.mark.parametrize("count_blocks", [False, True], ids=["instructions", "blocks"])
def test_the_first_block_of_an_engine_is_looked_at(count_blocks: bool) -> None:
    rig = Rig(count_blocks=count_blocks)
    rig.long("nmi twice")
    rig.put(0x1000, "90 48cf")
    words(rig, 8, FAR, LONG3, 0x202, 0x7000, DATA3)
    assert rig.run(1000) is Exit.HALT
    assert rig.events == [(GP, 0x1001)]
    rig.close()


@pytest.mark.parametrize(
    ("code", "hooked"),
    [
        pytest.param("b86c6d6e6f 90 f4", [], id="a number"),
        pytest.param("8b6c6e6f 90 f4", [], id="a memory operand"),
        pytest.param("0fba266c 90 f4", [], id="an immediate of BT"),
        pytest.param("b86c6d6e6f f36c f4", [0x1007], id="a number and REP INS"),
    ],
)
def test_a_user_programs_bytes_are_not_taken_for_ports(rig: Rig, code: str, hooked) -> None:
    user32(rig, code)
    rig.regs.rsi = 0x5000
    rig.run()
    assert sorted(rig.cpu.sites._hooks) == hooked
