# SPDX-License-Identifier: GPL-2.0-or-later
"""What this processor says of itself, and which of Unicorn's instructions it therefore has.

The engine decodes by its own feature words, so they are cut down once to what really works, and
CPUID then reports them: the two cannot disagree. Only what we execute in the engine's stead is in
no word of its own (`_OURS`). What is cut although the model has it is in
`ABSENT`, by leaf; README quotes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from emu.cpu import hidden as H
from mmu.arch import Features

__all__ = ["ABSENT", "FEATURE_NAMES", "OURS", "Cpuid", "CpuidResult", "Identity", "can_be_had"]

# The order of QEMU's feature words (target/i386/cpu.h, FEAT_*).
F1_EDX, F1_ECX, F7_EBX, F7_ECX, F7_EDX, F7_1_EAX, F81_EDX, F81_ECX, F87_EDX = range(9)
_SVM_WORD = 18
_XSAVE_COMPONENTS = 21

# name -> (word, bit): those that -cpu may add or take away, and those that we ask about.
FEATURE_NAMES: dict[str, tuple[int, int]] = {
    "fpu": (F1_EDX, 0),
    "vme": (F1_EDX, 1),
    "de": (F1_EDX, 2),
    "pse": (F1_EDX, 3),
    "tsc": (F1_EDX, 4),
    "msr": (F1_EDX, 5),
    "pae": (F1_EDX, 6),
    "mce": (F1_EDX, 7),
    "cx8": (F1_EDX, 8),
    "apic": (F1_EDX, 9),
    "sep": (F1_EDX, 11),
    "mtrr": (F1_EDX, 12),
    "pge": (F1_EDX, 13),
    "mca": (F1_EDX, 14),
    "cmov": (F1_EDX, 15),
    "pat": (F1_EDX, 16),
    "pse36": (F1_EDX, 17),
    "clflush": (F1_EDX, 19),
    "mmx": (F1_EDX, 23),
    "fxsr": (F1_EDX, 24),
    "sse": (F1_EDX, 25),
    "sse2": (F1_EDX, 26),
    "sse3": (F1_ECX, 0),
    "pclmulqdq": (F1_ECX, 1),
    "monitor": (F1_ECX, 3),
    "vmx": (F1_ECX, 5),
    "ssse3": (F1_ECX, 9),
    "fma": (F1_ECX, 12),
    "cx16": (F1_ECX, 13),
    "pcid": (F1_ECX, 17),
    "sse4.1": (F1_ECX, 19),
    "sse4.2": (F1_ECX, 20),
    "x2apic": (F1_ECX, 21),
    "movbe": (F1_ECX, 22),
    "popcnt": (F1_ECX, 23),
    "tsc-deadline": (F1_ECX, 24),
    "aes": (F1_ECX, 25),
    "xsave": (F1_ECX, 26),
    "avx": (F1_ECX, 28),
    "f16c": (F1_ECX, 29),
    "rdrand": (F1_ECX, 30),
    "hypervisor": (F1_ECX, 31),
    "fsgsbase": (F7_EBX, 0),
    "tsc_adjust": (F7_EBX, 1),
    "bmi1": (F7_EBX, 3),
    "hle": (F7_EBX, 4),
    "avx2": (F7_EBX, 5),
    "smep": (F7_EBX, 7),
    "bmi2": (F7_EBX, 8),
    "erms": (F7_EBX, 9),
    "invpcid": (F7_EBX, 10),
    "rtm": (F7_EBX, 11),
    "mpx": (F7_EBX, 14),
    "avx512f": (F7_EBX, 16),
    "rdseed": (F7_EBX, 18),
    "adx": (F7_EBX, 19),
    "smap": (F7_EBX, 20),
    "clflushopt": (F7_EBX, 23),
    "clwb": (F7_EBX, 24),
    "umip": (F7_ECX, 2),
    "pku": (F7_ECX, 3),
    "la57": (F7_ECX, 16),
    "arch-capabilities": (F7_EDX, 29),
    "syscall": (F81_EDX, 11),
    "nx": (F81_EDX, 20),
    "pdpe1gb": (F81_EDX, 26),
    "rdtscp": (F81_EDX, 27),
    "lm": (F81_EDX, 29),
    "lahf_lm": (F81_ECX, 0),
    "svm": (F81_ECX, 2),
    "abm": (F81_ECX, 5),
    "invtsc": (F87_EDX, 8),
}

ABSENT = (
    "vme",  # virtual-8086 extensions: QEMU's TCG has no virtual interrupt flag
    "pcid",  # address-space tags, and
    "invpcid",  # the instruction for them
    "avx",
    "avx2",
    "avx512f",
    "fma",
    "f16c",
    "vmx",  # virtualization: the engine's SVM is what we run on
    "svm",
    "mpx",
    "hle",
    "rtm",
    "monitor",  # MONITOR/MWAIT
)

# Of each word, what TCG really executes; bits that neither are listed by name nor harmless go.
_KEEP = {
    F1_EDX: 0x0F8B_FBFF & ~(1 << 1),
    F1_ECX: 1 << 31 | sum(1 << b for b in (0, 1, 9, 13, 19, 20, 21, 22, 23, 24, 25, 26, 30)),
    F7_EBX: sum(1 << b for b in (0, 1, 3, 7, 8, 9, 18, 19, 20, 23, 24)),
    F7_ECX: 1 << 2 | 1 << 3 | 1 << 16,
    F7_EDX: 1 << 29,
    F7_1_EAX: 0,
    F81_EDX: 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29 | 0x0183_F3FF,
    F81_ECX: 1 << 0 | 1 << 5,
    F87_EDX: 1 << 8,
}
# Not in the model's words, but true of this machine.
_ADD = {
    F1_ECX: 1 << 31 | 1 << 24 | 1 << 21,
    F1_EDX: 1 << 9,
    F7_EBX: 1 << 1 | 1 << 18,
    F7_ECX: 1 << 2 | 1 << 3 | 1 << 16,
    F7_EDX: 1 << 29,
    F87_EDX: 1 << 8,
}

# CPUID shows them, and the engine is told that it has not got them: see emu.cpu.undefined.
_OURS = ("rdrand", "rdseed")
_HIDDEN = {FEATURE_NAMES[name][0]: 1 << FEATURE_NAMES[name][1] for name in _OURS}

# CPUID.4: (type and level, ways and line size, sets less 1, flags). All are a core's own.
_CACHES = (
    (0x121, 0x01C0_003F, 0x3F, 1),  # L1, data: 32 KiB
    (0x122, 0x01C0_003F, 0x3F, 1),  # L1, instructions: 32 KiB
    (0x143, 0x03C0_003F, 0xFFF, 1),  # L2: 4 MiB
)
_RAX = 0  # its word in the engine's state
_CR4_OSXSAVE = 1 << 18
_CR4_PKE = 1 << 22


_AMD = ("AuthenticAMD", "HygonGenuine")
_AMD_ALIASES = 0x0183_F3FF  # bits of 1:EDX that 80000001H:EDX repeats


def _words(text: str) -> list[int]:
    """Return a text's little-endian double words."""
    raw = text.encode("ascii").ljust(12, b"\0")
    return [int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4)]


