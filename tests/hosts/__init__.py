# SPDX-License-Identifier: GPL-2.0-or-later
"""shadowcorn on hosts that are not this one: see `tests.hosts.__main__`."""
