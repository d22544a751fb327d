# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine of an MMU fuzzer's case: vCPUs, features, slots, policies."""

from __future__ import annotations

import random

from ..arch import PAGE_SHIFT
from .difference import Case

__all__ = ["EXTRA_SLOTS", "POLICIES", "make_case"]

POLICIES = ("unsync", "large", "prefetch", "flood")
# Slots beside low RAM: where a case may have them, add and remove them. (kind, gpa, pages)
EXTRA_SLOTS = (
    ("rom", 0x80_0000, 2),
    ("mmio", 0x80_4000, 2),
    ("ram", 0x80_8000, 8),
    ("ram", 0xA0_0000, 1024),
    ("ram", 1 << 32, 1024),
    ("ram", 0x4000_0000, 512),
    ("mmio", 0x20_0000, 1),
)


def make_case(rng: random.Random, mmu: str) -> Case:
    """Return the frame of a case: machine and features, no steps yet."""
    cpus = rng.choice((1, 1, 1, 2, 2, 3, 4))
    low = rng.choice((64, 64, 512, 1024))
    slots: list[tuple[str, int, int]] = [("ram", 0, low)]
    for kind, gpa, pages in EXTRA_SLOTS:
        if rng.random() < 0.5 and gpa >= low << PAGE_SHIFT:
            slots.append((kind, gpa, pages))
    features = {
        "phys_bits": rng.choice((40, 40, 40, 36, 33, 32)),
        "pse36": rng.random() < 0.9,
        "gbpages": rng.random() < 0.8,
        "la57": rng.random() < 0.8,
    }
    least = (5 if features["la57"] else 4) + cpus - 1
    policy = ",".join(f"{name}=off" for name in POLICIES if rng.random() < 0.15)
    return {
        "kind": "mmu",
        "mmu": mmu,
        "cpus": cpus,
        "pool": rng.choice((least, least + 1, least + 3, least + 3, 64)),
        "policy": policy if mmu == "shadow" else "",
        "compiled": rng.random() < 0.4,
        "features": features,
        "slots": [list(slot) for slot in slots if slot[1] >> features["phys_bits"] == 0],
    }
