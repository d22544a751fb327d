# SPDX-License-Identifier: GPL-2.0-or-later
"""The plug-ins that the tests of the MMU run on.

`rigs` makes a `Rig` with each plug-in in turn, `shadows` with the shadow MMU only: as it comes,
with most policies off, so that each store to a table is trapped, and with its compiled half first.
"""

from __future__ import annotations

from functools import partial

import pytest

from .compiled_first import CompiledFirst
from .rig import Rig

PLAIN = "unsync=off,large=off,prefetch=off,reuse=off"
SHADOWS = {
    "shadow": partial(Rig, "shadow"),
    "shadow-plain": partial(Rig, "shadow", policy=PLAIN),
    "shadow-compiled": partial(Rig, CompiledFirst),
}
PLUGINS = {**SHADOWS, "uncached": partial(Rig, "uncached")}


@pytest.fixture(params=PLUGINS)
def rigs(request):
    return PLUGINS[request.param]


@pytest.fixture(params=SHADOWS)
def shadows(request):
    return SHADOWS[request.param]
