# SPDX-License-Identifier: GPL-2.0-or-later
"""The classes of findings, and which of them the use of a pending entry deserves.

The rules are those of SDM 3A 4.10.4 and 4.10.5 and AMD 24593 5.5.3. Delay is allowed: between a
change and its invalidation a processor may use either translation. So another vCPU inside the
window (the writer still in its kernel, the frame without a new use) is silent; what ends the
window is the writer's own use in program order, its return to CPL 3 or its HLT, an invalidation
that left this entry behind, or a new use of the frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from .model import Change, Entry, Flush, Site

__all__ = ["Class", "Level", "Use", "judge"]

_SAME_STACK = 16 << 10
"""Two RSPs nearer than this are on one kernel stack."""


class Level(Enum):
    """How bad a finding is. ``--tlb-check strict`` stops at the first ERROR."""

    ERROR = "error"
    WARNING = "warning"


class Class(Enum):
    """The classes, in the order in which one is chosen where several fit."""

    INCOMPLETE_FLUSH = "incomplete-flush"
    """The writer invalidated, and this entry survived."""
    STALE_TABLE = "stale-table"
    """A walk used a structure entry or PDPTE register whose table was reused."""
    STALE_REMAP = "stale-remap"
    """Another frame is mapped there now."""
    STALE_UNMAPPED = "stale-unmapped"
    """Not present or rights narrowed, and the user is the writer's own kernel path."""
    STALE_FRAME = "stale-frame"
    """The old frame was given a new use since the change."""
    STALE_DIRTY = "stale-dirty"
    """A store through an entry with D whose word has lost D since."""
    NARROWING_PENDING = "narrowing-pending"
    """Rights narrowed, the writer back in CPL 3, the old right used."""
    LIVE_TABLE = "live-table"
    """A table was reused while a structure entry pointed to it; no walk used it yet."""
    SPECULATIVE_FILL = "speculative-fill"
    """A translation that was valid since the last flush, and that a processor may have cached
    without any access, would differ."""
    SPURIOUS_FAULT = "spurious-fault"
    """A legal spurious #PF after which the instruction was not run again."""

    @property
    def level(self) -> Level:
        """ERROR or WARNING."""
        return Level.WARNING if self in _WARNINGS else Level.ERROR


_ORDER = list(Class)
_WARNINGS = frozenset(
    (Class.NARROWING_PENDING, Class.LIVE_TABLE, Class.SPECULATIVE_FILL, Class.SPURIOUS_FAULT)
)


@dataclass(frozen=True, slots=True)
class Use:
    """An access that a pending entry would serve, with a result that differs from a fresh walk.

    ``fresh_frame`` is the frame that a fresh walk gives, None where it faults; ``lost_dirty``: the
    result differs only in that D would not be set.
    """

    site: Site
    gva: int
    access: int
    fresh_frame: int | None
    lost_dirty: bool = False


def judge(entry: Entry, use: Use, flushes: Iterable[Flush]) -> tuple[Change, list[Class]] | None:
    """Return the change that a use of ``entry`` is to be blamed on, and the classes that fit it,
    the chosen one first; None for a use that is legal."""
    flushes = list(flushes)
    best: tuple[Change, list[Class]] | None = None
    for change in entry.changes:
        classes = sorted(set(_classes(entry, change, use, flushes)), key=_ORDER.index)
        if classes and (best is None or _ORDER.index(classes[0]) < _ORDER.index(best[1][0])):
            best = change, classes
    return best


def _classes(entry: Entry, change: Change, use: Use, flushes: list[Flush]) -> Iterator[Class]:
    own = use.site.cpu == change.site.cpu
    over = change.returned
    if was_flushed(change, flushes) and (own or over):
        yield Class.INCOMPLETE_FLUSH
    if not entry.is_leaf and entry.new_use is not None:
        yield Class.STALE_TABLE
    if use.lost_dirty:
        if own or over:
            yield Class.STALE_DIRTY
        return
    if entry.is_leaf and entry.new_use is not None:
        yield Class.STALE_FRAME
    if use.fresh_frame is not None:
        if own or over:
            yield Class.STALE_REMAP
        return
    if own and not over and abs(use.site.rsp - change.site.rsp) < _SAME_STACK:
        yield Class.STALE_UNMAPPED
    if over:
        yield Class.NARROWING_PENDING


def was_flushed(change: Change, flushes: Iterable[Flush]) -> bool:
    """Return whether the writer invalidated after ``change``: INVLPG in the range of the word, a
    reload of CR3, a toggle of CR4.PGE; or had another vCPU do so by INVLPG."""
    for flush in flushes:
        if flush.sequence <= change.sequence:
            continue
        if flush.what == "INVLPG":
            if change.covers(flush.gva):
                return True
        elif flush.site.cpu == change.site.cpu and flush.what != "CR3 load":
            return True
    return False
