# SPDX-License-Identifier: GPL-2.0-or-later
"""A wrapper that audits a plug-in after every call that may have changed something.

The plug-in's own :meth:`~mmu.api.Mmu.watch` decides what is audited. The shadow MMU audits what the
call touched, and everything from time to time (mmu/shadow/watch.py). A plug-in without a watch is
audited completely at every call. Compiled code would answer misses without an audit, so it is off;
the machine can run with it and audit after each slice instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from .api import Answer, Mmu, PagingRegisters, Watcher
from .observe import MmuObserver

__all__ = ["Audited"]


class _Whole:
    """The watcher for a plug-in that has none: audits everything, every time."""

    def __init__(self, mmu: Mmu) -> None:
        self.everything = self.event = mmu.check

    def loaded(self, cpu: int) -> None:
        self.event()

    def translated(self, cpu: int, gva: int, answer: Answer) -> None:
        self.event()

    def written(self, gpa: int, size: int) -> None:
        self.event()


class Audited(Mmu):
    """``inner``, audited by ``watcher`` after each call that may have changed its tables."""

    def __init__(self, inner: Mmu) -> None:
        self.inner = inner
        self.name = inner.name
        self.counters = inner.counters
        self.flush_on_invlpg = inner.flush_on_invlpg
        self.reports_events = inner.reports_events
        self.watcher: Watcher = inner.watch() or _Whole(inner)

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """As :meth:`Mmu.load`, then audit."""
        self.inner.load(cpu, regs)
        self.watcher.loaded(cpu)

    def translate(self, cpu: int, gva: int, access: int) -> Answer:
        """As :meth:`Mmu.translate`, then audit."""
        answer = self.inner.translate(cpu, gva, access)
        self.watcher.translated(cpu, gva, answer)
        return answer

    def invlpg(self, cpu: int, gva: int) -> None:
        """As :meth:`Mmu.invlpg`, then audit."""
        self.inner.invlpg(cpu, gva)
        self.watcher.event()

    def flushed(self, cpu: int) -> None:
        """As :meth:`Mmu.flushed`, then audit."""
        self.inner.flushed(cpu)
        self.watcher.event()

    def written(self, gpa: int, size: int, source: str) -> None:
        """As :meth:`Mmu.written`, then audit."""
        self.inner.written(gpa, size, source)
        self.watcher.written(gpa, size)

    def remapped(self) -> None:
        """As :meth:`Mmu.remapped`, then audit everything."""
        self.inner.remapped()
        self.watcher.everything()

    def check(self) -> None:
        """Audit everything now."""
        self.watcher.everything()

    # --- The rest is the plug-in's ---------------------------------------------------------------

    @property
    def version(self) -> int | None:
        """As :attr:`Mmu.version`."""
        return self.inner.version

    def keeps(self, cpu: int, gva: int) -> bool:
        """As :meth:`Mmu.keeps`."""
        return self.inner.keeps(cpu, gva)

    def reused(self, gpa: int) -> bool:
        """As :meth:`Mmu.reused`, then audit."""
        taken = self.inner.reused(gpa)
        self.watcher.event()
        return taken

    def is_protected(self, gfn: int) -> bool:
        """As :meth:`Mmu.is_protected`."""
        return self.inner.is_protected(gfn)

    def pdptes(self, cpu: int) -> list[int] | None:
        """As :meth:`Mmu.pdptes`."""
        return self.inner.pdptes(cpu)

    def restore_pdptes(self, cpu: int, pdptes: Sequence[int]) -> None:
        """As :meth:`Mmu.restore_pdptes`, then audit."""
        self.inner.restore_pdptes(cpu, pdptes)
        self.watcher.event()

    def observe(self, observer: MmuObserver) -> None:
        """As :meth:`Mmu.observe`."""
        self.inner.observe(observer)

    def unobserve(self, observer: MmuObserver) -> None:
        """As :meth:`Mmu.unobserve`."""
        self.inner.unobserve(observer)

    def describe_path(self, cpu: int, gva: int) -> str:
        """As :meth:`Mmu.describe_path`."""
        return self.inner.describe_path(cpu, gva)

    def set_policy(self, text: str) -> None:
        """As :meth:`Mmu.set_policy`, then audit everything."""
        self.inner.set_policy(text)
        self.watcher.everything()

    def zap_all(self) -> None:
        """As :meth:`Mmu.zap_all`, then audit everything."""
        self.inner.zap_all()
        self.watcher.everything()

    def shrink(self, pages: int) -> int:
        """As :meth:`Mmu.shrink`, then audit."""
        gone = self.inner.shrink(pages)
        self.watcher.event()
        return gone

    def start_dirty_log(self) -> None:
        """As :meth:`Mmu.start_dirty_log`."""
        self.inner.start_dirty_log()

    def dirty_log(self) -> list[int]:
        """As :meth:`Mmu.dirty_log`."""
        return self.inner.dirty_log()

    def stop_dirty_log(self) -> None:
        """As :meth:`Mmu.stop_dirty_log`."""
        self.inner.stop_dirty_log()
