# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine's interrupt hook is called for, and the delivery of what comes of it.

    serve --exception, INT n--> an Event --> deliver --> Delivery --> new state
          --refused fill------> what the MMU or compiled code said of it, the same way
          --VINTR, NMI--------> Pins
          --other intercepts--> Intercepts

Unicorn wants to stop after a refused fill; the hook takes that back, and the engine goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.cpu import hidden as H
from emu.cpu import raw
from emu.cpu.decode import instruction_length, is_stack_access
from emu.cpu.faults import Event, Shutdown, Source, Vector
from emu.cpu.fill import PAGE_FAULT, WATCHED
from emu.cpu.slice import Exit
from emu.cpu.step import SINGLE_STEP
from emu.errors import EngineError
from mmu.api import NotCanonical

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["Events"]

_CS_D = H.SEGS_D + H.SEG_DWORDS
# A look-up in an enumeration costs as much as a register.
_PF, _BP, _OF = Vector.PF, Vector.BP, Vector.OF
_EXCEPTION, _SOFTWARE = Source.EXCEPTION, Source.SOFTWARE
_WITH_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17})


class Events:
    """The events of one vCPU: `serve` is its interrupt hook."""

    def __init__(self, cpu: Vcpu) -> None:
        """Serve `cpu`, whose other parts are there already."""
        self._cpu = cpu
        self._hidden = cpu.hidden
        self._d = cpu.hidden.d
        self._q = cpu.hidden.q
        self._fills = cpu.fills
        self._regs = cpu.regs
        self._slice = cpu.slice
        self._step = cpu.step
        self._debug = cpu.debug
        self._pins = cpu.pins
        self._hooks = cpu.hooks
        self._handlers = cpu.intercepts.handlers
        self._undefined = cpu.undefined
        self._delivery = cpu.delivery
        self._record = cpu.record
        self._instead: tuple[Event, int] | None = None  # and DR6 without the trap

    def serve(self, _uc: int, number: int, _data: int) -> None:
        """Serve an exception, a software interrupt, or an intercept: UC_HOOK_INTR."""
        self._slice.is_between = True
        try:
            d = self._d
            if self._hooks.is_aborting:
                self._take_back_stop()
                self._hooks.finish_abort()
                return
            stepped = self._step.is_active
            if self._instead is not None:
                self._deliver_instead()
                return
            if stepped:
                is_over = self._step.end(number)
                self._debug.after_step(number == SINGLE_STEP, is_over)
                if is_over:
                    return
            if number >= PAGE_FAULT:
                if number == WATCHED:
                    self._take_back_stop()
                    self._debug.access()
                else:
                    self._refused_fill(stepped)
            elif number < H.VMEXIT:
                software = d[H.IS_INT_D]
                d[H.IS_INT_D] = 0
                d[H.OLD_EXCEPTION_D] = 0xFFFF_FFFF
                if software:
                    self._software_interrupt(number)
                elif number == _PF and not stepped and self._is_ahead(self._regs.cr2):
                    self._step.begin(counted=False)  # native; see _refused_fill
                else:
                    self._exception(number)
            elif H.EXIT_EXCEPTION <= number - H.VMEXIT < H.EXIT_FIRST:
                self._exception(number - H.VMEXIT - H.EXIT_EXCEPTION)
            elif number == H.VMEXIT + H.EXIT_VINTR:
                self._pins.window()
            elif number == H.VMEXIT + H.EXIT_NMI:
                self._pins.take_nmi()
            else:
                self._handlers[number - H.VMEXIT]()
            if stepped:
                self._debug.trap()
        except BaseException as error:
            self._cpu.fail(error)
        finally:
            self._slice.is_between = False

    def instead_of_trap(self, event: Event) -> None:
        """Deliver `event` when the trap flag, which is set, has the engine trap: for a hook in
        mid-instruction whose instruction is not done."""
        self._instead = event, self._regs.dr6

    def _deliver_instead(self) -> None:
        """Deliver what `instead_of_trap` has kept."""
        assert self._instead is not None
        (event, self._regs.dr6), self._instead = self._instead, None
        if self._step.is_active:
            self._step.end(-1)
            self._debug.after_step(completed=False, is_over=False)
        self.deliver(event)

    def serve_int6(self, _uc: int, _data: int) -> bool:
        """Serve INT 6, the instruction: UC_HOOK_INSN_INVALID. Returns True: the engine goes on.

        Unicorn takes exception 6 for its own "invalid instruction" before it calls the interrupt
        hook. A true #UD is an intercept and never comes here. RIP is still on the instruction.
        """
        self._q[H.RIP_Q] = self._q[H.NEXT_EIP_Q]
        self.serve(0, Vector.UD, 0)
        return True

    def deliver(self, event: Event) -> None:
        """Deliver an event now; on a triple fault the processor shuts down."""
        cs, rip = self._d[_CS_D] & 0xFFFF, self._q[H.RIP_Q]
        instruction = self._slice.position()
        if self._delivery.quickly(event):
            self._record.note(event, cs, rip, instruction)
            return
        try:
            tried = self._delivery.deliver(event)
        except Shutdown as shutdown:
            tried = shutdown.args[0]
            self._cpu.shut_down = True
            self._slice.stop(Exit.SHUTDOWN)
        for event in tried:
            self._record.note(event, cs, rip, instruction)

    # --- Exceptions and software interrupts -----------------------------------------------------

    def _exception(self, vector: int) -> None:
        if vector == Vector.UD and self._undefined.serve():
            return
        error_code = self._d[H.ERROR_CODE_D] if vector in _WITH_ERROR_CODE else None
        cr2 = self._regs.cr2 if vector == Vector.PF else None
        self.deliver(Event(vector, Source.EXCEPTION, error_code, cr2))

    def _software_interrupt(self, vector: int) -> None:
        # RIP is behind the instruction: INT n has two bytes, INT3 and INTO have one. Both INT 3
        # forms come alike; the bytes tell.
        q = self._q
        rip = q[H.RIP_Q]
        length = 2
        if vector in (_BP, _OF):
            q[H.RIP_Q] = rip - 1
            if self._cpu.read_code(1) in (b"\xcc", b"\xce"):
                length = 1
            q[H.RIP_Q] = rip
        self.deliver(Event(vector, _SOFTWARE, None, None, rip - length))

    # --- Refused fills --------------------------------------------------------------------------

    def _refused_fill(self, stepped: bool) -> None:
        """Deliver what a refused fill means, and take back Unicorn's order to stop.

        Unless the translator ran into it: it reads on behind a page's end before the last
        instruction on that page is executed. Then that one comes first, alone (`stepped`: it
        has been tried).
        """
        cpu, hidden = self._cpu, self._hidden
        refusal = self._fills.take_refusal()
        if refusal is None or not self._take_back_stop():
            raise EngineError("Unicorn reports a refused fill that we know nothing of")
        gva = hidden.uc[hidden.invalid_addr]
        if not gva & 0xFFF and not stepped and self._is_ahead(gva):
            self._step.begin(counted=False)
            return
        if isinstance(refusal, NotCanonical):
            code = cpu.read_code(15)
            stack = is_stack_access(code, self._regs.rip, cpu.bits)
            self.deliver(Event(Vector.SS if stack else Vector.GP, error_code=0))
        else:
            if gva >> 12 != refusal.gva >> 12:
                gva = refusal.gva | gva & 0xFFF
            self.deliver(Event(_PF, _EXCEPTION, refusal.error_code, gva))
        self._slice.tick()

    def _is_ahead(self, gva: int) -> bool:
        """Return whether an address that faulted is the start of the next page, while there is a
        whole instruction left on this one."""
        rip = self._regs.linear_rip
        if gva & 0xFFF or gva >> 12 != (rip >> 12) + 1:
            return False
        room = 0x1000 - (rip & 0xFFF)
        return 0 < instruction_length(self._cpu.read_code(min(room, 15)), self._cpu) <= room

    def _take_back_stop(self) -> bool:
        """Undo the order to stop that comes with a refused fill; returns whether there was one."""
        hidden = self._hidden
        if hidden.invalid_error[0] != raw.ERR_EXCEPTION:
            return False
        hidden.invalid_error[0] = 0
        if self._slice.exit is None:
            hidden.exit_request[0] = 0
        return True
