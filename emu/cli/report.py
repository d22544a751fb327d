# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run comes to: a line, a table for a person, a file for a program."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emu.errors import UsageError
from emu.outcome import Kind, Outcome

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["outcome_line", "summary", "vcpu_lines", "version", "write_json"]


def version() -> str:
    """Return the version of the installed distribution."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as distribution_version

    try:
        return distribution_version("shadowcorn")
    except PackageNotFoundError:
        return "unknown"


_AT_A_POSITION = (
    Kind.TIMEOUT,
    Kind.INSN_LIMIT,
    Kind.POSITION,
    Kind.PAUSED,
    Kind.TRIPLE_FAULT,
    Kind.INTERNAL,
)


def outcome_line(outcome: Outcome, place: str = "") -> str:
    """Return how the run ended, in one line; `place` as " in main+0x12".

    Where the guest did not choose the end, the position says where that was: for `--until`.
    """
    what = outcome.kind.value
    if outcome.kind is Kind.GUEST_EXIT:
        what = f"guest exit with {outcome.guest_code:#x}"
    elif outcome.kind is Kind.TRIPLE_FAULT:
        what = f"triple fault on vCPU {outcome.cpu}"
    if outcome.kind in _AT_A_POSITION:
        place += f" at {outcome.position}"
    return (
        f"{what}{place}, exit code {outcome.exit_code}, "
        f"{outcome.instructions:,} instructions in {outcome.seconds:.2f} s"
    )


def vcpu_lines(cpus: Sequence[Vcpu], name_of: Callable[[int], str | None]) -> list[str]:
    """Return a line for each vCPU: what it does, and where, by address and by `name_of(rip)`."""
    lines = []
    for cpu in cpus:
        rip = cpu.regs.rip
        name = name_of(rip)
        where = f"{cpu.regs.cs.selector:#06x}:{rip:#x}" + (f" in {name}" if name else "")
        lines.append(f"vCPU {cpu.index}: {_activity(cpu)} at {where}")
    return lines


def _activity(cpu: Vcpu) -> str:
    if cpu.waits_for_sipi:
        return "waiting for a SIPI"
    if cpu.shut_down:
        return "shut down"
    if cpu.halted:
        return "halted" if cpu.listens else "halted with interrupts off"
    return "running"


def write_json(path: str, outcome: Outcome, counters: Mapping[str, int], *, serial_tail: str,
               kernel: str, mmu: str, cpus: int, memory: int, clock: str,
               tlb_findings: Sequence[Mapping[str, object]] | None) -> None:  # fmt: skip
    """Write everything about a run to `path`; raises UsageError if that cannot be written."""
    document = {
        "version": version(),
        "kernel": kernel,
        "mmu": mmu,
        "cpus": cpus,
        "memory": memory,
        "clock": clock,
        "outcome": outcome.kind.value,
        "exit_code": outcome.exit_code,
        "guest_code": outcome.guest_code,
        "instructions": outcome.instructions,
        "position": outcome.position.exact,
        "seconds": round(outcome.seconds, 6),
        "cpu": outcome.cpu,
        "report": outcome.report,
        "serial_tail": serial_tail,
        "counters": dict(counters),
    }
    if tlb_findings is not None:
        document["tlb_findings"] = list(tlb_findings)
    try:
        Path(path).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


# The table: a heading, then rows of (counter or formula, what it means). "of" names the counter
# that a row is a part of, for the percentage.
_TABLE: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "TLB misses",
        (
            ("fills", "", "TLB misses"),
            ("answered", "fills", "answered from the shadow tables"),
            ("mmio_hit", "answered", "  at a device, without a walk"),
            ("pf_taken", "fills", "shadow faults: the guest's tables were walked"),
            ("pf_fixed", "pf_taken", "  fixed by building or changing entries"),
            ("pf_guest", "pf_taken", "  the guest's own page faults"),
            ("pf_spurious", "pf_taken", "  needed nothing"),
            ("pf_emulate", "", "writes to live page tables, trapped"),
        ),
    ),
    (
        "the shadow page cache",
        (
            ("mmu_cache_miss", "", "shadow pages made"),
            ("mmu_cache_hit", "", "shadow pages found again"),
            ("mmu_root_hit", "", "address spaces found again on a CR3 load"),
            ("mmu_pte_write", "", "writes to shadowed tables"),
            ("mmu_pde_zapped", "", "entries zapped by them"),
            ("mmu_shadow_zapped", "", "shadow pages taken out"),
            ("mmu_flooded", "mmu_shadow_zapped", "  for being written and not used"),
            ("mmu_reused", "mmu_shadow_zapped", "  for being plainly something else now"),
            ("mmu_recycled", "mmu_shadow_zapped", "  to make room"),
            ("mmu_unsync", "", "tables left out of sync until a flush"),
        ),
    ),
    (
        "flushes",
        (
            ("tlb_flush", "", "TLB flushes ordered"),
            ("invlpg", "", "INVLPG by the guest"),
            ("code_dropped", "", "frames whose translated code was dropped"),
        ),
    ),
)


def summary(counters: Mapping[str, int], title: str) -> str:
    """Return the counters as a table under `title`; those that are 0 are left out."""
    values = dict(counters)
    if "fills" in values and "pf_taken" in values:
        values["answered"] = values["fills"] - values["pf_taken"]
    lines = [title]
    named = {"answered"}
    for heading, rows in _TABLE:
        named.update(name for name, _, _ in rows)
        present = [row for row in rows if values.get(row[0])]
        if present:
            lines.append(f"  {heading}")
            lines += [_row(values, *row) for row in present]
    rest = sorted(name for name in values if name not in named and values[name])
    if rest:
        lines.append("  more")
        lines += [f"    {values[name]:>12,}         {name}" for name in rest]
    return "\n".join(lines)


def _row(values: Mapping[str, int], name: str, of: str, meaning: str) -> str:
    share = f"{100 * values[name] / values[of]:6.1f} %" if values.get(of) else ""
    return f"    {values[name]:>12,} {share:8} {meaning}"
