# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware's ROM, 64 KiB at 0xf0000: one stub per interrupt vector, and the entry after reset.

A stub asks for its service by `out SERVICE_PORT, al`. No register says which service is meant:
Python knows it by the address of the OUT, so that all registers reach the service untouched, and an
OUT to that port from anywhere else is none of its business. Every OUT starts a translation block
(a jump or an interrupt leads to it), so its address is exact whenever it is asked for.

    0xf0000  header: what this is, for a person with a hex editor
    0xf0100  stubs, 64 bytes each, in order of vector
    0xf2000  free for tables of the board (`Bios(tables)`), to 0xfbdff
    0xfbe00  fonts
    0xfe000  IBM's fixed entry points and tables (`emu.boot.bios.compat`)
    0xffff0  reset entry, BIOS date, model byte

A service stub carries the service's CF and ZF over to the FLAGS that IRET will restore. Two more
flags are signals to the stub itself: SF asks it to HLT until an interrupt and come again (a key is
awaited), OF to come again after some 4,000 instructions (a delay).
"""

from __future__ import annotations

from collections.abc import Mapping

from emu.boot.bios.compat import fixed_places
from emu.errors import UsageError

__all__ = [
    "HARDWARE_VECTORS",
    "POST",
    "ROM_BASE",
    "ROM_SIZE",
    "SERVICE_PORT",
    "TABLES",
    "VECTORS",
    "build_rom",
    "stub_offset",
    "vector_of",
]

SERVICE_PORT = 0xEA
ROM_BASE = 0xF0000
ROM_SIZE = 0x10000
TABLES = range(0xF2000, 0xFBE00)
VECTORS = range(0x78)
POST = 0x78  # no vector: the stub behind the reset entry, power-on self-test
_STUBS = 0x100
_STUB_SIZE = 64
_RESET = 0xFFF0

# IRQ 0-7 and 8-15 as a BIOS programs the 8259 pair.
HARDWARE_VECTORS = {**{i: 0x08 + i for i in range(8)}, **{i: 0x68 + i for i in range(8, 16)}}

_OUT_SERVICE = bytes([0xE6, SERVICE_PORT])
_SERVICE = bytes.fromhex(
    "e6ea"  # again: out SERVICE_PORT, al
    "7814"  # js wait
    "7017"  # jo delay
    "55"  # push bp
    "89e5"  # mov bp, sp         ; [bp+6] is FLAGS as IRET will restore them
    "50"  # push ax
    "9f"  # lahf
    "80e441"  # and ah, ZF|CF
    "806606be"  # and byte [bp+6], ~(ZF|CF)
    "086606"  # or [bp+6], ah
    "58"  # pop ax
    "5d"  # pop bp
    "cf"  # iret
    "fb"  # wait: sti
    "f4"  # hlt
    "fa"  # cli
    "ebe3"  # jmp again
    "fb"  # delay: sti
    "51"  # push cx
    "b90010"  # mov cx, 4096
    "e2fe"  # loop $
    "59"  # pop cx
    "fa"  # cli
    "ebd8"  # jmp again
)
_EOI_MASTER = bytes.fromhex("50 b020 e620 58")  # push ax; mov al, 20h; out 20h, al; pop ax
_EOI_BOTH = bytes.fromhex("50 b020 e6a0 e620 58")
_IRET = b"\xcf"
# IRQ 8: the service reads register C, and sets SF for an alarm: jns over; int 4ah
_ALARM = bytes.fromhex("7902 cd4a")
_TIMER_TICK = bytes.fromhex("cd1c")  # int 1ch
# Behind the OUT only where the CMOS has said so: xor ax, ax; mov ds, ax; jmp far [0467h]
_POST = _OUT_SERVICE + bytes.fromhex("31c0 8ed8 ff2e6704")
_BOOTSTRAP = bytes.fromhex("b0fe e664 f4 ebfd")  # reset by the keyboard controller, then halt


def stub_offset(vector: int) -> int:
    """Return the offset in the ROM of the stub that serves `vector`."""
    return _STUBS + _STUB_SIZE * vector


def vector_of(gpa: int) -> int | None:
    """Return the vector whose stub has its OUT at `gpa`, or None."""
    vector, rest = divmod(gpa - ROM_BASE - _STUBS, _STUB_SIZE)
    return vector if (vector in VECTORS or vector == POST) and not rest else None


def _stub(vector: int) -> bytes:
    if vector == HARDWARE_VECTORS[0]:
        return _OUT_SERVICE + _TIMER_TICK + _EOI_MASTER + _IRET
    if vector == HARDWARE_VECTORS[1]:
        return _OUT_SERVICE + _EOI_MASTER + _IRET
    if vector in range(0x08, 0x10):
        return _EOI_MASTER + _IRET
    if vector == HARDWARE_VECTORS[8]:
        return _OUT_SERVICE + _ALARM + _EOI_BOTH + _IRET
    if vector in range(0x70, 0x78):
        return _EOI_BOTH + _IRET
    if vector in (0x1C, 0x4A):  # a tick, an alarm: for programs to take
        return _IRET
    if vector in (0x18, 0x19):
        return _BOOTSTRAP
    return _SERVICE


def build_rom(tables: Mapping[int, bytes] | None = None) -> bytes:
    """Return the ROM with the board's tables in it.

    Raises UsageError if one lies outside `TABLES`.
    """
    rom = bytearray(ROM_SIZE)
    text = b"shadowcorn firmware: services are asked for at port 0xea, one stub a vector\0"
    rom[: len(text)] = text
    for vector in VECTORS:
        stub = _stub(vector)
        offset = stub_offset(vector)
        rom[offset : offset + len(stub)] = stub
    rom[stub_offset(POST) : stub_offset(POST) + len(_POST)] = _POST
    for offset, data in fixed_places(stub_offset, stub_offset(POST)).items():
        rom[offset : offset + len(data)] = data
    for gpa, data in (tables or {}).items():
        if gpa not in TABLES or gpa + len(data) > TABLES.stop:
            place = f"{TABLES.start:#x}-{TABLES.stop - 1:#x}"
            raise UsageError(f"a firmware table at {gpa:#x} lies outside {place}")
        rom[gpa - ROM_BASE : gpa - ROM_BASE + len(data)] = data
    start = stub_offset(POST)
    rom[_RESET : _RESET + 5] = b"\xea" + start.to_bytes(2, "little") + b"\x00\xf0"  # ljmp f000:stub
    rom[_RESET + 5 : _RESET + 13] = b"01/01/24"
    rom[-2] = 0xFC  # a PC/AT
    return bytes(rom)
