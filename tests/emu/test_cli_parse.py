# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: QEMU's grammar, and what each option comes to."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest

from emu.cli import help as help_text
from emu.cli import qemu
from emu.cli.options import DebugExit, Drive, FwCfg
from emu.cli.parse import parse_run
from emu.errors import UsageError

from .beside import QEMU, needs_qemu

MIB = 1 << 20


def run(text):
    return parse_run(shlex.split(text))


def qemu_run(text):
    return parse_run(shlex.split(text), for_qemu=True)


@pytest.mark.parametrize(
    "text",
    [
        "-kernel k -append 'a b'",
        "--kernel k --append 'a b'",
        "k -append 'a b'",
        "-append 'a b' -- k",
        "--kernel=k --append='a b'",
    ],
)
def test_ways_to_write_an_option(text):
    options = run(text)
    assert (options.kernel, options.append) == ("k", "a b")


@pytest.mark.parametrize("value", ["-v", "--", "-kernel", "", "a=b"])
def test_an_argument_is_the_next_word_whatever_it_looks_like(value):
    assert parse_run(["k", "-append", value]).append == value


@pytest.mark.parametrize(
    ("text", "size"),
    [("128", 128), ("128M", 128), ("1G", 1024), ("size=64m", 64), ("2048k", 2), ("1.5G", 1536),
     ("256,slots=2,maxmem=1G", 256)],
)  # fmt: skip
def test_memory_sizes(text, size):
    assert run(f"k -m {text}").memory == size * MIB


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("4", 4), ("cpus=3", 3), ("2,cores=2,threads=1", 2), ("sockets=2,cores=4", 8),
     ("cores=4,maxcpus=8", 4)],
)  # fmt: skip
def test_smp(text, cpus):
    assert run(f"k -smp {text}").cpus == cpus


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        ("", ["stdio"]),
        ("-serial null", ["null"]),
        ("-serial none", ["null"]),
        ("-serial mon:stdio", ["stdio"]),
        ("-serial stdio -serial file:out.txt", ["stdio", "file:out.txt"]),
        ("-chardev file,id=f,path=x,,y -serial chardev:f", ["file:x,y"]),
        ("-serial chardev:s -chardev stdio,id=s,mux=on", ["stdio"]),
        ("-device isa-serial,chardev=s -chardev stdio,id=s", ["stdio"]),
        ("-nographic", ["stdio"]),
        ("-display none", ["stdio"]),
    ],
)
def test_serial(text, outputs):
    assert run(f"k {text}").serial == outputs


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        ("", ["stdio"]),
        ("-display none", ["null"]),
        ("-nographic", ["stdio"]),
        ("-nodefaults", ["null"]),
        ("-nodefaults -display none -serial stdio", ["stdio"]),
    ],
)
def test_serial_under_the_qemu_name(text, outputs):
    assert qemu_run(f"-kernel k {text}").serial == outputs


def test_debug_exit():
    assert run("k").debug_exit == DebugExit(0xF4, 4)
    assert qemu_run("-kernel k").debug_exit is None
    options = qemu_run("-kernel k -device isa-debug-exit,iobase=0xf4,iosize=0x04")
    assert options.debug_exit == DebugExit(0xF4, 4)
    assert qemu_run("-kernel k -device isa-debug-exit").debug_exit == DebugExit(0x501, 2)


def test_debugcon():
    assert run("k").debugcon == [(0xE9, "null")]
    assert run("k -debugcon stdio").debugcon == [(0xE9, "stdio")]
    text = "k -chardev stdio,id=d -device isa-debugcon,iobase=0x402,chardev=d"
    assert run(text).debugcon == [(0x402, "stdio"), (0xE9, "null")]
    assert qemu_run("-kernel k").debugcon == []


@pytest.mark.parametrize(
    ("words", "there"),
    [("", True), ("-no-hpet", False), ("-machine pc,hpet=off", False), ("-M pc,hpet=on", True)],
)
def test_whether_there_is_an_hpet(words, there):
    options = run(f"k {words}")
    assert options.hpet is there
    assert options.warnings == []


def test_kvm_unit_tests_command_line_passes_without_a_warning():
    options = qemu_run(
        "--no-reboot -nodefaults -global kvm-pit.lost_tick_policy=discard -device pc-testdev "
        "-device isa-debug-exit,iobase=0xf4,iosize=0x4 -display none -serial stdio "
        "-device pci-testdev -machine accel=tcg -kernel x86/smap.flat -smp 1 -cpu max,-smep "
        "-append 'a b' -initrd /tmp/env -vnc none -m 2048"
    )
    assert options.warnings == []
    assert options.test_device
    assert (options.kernel, options.cpu) == ("x86/smap.flat", "max,-smep")
    assert options.reboot is False


@pytest.mark.parametrize(
    ("words", "here", "under_qemu"),
    [
        ("", False, True),
        ("-no-reboot", False, False),
        ("-action reboot=reset", True, True),
        ("-action reboot=shutdown", False, False),
        ("-action panic=none", False, True),
        ("-no-reboot -action panic=none,reboot=reset", True, True),
    ],
)
def test_whether_a_reset_starts_the_machine_again(words, here, under_qemu):
    assert run(f"k {words}").reboot is here
    assert qemu_run(f"-kernel k {words}").reboot is under_qemu


