# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel promises."""

from emu.testing import kernel_suite

test_self = kernel_suite(append="selftest", minimum=4)


def test_shell(kernel):
    m = kernel()
    m.expect_exact("> ")
    m.serial.feed("uptime\n")
    assert m.expect(r"unknown: (\w+)$")[1] == "uptime"
    m.serial.feed("off\n")
    m.run_to_exit(code=0x10)


def test_clock_that_stands_still_is_noticed(kernel):
    m = kernel()
    m.expect_exact("> ")
    m.memory["ticks"] = 0
    m.serial.feed("ticks\n")
    m.expect_exact("stopped")


def test_panic_ends_the_machine(kernel):
    m = kernel()
    m.serial.feed("panic\n")
    m.expect("panic: as you wish")
    m.run_to_exit(code=0x11)


def test_two_processors_and_little_memory(kernel):
    m = kernel(smp=2, memory="2M")
    m.expect("kernel-ci is up", insns=1_000_000)
