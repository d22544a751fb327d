# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowcorn fuzz`: random tests of what must not be wrong.

    case.py       cases, failures, reproducer files
    campaign.py   many cases over processes or machines
    minimise.py   a failing case made small

    mmu.py        the MMU fuzzer: random steps on a plug-in, against the architecture's truth
      guest.py      the machine of a case;  steps.py  chooses its steps
      world.py      executes and compares;  twin.py  the truth;  tlb.py  what engines would hold
    decode.py     the decoder fuzzer: every opcode and prefix order;  bare.py  its vCPU
    program.py    the program fuzzer: random instructions on several MMUs, and on QEMU
      layout.py     where everything is in its guest, and why nothing can go wrong there
      slots.py      what a program is made of, with edits.py, entries.py and operands.py
      encode.py     instructions as bytes;  instructions.py  which there are
      image.py      a program as a multiboot image, around runtime.py
      engines.py    who can run it;  known.py  what others are known to do differently

Everything follows from a seed and a number, and a failure is kept as a file that needs neither.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from emu.errors import UsageError

__all__ = ["command", "main"]

EXIT_FOUND = 1
_SECONDS = 60.0
_WIDTH = 3  # chunks under way for each job, so that none has to wait


class _Parser(argparse.ArgumentParser):
    """Leaves it to the command line to say what was wrong."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="shadowcorn fuzz",
        description="Test the MMU at random: mmu throws page-table edits and accesses at a plug-in "
        "without a processor, program runs random instructions on several plug-ins (and on QEMU, "
        "where it is installed) and compares, decode executes every opcode with random prefixes. "
        "Every failure is saved as a file and made small.",
        epilog="exit codes: 0 nothing found, 1 something found, 2 bad usage",
    )
    add = parser.add_argument
    add(
        "target",
        nargs="?",
        choices=("mmu", "program", "decode"),
        default="mmu",
        help="default: mmu",
    )
    add("--seconds", type=float, metavar="S", help=f"run for S seconds (default {_SECONDS:.0f})")
    add("--cases", type=int, metavar="N", help="run N cases instead")
    add("--seed", type=int, default=0, metavar="N", help="the same seed makes the same cases")
    add("--jobs", type=int, default=1, metavar="J", help="processes to run on (default 1)")
    add("--cluster", metavar="tcp://...", help="run on a Dask cluster (extra: cluster)")
    add("--save", type=Path, default=Path("fuzz-failures"), metavar="DIR",
        help="where failures go (default: fuzz-failures)")  # fmt: skip
    add("--replay", type=Path, metavar="FILE", help="run a saved failure again")
    add("--mmu", default="shadow", metavar="NAME", help="the plug-in under test")
    add("--no-qemu", action="store_true", help="program: leave QEMU out even if it is there")
    return parser


def main(words: Sequence[str]) -> int:
    """Be `shadowcorn fuzz`; return the exit code.

    Raises UsageError for arguments that make no sense.
    """
    arguments = _parser().parse_args(list(words))
    if arguments.replay is not None:
        return _replay(arguments.replay)
    for name in ("seconds", "cases", "jobs"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise UsageError(f"--{name} {value}: must be more than 0")
    return _campaign(arguments)


command = main
"""What `emu.cli` calls."""


def _replay(path: Path) -> int:
    from emu.fuzz import case as cases
    from emu.fuzz.campaign import TARGETS, replay

    case, before = cases.read(path)
    if case.get("kind") not in TARGETS:
        raise UsageError(f"{path} is a case of no fuzzer that is known: {case.get('kind')!r}")
    failure = replay(case)
    if failure is None:
        print(f"{path}: does not fail any more (it was: {before.kind})")
        return 0
    print(f"{path}: {failure.message}")
    return EXIT_FOUND


def _campaign(arguments: argparse.Namespace) -> int:
    from emu.fuzz.campaign import Campaign, Totals
    from emu.fuzz.case import Result, save

    check_target(arguments.target, arguments.mmu)
    seconds = arguments.seconds
    if seconds is None and arguments.cases is None:
        seconds = _SECONDS
    line = _ProgressLine(arguments.target, seconds, arguments.cases)

    def found(result: Result) -> None:
        assert result.failure is not None and result.case is not None
        path = arguments.save / f"{arguments.target}-{arguments.seed}-{result.number}.json"
        save(path, result.case, result.failure)
        steps = len(result.case["steps"])
        line.say(
            f"case {result.number}: {result.failure.message}\n  saved as {path} ({steps} steps)"
        )

    options = {"mmu": arguments.mmu, "qemu": not arguments.no_qemu}
    with ExitStack() as stack:
        make_executor, width = _executor(arguments, stack)
        campaign = Campaign(
            arguments.target,
            arguments.seed,
            options,
            make_executor,
            width=width,
            on_progress=line.show,
            on_failure=found,
        )
        totals: Totals = campaign.run(seconds=seconds, cases=arguments.cases)
    line.end()
    print(_summary(arguments.target, totals))
    return EXIT_FOUND if totals.failures else 0


def check_target(target: str, mmu: str) -> None:
    """Raise UsageError for a plug-in that is not there."""
    from mmu.plugins import find_mmu

    if target == "program" and mmu == "native":
        return
    try:
        find_mmu(mmu)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _executor(
    arguments: argparse.Namespace, stack: ExitStack
) -> tuple[Callable[[], Executor], int]:
    """Return what makes executors, and how many chunks to have under way; `stack` is to be left
    when no more are needed."""
    from emu.fuzz.campaign import local_executor

    if arguments.cluster is None:
        jobs = arguments.jobs
        return lambda: local_executor(jobs), _WIDTH * jobs
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(
            "--cluster needs the package distributed: pip install shadowcorn[cluster]"
        ) from None
    try:
        client: Any = Client(arguments.cluster, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"--cluster {arguments.cluster}: {error}") from None
    stack.callback(client.close)
    threads = sum(client.nthreads().values())
    # A case is never run a second time because of what the first gave: pure=False.
    return lambda: client.get_executor(pure=False), _WIDTH * max(threads, arguments.jobs)


def _summary(target: str, totals: Any) -> str:
    rate = totals.cases / totals.seconds if totals.seconds else 0.0
    counts = "".join(f", {count:,} {name}" for name, count in sorted(totals.counts.items()))
    found = len(totals.failures)
    verdict = "nothing found" if not found else f"{found} failure{'s' * (found > 1)}"
    return (
        f"fuzz {target}: {totals.cases:,} cases, {totals.steps:,} steps{counts} in "
        f"{totals.seconds:.0f} s ({rate:.1f} cases/s): {verdict}"
    )


class _ProgressLine:
    """One line on standard error: rewritten on a terminal, else a new one now and then."""

    _EVERY = 10.0

    def __init__(self, target: str, seconds: float | None, cases: int | None) -> None:
        self._target = target
        self._goal = f" of {cases:,}" if cases is not None else ""
        self._until = f" of {seconds:.0f}" if seconds is not None else ""
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._last = time.monotonic()
        self._width = 0

    def show(self, totals: Any) -> None:
        """Show how far it is."""
        now = time.monotonic()
        if not self._terminal and now - self._last < self._EVERY:
            return
        self._last = now
        rate = totals.cases / totals.seconds if totals.seconds else 0.0
        text = (
            f"fuzz {self._target}: {totals.cases:,}{self._goal} cases, {totals.steps:,} steps, "
            f"{rate:.1f} cases/s, {totals.seconds:.0f}{self._until} s, "
            f"{len(totals.failures)} failures"
        )
        if self._terminal:
            self._write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._write(text + "\n")

    def say(self, text: str) -> None:
        """Print something above the line."""
        self.end()
        self._write(text + "\n")

    def end(self) -> None:
        """Leave the line."""
        if self._width:
            self._write("\r" + " " * self._width + "\r")
            self._width = 0

    def _write(self, text: str) -> None:
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()
