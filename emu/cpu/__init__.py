# SPDX-License-Identifier: GPL-2.0-or-later
"""The vCPU: the one place that talks to Unicorn, and the delivery of events."""
