# SPDX-License-Identifier: GPL-2.0-or-later
"""One table, two texts: what compiled code says of a guest's leaf entry, and what Python says.

Every mode, entry, inherited right and control bit of the table below is looked at by `fault` and by
the walker, and by `hit` and by the shadow MMU in Python. Each must say the same, and compiled code
must decide whatever the entry alone decides. Mutants of the text show that the table is sharp.
"""

from __future__ import annotations

import inspect
from itertools import product

import pytest

from mmu.api import MAP_TRAP
from mmu.arch import (
    ACC_WRITE,
    ACCESS_USER,
    PFERR_PK,
    PFERR_PRESENT,
    PFERR_RSVD,
    PT_ACCESSED,
    PT_DIRTY,
    PT_NX,
    PT_PRESENT,
    PT_USER,
    PT_WRITABLE,
)
from mmu.shadow.fast import walk as text
from mmu.shadow.fast.publish import KINDS
from mmu.shadow.fast.record import KIND_FETCH, KIND_READ, KIND_WRITE
from mmu.walker import walk

from ...compiled_first import CompiledFirst
from ...rig import PAGED, Rig
from ...tables import USER_RW

# Entry 1 of a table; of a 32-bit guest's, entry 513 of another too: the other quadrant.
GVAS = (0x40001000, 0x40601000)
FRAMES = (0x5000, 0x7000)
RIGHTS = (0, PT_WRITABLE, PT_USER, PT_WRITABLE | PT_USER)
LEAVES = (0, PT_WRITABLE | PT_USER, *(PT_PRESENT | rights for rights in RIGHTS))
A_AND_D = PT_ACCESSED | PT_DIRTY
UPPER = {
    "all rights above": USER_RW,
    "read-only above": PT_PRESENT | PT_USER,
    "supervisor's above": PT_PRESENT | PT_WRITABLE,
}
CONTROL = {
    "as it comes": {},
    "WP = 0": {"wp": False},
    "SMAP": {"smap": True},
    "keys": {"pke": True, "pkru": 0b10_01_00 << 2},  # key 2 denies all, key 3 writes
}


def entries(mode, control):
    """Every leaf entry of the table for a mode."""
    for leaf, bits in product(LEAVES, (0, PT_ACCESSED, A_AND_D)):
        yield leaf | bits
        if mode != "32-bit":
            yield leaf | bits | PT_NX
            yield leaf | bits | 1 << 45  # reserved: past the 40 physical bits
        if control == "keys" and mode in ("4-level", "5-level"):
            for key in (1, 2, 3):
                yield leaf | bits | key << 59


def accesses():
    return product((KIND_READ, KIND_WRITE, KIND_FETCH), (0, 1))


def started(mode, upper, control, plugin=CompiledFirst):
    """A rig whose leaf tables are shadowed: their last pages are mapped and used."""
    rig = Rig(plugin, policy="flood=off", audit=False)
    tables = rig.tables(mode)
    for gva in GVAS:
        tables.map(gva | 0x1FE000, 0x9000, USER_RW | A_AND_D, upper=UPPER[upper])
        tables.set(gva, 1, 0)
    rig.enter(tables, **CONTROL[control])
    for gva, user in product(GVAS, (0, ACCESS_USER)):
        rig.mmu.translate(0, gva | 0x1FE000, user)
    return rig, tables


def what_fault_is_to_say(found, user):
    """1 + the error code where the guest's leaf entry alone decides; 0 where it does not."""
    if found.fault is None:
        return 0
    code = found.fault.error_code
    if code & (PFERR_RSVD | PFERR_PK) or (code & PFERR_PRESENT and not user):
        return 0
    return 1 + code


def differences_of_fault(mode, upper, control, fault):
    rig, tables = started(mode, upper, control)
    block, context = rig.mmu.vcpu_blocks[0].address, rig.mmu.contexts[0].paging
    compared, found = 0, []
    for entry, gva in product(entries(mode, control), GVAS):
        tables.set(gva, 1, entry and entry | FRAMES[0])
        for kind, user in accesses():
            if kind == KIND_FETCH:
                continue
            access = KINDS[kind] | ACCESS_USER * user
            wanted = what_fault_is_to_say(walk(rig.memory, context, gva, access), user)
            said = fault(block, gva, kind, user)
            compared += 1
            if said != wanted:
                found.append(f"{entry:#x} at {gva:#x}, kind {kind}, user {user}: {said}, {wanted}")
    assert compared > 100
    return found


TABLE = [
    pytest.param(mode, upper, control, id=f"{mode}, {upper}, {control}")
    for mode, upper, control in product(PAGED, UPPER, CONTROL)
    if control != "keys" or mode in ("4-level", "5-level")
]


