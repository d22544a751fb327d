# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowcorn pages`: what an address space maps at some point of a run.

A line for each range of equal rights, as a kernel's own page-table dump prints them. The guest's
tables are read, and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.cli import qemu
from emu.cli.options import RunOptions, parse_number
from emu.cli.parse import TAKES_VALUE, parse_run
from emu.cli.run import HELP_WORDS, Session, set_up_logging, warn_all
from emu.errors import UsageError

if TYPE_CHECKING:
    from emu.machine import Machine
    from mmu.walker import Context

__all__ = ["Request", "command", "parse", "stop"]

_HELP = """\
usage: shadowcorn pages KERNEL [options of shadowcorn run] [--at POSITION] [--vcpu N] [--cr3 X]

Runs KERNEL until it ends (or POSITION is reached, or --timeout is over) and prints what the page
tables then map: addresses, physical addresses, rights (u: user, r, w, x), number and size of pages.

  --at POSITION   stop there: instructions so far, as @1,204,331
  --vcpu N        the tables of this virtual CPU (default: the one that ran last)
  --cr3 X         the address space whose root is X
"""
_OURS = {"at": True, "vcpu": True, "cr3": True, "lint-off": True, "lint-json": False}


@dataclass(slots=True)
class Request:
    """What is asked for: a run, and which address space to look at."""

    options: RunOptions
    vcpu: int | None = None
    cr3: int | None = None
    off: list[str] = field(default_factory=list)
    as_json: bool = False


def command(words: Sequence[str]) -> int:
    """Be `shadowcorn pages`."""
    if any(word in HELP_WORDS for word in words):
        print(_HELP, end="")
        return 0
    from mmu.ranges import TooManyTables, mappings, ranges

    request = parse(words)
    with Session(request.options) as session:
        machine, context = stop(session, request)
        mode = context.mode.name.removesuffix(" paging")
        print(f"{mode} paging, CR3 {context.regs.cr3:#x}, {machine.position}")
        try:
            for found in ranges(mappings(machine.guest_memory, context)):
                print(found)
        except TooManyTables as error:
            print(error)
    return 0


def parse(words: Sequence[str]) -> Request:
    """Return what the words of `pages` or `lint` ask for; raises UsageError."""
    rest: list[str] = []
    positional: list[str] = []
    request = Request(RunOptions())
    for name, value in qemu.split(words, TAKES_VALUE | _OURS):
        if name is None:
            positional.append(value or "")
        elif name == "vcpu":
            request.vcpu = parse_number(value or "", "--vcpu")
        elif name == "cr3":
            request.cr3 = parse_number(value or "", "--cr3")
        elif name == "lint-off":
            request.off.append(value or "")
        elif name == "lint-json":
            request.as_json = True
        else:
            rest.append(f"-{'until' if name == 'at' else name}")
            if value is not None:
                rest.append(value)
    options = parse_run([*rest, "--", *positional])
    if not options.serial_said:
        options.serial = ["null"]
    options.display = "none"
    if request.vcpu is not None and request.vcpu >= options.cpus:
        raise UsageError(f"--vcpu {request.vcpu}: there are {options.cpus} (from 0)")
    request.options = options
    return request


def stop(session: Session, request: Request) -> tuple[Machine, Context]:
    """Run to where the address space is to be looked at."""
    warn_all(request.options)
    set_up_logging(request.options)
    session.run()
    machine = session.machine
    return machine, machine.address_space(request.vcpu, request.cr3)