def test_xv6_command_line_passes_without_a_warning():
    options = qemu_run(
        "-serial mon:stdio -drive file=fs.img,index=1,media=disk,format=raw "
        "-drive file=xv6.img,index=0,media=disk,format=raw -smp 2 -m 512"
    )
    assert options.warnings == []
    assert sorted(options.drives, key=lambda d: d.index) == [
        Drive("xv6.img", 0),
        Drive("fs.img", 1),
    ]


@pytest.mark.parametrize(
    ("text", "drive"),
    [
        ("-hda a.img", Drive("a.img", 0)),
        ("-hdd a.img", Drive("a.img", 3)),
        ("-drive format=raw,file=a.img", Drive("a.img", 0)),
        ("-drive file=a.img,snapshot=on", Drive("a.img", 0, snapshot=True)),
        ("-drive file=a.img,readonly=on,if=ide", Drive("a.img", 0, read_only=True)),
        ("-drive id=d,file=a.img,if=none -device ide-hd,drive=d", Drive("a.img", 0)),
        ("-drive file=a.img,bus=1", Drive("a.img", 2)),
        ("-drive file=a.img,unit=1", Drive("a.img", 1)),
        ("-drive file=a.img,bus=1,unit=1,media=disk", Drive("a.img", 3)),
        ("-drive id=d,file=a.img,if=none -device ide-hd,drive=d,bus=ide.1", Drive("a.img", 2)),
        ("-drive id=d,file=a.img,if=none -device ide-hd,drive=d,unit=1", Drive("a.img", 1)),
        ("a.img", Drive("a.img", 0)),
    ],
)
def test_disks(text, drive):
    options = qemu_run(text)
    assert options.drives == [drive]
    assert options.warnings == []


def test_a_bus_without_a_unit_is_its_first_free_one():
    options = qemu_run("-drive file=a,bus=1 -drive file=b,bus=1 -drive file=c")
    assert [(drive.path, drive.index) for drive in options.drives] == [("a", 2), ("b", 3), ("c", 0)]


def test_floppies():
    assert run("-fda boot.img").floppies == {0: Drive("boot.img", 0)}
    text = "-drive file=boot.img,if=floppy,index=1,snapshot=on"
    assert run(text).floppies == {1: Drive("boot.img", 1, snapshot=True)}


def test_fw_cfg():
    options = run("k -fw_cfg name=opt/a,string=x,,y -fw_cfg opt/b,file=f")
    assert options.fw_cfg == [FwCfg("opt/a", b"x,y"), FwCfg("opt/b", b"", "f")]


def test_our_own_options():
    options = run(
        "guest:hello --mmu uncached --shadow-pages 8 --audit --timeout 2.5 --max-insns 1000000 "
        "--quantum 100 --seed 7 --json out.json --summary --format flat32 --address 0x100000 "
        "--entry 0x100010 --audit-slices -d mmu,int -D log.txt -display none"
    )
    assert options.warnings == []
    assert (options.mmu, options.shadow_pages, options.audit) == ("uncached", 8, True)
    assert options.audit_slices
    assert (options.timeout, options.max_insns, options.quantum) == (2.5, 1_000_000, 100)
    assert (options.seed, options.json, options.summary) == (7, "out.json", True)
    assert (options.format, options.address, options.entry) == ("flat32", 0x100000, 0x100010)
    assert (options.log_items, options.log_file) == ({"mmu", "int"}, "log.txt")
    assert options.display == "none"


@pytest.mark.parametrize(
    "text",
    [
        "-device e1000",
        "-device virtio-net,netdev=n",
        "-machine microvm",
        "-nic model=e1000",
        "-net nic,model=rtl8139 -net user",
        "-net nic -net nic",
        "-vga cirrus",
        "-pflash code.fd -pflash vars.fd",
        "-drive if=pflash,format=raw,file=code.fd",
        "-boot n",
        "-usb",
        "-machine acpi=off",
        "-global x.y=z",
        "-serial pty",
        "-parallel stdio",
        "-bios ovmf.fd",
        "-d in_asm",
        "-drive file=a,if=virtio",
        "-drive file=a,if=none,id=d",
    ],
)
def test_what_is_not_to_be_had_warns_and_goes_on(text):
    options = run(f"k {text}")
    assert options.kernel == "k"
    assert len(options.warnings) == 1


@pytest.mark.parametrize(
    "text",
    ["-net none", "-nic none", "-net user", "-netdev user,id=n", "-vga std", "-monitor none",
     "-boot c", "-boot order=c,menu=on", "-machine pc,usb=off,acpi=on", "-machine accel=kvm"],
)  # fmt: skip
def test_what_changes_nothing_is_silent(text):
    assert run(f"k {text}").warnings == []


