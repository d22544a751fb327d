# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a debugger or a monitor is reached: a TCP port, a Unix socket, or standard input.

A port listens on the loopback interface unless another address is named: whoever reaches it owns
the machine, and its host's memory by `gpa2hva`.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from emu.debug.control import Control
from emu.errors import UsageError

__all__ = ["Client", "Endpoint", "Server", "parse_endpoint"]

LOOPBACK = "127.0.0.1"
_CHUNK = 1 << 16
_SEND_SECONDS = 10.0  # a client that reads nothing for so long is gone
_POLL_SECONDS = 0.5
_FAREWELL_SECONDS = 1.0


class Endpoint(NamedTuple):
    """`kind` is "tcp", "unix" or "stdio"; `host` and `port`, or the path as `host`."""

    kind: str
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        """Return it as one would write it."""
        if self.kind == "tcp":
            host = f"[{self.host}]" if ":" in self.host else self.host
            return f"tcp:{host}:{self.port}"
        return self.kind if self.kind == "stdio" else f"unix:{self.host}"


def parse_endpoint(text: str, option: str) -> Endpoint:
    """Return what `text` names, in QEMU's spelling; raises UsageError.

    >>> print(parse_endpoint("tcp::1234", "-gdb"), parse_endpoint("unix:/tmp/a,server", "-gdb"))
    tcp:127.0.0.1:1234 unix:/tmp/a
    """
    kind, _, rest = text.partition(":")
    rest = rest.partition(",")[0]
    if text == "stdio":
        return Endpoint("stdio")
    if kind in ("tcp", "telnet"):
        host, _, port = rest.rpartition(":")
        if port.isascii() and port.isdigit() and int(port) < 1 << 16:
            return Endpoint("tcp", host.strip("[]") or LOOPBACK, int(port))
    if kind == "unix" and rest:
        return Endpoint("unix", rest)
    raise UsageError(f"{option} {text}: tcp:HOST:PORT, unix:PATH or stdio")


class Client(Protocol):
    """One that is connected; called on the machine's thread."""

    is_open: bool

    def receive(self, data: bytes) -> None:
        """Take bytes."""

    def close(self) -> None:
        """There will be no more."""


class Server:
    """Listens, and connects one client at a time to the machine's thread.

    `connect(send)` makes a client that sends by `send`. Another that comes meanwhile is sent
    `refusal` when it has said something, and is hung up on.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        control: Control,
        connect: Callable[[Callable[[bytes], None]], Client],
        *,
        refusal: bytes,
        what: str,
    ) -> None:
        """Listen; raises UsageError if that cannot be."""
        self._control = control
        self._connect = connect
        self._refusal = refusal
        self._client: Client | None = None
        self._lines: set[_Line] = set()
        self._is_closed = False
        self._socket: socket.socket | None = None
        self.endpoint = endpoint
        """Where it listens; a port of 0 has become the one that was given."""
        if endpoint.kind == "stdio":
            line: _Line = _Stdio()
            self._start(lambda: self._serve(line), what)
            return
        try:
            self._socket = _listen(endpoint)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"{what} cannot listen on {endpoint}: {reason}") from None
        if endpoint.kind == "tcp":
            self.endpoint = endpoint._replace(port=self._socket.getsockname()[1])
        self._start(self._accept, what)

    @staticmethod
    def _start(work: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Stop listening and hang up; what was sent arrives."""
        self._is_closed = True
        if self._socket is not None:
            self._socket.close()
            if self.endpoint.kind == "unix":
                with suppress(OSError):
                    Path(self.endpoint.host).unlink()
        for line in tuple(self._lines):
            line.hang_up()

    def _accept(self) -> None:
        assert self._socket is not None
        self._socket.settimeout(_POLL_SECONDS)  # a close does not wake an accept everywhere
        while not self._is_closed:
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            line = _Wire(connection)
            self._start(lambda line=line: self._serve(line), "debugger")  # type: ignore[misc]

    # --- One connection, on a thread of its own --------------------------------------------------

    def _serve(self, line: _Line) -> None:
        self._lines.add(line)
        try:
            if not self._on_machine(lambda: self._open(line)) or line.client is None:
                if line.receive(self._ended):
                    line.send(self._refusal)
                return
            while line.client.is_open:
                data = line.receive(self._ended)
                if not data:
                    break
                if not self._on_machine(lambda data=data: self._take(line, data)):  # type: ignore[misc]
                    return
        finally:
            if line.client is not None:
                self._on_machine(lambda: self._drop(line))
            self._lines.discard(line)
            line.end()

    def _ended(self) -> bool:
        return self._is_closed

    def _on_machine(self, call: Callable[[], None]) -> bool:
        """Have `call` made on the machine's thread and wait: a client that floods waits, too.
        Return False if the machine is gone."""
        done = threading.Event()

        def make() -> None:
            try:
                call()
            finally:
                done.set()

        if self._is_closed:
            return False
        self._control.post(make)
        while not done.wait(_POLL_SECONDS):
            if self._is_closed:
                return False
        return True

    def _open(self, line: _Line) -> None:
        if self._client is None or not self._client.is_open:
            self._client = line.client = self._connect(line.send)

    def _take(self, line: _Line, data: bytes) -> None:
        if line.client is not None:
            line.client.receive(data)

    def _drop(self, line: _Line) -> None:
        if line.client is not None:
            line.client.close()


