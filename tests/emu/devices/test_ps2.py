# SPDX-License-Identifier: GPL-2.0-or-later
"""The keyboard controller, the keyboard behind it, and the fingers on that."""

from __future__ import annotations

import pytest

from emu.devices.keyboard import KEY_NS, Keyboard
from emu.devices.keymap import KEYS, TRANSLATION, break_code, make_code, strokes
from emu.devices.ps2 import KeyboardController

# Set 1 of a US keyboard by rows, as every kernel's table has it.
SET_1_ROWS = {
    0x01: ["escape", *"1234567890-=", "backspace"],
    0x0F: ["tab", *"qwertyuiop[]", "enter"],
    0x1D: ["control", *"asdfghjkl;'`"],
    0x2A: ["shift", "\\", *"zxcvbnm,./", "right shift", "keypad *", "alt", "space", "caps lock"],
    0x3B: [f"f{n}" for n in range(1, 11)],
    0x45: ["num lock", "scroll lock"],
    0x47: [f"keypad {k}" for k in "789-456+1230."],
    0x57: ["f11", "f12"],
}


class Board:
    def __init__(self, clock, wire):
        self.a20, self.resets = [], []
        self.clock, self.wire = clock, wire
        self.keyboard = Keyboard(clock)
        self.chip = KeyboardController(
            self.keyboard, wire, self.a20.append, lambda: self.resets.append(1)
        )

    def status(self):
        return self.chip.read(0x64, 1)

    def command(self, value, *data):
        self.chip.write(0x64, 1, value)
        for byte in data:
            self.chip.write(0x60, 1, byte)

    def send(self, *data):
        for byte in data:
            self.chip.write(0x60, 1, byte)

    def take(self):
        """Read while the status says so."""
        taken = []
        while self.status() & 1:
            taken.append(self.chip.read(0x60, 1))
        return taken

    def typed(self, text):
        """Type, give it time, and return the codes that come."""
        self.keyboard.type(text)
        taken = []
        while self.clock.next_event is not None:
            self.clock.run_to(self.clock.next_event)
            taken += self.take()
        return taken


@pytest.fixture
def board(clock, wire):
    return Board(clock, wire)


class TestController:
    def test_at_first_it_is_as_firmware_leaves_it(self, board):
        assert board.status() == 0x14
        assert board.a20 == [True]
        board.command(0x20)
        assert board.take() == [0x65]

    @pytest.mark.parametrize(
        ("command", "answer"),
        [(0xAA, 0x55), (0xAB, 0x00), (0xA9, 0x01), (0xC0, 0xA0), (0xD0, 0xC3), (0xE0, 0x00)],
        ids=["self test", "keyboard test", "no second port", "input", "output", "test inputs"],
    )
    def test_commands_that_answer(self, board, wire, command, answer):
        board.command(command)
        assert wire.level
        assert board.status() & 0x0D == 0x0D
        assert board.take() == [answer]
        assert not wire.level

    def test_the_command_byte_keeps_all_but_the_second_port(self, board):
        board.command(0x60, 0x00)
        board.command(0x20)
        assert board.take() == [0x20]
        assert not board.status() & 0x04
        board.command(0x7F, 0xA5)
        board.command(0x3F)
        assert board.take() == [0xA5]

    def test_without_its_interrupt_the_buffer_fills_silently(self, board, wire):
        board.command(0x60, 0x24)
        board.command(0xAA)
        assert (wire.level, wire.edges) == (False, 0)
        assert board.take() == [0x55]

    def test_enabling_the_interrupt_with_a_full_buffer_raises_it(self, board, wire):
        board.command(0x60, 0x24)
        board.command(0xAA)
        board.command(0x60, 0x25)
        assert wire.level

    def test_an_empty_buffer_reads_as_the_last_byte(self, board):
        board.command(0xAA)
        assert [board.chip.read(0x60, 1) for _ in range(3)] == [0x55] * 3

    def test_every_byte_is_an_edge(self, board, wire):
        board.send(0xF2)
        assert wire.edges == 1
        board.take()
        assert wire.edges == 3

    def test_unread_answers_do_not_pile_up(self, board):
        for _ in range(1000):
            board.command(0x20)
            board.send(0xEE)
        assert len(board.take()) <= 20

    @pytest.mark.parametrize("command", [0xF0, 0xFA, 0xFC, 0xFE])
    def test_pulsing_line_0_resets(self, board, command):
        board.command(command)
        assert board.resets == [1]

    @pytest.mark.parametrize("command", [0xF1, 0xFF])
    def test_pulsing_the_others_does_nothing(self, board, command):
        board.command(command)
        assert board.resets == []

    def test_the_output_port_holds_a20_and_reset(self, board):
        board.command(0xD1, 0xDD)
        board.command(0xD1, 0xDF)
        board.command(0xDD)
        board.command(0xDF)
        assert board.a20 == [True, False, True, False, True]
        assert board.resets == []
        board.command(0xD1, 0xDE)
        assert board.resets == [1]

    def test_a_byte_can_be_put_in_as_if_from_the_keyboard(self, board, wire):
        board.command(0xD2, 0x5A)
        assert wire.level
        assert board.take() == [0x5A]

    @pytest.mark.parametrize("command", [0xD3, 0xD4])
    def test_data_for_the_absent_mouse_does_not_reach_the_keyboard(self, board, command):
        board.command(command, 0xFF)
        assert board.take() == []

    def test_a_disabled_keyboard_waits_and_a_byte_to_it_enables_it(self, board):
        board.command(0xAD)
        assert board.typed("a") == []
        board.command(0xAE)
        assert board.take() == [0x1E]
        board.command(0xAD)
        board.send(0xEE)
        assert board.take() == [0xEE]

    def test_reset_keeps_what_was_typed(self, board):
        board.keyboard.type("a")
        board.command(0x60, 0x00)
        board.chip.reset()
        board.keyboard.reset()
        assert board.typed("") == [0x1E, 0x9E]


