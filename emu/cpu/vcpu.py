# SPDX-License-Identifier: GPL-2.0-or-later
"""One virtual processor on one Unicorn engine, from the reset vector to long mode.

    run(budget)
      engine --TLB miss--------> _fill  --> mmu.translate --> TLB entry, or a fault to deliver
             --exception, int--> _intr  --> Delivery      --> new state, the engine goes on
             --intercept-------> _intr  --> Intercepts    --> emulated, the engine goes on
             --IN, OUT---------> the port bus
             --trap window-----> Memory.read, Memory.write (devices, holes, live page tables)

Everything happens inside one `uc_emu_start`, hooks change the live state (`emu.cpu.hidden`) in
place, and the engine is left only at the end of the budget, on HLT, when kicked, or when the
processor shuts down. A refused TLB fill, too, is delivered without leaving: the hook sets an
exception index of ours before it refuses, and the interrupt hook takes back Unicorn's order to
stop.

Physical addresses as the engine sees them (virtual TLB)::

    0 .. 2**40           RAM and ROM, where they are
    2**40 .. 2**41       the trap window: every access calls back with its guest-physical address
    2**41                two pages of ones: what a fetch from a device or a hole reads, and the MSR
                         bitmap that intercepts all; then the VMCB, which says where that is

Not emulated, because QEMU's TCG does not either: segment limits in protected mode, alignment
checks (#AC), VME, PCID, AVX, MONITOR/MWAIT, performance counters, machine checks, SMM.
"""

from __future__ import annotations

import ctypes
import struct
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from emu.cpu import compiled, raw
from emu.cpu import hidden as H
from emu.cpu.compiled import StateBlock
from emu.cpu.cpuid import Cpuid
from emu.cpu.decode import is_stack_access, length_of_prefixes, touches_descriptors
from emu.cpu.decode import memory_operand_address as operand_address
from emu.cpu.delivery import Delivery, check_io_permission
from emu.cpu.faults import Event, Fault, Shutdown, Source, Vector
from emu.cpu.hostclock import HostClock
from emu.cpu.intercept import Intercepts
from emu.cpu.linear import LinearMemory
from emu.cpu.msr import Msrs
from emu.cpu.registers import (
    EFLAGS_AC,
    EFLAGS_IF,
    EFLAGS_TF,
    EFLAGS_VM,
    TR,
    Registers,
    attributes_to_flags,
)
from emu.cpu.syscall import syscall, sysenter
from emu.devices.bus import PortBus
from emu.errors import EngineError
from emu.state import GPRS, SEGMENTS, CpuState
from mmu.api import FRAME_MASK, MAP_TRAP, Answer, Mmu, NotCanonical, PageFault, PagingRegisters
from mmu.arch import (
    ACCESS_AC,
    ACCESS_FETCH,
    ACCESS_IMPLICIT,
    ACCESS_READ,
    ACCESS_USER,
    ACCESS_WRITE,
    Features,
)
from mmu.memory import Memory, Slot

if TYPE_CHECKING:
    from emu.jit import CompiledCode

__all__ = ["Exit", "InterruptSource", "PastEvent", "Vcpu"]

TRAP_WINDOW = 1 << 40
SPECIAL_PAGES = 1 << 41
_VMCB = SPECIAL_PAGES + 0x2000
_CODE_DROP = 1 << 63

_PAGE_FAULT = 0x1000  # our own exception indices: a refused fill
_NOT_CANONICAL = 0x1001

_PORT_CYCLE = 100
"""A port access takes as long as so many instructions: 1 us, as on the ISA bus, so that a guest
that polls a device does not poll it a thousand times between two of its ticks."""
_CR0_PG = 1 << 31
_CR4_SMAP = 1 << 21
_CR4_PKE = 1 << 22
_FILLS_BEFORE_GROWING = 512
_MOST_FILLS_BETWEEN_FLUSHES = 1 << 22
_LEFT = compiled.FILLS_LEFT // 8
_TR_BASE = compiled.TR_BASE // 8
_WITH_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17})
_NATIVE = "native"
_NOTHING = NotCanonical(0)
# Of env, what an instruction outside CPL 0 may change without a hook: up to the error code.
ABORT_BYTES = H.ERROR_CODE_D * 4


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


