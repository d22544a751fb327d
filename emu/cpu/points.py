# SPDX-License-Identifier: GPL-2.0-or-later
"""The debugger's own points of one vCPU: breakpoints, watchpoints, and single steps.

They are not the guest's breakpoints (emu.cpu.debug): the guest's make a #DB, these make a stop, and
both may lie at one address. A stop before an instruction changes nothing, which takes two things:

    the hook    UC_HOOK_CODE at the one address has the engine come back before the instruction. All
                other code stays as it was translated, and as fast.
    the clock   where blocks are counted, a block is counted whole when it begins. Stopped in its
                midst, the engine goes on with what it takes for a new block. So that this is not
                counted twice, `Slice` is told how many bytes of the block are left: `Blocks` keeps
                the sizes of all blocks that the engine translates while there are points.

    watching    no access to a watched page succeeds: its instruction is executed alone, by the
                trap flag, with the page in the watch window (emu.cpu.debug), and the clock is set
                back to what it was. The guest's own data breakpoints work the same way.

What does change: the code translated so far is dropped when a point is set, so the engine may ask
its TLB for code again; the MMU's counters of misses show it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from emu.cpu import raw

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["Hit", "Points", "Watch"]


class Hit(NamedTuple):
    """Why a vCPU stopped: at a breakpoint, (`is_step`) because it was asked to step, or after an
    access to a watched range: `access` is then "read" or "write", `old` and `new` what the range
    held before and after, `address` its first byte."""

    address: int
    is_step: bool = False
    access: str = ""
    old: bytes | None = None
    new: bytes | None = None


class Watch(NamedTuple):
    """A watched range: `access` is "read", "write" or "access"."""

    address: int
    size: int
    access: str

    def pages(self) -> set[int]:
        """Return the numbers of its pages."""
        return set(range(self.address >> 12, (self.address + self.size - 1 >> 12) + 1))


class Points:
    """The points of one vCPU; `hit` is the last one that was met, until somebody takes it."""

    def __init__(self, cpu: Vcpu, handle: int) -> None:
        """Serve `cpu`, whose engine is `handle`."""
        self._cpu = cpu
        self._handle = handle
        self._blocks = raw.TranslatedBlocks()
        self._sizes: defaultdict[int, dict[int, int]] = defaultdict(dict)  # by page, then start
        self._translated_callback = raw.EDGE_CALLBACK(self._translated)
        self._before_callback = raw.CODE_CALLBACK(self._before)
        self._within_callback = raw.CODE_CALLBACK(self._within)
        self._hooks: dict[int, int] = {}  # linear address -> hook
        self._recorder = 0
        self._passes = -1
        self._watches: tuple[Watch, ...] = ()
        self.pages: frozenset[int] = frozenset()
        """The pages with watched ranges."""
        self._accesses: list[tuple[Watch, str, bytes | None]] = []  # by the instruction alone
        self._alone_at = -1  # its address
        self.hit: Hit | None = None

    @property
    def is_active(self) -> bool:
        """Whether a hook may have the engine leave at its instruction."""
        return bool(self._recorder)

    # --- Setting them -----------------------------------------------------------------------------

    def set(self, addresses: Iterable[int]) -> None:
        """Stop before the instructions at these linear addresses, and no others."""
        wanted = set(addresses)
        if wanted == self._hooks.keys():
            return
        self._watch_blocks()
        for address in self._hooks.keys() - wanted:
            raw.delete_hook(self._handle, self._hooks.pop(address))
        for address in wanted - self._hooks.keys():
            self._hooks[address] = self._hook(self._before_callback, address, address)
        self._drop_code()

    def watch(self, watches: Iterable[Watch]) -> None:
        """Stop after the instructions that access these ranges, and no others."""
        self._watches = tuple(watches)
        self.pages = frozenset().union(*(watch.pages() for watch in self._watches))
        if self._watches:
            self._watch_blocks()
        self._cpu.debug.refresh()

    def release(self) -> None:
        """Let the engine run as fast as it can again, if there are no points."""
        if self._recorder and not self._hooks and not self._watches:
            raw.delete_hook(self._handle, self._recorder)
            self._recorder = 0
            self._cpu.choose_where_to_stop()
            self._drop_code()

    def pass_once(self, address: int) -> None:
        """Let the instruction at `address`, where the machine stands, be executed."""
        self._passes = address

    def take_hit(self) -> Hit | None:
        """Return what was met, once."""
        hit, self.hit = self.hit, None
        return hit

    def _hook(self, callback: object, first: int, last: int) -> int:
        return raw.add_hook(self._handle, raw.HOOK_CODE, callback, within=(first, last))

    def _watch_blocks(self) -> None:
        """Learn the size of each block from now on, and have hooks leave where they are."""
        if not self._recorder:
            self._recorder = raw.add_hook(
                self._handle, raw.HOOK_EDGE_GENERATED, self._translated_callback
            )
            self._cpu.choose_where_to_stop()
            self._drop_code()

    def _drop_code(self) -> None:
        self._sizes.clear()
        self._cpu.slice.drop_all_code()

    # --- Blocks -----------------------------------------------------------------------------------

    def _translated(self, _uc: int, block: int, _previous: int, _data: int) -> None:
        if self._cpu.step.is_active:  # a block of one instruction, for once
            return
        start, size = self._blocks(block)
        self._sizes[start >> 12][start] = size

    def _end(self, address: int) -> int:
        """Return where the block ends that an instruction is in; its own address if not known."""
        end, page = address, address >> 12
        for near in (page - 1, page):  # the last that was translated counts
            for start, size in self._sizes.get(near, {}).items():
                if start <= address < start + size:
                    end = start + size
        return end

    # --- Stopping ---------------------------------------------------------------------------------

    def _before(self, _uc: int, address: int, _size: int, _data: int) -> None:
        """UC_HOOK_CODE: an instruction with a point is about to be executed."""
        if self._passes == address:
            self._passes = -1
            return
        self._stop(Hit(address))

    def _within(self, _uc: int, address: int, _size: int, _data: int) -> None:
        """UC_HOOK_CODE of the rest of a block: the step is done."""
        if self.hit is None:
            self._stop(Hit(address, is_step=True))

    def _stop(self, hit: Hit) -> None:
        cpu = self._cpu
        try:
            if cpu.hooks.is_aborting or (cpu.step.is_active and cpu.step.resumes):
                return
            self.hit = hit
            self._passes = hit.address
            cpu.slice.part(self._end(hit.address) - hit.address)
        except BaseException as error:
            cpu.fail(error)

    # --- Watching ---------------------------------------------------------------------------------

    def begin_access(self) -> None:
        """An instruction wants to access a watched page, and is about to be executed alone."""
        self._alone_at = self._cpu.regs.linear_rip
        self._accesses.clear()
        if self._cpu.counts_blocks:
            self._cpu.slice.begin_alone()
            self._cpu.pins.withhold()

    def note_access(self, gva: int, size: int, kind: str) -> None:
        """An access of that instruction arrives, in one piece or several."""
        for watch in self._watches:
            meets = gva < watch.address + watch.size and watch.address < gva + size
            seen = any(known is watch for known, _, _ in self._accesses)
            if meets and not seen and watch.access in (kind, "access"):
                self._accesses.append((watch, kind, self._bytes(watch)))

    def end_access(self, completed: bool) -> None:
        """The instruction alone is over; `completed` if it has not faulted."""
        if self._alone_at < 0:
            return
        cpu, here = self._cpu, self._cpu.regs.linear_rip
        at, self._alone_at = self._alone_at, -1
        end = self._end(at)
        rest = end - here if completed and at < here < end else 0
        hits = self._accesses if completed else []
        if hits:
            watch, kind, old = hits[0]
            self.hit = Hit(watch.address, access=kind, old=old, new=self._bytes(watch))
        cpu.slice.end_alone(rest, stays=bool(hits))
        if not rest:
            cpu.pins.put_back()
        self._accesses = []

    def _bytes(self, watch: Watch) -> bytes | None:
        """Return what a watched range holds now, if all of it is mapped."""
        cpu = self._cpu
        data = b""
        while len(data) < watch.size:
            at = watch.address + len(data)
            gpa = cpu.where(at)
            if gpa is None:
                return None
            data += cpu.memory.peek(gpa, min(watch.size - len(data), 0x1000 - at % 0x1000))
        return data

    # --- Stepping ---------------------------------------------------------------------------------

    def step(self, skip: int = 1) -> tuple[bool, int]:
        """Execute one instruction of the open slice, or deliver an event; `skip`: so many code
        bytes, to the next boundary between two instructions. The slice may end with it. Returns
        what `Slice.run` does."""
        self._watch_blocks()
        running = self._cpu.slice
        here = self._cpu.regs.linear_rip
        self._passes = here
        if not self._cpu.counts_blocks:
            return running.run_block()
        if not running.is_parted and not running.probe():
            return True, raw.ERR_OK  # an event was delivered, or the slice is over
        end = self._end(here)
        if end <= here + skip:
            return running.run_block()
        hook = self._hook(self._within_callback, here + skip, end - 1)
        raw.flush_code(self._handle)
        try:
            return running.run_block()
        finally:
            raw.delete_hook(self._handle, hook)

    def next_block(self) -> int | None:
        """Return how many code bytes are left of the block that the machine stands in or before;
        None if an event came first, or the slice is over."""
        self._watch_blocks()
        running = self._cpu.slice
        if not running.is_parted and not running.probe():
            return None
        here = self._cpu.regs.linear_rip
        return self._end(here) - here
