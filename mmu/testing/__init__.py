# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests a memory management unit: public, for the authors of plug-ins.

    sdm       paging as the SDM states it, said a second time: the oracle
    tlb       ModelTlb, a TlbHost that keeps all that a TLB may keep
    twin      guest memory as it must be, and how stale an answer may be
    world     a plug-in and its twin; each step is done to both, and everything is compared
    steps     chooses random steps for a world
    setup     the vCPUs, features, slots and policies of a random world
    mutants   the shadow MMU with one bug each: what a good test finds

>>> from random import Random
>>> from .setup import make_case
>>> from .steps import Steps
>>> from .world import World
>>> random = Random(1)
>>> case = make_case(random, "uncached")
>>> world = World(case)
>>> steps = Steps(random, case, world)
>>> for _ in range(50):
...     world.do(steps.next())  # raises Difference, or what the plug-in raises
>>> world.compared > 0
True
"""