class TestKeyboard:
    @pytest.mark.parametrize(
        ("sent", "answer"),
        [
            ([0xED, 0x07], [0xFA, 0xFA]),
            ([0xEE], [0xEE]),
            ([0xF2], [0xFA, 0xAB, 0x41]),
            ([0xF3, 0x20], [0xFA, 0xFA]),
            ([0xF4], [0xFA]),
            ([0xF5], [0xFA]),
            ([0xF6], [0xFA]),
            ([0xF8], [0xFA]),
            ([0xFF], [0xFA, 0xAA]),
            ([0xF0, 0x00], [0xFA, 0xFA, 0x41]),
            ([0xF0, 0x03], [0xFA, 0xFE]),
            ([0xEE, 0xFE], [0xEE, 0xEE]),
            ([0x12], [0xFE]),
            ([0xED, 0xF4], [0xFA, 0xFA]),
        ],
        ids=[
            "leds",
            "echo",
            "identify",
            "rate",
            "enable",
            "disable",
            "defaults",
            "key types",
            "reset",
            "which set",
            "set 3",
            "resend",
            "unknown",
            "a command instead of data",
        ],
    )
    def test_commands(self, board, sent, answer):
        taken = []
        for byte in sent:
            board.send(byte)
            taken += board.take()
        assert taken == answer

    def test_identity_is_ab_83_untranslated(self, board):
        board.command(0x60, 0x25)
        board.send(0xF2)
        assert board.take() == [0xFA, 0xAB, 0x83]

    def test_leds_are_kept(self, board):
        board.send(0xED, 0x05)
        assert board.keyboard.state.leds == 5

    def test_a_disabled_keyboard_lets_the_typist_wait(self, board):
        board.send(0xF5)
        board.take()
        assert board.typed("a") == []
        board.send(0xF4)
        assert board.take() == [0xFA]
        assert board.typed("") == [0x1E, 0x9E]

    @pytest.mark.parametrize(
        ("translate", "scan_code_set", "codes"),
        [
            (True, 2, [0x2A, 0x1E, 0x9E, 0xAA]),
            (False, 2, [0x12, 0x1C, 0xF0, 0x1C, 0xF0, 0x12]),
            (False, 1, [0x2A, 0x1E, 0x9E, 0xAA]),
        ],
        ids=["translated", "set 2", "set 1 by itself"],
    )
    def test_a_capital_letter_in_each_set(self, board, translate, scan_code_set, codes):
        board.command(0x60, 0x65 if translate else 0x25)
        board.send(0xF0, scan_code_set)
        board.take()
        assert board.typed("A") == codes


class TestTyping:
    def test_one_stroke_at_a_time_and_at_a_human_pace(self, board, clock, wire):
        board.keyboard.type("ab")
        clock.run_for(KEY_NS)
        assert board.take() == [0x1E]
        clock.run_for(KEY_NS - 1)
        assert not wire.level
        clock.run_for(1)
        assert board.take() == [0x9E]
        # Nobody reads: nothing more comes, nothing is queued, nothing is lost.
        clock.run_for(KEY_NS)
        clock.run_for(100 * KEY_NS)
        assert clock.next_event is None
        assert board.take() == [0x30]
        assert board.typed("") == [0xB0]

    def test_keys_by_name(self, board, clock):
        board.keyboard.key("up", True)
        board.keyboard.key("up", False)
        assert board.typed("") == [0xE0, 0x48, 0xE0, 0xC8]
        with pytest.raises(KeyError):
            board.keyboard.key("any", True)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a", [("a",)]),
            ("A", [("shift", "a")]),
            ("_", [("shift", "-")]),
            (" \t", [("space",), ("tab",)]),
            ("\x03", [("control", "c")]),
            ("\x1b[A\x1b", [("up",), ("escape",)]),
            ("é€", []),
        ],
        ids=["plain", "shifted", "symbol", "white", "control", "arrow and escape", "not on it"],
    )
    def test_strokes(self, text, expected):
        assert strokes(text) == expected

    def test_every_printable_character_has_its_own_stroke(self):
        printable = [chr(code) for code in range(0x20, 0x7F)]
        made = [tuple(strokes(character)) for character in printable]
        assert all(len(stroke) == 1 for stroke in made)
        assert len(set(made)) == len(printable)


@pytest.mark.parametrize("first", SET_1_ROWS, ids=hex)
def test_translated_codes_are_set_1(first):
    for number, key in enumerate(SET_1_ROWS[first]):
        assert TRANSLATION[make_code(key)[-1]] == first + number, key


def test_no_two_keys_send_the_same_and_all_translate_to_seven_bits():
    assert len(set(KEYS.values())) == len(KEYS)
    for key in KEYS:
        assert TRANSLATION[make_code(key)[-1]] < 0x80
        assert break_code(key)[-2:] == bytes((0xF0, make_code(key)[-1]))
