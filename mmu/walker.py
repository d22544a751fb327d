# SPDX-License-Identifier: GPL-2.0-or-later
"""The architecture's truth: one walk of the guest's tables, in any mode.

:class:`Context` is one vCPU's paging state: the control registers, what they select from
``arch``, and the four PDPTE registers of PAE paging. :func:`walk` follows an address through the
guest's tables and returns the whole path as a :class:`Walk`, with the guest's own fault on it if
there is one, and changes nothing. :func:`set_accessed_dirty` then does what the processor does to
the entries of a walk that succeeded. Debuggers call the first and never the second.
"""

from __future__ import annotations

from typing import Any

from .api import NotCanonical, PageFault, PagingRegisters
from .arch import (
    ACC_ALL,
    ACC_EXEC,
    ACC_USER,
    ACC_WRITE,
    ACCESS_FETCH,
    ACCESS_IMPLICIT,
    ACCESS_USER,
    ACCESS_WRITE,
    CR0_PDPTE_BITS,
    CR0_WP,
    CR4_PDPTE_BITS,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_NXE,
    MODES,
    PAGE_SHIFT,
    PFERR_PK,
    PFERR_PRESENT,
    PFERR_RSVD,
    PT_ACCESSED,
    PT_DIRTY,
    PT_NX,
    PT_PAGE_SIZE,
    PT_PAT,
    PT_PAT_LARGE,
    PT_PCD,
    PT_PKEY_SHIFT,
    PT_PRESENT,
    PT_PWT,
    Features,
    Levels,
    PagingMode,
    bits,
    denial_table,
    is_canonical,
    levels_of,
    pkey_denies,
    reserved_bits,
)
from .memory import Memory

MEMORY_TYPES = {0: "UC", 1: "WC", 4: "WT", 5: "WP", 6: "WB", 7: "UC-"}
"""What an entry of the PAT stands for (SDM 3A table 11-10)."""

ALL_ONES = {4: 0xFFFF_FFFF, 8: 0xFFFF_FFFF_FFFF_FFFF}


