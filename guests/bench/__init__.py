# SPDX-License-Identifier: GPL-2.0-or-later
"""Benchmark guests: each does one thing N times in 64-bit mode, with 4 KiB pages.

They take their parameters from the multiboot command line (``n=1000 s=16``; ``n`` is always the
number of operations), print ``NAME: N operations, checksum X`` over COM1 and leave through port
0xf4 with 0x10. The checksum depends on everything that was computed, so equal answers mean equal
work. The measured region lies between a ``B`` and an ``E`` on port 0xe9; it may come several
times in a run, and then the times add up. 128 MiB of RAM hold each of them.

``BENCH_GUESTS`` has them by name. They are apart from the guests that are shipped as tests of an
MMU, and are assembled by the same ``python -m guests.build``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guests import Guest

__all__ = ["BENCH_GUESTS", "BenchGuest"]

_HERE = Path(__file__).parent
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class BenchGuest(Guest):
    """A benchmark. Its ``name`` begins with "bench-"; it has no expected output as text, because
    that depends on the parameters."""

    memory: int = 128 * _MIB

    @property
    def path(self) -> Path:
        """The assembled image."""
        return _HERE / "images" / self.image

    @property
    def source(self) -> Path:
        """The assembly source."""
        return _HERE / "src" / f"{self.name.removeprefix('bench-')}.asm"


def _guest(name: str, title: str, shows: str) -> BenchGuest:
    return BenchGuest(f"bench-{name}", title, shows, f"{name}.elf")


_TABLE = (
    _guest("alu", "a loop in registers", "what translated code costs with the clock running"),
    _guest("store", "stores over 64 KiB", "whether stores take the fast path"),
    _guest("memcpy", "REP MOVSQ of 64 KiB", "the same for string instructions"),
    _guest("chase", "random loads over 4 or 64 MiB", "whether the TLB grows to what is used"),
    _guest("switch", "address spaces in turn", "MOV CR3 and the fills after it"),
    _guest("fault", "demand paging", "a guest's page fault, its entry filled in, the retry"),
    _guest("ptwrite", "entries rewritten, INVLPG", "a write to a live page table"),
    _guest("fork", "address spaces built, used, dropped", "tables that come and go"),
    _guest("syscall", "ring 3 to ring 0 and back", "INT and SYSCALL"),
    _guest("alias", "a page of many mappings becomes a table", "write protection by the rmap"),
)

BENCH_GUESTS: dict[str, BenchGuest] = {guest.name: guest for guest in _TABLE}
