# SPDX-License-Identifier: GPL-2.0-or-later
"""The registers of one vCPU by name, hidden parts included, read and written live.

Everything goes straight to the engine's memory (see `emu.cpu.hidden`), inside hooks and between
runs alike. What QEMU derives from registers (`hflags`, the lazy flags) is kept in step here, as
its own cpu_x86_load_seg_cache, cpu_load_eflags and cpu_x86_update_cr* do; no architectural check
is made and no TLB flushed: that is the business of whoever changes a register.
"""

from __future__ import annotations

from emu.cpu import hidden as H
from emu.cpu import raw
from emu.state import GPRS, SEGMENTS, Segment, Table

__all__ = ["CS", "DS", "ES", "FS", "GS", "SS", "Registers"]

ES, CS, SS, DS, FS, GS = range(6)
LDTR, TR = 6, 7
_SEGMENT_NUMBER = {name: number for number, name in enumerate((*SEGMENTS, "ldtr", "tr"))}

# Descriptor flags as QEMU caches them: the high half of a descriptor (SDM 3A figure 3-8).
DESC_A = 1 << 8
DESC_W = 1 << 9  # writable data, readable code
DESC_C = 1 << 10  # conforming code, expand-down data
DESC_CODE = 1 << 11
DESC_S = 1 << 12
DESC_DPL_SHIFT = 13
DESC_P = 1 << 15
_TSS_BUSY = 1 << 9  # of a system segment
DESC_L = 1 << 21
DESC_B = 1 << 22
DESC_G = 1 << 23

EFLAGS_CF = 1 << 0
EFLAGS_TF = 1 << 8
EFLAGS_IF = 1 << 9
EFLAGS_DF = 1 << 10
EFLAGS_NT = 1 << 14
EFLAGS_RF = 1 << 16
EFLAGS_VM = 1 << 17
EFLAGS_AC = 1 << 18
EFLAGS_ARITHMETIC = 0x8D5  # OF SF ZF AF PF CF
_LAZY = EFLAGS_ARITHMETIC | EFLAGS_DF
_CC_OP_EFLAGS = 1  # cc_src holds the flags as they are

_MASK64 = (1 << 64) - 1


def attributes_to_flags(attributes: int) -> int:
    """Turn `Segment.attributes` into descriptor flags."""
    return (attributes & 0xF0FF) << 8


def flags_to_attributes(flags: int) -> int:
    """Turn descriptor flags into `Segment.attributes`."""
    return flags >> 8 & 0xF0FF


_GPR_NUMBER = {name: number for number, name in enumerate(GPRS)}


def _gpr(number: int) -> property:
    def get(self: Registers) -> int:
        return self._q[number]

    def put(self: Registers, value: int) -> None:
        self._q[number] = value & _MASK64

    return property(get, put, doc=f"General register {GPRS[number]}, 64 bits.")


def _segment(number: int) -> property:
    def get(self: Registers) -> Segment:
        return self.segment(number)

    def put(self: Registers, value: Segment) -> None:
        if number >= LDTR:
            self.set_system_segment(number, value)
        else:
            selector, base, limit, attributes = value
            self.set_segment(number, selector, base, limit, attributes_to_flags(attributes))

    return property(get, put, doc="A segment register with its hidden part.")


