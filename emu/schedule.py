# SPDX-License-Identifier: GPL-2.0-or-later
"""Who runs when, and what time it is.

vCPUs run in turn, each for a slice of exactly so many instructions; the same kernel makes the same
run, instruction for instruction. Virtual time passes by instructions: `NS_PER_INSN` for each, and
when n vCPUs are awake, a n-th of that, since they are meant to run at once. A slice never reaches
past the next event of the clock; an event put in meanwhile cuts it short. When all are halted, time
jumps to the next event.

A stop changes nothing. Each slice is planned once; a limit, a timeout, or a pause only suspends it,
and the next `Scheduler.run` goes on with the same vCPU to the same planned end. Nothing that the
guest could see is done at a stop: no event of the clock, no change of turns, no look at the input.
A limit, a timeout, or a pause comes at the first boundary at which it is due. Where instructions
are counted one by one, that is the very instruction; where blocks are counted, a block that has
begun is finished first. Positions, steps and breakpoints are exact under both clocks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from emu.clock import NS_PER_INSN, Clock
from emu.cpu.points import Hit
from emu.cpu.slice import Exit
from emu.cpu.vcpu import Vcpu
from emu.outcome import Kind, Position, Stop
from emu.savable import Savable, State

__all__ = ["DEFAULT_QUANTUM", "Scheduler"]

# One vCPU alone is only interrupted for events; 1 ms of host time a slice is 2 % of overhead.
_ALONE = 100_000
_LONGEST_BLOCK = 1_100  # instructions, four bytes each: a block ends with its page
DEFAULT_QUANTUM = 5_000
"""Instructions a vCPU runs before the next one does."""


class Inbox(Protocol):
    """What comes from outside the machine, for the machine's thread: see `emu.cli.inbox`."""

    is_open: bool
    """Whether anything may still come."""

    def look(self) -> None:
        """Do what has come."""

    def sleep(self, ns: int | None) -> int:
        """Wait at most so long in host time, or for ever, and return the ns that have passed."""


