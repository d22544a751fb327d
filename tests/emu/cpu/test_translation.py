# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes that the translator must not see: #UD in every mode, wherever and however they come.

A test that fails here ends the process.
"""

from __future__ import annotations

import pytest

from emu.cpu.slice import Exit

from .machine_double import Rig

UD, GP, PF = 6, 13, 14
MODES = ("real", "protected", "user", "long")
LOCK_BT = "f00fa3c0"


@pytest.fixture(name="make")
def make_rig():
    rigs = []

    def make(mode: str, code: str | bytes, **options) -> Rig:
        rig = Rig(**options)
        rigs.append(rig)
        if mode == "real":
            rig.real("90")
            rig.put(0, b"\x00\x20\x00\x00" * 256)  # every vector leads to 0:2000
            rig.put(0x2000, "f4")
        else:
            getattr(rig, mode)("nmi twice")
        rig.put(0x1000, code)
        return rig

    yield make
    for rig in rigs:
        rig.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(LOCK_BT, id="LOCK BT register"),
        pytest.param("f00fa307", id="LOCK BT memory"),
        pytest.param("f00fabc0", id="LOCK BTS register"),
        pytest.param("f00fb3c1", id="LOCK BTR register"),
        pytest.param("f00fbbc2", id="LOCK BTC register"),
        pytest.param("f00fba2001", id="LOCK BT memory, immediate"),
        pytest.param("f00fbae801", id="LOCK BTS register, immediate"),
        pytest.param("66f02e0fa3c0", id="prefixes around LOCK"),
        pytest.param("c5f877", id="VZEROUPPER"),
        pytest.param("c7f800000000", id="XBEGIN"),
        pytest.param("f0f4", id="LOCK HLT"),
    ],
)
def test_is_undefined_in_every_mode(make, mode: str, code: str) -> None:
    rig = make(mode, "9090" + code)
    assert rig.run() is Exit.HALT
    assert rig.events == [(UD, 0x1002)]


def test_rex_before_lock(make) -> None:
    rig = make("long", "48" + LOCK_BT)
    assert rig.run() is Exit.HALT
    assert rig.events == [(UD, 0x1000)]


@pytest.mark.parametrize("mode", ["protected", "long"])
@pytest.mark.parametrize("jit", ["counted", "blocks"])
def test_hlt_still_halts(make, mode: str, jit: str) -> None:
    rig = make(mode, "90f4" + LOCK_BT, count_blocks=jit == "blocks")
    assert rig.run() is Exit.HALT
    assert (rig.regs.rip, rig.events) == (0x1002, [])


@pytest.mark.parametrize(
    "inside",
    [
        pytest.param(n, id=f"{n} bytes on the first page")
        for n in range(1, len(bytes.fromhex(LOCK_BT)))
    ],
)
def test_across_pages(make, inside: int) -> None:
    start = 0xA000 - inside
    rig = make("long", b"\xe9" + (start - 0x1005).to_bytes(4, "little"))
    rig.put(start, LOCK_BT)
    assert rig.run() is Exit.HALT
    assert rig.events == [(UD, start)]


def test_across_pages_of_which_one_is_missing_first(make) -> None:
    start = 0x9FFE
    rig = make("long", b"\xe9" + (start - 0x1005).to_bytes(4, "little"))
    rig.put(start, LOCK_BT)
    rig.mmu.faults[0xA] = 0x10
    assert rig.run() is Exit.HALT
    assert rig.events == [(PF, start)]
    assert rig.regs.cr2 == 0xA000
    rig.mmu.faults.clear()
    rig.cpu.flush_tlb()
    rig.cpu.halted = False
    rig.regs.rip = start
    assert rig.run() is Exit.HALT
    assert rig.events[1:] == [(UD, start)]


def test_data_that_becomes_code(make) -> None:
    # mov dword [0x9000], bytes of LOCK BT; jmp 0x9000
    store = "c7042500900000" + LOCK_BT
    rig = make("long", store + "e9" + (0x9000 - 0x1010).to_bytes(4, "little").hex())
    rig.put(0x9000, "90" * 8)
    assert rig.run() is Exit.HALT
    assert rig.events == [(UD, 0x9000)]


def test_code_that_changes_itself_after_it_has_run(make) -> None:
    # 9000: four NOPs, RET; called, then overwritten, then called again
    call = 0x9000
    first = b"\xe8" + (call - 0x1005).to_bytes(4, "little")
    store = bytes.fromhex("c7042500900000" + LOCK_BT)
    second = b"\xe8" + (call - 0x1015).to_bytes(4, "little")
    rig = make("long", first + store + second)
    rig.put(call, "90909090c3")
    assert rig.run() is Exit.HALT
    assert rig.events == [(UD, call)]


@pytest.mark.parametrize(
    ("entry", "events"),
    [
        pytest.param(0, [], id="as an immediate"),
        pytest.param(1, [(UD, 0x9001)], id="as an instruction"),
        pytest.param(2, [], id="behind the LOCK"),
    ],
)
def test_the_same_bytes_from_another_offset(make, entry: int, events) -> None:
    # mov eax, LOCK BT's bytes; hlt
    rig = make("long", b"\xe9" + (0x9000 + entry - 0x1005).to_bytes(4, "little"))
    rig.put(0x9000, "b8" + LOCK_BT + "f4")
    assert rig.run() is Exit.HALT
    assert rig.events == events
    if not entry:
        assert rig.regs.rax == int.from_bytes(bytes.fromhex(LOCK_BT), "little")


def test_what_may_be_locked_is(make) -> None:
    rig = make("long", "f00fab042500900000f4")
    rig.regs.rax = 3
    assert rig.run() is Exit.HALT
    assert (rig.events, rig.memory.read(0x9000, 4)) == ([], 8)


def test_a_loop_of_them_ends_with_the_slice(make) -> None:
    rig = make("long", LOCK_BT)
    rig.put(0x2000, LOCK_BT)  # the handler, too
    rig.regs.rsp = 0x8000
    assert rig.run(20) in (Exit.BUDGET, Exit.SHUTDOWN)
