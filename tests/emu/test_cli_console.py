# SPDX-License-Identifier: GPL-2.0-or-later
"""The console of a run: the screen on a terminal, what is typed, and the box between threads."""

from __future__ import annotations

import io
import threading
import time

import pytest

from emu.cli import terminal
from emu.cli.display import ScreenThread
from emu.cli.inbox import Inbox
from emu.cli.streams import InputThread, Outputs, Tail
from emu.machine import Machine
from emu.outcome import Kind


class Screen:
    def __init__(self, *rows):
        self.rows = list(rows)
        self.cursor = (0, 1)


class Terminal(io.StringIO):
    encoding = "utf-8"


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- The screen -----------------------------------------------------------------------------------


def test_a_screen_that_is_not_live_is_printed_once():
    stream = Terminal()
    display = ScreenThread(
        Screen("a ", "", "b", "  "), whole=False, may_redraw=lambda: False, stream=stream
    )
    display.show_final()
    assert stream.getvalue() == "a\n\nb\n"


def test_a_blank_screen_is_not_printed():
    stream = Terminal()
    display = ScreenThread(Screen(" " * 80), whole=False, may_redraw=lambda: False, stream=stream)
    display.show_final()
    assert stream.getvalue() == ""


def test_a_live_screen_is_drawn_over_itself():
    stream, screen = Terminal(), Screen("one")
    display = ScreenThread(screen, whole=False, may_redraw=lambda: True, stream=stream)
    display.start()
    wait_for(lambda: "one" in stream.getvalue())
    screen.rows = ["two", "lines"]
    wait_for(lambda: "lines" in stream.getvalue())
    display.stop()
    display.show_final()
    assert stream.getvalue() == "one\x1b[K\n\x1b[J\x1b[1Atwo\x1b[K\nlines\x1b[K\n\x1b[J"


def test_a_whole_screen_is_left_as_it_was_found():
    stream = Terminal()
    display = ScreenThread(Screen("x"), whole=True, may_redraw=lambda: True, stream=stream)
    display.start()
    wait_for(lambda: "x" in stream.getvalue())
    display.stop()
    display.show_final()
    text = stream.getvalue()
    assert text.startswith("\x1b[?1049h")
    assert text.endswith("\x1b[?1049lx\n")


def test_a_terminal_that_cannot_show_a_character_gets_another():
    class Ascii(io.StringIO):
        encoding = "ascii"

    stream = Ascii()
    display = ScreenThread(Screen("│é"), whole=False, may_redraw=lambda: False, stream=stream)
    display.show_final()
    assert stream.getvalue() == "??\n"


# --- Typing ---------------------------------------------------------------------------------------


def test_ctrl_a_x_ends_the_run_also_in_two_pieces():
    ended = []
    escape = terminal.Escape(lambda: ended.append(True))
    assert escape(b"ab\x01") == b"ab"
    assert not ended
    assert escape(b"xc") == b"c"
    assert ended


def test_windows_console_keys(monkeypatch):
    class Console:
        keys = iter("a\xe0Hé\0;q")

        def getwch(self):
            return next(self.keys)

    monkeypatch.setattr(terminal, "_module", lambda name: Console())
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: True)
    read = terminal.console_reader(lambda: None)
    # F1 is no key that a terminal sends as one: it is passed over.
    assert [read(), read(), read(), read()] == [b"a", b"\x1b[A", "é".encode(), b"q"]


def console(monkeypatch, keys):
    """Return a reader of a Windows console on which `keys` are pressed, and what it interrupted."""

    class Console:
        pressed = iter(keys)

        def getwch(self):
            return next(self.pressed)

    interrupted = []
    monkeypatch.setattr(terminal, "_module", lambda name: Console())
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: True)
    return terminal.console_reader(lambda: interrupted.append(True)), interrupted


