# SPDX-License-Identifier: GPL-2.0-or-later
"""BIOS calls made by a program, here and on SeaBIOS under QEMU, register by register.

Every call is entered with CF set, so that a success which forgets to clear it is seen. Where the
two differ on purpose, `KNOWN` says which registers and why.
"""

from __future__ import annotations

from functools import cache

import pytest

from emu.board import BoardOptions
from emu.devices.disk import Disk

from ..beside import here, needs_qemu, under_qemu
from .calls import BUFFER, CF, ZF, answers, call, program

B = BUFFER
PACKET = 0x2F00
SMAP = 0x534D4150


def packet(lba, count=2):
    """A disk address packet for the buffer at 0:3000h."""
    fields = (16, 0, count, 0, B & 0xFF, B >> 8, 0, 0)
    return PACKET, bytes(fields) + lba.to_bytes(8, "little")


VIDEO = [
    call(0x10, ax=0x0003),
    call(0x10, ah=1, cx=0x0607),
    call(0x10, ah=3),
    call(0x10, ah=2, dx=0x0203),
    call(0x10, ah=3, bh=0),
    call(0x10, ah=4),
    call(0x10, ax=0x0500),
    call(0x10, ax=0x0601, bx=0x0700, dx=0x184F),
    call(0x10, ax=0x0701, bx=0x0700, dx=0x184F),
    call(0x10, ah=8),
    call(0x10, ax=0x0941, bx=7, cx=3),
    call(0x10, ax=0x0A42, bx=7, cx=2),
    call(0x10, ah=0xB, bx=1),
    call(0x10, ax=0x0E43, bx=7),
    call(0x10, ah=0xF),
    *(call(0x10, ax=0x1000 + al, bx=0x0101) for al in (0, 1, 3, 7, 8, 0x10, 0x13, 0x15, 0x18)),
    *(call(0x10, ax=0x1000 + al, cx=1, dx=B) for al in (2, 9, 0x12, 0x17)),
    *(call(0x10, ax=0x1130, bh=bh) for bh in range(8)),
    call(0x10, ax=0x1111),
    call(0x10, ax=0x1114),
    call(0x10, ax=0x0003),
    *(call(0x10, ah=0x12, bl=bl) for bl in (0x10, 0x20, *range(0x30, 0x37))),
    call(0x10, ax=0x1300, bx=7, cx=2, dx=0x0300, bp=B),
    call(0x10, ax=0x1301, bx=7, cx=2, dx=0x0300, bp=B),
    call(0x10, ah=3),
    call(0x10, ax=0x1A00),
    call(0x10, ax=0x1A01, bx=8),
    call(0x10, ax=0x1B00, di=B, dump=(B + 4, 28)),
    *(call(0x10, ah=ah) for ah in (0xD, 0xFE, 0xFF)),
]

DISK = [
    call(0x12),
    *(call(0x13, ah=ah, dl=dl, cx=1)
      for dl in (0x80, 0x81, 0xFF)
      for function in (0, 1, 5, 8, 9, 0xA, 0xB, 0xC, 0xD, 0x10, 0x11, 0x14, 0x15, 0x16, 0x17, 0x18,
                       0x19, 0x45, 0x46, 0x49, 0x4E, 0x55)
      for ah in (function, 1)),
    *(call(0x13, ax=0x0401, dl=dl, cx=1) for dl in (0x80, 0x81)),
    *(call(0x13, ah=0x41, bx=0x55AA, dl=dl) for dl in (0x80, 0x81)),
    *(call(0x13, ah=0x48, dl=dl, si=B, put=(B, b"\x1a\0"), dump=(B, 26)) for dl in (0x80, 0x81)),
    call(0x13, ax=0x0201, bx=B, cx=0x0305, dx=0x0280, dump=(B, 4)),
    call(0x13, ax=0x0201, bx=B, cx=0, dx=0x80),
    call(0x13, ax=0x0200, bx=B, cx=1, dx=0x80),
    call(0x13, ax=0x0201, bx=B, cx=0xC001, dx=0x80),
    call(0x13, ax=0x0201, bx=B, cx=1, dx=0x1080),
    call(0x13, ax=0x0280, es=0x4000, cx=1, dx=0x80),
    call(0x13, ax=0x0301, bx=B, cx=5, dx=0x80),
    call(0x13, ax=0x4200, si=PACKET, dx=0x80, put=packet(77), dump=(B, 4)),
    call(0x13, ax=0x4200, si=PACKET, dx=0x80, put=packet(0xFFFFFF)),
    *(call(0x13, ah=ah, si=PACKET, dx=0x80, put=packet(5)) for ah in (0x43, 0x44, 0x47)),
]  # fmt: skip

