# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest's reset comes to: the end of the run, a fresh start, or going on at 0040:0067."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from emu.board import BoardOptions
from emu.devices.disk import Disk
from emu.machine import Machine
from emu.outcome import Kind
from guests import load

FLAT = {"format": "flat32", "address": 0x10_0000, "memory": 4 << 20}
COUNT = 0x2000  # how often the program has started, where no loader writes

# inc byte [COUNT]; cmp byte [COUNT], 3; jb over; mov al, 16; out 0xf4, al; over:
THREE_TIMES = "fe0500200000 803d0020000003 7204 b010e6f4"
WAYS = {
    "8042": "b0fe e664",
    "8042 output port": "b0d1 e664 b002 e660",
    "port 92": "b001 e692",
    "soft": "66baf90c b004 ee",
    "hard": "66baf90c b006 ee",
    "INIT": "c70510 03e0fe 00000000 c70500 03e0fe 00450400",  # ICR: to self
    "firmware's entry": "ea 60001000 1800",
}
SOFT = [name for name in WAYS if name != "hard"]


def program(way: str, before: str = "") -> bytes:
    """Count, then reset in a way; for that through FFFF:0 there is real mode at 0x60."""
    code = bytes.fromhex(THREE_TIMES + before + ("" if "entry" in way else WAYS[way]))
    if "entry" in way:
        # lgdt [0x100080]; ljmp 0x18:0x100060 | mov eax, cr0; and al, 0xfe; mov cr0, eax;
        # ljmp ffff:0, a far jump of 16 bits
        code += bytes.fromhex("0f0115 80001000 ea60001000 1800")
    code = (code + bytes.fromhex("faf4ebfd")).ljust(0x60, b"\x90")
    code += bytes.fromhex("0f20c0 24fe 0f22c0 ea0000ffff").ljust(0x20, b"\x90")
    gdtr = b"\x1f\x00" + (0x10_0090).to_bytes(4, "little")
    code16 = bytes.fromhex("ffff0000109b0000")
    gdt = bytes(8) + bytes.fromhex("ffff0000009bcf00 ffff00000093cf00")
    return code + gdtr.ljust(0x10, b"\0") + gdt + code16


def far_entry(code: bytes) -> bytes:
    """Make the 16-bit segment of `program` begin at 1 MiB: its code is at 0x60 in it."""
    return code.replace(b"\xea\x60\x00\x10\x00\x18\x00", b"\xea\x60\x00\x00\x00\x18\x00")


@pytest.mark.parametrize("way", WAYS)
def test_by_default_it_ends_the_run_with_a_code_of_its_own(way: str) -> None:
    with Machine(far_entry(program(way)), **FLAT) as m:
        outcome = m.run(timeout=20)
        assert (outcome.kind, outcome.exit_code) == (Kind.RESET, 8)
        assert m.phys[COUNT] == 1


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_with_reboot_the_kernel_starts_again_and_ram_keeps_what_it_holds(
    way: str, cpus: int
) -> None:
    with Machine(far_entry(program(way)), reboot=True, cpus=cpus, **FLAT) as m:
        outcome = m.run(timeout=20)
        assert (outcome.kind, outcome.guest_code) == (Kind.GUEST_EXIT, 0x10)
        assert m.phys[COUNT] == 3
        assert m.resets == 2


@pytest.mark.parametrize("mmu", ["shadow", "uncached", "native"])
def test_a_whole_guest_runs_again(mmu: str) -> None:
    guest = load("smp_boot")
    with Machine(guest.path, mmu=mmu, cpus=4) as m:
        assert m.run(timeout=60).exit_code == guest.exit_code
        first = m.serial.text
        m.reset()
        assert m.run(timeout=60).exit_code == guest.exit_code
        assert m.serial.text == 2 * first


def test_bss_above_1_mib_is_zero_again() -> None:
    # A multiboot kernel with its addresses in the header: text at 1 MiB, bss to 0x101000.
    header = [0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000) & 0xFFFFFFFF]
    header += [0x10_0000, 0x10_0000, 0, 0x10_1000, 0x10_0020]
    text = b"".join(word.to_bytes(4, "little") for word in header)
    # mov al, [0x100800]; mov byte [0x100800], 5; cmp byte [COUNT], 1 as above
    code = bytes.fromhex("a000081000 c6050008100005 fe0500200000 803d0020000002 7202 e6f4 b0fee664")
    with Machine(text + code, reboot=True, memory=4 << 20) as m:
        outcome = m.run(timeout=20)
        assert (outcome.guest_code, m.resets) == (0, 1)


def states(m: Machine) -> list[object]:
    """Return the state of the chips that a kernel sets up, without what is on their inputs."""
    board = m.board
    pics = [replace(chip.state, lines=0) for chip in (board.pic.master, board.pic.slave)]
    chips = [chip.state for chip in (board.local_apics[0], board.hpet, board.ps2, board.screen)]
    return [*pics, replace(board.ioapic.state, lines=0), *chips, board.system_a.value]


