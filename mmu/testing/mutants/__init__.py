# SPDX-License-Identifier: GPL-2.0-or-later
"""Wrong on purpose: each class is the shadow MMU with one bug that a real one had, or nearly had.

They show what the tests are worth: `tests/mmu/test_mutants.py` runs the cases against each, and a
case of a number in ``case`` must kill it. As plug-ins (``mmu.testing.mutants:WpNotInKey``) they
show what the bug does to a guest, and ``lockstep:mmu.testing.mutants:WpNotInKey,uncached`` stops
there.

``bug`` says in a line what is wrong, ``dies`` how that is found. ``CATALOGUE`` lists them by name.
"""

from __future__ import annotations

from . import faults, keys, later, protection, roots, writes
from .base import Mutant

__all__ = ["CATALOGUE", "Mutant"]

CATALOGUE: dict[str, type[Mutant]] = {
    name: kind
    for module in (keys, writes, protection, faults, roots, later)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, Mutant) and kind is not Mutant
}
"""Every mutant by name."""


def __getattr__(name: str) -> type[Mutant]:
    try:
        return CATALOGUE[name]
    except KeyError:
        raise AttributeError(f"no mutant is called {name!r}") from None