FLOPPY = [
    *(call(0x13, ah=ah, dl=0, cx=1)
      for function in (0, 1, 8, 9, 0xC, 0xD, 0x10, 0x11, 0x14, 0x15, 0x16, 0x41, 0x42, 0x45, 0x48)
      for ah in (function, 1)),
    call(0x13, ax=0x0401, cx=1),
    call(0x13, ax=0x0201, bx=B, cx=0x0305, dx=0x0100, dump=(B, 4)),
    call(0x13, ax=0x0201, bx=B, cx=0x0313, dx=0x0100),
    call(0x13, ax=0x0201, bx=B, cx=0x5001, dx=0),
]  # fmt: skip

MOVE = bytes(16) + bytes.fromhex("ffff000000930000 ffff003500930000")
SYSTEM = [
    *(call(0x14, ah=ah, dx=dx) for dx in (0, 1, 4) for ah in range(6)),
    call(0x14, ax=0x00E3),
    *(call(0x15, ah=ah) for ah in (0, 0x21, 0x41, 0x4F, 0x52, 0x80, 0x84, 0x85, 0x88, 0x90, 0x91,
                                   0xBF, 0xC0, 0xC1, 0xC3, 0xC4, 0xD8, 0xE8, 0xE9)),
    *(call(0x15, ax=0x2400 + al) for al in range(5)),
    call(0x15, ax=0x8300, dx=100, bx=B),
    call(0x15, ax=0x8301),
    call(0x15, ah=0x86, dx=100),
    call(0x15, ax=0x8700, cx=2, si=B, put=(B, MOVE)),
    call(0x15, eax=0xE801),
    call(0x15, eax=0xE820, edx=SMAP, ecx=20, di=B, dump=(B, 20)),
    call(0x15, eax=0xE820, edx=SMAP, ecx=19, di=B),
    call(0x15, eax=0xE820, edx=SMAP, ecx=20, ebx=100, di=B),
    call(0x15, eax=0xE820, ecx=20, di=B),
    call(0x15, eax=0xE802),
    *(call(0x16, ah=ah) for ah in (1, 2, 3, 4, 5, 6, 9, 0xA, 0x11, 0x12, 0x92, 0xA2, 0x20, 0x6F)),
    call(0x16, ah=0),
    *(step for word in (0x1E61, 0x48E0, 0xE00D, 0xE02F, 0x1EF0, 0x8500)
      for step in (call(0x16, ah=5, cx=word), call(0x16, ah=1), call(0x16, ah=0x11),
                   call(0x16, ah=0), call(0x16, ah=5, cx=word), call(0x16, ah=0x10))),
    call(0x16, ax=0x0305, bx=0),
    *(call(0x17, ah=ah, dx=3) for ah in range(4)),
]  # fmt: skip

