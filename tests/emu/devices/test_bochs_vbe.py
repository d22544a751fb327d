# SPDX-License-Identifier: GPL-2.0-or-later
"""Bochs' display: the registers, the framebuffer behind BAR 0, and the pictures of it."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.bochs_vbe import FRAMEBUFFER, VIDEO_MEMORY, BochsDisplay, DisplayMode, VgaFunction
from emu.devices.pci import PciHost
from emu.devices.picture import Picture, from_framebuffer
from emu.machine import Machine
from emu.ports import PortBus
from guests import load
from mmu.memory import Memory

X, Y, BPP, ENABLE, VIRT_WIDTH, X_OFFSET, Y_OFFSET = 1, 2, 3, 4, 6, 8, 9


class Board:
    def __init__(self):
        self.memory = Memory()
        self.memory.add_ram(0, 1 << 20)
        self.function = VgaFunction()
        self.pci = PciHost({(2, 0): self.function}, lambda hard: None)
        self.display = BochsDisplay(self.memory, self.function)
        self.bus = PortBus()
        self.bus.add(*BochsDisplay.PORTS, self.display, width=2)
        self.bus.add(0xCF8, 0xCFF, self.pci, width=4)

    def w(self, index, value):
        self.bus.write(0x1CE, 2, index)
        self.bus.write(0x1CF, 2, value)

    def r(self, index):
        self.bus.write(0x1CE, 2, index)
        return self.bus.read(0x1CF, 2)

    def mode(self, width, height, depth, flags=0x41):
        for index, value in ((ENABLE, 0), (X, width), (Y, height), (BPP, depth), (ENABLE, flags)):
            self.w(index, value)

    def bar(self, value):
        self.bus.write(0xCF8, 4, 0x8000_1010)
        self.bus.write(0xCFC, 4, value)
        return self.bus.read(0xCFC, 4)

    def framebuffers(self):
        return [slot.gpa for slot in self.memory.slots() if slot.purpose == "video"]


@pytest.fixture
def board():
    return Board()


class TestRegisters:
    def test_the_version_is_bochs_newest(self, board):
        assert board.r(0) == 0xB0C5
        assert board.r(10) == VIDEO_MEMORY >> 16

    def test_a_mode(self, board):
        board.mode(640, 480, 32)
        assert board.display.mode == DisplayMode(640, 480, 32, 2560, 0)
        board.w(Y_OFFSET, 2)
        assert board.display.mode.start == 5120

    def test_sizes_stay_while_it_is_on(self, board):
        board.mode(640, 480, 32)
        board.w(X, 800)
        assert board.r(X) == 640

    def test_capabilities(self, board):
        board.w(ENABLE, 2)
        assert [board.r(n) for n in (X, Y, BPP)] == [2560, 1600, 32]

    def test_a_mode_that_does_not_fit_stays_off(self, board):
        board.mode(0, 0, 32)
        assert board.display.mode is None
        assert board.framebuffers() == []

    def test_the_framebuffer_is_cleared_unless_it_is_asked_not_to(self, board):
        board.mode(320, 200, 32)
        board.memory.write(FRAMEBUFFER, 4, 0x1234, "device")
        board.mode(320, 200, 32, 0xC1)
        assert board.memory.read(FRAMEBUFFER, 4) == 0x1234
        board.mode(320, 200, 32)
        assert board.memory.read(FRAMEBUFFER, 4) == 0


class TestBar:
    def test_its_size_is_told(self, board):
        assert board.bar(0xFFFF_FFFF) == 0xFF00_0008

    def test_the_framebuffer_moves_with_it(self, board):
        board.mode(320, 200, 32)
        board.memory.write(FRAMEBUFFER, 4, 7, "device")
        board.bar(0xE000_0000)
        assert board.framebuffers() == [0xE000_0000]
        board.mode(320, 200, 32, 0xC1)
        assert board.memory.read(0xE000_0000, 4) == 7

    def test_over_ram_it_stays_where_it_was(self, board):
        board.mode(320, 200, 32)
        board.bar(0)
        assert board.framebuffers() == [FRAMEBUFFER]
        assert board.memory.slot_at(0).purpose == "main"

    def test_reset_brings_it_back(self, board):
        board.mode(320, 200, 32)
        board.bar(0xE000_0000)
        board.pci.reset()
        board.display.reset()
        assert board.framebuffers() == [FRAMEBUFFER]
        assert board.display.mode is None


class TestSaving:
    def test_what_was_saved_goes_on(self, board):
        board.mode(640, 480, 16)
        board.bar(0xE000_0000)
        other = Board()
        other.pci.load(board.pci.save())
        other.display.load(board.display.save())
        assert other.display.mode == board.display.mode
        assert other.framebuffers() == [0xE000_0000]
        assert other.display.save() == board.display.save()

    def test_before_the_first_mode_there_is_no_framebuffer(self, board):
        state = Board().display.save()
        board.mode(640, 480, 16)
        board.display.load(state)
        assert board.framebuffers() == []


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 0xFFFF)), max_size=30))
def test_no_program_shows_more_than_the_video_memory(program):
    board = Board()
    for index, value in [*program, (ENABLE, 0x41)]:
        if index == 12:
            board.bar(value << 16)
        else:
            board.w(index, value)
        mode = board.display.mode
        if mode is not None:
            assert mode.start + mode.height * mode.pitch <= VIDEO_MEMORY + mode.pitch
            assert mode.width * mode.height * mode.depth // 8 <= VIDEO_MEMORY
    assert len(board.framebuffers()) <= 1


PIXELS = {
    8: (b"\x01", b"\x0a\x0b\x0c"),
    15: (struct.pack("<H", 31 << 10 | 1), b"\xff\x00\x08"),
    16: (struct.pack("<H", 31 << 11 | 1 << 5), b"\xff\x04\x00"),
    24: (b"\1\2\3", b"\3\2\1"),
    32: (b"\1\2\3\0", b"\3\2\1"),
}


@pytest.mark.parametrize("depth", PIXELS)
def test_a_pixel_of_each_depth(depth):
    pixel, rgb = PIXELS[depth]
    palette = [b"\0\0\0", b"\x0a\x0b\x0c"]
    picture = from_framebuffer(pixel * 2, DisplayMode(2, 1, depth, 2 * len(pixel), 0), palette)
    assert picture == Picture(2, 1, rgb * 2)


def decode(png):
    """The pixels of a PNG file that `Picture.png` has written."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts = 8, {}
    while at < len(png):
        (size,) = struct.unpack_from(">I", png, at)
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", png, at + 8 + size)[0] == zlib.crc32(kind + data)
        parts[kind] = data
        at += 12 + size
    width, height = struct.unpack_from(">II", parts[b"IHDR"])
    lines = zlib.decompress(parts[b"IDAT"])
    row = 3 * width + 1
    return Picture(
        width, height, b"".join(lines[y * row + 1 : y * row + row] for y in range(height))
    )


