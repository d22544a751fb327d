# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person needs to know of a machine that did not do what it should: `sections`, `write`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.testing.machine import KernelMachine

__all__ = ["sections", "slug", "write"]

Sections = list[tuple[str, str]]
_TAIL = 40


def sections(m: KernelMachine) -> Sections:
    """Return (title, text) pairs, the most useful first; nothing in them depends on the host."""
    found: Sections = [("shadowcorn: this run again", _replay(m))]
    for title, text in (
        ("serial", _tail(m.serial.text)),
        ("debug console", _tail(m.debugcon.text)),
        ("screen", m.screen.text),
        ("report", m.outcome.report if m.outcome is not None else ""),
        ("processors", _processors(m)),
        ("TLB findings", "\n".join(m.findings)),
        ("warnings", "\n".join(m.warnings)),
    ):
        if text.strip():
            found.append((f"shadowcorn: {title}", text))
    return found


def _replay(m: KernelMachine) -> str:
    lines = [f"{m.launch.command(m.position)}    # {m.ending}"]
    lines += [f"# fed to the serial line at {where}: {data!r}" for where, data in m.serial.fed]
    return "\n".join(lines)


def _tail(text: str) -> str:
    lines = text.splitlines()
    left = len(lines) - _TAIL
    more = [f"({left} lines before)"] if left > 0 else []
    return "\n".join([*more, *lines[-_TAIL:]])


def _processors(m: KernelMachine) -> str:
    """Where each vCPU is and what happened to it last, and the registers of the one that ran."""
    from emu.cli.report import vcpu_lines
    from emu.report import event_line, registers_text

    machine = m.machine
    names = machine.symbols
    lines = []
    for cpu, line in zip(machine.cpus, vcpu_lines(machine.cpus, names.name_of), strict=True):
        file, number = names.line_of(cpu.regs.linear_rip)
        lines.append(line + (f" ({file}:{number})" if file else ""))
        for past in cpu.record.recent:
            name = names.name_of(past.rip)
            lines.append(f"    {event_line(past)}" + (f" in {name}" if name else ""))
    running = machine.scheduler.current
    lines += ["", f"registers of vCPU {running.index}:", registers_text(running)]
    return "\n".join(lines)


def slug(name: str) -> str:
    """Return a test's id as the name of a folder, on every host.

    >>> slug("tests/test_k.py::test_boot[2 cpus]")
    'tests-test_k.py-test_boot-2-cpus'
    """
    return re.sub(r"[^\w.]+", "-", name).strip("-.")[-120:]


def write(folder: Path, m: KernelMachine, parts: Sections) -> None:
    """Write what is known of a machine into files in `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    report = "".join(f"== {title}\n{text.rstrip()}\n\n" for title, text in parts)
    files = {
        "report.txt": report.encode(),
        "serial.log": m.serial.sent,
        "debugcon.log": m.debugcon.sent,
        "screen.txt": m.screen.sent,
    }
    check = m.machine.tlb_check
    if check is not None:
        files["findings.json"] = json.dumps(check.as_list(), indent=2).encode()
    if isinstance(m.launch.kernel, bytes):
        files["kernel.bin"] = m.launch.kernel
    for name, data in files.items():
        if data:
            (folder / name).write_bytes(data)
