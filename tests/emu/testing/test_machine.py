# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for a kernel: matches, limits in guest instructions, panics, ends, and input."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from emu.outcome import Kind
from emu.testing.launch import Launch, option_words
from emu.testing.machine import SLICE, HostTimeoutError, KernelFailure, KernelMachine
from tests.emu.testing.talker import CRASH, ECHO, EXIT, FAIL, FLAT, HALT, HANG, talker


def boot(image, *words, **options):
    return KernelMachine(Launch(image, (*FLAT, *words)), **options)


def test_matches_come_one_after_the_other():
    with boot(talker("init: 2 cpus\ninit: 3 cpus\r\ndone\n")) as m:
        assert m.expect(r"init: (\d+) cpus")[1] == "2"
        assert m.expect(r"^init: (\d+) cpus$")[1] == "3"
        assert m.expect_exact("done")
        assert m.run_to_exit(code=0x10).kind is Kind.GUEST_EXIT


def test_a_number_is_not_taken_before_it_is_whole():
    """Between the digits the guest works for several slices."""
    delay = f"b9 {(2 * SLICE).to_bytes(4, 'little').hex()} e2fe"  # mov ecx, ...; loop $
    more = "b033 ee b033 ee b00a ee"
    with boot(talker("value 1", f"{more} {delay} {EXIT}")) as m:
        assert m.expect(r"value (\d+)")[1] == "133"


def test_all_of_several_in_any_order():
    with boot(talker("b\nc\na\nd\n")) as m:
        assert [match[0] for match in m.expect_all(["a", "b", "c"])] == ["a", "b", "c"]
        m.expect("d")


@pytest.mark.parametrize("console", ["serial", "debugcon"])
def test_consoles(console):
    with boot(talker("hello\n", port={"serial": 0x3F8, "debugcon": 0xE9}[console])) as m:
        m.expect("hello", on=console)
        other = {"serial": "debugcon", "debugcon": "serial"}[console]
        with pytest.raises(KernelFailure, match=f"no match for 'hello' on {other}: the run ended"):
            m.expect("hello", on=other)


def test_screen():
    # mov edi, 0xb8000; mov eax, 0x07690748; stosd ("Hi"), then for ever
    with boot(bytes.fromhex("bf00800b00 b848076907 ab ebfe")) as m:
        assert m.expect("^Hi$", on="screen")
        assert m.screen.text.strip() == "Hi"


def test_an_unknown_console_is_refused():
    with boot(talker("")) as m, pytest.raises(ValueError, match="serial, debugcon, screen"):
        m.expect("x", on="printer")


def test_the_limit_is_the_guests():
    with boot(talker("waiting\n", HANG)) as m:
        m.expect("waiting")
        before = m.machine.scheduler.executed
        with pytest.raises(KernelFailure, match=r"no 'done' on serial within 1,000,000 instr"):
            m.expect_exact("done", insns=1_000_000)
        assert 0 <= m.machine.scheduler.executed - before - 1_000_000 <= SLICE
        with pytest.raises(KernelFailure, match="has not ended within 10 instr"):
            m.run_to_exit(insns=10)


def test_a_sleeping_kernel_reaches_its_limit_too():
    """`sti; hlt` for ever, woken by a timer: few instructions, much time."""
    with KernelMachine(Launch("guest:hello")) as m:
        clock = m.machine.clock
        seen = []
        m.machine.run = lambda max_insns: seen.append(max_insns) or _sleep(clock, m)
        with pytest.raises(KernelFailure, match="within 500,000,000 instructions"):
            m.expect("never")
        assert 45 <= len(seen) <= 55


def _sleep(clock, m):
    clock.run_due(clock.now + 100_000_000)
    return type("Outcome", (), {"kind": Kind.PAUSED})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[    1.0] Kernel panic - not syncing: no init\n", id="Linux"),
        pytest.param("panic: freeing free page\n", id="xv6"),
        pytest.param("thread 'main' panicked at src/main.rs:42:5\n", id="Rust"),
        pytest.param(">>> ZEPHYR FATAL ERROR 4\n", id="Zephyr"),
        pytest.param("*** PANIC ***\n", id="stars"),
    ],
)
def test_a_panic_fails_at_once(text):
    with boot(talker("up\n" + text + "bye\n", HANG)) as m:
        with pytest.raises(KernelFailure, match="the kernel panicked, on serial") as caught:
            m.expect("login:")
        assert text.strip() in str(caught.value)
        assert m.machine.scheduler.executed < 5 * SLICE