TIME = [
    call(0x1A, ah=1, cx=1, dx=2),
    call(0x1A, ah=0),
    call(0x1A, ah=3, cx=0x1234, dx=0x5600),
    call(0x1A, ah=2),
    call(0x1A, ah=5, cx=0x2024, dx=0x0102),
    call(0x1A, ah=4),
    call(0x1A, ah=6, cx=0x1300),
    call(0x1A, ah=6, cx=0x1300),
    call(0x1A, ah=7),
    call(0x1A, ah=6, cx=0x1300),
    *(call(0x1A, ah=ah) for ah in (8, 0xA, 0xB, 0x80)),
    call(0x1A, ax=0xB101),
    *(
        call(0x1A, ax=0xB102, cx=cx, dx=0x8086, si=si)
        for cx in (0x1237, 0x7000, 1)
        for si in (0, 1)
    ),
    *(call(0x1A, ax=0xB103, ecx=ecx) for ecx in (0x060000, 0x060100, 0x770000)),
    *(call(0x1A, ax=0xB108 + operation, di=0) for operation in range(3)),
    *(call(0x1A, ax=0xB10B + operation, di=0x3C) for operation in range(3)),
    *(call(0x1A, ax=0xB100 + al) for al in (6, 0xF, 0xFF)),
]

KNOWN = {
    (0x10, "ax=0x1130"): ("bp es", "the fonts lie elsewhere"),
    (0x10, "ax=0x1b00"): ("data", "mode control as an MDA's; SeaBIOS counts 24 rows for 25"),
    (0x13, "ah=0x8 dl=0x80"): ("cx", "SeaBIOS keeps the last cylinder back for diagnostics"),
    (0x13, "ah=0x8 dl=0x0"): ("di", "SeaBIOS has another table than the one at F000:EFC7"),
    (0x13, "ah=0x15"): ("dx", "and does not count it here"),
    (0x13, "ah=0x41"): ("ax cx", "EDD 1.1 here: there is no device path"),
    (0x1A, "ax=0xb101"): ("di", "there is no 32-bit entry point"),
}


def text_of(one):
    return " ".join(f"{name}={value:#x}" for name, value in one.regs.items())


def excused(one):
    """The fields of a call that may differ."""
    for (vector, start), (fields, _) in KNOWN.items():
        if vector == one.vector and f"{text_of(one)} ".startswith(f"{start} "):
            return fields.split()
    return []


def difference(one, ours, seabios):
    found = [
        f"{name} {getattr(ours, name):#x} (SeaBIOS {getattr(seabios, name):#x})"
        for name in (*(f"e{r}" for r in ("ax", "bx", "cx", "dx", "si", "di", "bp")), "es", "ds")
        if getattr(ours, name) != getattr(seabios, name) and name.removeprefix("e") not in
        excused(one) and name not in excused(one)
    ]  # fmt: skip
    found += [
        f"{name} {bool(ours.flags & bit):d} (SeaBIOS {bool(seabios.flags & bit):d})"
        for name, bit in (("CF", CF), ("ZF", ZF))
        if (ours.flags ^ seabios.flags) & bit
    ]
    if ours.data != seabios.data and "data" not in excused(one):
        found.append(f"data {ours.data.hex()} (SeaBIOS {seabios.data.hex()})")
    return found


@cache
def ours(name):
    return answers(here(program(GROUPS[name])), GROUPS[name])


GROUPS = {"video": VIDEO, "disk": DISK, "system": SYSTEM, "time": TIME}


@needs_qemu
@pytest.mark.parametrize("name", GROUPS)
def test_every_call_comes_back_as_on_seabios(name, tmp_path):
    calls = GROUPS[name]
    theirs = answers(under_qemu(tmp_path, program(calls)), calls)
    wrong = [
        f"INT {one.vector:02x}h {text_of(one)}: {', '.join(found)}"
        for one, a, b in zip(calls, ours(name), theirs, strict=True)
        if (found := difference(one, a, b))
    ]
    assert not wrong, "\n".join(wrong)


