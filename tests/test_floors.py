# SPDX-License-Identifier: GPL-2.0-or-later
"""The house has floors: an import leads to the same floor or downward, and never in a circle.

All imports count: those inside functions, and those for type checking alone.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up. A module belongs to the longest name here that is a prefix of its own.
FLOORS = (
    ("mmu.arch", "mmu.observe", "mmu.hostmemory", "guests"),
    ("mmu.memory",),
    ("mmu.api",),
    ("mmu.tlb", "mmu.walker"),
    ("mmu.uncached", "mmu.lockstep", "mmu.audited", "mmu.shadow", "mmu.ranges"),
    ("mmu.kvm2007", "mmu.trace", "mmu.tlbcheck", "mmu.lint"),
    ("mmu.plugins",),
    ("mmu.testing",),
    ("emu.errors", "emu.outcome", "emu.state"),
    ("emu.savable",),
    ("emu.clock",),
    ("emu.ports",),
    ("emu.cpu",),
    ("emu.jit", "emu.objects", "emu.devices", "emu.boot", "emu.debug"),
    ("emu.schedule", "emu.board", "emu.tables", "emu.views", "emu.report", "emu.reset"),
    ("emu.observe",),
    (
        "emu.debug.console",
        "emu.debug.control",
        "emu.debug.endpoint",
        "emu.debug.gdb",
        "emu.debug.monitor",
    ),
    ("emu.machine",),
    ("emu.bench", "emu.cli", "emu.fuzz", "emu.kernels"),
    ("emu.testing",),
)
# Arrows that lead up for type checking alone. Let no more come: take what is used, not who has it.
UPWARD = {("emu.debug.sanitizer", "emu.machine"), ("emu.debug.target", "emu.machine")}
UPWARD |= {(f"emu.debug.{name}", "emu.machine") for name in ("gdb.adapter", "gdb.maps", "monitor")}

# Where a circle still stands, by the package that all of it lies in.
KNOTS = ("emu.cpu", "emu.devices", "emu.boot", "emu.bench", "emu.fuzz")


def modules() -> dict[str, Path]:
    found = {}
    for package in ("mmu", "emu", "guests"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
pytestmark = pytest.mark.skipif("mmu.api" not in MODULES, reason="no source tree")


@cache
def imports_of(name: str) -> frozenset[str]:
    """The modules of the house that a module imports."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in MODULES else source)
    found -= {name, *(up for who, up in UPWARD if who == name)}
    return frozenset(found & MODULES.keys())


def floor_of(name: str) -> int:
    fits = [
        (len(prefix), floor)
        for floor, prefixes in enumerate(FLOORS)
        for prefix in prefixes
        if name == prefix or name.startswith(prefix + ".")
    ]
    return max(fits)[1] if fits else -1


def circles() -> list[list[str]]:
    """The strongly connected parts of the imports that have more than one module (Tarjan)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in sorted(imports_of(name)):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            part = [stack.pop()]
            while part[-1] != name:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for name in MODULES:
        if name not in order:
            visit(name)
    return found


def test_every_module_has_a_floor():
    packages = {"mmu", "emu", "mmu.testing"}  # they hold a docstring
    homeless = [name for name in MODULES if floor_of(name) < 0 and name not in packages]
    assert homeless == [], "give each of these a floor in FLOORS"


@pytest.mark.parametrize("name", MODULES)
def test_no_import_leads_up(name):
    up = sorted(other for other in imports_of(name) if floor_of(other) > floor_of(name))
    assert up == []


def test_there_is_no_circle_but_the_known_knots():
    """There is none in mmu/; what is left elsewhere stays within one package."""
    for circle in circles():
        packages = {knot for knot in KNOTS for name in circle if name.startswith(knot)}
        assert len(packages) == 1, circle
        assert all(name.startswith(next(iter(packages))) for name in circle), circle


def test_the_mmu_is_usable_without_the_engine():
    """`mmu` imports neither Unicorn nor emu, whatever the plug-in."""
    program = (
        "import sys\n"
        "for name in ('unicorn', 'capstone', 'emu', 'guests', 'numba', 'llvmlite'):\n"
        "    sys.modules[name] = None\n"
        "from mmu.plugins import make_mmu\n"
        "from mmu.memory import Memory\n"
        "memory = Memory(); memory.add_ram(0, 0x10000)\n"
        "for name in ('shadow', 'uncached', 'lockstep', 'kvm2007'):\n"
        "    print(make_mmu(name, memory, None).name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["shadow", "uncached", "lockstep", "kvm2007"], done.stderr
