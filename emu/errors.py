# SPDX-License-Identifier: GPL-2.0-or-later
"""Every exception that shadowcorn raises on purpose.

What a *guest* does wrong is never one of these: a guest's fault is a value and ends, at worst, in
an `emu.outcome.Outcome`. These are the mistakes of the host side: of the person who started the
run, of the file that was to be run, or of shadowcorn itself.

    Exception
    +-- ShadowcornError         anything below; the command line prints one line of it
        +-- KernelError         the kernel file cannot be read or makes no sense    (exit code 2)
        +-- UsageError          an option or argument makes no sense                (exit code 2)
        +-- CalibrationError    this build of Unicorn is not laid out as we must know it
        +-- EngineError         Unicorn reported something that it never should     (exit code 6)
        +-- StateError          a saved state does not fit what it is loaded into   (exit code 6)
            +-- NotSavableError     a part of the machine has no state to save      (exit code 6)
    +-- mmu.api.InvariantError      the shadow page cache contradicts itself        (exit code 6)
    +-- mmu.memory.MemoryMapError   slots overlap, or are not page-granular
"""

from __future__ import annotations

__all__ = [
    "CalibrationError",
    "EngineError",
    "KernelError",
    "NotSavableError",
    "ShadowcornError",
    "StateError",
    "UsageError",
]


class ShadowcornError(Exception):
    """Root of what shadowcorn raises; its text is one line for a person."""


class KernelError(ShadowcornError):
    """The kernel (or a module, or a disk image) is unreadable, truncated or absurd."""


class UsageError(ShadowcornError):
    """An option, an argument or a combination of them makes no sense."""


class CalibrationError(ShadowcornError):
    """The hidden state of this Unicorn build was not found where it must be."""


class EngineError(ShadowcornError):
    """Unicorn returned an error that no guest can cause: a defect of ours or of Unicorn's."""


class StateError(ShadowcornError):
    """A saved state is damaged, of another version, or of a machine built otherwise."""


class NotSavableError(StateError):
    """A part of the machine cannot be saved; the text names its type and says why."""