class PastEvent(NamedTuple):
    """An event that was delivered, or tried: where the processor stood, and at what instruction."""

    event: Event
    cs: int
    rip: int
    instruction: int


class Vcpu:
    """A processor.

    `regs` are its registers, live. `halted` is true between HLT and what wakes it. `executed`
    counts its instructions; every event delivered for no instruction of its own counts as one, so
    that virtual time always passes, and a port access counts for the time it takes: `stalled` is
    how much of `executed` that is.
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
        host_clock: bool = False,
    ) -> None:
        """Make vCPU `index` of `cpus`, in its reset state.

        `memory` should have its RAM and ROM already; see `sync_slots` for those that come later.
        `now` is virtual time in ns; `features` switches CPUID features by name. With compiled
        `code` and a shadow MMU most TLB misses never enter Python; with `count_blocks` it is the
        clock, too; with `host_clock` the host's clock is. Raises CalibrationError for an unknown
        Unicorn.
        """
        where = H.layout()
        self.index = index
        self.mmu = mmu
        self.memory = memory
        self.ports = ports
        self.now = now
        self.interrupts: InterruptSource | None = None
        self.on_event: Callable[[PastEvent], None] | None = None
        """Called with every event that is delivered: `-d int`."""
        self.recent: deque[PastEvent] = deque(maxlen=8)
        self.halted = False
        self.shut_down = False
        self.executed = 0
        self.stalled = 0
        self.native_exceptions = 1 << Vector.PF if mmu.name == _NATIVE else 0
        self._handle = raw.open_engine(raw.MODEL_ICELAKE_SERVER)
        self.hidden = H.HiddenState(self._handle, where)
        self.regs = Registers(self._handle, self.hidden)
        self.cpuid = Cpuid(self.hidden, index, cpus)
        for name, on in (features or {}).items():
            self.cpuid.set_feature(name, on)
        self.features: Features = self.cpuid.paging_features()
        self.linear = LinearMemory(index, mmu, memory)
        self.delivery = Delivery(self.regs, self.linear, self.hidden, self._load_cr3)
        self.msrs = Msrs(self)
        self.intercepts = Intercepts(self)
        self.intercepts.yields_on_pause = cpus > 1
        self._code = code
        self._state = StateBlock()
        self._counts_blocks = count_blocks and code is not None and not host_clock
        self._host_clock: HostClock | None = None
        if host_clock:
            words, handle = self._state.words, self._handle
            stopped = words[compiled.STOPPED // 8 : compiled.STOPPED // 8 + 1]
            self._host_clock = HostClock(words[0:2], stopped, lambda: raw.stop(handle))
        # The instruction counter of a slice and its limit: the engine's own, or the compiled one.
        self._clock = (
            self._state.words[0:2]
            if self._counts_blocks or host_clock
            else self.hidden.uc[self.hidden.counter : self.hidden.counter + 2]
        )
        self._fills_between_flushes = _FILLS_BEFORE_GROWING
        self._fills_left = _FILLS_BEFORE_GROWING
        self._running = False
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
        self._step_tf = 0
        self._step_dr6 = 0
        self._dropping = -1
        self._task_switch: tuple[int, int] | None = None  # (TSS base, RIP of the instruction)
        self._aborted: tuple[Event, bytes] | None = None
        self._refusal: PageFault | NotCanonical | None = None
        self._loaded_cr3 = 0
        self._loaded_pkru = 0
        self._pke = False
        self._smap = False
        self._keep: list[Any] = []
        self._map_special_pages()
        self._slots: dict[int, Slot] = {}
        self.sync_slots()
        self._install_hooks()
        self.reset()

    # --- The engine -------------------------------------------------------------------------

    def _map_special_pages(self) -> None:
        size = 0x3000
        buffer = (ctypes.c_uint8 * (size + 0x1000))()
        base = -(-ctypes.addressof(buffer) // 0x1000) * 0x1000
        ctypes.memset(base, 0xFF, 0x2000)
        vmcb = struct.pack("<72xQ", SPECIAL_PAGES)  # control.msrpm_base_pa
        ctypes.memmove(base + 0x2000, vmcb, len(vmcb))
        self._keep.append(buffer)
        raw.map_memory(self._handle, SPECIAL_PAGES, size, raw.PROT_ALL, base)

    def sync_slots(self) -> None:
        """Show the engine RAM and ROM as they now are; devices are reached by the trap window.

        Call it when a slot has come or gone, and not while the engine runs.
        """
        wanted = {slot.gpa: slot for slot in self.memory.slots() if slot.device is None}
        for gpa, slot in list(self._slots.items()):
            if wanted.get(gpa) is not slot:
                raw.unmap(self._handle, gpa, slot.size)
                del self._slots[gpa]
        for gpa, slot in wanted.items():
            if gpa not in self._slots:
                raw.map_memory(self._handle, gpa, slot.size, raw.PROT_ALL, slot.host)
                self._slots[gpa] = slot

    def close(self) -> None:
        """Free the engine; nothing of this object may be used any more."""
        if self._host_clock is not None:
            self._host_clock.close()
        if self._handle:
            handle, self._handle = self._handle, 0
            raw.close(handle)

    def _install_hooks(self) -> None:
        handle = self._handle
        keep = self._keep

        def hook(kind: int, callback: Any, instruction: int | None = None) -> None:
            keep.append(callback)
            raw.add_hook(handle, kind, callback, instruction)

        mmio = (
            raw.MMIO_READ_CALLBACK(self._trapped_read),
            raw.MMIO_WRITE_CALLBACK(self._trapped_write),
        )
        keep.extend(mmio)
        if self.mmu.name == _NATIVE:
            from emu.cpu.native import map_holes

            keep.append(map_holes(handle, self.memory, self._guarded))
        else:
            raw.use_virtual_tlb(handle)
            raw.map_mmio(handle, TRAP_WINDOW, 1 << 40, *mmio)
            self._install_fill(raw.FILL_CALLBACK(self._make_fill()))
        if self._code is not None and self._counts_blocks:
            words = self._state.words
            words[compiled.STOP // 8] = raw.stop_address()
            raw.add_hook(handle, raw.HOOK_BLOCK, self._code.count_block, data=self._state.address)
        hook(raw.HOOK_INTR, raw.INTR_CALLBACK(self._intr))
        hook(raw.HOOK_INSN, raw.IN_CALLBACK(self._in), raw.INSN_IN)
        hook(raw.HOOK_INSN, raw.OUT_CALLBACK(self._out), raw.INSN_OUT)
        hook(raw.HOOK_INSN, raw.SYSCALL_CALLBACK(self._syscall), raw.INSN_SYSCALL)
        hook(raw.HOOK_INSN, raw.SYSCALL_CALLBACK(self._sysenter), raw.INSN_SYSENTER)
        hook(raw.HOOK_INSN, raw.REPLACE_CALLBACK(self._cpuid), raw.INSN_CPUID)
        hook(raw.HOOK_INSN, raw.REPLACE_CALLBACK(self._rdtsc), raw.INSN_RDTSC)
        hook(raw.HOOK_INSN, raw.REPLACE_CALLBACK(self._rdtscp), raw.INSN_RDTSCP)

    def _install_fill(self, python: Any) -> None:
        """Hook TLB fills: by Python, or by compiled code that calls Python for what is left."""
        self._keep.append(python)
        if self._code is None or not hasattr(self.mmu, "block"):
            raw.add_hook(self._handle, raw.HOOK_TLB_FILL, python)
            return
        words = self._state.words
        block = self.mmu.block(self.index)
        self._keep.append(block)
        words[compiled.ENV // 8] = self.hidden.env_address
        words[compiled.HIT_BLOCK // 8] = block.address
        words[compiled.PYTHON_FILL // 8] = raw.address_of(python)
        raw.add_hook(self._handle, raw.HOOK_TLB_FILL, self._code.fill, data=self._state.address)

    # --- State --------------------------------------------------------------------------------

    def reset(self) -> None:
        """Put the processor into its power-up state (SDM 3A 9.1)."""
        self.set_state(CpuState.reset())

    def set_state(self, state: CpuState) -> None:
        """Put the processor into `state`; what that leaves open is as after reset."""
        regs, d, q = self.regs, self.hidden.d, self.hidden.q
        d[H.HFLAGS_D] = H.HF_GUEST
        d[H.HFLAGS2_D] = H.HF2_GIF
        q[H.VMCB_Q] = _VMCB
        d[H.OLD_EXCEPTION_D] = 0xFFFF_FFFF
        d[H.IS_INT_D] = 0
        for number, name in enumerate(GPRS):
            regs.set_gpr(number, state.gprs.get(name, 0))
        regs.rip = state.rip
        regs.rflags = state.rflags
        regs.efer = state.efer
        regs.cr0 = state.cr0
        regs.cr2 = 0
        regs.cr3 = state.cr3
        regs.cr4 = state.cr4
        regs.cr8 = 0
        for number, name in enumerate(SEGMENTS):
            selector, base, limit, attributes = state.segments[name]
            regs.set_segment(number, selector, base, limit, attributes_to_flags(attributes))
        regs.gdtr, regs.idtr = state.gdtr, state.idtr
        regs.ldtr, regs.tr = state.ldtr, state.tr
        for number in range(8):
            q[H.DR_Q + number] = {6: 0xFFFF_0FF0, 7: 0x400}.get(number, 0)
        regs.pkru = 0
        q[H.XCR0_Q] = 1
        q[H.PAT_Q] = 0x0007_0406_0007_0406
        for register, value in (
            (raw.FPCW, 0x40),
            (raw.FPSW, 0),
            (raw.MXCSR, 0x1F80),
        ):
            raw.reg_write(self._handle, register, value)
        self.hidden.cpu[self.hidden.interrupt_request] = 0
        self._stepping = False
        self.halted = False
        self.shut_down = False
        self.recent.clear()
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
        kept = {word: q[word] for word in (*range(H.SYSENTER_CS_D // 2, H.PAT_Q + 1), H.XCR0_Q)}
        self.set_state(CpuState.reset())
        for word, value in kept.items():
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
        self.flush_tlb()
        regs = self.regs
        cr4 = regs.cr4
        self._pke = bool(cr4 & _CR4_PKE)
        self._smap = bool(cr4 & _CR4_SMAP)
        self._loaded_cr3 = self._state.words[compiled.CR3 // 8] = regs.cr3
        self._state.words[compiled.SMAP // 8] = self._smap
        self._loaded_pkru = pkru = regs.pkru if self._pke else 0
        self.mmu.load(self.index, PagingRegisters(regs.cr0, self._loaded_cr3, cr4, regs.efer, pkru))

    def flush_tlb(self) -> None:
        """Empty the TLB; also inside hooks. 1.4 us."""
        self.linear.flush()
        self._fills_left = self._state.words[_LEFT] = self._fills_between_flushes
        raw.flush_tlb(self._handle)

    def drop_code(self, gfn: int) -> None:
        """Forget what was translated from the code in a frame; also inside hooks. 4 us.

        Unicorn wants a virtual address. We give it one that no guest can have and answer the fill
        that follows; the entry it leaves is flushed away.
        """
        if self.mmu.name == _NATIVE:
            from emu.cpu.native import drop_all_code

            drop_all_code(self._handle)
            return
        self._dropping = gfn << 12
        address = _CODE_DROP | gfn << 12
        raw.remove_code(self._handle, address, address + 0x1000)
        self._dropping = -1
        self.flush_tlb()

    def _grow_tlb(self) -> None:
        """Flush because so many fills since the last flush mean that entries push each other out.

        Unicorn's TLB doubles at a flush that finds it well used, and never otherwise. Each such
        flush makes the next one come twice as late: a TLB that cannot grow any more, or a guest
        whose misses have other reasons, is soon left alone.
        """
        if self._fills_between_flushes < _MOST_FILLS_BETWEEN_FLUSHES:
            self._fills_between_flushes *= 2
        self.flush_tlb()
        self.mmu.flushed(self.index)

    def _make_fill(self) -> Callable[[int, int, int, int, int], bool]:
        """Return the TLB fill hook: one short function with all it needs bound."""
        index = self.index
        translate = self.mmu.translate
        d, q = self.hidden.d, self.hidden.q
        hflags, eflags, pkru, cr3 = H.HFLAGS_D, H.EFLAGS_D, H.PKRU_D, H.CR_Q + 3
        fetch, write = raw.FILL_FETCH, raw.FILL_WRITE
        entries: dict[int, memoryview] = {}
        left = self._state.words
        tr_base = H.TR_D + 2 >> 1

        def fill(_uc: int, gva: int, kind: int, entry: int, _data: int) -> bool:
            answer: Answer
            try:
                if self._aborted is not None:
                    return self._refuse(_NOTHING)
                if q[tr_base] != left[_TR_BASE]:
                    self._task_register_changed(kind == fetch)
                self._fills_left -= 1
                if self._fills_left <= 0 or left[_LEFT] == 0:
                    self._grow_tlb()
                if kind == fetch:
                    if self._dropping >= 0:
                        answer = self._dropping | 5
                    else:
                        if q[cr3] != self._loaded_cr3:
                            self._cr3_changed()
                        if gva >> 32 and not d[hflags] & H.HF_CS64:
                            gva &= 0xFFFF_FFFF  # CS.base + EIP wraps
                        user = ACCESS_USER if d[hflags] & 3 == 3 else 0
                        answer = translate(index, gva, ACCESS_FETCH | user)
                else:
                    access = ACCESS_WRITE if kind == write else ACCESS_READ
                    if d[hflags] & 3 == 3:
                        access |= ACCESS_USER
                    elif self._smap and d[eflags] & EFLAGS_AC:
                        access |= ACCESS_AC
                    if self._pke and d[pkru] != self._loaded_pkru:
                        self.reload_paging()
                    answer = translate(index, gva, access)
                    if access & ACCESS_USER and (self._smap or answer.__class__ is not int):
                        answer = self._implicit_answer(gva, access, answer)
                if not isinstance(answer, int):
                    return self._refuse(answer)
                words = entries.get(entry)
                if words is None:
                    words = entries[entry] = raw.tlb_entry(entry)
                if answer & MAP_TRAP:
                    words[0] = SPECIAL_PAGES if kind == fetch else answer & FRAME_MASK | TRAP_WINDOW
                else:
                    words[0] = answer & FRAME_MASK
                words[1] = answer & 7
                return True
            except BaseException as error:
                self._fail(error)
                return False

        return fill

    def _load_cr3(self, value: int) -> None:
        """Do the CR3 load of a task switch."""
        self.regs.cr3 = value
        self.reload_paging()

    def _task_register_changed(self, fetch: bool) -> None:
        """Look at a fill that finds another TSS than the one before: LTR, or a task switch.

        Unicorn puts RIP back to the instruction before it calls a fill hook. If a far JMP, CALL or
        IRET is just switching tasks, RIP and the flags are the new task's already and must be
        given back to it.
        """
        tr = self.regs.segment(TR)
        switch = (tr.base, self.regs.rip)
        if not fetch and self._task_switch in (None, switch) and self._is_far_transfer():
            self._task_switch = switch
            wide = tr.attributes & 8
            self.linear.begin()
            eip = self.linear.read(tr.base + (0x20 if wide else 0x0E), 4 if wide else 2)
            self.hidden.q[H.RIP_Q] = eip
            self.hidden.d[H.CC_OP_D] = 1
            return
        self._task_switch = None
        self._state.words[_TR_BASE] = tr.base

    def _is_far_transfer(self) -> bool:
        code = self.read_code(15)
        code = code[length_of_prefixes(code, self.bits) :]
        far_indirect = code[:1] == b"\xff" and code[1] >> 3 & 7 in (3, 5)
        return code[:1] in (b"\x9a", b"\xcf", b"\xea") or far_indirect

    def _cr3_changed(self) -> None:
        """The guest has loaded CR3, by MOV or by a task switch, and runs its next instruction."""
        self.reload_paging()

    def _refuse(self, answer: PageFault | NotCanonical) -> bool:
        """Let the fill fail and the interrupt hook be called in its stead."""
        self._refusal = answer
        canonical = answer.__class__ is PageFault
        self.hidden.exception_index[0] = _PAGE_FAULT if canonical else _NOT_CANONICAL
        return False

    def _implicit_answer(self, gva: int, access: int, answer: Answer) -> Answer:
        """Reconsider a user access that may be the processor's own to a descriptor table or TSS.

        Those are supervisor accesses whatever CPL is (SDM 3A 4.6.1), and the fill hook is not
        told. Only a page with a table on it comes here, and only where it matters.
        """
        regs = self.regs
        page = gva >> 12
        ldtr, tr = regs.ldtr, regs.tr
        for base, limit in (regs.gdtr, (ldtr.base, ldtr.limit), (tr.base, tr.limit)):
            if base >> 12 <= page <= base + limit >> 12:
                break
        else:
            return answer
        code = self.read_code(15)
        if not touches_descriptors(code, regs.rip, self.bits):
            return answer
        operand = operand_address(code, self)
        if operand is not None and operand >> 12 == page:
            return answer
        return self.mmu.translate(self.index, gva, access & ~ACCESS_USER | ACCESS_IMPLICIT)

    # --- The trap window ------------------------------------------------------------------------

    def _trapped_read(self, _uc: int, gpa: int, size: int, _data: int) -> int:
        try:
            return self.memory.read(gpa, size)
        except BaseException as error:
            self._fail(error)
            return 0

    def _trapped_write(self, _uc: int, gpa: int, size: int, value: int, _data: int) -> None:
        try:
            self.memory.write(gpa, size, value, "guest")
        except BaseException as error:
            self._fail(error)

    def _guarded(self, read: bool, gpa: int, size: int, value: int) -> int:
        """Serve an access to a device or a hole at its true address (native)."""
        if read:
            return self._trapped_read(0, gpa, size, 0)
        self._trapped_write(0, gpa, size, value, 0)
        return 0

    # --- Single instructions ----------------------------------------------------------------------

    def push(self, value: int, size: int) -> None:
        """Push 2 or 4 bytes for an instruction outside 64-bit mode; raises Fault."""
        regs = self.regs
        mask = 0xFFFF_FFFF if self.hidden.d[H.HFLAGS_D] & H.HF_SS32 else 0xFFFF
        pointer = regs.rsp - size & mask
        access = ACCESS_USER if regs.cpl == 3 else ACCESS_READ
        address = regs.segment_base(2) + pointer & 0xFFFF_FFFF
        self.linear.begin()
        self.linear.stage(address, size, value, access, Vector.SS)
        self.linear.commit()
        regs.rsp = regs.rsp & ~mask | pointer

    def _in(self, _uc: int, port: int, size: int, _data: int) -> int:
        try:
            if self.hidden.d[H.HFLAGS_D] & H.HF_CPL and not self._may_use_port(port, size):
                return 0
            self._stall(_PORT_CYCLE)
            return self.ports.read(port & 0xFFFF, size)
        except BaseException as error:
            self._fail(error)
            return 0

    def _out(self, _uc: int, port: int, size: int, value: int, _data: int) -> None:
        try:
            if self.hidden.d[H.HFLAGS_D] & H.HF_CPL and not self._may_use_port(port, size):
                return
            self._stall(_PORT_CYCLE)
            self.ports.write(port & 0xFFFF, size, value)
        except BaseException as error:
            self._fail(error)

    def _may_use_port(self, port: int, size: int) -> bool:
        """Check IN or OUT outside CPL 0 (SDM 1 19.5), which Unicorn lets pass; if False, the
        instruction is being aborted with the fault that it deserves."""
        if self._aborted is not None:
            return False
        flags = self.hidden.d[H.EFLAGS_D]
        if self.regs.cpl <= flags >> 12 & 3 and not flags & EFLAGS_VM:
            return True
        try:
            self.linear.begin()
            check_io_permission(self.regs, self.linear, port & 0xFFFF, size)
        except Fault as fault:
            self._abort(Event(fault.vector, error_code=fault.error_code, cr2=fault.cr2))
            return False
        return True

    def _abort(self, event: Event) -> None:
        """Take back the instruction whose hook is running, and deliver `event` in its stead.

        A hook cannot leave in mid-instruction. So the processor's state is kept; what the engine
        still executes of the translated block changes registers only, since the TLB is emptied
        and no fill succeeds; and at the first boundary or fill the state is put back.
        """
        self._aborted = event, bytes(self.hidden.b[:ABORT_BYTES])
        self.flush_tlb()
        self._state.words[_LEFT] = 0  # has compiled code leave every fill to Python
        hidden = self.hidden
        hidden.cpu[hidden.interrupt_request] |= H.INTERRUPT_SMI
        hidden.icount_high[0] = -1  # in mid-instruction, too: nothing of it will stay

    def finish_abort(self) -> None:
        """Do the second half of `_abort`, from the interrupt hook."""
        self.withdraw(H.INTERRUPT_SMI)
        aborted, self._aborted = self._aborted, None
        if aborted is not None:
            event, state = aborted
            self.hidden.b[:ABORT_BYTES] = state
            self.flush_tlb()
            self.mmu.flushed(self.index)
            self.deliver(event)

    def _syscall(self, _uc: int, _data: int) -> None:
        try:
            syscall(self)
        except BaseException as error:
            self._fail(error)

    def _sysenter(self, _uc: int, _data: int) -> None:
        try:
            sysenter(self)
        except BaseException as error:
            self._fail(error)

    def _cpuid(self, _uc: int, _data: int) -> int:
        try:
            q = self.hidden.q
            leaf = self.cpuid.leaf(q[0] & 0xFFFF_FFFF, q[1] & 0xFFFF_FFFF)
            if leaf is None:
                return 0
            q[0], q[3], q[1], q[2] = leaf
        except BaseException as error:
            self._fail(error)
        return 1

    def _rdtsc(self, _uc: int, _data: int) -> int:
        try:
            q = self.hidden.q
            tsc = self.msrs.tsc()
            q[0], q[2] = tsc & 0xFFFF_FFFF, tsc >> 32
        except BaseException as error:
            self._fail(error)
        return 1

    def _rdtscp(self, _uc: int, _data: int) -> int:
        self._rdtsc(0, 0)
        self.hidden.q[1] = self.hidden.q[H.TSC_AUX_Q] & 0xFFFF_FFFF
        return 1

    def read_cr8(self) -> int:
        """Return the task priority; a local APIC overrides this."""
        return self.regs.cr8

    def write_cr8(self, value: int) -> None:
        """Set the task priority, 0 to 15; a local APIC overrides this."""
        self.regs.cr8 = value

    # --- Events -----------------------------------------------------------------------------------

    def _intr(self, _uc: int, number: int, _data: int) -> None:
        """Serve an exception, a software interrupt, or an intercept."""
        self._between = True
        try:
            d = self.hidden.d
            if self._aborted is not None:
                self._take_back_stop()
                self.finish_abort()
                return
            if self._stepping and self._end_step(number):
                return
            if number >= _PAGE_FAULT:
                self._refused_fill(number)
            elif number < H.VMEXIT:
                software = d[H.IS_INT_D]
                d[H.IS_INT_D] = 0
                d[H.OLD_EXCEPTION_D] = 0xFFFF_FFFF
                if software:
                    self._software_interrupt(number)
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
            self._fail(error)
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

    def _refused_fill(self, number: int) -> None:
        """Deliver what a refused fill means, and take back Unicorn's order to stop."""
        hidden = self.hidden
        refusal, self._refusal = self._refusal, None
        if refusal is None or not self._take_back_stop():
            raise EngineError("Unicorn reports a refused fill that we know nothing of")
        gva = hidden.uc[hidden.invalid_addr]
        if isinstance(refusal, NotCanonical):
            code = self.read_code(15)
            stack = is_stack_access(code, self.regs.rip, self.bits)
            self.deliver(Event(Vector.SS if stack else Vector.GP, error_code=0))
        else:
            if gva >> 12 != refusal.gva >> 12:
                gva = refusal.gva | gva & 0xFFF
            self.deliver(Event(Vector.PF, Source.EXCEPTION, refusal.error_code, gva))
        self._tick()

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
        for one in tried:
            past = PastEvent(one, cs, rip, instruction)
            self.recent.append(past)
            if self.on_event is not None:
                self.on_event(past)

    def _tick(self) -> None:
        """Count an event as an instruction: a loop of events alone must end with the budget."""
        clock = self._clock
        clock[0] = count = clock[0] + 1
        if self._done + count >= self._budget:
            self._stop(Exit.BUDGET)

    def _fail(self, error: BaseException) -> None:
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
            raw.stop(self._handle)
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
        self.hidden.d[H.HFLAGS2_D] |= H.HF2_NMI  # the engine's IRET clears it
        self.deliver(Event(Vector.NMI, Source.EXTERNAL))
        self._tick()

    # --- Executing an intercepted instruction natively ----------------------------------------

    def begin_step(self) -> None:
        """Have the interrupt hook called behind the next instruction: by the trap flag."""
        d, regs = self.hidden.d, self.regs
        self._stepping = True
        self._step_tf = d[H.EFLAGS_D] & EFLAGS_TF
        self._step_dr6 = regs.dr6
        d[H.EFLAGS_D] |= EFLAGS_TF
        # The instruction has been counted already and will be again.
        self._clock[0] -= 1

    def _end_step(self, number: int) -> bool:
        """Undo `begin_step`, whatever came; returns True if it was the trap we asked for."""
        self._stepping = False
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
        if not self._running:
            return 0
        return self._done + (self._host_clock.now() if self._host_clock else self._clock[0])

    def _stall(self, instructions: int) -> None:
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
        budget = 0 if self._kicked else max(self._budget - self._done, 1)
        if self._host_clock is not None:
            self._host_clock.begin(budget)
            error = raw.start(self._handle, hidden.q[H.RIP_Q], 0)
            count, over = self._host_clock.end()
        elif self._counts_blocks:
            words = self._state.words
            words[0], words[1], words[compiled.STOPPED // 8] = 0, budget, 0
            error = raw.start(self._handle, hidden.q[H.RIP_Q], 0)
            count, over = words[0], bool(words[compiled.STOPPED // 8])
        else:
            # A limit of 0 would mean none, and have all translated code thrown away.
            error = raw.start(self._handle, hidden.q[H.RIP_Q], max(budget, 1))
            count = hidden.uc[hidden.counter]
            over = count > hidden.uc[hidden.limit]
            count -= over
        if self._exit is not None:
            count = self._stop_at
        self._clock[0] = 0
        self._done += count
        return over, error