def can_be_had(name: str) -> bool:
    """Return whether a feature can be switched on; raises KeyError for an unknown name.

    >>> can_be_had("smep"), can_be_had("avx")
    (True, False)
    """
    word, bit = FEATURE_NAMES[name]
    return name not in ABSENT and bool(_KEEP[word] >> bit & 1)


class Identity(NamedTuple):
    """Who the processor says it is: leaf 0, EAX of leaf 1, and the text of 80000002H to 80000004H.

    `level` and `xlevel` are the highest leaves below and above 80000000H; `family` includes the
    extended family, `model` the extended model (SDM 2A, CPUID).
    """

    vendor: str
    family: int
    model: int
    stepping: int
    level: int
    xlevel: int
    text: str

    @property
    def version(self) -> int:
        """EAX of leaf 1 (SDM 2A figure 3-6).

        >>> hex(Identity("GenuineIntel", 6, 60, 4, 13, 0x80000008, "").version)
        '0x306c4'
        """
        base = min(self.family, 0xF)
        extended = self.family - base << 20 | self.model >> 4 << 16
        return extended | base << 8 | (self.model & 0xF) << 4 | self.stepping


OURS = Identity("GenuineIntel", 6, 0x86, 0, 0xD, 0x8000_0008, "Intel Xeon Processor (Icelake)")
"""Who the engine says it is where no model is asked for."""


class CpuidResult(NamedTuple):
    """The four registers that CPUID writes."""

    eax: int
    ebx: int
    ecx: int
    edx: int