@needs_qemu
def test_a_floppys_calls_come_back_as_on_seabios(tmp_path):
    image = program(FLOPPY)[: 2880 * 512]
    theirs = answers(under_qemu(tmp_path, image, drive="-fda"), FLOPPY)
    path = tmp_path / "floppy"
    path.write_bytes(image)
    board = BoardOptions(floppies={0: Disk(path, snapshot=True)})
    mine = answers(here(image[:512], board=board, drive=0, format="bootsector"), FLOPPY)
    wrong = [
        f"INT {one.vector:02x}h {text_of(one)}: {', '.join(found)}"
        for one, a, b in zip(FLOPPY, mine, theirs, strict=True)
        if (found := difference(one, a, b))
    ]
    assert not wrong, "\n".join(wrong)


# Functions that say with CF whether they have done it: entered with CF set, they clear it.
SIGNALLING = {0x13, 0x14, 0x15, 0x1A}
SUCCEEDING = {
    "disk": {(0x13, ah) for ah in (0, 1, 2, 3, 4, 8, 9, 0xC, 0xD, 0x10, 0x11, 0x14, 0x15, 0x41,
                                   0x42, 0x43, 0x44, 0x45, 0x47, 0x48, 0x49)},
    "system": {(0x14, ah) for ah in range(4)}
    | {(0x15, ah) for ah in (0x24, 0x52, 0x83, 0x86, 0x87, 0x88, 0xC0, 0xC1, 0xE8)},
    "time": {(0x1A, ah) for ah in (0, 1, 2, 3, 4, 5, 6, 7, 0xB1)},
}  # fmt: skip


@pytest.mark.parametrize("name", SUCCEEDING)
def test_success_clears_cf_whatever_it_was_before(name):
    cleared = {
        (one.vector, one.value("eax") >> 8 & 0xFF)
        for one, answer in zip(GROUPS[name], ours(name), strict=True)
        if not answer.flags & CF and one.vector in SIGNALLING
    }
    assert cleared == SUCCEEDING[name]


# --- Fixed addresses ------------------------------------------------------------------------------

# Offset in segment F000: the vector that is served there (IBM PC/AT Technical Reference).
ENTRIES = {
    0xE2C3: 0x02, 0xE3FE: 0x13, 0xE739: 0x14, 0xE82E: 0x16, 0xE987: 0x09, 0xEC59: 0x13,
    0xEF57: 0x0E, 0xEFD2: 0x17, 0xF065: 0x10, 0xF841: 0x12, 0xF84D: 0x11, 0xF859: 0x15,
    0xFE6E: 0x1A, 0xFEA5: 0x08, 0xFF53: None, 0xFF54: 0x05,
}  # fmt: skip


@pytest.mark.parametrize("offset", ENTRIES, ids=hex)
def test_an_entry_point_of_ibms_returns_as_the_interrupt_does(offset):
    """PUSHF and a far call of F000:offset, which is what other firmware and DOS do."""
    code = bytes.fromhex("b80002 31db 31c9 31d2 9c 9a") + offset.to_bytes(2, "little") + b"\0\xf0"
    out = bytes.fromhex("88e3 e6e9 88d8 e6e9") + bytes.fromhex("b010 e6f4 f4")
    sent = here((code + out).ljust(510, b"\0") + b"\x55\xaa")
    ax = {0x12: 639, 0x11: 0x0222, 0x16: 0x0200, 0x1A: 0}.get(ENTRIES[offset])
    if ax is not None:
        assert sent[0] == ax & 0xFF


def rom_bytes(offset, size):
    from emu.boot.bios.rom import build_rom

    return build_rom()[offset : offset + size]


SEABIOS_TABLES = {
    "configuration": (0xE6F5, 10),
    "diskette": (0xEFC7, 11),
    "interrupt return": (0xFF53, 1),
    "model": (0xFFFE, 1),
    "slash of the date": (0xFFF7, 1),
}


