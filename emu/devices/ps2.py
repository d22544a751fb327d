# SPDX-License-Identifier: GPL-2.0-or-later
"""The 8042 keyboard controller (IBM PS/2 Hardware Interface Technical Reference; Intel UPI-41).

One byte at a time stands in the output buffer, with IRQ 1 up while it does; the next is fetched
when it is read: replies of the controller first, then whatever the keyboard sends, translated to
set 1 while the command byte says so. There is no second port: no mouse.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from emu.devices.keyboard import Keyboard
from emu.devices.keymap import RELEASED, TRANSLATION
from emu.ports import IrqLine, LogOnce
from emu.savable import Savable, State

__all__ = ["KeyboardController"]

DATA_PORT, COMMAND_PORT = 0x60, 0x64

STATUS_OUTPUT_FULL = 1 << 0
STATUS_SYSTEM = 1 << 2
STATUS_COMMAND = 1 << 3
STATUS_UNLOCKED = 1 << 4

# Command byte, which is byte 0 of the controller's memory.
CCB_INTERRUPT = 1 << 0
CCB_SYSTEM = 1 << 2
CCB_DISABLE = 1 << 4
CCB_NO_SECOND_PORT = 1 << 5
CCB_TRANSLATE = 1 << 6
CCB_RESET = CCB_INTERRUPT | CCB_SYSTEM | CCB_NO_SECOND_PORT | CCB_TRANSLATE

READ_MEMORY = range(0x20, 0x40)
WRITE_MEMORY = range(0x60, 0x80)
DISABLE_SECOND, ENABLE_SECOND, TEST_SECOND = 0xA7, 0xA8, 0xA9
SELF_TEST, TEST_KEYBOARD = 0xAA, 0xAB
DISABLE_KEYBOARD, ENABLE_KEYBOARD = 0xAD, 0xAE
READ_INPUT_PORT, READ_OUTPUT_PORT, WRITE_OUTPUT_PORT = 0xC0, 0xD0, 0xD1
WRITE_AS_KEYBOARD, WRITE_AS_SECOND, WRITE_TO_SECOND = 0xD2, 0xD3, 0xD4
DISABLE_A20, ENABLE_A20 = 0xDD, 0xDF
READ_TEST_INPUTS = 0xE0
PULSE = range(0xF0, 0x100)
PULSE_LINES = 0x0F

SELF_TEST_PASSED = 0x55
KEYBOARD_PASSED = 0x00
CLOCK_STUCK_LOW = 0x01  # what the test of a port that is not there says
INPUT_PORT = 0xA0  # keyboard not locked, manufacturing jumper open

OUTPUT_NO_RESET = 1 << 0  # the reset line is active low
OUTPUT_A20 = 1 << 1
OUTPUT_FULL = 1 << 4
OUTPUT_RESET = 0xC0 | OUTPUT_NO_RESET | OUTPUT_A20


@dataclass(slots=True)
class ControllerState:
    """The controller's memory and buffers."""

    memory: bytearray = field(default_factory=lambda: bytearray((CCB_RESET, *bytes(31))))
    output: int = 0  # the last byte given, which an empty buffer reads as
    full: bool = False
    # What could not go into the buffer yet; another reply meanwhile takes its place.
    replies: deque[int] = field(default_factory=lambda: deque(maxlen=1))
    awaiting: int | None = None  # the command whose data byte comes next
    last_was_command: bool = False
    output_port: int = OUTPUT_RESET
    released: bool = False  # a 0xf0 from the keyboard waits for its code


