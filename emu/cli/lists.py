# SPDX-License-Identifier: GPL-2.0-or-later
"""What `shadowcorn-qemu`, and in part `shadowcorn run`, answers without running anything.

Scripts ask for the version and for lists of devices to find out which QEMU they have;
kvm-unit-tests looks for the word QEMU in the help, and for `name "pc-testdev"` among the devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from emu.cli import help, qemu

__all__ = ["answer", "listing"]

_ASKING = ("help", "?")
_MACHINES = (("pc", "the board: i440FX and PIIX3 (default)"),)


def answer(words: Sequence[str]) -> str | None:
    """Return the answer, or None if the words ask for a run."""
    if any(word in ("-h", "-help", "--help") for word in words):
        return _help()
    if any(word in ("-version", "--version") for word in words):
        from emu.cli.report import version

        return f"shadowcorn {version()}, which reads the command line of QEMU emulator\n"
    return listing(words)


def listing(words: Sequence[str]) -> str | None:
    """Return the list that is asked for, as by `-cpu help`, or None."""
    for word, value in pairwise(words):
        if not word.startswith("-"):
            continue
        if value.partition(",")[0] in _ASKING or value.endswith((",help", ",?")):
            found = _listing(word.lstrip("-"))
            if found is not None:
                return found
    return None


def _help() -> str:
    return help.RUN.replace("shadowcorn run KERNEL", "shadowcorn-qemu", 1).replace(
        "the machine, in QEMU's spelling",
        "This is shadowcorn under QEMU's name: it takes a QEMU command line as it is.\n\n"
        "the machine, in QEMU's spelling",
        1,
    )


def _wrapped(words: Sequence[str]) -> str:
    from textwrap import fill

    text = " ".join(words)
    lines = fill(text, 78, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return lines + "\n"


def _listing(option: str) -> str | None:
    if option == "device":
        return "".join(
            f'name "{name}", bus {bus}\n' for name, bus in sorted(qemu.KNOWN_DEVICES.items())
        )
    if option == "cpu":
        from emu.cpu.models import flag_names, model_names

        models = "".join(f"x86 {name}\n" for name in model_names())
        return f"Available CPUs:\n{models}\nRecognized CPUID flags:\n{_wrapped(flag_names())}"
    if option in ("machine", "M"):
        return "Supported machines are:\n" + "".join(f"{n:20} {w}\n" for n, w in _MACHINES)
    if option == "accel":
        return "Accelerators supported in QEMU binary:\ntcg\n"
    return None
