# SPDX-License-Identifier: GPL-2.0-or-later
"""Which loader an image needs."""

from __future__ import annotations

from emu.boot.request import Boot, BootRequest

__all__ = ["detect", "load"]


def detect(image: bytes) -> str:
    """Return the format of `image`, one of `FORMATS`; raises KernelError where there is none."""
    raise NotImplementedError


def load(image: bytes, request: BootRequest) -> Boot:
    """Put `image` into memory and return the start state; raises KernelError."""
    raise NotImplementedError
