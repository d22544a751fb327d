# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels that speak by their text screen and listen to their keyboard.

A scenario plays a kernel through a `Player`, which is a machine of ours or a QEMU, and returns why
it is not content, or nothing:

    Case --play--> Player.screen, .key, .wait --> "" or a reason

Ours runs in this process and in virtual time; QEMU is asked over QMP on its standard input.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from emu.kernels.case import Case, Result, Verdict
from emu.kernels.session import Emulator
from emu.machine import Machine
from emu.outcome import Kind

__all__ = ["SCENARIOS", "MachinePlayer", "Player", "play_on_machine", "play_on_qemu"]

_COLUMNS, _ROWS = 80, 25


class Player(Protocol):
    """A kernel that runs, its screen and its keyboard."""

    def wait(self) -> bool:
        """Let it run a little; return whether it still does and there is time left."""

    def screen(self) -> str:
        """Return the text screen, lines parted by newlines."""

    def key(self, name: str, down: bool) -> None:
        """Press or release a key: a letter, or one of "left", "right", "space"."""


class MachinePlayer:
    """A `Player` on a machine of ours; `seconds` are host seconds."""

    _SLICE = 0.25

    def __init__(self, machine: Machine, seconds: float) -> None:
        """Play `machine` for at most `seconds`."""
        self._machine = machine
        self._until = time.monotonic() + seconds
        self.ending = ""
        """How the machine ended, if it did."""

    def wait(self) -> bool:
        """Run for a quarter of a second."""
        outcome = self._machine.run(timeout=self._SLICE)
        if outcome.kind is not Kind.TIMEOUT:
            self.ending = f"{outcome.kind.value} {outcome.report}".strip()
        return not self.ending and time.monotonic() < self._until

    def screen(self) -> str:
        """Return the screen."""
        return self._machine.screen.text

    def key(self, name: str, down: bool) -> None:
        """Press or release."""
        self._machine.keyboard.key(name, down)


class QemuPlayer:
    """A `Player` on QEMU, through the monitor protocol on its standard input and output."""

    _SLICE = 0.1
    _KEYS = {"space": "spc"}

    def __init__(self, command: Sequence[str], seconds: float) -> None:
        """Start QEMU and greet it."""
        self._process = subprocess.Popen(
            [*command, "-qmp", "stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._until = time.monotonic() + seconds
        self.ending = ""
        self._ask("qmp_capabilities")

    def _ask(self, command: str, **arguments: object) -> object:
        reader, writer = self._process.stdout, self._process.stdin
        assert reader is not None and writer is not None
        request = {"execute": command, "arguments": arguments}
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            writer.flush()
            for line in reader:
                answer = json.loads(line)
                if "return" in answer or "error" in answer:
                    return answer.get("return")
        except (OSError, ValueError) as error:
            self.ending = str(error)
            return None
        self.ending = "it ended"
        return None

    def wait(self) -> bool:
        """Wait for a tenth of a second."""
        time.sleep(self._SLICE)
        return not self.ending and time.monotonic() < self._until

    def screen(self) -> str:
        """Return the screen, read out of VGA memory."""
        line = f"xp /{_COLUMNS * _ROWS}xh 0xb8000"
        answer = self._ask("human-monitor-command", **{"command-line": line})
        cells = [int(word, 16) for word in re.findall(r"0x([0-9a-f]{4})\b", str(answer))]
        text = "".join(chr(cell & 0x7F) if 32 <= cell & 0xFF < 127 else " " for cell in cells)
        rows = (text[at : at + _COLUMNS].rstrip() for at in range(0, len(text), _COLUMNS))
        return "\n".join(rows)

    def key(self, name: str, down: bool) -> None:
        """Press or release."""
        key = {"type": "qcode", "data": self._KEYS.get(name, name)}
        event = {"type": "key", "data": {"down": down, "key": key}}
        self._ask("input-send-event", events=[event])

    def close(self) -> None:
        """End QEMU."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


# --- The scenarios --------------------------------------------------------------------------


def _until(player: Player, what: Callable[[str], bool]) -> bool:
    """Let the kernel run until its screen is as wanted."""
    while not what(player.screen()):
        if not player.wait():
            return what(player.screen())
    return True


def _ship(screen: str) -> int:
    """Return the column of the ship at the bottom, or -1."""
    lines = [line for line in screen.splitlines() if "/ \\" in line]
    return lines[-1].index("/ \\") if lines else -1


def _invaders(player: Player) -> str:
    """The game shows its aliens and its ship; the ship moves and shoots."""
    if not _until(player, lambda screen: screen.count("-*-") >= 40 and _ship(screen) >= 0):
        return "no playfield"
    begin = _ship(player.screen())
    for key, sign in (("right", 1), ("left", -1)):

        def moved(screen: str, sign: int = sign) -> bool:
            return (_ship(screen) - begin) * sign >= 2

        if not _hold(player, key, moved):
            return f"the ship does not go {key}"
    if not _hold(player, "space", lambda screen: "|" in screen):
        return "the ship does not shoot"
    return ""


def _hold(player: Player, key: str, what: Callable[[str], bool]) -> bool:
    """Hold a key down until the screen is as wanted."""
    player.key(key, True)
    done = _until(player, what)
    player.key(key, False)
    return done


def _memtest(player: Player) -> str:
    """Memtest86+ finishes a pass without an error."""

    def done(screen: str) -> bool:
        return bool(re.search(r"Pass:\s+[1-9]", screen)) or "Pass complete" in screen

    if not _until(player, done):
        last = player.screen().strip().splitlines() or ["an empty screen"]
        return f"no pass was finished; the first line is {last[0].strip()!r}"
    errors = re.search(r"Errors:\s*(\d+)", player.screen())
    if errors is None or errors[1] != "0":
        return f"errors: {errors[1] if errors else 'unknown'}"
    return ""


SCENARIOS: dict[str, Callable[[Player], str]] = {"invaders": _invaders, "memtest": _memtest}
"""By name: what `Case.judge` says after "screen "."""


def _result(reason: str, ending: str, late: bool, seconds: float, screen: str) -> Result:
    if not reason:
        return Result(Verdict.PASS, seconds, output=screen)
    if ending:
        return Result(Verdict.CRASH, seconds, f"{reason}: {ending.splitlines()[0]}", output=screen)
    return Result(Verdict.TIMEOUT if late else Verdict.FAIL, seconds, reason, output=screen)


def play_on_machine(case: Case, machine: Machine) -> Result:
    """Play the scenario that `case` names on `machine`."""
    began = time.monotonic()
    player = MachinePlayer(machine, case.seconds)
    reason = SCENARIOS[case.judge.split()[1]](player)
    seconds = time.monotonic() - began
    return _result(reason, player.ending, seconds >= case.seconds, seconds, player.screen())


def play_on_qemu(case: Case, emulator: Emulator) -> Result:
    """Play the scenario that `case` names on QEMU."""
    began = time.monotonic()
    player = QemuPlayer(emulator.command(case.arguments, case.seconds), case.seconds)
    try:
        reason = SCENARIOS[case.judge.split()[1]](player)
        seconds = time.monotonic() - began
        return _result(reason, player.ending, seconds >= case.seconds, seconds, player.screen())
    finally:
        player.close()
