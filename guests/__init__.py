# SPDX-License-Identifier: GPL-2.0-or-later
"""Toy kernels: sources, assembled images and what they print.

Each guest is a test of one thing that an MMU, a processor or a board has to do right: it prints
a short account over COM1, checks every value itself, and leaves through port 0xf4 with 0x10
(process exit code 33), or with 0x11 (35) after a line that begins with FAIL.

``load("hello")`` gives a Guest; ``GUESTS`` has them all in the order of the table below. The
images are committed; ``python -m guests.build`` makes them again from ``src`` where
keystone-engine works. Nothing here imports the assembler.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["GUESTS", "PASSED", "Guest", "load"]

PASSED = 33  # (0x10 << 1) | 1: what isa-debug-exit makes of the value 0x10
_HERE = Path(__file__).parent
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Guest:
    """One shipped kernel.

    ``boot`` is "multiboot" or "sector"; ``memory`` the bytes of RAM it is run with; ``cpus`` the
    numbers of vCPUs whose output is the expected one; ``needs_smp`` says that it shows something
    only with more than one of them (it passes with one as well).
    """

    name: str
    title: str
    shows: str
    image: str
    boot: str = "multiboot"
    memory: int = 16 * _MIB
    exit_code: int = PASSED
    cpus: tuple[int, ...] = (1,)
    needs_smp: bool = False

    @property
    def path(self) -> Path:
        """The assembled image."""
        return _HERE / "images" / self.image

    @property
    def source(self) -> Path:
        """The assembly source."""
        return _HERE / "src" / f"{self.name}.asm"

    @property
    def root(self) -> Path:
        """The folder that the source's includes are named from."""
        return self.source.parent

    @property
    def expected(self) -> str:
        """What it prints over COM1, newline at every line's end."""
        return (_HERE / "expected" / f"{self.name}.txt").read_text(encoding="ascii")


_TABLE = (
    Guest(
        "hello",
        "says hello from a multiboot kernel",
        "the multiboot hand-over: magic, memory map, flat segments, cleared bss, A20",
        "hello.elf",
    ),
    Guest(
        "pd_as_pt",
        "page directories that are page tables too",
        "recursive slots (32-bit, PAE, long mode), a directory as another's table, "
        "a large page that is a small one as well, edits through the windows",
        "pd_as_pt.elf",
    ),
    Guest(
        "quadrants",
        "32-bit paging in all four gigabytes and both halves of a table",
        "every edit changes one page or one slot of 48 around all seams; one table in four "
        "gigabytes, with rights of its own in each; 8-byte stores over a seam",
        "quadrants.bin",
    ),
    Guest(
        "mode_mix",
        "real mode, 32-bit, PAE, long mode and back over one page",
        "one frame is a table of every kind by turns and at once; each mode sees what the "
        "others, real mode included, wrote into it; 16-bit, virtual-8086, compatibility mode",
        "mode_mix.bin",
    ),
    Guest(
        "pse",
        "large pages split, merged, moved and protected",
        "4 MiB, 2 MiB and 1 GiB pages, PSE-36, CR4.PSE toggled, A and D in large entries, "
        "one INVLPG anywhere inside, pairs of writable and read-only pages on one frame",
        "pse.elf",
    ),
    Guest(
        "context_switch",
        "16 address spaces round and round",
        "private values through every switch, 32-bit, PAE and long mode; edits from other "
        "spaces, reloads of the same CR3, tables turned into data, global pages",
        "context_switch.elf",
    ),
    Guest(
        "write_protect",
        "every odd way to write to a live page table",
        "stores of 1 to 512 bytes at every alignment, over every boundary, exchanges, bit "
        "operations, strings, stacks, SSE; through aliases, large pages, CR0.WP; directories",
        "write_protect.elf",
    ),
    Guest(
        "ring3",
        "user mode, system calls and faults",
        "every error code, exact CR2 over page ends, A and D, privileged instructions, implicit "
        "supervisor accesses, CR0.WP, SMEP, SMAP, SYSENTER, SYSCALL, NX, rights at each level",
        "ring3.elf",
    ),
    Guest(
        "demand",
        "demand paging by a page-fault handler",
        "a lazy heap, copy on write, a growing user stack, swapping by the clock algorithm on "
        "A and D; every fault is counted and the counts are exact",
        "demand.elf",
    ),
    Guest(
        "boot_sector",
        "512 bytes that ask the BIOS",
        "INT 10h, 12h, 13h, 15h E820 and 16h, then protected mode and 32-bit paging",
        "boot_sector.bin",
        boot="sector",
    ),
    Guest(
        "picture",
        "a sunset in the linear framebuffer",
        "VBE mode information and mode setting, stores to the framebuffer and a load from it",
        "picture.bin",
        boot="sector",
    ),
    Guest(
        "smp_boot",
        "processors in real mode, 32-bit, PAE and long mode at once",
        "INIT and SIPI out of every mode; tables shared between modes and edited by each of "
        "them, real mode included, under all the others; locked increments",
        "smp_boot.elf",
        cpus=(1, 2, 4, 8),
        needs_smp=True,
    ),
    Guest(
        "shootdown",
        "page tables changed under other processors",
        "TLB shootdown by interrupt: one page, global pages, many, rights, the directory; a "
        "page that is hot and writable everywhere becomes a table",
        "shootdown.elf",
        cpus=(1, 2, 4, 8),
        needs_smp=True,
    ),
    Guest(
        "ticks",
        "the clocks of the board agree",
        "PIT interrupts by the 8259 against TSC, APIC timer, RTC, ACPI PM timer, HPET",
        "ticks.elf",
    ),
    Guest(
        "smc_smp",
        "code rewritten under other processors",
        "cross-modifying code through three addresses, by every processor, in mid-loop, a page "
        "at a time, and by a change of frame",
        "smc_smp.elf",
        cpus=(1, 2, 4, 8),
        needs_smp=True,
    ),
    Guest(
        "spinlock",
        "all processors, one counter",
        "locks by XCHG, BTS and tickets, with and without PAUSE, and locked counters; a lock in "
        "a live page table",
        "spinlock.elf",
        cpus=(1, 2, 4, 8, 16),
        needs_smp=True,
    ),
)

GUESTS: dict[str, Guest] = {guest.name: guest for guest in _TABLE}


def load(name: str) -> Guest:
    """The guest called ``name``; raises KeyError, whose text lists the names there are."""
    try:
        return GUESTS[name]
    except KeyError:
        raise KeyError(f"no guest {name!r}; there are: {', '.join(GUESTS)}") from None
