# SPDX-License-Identifier: GPL-2.0-or-later
"""INTR and NMI: QEMU's interrupt request word, and the windows in which the engine heeds it.

The engine looks at the word between instructions, and because both interrupts are intercepted (see
emu.cpu.intercept) it calls the interrupt hook at exactly the boundary where one may be taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from emu.cpu import hidden as H
from emu.cpu.faults import Event, Source, Vector
from emu.cpu.registers import EFLAGS_IF
from emu.ports import InterruptSource
from emu.savable import Savable, State

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["InterruptController", "Pins"]


class InterruptController(InterruptSource, Protocol):
    """A local APIC, as its processor sees it."""

    cr8: int
    """The task priority, 0 to 15: CR8."""

    @property
    def enabled(self) -> bool:
        """Whether there is an APIC: what CPUID.1:EDX.APIC says."""
        ...

    def msrs(self) -> Mapping[int, tuple[Callable[[], int], Callable[[int], None]]]:
        """Return reader and writer of each of its MSRs; either raises Fault."""
        ...

    def tsc_changed(self) -> None:
        """Hear that the guest has set the TSC: a deadline is nearer or farther."""
        ...


class Pins(Savable):
    """The interrupt pins of one vCPU; `source` is what stands behind INTR."""

    def __init__(self, cpu: Vcpu) -> None:
        """Serve `cpu`."""
        self._cpu = cpu
        self._d = cpu.hidden.d
        self._requests = cpu.hidden.cpu
        self._word = cpu.hidden.interrupt_request
        self._slice = cpu.slice
        self.source: InterruptSource | None = None
        self._rearm = False  # INTR is up, but was taken from QEMU's request word
        self._withheld = 0  # of the request word
        self._nmi_waits = False  # for the end of a step

    def set_intr(self, level: bool) -> None:
        """Drive the INTR pin."""
        if level:
            self.request(H.INTERRUPT_VIRQ)
        else:
            self._rearm = False
            self.withdraw(H.INTERRUPT_VIRQ)

    def update_intr(self) -> None:
        """Have INTR as `source` drives it, after `clear`."""
        if self.source is not None:
            self.set_intr(self.source.pending())

    def nmi(self) -> None:
        """Send an NMI; one waits while another is served."""
        self.request(H.INTERRUPT_NMI)

    # --- The request word -----------------------------------------------------------------------

    def request(self, bit: int) -> None:
        """Set a bit of the request word, and have it looked at soon."""
        self._requests[self._word] |= bit
        # In the interrupt hook the engine looks by itself before it goes on.
        waits = bit == H.INTERRUPT_VIRQ and not self._window_is_open()
        running = self._slice
        if running.is_running and not running.is_between and not waits:
            running.pause()

    def withdraw(self, bit: int) -> None:
        """Clear a bit of the request word."""
        self._requests[self._word] &= ~bit

    def clear(self) -> None:
        """Clear the request word."""
        self._requests[self._word] = 0

    def save(self) -> State:
        """Return the request word, and what waits to get into it."""
        return self._make_state(
            requests=self._requests[self._word], rearm=self._rearm, nmi_waits=self._nmi_waits
        )

    def load(self, state: State) -> None:
        """Take a saved state."""
        requests, self._rearm, self._nmi_waits = self._parts_of(
            state, requests=int, rearm=bool, nmi_waits=bool
        )
        self._requests[self._word] = requests

    def withhold(self) -> None:
        """Take the requests out of the word, until `put_back`."""
        kept = self._requests[self._word] & (H.INTERRUPT_VIRQ | H.INTERRUPT_NMI)
        self._requests[self._word] &= ~kept
        self._withheld |= kept

    def put_back(self) -> None:
        """Put back what `withhold` has taken. A line that has fallen meanwhile is found so."""
        if self._withheld:
            self._requests[self._word] |= self._withheld
            self._withheld = 0

    def rearm(self) -> None:
        """Put INTR back into the request word, if it had to be taken out to leave the engine."""
        if self._rearm:
            self._rearm = False
            self.request(H.INTERRUPT_VIRQ)

    def _window_is_open(self) -> bool:
        d = self._d
        return bool(d[H.EFLAGS_D] & EFLAGS_IF and not d[H.HFLAGS_D] & H.HF_INHIBIT_IRQ)

    # --- What the interrupt hook is called for --------------------------------------------------

    def window(self) -> None:
        """INTR is up, IF is set and no shadow is in the way: at exactly this boundary."""
        source = self.source
        if self._slice.exit is not None:
            # The engine looks at requests before it looks at an order to stop.
            self.withdraw(H.INTERRUPT_VIRQ)
            self._rearm = True
            return
        if source is None:
            self.withdraw(H.INTERRUPT_VIRQ)
            return
        # INTR is up, so there is a vector, if only a spurious one; `acknowledge` drives INTR anew.
        self._cpu.events.deliver(Event(source.acknowledge(), Source.EXTERNAL))
        self._slice.tick()

    def take_nmi(self) -> None:
        """An NMI came, and none is being served."""
        cpu, d = self._cpu, self._d
        self.withdraw(H.INTERRUPT_NMI)
        if d[H.HFLAGS_D] & H.HF_INHIBIT_IRQ:
            # Not behind STI or MOV SS (SDM 3A 6.8.3): Unicorn looks at that for INTR alone.
            self._nmi_waits = True
            self._slice.count(1)
            cpu.step.begin()
            return
        d[H.HFLAGS2_D] |= H.HF2_NMI  # the engine's IRET clears it
        cpu.events.deliver(Event(Vector.NMI, Source.EXTERNAL))
        self._slice.tick()

    def step_is_over(self) -> None:
        """Send the NMI again that waited for one more instruction."""
        if self._nmi_waits:
            self._nmi_waits = False
            self.request(H.INTERRUPT_NMI)
