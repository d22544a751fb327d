# SPDX-License-Identifier: GPL-2.0-or-later
"""One debugger: its packets, and who answers each. What nobody here knows gets the empty reply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emu.debug.control import Control
from emu.debug.gdb.access import Access
from emu.debug.gdb.files import Files
from emu.debug.gdb.points import Points
from emu.debug.gdb.protocol import (
    MOST_BYTES,
    Event,
    PacketError,
    Parser,
    What,
    escape,
    frame,
    hex_bytes,
    number,
)
from emu.debug.gdb.registers import ARCHITECTURES, View, view_for_bits
from emu.debug.gdb.running import Running
from emu.debug.gdb.target import DebugTarget
from emu.debug.gdb.threads import Client, Threads
from emu.outcome import Kind

__all__ = ["Session", "SessionOptions"]

_FAULT, _INVALID = 0x0E, 0x16  # EFAULT, EINVAL
_SSTEP_BITS = b"ENABLE=1,NOIRQ=2,NOTIMER=4"


@dataclass(slots=True)
class SessionOptions:
    """How a session behaves.

    `arch` is "follow", or one of gdb's names in `ARCHITECTURES`. `kernel` is a path that an exec
    event names, for gdb to load symbols from. `monitor` executes a command for a vCPU. `maps` gives
    the text of /proc/1/maps of a vCPU, and has gdb take the guest for a Linux process.
    """

    arch: str = "follow"
    kernel: str = "kernel"
    monitor: Callable[[str, int], str] = lambda command, cpu: ""
    maps: Callable[[int], bytes] | None = None


class Session:
    """One connected debugger. All methods are called on the machine's thread."""

    def __init__(
        self,
        target: DebugTarget,
        control: Control,
        send: Callable[[bytes], None],
        options: SessionOptions,
    ) -> None:
        """Serve a debugger that gets bytes by `send`; the machine stands still from now on."""
        self._target = target
        self._control = control
        self._send = send
        self._options = options
        self._parser = Parser()
        self._last_sent = b""
        self.client = Client()
        self.access = Access(target, self._view_of(target.current))
        self.threads = Threads(target, self.client, self.access)
        self.points = Points(target)
        self._files = Files(options.maps)
        self.running = Running(
            target,
            control,
            self.client,
            self.access,
            self.threads,
            self.points,
            reply=self._reply,
            view_of=self._view_of,
            kernel=options.kernel,
        )
        self.is_open = True

    def _view_of(self, cpu: int) -> View:
        arch = self._options.arch
        pinned = [bits for bits, name in ARCHITECTURES.items() if name == arch]
        bits = pinned[0] if pinned else self._target.bits(cpu)
        return view_for_bits(bits, linux=self._options.maps is not None)

    # --- In and out -----------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take bytes from the debugger, in any pieces."""
        for event in self._parser.feed(data):
            if not self.is_open:
                return
            self._take(event)

    def close(self) -> None:
        """The debugger is gone, and its points with it. The machine stays as it is."""
        if self.is_open:
            self.is_open = False
            self.points.clear()
            self.running.close()

    def _take(self, event: Event) -> None:
        acks = self.client.acks
        if event.what is What.INTERRUPT:
            self.running.interrupt()
        elif event.what is What.NAK:
            if acks and self._last_sent:
                self._send(self._last_sent)
        elif event.what is What.DAMAGED:
            if acks:
                self._send(b"-")
        elif event.what is not What.ACK:
            if acks:
                self._send(b"+")
            self._answer(event)

    def _answer(self, event: Event) -> None:
        reply: bytes | None
        try:
            reply = self._dispatch(event.data)
            if event.what is What.TOO_LONG:
                reply = b"E%02x" % _INVALID
        except PacketError as error:
            reply = b"E%02x" % error.number
        except LookupError:
            reply = b"E%02x" % _FAULT
        except ValueError:
            reply = b"E%02x" % _INVALID
        if reply is not None and self.is_open:
            self._reply(reply)

    def _reply(self, data: bytes) -> None:
        self._last_sent = frame(data)
        self._send(self._last_sent)

    def _dispatch(self, packet: bytes) -> bytes | None:
        """Return the reply to a packet, None if it comes later."""
        if packet[:1] in (b"q", b"Q", b"v"):
            name = packet
            for separator in (b":", b";", b",", b"?"):
                name = name.partition(separator)[0]
            named = _NAMED.get(name.decode("latin-1"))
            return b"" if named is None else named(self, packet[len(name) :])
        handler = _LETTERS.get(packet[:1].decode("latin-1"))
        return b"" if handler is None else handler(self, packet[1:])

    # --- Coming and going -------------------------------------------------------------------------

    def _supported(self, rest: bytes) -> bytes:
        offered = set(rest[1:].split(b";"))
        client = self.client
        client.multiprocess = b"multiprocess+" in offered
        client.swbreak = b"swbreak+" in offered
        client.hwbreak = b"hwbreak+" in offered
        client.exec_events = b"exec-events+" in offered and self._options.arch == "follow"
        features = [
            b"PacketSize=%x" % MOST_BYTES,
            b"qXfer:features:read+",
            b"qXfer:threads:read+",
            b"QStartNoAckMode+",
            b"vContSupported+",
            b"multiprocess+",
            b"swbreak+",
            b"hwbreak+",
        ]
        if client.exec_events:
            features.append(b"exec-events+")
        return b";".join(features)

    def _no_acks(self, _rest: bytes) -> bytes:
        self.client.acks = False
        return b"OK"

    def _detach(self, _rest: bytes) -> None:
        self._reply(b"OK")
        self.close()
        self._control.go()

    def _kill(self, _rest: bytes) -> None:
        self.close()
        self._control.quit(Kind.POWER_OFF)

    def _kill_process(self, _rest: bytes) -> None:
        self._reply(b"OK")
        self._kill(b"")

    def _restart(self, _rest: bytes) -> None:
        self._target.restart()

    # --- Queries ----------------------------------------------------------------------------------

    def _transfer(self, rest: bytes) -> bytes:
        """qXfer:OBJECT:read:ANNEX:OFFSET,LENGTH."""
        parts = rest.split(b":")
        if len(parts) != 5 or parts[2] != b"read":
            return b""
        if parts[1] == b"features":
            if parts[3] != b"target.xml":
                raise PacketError
            data = self.access.view.xml()
        elif parts[1] == b"threads":
            data = self.threads.xml()
        else:
            return b""
        offset, _, length = parts[4].partition(b",")
        start, size = number(offset), number(length)
        piece = data[start : start + min(size, MOST_BYTES // 2)]
        return (b"m" if start + len(piece) < len(data) else b"l") + escape(piece)

    def _monitor(self, rest: bytes) -> bytes:
        command = hex_bytes(rest[1:]).decode("utf-8", "replace")
        text = self._options.monitor(command, self.access.cpu)
        if text and self.is_open:
            self.running.console(text)
        return b"OK"

    def _host_info(self, _rest: bytes) -> bytes:
        """qHostInfo, lldb's: never a process number, lldb would look for that process here."""
        is_64 = self.access.view.bits == 64
        triple = b"%s-unknown-unknown" % (b"x86_64" if is_64 else b"i386")
        size = 8 if is_64 else 4
        return b"triple:%s;endian:little;ptrsize:%d;" % (triple.hex().encode("ascii"), size)

    def _file(self, rest: bytes) -> bytes:
        return self._files.answer(rest, self.access.cpu)


_Handler = Callable[[Session, bytes], bytes | None]

_LETTERS: dict[str, _Handler] = {
    "!": lambda session, rest: b"OK",
    "?": lambda session, rest: session.running.why(rest),
    "c": lambda session, rest: session.running.go_on(rest),
    "C": lambda session, rest: session.running.go_on_with_signal(rest),
    "D": Session._detach,
    "g": lambda session, rest: session.access.get_all(rest),
    "G": lambda session, rest: session.access.set_all(rest),
    "H": lambda session, rest: session.threads.select(rest),
    "k": Session._kill,
    "m": lambda session, rest: session.access.read_memory(rest),
    "M": lambda session, rest: session.access.write_memory(rest),
    "p": lambda session, rest: session.access.get(rest),
    "P": lambda session, rest: session.access.set(rest),
    "R": Session._restart,
    "s": lambda session, rest: session.running.step(rest),
    "S": lambda session, rest: session.running.step_with_signal(rest),
    "T": lambda session, rest: session.threads.is_alive(rest),
    "X": lambda session, rest: session.access.write_binary(rest),
    "z": lambda session, rest: session.points.remove(rest),
    "Z": lambda session, rest: session.points.insert(rest),
}
"""Packets by their first letter."""

_NAMED: dict[str, _Handler] = {
    "QStartNoAckMode": Session._no_acks,
    "Qqemu.PhyMemMode": lambda session, rest: session.access.physical_mode(rest),
    "Qqemu.sstep": lambda session, rest: b"OK",
    "Qqemu.sstepbits": lambda session, rest: _SSTEP_BITS,
    "qAttached": lambda session, rest: b"1",
    "qC": lambda session, rest: session.threads.current(rest),
    "qHostInfo": Session._host_info,
    "qRcmd": Session._monitor,
    "qSupported": Session._supported,
    "qThreadExtraInfo": lambda session, rest: session.threads.info(rest),
    "qXfer": Session._transfer,
    "qfThreadInfo": lambda session, rest: session.threads.all(rest),
    "qqemu.PhyMemMode": lambda session, rest: session.access.physical_mode(rest),
    "qqemu.sstep": lambda session, rest: b"0x7",
    "qqemu.sstepbits": lambda session, rest: _SSTEP_BITS,
    "qsThreadInfo": lambda session, rest: b"l",
    "vCont": lambda session, rest: session.running.actions(rest),
    "vFile": Session._file,
    "vKill": Session._kill_process,
}
"""Packets that have a name, which ends at the first of `:`, `;`, `,` and `?`."""
