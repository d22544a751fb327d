# SPDX-License-Identifier: GPL-2.0-or-later
"""The slice that a vCPU runs now: how many instructions it has had, and what ends it.

The engine counts the instructions, or a compiled hook counts blocks; either way there is a pair of
words, counter and limit, which hooks may read and change. Everything happens inside one
`uc_emu_start` where possible: the engine is entered again only when it had to come back without the
slice being over (`Slice.pause`).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from emu.cpu import compiled, raw
from emu.cpu import hidden as H
from emu.cpu.engine import Engine
from emu.errors import NotSavableError
from emu.savable import Savable, State

__all__ = ["Exit", "Slice"]

_STOPPED = compiled.STOPPED // 8
_BASE = compiled.BASE // 8
_STALLED = compiled.STALLED // 8
_BYTES = compiled.BYTES // 8


class Exit(Enum):
    """Why `Vcpu.run` came back."""

    BUDGET = "budget"
    """The instructions are executed."""
    HALT = "halt"
    """HLT, with nothing to wake the processor."""
    KICKED = "kicked"
    """Somebody called `kick`."""
    YIELDED = "yielded"
    """PAUSE, with other vCPUs around."""
    SHUTDOWN = "shutdown"
    """A triple fault."""


class Slice(Savable):
    """The clock of one vCPU, which runs for so many instructions at a time.

    `executed` counts the instructions of all slices that are over; every event delivered for no
    instruction of its own counts as one, so that time always passes, and a port access counts for
    the time it takes: `stalled` is how much of `executed` that is. `exit` is what has asked the
    present slice to end, `kicked` that somebody outside has. `is_between` is set while the
    interrupt hook runs: no instruction is under way.
    """

    def __init__(self, engine: Engine) -> None:
        """Run `engine`, and count as it counts."""
        self._handle = engine.handle
        self._hidden = hidden = engine.hidden
        self._state = engine.state_block
        self._words = engine.state_block.words
        self._counts_blocks = engine.counts_blocks
        # Counter and limit: the engine's own, or the compiled hook's.
        self._clock = (
            self._words[0:2]
            if engine.counts_blocks
            else hidden.uc[hidden.counter : hidden.counter + 2]
        )
        self.executed = 0
        self.is_running = False
        self.is_between = False
        self.exit: Exit | None = None
        self.kicked = False
        self._done = 0  # instructions of this slice, before the engine was last entered
        self._budget = 0
        self._stop_at = -1  # the counter when a hook asked to stop
        self._code_is_stale = False
        self._comes_back = False  # only to have code translated again
        self._errand: Callable[[], None] | None = None

    @property
    def stalled(self) -> int:
        """How much of all instructions is time in which the processor waited."""
        return self._words[_STALLED]

    @stalled.setter
    def stalled(self, instructions: int) -> None:
        self._words[_STALLED] = instructions

    # --- Time -----------------------------------------------------------------------------------

    def progress(self) -> int:
        """Return how many instructions the slice that runs now has begun; 0 between slices."""
        return self._done + self._clock[0] if self.is_running else 0

    def position(self) -> int:
        """Return how many instructions were begun in all slices."""
        return self.executed + (self._done + self._clock[0] if self.is_running else 0)

    def left(self) -> int:
        """Return how many instructions the slice that runs now has left."""
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

    def tick(self) -> None:
        """Count an event as an instruction: a loop of events alone must end with the budget."""
        clock = self._clock
        clock[0] = count = clock[0] + 1
        if self._done + count >= self._budget:
            self.stop(Exit.BUDGET)

    # --- Saving ---------------------------------------------------------------------------------

    def save(self) -> State:
        """Return how many instructions were executed, and the code bytes not yet counted as one.

        Raises NotSavableError inside a slice: an instruction is under way.
        """
        if self.is_running:
            raise NotSavableError("Slice cannot be saved: an instruction is under way")
        return self._make_state(
            executed=self.executed,
            stalled=self.stalled,
            uncounted=self._words[_BYTES] if self._counts_blocks else 0,
        )

    def load(self, state: State) -> None:
        """Take a saved state; all translated code is forgotten before the next slice."""
        executed, stalled, uncounted = self._parts_of(
            state, executed=int, stalled=int, uncounted=int
        )
        self.executed, self.stalled = executed, stalled
        if self._counts_blocks:
            self._words[_BYTES] = uncounted
        self.drop_all_code()

    # --- Ends -----------------------------------------------------------------------------------

    def limit(self, budget: int) -> None:
        """Shorten the running slice to `budget` instructions in all, or to those begun by now."""
        if self.is_running and budget < self._budget:
            clock = self._clock
            self._budget = max(budget, self._done + clock[0])
            clock[1] = min(clock[1], self._budget - self._done)

    def leave(self) -> None:
        """End the slice behind the instruction that is executing; for devices, inside a hook."""
        if self.is_running:
            self.stop(Exit.KICKED)

    def kick(self) -> None:
        """Leave `run` at the next boundary, or return from the next `run` at once. Any thread."""
        self.kicked = True
        if self.is_running:
            self._clock[1] = 0

    def stop(self, reason: Exit) -> None:
        """Leave the engine before its next instruction, because of `reason`: the first counts."""
        if self.exit is None or reason is Exit.SHUTDOWN:
            self.exit = reason
            self._stop_at = self._clock[0]
        self.pause()

    def pause(self) -> None:
        """Have the engine come back behind the instruction that is executing; the slice goes on.

        Not by `uc_emu_stop`: the engine looks for that order after every single memory access, and
        an instruction that has stored already would be left and then executed again. Only in the
        interrupt hook no instruction is under way.
        """
        if self.is_between:
            raw.stop(self._handle)
        else:
            clock = self._clock
            clock[1] = min(clock[0], clock[1])

    def leave_for(self, errand: Callable[[], None]) -> None:
        """Leave the engine before its next instruction, call `errand`, and go on.

        From the interrupt hook, or from a code hook whose instruction is that one.
        """
        self._errand = errand
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

    def run(self, budget: int) -> tuple[bool, int]:
        """Execute at most `budget` instructions: (whether the clock stopped it, uc_err)."""
        self.exit = None
        self._done = 0
        self._budget = budget
        self.is_running = True
        try:
            while True:
                over, error = self._enter()
                if self._comes_back and error == raw.ERR_OK:
                    over, self._comes_back = True, False
                if self._errand is not None and error == raw.ERR_OK:
                    over = self._run_errand()
                if not over or self.exit is not None or self.kicked:
                    break
                if error != raw.ERR_OK or self._done >= self._budget:
                    break
        finally:
            self.is_running = False
            self.executed += self._done
        return over, error

    def _run_errand(self) -> bool:
        """Do what the engine was left for; it counts as an instruction. Returns True."""
        errand, self._errand = self._errand, None
        self._done += 1
        if errand is not None:
            errand()
        return True

    def _enter(self) -> tuple[bool, int]:
        """Run the engine for what is left of the slice: (whether the clock stopped it, uc_err)."""
        hidden = self._hidden
        if self._code_is_stale:
            self._code_is_stale = False
            raw.flush_code(self._handle)
        budget = 0 if self.kicked else max(self._budget - self._done, 1)
        if self._counts_blocks:
            words = self._words
            words[0], words[1], words[_STOPPED] = 0, budget, 0
            words[_BASE] = self.executed + self._done
            self._state.forget_steady()
            error = raw.start(self._handle, hidden.q[H.RIP_Q], 0)
            count, over = words[0], bool(words[_STOPPED])
        else:
            # A limit of 0 would mean none, and have all translated code thrown away.
            error = raw.start(self._handle, hidden.q[H.RIP_Q], max(budget, 1))
            count = hidden.uc[hidden.counter]
            over = count > hidden.uc[hidden.limit]
            count -= over
        if self.exit is not None:
            count = self._stop_at
        self._clock[0] = 0
        self._done += count
        return over, error