@pytest.mark.parametrize(
    "text", ["test panic_handler... [ok]\n", "Command line: panic=-1\n", "no panic\n"]
)
def test_what_is_no_panic(text):
    with boot(talker(text + "done\n")) as m:
        m.expect("done")


def test_a_panic_may_be_what_a_test_waits_for():
    with boot(talker("panic: double free\n", HANG)) as m:
        m.expect("panic: double free")
    with boot(talker("> panic: double free\n", HANG)) as m:
        m.expect_exact("panic: double")
    with boot(talker("panic: double free\n", HANG)) as m:
        m.expect("double free", not_matching=())
    with boot(talker("panic: double free\n", HANG)) as m, pytest.raises(KernelFailure):
        m.expect("double free")


def test_patterns_of_ones_own():
    words = "panicked, on serial: oh dear"
    image = talker("up\noh dear\n", HANG)
    with boot(image) as m, pytest.raises(KernelFailure, match=words):
        m.expect("done", not_matching="oh dear")
    with boot(image, panic=["oh"]) as m, pytest.raises(KernelFailure, match=words):
        m.run_to_exit()


@pytest.mark.parametrize(
    "end, text",
    [
        pytest.param(FAIL, "guest exit with 0x11", id="exit"),
        pytest.param(CRASH, "triple fault on vCPU 0 at @", id="crash"),
        pytest.param(HALT, "idle", id="halt"),
    ],
)
def test_an_end_before_the_match(end, text):
    with boot(talker("up\n", end)) as m:
        with pytest.raises(KernelFailure, match=f"the run ended .{text}"):
            m.expect("done")
        with pytest.raises(KernelFailure, match="otherwise than by exit with 0x10: " + text):
            m.run_to_exit(code=0x10)


def test_any_end_can_be_what_a_test_wants():
    with boot(talker("", CRASH)) as m:
        assert m.run_to_exit(ends=[Kind.TRIPLE_FAULT]).report.startswith("vCPU 0 shut down")


def test_input_comes_back():
    with boot(talker("$ ", ECHO)) as m:
        m.expect_exact("$ ")
        m.serial.feed("ls\n")
        m.expect_exact("ls\n")
        assert [data for _, data in m.serial.fed] == [b"ls\n"]


def test_a_slow_host_is_no_verdict():
    with boot(talker("", HANG), patience=0.3) as m, pytest.raises(HostTimeoutError):
        m.expect("done", insns=1 << 60)


def test_positions_are_the_same_in_every_run():
    def play():
        with boot(talker("$ ", ECHO)) as m:
            m.expect_exact("$ ")
            m.serial.feed("a")
            m.expect_exact("a")
            return m.position, m.machine.clock.now

    assert play() == play()


def test_the_command_repeats_the_run():
    launch = Launch("guest:hello", option_words(smp=2, append="a b", seed=7, memory=1 << 25))
    with KernelMachine(launch) as m:
        m.expect_exact("A20 is open")
        command = m.launch.command(m.position)
    assert command.startswith("shadowcorn run guest:hello -smp 2 -append ")
    assert f"-m {1 << 25}b --seed 7 --until @" in command


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_memory_by_the_names_of_variables(tmp_path):
    source = tmp_path / "k.c"
    source.write_text(
        '__attribute__((section(".mb"))) const int mb[3] = {0x1badb002, 0, -0x1badb002};\n'
        'volatile unsigned short ticks = 0x1234; volatile char name[5] = "abcd";\n'
        'void _start(void) { while (ticks) ; __asm__("outb %0, $0xf4" :: "a"((char)0x10)); }\n',
        encoding="utf-8",
        newline="\n",
    )
    words = "gcc -m32 -ffreestanding -fno-pic -nostdlib -static -O1 -Wl,-Ttext=0x100000"
    words += " -Wl,--build-id=none -Wl,-n -o k.elf k.c"
    built = subprocess.run(words.split(), cwd=tmp_path, capture_output=True, text=True)
    if built.returncode:
        pytest.skip("gcc builds nothing for i386 here")
    with KernelMachine(Launch("k.elf", (), tmp_path)) as m:
        m.run(10_000)
        assert m.memory["ticks"] == 0x1234
        assert m.memory["name"] == b"abcd\0"
        assert m.memory[m.address("ticks")] == 0x34
        assert m.rights("ticks") == "wux"
        assert m.walk("_start").gpa == m.address("_start")
        with pytest.raises(KeyError, match="no symbol 'tick'"):
            m.memory["tick"]
        m.memory["ticks"] = 0x1_0000
        assert m.run_to_exit().guest_code == 0x10
