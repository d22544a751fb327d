# SPDX-License-Identifier: GPL-2.0-or-later
"""Debug registers and breakpoints (SDM 3B 17.2, 17.3); MOV DR comes here by emu.cpu.intercept.

The engine is not told of breakpoints: those it has come by EIP where they should by linear address,
outlive the DR7 that made them, and watch no data.

    execution   a code hook at the one address. Before the instruction, unless RF is set, it has the
                engine come back, and #DB is delivered. RF lasts for the instruction behind IRET,
                which the engine forgets: so IRET is intercepted, and that instruction stepped.
    data        a TLB fill hook at the one page, in front of the usual one. No access succeeds but
                in a step: then the page is mapped into the watch window, which looks at addresses,
                and #DB comes behind the instruction.
    I/O         the engine's own, by HF_IOBPT.

Nothing of it costs anything while DR7 enables nothing. Under the native plug-in there are no data
breakpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.cpu import hidden as H
from emu.cpu import raw
from emu.cpu.faults import Event, Fault, Vector
from emu.cpu.fill import SPECIAL_PAGES, WATCHED
from emu.cpu.registers import EFLAGS_RF

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["WATCH_WINDOW", "DebugRegisters"]

WATCH_WINDOW = 2 * SPECIAL_PAGES
WINDOW_BYTES = 1 << 40
_PERMS_READ_WRITE = 3
_CR4_DE = 1 << 3
_DR6_BS = 1 << 14
_DR6_FIXED, _DR6_SETTABLE = 0xFFFF_0FF0, 0xE00F
_DR7_FIXED, _DR7_SETTABLE = 0x400, 0xFFFF_23FF
_EXECUTION, _WRITE, _IO, _READ_WRITE = range(4)
_LENGTHS = (1, 2, 8, 4)  # SDM 3B 17.2.4


class Breakpoint(NamedTuple):
    """A breakpoint that DR7 enables: `bit` in DR6, `kind` as DR7's R/W field, first and last
    address."""

    bit: int
    kind: int
    first: int
    last: int


def breakpoints(dr: Callable[[int], int]) -> list[Breakpoint]:
    """Return what DR0 to DR3 and DR7 (SDM 3B figure 17-1) enable.

    >>> breakpoints([0x1003, 0, 0, 0, 0, 0, 0, 0xD0401].__getitem__)
    [Breakpoint(bit=1, kind=1, first=4096, last=4099)]
    """
    dr7 = dr(7)
    found = []
    for number in range(4):
        if dr7 >> 2 * number & 3:
            field = dr7 >> 16 + 4 * number & 0xF
            length = _LENGTHS[field >> 2]
            first = dr(number) & ~(length - 1)
            found.append(Breakpoint(1 << number, field & 3, first, first + length - 1))
    return found


class DebugRegisters:
    """The debug registers of one vCPU, and what they ask for."""

    def __init__(self, cpu: Vcpu, handle: int, *, watches_data: bool) -> None:
        """Serve `cpu`, whose engine is `handle`."""
        self._cpu = cpu
        self._handle = handle
        self._regs = cpu.regs
        self._hidden = cpu.hidden
        self._watches_data = watches_data
        self._before_callback = raw.CODE_CALLBACK(self._before)
        self._fill_callback = raw.FILL_CALLBACK(self._fill)
        self._code: dict[int, int] = {}  # linear address -> hook
        self._pages: dict[int, int] = {}  # page number -> hook
        self._frames: dict[int, int] = {}  # in a step: frame -> linear page in the watch window
        self._own_pages: set[int] = set()  # those of DR0 to DR3
        self._page = 0  # the last one that an access was refused to
        self._hits = 0  # bits of DR6

    @property
    def has_code(self) -> bool:
        """Whether there are breakpoints on execution: IRET is to be intercepted."""
        return bool(self._code)

    def install(self, keep: list[Any]) -> None:
        """Map the watch window."""
        if self._watches_data:
            callbacks = (raw.MMIO_READ_CALLBACK(self._read), raw.MMIO_WRITE_CALLBACK(self._write))
            keep.extend(callbacks)
            raw.map_mmio(self._handle, WATCH_WINDOW, WINDOW_BYTES, *callbacks)

    # --- The registers --------------------------------------------------------------------------

    def write(self, number: int, value: int) -> None:
        """Do MOV to DR; raises Fault with nothing changed."""
        regs = self._regs
        if number in (4, 5):
            if regs.cr4 & _CR4_DE:
                raise Fault(Vector.UD, None)
            number += 2
        if number >= 6 and value >> 32:
            raise Fault(Vector.GP)
        if number == 6:
            value = value & _DR6_SETTABLE | _DR6_FIXED
        elif number == 7:
            value = value & _DR7_SETTABLE | _DR7_FIXED
        self._hidden.q[H.DR_Q + number] = value
        if number != 6:
            self.refresh()

    def refresh(self) -> None:
        """Look for what DR0 to DR3 and DR7 ask for: call it when they have changed."""
        wanted = breakpoints(self._regs.dr)
        d = self._hidden.d
        watches_ports = any(found.kind == _IO for found in wanted)
        d[H.HFLAGS_D] = d[H.HFLAGS_D] & ~H.HF_IOBPT | (H.HF_IOBPT if watches_ports else 0)
        self._hook_code({found.first for found in wanted if found.kind == _EXECUTION})
        if self._watches_data:
            data = {b.first >> 12 for b in wanted if b.kind in (_WRITE, _READ_WRITE)}
            self._own_pages = data
            self._hook_pages(data | self._cpu.points.pages)

    def _hook_code(self, wanted: set[int]) -> None:
        if wanted == self._code.keys():
            return
        for address in self._code.keys() - wanted:
            raw.delete_hook(self._handle, self._code.pop(address))
        for address in wanted - self._code.keys():
            self._code[address] = raw.add_hook(
                self._handle, raw.HOOK_CODE, self._before_callback, within=(address, address)
            )
        self._cpu.choose_where_to_stop()  # the hook leaves at its instruction
        # What is translated has no call of the hook.
        self._cpu.slice.drop_all_code()

    def _hook_pages(self, wanted: set[int]) -> None:
        if wanted == self._pages.keys():
            return
        for hook in self._pages.values():
            raw.delete_hook(self._handle, hook)
        self._pages = {
            page: raw.add_hook(
                self._handle,
                raw.HOOK_TLB_FILL,
                self._fill_callback,
                within=(page << 12, page << 12 | 0xFFF),
            )
            for page in wanted
        }
        self._cpu.fills.come_last()
        self._flush()

    def _flush(self) -> None:
        self._cpu.flush_tlb()
        self._cpu.mmu.flushed(self._cpu.index)

    def _report(self, bits: int) -> None:
        self._regs.dr6 = self._regs.dr6 & ~0xF | bits

    # --- Execution ------------------------------------------------------------------------------

    def _before(self, _uc: int, address: int, _size: int, _data: int) -> None:
        """UC_HOOK_CODE: an instruction with a breakpoint is about to be executed."""
        cpu = self._cpu
        try:
            if cpu.hooks.is_aborting or (cpu.step.is_active and cpu.step.resumes):
                return
            if self._hidden.d[H.EFLAGS_D] & EFLAGS_RF:
                self._hidden.d[H.EFLAGS_D] &= ~EFLAGS_RF
                return
            bits = 0
            for found in breakpoints(self._regs.dr):
                if found.kind == _EXECUTION and found.first == address:
                    bits |= found.bit
            if bits:
                cpu.slice.leave_for(partial(self._instruction_breakpoint, bits))
        except BaseException as error:
            cpu.fail(error)

    def _instruction_breakpoint(self, bits: int) -> None:
        if self._cpu.step.is_active:
            self._cpu.step.end(-1)
        self._report(bits)
        self._cpu.events.deliver(Event(Vector.DB))

    # --- Data -----------------------------------------------------------------------------------

    def _fill(self, uc: int, gva: int, kind: int, entry: int) -> bool:
        """UC_HOOK_TLB_FILL of a watched page: see `emu.cpu.fill`, which is called for the answer.

        What has no permissions is refused; False would have the engine ask the next hook.
        """
        cpu = self._cpu
        try:
            words = raw.tlb_entry(entry)
            if kind != raw.FILL_FETCH and not cpu.step.is_active:
                self._hidden.exception_index[0] = WATCHED
                self._page = gva >> 12
                words[0] = words[1] = 0
                return True
            if not cpu.fills.fill(uc, gva, kind, entry):
                return False
            if kind == raw.FILL_FETCH:
                words[1] &= ~_PERMS_READ_WRITE
                return True
            frame = words[0] & WINDOW_BYTES - 0x1000
            self._frames[frame] = gva & ~0xFFF
            words[0] = frame | WATCH_WINDOW
            return True
        except BaseException as error:
            cpu.fail(error)
            return False

    def _read(self, uc: int, gpa: int, size: int, data: int) -> int:
        self._look(gpa, size, is_write=False)
        return self._cpu.hooks.trapped_read(uc, gpa, size, data)

    def _write(self, uc: int, gpa: int, size: int, value: int, data: int) -> None:
        self._look(gpa, size, is_write=True)
        self._cpu.hooks.trapped_write(uc, gpa, size, value, data)

    def _look(self, gpa: int, size: int, *, is_write: bool) -> None:
        """Note which breakpoints an access in the watch window meets."""
        first = self._frames.get(gpa & ~0xFFF, -0x1000) | gpa & 0xFFF
        self._cpu.points.note_access(first, size, "write" if is_write else "read")
        for found in breakpoints(self._regs.dr):
            meets = first <= found.last and found.first < first + size
            if meets and (found.kind == _READ_WRITE or (is_write and found.kind == _WRITE)):
                self._hits |= found.bit

    def access(self) -> None:
        """Execute an instruction alone that wants to access a watched page.

        Where only a debugger watches, the guest's clock does not show it.
        """
        if self._page not in self._own_pages:
            self._cpu.points.begin_access()
        self._cpu.step.begin()

    # --- Steps ----------------------------------------------------------------------------------

    def iret(self) -> None:
        """Execute an IRET alone, to see whether it sets RF."""
        self._cpu.step.begin()

    def after_step(self, completed: bool, is_over: bool) -> None:
        """Look at a step that has ended: `completed` if its instruction has, `is_over` if nothing
        else comes of it (the guest's own trap).

        A step of MOV SS is two instructions long, as a trap has to wait there (SDM 3A 6.8.3).
        """
        if self._frames:
            self._frames.clear()
            self._flush()
        self._cpu.points.end_access(completed)
        if not completed:
            # A fault takes the hits with it; INT n, which waits to be delivered, does not.
            self._hits = self._hits if self._hidden.d[H.IS_INT_D] else 0
            return
        if self._hits and is_over:
            self.trap()
        elif self._hits:
            self._report_hits()  # the guest's own trap is delivered now
        elif is_over and self._code and self._hidden.d[H.EFLAGS_D] & EFLAGS_RF:
            self._cpu.step.begin(counted=False, resumes=True)

    def single_step(self) -> None:
        """Deliver the single-step trap behind an instruction that the engine left at."""
        self._regs.dr6 |= _DR6_BS
        self._cpu.events.deliver(Event(Vector.DB))

    def trap(self) -> None:
        """Deliver the data breakpoints that have been met, if there are any."""
        if self._hits:
            self._report_hits()
            self._cpu.events.deliver(Event(Vector.DB))

    def _report_hits(self) -> None:
        hits, self._hits = self._hits, 0
        self._report(hits)
