# SPDX-License-Identifier: GPL-2.0-or-later
"""Toy kernels: sources, assembled images and what they print."""
