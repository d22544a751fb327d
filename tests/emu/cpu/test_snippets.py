# SPDX-License-Identifier: GPL-2.0-or-later
"""The committed machine code is what its assembly says."""

from __future__ import annotations

import pytest

from .snippets import ORIGIN, SOURCES

try:
    import keystone
except ImportError:
    keystone = None


@pytest.mark.skipif(keystone is None, reason="keystone is not to be had here")
@pytest.mark.parametrize("name", SOURCES)
def test_code_is_its_assembly(name: str) -> None:
    bits, text, code = SOURCES[name]
    mode = {16: keystone.KS_MODE_16, 32: keystone.KS_MODE_32, 64: keystone.KS_MODE_64}[bits]
    assembled, _ = keystone.Ks(keystone.KS_ARCH_X86, mode).asm(text, ORIGIN)
    assert bytes(assembled).hex() == code
