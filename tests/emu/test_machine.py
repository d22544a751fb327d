# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine as a library: runs, endings, the debugger's view, and hostile kernels."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from emu.board import BoardOptions
from emu.boot import Boot
from emu.cpu import raw
from emu.devices.disk import Disk
from emu.errors import KernelError, UsageError
from emu.machine import Machine
from emu.outcome import Kind
from guests import load

FLAT = {"format": "flat32", "address": 0x10_0000, "memory": 4 << 20}
MMUS = ["shadow", "uncached", "native"]


def machine(code: str, **options) -> Machine:
    """A flat 32-bit kernel of these hex bytes at 1 MiB, interrupts off, empty IDT."""
    return Machine(bytes.fromhex(code), **{**FLAT, **options})


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("jit", ["off", "auto"])
def test_hello(mmu: str, jit: str) -> None:
    guest = load("hello")
    with Machine(guest.path, mmu=mmu, jit=jit) as m:
        outcome = m.run(timeout=60)
        assert (outcome.kind, outcome.exit_code) == (Kind.GUEST_EXIT, guest.exit_code)
        assert m.serial.text == guest.expected


@pytest.mark.parametrize("jit", ["off", "auto"])
def test_two_runs_are_the_same_instruction_for_instruction(jit: str) -> None:
    seen = set()
    for _ in range(2):
        with Machine(load("ring3").path, jit=jit) as m:
            outcome = m.run(timeout=60)
            seen.add((outcome.instructions, m.clock.now, m.regs.rsp, m.regs.rip))
    assert len(seen) == 1


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize(
    "code",
    [
        pytest.param("ebfe", id="jump to itself"),
        pytest.param("e4 80 ebfc", id="IN for ever"),
        # mov [esp...] of a stack in nowhere, then faults for ever need an IDT: see below
        pytest.param("f3aa ebfc", id="rep stosb"),
        pytest.param("bf000000c0 b9ffffffff f3ab ebfe", id="rep stosd into a hole"),
        pytest.param("0fa2 ebfc", id="CPUID for ever"),
    ],
)
def test_timeout_is_met(mmu: str, code: str) -> None:
    with machine(code, mmu=mmu) as m:
        started = time.monotonic()
        outcome = m.run(timeout=0.3)
        assert (outcome.kind, outcome.exit_code) == (Kind.TIMEOUT, 124)
        assert time.monotonic() - started < 2  # 0.2 s on an idle machine


def test_timeout_is_met_by_a_transfer_into_all_of_a_large_ram() -> None:
    # fw_cfg: select and read 4 GiB to 16 MiB by the descriptor at 0x100040, and wait for its end
    descriptor = bytes.fromhex("0000000a ffffffff 0000000001000000")
    code = "b840001000 0fc8 66ba1805 ef 833d 40001000 00 75f7 ebfe"
    image = bytes.fromhex(code).ljust(0x40, b"\0") + descriptor
    with Machine(image, **{**FLAT, "memory": 3 << 30}) as m:
        started = time.monotonic()
        assert m.run(timeout=0.3).kind is Kind.TIMEOUT
        assert time.monotonic() - started < 1.5
        assert m.phys[0x10_0040] == 0


@pytest.mark.parametrize("jit", ["off", "auto"])
def test_endless_faults_time_out(jit: str) -> None:
    # An IDT whose gates lead to an address that cannot be executed: mov eax,0x100040; lidt [eax];
    # ud2. Each #UD (bytes of ones in a hole) pushes a frame and faults again.
    idtr = b"\xff\x07" + (0x11_0000).to_bytes(4, "little")
    gate = (0x0000 | 0x08 << 16 | 0x8E00 << 32 | 0xD000 << 48).to_bytes(8, "little")
    gdt = bytes(8) + bytes.fromhex("ffff0000009bcf00 ffff00000093cf00")
    gdtr = b"\x17\x00" + (0x10_0080).to_bytes(4, "little")
    code = bytes.fromhex("0f0115 60001000 0f011d 40001000 bc00003000 0f0b".replace(" ", ""))
    image = code.ljust(0x40, b"\x90") + idtr.ljust(0x20, b"\0") + gdtr.ljust(0x20, b"\0") + gdt
    with Machine(image, jit=jit, **FLAT) as m:
        m.phys[0x11_0000:0x11_0800] = gate * 256
        outcome = m.run(timeout=0.4)
        assert outcome.kind is Kind.TIMEOUT
        assert len(m.cpus[0].record.recent) == 8
        outcome = m.run(max_insns=1000)
        assert outcome.kind is Kind.INSN_LIMIT


