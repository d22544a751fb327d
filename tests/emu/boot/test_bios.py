# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware's services, called as its stubs call them, and the stubs themselves."""

from __future__ import annotations

import struct
from copy import deepcopy
from types import SimpleNamespace

import pytest

from emu.boot import Bios, MemoryDisk
from emu.boot.bios.compat import DATA_VECTORS
from emu.boot.bios.disk import Floppy, geometry_of
from emu.boot.bios.rom import POST, ROM_BASE, SERVICE_PORT, VECTORS, stub_offset, vector_of
from emu.devices.disk import Disk
from emu.errors import StateError, UsageError
from emu.ports import PortBus
from emu.state import Segment
from mmu.memory import Memory

MIB = 1 << 20
CF, ZF, SF, OF = 1, 0x40, 0x80, 0x800


class Latches:
    """Ports that remember what was written, and play back what was queued."""

    def __init__(self):
        self.written = []
        self.queued = {}

    def read(self, port, size):
        queue = self.queued.get(port)
        return (queue.pop(0) if len(queue) > 1 else queue[0]) if queue else 0

    def write(self, port, size, value):
        self.written.append((port, value))


class Rig:
    """Firmware on a bus of latches; `rig.call(vector, ax=...)` is an INT from 1000:0."""

    def __init__(self, **kwargs):
        self.memory = Memory()
        self.memory.add_ram(0, 0xA0000)
        self.memory.add_ram(0xB8000, 0x8000)
        self.memory.add_ram(MIB, 31 * MIB)
        self.ports = PortBus()
        self.latches = Latches()
        for first, last in ((0x20, 0x21), (0xA0, 0xA1), (0x40, 0x43), (0x60, 0x60), (0x64, 0x64),
                            (0x3D4, 0x3D5), (0x70, 0x71), (0x3F8, 0x3FF)):  # fmt: skip
            self.ports.add(first, last, self.latches)
        self.guest_memory = self.memory
        self.time = 0
        self.bios = Bios(**kwargs)
        self.bios.install(self.memory)
        self.bios.attach(self)
        self.regs = SimpleNamespace()

    def registers(self):
        return self.regs

    def now(self):
        return self.time

    def call(self, vector, *, flags=0x202, rip=None, **regs):
        values = dict.fromkeys(("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp"), 0)
        values |= {f"r{name.removeprefix('e')}": value for name, value in regs.items()}
        segment = Segment(0x1000, 0x10000, 0xFFFF, 0x93)
        code = Segment(0xF000, ROM_BASE, 0xFFFF, 0x9B)
        ip = stub_offset(vector) if rip is None else rip
        self.regs.__dict__.update(values, rip=ip, rflags=flags, cs=code, ds=segment, es=segment)
        self.ports.write(SERVICE_PORT, 1, 0)
        return self.regs

    def ah(self):
        return self.regs.rax >> 8 & 0xFF

    def screen(self, row, page=0):
        raw = self.memory.read_block(0xB8000 + 4096 * page + 160 * row, 160)
        return raw[::2].decode("latin-1").rstrip(" \0")


@pytest.fixture
def rig():
    return Rig()


# --- ROM and data area ----------------------------------------------------------------------------


def test_vectors_lead_to_stubs_which_are_known_by_their_address(rig):
    for vector in VECTORS:
        if vector not in range(0x60, 0x68) and vector not in DATA_VECTORS:
            offset, segment = struct.unpack("<HH", rig.memory.read_block(4 * vector, 4))
            assert vector_of(16 * segment + offset) == vector
    assert vector_of(ROM_BASE + stub_offset(0x10) + 1) is None
    assert vector_of(0x7C00) is None


