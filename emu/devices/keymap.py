# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys, the scan codes that they send, and the keys that make a text, for a US keyboard.

Codes are those of set 2, the keyboard's own (Microsoft, "Keyboard Scan Code Specification", 1.3a);
the 8042 turns them into set 1, which is what nearly every kernel reads.
"""

from __future__ import annotations

__all__ = ["KEYS", "TRANSLATION", "break_code", "make_code", "strokes"]

EXTENDED = 0xE0
RELEASED = 0xF0

# Key -> make code of set 2; 0xe0xx sends the prefix 0xe0 first.
KEYS: dict[str, int] = {
    **dict(zip("abcdefghijklm", bytes.fromhex("1c322123242b3433433b424b3a"), strict=True)),
    **dict(zip("nopqrstuvwxyz", bytes.fromhex("31444d152d1b2c3c2a1d22351a"), strict=True)),
    **dict(zip("1234567890", bytes.fromhex("161e26252e363d3e4645"), strict=True)),
    **dict(zip("`-=[]\\;',./", bytes.fromhex("0e4e55545b5d4c5241494a"), strict=True)),
    "space": 0x29,
    "enter": 0x5A,
    "backspace": 0x66,
    "tab": 0x0D,
    "escape": 0x76,
    "shift": 0x12,
    "right shift": 0x59,
    "control": 0x14,
    "right control": 0xE014,
    "alt": 0x11,
    "right alt": 0xE011,
    "caps lock": 0x58,
    "num lock": 0x77,
    "scroll lock": 0x7E,
    "up": 0xE075,
    "down": 0xE072,
    "left": 0xE06B,
    "right": 0xE074,
    "home": 0xE06C,
    "end": 0xE069,
    "page up": 0xE07D,
    "page down": 0xE07A,
    "insert": 0xE070,
    "delete": 0xE071,
    "f1": 0x05,
    "f2": 0x06,
    "f3": 0x04,
    "f4": 0x0C,
    "f5": 0x03,
    "f6": 0x0B,
    "f7": 0x83,
    "f8": 0x0A,
    "f9": 0x01,
    "f10": 0x09,
    "f11": 0x78,
    "f12": 0x07,
    "keypad 0": 0x70,
    "keypad 1": 0x69,
    "keypad 2": 0x72,
    "keypad 3": 0x7A,
    "keypad 4": 0x6B,
    "keypad 5": 0x73,
    "keypad 6": 0x74,
    "keypad 7": 0x6C,
    "keypad 8": 0x75,
    "keypad 9": 0x7D,
    "keypad .": 0x71,
    "keypad +": 0x79,
    "keypad -": 0x7B,
    "keypad *": 0x7C,
    "keypad /": 0xE04A,
    "keypad enter": 0xE05A,
}

# What the 8042 makes of a byte from the keyboard: set 2 to set 1. From 0x85 on, the byte itself.
TRANSLATION = bytes.fromhex(
    "ff43413f3d3b3c58644442403e0f2959"
    "65382a701d10025a66712c1f1e11035b"
    "672e2d201205045c68392f211413065d"
    "693130232215075e6a7232241608095f"
    "6b332517180b0a606c34352627190c61"
    "6d7328741a0d626e3a361c1b752b6376"
    "55567778797a0e7b7c4f7d4b477e7f6f"
    "5253504c4d480145574e514a37494654"
    "8081824154"
) + bytes(range(0x85, 0x100))

_SHIFTED = dict(zip('~!@#$%^&*()_+{}|:"<>?', "`1234567890-=[]\\;',./", strict=True))
_NAMED = {
    " ": "space",
    "\n": "enter",
    "\r": "enter",
    "\t": "tab",
    "\b": "backspace",
    "\x7f": "backspace",
    "\x1b": "escape",
}
# What a terminal sends for keys that are no characters.
_SEQUENCES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1b[2~": "insert",
    "\x1b[3~": "delete",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
}


def make_code(key: str) -> bytes:
    """Return what pressing a key sends. Raises KeyError for a key that is not there."""
    code = KEYS[key]
    return bytes((EXTENDED, code & 0xFF)) if code > 0xFF else bytes((code,))


def break_code(key: str) -> bytes:
    """Return what releasing a key sends."""
    *prefix, code = make_code(key)
    return bytes((*prefix, RELEASED, code))


def strokes(text: str) -> list[tuple[str, ...]]:
    """Return the keys to be held down together for each character, in order.

    Control characters are made with the control key, the arrow keys of a terminal are known, and a
    character that a US keyboard has not is left out.

    >>> strokes("A1\\n")
    [('shift', 'a'), ('1',), ('enter',)]
    """
    result: list[tuple[str, ...]] = []
    position = 0
    while position < len(text):
        sequence = next((s for s in _SEQUENCES if text.startswith(s, position)), None)
        if sequence is not None:
            result.append((_SEQUENCES[sequence],))
            position += len(sequence)
            continue
        character = text[position]
        position += 1
        if character in _NAMED:
            result.append((_NAMED[character],))
        elif character in _SHIFTED:
            result.append(("shift", _SHIFTED[character]))
        elif "A" <= character <= "Z":
            result.append(("shift", character.lower()))
        elif "\x01" <= character <= "\x1a":
            result.append(("control", chr(ord(character) + 0x60)))
        elif len(character) == 1 and character in KEYS:
            result.append((character,))
    return result
