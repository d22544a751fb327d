# SPDX-License-Identifier: GPL-2.0-or-later
"""Debug registers: breakpoints on execution, data and I/O, DR6, and RF (SDM 3B chapter 17)."""

from __future__ import annotations

import pytest

from emu.cpu.debug import breakpoints
from emu.cpu.slice import Exit
from emu.state import CpuState

from .machine_double import HANDLERS, Rig

DB, PF, UD, GP = 1, 14, 6, 13
EXECUTION, WRITE, IO, READ_WRITE = range(4)
LENGTHS = {1: 0, 2: 1, 8: 2, 4: 3}
VALUE = 0x7000
# and dword/qword [esp + 8 or 16], ~0x100: none. The handlers below return; the last sets RF.
IRET = {"protected": "cf", "long": "48cf"}
IRET_RF = {"protected": "814c240800000100 cf", "long": "48814c241000000100 48cf"}
MODES = ["protected", "long"]


def dr7(kind: int, length: int = 1, number: int = 0) -> int:
    return 2 << 2 * number | (LENGTHS[length] << 2 | kind) << 16 + 4 * number


@pytest.fixture(name="rig", params=[False, True], ids=["instructions", "blocks"])
def make_rig(request):
    rig = Rig(count_blocks=request.param)
    yield rig
    rig.close()


def start(rig: Rig, mode: str, code: str, handler: str | None = None) -> None:
    """Hex code at 0x1000 under gates to a handler that returns."""
    getattr(rig, mode)("nmi twice", handler or IRET[mode])
    rig.put(0x1000, code)


def watch(rig: Rig, address: int, control: int, number: int = 0) -> None:
    rig.cpu.debug.write(number, address)
    rig.cpu.debug.write(7, rig.regs.dr7 | control)
    rig.cpu.intercepts.program()


def stops_between_blocks(rig: Rig) -> bool:
    flag = rig.cpu.hidden.no_exit_request
    return flag is not None and bool(flag[0])


def hits(rig: Rig) -> list[int]:
    return [rip for vector, rip in rig.events if vector == DB]


# --- What DR7 says -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("enable", [1, 2, 3], ids=["local", "global", "both"])
@pytest.mark.parametrize("length", LENGTHS)
def test_fields_of_dr7(number: int, enable: int, length: int) -> None:
    value = enable << 2 * number | (LENGTHS[length] << 2 | WRITE) << 16 + 4 * number
    registers = {number: 0x1003, 7: value}
    first = 0x1003 & -length
    found = breakpoints(lambda n: registers.get(n, 0))
    assert found == [(1 << number, WRITE, first, first + length - 1)]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param("0f23f0", (6, 0xFFFF_EFFF), id="DR6 keeps bit 12 clear"),
        pytest.param("0f23f8", (7, 0xFFFF_27FF), id="DR7 keeps bit 10 set"),
        pytest.param("0f23e8", (7, 0xFFFF_27FF), id="DR5 is DR7"),
        pytest.param("0f23d8", (3, 0xFFFF_FFFF), id="DR3 keeps all"),
    ],
)
def test_mov_dr(rig: Rig, code: str, expected: tuple[int, int]) -> None:
    start(rig, "protected", code + "f4", "f4")
    rig.regs.rax = 0xFFFF_FFFF
    rig.run()
    number, value = expected
    assert rig.regs.dr(number) == value


@pytest.mark.parametrize(
    ("code", "vector"),
    [
        pytest.param("0f23f8", GP, id="bit 32 of DR7"),
        pytest.param("0f23f0", GP, id="bit 32 of DR6"),
        pytest.param("0f23e0", UD, id="DR4 under CR4.DE"),
        pytest.param("0f23c0", None, id="bit 32 of DR0"),
    ],
)
def test_mov_dr_faults(rig: Rig, code: str, vector: int | None) -> None:
    start(rig, "long", code + "f4", "f4")
    rig.regs.cr4 |= 8
    rig.regs.rax = 1 << 32
    rig.run()
    assert rig.events == ([(vector, 0x1000)] if vector is not None else [])


# --- Execution -----------------------------------------------------------------------------------

