# SPDX-License-Identifier: GPL-2.0-or-later
"""The code around the slots of a random program: how it starts, its event handlers, its end.

**Events.** Every vector has a stub; all lead to one handler, which appends to the log what was
pushed, all registers, CR2 and the segment selectors, and goes on with the slot behind the one where
the event happened. For that it looks at RIP; a slot that goes somewhere else puts its own offset
into RBP first. Interrupts 0x40 to 0x44 are requests: go on in ring 0, go on in ring 3, -, the end,
just go on. The stack pointer, data segments and flags are set afresh each time. If the slot
behind which it goes on has edited tables (a byte in a table says so), CR3 is reloaded, since its
own invalidation was not reached.

**The end.** The log goes out at port 0xe9: a header, the events, and a checksum of every page that
the program may have written. Then port 0xf4 ends the run.

The header is 64 bytes: magic, version, bytes of events, number of checksums.
"""

from __future__ import annotations

from emu.fuzz import layout as L
from emu.fuzz.encode import RAX, RBX, RCX, RDI, RSI, RSP, Assembler

__all__ = [
    "HEADER_BYTES",
    "MAGIC",
    "TO_RING0",
    "TO_RING3",
    "VARIABLES",
    "Selectors",
    "build_boot",
    "build_runtime",
    "event_fields",
    "stub_address",
]

MAGIC = 0x5A46_4353  # "SCFZ"
HEADER_BYTES = 64
VECTORS = 0x50
WITH_ERROR_CODE = (8, 10, 11, 12, 13, 14, 17, 21)
TO_RING0, TO_RING3, FINISH, GO_ON = 0x40, 0x41, 0x43, 0x44

STUB_BYTES = 16
MOST_EVENTS = 320
CHECKSUM_RANGES = (
    # (physical address, pages): everything that a slot can write.
    (L.SLOTS, 8),
    (L.USER_STACK, 1),
    (L.PDPT_FRAMES[0], 2),
    (L.T_FRAMES, L.FRAME_COUNT),
    (L.D_FRAMES, L.FRAME_COUNT),
    (L.GDT, 1),
    *((base, 14) for base in range(L.LARGE_DATA, L.LARGE_DATA_END, 2 << 20)),
    *((base + 0x1F_E000, 2) for base in range(L.LARGE_DATA, L.LARGE_DATA_END, 2 << 20)),
)


class Selectors:
    """The segments of the GDT."""

    KERNEL_CODE = 0x08
    KERNEL_DATA = 0x10
    USER_CODE = 0x18 | 3
    USER_DATA = 0x20 | 3
    TSS = 0x28  # and 0x30 in long mode
    KERNEL_CODE_16 = 0x38
    USER_CODE_16 = 0x40 | 3
    WINDOW_16 = 0x48 | 3  # data, based at the first window, 16-bit stack
    READ_ONLY = 0x50 | 3
    NOT_PRESENT = 0x58 | 3
    UNTOUCHED = 0x60 | 3  # data whose accessed bit is clear: a load sets it
    KERNEL_CODE_64 = 0x68
    USER_CODE_64 = 0x70 | 3
    CONFORMING = 0x78
    LDT = 0x80  # and 0x88 in long mode: lies in the arena
    CALL_GATE = 0x90 | 3  # to a place in the runtime that returns


class VARIABLES:
    """Where the runtime keeps what it must remember (physical)."""

    LOG_POINTER = L.VARIABLES + 0x00
    LAST = L.VARIABLES + 0x08
    GDTR = L.VARIABLES + 0x10
    IDTR = L.VARIABLES + 0x20
    BOOT_GDTR = L.VARIABLES + 0x30
    SCRATCH = L.VARIABLES + 0x40
    RANGES = L.VARIABLES + 0x100
    EDITS = L.VARIABLES + 0x400  # a byte for each slot: 1 if it edits tables


def stub_address(vector: int) -> int:
    """Return where the stub of a vector is (physical)."""
    return L.RUNTIME + vector * STUB_BYTES


