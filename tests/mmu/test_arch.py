# SPDX-License-Identifier: GPL-2.0-or-later
"""Paging as data, held against the SDM's tables as `sdm` states them."""

from __future__ import annotations

from itertools import product

import pytest

from mmu import arch
from mmu.arch import Features, Levels
from mmu.testing import sdm
from mmu.testing.sdm import Access, Cpuid

from .rig import ALL_ACCESSES, MODES, access_bits, paging_registers


@pytest.mark.parametrize("mode", MODES)
def test_control_bits_select_the_mode(mode):
    registers = paging_registers(MODES[mode])
    levels = arch.levels_of(registers.cr0, registers.cr4, registers.efer)
    names = {"none": Levels.NONE, "32-bit": Levels.TWO, "pae": Levels.PAE}
    assert levels is {**names, "4-level": Levels.FOUR, "5-level": Levels.FIVE}[mode]
    assert arch.MODES[levels].name in (mode, "no paging", "PAE")


def test_pae_and_long_mode_bits_mean_nothing_without_paging():
    every = (1 << 32) - 1
    assert arch.levels_of(every & ~arch.CR0_PG, every, every) is Levels.NONE


@pytest.mark.parametrize("m", [32, 36, 39, 40], ids=lambda m: f"{m} address bits")
@pytest.mark.parametrize("nxe", [False, True], ids=["nx off", "nx on"])
def test_reserved_bits_are_those_of_the_tables(m, nxe):
    modes = {
        "32-bit": Levels.TWO,
        "pae": Levels.PAE,
        "4-level": Levels.FOUR,
        "5-level": Levels.FIVE,
    }
    for (mode, levels), pse36, page1gb in product(modes.items(), (True, False), (True, False)):
        features = Features(phys_bits=m, pse36=pse36, gbpages=page1gb)
        _, rows = sdm.steps(mode, Cpuid(m, pse36, page1gb), True, nxe)
        for level, _, _, small, large in rows:
            assert arch.reserved_bits(levels, level, False, nxe, features) == small
            if large is not None:
                assert arch.reserved_bits(levels, level, True, nxe, features) == large


@pytest.mark.parametrize("m", [32, 36, 40])
def test_reserved_bits_of_a_pdpte_register(m):
    want = sdm.RESERVED["PAE PDPTE (table 4-8)"](m)
    for nxe in (False, True):
        assert arch.reserved_bits(Levels.PAE, 3, False, nxe, Features(phys_bits=m)) == want


def test_rights_are_those_of_section_4_6_1():
    for access, wp, smep, smap, rights in product(
        ALL_ACCESSES, *[(False, True)] * 3, range(arch.ACC_ALL + 1)
    ):
        user, writable, xd = rights & 4, rights & 2, not rights & 1
        want = sdm.allowed(access, bool(user), bool(writable), xd, wp, smep, smap)
        bits = access_bits(access)
        assert arch.rights_allow(rights, bits, wp=wp, smep=smep, smap=smap) == want
        assert arch.denial_table(wp, smep, smap)[bits] >> rights & 1 == (not want)


def test_protection_keys_are_those_of_section_4_6_2():
    for access, wp, key, two in product(ALL_ACCESSES, (False, True), range(16), range(4)):
        pkru = two << 2 * key | (two ^ 3) << 2 * (key ^ 1)
        want = sdm.key_denies(access, key, pkru, wp)
        assert arch.pkey_denies(pkru, key, access_bits(access), wp=wp) == want


def test_an_implicit_access_is_the_supervisors_whatever_the_cpl():
    access = access_bits(Access("w", user=True, implicit=True))
    assert arch.rights_allow(arch.ACC_WRITE, access, wp=True, smep=False, smap=False)
    assert not arch.pkey_denies(2, 0, access, wp=False)


@pytest.mark.parametrize("bits", [48, 57])
def test_canonical_addresses(bits):
    top = 1 << bits - 1
    for gva in (0, 1, top - 1, top, top + 1, (1 << 64) - top - 1, (1 << 64) - top, (1 << 64) - 1):
        assert arch.is_canonical(gva, bits) == sdm.canonical(gva, bits)


@pytest.mark.parametrize(("low", "high"), [(0, 0), (12, 51), (63, 63), (5, 4), (40, 12)])
def test_bits(low, high):
    assert arch.bits(low, high) == sum(1 << bit for bit in range(low, high + 1))


@pytest.mark.parametrize(
    ("levels", "gva", "indices"),
    [
        (Levels.TWO, 0xC0801000, {2: 770, 1: 1}),
        (Levels.TWO, 0xFFFFFFFF, {2: 1023, 1: 1023}),
        (Levels.PAE, 0x7FE01FFF, {2: 511, 1: 1}),
        (Levels.FOUR, 0xFFFF_FFFF_8020_0000, {4: 511, 3: 510, 2: 1, 1: 0}),
        (Levels.FIVE, 0xFF01_0000_0000_1000, {5: 257, 4: 0, 3: 0, 2: 0, 1: 1}),
    ],
    ids=lambda word: str(word) if isinstance(word, Levels) else "",
)
def test_indices(levels, gva, indices):
    for level, index in indices.items():
        assert arch.MODES[levels].index(gva, level) == index
