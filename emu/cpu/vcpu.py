# SPDX-License-Identifier: GPL-2.0-or-later
"""One virtual processor on one Unicorn engine, from the reset vector to long mode.

    run(budget)    Slice: enters the engine, and counts
      engine --TLB miss---------> Fills  --> mmu.translate --> TLB entry, or a refusal
             --exception, int---> Events --> Delivery      --> new state, the engine goes on
             --refused fill-----> Events --> Delivery      --> as an exception
             --VINTR, NMI-------> Events --> Pins          --> an interrupt is delivered
             --other intercepts-> Events --> Intercepts    --> emulated, the engine goes on
             --IN, OUT, CPUID...> Hooks  --> the port bus, Cpuid
             --trap window------> Hooks  --> Memory.read, Memory.write (devices, holes, live page
                                             tables)
             --code hook, watch window--> DebugRegisters, where there are breakpoints
             --block translated, code hook--> Sites, where far transfers and SYSRET are

Everything happens inside one `uc_emu_start`, hooks change the live state (`emu.cpu.hidden`) in
place, and the engine is left only at the end of the budget, on HLT, when kicked, or when the
processor shuts down. A refused TLB fill, too, is delivered without leaving: the hook sets an
exception index of ours before it refuses, and the interrupt hook takes back Unicorn's order to
stop. Where there is compiled code, it stands before Fills and Events and serves what is usual.

Each part has a file in emu/cpu/ under its name; this one puts them together.

Not emulated, because QEMU's TCG does not either: segment limits in protected mode, alignment
checks (#AC), VME, PCID, AVX, MONITOR/MWAIT, performance counters, machine checks, SMM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from emu.cpu import compiled, raw
from emu.cpu import hidden as H
from emu.cpu.compiled import CompiledCode
from emu.cpu.cpuid import Cpuid, Identity
from emu.cpu.debug import DebugRegisters
from emu.cpu.delivery import Delivery
from emu.cpu.engine import Engine
from emu.cpu.events import Events
from emu.cpu.faults import Vector
from emu.cpu.fill import Fills
from emu.cpu.hooks import Hooks
from emu.cpu.intercept import Intercepts
from emu.cpu.linear import LinearMemory
from emu.cpu.msr import Msrs
from emu.cpu.pins import InterruptController, Pins
from emu.cpu.points import Points
from emu.cpu.record import Record
from emu.cpu.registers import EFLAGS_IF, EFLAGS_TF, Registers
from emu.cpu.reset import KEPT_BY_INIT, reset_fpu, set_registers, state_after_init
from emu.cpu.sites import Sites
from emu.cpu.slice import Exit, Slice
from emu.cpu.step import Step
from emu.cpu.translation import Translation
from emu.cpu.undefined import Undefined
from emu.errors import EngineError, StateError
from emu.ports import PortBus
from emu.savable import Savable, State
from emu.state import CpuState
from mmu.api import Mmu, PagingRegisters
from mmu.arch import ACCESS_IMPLICIT, EFER_LMA, Features
from mmu.memory import Memory
from mmu.walker import Context, walk

__all__ = ["Vcpu"]

_PARTS: dict[str, Any] = {
    "index": int,
    "cpuid": list[int],
    "env": bytes,
    "halted": bool,
    "shut_down": bool,
    "waits_for_sipi": bool,
    "is_alone": bool,
    "cr8": int,
    "pdptes": list[int] | None,
    "slice": State,
    "pins": State,
    "msrs": State,
    "entropy": State,
    "record": State,
}


class Vcpu(Savable):
    """A processor.

    `regs` are its registers, live; `record` is what has happened to it, `pins` are how it is
    interrupted. `halted` is true between HLT and what wakes it, `waits_for_sipi` between an INIT
    and the SIPI that alone can wake it then. `is_alone` says that no other vCPU is awake.
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
        identity: Identity | None = None,
        code: CompiledCode | None = None,
        count_blocks: bool = False,
        seed: int = 0,
    ) -> None:
        """Make vCPU `index` of `cpus`, in its reset state.

        `memory` should have its RAM and ROM already; see `sync_slots` for those that come later.
        `now` is virtual time in ns; `features` switches CPUID features by name, `identity` is
        the model that CPUID names. With compiled
        `code` and a shadow MMU most TLB misses never enter Python; with `count_blocks` it is the
        clock, too. `seed` is that of RDRAND. Raises CalibrationError for an unknown Unicorn.
        """
        self.index = index
        self.mmu = mmu
        self.memory = memory
        self.now = now
        self.halted = False
        self.wakes_at_once = False
        """Whether an interrupt or NMI was waiting at the HLT that was executed just now."""
        self.shut_down = False
        self.waits_for_sipi = False
        self.is_alone = cpus == 1
        self.apic: InterruptController | None = None
        self.after_init: Callable[[], None] = lambda: None
        """Called when an INIT is done: a board moves the boot processor to where its ROM is."""
        self._failure: BaseException | None = None
        self._deferred: list[Callable[[], None]] = []
        self._engine = engine = Engine(mmu, memory, code, count_blocks=count_blocks)
        self.native_exceptions = 1 << Vector.PF if engine.is_native else 0
        self.hidden = engine.hidden
        self.state_block = engine.state_block
        self.regs = Registers(engine.handle, self.hidden)
        self.cpuid = Cpuid(self.hidden, index, cpus)
        for name, on in (features or {}).items():
            self.cpuid.set_feature(name, on)
        if identity is not None:
            self.cpuid.identify(identity)
        self.features: Features = self.cpuid.paging_features()
        self.linear = LinearMemory(index, mmu, memory)
        self.slice = Slice(engine)
        self.slice.must_go_on = self._is_in_mid_instruction
        self.record = Record(self.state_block.words, self.choose_who_serves_events)
        self.step = Step(self)
        self.pins = Pins(self)
        self.slice.withhold, self.slice.put_back = self.pins.withhold, self.pins.put_back
        self.fills = Fills(self, engine.handle, code)
        self.hooks = Hooks(self, ports)
        self.points = Points(self, engine.handle)
        self.debug = DebugRegisters(self, engine.handle, watches_data=not engine.is_native)
        self.delivery = Delivery(
            self.regs, self.linear, self.hidden, self.fills.load_cr3, self.debug.refresh
        )
        self.msrs = Msrs(self)
        self.translation = Translation(self, engine.handle)
        self.intercepts = Intercepts(self)
        self.undefined = Undefined(self, seed)
        self.events = Events(self)
        self.sites = Sites(self, engine.handle)
        # What others call, without a detour.
        self.set_intr, self.nmi = self.pins.set_intr, self.pins.nmi
        self.progress, self.limit = self.slice.progress, self.slice.limit
        self.end_slice, self.extra = self.slice.end, self.slice.extra
        self.take_hit = self.points.take_hit
        self.leave, self.kick = self.slice.leave, self.slice.kick
        self.sync_slots = engine.sync_slots
        self.close = engine.close
        engine.install(self)
        self.reset()

    @property
    def handle(self) -> int:
        """Unicorn's handle of the engine."""
        return self._engine.handle

    def choose_where_to_stop(self) -> None:
        """Have code hooks leave at their instruction, if there are any that want to."""
        self._engine.stop_between_blocks(not (self.debug.has_code or self.points.is_active))

    def choose_who_serves_events(self) -> None:
        """Let compiled code serve what it can, unless somebody wants to see every event."""
        watched = self.record.is_watched or self.step.is_active
        serves = self._engine.serves_events and not watched
        self.state_block.words[compiled.EVENTS // 8] = serves

    # --- State --------------------------------------------------------------------------------

    def reset(self) -> None:
        """Put the processor into its power-up state (SDM 3A 9.1)."""
        self.set_state(CpuState.reset())

    def set_state(self, state: CpuState) -> None:
        """Put the processor into `state`; what that leaves open is as after reset."""
        reset_fpu(self._engine.handle)
        self._start_from(state)

    def _start_from(self, state: CpuState) -> None:
        set_registers(self.regs, self.hidden, state)
        self.debug.refresh()
        self.pins.clear()
        self.step.is_active = False
        self.choose_who_serves_events()
        self.halted = False
        self.shut_down = False
        self.record.clear()
        self.reload_paging()
        self.intercepts.program()

    def save(self) -> State:
        """Return all that the processor holds: between two slices only, else NotSavableError. What
        it drives (a local APIC) and what it ran on (memory, TLB) is not here."""
        env = self.hidden.b[: H.SAVED_BYTES]
        return self._make_state(
            index=self.index,
            cpuid=self.cpuid.words(),
            env=bytes(env[: H.HOST_BYTES.start]) + bytes(env[H.HOST_BYTES.stop :]),
            halted=self.halted,
            shut_down=self.shut_down,
            waits_for_sipi=self.waits_for_sipi,
            is_alone=self.is_alone,
            cr8=self.regs.cr8,
            pdptes=self.fills.pdptes(),
            **{name: member.save() for name, member in self._members().items()},
        )

    def load(self, state: State) -> None:
        """Take a saved state, after the clock and all memory: the TLB and translated code are
        dropped, and the MMU is given the control registers. Raises StateError if it is one of
        another vCPU, or of one with other CPUID features."""
        parts = dict(zip(_PARTS, self._parts_of(state, **_PARTS), strict=True))
        env, hole = parts["env"], H.HOST_BYTES
        if parts["index"] != self.index or parts["cpuid"] != self.cpuid.words():
            raise StateError("Vcpu: a state of another vCPU, or of another model or features")
        if len(env) != H.SAVED_BYTES - len(hole):
            raise StateError(f"Vcpu: {len(env)} bytes of registers")
        for name, member in self._members().items():
            member.load(parts[name])
        b = self.hidden.b
        b[: hole.start] = env[: hole.start]
        b[hole.stop : H.SAVED_BYTES] = env[hole.start :]
        self.halted, self.shut_down = parts["halted"], parts["shut_down"]
        self.waits_for_sipi, self.is_alone = parts["waits_for_sipi"], parts["is_alone"]
        self.regs.cr8 = parts["cr8"]
        self.step.is_active = False
        self.choose_who_serves_events()
        self.debug.refresh()
        self.reload_paging()
        self.hooks.forget_steady()
        if parts["pdptes"] is not None:
            self.mmu.restore_pdptes(self.index, parts["pdptes"])
        self.intercepts.program()

    def _members(self) -> dict[str, Savable]:
        """Return the parts that have a state of their own."""
        return {
            "slice": self.slice,
            "pins": self.pins,
            "msrs": self.msrs,
            "entropy": self.undefined.entropy,
            "record": self.record,
        }

    def init(self) -> None:
        """Do what an INIT does (SDM 3A table 9-1): reset, but TSC, MSRs, FPU and CR0.CD stay.

        The boot processor then starts in the firmware, the others wait for a SIPI. From a hook of
        this processor's own it happens behind the instruction.
        """
        if self.slice.is_running:
            self._deferred.append(self.init)
            self.leave()
            return
        q = self.hidden.q
        kept = [(word, q[word]) for word in KEPT_BY_INIT]
        self._start_from(state_after_init(self.regs))
        for word, value in kept:
            q[word] = value
        self.halted = self.waits_for_sipi = self.index != 0
        self.pins.update_intr()
        self.after_init()

    def sipi(self, vector: int) -> None:
        """Start in real mode at `vector << 12` if an INIT came before, else do nothing."""
        if self.slice.is_running:
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

    @property
    def bits(self) -> int:
        """How the instruction at RIP is decoded: 16, 32 or 64."""
        hflags = self.hidden.d[H.HFLAGS_D]
        return 64 if hflags & H.HF_CS64 else 32 if hflags & H.HF_CS32 else 16

    def bind_translate(self) -> None:
        """Call the MMU's `translate` as it now is: it was replaced."""
        self.linear.bind_translate()
        self.fills.bind_translate()

    def context(self) -> Context:
        """Return what a walk of the guest's tables needs, as the processor now is. 10 us."""
        regs = self.regs
        context = Context(self.features)
        context.load(
            self.memory, PagingRegisters(regs.cr0, regs.cr3, regs.cr4, regs.efer, regs.pkru)
        )
        context.pdptes = self.fills.pdptes() or context.pdptes
        return context

    def where(self, gva: int) -> int | None:
        """Return the guest-physical address of a linear one, None if it is not mapped. No effect:
        the MMU is not asked."""
        found = walk(self.memory, self.context(), gva, ACCESS_IMPLICIT)
        return found.gpa if found.fault is None else None

    def read_code(self, size: int) -> bytes:
        """Return up to `size` code bytes at CS:RIP. 1 us where they were fetched just now."""
        regs = self.regs
        self.linear.begin()
        space = regs.cr3 if regs.efer & EFER_LMA else 0
        return self.linear.read_code(regs.linear_rip, size, regs.cpl == 3, space)

    def connect(self, apic: InterruptController) -> None:
        """Put a local APIC in front of the INTR pin; its MSRs come into existence."""
        self.apic = apic
        self.pins.source = apic
        self.cpuid.apic_enabled = lambda: apic.enabled
        self.msrs.on_tsc_changed = apic.tsc_changed
        for index, (read, write) in apic.msrs().items():
            self.msrs.add(index, read, write)

    def read_cr8(self) -> int:
        """Return the task priority: the local APIC's, or what was written where there is none."""
        return self.regs.cr8 if self.apic is None else self.apic.cr8

    def write_cr8(self, value: int) -> None:
        """Set the task priority, 0 to 15."""
        if self.apic is None:
            self.regs.cr8 = value
        else:
            self.apic.cr8 = value

    @property
    def counts_blocks(self) -> bool:
        """Whether the clock counts blocks; if not, it counts instructions."""
        return self._engine.counts_blocks

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
            self.slice.drop_all_code()  # no virtual address is known to lead there
        else:
            self.fills.drop_code(gfn)

    # --- Running --------------------------------------------------------------------------------

    @property
    def executed(self) -> int:
        """The instructions of all slices that are over; see `emu.cpu.slice.Slice`."""
        return self.slice.executed

    @property
    def stalled(self) -> int:
        """How many of those are time in which the processor waited."""
        return self.slice.stalled

    def fail(self, error: BaseException) -> None:
        """Keep an exception of a hook for `run` to raise."""
        if self._failure is None:
            self._failure = error
        self.pins.clear()
        self.slice.stop(Exit.LEFT)

    def _is_in_mid_instruction(self) -> bool:
        """Return whether what stands between two instructions is our doing: a step, or an
        instruction that is being taken back."""
        return self.step.is_active or self.hooks.is_aborting

    def run(self, budget: int, cut: int | None = None) -> Exit:
        """Begin a slice of at most `budget` instructions (at least one); say why it ended.

        With `cut`, or after `kick`, it may be suspended before its end: see `go_on`.
        """
        if self.shut_down:
            return Exit.SHUTDOWN
        self.pins.rearm()
        if self.halted:
            if not self.can_wake:
                return Exit.HALT
            self.halted = False
        self.slice.end()
        self.slice.begin(budget)
        return self.go_on(cut)

    def go_on(self, cut: int | None = None) -> Exit:
        """Execute the slice that `run` has begun: to its end, to the first boundary at which
        `progress()` is at least `cut`, or until `kick`.

        A suspended slice goes on as if there had been no stop, however often it is suspended.
        """
        return self._after(*self.slice.run(cut))

    def step_one(self, skip: int = 1) -> Exit:
        """Execute one instruction of the slice that `run` has begun, or deliver an event. `skip`:
        so many code bytes instead. See `Points.step`."""
        if self.slice.is_over():
            return self.go_on()
        return self._after(*self.points.step(skip))

    def approach(self, code_bytes: int) -> Exit:
        """Execute the next block, but no more than `code_bytes` of it: for clocks that count
        blocks. An event may be delivered instead."""
        running = self.slice
        size = None if running.is_over() else self.points.next_block()
        if size is None:
            is_suspended = running.is_open and not running.is_over()
            return Exit.SUSPENDED if is_suspended else self.go_on()
        if size <= code_bytes:
            return self._after(*self.slice.run_block())
        return self.step_one(code_bytes)

    def _after(self, over: bool, error: int) -> Exit:
        """Do what comes after a piece of a slice, and say why it ended."""
        running = self.slice
        if running.is_open:
            running.kicked = False
            if running.is_parted and self.step.is_active:
                self.step.end(-1)  # the instruction comes again
            return Exit.SUSPENDED
        if self.step.is_active:
            self.step.end(-1)
        while self._deferred:
            self._deferred.pop(0)()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if error != raw.ERR_OK:
            raise EngineError(f"Unicorn stopped: {raw.describe(error)}")
        if running.exit is not None:
            return running.exit
        if not over and self.hidden.d[H.EFLAGS_D] & EFLAGS_TF:
            self.debug.single_step()  # HLT is over at once then (SDM 3B 17.3.1.4)
            return Exit.SHUTDOWN if self.shut_down else Exit.BUDGET
        if not over:
            # An event that waited at the HLT may have been delivered since, and nothing waits now.
            self.halted = not (self.wakes_at_once or self.can_wake)
            self.wakes_at_once = False
        return Exit.HALT if self.halted else Exit.BUDGET
