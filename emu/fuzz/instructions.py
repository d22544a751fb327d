# SPDX-License-Identifier: GPL-2.0-or-later
"""Instructions with a memory operand, as a table (opcodes: SDM 2, appendix A).

name      for people
opcode    hexadecimal, mandatory prefix first and a space behind it
reg       ModRM's reg field, or `r` for any register
widths    operand sizes in bytes, `x` for 16 and `t` for 10; 8 is for 64-bit mode alone
imm       bytes of immediate; `z`: as many as the operand, at most 4
does      r reads, w writes, l may be locked, 3 exists in 16- and 32-bit modes only, f has a
          fixed size: `widths` is what it accesses, and no prefix chooses it; u leaves flags
          undefined, a is only for aligned addresses (#GP(0) for others is not emulated)
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ROWS", "Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    prefix: bytes
    opcode: bytes
    reg: int | None
    widths: tuple[int, ...]
    immediate: str
    does: str

    @property
    def writes(self) -> bool:
        """Whether memory may be written."""
        return "w" in self.does

    def operand_size(self, width: int) -> int:
        """Return the operand size to encode for an access of `width` bytes; 0 for no prefix."""
        if self.name == "cmpxchg16b":
            return 8
        return 0 if "f" in self.does else width

    def immediate_bytes(self, width: int) -> int:
        """Return the length of the immediate for an operand size."""
        return min(width, 4) if self.immediate == "z" else int(self.immediate)


_TABLE = """
name        opcode    reg  widths  imm  does
test        84        r    1       0    r
test        85        r    248     0    r
test        f6        0    1       1    r
test        f7        0    248     z    r
not         f6        2    1       0    wl
not         f7        2    248     0    wl
neg         f6        3    1       0    wl
neg         f7        3    248     0    wl
mul         f7        4    24      0    ru
imul        0faf      r    248     0    ru
div         f6        6    1       0    ru
idiv        f7        7    24      0    ru
inc         fe        0    1       0    wl
inc         ff        0    248     0    wl
dec         fe        1    1       0    wl
dec         ff        1    248     0    wl
mov         88        r    1       0    w
mov         89        r    248     0    w
mov         8a        r    1       0    r
mov         8b        r    248     0    r
mov         c6        0    1       1    w
mov         c7        0    248     z    w
movzx       0fb6      r    24      0    r
movzx       0fb7      r    4       0    r
movsx       0fbe      r    24      0    r
movsx       0fbf      r    4       0    r
xchg        86        r    1       0    wl
xchg        87        r    248     0    wl
xadd        0fc0      r    1       0    wl
xadd        0fc1      r    248     0    wl
cmpxchg     0fb0      r    1       0    wl
cmpxchg     0fb1      r    248     0    wl
cmpxchg8b   0fc7      1    8       0    wlfu
bt          0fba      4    24      1    ru
bts         0fba      5    248     1    wlu
btr         0fba      6    248     1    wlu
btc         0fba      7    248     1    wlu
shl         d1        4    248     0    wu
sar         d0        7    1       0    wu
rol         c1        0    248     1    wu
shld        0fa4      r    24      1    wu
cmovz       0f44      r    24      0    r
cmovnz      0f45      r    24      0    r
setc        0f92      0    1       0    w
lea         8d        r    24      0    r
popcnt      f3 0fb8   r    24      0    r
movnti      0fc3      r    48      0    w
movups      0f10      2    x       0    rf
movups      0f11      1    x       0    wf
movaps      0f28      3    x       0    rfa
movaps      0f29      0    x       0    wfa
movdqu      f3 0f6f   1    x       0    rf
movdqu      f3 0f7f   2    x       0    wf
movdqa      66 0f7f   3    x       0    wfa
movq        f3 0f7e   0    8       0    rf
movq        66 0fd6   1    8       0    wf
movd        66 0f6e   2    4       0    rf
movd        66 0f7e   0    4       0    wf
fstp        d9        3    4       0    wf
fstp        dd        3    8       0    wf
fstp        db        7    t       0    wf
fild        df        5    8       0    rf
fistp       df        7    8       0    wf
fnstcw      d9        7    2       0    wf
fnstsw      dd        7    2       0    wf
stmxcsr     0fae      3    4       0    wf
prefetch    0f18      0    1       0    rf
clflush     0fae      7    1       0    rf
nop         0f1f      0    24      0    r
sldt        0f00      0    2       0    wf
str         0f00      1    2       0    wf
smsw        0f01      4    2       0    wf
verr        0f00      4    2       0    rf
verw        0f00      5    2       0    rf
lar         0f02      r    2       0    r
lsl         0f03      r    2       0    r
mov-sreg    8c        4    2       0    wf
bound       62        r    24      0    r3
arpl        63        r    2       0    w3f
movsxd      63        r    8       0    r
cmpxchg16b  0fc7      1    x       0    wlu
"""

_ALU = ("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")
_ONLY_64 = ("movsxd", "cmpxchg16b")
_LETTERS = {"x": 16, "t": 10}


def _rows() -> tuple[Row, ...]:
    rows = []
    for line in _TABLE.strip().splitlines()[1:]:
        # A mandatory prefix makes one word more.
        words = line.split()
        prefix = bytes.fromhex(words.pop(1)) if len(words) == 7 else b""
        name, opcode, reg, widths, immediate, does = words
        rows.append(
            Row(
                name,
                prefix,
                bytes.fromhex(opcode),
                None if reg == "r" else int(reg),
                tuple(_LETTERS.get(letter) or int(letter) for letter in widths),
                immediate,
                does + ("6" if name in _ONLY_64 else ""),
            )
        )
    for number, name in enumerate(_ALU):
        rows += _arithmetic(8 * number, number, name)
    return tuple(rows)


def _arithmetic(opcode: int, digit: int, name: str) -> list[Row]:
    """Return the seven forms of ADD and its seven relatives."""
    does = "r" if name == "cmp" else "wl"
    wide = (2, 4, 8)
    return [
        Row(name, b"", bytes([opcode]), None, (1,), "0", does),
        Row(name, b"", bytes([opcode + 1]), None, wide, "0", does),
        Row(name, b"", bytes([opcode + 2]), None, (1,), "0", "r"),
        Row(name, b"", bytes([opcode + 3]), None, wide, "0", "r"),
        Row(name, b"", b"\x80", digit, (1,), "1", does),
        Row(name, b"", b"\x81", digit, wide, "z", does),
        Row(name, b"", b"\x83", digit, wide, "1", does),
    ]


ROWS = _rows()


def rows_for(bits: int) -> tuple[tuple[Row, tuple[int, ...]], ...]:
    """Return the rows that exist in a mode, 16, 32 or 64, with the widths that they have there."""
    if bits == 64:
        return tuple((row, row.widths) for row in ROWS if "3" not in row.does)
    found = []
    for row in ROWS:
        widths = tuple(width for width in row.widths if width != 8 or "f" in row.does)
        # POPCNT with a 16-bit default takes the wrong operand size in QEMU up to 7.1.
        if widths and "6" not in row.does and not (bits == 16 and row.name == "popcnt"):
            found.append((row, widths))
    return tuple(found)
