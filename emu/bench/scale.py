# SPDX-License-Identifier: GPL-2.0-or-later
"""What grows: address spaces, aliases, shadow pages, RAM; and how long it takes to start.

Each function measures one thing and returns :class:`Figure` values, a goal beside each that has
one. They use the benchmark guests and whole processes; nothing is measured from the inside.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from emu.bench.emulators import BenchError, InProcess, Sample
from emu.bench.loads import LOADS, Load
from emu.bench.tables import show_ratio, show_time
from guests.bench import BENCH_GUESTS

__all__ = [
    "Figure",
    "Tell",
    "aliases",
    "history",
    "in_turn",
    "memory",
    "ratio_of",
    "startup",
    "switches",
]

Tell = Callable[[str], None]
_ENOUGH = 32768
"""Shadow pages that hold everything here."""
_PAGE_BYTES = 4096 + 512 + 32  # entries, their epochs, the note
"""A shadow table in the host's buffer, with what compiled code is told about it."""
_SCRIPT_RSS = """
import sys
from pathlib import Path
from emu.machine import Machine
from guests import load
with Machine(load("hello").path, memory=int(sys.argv[1]) << 20, jit="off") as machine:
    assert machine.run(timeout=60).exit_code == 33
status = Path("/proc/self/status")
if sys.platform == "win32":
    from ctypes import byref, c_size_t, c_void_p, windll

    counters = (c_size_t * 9)(72)  # PROCESS_MEMORY_COUNTERS: cb, PageFaultCount, PeakWorkingSetSize
    windll.kernel32.K32GetProcessMemoryInfo(c_void_p(-1), byref(counters), 72)
    print(counters[1])
elif status.exists():  # Linux's ru_maxrss counts what the parent had
    lines = status.read_text(encoding="ascii").splitlines()
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024)
else:
    import resource

    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure: ``value`` for programs, ``shown`` for people."""

    name: str
    value: float
    shown: str
    most: float | None = None

    @property
    def goal(self) -> str:
        """The goal in words."""
        return "" if self.most is None else f"at most {self.most:g}"

    @property
    def verdict(self) -> str:
        """ "met", "short", or nothing where there is no goal."""
        if self.most is None:
            return ""
        return "met" if self.value <= self.most else "short"


def _switch_load(spaces: int) -> Load:
    name = f"switch {spaces}"
    return replace(LOADS["switch 16"], name=name, parameters=f"s={spaces}", answer="")


def in_turn(
    jobs: Sequence[tuple[str, InProcess, Load, int]], runs: int, tell: Tell
) -> dict[str, list[Sample]]:
    """Run all jobs (key, emulator, load, operations) ``runs`` times, in turn."""
    samples: dict[str, list[Sample]] = {key: [] for key, _, _, _ in jobs}
    for number in range(runs):
        for key, emulator, load, operations in jobs:
            tell(f"{key}: run {number + 1} of {runs}")
            gc.collect()
            samples[key].append(emulator.run(load, operations))
    return samples


def ratio_of(samples: Sequence[Sample], base: Sequence[Sample]) -> float:
    """Return how many times as long the one took as the other, run against run."""
    return median(one.each / other.each for one, other in zip(samples, base, strict=True))


def switches(jit: str, runs: int, tell: Tell) -> list[Figure]:
    """A warm switch among 4 to 4,000 address spaces; then with room for three quarters of them."""
    counts = (4, 16, 64, 256, 1024, 4000)
    jobs = []
    for spaces in counts:
        emulator = InProcess(f"jit {jit}", "shadow", jit=jit, shadow_pages=_ENOUGH)
        jobs.append((f"{spaces} spaces", emulator, _switch_load(spaces), max(4000, spaces)))
    small = InProcess(f"jit {jit}", "shadow", jit=jit, shadow_pages=12_000)
    jobs.append(("4000 spaces, small pool", small, _switch_load(4000), 4000))
    off = InProcess("cache off", "emu.bench.plugins:CacheOff", jit=jit, shadow_pages=_ENOUGH)
    jobs.append(("cache off", off, _switch_load(16), 400))
    samples = in_turn(jobs, runs, tell)
    base = samples["4 spaces"]
    found = []
    for spaces in counts:
        mine = samples[f"{spaces} spaces"]
        each, ratio = median(s.each for s in mine), ratio_of(mine, base)
        goal = 1.3 if spaces == counts[-1] else None
        shown = f"{show_time(each)}, {show_ratio(ratio)} x that of 4"
        found.append(Figure(f"warm switch among {spaces} address spaces", ratio, shown, goal))
    ratio = ratio_of(samples["4000 spaces, small pool"], samples["cache off"])
    each = median(s.each for s in samples["4000 spaces, small pool"])
    shown = f"{show_time(each)}, {show_ratio(ratio)} x a switch with the cache off"
    name = "switch among 4000 address spaces in a pool for 3000"
    found.append(Figure(name, ratio, shown))
    return found