class Cpuid:
    """The feature words of one vCPU and the leaves made from them.

    `index` is its APIC id, `cpus` how many there are. `words` may be changed before a run by
    `set_feature`; the engine decodes by them at once.
    """

    def __init__(self, state: H.HiddenState, index: int, cpus: int) -> None:
        """Cut the engine's features down to what works."""
        self._d = state.d
        self._q = state.q
        self._index = index
        self._cpus = cpus
        q = self._q
        for word, keep in _KEEP.items():
            at = H.FEATURES_Q + word
            q[at] = (q[at] | _ADD.get(word, 0)) & keep
        q[H.FEATURES_Q + _SVM_WORD] = 0
        # XCR0: x87, SSE and PKRU, the only states that TCG keeps.
        q[H.FEATURES_Q + _XSAVE_COMPONENTS] &= 0x203
        self._shown = {word: q[H.FEATURES_Q + word] for word in _KEEP}
        for name in ABSENT:
            self.set_feature(name, False)
        for name in _OURS:
            self.set_feature(name, self.has(name))
        self._identity: Identity | None = None
        self.apic_enabled: Callable[[], bool] = lambda: True
        """Whether IA32_APIC_BASE has the local APIC on: CPUID shows it only then."""

    def has(self, name: str) -> bool:
        """Return whether a feature is on; raises KeyError for an unknown name."""
        word, bit = FEATURE_NAMES[name]
        return bool(self._shown[word] >> bit & 1)

    def set_feature(self, name: str, on: bool) -> None:
        """Switch a feature that `can_be_had`; raises KeyError for an unknown name."""
        word, bit = FEATURE_NAMES[name]
        shown = self._shown[word] = self._shown[word] & ~(1 << bit) | int(on) << bit
        self._q[H.FEATURES_Q + word] = shown & ~_HIDDEN.get(word, 0)

    def identify(self, identity: Identity) -> None:
        """Answer as `identity`; call it after the last `set_feature`.

        The engine is told the vendor, which decides whether SYSENTER exists in long mode. An AMD
        processor repeats bits of leaf 1 in leaf 80000001H. The highest leaf rises to those that
        describe a feature, as under QEMU.
        """
        for number, word in enumerate(_words(identity.vendor)):
            self._d[H.VENDOR_D + number] = word
        self._d[H.CPUID_VERSION_D] = identity.version
        aliases = self._shown[F1_EDX] & _AMD_ALIASES if identity.vendor in _AMD else 0
        self._shown[F81_EDX] = self._shown[F81_EDX] & ~_AMD_ALIASES | aliases
        self._q[H.FEATURES_Q + F81_EDX] = self._shown[F81_EDX]
        level, xlevel = identity.level, identity.xlevel
        if self._shown[F7_EBX] or self._shown[F7_ECX]:
            level = max(level, 7)
        if self.has("xsave"):
            level = max(level, 0xD)
        if self._shown[F81_EDX] or self._shown[F81_ECX]:
            xlevel = max(xlevel, 0x8000_0001)
        self._identity = identity._replace(level=level, xlevel=xlevel)

    def words(self) -> list[int]:
        """Return vendor, version and every feature word, by which two processors are alike."""
        vendor = self._d[H.VENDOR_D : H.CPUID_VERSION_D + 1]
        return [*vendor, *(self._shown[word] for word in sorted(self._shown))]

    def paging_features(self) -> Features:
        """Return what the MMU has to know."""
        return Features(
            phys_bits=40,
            nx=self.has("nx"),
            pse36=self.has("pse36"),
            gbpages=self.has("pdpe1gb"),
            pku=self.has("pku"),
            la57=self.has("la57"),
        )

    def _word(self, word: int) -> int:
        return self._shown[word]

    def leaf(self, eax: int, ecx: int) -> CpuidResult | None:
        """Return a leaf, or None where the engine's own answer to what is now in EAX is right."""
        if self._identity is not None:
            asked = eax
            eax, ours = self._limited(self._identity, eax)
            if ours is not None:
                return ours
            if eax != asked:
                self._q[_RAX] = eax
        elif eax > 0x4000_0100 and eax < 0x8000_0000:
            return CpuidResult(0, 0, 0, 0)
        handler = _LEAVES.get(eax)
        return handler(self, ecx) if handler is not None else None

    def _limited(self, who: Identity, eax: int) -> tuple[int, CpuidResult | None]:
        """Return the leaf to answer with, and the answer if the identity has it.

        A leaf above the highest one is the highest basic one (SDM 2A, CPUID).
        """
        if eax >> 28 == 4 and self.has("hypervisor"):
            zero = CpuidResult(0, 0, 0, 0)
            return eax, None if eax == 0x4000_0000 else zero
        if eax > (who.xlevel if eax >> 31 else who.level):
            eax = who.level
        b, d, c = _words(who.vendor)
        if eax == 0:
            return eax, CpuidResult(who.level, b, c, d)
        if eax == 0x8000_0000:
            return eax, CpuidResult(who.xlevel, b, c, d)
        if eax in (2, 4) and who.vendor in _AMD:  # AMD has its caches in 80000005H
            return eax, CpuidResult(0, 0, 0, 0)
        if eax in range(0x8000_0002, 0x8000_0005):
            text = who.text.encode("ascii", "replace")[:47].ljust(48, b"\0")
            piece = text[16 * (eax - 0x8000_0002) :][:16].decode("ascii")
            return eax, CpuidResult(*_words(piece))
        return eax, None

    def _leaf_1(self, _ecx: int) -> CpuidResult:
        cr4 = self._q[H.CR_Q + 4]
        ecx = self._word(F1_ECX)
        if cr4 & _CR4_OSXSAVE and self.has("xsave"):
            ecx |= 1 << 27
        edx = self._word(F1_EDX)
        if not self.apic_enabled():
            edx &= ~(1 << 9)
        ebx = self._index << 24 | 8 << 8
        if self._cpus > 1:
            ebx |= min(self._cpus, 255) << 16
            edx |= 1 << 28
        return CpuidResult(self._d[H.CPUID_VERSION_D], ebx, ecx, edx)

    def _leaf_4(self, ecx: int) -> CpuidResult:
        """Return the caches; the top of EAX says how many cores there are, less one."""
        if ecx >= len(_CACHES):
            return CpuidResult(0, 0, 0, 0)
        eax, *others = _CACHES[ecx]
        return CpuidResult(eax | self._cpus - 1 << 26, *others)

    def _leaf_7(self, ecx: int) -> CpuidResult:
        if ecx:
            return CpuidResult(0, 0, 0, 0)
        word = self._word(F7_ECX)
        if self._q[H.CR_Q + 4] & _CR4_PKE and self.has("pku"):
            word |= 1 << 4
        return CpuidResult(0, self._word(F7_EBX), word, self._word(F7_EDX))

    def _leaf_b(self, ecx: int) -> CpuidResult:
        if ecx == 0:  # the thread level: one thread a core
            return CpuidResult(0, 1, 0x100, self._index)
        if ecx == 1:
            shift = max(self._cpus - 1, 0).bit_length()
            return CpuidResult(shift, self._cpus, 0x201, self._index)
        return CpuidResult(0, 0, ecx & 0xFF, self._index)

    def _leaf_hypervisor(self, _ecx: int) -> CpuidResult:
        text = b"shadowcornVM"
        words = (int.from_bytes(text[i : i + 4], "little") for i in (0, 4, 8))
        return CpuidResult(0x4000_0000, *words)

    def _leaf_ext_1(self, _ecx: int) -> CpuidResult:
        return CpuidResult(self._d[H.CPUID_VERSION_D], 0, self._word(F81_ECX), self._word(F81_EDX))

    def _leaf_ext_7(self, _ecx: int) -> CpuidResult:
        return CpuidResult(0, 0, 0, self._word(F87_EDX) if self.has("tsc") else 0)

    def _leaf_ext_8(self, _ecx: int) -> CpuidResult:
        linear = 57 if self.has("la57") else 48
        return CpuidResult(linear << 8 | 40, 0, 0, 0)

    def _none(self, _ecx: int) -> CpuidResult:
        return CpuidResult(0, 0, 0, 0)


_LEAVES = {
    1: Cpuid._leaf_1,
    4: Cpuid._leaf_4,
    5: Cpuid._none,  # MONITOR
    6: Cpuid._none,  # thermal
    7: Cpuid._leaf_7,
    0xA: Cpuid._none,  # performance counters
    0xB: Cpuid._leaf_b,
    0x14: Cpuid._none,  # processor trace
    0x4000_0000: Cpuid._leaf_hypervisor,
    0x8000_0001: Cpuid._leaf_ext_1,
    0x8000_0007: Cpuid._leaf_ext_7,
    0x8000_0008: Cpuid._leaf_ext_8,
    0x8000_000A: Cpuid._none,  # SVM
}
