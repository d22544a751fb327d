# SPDX-License-Identifier: GPL-2.0-or-later
"""The vCPU on its engine: budgets, ports, interrupts, faults, single instructions.

An identity MMU stands in for the real ones; what a fault's error code must be is their business.
"""

from __future__ import annotations

import pytest

from emu.cpu.cpuid import FEATURE_NAMES, can_be_had
from emu.cpu.faults import Source
from emu.cpu.hooks import TIMED_INSTRUCTION
from emu.cpu.slice import Exit
from mmu.arch import ACCESS_IMPLICIT

from .machine_double import CODE0, DATA0, Rig
from .snippets import CODE

PF, GP, SS, UD, DB, DE = 14, 13, 12, 6, 1, 0


@pytest.fixture(name="rig")
def make_rig():
    rig = Rig()
    yield rig
    rig.close()


PORT_COST = 100  # of a port access, in instructions


class Device:
    """MMIO at 0x400000 that runs `on_write` for every write."""

    def __init__(self, rig: Rig) -> None:
        self.writes: list[int] = []
        self.on_write = lambda: None
        rig.memory.add_mmio(0x40_0000, 0x1000, self)

    def read(self, offset, size):
        return 7

    def write(self, offset, size, value):
        self.writes.append(value)
        self.on_write()


# --- Running -------------------------------------------------------------------------------------


def test_real_mode_and_protected_mode_reach_the_ports(rig: Rig) -> None:
    rig.real(CODE["out bytes"].hex())
    assert rig.run() is Exit.HALT
    rig.flat32(CODE["out dword"].hex())
    assert rig.run() is Exit.HALT
    assert rig.port.written == [(0x500, 1, 0x41), (0x500, 1, 0x42), (0x500, 4, 0x12345678)]
    assert rig.regs.rax == 0x5A5A5A5A


def test_reset_starts_below_4_gib(rig: Rig) -> None:
    rig.memory.add_rom(0xFFFFF000, bytes(0xFF0) + b"\xb0\x5a\xf4")
    rig.cpu.sync_slots()
    rig.cpu.reset()
    assert rig.run() is Exit.HALT
    assert rig.regs.rax & 0xFF == 0x5A


@pytest.mark.parametrize("budget", [1, 2, 7, 41])
def test_a_budget_is_met_exactly(rig: Rig, budget: int) -> None:
    rig.protected("spin")
    assert rig.run(budget) is Exit.BUDGET
    assert rig.cpu.executed == budget
    assert rig.run(budget) is Exit.BUDGET
    assert rig.cpu.executed == 2 * budget


def test_slices_do_not_change_what_is_executed(rig: Rig) -> None:
    rig.protected("count to 20")
    while rig.run(3) is Exit.BUDGET:
        pass
    assert rig.cpu.executed == 1 + 40 + 1
    assert rig.cpu.halted


def test_a_slice_is_shortened_from_a_device(rig: Rig) -> None:
    rig.protected("out dword")
    rig.port.on_write = lambda port, value: rig.cpu.limit(0)
    assert rig.run() is Exit.BUDGET
    assert (rig.cpu.executed, rig.regs.rip) == (3 + PORT_COST, 0x100B)


def test_leave_ends_behind_the_instruction(rig: Rig) -> None:
    rig.protected("out dword")
    rig.port.on_write = lambda port, value: rig.cpu.leave()
    assert rig.run() is Exit.LEFT
    assert (rig.cpu.executed, rig.regs.rip) == (3 + PORT_COST, 0x100B)


def test_kick_before_a_run(rig: Rig) -> None:
    rig.protected("spin")
    rig.cpu.kick()
    assert rig.run() is Exit.SUSPENDED
    assert rig.cpu.progress() == 0
    assert rig.run(5) is Exit.BUDGET


def test_failure_of_a_device_comes_out_of_run(rig: Rig) -> None:
    rig.protected("out dword")

    def fail(port, value):
        raise ZeroDivisionError("the device is at fault")

    rig.port.on_write = fail
    with pytest.raises(ZeroDivisionError):
        rig.run()


def test_pause_yields_only_among_several(rig: Rig) -> None:
    rig.protected("pause")
    assert rig.run() is Exit.HALT
    several = Rig(cpus=2)
    several.protected("pause")
    assert several.run() is Exit.YIELDED
    assert several.regs.rip == 0x1002
    several.close()


def test_fetch_from_a_hole_reads_all_ones(rig: Rig) -> None:
    rig.protected("jump")
    rig.regs.rsi = 0x80_0000
    rig.run()
    assert rig.events == [(UD, 0x80_0000)]  # FF FF