class _Line:
    """A connection: bytes both ways."""

    client: Client | None = None

    def receive(self, ended: Callable[[], bool]) -> bytes:
        """Return what comes next; nothing at the end."""
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        """Send; a failure shows in `receive`."""
        raise NotImplementedError

    def hang_up(self) -> None:
        """Send no more, and let what was sent arrive."""

    def end(self) -> None:
        """Close."""


class _Wire(_Line):
    def __init__(self, connection: socket.socket) -> None:
        self._receiver = connection
        self._sender = connection.dup()  # with a patience of its own
        self._receiver.settimeout(_POLL_SECONDS)
        self._sender.settimeout(_SEND_SECONDS)
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self, ended: Callable[[], bool]) -> bytes:
        while not ended():
            try:
                return self._receiver.recv(_CHUNK)
            except TimeoutError:
                continue
            except OSError:
                return b""
        return b""

    def send(self, data: bytes) -> None:
        try:
            self._sender.sendall(data)
        except OSError:
            with suppress(OSError):
                self._sender.shutdown(socket.SHUT_RDWR)

    def hang_up(self) -> None:
        """A close with unread bytes would take back what is on its way: let the peer go first."""
        with suppress(OSError):
            self._sender.shutdown(socket.SHUT_WR)
            self._sender.settimeout(_FAREWELL_SECONDS)
            while self._sender.recv(_CHUNK):
                pass

    def end(self) -> None:
        self._receiver.close()
        self._sender.close()


class _Stdio(_Line):
    def receive(self, ended: Callable[[], bool]) -> bytes:
        try:
            return b"" if sys.stdin is None else os.read(sys.stdin.fileno(), _CHUNK)
        except (OSError, ValueError):
            return b""

    def send(self, data: bytes) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def _listen(endpoint: Endpoint) -> socket.socket:
    if endpoint.kind == "unix":
        family = getattr(socket, "AF_UNIX", None)
        if family is None:
            raise ValueError("this system has no Unix sockets: use tcp:HOST:PORT")
        listener = socket.socket(family, socket.SOCK_STREAM)
        _remove_stale(endpoint.host, family)
        address: str | tuple[str, int] = endpoint.host
    else:
        family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        if sys.platform != "win32":  # there it would let two listen on one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address = (endpoint.host, endpoint.port)
    try:
        listener.bind(address)
        listener.listen(4)
    except (OSError, OverflowError):
        listener.close()
        raise
    return listener


def _remove_stale(path: str, family: int) -> None:
    """Remove a socket that nobody listens on any more."""
    if not Path(path).is_socket():
        return
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            with suppress(OSError):
                Path(path).unlink()