def test_a_console_that_has_gone_is_the_end_of_the_input(monkeypatch):
    read, interrupted = console(monkeypatch, "a" + 3 * "\uffff")
    assert [read(), read()] == [b"a", b""]
    assert not interrupted


def test_ctrl_c_as_a_character_ends_the_run(monkeypatch):
    read, interrupted = console(monkeypatch, "a\x03")
    assert [read(), read()] == [b"a", b""]
    assert interrupted


def test_a_character_device_is_no_terminal_on_windows(monkeypatch):
    class Nul:
        def isatty(self):
            return True

        def fileno(self):
            return 0

    monkeypatch.setattr(terminal.sys, "platform", "win32")
    monkeypatch.setattr(terminal, "_is_console", lambda descriptor: False)
    assert not terminal.is_terminal(Nul())
    monkeypatch.setattr(terminal, "_is_console", lambda descriptor: True)
    assert terminal.is_terminal(Nul())


def test_input_thread_delivers_until_the_end():
    pieces = iter([b"a", b"b", b""])
    got, ended = [], threading.Event()
    InputThread(lambda: next(pieces), got.append, ended.set).start()
    assert ended.wait(10)
    assert got == [b"a", b"b"]


def test_input_that_fails_has_ended():
    def read():
        raise OSError

    ended = threading.Event()
    InputThread(read, lambda data: None, ended.set).start()
    assert ended.wait(10)


# --- The box --------------------------------------------------------------------------------------

# sti; xor ax, ax; int 16h; out f4h, al; hlt
HALTS_FOR_A_KEY = bytes.fromhex("fb 31c0 cd16 e6f4 f4")


def machine():
    return Machine(HALTS_FOR_A_KEY, format="flat16", memory=2 << 20, jit="off")


def test_a_halted_machine_waits_for_the_box():
    with machine() as m:
        inbox = Inbox(m)
        timer = threading.Timer(0.3, inbox.post, [lambda: m.keyboard.type("a")])
        timer.start()
        assert m.run(timeout=30).guest_code == ord("a")
        timer.join()


def test_a_closed_box_keeps_nothing_alive():
    with Machine(bytes.fromhex("fa f4"), format="flat16", memory=2 << 20, jit="off") as m:
        inbox = Inbox(m)
        inbox.close()
        assert m.run(timeout=30).kind is Kind.IDLE


def test_an_open_box_cuts_no_slice():
    seen = []
    for is_open in (False, True):
        # again: inc eax; jmp again
        with Machine(bytes.fromhex("40ebfd"), format="flat32", memory=2 << 20, jit="off") as m:
            if is_open:
                Inbox(m)
            slices = []
            run = m.cpus[0].run
            m.cpus[0].run = lambda budget, run=run, to=slices: to.append(budget) or run(budget)
            m.run(max_insns=1_000_000)
            seen.append(slices)
    assert seen[0] == seen[1]


# --- Outputs --------------------------------------------------------------------------------------


def test_one_file_for_two_ports_is_opened_once(tmp_path):
    outputs = Outputs(lambda: None)
    where = f"file:{tmp_path / 'both'}"
    first, second = outputs.sink(where), outputs.sink(where)
    first(b"a")
    second(b"b")
    first(b"c")
    outputs.close()
    assert (tmp_path / "both").read_bytes() == b"abc"


def test_null_is_no_sink():
    assert Outputs(lambda: None).sink("null") is None


@pytest.mark.parametrize("size", [1, 3, 10])
def test_tail_keeps_the_last_bytes(size):
    got = []
    tail = Tail(got.append, size=4)
    for start in range(0, 10, size):
        tail(b"0123456789"[start : start + size])
    assert b"".join(got) == b"0123456789"
    assert tail.text == "6789"


def test_input_that_never_dries_up_does_not_keep_time_from_passing():
    with machine() as m:
        inbox = Inbox(m)

        def again():
            inbox.post(again)

        again()
        assert m.run(timeout=0.3).kind is Kind.TIMEOUT
