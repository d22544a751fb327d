# SPDX-License-Identifier: GPL-2.0-or-later
"""The multiboot game of Debian's grub-invaders: a kernel that nobody here wrote."""

from __future__ import annotations

import pytest

from emu.kernels.case import Case, Verdict
from emu.kernels.scenario import play_on_machine
from emu.machine import Machine


@pytest.fixture
def game(kernel_file):
    with Machine(kernel_file("invaders.exec"), memory=16 << 20) as machine:
        yield machine


def test_shows_its_playfield_and_reacts_to_keys(game):
    case = Case("invaders", "plays", judge="screen invaders", seconds=200)
    result = play_on_machine(case, game)
    assert result.verdict is Verdict.PASS, f"{result.reason}\n{result.output}"


def test_is_the_same_game_every_time(kernel_file):
    screens = []
    for _ in range(2):
        with Machine(kernel_file("invaders.exec"), memory=16 << 20) as machine:
            machine.keyboard.key("right", True)
            for _ in range(20):
                machine.run(max_insns=1_000_000)
                if machine.screen.text.count("-*-") == 40:
                    break
            screens.append(machine.screen.text)
    assert screens[0].count("-*-") == 40
    assert screens[0] == screens[1]