# --- Interrupts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "at"),
    [
        pytest.param("sti shadow", 0x1004, id="one instruction behind STI"),
        pytest.param("mov ss shadow", 0x1006, id="one instruction behind MOV SS behind STI"),
        pytest.param("popf opens", 0x1006, id="at once behind POPF"),
        pytest.param("sti hlt", 0x1002, id="STI HLT: wakes, then interrupts"),
    ],
)
def test_window_opens_at_the_right_instruction(rig: Rig, name: str, at: int) -> None:
    rig.protected(name)
    rig.interrupts.raise_()
    while rig.run() is Exit.BUDGET:
        pass
    assert rig.events == [(0x40, at)]


def test_an_interrupt_that_waits_at_a_hlt_ends_it_at_once(rig: Rig) -> None:
    rig.protected("sti hlt", handler="90cf")
    rig.interrupts.raise_()
    assert rig.run() is Exit.BUDGET
    assert not rig.cpu.halted


def test_interrupt_raised_by_out_comes_behind_it(rig: Rig) -> None:
    rig.protected("out dword")
    rig.regs.rflags = 0x202
    rig.port.on_write = lambda port, value: rig.interrupts.raise_()
    assert rig.run() is Exit.HALT
    assert rig.events == [(0x40, 0x100B)]


@pytest.mark.parametrize("name", ["store to device in mid-block", "increment device"])
def test_interrupt_raised_by_mmio_does_not_repeat_the_store(rig: Rig, name: str) -> None:
    device = Device(rig)
    device.on_write = rig.interrupts.raise_
    rig.protected(name, handler="cf")
    assert rig.run() is Exit.HALT
    assert len(device.writes) == 1
    assert [vector for vector, _ in rig.events] == [0x40]
    assert rig.events[0][1] > 0x1003


def test_mmio_device_may_end_the_run(rig: Rig) -> None:
    device = Device(rig)
    device.on_write = rig.cpu.leave
    rig.protected("increment device")
    assert rig.run() is Exit.LEFT
    assert rig.regs.rip == 0x1009
    assert rig.run() is Exit.HALT
    assert device.writes == [8]


def test_masked_interrupt_waits(rig: Rig) -> None:
    rig.protected("count to 20")
    rig.interrupts.raise_()
    assert rig.run() is Exit.HALT
    assert rig.events == []
    assert rig.run() is Exit.HALT


def test_withdrawn_interrupt_never_comes(rig: Rig) -> None:
    rig.protected("sti shadow")
    rig.interrupts.raise_()
    rig.interrupts.waiting = 0
    rig.cpu.set_intr(False)
    assert rig.run() is Exit.HALT
    assert rig.events == []


def test_the_source_is_acknowledged_and_not_asked_again(rig: Rig) -> None:
    rig.protected("sti shadow", handler="cf")
    asked = []
    rig.interrupts.pending = lambda: asked.append(1) or False
    rig.interrupts.raise_(2)
    rig.run()
    assert [vector for vector, _ in rig.events] == [0x40, 0x40]
    assert rig.interrupts.waiting == 0
    assert asked == []


@pytest.mark.parametrize("waiting", [0, 1], ids=["down", "up"])
def test_an_init_leaves_intr_as_it_is_driven(rig: Rig, waiting: int) -> None:
    rig.protected("sti shadow", handler="cf")
    rig.interrupts.raise_(waiting)
    rig.cpu.init()
    assert rig.cpu.can_wake is False
    rig.regs.rflags |= 0x200
    assert rig.cpu.can_wake is bool(waiting)


def test_endless_interrupts_end_with_the_budget(rig: Rig) -> None:
    rig.protected("spin")
    trap_gate = 0x2000 | 0x08 << 16 | 0xEF00 << 32  # leaves IF set: no instruction ever runs
    rig.put(0x3000 + 8 * 0x40, trap_gate.to_bytes(8, "little"))
    rig.regs.rflags = 0x202
    rig.interrupts.raise_(10**9)
    assert rig.run(100) is Exit.BUDGET
    assert 100 <= rig.cpu.executed <= 101
    assert rig.run(100) is Exit.BUDGET


def test_nmi_is_blocked_until_iret(rig: Rig) -> None:
    rig.protected("nmi twice", handler="9090cf")
    rig.cpu.nmi()
    assert rig.run(2) is Exit.BUDGET
    rig.cpu.nmi()  # the first is being served
    assert rig.run() is Exit.HALT
    first, second = rig.cpu.record.recent
    assert (first.event.vector, first.event.source) == (2, Source.EXTERNAL)
    assert (first.rip, second.rip) == (0x1000, 0x1000)
    assert second.instruction > first.instruction + 2


def test_nmi_wakes_from_hlt_with_interrupts_off(rig: Rig) -> None:
    rig.protected("sti hlt")
    rig.regs.rip = 0x1001
    assert rig.run() is Exit.HALT
    rig.cpu.nmi()
    assert rig.cpu.can_wake
    rig.run()
    assert rig.events == [(2, 0x1002)]


