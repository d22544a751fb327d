# SPDX-License-Identifier: GPL-2.0-or-later
"""What is raised when two that should agree do not, and what a random case is."""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["Case", "Difference"]

Case: TypeAlias = "dict[str, Any]"
"""Plain JSON values that say everything about one run; its list of `steps` may lose any member."""


class Difference(Exception):
    """Two that should agree do not. ``kind`` is the sort of difference, one or two words, by which
    the minimiser recognises a failure; the message holds both sides."""

    def __init__(self, kind: str, message: str) -> None:
        """Describe it."""
        super().__init__(f"{kind}: {message}")
        self.kind = kind