_FIELDS_64 = (
    *("r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rdi", "rsi", "rbp", "rbx"),
    *("rdx", "rcx", "rax", "vector", "error", "rip", "cs", "rflags", "rsp", "ss", "cr2"),
    "segments",
)
_FIELDS_32 = (
    *("gs", "fs", "es", "ds", "edi", "esi", "ebp", "esp", "ebx", "edx", "ecx", "eax"),
    *("vector", "error", "eip", "cs", "eflags", "user esp", "cr2", "ss"),
)


def event_fields(bits: int) -> tuple[str, ...]:
    """Return the words of a log entry, in order; each has 4 bytes, in 64-bit guests 8."""
    return _FIELDS_64 if bits == 64 else _FIELDS_32


def build_boot(mode: L.Mode, controls: dict[str, int]) -> bytes:
    """Return what is entered by the loader: 32-bit code without paging, at physical addresses.

    `controls`: cr0, cr4, efer and cr3 to begin with, boot_cr3 for the way there, and start, the
    virtual address at which the runtime takes over.
    """
    a = Assembler(32, L.BOOT + 0x40)
    a.raw("fafc").imm32("bc", L.RING0_TOP)
    a.at("0f01", 2, VARIABLES.BOOT_GDTR)
    a.imm32("ea", a.here + 7).raw("0800")
    for sreg in (3, 0, 2, 4, 5):  # DS ES SS FS GS
        a.raw("66b81000", "8e", bytes([0xC0 | sreg << 3]))
    a.raw("b0ffe621e6a1")  # no interrupts from the 8259s
    a.imm32("b8", controls["cr4"] & ~_MODE_LATER).raw("0f22e0")
    a.imm32("b8", controls["boot_cr3"]).raw("0f22d8")
    a.imm32("b9", 0xC000_0080).raw("0f32").imm32("0d", controls["efer"]).raw("0f30")
    a.imm32("b8", controls["cr0"]).raw("0f22c0")
    if mode.bits == 64:
        a.imm32("ea", a.here + 7).raw(Selectors.KERNEL_CODE_64.to_bytes(2, "little"))
        a.raw("48b8", controls["start"].to_bytes(8, "little"), "ffe0")
    else:
        a.imm32("b8", controls["start"]).raw("ffe0")
    return a.finish()


_MODE_LATER = 1 << 20 | 1 << 21 | 1 << 22  # SMEP, SMAP, PKE: once the arena's root is loaded


def build_runtime(mode: L.Mode, controls: dict[str, int], slots: int) -> tuple[bytes, int, int]:
    """Return the code at `layout.RUNTIME`, the virtual address where it is entered, and that of
    a far return, for the call gate."""
    virtual = mode.immune + L.RUNTIME
    a = Assembler(64 if mode.bits == 64 else 32, virtual)
    for vector in range(VECTORS):
        assert len(a.code) == vector * STUB_BYTES
        if vector not in WITH_ERROR_CODE:
            a.raw("6a00")
        a.imm32("68", vector).jump("e9", "common")
        a.raw(b"\xcc" * (-len(a.code) % STUB_BYTES))
    a.label("gate").raw("48cb" if mode.bits == 64 else "cb")
    build = _Runtime64 if mode.bits == 64 else _Runtime32
    build(a, mode, controls, slots).build()
    code = a.finish()
    assert len(code) <= L.GDT - L.RUNTIME
    return code, a.where("start"), a.where("gate")


class _Runtime:
    """What 32- and 64-bit runtimes have in common."""

    def __init__(self, a: Assembler, mode: L.Mode, controls: dict[str, int], slots: int) -> None:
        self.a = a
        self.mode = mode
        self.controls = controls
        self.end = slots * L.SLOT
        self.immune = mode.immune
        # Where EIP starts counting: in 16-bit mode CS is based at the slots.
        flat = mode.bits != 16
        self.kernel_slots = self.immune + L.SLOTS if flat else 0
        self.user_slots = self.immune + L.USER_SLOTS if flat else 0

    def build(self) -> None:
        """Append everything behind the stubs."""
        self.start()
        self.common()
        self.finish()

    def start(self) -> None:
        raise NotImplementedError

    def common(self) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError

    def at(self, opcode: str, reg: int, physical: int, immediate: bytes = b"") -> None:
        """Append an instruction on one of our variables."""
        self.a.at(opcode, reg, self.immune + physical, immediate)

    def zero_vectors(self) -> None:
        """FNINIT, and XMM0 to XMM3 zero."""
        self.a.raw("dbe3", "0f57c0", "0f57c9", "0f57d2", "0f57db")


