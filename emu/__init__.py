# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine around Unicorn: vCPUs, devices, boot, and the command."""
