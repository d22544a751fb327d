# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands `shadowcorn` and `shadowcorn-qemu`.

    __init__.py  which command, and what becomes of errors
    qemu.py      QEMU's options and their grammar
    parse.py     words -> RunOptions, with plugs.py (devices, disks) and options.py (the values)
    build.py     RunOptions -> Machine
    run.py       one run: input, output, display, outcome
    streams.py   where bytes come from and go to; terminal.py, display.py
    report.py    the outcome, the summary table, the JSON file
    walk.py      an address through the guest's tables and the shadow's, side by side
    pages.py     what the page tables map; lint.py, what is wrong with them
    guests.py    the shipped kernels

A command is a function of the words after its name that returns the process exit code. It is
imported when it is called, because a person waits for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from emu.errors import KernelError, ShadowcornError, UsageError

__all__ = ["COMMANDS", "main", "main_qemu"]

Command = Callable[[Sequence[str]], int]

COMMANDS = {
    "run": ("emu.cli.run", "boot a kernel and run it until it ends"),
    "walk": ("emu.cli.walk", "show how an address is translated at some point of a run"),
    "pages": ("emu.cli.pages", "print what the page tables map at some point of a run"),
    "lint": ("emu.cli.lint", "print what is wrong with the page tables at some point of a run"),
    "guests": ("emu.cli.guests", "list the kernels that come with shadowcorn"),
    "kernels": ("emu.kernels.command", "run other people's kernels from a folder, make a table"),
    "fuzz": ("emu.fuzz", "test the MMU at random, on its own or under random programs"),
    "bench": ("emu.bench.command", "measure, against other MMUs and QEMU"),
}
"""Name of each command, the module whose `command` it is, and what it does."""

EXIT_USAGE = 2
EXIT_INTERNAL = 6
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

TRACEBACK = "SHADOWCORN_TRACEBACK"
PLEASE_REPORT = (
    "this is a defect of shadowcorn: please report it with the command line "
    "(SHADOWCORN_TRACEBACK=1 shows where it happened)"
)


def main(words: Sequence[str] | None = None) -> int:
    """Be `shadowcorn`; return the exit code."""
    return _guarded(_dispatch, sys.argv[1:] if words is None else words)


def main_qemu(words: Sequence[str] | None = None) -> int:
    """Be `qemu-system-x86_64`, as far as that goes; return the exit code."""
    return _guarded(_qemu, sys.argv[1:] if words is None else words)


def _dispatch(words: Sequence[str]) -> int:
    name = words[0] if words else "--help"
    if name in ("-h", "-help", "--help", "help"):
        print(_help(), end="")
        return 0
    if name in ("-V", "-version", "--version", "version"):
        from emu.cli.report import version

        print(f"shadowcorn {version()}")
        return 0
    if name not in COMMANDS:
        raise UsageError(_unknown_command(name))
    return _load(COMMANDS[name][0])(words[1:])


def _load(module: str, name: str = "command") -> Command:
    from importlib import import_module

    command: Command = getattr(import_module(module), name)
    return command


def _help() -> str:
    lines = ["usage: shadowcorn COMMAND ...", ""]
    lines += [f"  {name:8} {what}" for name, (_, what) in COMMANDS.items()]
    lines += [
        "",
        "shadowcorn COMMAND --help tells more; start with: shadowcorn run guest:hello",
        "",
    ]
    return "\n".join(lines)


def _unknown_command(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, 1)
    if near:
        return f"no such command: {name}, did you mean {near[0]}?"
    hint = f", did you mean: shadowcorn run {name}?" if "." in name or ":" in name else ""
    return f"no such command: {name}{hint} (one of {', '.join(COMMANDS)})"


def _qemu(words: Sequence[str]) -> int:
    return _load("emu.cli.run", "qemu_command")(words)


# --- Errors ---------------------------------------------------------------------------------------


def _guarded(command: Command, words: Sequence[str]) -> int:
    """Call a command; whatever it raises becomes one line and an exit code."""
    try:
        code = command(words)
        _flush()
        return code
    except SystemExit as end:  # argparse has said what there is to say
        return end.code if isinstance(end.code, int) else EXIT_USAGE if end.code else 0
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:
        return _explain(error)


def _explain(error: Exception) -> int:
    if os.environ.get(TRACEBACK) == "1":
        import traceback

        traceback.print_exception(error)
    if isinstance(error, ImportError):
        say(f"{error}: is shadowcorn installed with all that it depends on (pip install .)?")
        return EXIT_INTERNAL
    if isinstance(error, (KernelError, UsageError)) or _is_the_users(error):
        say(str(error))
        return EXIT_USAGE
    if isinstance(error, ShadowcornError):
        say(str(error))
        return EXIT_INTERNAL
    _log_traceback(error)
    first_line = (str(error).splitlines() or [""])[0]
    say(f"internal error: {type(error).__name__}: {first_line}; {PLEASE_REPORT}")
    return EXIT_INTERNAL


def _is_the_users(error: Exception) -> bool:
    """Tell whether an error of `mmu` is one that a person can put right."""
    from mmu.api import PoolError
    from mmu.memory import MemoryMapError

    return isinstance(error, (PoolError, MemoryMapError))


def _log_traceback(error: Exception) -> None:
    """Put the traceback into the file of -D, if there is one."""
    import logging

    logger = logging.getLogger("shadowcorn")
    if any(isinstance(handler, logging.FileHandler) for handler in logger.handlers):
        logger.error("internal error", exc_info=error)


def say(text: str) -> None:
    """Write one line of ours to standard error; a closed one is no reason to fail."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(f"shadowcorn: {text}\n")
            sys.stderr.flush()
    except (OSError, ValueError):
        pass


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _silence_stdout() -> None:
    """Keep the interpreter from complaining about a closed pipe when it ends."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        pass
