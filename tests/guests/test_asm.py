# SPDX-License-Identifier: GPL-2.0-or-later
"""The assembler: expressions, macros, layout, encodings that it makes itself, errors."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from guests.asm import AssemblyError, Image, assemble, elf32
from guests.encoder import Encoder, EncodingError, keystone_problem
from guests.expression import ExpressionError, evaluate, split_outside

KEYSTONE_PROBLEM = keystone_problem()
needs_keystone = pytest.mark.skipif(KEYSTONE_PROBLEM is not None, reason=str(KEYSTONE_PROBLEM))


def no_names(name: str) -> int:
    raise ExpressionError(f"{name} is not defined")


def source(tmp_path: Path, text: str) -> Image:
    path = tmp_path / "test.asm"
    path.write_text(text, encoding="ascii")
    return assemble(path, tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("1 + 2 * 3", 7, id="precedence"),
        pytest.param("(1 + 2) * 3", 9, id="parentheses"),
        pytest.param("1 << 4 | 3 & ~1", 0x12, id="bits"),
        pytest.param("-2 * -3", 6, id="signs"),
        pytest.param("0x10 + 0b11 + 1_000", 1019, id="bases"),
        pytest.param("'AB'", 0x4241, id="character constant"),
        pytest.param("7 / 2 % 2", 1, id="division"),
        pytest.param("3 == 3 && 2 > 1 || 0", 1, id="comparison"),
    ],
)
def test_expression_has_the_value_that_nasm_gives_it(text: str, value: int) -> None:
    assert evaluate(text, no_names) == value


@pytest.mark.parametrize("text", ["1 +", "(1", "1 2", "name", "1 @ 2", ""])
def test_what_is_no_expression_is_an_error(text: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(text, no_names)


def test_split_keeps_quotes_and_brackets_whole() -> None:
    assert split_outside('[eax, 1], "x,y", (a, b), {c, d}') == [
        "[eax, 1]",
        '"x,y"',
        "(a, b)",
        "{c, d}",
    ]
    assert split_outside("") == []


@pytest.mark.parametrize(
    ("bits", "text", "code"),
    [
        pytest.param(16, "ret", "c3", id="near return of 16 bits"),
        pytest.param(16, "retf", "cb", id="far return of 16 bits"),
        pytest.param(16, "push 0x1234", "68 34 12", id="push of 16 bits"),
        pytest.param(16, "push dword 5", "66 6a 05", id="push of 32 bits from 16-bit code"),
        pytest.param(32, "push word 0x1234", "66 68 34 12", id="push of 16 bits from 32-bit code"),
        pytest.param(32, "push ds", "1e", id="push of a segment register"),
        pytest.param(32, "pop gs", "0f a9", id="pop of a segment register"),
        pytest.param(16, "call 0x100", "e8 fd 00", id="call of 16 bits"),
        pytest.param(32, "jmp 8:0x100000", "ea 00 00 10 00 08 00", id="far jump of 32 bits"),
        pytest.param(16, "jmp dword 8:0x100000", "66 ea 00 00 10 00 08 00", id="far jump out"),
        pytest.param(32, "jmp word 0x48:0x8000", "66 ea 00 80 48 00", id="far jump in"),
        pytest.param(32, "lgdt [0x1000]", "0f 01 15 00 10 00 00", id="LGDT of 32 bits"),
        pytest.param(16, "o32 lgdt [0x1000]", "66 0f 01 16 00 10", id="LGDT of 32 bits from 16"),
        pytest.param(32, "iret", "cf", id="IRET of the code's size"),
        pytest.param(32, "iretw", "66 cf", id="IRET of 16 bits"),
        pytest.param(64, "iretq", "48 cf", id="IRET of 64 bits"),
        pytest.param(64, "o64 sysret", "48 0f 07", id="SYSRET to 64-bit code"),
        pytest.param(64, "sysret", "0f 07", id="SYSRET to 32-bit code"),
        pytest.param(32, "movsd", "a5", id="string move"),
        pytest.param(64, "rep stosq", "f3 48 ab", id="string store of 64 bits"),
        pytest.param(32, "jz 0x10", "74 0e", id="short branch"),
        pytest.param(32, "jz near 0x10", "0f 84 0a 00 00 00", id="near branch on demand"),
        pytest.param(32, "jmp 0x1000", "e9 fb 0f 00 00", id="near branch where it has to be"),
        pytest.param(64, "mov rbx, [0x1000]", "48 8b 1d f9 0f 00 00", id="absolute is relative"),
        pytest.param(64, "cmp dword [0x1000], 5", "83 3d f9 0f 00 00 05", id="with an immediate"),
        pytest.param(32, "mov eax, [fs:0x10]", "64 a1 10 00 00 00", id="segment inside"),
        pytest.param(
            32, "lock xadd [edi + 4 * 2], eax", "f0 0f c1 47 08", id="folded displacement"
        ),
        pytest.param(32, "mov [eax * 4 + 0x10 - 4], cl", "88 0c 85 0c 00 00 00", id="scaled"),
        pytest.param(32, "mov dword [ebx - 1], -1", "c7 43 ff ff ff ff ff", id="negative"),
    ],
)
@needs_keystone
def test_encoding(bits: int, text: str, code: str) -> None:
    assert Encoder().encode(text, bits, 0, no_names, wide=False) == bytes.fromhex(code)


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        pytest.param(32, "mov dword ptr2 [eax], 1", id="unknown size"),
        pytest.param(64, "jmp 8:0x1000", id="far jump in 64-bit code"),
        pytest.param(32, "frobnicate eax", id="unknown instruction"),
        pytest.param(32, "loop 0x1000", id="branch too far"),
        pytest.param(16, "mov eax, [0x12345]", id="address too large"),
        pytest.param(32, "mov eax, [ebx - ecx]", id="register subtracted"),
    ],
)
@needs_keystone
def test_what_cannot_be_encoded_is_an_error(bits: int, text: str) -> None:
    with pytest.raises((EncodingError, ExpressionError)):
        Encoder().encode(text, bits, 0, no_names, wide=False)


def test_sections_are_laid_out_in_order_and_bss_is_not_written(tmp_path: Path) -> None:
    image = source(
        tmp_path,
        """
        org 0x100000