# mov ecx,3; target: nop; dec ecx; jnz target; hlt
LOOP = "b903000000 90 ffc9 75fb f4"
TARGET = 0x1005


@pytest.mark.parametrize("mode", MODES)
def test_execution_in_a_loop_hits_each_time(rig: Rig, mode: str) -> None:
    start(rig, mode, LOOP, IRET_RF[mode])
    watch(rig, TARGET, dr7(EXECUTION))
    assert rig.run() is Exit.HALT
    assert hits(rig) == [TARGET] * 3
    assert rig.regs.dr6 == 0xFFFF_0FF1
    assert rig.regs.rcx == 0


def test_execution_without_rf_hits_for_ever(rig: Rig) -> None:
    start(rig, "protected", LOOP)
    watch(rig, TARGET, dr7(EXECUTION))
    assert rig.run(2000) is Exit.BUDGET
    assert rig.regs.rcx == 3
    assert set(hits(rig)) == {TARGET}


def test_rf_of_an_iret_to_elsewhere_is_gone_behind_it(rig: Rig) -> None:
    # push 0x10002 (RF); push cs; push 0x1100; iret   and at 0x1100: nop; jmp 0x1005
    start(rig, "protected", "6802000100 0e 6800110000 cf", IRET_RF["protected"])
    rig.put(0x1100, "90 eb01 90 90 f4")
    watch(rig, 0x1104, dr7(EXECUTION))
    assert rig.run() is Exit.HALT
    assert hits(rig) == [0x1104]


def test_a_breakpoint_set_by_the_guest_meets_code_that_has_run(rig: Rig) -> None:
    # call 0x1100; mov eax,0x1100; mov dr0,eax; mov eax,2; mov dr7,eax; call 0x1100; hlt
    code = "e8fb000000 b800110000 0f23c0 b802000000 0f23f8 e8e6000000 f4"
    start(rig, "protected", code, IRET_RF["protected"])
    rig.put(0x1100, "c3")
    assert rig.run() is Exit.HALT
    assert hits(rig) == [0x1100]


def test_a_breakpoint_that_is_taken_back_is_gone(rig: Rig) -> None:
    start(rig, "protected", LOOP, IRET_RF["protected"])
    watch(rig, TARGET, dr7(EXECUTION))
    rig.cpu.debug.write(7, 0)
    assert rig.run() is Exit.HALT
    assert hits(rig) == []


def test_orders_to_stop_are_looked_for_behind_instructions_only_while_hooks_give_them(
    rig: Rig, request: pytest.FixtureRequest
) -> None:
    counts_blocks = "blocks" in request.node.callspec.id
    start(rig, "protected", LOOP, IRET_RF["protected"])
    assert stops_between_blocks(rig) is counts_blocks
    watch(rig, TARGET, dr7(EXECUTION))
    assert not stops_between_blocks(rig)
    rig.cpu.debug.write(7, 0)
    assert stops_between_blocks(rig) is counts_blocks


def test_reset_takes_breakpoints_back(rig: Rig) -> None:
    start(rig, "protected", LOOP)
    watch(rig, TARGET, dr7(EXECUTION))
    watch(rig, 0x8000 - 4, dr7(WRITE, 4, 1), 1)
    start(rig, "protected", LOOP)
    assert rig.run() is Exit.HALT
    assert rig.events == []


def test_addresses_are_linear() -> None:
    rig = Rig()
    rig.put(0x1000, "90 90 f4")
    rig.cpu.set_state(CpuState.real(0x100, 0, sp=0x8000))
    rig.put(4, (0x2000).to_bytes(4, "little"))
    rig.put(0x2000, "f4")
    watch(rig, 0x1001, dr7(EXECUTION))
    assert rig.run() is Exit.HALT
    assert rig.events == [(DB, 1)]
    rig.close()


def test_breakpoint_on_an_intercepted_instruction_hits_once(rig: Rig) -> None:
    start(rig, "protected", "0f20c0 0f22c0 0f01e0 f4", IRET_RF["protected"])  # mov cr0; smsw
    for number, address in enumerate((0x1000, 0x1003, 0x1006)):
        watch(rig, address, dr7(EXECUTION, number=number), number)
    assert rig.run() is Exit.HALT
    assert hits(rig) == [0x1000, 0x1003, 0x1006]
    assert rig.regs.dr6 == 0xFFFF_0FF4


