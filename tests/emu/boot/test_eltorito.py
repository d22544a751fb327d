# SPDX-License-Identifier: GPL-2.0-or-later
"""CDs: the boot catalogue, what a boot image finds, and beside QEMU; GRUB's and ISOLINUX' discs."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from emu.board import BoardOptions
from emu.cli import main
from emu.devices.disk import Disk
from emu.errors import KernelError
from emu.machine import Machine
from emu.outcome import Kind
from guests import load

from ..beside import EXIT, here, needs_qemu, under_qemu
from .calls import answers, call
from .iso import BLOCK, IMAGE, iso

_SAVE = bytes.fromhex(
    "9c 1e 06 6660 fc 161f 89e6 b92600 bae900 f36e 6661 07 1f 9d c3"  # as in calls.py
)
_TELL = bytes.fromhex("88d0 e6e9")  # mov al, dl; out 0e9h, al
_START = bytes.fromhex("fa 31db 8edb 8ec3 8ed3 bc0070 fb")  # cli; segments 0; sp = 7000h; sti
PACKET = struct.pack("<BBHHHQ", 16, 0, 1, 0x4000, 0, IMAGE + 6)


def boot_code(calls, size=4 * BLOCK):
    """A boot image that sends DL, makes `calls` (see calls.py) and exits; loaded to 0x7c00."""
    code = bytearray(_TELL + _START)
    code += b"\xeb" + bytes((len(_SAVE),))
    save = 0x7C00 + len(code)
    code += _SAVE
    for one in calls:
        before, _, after = one.code(save)
        code += before
        code += b"\xe8" + struct.pack("<h", save - (0x7C00 + len(code) + 3)) + after
    code += EXIT
    return bytes(code).ljust(510, b"\0") + b"\x55\xaa" + bytes(size - 512)


def disc(calls, **options):
    return iso(boot_code(calls), count=16, blocks=IMAGE + 8, **options)


CALLS = [
    call(0x13, "reset", ah=0, dl=0xE0),
    call(0x13, "extensions", ah=0x41, bx=0x55AA, dl=0xE0),
    call(0x13, "read", ah=0x42, dl=0xE0, si=0x3000, put=(0x3000, PACKET), dump=(0x4000, 8)),
    call(0x13, "write", ah=0x43, dl=0xE0, si=0x3000, put=(0x3000, PACKET)),
    call(0x13, "status", ax=0x4B01, dl=0xE0, si=0x3100, dump=(0x3100, 19)),
    call(0x13, "parameters", ah=0x48, dl=0xE0, si=0x3200, put=(0x3200, b"\x1a\0"),
         dump=(0x3200, 26)),
]  # fmt: skip


def told(sent, calls):
    return sent[0], answers(sent[1:], calls)


@pytest.fixture(scope="module")
def answered():
    drive, found = told(here(disc(CALLS)), CALLS)
    assert drive == 0xE0
    return {one.name: answer for one, answer in zip(CALLS, found, strict=True)}


class TestNoEmulation:
    def test_there_are_extensions(self, answered):
        assert answered["extensions"].bx == 0xAA55
        assert not answered["extensions"].flags & 1

    def test_blocks_have_2048_bytes(self, answered):
        assert answered["read"].ah == 0
        assert answered["read"].data == struct.pack("<I", IMAGE + 6) * 2

    def test_it_cannot_be_written(self, answered):
        assert answered["write"].ah == 0x03
        assert answered["write"].flags & 1

    def test_the_packet_of_function_4b_names_drive_and_image(self, answered):
        packet = struct.unpack("<BBBBIHHHHBBB", answered["status"].data)
        assert packet == (0x13, 0, 0xE0, 0, IMAGE, 0, 0, 0x7C0, 16, 0, 0, 0)

    def test_parameters(self, answered):
        size, flags, *_, block = struct.unpack("<HHIIIQH", answered["parameters"].data)
        assert (size, flags, block) == (26, 0x74, BLOCK)


EMULATED = [
    call(0x13, "read", ax=0x0201, bx=0x4000, cx=0x0002, dx=0x0000, dump=(0x4000, 8)),
    call(0x13, "write", ax=0x0301, bx=0x4000, cx=0x0002, dx=0x0000),
    call(0x13, "parameters", ah=0x08, dl=0),
    call(0x13, "status", ax=0x4B01, dl=0x00, si=0x3100, dump=(0x3100, 3)),
    call(0x13, "end", ax=0x4B00, dl=0x7F, si=0x3100),
    call(0x13, "gone", ax=0x0201, bx=0x4000, cx=0x0002, dx=0x0000),
]


class TestEmulation:
    @pytest.mark.parametrize(("media", "sectors"), [(1, 15), (2, 18), (3, 36)])
    def test_a_floppy(self, media, sectors):
        image = bytearray(boot_code(EMULATED))
        image[512:520] = b"sector 2"
        drive, found = told(here(iso(bytes(image), media=media, count=1)), EMULATED)
        read, write, parameters, status, end, gone = found
        assert drive == 0
        assert read.data == b"sector 2"
        assert write.ah == 0x03
        assert (parameters.ch, parameters.cl, parameters.dh, parameters.dl) == (79, sectors, 1, 1)
        assert status.data == bytes((0x13, media, 0))
        assert end.ah == 0
        assert gone.ah == 0x80  # no such drive any more

    def test_a_hard_disk_has_the_geometry_of_its_partition(self, tmp_path):
        calls = [
            call(0x13, "parameters", ah=0x08, dl=0x80),
            call(0x13, "read", ax=0x0201, bx=0x4000, cx=0x0002, dx=0x0080, dump=(0x4000, 8)),
            call(0x13, "other", ax=0x0201, bx=0x4000, cx=0x0001, dx=0x0081, dump=(0x4000, 4)),
        ]
        image = bytearray(boot_code(calls))
        image[512:520] = b"sector 2"
        image[0x1BE:0x1CE] = struct.pack("<BBBBBBBBII", 0x80, 0, 1, 0, 6, 3, 17, 9, 17, 663)
        whole = iso(bytes(image), media=4, count=1)
        path = tmp_path / "disk"
        path.write_bytes(b"real".ljust(64 * 512, b"\0"))
        board = BoardOptions(disks={0: Disk(path, read_only=True)})
        drive, (parameters, read, other) = told(here(whole, board=board), calls)
        assert drive == 0x80
        assert (parameters.ch, parameters.cl, parameters.dh, parameters.dl) == (9, 17, 3, 2)
        assert read.data == b"sector 2"
        assert other.data == b"real"


@needs_qemu
@pytest.mark.parametrize("media", [0, 2], ids=["no emulation", "floppy"])
def test_a_cd_beside_qemu(media, tmp_path):
    """DL, the data, and what AX=4B01h says are QEMU's."""
    calls = CALLS[2:5] if media == 0 else EMULATED[:4]
    image = iso(boot_code(calls), media=media, count=16 if media == 0 else 1, blocks=IMAGE + 800)
    theirs = told(under_qemu(tmp_path, image, "-boot", "d", drive="-cdrom"), calls)
    ours = told(here(image), calls)
    assert ours[0] == theirs[0]
    for one, mine, other in zip(calls, ours[1], theirs[1], strict=True):
        assert (mine.ah, mine.flags & 1) == (other.ah, other.flags & 1), one.name
        if one.name == "status":
            assert mine.data[:3] + mine.data[4:12] == other.data[:3] + other.data[4:12]
        else:
            assert mine.data == other.data, one.name