class _Runtime32(_Runtime):
    """For 16- and 32-bit slots; the handler itself is 32-bit code."""

    def start(self) -> None:
        a, controls = self.a, self.controls
        a.label("start")
        a.imm32("b8", controls["cr3"]).raw("0f22d8")
        self.at("0f01", 2, VARIABLES.GDTR)
        self.at("0f01", 3, VARIABLES.IDTR)
        a.raw("66b82800", "0f00d8")  # LTR
        a.raw("66b8", Selectors.LDT.to_bytes(2, "little"), "0f00d0")  # LLDT
        a.imm32("b8", controls["cr4"]).raw("0f22e0")
        self.zero_vectors()
        a.raw("31c0", "0f22d0")  # CR2 = 0
        # The first "event": all registers zero, slot 0 in ring 0.
        a.imm32("bf", self.immune + VARIABLES.SCRATCH).raw("b908000000", "f3ab", "31c9")
        a.raw("ba02000000", "31db").jump("e9", "to ring 0")

    def common(self) -> None:
        a = self.a
        data = Selectors.KERNEL_DATA.to_bytes(2, "little")
        a.label("common").raw("60", "1e", "06", "0fa0", "0fa8")
        a.raw("fc", "66b8", data, "8ed8", "8ec0")
        # The log: 17 words from the stack, then the stack of ring 3, CR2, SS.
        self.at("8b", RDI, VARIABLES.LOG_POINTER)
        a.raw("89e6", "b911000000", "f3a5")
        a.raw("31c0", "f644243c03", "7404", "8b442444", "ab")  # cs & 3: its esp
        a.raw("0f20d0", "ab", "8cd0", "ab")
        self.at("89", RDI, VARIABLES.LOG_POINTER)
        a.imm32("81ff", self.immune + L.LOG + HEADER_BYTES + MOST_EVENTS * 80)
        a.jump("0f83", "finish")
        a.raw("31c0", "0f22d0")
        # Keep the registers for the way back.
        a.raw("8d742410").imm32("bf", self.immune + VARIABLES.SCRATCH)
        a.raw("b908000000", "f3a5")
        a.raw("8b5c2430", "83fb43").jump("0f84", "finish")
        self._find_slot()
        a.raw("8b54243c", "83e203")  # edx: the ring
        a.raw("83fb40", "7502", "31d2", "83fb41", "7505", "ba03000000")
        a.raw("89d3", "ba02000000")  # ebx ring, edx flags
        a.raw("85db").jump("0f85", "to ring 3")
        self._resume("to ring 0", 0)
        self._resume("to ring 3", 3)

    def _find_slot(self) -> None:
        """ECX becomes the offset of the slot to go on with."""
        a = self.a
        a.raw("8b442438")
        for base in dict.fromkeys((self.kernel_slots, self.user_slots)):
            a.raw("89c1").imm32("81e9", base).imm32("81f9", self.end).jump("0f82", "found")
        a.raw("8b4c2418").imm32("81f9", self.end).jump("0f82", "found")  # its EBP
        self.at("8b", RCX, VARIABLES.LAST)
        a.label("found").raw("83e1", bytes([256 - L.SLOT]), "83c1", bytes([L.SLOT]))
        a.imm32("81f9", self.end).jump("0f83", "finish")
        self.at("89", RCX, VARIABLES.LAST)
        a.raw("89ce", "c1ee06")
        a.raw("80be", (self.immune + VARIABLES.EDITS - 1 & 0xFFFF_FFFF).to_bytes(4, "little"), "00")
        a.raw("7406", "0f20d8", "0f22d8")

    def _resume(self, label: str, ring: int) -> None:
        """IRET to the slot at offset ECX with flags EDX and the registers kept."""
        a, mode = self.a, self.mode
        wide = mode.bits == 32
        if ring:
            code = Selectors.USER_CODE if wide else Selectors.USER_CODE_16
            base = self.user_slots
        else:
            code = Selectors.KERNEL_CODE if wide else Selectors.KERNEL_CODE_16
            base = self.kernel_slots
        a.label(label).imm32("bc", self.immune + L.RING0_TOP)
        if ring:
            a.imm32("68", Selectors.USER_DATA).imm32("68", self.immune + L.USER_STACK_TOP)
        a.imm32("81c1", base).raw("52").imm32("68", code).raw("51")
        a.imm32("be", self.immune + VARIABLES.SCRATCH)
        for register in range(7, -1, -1):  # as PUSHA would
            a.raw("ff76", bytes([4 * register]))
        data = Selectors.USER_DATA if wide else Selectors.WINDOW_16
        a.imm32("b8", Selectors.USER_DATA).raw("8ee0", "8ee8")
        a.imm32("b8", data).raw("8ed8", "8ec0", "61", "cf")

    def finish(self) -> None:
        a = self.a
        a.label("finish")
        a.raw("0f20e0", "83c810", "0f22e0")  # CR4.PSE, for our own large pages
        self.at("8b", RBP_FOR_END, VARIABLES.LOG_POINTER)
        a.raw("89ef")  # edi: checksums go behind the events
        a.imm32("bb", self.immune + VARIABLES.RANGES)
        a.label("range").raw("8b33", "85f6", "7400")
        short = len(a.code)
        a.raw("8b5304", "83c308")
        a.label("page").raw("31c9", "b800040000", "50")
        a.label("word").raw("ad", "c1c105", "31c1", "ff0c24", "75f5", "58")
        a.raw("89c8", "ab", "4a").jump("0f85", "page").jump("e9", "range")
        a.code[short - 1] = len(a.code) - short
        a.imm32("be", self.immune + L.LOG)
        a.imm32("c706", MAGIC).raw("c7460401000000")
        a.raw("89e8").imm32("2d", self.immune + L.LOG + HEADER_BYTES).raw("894608")
        a.raw("89f8", "29e8", "c1e802", "89460c")
        a.raw("89f9", "29f1", "bae9000000", "f36e", "31c0", "e6f4", "f4", "ebfd")


