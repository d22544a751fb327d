# SPDX-License-Identifier: GPL-2.0-or-later
"""The chips of the board, one file each."""
