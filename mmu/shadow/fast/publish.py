# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps a vCPU's block (see record.py) in step with its context and the cache."""

from __future__ import annotations

from ...arch import ACCESS_FETCH, ACCESS_USER, ACCESS_WRITE
from ..cache import ShadowCache
from ..context import ShadowContext, denied_keys
from . import record
from .record import Block

__all__ = ["KINDS", "publish", "publish_root"]

KINDS = (0, ACCESS_WRITE, ACCESS_FETCH)
"""The accesses that KIND_READ, KIND_WRITE and KIND_FETCH stand for."""


def publish_root(block: Block, root: int) -> None:
    """Let the walk start at the place ``root``."""
    block.words[record.ROOT // 8] = root


def publish(block: Block, context: ShadowContext, cache: ShadowCache) -> None:
    """Show compiled code a vCPU's context, except for its root. About 3 us."""
    words = block.words
    paging = context.paging
    pool, tlb = cache.pool, cache.tlb
    for offset, value in (
        (record.TABLES, pool.address),
        (record.TOP_SHIFT, context.shifts[0]),
        (record.GVA_MASK, paging.gva_mask),  # all ones read as -1
        (record.CANONICAL, paging.canonical_bits - 1),
        (record.BLOCKED, bool(cache.observers)),
        (record.NO_WRITES, tlb.is_logging),
        (record.SMAP, paging.smap),
        (record.TRACKER, tlb.shared_address),
        (record.RECORDS, pool.records_address),
        (record.RESERVED, paging.leaf_reserved),
        (record.FRAME_BITS, paging.frame_mask),
        (record.EPOCHS, pool.epochs_address),
        (record.FRAMES, len(cache.frame_state)),
        (record.STATES, cache.frame_state_address),
        (record.RMAP, cache.rmap.address),
    ):
        words[offset // 8] = value
    denied = denied_keys(paging.regs.pkru, paging.wp) if paging.pke else {}
    check, key = record.CHECKS // 8, record.KEYS // 8
    for user in (0, ACCESS_USER):
        for kind in KINDS:
            words[check], words[check + 1] = context.tests[kind | user]
            words[key] = denied.get(kind | user, 0)
            check += record.CHECK_BYTES // 8
            key += record.KEY_BYTES // 8