# --- Data ----------------------------------------------------------------------------------------

STORES = {1: "880500700000", 2: "66890500700000", 4: "890500700000", 8: "0f110500700000"}
ABSOLUTE = {"protected": "{}05{}", "long": "{}0425{}"}


def access(opcode: str, mode: str, address: int) -> str:
    """An instruction with EAX and [address]."""
    return ABSOLUTE[mode].format(opcode, address.to_bytes(4, "little").hex())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("opcode", "kind", "hit"),
    [
        pytest.param("89", WRITE, True, id="write, on writes"),
        pytest.param("8b", WRITE, False, id="read, on writes"),
        pytest.param("89", READ_WRITE, True, id="write, on both"),
        pytest.param("8b", READ_WRITE, True, id="read, on both"),
        pytest.param("01", WRITE, True, id="read and write, on writes"),
    ],
)
def test_data(rig: Rig, mode: str, opcode: str, kind: int, hit: bool) -> None:
    code = access(opcode, mode, VALUE)
    start(rig, mode, code + "90 90" + code + "f4")
    rig.put(VALUE, "01000000")
    rig.regs.rax = 2
    watch(rig, VALUE, dr7(kind, 4, 1), 1)
    assert rig.run() is Exit.HALT
    length = len(code) // 2
    behind = [0x1000 + length, 0x1000 + 2 * length + 2]
    assert hits(rig) == (behind if hit else [])
    assert rig.regs.dr6 == (0xFFFF_0FF2 if hit else 0xFFFF_0FF0)
    assert rig.regs.rip == behind[1] + 1
    assert rig.memory.read(VALUE, 4) == {"89": 2, "8b": 1, "01": 5}[opcode]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("offset", range(-4, 12))
def test_every_length_and_no_byte_more(length: int, offset: int) -> None:
    rig = Rig()
    start(rig, "long", access("89", "long", VALUE + 0x100 + offset) + "f4")
    watch(rig, VALUE + 0x100, dr7(WRITE, length))
    assert rig.run() is Exit.HALT
    assert bool(hits(rig)) is (-4 < offset < length)
    rig.close()


@pytest.mark.parametrize("offset", [-16, -15, -8, -1, 0, 7, 8])
def test_a_wide_access(rig: Rig, offset: int) -> None:
    start(rig, "long", "0f110425" + (VALUE + 0x100 + offset).to_bytes(4, "little").hex() + "f4")
    rig.regs.cr4 |= 0x200
    watch(rig, VALUE + 0x100, dr7(READ_WRITE, 8))
    assert rig.run() is Exit.HALT
    assert bool(hits(rig)) is (-16 < offset < 8)


def test_two_breakpoints_in_one_instruction(rig: Rig) -> None:
    # mov esi,0x7000; mov edi,0x9000; movsd; hlt
    start(rig, "protected", "be00700000 bf00900000 a5 f4")
    watch(rig, 0x7000, dr7(READ_WRITE, 4, 0), 0)
    watch(rig, 0x9000, dr7(WRITE, 4, 3), 3)
    assert rig.run() is Exit.HALT
    assert hits(rig) == [0x100B]
    assert rig.regs.dr6 == 0xFFFF_0FF9


def test_a_repeated_instruction_traps_behind_the_iteration(rig: Rig) -> None:
    # mov edi,0x7000; mov ecx,4; cld; rep stosd; hlt
    start(rig, "protected", "bf00700000 b904000000 fc f3ab f4")
    watch(rig, 0x7008, dr7(WRITE, 4))
    assert rig.run() is Exit.HALT
    assert hits(rig) == [0x100B]
    assert rig.regs.rcx == 0


def test_code_on_the_watched_page_runs(rig: Rig) -> None:
    code = access("8b", "protected", 0x1100)
    start(rig, "protected", code + "f4")
    watch(rig, 0x1100, dr7(READ_WRITE, 4))
    assert rig.run() is Exit.HALT
    assert hits(rig) == [0x1006]


