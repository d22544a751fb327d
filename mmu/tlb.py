# SPDX-License-Identifier: GPL-2.0-or-later
"""What the TLBs may hold: which frames are writable or executable somewhere, since which flush.

Unicorn's TLB cannot be read, so the tracker remembers what was granted and when. Time is counted in
*epochs*: an epoch ends when every vCPU's TLB has been emptied since it began.

One vCPU. Its flush ends the epoch, and no older grant is left: only grants of this epoch are held::

    epoch       3        | 4            | 5
    vCPU 0      grant A  F      grant B  F     grant C       held now: C

Two vCPUs. A vCPU may be granted something after its own flush, in an epoch that the other vCPU's
flush then ends. So grants of this epoch and of the one before are held, none older::

    epoch       3                       | 4
    vCPU 0      grant A  F  grant B     |       grant D
    vCPU 1               grant C        F              held now: B, D; taken for held: A, C

An epoch is a number from 1 to 127 that comes round again, as one byte a frame must hold it. A grant
127 epochs old therefore looks fresh; it costs a needless flush and nothing else.

On this rests the rule of translated code, *writable xor executable*. An engine checks stores
against its translated code only through TLB entries that are executable and writable at once, and
it does not know the other engines. So a frame may be writable in no TLB while it is executable in
one, with one exception, the *checked* grant: writable and executable in the same entry, on the
only vCPU that runs code from that frame. Such an entry makes every store take the engine's slow
path, where it looks for translated code and handles self-modification to the instruction.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterator

from .api import MAP_EXEC, MAP_READ, MAP_TRAP, MAP_WRITE, TlbHost
from .arch import ACCESS_FETCH, ACCESS_WRITE, PAGE_SHIFT
from .hostmemory import address_of
from .memory import Memory
from .observe import Counters, MmuObserver

EPOCHS = 128
"""Epochs run from 1 to 127 and round; 0 stands for never."""


def frames_of(memory: Memory) -> int:
    """Return how many frames there are up to the highest that is RAM or ROM."""
    return 1 + max(
        (slot.end >> PAGE_SHIFT for slot in memory.slots() if not slot.device), default=0
    )


def nonzero(view: memoryview) -> Iterator[int]:
    """Yield the indices of the elements that are not zero; empty stretches cost next to nothing."""
    step = 1024
    empty = bytes(step * view.itemsize)
    for first in range(0, len(view), step):
        part = view[first : first + step]
        if part.tobytes() != empty[: part.nbytes]:
            for index, value in enumerate(part, first):
                if value:
                    yield index


def trap_permissions(access: int) -> int:
    """Return the permissions for a fill of a frame that is a device or nothing: what was asked
    for, and every access to the host. W for a write only, as D depends on seeing the first; no R
    for a fetch, which SMAP and protection keys do not look at."""
    if access & ACCESS_WRITE:
        return MAP_READ | MAP_WRITE | MAP_TRAP
    return MAP_TRAP | (MAP_EXEC if access & ACCESS_FETCH else MAP_READ)


class TlbTracker:
    """The grants made to all TLBs of one machine, one byte a frame for each kind."""

    def __init__(self, memory: Memory, host: TlbHost, cpus: int, counters: Counters) -> None:
        self.host = host
        self.cpus = cpus
        self.counters = counters
        self.epoch = 1
        self._window = 1 if cpus == 1 else 2  # how many epochs a grant may be held: see above
        self._everyone = (1 << cpus) - 1
        self._flushed = 0  # a bit for each vCPU that was flushed in this epoch
        self._memory = memory
        self._code: set[int] = set()  # the frames whose fetched_epoch is not 0
        self._dirty: set[int] | None = None
        self.observers: tuple[MmuObserver, ...] = ()
        self.is_logging = False
        """Whether dirty logging is on: then every grant of WRITE must pass through here."""
        shared = array("Q", bytes(32))
        self.shared = memoryview(shared)
        """For compiled code: the epoch, and where ``written_epoch``, ``fetched_epoch`` and, of
        several vCPUs, ``runners`` are."""
        self.shared_address = shared.buffer_info()[0]
        self._make_room()

    def _make_room(self) -> None:
        """Allocate a byte for each kind of grant and each frame that is RAM or ROM."""
        frames = frames_of(self._memory)
        buffers = [mmap.mmap(-1, frames * size) for size in (1, 1, 1, 4)]
        self.written_epoch = memoryview(buffers[0])
        self.checked_epoch = memoryview(buffers[1])
        self.fetched_epoch = memoryview(buffers[2])
        """The epoch of the last grant of each kind, 0 for never. ``fetched_epoch`` goes to 0 when
        nothing translated from the frame is left."""
        self.runners = memoryview(buffers[3]).cast("I")
        """By frame, the vCPUs that fetched from it, a bit each; kept where there are several."""
        self.shared[0] = self.epoch
        self.shared[1] = address_of(buffers[0])
        self.shared[2] = address_of(buffers[2])
        self.shared[3] = address_of(buffers[3]) if self.cpus > 1 else 0

    def remapped(self) -> None:
        """Forget all grants because the slots changed: no TLB and no translated code is kept."""
        for gfn in sorted(self._code):
            self.host.drop_code(gfn)
        self._code.clear()
        self.flush_all()
        self._make_room()

    # --- Dirty logging ------------------------------------------------------------------------

    def start_dirty_log(self) -> None:
        """Log which frames are written from now on. Every grant of WRITE passes through here, so
        nothing is missed after one flush (KVM_GET_DIRTY_LOG)."""
        self._dirty = set()
        self.is_logging = True
        self.flush_all()

    def dirty_log(self) -> list[int]:
        """Return the gfns written since the log was started or last read, and empty the log.

        Raises:
            ValueError: it was not started.
        """
        if self._dirty is None:
            raise ValueError("dirty logging is off: call start_dirty_log() first")
        written, self._dirty = sorted(self._dirty), set()
        self.flush_all()
        return written

    def stop_dirty_log(self) -> None:
        """End the log."""
        self._dirty = None
        self.is_logging = False

    def is_held(self, epoch: int) -> bool:
        """Return whether a grant made in ``epoch`` may still be in a TLB."""
        return epoch != 0 and (self.epoch - epoch) % (EPOCHS - 1) < self._window

    # --- Flushes ------------------------------------------------------------------------------

    def flushed(self, cpu: int) -> None:
        """Note that a vCPU's TLB is empty now."""
        self._flushed |= 1 << cpu
        if self._flushed == self._everyone:
            self._flushed = 0
            self.shared[0] = self.epoch = self.epoch % (EPOCHS - 1) + 1

    def flush_all(self) -> None:
        """Empty every TLB; nothing granted before is held afterwards."""
        for cpu in range(self.cpus):
            self.counters.tlb_flush += 1
            self.host.flush_tlb(cpu)
        for observer in self.observers:
            observer.tlb_flush()
        self._flushed = 0
        self.shared[0] = self.epoch = (self.epoch + self._window - 1) % (EPOCHS - 1) + 1

    # --- Grants -------------------------------------------------------------------------------

    def grant_write(self, cpu: int, gfn: int, executable: bool) -> int:
        """Return the permissions for a write fill of a frame of RAM.

        ``executable``: the same translation would also allow a fetch, now and at this privilege.
        If the frame holds code that ran lately the entry is a checked one where that is allowed;
        else the code is dropped everywhere and the frame counts as data.
        """
        if self._dirty is not None:
            self._dirty.add(gfn)
        fetched = self.fetched_epoch[gfn]
        if fetched:
            held = self.is_held(fetched)
            if executable and held and self.runners[gfn] in (0, 1 << cpu):
                # The entry is an executable one too: the frame is fetched from as of now.
                self.checked_epoch[gfn] = self.fetched_epoch[gfn] = self.epoch
                return MAP_READ | MAP_WRITE | MAP_EXEC
            self.counters.code_dropped += 1
            self.host.drop_code(gfn)
            self.fetched_epoch[gfn] = 0
            self._code.discard(gfn)
            self.runners[gfn] = 0
            if held:
                self.flush_all()
        self.written_epoch[gfn] = self.epoch
        return MAP_READ | MAP_WRITE

    def grant_exec(self, cpu: int, gfn: int) -> int:
        """Return the permissions for a fetch fill of a frame of RAM; makes it writable nowhere."""
        if self.is_held(self.written_epoch[gfn]):
            self.flush_all()
        self.written_epoch[gfn] = 0
        if self.cpus > 1:
            runners = self.runners[gfn]
            if runners | 1 << cpu != runners:
                if runners and self.is_held(self.checked_epoch[gfn]):
                    self.flush_all()
                    self.checked_epoch[gfn] = 0
                self.runners[gfn] = runners | 1 << cpu
        self.fetched_epoch[gfn] = self.epoch
        self._code.add(gfn)
        return MAP_READ | MAP_EXEC

    def may_be_writable(self, gfn: int) -> bool:
        """Return whether a TLB may let stores to this frame through unseen."""
        if gfn >= len(self.written_epoch):  # no RAM there: nothing was ever granted
            return False
        return self.is_held(self.written_epoch[gfn]) or self.is_held(self.checked_epoch[gfn])

    def protect(self, gfn: int) -> None:
        """Make sure that no TLB lets stores to this frame through."""
        if gfn < len(self.written_epoch):
            if self.may_be_writable(gfn):
                self.flush_all()
            # Or the old grant would come back when its epoch comes round again.
            self.written_epoch[gfn] = self.checked_epoch[gfn] = 0

    def changed(self, gfn: int) -> None:
        """Note that a frame's bytes changed unseen by the engines: translated code is void."""
        if self._dirty is not None:
            self._dirty.add(gfn)
        if gfn < len(self.fetched_epoch) and self.fetched_epoch[gfn]:
            self.counters.code_dropped += 1
            self.host.drop_code(gfn)

    def writable_and_executable(self) -> list[int]:
        """Return the frames that break the rule: writable in one TLB, executable in another."""
        return [gfn for gfn in sorted(self._code) if self.is_writable_and_executable(gfn)]

    def is_writable_and_executable(self, gfn: int) -> bool:
        """Return whether a frame breaks the rule."""
        if gfn >= len(self.written_epoch):
            return False
        return self.is_held(self.fetched_epoch[gfn]) and self.is_held(self.written_epoch[gfn])
