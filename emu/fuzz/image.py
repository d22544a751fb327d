# SPDX-License-Identifier: GPL-2.0-or-later
"""A random program as a multiboot image: the same bytes for every MMU, and for QEMU.

The image is flat, loaded by the addresses in its header at 1 MiB, and holds all tables ready made:
what boots is a few dozen bytes. A case holds

    mode cr0 cr4 efer   as the program begins
    ist                 whether all events of a 64-bit guest come on a stack of their own
    tables              (physical address, value) of entries
    data                the seed of what lies in the data frames
    windows             the addresses of the windows that are mapped
    steps               the slots: ["code in hexadecimal", 1 if it edits tables, "a note"], or ""
"""

from __future__ import annotations

import random
import struct

from emu.fuzz import layout as L
from emu.fuzz.case import Case
from emu.fuzz.runtime import (
    CHECKSUM_RANGES,
    HEADER_BYTES,
    VARIABLES,
    VECTORS,
    Selectors,
    build_boot,
    build_runtime,
    stub_address,
)

__all__ = ["build_image", "slot_bytes"]

_HEADER_MAGIC = 0x1BADB002
_HAS_ADDRESSES = 1 << 16
_UPPER = 0x67  # immune entries: A and D are set, so that they never change
_KERNEL = 0x63
_LARGE = 0x80

# Frames of the immune tables.
_BOOT_ROOT, _BOOT_PML4, _BOOT_PDPT, _BOOT_PD, _PT, _PD, _PDPT, _PML4 = (
    L.IMMUNE_TABLES + (n << 12) for n in range(8)
)


def build_image(case: Case) -> bytes:
    """Return the image of a case."""
    mode = L.MODES[case["mode"]]
    image = _Image(mode)
    slots = [*case["steps"], ["cd43", 0, "the end"]]
    controls = {name: case[name] for name in ("cr0", "cr4", "efer")}
    controls["cr3"] = L.PDPT_FRAMES[0] if mode.levels == 3 else L.T_FRAMES
    controls["boot_cr3"] = _BOOT_ROOT
    runtime, controls["start"], gate = build_runtime(mode, controls, len(slots))
    image.put(L.BOOT + 0x40, build_boot(mode, controls))
    image.put(L.RUNTIME, runtime)
    image.descriptors(case, gate)
    image.variables(len(slots))
    image.immune_tables()
    for number, slot in enumerate(slots):
        image.put(L.SLOTS + number * L.SLOT, slot_bytes(slot))
        image.put(VARIABLES.EDITS + number, bytes([slot[1] if slot else 0]))
    image.data(case["data"])
    for gpa, value in case["tables"]:
        image.entry(gpa, value)
    return image.with_header()


def slot_bytes(slot: list[object] | str) -> bytes:
    """Return the 64 bytes of a slot: its code, and a jump over what is left."""
    code = bytes.fromhex(str(slot[0])) if slot else b""
    left = L.SLOT - len(code)
    if left < 1:
        raise ValueError(f"a slot of {len(code)} bytes")
    return code + (bytes([0xEB, left - 2]) if left >= 2 else b"\x90").ljust(left, b"\x90")