@pytest.mark.parametrize("limit", [1, 7, 100_001])
def test_instruction_limit_is_exact(limit: int) -> None:
    with machine("ebfe", jit="off") as m:
        outcome = m.run(max_insns=limit)
        assert (outcome.kind, outcome.exit_code) == (Kind.INSN_LIMIT, 124)
        assert outcome.instructions == limit
        assert m.run(max_insns=5).instructions == 5


def test_debug_exit_and_power_off() -> None:
    with machine("b005 e6f4 ebfe") as m:  # mov al,5; out 0xf4,al
        outcome = m.run(timeout=20)
        assert (outcome.kind, outcome.guest_code, outcome.exit_code) == (Kind.GUEST_EXIT, 5, 11)
    with machine("66ba0406 66b80020 66ef ebfe") as m:  # mov dx,0x604; mov ax,0x2000; out dx,ax
        assert m.run(timeout=20).kind is Kind.POWER_OFF


# Sector 2 of the first disk by REP OUTSW, from 0x100100, and nothing read afterwards.
WRITE_SECTOR = (
    "66baf201 b001ee 42b002ee 42b000ee 42ee 42b0e0ee 42b030ee"
    "66baf001 be00011000 b900010000 fc f3666f"
)


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        pytest.param("b010 e6f4", Kind.GUEST_EXIT, id="debug exit"),
        pytest.param("66ba0406 66b80020 66ef", Kind.POWER_OFF, id="power-off"),
        pytest.param("66baf701 b0e7ee b010 e6f4", Kind.GUEST_EXIT, id="flush cache and exit"),
        pytest.param("faf4", Kind.IDLE, id="halted for good"),
    ],
)
def test_what_is_written_to_a_disk_is_in_its_image_however_the_run_ends(
    tmp_path, ending: str, kind: Kind
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(8 * 512))
    code = bytes.fromhex(WRITE_SECTOR + ending + "ebfe").ljust(0x100, b"\0") + b"kernel! " * 64
    with Machine(code, board=BoardOptions(disks={0: Disk(path)}), **FLAT) as m:
        assert m.run(timeout=20).kind is kind
    assert path.read_bytes() == bytes(1024) + b"kernel! " * 64 + bytes(5 * 512)


def test_halt_with_interrupts_off_is_idle() -> None:
    with machine("faf4") as m:
        outcome = m.run(timeout=20)
        assert (outcome.kind, outcome.exit_code) == (Kind.IDLE, 0)


@pytest.mark.parametrize("listeners", [(0,), (1,), (0, 1)], ids=str)
def test_any_processor_may_listen_to_the_8259s_and_the_first_has_the_interrupt(listeners) -> None:
    with machine("f4", cpus=2) as m:
        apics = m.board.local_apics
        for number, apic in enumerate(apics):
            apic.registers.write(0xF0, 4, 0x1FF)
            apic.registers.write(0x350, 4, 0x700 if number in listeners else 0x1_0700)
        m.board.pic.write(0x21, 1, 0)
        m.board.irq(4)(True)
        assert [apic.pending() for apic in apics] == [number in listeners for number in (0, 1)]
        assert apics[listeners[-1]].acknowledge() == 0x0C
        assert not any(apic.pending() for apic in apics)


IO_APIC, LOCAL_APIC = 0xFEC0_0000, 0xFEE0_0000


