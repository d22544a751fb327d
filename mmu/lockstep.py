# SPDX-License-Identifier: GPL-2.0-or-later
"""Two plug-ins side by side, held against each other at every TLB miss.

``lockstep`` runs the shadow MMU beside the uncached one; ``lockstep:FIRST,SECOND`` any two. The
first difference raises :class:`DifferenceError`, which shows the access, both answers, and the walk
of both.

What is compared: faults exactly; frames; what a read or a fetch may do exactly; A and D in the
guest's tables after the access. What is not: which stores are trapped, and whether an entry that
may be written may also be executed. The two owe each other nothing there, each keeps the rules of
its own tables, and the machine is told what satisfies both.

How they share one guest without noise:

*A and D.* The first sets them, and the second would find them set. So the entries on the path of an
access are put back between the two, unseen by either. When the second is done, what each has made
of them is compared.

*Answers.* The machine gets the first's. If the second wants a store trapped, it is trapped, as the
second must see it. Each plug-in takes its own answer for what the TLB holds. The mapping handed out
never allows an untrapped access that either plug-in refused, so each may overestimate what the TLB
holds, and never underestimates it.

*Native.* It cannot be one of the two: there the engine walks the guest's tables by itself, so there
is no answer to compare. It is a third opinion at the end: the same kernel must print the same on
it, and the program fuzzer compares registers and memory.

*Flushes.* Either may flush at any time. The other is not notified, and still takes the TLB to hold
what it held: an overestimate again.
"""

from __future__ import annotations

from collections.abc import Sequence

from .api import (
    FRAME_MASK,
    MAP_EXEC,
    MAP_TRAP,
    MAP_WRITE,
    Answer,
    Mmu,
    MmuError,
    MmuFactory,
    PagingRegisters,
    TlbHost,
)
from .arch import ACCESS_FETCH, ACCESS_IMPLICIT, ACCESS_USER, ACCESS_WRITE, PAGE_SHIFT, Features
from .memory import Memory
from .observe import MmuObserver
from .walker import Context, describe, walk

__all__ = ["DifferenceError", "LockstepMmu"]


class DifferenceError(MmuError):
    """Two plug-ins disagree. The message is a whole report."""


