# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings: what is reported of a stale use, folded, and as text.

One finding per changed word and class; the 512 pieces of a large page have one word and so make
one finding, with a count. Names of functions come from a symbolizer that the machine gives
(``rip -> "symbol+0x1c (file.c:88)"``); without one, addresses stand for themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..arch import ACCESS_FETCH, ACCESS_WRITE
from .judge import Class, Level
from .model import Entry, Flush, Site, rights_letters

__all__ = ["Finding", "Place", "Symbolizer", "diagnose"]


@dataclass(frozen=True, slots=True)
class Place:
    """A guest address in words: the symbol with its offset, the file and the line, if known."""

    symbol: str = ""
    file: str = ""
    line: int = 0


Symbolizer = Callable[[int], Place]


def no_symbols(rip: int) -> Place:
    """Know no symbol."""
    return Place()


@dataclass(slots=True)
class Finding:
    """A use of a stale entry, with both sites.

    ``gva`` is the address used, ``access`` a union of ``ACCESS_*``, ``user`` the instruction that
    used it; ``filled`` is who filled the entry that served (or, on a processor that had evicted
    it, could have served) the access; ``word`` the gpa of the table word that changed from ``old``
    to ``new`` at ``level``, and ``writer`` who wrote it. ``frame`` is the stale frame (of a
    structure entry: the table), ``fresh_frame`` what a fresh walk gives, None for a fault.
    ``flushes`` are the invalidations since the change. ``count`` is how often it was seen.
    """

    kind: Class
    gva: int
    access: int
    user: Site
    writer: Site
    filled: Site
    word: int
    table_level: int
    old: int
    new: int
    frame: int
    fresh_frame: int | None
    rights: int
    is_structure: bool
    flushes: tuple[Flush, ...] = ()
    source: str = "guest"
    new_use: tuple[str, Site] | None = None
    also: tuple[Class, ...] = ()
    hint: str = ""
    others: tuple[int, ...] = ()
    count: int = 1
    symbolize: Symbolizer = field(default=no_symbols, repr=False)

    @property
    def level(self) -> Level:
        """ERROR or WARNING."""
        return self.kind.level

    @property
    def page(self) -> int:
        """The 4 KiB page of the address used."""
        return self.gva & ~0xFFF

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the report as lines of text, the headline first."""
        fresh = "not present" if self.fresh_frame is None else f"frame {self.fresh_frame:#x}"
        if self.fresh_frame is None and self.new & 1:
            fresh = "no longer allowed"
        what = "table" if self.is_structure else "frame"
        lines = [
            f"{self.level.name} tlb {self.kind.value} @{self.user.position:,} cpu{self.user.cpu}",
            f"  {_access_text(self.access)} at {self.gva:#x} by {self._at(self.user)}",
            f"  used    {self.page:#x} -> {what} {self.frame:#x} {rights_letters(self.rights)}"
            f"   filled @{self.filled.position:,} by {self._at(self.filled)}",
            f"  memory  {self.page:#x} -> {fresh}"
            f"   level {self.table_level} entry at {self.word:#x}: {self.old:#x} -> {self.new:#x}"
            f" by {self._who(self.writer)} @{self.writer.position:,}",
            f"  flushes since: {self._flush_text()}",
        ]
        if self.new_use is not None:
            use, site = self.new_use
            lines.append(f"  {what} {self.frame:#x} {use} @{site.position:,} by {self._who(site)}")
        if self.also:
            lines.append("  also " + ", ".join(kind.value for kind in self.also))
        if self.count > 1:
            lines.append(f"  seen {self.count:,} times")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain data for JSON: see docs/tlb.md for the keys."""
        return {
            "class": self.kind.value,
            "level": self.level.value,
            "gva": self.gva,
            "cpu": self.user.cpu,
            "position": self.user.position,
            "access": _access_text(self.access),
            "user": self._site_dict(self.user),
            "writer": self._site_dict(self.writer),
            "filled": self._site_dict(self.filled),
            "word": {
                "gpa": self.word,
                "level": self.table_level,
                "old": self.old,
                "new": self.new,
            },
            "frame": self.frame,
            "fresh_frame": self.fresh_frame,
            "flushes": [
                {"what": f.what, "gva": f.gva, **self._site_dict(f.site)} for f in self.flushes
            ],
            "also": [kind.value for kind in self.also],
            "hint": self.hint,
            "count": self.count,
        }

    def _site_dict(self, site: Site) -> dict[str, Any]:
        place = self.symbolize(site.rip)
        return {
            "cpu": site.cpu,
            "rip": site.rip,
            "position": site.position,
            "symbol": place.symbol,
            "file": place.file,
            "line": place.line,
        }

    def _at(self, site: Site) -> str:
        if site.cpu < 0:
            return "a device"
        place = self.symbolize(site.rip)
        text = place.symbol or f"{site.rip:#x}"
        return f"{text} ({place.file}:{place.line})" if place.file else text

    def _who(self, site: Site) -> str:
        return self._at(site) if site.cpu < 0 else f"cpu{site.cpu} {self._at(site)}"

    def _flush_text(self) -> str:
        said = []
        for flush in self.flushes[:4]:
            address = f" {flush.gva:#x}" if flush.what == "INVLPG" else ""
            said.append(f"cpu{flush.site.cpu} {flush.what}{address} @{flush.site.position:,}")
        if len(self.flushes) > 4:
            said.append(f"{len(self.flushes) - 4} more")
        silent = [cpu for cpu in self.others if all(f.site.cpu != cpu for f in self.flushes)]
        said += [f"cpu{cpu} none" for cpu in silent]
        return "; ".join(said) or "none"


def _access_text(access: int) -> str:
    if access & ACCESS_FETCH:
        return "fetch"
    return "write" if access & ACCESS_WRITE else "read"


def diagnose(finding: Finding, entry: Entry, flushes: Iterable[Flush]) -> str:
    """Return what went wrong in one sentence, where that is plain; else ""."""
    flushes = list(flushes)
    for flush in flushes:
        if flush.what == "INVLPG" and flush.operand and entry.covers(flush.operand):
            return (
                f"INVLPG flushed {flush.gva:#x}, the address of the variable that holds "
                f"{flush.operand:#x}: its operand is the address itself, not where it is stored"
            )
    reloads = any(f.what == "CR3 reload" and f.site.cpu == entry.cpu for f in flushes)
    if entry.is_global and reloads:
        return "a CR3 reload spares global pages: use INVLPG or toggle CR4.PGE"
    own = [f for f in flushes if f.site.cpu == entry.cpu and f.what == "INVLPG"]
    if _through_register(entry, finding) and own:
        return "INVLPG does not reload the PDPTE registers: load CR3"
    elsewhere = [f for f in flushes if f.site.cpu != entry.cpu]
    if finding.kind is Class.INCOMPLETE_FLUSH and elsewhere and not own:
        return (
            f"flushed on cpu{elsewhere[0].site.cpu}, not on cpu{entry.cpu}: "
            f"no shootdown reached it before this use"
        )
    if own and entry.shift == 12 and finding.table_level > 1:
        return f"{len({f.gva >> 12 for f in own})} of 512 pages of the range were flushed"
    if not flushes:
        return f"nothing was flushed on any vCPU since the {_narrowing_text(finding)}"
    return ""


def _through_register(entry: Entry, finding: Finding) -> bool:
    return finding.table_level == 3 and len(entry.words) <= 3 and entry.words[0].level == 3


def _narrowing_text(finding: Finding) -> str:
    if not finding.new & 1:
        return "entry was cleared"
    return "entry was changed"
