# SPDX-License-Identifier: GPL-2.0-or-later
"""The test double for `mmu.api.TlbHost`: what the TLBs and engines of a machine would hold.

It keeps every grant until a flush or an INVLPG takes it away, which is the worst that an engine can
do. `rig.Rig` looks at it after each step and so sees three kinds of wrong:

* a stale entry: it allows what neither the tables nor one of the possible translations allow
  (and if the plug-in has a `version` and said that it `keeps` a translation: what the tables do not
  allow now, though the version is the same);
* a store that would reach a live page table unseen, or a trap that should not be;
* a frame writable in one entry and executable in another, or code that changed under an engine
  which does not know.
"""

from __future__ import annotations

from mmu.api import FRAME_MASK, MAP_EXEC, MAP_TRAP


class Entry:
    """What one TLB entry allows, to one kind of access to one page."""

    __slots__ = ("access", "gfn", "mapping", "page")

    def __init__(self, page, access, mapping):
        self.page = page
        self.access = access
        self.mapping = mapping
        self.gfn = (mapping & FRAME_MASK) >> 12

    def __repr__(self):
        rights = "".join(c for i, c in enumerate("rwxt") if self.mapping >> i & 1)
        return f"<TLB {self.page:#x} -> gfn {self.gfn:x} {rights}, {self.access}>"


class ModelTlb:
    """The TLBs of all vCPUs, and the frames that their engines have translated code from.

    `flushes` and `dropped` tell what the plug-in asked for.
    """

    def __init__(self, cpus):
        self.entries = [{} for _ in range(cpus)]
        self.code = [set() for _ in range(cpus)]
        self.flushes = 0
        self.dropped = []
        self.on_flush = lambda cpu: None

    # What a plug-in asks for (mmu.api.TlbHost).

    def flush_tlb(self, cpu):
        self.flushes += 1
        self.entries[cpu].clear()
        self.on_flush(cpu)

    def drop_code(self, gfn):
        self.dropped.append(gfn)
        for frames in self.code:
            frames.discard(gfn)

    # What the engines do.

    def grant(self, cpu, gva, access, mapping):
        page = gva & ~0xFFF
        kind = access._replace(what="r")
        entry = Entry(page, kind, mapping)
        self.entries[cpu][page, kind, mapping] = entry
        if mapping & MAP_EXEC and not mapping & MAP_TRAP:
            self.code[cpu].add((mapping & FRAME_MASK) >> 12)
        return entry

    def has(self, cpu, page, access, mapping):
        return (page, access._replace(what="r"), mapping) in self.entries[cpu]

    def invlpg(self, cpu, gva):
        """An engine drops its 4 KiB entries for the page; it knows nothing of large pages."""
        entries = self.entries[cpu]
        for key in [key for key in entries if key[0] == gva & ~0xFFF]:
            del entries[key]

    def held(self, right=0):
        """Every (cpu, entry), or those that grant `right` without a trap."""
        for cpu, entries in enumerate(self.entries):
            for entry in entries.values():
                if not right or entry.mapping & (right | MAP_TRAP) == right:
                    yield cpu, entry
