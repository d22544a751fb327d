# SPDX-License-Identifier: GPL-2.0-or-later
"""An IBM PS/2 keyboard (IBM Personal System/2 Hardware Interface Technical Reference, keyboard).

It sends bytes to whoever asks `take`: replies to commands first, then scan codes. The host's typing
waits in a queue without end and is sent one press or release at a time, `KEY_NS` apart and no
sooner than the guest has read the last, so that games see keys held and nothing is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from emu.clock import Clock, Event, EventState
from emu.devices.keymap import RELEASED, TRANSLATION, break_code, make_code, strokes
from emu.ports import LogOnce
from emu.savable import Savable, State

__all__ = ["KEY_NS", "Keyboard"]

# Between a press and its release, and between two strokes: a fast typist.
KEY_NS = 10_000_000

SET_LEDS = 0xED
ECHO = 0xEE
SCAN_CODE_SET = 0xF0
IDENTIFY = 0xF2
SET_RATE = 0xF3
ENABLE = 0xF4
DISABLE = 0xF5
DEFAULTS = 0xF6
KEY_TYPES = range(0xF7, 0xFE)  # set 3 only: acknowledged, without effect
RESEND = 0xFE
RESET = 0xFF

ACKNOWLEDGE = 0xFA
SELF_TEST_PASSED = 0xAA
# Replies beyond the keyboard's buffer push out the oldest.
BUFFER_SIZE = 16
IDENTITY = b"\xab\x83"


@dataclass(slots=True)
class KeyboardState:
    """What the keyboard's own processor remembers."""

    scan_code_set: int = 2
    scanning: bool = True
    leds: int = 0
    awaiting: int | None = None  # the command whose data byte comes next
    last_sent: int = 0
    unread: bool = False  # the controller holds what was sent last
    replies: deque[int] = field(default_factory=lambda: deque(maxlen=BUFFER_SIZE))
    codes: deque[int] = field(default_factory=deque)


class Keyboard(Savable):
    """The device at the other end of the 8042's cable."""

    def __init__(self, clock: Clock) -> None:
        """Time typing by `clock`."""
        self._clock = clock
        self._log = LogOnce("keyboard")
        self._typed: deque[bytes] = deque()
        self._event: Event | None = None
        self.on_data: Callable[[], None] = lambda: None
        """Called when there is something to `take`; set by the controller."""
        self.state = KeyboardState()

    # The host's side: fingers.

    def type(self, text: str) -> None:
        """Press and release the keys that make `text`; see `keymap.strokes`."""
        for keys in strokes(text):
            self._typed.append(b"".join(make_code(key) for key in keys))
            self._typed.append(b"".join(break_code(key) for key in reversed(keys)))
        self._schedule()

    def key(self, name: str, down: bool) -> None:
        """Press or release one key of `keymap.KEYS`. Raises KeyError if there is no such key."""
        self._typed.append(make_code(name) if down else break_code(name))
        self._schedule()

    def _free(self) -> bool:
        state = self.state
        return state.scanning and not state.codes and not state.unread

    def _schedule(self) -> None:
        if self._event is None and self._typed and self._free():
            self._event = self._clock.at(self._clock.now + KEY_NS, self._stroke)

    def _stroke(self) -> None:
        self._event = None
        if not self._typed or not self._free():
            return
        state, codes = self.state, self._typed.popleft()
        state.codes.extend(codes if state.scan_code_set == 2 else _to_set_1(codes))
        self.on_data()

    # The guest's side: the cable.

    @property
    def has_data(self) -> bool:
        """Whether `take` has something to give."""
        return bool(self.state.replies or self.state.codes)

    def take(self) -> int:
        """Return the next byte. Call only while `has_data`."""
        state = self.state
        state.last_sent = (state.replies or state.codes).popleft()
        state.unread = True
        return state.last_sent

    def was_read(self) -> None:
        """Hear from the controller that the guest has read what was taken."""
        self.state.unread = False
        self._schedule()

    def receive(self, value: int) -> None:
        """Take a command, or the data byte of one."""
        state = self.state
        command, state.awaiting = state.awaiting, None
        if command is not None and value < SET_LEDS:
            self._parameter(command, value)
        else:
            self._command(value)
        if self.has_data:
            self.on_data()

    def _command(self, value: int) -> None:
        state = self.state
        if value in (SET_LEDS, SCAN_CODE_SET, SET_RATE):
            state.awaiting = value
            self._reply(ACKNOWLEDGE)
        elif value == ECHO:
            self._reply(ECHO)
        elif value == IDENTIFY:
            self._reply(ACKNOWLEDGE, *IDENTITY)
        elif value in (ENABLE, DISABLE, DEFAULTS):
            state.codes.clear()
            if value != ENABLE:
                state.scan_code_set = 2
            state.scanning = value != DISABLE
            self._reply(ACKNOWLEDGE)
            self._schedule()
        elif value == RESEND:
            self._reply(state.last_sent)
        elif value == RESET:
            self.state = KeyboardState()
            self._reply(ACKNOWLEDGE, SELF_TEST_PASSED)
            self._schedule()
        elif value in KEY_TYPES:
            self._reply(ACKNOWLEDGE)
        else:
            self._log(value, "unknown command %#x", value)
            self._reply(RESEND)

    def _parameter(self, command: int, value: int) -> None:
        state = self.state
        if command == SET_LEDS:
            state.leds = value & 7
        elif command == SCAN_CODE_SET:
            if value == 0:
                self._reply(ACKNOWLEDGE, state.scan_code_set)
                return
            if value > 2:
                self._log("set", "scan code set %d is not there", value)
                self._reply(RESEND)
                return
            state.codes.clear()
            state.scan_code_set = value
        self._reply(ACKNOWLEDGE)

    def _reply(self, *values: int) -> None:
        self.state.replies.extend(values)

    def reset(self) -> None:
        """Switch it off and on. What the host has typed is still to come."""
        self._clock.cancel(self._event)
        self._event = None
        self.state = KeyboardState()
        self._schedule()

    def save(self) -> State:
        """Return what its processor remembers, the strokes still to come, and when the next is."""
        return self._make_state(
            registers=self.state,
            typed=self._typed,
            event=self._clock.save_event(self._event),
        )

    def load(self, state: State) -> None:
        """Take a saved state."""
        registers, typed, event = self._parts_of(
            state, registers=KeyboardState, typed=deque[bytes], event=EventState
        )
        self._event = self._clock.load_event(event, self._stroke)
        self.state, self._typed = registers, typed


def _to_set_1(codes: bytes) -> bytes:
    result = bytearray()
    released = 0
    for code in codes:
        if code == RELEASED:
            released = 0x80
        else:
            result.append(TRANSLATION[code] | released)
            released = 0
    return bytes(result)
