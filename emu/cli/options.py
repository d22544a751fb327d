# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run is to be, as plain values: `RunOptions`, and how numbers are written."""

from __future__ import annotations

from dataclasses import dataclass, field

from emu.errors import UsageError
from emu.outcome import Position

__all__ = [
    "CHECKS",
    "DEFAULT_MEMORY",
    "TLBS",
    "DebugExit",
    "Drive",
    "FwCfg",
    "RunOptions",
    "parse_number",
    "parse_position",
    "parse_positive",
    "parse_seconds",
    "parse_size",
]

CHECKS = ("report", "strict", "off")
"""What --tlb-check takes."""
TLBS = ("fresh", "lazy", "eager")
"""What --tlb takes."""
DEFAULT_MEMORY = 128 << 20


@dataclass(frozen=True, slots=True)
class DebugExit:
    """The isa-debug-exit device."""

    iobase: int = 0xF4
    iosize: int = 4


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk image: `index` 0 is the first hard disk, or the first floppy."""

    path: str
    index: int
    snapshot: bool = False
    read_only: bool = False
    is_cd: bool = False


@dataclass(frozen=True, slots=True)
class FwCfg:
    """A named fw_cfg file: the bytes, or the path of a file that has them."""

    name: str
    data: bytes = b""
    path: str | None = None


@dataclass(slots=True)
class RunOptions:
    """One run. Outputs are "stdio", "null" or "file:PATH"; None is "not said".

    `for_qemu` says that what is not said is to be as under QEMU. `reboot` is whether the machine
    starts again when the guest resets it. `foreign_power` is whether there are the power-off ports
    of other emulators. `boot_order` has the letters of -boot: "c" hard disks, "a" floppies,
    "d" CDs.
    """

    for_qemu: bool = False
    kernel: str | None = None
    append: str = ""
    initrd: str | None = None
    memory: int | None = None
    cpus: int = 1
    cpu: str = "max"
    cpu_said: bool = False
    serial: list[str] = field(default_factory=list)
    serial_said: bool = False
    debugcon: list[tuple[int, str]] = field(default_factory=list)
    debug_exit: DebugExit | None = None
    foreign_power: bool = True
    test_device: bool = False
    hpet: bool = True
    log_items: set[str] = field(default_factory=set)
    log_file: str | None = None
    display: str | None = None
    drives: list[Drive] = field(default_factory=list)
    floppies: dict[int, Drive] = field(default_factory=dict)
    boot_order: str = "cad"
    boots_any_floppy: bool = False
    snapshot: bool = False
    fw_cfg: list[FwCfg] = field(default_factory=list)
    rtc: str | None = None
    reboot: bool | None = None
    no_defaults: bool = False

    format: str = "auto"
    address: int | None = None
    entry: int | None = None
    mmu: str = "shadow"
    shadow_pages: int | None = None
    audit: bool = False
    audit_slices: bool = False
    timeout: float | None = None
    max_insns: int | None = None
    until: Position | None = None
    quantum: int | None = None
    seed: int = 0
    clock: str = "auto"
    jit: str = "auto"
    shadow_policy: str = ""
    stopped: bool = False
    gdb: list[str] = field(default_factory=list)
    monitors: list[str] = field(default_factory=list)
    gdb_arch: str = "follow"
    gdb_maps: bool = False
    tlb_check: str = "off"
    tlb: str = ""
    tlb_obligations: bool = False
    json: str | None = None
    screenshot: str | None = None
    summary: bool = False
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Keep a warning for the person at the terminal."""
        self.warnings.append(text)


def parse_number(text: str, what: str) -> int:
    """Return a decimal or 0x number that is not negative.

    >>> parse_number("0xf4", "iobase")
    244
    """
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if value < 0:
        raise UsageError(f"{what} must be a number, not {text!r}")
    return value


def parse_size(text: str, what: str = "-m") -> int:
    """Return bytes: MiB without a suffix, as QEMU's -m, else b, k, M, G or T.

    >>> parse_size("128"), parse_size("1G"), parse_size("1.5G") == 3 << 29
    (134217728, 1073741824, True)
    """
    units = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
    suffix = text[-1:].lower()
    number, shift = (text[:-1], units[suffix]) if suffix in units else (text, 20)
    try:
        size = int(float(number) * (1 << shift)) if "." in number else int(number, 0) << shift
    except (ValueError, OverflowError):
        raise UsageError(f"{what} wants a size as 128M or 1G, not {text!r}") from None
    if size <= 0:
        raise UsageError(f"{what} must be more than nothing, not {text!r}")
    return size


def parse_positive(text: str, what: str) -> int:
    """Return a number that is at least 1."""
    value = parse_number(text, what)
    if not value:
        raise UsageError(f"{what} must be at least 1")
    return value


def parse_position(text: str, what: str) -> Position:
    """Return a position of a run, as reports print it."""
    try:
        return Position.parse(text)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None


def parse_seconds(text: str, what: str) -> float:
    """Return a number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise UsageError(f"{what} must be a number of seconds above 0, not {text!r}")
    return value
