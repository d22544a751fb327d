# SPDX-License-Identifier: GPL-2.0-or-later
"""A small world of tangled page tables for random testing, and a twin of it without any cache.

Eight frames are page tables, of all modes and levels at once: their entries lead to each other, to
themselves, to four frames of data, to large pages, a device, ROM and nowhere. Entries stand only
where the indices of `GVAS` point, so that most steps meet. Everything runs on `rig.Rig`, which
compares each answer with the SDM and audits after each step; and beside it runs the `uncached`
plug-in on a copy of the memory, whose answers and bytes must be the same.

A step is a method of `World` with plain arguments, all of which make sense for any numbers, so that
hypothesis and a seeded generator can both drive it.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random

from mmu.api import FRAME_MASK, MAP_WRITE
from mmu.memory import Memory
from mmu.plugins import make_mmu
from mmu.testing.sdm import PS, RW, US, XD, A, D, G, P

from .compiled_first import CompiledFirst
from .rig import (
    ALL_ACCESSES,
    MODES,
    Device,
    GeneralProtection,
    ModelTlb,
    Rig,
    WatchedMemory,
    access_bits,
)

TABLES = tuple(range(8))
DATA = (8, 9, 10, 11)
LAST_LEAF_TABLE = 2
PDPT = 12
RAM = 6 << 20  # three large pages; the first has the tables in it
ROM = 0xA00000
DEVICE = 0xB00000
HOLE = 0x2000000
LARGE = (0x000000, 0x200000, 0x400000, 0x800000)
FRAMES = (*TABLES, *DATA, PDPT, 0x200, 0x201)  # what is compared with the twin after each step

MODE_NAMES = tuple(MODES)
MODE_BITS = ("wp", "nxe", "smep", "smap", "pke", "pse", "pge")
PKRUS = (0, 0xFFFFFFFC, 0x4, 0x8, 0x55555555)

# Indices that meet: of 64-bit levels 5 to 1. A 32-bit guest sees the low 32 bits of the addresses,
# and the low halves of the entries at `WORDS`.
GVAS = tuple(
    i5 << 48 | i4 << 39 | i3 << 30 | i2 << 21 | i1 << 12
    for i5, i4 in ((0, 0), (511, 511))
    for i3 in (0, 3)
    for i2 in (0, 1)
    for i1 in (0, 1, 2, 510)
)
WORDS = (0, 1, 2, 3, 255, 256, 257, 384, 510, 511)
OFFSETS = (0, 8, 16, 0x7F8, 0x800, 0xFF0, 0xFF8, 4, 0xC00, 0xFFC, 0xFFD, 2, 7)
SIZES = (8, 8, 8, 4, 4, 1, 2, 16)
SOURCES = ("device", "loader", "debugger")
POLICIES = (
    "",
    "unsync=off",
    "unsync=on,large=off,prefetch=off",
    "unsync=off,flood=off,prefetch=on",
)


def random_entry(random: Random, frame: int = 0) -> int:
    """An entry of any level for a table in `frame`, mostly one that works.

    Frames lead to the frame before them, mostly, so that some are leaf tables and no more.
    """
    roll = random.random()
    if roll < 0.02:
        return random.getrandbits(64)
    flags = P * (random.random() < 0.96) | RW * (random.random() < 0.85)
    flags |= US * (random.random() < 0.9) | A * (random.random() < 0.5)
    flags |= D * (random.random() < 0.5) | XD * (random.random() < 0.05)
    flags |= G * (random.random() < 0.1)
    if random.random() < 0.1:
        flags |= random.choice((1, 5, 15)) << 59  # a key
    if roll < 0.1:
        return random.choice(LARGE) | flags | PS
    if frame > LAST_LEAF_TABLE and roll < 0.92:
        return frame - 1 << 12 | flags
    if roll < 0.5:
        return random.choice(TABLES) << 12 | flags
    if roll < 0.94:
        return random.choice(DATA) << 12 | flags
    if roll < 0.98:
        return random.choice((0x200, 0x201, RAM >> 12)) << 12 | flags
    return random.choice((ROM, DEVICE, HOLE, 1 << 45)) | flags


def random_pdpte(random: Random) -> int:
    """A PDPTE for PAE paging, mostly one that may be loaded."""
    if random.random() < 0.02:
        return random_entry(random, 4)
    return random.choice((3, 3, 4, 4, 7)) << 12 | P * (random.random() < 0.9)


class World:
    """The tables, the plug-in under test on a rig, and the twin.

    `seed` decides the tables at the start. `cpus` 1 to 4; `pool` shadow pages beside the least.
    """

    def __init__(self, seed, cpus=1, pool=0, policy="", plugin="shadow"):
        random = Random(seed)
        self.cpus = cpus
        self.rig = Rig(
            plugin, cpus, 4 + cpus + pool, memory=self._memory(WatchedMemory), policy=policy
        )
        self.logged = None  # the bytes when the dirty log was last read
        self.twin_memory = self._memory(Memory)
        self.twin = make_mmu(
            "uncached", self.twin_memory, ModelTlb(cpus), cpus, features=self.rig.features
        )
        self.rig.on_load = self.twin.load
        self.rig.on_access = self._also_twin
        self.rig.on_store = self._also_stored
        for frame in (*TABLES, 0x201):
            for word in WORDS:
                self.edit(frame, word * 8, 8, random_entry(random, frame), 0)
        for word in range(64):
            self.edit(PDPT, word * 8, 8, random_pdpte(random), 0)
        for cpu in range(cpus):
            self.load(cpu, random.randrange(1, 5), random.randrange(12), 0b11, 0, 0)

    @staticmethod
    def _memory(kind):
        memory = kind()
        memory.add_ram(0, RAM)
        memory.add_rom(ROM, b"\x67\x00\x20\x00\x00\x00\x00\x00" * 512)
        memory.add_mmio(DEVICE, 0x1000, Device())
        return memory

    # --- Steps ------------------------------------------------------------------------------------

    def access(self, cpu, gva, kind):
        """One access."""
        cpu %= self.cpus
        access = ALL_ACCESSES[kind % len(ALL_ACCESSES)]
        self._access(cpu, self.gva(cpu, gva), access)
        self._compare()

    def burst(self, cpu, gva, first):
        """Every kind of access to one address, and its neighbour."""
        cpu %= self.cpus
        gva = self.gva(cpu, gva)
        for turn in range(len(ALL_ACCESSES)):
            access = ALL_ACCESSES[(first + turn) % len(ALL_ACCESSES)]
            self._access(cpu, gva + 0x1000 * (turn == 3), access)
        self._compare()

    def store(self, cpu, gva, offset, size, value, user, times=1):
        """A store of the guest's, wherever it leads; again and again for a flood."""
        cpu %= self.cpus
        size = SIZES[size % len(SIZES)]
        for _ in range(times):
            at = self.gva(cpu, gva) + OFFSETS[offset % len(OFFSETS)]
            self.rig.try_store(at & (1 << 64) - 1, size, value, cpu, user)
        self._compare()

    def remap(self, cpu, gva, depth, value, kind, how):
        """What guests do: change an entry of a path by a store through some alias of its table,
        go on using the page, and then invalidate and use it again; perhaps change it back.

        `how`: bits 0 and 1 pick nothing, INVLPG, or a load of CR3; bit 2 changes it back at last;
        bit 3 names another address of a large page to INVLPG.
        """
        cpu %= self.cpus
        gva = self.gva(cpu, gva)
        found, used = self.rig.path(gva, cpu)
        if not used:
            return
        gpa, old = used[-1 - depth % len(used)]
        size = 4 if self.rig.regs[cpu].mode == "32-bit" else 8
        access = ALL_ACCESSES[kind % len(ALL_ACCESSES)]
        pieces = [gva]
        if getattr(found, "page", 0) > 0x1000:
            pieces += [gva ^ 0x1000, gva ^ 0x2000]
        for entry in (value, old) if how & 4 else (value,):
            for piece in pieces:
                self.rig.access(piece, access, cpu)
            self._store_through_alias(cpu, gpa, size, entry)
            self.rig.access(gva, access, cpu)
            if how & 3 == 1:
                self.invlpg(cpu, pieces[-1] if how & 8 else gva)
            elif how & 3 == 2:
                self.reload(cpu)
            for piece in pieces:
                self.rig.access(piece, access, cpu)
        self._compare()

    def _store_through_alias(self, cpu, gpa, size, entry):
        for number in range(len(GVAS)):
            alias = self.gva(cpu, number)
            if self.rig.writes_to(alias, cpu) == gpa >> 12:
                self.rig.try_store(alias | gpa & 0xFFF, size, entry, cpu)
                return
        # There is no alias: make one for next time, and have a device store the entry.
        leaf = self.rig.path(self.gva(cpu, entry), cpu)[1]
        if leaf:
            alias = gpa & ~0xFFF | P | RW | US | A | D
            self.edit(leaf[-1][0] >> 12, leaf[-1][0] & 0xFFF, size, alias, 0)
        self.edit(gpa >> 12, gpa & 0xFFF, size, entry, 0)

    def toggle(self, cpu, gva, bit, first):
        """A control bit changes and changes back under a hot page."""
        for turn in range(3):
            self.burst(cpu, gva, first + 3 * turn)
            self.flip(cpu, bit)
        self.burst(cpu, gva, first)

    def reload_pdptes(self, cpu, gva, seed):
        """A PDPTE is edited, and loaded some time later."""
        cpu %= self.cpus
        regs = self.rig.regs[cpu]
        if regs.mode != "pae":
            return
        entry = (regs.cr3 & ~31) + 8 * (self.gva(cpu, gva) >> 30)
        self.access(cpu, gva, seed)
        self.edit(entry >> 12, entry & 0xFFF, 8, random_pdpte(Random(seed)), 0)
        self.access(cpu, gva, seed)
        self.flip(cpu, seed)
        self.access(cpu, gva, seed)
        self.reload(cpu)
        self.access(cpu, gva, seed)

    def repair(self, frame, seed):
        """Fill a frame with entries that mostly work, in one write."""
        random = Random(seed)
        page = bytearray(0x1000)
        for word in WORDS:
            page[8 * word : 8 * word + 8] = random_entry(random, frame).to_bytes(8, "little")
        self.edit(frame, 0, 0x1000, int.from_bytes(page, "little"), seed)

    def store_held(self, number, offset, size, value):
        """A store by a TLB entry that was granted before."""
        held = list(self.rig.tlb.held(MAP_WRITE))
        if not held:
            return
        cpu, entry = held[number % len(held)]
        size = SIZES[size % 4]
        offset = min(OFFSETS[offset % len(OFFSETS)], 0x1000 - size)
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        gpa = (entry.gfn << 12) + offset
        self.rig.store_unseen(cpu, entry.mapping, gpa, data)
        self.rig.settle()
        self._compare()

    def edit(self, frame, offset, size, value, source):
        """A write from outside the processors, `size` bytes."""
        gpa = (frame << 12) + offset
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self.rig.memory.write_block(gpa, data, SOURCES[source % 3])
        self.rig.settle()
        self.twin_memory.write_block(gpa, data, SOURCES[source % 3])

    def load(self, cpu, mode, root, bits, pkru, offset):
        """Other control registers; `bits` selects from `MODE_BITS`."""
        cpu %= self.cpus
        regs = MODES[MODE_NAMES[mode % len(MODE_NAMES)]]
        changes = {name: bool(bits >> i & 1) for i, name in enumerate(MODE_BITS)}
        # Two roots of each mode have the last leaf table at their end; the others may be anything.
        levels = {"none": 0, "32-bit": 2, "pae": 3, "4-level": 4, "5-level": 5}[regs.mode]
        first = LAST_LEAF_TABLE + levels - 1
        cr3 = TABLES[(first + (root & 1) if root < 12 else root) % len(TABLES)] << 12
        if regs.mode == "pae":
            cr3 = PDPT << 12 | offset % 16 << 5 if offset < 300 else cr3 | offset % 128 << 5
        self._load(cpu, regs._replace(cr3=cr3, pkru=PKRUS[pkru % len(PKRUS)], **changes))

    def flip(self, cpu, bit):
        """Change one control bit or reload CR3; hot entries stay."""
        cpu %= self.cpus
        regs = self.rig.regs[cpu]
        bit %= len(MODE_BITS) + 2
        if bit < len(MODE_BITS):
            name = MODE_BITS[bit]
            regs = regs._replace(**{name: not getattr(regs, name)})
        elif bit == len(MODE_BITS):
            regs = regs._replace(pkru=PKRUS[(PKRUS.index(regs.pkru) + 1) % len(PKRUS)])
        self._load(cpu, regs)

    def invlpg(self, cpu, gva):
        """INVLPG."""
        cpu %= self.cpus
        gva = self.gva(cpu, gva) if gva < 1 << 16 else gva
        self.rig.invlpg(gva, cpu)
        self.twin.invlpg(cpu, gva)

    def reload(self, cpu):
        """MOV to CR3 of what is there."""
        self._load(cpu % self.cpus, self.rig.regs[cpu % self.cpus])

    def flush(self, cpu):
        """The engine empties a TLB by itself."""
        self.rig.full_flush(cpu % self.cpus)
        self.twin.flushed(cpu % self.cpus)

    def owner(self, what, number):
        """What the owner of the machine may do at any time."""
        mmu = self.rig.mmu
        what %= 5
        if what == 4:
            self._plug_memory()
        elif not hasattr(mmu, "shrink"):
            return
        elif what == 0:
            mmu.shrink(1 + number % 4)
        elif what == 1:
            mmu.zap_all()
        elif what == 2:
            mmu.set_policy(POLICIES[number % len(POLICIES)])
        else:
            self._read_dirty_log()
        self.rig.settle()
        self._compare()

    # --- How they are done ------------------------------------------------------------------------

    def gva(self, cpu, number):
        """One of `GVAS`, canonical in the mode of the vCPU but for a few."""
        gva = GVAS[number % len(GVAS)]
        mode = self.rig.regs[cpu].mode
        if mode in ("none", "32-bit", "pae"):
            return gva & 0xFFFF_FFFF
        if number // len(GVAS) % 64 == 63:
            return gva | 1 << 60
        bits = 48 if mode == "4-level" else 57
        gva &= (1 << bits) - 1
        return gva | (1 << 64) - (1 << bits) if gva >> bits - 1 else gva

    def _access(self, cpu, gva, access):
        self.rig.access(gva & (1 << 64) - 1, access, cpu)

    def _also_twin(self, cpu, gva, access, answer):
        """The same access on the twin."""
        twin = self.twin.translate(cpu, gva, access_bits(access))
        if isinstance(answer, int) and isinstance(twin, int):
            assert answer & FRAME_MASK == twin & FRAME_MASK, (answer, twin)
        else:
            assert answer == twin

    def _also_stored(self, gpa, data, source):
        """The same store on the twin; unseen with no `source`."""
        slot = self.twin_memory.slot_at(gpa)
        if source is not None:
            self.twin_memory.write_block(gpa, data, source)
        elif slot is not None and slot.kind == "ram":
            slot.view[gpa - slot.gpa : gpa - slot.gpa + len(data)] = data

    def _read_dirty_log(self):
        """Start the log, or hold it against what has changed since."""
        if self.logged is None:
            self.rig.mmu.start_dirty_log()
        else:
            changed = {frame for frame in FRAMES if self._bytes(frame) != self.logged[frame]}
            missed = changed - set(self.rig.mmu.dirty_log())
            assert not missed, f"the dirty log lacks {missed}"
        self.logged = {frame: self._bytes(frame) for frame in FRAMES}

    def _plug_memory(self):
        """A page of RAM comes or goes where entries point to nothing."""
        for memory in (self.rig.memory, self.twin_memory):
            slot = memory.slot_at(HOLE)
            if slot is None:
                memory.add_ram(HOLE, 0x1000)
            else:
                memory.remove(slot)

    def _bytes(self, frame):
        return self.rig.memory.slot_at(0).view[frame << 12 : frame + 1 << 12].tobytes()

    def _load(self, cpu, regs):
        with suppress(GeneralProtection):
            self.rig.load(cpu, regs)

    def _compare(self):
        """The twin's bytes must be the same."""
        theirs = self.twin_memory.slot_at(0).view
        for frame in FRAMES:
            twin = theirs[frame << 12 : frame + 1 << 12].tobytes()
            assert self._bytes(frame) == twin, f"frame {frame:x} differs from the twin's"


