# SPDX-License-Identifier: GPL-2.0-or-later
"""The reverse map, against a dict of sets."""

from __future__ import annotations

from random import Random

import pytest

from mmu.shadow.rmap import Rmap


def test_no_place_one_and_many():
    rmap = Rmap(100)
    assert rmap.places(7) == ()
    rmap.add(7, 0)
    assert rmap.places(7) == (0,)
    rmap.add(7, 513)
    rmap.add(7, 9)
    assert sorted(rmap.places(7)) == [0, 9, 513]
    rmap.remove(7, 0)
    rmap.remove(7, 513)
    assert rmap.places(7) == (9,)
    rmap.remove(7, 9)
    assert rmap.places(7) == ()
    assert list(rmap.items()) == []


def test_thousands_of_aliases():
    rmap = Rmap(10)
    for place in range(5000):
        rmap.add(3, place)
    assert set(rmap.places(3)) == set(range(5000))
    for place in range(5000):
        rmap.remove(3, place)
    assert rmap.places(3) == ()


def test_what_was_never_noted_cannot_be_removed():
    rmap = Rmap(10)
    with pytest.raises(KeyError):
        rmap.remove(1, 5)
    rmap.add(1, 5)
    with pytest.raises(KeyError):
        rmap.remove(1, 6)
    rmap.add(1, 6)
    with pytest.raises(KeyError):
        rmap.remove(1, 7)
    assert sorted(rmap.places(1)) == [5, 6]


def test_a_frame_past_the_end_has_no_places():
    assert Rmap(10).places(10) == ()
    assert Rmap(0).places(1 << 30) == ()


def test_room_for_more_frames_keeps_what_is_noted():
    rmap = Rmap(10)
    rmap.add(9, 4)
    rmap.add(3, 1)
    rmap.add(3, 2)
    rmap.resize(5000)
    rmap.resize(20)
    rmap.add(4999, 7)
    assert sorted(rmap.items()) == [(3, 1), (3, 2), (9, 4), (4999, 7)]


@pytest.mark.parametrize("seed", range(5))
def test_as_a_dict_of_sets(seed):
    random = Random(seed)
    rmap = Rmap(2000)
    model = {}
    for _ in range(3000):
        gfn, place = random.choice((0, 1, 511, 512, 1999)), random.randrange(6)
        places = model.setdefault(gfn, set())
        if place in places:
            rmap.remove(gfn, place)
            places.remove(place)
        else:
            rmap.add(gfn, place)
            places.add(place)
        assert set(rmap.places(gfn)) == places
        assert len(rmap.places(gfn)) == len(places)
    assert set(rmap.items()) == {(gfn, place) for gfn, places in model.items() for place in places}
