# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways to start a kernel: multiboot, flat binary, boot sector."""
