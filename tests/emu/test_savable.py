# SPDX-License-Identifier: GPL-2.0-or-later
"""Plain data and back: what chips may keep, and what is refused."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import pytest

from emu.errors import NotSavableError, StateError
from emu.savable import Savable, from_plain, to_plain


class Colour(IntEnum):
    RED = 1
    BLUE = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclass(slots=True)
class Inner:
    point: Point = field(default_factory=lambda: Point(1, 2))
    maybe: int | None = None


@dataclass(slots=True)
class Registers:
    number: int = 5
    flag: bool = True
    text: str = "abc"
    memory: bytearray = field(default_factory=lambda: bytearray(b"\x01\x02"))
    queue: deque[int] = field(default_factory=lambda: deque([1, 2], maxlen=2))
    pairs: deque[tuple[int, int]] = field(default_factory=lambda: deque([(1, 2)]))
    table: dict[int, int] = field(default_factory=lambda: {7: 8})
    named: dict[str, bool] = field(default_factory=lambda: {"a": True})
    empty: dict[int, int] | None = field(default_factory=dict)
    inner: list[Inner] = field(default_factory=lambda: [Inner(), Inner(Point(3, 4), 5)])
    colour: Colour = Colour.BLUE


class Chip(Savable):
    def __init__(self):
        self.registers = Registers()
        self.level = False

    def save(self):
        return self._make_state(registers=self.registers, level=self.level)

    def load(self, state):
        self.registers, self.level = self._parts_of(state, registers=Registers, level=bool)


class Mute(Savable):
    pass


def test_every_kind_of_part_comes_back():
    chip, other = Chip(), Chip()
    chip.registers.queue.append(3)
    chip.registers.inner[0].maybe = 9
    chip.level = True
    state = chip.save()
    other.load(state)
    assert (other.registers, other.level) == (chip.registers, True)
    assert other.save() == state
    other.registers.queue.append(4)
    assert list(other.registers.queue) == [3, 4]  # the bound of the queue is kept
    assert type(other.registers.memory) is bytearray
    assert other.registers.colour is Colour.BLUE
    assert isinstance(other.registers.inner[1].point, Point)


def test_a_state_is_json_but_for_its_bytes():
    text = json.dumps(Chip().save(), default=lambda value: {"bytes": value.hex()})
    state = json.loads(
        text, object_hook=lambda d: bytes.fromhex(d["bytes"]) if d.keys() == {"bytes"} else d
    )
    assert state == Chip().save()
    Chip().load(state)


def test_a_state_holds_no_reference_into_the_chip():
    chip = Chip()
    state = chip.save()
    chip.registers.memory[0] = 9
    chip.registers.table[7] = 9
    chip.registers.inner[0].maybe = 9
    assert state == Chip().save()


def test_a_chip_without_save_fails_by_name():
    with pytest.raises(NotSavableError, match=r"^Mute cannot be saved"):
        Mute().save()
    with pytest.raises(NotSavableError, match=r"^Mute cannot be loaded"):
        Mute().load({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(type="Other"), "no state of Chip"),
        (lambda s: s.update(version=2), "version 2, not 1"),
        (lambda s: s.pop("level"), "missing or unknown: level"),
        (lambda s: s.update(more=1), "missing or unknown: more"),
        (lambda s: s.update(level=1), "Chip.level: bool expected, not int"),
        (lambda s: s["registers"].update(number=True), "Chip.registers.number: int expected"),
        (lambda s: s["registers"].update(memory="x"), "memory: bytes expected, not str"),
        (lambda s: s["registers"].update(queue=5), "queue: list expected, not int"),
        (lambda s: s["registers"].update(table=[[1]]), "table: 2 items expected, not 1"),
        (lambda s: s["registers"].update(table=[[1, 1]]), r"table: other keys than \[7\]"),
        (lambda s: s["registers"].update(memory=b"x"), "memory: 2 items expected, not 1"),
        (lambda s: s["registers"].update(inner=[]), "inner: 2 items expected, not 0"),
        (lambda s: s["registers"].update(named=[]), "named: dict expected, not list"),
        (lambda s: s["registers"].update(colour=7), "colour: Colour expected, not int"),
        (lambda s: s["registers"].pop("text"), "registers: missing or unknown: text"),
        (lambda s: s["registers"].update(inner=[1]), "inner: Inner expected, not int"),
    ],
    ids=[
        *("another chip", "another version", "a part missing", "a part unknown", "int for bool"),
        *("bool for int", "text for bytes", "int for a list", "a pair of one"),
        *("another register", "a register file too short", "no timers", "list for names"),
        *("no such member", "a register missing", "int for registers"),
    ],
)
def test_a_damaged_state_is_refused_by_name_and_changes_nothing(change, message):
    chip = Chip()
    chip.registers.number = 77
    before = chip.save()
    state = Chip().save()
    change(state)
    with pytest.raises(StateError, match=message):
        chip.load(state)
    assert chip.save() == before


@pytest.mark.parametrize("state", [None, 5, [], "x"], ids=repr)
def test_what_is_no_state_at_all_is_refused(state):
    with pytest.raises(StateError):
        Chip().load(state)


def test_what_is_no_plain_data_is_an_error_of_the_chip():
    with pytest.raises(TypeError, match="object is no plain data"):
        to_plain({"a": [object()]})
    with pytest.raises(TypeError):
        from_plain(1, float)
    assert from_plain({"a": 1}, Any) == {"a": 1}
