# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels of a few bytes that print a text, and a pytest of its own to test them with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

FLAT = ("--format", "flat32", "--address", "0x100000", "-m", "4M")
EXIT = "b010 e6f4 f4"  # mov al, 0x10; out 0xf4, al; hlt
FAIL = "b011 e6f4 f4"
CRASH = "0f0b"  # ud2, without an IDT
HANG = "ebfe"  # jmp $
HALT = "fa f4"  # cli; hlt
ECHO = "66bafd03 ec a801 74fb 66baf803 ec ee ebef"  # what comes over the serial line goes back


def talker(text: str | bytes, end: str = EXIT, port: int = 0x3F8) -> bytes:
    """A flat kernel for 0x100000 that sends `text` to `port`, and does what the bytes `end` do."""
    text = text.encode() if isinstance(text, str) else text
    # mov dx, port; next: lodsb; test al, al; jz end; out dx, al; jmp next
    code = f"66ba {port.to_bytes(2, 'little').hex()} ac 84c0 7403 ee ebf8"
    program = bytes.fromhex(code) + bytes.fromhex(end)
    start = 0x10_0000 + 5 + len(program)
    return b"\xbe" + start.to_bytes(4, "little") + program + text + b"\0"


@dataclass
class Done:
    """What a pytest run has come to: its exit code, its text, and outcomes by the test's name."""

    code: int
    text: str
    outcomes: dict[str, str]
    junit: str

    @property
    def failures(self) -> str:
        return re.sub(r"=+ short test summary.*", "", self.text, flags=re.S)


def run_pytest(folder: Path, *words: str) -> Done:
    """Run pytest in `folder`, with the plug-in, installed or not."""
    installed = any(e.name == "shadowcorn" for e in entry_points(group="pytest11"))
    plugin = () if installed else ("-p", "emu.testing.plugin")
    command = [sys.executable, "-m", "pytest", *plugin, "-p", "no:cacheprovider"]
    command += ["-p", "no:faulthandler", "--junit-xml=junit.xml", *words]
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "PY_COLORS": "0", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=200,
    )
    text = done.stdout.decode("utf-8", "replace").replace("\r", "")
    junit = folder / "junit.xml"
    xml = junit.read_text(encoding="utf-8") if junit.exists() else "<none/>"
    return Done(done.returncode, text, _outcomes(xml), xml)


def _outcomes(xml: str) -> dict[str, str]:
    found = {}
    for case in ElementTree.fromstring(xml).iter("testcase"):
        (kind,) = {child.tag for child in case} & {"failure", "error", "skipped"} or {"passed"}
        found[case.attrib["name"]] = kind
    return found