def test_every_branch_in_the_service_stub_hits_an_instruction(rig):
    capstone = pytest.importorskip("capstone")
    start = ROM_BASE + stub_offset(0x10)
    code = rig.memory.read_block(start, 0x28)
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16)
    found = [(i.address - start, i.mnemonic, i.op_str) for i in decoder.disasm(code, start)]
    starts = {offset: name for offset, name, _ in found}
    branches = {
        (offset, name): int(where, 16) - start
        for offset, name, where in found
        if name in ("js", "jo", "jmp", "loop")
    }
    assert [starts[target] for (_, name), target in branches.items() if name in ("js", "jo")] == [
        "sti",
        "sti",
    ]
    assert [target for (_, name), target in branches.items() if name == "jmp"] == [0, 0]
    assert all(target == offset for (offset, name), target in branches.items() if name == "loop")
    assert starts[max(o for o in starts if o < 0x18)] == "iret"


def test_data_area(rig):
    read = rig.memory.read
    assert read(0x400, 2) == 0x3F8
    assert read(0x40E, 2) << 4 == 0x9FC00
    assert read(0x413, 2) == 639
    assert read(0x449, 1) == 3
    assert read(0x44A, 2) == 80
    assert read(0x463, 2) == 0x3D4
    assert read(0x484, 1) == 24


def test_board_is_left_as_seabios_leaves_it(rig):
    assert rig.latches.written[:2] == [(0x20, 0x11), (0x21, 8)]
    assert (0xA1, 0x70) in rig.latches.written
    assert [value for port, value in rig.latches.written if port == 0x21][-1] == 0xB8


def test_board_tables_lie_in_the_rom():
    rig = Rig(tables={0xF2000: b"_MP_", 0xFBDF0: b"x" * 16})
    assert rig.memory.read_block(0xF2000, 4) == b"_MP_"
    with pytest.raises(UsageError):
        Bios(tables={0xF0000: b"x"})
    with pytest.raises(UsageError):
        Bios(tables={0xFBDFF: b"xx"})


def test_reset_entry_jumps_into_the_rom(rig):
    opcode, offset, segment = struct.unpack("<BHH", rig.memory.read_block(0xFFFF0, 5))
    assert (opcode, segment, offset) == (0xEA, 0xF000, stub_offset(POST))


@pytest.mark.parametrize("rip", [0x7C00, stub_offset(0x10) + 2], ids=["elsewhere", "in a stub"])
def test_an_out_from_anywhere_else_does_nothing(rig, rip):
    before = dict(rig.call(0x10, rip=rip, ax=0x0E41).__dict__)
    assert before["rax"] == 0x0E41
    assert rig.screen(0) == ""


@pytest.mark.parametrize(
    ("vector", "ax"),
    [(0x10, 0x4F00), (0x13, 0x5500), (0x15, 0x5300), (0x16, 0x7700), (0x1A, 0x0900)],
)
def test_unserved_sets_carry_and_is_logged_once(rig, caplog, vector, ax):
    caplog.set_level("INFO", "shadowcorn.bios")
    for _ in range(3):
        assert rig.call(vector, ax=ax, dx=0x80).rflags & CF
    assert len(caplog.records) == 1


def test_an_exception_vector_is_logged_and_returns(rig, caplog):
    caplog.set_level("INFO", "shadowcorn.bios")
    rig.call(0x06)
    assert "INT 06h" in caplog.text


# --- INT 10h --------------------------------------------------------------------------------------


def write(rig, text):
    for char in text.encode("latin-1"):
        rig.call(0x10, ax=0x0E00 | char, bx=7)


def cursor(rig, page=0):
    dx = rig.call(0x10, ax=0x0300, bx=page << 8).rdx
    return dx >> 8, dx & 0xFF


def test_teletype(rig):
    write(rig, "Hello\r\nthere\b!\a\tx")
    assert rig.screen(0) == "Hello"
    assert rig.screen(1) == "ther!   x"
    assert cursor(rig) == (1, 9)


def test_teletype_wraps_and_scrolls(rig):
    write(rig, "first\r\n" + "y" * 81 + "\n" * 23)
    assert [rig.screen(0), rig.screen(1)] == ["y" * 80, "y"]
    assert cursor(rig) == (24, 1)


