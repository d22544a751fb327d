# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `shadowcorn kernels`: run the kernels of a folder and write the table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory

from emu.errors import ShadowcornError, UsageError
from emu.kernels.case import Case, Result, Verdict
from emu.kernels.catalogue import find_cases
from emu.kernels.report import Row, absent_row, markdown, read_json, write_json
from emu.kernels.session import Emulator, qemu, run_case, shadowcorn

__all__ = ["HEAD", "command", "run_on_qemu", "run_on_shadowcorn"]

HEAD = """\
# Kernels that nobody here wrote

Made by `python -m emu.kernels FOLDER --qemu --json docs/kernels.json --markdown docs/kernels.md`;
the folder holds kernels of other projects, which are no part of this one. A cell is the verdict,
the checks that passed of those that count, and host seconds. QEMU is Debian's 7.2 with its
translator (`-accel tcg`), given the same command line on the same machine.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shadowcorn kernels",
        description="Run the kernels of other projects that lie in a folder, and make a table.",
        epilog="Exit code: 0 if nothing failed, 1 if something did, 2 for a wrong argument.",
    )
    parser.add_argument("folder", type=Path, help="where the kernels are; see emu/kernels")
    parser.add_argument(
        "--only", action="append", metavar="PATTERN", help="cases to run, as 'xv6/*' (repeatable)"
    )
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("--qemu", action="store_true", help="run each case under QEMU, too")
    parser.add_argument("--only-qemu", action="store_true", help="run under QEMU alone")
    parser.add_argument("--limit", type=float, metavar="S", help="at most S seconds for a case")
    parser.add_argument("--mmu", default="shadow", help="plug-in for shadowcorn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results; kept and added to")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table")
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep what the kernels print")
    return parser


def run_on_shadowcorn(case: Case, mmu: str = "shadow") -> Result:
    """Run one case here."""
    if not case.judge.startswith("screen"):
        return run_case(case, shadowcorn(["--mmu", mmu]))
    from emu.cli.build import find_kernel, make_machine
    from emu.cli.parse import parse_run
    from emu.kernels.scenario import play_on_machine

    try:
        options = parse_run(case.arguments, for_qemu=True)
        options.mmu = mmu
        kernel = find_kernel(options)
        with make_machine(options, kernel, [], [], lambda text: None) as machine:
            return play_on_machine(case, machine)
    except ShadowcornError as error:
        return Result(Verdict.CRASH, reason=str(error))


def run_on_qemu(case: Case, emulator: Emulator) -> Result:
    """Run one case under QEMU."""
    if not case.judge.startswith("screen"):
        return run_case(case, emulator)
    from emu.kernels.scenario import play_on_qemu

    return play_on_qemu(case, emulator)


def command(words: Sequence[str]) -> int:
    """Be the command; returns the exit code."""
    options = _parser().parse_args(list(words))
    if not options.folder.is_dir():
        raise_usage(f"{options.folder} is not a folder")
    with TemporaryDirectory(prefix="shadowcorn-") as work:
        cases = [
            case
            for case in find_cases(options.folder, Path(work))
            if not options.only or any(fnmatchcase(case.key, text) for text in options.only)
        ]
        if options.list:
            for case in cases:
                print(f"{case.key}{f' (skipped: {case.absent})' if case.absent else ''}")
            return 0
        return _run_all(cases, options)


def raise_usage(text: str) -> None:
    """Raise UsageError."""
    raise UsageError(text)


def _run_all(cases: Sequence[Case], options: argparse.Namespace) -> int:
    emulator = qemu() if options.qemu or options.only_qemu else None
    if options.only_qemu and emulator is None:
        raise_usage("qemu-system-x86_64 is not installed")
    rows = read_json(options.json) if options.json else {}
    bad = False
    for case in cases:
        limit = min(case.seconds, options.limit or case.seconds)
        case = replace(case, seconds=limit)
        row = _run_one(case, options, emulator, rows.get(case.key))
        rows[case.key] = row
        bad |= row.ours.verdict not in (Verdict.PASS, Verdict.SKIP)
        print(_line(row), flush=True)
        if options.json:
            write_json(options.json, rows)
        if options.markdown:
            text = markdown(rows.values(), HEAD)
            options.markdown.write_text(text, encoding="utf-8", newline="\n")
    return 1 if bad else 0


def _run_one(
    case: Case, options: argparse.Namespace, emulator: Emulator | None, before: Row | None
) -> Row:
    if case.absent:
        return absent_row(case)
    theirs = before.qemu if before else None
    if emulator is not None:
        theirs = run_on_qemu(case, emulator)
        _keep(options, case, "qemu", theirs)
    if options.only_qemu:
        ours = before.ours if before else Result(Verdict.SKIP, reason="not run yet")
    else:
        ours = run_on_shadowcorn(case, options.mmu)
        _keep(options, case, "shadowcorn", ours)
    return Row(case.suite, case.name, ours, theirs)


def _keep(options: argparse.Namespace, case: Case, who: str, result: Result) -> None:
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        name = "".join(char if char.isalnum() or char in "+-." else "_" for char in case.key)
        path = options.output / f"{name}.{who}.txt"
        path.write_text(result.output, encoding="utf-8", newline="\n")


def _line(row: Row) -> str:
    def side(name: str, result: Result | None) -> str:
        if result is None:
            return ""
        return f"  {name} {result.verdict.value} {result.seconds:.1f} s"

    reason = f"  ({row.ours.reason})" if row.ours.reason else ""
    return f"{row.key}:{side('shadowcorn', row.ours)}{side('QEMU', row.qemu)}{reason}"


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
