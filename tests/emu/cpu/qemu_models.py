# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's own table of CPU models, asked for over QMP.

python -m tests.emu.cpu.qemu_models     # write emu/cpu/models.json again
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from emu.cpu.models import DATA

QEMU = "qemu-system-x86_64"
_FIELDS = ("vendor", "family", "model", "stepping", "level", "xlevel", "model-id")
# Of no interest to a guest of this machine: other hypervisors' leaves, and sub-features of VMX.
_FOREIGN = ("kvm", "vmx-", "hv-", "sgx-")


def flags() -> list[str]:
    """Return the CPUID flags that -cpu help lists."""
    text = subprocess.run([QEMU, "-cpu", "help"], capture_output=True, text=True, check=True).stdout
    words = text.partition("Recognized CPUID flags:")[2].split()
    return sorted({word for word in words if not word.startswith(_FOREIGN)})


class _Monitor:
    def __init__(self) -> None:
        words = [QEMU, "-M", "pc", "-accel", "tcg", "-S", "-display", "none", "-qmp", "stdio"]
        self._qemu = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self._qemu.stdout.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        question = json.dumps({"execute": command, "arguments": arguments})
        self._qemu.stdin.write(question + "\n")
        self._qemu.stdin.flush()
        while "event" in (answer := json.loads(self._qemu.stdout.readline())):
            pass
        return answer.get("return", answer)

    def close(self) -> None:
        self.ask("quit")
        self._qemu.communicate(timeout=30)


def ask_qemu() -> dict:
    """Return what emu/cpu/models.json is to hold."""
    known = flags()
    monitor = _Monitor()
    version = monitor.ask("query-version")["qemu"]
    models, aliases = {}, {}
    for found in sorted(monitor.ask("query-cpu-definitions"), key=lambda entry: entry["name"]):
        name = found["name"]
        if name in ("host", "max"):  # what the accelerator has: here, what this machine has
            continue
        if "alias-of" in found:
            aliases[name] = found["alias-of"]
            continue
        answer = monitor.ask("query-cpu-model-expansion", type="full", model={"name": name})
        props = answer["model"]["props"]
        models[name] = {field: props[field] for field in _FIELDS}
        models[name]["features"] = " ".join(flag for flag in known if props.get(flag))
    monitor.close()
    source = (
        f"QEMU {version['major']}.{version['minor']}, -M pc -accel tcg: query-cpu-definitions and "
        "query-cpu-model-expansion (full); flags: -cpu help"
    )
    return {"source": source, "flags": " ".join(known), "aliases": aliases, "models": models}


def text_of(table: dict) -> str:
    """Return the table as it stands in the file: a line for each model."""
    text = json.dumps(table, indent=1)
    return re.sub(r"\n {3,}|\n  (?=\})", " ", text).replace(": { ", ": {") + "\n"


if __name__ == "__main__":
    Path(DATA).write_text(text_of(ask_qemu()), encoding="utf-8")