def test_a_fault_takes_the_hit_with_it(rig: Rig) -> None:
    # push dword [0x7000] where the stack cannot be written: read, then fault
    start(rig, "protected", "bc0c000100 ff3500700000 f4", "f4")
    rig.mmu.faults[0x10] = 0
    watch(rig, 0x7000, dr7(READ_WRITE, 4))
    rig.regs.tr = rig.regs.tr
    rig.cpu.fills.reload_paging()
    rig.run()
    assert not hits(rig)


@pytest.mark.parametrize("trap_flag", [False, True])
def test_pushf_to_a_watched_stack_has_the_guests_own_trap_flag(rig: Rig, trap_flag: bool) -> None:
    start(rig, "protected", "9c f4", "f4")
    rig.regs.rflags = 0x102 if trap_flag else 0x2
    watch(rig, 0x7FFC, dr7(WRITE, 4))
    rig.run()
    assert hits(rig) == [0x1001]
    assert rig.memory.read(0x7FFC, 4) == (0x102 if trap_flag else 2)
    assert rig.regs.dr6 == (0xFFFF_4FF1 if trap_flag else 0xFFFF_0FF1)


def test_popf_from_a_watched_stack_loads_the_trap_flag(rig: Rig) -> None:
    start(rig, "protected", "9d 90 f4", "f4")
    rig.put(0x8000, "02010000")
    watch(rig, 0x8000, dr7(READ_WRITE, 4))
    rig.run()
    assert hits(rig) == [0x1001]
    frame = rig.memory.read(0x8004 - 4, 4)
    assert frame & 0x100


def test_the_trap_waits_behind_mov_ss(rig: Rig) -> None:
    # mov ss,[0x7000]; nop; nop; hlt
    start(rig, "protected", "8e1500700000 90 90 f4")
    rig.put(VALUE, "1000")
    watch(rig, VALUE, dr7(READ_WRITE, 2))
    assert rig.run() is Exit.HALT
    assert hits(rig) == [0x1007]


def test_watching_costs_the_tlb_nothing_afterwards(rig: Rig) -> None:
    store = access("89", "protected", VALUE)
    start(rig, "protected", store + store + store + "f4")
    watch(rig, VALUE, dr7(WRITE, 4))
    rig.cpu.debug.write(7, 0)
    rig.mmu.seen.clear()
    assert rig.run() is Exit.HALT
    assert hits(rig) == []
    assert len([gva for gva, _ in rig.mmu.seen if gva >> 12 == VALUE >> 12]) == 1


# --- I/O, GD, HLT --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["ee", "ec", "66ef"], ids=["out al", "in al", "out ax"])
def test_ports(rig: Rig, code: str) -> None:
    start(rig, "protected", f"66ba0005 {code} 90 66ba1005 {code} f4")
    rig.regs.cr4 |= 8
    watch(rig, 0x500, dr7(IO, 4))
    assert rig.run() is Exit.HALT
    assert hits(rig) == [0x1004 + len(code) // 2]
    assert rig.regs.dr6 == 0xFFFF_0FF1


@pytest.mark.parametrize("code", ["0f21c0", "0f23c0", "0f21f8"])
def test_general_detect(rig: Rig, code: str) -> None:
    start(rig, "protected", code + "f4", "0f21fb f4")  # the handler: mov ebx,dr7
    watch(rig, 0, 1 << 13)
    assert rig.run() is Exit.HALT
    assert hits(rig) == [0x1000]
    assert rig.regs.dr6 == 0xFFFF_2FF0
    assert not rig.regs.rbx & 1 << 13
    assert rig.regs.rip == HANDLERS + 4


def test_the_trap_flag_ends_a_halt(rig: Rig) -> None:
    start(rig, "protected", "f4 90", "f4")
    rig.regs.rflags = 0x102
    while rig.run() is not Exit.HALT:
        pass
    assert rig.events == [(DB, 0x1001)]
    assert rig.regs.dr6 == 0xFFFF_4FF0