# Steps for a seeded generator: (weight, name, ranges of the arguments).
STEPS = (
    (8, "access", (4, 1 << 16, 14)),
    (2, "burst", (4, 1 << 16, 14)),
    (6, "store", (4, 1 << 16, len(OFFSETS), len(SIZES), "entry", 2, (1, 1, 1, 4))),
    (5, "remap", (4, 1 << 16, (0, 0, 0, 1, 2, 3), "entry", 14, 16)),
    (2, "toggle", (4, 1 << 16, len(MODE_BITS) + 2, 14)),
    (1, "reload_pdptes", (4, 1 << 16, 1 << 16)),
    (1, "repair", (TABLES, 1 << 16)),
    (3, "store_held", (1 << 16, len(OFFSETS), 4, "entry")),
    (5, "edit", (TABLES, "offset", SIZES, "entry", 3)),
    (1, "edit", ((PDPT,), 64, (8,), "pdpte", 3)),
    (2, "load", (4, "mode", 16, "bits", len(PKRUS), 384)),
    (2, "flip", (4, len(MODE_BITS) + 2)),
    (2, "invlpg", (4, 1 << 16)),
    (1, "flush", (4,)),
    (1, "owner", (5, 4)),
)


def random_step(random: Random):
    """A step as (name, arguments)."""
    _, name, ranges = random.choices(STEPS, [step[0] for step in STEPS])[0]
    args = []
    frame = 0
    for span in ranges:
        if span == "entry":
            args.append(random_entry(random, frame) | random_entry(random, frame) << 64)
        elif span == "mode":
            args.append(random.choice((0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4)))
        elif span == "bits":
            args.append(random.getrandbits(7) & random.getrandbits(7) | random.getrandbits(2))
        elif span == "offset":
            word = random.choice(WORDS) * 8
            args.append(max(word + random.choice((0,) * 20 + (1, 3, -1, -3, 4, -4)), 0))
        elif span == "pdpte":
            args[1] = args[1] * 8 % 512
            args.append(random_pdpte(random))
        elif isinstance(span, tuple):
            args.append(random.choice(span))
            frame = args[0]
        else:
            args.append(random.randrange(span))
    return name, args


def run(seed, steps, cpus=None, pool=None, policy=None, plugin=None):
    """Run a world from a seed; returns it. The step that fails is named in the exception."""
    random = Random(seed)
    cpus = random.choice((1, 1, 2, 4)) if cpus is None else cpus
    pool = random.randrange(5) if pool is None else pool
    policy = random.choice(POLICIES) if policy is None else policy
    plugin = random.choice(("shadow", CompiledFirst)) if plugin is None else plugin
    done = []
    world = World(seed, cpus, pool, policy, plugin)
    for number in range(steps):
        name, args = random_step(random)
        done.append((name, args))
        try:
            getattr(world, name)(*args)
        except Exception as error:
            error.add_note(
                f"seed {seed}, step {number}: {name}{tuple(args)}, {cpus} vCPUs, pool +{pool}, "
                f"policy {policy!r}, {plugin}"
            )
            raise
    return world
