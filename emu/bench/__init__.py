# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark: ``shadowcorn bench``.

    loads.py      what is measured, and the goals, as data
    emulators.py  what it is measured on: this machine under each plug-in, bare Unicorn, QEMU
    runner.py     sizes the work, runs the columns in turn, takes medians and ratios
    scale.py      what grows with the number of address spaces, aliases, pages, and start-up
    plugins.py    the cache switched off, as a plug-in
    report.py     the tables and the JSON
    svg.py        the bar chart
    command.py    the command line

Nothing here runs unless it is asked for: the package imports none of its parts by itself.
"""
