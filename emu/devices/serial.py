# SPDX-License-Identifier: GPL-2.0-or-later
"""A 16550A serial port (TL16C550C data sheet, tables 3 to 8).

The transmitter takes no time: a byte is at its sink when the OUT is done, so the holding register
is always empty and polling loops fall through. The receiver is fed by the host, whose bytes wait on
the line until the guest looks: before it enables the receive interrupt at most one byte is ahead of
it, so that the FIFO resets of its start-up code eat no typed line. A guest cannot tell this from a
slow typist.

Two liberties, both QEMU's, because kernels live by them: word lengths below 8 do not cut bytes
(many kernels never set the line control), and the interrupt is not gated by OUT2.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from emu.clock import NS_PER_SECOND, Clock, Event, EventState
from emu.ports import IrqLine, LogOnce, TextSink
from emu.savable import Savable, State

__all__ = ["Serial"]

# Registers by offset. 0 and 1 are the divisor latch while LCR.DLAB is set.
RBR_THR_DLL, IER_DLM, IIR_FCR, LCR, MCR, LSR, MSR, SCR = range(8)

IER_RECEIVED = 1 << 0
IER_TRANSMIT_EMPTY = 1 << 1
IER_LINE_STATUS = 1 << 2
IER_MODEM_STATUS = 1 << 3
IER_MASK = 0x0F

# Interrupt identification, highest priority first (table 5).
IIR_LINE_STATUS = 0x06
IIR_RECEIVED = 0x04
IIR_TIMEOUT = 0x0C
IIR_TRANSMIT_EMPTY = 0x02
IIR_MODEM_STATUS = 0x00
IIR_NONE = 0x01
IIR_FIFO = 0xC0

FCR_ENABLE = 1 << 0
FCR_CLEAR_RECEIVER = 1 << 1
TRIGGER_LEVELS = (1, 4, 8, 14)
FIFO_DEPTH = 16

LCR_WORD_LENGTH = 3 << 0
LCR_STOP_BITS = 1 << 2
LCR_PARITY = 1 << 3
LCR_BREAK = 1 << 6
LCR_DLAB = 1 << 7

MCR_DTR = 1 << 0
MCR_RTS = 1 << 1
MCR_OUT1 = 1 << 2
MCR_OUT2 = 1 << 3
MCR_LOOP = 1 << 4
MCR_MASK = 0x1F

LSR_DATA_READY = 1 << 0
LSR_OVERRUN = 1 << 1
LSR_FRAMING = 1 << 3
LSR_BREAK = 1 << 4
LSR_TRANSMITTER = 0x60  # THRE and TEMT: both always, the transmitter takes no time
LSR_FIFO_ERROR = 1 << 7
LSR_ERRORS = 0x1E

MSR_DELTA_CTS = 1 << 0
MSR_DELTA_DSR = 1 << 1
MSR_TRAILING_RI = 1 << 2
MSR_DELTA_DCD = 1 << 3
MSR_CTS = 1 << 4
MSR_DSR = 1 << 5
MSR_RI = 1 << 6
MSR_DCD = 1 << 7
# The cable: a terminal that is always there and ready.
MODEM_LINES = MSR_CTS | MSR_DSR | MSR_DCD

CRYSTAL_HZ = 1_843_200
TIMEOUT_CHARACTERS = 4


@dataclass(slots=True)
class SerialState:
    """The registers, as a master reset leaves them (table 2); the divisor is 9600 baud."""

    divisor: int = 12
    ier: int = 0
    fifo: bool = False
    trigger: int = 1
    lcr: int = 0
    mcr: int = 0
    errors: int = 0  # OE, and PE/FE/BI of the character on top, until LSR is read
    msr: int = MODEM_LINES
    scratch: int = 0
    transmit_pending: bool = False  # the THRE interrupt, until IIR is read or THR is written
    timeout_pending: bool = False
    received: deque[tuple[int, int]] = field(default_factory=deque)  # (character, its LSR errors)


class Serial(Savable):
    """One port. Eight byte-wide registers from `base`."""

    def __init__(
        self, clock: Clock, irq: IrqLine, sink: TextSink | None = None, base: int = 0x3F8
    ) -> None:
        """Raise `irq` for interrupts (IRQ 4 for COM1 and 3, 3 for COM2 and 4), send to `sink`."""
        self._clock = clock
        self._irq = irq
        self._sink = sink
        self._base = base
        self._log = LogOnce("serial")
        self._sent = bytearray()
        self._line: deque[int] = deque()
        self._timeout: Event | None = None
        self.state = SerialState()

    def reset(self) -> None:
        """Pull the master reset pin. What the host has fed stays on the line."""
        self.state = SerialState()
        self._rearm_timeout()
        self._update_irq()

    def save(self) -> State:
        """Return the registers, and what is on either line: all that was sent, all that is fed."""
        return self._make_state(
            registers=self.state,
            sent=self._sent,
            line=bytes(self._line),
            timeout=self._clock.save_event(self._timeout),
        )

    def load(self, state: State) -> None:
        """Take a saved state. The sink does not get again what was sent."""
        registers, sent, line, timeout = self._parts_of(
            state, registers=SerialState, sent=bytearray, line=bytes, timeout=EventState
        )
        self._timeout = self._clock.load_event(timeout, self._timed_out)
        self.state, self._sent, self._line = registers, sent, deque(line)

    # The host's end of the cable.

    @property
    def sent(self) -> bytes:
        """Every byte sent so far."""
        return bytes(self._sent)

    @property
    def text(self) -> str:
        """Everything sent so far; bytes that are not UTF-8 show as the replacement character."""
        return self._sent.decode(encoding="utf-8", errors="replace")

    def feed(self, data: bytes) -> None:
        """Put bytes on the line to the receiver. None is ever lost for want of room."""
        self._line.extend(data)
        self._pull()
        self._update_irq()

    # The guest's end.

    def read(self, port: int, size: int) -> int:
        """Read a register."""
        state = self.state
        register = (port - self._base) & 7
        if register == LSR:
            return self._read_line_status()
        if register == RBR_THR_DLL:
            return state.divisor & 0xFF if state.lcr & LCR_DLAB else self._read_received()
        if register == IER_DLM:
            return state.divisor >> 8 if state.lcr & LCR_DLAB else state.ier
        if register == IIR_FCR:
            return self._read_identification()
        if register == LCR:
            return state.lcr
        if register == MCR:
            return state.mcr
        if register == MSR:
            value = state.msr
            state.msr &= 0xF0
            self._update_irq()
            return value
        return state.scratch

    def write(self, port: int, size: int, value: int) -> None:
        """Write a register."""
        state = self.state
        register = (port - self._base) & 7
        if register == RBR_THR_DLL:
            if state.lcr & LCR_DLAB:
                state.divisor = state.divisor & 0xFF00 | value
            else:
                self._transmit(value)
        elif register == IER_DLM:
            if state.lcr & LCR_DLAB:
                state.divisor = state.divisor & 0x00FF | value << 8
            else:
                self._write_enable(value & IER_MASK)
        elif register == IIR_FCR:
            self._write_fifo_control(value)
        elif register == LCR:
            if value & ~state.lcr & LCR_BREAK and state.mcr & MCR_LOOP:
                self._receive(0, LSR_BREAK | LSR_FRAMING)
            state.lcr = value
        elif register == MCR:
            state.mcr = value & MCR_MASK
            self._update_modem()
        elif register == SCR:
            state.scratch = value
        else:
            self._log(register, "write of %#x to read-only register %d", value, register)

    def _read_received(self) -> int:
        state = self.state
        if not state.received:
            self._pull()
        character = 0
        if state.received:
            character, _ = state.received.popleft()
            self._top_changed()
        state.timeout_pending = False
        self._pull()
        self._rearm_timeout()
        self._update_irq()
        return character

    def _read_line_status(self) -> int:
        state = self.state
        self._pull()
        value = LSR_TRANSMITTER | state.errors
        if state.received:
            value |= LSR_DATA_READY
        if state.fifo and any(errors for _, errors in state.received):
            value |= LSR_FIFO_ERROR
        if state.errors:
            state.errors = 0
            if state.received:
                state.received[0] = (state.received[0][0], 0)
            self._update_irq()
        return value

    def _read_identification(self) -> int:
        state = self.state
        cause = self._cause()
        if cause == IIR_TRANSMIT_EMPTY:
            state.transmit_pending = False
            self._update_irq()
        return cause | IIR_FIFO if state.fifo else cause

    def _transmit(self, value: int) -> None:
        state = self.state
        if state.mcr & MCR_LOOP:
            self._receive(value, 0)
        else:
            self._sent.append(value)
            if self._sink is not None:
                self._sink(bytes((value,)))
        if state.ier & IER_TRANSMIT_EMPTY:
            # The register was full for no time at all, but the edge must be there.
            state.transmit_pending = False
            self._update_irq()
            state.transmit_pending = True
            self._update_irq()

    def _write_enable(self, value: int) -> None:
        state = self.state
        if value & ~state.ier & IER_TRANSMIT_EMPTY:
            state.transmit_pending = True
        receiver_changed = (value ^ state.ier) & IER_RECEIVED
        state.ier = value
        self._pull()
        if receiver_changed:
            self._rearm_timeout()
        self._update_irq()

    def _write_fifo_control(self, value: int) -> None:
        state = self.state
        enable = bool(value & FCR_ENABLE)
        if enable != state.fifo or (enable and value & FCR_CLEAR_RECEIVER):
            state.received.clear()
            state.errors &= LSR_OVERRUN
            state.timeout_pending = False
        state.fifo = enable
        # Without bit 0 the others are not programmed (table 6).
        state.trigger = TRIGGER_LEVELS[value >> 6] if enable else 1
        self._pull()
        self._rearm_timeout()
        self._update_irq()

    # The receiver.

    def _pull(self) -> None:
        """Take from the line what the guest is ready for: all that fits once it has enabled the
        interrupt, one character when it polls, none in loopback."""
        state = self.state
        if not self._line or state.mcr & MCR_LOOP:
            return
        depth = FIFO_DEPTH if state.fifo and state.ier & IER_RECEIVED else 1
        if len(state.received) >= depth:
            return
        while self._line and len(state.received) < depth:
            state.received.append((self._line.popleft(), 0))
        self._rearm_timeout()

    def _receive(self, character: int, errors: int) -> None:
        """Take one character from the shift register, which can overrun."""
        state = self.state
        if len(state.received) >= (FIFO_DEPTH if state.fifo else 1):
            state.errors |= LSR_OVERRUN
            if not state.fifo:
                state.received[0] = (character, errors)
                self._top_changed()
        else:
            state.received.append((character, errors))
            if len(state.received) == 1:
                self._top_changed()
        self._rearm_timeout()
        self._update_irq()

    def _top_changed(self) -> None:
        """Show the errors of the character that is now next to be read."""
        state = self.state
        state.errors &= LSR_OVERRUN
        if state.received:
            state.errors |= state.received[0][1]

    def _rearm_timeout(self) -> None:
        """The character timeout runs while characters wait below the trigger level."""
        state = self.state
        self._clock.cancel(self._timeout)
        self._timeout = None
        if state.fifo and state.ier & IER_RECEIVED and 0 < len(state.received) < state.trigger:
            when = self._clock.now + TIMEOUT_CHARACTERS * self._character_ns()
            self._timeout = self._clock.at(when, self._timed_out)

    def _timed_out(self) -> None:
        self._timeout = None
        self.state.timeout_pending = True
        self._update_irq()

    def _character_ns(self) -> int:
        """How long one character takes at this divisor and format. Divisor 0 counts as 1."""
        lcr = self.state.lcr
        bits = 1 + 5 + (lcr & LCR_WORD_LENGTH) + bool(lcr & LCR_PARITY) + 1
        bits += bool(lcr & LCR_STOP_BITS)
        return bits * 16 * max(self.state.divisor, 1) * NS_PER_SECOND // CRYSTAL_HZ

    # Modem lines and interrupts.

    def _update_modem(self) -> None:
        state = self.state
        lines = MODEM_LINES
        if state.mcr & MCR_LOOP:
            pairs = (
                (MCR_RTS, MSR_CTS),
                (MCR_DTR, MSR_DSR),
                (MCR_OUT1, MSR_RI),
                (MCR_OUT2, MSR_DCD),
            )
            lines = sum(status for control, status in pairs if state.mcr & control)
        changed = state.msr ^ lines
        delta = changed >> 4 & (MSR_DELTA_CTS | MSR_DELTA_DSR | MSR_DELTA_DCD)
        if changed & state.msr & MSR_RI:
            delta |= MSR_TRAILING_RI
        state.msr = lines | state.msr & 0x0F | delta
        self._pull()
        self._update_irq()

    def _cause(self) -> int:
        """Return the identification of the most urgent enabled interrupt (table 5)."""
        state = self.state
        ier = state.ier
        if ier & IER_LINE_STATUS and state.errors & LSR_ERRORS:
            return IIR_LINE_STATUS
        if ier & IER_RECEIVED:
            if len(state.received) >= state.trigger:
                return IIR_RECEIVED
            if state.timeout_pending and state.received:
                return IIR_TIMEOUT
        if ier & IER_TRANSMIT_EMPTY and state.transmit_pending:
            return IIR_TRANSMIT_EMPTY
        if ier & IER_MODEM_STATUS and state.msr & 0x0F:
            return IIR_MODEM_STATUS
        return IIR_NONE

    def _update_irq(self) -> None:
        self._irq(self._cause() != IIR_NONE)
