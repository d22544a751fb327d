# SPDX-License-Identifier: GPL-2.0-or-later
"""Hand-over and firmware on a whole machine: what only an executing processor can show."""

from __future__ import annotations

import struct

import pytest

from emu.machine import Machine
from emu.outcome import Kind

# What the programs end with: out 0xf4, al; hlt.
EXIT = "e6f4 f4"


def boot_sector(code):
    return bytes.fromhex(code).ljust(510, b"\0") + b"\x55\xaa"


@pytest.fixture(params=["shadow", "uncached"])
def machine(request):
    """Build a machine under each plug-in: `machine(image, ...)`."""
    made = []

    def build(image, **kwargs):
        made.append(Machine(image, mmu=request.param, memory=4 << 20, **kwargs))
        return made[-1]

    yield build
    for m in made:
        m.close()


def test_a_service_returns_to_its_caller_with_registers_and_flags(machine):
    # stc; mov ah,12h... : INT 12h leaves CF as it was; INT 15h AX=2402h clears it
    code = (
        "f9 cd12"  # stc; int 12h
        "734e"  # jnc fail
        "3d7f02"  # cmp ax, 639
        "7549"  # jne fail
        "f9 b80224 cd15"  # stc; mov ax, 2402h; int 15h
        "7241"  # jc fail
        "b80080 cd15"  # mov ax, 8000h (not served); int 15h
        "733a"  # jnc fail
        "81fc007c"  # cmp sp, 7c00h
        "7534"  # jne fail
        f"b010 {EXIT}"
    )
    image = bytearray(boot_sector(code))
    image[0x40:0x60] = b"\x90" * 0x20
    image[0x60:0x65] = bytes.fromhex(f"b011 {EXIT}")
    m = machine(bytes(image))
    assert m.run(timeout=20).guest_code == 0x10


def test_int_16h_waits_for_a_key_that_comes_by_interrupt(machine):
    m = machine(boot_sector(f"fb 31c0 cd16 {EXIT}"))  # sti; xor ax, ax; int 16h
    assert m.run(max_insns=2000).kind is Kind.INSN_LIMIT
    m.keyboard.type("a")
    assert m.run(timeout=20).guest_code == ord("a")


def test_int_16h_finds_a_key_with_interrupts_off(machine):
    # cli; again: mov cx, 0; loop $; mov ah, 1; int 16h; jz again; xor ax, ax; int 16h
    m = machine(boot_sector(f"fa b90000 e2fe b401 cd16 74f5 31c0 cd16 {EXIT}"))
    m.keyboard.type("b")
    assert m.run(timeout=20).guest_code == ord("b")


def test_int_15h_waits_in_virtual_time(machine):
    m = machine(boot_sector(f"b80086 31c9 ba1027 cd15 b010 {EXIT}"))  # 10,000 us
    assert m.run(timeout=20).guest_code == 0x10
    assert 10_000_000 <= m.now() < 10_200_000


def test_timer_interrupt_counts_and_calls_the_users_hook(machine):
    # The hook at INT 1Ch ends the run, with the tick count that the firmware has just made.
    code = (
        "31c0 8ed8"  # xor ax, ax; mov ds, ax
        "c7067000 147c"  # mov word [1ch*4], hook
        "c7067200 0000"  # mov word [1ch*4+2], 0
        "fb f4 ebfd"  # sti; again: hlt; jmp again
        f"a06c04 {EXIT}"  # hook: mov al, [46ch]
    )
    m = machine(boot_sector(code))
    assert m.run(timeout=20).guest_code == 1
    assert 54_000_000 < m.now() < 56_000_000


def test_teletype_is_on_the_screen(machine):
    m = machine(boot_sector(f"b8480e cd10 b8690e cd10 {EXIT}"))
    m.run(timeout=20)
    assert m.screen.text.splitlines()[0] == "Hi"
    assert m.screen.cursor == (0, 2)


def test_jump_to_the_reset_entry_resets(machine):
    m = machine(boot_sector("ea0000ffff"))  # jmp ffff:0
    assert m.run(timeout=20).kind is Kind.RESET


def test_an_out_to_the_service_port_by_the_kernel_is_harmless(machine):
    m = machine(bytes.fromhex(f"b80e41 e6ea b010 {EXIT}"), format="flat16", address=0x7C00)
    assert m.run(timeout=20).guest_code == 0x10
    assert not m.screen.text.strip()


def test_flat32_has_flat_segments_a_stack_and_a_gdt(machine):
    code = (
        "6801234567"  # push 67452301h
        "66b81000 8ed8"  # mov ax, 10h; mov ds, ax: from the loader's GDT
        "8b0424"  # mov eax, [esp]
        f"{EXIT}"
    )
    m = machine(bytes.fromhex(code), format="flat32")
    assert m.run(timeout=20).guest_code == 0x01


def test_linux_image_finds_its_zero_page(machine, bzimage):
    code = bytes.fromhex(f"8a86e8010000 {EXIT}")  # mov al, [esi+1e8h]: E820 entries
    m = machine(bzimage(code=code))
    entries = m.run(timeout=20).guest_code
    assert entries == m.phys[m.boot.state.gprs["rsi"] + 0x1E8]
    assert entries >= 4


def test_multiboot_entry_registers_reach_the_kernel(machine):
    load = 0x100000
    flags = 1 << 16
    fields = (0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF)
    header = struct.pack("<8I", *fields, load, load, 0, 0, load + 32)
    code = (
        "3d02b0ad2b"  # cmp eax, 2badb002h
        "7507"  # jne fail
        "f60301"  # test byte [ebx], 1
        "7402"  # jz fail
        "b010"  # mov al, 10h
        f"{EXIT}"
    )
    m = machine(header + bytes.fromhex(code))
    assert m.run(timeout=20).guest_code == 0x10
