# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowcorn walk`: how an address is translated at some point of a run.

The guest's tables stand on the left, as the processor would walk them, the shadow's on the right,
as they now are: what is missing there has not been needed yet. Neither walk changes anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from emu.cli import qemu
from emu.cli.options import RunOptions, parse_number
from emu.cli.parse import TAKES_VALUE, parse_run
from emu.cli.run import HELP_WORDS, Session, set_up_logging, warn_all
from emu.errors import UsageError

if TYPE_CHECKING:
    from emu.machine import Machine

__all__ = ["command", "side_by_side"]

_HELP = """\
usage: shadowcorn walk KERNEL [options of shadowcorn run] [--at N] [--vcpu N] ADDRESS...

Runs KERNEL until it ends (or --at N instructions are executed, or --timeout is over) and shows how
each guest-virtual ADDRESS is then translated: the guest's tables and the shadow's, level by level.
The guest's serial output is dropped unless -serial says where it goes.

  --at N      stop after N instructions (as --max-insns)
  --vcpu N    look through the tables of this virtual CPU (default: the one that ran last)
"""

_OURS = {"at": True, "vcpu": True}
_GAP = "     "


def command(words: Sequence[str]) -> int:
    """Be `shadowcorn walk`."""
    if any(word in HELP_WORDS for word in words):
        print(_HELP, end="")
        return 0
    options, addresses, vcpu = _parse(words)
    if vcpu is not None and vcpu >= options.cpus:
        raise UsageError(f"--vcpu {vcpu}: there are {options.cpus} (from 0)")
    warn_all(options)
    set_up_logging(options)
    with Session(options) as session:
        outcome = session.run()
        machine = session.machine
        cpu = machine.scheduler.current.index if vcpu is None else vcpu
        print(
            f"vCPU {cpu} after {machine.scheduler.executed:,} instructions ({outcome.kind.value})"
        )
        for gva in addresses:
            print()
            print(_both(machine, cpu, gva))
    return 0


def _parse(words: Sequence[str]) -> tuple[RunOptions, list[int], int | None]:
    rest: list[str] = []
    positional: list[str] = []
    vcpu = None
    for name, value in qemu.split(words, TAKES_VALUE | _OURS):
        if name is None:
            positional.append(value or "")
        elif name == "vcpu":
            vcpu = parse_number(value or "", "--vcpu")
        else:
            rest.append(f"-{'max-insns' if name == 'at' else name}")
            if value is not None:
                rest.append(value)
    options_named = any(word in ("-kernel", "-hda", "-drive", "-fda") for word in rest)
    kernel = [] if options_named else positional[:1]
    addresses = [parse_number(text, "an address") for text in positional[len(kernel) :]]
    if not addresses:
        raise UsageError("no address: shadowcorn walk KERNEL --at N ADDRESS...")
    options = parse_run([*rest, "--", *kernel])
    if not options.serial_said:
        options.serial = ["null"]
    options.display = "none"
    return options, addresses, vcpu


def _both(machine: Machine, cpu: int, gva: int) -> str:
    guest = machine._walk_text(machine.cpus[cpu], gva)
    path = machine.mmu.describe_path(cpu, gva)
    if not path:
        return f"{guest}\n(the plug-in {machine.mmu.name} has no tables of its own)"
    return side_by_side(guest, path)


def side_by_side(left: str, right: str) -> str:
    """Return two walks as columns, each level beside its like.

    >>> print(side_by_side("guest\\nlevel 1 a", "shadow\\nlevel 2 x\\nlevel 1 y"))
    guest         shadow
                  level 2 x
    level 1 a     level 1 y
    """
    rows = list(_pair(left.splitlines(), right.splitlines()))
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{a:{width}}{_GAP}{b}".rstrip() for a, b in rows)


def _level(line: str) -> int | None:
    words = line.split()
    return int(words[1]) if words[:1] == ["level"] else None


def _pair(left: list[str], right: list[str]) -> Iterator[tuple[str, str]]:
    """Yield lines side by side; where only one side has a level, the other is blank."""
    while left or right:
        a, b = (_level(side[0]) if side else None for side in (left, right))
        if a is not None and b is not None and a != b:
            yield (left.pop(0), "") if a > b else ("", right.pop(0))
        elif left and right and (a is None) != (b is None):
            yield (left.pop(0), "") if b is None else ("", right.pop(0))
        else:
            yield left.pop(0) if left else "", right.pop(0) if right else ""
