# SPDX-License-Identifier: GPL-2.0-or-later
"""Who can run a program image: this machine under several MMUs, and QEMU.

All get the same bytes and give back the same: the end, and what the guest itself sent to port 0xe9
(see `emu.fuzz.runtime`), taken apart as an `Observation`.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from emu.fuzz import layout as L
from emu.fuzz.runtime import HEADER_BYTES, MAGIC

__all__ = ["Observation", "engines", "find_qemu", "observe"]

_TIMEOUT = 60.0
_MOST_INSTRUCTIONS = 6_000_000
_NAME = "qemu-system-x86_64"


@dataclass(frozen=True, slots=True)
class Observation:
    """What a run showed: how it ended, the events (tuples of words), the checksums of pages."""

    ending: str
    events: tuple[tuple[int, ...], ...] = ()
    checksums: tuple[int, ...] = ()


def observe(ending: str, output: bytes, bits: int) -> Observation:
    """Take apart what a guest has sent; without a whole log there is only the ending."""
    if len(output) < HEADER_BYTES:
        return Observation(ending)
    magic, _, size, checksums = struct.unpack_from("<4I", output)
    if magic != MAGIC or len(output) != HEADER_BYTES + size + 4 * checksums:
        return Observation(ending + ", with a broken log")
    words, letter = (24, "Q") if bits == 64 else (20, "I")
    entry = f"<{words}{letter}"
    events = struct.iter_unpack(entry, output[HEADER_BYTES : HEADER_BYTES + size])
    sums = struct.unpack_from(f"<{checksums}I", output, HEADER_BYTES + size)
    return Observation(ending, tuple(events), sums)


def run_machine(image: bytes, bits: int, mmu: str, options: dict[str, Any]) -> Observation:
    """Run an image on this machine."""
    from emu.board import BoardOptions
    from emu.machine import Machine
    from emu.outcome import Kind

    output = bytearray()
    board = BoardOptions(debugcons=((0xE9, output.extend),))
    with Machine(image, mmu=mmu, memory=L.RAM, board=board, **options) as machine:
        outcome = machine.run(timeout=_TIMEOUT, max_insns=_MOST_INSTRUCTIONS)
    ending = outcome.kind.value
    if outcome.kind is Kind.INTERNAL:
        ending += ": " + outcome.report
    return observe(ending, bytes(output), bits)


def find_qemu() -> str | None:
    """Return the path of QEMU, or None."""
    return shutil.which(_NAME)


def run_qemu(image: bytes, bits: int, path: str) -> Observation:
    """Run an image on QEMU's TCG."""
    with tempfile.TemporaryDirectory() as folder:
        kernel, log = Path(folder, "kernel"), Path(folder, "log")
        kernel.write_bytes(image)
        command = [path, "-accel", "tcg", "-cpu", "max", "-m", f"{L.RAM >> 20}M"]
        command += ["-nodefaults", "-display", "none", "-no-reboot", "-kernel", str(kernel)]
        command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
        command += ["-debugcon", f"file:{log}"]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Observation("timeout")
        # Written to isa-debug-exit: odd. Otherwise -no-reboot has ended a triple fault with 0.
        endings = {1: "guest exit", 0: "triple fault"}
        text = done.stderr.decode("utf-8", "replace").strip()
        ending = endings.get(done.returncode, f"exit code {done.returncode}: {text}")
        output = log.read_bytes() if log.exists() else b""
        return observe(ending, output, bits)


Engine = Callable[[bytes, int], Observation]


def engines(case: dict[str, Any]) -> dict[str, Engine]:
    """Return who runs a case, by name, the yardstick first."""
    found: dict[str, Engine] = {}
    for name, options in case["machines"]:
        mmu = name.partition(" ")[0]
        found[name] = partial(run_machine, mmu=mmu, options=options)
    if case["qemu"]:
        path = find_qemu()
        if path is not None:
            found["qemu"] = partial(run_qemu, path=path)
    return found