@pytest.mark.parametrize(("mode", "upper", "control"), TABLE)
def test_a_fault_of_the_guests_is_found_by_both(mode, upper, control):
    assert differences_of_fault(mode, upper, control, text.fault) == []


@pytest.mark.parametrize(("mode", "upper", "control"), TABLE)
def test_a_hit_is_a_hit_of_both(mode, upper, control):
    rig, tables = started(mode, upper, control)
    twin, others = started(mode, upper, control, plugin="shadow")
    block, context = rig.mmu.vcpu_blocks[0].address, rig.mmu.contexts[0].paging
    hits = 0
    for entry, gva in product(entries(mode, control), GVAS):
        for kind, user in accesses():
            for side in (tables, others):
                side.set(gva, 1, entry and entry | FRAMES[kind == KIND_FETCH])
            access = KINDS[kind] | ACCESS_USER * user
            found = walk(rig.memory, context, gva, access)
            where = f"{entry:#x} at {gva:#x}, kind {kind}, user {user}"
            said = text.hit(block, gva, kind, user)
            wanted = twin.mmu.translate(0, gva, access)
            if kind != KIND_FETCH:
                writes_a_read_only_page = kind == KIND_WRITE and not found.rights & ACC_WRITE
                decides = found.fault is None and not writes_a_read_only_page
                assert bool(said) == decides, where
            if not said:
                rig.mmu.translate(0, gva, access)
            else:
                hits += 1
                assert said == wanted, where
                assert not said & MAP_TRAP
            assert tables.entry(gva, 1) == others.entry(gva, 1), where
            assert leaf_of(rig, gva) == leaf_of(twin, gva), where
    rig.mmu.check()
    twin.mmu.check()
    assert hits > 0


def leaf_of(rig, gva):
    """The spte for an address, wherever its page is in the pool; 0 if there is none."""
    block = rig.mmu.compiled_block(0).address
    place = text.find_entry(block, gva)
    return rig.mmu.words[place] if place != text.NOWHERE else 0


MUTANTS = {
    "the other width of entry": (
        "load64(record + TABLE) + (((gva >> PAGE_SHIFT) & INDEX_32) << 2)",
        "load64(record + TABLE) + (((gva >> PAGE_SHIFT) & INDEX) << 3)",
    ),
    "the other half of the table": ("& INDEX_32) << 2", "& INDEX) << 2"),
    "the table itself for an entry": ("& INDEX) << 3)", "& 0) << 3)"),
    "WP and SMAP are not asked": (
        "if user == 0 or gpte & load64(block + RESERVED) != 0:",
        "if gpte & load64(block + RESERVED) != 0:",
    ),
    "reserved bits are not looked at": (
        "if user == 0 or gpte & load64(block + RESERVED) != 0:",
        "if user == 0:",
    ),
    "the levels above are not asked": (
        "rights = (about >> ABOUT_ACCESS_SHIFT) & gpte & RIGHTS",
        "rights = gpte & RIGHTS",
    ),
    "the entry is not asked": (
        "rights = (about >> ABOUT_ACCESS_SHIFT) & gpte & RIGHTS",
        "rights = (about >> ABOUT_ACCESS_SHIFT) & RIGHTS",
    ),
    "a write is like a read": (
        "if kind == KIND_READ or rights & ACC_WRITE != 0:",
        "if True:",
    ),
    "W is not asked": (
        "if kind == KIND_READ or rights & ACC_WRITE != 0:",
        "if kind == KIND_READ:",
    ),
    "U is not asked": (
        "if rights & ACC_USER != 0:\n            if kind",
        "if True:\n            if kind",
    ),
    "keys are not asked": (
        "if (keys >> ((gpte >> SPTE_PKEY_SHIFT) & 15)) & 1 != 0:",
        "if False:",
    ),
    "the keys of another access": (
        "USER_KEYS + kind * KEY_BYTES)\n            if (keys",
        "USER_KEYS)\n            if (keys",
    ),
    "P is not told": ("        code |= PFERR_PRESENT\n", "        pass\n"),
    "W is not told": ("(PFERR_WRITE if kind == KIND_WRITE else 0)", "0"),
    "U is not told": ("(PFERR_USER if user != 0 else 0)", "0"),
}


@pytest.mark.parametrize(("old", "new"), MUTANTS.values(), ids=MUTANTS)
def test_the_table_kills_mutants_of_fault(old, new):
    source = inspect.getsource(text)
    assert source.count(old) == 1, f"{source.count(old)} times: {old}"
    names = {"__name__": text.__name__, "__package__": text.__package__}
    exec(compile(source.replace(old, new), "mutant", "exec"), names)
    for row in TABLE:
        if differences_of_fault(*row.values, names["fault"]):
            return
    pytest.fail("lives")