def test_the_cursors_shape_reaches_the_crtc(rig):
    rig.call(0x10, ax=0x0100, cx=0x0607)
    assert rig.latches.written[-4:] == [(0x3D4, 0x0A), (0x3D5, 6), (0x3D4, 0x0B), (0x3D5, 7)]


def test_cursor_reaches_the_crtc(rig):
    rig.call(0x10, ax=0x0200, dx=0x0203)
    assert rig.latches.written[-4:] == [(0x3D4, 0x0E), (0x3D5, 0), (0x3D4, 0x0F), (0x3D5, 163)]


def test_mode_set_clears_and_mode_get_says_so(rig):
    write(rig, "junk")
    rig.call(0x10, ax=0x0003)
    assert rig.screen(0) == ""
    assert cursor(rig) == (0, 0)
    regs = rig.call(0x10, ax=0x0F00)
    assert (regs.rax, regs.rbx >> 8) == (0x5003, 0)


def test_mode_set_with_bit_7_keeps_the_screen(rig):
    write(rig, "kept")
    rig.call(0x10, ax=0x0083)
    assert rig.screen(0) == "kept"


def test_graphics_mode_is_refused(rig):
    assert rig.call(0x10, ax=0x0012).rflags & CF


@pytest.mark.parametrize("ax", [0x0012, 0x4F02])
def test_who_asks_for_graphics_is_warned_once(ax):
    warnings = []
    rig = Rig(warn=warnings.append)
    rig.call(0x10, ax=0x0003)
    rig.call(0x10, ax=0x4F00)  # only looks whether there is any
    assert warnings == []
    for _ in range(3):
        rig.call(0x10, ax=ax)
    assert warnings == [
        "the guest asks for a video mode that is not there: INT 10h has text, 13h and VBE"
    ]


@pytest.mark.parametrize(
    ("ax", "rows"),
    [(0x0601, ["b", "c", ""]), (0x0701, ["", "a", "b"]), (0x0600, ["", "", ""])],
    ids=["up", "down", "clear"],
)
def test_scroll_a_window(rig, ax, rows):
    write(rig, "a\r\nb\r\nc\r\nd")
    rig.call(0x10, ax=ax, bx=0x1F00, cx=0x0000, dx=0x024F)
    assert [rig.screen(row) for row in range(4)] == [*rows, "d"]


def test_scroll_of_a_window_leaves_its_surroundings(rig):
    write(rig, "abc\r\ndef")
    rig.call(0x10, ax=0x0601, bx=0x0700, cx=0x0001, dx=0x0101)
    assert [rig.screen(0), rig.screen(1)] == ["aec", "d f"]


def test_write_and_read_cells(rig):
    rig.call(0x10, ax=0x0200, dx=0x0500)
    rig.call(0x10, ax=0x0958, bx=0x004E, cx=3)
    assert rig.screen(5) == "XXX"
    assert rig.call(0x10, ax=0x0800).rax == 0x4E58
    rig.call(0x10, ax=0x0A59, cx=1)
    assert rig.call(0x10, ax=0x0800).rax == 0x4E59
    assert cursor(rig) == (5, 0)


@pytest.mark.parametrize(
    ("al", "after"), [(0, (0, 0)), (1, (3, 2)), (3, (3, 2))], ids=["stay", "move", "coloured"]
)
def test_write_string(rig, al, after):
    rig.memory.write_block(0x10100, b"o\x1fk\x2f" if al == 3 else b"ok", "guest")
    rig.call(0x10, ax=0x1300 | al, bx=0x0007, cx=2, dx=0x0300, bp=0x100)
    assert rig.screen(3) == "ok"
    assert cursor(rig) == after


def test_pages_have_their_own_cursor_and_text(rig):
    write(rig, "zero")
    rig.call(0x10, ax=0x0501)
    write(rig, "one")
    assert (rig.screen(0, 0), rig.screen(0, 1)) == ("zero", "one")
    assert (cursor(rig, 0), cursor(rig, 1)) == ((0, 4), (0, 3))


