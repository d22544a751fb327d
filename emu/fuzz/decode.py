# SPDX-License-Identifier: GPL-2.0-or-later
"""The decoder fuzzer: one instruction at a time, every opcode, on the bare vCPU.

    case number --> mode, ring, opcode --> steps: prefixes, ModRM and the rest at random

No bytes may end the process, raise an error inside us, or be of another length than
`emu.cpu.encoding` says. Case numbers go through all modes and opcodes in turn: `SWEEP` cases in a
row are a whole sweep. A process that dies is reported by its case; `--replay` runs that in a
process of its own and says which bytes it was.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import Any

from emu.fuzz.case import Case, Difference, Failure, Result, describe_error, random_of

__all__ = ["BLANK", "CHUNK", "MOST_RUNS", "SWEEP", "make", "replay", "run"]

CHUNK = 8
BLANK = None
MOST_RUNS = 300

MODES = ("real", "v86", "code16", "code32", "compat", "long")
_RINGS = (0, 3)
_MAPS = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")
_OPCODES = len(_MAPS) * 256
SWEEP = len(MODES) * len(_RINGS) * _OPCODES
"""How many cases have every mode, ring and opcode once."""

_STRIDE = 389  # odd, so that a short run sees something of everything
_STEPS = 256  # of a case: each ModRM once
_LEGACY = b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3"
_REX = bytes(range(0x40, 0x50))
_TIMEOUT = 120.0


def make(seed: int, number: int, options: dict[str, Any]) -> Case:
    """Return a case; `options`: steps, how many ModRM bytes it has."""
    rng = random_of(seed, number)
    rest, kind = divmod(number % SWEEP, len(MODES) * len(_RINGS))
    ring, mode = divmod(kind, len(MODES))
    group, last = divmod((rest + kind * _STRIDE) * _STRIDE % _OPCODES, 256)
    opcode = _MAPS[group] + bytes((last,))
    modes, count = MODES[mode], options.get("steps", _STEPS)
    steps = [_instruction(rng, opcode, modrm, modes == "long").hex() for modrm in range(count)]
    return {
        "kind": "decode",
        "seed": seed,
        "number": number,
        "mode": modes,
        "ring": _RINGS[ring],
        "opcode": opcode.hex(),
        "registers": rng.getrandbits(32),
        "blocks": rng.random() < 0.3,
        "steps": steps,
    }


def _instruction(rng: random.Random, opcode: bytes, modrm: int, has_rex: bool) -> bytes:
    """Return an instruction with up to three prefixes in any order, and bytes behind it."""
    known = _LEGACY + _REX[rng.randrange(16) :][:4] if has_rex else _LEGACY
    prefixes = bytes(rng.choice(known) for _ in range(rng.choice((0, 1, 2, 3))))
    small = rng.random() < 0.5  # a displacement that leads to memory
    tail = bytes((rng.randrange(256), rng.randrange(4), 0, 0)) if small else rng.randbytes(4)
    return prefixes + opcode + bytes((modrm,)) + tail + rng.randbytes(9)


def run(seed: int, number: int, options: dict[str, Any]) -> Result:
    """Make and run case `number` of `seed`."""
    case = make(seed, number, options)
    failure = _run(case, None)
    return Result(number, len(case["steps"]), failure, case if failure else None)


def replay(case: Case) -> Failure | None:
    """Run a case in a process of its own, which may die."""
    child = [sys.executable, "-m", "emu.fuzz.decode"]
    try:
        done = subprocess.run(
            child, input=json.dumps(case), capture_output=True, text=True, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return Failure("timeout", f"a case took more than {_TIMEOUT:.0f} s")
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        told = json.loads(lines[-1])
        return Failure(**told) if told else None
    step = len(lines) - 1
    code = case["steps"][step] if 0 <= step < len(case["steps"]) else "nothing"
    return Failure(
        "process died", f"exit code {done.returncode} at {case['mode']} code {code}", step
    )


def _run(case: Case, note: Any) -> Failure | None:
    from emu.fuzz.bare import Bare

    done = -1
    bare = Bare(case["mode"], case["ring"], case["registers"], count_blocks=case["blocks"])
    try:
        for step in case["steps"]:
            done += 1
            if note is not None:
                note(done)
            if step is not None:
                _check(bare, bytes.fromhex(step))
    except Exception as error:
        return describe_error(error, done)
    finally:
        bare.close()
    return None


def _check(bare: Any, code: bytes) -> None:
    """Execute an instruction; raise Difference if it went on in the wrong place."""
    from emu.cpu.encoding import decode

    next_rip = bare.execute(code)
    found = decode(code, bare.bits, vex=bare.has_vex)
    if next_rip is None or found is None:
        return
    if (found.map, found.opcode) in _BRANCHES or (found.map == 0 and found.opcode == 0xFF):
        return
    if found.map == 0 and found.opcode in _REPEATABLE and found.prefixes.rep:
        return  # may be in the middle of it
    if next_rip != found.length:
        raise Difference(
            "length", f"{bare.mode} code {code.hex()}: {next_rip} bytes, wanted {found.length}"
        )


_REPEATABLE = frozenset((*range(0x6C, 0x70), *range(0xA4, 0xA8), *range(0xAA, 0xB0)))
_BRANCHES = frozenset(
    [(0, op) for op in (*range(0x70, 0x80), 0x9A, *range(0xC2, 0xC4), *range(0xCA, 0xD0))]
    + [(0, op) for op in (*range(0xE0, 0xE4), 0xE8, 0xE9, 0xEA, 0xEB, 0xF1)]
    + [(1, op) for op in (0x05, 0x07, 0x34, 0x35, 0xAA, *range(0x80, 0x90))]
)


def _main() -> None:
    """Run the case on standard input: a line for each step begun, then what came of it."""
    case = json.loads(sys.stdin.read())
    failure = _run(case, lambda step: print(step, flush=True))
    told = failure and {"kind": failure.kind, "message": failure.message, "step": failure.step}
    print(json.dumps(told))


if __name__ == "__main__":
    _main()
