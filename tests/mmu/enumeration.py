# SPDX-License-Identifier: GPL-2.0-or-later
"""Every combination of entry bits, control bits and accesses, held against the SDM.

In the spirit of kvm-unit-tests' access.c. One address is walked through one path of tables; the
entries on the path, the control bits and the access take all values that matter, and the walker and
every plug-in must agree with `sdm.walk` on fault, error code, frame, and A and D in memory. The
plug-ins keep their caches from one case to the next, so control bits change over hot entries.

All at once would be 10**13 cases. They fall into *blocks* that do not act on each other; each
block takes the full product of what is in it. The arguments, all from the SDM's text:

rights    U/S, R/W and XD of a path count only as "in every entry" and "in any entry" (4.6.1); A and
          D say nothing about them (4.8). So A = D = 1 here, and the product is over these three
          bits at all levels, all accesses, and CR0.WP, EFER.NXE, CR4.SMEP, CR4.SMAP. (XD with
          NXE = 0 is a reserved bit: that is the next block.)
endings   A walk ends at the first entry with P = 0 or a reserved bit (4.7): what lies below is not
          looked at, and rights above do not show in the error code. So one such entry at each
          level, every reserved bit by itself (two are no more reserved than one), under full and
          under no rights above, on top of the same accesses, and of NXE and SMEP, which alone have
          a say in such an error code; WP and SMAP come and go together.
a-d       The bits that are set depend on the access and on whether there is a fault, not on why
          (4.8). So all A and D at all levels, against one fault of each kind.
keys      Keys act on the translation as a whole and on user pages only (4.6.2), so only the
          mapping entry's key, all 16, against the bits of PKRU for this key and the others, with
          the rights of the mapping entry.
ignored   Bits that the tables call ignored, one at a time and all together, at each level.
addresses Every address bit of a mapping entry; tables outside RAM; canonical and other addresses.
pdptes    The PDPTE registers: every bit (4.4.1).

`full` takes products that the arguments make superfluous: all of rights in 5-level paging, XD with
NXE = 0 everywhere, all D bits, rights above every ending, all control bits on every ending.

    python -m tests.mmu.enumeration [--full]

runs everything and says how many combinations were compared, for the walker and each plug-in.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from itertools import product

from mmu.api import NotCanonical, PageFault
from mmu.arch import Features
from mmu.memory import Memory
from mmu.plugins import make_mmu
from mmu.testing import sdm
from mmu.testing.sdm import PAT_LARGE, PCD, PS, PWT, RW, US, XD, A, Cpuid, D, G, P, Regs
from mmu.walker import Context, pdptes_valid, set_accessed_dirty, walk

from .compiled_first import CompiledFirst
from .rig import ALL_ACCESSES, MODES, ModelTlb, access_bits, paging_registers

RAM = 16 << 20
TABLES = 0x10000  # the table of level n lies at TABLES + n * 0x1000
FRAME = 0x123000
RIGHTS = RW | US
OPEN = P | RW | US | A | D
BOTH = (True, False)

# An address with a different index at each level, whose offset in 1 GiB lies in RAM.
GVA = {
    "32-bit": 0x40523ABC,
    "pae": 0x40523ABC,
    "4-level": (3 << 39) + (2 << 30) + 0x523ABC,
    "5-level": (5 << 48) + (3 << 39) + (2 << 30) + 0x523ABC,
}
ACCESSES = tuple((access, access_bits(access)) for access in ALL_ACCESSES)
PLAIN = tuple(pair for pair in ACCESSES if not (pair[0].implicit or pair[0].ac))


class TheWalker:
    """The walker alone, behind the face of a plug-in."""

    def __init__(self, memory, features):
        self.memory = memory
        self.context = Context(features)

    def load(self, cpu, regs):
        self.context.load(self.memory, regs)

    def translate(self, cpu, gva, access):
        found = walk(self.memory, self.context, gva, access)
        if found.fault is not None:
            return found.fault
        set_accessed_dirty(self.memory, self.context, found)
        return found.frame << 12


class Bench:
    """One path of tables in one mode, in the memory of each subject.

    `entries` are those of the path from the top down; `counts` the comparisons made so far, by
    subject.
    """

    def __init__(self, mode, subjects, cpuid=Cpuid()):  # noqa: B008
        self.mode = mode
        self.cpuid = cpuid
        self.gva = GVA[mode]
        self.entry_bytes, self.index_bits, rows = sdm.STEPS[mode]
        self.levels = [row[0] for row in rows]
        self.shifts = [row[1] for row in rows]
        top = self.levels[0]
        self.gpas = [
            self.table(level) + self.entry_bytes * self.index(level) for level in self.levels
        ]
        self.regs = MODES[mode]._replace(cr3=self.table(top))
        self.pdptes = ()
        self.counts = Counter()
        self.words = {}
        self.memories = []
        self.subjects = []
        features = Features(phys_bits=cpuid.m, pse36=cpuid.pse36, gbpages=cpuid.page1gb)
        for name in subjects:
            memory = Memory()
            memory.add_ram(0, RAM)
            if name == "walker":
                subject = TheWalker(memory, features)
            elif name == "compiled":
                subject = CompiledFirst(memory, ModelTlb(1), 1, features=features, pool=512)
                memory.listeners.append(subject.written)
            else:
                subject = make_mmu(name, memory, ModelTlb(1), features=features, pool=512)
            self.memories.append(memory)
            self.subjects.append((name, subject, memory))
        if mode == "pae":
            self.regs = self.regs._replace(cr3=0xF000)
            self.set_pdptes([self.table(2) | P] * 4)

    def table(self, level):
        return TABLES + level * 0x1000

    def index(self, level):
        shift = self.shifts[self.levels.index(level)]
        return self.gva >> shift & (1 << self.index_bits) - 1

    def set_pdptes(self, pdptes):
        self.pdptes = tuple(pdptes)
        for memory in self.memories:
            for i, pdpte in enumerate(pdptes):
                memory.write(0xF000 + 8 * i, 8, pdpte, "loader")

    def write(self, gpa, entry):
        """Write an entry for all subjects, if it is not what stands there."""
        if self.words.get(gpa) != entry:
            self.words[gpa] = entry
            for memory in self.memories:
                memory.write(gpa, self.entry_bytes, entry, "device")

    def path(self, entries):
        """Write the entries of the path from the top down; what lies below them stays."""
        for gpa, entry in zip(self.gpas, entries, strict=False):
            self.write(gpa, entry)

    def open_path(self, leaf_level=1):
        """Entries from the top down that allow everything."""
        return [
            (FRAME if leaf_level == 1 else PS) | OPEN
            if level == leaf_level
            else self.table(level - 1) | OPEN
            for level in self.levels
            if level >= leaf_level
        ]

    def leaf_levels(self):
        """The levels that may map a page, as the registers and CPUID stand."""
        rows = sdm.steps(self.mode, self.cpuid, self.regs.pse, self.regs.nxe)[1]
        return [row[0] for row in rows if row[0] == 1 or row[4] is not None]

    def load(self, regs):
        self.regs = regs
        registers = paging_registers(regs)
        for _, subject, _ in self.subjects:
            subject.load(0, registers)

    def read(self, gpa, size):
        if gpa >= RAM:
            return (1 << 8 * size) - 1
        return self.words.get(gpa, 0)

    def compare(self, access, bits, gva=None):
        """One access by all subjects against the prediction; A and D are then as they were."""
        gva = self.gva if gva is None else gva
        verdict = sdm.walk(self.read, self.regs, gva, access, self.cpuid, self.pdptes)
        want = verdict.fault
        words = self.words
        changes = {
            gpa: words[gpa] | sets
            for gpa, sets in (verdict.sets or {}).items()
            if gpa < RAM and words.get(gpa, 0) & sets != sets
        }
        for name, subject, memory in self.subjects:
            answer = subject.translate(0, gva, bits)
            self.counts[name] += 1
            if want is None:
                right = isinstance(answer, int) and answer >> 12 == verdict.frame
            elif want == "not canonical":
                right = isinstance(answer, NotCanonical)
            else:
                right = isinstance(answer, PageFault) and answer.error_code == want
            if not right:
                raise AssertionError(self.explain(name, gva, access, answer, verdict))
            for gpa in self.gpas:
                now = memory.read(gpa, self.entry_bytes) if changes or want is None else None
                if now is not None and now != changes.get(gpa, words.get(gpa, 0)):
                    raise AssertionError(
                        self.explain(name, gva, access, f"entry {now:#x} at {gpa:#x}", verdict)
                    )
        for gpa in changes:
            for memory in self.memories:
                memory.write(gpa, self.entry_bytes, words[gpa], "device")

    def explain(self, name, gva, access, answer, verdict):
        path = ", ".join(f"{self.words.get(gpa, 0):#x}" for gpa in self.gpas)
        return (
            f"{name}: {access} of {gva:#x} by {self.mode} paging\n  entries {path}\n  {self.regs}\n"
            f"  {self.cpuid} PDPTEs {self.pdptes}\n  gives {answer}\n  the SDM says {verdict}"
        )

    def all_accesses(self, turn=0, accesses=ACCESSES):
        """Every kind of access. `turn` picks the one that comes first and so finds caches cold."""
        turn %= len(accesses)
        for access, bits in accesses[turn:] + accesses[:turn]:
            self.compare(access, bits)


def control_bits(regs: Regs, nxes=BOTH) -> Iterator[Regs]:
    """All of CR0.WP, CR4.SMEP and CR4.SMAP, and EFER.NXE as told."""
    for nxe, wp, smep, smap in product(nxes, BOTH, BOTH, BOTH):
        yield regs._replace(wp=wp, nxe=nxe, smep=smep, smap=smap)


def error_code_bits(regs: Regs, turn) -> Iterator[Regs]:
    """All of EFER.NXE and CR4.SMEP; CR0.WP and CR4.SMAP are on in every other turn."""
    for nxe, smep in product(BOTH, repeat=2):
        yield regs._replace(nxe=nxe, smep=smep, wp=turn % 2 == 0, smap=turn % 2 == 0)


def sweep(bench, turn, settings):
    """All accesses over the path as it stands, under each setting of the control bits."""
    for regs in settings:
        bench.load(regs)
        bench.all_accesses(turn)


def rights_values(bench):
    """All R/W, U/S and XD of one entry, as bits to clear or set in an open one."""
    xds = (0, XD) if bench.entry_bytes == 8 else (0,)
    return [(cleared, xd) for cleared in (0, RW, US, RW | US) for xd in xds]


def block_rights(bench, full):
    """The product of the rights of all entries. By default 5-level paging takes each bit alone at
    each level (the product of the other modes has shown that more do not add up to more)."""
    values = rights_values(bench)
    turn = 0
    for leaf_level in bench.leaf_levels():
        path = bench.open_path(leaf_level)
        choices = [values] * len(path)
        if bench.mode == "5-level" and not full:
            single = [(0, 0), (RW, 0), (US, 0), (0, XD)]
            choices = [single] * len(path)
        for choice in product(*choices):
            entries = [e & ~cleared | xd for e, (cleared, xd) in zip(path, choice, strict=True)]
            bench.path(entries)
            turn += 1
            has_xd = any(xd for _, xd in choice)
            sweep(bench, turn, control_bits(bench.regs, (True,) if has_xd and not full else BOTH))


def endings(bench, level, leaf):
    """Values at `level` that end a walk (or would with other control bits), from an open entry."""
    base = (FRAME if level == 1 else PS) | OPEN if leaf else bench.table(level - 1) | OPEN
    width = 8 * bench.entry_bytes
    yield 0
    yield base & ~P
    yield (1 << width) - 1 & ~P
    for bit in range(6, width):
        yield base | 1 << bit
    yield base | (1 << width) - (1 << 12)


def block_endings(bench, full):
    """P = 0 and every reserved bit at each level. (Bits that are not reserved take part too.)"""
    turn = 0
    values = rights_values(bench)
    for leaf_level in bench.leaf_levels():
        path = bench.open_path(leaf_level)
        for depth, level in enumerate(bench.levels[: len(path)]):
            aboves = (
                list(product(values, repeat=depth))
                if full and depth < 3
                else [
                    ((0, 0),) * depth,
                    ((RW | US, 0),) * depth,
                ]
            )
            for above, ending in product(
                dict.fromkeys(aboves), endings(bench, level, level == leaf_level)
            ):
                entries = list(path)
                for i, (cleared, xd) in enumerate(above):
                    entries[i] = entries[i] & ~cleared | xd
                entries[depth] = ending
                bench.path(entries)
                turn += 1
                some = error_code_bits(bench.regs, turn)
                sweep(bench, turn, control_bits(bench.regs) if full else some)
        bench.path(path)


def block_accessed_dirty(bench, full):
    """All A and D at all levels, against one fault of each kind. By default D above the mapping
    entry is 0 in all or 1 in all."""
    for leaf_level in bench.leaf_levels():
        path = [e & ~(A | D) for e in bench.open_path(leaf_level)]
        depth = len(path)
        dirties = product((0, D), repeat=depth)
        if not full and depth > 3:
            dirties = [(above,) * (depth - 1) + (own,) for above in (0, D) for own in (0, D)]
        dirties = list(dirties)
        xd = XD if bench.entry_bytes == 8 else 0
        for cleared, extra in ((0, 0), (RW, 0), (US, 0), (0, xd), (P, 0)):
            for wp in (True, False):
                bench.load(bench.regs._replace(wp=wp, nxe=True, smep=False, smap=False))
                for accessed in product((0, A), repeat=depth):
                    for dirty in dirties:
                        entries = [e | a | d for e, a, d in zip(path, accessed, dirty, strict=True)]
                        entries[-1] = entries[-1] & ~cleared | extra
                        bench.path(entries)
                        bench.all_accesses(accesses=PLAIN)


def block_keys(bench, full):
    """Keys of the mapping entry against PKRU. Other keys' bits in PKRU are the inverse."""
    if bench.mode not in ("4-level", "5-level"):
        return
    turn = 0
    for leaf_level in bench.leaf_levels():
        path = bench.open_path(leaf_level)
        keys = range(16) if full or leaf_level == 1 else (0, 1, 15)
        for key, cleared in product(keys, (0, RW, US, RW | US)):
            bench.path([*path[:-1], path[-1] & ~cleared | key << 59])
            for pke, wp, smap, rights in product(BOTH, BOTH, BOTH, range(4)):
                others = (rights ^ 3) * 0x5555_5555 & ~(3 << 2 * key)
                pkru = others | rights << 2 * key
                bench.load(
                    bench.regs._replace(nxe=True, smep=False, wp=wp, smap=smap, pke=pke, pkru=pkru)
                )
                turn += 1
                bench.all_accesses(turn)
    bench.load(bench.regs._replace(pke=False, pkru=0))


