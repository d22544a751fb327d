# SPDX-License-Identifier: GPL-2.0-or-later
"""What the slots of a random program do.

A slot loads the registers that it needs, does one thing, and invalidates if that was an edit of
tables (SDM 4.10.4): TLBs differ between those who run the program, and only a guest that keeps the
rules sees the same everywhere. `emu.fuzz.layout` says which addresses may be written with what.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from emu.fuzz import layout as L
from emu.fuzz.edits import DEFINED_FLAGS, Edits
from emu.fuzz.encode import (
    RAX,
    RBP,
    RCX,
    RDI,
    RDX,
    RSI,
    RSP,
    encode,
    load_register,
)
from emu.fuzz.instructions import rows_for
from emu.fuzz.operands import Operands
from emu.fuzz.runtime import GO_ON, TO_RING0, TO_RING3, Selectors

__all__ = ["Slots"]

_CR4_TOGGLES = (7, 20, 21)  # PGE, SMEP, SMAP
_STRINGS = {
    # opcode of the byte form: (name, reads at rsi, reads at rdi, writes at rdi)
    0xA4: ("movs", True, False, True),
    0xAA: ("stos", False, False, True),
    0xAC: ("lods", True, False, False),
    0xA6: ("cmps", True, True, False),
    0xAE: ("scas", False, True, False),
}
# In thousandths: how often each sort of slot comes, in ring 0 and in ring 3.
_SORTS = {
    "access": (330, 330),
    "string": (120, 120),
    "edit": (190, 130),
    "stack": (0, 110),
    "segment": (50, 60),
    "transfer": (50, 60),
    "modify": (30, 30),
    "exception": (30, 50),
    "control": (80, 0),
    "go_on": (40, 40),
    "ring": (80, 70),
}

Slot = list[Any]

_FNCLEX = b"\xdb\xe2"


class Slots:
    """Makes slots, one after the other. `ring` is where the next one will run."""

    def __init__(
        self,
        rng: random.Random,
        mode: L.Mode,
        windows: list[int],
        *,
        accessed: bool,
        ist: bool = False,
    ) -> None:
        """Make slots for a guest with these windows; `accessed` as for `Entries`, `ist`: events do
        not come on the stack of who they happen to."""
        self._rng = rng
        self._mode = mode
        self._bits = mode.bits
        self._windows = windows
        self._accessed = accessed
        self._operands = Operands(rng, mode, windows)
        self._edits = Edits(rng, mode, self._operands, accessed=accessed)
        self._rows = rows_for(mode.bits)
        self._ist = ist
        self._number = 0
        self.ring = 0
        self._sorts: dict[str, Callable[[], tuple[bytes, str]]] = {
            name: getattr(self, f"_{name}") for name in _SORTS
        }

    def next(self) -> Slot:
        """Return a slot."""
        weights = [pair[1 if self.ring else 0] for pair in _SORTS.values()]
        if self._ist and not self.ring:
            weights[list(_SORTS).index("stack")] = 60
        while True:
            name = self._rng.choices(tuple(_SORTS), weights)[0]
            ring = self.ring
            code, note = self._sorts[name]()
            if len(code) < L.SLOT:
                break
            self.ring = ring
        self._number += 1
        edits = 1 if name in ("edit", "control") else 0
        return [code.hex(), edits, f"ring {ring}: {note}"]

    # --- Accesses -------------------------------------------------------------------------------

    def _access(self) -> tuple[bytes, str]:
        """One instruction of the table; writes go to data pages."""
        rng = self._rng
        row, widths = rng.choice(self._rows)
        width = rng.choice(widths)
        place = self._operands.place(width, write=row.writes)
        if "a" in row.does:
            place &= -16
        setup, memory = self._operands.operand(self._operands.address(place))
        if row.name == "fnstsw":
            setup += _FNCLEX  # Unicorn's x87 has no sticky flags: emu.fuzz.known
        reg = rng.choice((RAX, RCX, RDX, RBP)) if row.reg is None else row.reg
        if row.reg is None and rng.random() < 0.4:
            setup = load_register(self._bits, reg, self._operands.value(4)) + setup
        size = row.immediate_bytes(width)
        prefix = row.prefix
        if "l" in row.does and rng.random() < 0.35:
            prefix = b"\xf0" + prefix
        code = encode(
            self._bits,
            row.opcode,
            reg,
            memory,
            width=row.operand_size(width),
            # A count for SHLD, or anything at all.
            immediate=bytes([rng.randrange(16)]) if row.name == "shld" else rng.randbytes(size),
            prefix=prefix,
        )
        if "u" in row.does:
            code += DEFINED_FLAGS
        if self.ring == 0 and rng.random() < 0.1:
            setup = b"\x0f\x01\xcb" + setup  # STAC
            code += b"\x0f\x01\xca"
        if rng.random() < 0.15:
            code += self._interrupt(GO_ON)
        return setup + code, row.name

    def _somewhere(self, size: int) -> int:
        """Return an address to read from."""
        return self._operands.address(self._operands.place(size, write=False))

    def _interrupt(self, vector: int) -> bytes:
        return bytes([0xCD, vector])

    def _string(self) -> tuple[bytes, str]:
        """A string instruction over some page ends, either way."""
        rng, bits = self._rng, self._bits
        opcode = rng.choice(tuple(_STRINGS))
        name, reads, compares, writes = _STRINGS[opcode]
        width = rng.choice((1, 2, 4, 8) if bits == 64 else (1, 2, 4))
        count = rng.choice((1, 2, 3, 5, 17, 40, 600))
        down = rng.random() < 0.3
        code = b"\xfd" if down else b"\xfc"
        code += load_register(bits, RCX, count)
        if reads:
            code += load_register(bits, RSI, self._somewhere(width))
        if compares or writes:
            place = self._operands.place(width, write=writes)
            if writes and not down:
                end = L.FIRST_TABLE_PAGE << 12
                place = min(place, end - count * width)
            if bits == 16 and down:
                place = max(place, count * width)
            code += load_register(bits, RDI, self._operands.address(place))
        if name in ("stos", "scas") and rng.random() < 0.5:
            code += load_register(bits, RAX, self._operands.value(4))
        prefix = rng.choice((b"", b"\xf3", b"\xf3", b"\xf2"))
        if name not in ("cmps", "scas"):
            prefix = rng.choice((b"", b"\xf3", b"\xf3"))
        if bits == 16 and rng.random() < 0.3:
            prefix += b"\x67"
        if width > 1:
            opcode += 1
            if (width == 2) != (bits == 16) and width != 8:
                prefix += b"\x66"
        if width == 8:
            prefix += b"\x48"
        return code + prefix + bytes([opcode]), f"{name} {count} of {width}"

    # --- Tables ---------------------------------------------------------------------------------

    def _edit(self) -> tuple[bytes, str]:
        """A store into live tables, and the invalidation."""
        rng = self._rng
        setup, code, note = self._edits.edit(self.ring)
        if self.ring:
            return setup + code + self._interrupt(GO_ON), note
        after = self._reload_cr3()
        if rng.random() < 0.1:
            after = self._interrupt(GO_ON)  # the runtime reloads CR3
        if rng.random() < 0.1:
            return b"\x0f\x01\xcb" + setup + code + b"\x0f\x01\xca" + after, note
        return setup + code + after, note

    def _reload_cr3(self) -> bytes:
        return b"\x0f\x20\xd8\x0f\x22\xd8"

    # --- Stacks ---------------------------------------------------------------------------------

    def _stack(self) -> tuple[bytes, str]:
        """Pushes, pops, calls and frames on a stack that ends or begins at a page end."""
        rng, bits = self._rng, self._bits
        names = ["push", "push", "pop", "flags", "all", "leave", "call", "far"]
        if bits != 16:
            names.append("enter")  # with 16 bits QEMU up to 7.1 sets all of EBP
        name = rng.choice(names)
        size = self._mode.stack_bytes
        page = rng.randrange(1, L.FIRST_TABLE_PAGE)
        place = (page << 12) + rng.choice((0, size, -size, 2, 1, -3, 16, 0x800))
        code = self._set_stack(place)
        short = rng.choice((b"", b"", b"\x66"))
        if name == "push":
            code += short + bytes([0x50 | rng.randrange(8)])
            code += rng.choice((b"\x6a\x7f", b"\x0f\xa0", b"\x0f\xa8", b""))
        elif name == "pop":
            code += short + bytes([0x58 | rng.choice((RAX, RCX, RDX))])
            code += rng.choice((b"\x0f\xa1", b"\x0f\xa9", b"", b""))  # FS, GS
        elif name == "flags":
            code += rng.choice((b"\x9c", b"\x9c\x9d", b"\x9d" if self.ring else b"\x9c"))
        elif name == "all":
            code += short + rng.choice((b"\x60", b"\x61")) if bits != 64 else b"\x50\x8f\x04\x24"
        elif name == "enter":
            frame = self._stack_value(place - 0x40)
            code += load_register(bits, RBP, frame)
            code += b"\xc8" + rng.choice((0, 8, 0x1000)).to_bytes(2, "little")
            code += bytes([rng.choice((0, 1, 2, 3, 31))])
        elif name == "leave":
            code += load_register(bits, RBP, self._stack_value(place)) + b"\xc9"
        elif name == "call":
            code += self._call_and_return(b"\xc3" if rng.random() < 0.7 else b"\xc2\x04\x00")
        else:
            code += self._far_call()
        return code + self._interrupt(GO_ON), f"stack {name}"

    def _stack_value(self, place: int) -> int:
        """Return a stack pointer for a place; the stack segment is flat."""
        return self._windows[0] + place

    def _set_stack(self, place: int) -> bytes:
        rng, bits = self._rng, self._bits
        if bits == 16 and rng.random() < 0.4:
            # A 16-bit stack segment. MOV SS, AX; MOV SP, place
            selector = Selectors.WINDOW_16.to_bytes(2, "little")
            return b"\xb8" + selector + b"\x8e\xd0" + load_register(bits, RSP, place)
        return load_register(bits, RSP, self._rng.choice(self._windows) + place)

    def _call_and_return(self, ret: bytes) -> bytes:
        """CALL over a jump to a RET, and back."""
        width = 2 if self._bits == 16 else 4
        jump = bytes([0xEB, len(ret)])
        return b"\xe8" + len(jump).to_bytes(width, "little") + jump + ret

    def _far_call(self) -> bytes:
        """A far call to a call gate, which returns; in 64-bit mode to nowhere.

        Not through a gate there: Unicorn's helper reads the stack pointer from the TSS without
        saying on behalf of which instruction, and no operating system has such gates.
        """
        if self._bits != 64:
            offset = bytes(2 if self._bits == 16 else 4)
            return b"\x9a" + offset + Selectors.CALL_GATE.to_bytes(2, "little")
        # No direct form: through a pointer on the stack. CALL FAR [RSP]
        selector = self._rng.choice((Selectors.NOT_PRESENT, Selectors.USER_DATA, 0x0F, 0x17, 3))
        return (
            b"\x68"
            + bytes(4)
            + b"\x66\xc7\x44\x24\x04"
            + selector.to_bytes(2, "little")
            + (b"\xff\x1c\x24")
        )

    # --- Segments -------------------------------------------------------------------------------

    def _segment(self) -> tuple[bytes, str]:
        """Load a segment register, or look at a descriptor."""
        rng, bits = self._rng, self._bits
        selector = rng.choice(
            (
                *(Selectors.USER_DATA, Selectors.READ_ONLY, Selectors.NOT_PRESENT),
                *(Selectors.UNTOUCHED, Selectors.UNTOUCHED, Selectors.KERNEL_DATA),
                *(Selectors.USER_CODE, Selectors.CONFORMING | 3, 0, 3, 0x103, 0xFFFF),
                *(0x0F, 0x17, 0x37, 0xF7),  # the LDT, in the arena
            )
        )
        target = rng.choice((0, 3, 4, 4, 5, 5))  # ES DS FS GS
        load = b"\xb8" + selector.to_bytes(2 if bits == 16 else 4, "little")
        at = rng.random()
        if at < 0.45:
            code = load + bytes([0x8E, 0xC0 | target << 3])
        elif at < 0.6:
            code = load + b"\x50" + (b"\x0f\xa1" if target != 5 else b"\x0f\xa9")
        elif at < 0.8:
            digit = rng.choice((0x00E0, 0x00E8, 0x02D0, 0x03D0))  # VERR VERW LAR LSL
            code = load + b"\x0f" + bytes([digit >> 8, digit & 0xFF])
        else:
            # LFS, LGS; in the others LES and LDS too.
            opcode = rng.choice((b"\x0f\xb4", b"\x0f\xb5"))
            if bits != 64:
                opcode = rng.choice((opcode, b"\xc4", b"\xc5"))
            setup, memory = self._operands.operand(self._somewhere(6))
            code = setup + encode(bits, opcode, RCX, memory)
        return code + self._interrupt(GO_ON), f"segment {selector:#x}"

    # --- Transfers ------------------------------------------------------------------------------

    def _here(self) -> int:
        """Return the address of this slot, for the ring that it runs in."""
        slots = L.USER_SLOTS if self.ring else L.SLOTS
        return self._mode.immune + slots + self._number * L.SLOT

    def _transfer(self) -> tuple[bytes, str]:
        """Code in the arena: written, called, written again, called again."""
        rng, bits = self._rng, self._bits
        if bits == 16 or rng.random() < 0.2:
            return self._far_call() + self._interrupt(GO_ON), "far call"
        address = self._operands.address(self._operands.place(4, write=True))
        first, second = (
            rng.choice(
                (b"\xf9\x90\x90\xc3", b"\x0c\x5a\x90\xc3", b"\x34\xff\xf8\xc3", b"\xc3\0\0\0")
            )
            for _ in range(2)
        )
        code = load_register(bits, RBP, self._number * L.SLOT) + load_register(bits, RDI, address)
        write, call = b"\xc7\x07", b"\xff\xd7"  # MOV [RDI], imm32; CALL RDI
        code += write + first + call
        if rng.random() < 0.6:
            code += write + second + call
        if rng.random() < 0.2:
            code = code.replace(call, b"\x90\x90", 1)
        return code + self._interrupt(GO_ON), f"call code at {address:#x}"

    def _modify(self) -> tuple[bytes, str]:
        """A slot that changes itself: the immediate of an instruction further on."""
        rng, bits = self._rng, self._bits
        value = rng.getrandbits(32)
        other = self.ring == 0 and rng.random() < 0.4
        slot = self._mode.immune + (L.USER_SLOTS if self.ring else L.SLOTS)
        if other:
            slot = self._mode.immune + L.USER_SLOTS
        slot += self._number * L.SLOT
        tail = b"\xeb\x00" if rng.random() < 0.5 else b""
        if other:
            # At another linear address a serialising instruction is called for (SDM 3A 8.1.3):
            # CPUID, and nothing of what it says is kept.
            # What has been translated with it goes on to the next jump, hence the last.
            tail = b"\x0f\xa2\x31\xc0\x31\xd2\x31\xdb\xeb\x00"
        # MOV [RDI], EAX comes first; the immediate of the MOV behind it is its target.
        width, prefix = (b"\x66", b"\x67\x64") if bits == 16 else (b"", b"")
        store = prefix + width + b"\x89\x07"
        target = width + b"\xb9"
        length = len(load_register(bits, RAX, value))
        address_length = len(load_register(bits, RDI, slot + 1))
        place = length + address_length + len(store) + len(tail) + len(target)
        code = load_register(bits, RAX, value) + load_register(bits, RDI, slot + place)
        code += store + tail + target + bytes(4)
        return code + self._interrupt(GO_ON), "modify itself"

    # --- The others -----------------------------------------------------------------------------

    def _exception(self) -> tuple[bytes, str]:
        rng = self._rng
        choices = [
            (b"\xcc", "int3"),
            (b"\x0f\x0b", "ud2"),
            (b"\x31\xc9\xf7\xf1", "divide by zero"),
            (b"\xcd\x60", "int past the IDT"),
            (b"\xfa", "cli"),
            (b"\xe6\x80", "out"),
            (b"\x0f\x20\xc0", "mov from CR0"),
            (b"\x0f\x01\x3f", "invlpg"),
        ]
        if self._bits != 64:
            choices.append((b"\xce", "into"))
        if self.ring:
            choices.append((b"\xcd\x0d", "int 13"))
        if not self._accessed:
            choices.append((b"\xf1", "int1"))  # #UD on QEMU 7.2
        code, note = rng.choice(choices)
        return code + b"\x90", note

    def _control(self) -> tuple[bytes, str]:
        """Ring 0: control bits, CR3, EFER.NXE."""
        rng, bits = self._rng, self._bits
        at = rng.random()
        if bits == 64 and rng.random() < 0.2:
            # WRPKRU. Key 0 stays free: it is that of the pages that the events are noted in.
            pkru = rng.getrandbits(32) & ~3
            code = b"\x31\xc9\x31\xd2\xb8" + pkru.to_bytes(4, "little") + b"\x0f\x01\xef"
            return code, f"PKRU := {pkru:#x}"
        if at < 0.25:
            code = b"\x0f\x20\xc0\x0f\xba\xf8\x10\x0f\x22\xc0"
            if bits == 16:
                code = code.replace(b"\x0f\xba", b"\x66\x0f\xba")
            return code, "toggle WP"
        if at < 0.55:
            toggles = (*_CR4_TOGGLES, 4) if self._mode.levels == 2 else _CR4_TOGGLES
            bit = rng.choice(toggles)
            code = b"\x0f\x20\xe0\x0f\xba\xf8" + bytes([bit]) + b"\x0f\x22\xe0"
            if bits == 16:
                code = code.replace(b"\x0f\xba", b"\x66\x0f\xba")
            return code, f"toggle CR4 bit {bit}"
        if at < 0.65 and self._mode.levels > 2:
            code = load_register(bits, RCX, 0xC000_0080)
            return (
                code + b"\x0f\x32\x0f\xba\xf8\x0b\x0f\x30" + self._reload_cr3(),
                "toggle NXE",
            )
        if at < 0.9:
            root = rng.choice(self._edits.entries.roots)
            return load_register(bits, RAX, root) + b"\x0f\x22\xd8", f"CR3 := {root:#x}"
        if at < 0.95:
            setup, memory = self._operands.operand(self._somewhere(1))
            return setup + encode(bits, b"\x0f\x01", 7, memory, width=0), "invlpg"
        return self._reload_cr3(), "reload CR3"

    def _go_on(self) -> tuple[bytes, str]:
        return self._interrupt(GO_ON), "go on"

    def _ring(self) -> tuple[bytes, str]:
        self.ring = 0 if self.ring else 3
        return self._interrupt(TO_RING3 if self.ring else TO_RING0), f"to ring {self.ring}"