# --- INT 11h, 12h, 15h ----------------------------------------------------------------------------


def test_equipment_and_base_memory(rig):
    assert rig.call(0x11).rax & 0x30 == 0x20
    assert rig.call(0x12).rax == 639


def test_e820_walks_the_map():
    rig = Rig(reserved=[(31 * MIB, MIB, 3)])
    found, bx = [], 0
    while True:
        regs = rig.call(0x15, eax=0xE820, ebx=bx, ecx=24, edx=0x534D4150, edi=0x200)
        assert not regs.rflags & CF
        assert (regs.rax, regs.rcx) == (0x534D4150, 20)
        found.append(struct.unpack("<QQI", rig.memory.read_block(0x10200, 20)))
        bx = regs.rbx
        if not bx:
            break
    assert found == [
        (0, 0x9FC00, 1),
        (0x9FC00, 0x400, 2),
        (0xF0000, 0x10000, 2),
        (MIB, 30 * MIB, 1),
        (31 * MIB, MIB, 3),
    ]
    assert rig.call(0x15, eax=0xE820, ebx=9, ecx=24, edx=0x534D4150).rflags & CF


def test_older_memory_calls(rig):
    regs = rig.call(0x15, ax=0xE801, flags=0x203)
    assert (regs.rax, regs.rbx, regs.rcx, regs.rdx) == (15 << 10, 256, 15 << 10, 256)
    assert not regs.rflags & CF
    assert rig.call(0x15, ax=0x8800).rax == 31 << 10


def test_a20_is_open(rig):
    regs = rig.call(0x15, ax=0x2402, flags=0x203)
    assert (regs.rax, regs.rflags & CF) == (1, 0)
    assert rig.call(0x15, ax=0x2401, flags=0x203).rflags & CF == 0


def test_block_move(rig):
    rig.memory.write_block(2 * MIB, b"payload!", "guest")
    table = bytes(16) + struct.pack("<HHBBH", 0xFFFF, 0, 0x20, 0x93, 0)
    table += struct.pack("<HHBBH", 0xFFFF, 0x1234, 0, 0x93, 0)
    rig.memory.write_block(0x10300, table, "guest")
    regs = rig.call(0x15, ax=0x8700, cx=4, si=0x300)
    assert not regs.rflags & CF
    assert rig.memory.read_block(0x1234, 8) == b"payload!"


def test_a_wait_and_the_drives_of_its_own_are_saved(rig):
    rig.bios.insert(0, MemoryDisk(bytes(1440 * 1024)))
    rig.bios.disks[0].write(3, b"a" * 512)
    rig.call(0x15, ax=0x8600, cx=1, dx=0)
    state = rig.bios.save()
    again = deepcopy(state)
    rig.bios.disks[0].write(3, b"b" * 512)
    rig.bios.disks[0].write(9, b"c" * 1024)
    rig.bios._system._until = None
    assert rig.bios.save() != again
    rig.bios.load(state)
    assert rig.bios.save() == again == state
    assert rig.bios.disks[0].read(3, 1) == b"a" * 512
    assert rig.bios.disks[0].read(9, 2) == bytes(1024)
    assert rig.bios._system._until == 65_536_000
    rig.bios.insert(1, MemoryDisk(bytes(512)))
    with pytest.raises(StateError, match="other drives"):
        rig.bios.load(state)


def test_a_floppy_that_grew_is_short_again_when_loaded():
    floppy = Floppy(MemoryDisk(bytes(1000 * 512)))
    state = floppy.save()
    floppy.write(2000, b"x" * 512)
    assert floppy.save()["end"] == floppy.sectors == 2880
    grown = floppy.save()
    floppy.load(state)
    assert floppy.save() == state
    assert floppy.read(2000, 1) == bytes(512)
    floppy.load(grown)
    assert floppy.read(2000, 1) == b"x" * 512


