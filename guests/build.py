# SPDX-License-Identifier: GPL-2.0-or-later
"""Assemble the guests: ``python -m guests.build [--check] [--list] [NAME ...]``.

Writes ``guests/images`` and ``guests/bench/images``; with ``--check`` compares and writes nothing.
The images depend on the sources alone, byte for byte. Exit code 1: an image differs; 2: a source
or the tools fail.
"""

from __future__ import annotations

import argparse
import sys

from guests import GUESTS, Guest
from guests.asm import AssemblyError, Image, assemble, elf32
from guests.bench import BENCH_GUESTS
from guests.encoder import keystone_problem
from guests.tlb import TLB_GUESTS

EVERYTHING: dict[str, Guest] = {**GUESTS, **BENCH_GUESTS, **TLB_GUESTS}


def image_bytes(guest: Guest) -> tuple[bytes, Image]:
    """The file that ``guest``'s source assembles to. Raises AssemblyError."""
    image = assemble(guest.source, guest.root)
    return (elf32(image) if guest.path.suffix == ".elf" else image.data), image


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m guests.build", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="guests (default: all)")
    parser.add_argument("--check", action="store_true", help="compare with the committed images")
    parser.add_argument("--list", action="store_true", help="print addresses, bytes and sources")
    options = parser.parse_args(arguments)
    problem = keystone_problem()
    if problem:
        print(problem, file=sys.stderr)
        return 2
    try:
        guests = [_named(name) for name in options.names] or list(EVERYTHING.values())
        differing = [guest for guest in guests if _build(guest, options.check, options.list)]
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    except AssemblyError as error:
        print(error, file=sys.stderr)
        return 2
    return 1 if differing else 0


def _named(name: str) -> Guest:
    """The guest called ``name``; raises KeyError, whose text lists the names there are."""
    if name not in EVERYTHING:
        raise KeyError(f"no guest {name!r}; there are: {', '.join(EVERYTHING)}")
    return EVERYTHING[name]


def _build(guest: Guest, check: bool, listing: bool) -> bool:
    """Build or compare one guest; returns whether a comparison failed."""
    data, image = image_bytes(guest)
    if listing:
        for line in image.instructions:
            print(f"{line.address:08x} {line.code[:12].hex():24} {line.place} {line.text}")
        return False
    if check:
        same = guest.path.is_file() and guest.path.read_bytes() == data
        print(f"{guest.name}: {'as committed' if same else 'differs'}")
        return not same
    guest.path.parent.mkdir(exist_ok=True)
    guest.path.write_bytes(data)
    print(f"{guest.name}: {len(data)} bytes")
    return False


if __name__ == "__main__":
    sys.exit(main())
