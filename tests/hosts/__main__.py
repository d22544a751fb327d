# SPDX-License-Identifier: GPL-2.0-or-later
"""Run shadowcorn's tests on another host, from one Debian machine.

    python -m tests.hosts wine            the whole suite on Windows Python under Wine, 20 minutes
    python -m tests.hosts arm64-user      the guests and the processor's tests under qemu-user
    python -m tests.hosts arm64-system    guest:hello three ways on Debian's arm64 kernel, 1 minute

Words after the name go to pytest. What is downloaded (pip, apt-get) is kept in `--folder`, by
default ~/.cache/shadowcorn/hosts. Needed beforehand, as root:

    apt-get install wine64 qemu-user-static qemu-system-arm cpio
    dpkg --add-architecture arm64 && apt-get update
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.hosts.arm64 import Arm64
from tests.hosts.host import Missing
from tests.hosts.wine import Wine

THREE_WAYS = 3


def main(words: list[str]) -> int:
    """Be the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.hosts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("host", choices=("wine", "arm64-user", "arm64-system"))
    parser.add_argument(
        "--folder", type=Path, default=Path.home() / ".cache" / "shadowcorn" / "hosts"
    )
    options, rest = parser.parse_known_args(words)
    folder = options.folder.resolve()
    try:
        if options.host == "wine":
            return Wine(folder).suite(*rest)
        if options.host == "arm64-user":
            return Arm64(folder).suite(*rest)
        _, text = Arm64(folder).boot()
        return 0 if text.count("code 33") == THREE_WAYS else 1
    except (Missing, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