# --- Page faults ---------------------------------------------------------------------------------

BAD = 0x1_0000
CROSSING = [
    # name, ESI, CR2: where the instruction meets the page first
    ("read dword", BAD, BAD),
    ("read dword", BAD + 0x123, BAD + 0x123),
    ("read dword", BAD - 2, BAD),
    ("write dword", BAD + 0x7F, BAD + 0x7F),
    ("write dword", BAD - 3, BAD),
    ("read-modify-write", BAD - 1, BAD),
    ("push", BAD + 0x20, BAD + 0x1C),
    ("push", BAD + 2, BAD),
    ("pop", BAD + 0x20, BAD + 0x20),
    ("pop", BAD - 1, BAD),
    ("call", BAD + 8, BAD + 4),
    ("movs source", BAD + 0x40, BAD + 0x40),
    ("movs target", BAD + 0x44, BAD + 0x44),
    ("sse", BAD + 0x30, BAD + 0x30),
    ("sse", BAD - 8, BAD),
    ("cmpxchg8b", BAD + 0x18, BAD + 0x18),
    ("fld", BAD + 0x10, BAD + 0x10),
    ("far load", BAD + 0x2C, BAD + 0x2C),
    ("far load", BAD - 4, BAD),
    ("jump", BAD + 0x555, BAD + 0x555),
]


@pytest.mark.parametrize(
    ("name", "esi", "cr2"), CROSSING, ids=[f"{n} at page{e - BAD:+#x}" for n, e, _ in CROSSING]
)
def test_cr2_is_exact_and_nothing_is_done(rig: Rig, name: str, esi: int, cr2: int) -> None:
    (rig.user if name in ("push", "pop", "call") else rig.protected)(name)
    rig.regs.cr4 |= 0x200  # OSFXSR
    rig.regs.rsi = esi
    rig.mmu.faults[BAD >> 12] = 0
    before = rig.memory.read_block(BAD - 0x1000, 0x3000)
    assert rig.run() is Exit.HALT
    assert [past.event.vector for past in rig.cpu.record.recent][:1] == [PF]
    assert rig.regs.cr2 == cr2
    assert rig.memory.read_block(BAD - 0x1000, 0x3000) == before


def test_instruction_over_two_pages_faults_on_the_second(rig: Rig) -> None:
    rig.protected("jump")
    rig.put(BAD - 2, bytes.fromhex("a100500000"))
    rig.regs.rsi = BAD - 2
    rig.mmu.faults[BAD >> 12] = 0
    rig.run()
    assert rig.events == [(PF, BAD - 2)]
    assert rig.regs.cr2 == BAD


def test_fault_is_retried_after_the_handler(rig: Rig) -> None:
    # mov dword ptr [0x6000], 1 ... the handler writes to the port, whose device repairs the page
    rig.protected("read dword", handler="6052ba00050000ee5a61" + "83c404" + "cf")
    rig.put(0x1_0000, b"\x78\x56\x34\x12")
    rig.regs.rsi = BAD
    rig.mmu.faults[BAD >> 12] = 0
    rig.port.on_write = lambda port, value: rig.mmu.faults.clear()
    assert rig.run() is Exit.HALT
    assert rig.regs.rax == 0x12345678
    assert len(rig.cpu.record.recent) == 1


def test_endless_fetch_faults_end_with_the_budget(rig: Rig) -> None:
    rig.protected("jump")
    rig.regs.rsi = 0x2000
    rig.mmu.faults[2] = 0  # the handler's own page
    assert rig.run(100) is Exit.BUDGET
    assert rig.cpu.executed == 100


@pytest.mark.parametrize(
    ("name", "vector"),
    [
        pytest.param("load far", GP, id="data: #GP"),
        pytest.param("push far", SS, id="push: #SS"),
        pytest.param("load by rbp", SS, id="through RBP: #SS"),
    ],
)
def test_non_canonical_addresses(rig: Rig, name: str, vector: int) -> None:
    rig.long(name)
    rig.regs.rsi = 0x8000_0000_1000
    rig.run()
    first = rig.cpu.record.recent[0].event
    assert (first.vector, first.error_code) == (vector, 0)


def test_jump_to_a_non_canonical_address(rig: Rig) -> None:
    rig.long("load far")
    rig.regs.rip = 0x8000_0000_0000
    rig.run()
    assert rig.events == [(GP, 0x8000_0000_0000)]


def test_descriptor_read_at_cpl_3_is_a_supervisor_access(rig: Rig) -> None:
    rig.user("mov ds")
    rig.regs.rax = 0x23
    table = 4

    plain = rig.mmu.answer

    def supervisor_only(cpu, gva, access):
        if gva >> 12 == table and access & 4:
            rig.mmu.faults[table] = 1
            try:
                return plain(cpu, gva, access)
            finally:
                del rig.mmu.faults[table]
        return plain(cpu, gva, access)

    rig.mmu.answer = supervisor_only
    rig.run()
    assert rig.events == [(0x40, 0x1006)]
    assert (table << 12 | 0x20 & ~0xFFF, ACCESS_IMPLICIT) in [
        (gva & ~0xFFF, access) for gva, access in rig.mmu.seen
    ]


