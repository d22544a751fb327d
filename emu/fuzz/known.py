# SPDX-License-Identifier: GPL-2.0-or-later
"""Where another emulator is known to differ from the SDM, and so from us: each case by name.

Only what is listed here is excused, only for the engine that it is listed for, and only in the
field of an event where it shows. What cannot be told from an event is kept out of the programs
instead; the places that do so say why:

* A in the upper entries of a walk that ends in a fault (`emu.fuzz.entries`);
* 64-bit call gates (`emu.fuzz.slots`);
* FLD (`emu.fuzz.instructions`): Unicorn's x87 is QEMU 5's, which does not raise DE for denormals,
  takes unnormals for numbers (SDM 1 8.2.2) and lets signalling NaNs through as they are;
* the exception flags of the x87 status word (`emu.fuzz.slots`, FNCLEX before FNSTSW): Unicorn's x87
  keeps them to itself, so FILD and FSTP m64 of a number that has to be rounded set no PE (SDM 1
  8.5.6). The rest of the word is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emu.fuzz.layout import PDPT_FRAMES

__all__ = ["KNOWN", "KNOWN_PAGES", "agree"]

_RF = 1 << 16
_ARITHMETIC_FLAGS = 0x8D5
_PF = 14
_RSVD = 1 << 3


@dataclass(frozen=True, slots=True)
class Known:
    """A known difference: `engine` has it in one of `fields` of an event, where `excuses` is true
    of (vector, what it should be, what it is)."""

    name: str
    engine: str
    fields: tuple[str, ...]
    excuses: Callable[[int, int, int], bool]


KNOWN = (
    # SDM 3B 17.3.1.1: the image pushed for a fault has RF set. QEMU 7.2 leaves it as it was.
    Known(
        "no RF in the pushed flags",
        "qemu",
        ("eflags", "rflags"),
        lambda vector, want, got: want == got | _RF,
    ),
    # What instructions leave undefined changes with QEMU's versions; REP CMPS and SCAS that fault.
    Known(
        "arithmetic flags",
        "qemu",
        ("eflags", "rflags"),
        lambda vector, want, got: (want ^ got) & ~(_ARITHMETIC_FLAGS | want & _RF) == 0,
    ),
    # SDM 3A 6.13: bits 3 to 15 hold the vector. QEMU 7.2 multiplies by the size of a gate.
    Known(
        "error code of a vector past the IDT in 64-bit mode",
        "qemu",
        ("error",),
        lambda vector, want, got: vector == 13 and got == (want >> 3) * 16 + 2,
    ),
    # SDM 3A 4.7: a reserved bit is found in a present entry, so P is set. QEMU 7.2 clears it.
    Known(
        "no P with RSVD",
        "qemu",
        ("error",),
        lambda vector, want, got: vector == _PF and want & _RSVD != 0 and want == got | 1,
    ),
)


KNOWN_PAGES = {
    # SDM 3A table 4-8: bit 5 of a PDPTE of PAE paging is reserved. QEMU 7.2 sets it, as A.
    "qemu": frozenset(PDPT_FRAMES),
}
"""Pages whose contents are known to differ, by engine."""


def agree(
    engine: str, field: str, fields: tuple[str, ...], want: tuple[int, ...], got: tuple[int, ...]
) -> bool:
    """Return whether a field of an event, different as it is, is a known difference."""
    at = fields.index(field)
    vector = want[fields.index("vector")]
    if got[fields.index("vector")] != vector:
        return False
    return any(
        known.engine == engine
        and field in known.fields
        and known.excuses(vector, want[at], got[at])
        for known in KNOWN
    )