section .bss
buffer: resb 32
section .data align=32
        db 1
section .far vstart=0x8000
far:    db 2
section .text
start:  db 0
""",
    )
    assert image.origin == image.entry == 0x100000
    assert image.data == b"\0" + bytes(31) + b"\1" + bytes(15) + b"\2"
    assert image.symbols["far"] == 0x8000
    assert image.symbols["section..far.start"] == 0x100030
    assert image.symbols["buffer"] == 0x101000
    assert image.symbols["image_end"] == 0x100031
    assert image.end == 0x101020


def test_macros_labels_and_conditions(tmp_path: Path) -> None:
    image = source(
        tmp_path,
        """
%define TWICE(x) ((x) * 2)
%macro PAIR 1-2 9
%%here: db %1, %2, %0
        dd %%here
%endmacro
%macro REST 2+
        db %1
        db %2
%endmacro
value   equ TWICE(3) + 1
        PAIR 1
        PAIR 2, 3
        REST 7, 8, "x,y"
%assign n 0
%rep 3
%if n == 1
        db 0xaa
%elif n == 2
        db value
%else
        db 0xcc
%endif
%assign n n + 1
%endrep
one:    db 1
.local: dw .local - one
two:    db 2
.local: dw .local - two
        times 2 db 5
        align 4
        dw $ - $$
""",
    )
    assert image.data == (
        b"\1\x09\1" + bytes(4) + b"\2\3\2" + (7).to_bytes(4, "little") + b"\7\x08x,y"
        b"\xcc\xaa\7" + b"\1\1\0" + b"\2\1\0" + b"\5\5" + b"\x90" * 2 + b"\x20\0"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: db 1\na: db 2", "test.asm:2: a is defined twice", id="label twice"),
        pytest.param("db missing", "test.asm:1: missing is not defined", id="unknown name"),
        pytest.param("db 256", "test.asm:1: 0x100 does not fit", id="value too large"),
        pytest.param("%include 'none.inc'", "test.asm:1: no such file", id="no such include"),
        pytest.param("%if 1\ndb 1", "test.asm:1: no %endif follows", id="open condition"),
        pytest.param("%macro M 2\n%endmacro\nM 1", "test.asm:3: 1 parameters", id="parameters"),
        pytest.param("times 3 - 5 db 0", "test.asm:1: times -2", id="negative count"),
        pytest.param("%macro M 0\nM\n%endmacro\nM", "nest too deep", id="endless macro"),
        pytest.param("%define A B\n%define B A\ndb A", "refers to itself", id="endless define"),
        pytest.param("section .x color=1", "unknown attribute color", id="unknown attribute"),
        pytest.param("%error no", "test.asm:1: %error", id="error directive"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AssemblyError) as caught:
        source(tmp_path, text)
    assert message in str(caught.value)


def test_elf_holds_the_image_and_its_symbols(tmp_path: Path) -> None:
    image = source(
        tmp_path,
        """
        org 0x100000
        db 1, 2, 3, 4
start:  db 5
section .bss
        resb 100
""",
    )
    elf = ELFFile(io.BytesIO(elf32(image)))
    assert elf.elfclass == 32
    assert elf["e_machine"] == "EM_386"
    assert elf["e_entry"] == 0x100004
    (segment,) = elf.iter_segments()
    assert segment["p_type"] == "PT_LOAD"
    assert segment["p_paddr"] == segment["p_vaddr"] == 0x100000
    assert segment.data() == b"\1\2\3\4\5"
    assert segment["p_memsz"] == 0x1000 + 100
    symbols = {s.name: s["st_value"] for s in elf.get_section_by_name(".symtab").iter_symbols()}
    assert symbols["start"] == 0x100004
