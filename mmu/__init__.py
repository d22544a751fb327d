# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory management unit: x86 paging, and the shadow page cache that answers for it."""