def ignored_bits(bench, level, leaf):
    """What tables 4-4 to 4-20 call ignored or give to caching, at `level`."""
    bits = PWT | PCD | 7 << 9
    if leaf:
        bits |= G
        bits |= PAT_LARGE if level > 1 else PS  # the PAT bit
    else:
        bits |= G | D
    if bench.entry_bytes == 8 and bench.mode != "pae":
        bits |= sdm.field(62, 52)
    return bits


def block_ignored(bench, full):
    """Ignored bits one at a time and all together, each at one level and at all of them."""
    for leaf_level in bench.leaf_levels():
        path = bench.open_path(leaf_level)
        masks = [ignored_bits(bench, lv, lv == leaf_level) for lv in bench.levels[: len(path)]]
        choices = [
            list(masks),
            *([0] * i + [m] + [0] * (len(path) - i - 1) for i, m in enumerate(masks)),
        ]
        for i, mask in enumerate(masks):
            for bit in range(64):
                if mask >> bit & 1:
                    choices.append([1 << bit if j == i else 0 for j in range(len(path))])
        for turn, choice in enumerate(choices):
            bench.path([e | extra for e, extra in zip(path, choice, strict=True)])
            bench.load(bench.regs._replace(wp=True, nxe=True, smep=False, smap=False))
            bench.all_accesses(turn)
        bench.path(path)