class TestBadDiscs:
    @pytest.mark.parametrize(
        ("image", "reason"),
        [
            (disc([])[: -3 * BLOCK], r"cut short: its volume has 28 blocks .* the file 25"),
            (bytes(512), "cut short: 1 blocks, no volume descriptor"),
            (bytes(64 * BLOCK), "no El Torito boot record"),
            (disc([], bootable=0), "first entry cannot be booted"),
            (disc([], media=7), "unknown kind of image, 7"),
            (disc([], checksum=1), "validation entry is wrong"),
            (iso(bytes(512), count=0xFFFF), "its boot image at block 20 ends after the file"),
        ],
        ids=["volume cut", "one sector", "data only", "not bootable", "media", "sum", "image cut"],
    )
    def test_it_is_refused_with_a_reason(self, image, reason):
        with pytest.raises(KernelError, match=reason):
            Machine(image, format="cd", memory=8 << 20)

    def test_the_first_of_two_drives_is_booted_and_saved(self, tmp_path):
        path = tmp_path / "a.iso"
        path.write_bytes(disc(CALLS[:1]))
        with Machine(path, memory=8 << 20) as m:
            assert m.boot.format == "cd"
            clock, state = m.clock.save(), m.board.save()
            m.clock.load(clock)
            m.board.load(state)
            assert m.run(timeout=60).guest_code == 0x10


