# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens in a machine, told to whoever wants to know: `Machine.observe`.

    class Faults(MachineObserver):
        def event(self, cpu, past):
            print(cpu, event_line(past))

    machine.observe(Faults())

An observer overrides what it wants to hear of, and pays for that alone. While nobody observes
nothing is called, tested or formatted for it. What is cheap and what is not:

    turn, port, load, invlpg, flushed, stop    a Python call each, where Python was called already
    event, irq                                 events are served by Python: 10 us instead of 1
    fill, and all of MmuObserver               every TLB miss comes to Python: 2 to 10 us instead
                                               of 0.2

An observation changes nothing that the guest could see: instructions, clock, and memory are the
same. An observer is called in mid-instruction. It may look (`Memory.peek`, the walker, registers)
and call `Machine.pause`; it must change nothing, and call neither the MMU nor `Machine.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from emu.cpu.faults import Source
from emu.cpu.record import PastEvent
from emu.cpu.vcpu import Vcpu
from emu.outcome import Stop
from emu.ports import PortBus
from emu.schedule import Scheduler
from mmu.api import Answer, Mmu, PagingRegisters
from mmu.observe import MmuObserver

__all__ = ["MachineObserver", "Observation"]


class MachineObserver(MmuObserver):
    """Receives the events of a machine, and by `MmuObserver` those of its MMU. `cpu` is the index
    of the vCPU that caused one."""

    def turn(self, cpu: int, instructions: int) -> None:
        """A vCPU's turn is over; `instructions` it took, waiting included."""

    def stop(self, stop: Stop) -> None:
        """The machine has stopped: `Machine.run` is about to return."""

    def event(self, cpu: int, past: PastEvent) -> None:
        """An exception, a software interrupt, or an interrupt was delivered, or tried."""

    def irq(self, cpu: int, vector: int) -> None:
        """An interrupt from outside was accepted and delivered; `event` was called before."""

    def port(self, cpu: int, port: int, size: int, value: int, is_write: bool) -> None:
        """IN or OUT of `size` bytes was done; after the device has answered."""

    def load(self, cpu: int, registers: PagingRegisters) -> None:
        """The control registers were loaded: a change of CR0, CR3, CR4 or EFER that concerns
        paging, or a reload of CR3."""

    def invlpg(self, cpu: int, gva: int) -> None:
        """INVLPG was executed. Under plug-ins that need not hear of it (`Mmu.flush_on_invlpg` is
        False) it is not reported."""

    def flushed(self, cpu: int) -> None:
        """The TLB of a vCPU was emptied for another reason than a load of control registers."""

    def fill(self, cpu: int, gva: int, access: int, answer: Answer) -> None:
        """A TLB miss was answered: an int grants it (`mmu.api.MAP_*`), else it is a fault."""


_OF_THE_MMU = tuple(name for name in vars(MmuObserver) if not name.startswith("_"))


class Observation:
    """The observers of one machine, in the order in which they came."""

    def __init__(
        self, cpus: Sequence[Vcpu], mmu: Mmu, ports: PortBus, scheduler: Scheduler
    ) -> None:
        """Observe these parts, once somebody wants to."""
        self._cpus = cpus
        self._mmu = mmu
        self._ports = ports
        self._scheduler = scheduler
        self._observers: tuple[MachineObserver, ...] = ()
        self._event_listeners = [self._event_listener(cpu.index) for cpu in cpus]

    def add(self, observer: MachineObserver) -> None:
        """Tell an observer from now on."""
        self._observers = (*self._observers, observer)
        if self._wants(observer, "fill", *_OF_THE_MMU):
            self._mmu.observe(observer)
        self._connect()

    def remove(self, observer: MachineObserver) -> None:
        """Tell an observer no more. Raises ValueError if it does not observe."""
        if not any(known is observer for known in self._observers):
            raise ValueError(f"{observer!r} does not observe the machine")
        self._observers = tuple(known for known in self._observers if known is not observer)
        if self._wants(observer, "fill", *_OF_THE_MMU):
            self._mmu.unobserve(observer)
        self._connect()

    def stopped(self, stop: Stop) -> None:
        """Tell the observers of a stop."""
        for observer in self._who("stop"):
            observer.stop(stop)

    # --- Who wants what ---------------------------------------------------------------------------

    @staticmethod
    def _wants(observer: MachineObserver, *names: str) -> bool:
        """Return whether an observer overrides any of these methods."""
        return any(
            getattr(type(observer), name) is not getattr(MachineObserver, name) for name in names
        )

    def _who(self, *names: str) -> tuple[MachineObserver, ...]:
        return tuple(observer for observer in self._observers if self._wants(observer, *names))

    def _connect(self) -> None:
        """Put calls of the observers where they want them, and none elsewhere."""
        self._connect_events()
        self._connect_ports()
        self._connect_turns()
        for name in ("load", "invlpg", "flushed"):
            self._wrap(name, self._after(name, self._who(name)))
        self._connect_fills()

    def _connect_events(self) -> None:
        wanted = bool(self._who("event", "irq"))
        for cpu, listener in zip(self._cpus, self._event_listeners, strict=True):
            cpu.record.listen(listener, wanted)

    def _event_listener(self, cpu: int) -> Callable[[PastEvent], None]:
        def tell(past: PastEvent) -> None:
            for observer in self._who("event"):
                observer.event(cpu, past)
            if past.event.source is Source.EXTERNAL:
                for observer in self._who("irq"):
                    observer.irq(cpu, past.event.vector)

        return tell

    def _connect_ports(self) -> None:
        who = self._who("port")
        for cpu in self._cpus:
            cpu.hooks.use_ports(_WatchedPorts(self._ports, cpu.index, who) if who else self._ports)

    def _connect_turns(self) -> None:
        turn_listeners = self._scheduler.turn_listeners
        if self._turn in turn_listeners:
            turn_listeners.remove(self._turn)
        if self._who("turn"):
            turn_listeners.append(self._turn)

    def _turn(self, cpu: int, instructions: int) -> None:
        for observer in self._who("turn"):
            observer.turn(cpu, instructions)

    # --- The MMU's methods ------------------------------------------------------------------------

    def _after(self, name: str, who: tuple[MachineObserver, ...]) -> Callable[..., Any] | None:
        """Return a method of the MMU's that tells `who` afterwards, None for nobody."""
        if not who:
            return None
        method = getattr(type(self._mmu), name)

        def tell(cpu: int, *arguments: Any) -> Any:
            result = method(self._mmu, cpu, *arguments)
            for observer in who:
                getattr(observer, name)(cpu, *arguments)
            return result

        return tell

    def _wrap(self, name: str, method: Callable[..., Any] | None) -> None:
        """Have all who call a method of the MMU call another one, or again its own."""
        vars(self._mmu).pop(name, None)
        if method is not None:
            setattr(self._mmu, name, method)

    def _connect_fills(self) -> None:
        who = self._who("fill")
        if not who and "translate" not in vars(self._mmu):
            return
        translate = type(self._mmu).translate
        mmu = self._mmu

        def tell(cpu: int, gva: int, access: int) -> Answer:
            answer = translate(mmu, cpu, gva, access)
            for observer in who:
                observer.fill(cpu, gva, access, answer)
            return answer

        self._wrap("translate", tell if who else None)
        for cpu in self._cpus:
            cpu.bind_translate()


class _WatchedPorts:
    """The ports of one vCPU, with observers who are told of each access."""

    def __init__(self, ports: PortBus, cpu: int, who: tuple[MachineObserver, ...]) -> None:
        self._ports = ports
        self._cpu = cpu
        self._who = who

    def read(self, port: int, size: int) -> int:
        """See `PortBus.read`."""
        value = self._ports.read(port, size)
        for observer in self._who:
            observer.port(self._cpu, port, size, value, False)
        return value

    def write(self, port: int, size: int, value: int) -> None:
        """See `PortBus.write`."""
        self._ports.write(port, size, value)
        for observer in self._who:
            observer.port(self._cpu, port, size, value, True)