def history(jit: str, runs: int, tell: Tell) -> list[Figure]:
    """Switches under the pools of 2007 and after, against the cache off."""
    pools = (("256", 256), ("1024", 1024), ("unbounded", _ENOUGH))
    found = []
    for spaces in (16, 128):
        load = _switch_load(spaces)
        off = InProcess("off", "emu.bench.plugins:CacheOff", jit=jit, shadow_pages=_ENOUGH)
        jobs = [("off", off, load, 2 * spaces + 200)]
        jobs += [
            (name, InProcess(name, "shadow", jit=jit, shadow_pages=pages), load, 4000)
            for name, pages in pools
        ]
        samples = in_turn(jobs, runs, tell)
        each = median(s.each for s in samples["off"])
        found.append(Figure(f"{spaces} spaces, cache off", each, show_time(each)))
        for name, _ in pools:
            each, ratio = (
                median(s.each for s in samples[name]),
                ratio_of(samples["off"], samples[name]),
            )
            shown = f"{show_time(each)}, {show_ratio(ratio)} x as fast"
            found.append(Figure(f"{spaces} spaces, pool {name}", each, shown))
    return found


def aliases(jit: str, runs: int, tell: Tell) -> list[Figure]:
    """A page with many mappings becomes a page table: seconds an alias must not grow."""
    counts = (1024, 2560, 5120)
    emulator = InProcess(f"jit {jit}", "shadow", jit=jit)
    guest = BENCH_GUESTS["bench-alias"]
    jobs = [
        (f"{count} aliases", emulator, Load("alias", guest, "page", 8, "", f"a={count}"), 8)
        for count in counts
    ]
    samples = in_turn(jobs, runs, tell)
    base = samples["1024 aliases"]
    found = []
    for count in counts:
        mine = samples[f"{count} aliases"]
        each = median(s.each for s in mine)
        ratio = ratio_of(mine, base) * 1024 / count
        shown = f"{show_time(each)}, {show_time(each / count)} an alias"
        goal = 1.5 if count == counts[-1] else None
        found.append(Figure(f"a page of {count} aliases becomes a table", ratio, shown, goal))
    return found


def memory(tell: Tell) -> list[Figure]:
    """Host memory for a shadow page, and for a guest of 4 GiB that uses little of it."""
    found = []
    for pages, what, most in ((10, "one mapping", 6.0), (64, "six mappings", None)):
        tell(f"memory for a shadow page, {what} a frame")
        small, large = _held(100, pages), _held(800, pages)
        each = (large[0] - small[0]) / (large[1] - small[1]) + _PAGE_BYTES
        shown = f"{each:.0f} bytes, of them {_PAGE_BYTES} in the buffer"
        name = f"KiB for a shadow page, {what} a data frame"
        found.append(Figure(name, each / 1024, shown, most))
    tell("memory of a 4 GiB guest")
    try:
        usual, big = _peak(128), _peak(4096)
    except BenchError as error:
        tell(str(error))
        return found
    more = (big - usual) / (1 << 20)
    shown = f"{big >> 20} MiB, of 128 MiB {usual >> 20} MiB"
    return [*found, Figure("peak of a 4 GiB guest over one of 128 MiB, in MiB", more, shown, 64)]


def _held(spaces: int, pages: int) -> tuple[int, int]:
    """Return (bytes of Python objects, shadow pages) after switching among so many spaces, of which
    each maps so many of 8,192 frames."""
    from emu.machine import Machine

    load = replace(_switch_load(spaces), parameters=f"s={spaces} w={pages}")
    gc.collect()
    tracemalloc.start()
    try:
        machine: Any = Machine(
            load.guest.path,
            memory=load.guest.memory,
            append=load.command_line(spaces),
            shadow_pages=_ENOUGH,
            jit="off",
        )
        with machine:
            machine.run(timeout=600)
            gc.collect()
            made = machine.mmu.counters.mmu_cache_miss - machine.mmu.counters.mmu_shadow_zapped
            return tracemalloc.get_traced_memory()[0], made
    finally:
        tracemalloc.stop()


def _peak(mebibytes: int) -> int:
    """Return the peak resident bytes of a process that runs a guest of so much RAM."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT_RSS, str(mebibytes)], capture_output=True, check=False
    )
    if done.returncode:
        raise BenchError("peak memory is not measured here: " + done.stderr.decode()[-200:])
    return int(done.stdout)


def startup(tell: Tell, *, jit_too: bool, runs: int = 7) -> list[Figure]:
    """From typing ``shadowcorn run guest:hello`` to its end."""
    found = []
    for jit, most in (("off", 0.4), ("on", 0.7)):
        if jit == "on" and not jit_too:
            continue
        times = []
        for number in range(runs + 1):
            tell(f"start-up, jit {jit}: run {number + 1}")
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "emu.cli", "run", "guest:hello", "--jit", jit],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            times.append(time.perf_counter() - began)
            if done.returncode != 33:
                raise BenchError(f"guest:hello ends with {done.returncode}: {done.stderr.decode()}")
        each = median(times[1:])  # the first fills caches
        found.append(
            Figure(f"shadowcorn run guest:hello, jit {jit}, s", each, show_time(each), most)
        )
    return found
