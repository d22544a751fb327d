# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel and its options, as a machine and as the command line that repeats the run."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.machine import Machine
    from emu.outcome import Position

__all__ = ["Launch", "option_words"]

_GUEST = "guest:"


def option_words(
    *,
    smp: int = 1,
    append: str = "",
    memory: int | str | None = None,
    initrd: str = "",
    tlb_check: str = "off",
    tlb: str = "",
    seed: int = 0,
    mmu: str = "shadow",
    options: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return what `shadowcorn run` is to be called with; `memory` is bytes, or text as "64M".

    >>> option_words(smp=2, append="debug x=1", memory="64M")
    ('-smp', '2', '-append', 'debug x=1', '-m', '64M')
    """
    size = f"{memory}b" if isinstance(memory, int) else memory
    pairs = (
        ("-smp", str(smp), smp != 1),
        ("-append", append, append),
        ("-m", size or "", size),
        ("-initrd", initrd, initrd),
        ("--tlb-check", tlb_check, tlb_check != "off"),
        ("--tlb", tlb, tlb),
        ("--seed", str(seed), seed),
        ("--mmu", mmu, mmu != "shadow"),
    )
    words = [word for name, value, said in pairs if said for word in (name, value)]
    return (*words, *options)


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel (a path, guest:NAME, or its bytes) and options of `shadowcorn run`.

    Relative paths of kernels start at `folder`.
    """

    kernel: str | bytes
    words: tuple[str, ...] = ()
    folder: Path = Path()

    @property
    def name(self) -> str:
        """The kernel, for a person."""
        return self.kernel if isinstance(self.kernel, str) else "KERNEL"

    def boot(
        self,
        serial: Callable[[bytes], None],
        debugcon: Callable[[bytes], None],
        warn: Callable[[str], None],
    ) -> Machine:
        """Return the machine, loaded. COM1 and the debug console send to the sinks.

        Raises KernelError or UsageError with one line for a person.
        """
        from emu.cli.build import Kernel, find_kernel, make_machine
        from emu.cli.parse import parse_run

        options = parse_run([self._path, *self.words])
        for warning in options.warnings:
            warn(warning)
        if isinstance(self.kernel, bytes):
            found = Kernel(self.kernel, self.name)
        else:
            found = find_kernel(options)
        ports = [serial, *[None] * (len(options.serial) - 1)]
        consoles = [(port, debugcon) for port, _ in options.debugcon]
        return make_machine(options, found, ports, consoles, warn)

    @property
    def _path(self) -> str:
        if isinstance(self.kernel, bytes) or self.kernel.startswith(_GUEST):
            return self.name
        return str(self.folder / self.kernel)

    def command(self, position: Position | None = None) -> str:
        """Return the command that runs the kernel in the same way, to `position`.

        >>> Launch("guest:hello", ("-smp", "2")).command()
        'shadowcorn run guest:hello -smp 2'
        """
        words = ["shadowcorn", "run", self.name, *self.words]
        if position is not None:
            words += ["--until", position.exact]
        return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