# --- Exceptions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "vector", "rip"),
    [
        pytest.param("ud2", UD, 0x1001, id="fault: RIP on it"),
        pytest.param("icebp", DB, 0x1002, id="INT1"),
        pytest.param("int3", 3, 0x1002, id="INT3"),
        pytest.param("int 3", 3, 0x1003, id="INT 3"),
        pytest.param("into", 4, 0x1005, id="INTO"),
        pytest.param("div", DE, 0x1002, id="#DE"),
    ],
)
def test_exception_and_return_address(rig: Rig, name: str, vector: int, rip: int) -> None:
    rig.protected(name)
    assert rig.run() is Exit.HALT
    assert rig.cpu.record.recent[0].event.vector == vector
    pushed = rig.memory.read(rig.regs.rsp, 4)
    assert pushed == rip


def test_the_same_exception_twice_is_no_double_fault(rig: Rig) -> None:
    rig.protected("div", handler="cf")
    rig.run(20)
    assert {vector for vector, _ in rig.events} == {DE}


def test_single_step_traps_behind_each_instruction(rig: Rig) -> None:
    rig.protected("single step", handler="cf")
    assert rig.run() is Exit.BUDGET  # the last of them ends the HLT
    assert [rip for _, rip in rig.events] == [0x1007, 0x1008, 0x1009]
    assert rig.regs.dr6 & 1 << 14


def test_int_n_faulting_leaves_rip_on_it(rig: Rig) -> None:
    rig.user("mov ds")
    rig.regs.rax = 0x23
    gate = 0x2000 | 0x08 << 16 | 0x8E00 << 32  # DPL 0
    rig.put(0x3000 + 8 * 0x40, gate.to_bytes(8, "little"))
    rig.run()
    assert rig.events[-1][0] == GP
    assert rig.cpu.record.recent[-1].event.error_code == 0x202
    assert rig.memory.read(rig.regs.rsp + 4, 4) == 0x1004


def test_triple_fault_shuts_down(rig: Rig) -> None:
    rig.protected("ud2")
    rig.regs.idtr = rig.regs.idtr._replace(limit=0)
    assert rig.run() is Exit.SHUTDOWN
    assert [past.event.vector for past in rig.cpu.record.recent] == [UD, GP, 8, GP]
    assert rig.regs.rip == 0x1001
    assert rig.run() is Exit.SHUTDOWN


# --- Control registers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "faults"),
    [
        pytest.param("mov cr0", 0x8000_0000, True, id="PG without PE"),
        pytest.param("mov cr0", 0x2000_0011, True, id="NW without CD"),
        pytest.param("mov cr0", 0x6000_0011, False, id="CD and NW"),
        pytest.param("mov cr0", 0x8001_0011, False, id="PG and WP"),
        pytest.param("mov cr4", 1 << 13, True, id="VMXE: not there"),
        pytest.param("mov cr4", 1 << 17, True, id="PCIDE: not there"),
        pytest.param("mov cr4", 0x6F8, False, id="what every kernel sets"),
    ],
)
def test_control_register_checks(rig: Rig, name: str, value: int, faults: bool) -> None:
    rig.protected(name)
    rig.regs.rax = value
    before = (rig.regs.cr0, rig.regs.cr4)
    assert rig.run() is Exit.HALT
    assert [vector for vector, _ in rig.events] == ([GP] if faults else [])
    if faults:
        assert (rig.regs.cr0, rig.regs.cr4) == before
    else:
        assert value | 0x10 in (rig.regs.cr0, rig.regs.cr4 | 0x10)


@pytest.mark.parametrize(
    ("pdpte", "faults"), [(0x5001, False), (0x5000, False), (0x5003, True), (1 << 52 | 1, True)]
)
def test_cr3_load_checks_the_pdptes(rig: Rig, pdpte: int, faults: bool) -> None:
    rig.protected("mov cr3")
    rig.regs.cr0 |= 1 << 31
    rig.regs.cr4 = 0x20
    rig.put(0x6000, pdpte.to_bytes(8, "little") * 4)
    rig.regs.rax = 0x6000
    loads = len(rig.mmu.loads)
    assert rig.run() is Exit.HALT
    assert [vector for vector, _ in rig.events] == ([GP] if faults else [])
    assert rig.regs.cr3 == (0 if faults else 0x6000)
    assert len(rig.mmu.loads) == loads + (not faults)


