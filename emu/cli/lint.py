# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowcorn lint`: what is wrong with an address space at some point of a run; see `mmu.lint`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from emu.cli.pages import parse, stop
from emu.cli.run import HELP_WORDS, Session
from emu.errors import UsageError
from emu.outcome import EXIT_CODES, Kind
from mmu.lint import RULES, Remark, Severity, lint

__all__ = ["command"]

_HELP = """\
usage: shadowcorn lint KERNEL [options of shadowcorn run] [--at POSITION] [--vcpu N] [--cr3 X]
                       [--lint-off RULE]... [--lint-json]

Runs KERNEL as `shadowcorn pages` does and prints what is wrong with the page tables. Exit code 10
if there is an error, else 0.

  --lint-off RULE   leave a rule out; the rules:
"""


def command(words: Sequence[str]) -> int:
    """Be `shadowcorn lint`."""
    if any(word in HELP_WORDS for word in words):
        print(_HELP, end="")
        for rule in RULES.values():
            print(f"    {rule.name:16} {rule.severity.value}: {rule.meaning}")
        return 0
    request = parse(words)
    with Session(request.options) as session:
        machine, context = stop(session, request)
        try:
            remarks = list(
                lint(machine.guest_memory, context, places=machine.own_places(), off=request.off)
            )
        except ValueError as error:
            raise UsageError(str(error)) from None
    if request.as_json:
        print(json.dumps([_as_dict(remark) for remark in remarks], indent=2))
    else:
        for remark in remarks:
            print(remark)
    return (
        EXIT_CODES[Kind.FINDING] if any(r.rule.severity is Severity.ERROR for r in remarks) else 0
    )


def _as_dict(remark: Remark) -> dict[str, object]:
    return {
        "rule": remark.rule.name,
        "severity": remark.rule.severity.value,
        "first": remark.first,
        "last": remark.last,
        "detail": remark.detail,
        "entry_gpa": remark.entry_gpa,
        "frame": remark.frame,
    }
