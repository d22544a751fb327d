# SPDX-License-Identifier: GPL-2.0-or-later
"""What looks at a running machine: the TLB sanitizer, and what else debugs."""