def test_wait_comes_back_until_the_time_is_over(rig):
    assert rig.call(0x15, ax=0x8600, cx=1, dx=0).rflags & OF
    rig.time = 65_535_000
    assert rig.call(0x15, ax=0x8600, cx=1, dx=0).rflags & OF
    rig.time = 65_536_000
    assert not rig.call(0x15, ax=0x8600, cx=1, dx=0, flags=0x203).rflags & (OF | CF)


# --- INT 13h --------------------------------------------------------------------------------------


@pytest.fixture
def disk(rig):
    image = b"".join(struct.pack("<I", i) * 128 for i in range(4 * 63 * 16))
    disk = MemoryDisk(image)
    rig.bios.insert(0x80, disk)
    return disk


def test_read_by_chs(rig, disk):
    regs = rig.call(0x13, ax=0x0202, bx=0x400, cx=0x0105, dx=0x0380)  # cylinder 1, head 3, sector 5
    assert (regs.rflags & CF, regs.rax) == (0, 0x0002)
    lba = (1 * 16 + 3) * 63 + 4
    assert rig.memory.read_block(0x10400, 1024) == disk.read(lba, 2)


def test_write_by_chs_and_lba(rig, disk):
    rig.memory.write_block(0x10400, b"w" * 1024, "guest")
    assert not rig.call(0x13, ax=0x0301, bx=0x400, cx=0x0002, dx=0x80).rflags & CF
    assert disk.read(1, 1) == b"w" * 512
    packet(rig, 2, 7)
    assert not rig.call(0x13, ax=0x4300, si=0x50, dx=0x80).rflags & CF
    assert disk.read(7, 2) == b"w" * 1024


def packet(rig, count, lba, size=16):
    fields = struct.pack("<BBHHHQ", size, 0, count, 0x400, 0x1000, lba)
    rig.memory.write_block(0x10050, fields, "guest")


def test_read_by_lba(rig, disk):
    packet(rig, 3, 100)
    assert not rig.call(0x13, ax=0x4200, si=0x50, dx=0x80).rflags & CF
    assert rig.memory.read_block(0x10400, 1536) == disk.read(100, 3)


@pytest.mark.parametrize(
    ("regs", "status"),
    [
        ({"ax": 0x0201, "cx": 0x0000, "dx": 0x80}, 1),
        ({"ax": 0x0201, "cx": 0x0001, "dx": 0x1080}, 1),
        ({"ax": 0x0201, "cx": 0x0401, "dx": 0x80}, 1),
        ({"ax": 0x0200, "cx": 0x0001, "dx": 0x80}, 1),
        ({"ax": 0x0201, "cx": 0x0001, "dx": 0x81}, 1),
        ({"ax": 0x0201, "cx": 0x0001, "dx": 0x00}, 0x80),
        ({"ax": 0x4200, "si": 0x60, "dx": 0x80}, 1),
        ({"ax": 0x5500, "dx": 0x80}, 1),
    ],
    ids=[
        "sector 0", "no such head", "past the end", "no sectors", "no such disk", "no floppy",
        "packet too small", "unknown function",
    ],
)  # fmt: skip
def test_disk_errors(rig, disk, regs, status):
    after = rig.call(0x13, **regs)
    assert after.rflags & CF
    assert after.rax >> 8 == status
    assert rig.call(0x13, ax=0x0100, dx=0x80).rax >> 8 == status


@pytest.mark.parametrize(
    ("error", "status"), [(PermissionError, 3), (OSError, 0x20)], ids=["read-only", "broken"]
)
@pytest.mark.parametrize("ax", [0x0201, 0x0301], ids=["read", "write"])
def test_a_disk_that_fails(rig, ax, error, status):
    class Failing(MemoryDisk):
        def read(self, lba, count):
            raise error

        def write(self, lba, data):
            raise error

    rig.bios.insert(0x80, Failing(bytes(4096)))
    regs = rig.call(0x13, ax=ax, cx=1, dx=0x80)
    assert (regs.rflags & CF, regs.rax) == (1, status << 8)  # AL: nothing transferred