def test_every_cr3_load_is_told(rig: Rig) -> None:
    rig.protected("mov cr3")
    loads = len(rig.mmu.loads)
    rig.run()
    assert len(rig.mmu.loads) == loads + 1


def test_clts_and_lmsw(rig: Rig) -> None:
    rig.protected("clts")
    rig.regs.cr0 |= 8
    rig.run()
    assert not rig.regs.cr0 & 8
    rig.protected("lmsw")
    rig.regs.rax = 0xE
    rig.run()
    assert rig.regs.cr0 & 0xF == 0xF
    assert rig.cpu.executed - rig.cpu.stalled == 4


@pytest.mark.parametrize("told", [True, False], ids=["told", "native"])
def test_invlpg_refills(told: bool) -> None:
    rig = Rig(flush_on_invlpg=told)
    rig.protected("invlpg")
    rig.mmu.seen.clear()
    assert rig.run() is Exit.HALT
    assert rig.mmu.invlpgs == ([0x5004] if told else [])
    assert [gva for gva, access in rig.mmu.seen if gva >> 12 == 5] == [0x5000, 0x5000]
    assert rig.cpu.executed == 5
    rig.close()


def test_invlpg_of_a_computed_address(rig: Rig) -> None:
    rig.protected("invlpg far")
    rig.regs.set_segment(4, 0x10, 0x1_0000, 0xFFFF_FFFF, 0xCF9300)
    rig.regs.rsi = 0x100
    rig.run()
    assert rig.mmu.invlpgs == [0x1_0410]


def test_cr8_is_the_task_priority(rig: Rig) -> None:
    rig.long("mov cr8")
    assert rig.run() is Exit.HALT
    assert (rig.regs.rax, rig.regs.cr8) == (5, 5)
    assert rig.cpu.stalled == 2 * TIMED_INSTRUCTION


# --- Time, CPUID, MSRs ---------------------------------------------------------------------------


def test_tsc_is_virtual_time(rig: Rig) -> None:
    rig.protected("rdtsc")
    rig.run()
    # Two instructions from one to the other, 10 ns each, and what the second RDTSC itself takes.
    assert rig.regs.rax == 20 + 500


@pytest.mark.parametrize(
    ("leaf", "register", "bit", "there"),
    [
        pytest.param(1, "rdx", 6, True, id="PAE"),
        pytest.param(1, "rdx", 1, False, id="no VME"),
        pytest.param(1, "rcx", 5, False, id="no VMX"),
        pytest.param(1, "rcx", 17, False, id="no PCID"),
        pytest.param(1, "rcx", 28, False, id="no AVX"),
        pytest.param(1, "rcx", 3, False, id="no MONITOR"),
        pytest.param(1, "rcx", 31, True, id="a hypervisor"),
        pytest.param(7, "rbx", 7, True, id="SMEP"),
        pytest.param(7, "rbx", 20, True, id="SMAP"),
        pytest.param(7, "rbx", 10, False, id="no INVPCID"),
        pytest.param(7, "rcx", 16, True, id="LA57"),
        pytest.param(0x8000_0001, "rdx", 20, True, id="NX"),
        pytest.param(0x8000_0001, "rcx", 2, False, id="no SVM"),
    ],
)
def test_cpuid_tells_the_truth(rig: Rig, leaf: int, register: str, bit: int, there: bool) -> None:
    rig.protected("cpuid")
    rig.regs.rax, rig.regs.rcx = leaf, 0
    rig.run()
    assert bool(getattr(rig.regs, register) >> bit & 1) is there


def leaf(rig: Rig, eax: int, ecx: int = 0) -> tuple[int, int, int, int]:
    """Execute CPUID."""
    rig.protected("cpuid")
    rig.regs.rax, rig.regs.rcx = eax, ecx
    assert rig.run() is Exit.HALT
    regs = rig.regs
    return regs.rax, regs.rbx, regs.rcx, regs.rdx


@pytest.mark.parametrize(("index", "cpus"), [(0, 1), (1, 2), (2, 3), (3, 4), (15, 16)])
def test_cpuid_leaves_agree_on_the_topology(index: int, cpus: int) -> None:
    """SDM 3A 8.9.3: as APIC IDs are taken to pieces by leaves 1 and 4, and by leaf 0xB."""
    rig = Rig(index=index, cpus=cpus)
    _, ebx, _, edx = leaf(rig, 1)
    caches = [leaf(rig, 4, n)[0] for n in range(3)]
    thread, core, end = (leaf(rig, 0xB, n) for n in range(3))
    rig.close()
    # One package of `cpus` cores, a thread each, each with caches of its own.
    assert bool(edx >> 28 & 1) is (cpus > 1)
    assert {eax >> 26 for eax in caches} == {cpus - 1}
    assert {eax >> 14 & 0xFFF for eax in caches} == {0}
    assert (thread[0], thread[1], thread[2] >> 8) == (0, 1, 1)
    assert (core[0], core[1], core[2] >> 8) == ((cpus - 1).bit_length(), cpus, 2)
    assert (end[1], end[2] >> 8) == (0, 0)
    assert thread[3] == core[3] == ebx >> 24 == index
    if cpus > 1:
        assert ebx >> 16 & 0xFF == cpus


