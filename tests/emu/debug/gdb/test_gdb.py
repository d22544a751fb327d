# SPDX-License-Identifier: GPL-2.0-or-later
"""The stub under gdb itself, and over real sockets."""

from __future__ import annotations

import random
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from emu.cpu.decode import disassemble
from emu.debug.gdb.protocol import frame
from emu.debug.target import Target
from emu.machine import Machine
from guests import load

GDB = shutil.which("gdb")
needs_gdb = pytest.mark.skipif(GDB is None, reason="gdb is not installed")


@contextmanager
def stub(guest: str, *words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A run that waits for a debugger, and its port."""
    command = [sys.executable, "-m", "emu.cli", "run", f"guest:{guest}", "-display", "none"]
    command += ["-gdb", "tcp::0", "-S", "--timeout", "60", *words]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stderr.readline()
            yield process, int(re.search(r"tcp:127\.0\.0\.1:(\d+)", line).group(1))
        finally:
            process.kill()


def gdb(port: int, *commands: str) -> str:
    words = [GDB, "-nx", "-batch", "-ex", "set pagination off", "-ex", f"target remote :{port}"]
    for command in commands:
        words += ["-ex", command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=90)
    return done.stdout + done.stderr


def ask(wire: socket.socket, packet: bytes) -> bytes:
    wire.sendall(frame(packet))
    data = b""
    while not re.search(rb"\$[^#]*#..", data):
        more = wire.recv(65536)
        if not more:
            return b"closed"
        data += more
    wire.sendall(b"+")
    return re.search(rb"\$([^#]*)#..", data).group(1)


def place_in(guest: str, bits: int) -> int:
    """An address of code of that width which the guest comes to."""
    with Machine(load(guest).path) as machine:
        for _ in range(3000):
            if machine.cpus[0].bits == bits:
                return machine.regs.linear_rip
            machine.run(max_insns=200)
    raise AssertionError(f"{guest} has no {bits}-bit code")


@needs_gdb
@pytest.mark.parametrize(
    ("guest", "first", "then"), [("boot_sector", 16, 32), ("mode_mix", 32, 64)]
)
def test_one_session_goes_through_a_mode_switch(guest, first, then):
    """gdb decodes what capstone does, where the machine really is, on both sides of the switch."""
    steps = 12
    switched = place_in(guest, then)
    expected, widths = [], set()
    commands = []
    with Machine(load(guest).path) as machine:
        target = Target(machine)

        def steps_here() -> None:
            for _ in range(steps):
                bits = target.bits()
                size = len(bytes.fromhex(disassemble(target.code(), 0, bits, 1)[0].split()[1]))
                expected.append((machine.regs.linear_rip, size))
                widths.add(bits)
                target.step(0)
                commands.extend(("x/2i $pc", "stepi"))

        steps_here()
        target.add_breakpoint(switched)
        target.resume(timeout=60)
        commands += [f"break *{switched:#x}", "continue"]
        steps_here()
    assert {first, then} <= widths
    with stub(guest) as (_, port):
        text = gdb(port, *commands)
    lines = [int(n, 16) for n in re.findall(r"^(?:=>|  ) 0x([0-9a-f]+):\t", text, re.MULTILINE)]
    found = [(a, b - a) for a, b in zip(lines[::2], lines[1::2], strict=True)]
    assert found == expected, text


@needs_gdb
def test_vcpus_are_threads_and_breakpoints_name_theirs():
    with stub("smp_boot", "-smp", "4") as (_, port):
        text = gdb(port, "info threads", "break *0x8000", "continue", "info threads", "kill")
    assert [f'"CPU#{n}"' in text for n in range(4)] == [True] * 4
    assert "halted" in text


@needs_gdb
def test_the_end_of_the_guest_is_the_end_of_the_process():
    with stub("hello") as (process, port):
        text = gdb(port, "monitor info version", "monitor nonsense", "continue")
        assert "exited with code 041" in text  # 33
        assert "unknown command: 'nonsense'" in text
        assert process.wait(20) == 33
        assert "10 checks passed" in process.stdout.read()


def test_a_killed_debugger_another_and_a_third_who_has_to_wait():
    with stub("hello") as (process, port):
        with socket.create_connection(("127.0.0.1", port)) as wire:
            assert b"qXfer" in ask(wire, b"qSupported:multiprocess+")
            assert ask(wire, b"Z0,100000,1") == b"OK"
            with socket.create_connection(("127.0.0.1", port)) as second:
                second.sendall(frame(b"qSupported"))
                assert b"E.another debugger is connected" in second.recv(1000)
            wire.sendall(b"$m10000")  # and gone, in mid-packet
        with socket.create_connection(("127.0.0.1", port)) as wire:
            for _ in range(50):  # until the first one's going is noticed
                reply = ask(wire, b"?")
                if reply.startswith(b"T05"):
                    break
                wire.close()
                wire = socket.create_connection(("127.0.0.1", port))
            assert reply == b"T05thread:1;"
            assert ask(wire, b"vCont;c") == b"W21"
        assert process.wait(20) == 33


@pytest.mark.parametrize("seed", range(2))
def test_hostile_bytes_leave_the_stub_alive(seed):
    draw = random.Random(seed)
    with stub("hello") as (process, port):
        with socket.create_connection(("127.0.0.1", port)) as wire:
            wire.settimeout(0.05)
            for _ in range(40):
                letters = b"mMXZzgGpPH?qvT$#}\x00\xff"
                body = bytes(draw.choice(letters + b"0123456789abcdef,:;") for _ in range(60))
                wire.sendall(frame(body) if draw.random() < 0.7 else body)
                with suppress(TimeoutError):
                    wire.recv(65536)
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", port)) as wire:
                if ask(wire, b"qC").startswith(b"QC"):
                    ask(wire, b"vKill;1")
                    break
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_stub_that_nobody_connects_to_changes_nothing():
    words = [sys.executable, "-m", "emu.cli", "run", "guest:hello", "-display", "none"]
    plain = subprocess.run(words, capture_output=True, text=True, timeout=60)
    served = subprocess.run([*words, "-gdb", "tcp::0"], capture_output=True, text=True, timeout=60)
    assert served.returncode == plain.returncode == 33
    assert served.stdout == plain.stdout
    count = re.compile(r"[\d,]+ instructions")
    assert count.findall(served.stderr) == count.findall(plain.stderr)


def test_waiting_for_nobody_ends_with_the_timeout():
    words = [sys.executable, "-m", "emu.cli", "run", "guest:hello", "-display", "none", "-S"]
    done = subprocess.run([*words, "--timeout", "1"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 124


def test_a_port_in_use_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"tcp::{taken.getsockname()[1]}"
        words = [sys.executable, "-m", "emu.cli", "run", "guest:hello", "-gdb", where]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "cannot listen on tcp:127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr
