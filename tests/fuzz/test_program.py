# SPDX-License-Identifier: GPL-2.0-or-later
"""The program fuzzer: its instructions and images, and short runs of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import capstone
import pytest

from emu.fuzz import layout as L
from emu.fuzz import program
from emu.fuzz.case import random_of, read
from emu.fuzz.encode import PAIRS_16, Assembler, absolute, based, based_16, encode, load_register
from emu.fuzz.engines import Observation, find_qemu, observe, run_machine
from emu.fuzz.image import build_image, slot_bytes
from emu.fuzz.instructions import rows_for
from emu.fuzz.known import KNOWN, agree
from emu.fuzz.minimise import minimise
from emu.fuzz.runtime import build_runtime, event_fields
from emu.fuzz.slots import Slots

HERE = Path(__file__).parent
REPRODUCERS = sorted((HERE / "reproducers").glob("program-*.json"))
CAPSTONE = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}


def disassemble(code, bits, address=0):
    return list(capstone.Cs(capstone.CS_ARCH_X86, CAPSTONE[bits]).disasm(code, address))


def text(code, bits):
    (instruction,) = disassemble(code, bits)
    assert instruction.size == len(code)
    return f"{instruction.mnemonic} {instruction.op_str}"


class TestEncoding:
    @pytest.mark.parametrize(
        ("bits", "memory", "want"),
        [
            (32, based(3), "dword ptr [ebx]"),
            (32, based(5), "dword ptr [ebp]"),
            (32, based(4), "dword ptr [esp]"),
            (32, based(6, -8), "dword ptr [esi - 8]"),
            (32, based(7, 0x1234), "dword ptr [edi + 0x1234]"),
            (32, based(3, 4, 1, 2), "dword ptr [ebx + ecx*4 + 4]"),
            (64, based(12), "dword ptr [r12]"),
            (64, based(13), "dword ptr [r13]"),
            (64, based(9, 0, 14, 3), "dword ptr [r9 + r14*8]"),
            (32, absolute(32, 0x12345678), "dword ptr [0x12345678]"),
            (16, absolute(16, 0x12345678), "dword ptr [0x12345678]"),
            (64, absolute(64, 0x12345678), "dword ptr [0x12345678]"),
            (16, based_16(0, 0x10), "dword ptr [bx + si + 0x10]"),
            (16, based_16(6, 0x1234), "dword ptr [0x1234]"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_memory_operands(self, bits, memory, want):
        assert text(encode(bits, b"\x89", 0, memory), bits) == f"mov {want}, eax"

    @pytest.mark.parametrize("width", [1, 2, 4, 8])
    @pytest.mark.parametrize("bits", [16, 32, 64])
    def test_operand_sizes(self, bits, width):
        if width == 8 and bits != 64:
            pytest.skip("no such operand")
        register = {1: "bl", 2: "bx", 4: "ebx", 8: "rbx"}[width]
        memory = based_16(7, 0) if bits == 16 else based(7)
        code = encode(bits, b"\x88" if width == 1 else b"\x89", 3, memory, width=width)
        assert text(code, bits).endswith(f", {register}")

    @pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
    @pytest.mark.parametrize("bits", [16, 32, 64])
    def test_loads_of_registers(self, bits, value):
        name, _, number = text(load_register(bits, 6, value), bits).partition(", ")
        assert (name, int(number, 0)) == ("mov esi", value)

    @pytest.mark.parametrize("value", [0x1_0000_0000, (1 << 64) - 1, 0x8000_0000_0000_0000])
    def test_loads_of_wide_registers(self, value):
        name, _, number = text(load_register(64, 11, value), 64).partition(", ")
        assert name in ("mov r11", "movabs r11")
        assert int(number, 0) & (1 << 64) - 1 == value

    @pytest.mark.parametrize("bits", [16, 32, 64])
    def test_every_row_is_the_instruction_that_it_is_called(self, bits):
        memory = based_16(7, 0) if bits == 16 else based(3)
        for row, widths in rows_for(bits):
            if bits == 16 and row.prefix == b"\x66":
                continue  # Capstone takes the mandatory prefix for another there
            for width in widths:
                immediate = bytes(row.immediate_bytes(width))
                operand = row.operand_size(width)
                code = encode(bits, row.opcode, row.reg or 0, memory, width=operand,
                              immediate=immediate, prefix=row.prefix)  # fmt: skip
                name, _, operands = text(code, bits).partition(" ")
                aliases = {"cmovz": "cmove", "cmovnz": "cmovne", "setc": "setb", "shl": "shl",
                           "prefetch": "prefetchnta", "mov-sreg": "mov"}  # fmt: skip
                assert name == aliases.get(row.name, row.name), (code.hex(), row)
                assert "[" in operands

    def test_jumps_and_variables_of_the_runtime(self):
        a = Assembler(64, 0x1000).label("back").at("488d", 0, 0x2000).jump("e9", "on")
        a.jump("0f84", "back").label("on")
        lines = [f"{i.mnemonic} {i.op_str}" for i in disassemble(a.finish(), 64, 0x1000)]
        assert lines == ["lea rax, [rip + 0xff9]", "jmp 0x1012", "je 0x1000"]


class TestPrograms:
    @pytest.mark.parametrize("name", L.MODES)
    def test_every_slot_is_whole_instructions_and_fits(self, name):
        mode = L.MODES[name]
        window = L.window_base(mode, mode.upper_paths[0], L.LINKS[0])
        slots = Slots(random_of(1, 0), mode, [window], accessed=False)
        kinds = Counter()
        for _ in range(600):
            code, _, note = slots.next()
            data = slot_bytes([code, 0, note])
            assert len(data) == L.SLOT
            decoded = sum(i.size for i in disassemble(data, mode.bits))
            # Capstone knows no locked BT and the like: what it stops at is ours to know.
            kinds[decoded == L.SLOT] += 1
        assert kinds[True] > 500

    @pytest.mark.parametrize("name", L.MODES)
    def test_the_runtime_is_whole_instructions(self, name):
        mode = L.MODES[name]
        controls = {"cr0": 0, "cr4": 0, "efer": 0, "cr3": 0}
        code, start, gate = build_runtime(mode, controls, 100)
        first = mode.immune + L.RUNTIME
        instructions = disassemble(code, 64 if mode.bits == 64 else 32, first)
        assert sum(i.size for i in instructions) == len(code)
        addresses = {i.address for i in instructions}
        assert start in addresses and gate in addresses
        for i in instructions:
            if i.mnemonic.startswith("j") and i.op_str.startswith("0x"):
                assert int(i.op_str, 16) in addresses, str(i)

    @pytest.mark.parametrize("name", L.MODES)
    def test_an_empty_program_runs_to_its_end_everywhere(self, name):
        case = next(
            case for case in (program.make(0, n, {}) for n in range(60)) if case["mode"] == name
        )
        case["steps"] = []
        seen = run_machine(build_image(case), L.MODES[name].bits, "uncached", {"jit": "off"})
        assert seen.ending == "guest exit"
        (event,) = seen.events
        fields = dict(zip(event_fields(L.MODES[name].bits), event, strict=True))
        assert fields["vector"] == 0x43 and fields["error"] == 0
        assert len(seen.checksums) > 100

    def test_a_case_is_made_of_seed_and_number_alone(self):
        assert program.make(5, 1, {}) == program.make(5, 1, {})
        assert program.make(5, 1, {}) != program.make(5, 2, {})

    def test_nothing_is_found_in_a_few_cases(self):
        for number in range(12):
            result = program.run(77, number, {"qemu": False})
            assert result.failure is None, result.failure.message

    @pytest.mark.skipif(find_qemu() is None, reason="qemu-system-x86_64 is not on PATH")
    def test_qemu_agrees(self):
        runs = 0
        for number in range(6):
            result = program.run(78, number, {})
            assert result.failure is None, result.failure.message
            runs += result.counts.get("runs on qemu", 0)
        assert runs >= 2

    @pytest.mark.fuzz
    def test_nothing_is_found_in_many_cases(self):
        for number in range(2000):
            result = program.run(79, number, {})
            assert result.failure is None, result.failure.message

    @pytest.mark.parametrize("path", REPRODUCERS, ids=lambda path: path.stem)
    def test_what_was_found_once_is_found_no_more(self, path):
        case, _ = read(path)
        failure = program.replay(case)
        assert failure is None, failure.message


class TestComparison:
    def test_a_planted_bug_is_found_and_made_small(self):
        options = {"mmu": "tests.fuzz.planted:NeverDirty", "qemu": False}
        result = next(
            result
            for result in (program.run(1, number, options) for number in range(40))
            if result.failure is not None
        )
        case, failure = minimise(
            result.case, result.failure, program.replay, blank=program.BLANK, most_runs=80
        )
        assert failure.kind == result.failure.kind
        left = [step for step in case["steps"] if step]
        assert len(left) <= 4, left
        case["machines"][1][0] = "shadow"
        assert program.replay(case) is None

    def test_a_broken_log_is_told(self):
        assert observe("guest exit", b"", 32) == Observation("guest exit")
        assert observe("guest exit", bytes(100), 32).ending == "guest exit, with a broken log"

    @pytest.mark.parametrize(
        ("field", "vector", "want", "got", "excused"),
        [
            ("rflags", 14, 0x10002, 0x2, True),
            ("rflags", 14, 0x2, 0x10002, False),
            ("rflags", 14, 0x46, 0x87, True),
            ("rflags", 14, 0x2, 0x40002, False),
            ("error", 14, 0xD, 0xC, True),
            ("error", 14, 0x5, 0x4, False),
            ("error", 13, 0x302, 0x602, True),
            ("cr2", 14, 1, 2, False),
        ],
        ids=[
            "no RF",
            "RF too many",
            "arithmetic flags",
            "AC",
            "RSVD without P",
            "P alone",
            "past the IDT",
            "CR2",
        ],
    )
    def test_only_what_is_known_is_excused(self, field, vector, want, got, excused):
        fields = event_fields(64)
        event = [0] * len(fields)
        event[fields.index("vector")] = vector
        wanted, other = list(event), list(event)
        wanted[fields.index(field)], other[fields.index(field)] = want, got
        assert agree("qemu", field, fields, tuple(wanted), tuple(other)) == excused
        assert not agree("native", field, fields, tuple(wanted), tuple(other))
        assert {known.engine for known in KNOWN} == {"qemu"}


def test_pairs_of_16_bit_addressing():
    for rm, pair in enumerate(PAIRS_16):
        if pair is not None:
            names = {3: "bx", 6: "si", 7: "di"}
            want = " + ".join(names[number] for number in pair)
            assert f"[{want} + 0x10]" in text(encode(16, b"\x8b", 0, based_16(rm, 0x10)), 16)
