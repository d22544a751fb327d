# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest sees nothing of the engine's virtualization: CPUID has neither SVM nor VMX.

Every guest runs as an SVM guest of the engine, so its SVM instructions are decoded there.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from emu.fuzz.bare import Bare

UD = 6
PLACES = [
    ("real", 0),
    ("v86", 3),
    *((mode, ring) for mode in ("code16", "code32", "compat", "long") for ring in (0, 3)),
]
NOT_OFFERED = {
    "VMRUN": "0f01d8",
    "VMMCALL": "0f01d9",
    "VMLOAD": "0f01da",
    "VMSAVE": "0f01db",
    "STGI": "0f01dc",
    "CLGI": "0f01dd",
    "SKINIT": "0f01de",
    "INVLPGA": "0f01df",
    "VMCALL": "0f01c1",
    "VMLAUNCH": "0f01c2",
    "VMXOFF": "0f01c4",
    "VMFUNC": "0f01d4",
    "VMREAD": "0f7800",
    "VMWRITE": "0f7900",
    "VMPTRLD": "0fc730",
    "INVEPT": "660f388000",
    "GETSEC": "0f37",
    "RSM": "0faa",
    "EXTRQ": "660f79c1",
    "INSERTQ": "f20f79c1",
    "EVEX VMOVUPS xmm, xmm": "62f17c0810c1",
}


@pytest.mark.parametrize("code", NOT_OFFERED.values(), ids=NOT_OFFERED)
@pytest.mark.parametrize(("mode", "ring"), PLACES, ids=lambda value: str(value))
def test_is_undefined(mode: str, ring: int, code: str) -> None:
    bare = Bare(mode, ring, 1)
    try:
        for prefix in ("", "66", "67", "f2", "f3", "2e"):
            bare.cpu.record.clear()
            assert bare.execute(bytes.fromhex(prefix + code)) is None
            (first, *_) = bare.cpu.record.recent
            assert (first.event.vector, first.rip) == (UD, 0x9000), prefix
    finally:
        bare.close()


# The engine ends the process at a call gate to an inner level where TR is no TSS, or a busy one.
CALL_GATE = """
import sys
from dataclasses import replace
from emu.fuzz import bare
from emu.fuzz.bare import Bare
from emu.state import CpuState

GATE, LDT, BUSY, ABSENT = 0x60, 0x70, 0x78, 0x80


class Machine(Bare):
    def _make_tables(self):
        tables = bytearray(super()._make_tables())
        code = 8 if self.mode == "code32" else 0x18
        for at, word in (
            (GATE, bare._HANDLER | code << 16 | 0xEC00 << 32),
            (LDT, 0x0000_8200_0000_0067),
            (BUSY, 0x0000_8B00_0000_0067),
            (ABSENT, 0x0000_0900_0000_0067),
        ):
            tables[bare._GDT + at : bare._GDT + at + 8] = word.to_bytes(8, "little")
        return bytes(tables)

    def _state(self):
        state = super()._state()
        return replace(state, gdtr=state.gdtr._replace(limit=0x8F), tr=CpuState.reset().tr)


selector = int(sys.argv[2])
machine = Machine(sys.argv[1], 3, 1)
if selector >= 0:  # a kernel tries to load it
    kernel = Machine(sys.argv[1], 0, 1)
    kernel.execute(b"\\xeb\\x00" + b"\\xb8" + selector.to_bytes(4, "little") + b"\\x0f\\x00\\xd8")
    for _ in range(3):
        kernel.cpu.run(1)
    tr = kernel.cpu.regs.tr
    print([int(past.event.vector) for past in kernel.cpu.record.recent][:1], tr.selector)
    sys.exit(not (tr.attributes & 0x80 and tr.attributes & 5 == 1))
machine.execute(b"\\xeb\\x00")
machine.cpu.run(1)
machine.execute(bytes.fromhex("9a00000000" "6000"))
print([int(past.event.vector) for past in machine.cpu.record.recent][:1])
"""


@pytest.mark.parametrize("mode", ["code32", "compat"])
@pytest.mark.parametrize(
    ("selector", "told"),
    [
        pytest.param(-1, "[", id="a call gate, TR as after reset"),
        pytest.param(0, "[13] 0", id="LTR of null"),
        pytest.param(0x70, "[13] 0", id="LTR of an LDT"),
        pytest.param(0x78, "[13] 0", id="LTR of a busy TSS"),
        pytest.param(0x80, "[11] 0", id="LTR of one that is not present"),
    ],
)
def test_no_guest_has_a_task_register_that_ends_the_process(
    mode: str, selector: int, told: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALL_GATE, mode, str(selector)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(told)
