# SPDX-License-Identifier: GPL-2.0-or-later
"""The processor state that Unicorn hides, seen live.

Unicorn's interface shows the registers that a user program has. A machine needs the rest: hidden
segment parts, the lazy flags, error codes, QEMU's interrupt request word. All of it lies in three
C structures behind the engine's handle::

    uc_struct --cpu--> CPUState --env_ptr--> CPUX86State ("env")

What lies inside env is the order of fields in QEMU 5.0.1 as Unicorn 2.1 builds it, one layout on
every 64-bit host; where the rest is, emu.cpu.calibration finds out, and takes nothing on trust.

`HiddenState` is the live view of one engine: memoryviews over the structures, so that a register
costs 30 ns to read or write, inside hooks too.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal

__all__ = ["HiddenState", "Layout", "view"]

# Offsets inside env, which starts with RAX. The suffix says the unit: _Q 8, _D 4, _H 2 bytes.
RIP_Q = 16
EFLAGS_D = 34
CC_DST_Q = 18
CC_SRC_Q = 19
CC_SRC2_Q = 20
CC_OP_D = 42
DF_D = 43
HFLAGS_D = 44
HFLAGS2_D = 45
SEGS_D = 46  # six of {selector, pad, base (8), limit, flags}: ES CS SS DS FS GS
SEG_DWORDS = 6
LDT_D = SEGS_D + 6 * SEG_DWORDS
TR_D = LDT_D + SEG_DWORDS
GDT_D = TR_D + SEG_DWORDS
IDT_D = GDT_D + SEG_DWORDS
CR_Q = 53  # nine; CR1 and CR5 to CR7 are unused
EFER_Q = 74
SYSENTER_CS_D = 4800 // 4
SYSENTER_ESP_Q = 4808 // 8
SYSENTER_EIP_Q = 4816 // 8
STAR_Q = 4824 // 8
LSTAR_Q = 4840 // 8
CSTAR_Q = 4848 // 8
FMASK_Q = 4856 // 8
KERNEL_GS_BASE_Q = 4864 // 8
TSC_AUX_Q = 4896 // 8
XCR0_Q = 4904 // 8
PAT_Q = 5280 // 8
PKRU_D = 5304 // 4
ERROR_CODE_D = 5384 // 4
IS_INT_D = 5388 // 4
NEXT_EIP_Q = 5392 // 8
DR_Q = 5400 // 8
OLD_EXCEPTION_D = 5496 // 4
VMCB_Q = 5504 // 8
TSC_OFFSET_Q = 5512 // 8
INTERCEPT_Q = 5520 // 8
INTERCEPT_CR_READ_H = 5528 // 2
INTERCEPT_CR_WRITE_H = 5530 // 2
INTERCEPT_DR_READ_H = 5532 // 2
INTERCEPT_DR_WRITE_H = 5534 // 2
INTERCEPT_EXCEPTIONS_D = 5536 // 4
VENDOR_D = 5616 // 4  # three; then cpuid_version, then the feature words, 64 bits each
CPUID_VERSION_D = VENDOR_D + 3
FEATURES_Q = (VENDOR_D + 4) // 2
SAVED_BYTES = 5544  # up to the intercepts; behind is what CPUID says, and nothing that changes
HOST_BYTES = range(5464, 5496)  # QEMU's own breakpoints, unused: pointers of this process
ENV_BYTES = 6144
UC_BYTES = 8192  # of uc_struct, more than enough

# QEMU's numbers (target/i386/cpu.h, svm.h).
HF_CPL = 3
HF_INHIBIT_IRQ = 1 << 3
HF_CS32 = 1 << 4
HF_SS32 = 1 << 5
HF_ADDSEG = 1 << 6
HF_PE = 1 << 7
HF_MP_EM_TS_SHIFT = 8  # CR0 bits 1 to 3 become hflags bits 9 to 11
HF_MP_EM_TS = 7 << 9
HF_LMA = 1 << 14
HF_CS64 = 1 << 15
HF_GUEST = 1 << 21
HF_OSFXSR = 1 << 22
HF_SMAP = 1 << 23
HF_IOBPT = 1 << 24
HF2_GIF = 1 << 0
HF2_NMI = 1 << 2
INTERRUPT_SMI = 0x0040
INTERRUPT_VIRQ = 0x0100
INTERRUPT_NMI = 0x0200
VMEXIT = 0x100
EXIT_EXCEPTION = 0x40
EXIT_FIRST = 0x60
EXIT_NMI = 0x61
EXIT_SMI = 0x62
EXIT_VINTR = 0x64
EXIT_PAUSE = 0x77
EXIT_HLT = 0x78
EXIT_INVLPG = 0x79
EXIT_MSR = 0x7C


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are, in bytes from the start of the structure named first."""

    uc_cpu: int
    uc_emu_counter: int
    uc_emu_count: int
    uc_invalid_addr: int
    uc_invalid_error: int
    uc_exits: int  # the tree of addresses where emulation ends
    uc_no_exit_request: int  # -1: not found
    cpu_env: int
    cpu_icount_pointer: int
    cpu_exit_request: int
    cpu_interrupt_request: int
    cpu_exception_index: int


class HiddenState:
    """Live views of one engine's structures.

    `q`, `d`, `h`, `b` are env by 8, 4, 2 and 1 bytes, indexed by this module's constants. `uc` is
    uc_struct by 8 bytes, `cpu` the start of CPUState by 4, `exit_request` and `icount_high` one
    element each; so is `no_exit_request`, which is None where it was not found. They are valid
    while the engine is open, not a moment longer.
    """

    def __init__(self, handle: int, where: Layout) -> None:
        """Attach to the engine with this handle."""
        self.layout = where
        self.uc = view(handle, UC_BYTES, "Q")
        cpu_address = self.uc[where.uc_cpu // 8]
        self.env_address = env_address = cpu_address + where.cpu_env
        self.q = view(env_address, ENV_BYTES, "Q")
        self.d = self.q.cast("B").cast("I")
        self.h = self.q.cast("B").cast("H")
        self.b = self.q.cast("B")
        self.cpu = view(cpu_address, 64, "I")
        self.exit_request = view(cpu_address + where.cpu_exit_request, 1, "B")
        self.exception_index = view(cpu_address + where.cpu_exception_index, 4, "i")
        self.invalid_error = view(handle + where.uc_invalid_error, 4, "I")
        at = where.uc_no_exit_request
        self.no_exit_request = view(handle + at, 1, "B") if at >= 0 else None
        self.icount_address = view(cpu_address + where.cpu_icount_pointer, 8, "Q")[0]
        self.icount_high = view(self.icount_address + 2, 2, "h")
        self.counter = where.uc_emu_counter // 8
        self.limit = where.uc_emu_count // 8
        self.invalid_addr = where.uc_invalid_addr // 8
        self.interrupt_request = where.cpu_interrupt_request // 4


def view(address: int, size: int, word: Literal["B", "h", "i", "I", "Q"]) -> memoryview:
    """Return `size` bytes of this process's memory by 1, 2, 4 or 8 bytes."""
    buffer = (ctypes.c_uint8 * size).from_address(address)
    return memoryview(buffer).cast("B").cast(word)