class LockstepMmu(Mmu):
    """Two plug-ins as one. ``first`` answers, ``second`` is asked the same and must agree.

    Costs both, and a walk of the guest's tables on every miss. Compiled code is not used, as it
    would answer for the first alone.
    """

    name = "lockstep"
    reports_events = True

    def __init__(
        self,
        memory: Memory,
        host: TlbHost,
        cpus: int,
        *,
        features: Features,
        pool: int,
        first: MmuFactory,
        second: MmuFactory,
        names: tuple[str, str],
    ) -> None:
        self.memory = memory
        self.names = names
        self.first = first(memory, host, cpus, features=features, pool=pool)
        self.second = second(memory, host, cpus, features=features, pool=pool)
        self.counters = self.first.counters
        self.compared = 0
        """How many answers have been found alike."""
        self._contexts = [Context(features) for _ in range(cpus)]

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """See :meth:`mmu.api.Mmu.load`."""
        self._contexts[cpu].load(self.memory, regs)
        self.first.load(cpu, regs)
        self.second.load(cpu, regs)

    def translate(self, cpu: int, gva: int, access: int) -> Answer:
        """See :meth:`mmu.api.Mmu.translate`.

        Raises:
            DifferenceError: the two disagree.
        """
        context = self._contexts[cpu]
        found = walk(self.memory, context, gva, access)
        walks = [describe(found, context)]
        path = [gpa for _, gpa, _, _ in found.entries]
        before = self._read(path)
        one = self.first.translate(cpu, gva, access)
        after_one = self._read(path)
        if after_one != before:
            walks.append(describe(walk(self.memory, context, gva, access), context))
            self._put_back(path, before)
        two = self.second.translate(cpu, gva, access)
        after_two = self._read(path)
        what = _difference(one, two, access)
        if not what and after_one != after_two:
            what = "A and D"
        if what:
            walks.append(describe(walk(self.memory, context, gva, access), context))
            raise DifferenceError(
                self._report(what, cpu, gva, access, (one, two), (before, after_one, after_two))
                + self._paths(cpu, gva, walks)
            )
        self.compared += 1
        if isinstance(one, int) and isinstance(two, int) and two & MAP_TRAP and not one & MAP_TRAP:
            return (one | MAP_TRAP) & ~MAP_EXEC
        return one

    def _read(self, path: list[int]) -> list[int]:
        """Return the 8 bytes at each entry of a path, whatever its width; 0 outside RAM."""
        words = []
        for gpa in path:
            table = self.memory.table64(gpa >> PAGE_SHIFT)
            words.append(table[(gpa & 0xFFF) >> 3] if table is not None else 0)
        return words

    def _put_back(self, path: list[int], words: list[int]) -> None:
        """Undo what the first set, unseen by anyone: the second sets the same again."""
        for gpa, word in zip(path, words, strict=True):
            table = self.memory.table64(gpa >> PAGE_SHIFT)
            if table is not None and not table.readonly:
                table[(gpa & 0xFFF) >> 3] = word

    def _report(
        self,
        what: str,
        cpu: int,
        gva: int,
        access: int,
        answers: tuple[Answer, Answer],
        entries: tuple[list[int], list[int], list[int]],
    ) -> str:
        before, *after = entries
        lines = [
            f"{self.names[0]} and {self.names[1]} differ in {what}: vCPU {cpu}, "
            f"{_access_text(access)} of {gva:#x}"
        ]
        for name, answer, words in zip(self.names, answers, after, strict=True):
            changes = ", ".join(
                f"{old:#x} -> {new:#x}"
                for old, new in zip(before, words, strict=True)
                if old != new
            )
            lines.append(f"  {name:10} {_answer_text(answer)}; A and D: {changes or 'no change'}")
        return "\n".join(lines) + "\n"

    def _paths(self, cpu: int, gva: int, walks: list[str]) -> str:
        """Return the guest's walk before, between and after, and each plug-in's own tables."""
        lines = []
        for title, text in zip(("before", "after"), (walks[0], walks[-1]), strict=True):
            lines.append(f"The guest's tables {title}:\n{text}")
        for name, mmu in zip(self.names, (self.first, self.second), strict=True):
            path = mmu.describe_path(cpu, gva)
            if path:
                lines.append(f"{name}: {path}")
        return "\n".join(lines)

    def set_policy(self, text: str) -> None:
        """Change the policy of each of the two that has any.

        Raises:
            ValueError: neither has, or an unknown policy.
        """
        refused = []
        for mmu in (self.first, self.second):
            try:
                mmu.set_policy(text)
            except ValueError as error:
                refused.append(error)
        if len(refused) == 2:
            raise ValueError("; ".join(dict.fromkeys(map(str, refused))))

    def pdptes(self, cpu: int) -> list[int]:
        """See :meth:`mmu.api.Mmu.pdptes`."""
        return list(self._contexts[cpu].pdptes)

    def restore_pdptes(self, cpu: int, pdptes: Sequence[int]) -> None:
        """See :meth:`mmu.api.Mmu.restore_pdptes`."""
        self._contexts[cpu].pdptes = list(pdptes)
        for mmu in (self.first, self.second):
            mmu.restore_pdptes(cpu, pdptes)

    def reused(self, gpa: int) -> bool:
        """See :meth:`mmu.api.Mmu.reused`: hints go to both. A trap is needed while one of the two
        protects the frame."""
        for mmu in (self.first, self.second):
            mmu.reused(gpa)
        return not self.is_protected(gpa >> PAGE_SHIFT)

    def is_protected(self, gfn: int) -> bool:
        """See :meth:`mmu.api.Mmu.is_protected`."""
        return self.first.is_protected(gfn) or self.second.is_protected(gfn)

    def observe(self, observer: MmuObserver) -> None:
        """See :meth:`mmu.api.Mmu.observe`: the events of both are reported."""
        self.first.observe(observer)
        self.second.observe(observer)

    def unobserve(self, observer: MmuObserver) -> None:
        """See :meth:`mmu.api.Mmu.unobserve`."""
        self.first.unobserve(observer)
        self.second.unobserve(observer)

    def zap_all(self) -> None:
        """See :meth:`mmu.api.Mmu.zap_all`."""
        self.first.zap_all()
        self.second.zap_all()

    def shrink(self, pages: int) -> int:
        """See :meth:`mmu.api.Mmu.shrink`."""
        return self.first.shrink(pages) + self.second.shrink(pages)

    def start_dirty_log(self) -> None:
        """See :meth:`mmu.api.Mmu.start_dirty_log`."""
        self.first.start_dirty_log()
        self.second.start_dirty_log()

    def dirty_log(self) -> list[int]:
        """See :meth:`mmu.api.Mmu.dirty_log`: what either has logged."""
        return sorted({*self.first.dirty_log(), *self.second.dirty_log()})

    def stop_dirty_log(self) -> None:
        """See :meth:`mmu.api.Mmu.stop_dirty_log`."""
        self.first.stop_dirty_log()
        self.second.stop_dirty_log()

    def invlpg(self, cpu: int, gva: int) -> None:
        """See :meth:`mmu.api.Mmu.invlpg`."""
        self.first.invlpg(cpu, gva)
        self.second.invlpg(cpu, gva)

    def flushed(self, cpu: int) -> None:
        """See :meth:`mmu.api.Mmu.flushed`."""
        self.first.flushed(cpu)
        self.second.flushed(cpu)

    def written(self, gpa: int, size: int, source: str) -> None:
        """See :meth:`mmu.api.Mmu.written`."""
        self.first.written(gpa, size, source)
        self.second.written(gpa, size, source)

    def remapped(self) -> None:
        """See :meth:`mmu.api.Mmu.remapped`."""
        self.first.remapped()
        self.second.remapped()

    def check(self) -> None:
        """See :meth:`mmu.api.Mmu.check`: the audit of both."""
        self.first.check()
        self.second.check()


def _difference(one: Answer, two: Answer, access: int) -> str:
    """Return in what two answers differ, in a word or two; an empty string if in nothing."""
    if not isinstance(one, int) or not isinstance(two, int):
        return "" if one == two else "fault"
    if (one ^ two) & FRAME_MASK:
        return "frame"
    if access & ACCESS_WRITE:
        return "" if one & two & MAP_WRITE else "rights"
    return "" if one == two else "rights"


def _access_text(access: int) -> str:
    what = "write" if access & ACCESS_WRITE else "fetch" if access & ACCESS_FETCH else "read"
    if access & ACCESS_IMPLICIT:
        return f"implicit {what}"
    return f"{'user' if access & ACCESS_USER else 'supervisor'} {what}"


def _answer_text(answer: Answer) -> str:
    if not isinstance(answer, int):
        return str(answer)
    rights = "".join(letter for bit, letter in enumerate("rwxt") if answer >> bit & 1)
    return f"frame {(answer & FRAME_MASK) >> PAGE_SHIFT:#x} {rights}"