def test_disk_parameters(rig, disk):
    regs = rig.call(0x13, ax=0x0800, dx=0x80)
    assert (regs.rcx & 0x3F, regs.rdx >> 8, regs.rdx & 0xFF) == (63, 15, 1)
    assert (regs.rcx >> 8 | (regs.rcx & 0xC0) << 2) == 3
    rig.memory.write(0x10050, 2, 0x42, "guest")
    regs = rig.call(0x13, ax=0x4800, si=0x50, dx=0x80)
    fields = struct.unpack("<HHIIIQH", rig.memory.read_block(0x10050, 26))
    assert fields == (26, 2, 4, 16, 63, 4 * 63 * 16, 512)
    regs = rig.call(0x13, ax=0x4100, bx=0x55AA, dx=0x80, flags=0x203)
    assert (regs.rflags & CF, regs.rbx, regs.rcx & 1) == (0, 0xAA55, 1)
    regs = rig.call(0x13, ax=0x1500, dx=0x80)
    assert (regs.rax >> 8, regs.rcx << 16 | regs.rdx) == (3, 4 * 63 * 16)
    assert rig.memory.read(0x475, 1) == 1


def test_floppy_parameters(rig):
    rig.bios.insert(0, MemoryDisk(bytes(1440 * 1024)))
    regs = rig.call(0x13, ax=0x0800, dx=0)
    assert (regs.rcx, regs.rdx, regs.rbx & 0xFF) == (79 << 8 | 18, 0x0101, 4)
    assert rig.call(0x11).rax & 1


def test_a_short_floppy_reads_as_zeros_up_to_its_geometry(rig):
    rig.bios.insert(0, MemoryDisk(b"a" * 1024))
    rig.memory.write_block(0x10400, b"z" * 1024, "guest")
    assert not rig.call(0x13, ax=0x0202, bx=0x400, cx=0x0002, dx=0).rflags & CF
    assert rig.memory.read_block(0x10400, 1024) == b"a" * 512 + bytes(512)
    assert not rig.call(0x13, ax=0x0201, bx=0x400, cx=0x4F12, dx=0x0100).rflags & CF
    assert rig.call(0x13, ax=0x0202, bx=0x400, cx=0x4F12, dx=0x0100).rflags & CF


@pytest.mark.parametrize("snapshot", [False, True], ids=["file", "snapshot"])
def test_a_write_behind_a_short_floppys_end_is_kept_and_makes_it_whole(rig, tmp_path, snapshot):
    image = tmp_path / "a.img"
    image.write_bytes(b"a" * 700)
    disk = Disk(image, snapshot=snapshot)
    rig.bios.insert(0, disk)
    rig.memory.write_block(0x10400, b"w" * 512, "guest")
    assert not rig.call(0x13, ax=0x0301, bx=0x400, cx=0x0005, dx=0).rflags & CF
    assert not rig.call(0x13, ax=0x0205, bx=0x600, cx=0x0001, dx=0).rflags & CF
    expected = (b"a" * 700).ljust(2048, b"\0") + b"w" * 512
    assert rig.memory.read_block(0x10600, 2560) == expected
    rig.bios.disks[0].close()
    whole = b"a" * 700 if snapshot else expected.ljust(2880 * 512, b"\0")
    assert image.read_bytes() == whole


def test_a_memory_disk_grows_where_it_is_written_beyond_its_end():
    disk = MemoryDisk(b"a" * 512)
    disk.write(2, b"c" * 512)
    assert disk.read(0, 4) == b"a" * 512 + bytes(512) + b"c" * 512 + bytes(512)


