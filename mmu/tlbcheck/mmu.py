# SPDX-License-Identifier: GPL-2.0-or-later
"""The plug-in that keeps the model of every TLB, and judges each use of a stale entry.

A miss of the engine's TLB comes here. Where the model holds an entry that nothing has changed, the
answer follows from the entry: one dictionary look-up, no walk. Else the guest's tables are walked.
The frames that entries came from are write-protected, so every store to them arrives in
:meth:`CheckedMmu.written`, and each entry made of the changed word becomes pending.

What is served for a pending entry is the choice of :class:`Serve`; what is reported does not
depend on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum

from ..api import MAP_READ, MAP_TRAP, MAP_WRITE, Answer, PageFault, PagingRegisters, TlbHost
from ..arch import (
    ACC_EXEC,
    ACC_USER,
    ACC_WRITE,
    ACCESS_IMPLICIT,
    ACCESS_READ,
    ACCESS_USER,
    ACCESS_WRITE,
    EFER_NXE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PFERR_PRESENT,
    PT_NX,
    PT_PRESENT,
    Features,
    Levels,
    pkey_denies,
)
from ..memory import Memory
from ..uncached import UncachedMmu, grant
from ..walker import Context, Walk, set_accessed_dirty, walk
from .findings import Finding, Place, Symbolizer, diagnose
from .judge import Class, Level, Use, judge
from .model import (
    Change,
    Effect,
    Entry,
    Flush,
    Site,
    TableFrame,
    VcpuCaches,
    Word,
    effect_of,
    global_bit,
)

__all__ = ["CheckedMmu", "Serve"]

_CR0_PG = 1 << 31
_CR4_FULL = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 12 | 1 << 20  # PSE, PAE, PGE, LA57, SMEP
_FEW = 16
"""Entries made of one word that may be dead before somebody looks; then as many as are alive."""
_KEPT_FLUSHES = 256
"""Invalidations remembered; an older one is of no interest to a change that is still pending."""


class Serve(Enum):
    """What an access gets for which a pending entry exists."""

    FRESH = "fresh"
    """What the tables say now, as a processor that had evicted the entry."""
    LAZY = "lazy"
    """The stale entry: the worst legal processor, which never evicts."""
    EAGER = "eager"
    """What the tables say now, and the entry is forgotten at once: nothing is ever pending."""


class CheckedMmu(UncachedMmu):
    """The TLB sanitizer as a plug-in. ``pool`` is accepted and means nothing.

    The machine sets ``site`` (where a vCPU is now), ``current`` (the vCPU that runs),
    ``symbolize`` and ``on_finding``, which is called once for each new finding. ``findings`` are
    all of them in the order of their first use; ``window_uses`` counts stale uses that are legal.
    """

    name = "tlbcheck"
    flush_on_invlpg = True

    def __init__(
        self, memory: Memory, host: TlbHost, cpus: int, *, features: Features, pool: int = 0
    ) -> None:
        super().__init__(memory, host, cpus, features=features, pool=pool)
        self.serve = Serve.FRESH
        self.host = host
        self.site: Callable[[int], Site] = Site
        self.current: Callable[[], int] = lambda: 0
        self.symbolize: Symbolizer = lambda rip: Place()
        self.on_finding: Callable[[Finding], None] | None = None
        self.findings: list[Finding] = []
        self.window_uses = 0
        self.caches = [VcpuCaches(cpu) for cpu in range(cpus)]
        self.flushes: deque[Flush] = deque(maxlen=_KEPT_FLUSHES)
        self._folded: dict[tuple[Class, int], Finding] = {}
        self._tables: dict[int, TableFrame] = {}
        self._watched: list[tuple[int, int, Entry]] = []  # frames of pending translations
        self._sequence = 0
        self._store_site = [Site(cpu) for cpu in range(cpus)]
        self._is_writer = [False] * cpus  # of a change after which it was not yet in CPL 3
        self.spurious: dict[int, Finding] = {}

    # --- A TLB miss ---------------------------------------------------------------------------

    def translate(self, cpu: int, gva: int, access: int) -> Answer:
        """See :meth:`mmu.api.Mmu.translate`. 3 us where an entry serves, else a walk."""
        self.counters.fills += 1
        context = self.contexts[cpu]
        if context.levels is Levels.NONE:
            return self._answer(cpu, context, walk(self.memory, context, gva, access))
        caches = self.caches[cpu]
        gva &= context.gva_mask
        if access & ACCESS_USER and self._is_writer[cpu] and not access & ACCESS_IMPLICIT:
            self._window_over(cpu)
        entry = caches.hot.get(gva >> PAGE_SHIFT)
        if entry is None and not caches.pending:
            entry = caches.find(gva)
            if entry is not None:
                caches.hot[gva >> PAGE_SHIFT] = entry
        if entry is not None and _serves(context, entry, access):
            if not access and entry.is_memory:
                return entry.frame_of(gva) << PAGE_SHIFT | MAP_READ
            return self._answer(cpu, context, _as_walk(entry, gva, access))
        return self._miss(cpu, caches, context, gva, access)

    def _miss(
        self, cpu: int, caches: VcpuCaches, context: Context, gva: int, access: int
    ) -> Answer:
        """Walk the tables, judge a stale use, and remember what a processor would."""
        self.counters.pf_taken += 1
        memory = self.memory
        found = walk(memory, context, gva, access)
        stale = self._stale(caches, context, gva, access) if caches.pending else None
        if stale is not None:
            entry, old = stale
            self._used(caches, entry, old, found)
            if self.serve is Serve.LAZY:
                return self._serve_stale(cpu, context, entry, old)
        if self.serve is Serve.LAZY and found.fault is None:
            fault = self._spurious_fault(caches, context, gva, access)
            if fault is not None:
                return fault
        if found.fault is not None:
            self.counters.pf_guest += 1
            # A processor that still held the stale entry would not have faulted, and keeps it.
            if isinstance(found.fault, PageFault) and stale is None:
                caches.drop_address(gva)
            return found.fault
        for gpa in set_accessed_dirty(memory, context, found):
            self.tlb.changed(gpa >> PAGE_SHIFT)
        if stale is None:
            self._install(caches, context, found)
        self.counters.pf_fixed += 1
        return self._answer(cpu, context, found)

    def _answer(self, cpu: int, context: Context, found: Walk) -> Answer:
        """Return the Mapping; a store to a frame that entries came from is trapped."""
        if found.access & ACCESS_WRITE:
            if found.frame in self._tables and self.memory.host_address(found.frame << PAGE_SHIFT):
                self._store_site[cpu] = self.site(cpu)
                self.counters.pf_emulate += 1
                return found.frame << PAGE_SHIFT | MAP_READ | MAP_WRITE | MAP_TRAP
            if self._watched:
                self._frame_used(cpu, found.frame, found.gva, "is written through", self.site(cpu))
        return grant(self.memory, self.tlb, context, cpu, found)

    # --- Stale uses -----------------------------------------------------------------------------

    def _stale(
        self, caches: VcpuCaches, context: Context, gva: int, access: int
    ) -> tuple[Entry, Walk] | None:
        """Return the pending entry that a processor could serve the access from, with the walk it
        stands for: a translation first, then the structure entry nearest to the page."""
        structure: Entry | None = None
        for entry in caches.pending:
            if not entry.covers(gva) or (entry.reported and self.serve is not Serve.LAZY):
                continue
            if entry.is_leaf:
                if _serves(context, entry, access):
                    return entry, _as_walk(entry, gva, access)
            elif structure is None or entry.shift < structure.shift:
                structure = entry
        if structure is None or caches.find(gva) is not None:
            return None
        old = self._walk_below(context, structure, gva, access)
        if old.fault is not None and structure.new_use is None:
            return None
        return structure, old

    def _walk_below(self, context: Context, entry: Entry, gva: int, access: int) -> Walk:
        """Walk from the table that a structure entry points to, as a processor that holds it."""
        found = Walk(gva, access)
        found.entries = [(word.level, word.gpa, word.value, entry.rights) for word in entry.words]
        below = entry.words[-1].level
        table, rights = entry.frame << PAGE_SHIFT, entry.rights
        for level, shift, index_mask, reserved, reserved_large, may_be_large in context.plan:
            if level >= below:
                continue
            gpa = table + (gva >> shift & index_mask) * entry.width
            gpte = self._word(gpa, entry.width)
            large = may_be_large and gpte & 1 << 7
            rights &= _rights_of(gpte, entry.width)
            found.entries.append((level, gpa, gpte, rights))
            bad = gpte & (reserved_large if large else reserved)
            if not gpte & PT_PRESENT or bad:
                found.fault = context.fault(gva, access, 0 if not gpte & PT_PRESENT else 9)
                return found
            table = gpte & context.frame_mask
            if large or level == 1:
                found.level, found.rights = level, rights
                found.dirty = bool(gpte & 1 << 6)
                found.frame = (table >> shift << shift | gva & (1 << shift) - 1) >> PAGE_SHIFT
                break
        if context.denied[access] >> found.rights & 1:
            found.fault = context.fault(gva, access, PFERR_PRESENT)
        return found

    def _used(self, caches: VcpuCaches, entry: Entry, old: Walk, fresh: Walk) -> None:
        """Judge an access that ``entry`` would serve as ``old``, and that ``fresh`` serves now."""
        if entry.reported:
            return
        lost_dirty = False
        if fresh.fault is None and old.fault is None and fresh.frame == old.frame:
            if not (fresh.access & ACCESS_WRITE and entry.is_leaf and entry.dirty):
                return
            if fresh.dirty or not any(change.effect & Effect.CLEANED for change in entry.changes):
                return
            lost_dirty = True
        fresh_frame = None if fresh.fault is not None else fresh.frame
        use = Use(self.site(caches.index), old.gva, old.access, fresh_frame, lost_dirty)
        verdict = judge(entry, use, self.flushes)
        if verdict is None:
            self.window_uses += 1
            caches.silent = True
            return
        change, classes = verdict
        self._report(entry, change, classes, use, old)
        if classes[0].level is Level.WARNING:
            caches.silent = True
        else:
            entry.reported = True

    def _report(
        self, entry: Entry, change: Change, classes: list[Class], use: Use, old: Walk
    ) -> None:
        key = classes[0], change.gpa
        known = self._folded.get(key)
        if known is not None:
            known.count += 1
            return
        since = tuple(f for f in self.flushes if f.sequence > change.sequence)
        finding = Finding(
            classes[0],
            use.gva,
            use.access,
            use.site,
            change.site,
            entry.filled,
            change.gpa,
            change.level,
            change.old,
            change.new,
            entry.frame_of(use.gva) if entry.is_leaf else entry.frame,
            use.fresh_frame,
            entry.rights,
            not entry.is_leaf,
            flushes=since,
            source=change.source,
            new_use=entry.new_use,
            also=tuple(classes[1:]),
            others=tuple(range(len(self.caches))) if len(self.caches) > 1 else (),
            symbolize=self.symbolize,
        )
        finding.hint = diagnose(finding, entry, since)
        self._folded[key] = finding
        self.findings.append(finding)
        if self.on_finding is not None:
            self.on_finding(finding)

    def _serve_stale(self, cpu: int, context: Context, entry: Entry, old: Walk) -> Answer:
        """Answer as a processor that still holds ``entry``."""
        if old.fault is not None:
            self.caches[cpu].drop_address(old.gva)
            return old.fault
        if not entry.is_leaf:
            for gpa in set_accessed_dirty(self.memory, context, old):
                self.tlb.changed(gpa >> PAGE_SHIFT)
            self._install(self.caches[cpu], context, old, like=entry)
        return self._answer(cpu, context, old)

    def _spurious_fault(
        self, caches: VcpuCaches, context: Context, gva: int, access: int
    ) -> PageFault | None:
        """Return the fault of an entry whose rights have grown since (SDM 3A 4.10.4.3)."""
        entry = caches.find(gva)
        if entry is None or not _denies(context, entry, access):
            return None
        caches.drop_address(gva)
        self.counters.pf_spurious += 1
        return context.fault(gva, access, PFERR_PRESENT)

    # --- The model ------------------------------------------------------------------------------

    def _install(
        self, caches: VcpuCaches, context: Context, found: Walk, like: Entry | None = None
    ) -> None:
        """Remember a translation and the structure entries on its way. ``like`` is the stale
        structure entry that a lazy walk went through; what it leads to is as stale."""
        shifts = {row[0]: row[1] for row in context.plan}
        words = [Word(level, gpa, gpte) for level, gpa, gpte, _ in found.entries]
        if found.pdpte is not None:
            gpa = (context.regs.cr3 & 0xFFFF_FFE0) + 8 * (found.gva >> 30)
            words.insert(0, Word(3, gpa, found.pdpte))
        site = self.site(caches.index)
        entry = self._new_entry(caches, context, shifts[found.level], found.gva, tuple(words), site)
        span = (1 << entry.shift - PAGE_SHIFT) - 1
        entry.frame = found.frame & ~span
        entry.rights = found.rights
        entry.dirty = found.dirty
        entry.pkey = found.pkey
        entry.is_global = global_bit(words[-1].value, context)
        slot = self.memory.slot_at(entry.frame << PAGE_SHIFT)
        entry.is_memory = (
            slot is not None
            and slot.device is None
            and slot.end >= entry.frame + span + 1 << PAGE_SHIFT
        )
        if like is not None:
            entry.changes = list(like.changes)
        self._add(caches, context, entry)
        if self._watched and like is None:
            self._mapped(caches.index, entry, site)
        first = 1 if found.pdpte is not None else 0
        for depth in range(first, len(words) - 1):
            if like is None or depth >= len(like.words):
                self._install_structure(caches, context, found, words[: depth + 1], shifts, site)

    def _install_structure(
        self,
        caches: VcpuCaches,
        context: Context,
        found: Walk,
        words: list[Word],
        shifts: dict[int, int],
        site: Site,
    ) -> None:
        level = words[-1].level
        shift = shifts[level]
        if (shift, found.gva >> shift) in caches.structures:
            return
        entry = self._new_entry(caches, context, shift, found.gva, tuple(words), site)
        entry.is_leaf = False
        entry.frame = (words[-1].value & context.frame_mask) >> PAGE_SHIFT
        for row_level, _, _, rights in found.entries:
            if row_level == level:
                entry.rights = rights
        self._add(caches, context, entry)
        self._table(entry.frame).pointers.append(entry)

    def _new_entry(
        self,
        caches: VcpuCaches,
        context: Context,
        shift: int,
        gva: int,
        words: tuple[Word, ...],
        site: Site,
    ) -> Entry:
        entry = Entry(caches.index, shift, gva, words, context.entry_bytes)
        entry.filled = site
        return entry

    def _add(self, caches: VcpuCaches, context: Context, entry: Entry) -> None:
        """Hold an entry, and note of which words it was made."""
        key = entry.shift, entry.bits
        for held in (caches.pages, caches.globals) if entry.is_leaf else (caches.structures,):
            old = held.get(key)
            if old is not None and not old.changes:
                old.dropped = True
                del held[key]
        caches.add(entry)
        caches.hot.pop(entry.start >> PAGE_SHIFT, None)
        for word in entry.words:
            table = self._table(word.gpa >> PAGE_SHIFT)
            made = table.words.setdefault(word.gpa, [])
            made.append(entry)
            if len(made) > table.limits.get(word.gpa, _FEW):
                made[:] = [other for other in made if self.caches[other.cpu].is_alive(other)]
                table.limits[word.gpa] = max(_FEW, 2 * len(made))
            if word.level == 3 and len(context.plan) == 2:
                self._compare_register(entry, word, context)
        if entry.changes:
            caches.pending.append(entry)

    def _compare_register(self, entry: Entry, word: Word, context: Context) -> None:
        """An entry made through a PDPTE register is pending at once if the memory that the
        register was loaded from has changed since."""
        now = self._word(word.gpa, 8)
        effect = effect_of(context, word, now, is_leaf=False, dirty=False, width=8)
        if effect:
            written = self._tables[word.gpa >> PAGE_SHIFT].written.get(word.gpa)
            sequence, site = written or (0, Site(-1))
            change = Change(word.gpa, 3, word.value, now, site, sequence, "guest", effect)
            change.ranges.add((30, entry.start >> 30))
            entry.changes.append(change)

    def _table(self, gfn: int) -> TableFrame:
        """Return the frame as a table, write-protected from now on."""
        table = self._tables.get(gfn)
        if table is None:
            table = self._tables[gfn] = TableFrame()
            self.tlb.protect(gfn)
            if self._watched:
                self._frame_used(-1, gfn, 0, "is made a page table", self.site(self.current()))
        return table

    def _word(self, gpa: int, width: int) -> int:
        gfn, offset = gpa >> PAGE_SHIFT, gpa & PAGE_SIZE - 1
        if width == 4:
            words = self.memory.table32(gfn)
            return words[offset >> 2] if words is not None else 0xFFFF_FFFF
        words = self.memory.table64(gfn)
        return words[offset >> 3] if words is not None else (1 << 64) - 1

    # --- Writes -----------------------------------------------------------------------------------

    def written(self, gpa: int, size: int, source: str) -> None:
        """See :meth:`mmu.api.Mmu.written`. Entries made of the words become pending."""
        super().written(gpa, size, source)
        cpu = self.current()
        site = self._store_site[cpu] if source == "guest" else Site(-1, position=self.site(cpu)[2])
        first, last = gpa >> PAGE_SHIFT, gpa + size - 1 >> PAGE_SHIFT
        for gfn in range(first, last + 1):
            table = self._tables.get(gfn)
            if table is not None:
                start = max(gpa, gfn << PAGE_SHIFT)
                end = min(gpa + size, gfn + 1 << PAGE_SHIFT)
                self._table_written(gfn, table, start, end, source, site)
            elif self._watched and source != "guest":
                self._frame_used(-1, gfn, 0, "is written by a device", site)
        if source == "guest":
            # The next store to a table comes as a miss, which alone has the exact RIP.
            self.host.flush_tlb(cpu)
            self.tlb.flushed(cpu)

    def _table_written(
        self, gfn: int, table: TableFrame, start: int, end: int, source: str, site: Site
    ) -> None:
        self._sequence += 1
        is_live = False
        for gpa in range(start - 7 & ~3, end, 4):
            made = table.words.get(gpa)
            if not made:
                continue
            made[:] = [entry for entry in made if self.caches[entry.cpu].is_alive(entry)]
            table.written[gpa] = self._sequence, site
            is_live = is_live or bool(made)
            for entry in made:
                if gpa + entry.width > start:
                    self._word_written(entry, gpa, made, source, site)
        table.written[start & ~7] = self._sequence, site
        pointers = [entry for entry in table.pointers if self.caches[entry.cpu].is_alive(entry)]
        table.pointers = pointers
        for entry in pointers:
            if entry.changes and entry.new_use is None:
                self._table_reused(entry, start, site)
        if not is_live and not pointers and not self._is_used(table):
            del self._tables[gfn]

    def _is_used(self, table: TableFrame) -> bool:
        """Return whether any entry made of the table's words is still held."""
        return any(
            self.caches[entry.cpu].is_alive(entry)
            for made in table.words.values()
            for entry in made
        )

    def _table_reused(self, entry: Entry, gpa: int, site: Site) -> None:
        """A table that only a stale structure entry leads to has changed. Clearing it is part of
        taking it down; a word that reads as present is a new use."""
        if self._word(gpa & ~(entry.width - 1), entry.width) & PT_PRESENT:
            entry.new_use = "is written as data", site
            self._expose()

    def _word_written(
        self, entry: Entry, gpa: int, made: list[Entry], source: str, site: Site
    ) -> None:
        """Compare an entry with what one of its words holds now."""
        context = self.contexts[entry.cpu]
        now = self._word(gpa, entry.width)
        for word in entry.words:
            if word.gpa != gpa:
                continue
            is_leaf = entry.is_leaf and word is entry.words[-1]
            effect = effect_of(
                context, word, now, is_leaf=is_leaf, dirty=entry.dirty, width=entry.width
            )
            self._update(entry, word, now, effect, made, source, site)

    def _update(
        self,
        entry: Entry,
        word: Word,
        now: int,
        effect: Effect,
        made: list[Entry],
        source: str,
        site: Site,
    ) -> None:
        caches = self.caches[entry.cpu]
        others = [change for change in entry.changes if change.gpa != word.gpa]
        if not effect:
            if len(others) != len(entry.changes):
                entry.changes = others
                if not others and entry in caches.pending:
                    caches.pending.remove(entry)
            return
        if self.serve is Serve.EAGER or source not in ("guest", "device"):
            self._forget(caches, entry)
            return
        change = Change(word.gpa, word.level, word.value, now, site, self._sequence, source, effect)
        change.ranges.update(self._ranges(made, word.gpa))
        entry.changes.append(change)
        caches.hot.clear()
        if entry not in caches.pending:
            caches.pending.append(entry)
            if entry.is_leaf:
                self._watch(entry)
        if site.cpu >= 0:
            self._is_writer[site.cpu] = True
        self._flush(entry.cpu)

    def _ranges(self, made: list[Entry], gpa: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges that a word stands for in any entry made of it."""
        for entry in made:
            shifts = {row[0]: row[1] for row in self.contexts[entry.cpu].plan}
            for word in entry.words:
                if word.gpa == gpa:
                    shift = shifts.get(word.level, 30)
                    yield shift, entry.start >> shift

    def _forget(self, caches: VcpuCaches, entry: Entry) -> None:
        """Drop an entry as an invalidation would."""
        entry.dropped = True
        held = caches.structures
        if entry.is_leaf:
            held = caches.globals if entry.is_global else caches.pages
        if held.get((entry.shift, entry.bits)) is entry:
            del held[entry.shift, entry.bits]
        caches.pending = [other for other in caches.pending if other is not entry]
        caches.hot.clear()
        self._flush(entry.cpu)

    # --- New uses of frames ---------------------------------------------------------------------

    def _watch(self, entry: Entry) -> None:
        """See to it that the next store to any frame of a pending translation is noticed."""
        last = entry.frame + (1 << entry.shift - PAGE_SHIFT) - 1
        self._watched = [row for row in self._watched if self.caches[row[2].cpu].is_alive(row[2])]
        self._watched.append((entry.frame, last, entry))
        for gfn in range(entry.frame, last + 1):
            if self.tlb.may_be_writable(gfn):
                self.tlb.protect(gfn)

    def _frame_used(self, cpu: int, gfn: int, gva: int, what: str, site: Site) -> None:
        """Note a new use of a frame for the pending translations that lead to it."""
        for first, last, entry in self._watched:
            if not first <= gfn <= last or entry.new_use is not None:
                continue
            if cpu >= 0 and entry.covers(gva):
                continue
            if self.caches[entry.cpu].is_alive(entry) and entry.changes:
                where = f"{what} {gva & ~0xFFF:#x}" if cpu >= 0 else what
                entry.new_use = where, site
                self._expose()

    def _mapped(self, cpu: int, entry: Entry, site: Site) -> None:
        """Note that a new translation leads to a watched frame, if it was made since."""
        for first, last, stale in self._watched:
            end = entry.frame + (1 << entry.shift - PAGE_SHIFT) - 1
            if last < entry.frame or end < first or stale.new_use is not None:
                continue
            if stale.covers(entry.start) or not stale.changes:
                continue
            began = min(change.sequence for change in stale.changes)
            writes = (
                self._tables[word.gpa >> PAGE_SHIFT].written.get(word.gpa) for word in entry.words
            )
            newest = max((write for write in writes if write is not None), default=None)
            if newest is not None and newest[0] > began:
                stale.new_use = f"is mapped at {entry.start:#x} since", newest[1]
                self._expose()

    # --- Invalidations ----------------------------------------------------------------------------

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        """See :meth:`mmu.api.Mmu.load`: a CR3 load spares global entries, a change of CR0.PG,
        CR4.PGE, PAE, PSE, LA57 or SMEP spares none."""
        old = self.contexts[cpu].regs
        super().load(cpu, regs)
        full = (old.cr0 ^ regs.cr0) & _CR0_PG or (old.cr4 ^ regs.cr4) & _CR4_FULL
        full = full or (old.efer ^ regs.efer) & EFER_NXE
        if full:
            what = "full flush"
        elif old.cr3 != regs.cr3:
            what = "CR3 load"
        elif old == regs:
            what = "CR3 reload"
        else:
            return  # CR0.WP, CR4.SMAP or PKRU alone
        self.caches[cpu].drop_all(and_global=bool(full))
        self._flushed(cpu, what, 0, None)

    def invlpg(self, cpu: int, gva: int) -> None:
        """See :meth:`mmu.api.Mmu.invlpg`: the page goes, and all structure entries."""
        super().invlpg(cpu, gva)
        context = self.contexts[cpu]
        found = walk(self.memory, context, gva & context.gva_mask, ACCESS_IMPLICIT | ACCESS_READ)
        operand = None
        if found.fault is None and self.memory.host_address(found.gpa & ~7):
            operand = self._word(found.gpa & ~7, 8) >> 8 * (found.gpa & 7)
            operand &= (1 << 64) - 1 if context.levels >= Levels.FOUR else 0xFFFF_FFFF
        self.caches[cpu].drop_page(gva & context.gva_mask)
        self._flushed(cpu, "INVLPG", gva & context.gva_mask, operand)

    def _flushed(self, cpu: int, what: str, gva: int, operand: int | None) -> None:
        self._sequence += 1
        self.flushes.append(Flush(self._sequence, what, gva, self.site(cpu), operand))
        self._expose()

    def halted(self, cpu: int) -> None:
        """Note that a vCPU has halted: the window of its changes is over."""
        if self._is_writer[cpu]:
            self._window_over(cpu)

    def _window_over(self, cpu: int) -> None:
        """The writer of changes is in CPL 3 again, or halts."""
        self._is_writer[cpu] = False
        for caches in self.caches:
            for entry in caches.pending:
                for change in entry.changes:
                    if change.site.cpu == cpu:
                        change.returned = True
        self._expose()

    def _expose(self) -> None:
        """Have uses seen again that were legal so far: something that judges them has changed."""
        for caches in self.caches:
            if caches.silent:
                caches.silent = False
                self._flush(caches.index)

    def _flush(self, cpu: int) -> None:
        self.host.flush_tlb(cpu)
        self.tlb.flushed(cpu)

    def remapped(self) -> None:
        """See :meth:`mmu.api.Mmu.remapped`. The model starts anew."""
        super().remapped()
        for caches in self.caches:
            caches.drop_all(and_global=True)
        self._tables.clear()
        self._watched.clear()

    # --- What is pending --------------------------------------------------------------------------

    def obligations(self) -> list[tuple[Entry, Change]]:
        """Return every entry that an invalidation is still owed to, with the change that left it
        so: ``--tlb-obligations``."""
        return [
            (entry, entry.changes[0])
            for caches in self.caches
            for entry in caches.pending
            if entry.changes
        ]


def _rights_of(gpte: int, width: int) -> int:
    no_execute = width == 8 and gpte & PT_NX
    return gpte & (ACC_WRITE | ACC_USER) | (0 if no_execute else ACC_EXEC)


def _denies(context: Context, entry: Entry, access: int) -> bool:
    """Return whether the rights in the entry forbid the access under the registers as they are."""
    if context.denied[access] >> entry.rights & 1:
        return True
    if not context.pke or not entry.rights & ACC_USER:
        return False
    return pkey_denies(context.regs.pkru, entry.pkey, access, wp=context.wp)


def _serves(context: Context, entry: Entry, access: int) -> bool:
    """Return whether a processor would serve the access from the entry: a store through one whose
    D is clear walks the tables again."""
    if access & ACCESS_WRITE and not entry.dirty:
        return False
    return not _denies(context, entry, access)


def _as_walk(entry: Entry, gva: int, access: int) -> Walk:
    """Return a translation in the shape that grants are made of."""
    found = Walk(gva, access)
    found.frame = entry.frame_of(gva)
    found.rights = entry.rights
    found.dirty = entry.dirty
    found.pkey = entry.pkey
    found.level = 1
    return found
