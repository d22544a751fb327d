# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share: long random testing and timing run only when asked for, by their marker."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# How fast the host is decides nothing: not even whether examples are drawn too slowly.
settings.register_profile("any host", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any host")


def pytest_collection_modifyitems(config, items):
    if not config.option.markexpr:
        reasons = {
            "fuzz": "long; run with -m fuzz",
            "kernels": "minutes each; run with -m kernels",
            "hosts": "other hosts, minutes each; run with -m hosts",
            "timing": "needs a free machine; -m timing",
        }
        for item in items:
            for marker, reason in reasons.items():
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))
