# SPDX-License-Identifier: GPL-2.0-or-later
"""One virtual processor on one Unicorn engine, from the reset vector to long mode.

    run(budget)
      engine --TLB miss--------> Fills  --> mmu.translate --> TLB entry, or a fault to deliver
             --exception, int--> intr   --> Delivery      --> new state, the engine goes on
             --intercept-------> intr   --> Intercepts    --> emulated, the engine goes on
             --IN, OUT---------> the port bus
             --trap window-----> Memory.read, Memory.write (devices, holes, live page tables)

Everything happens inside one `uc_emu_start`, hooks change the live state (`emu.cpu.hidden`) in
place, and the engine is left only at the end of the budget, on HLT, when kicked, or when the
processor shuts down. A refused TLB fill, too, is delivered without leaving: the hook sets an
exception index of ours before it refuses, and the interrupt hook takes back Unicorn's order to
stop.

Not emulated, because QEMU's TCG does not either: segment limits in protected mode, alignment
checks (#AC), VME, PCID, AVX, MONITOR/MWAIT, performance counters, machine checks, SMM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from emu.cpu import compiled, raw
from emu.cpu import hidden as H
from emu.cpu.cpuid import Cpuid
from emu.cpu.decode import instruction_length, is_stack_access, length_of_prefixes
from emu.cpu.delivery import Delivery
from emu.cpu.engine import Engine
from emu.cpu.faults import Event, Shutdown, Source, Vector
from emu.cpu.fill import PAGE_FAULT, Fills
from emu.cpu.hooks import Hooks
from emu.cpu.intercept import Intercepts
from emu.cpu.linear import LinearMemory
from emu.cpu.msr import Msrs
from emu.cpu.record import Record
from emu.cpu.registers import EFLAGS_IF, EFLAGS_TF, Registers
from emu.cpu.reset import KEPT_BY_INIT, set_registers
from emu.devices.bus import PortBus
from emu.errors import EngineError
from emu.state import CpuState
from mmu.api import Mmu, NotCanonical
from mmu.arch import Features
from mmu.memory import Memory

if TYPE_CHECKING:
    from emu.jit import CompiledCode

__all__ = ["Exit", "InterruptSource", "Vcpu"]

_WITH_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17})


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


class InterruptSource(Protocol):
    """What stands behind the INTR pin: a pair of 8259s or a local APIC."""

    def pending(self) -> bool:
        """Return whether an interrupt waits."""

    def acknowledge(self) -> int:
        """Return its vector and take it as begun."""


class Vcpu:
    """A processor.

    `regs` are its registers, live. `halted` is true between HLT and what wakes it. `executed`
    counts its instructions; every event delivered for no instruction of its own counts as one, so
    that virtual time always passes, and a port access counts for the time it takes: `stalled` is
    how much of `executed` that is. `is_alone` says that no other vCPU is awake.
    """

    def __init__(
        self,
        index: int,
        mmu: Mmu,
        memory: Memory,
        ports: PortBus,
        *,
        cpus: int = 1,
        now: Callable[[], int] = lambda: 0,
        features: Mapping[str, bool] | None = None,
        code: CompiledCode | None = None,
        count_blocks: bool = False,
    ) -> None:
        """Make vCPU `index` of `cpus`, in its reset state.

        `memory` should have its RAM and ROM already; see `sync_slots` for those that come later.
        `now` is virtual time in ns; `features` switches CPUID features by name. With compiled
        `code` and a shadow MMU most TLB misses never enter Python; with `count_blocks` it is the
        clock, too. Raises CalibrationError for an unknown Unicorn.
        """
        self.index = index
        self.mmu = mmu
        self.memory = memory
        self.ports = ports
        self.now = now
        self.interrupts: InterruptSource | None = None
        self.halted = False
        self.shut_down = False
        self.executed = 0
        self.stalled = 0
        self.is_alone = cpus == 1
        self._engine = engine = Engine(mmu, memory, code, count_blocks=count_blocks)
        self.native_exceptions = 1 << Vector.PF if engine.is_native else 0
        self.hidden = engine.hidden
        self.state_block = engine.state_block
        self.regs = Registers(engine.handle, self.hidden)
        self.cpuid = Cpuid(self.hidden, index, cpus)
        for name, on in (features or {}).items():
            self.cpuid.set_feature(name, on)
        self.features: Features = self.cpuid.paging_features()
        self.linear = LinearMemory(index, mmu, memory)
        self.record = Record(self.state_block.words, self._choose_who_serves_events)
        self.fills = Fills(self, engine.handle, code)
        self.hooks = Hooks(self, ports)
        self.delivery = Delivery(self.regs, self.linear, self.hidden, self.fills.load_cr3)
        self.msrs = Msrs(self)
        self.intercepts = Intercepts(self)
        self._counts_blocks = engine.counts_blocks
        # The instruction counter of a slice and its limit: the engine's own, or the compiled one.
        self._clock = (
            self.state_block.words[0:2]
            if self._counts_blocks
            else self.hidden.uc[self.hidden.counter : self.hidden.counter + 2]
        )
        self._running = False
        self._code_is_stale = False  # native: all translated code is to be dropped
        self._rearm = False  # INTR is up, but was taken from QEMU's request word
        self._between = False  # inside the interrupt hook: no instruction is under way
        self._done = 0  # instructions of the present slice, before the engine was last entered
        self._budget = 0  # of the present slice
        self._exit: Exit | None = None
        self._stop_at = -1  # the instruction counter when a hook asked to stop
        self._kicked = False
        self._failure: BaseException | None = None
        self._deferred: list[Callable[[], None]] = []
        self._stepping = False
        self._nmi_waits = False
        self._step_tf = 0
        self._step_dr6 = 0
        self.sync_slots = engine.sync_slots
        self.close = engine.close
        engine.install(self)
        self.reset()

    def _choose_who_serves_events(self) -> None:
        """Let compiled code serve what it can, unless somebody wants to see every event."""
        usual = self._engine.serves_events and self.record.on_event is None and not self._stepping
        self.state_block.words[compiled.EVENTS // 8] = usual

    # --- State --------------------------------------------------------------------------------

    def reset(self) -> None:
        """Put the processor into its power-up state (SDM 3A 9.1)."""
        self.set_state(CpuState.reset())

    def set_state(self, state: CpuState) -> None:
        """Put the processor into `state`; what that leaves open is as after reset."""
        set_registers(self._engine.handle, self.regs, self.hidden, state)
        self.hidden.cpu[self.hidden.interrupt_request] = 0
        self._stepping = False
        self._choose_who_serves_events()
        self.halted = False
        self.shut_down = False
        self.record.clear()
        self.reload_paging()
        self.intercepts.program()

    def init(self) -> None:
        """Do what an INIT does (SDM 3A table 9-1): reset, but TSC, MSRs and FPU stay.

        The boot processor then starts in the firmware, the others wait for a SIPI. From a hook of
        this processor's own it happens behind the instruction.
        """
        if self._running:
            self._deferred.append(self.init)
            self.leave()
            return
        q = self.hidden.q
        kept = [(word, q[word]) for word in KEPT_BY_INIT]
        self.set_state(CpuState.reset())
        for word, value in kept:
            q[word] = value
        self.halted = self.waits_for_sipi = self.index != 0

    def sipi(self, vector: int) -> None:
        """Start in real mode at `vector << 12` if an INIT came before, else do nothing."""
        if self._running:
            self._deferred.append(lambda: self.sipi(vector))
            return
        if not self.waits_for_sipi:
            return
        self.waits_for_sipi = False
        self.halted = False
        state = CpuState.reset()
        state.segments["cs"] = state.segments["cs"]._replace(
            selector=vector << 8, base=vector << 12
        )
        self.regs.cs = state.segments["cs"]
        self.regs.rip = 0

    waits_for_sipi = False
    """An INIT came, and no SIPI since: nothing else wakes the processor."""

    @property
    def bits(self) -> int:
        """How the instruction at RIP is decoded: 16, 32 or 64."""
        hflags = self.hidden.d[H.HFLAGS_D]
        return 64 if hflags & H.HF_CS64 else 32 if hflags & H.HF_CS32 else 16

    def read_code(self, size: int) -> bytes:
        """Return up to `size` code bytes at CS:RIP. 1 us where they were fetched just now."""
        rip = self.regs.linear_rip
        self.linear.begin()
        return self.linear.read_code(rip, size, self.regs.cpl == 3)

    # --- Paging -------------------------------------------------------------------------------

    def reload_paging(self) -> None:
        """Empty the TLB and tell the MMU the control registers as they are now."""
        self.fills.reload_paging()

    def flush_tlb(self) -> None:
        """Empty the TLB; also inside hooks. 1.4 us."""
        self.fills.flush_tlb()

    def drop_code(self, gfn: int) -> None:
        """Forget what was translated from the code in a frame; also inside hooks. 4 us."""
        if self._engine.is_native:
            # No virtual address is known to lead there, so all goes; but not in mid-run.
            self._code_is_stale = True
            if self._running and not self._between:
                self._pause()
            return
        self.fills.drop_code(gfn)

    def read_cr8(self) -> int:
        """Return the task priority; a local APIC overrides this."""
        return self.regs.cr8

    def write_cr8(self, value: int) -> None:
        """Set the task priority, 0 to 15; a local APIC overrides this."""
        self.regs.cr8 = value

    # --- Events -----------------------------------------------------------------------------------

    def intr(self, _uc: int, number: int, _data: int) -> None:
        """Serve an exception, a software interrupt, or an intercept."""
        self._between = True
        try:
            d = self.hidden.d
            if self.hooks.is_aborting:
                self._take_back_stop()
                self.hooks.finish_abort()
                return
            stepped = self._stepping
            if stepped and self._end_step(number):
                return
            if number >= PAGE_FAULT:
                self._refused_fill(stepped)
            elif number < H.VMEXIT:
                software = d[H.IS_INT_D]
                d[H.IS_INT_D] = 0
                d[H.OLD_EXCEPTION_D] = 0xFFFF_FFFF
                if software:
                    self._software_interrupt(number)
                elif number == Vector.PF and not stepped and self._is_ahead(self.regs.cr2):
                    self.begin_step(counted=False)  # native; see _refused_fill
                else:
                    self._exception(number)
            elif H.EXIT_EXCEPTION <= number - H.VMEXIT < H.EXIT_FIRST:
                self._exception(number - H.VMEXIT - H.EXIT_EXCEPTION)
            elif number == H.VMEXIT + H.EXIT_VINTR:
                self._interrupt_window()
            elif number == H.VMEXIT + H.EXIT_NMI:
                self._take_nmi()
            else:
                self.intercepts.handlers[number - H.VMEXIT]()
        except BaseException as error:
            self.fail(error)
        finally:
            self._between = False

    def _exception(self, vector: int) -> None:
        if vector == Vector.UD:
            code = self.read_code(15)
            at = length_of_prefixes(code, self.bits)
            if code[at : at + 1] == b"\xf1":  # INT1, which QEMU leaves out
                self._icebp(at + 1)
                return
        error_code = self.hidden.d[H.ERROR_CODE_D] if vector in _WITH_ERROR_CODE else None
        cr2 = self.regs.cr2 if vector == Vector.PF else None
        self.deliver(Event(vector, Source.EXCEPTION, error_code, cr2))

    def _icebp(self, length: int) -> None:
        start = self.regs.rip
        self.regs.rip = start + length
        self.deliver(Event(Vector.DB, Source.ICEBP, start=start))

    def _software_interrupt(self, vector: int) -> None:
        # RIP is behind the instruction: INT n has two bytes, INT3 and INTO have one. Both INT 3
        # forms come alike; the bytes tell.
        regs = self.regs
        rip = regs.rip
        length = 2
        if vector in (Vector.BP, Vector.OF):
            regs.rip = rip - 1
            if self.read_code(1) in (b"\xcc", b"\xce"):
                length = 1
            regs.rip = rip
        self.deliver(Event(vector, Source.SOFTWARE, start=rip - length))

    def _refused_fill(self, stepped: bool) -> None:
        """Deliver what a refused fill means, and take back Unicorn's order to stop.

        Unless the translator ran into it: it reads on behind a page's end before the last
        instruction on that page is executed. Then that one comes first, alone (`stepped`: it
        has been tried).
        """
        hidden = self.hidden
        refusal = self.fills.take_refusal()
        if refusal is None or not self._take_back_stop():
            raise EngineError("Unicorn reports a refused fill that we know nothing of")
        gva = hidden.uc[hidden.invalid_addr]
        if not stepped and self._is_ahead(gva):
            self.begin_step(counted=False)
            return
        if isinstance(refusal, NotCanonical):
            code = self.read_code(15)
            stack = is_stack_access(code, self.regs.rip, self.bits)
            self.deliver(Event(Vector.SS if stack else Vector.GP, error_code=0))
        else:
            if gva >> 12 != refusal.gva >> 12:
                gva = refusal.gva | gva & 0xFFF
            self.deliver(Event(Vector.PF, Source.EXCEPTION, refusal.error_code, gva))
        self._tick()

    def _is_ahead(self, gva: int) -> bool:
        """Return whether an address that faulted is the start of the next page, while there is a
        whole instruction left on this one."""
        rip = self.regs.linear_rip
        if gva & 0xFFF or gva >> 12 != (rip >> 12) + 1:
            return False
        room = 0x1000 - (rip & 0xFFF)
        return 0 < instruction_length(self.read_code(min(room, 15)), self) <= room

    def _take_back_stop(self) -> bool:
        """Undo the order to stop that comes with a refused fill; returns whether there was one."""
        hidden = self.hidden
        if hidden.invalid_error[0] != raw.ERR_EXCEPTION:
            return False
        hidden.invalid_error[0] = 0
        if self._exit is None and not self._kicked:
            hidden.exit_request[0] = 0
        return True

    def deliver(self, event: Event) -> None:
        """Deliver an event now; on a triple fault the processor shuts down."""
        regs = self.regs
        cs, rip = regs.segment_selector(1), regs.rip
        instruction = self.executed + self.progress()
        tried = [event]
        try:
            if not self.delivery.quickly(event):
                tried = self.delivery.deliver(event)
        except Shutdown as shutdown:
            tried = shutdown.args[0]
            self.shut_down = True
            self._stop(Exit.SHUTDOWN)
        self.record.add(tried, cs, rip, instruction)

    def _tick(self) -> None:
        """Count an event as an instruction: a loop of events alone must end with the budget."""
        clock = self._clock
        clock[0] = count = clock[0] + 1
        if self._done + count >= self._budget:
            self._stop(Exit.BUDGET)

    def fail(self, error: BaseException) -> None:
        """Keep an exception of a hook for `run` to raise."""
        if self._failure is None:
            self._failure = error
        self.hidden.cpu[self.hidden.interrupt_request] = 0
        self._stop(Exit.KICKED)

    def _stop(self, reason: Exit) -> None:
        """Leave the engine before its next instruction."""
        if self._exit is None or reason is Exit.SHUTDOWN:
            self._exit = reason
            self._stop_at = self._clock[0]
        self._pause()

    def _pause(self) -> None:
        """Have the engine come back behind the instruction that is executing; `run` goes on.

        Not by `uc_emu_stop`: the engine looks for that order after every single memory access, and
        an instruction that has stored already would be left and then executed again. Only in the
        interrupt hook no instruction is under way.
        """
        if self._between:
            raw.stop(self._engine.handle)
        else:
            clock = self._clock
            clock[1] = min(clock[0], clock[1])

    # --- Interrupts -------------------------------------------------------------------------------

    def set_intr(self, level: bool) -> None:
        """Drive the INTR pin."""
        if level:
            self.request(H.INTERRUPT_VIRQ)
        else:
            self._rearm = False
            self.withdraw(H.INTERRUPT_VIRQ)

    def nmi(self) -> None:
        """Send an NMI; one waits while another is served."""
        self.request(H.INTERRUPT_NMI)

    def request(self, bit: int) -> None:
        """Set a bit of QEMU's interrupt request word, and have it looked at soon."""
        hidden = self.hidden
        hidden.cpu[hidden.interrupt_request] |= bit
        # In the interrupt hook the engine looks by itself before it goes on.
        waits = bit == H.INTERRUPT_VIRQ and not self._window_open()
        if self._running and not self._between and not waits:
            self._pause()

    def withdraw(self, bit: int) -> None:
        """Clear a bit of QEMU's interrupt request word."""
        hidden = self.hidden
        hidden.cpu[hidden.interrupt_request] &= ~bit

    def _window_open(self) -> bool:
        d = self.hidden.d
        return bool(d[H.EFLAGS_D] & EFLAGS_IF and not d[H.HFLAGS_D] & H.HF_INHIBIT_IRQ)

    @property
    def can_wake(self) -> bool:
        """Whether an interrupt or NMI that waits would end a HLT now."""
        hidden = self.hidden
        requests = hidden.cpu[hidden.interrupt_request]
        if self.waits_for_sipi:
            return False
        if requests & H.INTERRUPT_NMI and not hidden.d[H.HFLAGS2_D] & H.HF2_NMI:
            return True
        return bool(requests & H.INTERRUPT_VIRQ and hidden.d[H.EFLAGS_D] & EFLAGS_IF)

    @property
    def listens(self) -> bool:
        """Whether an interrupt could wake this processor from HLT."""
        return bool(self.hidden.d[H.EFLAGS_D] & EFLAGS_IF) and not self.waits_for_sipi

    def _interrupt_window(self) -> None:
        """INTR is up, IF is set and no shadow is in the way: at exactly this boundary."""
        source = self.interrupts
        if self._exit is not None:
            # The engine looks at requests before it looks at an order to stop.
            self.withdraw(H.INTERRUPT_VIRQ)
            self._rearm = True
            return
        if source is None or not source.pending():
            self.withdraw(H.INTERRUPT_VIRQ)
            return
        self.deliver(Event(source.acknowledge(), Source.EXTERNAL))
        if not source.pending():
            self.withdraw(H.INTERRUPT_VIRQ)
        self._tick()

    def _take_nmi(self) -> None:
        self.withdraw(H.INTERRUPT_NMI)
        if self.hidden.d[H.HFLAGS_D] & H.HF_INHIBIT_IRQ:
            # Not behind STI or MOV SS (SDM 3A 6.8.3): Unicorn looks at that for INTR alone.
            self._nmi_waits = True
            self._clock[0] += 1
            self.begin_step()
            return
        self.hidden.d[H.HFLAGS2_D] |= H.HF2_NMI  # the engine's IRET clears it
        self.deliver(Event(Vector.NMI, Source.EXTERNAL))
        self._tick()

    # --- Executing an intercepted instruction natively ----------------------------------------

    def begin_step(self, *, counted: bool = True) -> None:
        """Have the interrupt hook called behind the next instruction: by the trap flag.

        `counted`: the instruction has been counted already, and will be again.
        """
        d, regs = self.hidden.d, self.regs
        self._stepping = True
        self._choose_who_serves_events()
        self._step_tf = d[H.EFLAGS_D] & EFLAGS_TF
        self._step_dr6 = regs.dr6
        d[H.EFLAGS_D] |= EFLAGS_TF
        if counted:
            self._clock[0] -= 1

    def _end_step(self, number: int) -> bool:
        """Undo `begin_step`, whatever came; returns True if it was the trap we asked for."""
        self._stepping = False
        self._choose_who_serves_events()
        if self._nmi_waits:
            self._nmi_waits = False
            self.request(H.INTERRUPT_NMI)
        self.intercepts.program()
        if self._step_tf:
            return False
        self.hidden.d[H.EFLAGS_D] &= ~EFLAGS_TF
        if number != H.VMEXIT + H.EXIT_EXCEPTION + Vector.DB:
            return False
        self.regs.dr6 = self._step_dr6
        return True

    # --- Running --------------------------------------------------------------------------------

    def progress(self) -> int:
        """Return how many instructions the slice that runs now has begun; 0 between slices."""
        return self._done + self._clock[0] if self._running else 0

    def left(self) -> int:
        """Return how many instructions the slice that runs now has left."""
        return self._budget - self.progress()

    def stall(self, instructions: int) -> None:
        """Let time pass as `instructions` would take, in which the processor waits."""
        self._clock[0] += instructions
        self.stalled += instructions

    def limit(self, budget: int) -> None:
        """Shorten the running slice to `budget` instructions in all, or to those begun by now."""
        if self._running and budget < self._budget:
            clock = self._clock
            self._budget = max(budget, self._done + clock[0])
            clock[1] = min(clock[1], self._budget - self._done)

    def leave(self) -> None:
        """End the slice behind the instruction that is executing; for devices, inside a hook."""
        if self._running:
            self._stop(Exit.KICKED)

    def kick(self) -> None:
        """Leave `run` at the next boundary, or return from the next `run` at once. Any thread."""
        self._kicked = True
        if self._running:
            self._clock[1] = 0

    def yielded(self) -> None:
        """End the slice: the guest has executed PAUSE."""
        self._stop(Exit.YIELDED)

    def run(self, budget: int) -> Exit:
        """Execute at most `budget` instructions (at least one) and say why it ended."""
        if self.shut_down:
            return Exit.SHUTDOWN
        if self._rearm:
            self._rearm = False
            self.request(H.INTERRUPT_VIRQ)
        if self.halted:
            if not self.can_wake:
                return Exit.HALT
            self.halted = False
        self._exit = None
        self._done = 0
        self._budget = budget
        self._running = True
        try:
            while True:
                over, error = self._enter()
                if not over or self._exit is not None or self._kicked:
                    break
                if error != raw.ERR_OK or self._done >= self._budget:
                    break
        finally:
            self._running = False
            self.executed += self._done
        if self._stepping:
            self._end_step(-1)
        while self._deferred:
            self._deferred.pop(0)()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if error != raw.ERR_OK:
            raise EngineError(f"Unicorn stopped: {raw.describe(error)}")
        if self._exit is not None:
            return self._exit
        if self._kicked:
            self._kicked = False
            return Exit.KICKED
        if not over:
            self.halted = not self.can_wake
        return Exit.HALT if self.halted else Exit.BUDGET

    def _enter(self) -> tuple[bool, int]:
        """Run the engine for what is left of the slice: (whether the clock stopped it, uc_err)."""
        hidden = self.hidden
        if self._code_is_stale:
            self._code_is_stale = False
            raw.flush_code(self._engine.handle)
        budget = 0 if self._kicked else max(self._budget - self._done, 1)
        if self._counts_blocks:
            words = self.state_block.words
            words[0], words[1], words[compiled.STOPPED // 8] = 0, budget, 0
            words[compiled.BASE // 8] = self.executed + self._done
            error = raw.start(self._engine.handle, hidden.q[H.RIP_Q], 0)
            count, over = words[0], bool(words[compiled.STOPPED // 8])
        else:
            # A limit of 0 would mean none, and have all translated code thrown away.
            error = raw.start(self._engine.handle, hidden.q[H.RIP_Q], max(budget, 1))
            count = hidden.uc[hidden.counter]
            over = count > hidden.uc[hidden.limit]
            count -= over
        if self._exit is not None:
            count = self._stop_at
        self._clock[0] = 0
        self._done += count
        return over, error
