# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels that test themselves: one run, one pytest item for each line that reports a test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emu.testing.machine import KernelMachine
    from emu.testing.reports import Report

__all__ = ["KernelSuite", "SuiteRun", "kernel_suite", "run_suite"]

_GOOD_CODES = (0x10, 0)


@dataclass(frozen=True)
class KernelSuite:
    """What `kernel_suite` was called with; pytest collects it from a module."""

    kernel: str | Path | bytes | None
    protocol: str
    minimum: int
    on: str
    until: str
    insns: int | None
    exit_codes: tuple[int, ...]
    not_matching: tuple[str, ...] | None
    options: dict[str, Any]


def kernel_suite(
    kernel: str | Path | bytes | None = None,
    *,
    protocol: str = "auto",
    minimum: int = 1,
    on: str = "serial",
    until: str = "",
    insns: int | None = None,
    exit_codes: Sequence[int] = _GOOD_CODES,
    not_matching: Sequence[str] | None = None,
    **options: Any,
) -> KernelSuite:
    """Have pytest run a kernel that tests itself: `test_suite = kernel_suite("build/kernel.elf")`
    in a test module. The name must fit pytest's `python_functions`, by default test*.

    The kernel is run once, when the module is collected, and each line that reports a test becomes
    a test. One more, called "(run)", fails unless the report is whole: if the kernel crashes,
    panics or hangs, if fewer tests are reported than its plan says, if there is no plan, or if
    there are fewer than `minimum` tests. A protocol without a plan needs a `minimum` above 1.

    `kernel` is a path (from pytest's rootdir), guest:NAME or bytes; None is --kernel. `protocol`
    is one of `emu.testing.protocols.PROTOCOLS`, or "auto". `on` is where the kernel reports:
    "serial" or "debugcon". The run must end by port 0xf4 with one of `exit_codes`, by power-off,
    or by a line that says so (xv6, Zephyr) or that matches the regular expression `until`; `insns`
    limits it, in guest instructions. `not_matching` replaces the panic patterns. `options` are
    those of the `kernel` fixture: smp, append, memory, initrd, tlb_check, tlb, seed, mmu, options.

    >>> kernel_suite("build/kernel.elf", minimum=40, smp=2).minimum
    40
    """
    return KernelSuite(
        kernel,
        protocol,
        minimum,
        on,
        until,
        insns,
        tuple(exit_codes),
        None if not_matching is None else tuple(not_matching),
        options,
    )


@dataclass(slots=True)
class SuiteRun:
    """What came of a run: the report, what is wrong with the run, and the machine's sections."""

    report: Report
    problems: list[str] = field(default_factory=list)
    is_host_late: bool = False
    sections: list[tuple[str, str]] = field(default_factory=list)


def run_suite(suite: KernelSuite, m: KernelMachine) -> SuiteRun:
    """Run the kernel in `m` to the end of its report, and judge."""
    from emu.testing.machine import HostTimeoutError, KernelFailure
    from emu.testing.protocols import FINAL, parse

    console = m.debugcon if suite.on == "debugcon" else m.serial
    until = re.compile(f"(?m:{suite.until})") if suite.until else FINAL
    problems: list[str] = []
    late = False
    try:
        m.run_until(lambda: until.search(console.text) is not None, insns=suite.insns,
                    not_matching=suite.not_matching)  # fmt: skip
    except KernelFailure as failure:
        problems.append(str(failure).partition("\n")[0])
    except HostTimeoutError as error:
        problems.append(str(error))
        late = True
    outcome = m.outcome
    if not problems and outcome is not None:
        problems += _judge_end(suite, m)
    report = parse(console.text, suite.protocol)
    problems += report.problems
    if len(report.tests) < suite.minimum:
        problems.append(f"{len(report.tests)} tests are reported, at least {suite.minimum} must be")
    elif not report.has_plan and suite.minimum <= 1 and report.tests:
        problems.append(
            "nothing says how many tests there should be: the kernel prints no plan, "
            "and there is no minimum=..."
        )
    return SuiteRun(report, problems, late)


def _judge_end(suite: KernelSuite, m: KernelMachine) -> list[str]:
    from emu.outcome import Kind

    outcome = m.outcome
    assert outcome is not None
    if outcome.kind is Kind.POWER_OFF:
        return []
    if outcome.kind is Kind.GUEST_EXIT:
        if outcome.guest_code in suite.exit_codes:
            return []
        good = " or ".join(f"{code:#x}" for code in suite.exit_codes)
        return [f"the kernel ended with {outcome.guest_code:#x}, not {good}"]
    return [f"the kernel did not end by itself: {m.ending}"]
