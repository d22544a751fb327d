# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowcorn run`, and `shadowcorn-qemu`: one run from the words to the exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from emu.cli import (
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    PLEASE_REPORT,
    TRACEBACK,
    help,
    say,
)
from emu.cli.build import Kernel, find_kernel, make_machine
from emu.cli.options import RunOptions
from emu.cli.parse import parse_run
from emu.cli.streams import InputThread, Outputs, Tail, blocking_reader, stdin_descriptor
from emu.cli.terminal import is_terminal
from emu.outcome import Kind, Outcome

if TYPE_CHECKING:
    from emu.cli.display import ScreenThread
    from emu.debug.control import Control
    from emu.machine import Machine

__all__ = ["HELP_WORDS", "Session", "command", "qemu_command", "set_up_logging", "warn_all"]

_UNFINISHED = (Kind.TIMEOUT, Kind.INSN_LIMIT, Kind.POSITION, Kind.PAUSED, Kind.INTERNAL)
HELP_WORDS = ("-h", "-help", "--help")


def command(words: Sequence[str]) -> int:
    """Be `shadowcorn run`."""
    if any(word in HELP_WORDS for word in words):
        print(help.RUN, end="")
        return 0
    if any(word.endswith(("help", "?")) for word in words):
        from emu.cli.lists import listing

        text = listing(words)
        if text is not None:
            print(text, end="")
            return 0
    return run(parse_run(words))


def qemu_command(words: Sequence[str]) -> int:
    """Be `shadowcorn-qemu`."""
    from emu.cli.lists import answer

    text = answer(words)
    if text is not None:
        print(text, end="")
        return 0
    return run(parse_run(words, for_qemu=True))


def run(options: RunOptions) -> int:
    """Do one run and return the exit code."""
    warn_all(options)
    set_up_logging(options)
    with Session(options) as session:
        outcome = session.run()
        return session.finish(outcome)


def warn_all(options: RunOptions) -> None:
    """Print what was passed over, each with the word by which scripts know a warning."""
    for warning in options.warnings:
        say(f"warning: {warning}")


def set_up_logging(options: RunOptions) -> None:
    """Connect the loggers that -d names to the file of -D, or to standard error."""
    if not options.log_items and options.log_file is None:
        return
    import logging

    from emu.cli.log import LogFile, LogStream
    from emu.errors import UsageError

    try:
        handler: logging.Handler = (
            LogFile(options.log_file, "w", encoding="utf-8") if options.log_file else LogStream()
        )
    except OSError as error:
        raise UsageError(f"cannot write {options.log_file}: {error.strerror or error}") from error
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger("shadowcorn")
    root.addHandler(handler)
    root.propagate = False
    names = {"mmu": ["mmu"], "int": ["int"]}
    for item in options.log_items:
        for name in names.get(item, ["device", "bios", "cpu"]):
            logging.getLogger(f"shadowcorn.{name}").setLevel(logging.DEBUG)


def connect_tracers(options: RunOptions, machine: Machine) -> None:
    """Let MMU and processors tell the loggers what they do, where -d asks for it."""
    if not options.log_items & {"mmu", "int"}:
        return
    import logging

    if "mmu" in options.log_items:
        if machine.mmu.reports_events:
            from mmu.trace import TraceLines

            machine.mmu.observe(TraceLines(logging.getLogger("shadowcorn.mmu").debug))
        else:
            say(f"warning: -d mmu: the plug-in {options.mmu} has no tracepoints")
    if "int" in options.log_items:
        from emu.cli.eventlog import EventLog

        machine.observe(EventLog(logging.getLogger("shadowcorn.int"), len(machine.cpus) > 1))


