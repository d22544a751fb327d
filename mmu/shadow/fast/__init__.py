# SPDX-License-Identifier: GPL-2.0-or-later
"""What compiled code reads and runs: the walk of the shadow tables, and the records it needs."""
