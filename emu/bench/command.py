# SPDX-License-Identifier: GPL-2.0-or-later
"""``shadowcorn bench``: the command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NoReturn

from emu.bench.emulators import BenchError, Emulator, Qemu, make_emulator
from emu.bench.loads import CACHE_OFF, JIT, LOADS, PURE, Load, find_loads
from emu.errors import UsageError

if TYPE_CHECKING:
    from emu.bench.report import Report

__all__ = ["command", "main"]

_SECTIONS = ("scale", "2007", "policies", "memory", "startup")
_HELP = """
benchmarks: {loads}
sections (with --only; part of a full run): {sections}

Times are medians of runs made in turn; compare ratios, not times from different runs. With no
--against, native, uncached and (where it is on PATH) qemu are measured; "unicorn" is the engine
alone, without a machine or a clock around it.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parser() -> _Parser:
    parser = _Parser(
        prog="shadowcorn bench",
        description="Measure this machine under its MMU plug-ins, and others beside it.",
        epilog=_HELP.format(loads=", ".join(LOADS), sections=", ".join(_SECTIONS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--against", metavar="NAMES", help="native,uncached,qemu,unicorn")
    parser.add_argument("--only", metavar="NAMES", default="", help="benchmarks and sections")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="runs of each (5)")
    parser.add_argument(
        "--seconds", type=float, default=0.5, metavar="S", help="guest work of a run (0.5)"
    )
    parser.add_argument(
        "--small", action="store_true", help="run each once, small, for its answer; time nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a bar chart")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--quiet", action="store_true", help="do not say what is running")
    return parser


def command(words: Sequence[str]) -> int:
    """Run the benchmark; returns 1 if something answered wrongly or did not run.

    Raises UsageError.
    """
    options = _parser().parse_args(list(words))
    if options.runs < 1 or not 0 < options.seconds <= 60:
        raise UsageError("--runs must be at least 1, --seconds above 0 and at most 60")
    loads, sections = _chosen(options.only)
    tell = _silent if options.quiet else _progress
    emulators = _emulators(options.against, tell)
    if options.small:
        return _small(loads, emulators)
    return _full(options, loads, sections, emulators, tell)


main = command


def _silent(_text: str) -> None:
    return None


def _progress(text: str) -> None:
    """Say what is running: on one line of a terminal, else a line each."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:78]}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def _chosen(only: str) -> tuple[list[Load], list[str]]:
    """The loads and the sections that --only names; all of both where it is not given."""
    if not only:
        return find_loads(""), list(_SECTIONS)
    names = [name.strip() for name in only.split(",")]
    sections = [name for name in names if name in _SECTIONS]
    rest = ",".join(name for name in names if name not in _SECTIONS)
    try:
        return find_loads(rest) if rest else [], sections
    except KeyError as error:
        raise UsageError(f"{error.args[0]}, {', '.join(_SECTIONS)}") from None


def has_jit() -> bool:
    """Whether compiled code can be had here."""
    from emu.objects import compiled_code

    return compiled_code() is not None


def _emulators(against: str | None, tell: Callable[[str], None]) -> list[Emulator]:
    """The columns: our own, then the others. Raises UsageError."""
    ours = [JIT, PURE] if has_jit() else [PURE]
    if ours == [PURE]:
        tell("no compiled code (packages numba and llvmlite): pure Python only")
    found = [make_emulator(name) for name in ours]
    found += [make_emulator(name) for name in (f"{o}, {CACHE_OFF}" for o in ours)]
    if against is not None:
        names = [name.strip() for name in against.split(",") if name.strip()]
        return found + [make_emulator(name) for name in dict.fromkeys(names)]
    for name in ("native", "uncached", "qemu"):
        try:
            found.append(make_emulator(name))
        except UsageError as error:
            tell(f"left out: {error}")
    return found


def _small(loads: Sequence[Load], emulators: Sequence[Emulator]) -> int:
    """Run everything once and small; say what answered wrongly."""
    wrong = 0
    for load in loads:
        for emulator in emulators:
            if not emulator.can_run(load):
                continue
            try:
                answer = emulator.run(load, load.small).answer
            except BenchError as error:
                answer = str(error)
            if answer == load.answer:
                print(f"{load.name}, {emulator.name}: {answer}")
            else:
                wrong += 1
                print(f"{load.name}, {emulator.name}: WRONG: {answer}, expected {load.answer}")
    return 1 if wrong else 0


def _full(
    options: argparse.Namespace,
    loads: Sequence[Load],
    sections: Sequence[str],
    emulators: Sequence[Emulator],
    tell: Callable[[str], None],
) -> int:
    from emu.bench.bare import Yardstick
    from emu.bench.host import describe_host
    from emu.bench.report import Report
    from emu.bench.runner import measure

    qemu = next((e.version() for e in emulators if isinstance(e, Qemu)), None)
    yardstick = Yardstick()
    report = Report(describe_host(qemu), 0.0, options.runs, options.seconds)
    for load in loads:
        result = measure(
            load, emulators, yardstick, runs=options.runs, seconds=options.seconds, tell=tell
        )
        report.results.append(result)
    sticks = [y for r in report.results for c in r.columns.values() for y in c.yardsticks]
    report.yardstick = median(sticks) if sticks else yardstick.measure()
    failures = []
    for name in sections:
        try:
            _section(report, name, options.runs, tell)
        except BenchError as error:
            failures.append(f"{name}: {error}")
    if sys.stderr.isatty() and not options.quiet:
        print("\r\x1b[K", end="", file=sys.stderr)
    print(report.text(), end="")
    for failure in failures:
        print(f"\nNot measured: {failure}")
    _write(options, report)
    return 1 if failures or any(result.missing for result in report.results) else 0


def _section(report: Report, name: str, runs: int, tell: Callable[[str], None]) -> None:
    from emu.bench import policies, scale

    jits = ("on", "off") if has_jit() else ("off",)
    few = min(runs, 3)
    if name == "memory":
        report.sections["Memory"] = scale.memory(tell)
    elif name == "startup":
        report.sections["Start-up"] = scale.startup(tell, jit_too="on" in jits)
    else:
        for jit in jits:
            if name == "scale":
                figures = scale.switches(jit, few, tell) + scale.aliases(jit, few, tell)
                report.sections[f"Scale, jit {jit}"] = figures
            elif name == "policies":
                heading = f"Policies of the shadow cache, jit {jit}"
                report.sections[heading] = policies.policies(jit, few, tell)
            else:
                heading = f"Pools of 2007 (53.01 us became 6.36 us then), jit {jit}"
                report.sections[heading] = scale.history(jit, few, tell)


def _write(options: argparse.Namespace, report: Report) -> None:
    """Write the files that were asked for; raises UsageError where that fails."""
    try:
        if options.json:
            text = json.dumps(report.as_dict(), indent=1)
            options.json.write_text(text + "\n", encoding="utf-8", newline="\n")
        if options.markdown:
            options.markdown.write_text(report.markdown(), encoding="utf-8", newline="\n")
        if options.svg:
            options.svg.write_text(report.chart(), encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}") from None
    except ValueError:
        raise UsageError("no chart: it needs benchmarks and --against native") from None