class Context:
    """One vCPU's paging state, made anew from the registers by :meth:`load`.

    ``plan`` is the walk spelled out, one row per level from the root down: (level, shift, index
    mask, reserved bits, reserved bits if PS = 1, whether PS = 1 maps a page here).
    ``leaf_reserved`` are the reserved bits of its last row.
    """

    __slots__ = (
        "_root_mask",
        "canonical_bits",
        "denied",
        "entry_bytes",
        "features",
        "fetch_code",
        "frame_mask",
        "gva_mask",
        "leaf_reserved",
        "levels",
        "mode",
        "nxe",
        "pdptes",
        "pke",
        "plan",
        "pse",
        "regs",
        "root_gpa",
        "smap",
        "smep",
        "wp",
    )

    def __init__(self, features: Features) -> None:
        self.features = features
        self.pdptes = [0, 0, 0, 0]
        self.regs = PagingRegisters(0, 0, 0, 0)
        self.root_gpa = 0
        self._decode(self.regs)

    def load(self, memory: Memory, regs: PagingRegisters) -> bool:
        """Take new registers, and load the PDPTE registers if the processor would (SDM 4.4.1).

        The same registers again stand for a reload of CR3. Returns whether anything but CR3 has
        changed. Under 1 us if not, else about 6.
        """
        old = self.regs
        changed = regs[0] != old[0] or regs[2] != old[2] or regs[3:] != old[3:]
        if changed:
            self._decode(regs)
        self.regs = regs
        self.root_gpa = regs.cr3 & self._root_mask
        if self.levels is Levels.PAE and (
            regs == old
            or regs.cr3 != old.cr3
            or (regs.cr0 ^ old.cr0) & CR0_PDPTE_BITS
            or (regs.cr4 ^ old.cr4) & CR4_PDPTE_BITS
        ):
            self.pdptes = read_pdptes(memory, regs.cr3)
        return changed

    def _decode(self, regs: PagingRegisters) -> None:
        """Work out everything that follows from CR0, CR4 and EFER."""
        self.levels = levels = levels_of(regs.cr0, regs.cr4, regs.efer)
        self.mode: PagingMode = MODES[levels]
        self.wp = bool(regs.cr0 & CR0_WP)
        self.smep = bool(regs.cr4 & CR4_SMEP) and levels is not Levels.NONE
        self.smap = bool(regs.cr4 & CR4_SMAP) and levels is not Levels.NONE
        self.pse = bool(regs.cr4 & CR4_PSE) or levels is not Levels.TWO
        self.nxe = bool(regs.efer & EFER_NXE) and levels >= Levels.PAE
        self.pke = bool(regs.cr4 & CR4_PKE) and levels >= Levels.FOUR
        # The I/D flag is there to be set only if fetches can be told apart (SDM 4.7).
        self.fetch_code = ACCESS_FETCH if self.nxe or self.smep else 0
        self.denied = denial_table(self.wp, self.smep, self.smap)
        self.entry_bytes = self.mode.entry_bytes
        self.gva_mask = (1 << 64) - 1 if levels >= Levels.FOUR else 0xFFFF_FFFF
        self.canonical_bits = self.mode.gva_bits if levels >= Levels.FOUR else 64
        self.frame_mask = bits(PAGE_SHIFT, self.features.phys_bits - 1)
        self._root_mask = self.frame_mask if levels >= Levels.FOUR else 0xFFFF_F000
        top = 2 if levels is Levels.PAE else int(levels)
        self.plan = tuple(self._row(level) for level in range(top, 0, -1))
        self.leaf_reserved = self.plan[-1][3] if self.plan else 0

    def fault(self, gva: int, access: int, why: int) -> PageFault:
        """Return the fault with the error code of SDM 4.7; ``why`` is 0, P, P|RSVD or P|PK."""
        code = access & ACCESS_WRITE | self.fetch_code & access | why
        if access & ACCESS_USER and not access & ACCESS_IMPLICIT:
            code |= ACCESS_USER
        return PageFault(gva, code)

    def may_read_too(self, user: int, pkey: int, access: int) -> bool:
        """Return whether a fetch that is allowed may be followed by a read of the same page.

        SMAP and protection keys forbid data accesses to user pages and not fetches (SDM 4.6), so
        an entry granted for a fetch must not always allow reads. ``user``: ACC_USER or 0.
        """
        if not user or not (self.smap or self.pke):
            return True
        read = access & ~ACCESS_FETCH
        if self.pke and pkey_denies(self.regs.pkru, pkey, read, wp=self.wp):
            return False
        return not self.denied[read] >> user & 1

    def _row(self, level: int) -> tuple[int, int, int, int, int, bool]:
        mode = self.mode
        large = level in mode.large_levels and self.pse
        if level == 3 and not self.features.gbpages:
            large = False
        args = self.levels, level
        return (
            level,
            mode.shift(level),
            (1 << mode.index_bits) - 1,
            reserved_bits(*args, False, self.nxe, self.features),
            reserved_bits(*args, large, self.nxe, self.features),
            large,
        )


class Walk:
    """The whole path of one address through the guest's tables.

    ``entries`` holds, from the root down, (level, gpa of the entry, the entry, rights so far);
    the last one is the entry that maps the page, or the one at which the walk ended. ``fault`` is
    None for a walk that succeeded; then ``level`` is the level of the mapping entry (1: a 4 KiB
    page), ``frame`` the gfn of the 4 KiB page of ``gva``, ``rights`` a union of ``ACC_*`` over
    the path, ``dirty`` the D bit of the mapping entry and ``pkey`` its protection key.
    ``pdpte`` is the PAE register that was used, if any.
    """

    __slots__ = (
        "access",
        "dirty",
        "entries",
        "fault",
        "frame",
        "gva",
        "level",
        "pdpte",
        "pkey",
        "rights",
    )

    def __init__(self, gva: int, access: int) -> None:
        self.gva = gva
        self.access = access
        self.entries: list[tuple[int, int, int, int]] = []
        self.fault: PageFault | NotCanonical | None = None
        self.frame = 0
        self.level = 0
        self.rights = ACC_ALL
        self.dirty = True
        self.pkey = 0
        self.pdpte: int | None = None

    @property
    def gpa(self) -> int:
        """The guest-physical address of ``gva``, for a walk that succeeded."""
        return self.frame << PAGE_SHIFT | self.gva & 0xFFF

    @property
    def pat_index(self) -> int:
        """Which of the eight entries of the PAT the mapping entry selects: PAT, PCD, PWT (SDM 3A
        4.9.2). 0 without paging and for a walk that failed, which select nothing."""
        if not self.level:
            return 0
        gpte = self.entries[-1][2]
        pat = PT_PAT if self.level == 1 else PT_PAT_LARGE
        return (4 if gpte & pat else 0) | (2 if gpte & PT_PCD else 0) | bool(gpte & PT_PWT)

    def memory_type(self, pat: int) -> str:
        """Return the memory type that the guest asks for: "WB", "UC-"..., under the MSR ``pat``.

        It means nothing here: all memory is coherent. What the MTRRs say is not looked at.
        """
        return MEMORY_TYPES.get(pat >> 8 * self.pat_index & 0xFF, "reserved")

    def rights_above(self, level: int) -> int:
        """Return what the entries at levels above ``level`` allow together."""
        rights = ACC_ALL
        for entry_level, _, _, so_far in self.entries:
            if entry_level <= level:
                break
            rights = so_far
        return rights


