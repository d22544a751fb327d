# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m emu.kernels`: the command."""

import sys

from emu.kernels.command import command

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