def block_addresses(bench, full):
    """Address bits of the mapping entry, tables in no memory, and addresses of all forms."""
    width = 8 * bench.entry_bytes
    for leaf_level in bench.leaf_levels():
        path = bench.open_path(leaf_level)
        for bit in range(12, width if width == 32 else 52):
            bench.path([*path[:-1], path[-1] & 0xFFF | 1 << bit])
            for pse in (True, False):
                bench.load(bench.regs._replace(pse=pse))
                bench.all_accesses(bit)
            bench.load(bench.regs._replace(pse=True))
        for depth in range(len(path) - 1):
            for nowhere in (RAM, 0x8000_0000, 0xFFFF_F000, (1 << bench.cpuid.m) - 0x1000):
                if nowhere >> width == 0:
                    entries = list(path)
                    entries[depth] = nowhere | OPEN
                    bench.path(entries)
                    sweep(bench, depth, error_code_bits(bench.regs, depth))
        bench.path(path)
        bench.load(MODES[bench.mode]._replace(cr3=bench.regs.cr3))
        tops = {0, 1, 2, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF}
        gvas = [bench.gva | top << 48 for top in sorted(tops)]
        gvas += [bench.gva ^ 1 << bit for bit in range(64)]
        if bench.mode in ("32-bit", "pae"):
            gvas = [gva & 0xFFFF_FFFF for gva in gvas]
        for gva in gvas:
            for access, bits in PLAIN:
                bench.compare(access, bits, gva)