RBP_FOR_END = 5


class _Runtime64(_Runtime):
    """For 64-bit slots. Some have every event on a stack of its own (IST 1)."""

    def start(self) -> None:
        a, controls = self.a, self.controls
        a.label("start")
        a.imm32("b8", controls["cr3"]).raw("0f22d8")
        self.at("0f01", 2, VARIABLES.GDTR)
        self.at("0f01", 3, VARIABLES.IDTR)
        a.raw("66b82800", "0f00d8")
        a.raw("66b8", Selectors.LDT.to_bytes(2, "little"), "0f00d0")
        a.imm32("b8", controls["cr4"]).raw("0f22e0")
        self.zero_vectors()
        a.raw("31c0", "480f22d0")  # MOV CR2, RAX
        # The first "event": a frame with all registers zero, slot 0 in ring 0.
        self.at("488d", RSP, L.IST_TOP)
        a.raw("31c0", "b916000000")
        a.label("zero").raw("50", "ffc9", "75fb")
        a.raw("31c9", "ba02000000", "31db").jump("e9", "resume")

    def common(self) -> None:
        a = self.a
        a.label("common")
        a.raw("50", "51", "52", "53", "55", "56", "57")
        for register in range(8):  # r8 to r15
            a.raw("41", bytes([0x50 + register]))
        a.raw("fc")
        self.at("488b", RDI, VARIABLES.LOG_POINTER)
        a.raw("4889e6", "b916000000", "f348a5", "0f20d0", "48ab")
        for sreg in (3, 0, 4, 5):  # DS ES FS GS
            a.raw("8c", bytes([0xC0 | sreg << 3]), "66ab")
        self.at("4889", RDI, VARIABLES.LOG_POINTER)
        self.at("488d", RAX, L.LOG + HEADER_BYTES + MOST_EVENTS * 192)
        a.raw("4839c7").jump("0f83", "finish")
        a.raw("31c0", "0f22d0")
        a.raw("8b5c2478", "83fb43").jump("0f84", "finish")
        self._find_slot()
        a.raw("8b942490000000", "83e203")  # edx: ring
        a.raw("83fb40", "7502", "31d2", "83fb41", "7505", "ba03000000")
        a.raw("89d3", "ba02000000")
        self._resume()

    def _find_slot(self) -> None:
        a = self.a
        for base in (L.SLOTS, L.USER_SLOTS):
            a.raw("488b8c2488000000")
            self.at("488d", RAX, base)
            a.raw("4829c1").imm32("4881f9", self.end).jump("0f82", "found")
        a.raw("488b4c2450").imm32("4881f9", self.end).jump("0f82", "found")  # its RBP
        self.at("8b", RCX, VARIABLES.LAST)
        a.label("found").raw("83e1", bytes([256 - L.SLOT]), "83c1", bytes([L.SLOT]))
        a.imm32("81f9", self.end).jump("0f83", "finish")
        self.at("89", RCX, VARIABLES.LAST)
        a.raw("89ce", "c1ee06")
        self.at("488d", RAX, VARIABLES.EDITS - 1)
        a.raw("803c3000", "7406", "0f20d8", "0f22d8")

    def _resume(self) -> None:
        """Change the frame in place: slot at offset ECX, flags EDX, ring EBX."""
        a = self.a
        a.label("resume")
        a.raw("48899424", "98000000")
        a.raw("85db").jump("0f85", "user")
        self._frame(L.SLOTS, Selectors.KERNEL_CODE_64, L.RING0_TOP, Selectors.KERNEL_DATA)
        a.jump("e9", "pop")
        a.label("user")
        user = L.USER_SLOTS, Selectors.USER_CODE_64, L.USER_STACK_TOP, Selectors.USER_DATA
        self._frame(*user)
        a.label("pop").imm32("b8", Selectors.USER_DATA)
        a.raw("8ed8", "8ec0", "8ee0", "8ee8")
        for register in range(7, -1, -1):
            a.raw("41", bytes([0x58 + register]))
        a.raw("5f", "5e", "5d", "5b", "5a", "59", "58", "4883c410", "48cf")

    def _frame(self, slots: int, code: int, stack: int, data: int) -> None:
        a = self.a
        self.at("488d", RAX, slots)
        a.raw("4801c8", "4889842488000000")  # rip
        a.raw("48c7842490000000").raw(code.to_bytes(4, "little"))
        self.at("488d", RAX, stack)
        a.raw("48898424a0000000")
        a.raw("48c78424a8000000").raw(data.to_bytes(4, "little"))

    def finish(self) -> None:
        a = self.a
        a.label("finish")
        self.at("488b", RBP_FOR_END, VARIABLES.LOG_POINTER)
        a.raw("4889ef")
        self.at("488d", RBX, VARIABLES.RANGES)
        a.label("range").raw("488b33", "4885f6").jump("0f84", "out")
        a.raw("8b5308", "4883c310")
        a.label("page").raw("31c9", "41b800040000")
        a.label("word").raw("ad", "c1c105", "31c1", "41ffc8", "75f5")
        a.raw("89c8", "ab", "ffca").jump("0f85", "page").jump("e9", "range")
        a.label("out")
        self.at("488d", RSI, L.LOG)
        a.imm32("c706", MAGIC).raw("c7460401000000")
        a.raw("4889e8", "4829f0", "83e8", bytes([HEADER_BYTES]), "894608")
        a.raw("4889f8", "4829e8", "48c1e802", "89460c")
        a.raw("4889f9", "4829f1", "bae9000000", "f36e", "31c0", "e6f4", "f4", "ebfd")