@pytest.mark.parametrize(
    ("sectors", "floppy", "shape"),
    [
        (1, False, (1, 16, 63)),
        (1024 * 16 * 63, False, (1024, 16, 63)),
        (1024 * 16 * 63 + 1, False, (512, 32, 63)),
        (1 << 32, False, (1024, 255, 63)),
        (1, True, (80, 2, 18)),
        (2880, True, (80, 2, 18)),
        (1440, True, (80, 2, 9)),
        (5760, True, (80, 2, 36)),
    ],
)
def test_geometry(sectors, floppy, shape):
    assert geometry_of(sectors, floppy=floppy) == shape


# --- INT 09h, 16h ---------------------------------------------------------------------------------


def press(rig, *codes):
    """Let the keyboard interrupt once for each scan code."""
    rig.latches.queued[0x64] = [1]
    for code in codes:
        rig.latches.queued[0x60] = [code]
        rig.call(0x09)
    rig.latches.queued[0x64] = [0]


@pytest.mark.parametrize(
    ("codes", "word"),
    [
        ([0x1E], 0x1E61),
        ([0x2A, 0x1E], 0x1E41),
        ([0x36, 0x02], 0x0221),
        ([0x3A, 0xBA, 0x1E], 0x1E41),
        ([0x3A, 0x2A, 0x1E], 0x1E61),
        ([0x3A, 0x02], 0x0231),
        ([0x1D, 0x2E], 0x2E03),
        ([0x38, 0x2D], 0x2D00),
        ([0x1C], 0x1C0D),
        ([0x01], 0x011B),
        ([0x39], 0x3920),
        ([0x3B], 0x3B00),
        ([0x57], 0x8500),
        ([0x48], 0x4800),
        ([0xE0, 0x48], 0x4800),
        ([0x45, 0x48], 0x4838),
        ([0x2A, 0xAA, 0x1E], 0x1E61),
    ],
    ids=[
        "a", "shift a", "right shift 1", "caps a", "caps shift a", "caps 1", "ctrl c", "alt x",
        "enter", "escape", "space", "f1", "f11", "keypad up", "grey up", "num 8", "shift released",
    ],
)  # fmt: skip
def test_keys(rig, codes, word):
    press(rig, *codes)
    regs = rig.call(0x16, ax=0x0100)
    assert (regs.rflags & ZF, regs.rax) == (0, word)
    assert rig.call(0x16, ax=0).rax == word
    assert rig.call(0x16, ax=0x0100).rflags & ZF


def test_extended_read_keeps_the_grey_mark(rig):
    press(rig, 0xE0, 0x48)
    assert rig.call(0x16, ax=0x1000).rax == 0x48E0


@pytest.mark.parametrize("codes", [[0x9E], [0x2A], [0xE0, 0x2A], [0x54]])
def test_no_key_comes_of(rig, codes):
    press(rig, *codes)
    assert rig.call(0x16, ax=0x0100).rflags & ZF


def test_get_waits_for_a_key(rig):
    regs = rig.call(0x16, ax=0x0000)
    assert regs.rflags & SF
    assert regs.rax == 0
    press(rig, 0x1E)
    regs = rig.call(0x16, ax=0x0000, flags=regs.rflags)
    assert not regs.rflags & SF
    assert regs.rax == 0x1E61


def test_get_polls_the_controller_where_no_interrupt_comes(rig):
    rig.latches.queued = {0x64: [1, 1, 0], 0x60: [0x1E, 0x9E]}
    assert rig.call(0x16, ax=0x0000).rax == 0x1E61


def test_ring_holds_15_keys_and_keeps_their_order(rig):
    press(rig, *range(0x10, 0x10 + 10), *range(0x1E, 0x1E + 9))
    got = []
    while not rig.call(0x16, ax=0x0100).rflags & ZF:
        got.append(rig.call(0x16, ax=0).rax >> 8)
    assert got == [*range(0x10, 0x1A), *range(0x1E, 0x23)]


def test_pushed_key_and_shift_flags(rig):
    rig.call(0x16, ax=0x0500, cx=0x1234)
    assert rig.call(0x16, ax=0).rax == 0x1234
    press(rig, 0x2A, 0x1D)
    assert rig.call(0x16, ax=0x0200).rax & 0xFF == 0b110


