# SPDX-License-Identifier: GPL-2.0-or-later
"""An NMI is not taken in the shadow of STI (SDM 3A 6.8.3), but right behind it."""

from __future__ import annotations

import pytest

from emu.machine import Machine

# Real mode at 0x8000. IVT[2] = handler; again: sti; post: nop; cli; jmp again
# handler: pop [0x9000]; inc word [0x9002]; push [0x9000]; iret
KERNEL = bytes.fromhex(
    "31c0 8ed8 8ed0 bc0070 c70608001b80 c7060a000000 fa fb 90 fa ebfb8f060090 ff060290 ff360090 cf"
)
AGAIN = 0x8000 + KERNEL.index(b"\xfa\xfb\x90") + 1
HANDLER = 0x8000 + KERNEL.index(b"\x8f\x06")
POST_STI = AGAIN + 1


@pytest.fixture
def machine():
    image = KERNEL.replace(b"\x1b\x80", HANDLER.to_bytes(2, "little"), 1)
    with Machine(
        image, format="flat16", address=0x8000, clock="instructions", memory=2 << 20
    ) as machine:
        machine.run(max_insns=40, timeout=60)
        yield machine


def test_every_place_but_the_one_behind_sti(machine):
    places = set()
    for count in range(1, 40):
        machine.run(max_insns=1 + count % 4, timeout=60)
        machine.cpus[0].nmi()
        machine.run(max_insns=12, timeout=60)
        assert machine.guest_memory.read(0x9002, 2) == count
        places.add(machine.guest_memory.read(0x9000, 2) - AGAIN)
    assert POST_STI - AGAIN not in places
    assert places == {0, 2, 3}