class Scheduler(Savable):
    """Runs the vCPUs of one machine against its clock."""

    def __init__(self, cpus: Sequence[Vcpu], clock: Clock, quantum: int = DEFAULT_QUANTUM) -> None:
        """Drive `cpus` by `clock`; with several, each runs `quantum` instructions at a time."""
        self._cpus = cpus
        self._clock = clock
        self._quantum = quantum if len(cpus) > 1 else _ALONE
        self._next = 0
        self._awake = 1
        self._credit = 0  # executed, but not yet a whole ns for every vCPU awake
        self._slice_start = 0  # virtual ns
        self._is_open = False  # the slice of `current` has been begun and is not over
        self._executed_before = 0  # by `current`, before its slice
        self._deadline: float | None = None
        self._ending: tuple[Kind, int | None] | None = None
        self._interrupt: Kind | None = None
        self._step: int | None = None
        self._hit: Hit | None = None
        self.turn_listeners: list[Callable[[int, int], None]] = []
        """Called when a vCPU has had its turn, with its index and the instructions it took."""
        self.inbox: Inbox | None = None
        """Looked into between slices: no event of the clock, which would cut them."""
        self.current: Vcpu = cpus[0]
        """The vCPU that runs now, or ran last."""
        self.is_unmaskable: Callable[[], bool] = lambda: False
        """Whether a chip's interrupt could come as an NMI or INIT, which IF does not hold back; set
        by the machine."""
        self.on_reset: Callable[[], bool] = lambda: False
        """Called between two slices when the guest has reset the machine: whether it starts again,
        so that the run goes on; set by the machine."""
        clock.progress = self._progress
        clock.on_earlier = self._cut

    def stop(self, kind: Kind, guest_code: int | None = None) -> None:
        """End the run after the instruction that is executing now: for devices, inside a hook.

        The first call counts; a pending reset, which may restart the machine instead of ending the
        run, is overridden by any other ending.
        """
        if self._ending is None or self._ending[0] is Kind.RESET:
            self._ending = (kind, guest_code)
        self.current.leave()

    def interrupt(self, kind: Kind = Kind.PAUSED) -> None:
        """Have `run` return soon, or the next one at once; any thread. Changes nothing else.

        The machine stops at the next boundary of the vCPU that runs: within a block, or at the end
        of a sleep.
        """
        self._interrupt = kind
        self.current.kick()

    def reset(self) -> None:
        """Begin again with the boot processor. Time goes on."""
        self._close_slice()
        self._next = 0
        self.current = self._cpus[0]

    # --- Saving ---------------------------------------------------------------------------------

    def save(self) -> State:
        """Return whose turn it is, and how far. The vCPUs save their slices themselves."""
        return self._make_state(
            next=self._next,
            awake=self._awake,
            credit=self._credit,
            current=self.current.index,
            slice_start=self._slice_start,
            executed_before=self._executed_before,
            is_open=self._is_open,
        )

    def load(self, state: State) -> None:
        """Take a saved state, after the clock and the vCPUs have taken theirs."""
        (
            self._next,
            self._awake,
            self._credit,
            current,
            self._slice_start,
            self._executed_before,
            self._is_open,
        ) = self._parts_of(
            state,
            next=int,
            awake=int,
            credit=int,
            current=int,
            slice_start=int,
            executed_before=int,
            is_open=bool,
        )
        self.current = self._cpus[current]
        self._ending = self._interrupt = self._hit = None

    @property
    def executed(self) -> int:
        """Instructions of all vCPUs so far, those of the running slice included."""
        return sum(cpu.executed + cpu.progress() - cpu.stalled for cpu in self._cpus)

    @property
    def position(self) -> Position:
        """Where in the run the machine stands; inside hooks too."""
        cpu = self.current
        # Code bytes: within a block, which is counted when it begins, extra() is below 0.
        instructions, extra = divmod(self.executed * 4 + cpu.extra(), 4)
        if not self._is_open:
            return Position(instructions, extra=extra)
        return Position(instructions, cpu.index, cpu.progress(), extra)

    # --- Time ---------------------------------------------------------------------------------

    def _progress(self) -> int:
        return (self._credit + self.current.progress() * NS_PER_INSN) // self._awake

    def _instructions_until(self, when: int) -> int:
        """Return how many instructions from the start of the slice reach `when`."""
        ns = (when - self._slice_start) * self._awake - self._credit
        return max(-(-ns // NS_PER_INSN), 1)

    def _cut(self) -> None:
        """An event came in before all others: end the running slice at it."""
        when = self._clock.next_event
        if when is not None:
            self.current.limit(self._instructions_until(when))

    def _advance(self, instructions: int) -> None:
        passed, self._credit = divmod(self._credit + instructions * NS_PER_INSN, self._awake)
        self._clock.run_due(self._slice_start + passed)

    # --- The loop -------------------------------------------------------------------------------

    def run(
        self,
        timeout: float | None = None,
        max_insns: int | None = None,
        until: Position | None = None,
        step: int | None = None,
    ) -> Stop:
        """Run until something ends it, or stops it.

        `timeout` is in host seconds, met within about 0.1 s; `max_insns` counts all vCPUs from
        now; at the position `until` the run stops, exactly; `step` is the index of a vCPU that is
        to execute one instruction, or take an interrupt, while the others have their turns as ever.
        """
        self._ending = None
        self._step = step
        last = None if max_insns is None else self.executed + max_insns
        timer = None
        if timeout is not None:
            self._deadline = time.monotonic() + timeout
            timer = threading.Timer(timeout, self._time_is_up)
            timer.daemon = True
            timer.start()
        try:
            while True:
                ending = self._must_stop(last, until) or self._turn(last, until)
                hit, self._hit = self._hit, None
                if hit is not None and (step is not None or not hit.is_step):
                    return self._stop_at(hit)
                if ending is not None:
                    kind, guest_code = ending
                    return Stop(kind, self.current.index, self.position, guest_code)
        finally:
            self._deadline = None
            if until is not None:
                for cpu in self._cpus:
                    cpu.points.release()
            if timer is not None:
                timer.cancel()

    def _stop_at(self, hit: Hit) -> Stop:
        """Return the stop that a vCPU's hit makes."""
        kind = Kind.STEP if hit.is_step else Kind.WATCHPOINT if hit.access else Kind.BREAKPOINT
        return Stop(
            kind,
            self.current.index,
            self.position,
            address=hit.address,
            access=hit.access or None,
            old=hit.old,
            new=hit.new,
        )

    def _time_is_up(self) -> None:
        # From the timer's thread: get whoever runs out of the engine; the loop looks at the time.
        if self._deadline is not None:
            self.current.kick()

    def _must_stop(
        self, last: int | None, until: Position | None
    ) -> tuple[Kind, int | None] | None:
        """Return why the run must stop here, if it must. Changes nothing."""
        if self._interrupt is not None:
            kind, self._interrupt = self._interrupt, None
            return kind, None
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return Kind.TIMEOUT, None
        if last is not None and self.executed >= last:
            return Kind.INSN_LIMIT, None
        if until is not None and until.is_reached_at(self.position):
            return Kind.POSITION, None
        return None

    def _turn(self, last: int | None, until: Position | None) -> tuple[Kind, int | None] | None:
        """Begin a slice, or go on with the suspended one."""
        if self._is_open:
            return self._execute(self._way(last, until))
        ending = self._take_ending()
        if ending is not None:
            return ending
        if self.inbox is not None:
            self.inbox.look()
        cpu = self._pick()
        if cpu is None:
            return self._sleep()
        clock = self._clock
        self._slice_start = clock.now
        budget = self._quantum
        when = clock.next_event
        if when is not None:
            budget = min(budget, self._instructions_until(when))
        self._executed_before = cpu.executed
        self._is_open = True
        is_careful = self._step == cpu.index or self._is_near(until)
        cut = 0 if is_careful else self._next_stop(last, until)
        return self._execute(lambda: cpu.run(budget, cut))

    def _execute(self, run: Callable[[], Exit]) -> tuple[Kind, int | None] | None:
        """Have the current vCPU run its slice; returns how the run has ended, if it has."""
        cpu = self.current
        before = cpu.executed + cpu.progress(), cpu.extra()
        try:
            ending = self._after(run())
        except BaseException:
            self._is_open = False
            raise
        has_stepped = (cpu.executed + cpu.progress(), cpu.extra()) != before
        if ending is None and self._step == cpu.index and self._hit is None and has_stepped:
            return Kind.STEP, None
        return ending

    def _way(self, last: int | None, until: Position | None) -> Callable[[], Exit]:
        """Return how the current vCPU goes on with its slice."""
        cpu = self.current
        if self._step == cpu.index:
            return cpu.step_one
        if until is not None and self._is_near(until):
            here = self.position
            left = (until.instructions - here.instructions) * 4 + until.extra - here.extra
            return lambda: cpu.approach(max(left, 1))
        return lambda: cpu.go_on(self._next_stop(last, until))

    def _is_near(self, until: Position | None) -> bool:
        """Return whether the next block might pass the position: then it takes care."""
        if until is None or not self.current.counts_blocks:
            return False
        return until.instructions - self.executed <= _LONGEST_BLOCK

    def _next_stop(self, last: int | None, until: Position | None) -> int | None:
        """Return how far the slice may go before it must be suspended, in its own count; None if
        to its end."""
        stops = []
        if last is not None:
            stops.append(last)
        if until is not None:
            margin = _LONGEST_BLOCK if self.current.counts_blocks else 0
            stops.append(until.instructions - margin)
        if not stops:
            return None
        return self.current.progress() + max(min(stops) - self.executed, 1)

    def _after(self, reason: Exit) -> tuple[Kind, int | None] | None:
        """Do what comes after a vCPU has come back."""
        self._hit = self.current.take_hit()
        if reason is Exit.SUSPENDED:
            return None
        self._is_open = False
        instructions = self.current.executed - self._executed_before
        self._advance(instructions)
        for listener in self.turn_listeners:
            listener(self.current.index, instructions)
        if reason is Exit.SHUTDOWN:
            return Kind.TRIPLE_FAULT, None
        return self._take_ending()

    def _close_slice(self) -> None:
        """End a suspended slice where it is: for a reset between two runs."""
        if self._is_open:
            self._is_open = False
            self.current.end_slice()
            self._advance(self.current.executed - self._executed_before)

    def _take_ending(self) -> tuple[Kind, int | None] | None:
        ending = self._ending
        if ending is None or ending[0] is not Kind.RESET:
            return ending
        self._ending = None
        return None if self.on_reset() else ending

    def _pick(self) -> Vcpu | None:
        """Return the next vCPU that is awake, and note how many are."""
        cpus = self._cpus
        awake = [cpu for cpu in cpus if not cpu.halted or cpu.can_wake]
        if not awake:
            return None
        now = self._clock.now
        if len(awake) != self._awake:
            self._clock.run_due(now)
            self._credit = 0
            self._awake = len(awake)
        for step in range(len(cpus)):
            cpu = cpus[(self._next + step) % len(cpus)]
            if cpu in awake:
                self._next = (cpu.index + 1) % len(cpus)
                self.current = cpu
                cpu.is_alone = len(awake) == 1
                return cpu
        return None

    def _sleep(self) -> tuple[Kind, int | None] | None:
        """All are halted: go on at the next event, or end if none can wake anybody."""
        when = self._clock.next_event
        heard = any(cpu.listens for cpu in self._cpus) or self.is_unmaskable()
        if heard and self._sleeps_until_input(when):
            return self._take_ending()
        if when is None or not heard:
            return Kind.IDLE, None
        self._credit = 0
        self._clock.run_due(max(when, self._clock.now))
        return self._take_ending()

    def _sleeps_until_input(self, when: int | None) -> bool:
        """Sleep at the host's pace while input may come; False if the event at `when` is next."""
        inbox, clock = self.inbox, self._clock
        if inbox is None or not inbox.is_open:
            return False
        self._credit = 0
        now = clock.now
        passed = inbox.sleep(None if when is None else max(when - now, 0))
        if when is not None and now + passed >= when:
            return False
        clock.run_due(now + passed)
        return True