def test_cpuid_caches_end(rig: Rig) -> None:
    assert [leaf(rig, 4, n)[0] & 0xFF for n in range(5)] == [0x21, 0x22, 0x43, 0, 0]


def test_tsc_is_invariant(rig: Rig) -> None:
    assert leaf(rig, 0x8000_0007) == (0, 0, 0, 1 << 8)


def test_physical_address_width_is_what_the_mmu_has(rig: Rig) -> None:
    rig.protected("cpuid")
    rig.regs.rax = 0x8000_0008
    rig.run()
    assert rig.regs.rax & 0xFF == rig.cpu.features.phys_bits


@pytest.mark.parametrize("name", ["rdmsr", "wrmsr"])
@pytest.mark.parametrize("index", [0x5, 0x1234_5678, 0xC000_0105, 0xC001_0114])
def test_unknown_msr_is_gp(rig: Rig, name: str, index: int) -> None:
    rig.protected(name)
    rig.regs.rcx = index
    rig.run()
    assert rig.events == [(GP, 0x1000)]


@pytest.mark.parametrize(
    ("index", "value", "faults"),
    [
        pytest.param(0xC000_0080, 1 << 12, True, id="EFER.SVME: not there"),
        pytest.param(0xC000_0080, 0x901, False, id="EFER: SCE, LME, NXE"),
        pytest.param(0xC000_0082, 1 << 60, True, id="LSTAR not canonical"),
        pytest.param(0x277, 0x02, True, id="PAT: reserved type"),
        pytest.param(0x277, 0x0007_0406_0007_0406, False, id="PAT: as at reset"),
    ],
)
def test_wrmsr_checks(rig: Rig, index: int, value: int, faults: bool) -> None:
    rig.protected("wrmsr")
    rig.regs.rcx, rig.regs.rax, rig.regs.rdx = index, value & 0xFFFF_FFFF, value >> 32
    rig.run()
    assert [vector for vector, _ in rig.events] == ([GP] if faults else [])
    if not faults:
        assert rig.cpu.msrs.read(index) == value


@pytest.mark.parametrize(
    ("index", "value", "faults"),
    [
        pytest.param(0xFE, 0x508, True, id="MTRRCAP is read-only"),
        pytest.param(0x2FF, 0xC06, False, id="DEF_TYPE: enabled, write-back"),
        pytest.param(0x2FF, 0x802, True, id="DEF_TYPE: type 2"),
        pytest.param(0x2FF, 0x1006, True, id="DEF_TYPE: bit 12"),
        pytest.param(0x200, 0xFF_FFFF_F006, False, id="PHYSBASE0"),
        pytest.param(0x200, 0x7, True, id="PHYSBASE0: UC- is no type here"),
        pytest.param(0x20E, 0x100, True, id="PHYSBASE7: bit 8"),
        pytest.param(0x200, 1 << 40, True, id="PHYSBASE0: above MAXPHYADDR"),
        pytest.param(0x201, 0xFF_FFFF_F800, False, id="PHYSMASK0"),
        pytest.param(0x201, 0x801, True, id="PHYSMASK0: bit 0"),
        pytest.param(0x20F, 1 << 40, True, id="PHYSMASK7: above MAXPHYADDR"),
        pytest.param(0x210, 0, True, id="PHYSBASE8"),
        pytest.param(0x250, 0x0606_0606_0605_0401, False, id="FIX64K"),
        pytest.param(0x26F, 0x0206_0606_0606_0606, True, id="FIX4K: type 2"),
        pytest.param(0x3A, 5, True, id="FEATURE_CONTROL is locked"),
    ],
)
def test_memory_types_are_checked(rig: Rig, index: int, value: int, faults: bool) -> None:
    before = None if index == 0x210 else rig.cpu.msrs.read(index)
    rig.protected("wrmsr")
    rig.regs.rcx, rig.regs.rax, rig.regs.rdx = index, value & 0xFFFF_FFFF, value >> 32
    rig.run()
    assert [vector for vector, _ in rig.events] == ([GP] if faults else [])
    if before is not None:
        assert rig.cpu.msrs.read(index) == (before if faults else value)


