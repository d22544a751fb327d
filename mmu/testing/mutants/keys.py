# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants whose key lacks something: two tables that differ share a shadow page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...arch import (
    ACC_ALL,
    ACC_WRITE,
    Levels,
)
from ...kvm2007 import KeyWithoutAccess
from ...shadow.context import ShadowContext
from ...shadow.pool import ShadowPage
from ...shadow.role import (
    ACCESS_SHIFT,
    GLEVELS_MASK,
    NXE,
    PKE_ANDNOT_WP,
    PKEY_SHIFT,
    PSE,
    QUADRANT_SHIFT,
    SMAP_ANDNOT_WP,
    SMEP_ANDNOT_WP,
    WP,
    is_direct,
    level_of,
)
from ...walker import Walk
from .base import Mutant, around


class Kvm2007(Mutant):
    """The key as it was published."""

    bug = "inherited access is not in the key (CVE-2021-38198)"
    case = (1,)
    context_class = KeyWithoutAccess


class _DirectKeyWithoutAccess(ShadowContext):
    __slots__ = ()

    def child_key(self, found: Walk, level: int, direct_rights: int) -> tuple[int, int]:
        gfn, role = super().child_key(found, level, direct_rights)
        return gfn, role | (ACC_ALL << ACCESS_SHIFT if is_direct(role) else 0)


class DirectPagesShared(Mutant):
    """A large page's small ones are shared by all who map it, with the rights of any of them."""

    bug = "direct pages of other rights are one page"
    case = (2, 3)
    context_class = _DirectKeyWithoutAccess

    def _mutate(self) -> None:
        around(
            self.faults,
            "_build",
            lambda build, context, found, rights, to_level: build(
                context, found, ACC_ALL, to_level
            ),
        )


class DirectPagesTearEachOtherDown(Mutant):
    """Linux d28c6cfbbc5e: right, but each use of the one tears down the other."""

    bug = "the direct page is rebuilt each time its other user comes by"
    case = (2,)
    dies = "claim"

    def _mutate(self) -> None:
        kept: dict[int, ShadowPage] = {}

        def get_page(get: Callable[[int, int], ShadowPage], gfn: int, role: int) -> ShadowPage:
            if is_direct(role) and role & GLEVELS_MASK:
                old = kept.get(gfn)
                if old is not None and old.role != role and old in set(self.pool):
                    self.cache.zap_page(old)
            page = get(gfn, role)
            if page.direct:
                kept[gfn] = page
            return page

        around(self.cache, "get_page", get_page)


class DirectPagesWritableBeforeDirty(Mutant):
    """Linux c22885050e65."""

    bug = "a direct page is writable before its large entry is dirty, and shared with a clean one"
    case = (4,)

    def _mutate(self) -> None:
        def build(
            build: Callable[..., Any], context: ShadowContext, found: Walk, rights: int, level: int
        ) -> Any:
            may_write = found.rights & ACC_WRITE or not context.paging.wp
            return build(context, found, rights | ACC_WRITE if may_write else rights, level)

        around(self.faults, "_build", build)
        around(self.cache, "may_be_large", lambda may, gfn: False)


class _KeyWithoutLevels(ShadowContext):
    __slots__ = ()

    def child_key(self, found: Walk, level: int, direct_rights: int) -> tuple[int, int]:
        gfn, role = super().child_key(found, level, direct_rights)
        if level_of(role) > 1 or is_direct(role):
            return gfn, role
        return gfn, role & ~GLEVELS_MASK | Levels.PAE


class WidthsShareAKey(Mutant):
    """One frame, read as 4-byte and as 8-byte entries."""

    bug = "the levels of the guest's tables are not in the key"
    case = (28,)
    context_class = _KeyWithoutLevels


class _KeyWithoutQuadrant(ShadowContext):
    __slots__ = ()

    def child_key(self, found: Walk, level: int, direct_rights: int) -> tuple[int, int]:
        gfn, role = super().child_key(found, level, direct_rights)
        return gfn, role & ~(1 << QUADRANT_SHIFT) if level == 1 else role


class HalvesShareAKey(Mutant):
    """Entry 0 and entry 512 of a 32-bit table."""

    bug = "the quadrant of a page table is not in the key"
    case = (5, 6)
    context_class = _KeyWithoutQuadrant


class _DirectKeyWithoutPkey(ShadowContext):
    __slots__ = ()

    def child_key(self, found: Walk, level: int, direct_rights: int) -> tuple[int, int]:
        gfn, role = super().child_key(found, level, direct_rights)
        return gfn, role & ~(15 << PKEY_SHIFT)


class KeysShareADirectPage(Mutant):
    """Two large pages of one frame, one of them with a protection key."""

    bug = "the protection key of a large page is not in the key of its direct page"
    case = (27,)
    context_class = _DirectKeyWithoutPkey


class NxNotInKey(Mutant):
    """Linux 5f0b819995e1."""

    bug = "EFER.NXE is not in the key"
    case = (16,)
    forgotten_mode_bits = NXE


class WpNotInKey(Mutant):
    """kvm-unit-tests, check_toggle_cr0_wp."""

    bug = "CR0.WP is not in the key"
    case = (17,)
    forgotten_mode_bits = WP | SMEP_ANDNOT_WP | SMAP_ANDNOT_WP | PKE_ANDNOT_WP


class SmepNotInKey(Mutant):
    """A page written under CR0.WP = 0 before CR4.SMEP was set."""

    bug = "CR4.SMEP with CR0.WP = 0 is not in the key"
    case = (18,)
    forgotten_mode_bits = SMEP_ANDNOT_WP


class SmapNotInKey(Mutant):
    """The same for CR4.SMAP."""

    bug = "CR4.SMAP with CR0.WP = 0 is not in the key"
    case = (18,)
    forgotten_mode_bits = SMAP_ANDNOT_WP


class PkeNotInKey(Mutant):
    """The same for CR4.PKE."""

    bug = "CR4.PKE with CR0.WP = 0 is not in the key"
    case = (18,)
    forgotten_mode_bits = PKE_ANDNOT_WP


class PseNotInKey(Mutant):
    """Bit 7 of a 32-bit directory entry."""

    bug = "CR4.PSE is not in the key"
    case = (15,)
    forgotten_mode_bits = PSE
