# SPDX-License-Identifier: GPL-2.0-or-later
"""Tiny kernels with one bug in how they flush the TLB, each after one that a kernel has had.

``-append fixed`` makes the same kernel without the bug. They print what they read, so that the
runs on a processor that keeps every stale entry (``--tlb lazy``) and on one that keeps none
(``--tlb eager``) can be told apart.

``TLB_GUESTS`` has them by name. They are assembled by the same ``python -m guests.build``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guests import Guest

__all__ = ["TLB_GUESTS", "TlbGuest"]

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class TlbGuest(Guest):
    """A kernel with one bug, or with none.

    ``finding`` is the class of what the sanitizer reports, "" for nothing; ``user`` and ``writer``
    are the functions that used the stale entry and changed its word; ``page`` is the address used,
    ``cpu`` the vCPU. ``vcpus`` is how many it needs. ``modelled_on`` names a kernel that had
    the bug. The name begins with "tlb-".
    """

    finding: str = ""
    user: str = ""
    writer: str = ""
    page: int = 0
    cpu: int = 0
    vcpus: int = 1
    modelled_on: str = ""

    @property
    def path(self) -> Path:
        """The assembled image."""
        return _HERE / "images" / self.image

    @property
    def source(self) -> Path:
        """The assembly source."""
        return _HERE / "src" / f"{self.name.removeprefix('tlb-')}.asm"

    @property
    def root(self) -> Path:
        """The folder that the source's includes are named from."""
        return _HERE.parent / "src"


_VIEW = 0x40000000
_TITLES = {
    "invlpg_operand": "INVLPG of the variable that holds the address",
    "unmap_operand": "the same, and a freed page stays usable",
    "protect_no_flush": "a right is taken and nothing flushed",
    "early_remap": "an address mapped again before the shootdown was taken",
    "pde_cleared": "a directory entry cleared, its table reused, nothing flushed",
    "freed_early": "a frame freed before the shootdown",
    "no_shootdown": "a page mapped elsewhere, flushed on one processor of two",
    "pdpte_invlpg": "a PDPTE register survives INVLPG",
    "mremap": "a page moved, its old address readable on another processor",
    "migrate": "a page migrated, another processor's writes lost",
    "mprotect_other": "a right taken, used on another processor",
    "tables_early": "a table freed before the shootdown",
    "superpage_base": "one INVLPG for a large page that 4 KiB entries outlive",
    "split_large": "a large page split and protected without a flush",
    "global_reload": "CR3 reloaded to flush a global page",
    "mkclean": "D cleared without a flush, a write lost to write-back",
    "frame_returned": "a frame given to the kernel while the user can read it",
    "deadlock": "a shootdown that waits for a processor with interrupts off",
    "lazy_table": "a table reused while another processor may walk it",
}


def _guest(
    name: str,
    modelled_on: str,
    finding: str,
    writer: str = "",
    user: str = "",
    offset: int = 0,
    cpu: int = 0,
    vcpus: int = 1,
) -> TlbGuest:
    return TlbGuest(
        f"tlb-{name}",
        _TITLES[name],
        f"what {modelled_on} had; -append fixed: without it",
        f"{name}.elf",
        finding=finding,
        user=user,
        writer=writer,
        page=_VIEW + offset,
        cpu=cpu,
        vcpus=vcpus,
        modelled_on=modelled_on,
    )


_TABLE = (
    _guest("invlpg_operand", "nanos #207", "stale-remap", "map_page", "read_page"),
    _guest("unmap_operand", "os-elephant #13", "stale-unmapped", "free_page", "read_page"),
    _guest("protect_no_flush", "nanos #779", "narrowing-pending", "protect_page", "user_write"),
    _guest(
        "early_remap", "nanos #1418", "stale-remap", "map_again", "read_page", cpu=1, vcpus=2
    ),
    _guest("pde_cleared", "nanvix #2244", "stale-table", "drop_table", "read_page", 0x1000),
    _guest(
        "freed_early", "litebox #848", "stale-frame", "unmap_page", "read_page", cpu=1, vcpus=2
    ),
    _guest(
        "no_shootdown", "MicroV #7", "incomplete-flush", "map_page", "read_page", cpu=1, vcpus=2
    ),
    _guest(
        "pdpte_invlpg", "Linux 1de14c3c5cbc", "", "drop_gigabyte", "read_page", 0x1000,
    ),
    _guest(
        "mremap", "Linux eb66ae030829", "stale-frame", "move_page", "read_page", cpu=1, vcpus=2
    ),
    _guest(
        "migrate", "Linux 20841405940e", "stale-remap", "migrate_page", "write_page", cpu=1,
        vcpus=2,
    ),
    _guest(
        "mprotect_other", "Linux 3ea277194daa", "narrowing-pending", "protect_page", "write_page",
        cpu=1, vcpus=2,
    ),
    _guest(
        "tables_early", "Linux 706a1ea65e6f", "stale-table", "drop_table", "read_page", 0x3000,
        cpu=1, vcpus=2,
    ),
    _guest(
        "superpage_base", "FreeBSD a0f64f38a182", "incomplete-flush", "",
        "read_page", 0x3000,
    ),
    _guest(
        "split_large", "Linux ad5ca55f6bdb", "stale-unmapped", "protect_piece", "write_piece",
        0x5000,
    ),
    _guest("global_reload", "Uros #437", "incomplete-flush", "map_page", "read_page"),
    _guest(
        "mkclean", "Linux 1cf35d47712d", "stale-dirty", "clean_page", "write_page", cpu=1, vcpus=2
    ),
    _guest("frame_returned", "svsm #1188", "stale-frame", "unmap_page", "user_read"),
    _guest("deadlock", "osv #102", "", vcpus=2),
    _guest("lazy_table", "Linux 2ff6ddf19c0e", "", "drop_table", "", 0, cpu=1, vcpus=2),
)  # fmt: skip

TLB_GUESTS: dict[str, TlbGuest] = {guest.name: guest for guest in _TABLE}
