# SPDX-License-Identifier: GPL-2.0-or-later
"""A port access takes the time of a bus cycle, and is no instruction more for that."""

from __future__ import annotations

import pytest

from emu.machine import Machine

# mov cx, 1000; l: in al, 0x80 (or nop, nop); loop l; out 0xf4, al
KERNELS = {
    "in": bytes.fromhex("66b9e803 e480 6649 75fa e6f4"),
    "out": bytes.fromhex("66b9e803 e680 6649 75fa e6f4"),
    "none": bytes.fromhex("66b9e803 9090 6649 75fa e6f4"),
}


def run(kernel):
    with Machine(KERNELS[kernel], format="flat32") as machine:
        outcome = machine.run(timeout=60)
        assert outcome.kind.name == "GUEST_EXIT"
        return machine.clock.now, outcome.instructions


@pytest.mark.parametrize("kind", ["in", "out"])
def test_a_microsecond_each(kind):
    idle_ns, idle_instructions = run("none")
    ns, instructions = run(kind)
    assert 900_000 < ns - idle_ns < 1_100_000
    assert abs(instructions - idle_instructions) < 2_000
