# SPDX-License-Identifier: GPL-2.0-or-later
"""The gdb remote stub.

    protocol    packets: bytes in, bytes out; knows no machine
    registers   what a debugger sees of the registers in each mode, and the XML that describes it
    session     one debugger: a packet in, replies out; drives a `DebugTarget` through a `Control`
    server      a listening socket and its connections

gdb's manual, appendix E, is the reference; what QEMU answers decides where that leaves a choice,
as scripts are written for QEMU.
"""
