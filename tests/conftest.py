# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share: long random testing runs only when asked for, with `-m fuzz`."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config, items):
    if not config.option.markexpr:
        skip = pytest.mark.skip(reason="long; run with -m fuzz")
        for item in items:
            if item.get_closest_marker("fuzz"):
                item.add_marker(skip)