class Session:
    """A machine with its input, output and display; a context manager."""

    def __init__(self, options: RunOptions) -> None:
        """Read the files and build the machine."""
        self.options = options
        self.interrupted = False
        self.kernel: Kernel = find_kernel(options)
        self.outputs = Outputs(self._stop)
        self._machine: Machine | None = None
        self._control: Control | None = None
        self._tail = Tail(self.outputs.sink(options.serial[0]))
        serial = [self._tail, *(self.outputs.sink(where) for where in options.serial[1:])]
        debugcon = [(port, self.outputs.sink(where)) for port, where in options.debugcon]
        self._machine = make_machine(options, self.kernel, serial, debugcon, self._warn)
        connect_tracers(options, self._machine)
        self._display: ScreenThread | None = None

    @property
    def machine(self) -> Machine:
        """The machine."""
        assert self._machine is not None
        return self._machine

    def __enter__(self) -> Session:
        """Do nothing more."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the machine and the files."""
        self.machine.close()
        self.outputs.close()

    def _warn(self, text: str) -> None:
        say(f"warning: {text}")

    def _stop(self) -> None:
        if self._control is not None:
            self._control.quit()
        elif self._machine is not None:
            self._machine.pause()

    # --- The run ----------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run until something ends it."""
        options = self.options
        if options.gdb or options.monitors or options.stopped:
            return self._run_debugged()
        with self._signals(), self._input(), self._screen():
            return self.machine.run(
                timeout=options.timeout, max_insns=options.max_insns, until=options.until
            )

    def _run_debugged(self) -> Outcome:
        """Run as debuggers say."""
        from emu.cli.debugger import Debugging

        with (
            Debugging(self.machine, self.options, self.kernel.path) as debugging,
            self._signals(),
            self._input(),
            self._screen(),
        ):
            self._control = debugging.control
            return debugging.control.run()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let Ctrl-C end the run between two instructions of the guest, not of this program."""

        def interrupt(_number: int, _frame: object) -> None:
            self.interrupted = True
            self._stop()

        try:
            before = signal.signal(signal.SIGINT, interrupt)
        except ValueError:  # not in the main thread: the caller's business
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def _input(self) -> Iterator[None]:
        """Hand what comes on standard input to the serial port or to the keyboard."""
        options = self.options
        descriptor = stdin_descriptor()
        if "stdio" in options.monitors:
            descriptor = None
        if descriptor is None or not ("stdio" in options.serial or options.display != "none"):
            yield
            return
        deliver = self._deliver
        if not is_terminal(sys.stdin):
            self._start_input(blocking_reader(descriptor), deliver)
            yield
            return
        from emu.cli.terminal import Escape, console_reader, keys_one_by_one

        escape = Escape(self._quit)
        reader = console_reader(self._quit) or blocking_reader(descriptor)
        with keys_one_by_one():
            self._start_input(reader, lambda data: deliver(escape(data)))
            yield

    def _start_input(self, read: Callable[[], bytes], deliver: Callable[[bytes], None]) -> None:
        from emu.cli.inbox import Inbox

        inbox = Inbox(self.machine)
        InputThread(read, lambda data: inbox.post(lambda: deliver(data)), inbox.close).start()

    def _deliver(self, data: bytes) -> None:
        """Serial port or keyboard: the one that was asked for, else the one that the guest uses.

        A guest that has sent nothing over the serial port shows what it has on the screen.
        """
        options, machine = self.options, self.machine
        if "stdio" in options.serial and (options.serial_said or machine.serial.sent):
            machine.serial.feed(data)
        else:
            machine.keyboard.type(data.decode("utf-8", "replace").replace("\r", "\n"))

    def _quit(self) -> None:
        self.interrupted = True
        self._stop()

    @contextmanager
    def _screen(self) -> Iterator[None]:
        if self.options.display == "none":
            yield
            return
        from emu.cli.display import ScreenThread

        whole = self.options.display == "curses" and is_terminal(sys.stderr)
        live = is_terminal(sys.stderr)
        display = ScreenThread(
            self.machine.screen,
            whole=whole,
            may_redraw=lambda: live and not self.outputs.stdout_used,
        )
        self._display = display
        if not live:
            yield
            return
        display.start()
        try:
            yield
        finally:
            display.stop()

    # --- Afterwards -------------------------------------------------------------------------------

    def finish(self, outcome: Outcome) -> int:
        """Print and write what is to be told; return the exit code."""
        options = self.options
        if self._display is not None:
            self._display.show_final()
            if self.machine.screen.has_pixels and not options.screenshot:
                say("the screen shows pixels, not text: --screenshot FILE.png keeps them")
        if options.screenshot:
            self._write_screenshot(options.screenshot)
        if options.for_qemu and outcome.kind is Kind.RESET:
            outcome = replace(outcome, exit_code=0)  # as QEMU -no-reboot
        code = outcome.exit_code
        if outcome.kind is Kind.INTERNAL:
            self._explain_failure(outcome.report)
        elif outcome.report:
            sys.stderr.write(outcome.report.rstrip("\n") + "\n")
        if self.outputs.failure:
            say(self.outputs.failure)
            code = EXIT_USAGE
        elif self.outputs.broken:
            code = EXIT_BROKEN_PIPE
        elif self.interrupted:
            say("interrupted")
            code = EXIT_INTERRUPTED
        elif not options.for_qemu or outcome.kind is not Kind.GUEST_EXIT:
            self._tell_how_it_ended(outcome)
        self._write_reports(outcome)
        return code

    def _tell_how_it_ended(self, outcome: Outcome) -> None:
        """One line; with several vCPUs, where the guest did not choose the end, theirs first."""
        from emu.cli.report import outcome_line, vcpu_lines

        unfinished = outcome.kind in _UNFINISHED
        place = ""
        if unfinished or outcome.kind is Kind.TRIPLE_FAULT:
            name_of = self._symbols()
            name = name_of(self.machine.regs.rip)
            place = f" in {name}" if name and outcome.kind is not Kind.INTERNAL else ""
            if unfinished and len(self.machine.cpus) > 1:
                for line in vcpu_lines(self.machine.cpus, name_of):
                    say(line)
        say(outcome_line(outcome, place))

    def _write_screenshot(self, path: str) -> None:
        from emu.errors import UsageError

        try:
            Path(path).write_bytes(self.machine.screen.image.png())
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from error

    def _symbols(self) -> Callable[[int], str | None]:
        """Return what finds the kernel's own symbol for an address."""
        from emu.boot.elf import is_elf, symbols

        image = self.kernel.image
        return symbols(image).name_of if image and is_elf(image) else lambda address: None

    @staticmethod
    def _explain_failure(report: str) -> None:
        """One line for a person; the traceback where it is asked for, and in the log."""
        import logging
        import os

        if os.environ.get(TRACEBACK) == "1":
            sys.stderr.write(report.rstrip("\n") + "\n")
        else:
            logger = logging.getLogger("shadowcorn")
            if any(isinstance(handler, logging.FileHandler) for handler in logger.handlers):
                logger.error("%s", report)
        lines = [line for line in report.splitlines() if line.strip()] or ["no report"]
        say(f"internal error: {lines[-1]}; {PLEASE_REPORT}")

    def _write_reports(self, outcome: Outcome) -> None:
        options = self.options
        check = self.machine.tlb_check
        if check is not None:
            for finding in check.findings:
                sys.stderr.write(f"{finding}\n")
            say(check.summary)
            if options.tlb_obligations:
                for line in check.obligations():
                    say(f"pending: {line}")
        if not options.summary and not options.json:
            return
        from emu.cli.report import summary, write_json

        counters = self.machine.mmu.counters.as_dict()
        if options.summary:
            title = f"{self.kernel.name} under {options.mmu}"
            sys.stderr.write(summary(counters, title) + "\n")
        if options.json:
            write_json(
                options.json,
                outcome,
                counters,
                serial_tail=self._tail.text,
                kernel=self.kernel.name,
                mmu=options.mmu,
                cpus=options.cpus,
                memory=options.memory or self.kernel.memory,
                clock=self.machine.clock_kind,
                tlb_findings=check.as_list() if check is not None else None,
            )
