# SPDX-License-Identifier: GPL-2.0-or-later
"""The shadow MMU audited by its watch alone: what an event touched, and never everything."""

from __future__ import annotations

from mmu.shadow.mmu import ShadowMmu


class Watched(ShadowMmu):
    """Its `check` is a look at what was touched."""

    def __init__(self, *args, **keywords):
        super().__init__(*args, **keywords)
        self.watcher = self.watch()

    def load(self, cpu, regs):
        super().load(cpu, regs)
        self.watcher.loaded(cpu)

    def translate(self, cpu, gva, access):
        answer = super().translate(cpu, gva, access)
        self.watcher.translated(cpu, gva, answer)
        return answer

    def written(self, gpa, size, source):
        super().written(gpa, size, source)
        self.watcher.written(gpa, size)

    def remapped(self):
        super().remapped()
        self.watcher.event()

    def check(self):
        self.watcher._events_left = 1000
        self.watcher.event()