@pytest.mark.parametrize(
    ("writes", "kind"),
    [
        pytest.param([(IO_APIC, 0x14), (IO_APIC + 16, 0x400)], Kind.GUEST_EXIT, id="I/O APIC"),
        pytest.param([(LOCAL_APIC + 0x350, 0x400)], Kind.GUEST_EXIT, id="LINT0"),
        pytest.param([(IO_APIC, 0x14), (IO_APIC + 16, 0x1_0400)], Kind.IDLE, id="masked"),
        pytest.param([(IO_APIC, 0x14), (IO_APIC + 16, 0x30)], Kind.IDLE, id="not an NMI"),
    ],
)
def test_a_timer_as_nmi_ends_a_halt_with_interrupts_off(writes, kind: Kind) -> None:
    # lgdt; lidt; mov esp,0x300000; mov al,0xfe; out 0x21,al; cli; hlt, and the handler at 0x100030
    idtr = b"\xff\x07" + (0x11_0000).to_bytes(4, "little")
    gdtr = b"\x17\x00" + (0x10_0060).to_bytes(4, "little")
    gdt = bytes(8) + bytes.fromhex("ffff0000009bcf00 ffff00000093cf00")
    code = bytes.fromhex("0f0115 50001000 0f011d 40001000 bc00003000 b0fe e621 fa f4 ebfe")
    nmi = bytes.fromhex("b010 e6f4 f4")
    image = code.ljust(0x30, b"\x90") + nmi.ljust(0x10, b"\x90")
    image += idtr.ljust(0x10, b"\0") + gdtr.ljust(0x10, b"\0") + gdt
    with Machine(image, **FLAT) as m:
        m.phys[0x11_0010:0x11_0018] = (0x10_8E00_0008_0030).to_bytes(8, "little")
        m.board.local_apics[0].registers.write(0xF0, 4, 0x1FF)
        for gpa, value in writes:
            m.guest_memory.write(gpa, 4, value, "debugger")
        assert m.run(timeout=20).kind is kind


def test_pit_wakes_a_halted_processor_in_virtual_time() -> None:
    # sti; hlt with the PIT as the firmware left it and an empty IDT: the tick is a triple fault.
    with machine("b0fe e621 fb f4 ebfd") as m:
        outcome = m.run(timeout=20)
        assert outcome.kind is Kind.TRIPLE_FAULT
        assert 50_000_000 < m.clock.now < 60_000_000  # 18.2 Hz
        assert outcome.seconds < 10


def test_triple_fault_report() -> None:
    with machine("8b0425 00000000 0f0b".replace(" ", "") + "90") as m:
        outcome = m.run(timeout=20)
    assert (outcome.kind, outcome.exit_code, outcome.cpu) == (Kind.TRIPLE_FAULT, 4, 0)
    for part in ("vCPU 0", "#UD", "#GP", "#DF", "rip", "cr0", "ud2", "instruction"):
        assert part in outcome.report


def test_triple_fault_report_walks_cr2() -> None:
    # mov eax,cr0; or eax,0x80000000; mov cr0,eax with CR3 = 0x200000 whose directory is empty.
    with machine("0f20c0 0d00000080 b900002000 0f22d9 0f22c0 90") as m:
        outcome = m.run(timeout=20)
    assert outcome.kind is Kind.TRIPLE_FAULT
    assert "Walk of CR2" in outcome.report
    assert "level 2 PDE" in outcome.report


def test_jump_to_nowhere_ends_in_a_report() -> None:
    with machine("ea 000000d0 0800") as m:
        assert m.run(timeout=20).kind is Kind.TRIPLE_FAULT


def test_internal_failure_is_an_outcome() -> None:
    class Broken:
        def read(self, port, size):
            raise RuntimeError("broken chip")

        write = read

    options = BoardOptions(extra=[lambda board: board.ports.add(0x300, 0x300, Broken())])
    with machine("66ba0003 ec ebfe", board=options) as m:
        outcome = m.run(timeout=20)
    assert (outcome.kind, outcome.exit_code) == (Kind.INTERNAL, 6)
    assert "broken chip" in outcome.report


# --- The debugger's view -------------------------------------------------------------------------


def test_physical_and_virtual_memory() -> None:
    with machine("a100002000 f4") as m:
        m.phys[0x20_0000:0x20_0004] = b"\x01\x02\x03\x04"
        m.memory[0x20_0001] = 0xFF
        assert m.phys[0x20_0001] == 0xFF
        assert m.memory[0x20_0000:0x20_0004] == b"\x01\xff\x03\x04"
        m.run(timeout=20)
        assert m.regs.rax == 0x0403_FF01
        assert m.phys[0xC000_0000] == 0xFF  # a hole


def test_views_refuse_nonsense() -> None:
    with machine("f4") as m:
        for key in (slice(0, 8, 2), slice(None, 4), slice(8, 4)):
            with pytest.raises(IndexError):
                m.phys[key]
        with pytest.raises(ValueError, match="4 bytes"):
            m.phys[0:4] = b"123"
        with pytest.raises(ValueError, match="byte"):
            m.memory[0] = 256


