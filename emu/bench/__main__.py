# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m emu.bench``: the benchmark without the rest of the command line."""

from __future__ import annotations

import sys

from emu.bench.command import command
from emu.errors import UsageError

try:
    sys.exit(command(sys.argv[1:]))
except UsageError as error:
    print(f"shadowcorn bench: {error}", file=sys.stderr)
    sys.exit(2)