def block_pdptes(bench, full):
    """Every bit of a PDPTE register: #GP on load if reserved, else ignored or an address."""
    if bench.mode != "pae":
        return
    bench.path(bench.open_path())
    start = bench.pdptes
    features = Features(phys_bits=bench.cpuid.m)
    for number, bit, present in product(range(4), range(1, 64), (P, 0)):
        value = bench.table(2) | present | 1 << bit
        pdptes = [value if i == number else entry for i, entry in enumerate(start)]
        bench.set_pdptes(pdptes)
        wanted = not sdm.pdptes_fault(pdptes, bench.cpuid)
        valid = pdptes_valid(bench.memories[0], paging_registers(bench.regs), features)
        assert valid == wanted, f"PDPTE {value:#x}"
        bench.counts["walker"] += 1
        if valid:
            bench.load(bench.regs)
            for access, bits in PLAIN:
                bench.compare(access, bits, (bench.gva & 0x3FFF_FFFF) + (number << 30))
    bench.set_pdptes(start)
    bench.load(bench.regs)


BLOCKS = {
    "rights": block_rights,
    "endings": block_endings,
    "a-d": block_accessed_dirty,
    "keys": block_keys,
    "ignored": block_ignored,
    "addresses": block_addresses,
    "pdptes": block_pdptes,
}
SUBJECTS = ("walker", "uncached", "shadow", "compiled")
OTHER_CPUS = [
    *product([Cpuid(m=36), Cpuid(m=32)], GVA),
    (Cpuid(pse36=False), "32-bit"),
    (Cpuid(page1gb=False), "4-level"),
    (Cpuid(page1gb=False), "5-level"),
]


