# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest's reset comes to.

    port 0xcf9 with bit 1, and so the ACPI reset register     hard: every chip, every processor
    port 0x92, the 8042, port 0xcf9 without bit 1             soft: INIT to the processors...
    INIT of the boot processor, a jump to FFFF:0              ...who then run the firmware

The firmware (`emu.boot.bios`) looks at the shutdown byte of the CMOS. A program that has left one
of `RESUME_CODES` there goes on through the dword 0040:0067 with all chips as they were, which is
how a 286 left protected mode. Everything else is a reboot: every chip is reset, RAM keeps what it
holds, and the kernel is loaded again. Whether a reboot is done or ends the run is the person's
choice (`Machine(reboot=...)`); it ends where the guest asked for it, for the report's sake.
"""

from __future__ import annotations

from emu.cpu.vcpu import Vcpu

__all__ = ["PowerUpState"]

# What RESET puts back and INIT does not (SDM 3A table 9-1), beside what `Vcpu.reset` does.
_MSRS = (
    *(0x174, 0x175, 0x176),  # SYSENTER
    *(0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084),  # SYSCALL
    *(0xC000_0102, 0xC000_0103),  # KERNEL_GS_BASE, TSC_AUX
    *(0x17A, 0x1A0, 0x1D9, 0x140),
    *(0x2FF, *range(0x200, 0x210), 0x250, 0x258, 0x259, *range(0x268, 0x270)),  # MTRRs
)


class PowerUpState:
    """The state of a vCPU that has just been made, to be put back."""

    def __init__(self, cpu: Vcpu) -> None:
        """Note the MSRs of `cpu`."""
        self._cpu = cpu
        self._msrs = {index: cpu.msrs.read(index) for index in _MSRS if index in cpu.msrs}

    def restore(self) -> None:
        """Do what RESET does; the TSC counts from 0 again. Not while the processor runs."""
        cpu = self._cpu
        cpu.reset()
        cpu.waits_for_sipi = False
        for index, value in self._msrs.items():
            cpu.msrs.write(index, value)
        cpu.msrs.tsc_offset = -cpu.now()
        cpu.msrs.tsc_adjust = 0
        if cpu.index:
            cpu.init()  # all but the boot processor wait for a SIPI
