# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowcorn guests`: the kernels that come with it."""

from __future__ import annotations

from collections.abc import Sequence

from emu.errors import UsageError

__all__ = ["command"]

_HELP = """\
usage: shadowcorn guests [NAME]

Lists the kernels that come with shadowcorn, or tells about one. shadowcorn run guest:NAME runs it.
"""


def command(words: Sequence[str]) -> int:
    """Print the list, or one guest."""
    from guests import GUESTS

    if any(word in ("-h", "-help", "--help") for word in words):
        print(_HELP, end="")
    elif len(words) > 1 or any(word.startswith("-") for word in words):
        raise UsageError(f"shadowcorn guests takes at most one name, not {' '.join(words)}")
    elif words:
        name = words[0].removeprefix("guest:")
        guest = GUESTS.get(name)
        if guest is None:
            raise UsageError(f"no guest {name}: one of {', '.join(GUESTS)}")
        print(f"{guest.name}: {guest.title}\n\n{guest.shows}\n\nsource {guest.source}")
    else:
        width = max(map(len, GUESTS))
        for guest in GUESTS.values():
            print(f"{guest.name:{width}}  {guest.title}")
    return 0
