# SPDX-License-Identifier: GPL-2.0-or-later
"""The plug-in ``kvm2007``: the shadow MMU with the key of a shadow page as January 2007 had it.

That key left out the access which a page inherits from the entries above it. Two directory entries
with different rights that lead to one guest table therefore share one shadow page, and the first to
come decides what the second may do. The bug lived until 2021 (CVE-2021-38198).
``--mmu lockstep:kvm2007,uncached`` stops where it shows.
"""

from __future__ import annotations

from .arch import ACC_ALL
from .observe import CompiledBlock
from .shadow.context import ShadowContext
from .shadow.mmu import ShadowMmu
from .shadow.role import ACCESS_SHIFT, is_direct
from .walker import Walk

__all__ = ["KeyWithoutAccess", "Kvm2007"]


class KeyWithoutAccess(ShadowContext):
    """Makes keys in which the inherited access is always all rights."""

    __slots__ = ()

    def child_key(self, found: Walk, level: int, direct_rights: int) -> tuple[int, int]:
        """As :meth:`ShadowContext.child_key`, without the access."""
        gfn, role = super().child_key(found, level, direct_rights)
        return gfn, role | (0 if is_direct(role) else ACC_ALL << ACCESS_SHIFT)


class Kvm2007(ShadowMmu):
    """The shadow MMU without the inherited access in its keys."""

    name = "kvm2007"
    context_class = KeyWithoutAccess

    def compiled_block(self, cpu: int) -> CompiledBlock | None:
        """None: what is to be seen happens in Python."""
        return None
