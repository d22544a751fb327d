# SPDX-License-Identifier: GPL-2.0-or-later
"""A boot sector that makes a list of BIOS calls and tells what came back, here and under QEMU.

    image = program([Call(0x12), Call(0x15, eax=0xE820, ...), Dump(0x400, 256)])
    answers(image_output, calls)

Each call is entered with CF set, each register as given or 0; afterwards the program sends the
registers, ES, DS and FLAGS to port 0xe9.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from ..beside import EXIT

CF, ZF = 1, 0x40
SECTORS = 4 * 63 * 16
"""Of the disk, which is drive 0x80."""
BUFFER = 0x3000
_CODE = 0x8000
_GPRS = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
_SENT = ("edi", "esi", "ebp", "esp", "ebx", "edx", "ecx", "eax")  # as PUSHAD leaves them
_PER_CALL = 38

# Reads 60 sectors from the second one on to 0x8000 and goes on there; SS:SP = 0:7000h.
_BOOT = bytes.fromhex(
    "fa 31c0 8ed8 8ec0 8ed0 bc0070 fb"  # cli; ax = ds = es = ss = 0; sp = 7000h; sti
    "b83c02 bb0080 b90200 b600 cd13"  # ax = 23ch, bx = 8000h, cx = 2, dh = 0; int 13h
    "ea00800000"  # jmp 0:8000h
)
_SAVE = bytes.fromhex(
    "9c 1e 06 6660 fc"  # pushf; push ds; push es; pushad; cld
    "161f 89e6 b92600 bae900 f36e"  # ds:si = ss:sp, 38 bytes to port 0e9h
    "6661 07 1f 9d c3"  # popad; pop es; pop ds; popf; ret
)


class Answer(NamedTuple):
    """What a call came back with."""

    regs: dict[str, int]
    flags: int
    data: bytes = b""

    def __getattr__(self, name):
        """Let `answer.ah` and `answer.ebx` be registers."""
        if name in self.regs:
            return self.regs[name]
        if name in ("ax", "bx", "cx", "dx", "si", "di", "bp"):
            return self.regs[f"e{name}"] & 0xFFFF
        if len(name) == 2 and name[1] in "lh":
            return self.regs[f"e{name[0]}x"] >> (8 if name[1] == "h" else 0) & 0xFF
        raise AttributeError(name)


@dataclass(frozen=True)
class Call:
    """INT `vector` with registers by name; `dump` bytes of the buffer are sent afterwards."""

    vector: int
    name: str = ""
    ds: int = 0
    es: int = 0
    dump: tuple[int, int] = (0, 0)
    put: tuple[int, bytes] = (0, b"")
    regs: dict = field(default_factory=dict)

    def code(self, save):
        """Return the instructions, with `save` the address of the common part."""
        code = b""
        gpa, data = self.put
        for i, byte in enumerate(data):  # mov byte [gpa + i], byte
            code += b"\xc6\x06" + struct.pack("<HB", gpa + i, byte)
        for segment, opcode in ((self.ds, 0xD8), (self.es, 0xC0)):
            code += b"\xb8" + struct.pack("<H", segment) + bytes((0x8E, opcode))
        for number, name in enumerate(_GPRS):
            if name != "esp":
                code += b"\x66" + bytes((0xB8 + number,)) + struct.pack("<I", self.value(name))
        code += b"\xf9" + bytes((0xCD, self.vector))  # stc; int
        yield code
        yield save
        segment_zero = b"\x31\xc0\x8e\xd8\x8e\xc0"
        gpa, size = self.dump
        send = b""
        if size:
            send = b"\xbe" + struct.pack("<H", gpa) + b"\xb9" + struct.pack("<H", size)
            send += b"\xba\xe9\x00\xfc\xf3\x6e"
        yield segment_zero + send

    def value(self, name):
        """Return a 32-bit register's value before the call: given whole, by half or by byte."""
        regs = self.regs
        value = regs.get(name, 0) | regs.get(name[1:], 0)
        if name[2] == "x":
            value |= regs.get(f"{name[1]}h", 0) << 8 | regs.get(f"{name[1]}l", 0)
        return value


def call(vector, name="", *, ds=0, es=0, dump=(0, 0), put=(0, b""), **regs):
    """Make a `Call`."""
    return Call(vector, name, ds, es, dump, put, regs)


def program(calls):
    """Return the disk image."""
    code = bytearray(b"\xeb" + bytes((len(_SAVE),)) + _SAVE)
    save = _CODE + 2
    for one in calls:
        before, _, after = one.code(save)
        code += before
        code += b"\xe8" + struct.pack("<h", save - (_CODE + len(code) + 3))
        code += after
    code += EXIT
    assert len(code) <= 60 * 512, "too many calls"
    image = _BOOT.ljust(510, b"\0") + b"\x55\xaa" + code
    numbered = b"".join(struct.pack("<I", n) * 128 for n in range(61, SECTORS))
    return image.ljust(61 * 512, b"\0") + numbered


def answers(sent, calls):
    """Return the answers in `sent`, by call."""
    found, at = [], 0
    for one in calls:
        words = struct.unpack_from("<8I3H", sent, at)
        at += _PER_CALL
        regs = dict(zip(_SENT, words, strict=False))
        regs |= {"es": words[8], "ds": words[9]}
        regs.pop("esp")
        size = one.dump[1]
        found.append(Answer(regs, words[10], bytes(sent[at : at + size])))
        at += size
    assert at == len(sent)
    return found
