# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine that a test holds: run until the guest has printed something, and look.

The guest runs in slices of `SLICE` instructions; after each, what it has sent since is looked at.
A stop changes nothing in the run, and slices are always of the same size: a test sees the same
texts at the same positions in every run, on every host.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from emu.outcome import Kind, Outcome, Position
from emu.testing.consoles import Console, GuestTime, Screen, SerialLine
from emu.testing.launch import Launch
from emu.testing.memory import SymbolMemory
from emu.testing.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.cpu.registers import Registers
    from mmu.walker import Walk

__all__ = ["INSNS", "PANIC", "SLICE", "Console", "HostTimeoutError", "KernelFailure",
           "KernelMachine", "Screen", "SerialLine"]  # fmt: skip

SLICE = 100_000
"""Instructions between two looks at what the guest has sent."""
INSNS = 500_000_000
"""The limit of a wait where none is given: five seconds of the guest's time."""
NS_PER_INSN = 10
PATIENCE = 600.0
"""Host seconds that one wait may take before the host, not the guest, is said to have failed."""
PANIC = (
    r"(?i)\bkernel panic\b",
    r"(?im)^[^\w\n]*panic\b(?! handler)[^\w\n]",
    r"\bpanicked at\b",
    r"\bZEPHYR FATAL ERROR\b",
    r"\bASSERTION FAIL(?:ED)?\b",
)
"""What a kernel prints that has given up: Linux and BSD, xv6, Rust, Zephyr."""
_LAST_WORDS = 20  # slices that a kernel which has panicked gets to finish its message
_FINAL = (Kind.GUEST_EXIT, Kind.POWER_OFF, Kind.RESET, Kind.TRIPLE_FAULT, Kind.INTERNAL)
_Found = TypeVar("_Found")
Patterns = Sequence[str]


class KernelFailure(AssertionError):
    """The kernel did not do what the test expects; the text says what instead."""


class HostTimeoutError(Exception):
    """The host was too slow, whatever the guest does: no verdict about the kernel."""


