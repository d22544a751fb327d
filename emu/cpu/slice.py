# SPDX-License-Identifier: GPL-2.0-or-later
"""The slice that a vCPU runs now: how many instructions it has had, and what ends it.

The engine counts the instructions, or a compiled hook counts blocks; either way there is a pair of
words, counter and limit, which hooks may read and change. Everything happens inside one
`uc_emu_start` where possible: the engine is entered again only when it had to come back without the
slice being over (`Slice.pause`).

A slice is planned by `Slice.begin` and executed by `Slice.run`, in as many pieces as the caller
likes: a piece ends at the `cut` that the caller names, or when it calls `kick`. That *suspends* the
slice. A suspended slice keeps its counter and its planned end, so the next piece goes on as if
there had been no stop. Whatever looks at the time or at the end of the slice in between
(`progress`, `left`, `limit`) sees the plan, never the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum

from emu.cpu import compiled, raw
from emu.cpu import hidden as H
from emu.cpu.engine import Engine
from emu.cpu.enginetlb import EngineTlb
from emu.errors import NotSavableError
from emu.savable import Savable, State

__all__ = ["Exit", "Slice"]

_STOPPED = compiled.STOPPED // 8
_BASE = compiled.BASE // 8
_STALLED = compiled.STALLED // 8
_PLAN = compiled.PLAN // 8
_BYTES = compiled.BYTES // 8


class Exit(Enum):
    """Why `Vcpu.run` came back."""

    BUDGET = "budget"
    """The instructions are executed."""
    HALT = "halt"
    """HLT, with nothing to wake the processor."""
    LEFT = "left"
    """A hook of this processor called `leave`, or failed."""
    YIELDED = "yielded"
    """PAUSE, with other vCPUs around."""
    SHUTDOWN = "shutdown"
    """A triple fault."""
    SUSPENDED = "suspended"
    """The slice is not over: the cut is reached, or somebody called `kick`."""


class Slice(Savable):
    """The clock of one vCPU, which runs for so many instructions at a time.

    `executed` counts the instructions of all slices that are over; every event delivered for no
    instruction of its own counts as one, so that time always passes, and a port access counts for
    the time it takes: `stalled` is how much of all that is. `exit` is what has asked the present
    slice to end, `kicked` that somebody outside wants it suspended. `is_open` is set from `begin`
    to the end of the slice, `is_running` while it executes, `is_between` while the interrupt hook
    runs: no instruction is under way.
    """

    def __init__(self, engine: Engine) -> None:
        """Run `engine`, and count as it counts."""
        self._handle = engine.handle
        self._hidden = hidden = engine.hidden
        self._state = engine.state_block
        self._words = engine.state_block.words
        self._counts_blocks = engine.counts_blocks
        self.tlb = EngineTlb(hidden)
        # Counter and limit: the engine's own, or the compiled hook's.
        self._clock = (
            self._words[0:2]
            if engine.counts_blocks
            else hidden.uc[hidden.counter : hidden.counter + 2]
        )
        self.executed = 0
        self.is_open = False
        self.is_running = False
        self.is_between = False
        self.exit: Exit | None = None
        self.kicked = False
        self.must_go_on: Callable[[], bool] = lambda: False
        """Whether the slice must not be suspended at this boundary; set by the vCPU."""
        self._done = 0  # instructions of this slice that the counter does not hold
        self._budget = 0
        self._stop_at = -1  # the counter when a hook asked to stop
        self._code_is_stale = False
        self._comes_back = False  # only to have code translated again
        self._errand: Callable[[], None] | None = None
        self._parts = False  # the engine was left by `part` or `end_alone`
        self._stays = True  # so that the slice is suspended there
        self._alone = 0, 0, 0  # counter, bytes and time waited before an instruction alone
        self._rest = 0  # code bytes of a block that is counted, and not yet executed
        self.is_parted = False
        """Whether the slice is suspended within a block."""
        self.withhold: Callable[[], None] = lambda: None
        """Takes requests for interrupts away until `put_back` is called; both set by the vCPU."""
        self.put_back: Callable[[], None] = lambda: None

    @property
    def stalled(self) -> int:
        """How much of all instructions is time in which the processor waited."""
        return self._words[_STALLED]

    @stalled.setter
    def stalled(self, instructions: int) -> None:
        self._words[_STALLED] = instructions

    # --- Time -----------------------------------------------------------------------------------

    def progress(self) -> int:
        """Return how many instructions the open slice has begun; 0 between slices."""
        return self._done + self._clock[0] if self.is_open else 0

    def position(self) -> int:
        """Return how many instructions were begun in all slices."""
        return self.executed + self.progress()

    def extra(self) -> int:
        """Return how many code bytes, 0 to 3, are executed and not yet counted as an instruction;
        below 0 within a block, which is counted when it begins. 0 where instructions are counted
        one by one."""
        return (self._words[_BYTES] & 3) - self._rest if self._counts_blocks else 0

    def left(self) -> int:
        """Return how many instructions the open slice has left until its planned end."""
        return self._budget - self.progress()

    def count(self, instructions: int) -> None:
        """Count more instructions, or fewer, than the engine does.

        A block of less than four bytes is none, and cannot be taken back.
        """
        clock = self._clock
        clock[0] = max(clock[0] + instructions, 0)

    def stall(self, instructions: int) -> None:
        """Let time pass as `instructions` would take, in which the processor waits."""
        self._clock[0] += instructions
        self._words[_STALLED] += instructions

    @contextmanager
    def no_time(self) -> Iterator[None]:
        """Do something between two runs that takes no time, whatever it does to the counter."""
        kept = self._clock[0], self._words[_STALLED]
        try:
            yield
        finally:
            self._clock[0], self._words[_STALLED] = kept

    def tick(self) -> None:
        """Count an event as an instruction: a loop of events alone must end with the budget."""
        clock = self._clock
        clock[0] = count = clock[0] + 1
        if self._done + count >= self._budget:
            self.stop(Exit.BUDGET)

    # --- Saving ---------------------------------------------------------------------------------

    def save(self) -> State:
        """Return how many instructions were executed, the code bytes not yet counted as one, and
        the open slice: its planned end, or None, and its progress.

        Raises NotSavableError while it executes: an instruction is under way.
        """
        if self.is_running:
            raise NotSavableError("Slice cannot be saved: an instruction is under way")
        return self._make_state(
            executed=self.executed,
            stalled=self.stalled,
            uncounted=self._words[_BYTES] if self._counts_blocks else 0,
            planned=self._budget if self.is_open else None,
            progress=self.progress(),
            rest=self._rest,
        )

    def load(self, state: State) -> None:
        """Take a saved state; all translated code is forgotten before the next slice."""
        executed, stalled, uncounted, planned, progress, rest = self._parts_of(
            state,
            executed=int,
            stalled=int,
            uncounted=int,
            planned=int | None,
            progress=int,
            rest=int,
        )
        self._rest, self.is_parted = rest, rest > 0
        self.begin(planned or 0)
        self.is_open = planned is not None
        if self._counts_blocks:
            self._clock[0] = progress
        else:
            self._done = progress
        self.executed, self.stalled = executed, stalled
        if self._counts_blocks:
            self._words[_BYTES] = uncounted
        self.drop_all_code()

    # --- Ends -----------------------------------------------------------------------------------

    def limit(self, budget: int) -> None:
        """Shorten the open slice to `budget` instructions in all, or to those begun by now."""
        if self.is_open and budget < self._budget:
            self._budget = max(budget, self.progress())
            self._end_at(self._budget - self._done)

    def leave(self) -> None:
        """End the slice after the instruction that is executing; for devices, inside a hook."""
        if self.is_running:
            self.stop(Exit.LEFT)

    def kick(self) -> None:
        """Suspend the slice at the next boundary, or the next `run` at once. Any thread."""
        self.kicked = True
        if self.is_running:
            self._clock[1] = 0

    def stop(self, reason: Exit) -> None:
        """End the slice before the next instruction, because of `reason`: the first counts."""
        if self.exit is None or reason is Exit.SHUTDOWN:
            self.exit = reason
            self._stop_at = self._clock[0]
        self.pause()

    def pause(self) -> None:
        """Make the engine return after the current instruction; the slice then continues.

        Not by `uc_emu_stop`: the engine looks for that order after every single memory access, and
        an instruction that has stored already would be left and then executed again. Only in the
        interrupt hook no instruction is under way.
        """
        if self.is_between:
            raw.stop(self._handle)
        else:
            self._end_at(self._clock[0])

    def _end_at(self, count: int) -> None:
        """Let no instruction begin once the counter has reached `count`."""
        if self.is_running:
            clock, words = self._clock, self._words
            clock[1] = min(clock[1], count)
            words[_PLAN] = min(words[_PLAN], count)

    def leave_for(self, errand: Callable[[], None]) -> None:
        """Leave the engine before its next instruction, call `errand`, and go on.

        From the interrupt hook, or from a code hook whose instruction is that one.
        """
        self._errand = errand
        raw.stop(self._handle)

    def part(self, rest: int) -> None:
        """Leave the engine before the instruction whose code hook calls this, and suspend the slice
        there. `rest`: how many bytes of its block are left."""
        self._parts = self._stays = True
        if self._counts_blocks:
            self._rest = rest
            self.is_parted = rest > 0
        else:
            self._clock[0] -= 1  # it is counted, and will be again
        raw.stop(self._handle)

    def begin_alone(self) -> None:
        """The interrupt hook will have an instruction of a block executed again, alone, which is
        counted already: let it begin, and keep the time. Where blocks are counted."""
        clock, words = self._clock, self._words
        self._alone = clock[0], words[_BYTES], words[_STALLED]
        clock[0] = max(min(clock[0], clock[1] - 1), 0)

    def end_alone(self, rest: int, *, stays: bool) -> None:
        """From the interrupt hook, after that instruction: let it have taken no time but what it
        waited. `rest`: how many bytes of its block are left. `stays`: suspend the slice here."""
        if self._counts_blocks:
            count, left, stalled = self._alone
            self._clock[0] = count + self._words[_STALLED] - stalled
            self._words[_BYTES] = left
            if self.exit is not None:
                self._stop_at = self._clock[0]
            self._rest, self.is_parted = rest, rest > 0
        if stays or self.is_parted:
            self._parts, self._stays = True, stays
            raw.stop(self._handle)

    def drop_all_code(self) -> None:
        """Forget all translated code: soon, but not in mid-run."""
        self._code_is_stale = True
        if self.is_running and self.is_between:
            self.leave_for(lambda: None)
        elif self.is_running:
            self.pause()

    def translate_again(self, address: int | None = None) -> None:
        """Have the block that was just translated be translated again before it is executed; no
        time passes. From a hook for translated blocks. Without its `address` all others are, too,
        which costs a kernel more than it takes to boot one."""
        if address is None:
            self._code_is_stale = True
        else:
            raw.remove_code(self._handle, address, address + 1)
        self._comes_back = True
        raw.stop(self._handle)

    # --- Running --------------------------------------------------------------------------------

    def begin(self, budget: int) -> None:
        """Plan a slice of at most `budget` instructions."""
        self.exit = None
        self._done = 0
        self._clock[0] = 0
        self._budget = budget
        self.is_open = True
        self.tlb.begin_slice(self.executed)

    def run(self, cut: int | None = None) -> tuple[bool, int]:
        """Execute the open slice to its planned end: (whether the clock stopped it, uc_err).

        With `cut`, or after `kick`, suspend it before: at the first boundary at which `progress` is
        at least `cut`. A hook may suspend it anywhere, by `part`. The slice then is still open, and
        the next call goes on.
        """
        return self._execute(lambda: self._piece(cut))

    def run_block(self) -> tuple[bool, int]:
        """Execute what is left of the block in which `part` has suspended the slice, or the next
        block, and suspend the slice again; as `run`. Where instructions are counted one by one, it
        is one instruction."""
        pieces = iter((self._one_block, lambda: None))
        return self._execute(lambda: next(pieces)())

    def _execute(self, piece: Callable[[], tuple[bool, int] | None]) -> tuple[bool, int]:
        """Call `piece`, which enters the engine, until the slice is over; None suspends it."""
        self.is_running = True
        is_suspended = False
        over, error = True, raw.ERR_OK
        try:
            while not self.is_over():
                entered = piece()
                is_suspended = entered is None
                if entered is None:
                    break
                over, error = entered
                if self._parts and error == raw.ERR_OK:
                    self._parts, is_suspended, over = False, self._stays, True
                    if is_suspended:
                        break
                    continue
                if self._comes_back and error == raw.ERR_OK:
                    over, self._comes_back = True, False
                if self._errand is not None and error == raw.ERR_OK:
                    over = self._run_errand()
                if not over or error != raw.ERR_OK:
                    break
        finally:
            self.is_running = False
            if not is_suspended:
                self.end()
        return over, error

    def is_over(self) -> bool:
        """Return whether the open slice ends here: never in the midst of a block."""
        return not self.is_parted and (self.exit is not None or self.progress() >= self._budget)

    def _piece(self, cut: int | None) -> tuple[bool, int] | None:
        """Enter the engine for as long as the slice lasts, or return None: it is to be suspended.

        `part` has left a block unfinished: that comes first, alone.
        """
        if self.kicked or (cut is not None and self.progress() >= cut):
            if not self.must_go_on():
                return None
            return self._enter(self.progress() + 1, is_forced=True)
        return self._one_block() if self.is_parted else self._enter(cut)

    def probe(self) -> bool:
        """Have the engine translate the next block of the suspended slice, and execute nothing.

        Returns False if there is none: an event was delivered first, or the slice is over.
        """
        if self.is_over() or not self._counts_blocks:
            return not self.is_over()
        before = self.progress(), self._hidden.q[H.RIP_Q]
        pieces = iter((lambda: self._enter(self.progress()), lambda: None))
        self._execute(lambda: next(pieces)())
        return self.is_open and (self.progress(), self._hidden.q[H.RIP_Q]) == before

    def end(self) -> None:
        """Count the open slice, if there is one, as over."""
        if self.is_open:
            self.executed += self.progress()
            self.is_open = self.is_parted = False
            self._done = self._clock[0] = self._rest = 0

    def _run_errand(self) -> bool:
        """Do what the engine was left for; it counts as an instruction. Returns True."""
        errand, self._errand = self._errand, None
        self._done += 1
        if errand is not None:
            errand()
        return True

    def _one_block(self) -> tuple[bool, int]:
        """Enter the engine for what is left of a block, or for the next one.

        The engine takes what is left for a block of its own. So that it is let in, and stopped at
        the one after it, the counter is set back by one and given four bytes more; so that it is
        not counted again, the bytes are fewer by its size. No interrupt may come before it: had
        there been no stop, the engine would not have looked.
        """
        if not self._counts_blocks:
            return self._enter_counted(self.progress() + 1)
        words, clock = self._words, self._clock
        rest, self._rest, self.is_parted = self._rest, 0, False
        left = words[_BYTES]
        low = int(clock[0] == 0)  # it cannot be set back
        clock[0] += low
        end = clock[0]
        clock[0] -= 1
        words[_BYTES] = left + 4 - rest & (1 << 64) - 1
        if rest:
            self.withhold()
        self._ready_block(end)
        error = raw.start(self._handle, self._hidden.q[H.RIP_Q], 0)
        self.put_back()
        over = bool(words[_STOPPED])
        if self._comes_back and clock[0] == end - 1:  # it was not begun
            clock[0], words[_BYTES] = end, left
            self._rest, self.is_parted = rest, rest > 0
        elif not self.is_parted and words[_BYTES] > 3:  # an event came first
            clock[0] += 1
            words[_BYTES] = left
        clock[0] -= low
        if self.exit is not None:
            clock[0] = self._stop_at - low
        return over, error

    def _ready_block(self, end: int) -> None:
        """Let no block begin once the counter has reached `end`."""
        words = self._words
        words[_STOPPED] = 0
        words[_PLAN] = self._budget - self._done
        words[_BASE] = self.executed + self._done
        self._state.forget_steady()
        self._clock[1] = end

    def _enter(self, cut: int | None, *, is_forced: bool = False) -> tuple[bool, int]:
        """Run the engine to the end of the slice or to `cut`: (whether the clock stopped it,
        uc_err). `is_forced`: whatever `kick` says."""
        hidden, clock = self._hidden, self._clock
        if self._code_is_stale:
            self._code_is_stale = False
            raw.flush_code(self._handle)
        end = self._budget if cut is None else min(self._budget, cut)
        if self._counts_blocks:
            words = self._words
            self._ready_block(end - self._done)
            if self.kicked and not is_forced:
                clock[1] = 0
            error = raw.start(self._handle, hidden.q[H.RIP_Q], 0)
            self.put_back()
            over = bool(words[_STOPPED])
            if self.exit is not None:
                clock[0] = self._stop_at
            return over, error
        return self._enter_counted(end)

    def _enter_counted(self, end: int) -> tuple[bool, int]:
        """Run the engine up to instruction `end` of the slice, counting them one by one."""
        hidden, clock = self._hidden, self._clock
        # The engine counts from 0 each time it is entered.
        self._done += clock[0]
        error = raw.start(self._handle, hidden.q[H.RIP_Q], max(end - self._done, 1))
        count = clock[0]
        # Time that passed in a hook is no instruction too many where a hook had the engine leave.
        leaves = self._errand is not None or self._comes_back or self._parts
        over = count > clock[1] and not leaves
        count -= over
        if self.exit is not None:
            count = self._stop_at
        clock[0] = 0
        self._done += count
        return over, error