class Registers:
    """The registers of one engine as attributes: `regs.rip`, `regs.rax = 1`, `regs.cs.base`.

    General registers are 64 bits wide in every mode. `rflags`, `cr0`, `cr2`, `cr3`, `cr4`, `cr8`,
    `efer`, `dr0` to `dr7`, `pkru`, `gdtr`, `idtr`, `ldtr`, `tr` and the six segment registers.
    """

    __slots__ = ("_b", "_d", "_handle", "_q", "_read_flags", "cr8")

    rax = _gpr(0)
    rcx = _gpr(1)
    rdx = _gpr(2)
    rbx = _gpr(3)
    rsp = _gpr(4)
    rbp = _gpr(5)
    rsi = _gpr(6)
    rdi = _gpr(7)
    r8 = _gpr(8)
    r9 = _gpr(9)
    r10 = _gpr(10)
    r11 = _gpr(11)
    r12 = _gpr(12)
    r13 = _gpr(13)
    r14 = _gpr(14)
    r15 = _gpr(15)
    es = _segment(0)
    cs = _segment(1)
    ss = _segment(2)
    ds = _segment(3)
    fs = _segment(4)
    gs = _segment(5)
    ldtr = _segment(6)
    tr = _segment(7)

    def __init__(self, handle: int, state: H.HiddenState) -> None:
        """Look at one engine."""
        self._handle = handle
        self._read_flags = raw.RegisterReader(handle, raw.EFLAGS)
        self._q = state.q
        self._d = state.d
        self._b = state.b
        self.cr8 = 0

    # --- General ------------------------------------------------------------------------------

    def gpr(self, number: int) -> int:
        """Return general register `number` as ModRM counts them, 64 bits."""
        return self._q[number]

    def set_gpr(self, number: int, value: int) -> None:
        """Set general register `number`, all 64 bits."""
        self._q[number] = value & _MASK64

    def get(self, name: str) -> int:
        """Return a general register by its 64-bit name."""
        return self._q[_GPR_NUMBER[name]]

    @property
    def rip(self) -> int:
        """The instruction pointer: an offset in CS."""
        return self._q[H.RIP_Q]

    @rip.setter
    def rip(self, value: int) -> None:
        self._q[H.RIP_Q] = value & _MASK64

    @property
    def rflags(self) -> int:
        """RFLAGS, the arithmetic flags computed from what the engine last did."""
        d = self._d
        if d[H.CC_OP_D] == _CC_OP_EFLAGS:
            lazy = self._q[H.CC_SRC_Q] & EFLAGS_ARITHMETIC | d[H.DF_D] & EFLAGS_DF
            return d[H.EFLAGS_D] & ~_LAZY | lazy | 2
        return self._read_flags() | 2

    @rflags.setter
    def rflags(self, value: int) -> None:
        d = self._d
        d[H.EFLAGS_D] = value & 0xFFFF_FFFF | 2
        self._q[H.CC_SRC_Q] = value & EFLAGS_ARITHMETIC
        d[H.CC_OP_D] = _CC_OP_EFLAGS
        d[H.DF_D] = 0xFFFF_FFFF if value & EFLAGS_DF else 1

    # --- Segments -----------------------------------------------------------------------------

    def segment(self, number: int) -> Segment:
        """Return a segment register; 6 is LDTR and 7 is TR."""
        at = H.SEGS_D + number * H.SEG_DWORDS
        d = self._d
        base = self._q[at + 2 >> 1]
        return Segment(d[at] & 0xFFFF, base, d[at + 4], flags_to_attributes(d[at + 5]))

    def set_segment(self, number: int, selector: int, base: int, limit: int, flags: int) -> None:
        """Load one of the six segment registers with its hidden part; SS sets CPL.

        `flags` are those of the descriptor's high half. As cpu_x86_load_seg_cache.
        """
        d = self._d
        at = H.SEGS_D + number * H.SEG_DWORDS
        d[at] = selector
        self._q[at + 2 >> 1] = base
        d[at + 4] = limit
        d[at + 5] = flags
        hflags = d[H.HFLAGS_D]
        if number == CS:
            if hflags & H.HF_LMA and flags & DESC_L:
                hflags |= H.HF_CS32 | H.HF_SS32 | H.HF_CS64
            else:
                hflags &= ~(H.HF_CS32 | H.HF_CS64)
                if flags & DESC_B:
                    hflags |= H.HF_CS32
        elif number == SS:
            hflags = hflags & ~H.HF_CPL | flags >> DESC_DPL_SHIFT & 3
        d[H.HFLAGS_D] = self._stack_and_base_flags(hflags)

    def _stack_and_base_flags(self, hflags: int) -> int:
        d = self._d
        hflags &= ~(H.HF_SS32 | H.HF_ADDSEG)
        if d[H.SEGS_D + SS * H.SEG_DWORDS + 5] & DESC_B:
            hflags |= H.HF_SS32
        if hflags & H.HF_CS64:
            return hflags
        real = not self._q[H.CR_Q] & 1 or d[H.EFLAGS_D] & EFLAGS_VM or not hflags & H.HF_CS32
        if real or any(self._q[H.SEGS_D + n * H.SEG_DWORDS + 2 >> 1] for n in (DS, ES, SS)):
            hflags |= H.HF_ADDSEG
        return hflags

    def set_system_segment(self, number: int, value: Segment) -> None:
        """Load LDTR (6) or TR (7).

        The engine keeps TR without its busy bit, as its LTR and task switches do: a call gate to
        an inner level would abort the process where it is set.
        """
        d = self._d
        at = H.SEGS_D + number * H.SEG_DWORDS
        d[at] = value.selector
        self._q[at + 2 >> 1] = value.base
        d[at + 4] = value.limit
        flags = attributes_to_flags(value.attributes)
        d[at + 5] = flags & ~_TSS_BUSY if number == TR else flags

    def segment_base(self, number: int) -> int:
        """Return the base of a segment register. 40 ns."""
        return self._q[H.SEGS_D + number * H.SEG_DWORDS + 2 >> 1]

    def segment_selector(self, number: int) -> int:
        """Return the selector of a segment register. 40 ns."""
        return self._d[H.SEGS_D + number * H.SEG_DWORDS] & 0xFFFF

    def segment_limit(self, number: int) -> int:
        """Return the limit of a segment register in bytes. 40 ns."""
        return self._d[H.SEGS_D + number * H.SEG_DWORDS + 4]

    def segment_flags(self, number: int) -> int:
        """Return the descriptor flags of a segment register. 40 ns."""
        return self._d[H.SEGS_D + number * H.SEG_DWORDS + 5]

    @property
    def cpl(self) -> int:
        """The current privilege level; 3 in virtual-8086 mode, 0 in real mode."""
        return self._d[H.HFLAGS_D] & H.HF_CPL

    @property
    def gdtr(self) -> Table:
        """GDTR."""
        return Table(self._q[H.GDT_D + 2 >> 1], self._d[H.GDT_D + 4])

    @gdtr.setter
    def gdtr(self, value: Table) -> None:
        self._q[H.GDT_D + 2 >> 1] = value.base
        self._d[H.GDT_D + 4] = value.limit

    @property
    def idtr(self) -> Table:
        """IDTR."""
        return Table(self._q[H.IDT_D + 2 >> 1], self._d[H.IDT_D + 4])

    @idtr.setter
    def idtr(self, value: Table) -> None:
        self._q[H.IDT_D + 2 >> 1] = value.base
        self._d[H.IDT_D + 4] = value.limit

    # --- Control --------------------------------------------------------------------------------

    @property
    def cr0(self) -> int:
        """CR0."""
        return self._q[H.CR_Q]

    @cr0.setter
    def cr0(self, value: int) -> None:
        self._q[H.CR_Q] = value
        d = self._d
        hflags = d[H.HFLAGS_D] & ~(H.HF_PE | H.HF_MP_EM_TS)
        hflags |= value << H.HF_MP_EM_TS_SHIFT & H.HF_MP_EM_TS
        # Real mode adds the segment base to every address.
        d[H.HFLAGS_D] = hflags | (H.HF_PE if value & 1 else H.HF_ADDSEG)

    @property
    def cr2(self) -> int:
        """CR2, where the last #PF happened."""
        return self._q[H.CR_Q + 2]

    @cr2.setter
    def cr2(self, value: int) -> None:
        self._q[H.CR_Q + 2] = value & _MASK64

    @property
    def cr3(self) -> int:
        """CR3."""
        return self._q[H.CR_Q + 3]

    @cr3.setter
    def cr3(self, value: int) -> None:
        self._q[H.CR_Q + 3] = value

    @property
    def cr4(self) -> int:
        """CR4."""
        return self._q[H.CR_Q + 4]

    @cr4.setter
    def cr4(self, value: int) -> None:
        self._q[H.CR_Q + 4] = value
        hflags = self._d[H.HFLAGS_D] & ~(H.HF_OSFXSR | H.HF_SMAP)
        if value & 1 << 9:
            hflags |= H.HF_OSFXSR
        if value & 1 << 21:
            hflags |= H.HF_SMAP
        self._d[H.HFLAGS_D] = hflags

    @property
    def efer(self) -> int:
        """IA32_EFER."""
        return self._q[H.EFER_Q]

    @efer.setter
    def efer(self, value: int) -> None:
        self._q[H.EFER_Q] = value
        hflags = self._d[H.HFLAGS_D] & ~H.HF_LMA
        self._d[H.HFLAGS_D] = hflags | (H.HF_LMA if value & 1 << 10 else 0)

    @property
    def pkru(self) -> int:
        """PKRU."""
        return self._d[H.PKRU_D]

    @pkru.setter
    def pkru(self, value: int) -> None:
        self._d[H.PKRU_D] = value

    def dr(self, number: int) -> int:
        """Return a debug register."""
        return self._q[H.DR_Q + number]

    @property
    def dr6(self) -> int:
        """DR6, the debug status."""
        return self._q[H.DR_Q + 6]

    @dr6.setter
    def dr6(self, value: int) -> None:
        self._q[H.DR_Q + 6] = value

    @property
    def dr7(self) -> int:
        """DR7, the debug control."""
        return self._q[H.DR_Q + 7]

    @dr7.setter
    def dr7(self, value: int) -> None:
        self._q[H.DR_Q + 7] = value

    @property
    def linear_rip(self) -> int:
        """The linear address of the next instruction."""
        rip = self._q[H.RIP_Q]
        if self._d[H.HFLAGS_D] & H.HF_CS64:
            return rip
        return self._q[H.SEGS_D + CS * H.SEG_DWORDS + 2 >> 1] + rip & 0xFFFF_FFFF

    @property
    def linear_rsp(self) -> int:
        """The linear address of the top of the stack."""
        rsp: int = self.rsp
        if self._d[H.HFLAGS_D] & H.HF_CS64:
            return rsp
        mask = 0xFFFF_FFFF if self.segment_flags(SS) & DESC_B else 0xFFFF
        return self.segment_base(SS) + (rsp & mask) & 0xFFFF_FFFF

    def read_all(self) -> dict[str, int | Segment | Table]:
        """Return every register by name: for reports and snapshots."""
        values: dict[str, int | Segment | Table] = {name: self.get(name) for name in GPRS}
        values.update(rip=self.rip, rflags=self.rflags)
        values.update((name, self.segment(n)) for name, n in _SEGMENT_NUMBER.items())
        values.update(gdtr=self.gdtr, idtr=self.idtr)
        values.update(cr0=self.cr0, cr2=self.cr2, cr3=self.cr3, cr4=self.cr4, cr8=self.cr8)
        values.update(efer=self.efer, pkru=self.pkru)
        values.update((f"dr{n}", self.dr(n)) for n in (0, 1, 2, 3, 6, 7))
        return values
