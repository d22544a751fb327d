# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of kernels with pytest. The plug-in comes with the package; nothing has to be switched on.

    from emu.testing import kernel_suite

    def test_shell(kernel):                       # pytest --kernel build/kernel.elf
        m = kernel(smp=2, append="selftest")
        m.expect(r"init: (\\d+) cpus")
        m.serial.feed("forktest\\n")
        m.expect_exact("fork test OK")

    test_suite = kernel_suite("build/kernel.elf", minimum=40)   # one test per line it reports

`plugin` is what pytest imports: options, fixtures, collection. `launch` turns a kernel and options
into a machine and into the command that repeats its run. `machine` is what a test holds, with
`consoles` and `memory`; `transcript` is the text that a guest has sent. `protocols` and `tap` read
test reports (`reports`) out of such text, `suite` runs a kernel for its report, and `failure` says
what a person needs to know of a machine that did not do what it should.

A limit is a number of guest instructions, and input arrives at a position of the run: how fast the
host is changes no result.
"""

from __future__ import annotations

from emu.testing.suite import KernelSuite, kernel_suite

__all__ = ["KernelSuite", "kernel_suite"]