class TestCommandLine:
    @pytest.mark.parametrize(
        "words",
        [["{}"], ["-cdrom", "{}"], ["-drive", "file={},media=cdrom,index=0"], ["-cdrom", "{}",
         "-hda", "{}.disk", "-boot", "d"], ["-cdrom", "{}", "-hda", "{}.disk"]],
        ids=["kernel", "cdrom", "drive", "boot d", "a disk that cannot be booted comes first"],
    )  # fmt: skip
    def test_a_cd_is_booted(self, words, tmp_path):
        path = tmp_path / "a.iso"
        path.write_bytes(disc([]))
        Path(f"{path}.disk").write_bytes(bytes(1 << 16))
        line = ["run", *(word.format(path) for word in words), "-display", "none"]
        assert main([*line, "--timeout", "60"]) == 33

    def test_a_disc_that_cannot_be_booted_says_so(self, tmp_path, capsys):
        path = tmp_path / "a.iso"
        path.write_bytes(bytes(64 * BLOCK))
        assert main(["run", "-cdrom", str(path)]) == 2
        assert "the CD image has no El Torito boot record" in capsys.readouterr().err

    def test_a_cd_that_is_missing_says_so(self, tmp_path, capsys):
        assert main(["run", "-cdrom", str(tmp_path / "none.iso")]) == 2
        assert "none.iso: no such file" in capsys.readouterr().err


GRUB = shutil.which("grub-mkrescue") and shutil.which("xorriso") and shutil.which("mformat")
CONFIGURATION = """\
set timeout=0
serial --unit=0
terminal_output serial
multiboot /boot/hello.elf
boot
"""


def rescue(root, first=""):
    """Make a disc of GRUB's whose configuration begins with `first`."""
    tree = root / "tree"
    (tree / "boot" / "grub").mkdir(parents=True)
    (tree / "boot" / "grub" / "grub.cfg").write_text(first + CONFIGURATION, encoding="utf-8")
    shutil.copy(load("hello").path, tree / "boot" / "hello.elf")
    command = ["grub-mkrescue", "-o", str(root / "grub.iso"), str(tree)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return root / "grub.iso"


@pytest.mark.skipif(not GRUB, reason="grub-mkrescue, xorriso and mformat are not installed")
class TestGrub:
    @pytest.mark.parametrize("format", ["cd", "bootsector"])
    def test_its_disc_boots(self, tmp_path, format):
        with Machine(rescue(tmp_path), format=format) as m:
            outcome = m.run(timeout=300)
            assert outcome.kind is Kind.GUEST_EXIT, outcome
            assert load("hello").expected in m.serial.text.replace("\r", "")
            assert m.boot.format == format

    def test_its_own_driver_reads_the_drive(self, tmp_path):
        """GRUB's `nativedisk` takes the disk from the firmware and sends PACKET commands."""
        image = rescue(tmp_path, "nativedisk pata\n")
        with Machine(image) as m:
            packets = []
            drive = m.board.ide[0].drives[0]
            execute = drive.execute
            drive.execute = lambda packet: packets.append(packet[0]) or execute(packet)
            assert m.run(timeout=300).kind is Kind.GUEST_EXIT, m.screen.text
            assert 0x28 in packets or 0xA8 in packets


ISOLINUX = Path("/usr/lib/ISOLINUX/isolinux.bin")
LDLINUX = Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")


@pytest.mark.skipif(
    not (ISOLINUX.is_file() and LDLINUX.is_file() and shutil.which("xorriso")),
    reason="isolinux and xorriso are not installed",
)
def test_isolinux_starts_a_boot_sector(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for file in (ISOLINUX, LDLINUX):
        shutil.copy(file, tree)
    (tree / "isolinux.cfg").write_text(
        "SERIAL 0\nDEFAULT it\nLABEL it\nKERNEL it.bin\n", encoding="utf-8"
    )
    (tree / "it.bin").write_bytes(EXIT.ljust(510, b"\0") + b"\x55\xaa")
    image = tmp_path / "isolinux.iso"
    command = ["xorriso", "-as", "mkisofs", "-o", str(image), "-b", "isolinux.bin", "-c",
               "boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table",
               str(tree)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    with Machine(image) as m:
        assert m.run(timeout=300).guest_code == 0x10, m.screen.text
