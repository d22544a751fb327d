# SPDX-License-Identifier: GPL-2.0-or-later
"""INT 09h and 16h: scan codes of set 1 become keys in the ring of the BIOS data area.

The layout is that of a US keyboard. A key is a word: the scan code above, the character below, as
INT 16h returns it.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.boot.bios.call import BDA, Call

__all__ = ["Keyboard"]

_DATA, _STATUS = 0x60, 0x64
_FULL = 1 << 0
_FROM_MOUSE = 1 << 5
_FLOATING = 0xFF
_CONTROLLER_DEPTH = 32

# BIOS data area.
_FLAGS = 0x17
_HELD = 0x18  # keys held down: left Ctrl, left Alt, SysRq, -, Scroll Lock, Num Lock, Caps Lock, Ins
_HEAD, _TAIL = 0x1A, 0x1C
_RING_START, _RING_END = 0x80, 0x82
_EXTENDED = 0x96  # bits 0, 1: the last code was E1, E0; 2, 3: right Ctrl, right Alt; 4: 101 keys

_RIGHT_SHIFT, _LEFT_SHIFT, _CTRL, _ALT = 1, 2, 4, 8
_SCROLL, _NUM, _CAPS = 16, 32, 64
_SYSRQ = 4
_LAST_WAS_E1, _LAST_WAS_E0 = 1, 2
_PAUSE = 0xE1
_INSERT, _INSERT_STATE = 0x52, 0x80
# Of a key that is held: its bit at 40:18, and of its grey twin at 40:96.
_HELD_BITS = {0x1D: 1, 0x38: 2, 0x54: _SYSRQ, 0x46: 16, 0x45: 32, 0x3A: 64, _INSERT: 0x80}
_GREY_BITS = {0x1D: 4, 0x38: 8}
_MODIFIERS = {0x36: _RIGHT_SHIFT, 0x2A: _LEFT_SHIFT, 0x1D: _CTRL, 0x38: _ALT}
_LOCKS = {0x46: _SCROLL, 0x45: _NUM, 0x3A: _CAPS}
_RELEASED = 0x80
_PREFIX = 0xE0
_EXTENDED_CHAR = 0xE0  # the character of a grey key, for functions 10h and 11h


def _keys(*rows: tuple[int, str]) -> dict[int, str]:
    return {first + i: char for first, row in rows for i, char in enumerate(row)}


_PLAIN = _keys(
    (0x01, "\x1b1234567890-=\b\tqwertyuiop[]\r"),
    (0x1E, "asdfghjkl;'`"),
    (0x2B, "\\zxcvbnm,./"),
    (0x37, "*"),
    (0x39, " "),
    (0x4A, "-"),
    (0x4E, "+"),
)
_SHIFTED = _PLAIN | _keys(
    (0x01, "\x1b!@#$%^&*()_+\b\0QWERTYUIOP{}\r"),
    (0x1E, 'ASDFGHJKL:"~'),
    (0x2B, "|ZXCVBNM<>?"),
)
_KEYPAD = _keys((0x47, "789"), (0x4B, "456"), (0x4F, "1230."))
# What a BIOS reports in place of the scan code.
_FUNCTION_KEYS = {**{code: code for code in range(0x3B, 0x45)}, 0x57: 0x85, 0x58: 0x86}


class Keyboard:
    """The services of INT 16h, by AH, and the keyboard interrupt."""

    def __init__(self) -> None:
        """Fill the table of functions."""
        self.functions: dict[int, Callable[[Call], bool | None]] = {
            0x00: self._get,
            0x01: self._peek,
            0x02: self._shift_flags,
            0x03: self._accept,
            0x05: self._push,
            0x09: self._capabilities,
            0x0A: self._identity,
            0x10: self._get,
            0x11: self._peek,
            0x12: self._extended_flags,
            0x92: self._has_extended,
            0xA2: self._accept,
        }

    def interrupt(self, call: Call) -> None:
        """INT 09h: take what the controller holds."""
        self._take(call)

    def _take(self, call: Call) -> bool:
        """Take one byte from the controller; False if it holds none (or is not there)."""
        ports = call.host.ports
        status = ports.read(_STATUS, 1)
        if status == _FLOATING or not status & _FULL:
            return False
        code = ports.read(_DATA, 1)
        if not status & _FROM_MOUSE:
            self._scan_code(call, code)
        return True

    def _poll(self, call: Call) -> None:
        """Take what no interrupt has fetched: the caller may have IF clear or IRQ 1 masked."""
        for _ in range(_CONTROLLER_DEPTH):
            if not self._take(call):
                return

    def _scan_code(self, call: Call, code: int) -> None:
        flags = call.read_bda(_FLAGS)
        marks = call.read_bda(_EXTENDED)
        extended, pausing = bool(marks & _LAST_WAS_E0), bool(marks & _LAST_WAS_E1)
        key, released = code & 0x7F, bool(code & _RELEASED)
        marks &= ~(_LAST_WAS_E0 | _LAST_WAS_E1)
        if code == _PREFIX:
            marks |= _LAST_WAS_E0
        elif code == _PAUSE or (pausing and key == 0x1D):
            marks |= _LAST_WAS_E1
        call.write_bda(_EXTENDED, marks)
        if code >= _PREFIX or pausing:  # Pause is E1 1D 45, and waits for nothing here
            return
        self._note_held(call, key, extended, released)
        if key in _MODIFIERS and not (extended and key in (0x2A, 0x36)):
            call.write_bda(_FLAGS, self._modified(call, flags, key, released))
        elif key in _LOCKS and not released:
            call.write_bda(_FLAGS, flags ^ _LOCKS[key])
        elif not released:
            word = self._key(key, flags, extended)
            if key == _INSERT and word & 0xFF in (0, _EXTENDED_CHAR):
                call.write_bda(_FLAGS, flags ^ _INSERT_STATE)
            if word:
                self._append(call, word)

    @staticmethod
    def _note_held(call: Call, key: int, extended: bool, released: bool) -> None:
        """Keep 40:18 and 40:96, where each key that is held has its bit."""
        grey = extended and key in _GREY_BITS
        offset, bit = (_EXTENDED, _GREY_BITS[key]) if grey else (_HELD, _HELD_BITS.get(key, 0))
        if bit:
            held = call.read_bda(offset)
            call.write_bda(offset, held & ~bit if released else held | bit)

    @staticmethod
    def _modified(call: Call, flags: int, key: int, released: bool) -> int:
        """Return 40:17 after a Shift, Ctrl or Alt; the last two have twins that may be held."""
        bit = _MODIFIERS[key]
        twin = key in _GREY_BITS and (
            call.read_bda(_HELD) & _HELD_BITS[key] or call.read_bda(_EXTENDED) & _GREY_BITS[key]
        )
        return flags & ~bit if released and not twin else flags | bit

    @staticmethod
    def _key(key: int, flags: int, extended: bool) -> int:
        """Return scan code and character of a key, 0 if it makes none."""
        shift = bool(flags & (_LEFT_SHIFT | _RIGHT_SHIFT))
        if key in _FUNCTION_KEYS:
            return _FUNCTION_KEYS[key] << 8
        if key in _KEYPAD:
            typed = not extended and shift != bool(flags & _NUM)
            return key << 8 | (ord(_KEYPAD[key]) if typed else _EXTENDED_CHAR if extended else 0)
        char = _PLAIN.get(key)
        if char is None:
            return 0
        if extended and char in "\r/" and not flags & (_ALT | _CTRL):
            return _EXTENDED_CHAR << 8 | ord(char)
        if flags & _ALT:
            return key << 8
        if flags & _CTRL:
            if char.isalpha() or char in "[]\\":
                return key << 8 | ord(char.upper()) - 0x40
            return key << 8 | {"\r": 0x0A, "\b": 0x7F, " ": 0x20}.get(char, 0)
        if shift != (bool(flags & _CAPS) and char.isalpha()):
            char = _SHIFTED[key]
        return key << 8 | ord(char)

    # --- The ring ---------------------------------------------------------------------------------

    @staticmethod
    def _after(call: Call, position: int) -> int:
        position += 2
        return (
            call.read_bda(_RING_START, 2) if position >= call.read_bda(_RING_END, 2) else position
        )

    def _append(self, call: Call, word: int) -> bool:
        tail = call.read_bda(_TAIL, 2)
        after = self._after(call, tail)
        if after == call.read_bda(_HEAD, 2):
            return False
        call.memory.write(BDA + tail, 2, word, "device")
        call.write_bda(_TAIL, after, 2)
        return True

    def _next(self, call: Call) -> int | None:
        head = call.read_bda(_HEAD, 2)
        if head == call.read_bda(_TAIL, 2):
            self._poll(call)
        return None if head == call.read_bda(_TAIL, 2) else call.memory.read(BDA + head, 2)

    def _accept(self, call: Call) -> None:
        """Typematic rate: the host's keyboard has its own."""

    def _get(self, call: Call) -> None:
        word = self._next(call)
        if word is None:
            call.again_after_interrupt()
            return
        call.write_bda(_HEAD, self._after(call, call.read_bda(_HEAD, 2)), 2)
        call.ax = self._plain(call, word)

    def _peek(self, call: Call) -> None:
        word = self._next(call)
        call.zero(word is None)
        if word is not None:
            call.ax = self._plain(call, word)

    @staticmethod
    def _plain(call: Call, word: int) -> int:
        """Functions 00h and 01h know no extended keys: their character is 0, the grey Enter and /
        are the others."""
        if word & 0xFF == 0xF0 and word >> 8:  # a combination that old programs would not know
            word &= 0xFF00
        if call.ah >= 0x10:
            return word
        if word >> 8 == _EXTENDED_CHAR:
            return {0x0D: 0x1C0D, 0x0A: 0x1C0A, 0x2F: 0x352F}.get(word & 0xFF, word & 0xFF)
        return word & 0xFF00 if word & 0xFF == _EXTENDED_CHAR else word

    def _shift_flags(self, call: Call) -> None:
        call.al = call.read_bda(_FLAGS)

    def _extended_flags(self, call: Call) -> None:
        """AH=12h: AL as AH=02h; AH has what is held down: SysRq, the locks, Alt and Ctrl on either
        side."""
        held, grey = call.read_bda(_HELD), call.read_bda(_EXTENDED)
        call.al = call.read_bda(_FLAGS)
        call.ah = held & 0x73 | (held & _SYSRQ) << 5 | grey & 0x0C

    def _capabilities(self, call: Call) -> None:
        """AH=09h: functions 0Ah, and 10h to 12h are there."""
        call.al = 0x30

    def _identity(self, call: Call) -> None:
        """AH=0Ah: an MF2 keyboard behind a translating controller."""
        call.bx = 0x41AB

    def _has_extended(self, call: Call) -> None:
        """AH=92h: functions 10h to 12h are there (AH below 80h says no)."""
        call.ah = 0x80

    def _push(self, call: Call) -> None:
        call.al = 0 if self._append(call, call.cx) else 1