class _Image:
    """The bytes from `layout.LOAD` on, by their physical addresses."""

    def __init__(self, mode: L.Mode) -> None:
        self._mode = mode
        self._bytes = bytearray(L.IMAGE_END - L.LOAD)

    def put(self, physical: int, data: bytes) -> None:
        """Set bytes."""
        at = physical - L.LOAD
        assert at >= 0 and at + len(data) <= len(self._bytes)
        self._bytes[at : at + len(data)] = data

    def entry(self, physical: int, value: int) -> None:
        """Set a table entry."""
        self.put(physical, value.to_bytes(self._mode.entry_bytes, "little"))

    def with_header(self) -> bytes:
        """Return all, the multiboot header first."""
        flags = _HAS_ADDRESSES
        end = L.LOAD + len(self._bytes)
        addresses = L.LOAD, L.LOAD, end, end, L.BOOT + 0x40
        checksum = -(_HEADER_MAGIC + flags) & 0xFFFF_FFFF
        self.put(L.LOAD, struct.pack("<8I", _HEADER_MAGIC, flags, checksum, *addresses))
        return bytes(self._bytes)

    # --- Descriptors --------------------------------------------------------------------------

    def descriptors(self, case: Case, gate: int) -> None:
        """GDT, LDT, TSS, IDT."""
        mode = self._mode
        window = case["windows"][0]
        base16 = window if mode.bits != 64 else 0
        s = Selectors
        for selector, base, access, flags in (
            (s.KERNEL_CODE, 0, 0x9B, 0xC),
            (s.KERNEL_DATA, 0, 0x93, 0xC),
            (s.USER_CODE, 0, 0xFB, 0xC),
            (s.USER_DATA, 0, 0xF3, 0xC),
            (s.KERNEL_CODE_16, mode.immune + L.SLOTS, 0x9B, 0),
            (s.USER_CODE_16, mode.immune + L.USER_SLOTS, 0xFB, 0),
            (s.WINDOW_16, base16, 0xF3, 0),
            (s.READ_ONLY, 0, 0xF1, 0xC),
            (s.NOT_PRESENT, 0, 0x73, 0xC),
            (s.UNTOUCHED, 0, 0xF2, 0xC),
            (s.KERNEL_CODE_64, 0, 0x9B, 0xA),
            (s.USER_CODE_64, 0, 0xFB, 0xA),
            (s.CONFORMING, 0, 0x9F, 0xC),
        ):
            limit = 0xFFFFF if flags else 0xFFFF
            self._descriptor(selector, base & 0xFFFF_FFFF, limit, access, flags)
        self._system(s.TSS, mode.immune + L.TSS, 0x67, 0x89)
        self._system(s.LDT, window + 0x2000, 0xFF, 0x82)
        self._call_gate(gate)
        self._tss()
        for vector in range(VECTORS):
            self._gate(vector, 1 if case.get("ist") else 0)
        for variable, base, limit in (
            (VARIABLES.GDTR, mode.immune + L.GDT, 0xFF),
            (VARIABLES.IDTR, mode.immune + L.IDT, VECTORS * (16 if mode.bits == 64 else 8) - 1),
            (VARIABLES.BOOT_GDTR, L.GDT, 0xFF),
        ):
            self.put(variable, struct.pack("<HQ", limit, base))

    def _descriptor(self, selector: int, base: int, limit: int, access: int, flags: int) -> None:
        word = limit & 0xFFFF | (base & 0xFF_FFFF) << 16 | access << 40
        word |= (limit >> 16) << 48 | flags << 52 | (base >> 24) << 56
        self.put(L.GDT + (selector & ~7), word.to_bytes(8, "little"))

    def _system(self, selector: int, base: int, limit: int, access: int) -> None:
        """A TSS or LDT descriptor: 16 bytes in long mode."""
        self._descriptor(selector, base & 0xFFFF_FFFF, limit, access, 0)
        if self._mode.bits == 64:
            self.put(L.GDT + (selector & ~7) + 8, (base >> 32).to_bytes(8, "little"))

    def _call_gate(self, gate: int) -> None:
        long = self._mode.bits == 64
        code = Selectors.KERNEL_CODE_64 if long else Selectors.KERNEL_CODE
        word = gate & 0xFFFF | code << 16 | 0xEC << 40 | (gate >> 16 & 0xFFFF) << 48
        self.put(L.GDT + (Selectors.CALL_GATE & ~7), word.to_bytes(8, "little"))
        if long:
            self.put(L.GDT + (Selectors.CALL_GATE & ~7) + 8, (gate >> 32).to_bytes(8, "little"))

    def _tss(self) -> None:
        immune = self._mode.immune
        if self._mode.bits == 64:
            self.put(L.TSS + 4, struct.pack("<Q", immune + L.ESP0_TOP))
            self.put(L.TSS + 0x24, struct.pack("<Q", immune + L.IST_TOP))
        else:
            self.put(L.TSS + 4, struct.pack("<II", immune + L.ESP0_TOP, Selectors.KERNEL_DATA))
        self.put(L.TSS + 0x66, b"\x68\x00")  # no I/O permission bits

    def _gate(self, vector: int, ist: int) -> None:
        offset = self._mode.immune + stub_address(vector)
        access = 0xEE if vector in (3, 4) or vector >= 0x40 else 0x8E
        long = self._mode.bits == 64
        code = Selectors.KERNEL_CODE_64 if long else Selectors.KERNEL_CODE
        low, high = offset & 0xFFFF, offset >> 16 & 0xFFFF
        gate = struct.pack("<HHBBH", low, code, ist if long else 0, access, high)
        if long:
            gate += struct.pack("<II", offset >> 32, 0)
        self.put(L.IDT + vector * len(gate), gate)

    def variables(self, slots: int) -> None:
        """What the runtime begins with."""
        mode = self._mode
        word = 8 if mode.bits == 64 else 4
        log = mode.immune + L.LOG + HEADER_BYTES
        self.put(VARIABLES.LOG_POINTER, log.to_bytes(8, "little"))
        ranges = b"".join(
            (mode.immune + base).to_bytes(word, "little") + pages.to_bytes(word, "little")
            for base, pages in CHECKSUM_RANGES
        )
        assert VARIABLES.RANGES + len(ranges) + word <= VARIABLES.EDITS
        assert VARIABLES.EDITS + slots <= L.TSS
        self.put(VARIABLES.RANGES, ranges)

    # --- Tables -------------------------------------------------------------------------------

    def immune_tables(self) -> None:
        """The immune mapping, and the identity mapping of 2 MiB that the start needs."""
        mode = self._mode
        for number in range(512):
            self.entry(_PT + number * mode.entry_bytes, number << 12 | _KERNEL)
        for number in range(8):
            self._user_page(L.USER_SLOTS + (number << 12), L.SLOTS + (number << 12))
        self._user_page(L.USER_STACK_PAGE, L.USER_STACK)
        index = L.IMMUNE_INDEX * mode.entry_bytes
        roots = (_BOOT_ROOT, L.T_FRAMES, L.T_FRAMES + 0x1000)
        if mode.levels == 2:
            self.entry(_BOOT_ROOT, _PT | _UPPER)
            for root in roots:
                self.entry(root + index, _PT | _UPPER)
                for n in range(L.LARGE_DATA >> 22, L.LARGE_DATA_END >> 22):
                    self.entry(root + index + 4 * n, n << 22 | _KERNEL | _LARGE)
            return
        self.entry(_PD, _PT | _UPPER)
        for n in range(L.LARGE_DATA >> 21, L.LARGE_DATA_END >> 21):
            self.entry(_PD + 8 * n, n << 21 | _KERNEL | _LARGE)
        self.entry(_BOOT_PD, _PT | _UPPER)
        if mode.levels == 3:
            self.entry(_BOOT_ROOT, _BOOT_PD | 1)
            for root in (_BOOT_ROOT, *L.PDPT_FRAMES):
                self.entry(root + 8 * 2, _PD | 1)
            return
        self.entry(_BOOT_PDPT, _BOOT_PD | _UPPER)
        self.entry(_PDPT, _PD | _UPPER)
        self.entry(_PML4, _PDPT | _UPPER)
        if mode.levels == 4:
            self.entry(_BOOT_ROOT, _BOOT_PDPT | _UPPER)
        else:
            self.entry(_BOOT_ROOT, _BOOT_PML4 | _UPPER)
            self.entry(_BOOT_PML4, _BOOT_PDPT | _UPPER)
        top = _PDPT if mode.levels == 4 else _PML4
        for root in roots:
            self.entry(root + index, top | _UPPER)

    def _user_page(self, virtual: int, physical: int) -> None:
        self.entry(_PT + (virtual >> 12) * self._mode.entry_bytes, physical | _UPPER)

    def data(self, seed: int) -> None:
        """Fill the data frames, some with zeroes."""
        rng = random.Random(f"data {seed}")
        for number in range(L.FRAME_COUNT):
            size = rng.choice((0, 64, 4096, 4096))
            self.put(L.frame(L.D_FRAMES, number), rng.randbytes(size))
