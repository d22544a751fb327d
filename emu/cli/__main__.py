# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m emu.cli`: the command, where its script is not on PATH."""

import sys

from emu.cli import main

if __name__ == "__main__":
    sys.exit(main())