def run(mode, block, *, full=False, subjects=SUBJECTS, cpuid=Cpuid()) -> int:  # noqa: B008
    """Run a block in a mode; return the number of comparisons."""
    return counts(mode, block, full=full, subjects=subjects, cpuid=cpuid).total()


def counts(mode, block, *, full=False, subjects=SUBJECTS, cpuid=Cpuid()) -> Counter:  # noqa: B008
    """Run a block in a mode; return the comparisons by subject. 32-bit paging runs with CR4.PSE = 1
    and again with 0. The block of rights leaves out the walker alone, which is all that the
    uncached plug-in asks."""
    if block == "rights" and not full:
        subjects = [name for name in subjects if name != "walker"]
    bench = Bench(mode, subjects, cpuid)
    bench.load(bench.regs)
    BLOCKS[block](bench, full)
    if mode == "32-bit":
        bench.load(bench.regs._replace(pse=False))
        BLOCKS[block](bench, full)
    return bench.counts


def run_all(*, full=False, subjects=SUBJECTS, report=print) -> Counter:
    """Run everything; return the comparisons by subject."""
    total = Counter()
    for mode in GVA:
        for block in BLOCKS:
            total += (found := counts(mode, block, full=full, subjects=subjects))
            report(f"{mode:8} {block:10} {found.total():12,}")
    for (cpuid, mode), block in product(OTHER_CPUS, ("endings", "addresses", "pdptes")):
        total += (found := counts(mode, block, full=full, subjects=subjects, cpuid=cpuid))
        report(f"{mode:8} {block:10} {found.total():12,}   {cpuid}")
    return total


def main() -> None:
    """Run everything and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.mmu.enumeration")
    parser.add_argument("--full", action="store_true", help="superfluous products too: much longer")
    started = time.monotonic()
    total = run_all(full=parser.parse_args().full)
    for name in SUBJECTS:
        print(f"{name:8} {total[name]:12,} combinations compared with the SDM")
    print(f"in all   {total.total():12,} in {time.monotonic() - started:.0f} s: all alike")


if __name__ == "__main__":
    main()
