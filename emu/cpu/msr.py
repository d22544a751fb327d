# SPDX-License-Identifier: GPL-2.0-or-later
"""Model-specific registers (SDM 4 chapter 2): the ones that exist, each a reader and a writer.

RDMSR and WRMSR always come here, so an MSR that nobody has put into the table is #GP(0). Devices
with MSRs of their own (a local APIC) add them with `Msrs.add`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.cpu import hidden as H
from emu.cpu.faults import Fault, Vector
from emu.cpu.registers import DESC_DPL_SHIFT, FS, GS
from emu.errors import StateError
from emu.savable import Savable, State
from mmu.arch import CR0_PG

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["PAT", "Msrs", "is_canonical"]

Reader = Callable[[], int]
Writer = Callable[[int], None]

EFER = 0xC000_0080
PAT = 0x277
EFER_SCE = 1 << 0
EFER_LME = 1 << 8
EFER_LMA = 1 << 10
EFER_NXE = 1 << 11
_PAT_TYPES = frozenset({0, 1, 4, 5, 6, 7})
_MTRR_CAP = 0x508  # eight variable ranges, fixed ranges, write combining
_MTRR_DEF_TYPE = 0x2FF
_MTRR_VARIABLE = range(0x200, 0x210)  # base, mask, base, mask...
_MTRR_FIXED = (0x250, 0x258, 0x259, *range(0x268, 0x270))
_MTRR_TYPES = frozenset({0, 1, 4, 5, 6})
_MTRR_FLAGS = 0xC00  # of DEF_TYPE: enable, fixed enable
_MTRR_VALID = 1 << 11  # of a mask
_ARCH_CAPABILITIES = 0x10A
_NOT_VULNERABLE = sum(1 << bit for bit in (0, 3, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27, 62))
"""Of ARCH_CAPABILITIES (SDM 4 table 2-2): RDCL, L1TF, SSB, MDS, IF_PSCHANGE_MC, TAA, SBDR and SSDP,
FBSDP, PSDP, BHI, PBRSB, GDS, RFDS, ITS. Nothing is executed here that the program does not, so that
a kernel needs no second set of page tables against Meltdown."""
# MSRs that go with a feature (SDM 4 table 2-2).
_FEATURES = {
    0x10: "tsc",
    0x1B: "apic",
    0x3B: "tsc_adjust",
    **dict.fromkeys((0x174, 0x175, 0x176), "sep"),
    0x277: "pat",
    **dict.fromkeys((0xFE, _MTRR_DEF_TYPE, *_MTRR_VARIABLE, *_MTRR_FIXED), "mtrr"),
    _ARCH_CAPABILITIES: "arch-capabilities",
    0x6E0: "tsc-deadline",
    **dict.fromkeys(range(0xC000_0081, 0xC000_0085), "syscall"),
    **dict.fromkeys((0xC000_0100, 0xC000_0101, 0xC000_0102), "lm"),
    0xC000_0103: "rdtscp",
}


def is_canonical(address: int, la57: bool) -> bool:
    """Return whether an address is canonical for a processor with 57 linear bits, or with 48.

    MSRs take what the processor could use, whatever CR4.LA57 says now (SDM 3A 4.5.1).
    """
    shift = 56 if la57 else 47
    return address >> shift in (0, (1 << 64 - shift) - 1)


class Msrs(Savable):
    """The MSRs of one vCPU."""

    def __init__(self, cpu: Vcpu) -> None:
        """Serve `cpu`."""
        self._cpu = cpu
        self._table: dict[int, tuple[Reader, Writer]] = {}
        self._stored: dict[int, int] = {}
        self.tsc_offset = 0
        """What RDTSC adds to virtual time."""
        self.tsc_adjust = 0
        self.on_tsc_changed: Callable[[], None] = lambda: None
        """Called when the guest has set its TSC: a local APIC's deadline depends on it."""
        self._add_known()

    def add(self, index: int, read: Reader, write: Writer) -> None:
        """Let an MSR exist, if its feature does. Either callable may raise Fault."""
        feature = _FEATURES.get(index)
        if feature is None or self._cpu.cpuid.has(feature):
            self._table[index] = (read, write)

    def __contains__(self, index: int) -> bool:
        """Return whether there is such an MSR."""
        return index in self._table

    def read(self, index: int) -> int:
        """Return an MSR; raises Fault (#GP) if there is none."""
        entry = self._table.get(index)
        if entry is None:
            raise Fault(Vector.GP)
        return entry[0]()

    def write(self, index: int, value: int) -> None:
        """Set an MSR; raises Fault (#GP) if there is none or it refuses the value."""
        entry = self._table.get(index)
        if entry is None:
            raise Fault(Vector.GP)
        entry[1](value)

    def tsc(self) -> int:
        """Return the time-stamp counter: virtual nanoseconds at 1 GHz."""
        return self._cpu.now() + self.tsc_offset & 0xFFFF_FFFF_FFFF_FFFF

    # --- Saving ---------------------------------------------------------------------------------

    def save(self) -> State:
        """Return the MSRs that the engine does not hold; a local APIC saves its own."""
        return self._make_state(
            tsc_offset=self.tsc_offset, tsc_adjust=self.tsc_adjust, stored=self._stored
        )

    def load(self, state: State) -> None:
        """Take a saved state. Raises StateError if it has other MSRs."""
        tsc_offset, tsc_adjust, stored = self._parts_of(
            state, tsc_offset=int, tsc_adjust=int, stored=dict[int, int]
        )
        if stored.keys() != self._stored.keys():
            raise StateError("Msrs: the state has other MSRs than the processor")
        self.tsc_offset, self.tsc_adjust = tsc_offset, tsc_adjust
        self._stored.update(stored)

    # --- The table --------------------------------------------------------------------------

    def _add_known(self) -> None:
        q = self._cpu.hidden.q
        for index, word in (
            (0xC000_0100, H.SEGS_D + FS * H.SEG_DWORDS + 2 >> 1),
            (0xC000_0101, H.SEGS_D + GS * H.SEG_DWORDS + 2 >> 1),
            (0xC000_0102, H.KERNEL_GS_BASE_Q),
        ):
            self._add_word(index, q, word, canonical=True, check=self._keep_bases)
        for index, word in (
            (0xC000_0082, H.LSTAR_Q),
            (0xC000_0083, H.CSTAR_Q),
            (0x175, H.SYSENTER_ESP_Q),
            (0x176, H.SYSENTER_EIP_Q),
        ):
            self._add_word(index, q, word, canonical=True)
        self._add_word(0xC000_0081, q, H.STAR_Q)
        self._add_word(0xC000_0084, q, H.FMASK_Q, mask=0xFFFF_FFFF)
        self._add_word(0xC000_0103, q, H.TSC_AUX_Q, mask=0xFFFF_FFFF)
        d = self._cpu.hidden.d
        self.add(0x174, lambda: d[H.SYSENTER_CS_D], self._write_sysenter_cs)
        self.add(EFER, lambda: self._cpu.regs.efer, self._write_efer)
        self.add(0x10, self.tsc, self._write_tsc)
        self.add(0x3B, lambda: self.tsc_adjust, self._write_tsc_adjust)
        self._add_word(PAT, q, H.PAT_Q, check=_check_pat)
        self._add_memory_types()
        # Identification and machine check: there to be read, with nothing behind them.
        self._add_constant(0x17)  # PLATFORM_ID
        self._add_constant(0x8B, 1 << 32)  # microcode revision
        self._add_constant(0xCE)  # PLATFORM_INFO
        self._add_constant(_ARCH_CAPABILITIES, _NOT_VULNERABLE)
        self._add_constant(0x179)  # MCG_CAP: no banks
        self._add_stored(0x17A)  # MCG_STATUS
        self._add_stored(0x1A0, 1)  # MISC_ENABLE: fast strings
        self._add_constant(0x3A, 1)  # FEATURE_CONTROL: locked, no VMX
        self._add_stored(0x1D9)  # DEBUGCTL
        self._add_stored(0x140)  # MISC_FEATURES_ENABLES

    def _add_word(
        self,
        index: int,
        words: memoryview,
        at: int,
        *,
        canonical: bool = False,
        mask: int = 0xFFFF_FFFF_FFFF_FFFF,
        check: Callable[[int], None] | None = None,
    ) -> None:
        la57 = self._cpu.cpuid.has("la57")

        def write(value: int) -> None:
            if value & ~mask or (canonical and not is_canonical(value, la57)):
                raise Fault(Vector.GP)
            if check is not None:
                check(value)
            words[at] = value

        self.add(index, lambda: words[at], write)

    def _add_stored(
        self, index: int, value: int = 0, is_valid: Callable[[int], bool] = lambda new: True
    ) -> None:
        stored = self._stored
        stored[index] = value

        def write(new: int) -> None:
            if not is_valid(new):
                raise Fault(Vector.GP)
            stored[index] = new

        self.add(index, lambda: stored[index], write)

    def _add_constant(self, index: int, value: int = 0) -> None:
        def refuse(_value: int) -> None:
            if index != 0x8B:  # writing 0 there is how a kernel asks for the revision
                raise Fault(Vector.GP)

        self.add(index, lambda: value, refuse)

    def _add_memory_types(self) -> None:
        """MTRRs (SDM 3A 11.11): kept and read back; all memory is alike here."""
        frames = (1 << self._cpu.features.phys_bits) - (1 << 12)
        self._add_constant(0xFE, _MTRR_CAP)
        self._add_stored(_MTRR_DEF_TYPE, 0xC06, lambda new: _is_typed(new, _MTRR_FLAGS))
        for base in _MTRR_VARIABLE[::2]:
            self._add_stored(base, 0, lambda new: _is_typed(new, frames))
            self._add_stored(base + 1, 0, lambda new: not new & ~(frames | _MTRR_VALID))
        for index in _MTRR_FIXED:
            self._add_stored(
                index, 0, lambda new: _MTRR_TYPES.issuperset(new.to_bytes(8, "little"))
            )

    def _keep_bases(self, _value: int) -> None:
        """Let FS and GS outlive an IRETQ or RETFQ to CPL 3.

        The processor nulls the selector of a segment whose DPL is above CPL there, no more (SDM
        2A, IRET, RETURN-TO-OUTER-PRIVILEGE-LEVEL); the engine clears the base that was set here.
        It looks at the DPL in the hidden part, which serves for nothing else.
        """
        d = self._cpu.hidden.d
        for number in (FS, GS):
            at = H.SEGS_D + number * H.SEG_DWORDS
            if d[at] & 0xFFFC:
                d[at + 5] |= 3 << DESC_DPL_SHIFT

    def _write_sysenter_cs(self, value: int) -> None:
        self._cpu.hidden.d[H.SYSENTER_CS_D] = value & 0xFFFF

    def _write_tsc(self, value: int) -> None:
        # SDM 3B 17.17.3: a write to the TSC moves TSC_ADJUST by as much.
        delta = value - self.tsc()
        self._adjust(delta)

    def _write_tsc_adjust(self, value: int) -> None:
        self._adjust(value - self.tsc_adjust)

    def _adjust(self, delta: int) -> None:
        self.tsc_offset += delta
        self.tsc_adjust = self.tsc_adjust + delta & 0xFFFF_FFFF_FFFF_FFFF
        self.on_tsc_changed()

    def _write_efer(self, value: int) -> None:
        cpu = self._cpu
        regs = cpu.regs
        allowed = EFER_LMA
        for name, bits in (("syscall", EFER_SCE), ("lm", EFER_LME), ("nx", EFER_NXE)):
            if cpu.cpuid.has(name):
                allowed |= bits
        old = regs.efer
        # SDM 3A 2.2.1, 4.1.1: reserved bits; LME may not change while paging is on.
        if value & ~allowed or ((value ^ old) & EFER_LME and regs.cr0 & CR0_PG):
            raise Fault(Vector.GP)
        new = value & ~EFER_LMA | old & EFER_LMA
        if new != old:  # the MMU would take the same registers for a reload of CR3
            regs.efer = new
            cpu.reload_paging()


def _is_typed(value: int, others: int) -> bool:
    """Return whether a value is a memory type of the MTRRs and bits of `others`, no more."""
    return value & 0xFF in _MTRR_TYPES and not value & ~(others | 0xFF)


def _check_pat(value: int) -> None:
    if any(byte not in _PAT_TYPES for byte in value.to_bytes(8, "little")):
        raise Fault(Vector.GP)
