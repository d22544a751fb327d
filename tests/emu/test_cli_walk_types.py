# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowcorn walk` tells the memory type that the guest asks for."""

from __future__ import annotations

from emu.cli import main


def test_the_type_stands_beside_the_rights(capsys):
    assert main(["walk", "guest:ring3", "--at", "20000", "0x1000"]) == 0
    assert "(4 KiB, w-x, WB)" in capsys.readouterr().out