def test_debugger_reads_leave_no_trace() -> None:
    with Machine(load("ring3").path, jit="off") as m:
        m.run(max_insns=20_000)
        before = (m.phys[0x10_0000:0x40_0000], m.mmu.counters.as_dict(), m.regs.read_all())
        for gva in (0, 0x10_0000, 0x4000_0000, 0xFFFF_F000):
            m.walk(gva)
            with suppress(LookupError):
                m.memory[gva : gva + 64]
        after = (m.phys[0x10_0000:0x40_0000], m.mmu.counters.as_dict(), m.regs.read_all())
    assert after == before


def test_code_written_by_the_debugger_runs() -> None:
    with machine("90ebfd", jit="off") as m:  # nop; jmp to it
        m.run(max_insns=100)
        m.memory[0x10_0000] = 0xF4
        assert m.run(timeout=20).kind is Kind.IDLE


# --- Bad arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        pytest.param({"memory": 4096}, UsageError, id="too little memory"),
        pytest.param({"memory": 1 << 50}, UsageError, id="too much memory"),
        pytest.param({"mmu": "imaginary"}, UsageError, id="no such MMU"),
        pytest.param({"mmu": "os:nothing"}, UsageError, id="no such class"),
        pytest.param({"cpus": 0}, UsageError, id="no vCPU"),
        pytest.param({"cpus": 17}, UsageError, id="too many vCPUs"),
        pytest.param({"cpu_features": {"flying": True}}, UsageError, id="no such feature"),
        pytest.param({"cpu_features": {"avx": True}}, UsageError, id="a feature not to be had"),
        pytest.param({"shadow_pages": 1}, UsageError, id="pool too small"),
        pytest.param({"kernel": b""}, KernelError, id="empty kernel"),
        pytest.param({"kernel": "/nowhere/at/all"}, KernelError, id="no such file"),
    ],
)
def test_bad_arguments(options, error) -> None:
    options = {"kernel": load("hello").path, **options}
    with pytest.raises(error) as caught:
        Machine(**options)
    assert "\n" not in str(caught.value)


def test_a_host_without_the_memory_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmu.memory.mmap.mmap", refuse)
    with pytest.raises(UsageError, match=r"-m 102400M .*: Cannot allocate memory"):
        Machine(load("hello").path, memory=100 << 30)


def test_a_plug_in_of_another_signature_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="cannot be made as an MMU plug-in"):
        Machine(load("hello").path, mmu="tests.emu.test_machine:OddMmu")


class OddMmu:
    """It has all the methods of a plug-in, and a constructor of its own."""

    def __init__(self) -> None:
        pass

    load = translate = invlpg = flushed = written = remapped = check = __init__


def test_there_need_be_no_hpet() -> None:
    for there in (True, False):
        with machine("f4", board=BoardOptions(hpet=there)) as m:
            assert (m.guest_memory.slot_at(0xFED0_0000) is not None) == there
            assert (b"HPET" in m.phys[0x3E_0000:0x40_0000]) == there


def test_machine_without_a_kernel_stands_at_the_reset_vector() -> None:
    with Machine(memory=2 << 20) as m:
        assert m.boot is None or isinstance(m.boot, Boot)
        assert m.regs.cs.base + m.regs.rip == 0xFFFF_FFF0


# --- Speed that is built in ----------------------------------------------------------------------


def test_a_default_run_hooks_no_code_and_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Either would slow every instruction; blocks are counted by compiled code alone."""
    kinds = []
    add_hook = raw.add_hook

    def spy(handle, kind, *args, **options):
        first, last = options.get("within", (1, 0))
        if kind != raw.HOOK_CODE or first != last:  # one address costs the others nothing
            kinds.append((kind, args[0] if args else None))
        return add_hook(handle, kind, *args, **options)

    monkeypatch.setattr(raw, "add_hook", spy)
    with Machine(load("hello").path) as m:
        m.run(timeout=60)
    allowed = {raw.HOOK_TLB_FILL, raw.HOOK_INTR, raw.HOOK_INSN, raw.HOOK_INSN_INVALID}
    allowed.add(raw.HOOK_EDGE_GENERATED)  # when a block is translated
    for kind, callback in kinds:
        assert kind in allowed or (kind == raw.HOOK_BLOCK and isinstance(callback, int))