class KernelMachine:
    """A machine with a kernel in it. The `kernel` fixture makes them.

    `machine` is the `emu.machine.Machine`, for all that has no short way here. `panic` are the
    patterns that end any wait; `insns` is the limit of a wait that gives none.

    >>> from emu.testing.launch import Launch
    >>> with KernelMachine(Launch("guest:hello")) as m:
    ...     m.expect(r"hello, (\\w+)")[1]
    ...     m.expect_exact("A20 is open").start() > 0
    ...     m.run_to_exit().guest_code
    'world'
    True
    16
    """

    def __init__(
        self,
        launch: Launch,
        *,
        insns: int = INSNS,
        panic: Patterns = PANIC,
        patience: float = PATIENCE,
    ) -> None:
        self.launch = launch
        self.insns = insns
        self.panic = tuple(panic)
        self.warnings: list[str] = []
        """What shadowcorn passed over or wondered at."""
        self.outcome: Outcome | None = None
        """How the machine ended or where it stands idle; None while it could go on."""
        self._patience = patience
        serial, debugcon = Transcript(), Transcript()
        self.machine = launch.boot(serial.feed, debugcon.feed, self.warnings.append)
        self.serial = SerialLine(serial, self.machine)
        self.debugcon = Console("debugcon", debugcon)
        self.screen = Screen(self.machine)
        self._calm: dict[str, int] = {}  # how far each console's text is known to hold no panic
        self._is_late = False
        GuestTime(self.machine, SLICE * NS_PER_INSN)

    def __repr__(self) -> str:
        return f"<KernelMachine {self.launch.name}: {self.ending}>"

    def __enter__(self) -> KernelMachine:
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.close()

    # --- Waiting ------------------------------------------------------------------------------

    def expect(
        self,
        pattern: str,
        *,
        insns: int | None = None,
        on: str = "serial",
        not_matching: str | Patterns | None = None,
    ) -> re.Match[str]:
        """Run until the regular expression `pattern` matches what was sent after the last match.

        ^ and $ match at lines' ends. `on` is "serial", "debugcon" or "screen". `insns` limits the
        wait, in instructions of all vCPUs together; sleeping processors use it up at 10 ns each.
        `not_matching` are patterns that fail the test at once, on any console but the screen, in
        place of the kernel's panic patterns; () for none.

        Returns the match. Raises KernelFailure if the limit is reached, the run ends or one of
        `not_matching` comes first; HostTimeoutError where the host is to blame.
        """
        __tracebackhide__ = True
        expression = re.compile(pattern, re.MULTILINE)
        return self._wait(
            self._console(on), expression.search, f"match for {pattern!r}", insns, not_matching
        )

    def expect_exact(
        self,
        text: str,
        *,
        insns: int | None = None,
        on: str = "serial",
        not_matching: str | Patterns | None = None,
    ) -> re.Match[str]:
        """Run until `text` itself comes; all else as `expect`."""
        __tracebackhide__ = True
        expression = re.compile(re.escape(text))
        return self._wait(
            self._console(on), expression.search, f"{text!r}", insns, not_matching, grows=False
        )

    def expect_all(
        self,
        patterns: Patterns,
        *,
        insns: int | None = None,
        on: str = "serial",
        not_matching: str | Patterns | None = None,
    ) -> list[re.Match[str]]:
        """Run until every one of `patterns` has matched, in whatever order; the limit is for all.

        Returns the matches in the order of `patterns`; the next wait begins after the last one.
        """
        __tracebackhide__ = True
        expressions = [re.compile(pattern, re.MULTILINE) for pattern in patterns]

        def find(text: str, start: int) -> list[re.Match[str]] | None:
            found = [expression.search(text, start) for expression in expressions]
            return [match for match in found if match] if all(found) else None

        missing = "matches for all of " + ", ".join(map(repr, patterns))
        return self._wait(self._console(on), find, missing, insns, not_matching)

    def run(self, insns: int) -> None:
        """Let the guest run for `insns` instructions, or to its end; panics fail."""
        __tracebackhide__ = True
        end = self.machine.scheduler.executed + insns
        with self._host_limit():
            while (left := end - self.machine.scheduler.executed) > 0 and self._slice(left):
                self._refuse(None)
            self._refuse(None)

    def run_to_exit(
        self,
        *,
        insns: int | None = None,
        code: int | None = None,
        ends: Sequence[Kind] = (Kind.GUEST_EXIT, Kind.POWER_OFF),
        not_matching: str | Patterns | None = None,
    ) -> Outcome:
        """Run until the guest ends the run, in one of `ends`; with `code` given, by writing just
        that to port 0xf4. Any other end, a panic and the limit raise KernelFailure."""
        __tracebackhide__ = True
        self.run_until(lambda: False, insns=insns, not_matching=not_matching)
        outcome = self.outcome
        assert outcome is not None
        if outcome.kind not in ends or (code is not None and outcome.guest_code != code):
            wanted = f"exit with {code:#x}" if code is not None else " or ".join(
                kind.value for kind in ends
            )  # fmt: skip
            self._fail(f"the run ended otherwise than by {wanted}: {self.ending}")
        return outcome

    def run_until(
        self,
        done: Callable[[], bool],
        *,
        insns: int | None = None,
        not_matching: str | Patterns | None = None,
    ) -> None:
        """Run until `done()`, asked after each slice, is true, or to the end of the run; panics
        and the limit raise KernelFailure."""
        __tracebackhide__ = True
        with self._host_limit():
            within = self._budget(insns)
            while not done() and self.outcome is None:
                if not within():
                    self._fail(f"the guest has not ended {self._limit(insns)}")
                self._slice()
                self._refuse(not_matching)
            self._refuse(not_matching)

    # --- Looking --------------------------------------------------------------------------------

    @property
    def memory(self) -> SymbolMemory:
        """Guest-virtual memory: `m.memory["ticks"]` is a variable's value, `m.memory[gva]` a byte,
        `m.memory[a:b]` bytes; all can be assigned."""
        return SymbolMemory(self.machine, self.address)

    @property
    def regs(self) -> Registers:
        """The registers of the vCPU that ran last."""
        return self.machine.regs

    @property
    def position(self) -> Position:
        """Where in its run the machine stands: `shadowcorn run --until` comes there again."""
        return self.machine.position

    @property
    def findings(self) -> list[str]:
        """What the TLB sanitizer found, with `kernel(tlb_check=...)`."""
        check = self.machine.tlb_check
        return [str(finding) for finding in check.findings] if check is not None else []

    @property
    def ending(self) -> str:
        """How the run ended, or where it stands, in a line."""
        if self.outcome is None:
            return f"still running at {self.position}"
        from emu.cli.report import outcome_line

        return outcome_line(self.outcome).partition(", exit code")[0]

    def address(self, where: str | int) -> int:
        """Return the address of a symbol of the kernel; raises KeyError for an unknown one."""
        if isinstance(where, int):
            return where
        found = self.machine.symbols.extent_of(where)
        if found is None:
            raise KeyError(f"the kernel has no symbol {where!r} (is it stripped?)")
        return found[0]

    def walk(self, where: str | int) -> Walk:
        """Walk the guest's page tables for a symbol or an address; see `mmu.walker.Walk`."""
        return self.machine.walk(self.address(where))

    def rights(self, where: str | int) -> str:
        """Return what the guest's page tables allow at a symbol or an address, in the letters of
        `shadowcorn walk`: "w-x" is writable, not for user mode, executable. "" if not mapped."""
        from mmu.walker import rights_text

        found = self.walk(where)
        return "" if found.fault is not None else rights_text(found.rights)

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        self.machine.keyboard.type(text)

    # --- How ------------------------------------------------------------------------------------

    def _console(self, name: str) -> Console:
        consoles = {"serial": self.serial, "debugcon": self.debugcon, "screen": self.screen}
        if name not in consoles:
            raise ValueError(f"on={name!r}: one of {', '.join(consoles)}")
        return consoles[name]

    def _wait(
        self,
        console: Console,
        find: Callable[[str, int], _Found | None],
        what: str,
        insns: int | None,
        not_matching: str | Patterns | None,
        grows: bool = True,
    ) -> _Found:
        """Run until `find(text, start)` finds something. A match that reaches the end of the text
        may `grow`: it counts when a slice has brought nothing more."""
        __tracebackhide__ = True
        is_screen = console is self.screen
        with self._host_limit():
            within = self._budget(insns)
            before = None
            while True:
                text = console.text
                found = find(text, 0 if is_screen else console.matched)
                bad = self._forbidden(not_matching)
                if found is not None:
                    start, end = _span(found)
                    may_grow = grows and not is_screen and end == len(text) and text != before
                    if not may_grow or self.outcome is not None:
                        if bad is None or (bad[0] is console and start < bad[1].end()):
                            console.matched = end
                            self._calm[console.name] = max(self._calm.get(console.name, 0), end)
                            return found
                        self._refuse(not_matching)
                elif bad is not None and not self._is_part(console, bad, text, before):
                    self._refuse(not_matching)
                if self.outcome is not None and not self._goes_on():
                    self._fail(f"no {what} on {console.name}: the run ended ({self.ending})")
                if not within():
                    self._fail(f"no {what} on {console.name} {self._limit(insns)}")
                before = text
                self._slice()

    @staticmethod
    def _is_part(
        console: Console, bad: tuple[Console, re.Match[str]], text: str, before: str | None
    ) -> bool:
        """Return whether a panic may be what the test waits for: its line is still coming."""
        return bad[0] is console and text != before and "\n" not in text[bad[1].end() :]

    def _budget(self, insns: int | None) -> Callable[[], bool]:
        """Return what tells whether a wait that begins now is still within its limit."""
        insns = self.insns if insns is None else insns
        scheduler, clock = self.machine.scheduler, self.machine.clock
        last, until = scheduler.executed + insns, clock.now + insns * NS_PER_INSN
        return lambda: scheduler.executed < last and clock.now < until

    def _limit(self, insns: int | None) -> str:
        insns = self.insns if insns is None else insns
        return f"within {insns:,} instructions or {insns * NS_PER_INSN / 1e9:g} s of its time"

    def _goes_on(self) -> bool:
        """Return whether a machine that stands still may go on: it was idle, and has got input."""
        assert self.outcome is not None
        fed = self.serial.fed
        if self.outcome.kind is Kind.IDLE and fed and fed[-1][0] == self.outcome.position:
            self.outcome = None
        return self.outcome is None

    def _slice(self, most: int = SLICE) -> bool:
        """Run a little; return whether the guest can still go on."""
        if self.outcome is not None and not self._goes_on():
            return False
        outcome = self.machine.run(max_insns=min(most, SLICE))
        if self._is_late:
            raise HostTimeoutError(
                f"the host did not get further than {self.position} in {self._patience:g} s "
                "(--kernel-timeout)"
            )
        if outcome.kind in (Kind.INSN_LIMIT, Kind.PAUSED):
            return True
        self.outcome = outcome
        return False

    @contextmanager
    def _host_limit(self) -> Iterator[None]:
        def late() -> None:
            self._is_late = True
            self.machine.pause()

        self._is_late = False
        timer = threading.Timer(self._patience, late)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _forbidden(
        self, not_matching: str | Patterns | None
    ) -> tuple[Console, re.Match[str]] | None:
        """Return the first panic on a console that no earlier match has covered."""
        patterns = self.panic if not_matching is None else not_matching
        patterns = [patterns] if isinstance(patterns, str) else patterns
        for console in (self.serial, self.debugcon):
            text = console.text
            start = self._calm.get(console.name, 0)
            if len(text) <= start:
                continue
            found = [re.compile(pattern, re.MULTILINE).search(text, start) for pattern in patterns]
            first = min((match for match in found if match), key=_start, default=None)
            if first is not None:
                return console, first
            if not_matching is None:  # a line that is not finished may become one
                self._calm[console.name] = max(start, text.rfind("\n") + 1)
        return None

    def _refuse(self, not_matching: str | Patterns | None) -> None:
        """Fail if the kernel has panicked or the sanitizer ended the run."""
        __tracebackhide__ = True
        bad = self._forbidden(not_matching)
        if bad is None:
            if self.outcome is not None and self.outcome.kind is Kind.FINDING:
                self._fail("the TLB sanitizer found an error:\n" + "\n".join(self.findings[-1:]))
            return
        console, match = bad
        for _ in range(_LAST_WORDS):
            before = console.text
            if not self._slice() or console.text == before:
                break
        text = console.text
        start = text.rfind("\n", 0, match.start()) + 1
        lines = text[start:].splitlines()
        self._fail(f"the kernel panicked, on {console.name}: " + "\n".join(lines[:10]))

    def _fail(self, text: str) -> NoReturn:
        __tracebackhide__ = True
        raise KernelFailure(f"{text}\n{self.launch.name}: {self.ending}")


def _start(match: re.Match[str]) -> int:
    return match.start()


def _span(found: Any) -> tuple[int, int]:
    """Return where a match, or the first and last of several, begins and ends."""
    matches: list[re.Match[str]] = found if isinstance(found, list) else [found]
    return min(match.start() for match in matches), max(match.end() for match in matches)