def test_what_the_guest_did_to_chips_and_processor_is_undone() -> None:
    # mov ecx, 0x175; mov eax, 0x1234; wrmsr; both 8259s masked, port 92 all ones, a screen start
    before = "b975010000 b834120000 31d2 0f30 b0ff e621 e6a1 66bad403 66b80c77 66ef"
    fresh = Machine(**FLAT | {"kernel": program("hard", before)})
    with fresh, Machine(program("hard", before), **FLAT) as m:
        m.board.ioapic.state.entries[4] = 0x30
        m.board.local_apics[0].registers.write(0xF0, 4, 0x1FF)
        m.run(timeout=20)
        assert m.cpus[0].msrs.read(0x175) == 0x1234
        assert states(m) != states(fresh)
        m.reset()
        assert states(m) == states(fresh)
        assert m.cpus[0].msrs.read(0x175) == 0
        assert m.cpus[0].msrs.tsc() == 0
        assert m.regs.read_all() == fresh.regs.read_all()


@pytest.mark.parametrize("feature", ["mtrr", "sep", "syscall", "rdtscp", "lm"])
def test_a_processor_without_some_msrs_starts_again(feature: str) -> None:
    with Machine(program("hard"), reboot=True, cpu_features={feature: False}, **FLAT) as m:
        assert m.run(timeout=20).guest_code == 0x10


def test_a_watched_page_is_watched_no_more() -> None:
    # mov eax, COUNT; mov dr0, eax; mov eax, 0x10002; mov dr7, eax: #DB without an IDT, if it lasts
    before = "b800200000 0f23c0 b802000100 0f23f8"
    with Machine(program("hard", before), reboot=True, **FLAT) as m:
        assert m.run(timeout=20).guest_code == 0x10


# --- The shutdown byte ----------------------------------------------------------------------------


def resuming(way: str, code: int) -> bytes:
    """Ask for 0040:0067 to be jumped through, with real-mode code at 0x1000 that exits with 5."""
    before = f"b00f e670 b0{code:02x} e671 c705 67040000 00000001"
    return far_entry(program(way, before))


@pytest.mark.parametrize("code", [0x05, 0x0A])
@pytest.mark.parametrize("way", SOFT)
def test_a_shutdown_code_leads_on_through_0040_0067(way: str, code: int) -> None:
    with Machine(resuming(way, code), cpus=2, **FLAT) as m:
        m.phys[0x1000:0x1006] = bytes.fromhex("b005 e6f4 ebfe")
        m.phys[0:0x400] = bytes(0x400)  # the firmware needs no interrupt vectors
        m.board.pic.write(0x21, 1, 0x5A)
        outcome = m.run(timeout=20)
        assert (outcome.kind, outcome.guest_code) == (Kind.GUEST_EXIT, 5)
        assert m.board.pic.read(0x21, 1) == 0x5A  # a processor was reset, no chip
        assert m.board.cmos.shutdown_code == 0
        assert m.resets == 0


def test_a_hard_reset_does_not_ask_for_the_shutdown_code() -> None:
    with Machine(resuming("hard", 0x0A), **FLAT) as m:
        assert m.run(timeout=20).kind is Kind.RESET


def test_shutdown_code_5_ends_an_interrupt_in_service() -> None:
    # A request is taken by polling the master 8259, before the reset.
    for code, in_service in ((0x05, 0), (0x0A, 1)):
        with Machine(resuming("8042", code), **FLAT) as m:
            m.phys[0x1000:0x1006] = bytes.fromhex("b005 e6f4 ebfe")
            m.board.pic.line(0)(True)
            m.board.pic.acknowledge()
            m.run(timeout=20)
            assert m.board.pic.master.state.isr == in_service


# --- Disks ----------------------------------------------------------------------------------------


def boot_sector(code: str) -> bytes:
    return bytes.fromhex(code).ljust(510, b"\0") + b"\x55\xaa"


def test_a_boot_sector_is_read_again_from_its_disk(tmp_path) -> None:
    # mov ax, 0x0301; mov bx, 0x7e00; mov cx, 1; mov dx, 0x80; int 13h; mov al, 0xfe; out 0x64, al
    first = boot_sector("b80103 bb007e b90100 ba8000 cd13 b0fee664 f4")
    path = tmp_path / "disk.img"
    path.write_bytes(first)
    disk = Disk(path)
    with Machine(first, reboot=True, board=BoardOptions(disks={0: disk})) as m:
        m.phys[0x7E00:0x8000] = boot_sector("b007 e6f4 f4")
        assert m.run(timeout=20).guest_code == 7


def test_a_wiped_boot_sector_ends_the_run_with_a_warning(tmp_path) -> None:
    first = boot_sector("b80103 bb007e b90100 ba8000 cd13 b0fee664 f4")
    warnings: list[str] = []
    with Machine(first, reboot=True, warn=warnings.append) as m:
        outcome = m.run(timeout=20)
        assert (outcome.kind, outcome.exit_code) == (Kind.RESET, 8)
    assert len(warnings) == 1
    assert "55 aa" in warnings[0]


# --- Endings --------------------------------------------------------------------------------------


def test_resets_for_ever_end_by_timeout_and_by_limit() -> None:
    with Machine(bytes.fromhex("b0fee664 f4"), reboot=True, **FLAT) as m:
        started = time.monotonic()
        assert m.run(timeout=0.4).kind is Kind.TIMEOUT
        assert time.monotonic() - started < 3
        assert m.run(max_insns=50).kind is Kind.INSN_LIMIT


def test_a_triple_fault_is_no_reset() -> None:
    # lidt [0x100010]; ud2
    code = bytes.fromhex("0f011d10001000 0f0b").ljust(0x10, b"\0") + bytes(6)
    with Machine(code, reboot=True, **FLAT) as m:
        assert m.run(timeout=20).exit_code == 4