def walk(memory: Memory, context: Context, gva: int, access: int) -> Walk:
    """Walk the guest's tables for ``access`` (a union of ``arch.ACCESS_*``) to ``gva``.

    Changes nothing: not A and D, no counters. One read of guest memory per level. A table that
    lies in no RAM or ROM reads as all ones, which is a reserved-bit fault in most formats.
    """
    gva &= context.gva_mask
    found = Walk(gva, access)
    levels = context.levels
    if levels is Levels.NONE:
        found.frame = gva >> PAGE_SHIFT
        return found
    table = context.root_gpa
    if levels is Levels.PAE:
        found.pdpte = pdpte = context.pdptes[gva >> 30]
        if not pdpte & PT_PRESENT:
            found.fault = context.fault(gva, access, 0)
            return found
        table = pdpte & context.frame_mask
    elif not is_canonical(gva, context.canonical_bits):
        found.fault = NotCanonical(gva)
        return found
    table_of = memory.table32 if context.entry_bytes == 4 else memory.table64
    width = context.entry_bytes
    frame_mask = context.frame_mask
    entries = found.entries
    rights = ACC_ALL
    for level, shift, index_mask, reserved, reserved_large, may_be_large in context.plan:
        index = gva >> shift & index_mask
        words = table_of(table >> PAGE_SHIFT)
        gpte = words[index] if words is not None else ALL_ONES[width]
        rights &= gpte & (ACC_WRITE | ACC_USER) | (0 if gpte & PT_NX and width == 8 else ACC_EXEC)
        entries.append((level, table + index * width, gpte, rights))
        if not gpte & PT_PRESENT:
            found.fault = context.fault(gva, access, 0)
            return found
        large = may_be_large and gpte & PT_PAGE_SIZE
        if gpte & (reserved_large if large else reserved):
            found.fault = context.fault(gva, access, PFERR_PRESENT | PFERR_RSVD)
            return found
        if large or level == 1:
            break
        table = gpte & frame_mask
    found.level = level
    found.rights = rights
    found.dirty = bool(gpte & PT_DIRTY)
    offset_mask = (1 << shift) - 1
    if width == 4 and large:
        # PSE-36: bits 13 to 20 are address bits 32 to 39 (SDM table 4-4).
        base = gpte & 0xFFC0_0000
        if context.features.pse36:
            base |= (gpte & bits(13, 20)) << 19
        base &= frame_mask
    else:
        base = gpte & frame_mask & ~offset_mask
    found.frame = (base | gva & offset_mask) >> PAGE_SHIFT
    if levels >= Levels.FOUR:
        found.pkey = gpte >> PT_PKEY_SHIFT & 15
    # The error code tells of the key even where the other rights would have sufficed for a fault.
    if (
        context.pke
        and rights & ACC_USER
        and pkey_denies(context.regs.pkru, found.pkey, access, wp=context.wp)
    ):
        found.fault = context.fault(gva, access, PFERR_PRESENT | PFERR_PK)
    elif context.denied[access] >> rights & 1:
        found.fault = context.fault(gva, access, PFERR_PRESENT)
    return found


