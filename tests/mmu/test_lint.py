# SPDX-License-Identifier: GPL-2.0-or-later
"""Each rule of the linter: an address space that breaks it, and one that does not."""

from __future__ import annotations

import pytest

from mmu.api import PagingRegisters
from mmu.arch import Features
from mmu.lint import RULES, Place, Severity, lint
from mmu.memory import Memory
from mmu.walker import Context

P, W, U, PCD, A, D, PS, G = 1, 2, 4, 0x10, 0x20, 0x40, 0x80, 0x100
NX = 1 << 63
CR0 = 0x8001_0001
CR4 = 0x20 | 1 << 20 | 1 << 21 | 0x80  # PAE, SMEP, SMAP, PGE
EFER = 0xD00
ROOT, PDPT, PD, PT = 0x1000, 0x2000, 0x3000, 0x4000
PAGE = 0x1000


def space(pages, cr0=CR0, cr4=CR4, efer=EFER, directory=()):
    """A 4-level space: `pages` maps page numbers below 512 to entries, `directory` adds entries
    of the page directory."""
    memory = Memory()
    memory.add_ram(0, 8 << 20)
    memory.write(ROOT, 8, PDPT | P | W | U, "test")
    memory.write(PDPT, 8, PD | P | W | U, "test")
    memory.write(PD, 8, PT | P | W | U, "test")
    for number, entry in dict(directory).items():
        memory.write(PD + 8 * number, 8, entry, "test")
    for number, entry in pages.items():
        memory.write(PT + 8 * number, 8, entry, "test")
    context = Context(Features())
    context.load(memory, PagingRegisters(cr0, ROOT, cr4, efer))
    return memory, context


def broken(*args, places=(), off=(), **options):
    return {remark.rule.name for remark in lint(*space(*args, **options), places=places, off=off)}


DATA = P | W | NX | A | D
CODE = P | A


def test_a_sound_space_breaks_no_rule():
    assert broken({1: 0x10_0000 | CODE, 2: 0x20_0000 | DATA, 3: 0x30_0000 | DATA | U}) == set()


@pytest.mark.parametrize(
    ("rule", "pages"),
    [
        pytest.param("wx", {1: 0x10_0000 | P | W}, id="wx"),
        pytest.param("zero-page", {0: 0x10_0000 | CODE}, id="zero-page"),
        pytest.param("table-user", {1: PT | DATA | U}, id="table-user"),
        pytest.param("table-writable", {1: PT | DATA}, id="table-writable"),
        pytest.param("global-user", {1: 0x10_0000 | DATA | U | G}, id="global-user"),
        pytest.param("reserved-bits", {1: 1 << 45 | P}, id="reserved-bits"),
        pytest.param("beyond-ram", {1: 0x4000_0000 | DATA}, id="beyond-ram"),
        pytest.param("dirty-unused", {1: 0x10_0000 | P | NX | D}, id="dirty-unused"),
        pytest.param("w-x-alias", {1: 0x10_0000 | DATA, 2: 0x10_0000 | CODE}, id="w-x-alias"),
        pytest.param(
            "mixed-types", {1: 0x10_0000 | DATA, 2: 0x10_0000 | DATA | PCD}, id="mixed-types"
        ),
    ],
)
def test_a_page_breaks_one_rule(rule, pages):
    assert broken(pages) == {rule}
    assert broken(pages, off=(rule,)) == set()


@pytest.mark.parametrize(
    ("rule", "registers"),
    [
        ("wp-off", {"cr0": CR0 & ~0x1_0000}),
        ("smep-off", {"cr4": CR4 & ~(1 << 20)}),
        ("smap-off", {"cr4": CR4 & ~(1 << 21)}),
        ("nx-off", {"efer": EFER & ~0x800}),
    ],
)
def test_a_register_breaks_one_rule(rule, registers):
    assert broken({1: 0x10_0000 | CODE}, **registers) == {rule}


def test_a_large_page_over_a_hole():
    assert broken({}, directory={4: 0x60_0000 | DATA | PS}) == set()
    assert broken({}, directory={3: 0x80_0000 | DATA | PS}) == {"beyond-ram"}
    memory, context = space({}, directory={5: 0x80_0000 | DATA | PS})
    memory.add_ram(0x80_0000, PAGE)
    assert {remark.rule.name for remark in lint(memory, context)} == {"large-over-hole"}


def test_a_self_map_and_a_table_reached_twice_are_notes():
    found = list(lint(*space({}, directory={1: PD | P | W | NX | A, 2: PT | P | W | NX | A})))
    assert {"self-map", "table-shared"} <= {remark.rule.name for remark in found}
    assert all(remark.rule.severity is Severity.NOTE for remark in found)


def test_what_user_mode_must_not_reach():
    idt = Place("the IDT", PAGE + 0x10, PAGE + 0x20)
    assert broken({1: 0x10_0000 | DATA}, places=[idt]) == set()
    assert broken({1: 0x10_0000 | DATA | U}, places=[idt]) == {"kernel-user"}


def test_neighbours_make_one_remark():
    pages = {number: 0x10_0000 + number * PAGE | P | W for number in (1, 2, 3, 7)}
    found = [(r.first, r.last) for r in lint(*space(pages)) if r.rule.name == "wx"]
    assert found == [(PAGE, 4 * PAGE - 1), (7 * PAGE, 8 * PAGE - 1)]


def test_errors_come_first():
    pages = {0: 0x10_0000 | CODE, 1: PT | DATA | U}
    assert [r.rule.name for r in lint(*space(pages))] == ["table-user", "zero-page"]


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="no lint rule is called 'wxx'"):
        list(lint(*space({}), off=("wxx",)))


def test_tables_that_name_themselves_end():
    directory = dict.fromkeys(range(512), PD | P | W | NX | A)
    assert "self-map" in broken({}, directory=directory)


def test_without_paging_there_is_nothing_to_say():
    assert broken({}, cr0=1) == set()


def test_every_rule_has_a_meaning():
    assert all(rule.name == name and rule.meaning for name, rule in RULES.items())
