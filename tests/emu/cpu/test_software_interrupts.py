# SPDX-License-Identifier: GPL-2.0-or-later
"""INT n, INT3, INTO and INT1 in every mode: the vector, the return address, and who may."""

from __future__ import annotations

import pytest

from emu.cpu.faults import Source
from emu.cpu.slice import Exit
from emu.state import Table

from .machine_double import CODE0, HANDLERS, IDT, LONG3, TSS, Rig

GP, DB, BP, OF = 13, 1, 3, 4
MODES = ["real", "16-bit", "32-bit", "32-bit ring 3", "64-bit", "64-bit ring 3", "VM86"]
_CODE16 = 0x48
_IOPL = 3 << 12
_VM = 1 << 17


def user(rig: Rig, code: int = 0x1B, flags: int = 0xCFFB00) -> None:
    for number in range(6):
        selector, high = (code, flags) if number == 1 else (0x23, 0xCFF300)
        rig.regs.set_segment(number, selector, 0, 0xFFFF_FFFF, high)


def enter(rig: Rig, mode: str, code: str, dpl: int = 3) -> None:
    """Put `code` at 0x1000 in `mode`; every gate has this DPL and leads to HLT."""
    if mode == "real":
        rig.real(code)
        rig.put(0x2000, "f4")
        rig.put(0, (0x2000).to_bytes(4, "little") * 256)
        return
    if mode.startswith("64"):
        rig.long("nmi twice")
    else:
        rig.protected("nmi twice")
    rig.put(0x1000, code)
    width = 16 if mode.startswith("64") else 8
    selector = 0x38 if width == 16 else CODE0
    gate = HANDLERS | selector << 16 | (0x8E00 | dpl << 13) << 32
    rig.put(IDT, gate.to_bytes(width, "little") * 256)
    rig.regs.idtr = Table(IDT, 256 * width - 1)
    if mode == "16-bit":
        rig.regs.set_segment(1, _CODE16, 0, 0xFFFF, 0x9B00)
    elif mode == "32-bit ring 3":
        user(rig)
    elif mode == "64-bit ring 3":
        user(rig, LONG3, 0xAFFB00)
        rig.put(TSS + 4, (0x9000).to_bytes(8, "little"))
    elif mode == "VM86":
        rig.regs.rflags = _VM | _IOPL | 2
        for number in range(6):
            rig.regs.set_segment(number, 0, 0, 0xFFFF, 0xF300)


@pytest.fixture(name="rig")
def make_rig():
    rig = Rig()
    yield rig
    rig.close()


@pytest.mark.parametrize("mode", MODES)
def test_every_vector_of_int_n(rig: Rig, mode: str) -> None:
    for vector in range(256):
        enter(rig, mode, f"90 cd {vector:02x} f4")
        assert rig.run() is Exit.HALT
        (past,) = rig.cpu.record.recent
        assert (past.event.vector, past.event.source) == (vector, Source.SOFTWARE)
        assert past.rip == 0x1003
        assert rig.regs.rip == 0x2001


@pytest.mark.parametrize("mode", ["32-bit ring 3", "64-bit ring 3", "VM86"])
@pytest.mark.parametrize("vector", [0, 1, 2, 3, 4, 6, 8, 13, 14, 0x80])
def test_int_n_asks_for_the_gates_dpl(rig: Rig, mode: str, vector: int) -> None:
    enter(rig, mode, f"90 cd {vector:02x} f4", dpl=0)
    assert rig.run() is Exit.HALT
    first, second = rig.cpu.record.recent
    assert first.event.vector == vector
    assert (second.event.vector, second.event.error_code) == (GP, vector * 8 + 2)
    width = 8 if mode.startswith("64") else 4
    assert rig.memory.read(rig.regs.rsp + width, width) == 0x1001


@pytest.mark.parametrize("mode", ["real", "32-bit", "64-bit"])
def test_int_6_counts_as_any_other(rig: Rig, mode: str) -> None:
    counts = []
    for vector in (6, 7):
        enter(rig, mode, f"90 cd {vector:02x} f4")
        before = rig.cpu.executed
        assert rig.run() is Exit.HALT
        counts.append(rig.cpu.executed - before)
    assert counts[0] == counts[1] == 3


def test_int_6_with_a_trap_flag_clears_it(rig: Rig) -> None:
    enter(rig, "32-bit", "cd06 f4")
    rig.regs.rflags = 0x102
    assert rig.run() is Exit.HALT
    assert rig.events == [(6, 0x1002)]
    assert rig.memory.read(rig.regs.rsp + 8, 4) & 0x100


def test_int_6_is_not_vm86s_own_below_iopl_3(rig: Rig) -> None:
    enter(rig, "VM86", "cd06 f4")
    rig.regs.rflags = _VM | 2
    assert rig.run() is Exit.HALT
    (past,) = rig.cpu.record.recent
    assert (past.event.vector, past.event.error_code, past.rip) == (GP, 0, 0x1000)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("code", "vector", "source"),
    [
        pytest.param("90 cc", BP, Source.SOFTWARE, id="int3"),
        pytest.param("90 f1", DB, Source.ICEBP, id="int1"),
        pytest.param("90 ce", OF, Source.SOFTWARE, id="into"),
        pytest.param("90 0f0b", 6, Source.EXCEPTION, id="ud2"),
    ],
)
def test_the_short_forms(rig: Rig, mode: str, code: str, vector: int, source: Source) -> None:
    if vector == OF and mode.startswith("64"):
        pytest.skip("INTO is undefined there")
    enter(rig, mode, code + "f4")
    rig.regs.rflags |= 0x800
    assert rig.run() is Exit.HALT
    (past,) = rig.cpu.record.recent
    assert (past.event.vector, past.event.source) == (vector, source)
    assert past.rip == (0x1001 if source is Source.EXCEPTION else 0x1002)


@pytest.mark.parametrize(("code", "vector"), [("cc", BP), ("ce", OF)], ids=["int3", "into"])
def test_int3_and_into_are_vm86s_own_at_any_iopl(rig: Rig, code: str, vector: int) -> None:
    enter(rig, "VM86", "90" + code + "f4")
    rig.regs.rflags = _VM | 0x802
    assert rig.run() is Exit.HALT
    assert rig.events == [(vector, 0x1002)]
