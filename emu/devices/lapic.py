# SPDX-License-Identifier: GPL-2.0-or-later
"""A local APIC, as xAPIC and as x2APIC (SDM 3A chapter 10): what its registers do.

`LocalApic` is an `InterruptSource` in front of the 8259 pair: the processor's INTR is up while an
interrupt of its own outranks the processor's priority, or while LINT0 passes the 8259s' on, or an
ExtINT message has come. All processors may listen to the 8259s; who acknowledges first has the
interrupt. SMIs are not delivered: there is no SMM. The guest gets at it through
`LocalApic.registers`. IA32_APIC_BASE moves it, switches it off, and switches it between
memory-mapped registers and MSRs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from emu.clock import Clock
from emu.cpu.faults import Fault, Vector
from emu.devices import lapic_state as L
from emu.devices.apic_bus import (
    BROADCAST_8,
    BROADCAST_32,
    UNMASKABLE,
    ApicBus,
    DeliveryMode,
    Message,
    Receiver,
)
from emu.devices.apic_timer import ApicTimer
from emu.devices.lapic_registers import LapicRegisters
from emu.devices.lapic_state import CpuPins, LapicState
from emu.ports import InterruptSource, IrqLine, LogOnce
from emu.savable import Savable, State

__all__ = ["LocalApic"]


class LocalApic(Savable):
    """The APIC of processor `index`, whose APIC ID is the same number."""

    def __init__(
        self,
        index: int,
        clock: Clock,
        bus: ApicBus,
        cpu: CpuPins,
        *,
        tsc: Callable[[], int] | None = None,
        pic: InterruptSource | None = None,
        x2apic: bool = True,
        phys_bits: int = 40,
    ) -> None:
        """Enter the bus and drive `cpu`. `tsc` is the processor's time-stamp counter (default:
        virtual time), `pic` what is acknowledged for an ExtINT. Index 0 is the boot processor."""
        self._index = index
        self._bus = bus
        self._cpu = cpu
        self._pic = pic
        self._x2apic_exists = x2apic
        self._base_mask = (1 << phys_bits) - (1 << 12)
        self._log = LogOnce("lapic")
        self._lines = [False, False]
        self.timer = ApicTimer(clock, tsc or (lambda: clock.now), self._timer_fired)
        self.registers = LapicRegisters(self)
        self.on_relocated: Callable[[], None] = lambda: None
        """Called when `mmio_base` may have changed."""
        self.base = 0
        """IA32_APIC_BASE."""
        self.mmio_base: int | None = None
        """Where its registers are in memory: nowhere while it is off or in x2APIC mode."""
        self.state = LapicState(index)
        self.reset()
        bus.local.append(self)

    def reset(self) -> None:
        """Power up, or RESET."""
        self._set_base(L.DEFAULT_BASE | L.BASE_ENABLE | (L.BASE_BSP if self._index == 0 else 0))
        self._clear(self._index)
        self.on_relocated()

    def init(self) -> None:
        """Reset the registers, as INIT does: all but the ID (10.4.7.3)."""
        self._clear(self.state.id)

    def _clear(self, number: int) -> None:
        """Reset the registers and have APIC ID `number`. The boot processor's LINT0 is left open
        for the 8259s, as by firmware's virtual wire mode."""
        self.state = LapicState(number)
        if self._index == 0:
            self.state.lvt[L.LVT_LINT0] = L.LVT_EXTINT
        if self.x2apic:
            self._enter_x2apic()
        self.timer.reset()
        self._update()

    def save(self) -> State:
        """Return IA32_APIC_BASE, the registers, the levels of LINT0 and LINT1, and the timer."""
        return self._make_state(
            base=self.base, registers=self.state, lines=self._lines, timer=self.timer.save()
        )

    def load(self, state: State) -> None:
        """Take a saved state; `on_relocated` is called, INTR is the processor's to load."""
        base, registers, lines, timer = self._parts_of(
            state, base=int, registers=LapicState, lines=tuple[bool, bool], timer=State
        )
        self.timer.load(timer)
        self._set_base(base)
        self.state, self._lines = registers, list(lines)
        self.on_relocated()

    def msrs(self) -> Mapping[int, tuple[Callable[[], int], Callable[[int], None]]]:
        """Return reader and writer of each MSR; see `LapicRegisters.msrs`."""
        return self.registers.msrs()

    def tsc_changed(self) -> None:
        """Hear that the guest has set the TSC, so that a deadline is nearer or farther."""
        self.timer.tsc_changed()

    # What it is.

    @property
    def enabled(self) -> bool:
        """Whether IA32_APIC_BASE has it on: what CPUID.1:EDX.APIC says."""
        return bool(self.base & L.BASE_ENABLE)

    @property
    def x2apic(self) -> bool:
        """Whether it is in x2APIC mode."""
        return bool(self.base & L.BASE_X2APIC)

    def _set_base(self, base: int) -> None:
        self.base = base
        self.mmio_base = base & self._base_mask if self.enabled and not self.x2apic else None

    @property
    def cr8(self) -> int:
        """CR8: the priority class of the task priority register."""
        return self.state.tpr >> 4

    @cr8.setter
    def cr8(self, value: int) -> None:
        self.write_tpr((value & 0xF) << 4)

    # Interrupts to the processor (10.8).

    def _software_enabled(self) -> bool:
        return self.enabled and bool(self.state.svr & L.SVR_ENABLE)

    def ppr(self) -> int:
        """Return the processor priority (10.8.3.1)."""
        serviced = max(self.state.isr.bit_length() - 1, 0)
        return self.state.tpr if self.state.tpr >> 4 >= serviced >> 4 else serviced & 0xF0

    def priority(self) -> int:
        """Return what lowest-priority arbitration compares; an APIC that is off comes last."""
        return self.ppr() if self._software_enabled() else 0x100

    def _requested(self) -> int | None:
        """Return the vector that outranks the processor's priority, if any."""
        vector = self.state.irr.bit_length() - 1
        if vector < 0 or not self._software_enabled() or vector >> 4 <= self.ppr() >> 4:
            return None
        return vector

    def _external(self) -> bool:
        """Return whether the 8259s are to be asked: LINT0 passes a request of theirs on, or an
        ExtINT message has come."""
        if self._pic is None or not (self._lines[0] or self.state.extint):
            return False
        if self.state.extint:
            return True
        entry = self.state.lvt[L.LVT_LINT0]
        return not self.enabled or entry & (L.LVT_MASKED | 0x700) == L.LVT_EXTINT

    def pending(self) -> bool:
        """Return whether INTR is up."""
        return self._external() or self._requested() is not None

    def acknowledge(self) -> int:
        """Return the vector of the interrupt that the processor now takes.

        An ExtINT has no priority and goes first. If nothing is left to deliver, that is the
        spurious vector, with nothing in service (10.9).
        """
        state = self.state
        if self._pic is not None and self._external():
            state.extint = False
            vector = self._pic.acknowledge()
            self._update()
            return vector
        requested = self._requested()
        if requested is None:
            return state.svr & 0xFF
        state.irr &= ~(1 << requested)
        state.isr |= 1 << requested
        self._update()
        return requested

    def _update(self) -> None:
        self._cpu.set_intr(self.pending())

    def end_of_interrupt(self) -> None:
        """End the most urgent interrupt in service (10.8.5); one that was level-triggered is
        announced to where it came from."""
        state = self.state
        vector = state.isr.bit_length() - 1
        if vector < 0:
            return
        state.isr &= ~(1 << vector)
        if state.tmr >> vector & 1:
            for number, index in enumerate((L.LVT_LINT0, L.LVT_LINT1)):
                entry = state.lvt[index]
                if entry & L.LVT_REMOTE_IRR and entry & 0xFF == vector:
                    state.lvt[index] = entry & ~L.LVT_REMOTE_IRR
                    self._drive_level(number)
            self._bus.end_of_interrupt(vector)
        self._update()

    # Interrupts from the bus (10.6, 10.8.2).

    def matches(self, message: Message) -> bool:
        """Return whether a message is for this APIC (10.6.2)."""
        if not self.enabled:
            return False
        state, destination = self.state, message.destination
        if destination == (BROADCAST_32 if message.wide else BROADCAST_8) and not (
            message.logical and self.x2apic and not message.wide
        ):
            return True
        if not message.logical:
            return destination == state.id
        if self.x2apic:
            return destination >> 16 == state.ldr >> 16 and bool(destination & state.ldr & 0xFFFF)
        if destination > BROADCAST_8:
            return False
        if state.dfr == L.DFR_FLAT:
            return bool(destination & state.ldr)
        return destination >> 4 == state.ldr >> 4 and bool(destination & state.ldr & 0xF)

    def accept(self, mode: DeliveryMode, vector: int, level: bool) -> None:
        """Take a message that is for this APIC, or a local interrupt."""
        if mode in (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY):
            self._accept_vector(vector, level)
        elif mode is DeliveryMode.NMI:
            self._cpu.nmi()
        elif mode is DeliveryMode.INIT:
            self.init()
            self._cpu.init()
        elif mode is DeliveryMode.STARTUP:
            self._cpu.sipi(vector)
        elif mode is DeliveryMode.EXTINT:
            self.state.extint = True
            self._update()
        else:
            self._log(mode, "interrupt of delivery mode %s is not delivered", mode.name)

    def _accept_vector(self, vector: int, level: bool) -> None:
        state = self.state
        if vector < L.FIRST_VECTOR:
            self.error(L.RECEIVED_ILLEGAL_VECTOR)
        elif self._software_enabled():
            bit = 1 << vector
            state.irr |= bit
            state.tmr = state.tmr | bit if level else state.tmr & ~bit
            self._update()

    def error(self, bits: int) -> None:
        """Note errors for ESR (10.5.3), and interrupt for them if the guest has asked for it."""
        state = self.state
        state.errors |= bits
        entry = state.lvt[L.LVT_ERROR]
        if entry & L.LVT_MASKED:
            return
        if entry & 0xFF >= L.FIRST_VECTOR:
            self._accept_vector(entry & 0xFF, False)
        else:
            state.errors |= L.RECEIVED_ILLEGAL_VECTOR

    # Local interrupts (10.5).

    @property
    def is_unmaskable(self) -> bool:
        """Whether LINT0 passes on as NMI or INIT, which IF does not hold back."""
        entry = self.state.lvt[L.LVT_LINT0]
        mode = entry >> L.LVT_MODE_SHIFT & 7
        return self.enabled and not entry & L.LVT_MASKED and mode in UNMASKABLE

    def lint(self, number: int) -> IrqLine:
        """Return the pin LINT0 or LINT1."""
        return partial(self._set_lint, number)

    def _set_lint(self, number: int, level: bool) -> None:
        rising = level and not self._lines[number]
        self._lines[number] = level
        if not self.enabled:
            # The pins are the processor's own INTR and NMI then (10.4.3).
            if number == 1 and rising:
                self._cpu.nmi()
            self._update()
            return
        entry = self.state.lvt[L.LVT_LINT0 + number]
        mode = DeliveryMode(entry >> L.LVT_MODE_SHIFT & 7)
        if mode is DeliveryMode.EXTINT:
            self._update()
        elif mode is DeliveryMode.FIXED and entry & L.LVT_LEVEL:
            self._drive_level(number)
        elif rising and not entry & L.LVT_MASKED:
            self.accept(mode, entry & 0xFF, False)

    def _drive_level(self, number: int) -> None:
        """Request a level-triggered local interrupt while its pin is up and none is on its way."""
        lvt = self.state.lvt
        index = L.LVT_LINT0 + number
        entry = lvt[index]
        if self._lines[number] and not entry & (L.LVT_MASKED | L.LVT_REMOTE_IRR):
            lvt[index] = entry | L.LVT_REMOTE_IRR
            self._accept_vector(entry & 0xFF, True)

    def _timer_fired(self) -> None:
        entry = self.state.lvt[L.LVT_TIMER]
        if not entry & L.LVT_MASKED:
            self._accept_vector(entry & 0xFF, False)

    # Interprocessor interrupts (10.6.1).

    def send(self, command: int, destination: int, *, wide: bool) -> None:
        """Do what the low half of an ICR says, towards the destination of its high half."""
        mode = DeliveryMode(command >> L.LVT_MODE_SHIFT & 7)
        vector = command & 0xFF
        if mode in (DeliveryMode.RESERVED, DeliveryMode.EXTINT):
            self._log(("send", mode), "an interrupt command has the reserved mode %d", mode)
            return
        if mode is DeliveryMode.INIT and command & (L.ICR_LEVEL | L.ICR_ASSERT) == L.ICR_LEVEL:
            return  # a de-assert: only ever synchronized arbitration IDs
        if vector < L.FIRST_VECTOR and mode in (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY):
            self.error(L.SEND_ILLEGAL_VECTOR)
            return
        # Interprocessor interrupts are edge-triggered, whatever the level bit says.
        message = Message(mode, vector, destination, bool(command & L.ICR_LOGICAL), wide=wide)
        shorthand = command >> L.ICR_SHORTHAND_SHIFT & 3
        if shorthand == L.TO_DESTINATION:
            self._bus.send(message)
            return
        receivers: list[Receiver] = [self]
        if shorthand != L.TO_SELF:
            everyone = Message(mode, vector, BROADCAST_32, wide=True)
            receivers = [
                apic
                for apic in self._bus.local
                if apic.matches(everyone) and (shorthand == L.TO_ALL or apic is not self)
            ]
        self._bus.deliver(message, receivers)

    # What writing registers does.

    def write_tpr(self, value: int) -> None:
        """Set the task priority."""
        self.state.tpr = value & 0xFF
        self._update()

    def latch_errors(self) -> None:
        """Show in ESR what has gone wrong since the last time (10.5.3)."""
        state = self.state
        state.esr, state.errors = state.errors, 0

    def write_lvt(self, index: int, value: int) -> None:
        """Set an entry of the local vector table; masked whatever it says while the APIC is
        software-disabled (10.4.7.2).

        An illegal vector is noted in ESR when its interrupt is generated (10.5.3), not here, where
        10.5.1 leaves it to the implementation: kernels mask entries by writing vector 0.
        """
        lvt = self.state.lvt
        value &= L.LVT_BITS[index]
        if not self.state.svr & L.SVR_ENABLE:
            value |= L.LVT_MASKED
        if index == L.LVT_TIMER:
            self.timer.set_entry(value)  # first: what is due still has the old vector
        remote_irr = lvt[index] & L.LVT_REMOTE_IRR if value & L.LVT_LEVEL else 0
        lvt[index] = value | remote_irr
        if index in (L.LVT_LINT0, L.LVT_LINT1):
            if value & L.LVT_LEVEL and value >> L.LVT_MODE_SHIFT & 7 == DeliveryMode.FIXED:
                self._drive_level(index - L.LVT_LINT0)
            self._update()

    def write_svr(self, value: int) -> None:
        """Set the spurious vector and the software enable, whose fall masks the whole LVT."""
        state = self.state
        was, state.svr = state.svr, value & L.SVR_BITS
        if was & ~state.svr & L.SVR_ENABLE:
            for index in L.LVT_BITS:
                state.lvt[index] |= L.LVT_MASKED
            self.timer.set_entry(state.lvt[L.LVT_TIMER])
        self._update()

    def write_base(self, value: int) -> None:
        """Write IA32_APIC_BASE. Raises Fault (#GP) for reserved bits and illegal transitions."""
        allowed = self._base_mask | L.BASE_BSP | L.BASE_ENABLE
        if self._x2apic_exists:
            allowed |= L.BASE_X2APIC
        old, new = (v & (L.BASE_ENABLE | L.BASE_X2APIC) for v in (self.base, value))
        # Figure 10-27: x2APIC mode is entered from xAPIC mode only, and left only for off.
        illegal = new != old and (
            new == L.BASE_X2APIC
            or (new == L.BASE_ENABLE and old != 0)
            or (new == L.BASE_ENABLE | L.BASE_X2APIC and old != L.BASE_ENABLE)
        )
        if value & ~allowed or illegal:
            raise Fault(Vector.GP)
        self._set_base(value & ~L.BASE_BSP | self.base & L.BASE_BSP)
        if old and not new:
            self._clear(self._index)
        elif new != old and self.x2apic:
            self._enter_x2apic()
        self._update()
        self.on_relocated()

    def _enter_x2apic(self) -> None:
        # 10.12.10.2: the logical ID follows from the x2APIC ID.
        self.state.id = self._index
        self.state.ldr = self._index >> 4 << 16 | 1 << (self._index & 0xF)
