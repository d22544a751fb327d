# SPDX-License-Identifier: GPL-2.0-or-later
"""Other people's kernels as a test: find them, run them here and under QEMU, make a table.

    catalogue  -> which kernels lie in a folder, as `Case`s       (unittests: kvm-unit-tests' list)
    session    -> a case in a child process, talked to by serial line
    scenario   -> a case with screen and keyboard, played
    report     -> the table

No kernel is part of shadowcorn; the folder is the user's: `python -m emu.kernels FOLDER`.
"""