@pytest.mark.parametrize(
    ("feature", "index"),
    [
        ("tsc_adjust", 0x3B),
        ("apic", 0x1B),
        ("tsc-deadline", 0x6E0),
        ("arch-capabilities", 0x10A),
        ("mtrr", 0x2FF),
        ("pat", 0x277),
        ("sep", 0x175),
        ("syscall", 0xC000_0081),
        ("rdtscp", 0xC000_0103),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_an_msr_goes_with_its_feature(feature: str, index: int, there: bool) -> None:
    rig = Rig(features={feature: there})
    rig.cpu.msrs.add(0x1B, lambda: 0, lambda value: None)  # as a local APIC does
    rig.cpu.msrs.add(0x6E0, lambda: 0, lambda value: None)
    rig.protected("rdmsr")
    rig.regs.rcx = index
    rig.run()
    assert [vector for vector, _ in rig.events] == ([] if there else [GP])
    rig.close()


def test_no_kernel_need_guard_against_meltdown(rig: Rig) -> None:
    """SDM 4 table 2-2, IA32_ARCH_CAPABILITIES: RDCL_NO."""
    assert rig.cpu.msrs.read(0x10A) & 1


@pytest.mark.parametrize("name", FEATURE_NAMES)
def test_every_feature_is_there_or_not_to_be_had(rig: Rig, name: str) -> None:
    assert rig.cpu.cpuid.has(name) is can_be_had(name)


@pytest.mark.parametrize("register", ["fs", "gs"])
@pytest.mark.parametrize("selector", [DATA0, 0], ids=["DPL 0", "null"])
@pytest.mark.parametrize("swaps", [False, True], ids=["base", "kernel base"])
def test_a_base_outlives_the_way_to_cpl_3(rig, register: str, selector: int, swaps: bool) -> None:
    """SDM 2A, IRET: of a segment that CPL 3 may not use only the selector becomes null."""
    rig.long("iretq to cpl 3")
    rig.put(0x1100, "0f0b")
    number = {"fs": 4, "gs": 5}[register]
    flags = 0xCF9300 if selector else 0
    rig.regs.set_segment(number, selector, 0x77 if swaps else 0, 0xFFFF_FFFF, flags)
    rig.regs.rcx = 0xC000_0102 if swaps else 0xC000_00FC + number
    rig.regs.rdx, rig.regs.rax = 0x1234, 0x5678_9ABC
    assert rig.run() is Exit.HALT
    assert rig.events == [(UD, 0x1100)]
    base = getattr(rig.regs, register).base
    assert base == (0x77 if swaps else 0x1234_5678_9ABC)


def test_pushf_in_real_mode_has_no_rf(rig: Rig) -> None:
    rig.real(CODE["pushf"].hex())
    rig.regs.rflags = 0x1_0203
    rig.run()
    assert rig.regs.rax & 0xFFFF == 0x203
    assert rig.regs.rsp == 0x8000


# --- System calls --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "length"), [("syscall", 2), ("wide syscall", 3)])
def test_syscall(rig: Rig, name: str, length: int) -> None:
    rig.long(name)
    rig.regs.rflags = 0x303 | 1 << 10
    msrs = rig.cpu.msrs
    msrs.write(0xC000_0081, 0x0038_0038 << 32)
    msrs.write(0xC000_0082, 0x2000)
    msrs.write(0xC000_0084, 0x600)
    rig.regs.rflags &= ~0x100
    assert rig.run() is Exit.HALT
    regs = rig.regs
    assert (regs.rcx, regs.r11, regs.rip) == (0x1000 + length, 0x603, 0x2001)
    assert regs.rflags & 0x600 == 0
    assert (regs.cs.selector, regs.ss.selector, regs.cpl) == (0x38, 0x40, 0)


def test_syscall_is_undefined_without_sce(rig: Rig) -> None:
    rig.long("syscall")
    rig.regs.efer &= ~1
    rig.run()
    assert rig.events == [(UD, 0x1000)]


def test_sysenter(rig: Rig) -> None:
    rig.user("sysenter")
    for index, value in ((0x174, 0x08), (0x175, 0x7000), (0x176, 0x2000)):
        rig.cpu.msrs.write(index, value)
    assert rig.run() is Exit.HALT
    assert (rig.regs.cpl, rig.regs.rsp, rig.regs.rip) == (0, 0x7000, 0x2001)


def test_sysenter_without_a_code_segment_is_gp(rig: Rig) -> None:
    rig.user("sysenter")
    rig.run()
    assert rig.events == [(GP, 0x1000)]


# --- I/O permission ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("iopl", "bitmap", "limit", "allowed"),
    [
        pytest.param(3, 0xFF, 0x167, True, id="IOPL 3"),
        pytest.param(0, 0x00, 0x167, True, id="bit clear"),
        pytest.param(0, 0x01, 0x167, False, id="bit set"),
        pytest.param(0, 0x02, 0x167, True, id="another bit"),
        pytest.param(0, 0x00, 0x67, False, id="bitmap outside the TSS"),
    ],
)
def test_port_permission(rig: Rig, iopl: int, bitmap: int, limit: int, allowed: bool) -> None:
    rig.user("cpl 3")
    rig.put(0x4866, (0x68).to_bytes(2, "little") + b"\xff" * 0x100)
    rig.put(0x4868 + 0x500 // 8, bytes((bitmap,)))
    rig.put(0x4868 + 0x500 // 8 + 1, b"\0")
    rig.regs.tr = rig.regs.tr._replace(limit=limit)
    rig.regs.rflags = 2 | iopl << 12
    rig.regs.rax, rig.regs.rdx = 0x1122_3344, 0x500
    rig.run()
    expected = (GP, 0x1002) if allowed else (GP, 0x1000)  # HLT is #GP at CPL 3
    assert rig.events == [expected]
    assert rig.regs.rax == (0x1122_335A if allowed else 0x1122_3344)


def test_refused_output_does_not_reach_the_device(rig: Rig) -> None:
    rig.user("outs")
    rig.put(0x7000, b"abc")
    rig.run()
    assert rig.port.written == []
    assert rig.events[0][0] == GP
    assert (rig.regs.rsi, rig.regs.rcx) == (0x7000, 3)


def test_string_output(rig: Rig) -> None:
    rig.protected("outs")
    rig.put(0x7000, b"abc")
    assert rig.run() is Exit.HALT
    assert bytes(rig.port.values) == b"abc"


# --- INIT and SIPI -------------------------------------------------------------------------------


def test_init_waits_for_a_sipi() -> None:
    rig = Rig(index=1, cpus=2)
    rig.protected("spin")
    rig.cpu.init()
    assert rig.run() is Exit.HALT
    rig.interrupts.raise_()
    rig.cpu.nmi()
    assert not rig.cpu.can_wake
    rig.put(0x7000, CODE["out bytes"])
    rig.cpu.set_intr(False)
    rig.cpu.pins.withdraw(0x200)
    rig.cpu.sipi(7)
    assert (rig.regs.cs.selector, rig.regs.cs.base, rig.regs.rip) == (0x700, 0x7000, 0)
    assert rig.run() is Exit.HALT
    assert rig.port.values == [0x41, 0x42]
    rig.cpu.sipi(9)  # without INIT: nothing
    assert rig.regs.cs.selector == 0x700
    rig.close()


def test_init_by_its_own_hand_happens_behind_the_instruction() -> None:
    rig = Rig(index=1, cpus=2)
    rig.protected("out dword")
    rig.port.on_write = lambda port, value: rig.cpu.init()
    assert rig.run() is Exit.LEFT
    assert rig.cpu.waits_for_sipi
    assert rig.regs.cr0 == 0x10
    rig.close()


# fninit; push 0x27f; fldcw [esp]; fld1; fchs; push 0x1f00; ldmxcsr [esp]; movd xmm3, esp; hlt
SETS_FPU = "dbe3 687f020000 d92c24 d9e8 d9e0 68001f0000 0fae1424 660f6edc f4"
# sub esp,0x200; and esp,-16; fxsave [esp]; hlt
SAVES_FPU = "81ec00020000 83e4f0 0fae0424 f4"


def saved_fpu(rig: Rig) -> bytes:
    """Execute FXSAVE, and no more: control and status words, MXCSR, ST0 and XMM3."""
    rig.put(0x1000, SAVES_FPU)
    regs = rig.regs
    regs.cr0 |= 1
    for number in range(6):
        flags = 0xCF9B00 if number == 1 else 0xCF9300
        regs.set_segment(number, CODE0 if number == 1 else DATA0, 0, 0xFFFF_FFFF, flags)
    regs.cr4 = 0x200
    regs.rip, regs.rsp = 0x1000, 0x8000
    rig.cpu.halted = rig.cpu.waits_for_sipi = False
    assert rig.run() is Exit.HALT
    image = rig.memory.read_block(regs.rsp, 0x200)
    return image[:4] + image[24:28] + image[32:42] + image[208:224]


def test_init_keeps_the_fpu_and_the_cache_bits_of_cr0() -> None:
    """SDM 3A table 9-1."""
    rig = Rig(index=1, cpus=2)
    rig.flat32(SETS_FPU)
    rig.regs.cr4 = 0x200
    assert rig.run() is Exit.HALT
    before = saved_fpu(rig)
    assert before[:2] == b"\x7f\x02"
    assert before[4:8] == b"\x00\x1f\0\0"
    for bits in (0, 1 << 30, 3 << 29):
        rig.regs.cr0 = 0x33 | bits
        rig.cpu.init()
        assert rig.regs.cr0 == 0x10 | bits
        assert saved_fpu(rig) == before
    rig.cpu.reset()
    assert rig.regs.cr0 == 0x6000_0010
    assert saved_fpu(rig)[:8] == b"\x40\0\0\0\x80\x1f\0\0"
    rig.close()