# --- INT 08h, 14h, 1Ah ----------------------------------------------------------------------------


def test_ticks_are_counted_and_roll_over_at_midnight(rig):
    for _ in range(3):
        rig.call(0x08)
    regs = rig.call(0x1A, ax=0)
    assert (regs.rcx, regs.rdx, regs.rax & 0xFF) == (0, 3, 0)
    rig.call(0x1A, ax=0x0100, cx=0x18, dx=0x00AF)
    rig.call(0x08)
    regs = rig.call(0x1A, ax=0)
    assert (regs.rcx, regs.rdx, regs.rax & 0xFF) == (0, 0, 1)


def test_clock_is_read_from_cmos(rig):
    rig.latches.queued[0x71] = [0x56, 0x34, 0x12]
    regs = rig.call(0x1A, ax=0x0200)
    assert (regs.rcx, regs.rdx >> 8) == (0x1234, 0x56)
    rig.latches.queued[0x71] = [0x31, 0x12, 0x24, 0x20]
    regs = rig.call(0x1A, ax=0x0400)
    assert (regs.rcx, regs.rdx) == (0x2024, 0x1231)


def test_serial_port(rig):
    rig.latches.queued = {0x3FD: [0x61], 0x3F8: [0x41]}
    rig.call(0x14, ax=0x0158)
    assert (0x3F8, 0x58) in rig.latches.written
    assert rig.call(0x14, ax=0x0200).rax & 0xFF == 0x41


@pytest.mark.parametrize(
    ("codes", "held"),
    [
        ([0x1D], 0x0104), ([0xE0, 0x1D], 0x0404), ([0x38], 0x0208), ([0xE0, 0x38], 0x0808),
        ([0x3A], 0x4040), ([0x45], 0x2020), ([0x46], 0x1010), ([0x54], 0x8000), ([0x2A], 0x0002),
        ([0x1D, 0xE0, 0x1D, 0x9D], 0x0404), ([0x38, 0xB8], 0), ([0xE1, 0x1D, 0x45], 0),
        ([0xE0, 0x52], 0x0080),
    ],
    ids=["left Ctrl", "right Ctrl", "left Alt", "right Alt", "Caps Lock", "Num Lock",
         "Scroll Lock", "SysRq", "Shift", "one Ctrl of two", "Alt released", "Pause", "Insert"],
)  # fmt: skip
def test_what_is_held_down(rig, codes, held):
    press(rig, *codes)
    assert rig.call(0x16, ax=0x1200).rax == held


@pytest.mark.parametrize(
    ("codes", "old", "new"),
    [
        ([0xE0, 0x1C], 0x1C0D, 0xE00D),
        ([0xE0, 0x35], 0x352F, 0xE02F),
        ([0xE0, 0x48], 0x4800, 0x48E0),
    ],
    ids=["grey Enter", "grey /", "grey up"],
)
def test_grey_keys_are_known_to_new_functions_only(rig, codes, old, new):
    press(rig, *codes, *codes)
    assert rig.call(0x16, ax=0x0000).rax == old
    assert rig.call(0x16, ax=0x1000).rax == new


@pytest.mark.parametrize("base", [SERVICE_PORT, SERVICE_PORT & ~7, 0xFFFF, 0x60])
@pytest.mark.parametrize("ax", [0x0000, 0x0141, 0x0200, 0x0300])
def test_a_serial_port_that_the_guest_has_made_up_does_no_harm(rig, base, ax):
    rig.memory.write(0x400, 2, base, "guest")
    rig.call(0x14, ax=ax)
    rig.call(0x14, ax=ax, dx=0xFFFF)


def test_a_service_that_reaches_the_service_port_is_not_served_again(rig):
    calls = []

    def serve(call):
        calls.append(call.vector)
        rig.ports.write(SERVICE_PORT, 1, 0)

    rig.bios._video.functions[0x77] = serve
    rig.call(0x10, ax=0x7700)
    assert calls == [0x10]
