# SPDX-License-Identifier: GPL-2.0-or-later
"""The registry, and the committed images against their sources."""

from __future__ import annotations

import functools
import re
import struct
import subprocess
import sys

import pytest

from guests import GUESTS, PASSED, Guest, load
from guests.asm import Image, Instruction
from guests.build import image_bytes, main
from guests.encoder import keystone_problem

KEYSTONE_PROBLEM = keystone_problem()
needs_keystone = pytest.mark.skipif(KEYSTONE_PROBLEM is not None, reason=str(KEYSTONE_PROBLEM))
all_guests = pytest.mark.parametrize("guest", GUESTS.values(), ids=list(GUESTS))


@functools.cache
def built(name: str) -> tuple[bytes, Image]:
    return image_bytes(load(name))


@all_guests
def test_guest_is_complete(guest: Guest) -> None:
    assert load(guest.name) is guest
    assert guest.source.is_file()
    assert guest.path.stat().st_size >= 512
    assert guest.expected.endswith("\n")
    assert "FAIL" not in guest.expected
    assert guest.exit_code == PASSED
    assert guest.title
    assert guest.shows
    assert guest.needs_smp == (len(guest.cpus) > 1)


def test_an_unknown_name_lists_the_names_there_are() -> None:
    with pytest.raises(KeyError, match=r"no guest 'nothing'.*hello.*spinlock"):
        load("nothing")


def test_the_registry_does_not_import_the_assembler() -> None:
    code = "import guests, sys; print([m for m in sys.modules if 'keystone' in m or 'asm' in m])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@all_guests
def test_the_image_says_how_it_boots(guest: Guest) -> None:
    data = guest.path.read_bytes()
    if guest.boot == "sector":
        assert len(data) == 512
        assert data[510:] == b"\x55\xaa"
        return
    headers = [
        offset
        for offset in range(0, min(8192, len(data) - 11), 4)
        if struct.unpack_from("<I", data, offset)[0] == 0x1BADB002
        and sum(struct.unpack_from("<3I", data, offset)) % (1 << 32) == 0
    ]
    assert len(headers) == 1
    flags = struct.unpack_from("<I", data, headers[0] + 4)[0]
    assert (data[:4] == b"\x7fELF") != bool(flags & 0x10000)


@all_guests
@needs_keystone
def test_the_committed_image_is_what_its_source_assembles_to(guest: Guest) -> None:
    assert built(guest.name)[0] == guest.path.read_bytes()


@needs_keystone
def test_check_reports_a_differing_image(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check", "hello"]) == 0
    monkeypatch.setattr("guests.build.elf32", lambda image: b"other")
    assert main(["--check", "hello"]) == 1
    assert "hello: differs" in capsys.readouterr().out
    assert main(["nothing"]) == 2


@all_guests
@needs_keystone
def test_a_disassembler_reads_what_was_written(guest: Guest) -> None:
    capstone = pytest.importorskip("capstone")
    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
    readers = {bits: capstone.Cs(capstone.CS_ARCH_X86, mode) for bits, mode in modes.items()}
    checked = 0
    for line in built(guest.name)[1].instructions:
        word, _, rest = line.text.partition(" ")
        if word in ("db", "dw", "dd", "dq", "times", "align", "alignb") or word[:3] == "res":
            continue
        decoded = list(readers[line.bits].disasm(line.code, line.address))
        shown = [f"{d.mnemonic} {d.op_str}" for d in decoded]
        assert len(decoded) == 1, f"{line.place}: {line.text}: {line.code.hex()} reads {shown}"
        assert decoded[0].size == len(line.code), f"{line.place}: {line.text}: {shown}"
        check_operand_size(line, shown[0])
        check_constants(line, rest, decoded[0].op_str)
        checked += 1
    assert checked > 50


def check_operand_size(line: Instruction, shown: str) -> None:
    """A prefix 66 stands where the source asks for the other operand size, and nowhere else."""
    prefixes = re.match(rb"[\x66\x67\xf0\xf2\xf3\x26\x2e\x36\x3e\x64\x65]*", line.code)
    assert prefixes is not None
    if line.bits == 16 or b"\x66" not in prefixes.group():
        return
    asked = re.search(
        r"\b([abcd]x|[sd]i|[sb]p|word|o16|xmm\d)\b|\b(?:stos|movs|lods)w|jmp word", line.text
    )
    assert asked, f"{line.place}: {line.text}: {line.code.hex()} is {shown}"


def check_constants(line: Instruction, operands: str, shown: str) -> None:
    """Plain hexadecimal constants of the source come back from the disassembler."""
    if line.text.startswith(("j", "call", "loop", "push", "o32 lgdt", "int")):
        return
    match = re.search(r", (0x[0-9a-fA-F]{2,8})$", operands)
    if match is None:
        return
    value = int(match[1], 16)
    numbers = {int(n, 0) for n in re.findall(r"-?\b(?:0x[0-9a-f]+|\d+)\b", shown)}
    accepted = {value, value - (1 << 32), value - (1 << 16), value - (1 << 8)}
    assert numbers & accepted, f"{line.place}: {line.text} reads {shown}"


def clock_algorithm(accesses: int, pages: int, frames: int) -> tuple[int, int]:
    """(faults, pages written out) of demand.asm's last part, worked out apart from it."""
    seed, hand, faults, writes = 1, 0, 0, 0
    held: list[int | None] = [None] * frames
    accessed: set[int] = set()
    dirty: set[int] = set()
    for _ in range(accesses):
        seed = (seed * 1103515245 + 12345) % (1 << 32)
        page = (seed >> 16) % pages
        if page not in held:
            faults += 1
            while (victim := held[hand]) in accessed:
                accessed.discard(victim)  # type: ignore[arg-type]
                hand = (hand + 1) % frames
            writes += victim in dirty
            dirty.discard(victim)  # type: ignore[arg-type]
            held[hand] = page
            hand = (hand + 1) % frames
        accessed.add(page)
        if seed >> 28 & 1:
            dirty.add(page)
    return faults, writes


def test_demand_expects_what_the_clock_algorithm_does() -> None:
    text = GUESTS["demand"].source.read_text(encoding="ascii")
    number = {n: int(v) for n, v in re.findall(r"^(SWAP_\w+|ACCESSES) equ (\d+)$", text, re.M)}
    assert clock_algorithm(number["ACCESSES"], number["SWAP_PAGES"], number["SWAP_FRAMES"]) == (
        number["SWAP_FAULTS"],
        number["SWAP_WRITES"],
    )
