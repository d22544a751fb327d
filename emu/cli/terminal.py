# SPDX-License-Identifier: GPL-2.0-or-later
"""A terminal as the guest's console: keys one by one, not echoed, Ctrl-C still ours.

POSIX terminals are switched by termios, Windows consoles are read through msvcrt; where neither is
there, lines come when Enter is pressed. Ctrl-A X ends the run, Ctrl-A Ctrl-A sends Ctrl-A, as under
QEMU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

__all__ = ["Escape", "console_reader", "is_terminal", "keys_one_by_one"]

_CTRL_A = 0x01
_CTRL_C = "\x03"
_NO_CHARACTER = "\uffff"  # what getwch returns for ever when there is no console (any more)
# The second half of what a Windows console gives for keys without a character, as terminals say it
_CONSOLE_KEYS = {
    "H": b"\x1b[A",
    "P": b"\x1b[B",
    "M": b"\x1b[C",
    "K": b"\x1b[D",
    "G": b"\x1b[H",
    "O": b"\x1b[F",
    "R": b"\x1b[2~",
    "S": b"\x1b[3~",
    "I": b"\x1b[5~",
    "Q": b"\x1b[6~",
}


def is_terminal(stream: Any) -> bool:
    """Tell whether a stream is a terminal; one that is closed or missing is not.

    On Windows every character device calls itself a terminal, NUL among them, which is the input
    of most CI steps: there the console is asked.
    """
    try:
        if stream is None or not stream.isatty():
            return False
        return sys.platform != "win32" or _is_console(stream.fileno())
    except (ValueError, OSError):
        return False


def _is_console(descriptor: int) -> bool:
    """Return whether a file descriptor of a Windows process is a console (GetConsoleMode)."""
    import ctypes

    msvcrt = _module("msvcrt")
    kernel32: Any = getattr(ctypes, "windll").kernel32  # noqa: B009 (absent elsewhere)
    mode = ctypes.c_uint32()
    handle = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))
    return bool(kernel32.GetConsoleMode(handle, ctypes.byref(mode)))


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


@contextmanager
def keys_one_by_one() -> Iterator[None]:
    """Have the terminal hand over keys as they are pressed, for as long as the context lasts."""
    termios = _module("termios")
    if termios is None or not is_terminal(sys.stdin):
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    now = termios.tcgetattr(descriptor)
    now[0] &= ~termios.ICRNL  # Enter is CR, as on a serial console
    now[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(descriptor, termios.TCSADRAIN, now)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def console_reader(interrupt: Callable[[], None]) -> Callable[[], bytes] | None:
    """Return a function that waits for a key of a Windows console, or None elsewhere. It calls
    `interrupt` on Ctrl-C, and returns no bytes when the console is gone."""
    msvcrt = _module("msvcrt")
    if msvcrt is None or not is_terminal(sys.stdin):
        return None

    def read() -> bytes:
        key: str = msvcrt.getwch()
        if key == _NO_CHARACTER:
            return b""  # the end of the input
        if key == _CTRL_C:  # a raw console makes a character of it, and no signal
            interrupt()
            return b""
        if key in ("\0", "\xe0"):
            return _CONSOLE_KEYS.get(msvcrt.getwch(), b"") or read()
        return key.encode("utf-8", "replace")

    return read


class Escape:
    """Takes Ctrl-A sequences out of what was typed."""

    def __init__(self, quit_: Callable[[], None]) -> None:
        """Call `quit_` on Ctrl-A X."""
        self._quit = quit_
        self._pending = False

    def __call__(self, data: bytes) -> bytes:
        """Return what is for the guest.

        >>> Escape(lambda: None)(b"a\\x01\\x01b")
        b'a\\x01b'
        """
        out = bytearray()
        for byte in data:
            if self._pending:
                self._pending = False
                if byte in b"xX":
                    self._quit()
                elif byte == _CTRL_A:
                    out.append(byte)
            elif byte == _CTRL_A:
                self._pending = True
            else:
                out.append(byte)
        return bytes(out)