@needs_qemu
@pytest.mark.parametrize("name", SEABIOS_TABLES)
def test_a_table_at_a_fixed_address_is_seabioss(name, tmp_path):
    offset, size = SEABIOS_TABLES[name]
    copy = bytes.fromhex("b800f0 8ed8 be") + offset.to_bytes(2, "little") + b"\xb9"
    copy += size.to_bytes(2, "little") + bytes.fromhex("bae900 fc f36e b010 e6f4 f4 ebfd")
    theirs = under_qemu(tmp_path, copy.ljust(510, b"\0") + b"\x55\xaa")
    mine = rom_bytes(offset, size)
    if name == "configuration":  # features: INT 15h AH=4Fh is not called at every key
        theirs = theirs[:5] + bytes((theirs[5] & ~0x10,)) + theirs[6:]
    assert mine == theirs


def test_the_font_has_its_letters_where_ibm_had_them():
    letter = rom_bytes(0xFA6E + 8 * ord("T"), 8)
    assert [f"{row:08b}" for row in letter[:3]] == ["11111100", "10110100", "00110000"]
    assert len(rom_bytes(0xFA6E, 1024).strip(b"\0")) > 700
    assert rom_bytes(0xF045, 2) == b"\x65\xf0"


def test_the_vectors_of_tables_lead_to_them():
    from emu.machine import Machine

    with Machine(memory=1 << 21) as m:
        for vector, offset in ((0x1D, 0xF0A4), (0x1E, 0xEFC7), (0x1F, 0xDC00), (0x43, 0xBE00)):
            assert m.phys[4 * vector : 4 * vector + 4] == offset.to_bytes(2, "little") + b"\0\xf0"


def test_reset_date_and_model():
    assert rom_bytes(0xFFF0, 1) == b"\xea"
    assert rom_bytes(0xFFF5, 8) == b"01/01/24"
    assert rom_bytes(0xFFFE, 1) == b"\xfc"
    assert rom_bytes(0xE05B, 1) == b"\xe9"


# --- What changes with time -----------------------------------------------------------------------


def test_an_event_sets_its_flag_when_its_time_is_over():
    """INT 15h AH=83h for 120 ms, and a loop until bit 7 of 0:3000h is set."""
    code = bytes.fromhex(
        "31c0 8ec0 8ed8 fb b80083 b90100 bac0d4 bb0030 cd15 0f92c3"  # ..., setc bl
        "f4 f606003080 74f8"  # again: hlt; test byte [3000h], 80h; jz again
        "88d8 e6e9 a16c04 e6e9 b010 e6f4 f4"  # CF, ticks
    )
    carry, ticks = here(code.ljust(510, b"\0") + b"\x55\xaa")
    assert carry == 0
    assert ticks in (2, 3)


def test_an_alarm_calls_int_4a():
    """Set for two seconds after midnight, when the machine starts; INT 4Ah sets 0:3000h."""
    code = bytes.fromhex(
        "31c0 8ed8 8ec0 fb c7062801 407c 8c0e2a01"  # vector 4ah = cs:7c40h
        "b406 b90000 b602 cd1a 0f92c3"  # alarm at 00:00:02
        "f4 803e003001 75f8"  # again: hlt; cmp byte [3000h], 1; jnz again
        "b402 cd1a 88f0 e6e9 88d8 e6e9 b010 e6f4 f4"  # seconds, CF
    )
    handler = bytes.fromhex("c606003001 cf")  # mov byte [3000h], 1; iret
    assert len(code) <= 0x40
    image = (code.ljust(0x40, b"\0") + handler).ljust(510, b"\0") + b"\x55\xaa"
    assert here(image) == b"\x02\x00"


def test_ticks_start_at_the_time_of_day():
    code = bytes.fromhex("b400 cd1a 88c8 e6e9 b010 e6f4 f4")  # the hour, CX
    noon = BoardOptions(start_time=1_700_000_000 - 1_700_000_000 % 86_400 + 13 * 3600)
    assert here(code.ljust(510, b"\0") + b"\x55\xaa", board=noon) == b"\x0d"
