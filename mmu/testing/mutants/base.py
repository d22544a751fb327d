# SPDX-License-Identifier: GPL-2.0-or-later
"""What a mutant is: the shadow MMU and a patch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from ...api import TlbHost
from ...arch import (
    Features,
)
from ...memory import Memory
from ...observe import CompiledBlock
from ...shadow.context import ShadowContext
from ...shadow.mmu import ShadowMmu


def around(owner: object, name: str, wrapper: Callable[..., Any]) -> None:
    """Call ``wrapper(original, *args)`` instead of ``owner.name(*args)``."""
    setattr(owner, name, partial(wrapper, getattr(owner, name)))


def instead(owner: object, name: str, function: Callable[..., Any]) -> None:
    """Call ``function(*args)`` instead of ``owner.name(*args)``."""
    setattr(owner, name, function)


class Mutant(ShadowMmu):
    """The shadow MMU, to be broken by overriding a method or in :meth:`_mutate`.

    ``bug`` says what is wrong, ``case`` has the numbers of the cases that are to find it, and
    ``dies`` what they find:

    ======== =====================================================================================
    answer   the guest gets a wrong one: another fault, frame, A or D, or a store not trapped
    stale    a TLB holds what it must not
    claim    what the case itself says, of traps, flushes, pages built, code dropped
    audit    nothing that a guest sees, the tables are only at odds with themselves
    crash    the plug-in raises ``crash``, as the real one did what ends a kernel
    ======== =====================================================================================

    ``forgotten_mode_bits`` are left out of every role, ``context_class`` makes the keys.
    """

    bug: ClassVar[str]
    case: ClassVar[tuple[int, ...]]
    dies: ClassVar[str] = "answer"
    crash: ClassVar[type[Exception] | None] = None
    forgotten_mode_bits: ClassVar[int] = 0

    def __init__(
        self, memory: Memory, host: TlbHost, cpus: int, *, features: Features, pool: int
    ) -> None:
        super().__init__(memory, host, cpus, features=features, pool=pool)
        self.name = type(self).__name__
        self._mutate()

    def _mutate(self) -> None:
        """Put the bug in."""

    def compiled_block(self, cpu: int) -> CompiledBlock | None:
        """None: compiled code would answer without the bug."""
        return None

    def _enter_root_page(self, context: ShadowContext) -> None:
        context.mode &= ~self.forgotten_mode_bits
        super()._enter_root_page(context)

    def _link_known_directory(self, context: ShadowContext, gigabyte: int) -> None:
        context.mode &= ~self.forgotten_mode_bits
        super()._link_known_directory(context, gigabyte)