class KeyboardController(Savable):
    """Ports 0x60 and 0x64, byte-wide."""

    PORTS: ClassVar = ((DATA_PORT, DATA_PORT), (COMMAND_PORT, COMMAND_PORT))

    def __init__(
        self,
        keyboard: Keyboard,
        irq: IrqLine,
        a20: IrqLine,
        reset: Callable[[], None],
    ) -> None:
        """Raise `irq` (IRQ 1), drive the `a20` gate, call `reset` to pull the processor's reset."""
        self._keyboard = keyboard
        self._irq = irq
        self._a20 = a20
        self._reset = reset
        self._log = LogOnce("ps2")
        self.state = ControllerState()
        keyboard.on_data = self._fill
        a20(True)

    def reset(self) -> None:
        """Pull the controller's own reset; the keyboard is another device."""
        self.state = ControllerState()
        self._a20(True)
        self._update_irq()
        self._fill()

    def save(self) -> State:
        """Return memory and buffers; the keyboard is another device."""
        return self._make_state(registers=self.state)

    def load(self, state: State) -> None:
        """Take a saved state."""
        (self.state,) = self._parts_of(state, registers=ControllerState)

    @property
    def _ccb(self) -> int:
        return self.state.memory[0]

    def read(self, port: int, size: int) -> int:
        """Take the byte in the output buffer, or read the status."""
        state = self.state
        if port == COMMAND_PORT:
            status = STATUS_UNLOCKED | self._ccb & CCB_SYSTEM
            if state.full:
                status |= STATUS_OUTPUT_FULL
            return status | (STATUS_COMMAND if state.last_was_command else 0)
        value = state.output
        if state.full:
            state.full = False
            self._update_irq()
            self._keyboard.was_read()
            self._fill()
        return value

    def write(self, port: int, size: int, value: int) -> None:
        """Write a command, the data of one, or a byte for the keyboard."""
        state = self.state
        state.last_was_command = port == COMMAND_PORT
        if port == COMMAND_PORT:
            state.awaiting = None
            self._command(value)
            return
        command, state.awaiting = state.awaiting, None
        if command is None:
            # A byte for the keyboard turns its clock on again.
            state.memory[0] &= ~CCB_DISABLE
            self._keyboard.receive(value)
        elif command in WRITE_MEMORY:
            self._write_memory(command & 0x1F, value)
        elif command == WRITE_OUTPUT_PORT:
            self._write_output_port(value)
        elif command == WRITE_AS_KEYBOARD:
            self._reply(value)

    def _command(self, command: int) -> None:
        state = self.state
        answers = {
            TEST_SECOND: CLOCK_STUCK_LOW,
            TEST_KEYBOARD: KEYBOARD_PASSED,
            READ_INPUT_PORT: INPUT_PORT,
            READ_OUTPUT_PORT: state.output_port | (OUTPUT_FULL if state.full else 0),
            READ_TEST_INPUTS: 0,
        }
        if command in answers:
            self._reply(answers[command])
        elif command in READ_MEMORY:
            self._reply(state.memory[command & 0x1F])
        elif command in WRITE_MEMORY or command in (
            WRITE_OUTPUT_PORT,
            WRITE_AS_KEYBOARD,
            WRITE_AS_SECOND,
            WRITE_TO_SECOND,
        ):
            state.awaiting = command
        elif command == SELF_TEST:
            state.memory[0] |= CCB_SYSTEM
            self._reply(SELF_TEST_PASSED)
        elif command in (DISABLE_KEYBOARD, ENABLE_KEYBOARD):
            disable = CCB_DISABLE if command == DISABLE_KEYBOARD else 0
            self._write_memory(0, self._ccb & ~CCB_DISABLE | disable)
        elif command in (DISABLE_A20, ENABLE_A20):
            a20 = OUTPUT_A20 if command == ENABLE_A20 else 0
            self._write_output_port(state.output_port & ~OUTPUT_A20 | a20)
        elif command in PULSE:
            if not command & OUTPUT_NO_RESET:
                self._reset()
        elif command not in (DISABLE_SECOND, ENABLE_SECOND):
            self._log(command, "unknown command %#x", command)

    def _write_memory(self, address: int, value: int) -> None:
        self.state.memory[address] = value | CCB_NO_SECOND_PORT if address == 0 else value
        self._update_irq()
        self._fill()

    def _write_output_port(self, value: int) -> None:
        self.state.output_port = value
        self._a20(bool(value & OUTPUT_A20))
        if not value & OUTPUT_NO_RESET:
            self._reset()

    def _reply(self, value: int) -> None:
        self.state.replies.append(value)
        self._fill()

    def _fill(self) -> None:
        """Put the next byte, if any, into the output buffer, if it is empty."""
        state = self.state
        while not state.full:
            if state.replies:
                state.output, state.full = state.replies.popleft(), True
            elif self._keyboard.has_data and not self._ccb & CCB_DISABLE:
                self._take(self._keyboard.take())
            else:
                break
        self._update_irq()

    def _take(self, code: int) -> None:
        state = self.state
        if self._ccb & CCB_TRANSLATE:
            if code == RELEASED:
                state.released = True
                return
            code = TRANSLATION[code] | (0x80 if state.released else 0)
        state.released = False
        state.output, state.full = code, True

    def _update_irq(self) -> None:
        self._irq(self.state.full and bool(self._ccb & CCB_INTERRUPT))