def set_accessed_dirty(memory: Memory, context: Context, found: Walk) -> list[int]:
    """Set A in every entry of a walk that succeeded, and D in the last if it was a write.

    Returns the gpas of the entries that changed, mostly none, and brings ``found`` up to date. An
    entry in ROM stays as it is. SDM 4.8; KVM's update_accessed_dirty_bits.
    """
    changed: list[int] = []
    last = len(found.entries) - 1
    for i, (level, gpa, gpte, rights) in enumerate(found.entries):
        wanted = PT_ACCESSED
        if i == last and found.access & ACCESS_WRITE:
            wanted |= PT_DIRTY
        if gpte & wanted == wanted:
            continue
        gfn = gpa >> PAGE_SHIFT
        if context.entry_bytes == 4:
            words, index = memory.table32(gfn), (gpa & 0xFFF) >> 2
        else:
            words, index = memory.table64(gfn), (gpa & 0xFFF) >> 3
        if words is not None and not words.readonly:
            # The entry may have changed under an alias on this same path: or in, never copy.
            words[index] |= wanted
            changed.append(gpa)
        found.entries[i] = (level, gpa, gpte | wanted, rights)
    if found.access & ACCESS_WRITE:
        found.dirty = True
    return changed


def read_pdptes(memory: Memory, cr3: int) -> list[int]:
    """Return the four entries that PAE paging loads from the 32-byte table at CR3."""
    gpa = cr3 & 0xFFFF_FFE0
    words = memory.table64(gpa >> PAGE_SHIFT)
    if words is None:
        return [ALL_ONES[8]] * 4
    first = (gpa & 0xFFF) >> 3
    return list(words[first : first + 4])


def pdptes_valid(memory: Memory, regs: PagingRegisters, features: Features) -> bool:
    """Return whether loading the PDPTE registers would succeed; if not, the MOV is #GP(0).

    Always True where the registers select another mode than PAE paging (SDM 4.4.1).
    """
    if levels_of(regs.cr0, regs.cr4, regs.efer) is not Levels.PAE:
        return True
    reserved = reserved_bits(Levels.PAE, 3, False, True, features)
    return not any(
        pdpte & PT_PRESENT and pdpte & reserved for pdpte in read_pdptes(memory, regs.cr3)
    )


def describe(found: Walk, context: Context, pat: int | None = None) -> str:
    """Return a walk as text, a line a level, for reports and debuggers; with ``pat``, the MSR, the
    memory type too."""
    lines = [f"{found.gva:#x} by {context.mode.name} paging, CR3 {context.regs.cr3:#x}"]
    if found.pdpte is not None:
        lines.append(f"  PDPTE register {found.gva >> 30}: {found.pdpte:#x}")
    for level, gpa, gpte, _ in found.entries:
        name = {1: "PTE", 2: "PDE", 3: "PDPTE", 4: "PML4E", 5: "PML5E"}[level]
        lines.append(
            f"  level {level} {name:5} at {gpa:#x}: {gpte:#x} {_flags(level, gpte, context)}"
        )
    if found.fault is not None:
        lines.append(f"  -> {found.fault}")
    else:
        size = {0: "no paging", 1: "4 KiB"}.get(found.level, "large page")
        of_type = f", {found.memory_type(pat)}" if pat is not None and found.level else ""
        lines.append(f"  -> gpa {found.gpa:#x} ({size}, {rights_text(found.rights)}{of_type})")
    return "\n".join(lines)


def _flags(level: int, gpte: int, context: Context) -> str:
    names: list[tuple[int, Any]] = [(0, "P"), (1, "W"), (2, "U"), (3, "PWT"), (4, "PCD")]
    names += [(5, "A"), (6, "D"), (7, "PAT" if level == 1 else "PS")]
    names += [(8, "G")]
    if context.entry_bytes == 8:
        names.append((63, "NX"))
    return " ".join(name for bit, name in names if gpte >> bit & 1) or "-"


def rights_text(rights: int) -> str:
    """Return rights as KVM prints them in a role: ``wux``, with ``-`` for what is missing."""
    return "".join(
        letter if rights & bit else "-"
        for bit, letter in ((ACC_WRITE, "w"), (ACC_USER, "u"), (ACC_EXEC, "x"))
    )
