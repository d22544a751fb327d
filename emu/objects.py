# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiled code that comes along, so that no compiler is needed where shadowcorn runs.

    python -m emu.objects          build it for every kind of host (numba is needed)
    python -m emu.objects --check  say whether it is that of the text as it stands

What `emu.jit` compiles is a few kilobytes that call nothing but what they are handed, and once all
of it is one module the optimizer leaves no reference to anything outside: bytes that run wherever
they lie. `objects.json` holds them for each calling convention, with the places of the entry points
and a fingerprint of the text that they were made from. Code of another text is not used.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import platform
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from emu import jit
from emu.cpu.compiled import CompiledCode
from emu.cpu.executable import executable

__all__ = ["build", "came_along", "compiled_code", "fingerprint", "load"]

PATH = Path(__file__).with_name("objects.json")

# Any processor of the architecture will do: nothing here is worth a vector register.
TARGETS = {
    "x86_64": ("x86_64-unknown-linux-gnu", "x86-64"),
    "x86_64-windows": ("x86_64-pc-windows-msvc-elf", "x86-64"),
    "aarch64": ("aarch64-unknown-linux-gnu", "generic"),
}
_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}
_ALLOCATED = 2  # SHF_ALLOC


def host() -> str | None:
    """Return which of `TARGETS` is this process's, or None.

    None on Apple silicon, whose instruction cache nobody makes agree: see `emu.cpu.executable`.
    """
    machine = platform.machine().lower()
    if sys.platform == "darwin" and machine == "arm64":
        return None
    name = _NAMES.get(machine, machine) + ("-windows" if sys.platform == "win32" else "")
    return name if name in TARGETS else None


def fingerprint() -> str:
    """Return a name for the text, on every host and with every interpreter the same. 5 ms."""
    text = "\0".join(jit.what_is_compiled())
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@lru_cache(maxsize=1)
def came_along() -> tuple[bytes, dict[str, int]] | None:
    """Return the code for this host and the places of its entry points; None if there is none or
    it was made from another text."""
    target = host()
    try:
        held = json.loads(PATH.read_text(encoding="utf-8"))
        if target is None or held["fingerprint"] != fingerprint():
            return None
        found = held["targets"][target]
        return base64.b64decode("".join(found["code"])), found["entries"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def compiled_code() -> CompiledCode | None:
    """Return the compiled entry points: those that came along (in 20 ms), or else compiled here;
    None where neither can be had."""
    return load() or jit.compiled_code()


@lru_cache(maxsize=1)
def load() -> CompiledCode | None:
    """Return the entry points of what came along, or None where it cannot be used."""
    found = came_along()
    if found is None:
        return None
    code, entries = found
    try:
        address = executable(code)
    except (OSError, ValueError, AttributeError):
        return None
    return CompiledCode(*(address + entries[name] for name in CompiledCode._fields))


# --- Building -------------------------------------------------------------------------------


def build() -> dict[str, Any]:
    """Return what `objects.json` is to hold. Some ten seconds."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    text = str(jit.compile_module(llvm))
    targets = {}
    for name, (triple, cpu) in TARGETS.items():
        code, entries = _text_section(_object(llvm, text, triple, cpu))
        lines = base64.b64encode(code).decode("ascii")
        targets[name] = {
            "entries": entries,
            "code": [lines[at : at + 96] for at in range(0, len(lines), 96)],
        }
    return {"fingerprint": fingerprint(), "targets": targets}


def _object(llvm: Any, text: str, triple: str, cpu: str) -> bytes:
    """Compile the module's text for one target, with everything inside it that it needs."""
    target = llvm.Target.from_triple(triple)
    machine = target.create_target_machine(cpu=cpu, opt=3, reloc="pic", codemodel="small")
    for what, value in (("triple", triple), ("datalayout", str(machine.target_data))):
        line = f'target {what} = "{value}"'
        text = re.sub(rf"^target {what} = .*$", line, text, flags=re.MULTILINE)
    module = llvm.parse_assembly(text)
    for symbol in (*module.functions, *module.global_variables):
        if not symbol.is_declaration and symbol.name not in CompiledCode._fields:
            symbol.linkage = "internal"
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_vectorization = tuning.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, tuning)
    for _ in range(2):  # the second finds that no error is ever returned
        builder.getModulePassManager().run(module, builder)
    code: bytes = machine.emit_object(module)
    return code


def _text_section(code: bytes) -> tuple[bytes, dict[str, int]]:
    """Return the section of an ELF object that is executed, and its entry points.

    Raises ValueError if it needs another section, or anything from outside.
    """
    from elftools.elf.elffile import ELFFile

    elf = ELFFile(io.BytesIO(code))
    for section in elf.iter_sections():
        name, holds = section.name, section["sh_flags"] & _ALLOCATED and section["sh_size"]
        if (holds and name not in (".text", ".eh_frame")) or name in (".rela.text", ".rel.text"):
            raise ValueError(f"compiled code does not stand alone: section {name}")
    number, symbols = elf.get_section_index(".text"), elf.get_section_by_name(".symtab")
    if number is None or symbols is None:
        raise ValueError("there is no compiled code")
    entries = {
        symbol.name: symbol["st_value"]
        for symbol in symbols.iter_symbols()  # type: ignore[attr-defined, unused-ignore]
        if symbol.name in CompiledCode._fields and symbol["st_shndx"] == number
    }
    return elf.get_section(number).data(), entries


def main(words: list[str]) -> int:
    """Build, or with `--check` compare; returns an exit code."""
    if words == ["--check"]:
        held = json.loads(PATH.read_text(encoding="utf-8"))["fingerprint"]
        print("current" if held == fingerprint() else "stale: run python -m emu.objects")
        return int(held != fingerprint())
    PATH.write_text(json.dumps(build(), indent=1) + "\n", encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