class TestPictures:
    def test_a_png_file_has_the_pixels(self):
        picture = Picture(2, 2, bytes(range(12)))
        assert decode(picture.png()) == picture

    def test_the_guests_sunset_is_the_committed_one(self):
        guest = load("picture")
        golden = guest.path.parents[1] / "expected" / "picture.png"
        with Machine(guest.path) as m:
            assert m.run(timeout=60).exit_code == 33
            assert m.screen.has_pixels
            assert m.screen.image == decode(golden.read_bytes())
            assert m.screen.text == ""

    def test_the_framebuffer_is_no_usable_ram(self):
        with Machine(load("picture").path) as m:
            before = m.guest_memory.ram_bytes()
            m.run(timeout=60)
            assert m.guest_memory.ram_bytes() == before

    def test_mode_13h_has_256_colours(self):
        # mov ax, 13h; int 10h; es = a000h; mov byte es:[0], 40; al = 10h; out 0f4h, al; hlt
        code = bytes.fromhex("b81300 cd10 b800a0 8ec0 26c606000028 b010 e6f4 f4")
        with Machine(code.ljust(510, b"\0") + b"\x55\xaa") as m:
            assert m.run(timeout=60).guest_code == 0x10
            image = m.screen.image
        assert (image.width, image.height) == (320, 200)
        assert image.rgb[:6] == b"\xff\0\0\0\0\0"  # colour 40 is red

    def test_text_is_drawn_with_the_fonts_of_the_firmware(self):
        # mov ax, 0edbh; int 10h (a full block); al = 10h; out 0f4h, al; hlt
        code = bytes.fromhex("b8db0e cd10 b010 e6f4 f4")
        with Machine(code.ljust(510, b"\0") + b"\x55\xaa") as m:
            m.run(timeout=60)
            m.phys[0xB8000:0xB8002] = b"\xdb\x1f"
            image = m.screen.image
        assert (image.width, image.height) == (640, 400)
        assert image.rgb[: 3 * 9] == b"\xff" * 24 + b"\0\0\0"


@pytest.mark.parametrize("mmu", ["shadow", "uncached"])
@pytest.mark.parametrize("jit", ["auto", "off"])
def test_a_guest_that_moves_the_framebuffer_under_its_stores(mmu, jit):
    """BAR 0 goes round through all of its values, with a store to each, RAM and devices too."""
    code = bytes.fromhex(
        "fa 0f0116707c 0f20c0 0c01 0f22c0 ea137c0800"  # cli; lgdt [7c70h]; CR0.PE; jmp 8:7c13h
        "b810000000 8ed8"  # ds = 10h, flat
        "31db"  # ebx = 0
        "b810100080 66baf80c ef 89d8 66bafc0c ef"  # BAR 0 = ebx
        "8903 81c300000001 75e6"  # [ebx] = eax; next; again
        "b010 e6f4 f4"
    )
    sector = bytearray(code.ljust(510, b"\0") + b"\x55\xaa")
    sector[0x80:0x98] = struct.pack("<3Q", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF)
    sector[0x70:0x76] = struct.pack("<HI", 23, 0x7C80)
    with Machine(bytes(sector), mmu=mmu, jit=jit, memory=32 << 20) as m:
        for index, value in ((X, 320), (Y, 200), (BPP, 32), (ENABLE, 0x41)):
            m.ports.write(0x1CE, 2, index)
            m.ports.write(0x1CF, 2, value)
        outcome = m.run(timeout=60)
        assert outcome.guest_code == 0x10, outcome
        assert len([s for s in m.guest_memory.slots() if s.purpose == "video"]) == 1