def test_the_table_agrees_with_what_is_parsed():
    from emu.cli import parse
    from emu.cli.table import OPTIONS, How

    for name, row in OPTIONS.items():
        assert (name in parse.TAKES_VALUE) is (row.how is How.DONE), name
        assert parse.TAKES_VALUE.get(name, row.takes_value) is row.takes_value, name
        assert row.why or row.how is How.DONE, name
    ours = {name for name in parse.TAKES_VALUE if name not in OPTIONS}
    assert "kernel" not in ours and "mmu" in ours


@needs_qemu
def test_the_table_has_every_option_of_qemu():
    """By its --help: names at the start of a line, the argument up to column 16, what it is for."""
    from emu.cli.table import OPTIONS

    text = subprocess.run([QEMU, "--help"], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in text.splitlines():
        for names in re.findall(r"^-(-?[\w/-]+)", line):
            for name in names.split("/"):
                argument = line[len(names) + 1 : 16].strip() if len(names) < 15 else None
                found[name.lstrip("-")] = None if argument is None else argument != ""
    found["help"] = found["h"] = False  # "-h or -help"
    assert len(found) > 100
    if "QEMU emulator version 7.2" not in version():
        pytest.skip("the table is QEMU 7.2's")
    assert set(OPTIONS) - set(found) == {"M", "curses"}
    assert set(found) <= set(OPTIONS)
    for name, takes_value in found.items():
        assert takes_value in (None, OPTIONS[name].takes_value), name


def version():
    return subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("words", "foreign"),
    [("k", True), ("k -device isa-debug-exit,iobase=0xf4,iosize=4", False)],
    ids=["not said", "isa-debug-exit"],
)
def test_only_qemus_power_off_ports_where_its_exit_device_is_asked_for(words, foreign):
    assert run(words).foreign_power is foreign
    assert not qemu_run(words.replace("k", "-kernel k", 1)).foreign_power


@pytest.mark.parametrize("name", sorted(qemu.SILENT))
def test_options_without_effect_are_silent(name):
    options = parse_run([f"-{name}", *(["value"] if qemu.SILENT[name].takes_value else []), "k"])
    assert (options.kernel, options.warnings) == ("k", [])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no kernel"),
        ("k k2", "one kernel"),
        ("k -loadvm x", "saved state"),
        ("k -incoming defer", "-incoming"),
        ("-boot d", "-boot d wants a CD: -cdrom FILE"),
        ("-cdrom a.iso -drive file=b.iso,media=cdrom,index=2", "two disks are to be number 2"),
        ("k -boot z", "no drive is called z"),
        ("k -frobnicate", "unknown option -frobnicate"),
        ("k --sumary", "did you mean -summary"),
        ("k --audit=yes", "unknown option"),
        ("k -append", "needs an argument"),
        ("k -m lots", "128M"),
        ("k -m 0", "-m"),
        ("k -m 4k", "1M"),
        ("k -m 1e9G", "-m"),
        ("k -m -5", "-m"),
        ("k -smp 0", "at least 1"),
        ("k -smp many", "number"),
        ("k -smp 17", "max CPUs"),
        ("k --timeout -1", "seconds"),
        ("k --timeout nan", "seconds"),
        ("k --timeout inf", "seconds"),
        ("k --shadow-pages 0", "at least 1"),
        ("k --max-insns x", "number"),
        ("k -serial what", "no character device"),
        ("k -serial chardev:x", "no -chardev"),
        ("k -chardev stdio", "id="),
        ("k -display hologram", "-display"),
        ("k -d everything", "-d everything"),
        ("k -drive format=raw", "file="),
        ("k -drive file=a,format=qcow2", "raw"),
        ("k -hda a -hda b", "two disks"),
        ("k -drive file=a,index=9", "four disks"),
        ("k -drive file=a,bus=2", "four disks"),
        ("k -drive file=a,unit=2", "units 0 and 1"),
        ("k -drive file=a,index=1,unit=0", "either"),
        ("k -hda a -drive file=b,bus=0,unit=0", "two disks"),
        ("k -device isa-debug-exit,iobase=0x10000", "ports"),
        ("k -device isa-debug-exit,iosize=9", "ports"),
        ("k -fw_cfg name=a", "-fw_cfg"),
        ("k --mmu not/a/name", "--mmu"),
        ("-hda d -append x", "for a kernel"),
    ],
)
def test_nonsense_is_one_line(text, word):
    with pytest.raises(UsageError) as caught:
        run(text)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_cpus_is_said_as_qemu_says_it():
    """kvm-unit-tests takes the last word of this line as the limit."""
    with pytest.raises(UsageError, match=r"SMP CPUs .* is 16$"):
        run("k -smp 300")


def test_help_names_every_option_that_has_an_effect():
    from emu.cli import parse

    words = help_text.RUN.replace(",", " ").split()
    hidden = {"global", "net", "nic", "vga", "no-fd-bootchk"}
    hidden |= {"M", "machine", "monitor", "parallel", "chardev", "curses", "no-shutdown",
              "nodefaults", "h", "help", "version"}  # fmt: skip
    hidden |= {"hdb", "hdc", "hdd", "fda", "fdb"}
    for name in parse.TAKES_VALUE:
        assert name in hidden or f"-{name}" in words or f"--{name}" in words, name
