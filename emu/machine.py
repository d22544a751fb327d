# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine as a library.

>>> from emu.machine import Machine
>>> from guests import load
>>> with Machine(load("hello").path, mmu="shadow") as m:
...     outcome = m.run(timeout=30)
>>> outcome.kind.value, outcome.exit_code
('guest exit', 33)
>>> m.serial.text == load("hello").expected
True

A machine is memory, a clock, a board full of chips, vCPUs, one MMU for all of them, and a scheduler
that runs them. This file puts them together and gives a person handles: `m.regs.rip`,
`m.memory[gva]`, `m.phys[gpa]`, `m.walk(gva)`. What the debugger's view reads leaves no trace in
the guest: no A or D bit, no fault, no counter.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from emu.board import Board, BoardOptions, add_memory
from emu.boot import RESUME_CODES, Bios, Boot, BootRequest, MemoryDisk, Module, load
from emu.boot.bios.cd import CdDisk
from emu.boot.eltorito import CD_DRIVE, is_bootable
from emu.clock import Clock
from emu.cpu.compiled import CompiledCode
from emu.cpu.cpuid import FEATURE_NAMES, Identity, can_be_had
from emu.cpu.msr import PAT
from emu.cpu.registers import Registers
from emu.cpu.vcpu import Vcpu
from emu.debug.sanitizer import TlbCheck
from emu.debug.symbols import KernelSymbols
from emu.devices.apic_bus import DeliveryMode
from emu.devices.atapi import Image
from emu.devices.bochs_vbe import FRAMEBUFFER, VIDEO_MEMORY
from emu.devices.disk import Disk
from emu.errors import KernelError, UsageError
from emu.observe import MachineObserver, Observation
from emu.outcome import Kind, Outcome, Position, Stop, exit_code
from emu.ports import PortBus
from emu.report import triple_fault_report
from emu.reset import PowerUpState
from emu.schedule import DEFAULT_QUANTUM, Scheduler
from emu.tables import firmware_tables
from emu.views import PhysicalView, VirtualView
from mmu.api import DEFAULT_POOL, Mmu, MmuError
from mmu.arch import ACCESS_IMPLICIT, Features
from mmu.lint import Place
from mmu.memory import Memory, MemoryMapError
from mmu.plugins import make_mmu
from mmu.tlbcheck import CheckedMmu
from mmu.walker import Context, Walk, describe, walk

if TYPE_CHECKING:
    from emu.devices.keyboard import Keyboard
    from emu.devices.serial import Serial
    from emu.devices.vga import Vga

__all__ = ["Machine"]

MAX_CPUS = 16
_NATIVE = "emu.cpu.native:NativeMmu"


class Machine:
    """A PC. Use it as a context manager, or call `close`.

    `serial` is COM1, `screen` the text screen, `keyboard` what types, `mmu` the plug-in with its
    `counters`, `cpus` the processors, `board` all chips, `boot` what was loaded.
    """

    def __init__(
        self,
        kernel: str | Path | bytes | None = None,
        *,
        mmu: str = "shadow",
        memory: int = 128 << 20,
        append: str = "",
        modules: Sequence[Module | bytes] = (),
        cpus: int = 1,
        cpu_features: dict[str, bool] | None = None,
        cpu_identity: Identity | None = None,
        shadow_pages: int = DEFAULT_POOL,
        audit: bool | str = False,
        quantum: int = DEFAULT_QUANTUM,
        jit: str = "auto",
        tlb_check: str = "off",
        tlb: str = "",
        clock: str = "auto",
        seed: int = 0,
        format: str = "auto",
        address: int | None = None,
        entry: int | None = None,
        board: BoardOptions | None = None,
        drive: int = 0x80,
        reboot: bool = False,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Build a machine of `memory` bytes of RAM and load `kernel`, a path or its bytes.

        Without a kernel the processor stands at its reset vector, in the firmware. `mmu` is
        "shadow", "uncached", "native" or "module:Class"; `shadow_pages` bounds its pool. `audit`
        checks it after every event, without compiled code; with "slices", after every vCPU's turn
        and with compiled code. `format`, `address` and `entry` are for images that do not speak
        for themselves; `cpu_features` switches features by their CPUID names,
        `cpu_identity` is the model that CPUID names (`emu.cpu.models` has QEMU's).
        `tlb_check` is "off", "report" or "strict" (which ends the run at the first error): uses of
        TLB entries that the guest should have flushed, in `tlb_check.findings`. `tlb` is what such
        a use gets: "fresh", "lazy" or "eager". Either replaces a `mmu` of "shadow".
        `jit` is "on", "off" or "auto": compiled code for TLB misses. `clock` "blocks" counts blocks
        by their size, four bytes an instruction; "instructions" counts instructions one by one,
        which makes them ten times as dear. "auto" is "blocks" where blocks can be counted: on all
        hosts but Apple silicon without compiled code; `clock_kind` says which it is. `seed` is that
        of RDRAND and RDSEED. `drive`
        is the firmware's number of the disk that a boot sector comes from. With `reboot` a guest
        that resets the machine starts again; without, that ends the run.

        Raises KernelError or UsageError with one line for a person, CalibrationError for an
        unknown Unicorn.
        """
        if not 1 <= cpus <= MAX_CPUS:
            raise UsageError(f"1 to {MAX_CPUS} vCPUs, not {cpus}")
        options = board if board is not None else BoardOptions()
        image, name, format = _read_kernel(kernel, format, address, options)
        self.clock = Clock()
        self.ports = PortBus()
        self.guest_memory = Memory()
        self._closed = False
        self.cpus: list[Vcpu] = []
        options.cpus = cpus
        self._disks = [*options.disks.values(), *options.floppies.values(), *options.cds.values()]
        self._reboot = reboot
        self._warm = False  # the reset that is asked for is a jump of the firmware's
        self.resets = 0
        """How often the machine has started again."""
        ram = add_memory(self.guest_memory, memory)
        ports = len(options.serial)
        self._tables = firmware_tables(ram[0], cpus, ports, with_hpet=options.hpet)
        options.reserved = self._tables.reserved
        self._tables.install(self.guest_memory)
        self._bios = Bios(self._tables.rom, self._tables.reserved, warn)
        self._bios.install(self.guest_memory)
        self._is_audited = bool(audit)
        if mmu == "native":  # its holes are mapped once and for all
            options.framebuffer = self.guest_memory.add_ram(FRAMEBUFFER, VIDEO_MEMORY, "video")
        if tlb_check != "off" or tlb:
            if mmu not in ("shadow", "tlbcheck"):
                raise UsageError(f"the TLB sanitizer is an MMU of its own: leave out --mmu {mmu}")
            mmu = "tlbcheck"
        self.mmu: Mmu = self._make_mmu(mmu, cpus, cpu_features, shadow_pages, audit is True)
        code = _compiled_code(jit)
        for index in range(cpus):
            vcpu = Vcpu(
                index,
                self.mmu,
                self.guest_memory,
                self.ports,
                cpus=cpus,
                now=lambda: self.clock.now,
                features=cpu_features,
                identity=cpu_identity,
                seed=seed,
                code=code,
                count_blocks=clock != "instructions",
            )
            self.cpus.append(vcpu)
        self.clock_kind = "blocks" if self.cpus[0].counts_blocks else "instructions"
        """How virtual time is counted: "blocks" or "instructions"."""
        if clock == "blocks" and self.clock_kind != clock:
            self.close()
            raise UsageError(
                "--clock blocks: this host cannot count blocks without compiled code (numba)"
            )
        self._power_up = [PowerUpState(vcpu) for vcpu in self.cpus]
        for vcpu in self.cpus[1:]:
            vcpu.init()
        self.guest_memory.map_listeners.append(self._slots_changed)
        self.scheduler = Scheduler(self.cpus, self.clock, quantum)
        self._observation = Observation(self.cpus, self.mmu, self.ports, self.scheduler)
        if audit == "slices":
            self.scheduler.turn_listeners.append(lambda _cpu, _instructions: self.mmu.check())
        self.tlb_check: TlbCheck | None = None
        """The TLB sanitizer, where there is one."""
        if isinstance(self.mmu, CheckedMmu):
            self.tlb_check = TlbCheck(
                self, self.mmu, strict=tlb_check == "strict", tlb=tlb or "fresh"
            )
        self.board = Board(
            self.guest_memory,
            self.clock,
            self.ports,
            ram=ram,
            cpus=self.cpus,
            current=lambda: self.scheduler.current.index,
            stop=self.scheduler.stop,
            reset=self._guest_reset,
            options=options,
        )
        self.scheduler.is_unmaskable = self.board.has_unmaskable_route
        self.scheduler.on_reset = self._start_again
        self.boot: Boot | None = None
        self._image = image
        self._request = BootRequest(
            self.guest_memory,
            cmdline=append,
            name=name,
            modules=[m if isinstance(m, Module) else Module(m) for m in modules],
            format=format,
            address=address,
            entry=entry,
            drive=drive,
            reserved=self._tables.reserved,
            rsdp=self._tables.rsdp,
            rsdp_gpa=self._tables.rsdp_gpa,
            cd=_first(options.cds),
            warn=warn,
        )
        try:
            self._load(self._request)
            self._bios.attach(self)
            self._insert_disks(options)
        except BaseException:
            self.close()
            raise

    def _make_mmu(
        self,
        name: str,
        cpus: int,
        features: dict[str, bool] | None,
        pool: int,
        audit: bool,
    ) -> Mmu:
        known = _paging_features(features or {})
        try:
            full_name = _NATIVE if name == "native" else name
            return make_mmu(
                full_name, self.guest_memory, self, cpus, features=known, pool=pool, audit=audit
            )
        except (ValueError, MmuError) as error:
            raise UsageError(str(error)) from None

    def _load(self, request: BootRequest) -> None:
        """Load the kernel, if there is one, and let the boot processor stand at its entry."""
        image = self._image
        if image is None:
            if request.format != "cd":
                return
            image = b""
        disk = self._bios.disks.get(request.drive)
        if self.boot is not None and self.boot.disk_image is not None and disk is not None:
            image = disk.read(0, 1)  # the boot sector as it is now
        try:
            self.boot = load(image, request)
        except MemoryMapError as error:
            raise KernelError(str(error)) from None
        self.cpus[0].set_state(self.boot.state)
        if self.boot.emulation is not None and request.cd is not None:
            self._bios.boot_from_cd(request.cd, self.boot.emulation)

    def _insert_disks(self, options: BoardOptions) -> None:
        """Show the firmware the disks: hard disks count up from 0x80 whatever their places."""
        for number, disk in enumerate(options.disks[place] for place in sorted(options.disks)):
            self._bios.insert(0x80 + number, disk)
        for number, place in enumerate(sorted(options.cds)):
            self._bios.insert(CD_DRIVE + number, CdDisk(options.cds[place]))
        for number, floppy in options.floppies.items():
            self._bios.insert(number, floppy)
        image = self.boot.disk_image if self.boot is not None else None
        if image is not None and self._request.drive not in self._bios.disks:
            self._bios.insert(self._request.drive, MemoryDisk(image))

    def _slots_changed(self) -> None:
        for cpu in self.cpus:
            cpu.sync_slots()

    # --- What the firmware asks (emu.boot.BiosHost) -------------------------------------------

    def registers(self) -> Registers:
        """Return the registers of the vCPU that runs now."""
        return self.scheduler.current.regs

    def now(self) -> int:
        """Return virtual nanoseconds since power-on."""
        return self.clock.now

    # --- What the MMU asks (mmu.api.TlbHost) -----------------------------------------------------

    def flush_tlb(self, cpu: int) -> None:
        """Empty the TLB of one vCPU."""
        if cpu < len(self.cpus):
            self.cpus[cpu].flush_tlb()

    def drop_code(self, gfn: int) -> None:
        """Forget what was translated from a frame's code, on every vCPU."""
        for cpu in self.cpus:
            cpu.drop_code(gfn)

    # --- Running ----------------------------------------------------------------------------------

    def _guest_reset(self, hard: bool) -> None:
        """Do what a chip asks for; see `emu.reset`."""
        if not hard and self.board.cmos.shutdown_code in RESUME_CODES:
            for apic in self.board.local_apics:
                apic.accept(DeliveryMode.INIT, 0, False)
            return
        self._warm = False
        self.scheduler.stop(Kind.RESET)

    def restart(self) -> None:
        """End the run or start again, as a reset of the guest's does; for the firmware."""
        self._warm = True
        self.scheduler.stop(Kind.RESET)

    def _start_again(self) -> bool:
        if not self._reboot:
            return False
        try:
            self.reset(warm=self._warm)
        except KernelError as error:  # the guest has wiped its boot sector
            self._request.warn(f"the machine cannot start again: {error}")
            return False
        return True

    def reset(self, *, warm: bool = False) -> None:
        """Reset the machine between two runs and load the kernel again; RAM keeps what it holds,
        and virtual time goes on. `warm`: as a jump to FFFF:0 does. Raises KernelError if a boot
        sector has gone."""
        self.resets += 1
        for state in self._power_up:
            state.restore()
        self.board.reset(warm=warm)
        self.scheduler.reset()
        self._bios.start_again(self)
        self._tables.install(self.guest_memory)
        known = self.boot.format if self.boot is not None else "auto"
        self._load(replace(self._request, format=known, clean=False, warn=lambda text: None))

    def stop(self, kind: Kind, guest_code: int | None = None) -> None:
        """End the run behind the instruction that executes now; for devices."""
        self.scheduler.stop(kind, guest_code)

    def run(
        self,
        timeout: float | None = None,
        max_insns: int | None = None,
        until: Position | str | None = None,
        step: int | None = None,
    ) -> Outcome:
        """Run until the guest ends, `timeout` host seconds are over, `max_insns` are executed, or
        the position `until` is reached. `step`: until that vCPU has executed one instruction.

        May be called again after any stop but the guest's own end, to go on: a stop changes
        nothing, neither what the guest does nor its clock, wherever and however often it comes. An
        internal failure is an Outcome too; only KeyboardInterrupt and the like come out as
        exceptions. Raises ValueError for a position that cannot be read.
        """
        started = time.monotonic()
        scheduler = self.scheduler
        before = scheduler.executed
        target = Position.parse(until) if isinstance(until, str) else until
        report = ""
        try:
            stop = scheduler.run(timeout, max_insns, target, step)
            if self._is_audited:
                self.mmu.check()
        except Exception as error:
            stop = Stop(Kind.INTERNAL, scheduler.current.index, scheduler.position)
            report = _internal_report(error)
        self._observation.stopped(stop)
        if stop.kind is Kind.TRIPLE_FAULT:
            cpu = self.cpus[stop.cpu]
            code = self.code(48, cpu.index)
            report = triple_fault_report(cpu, lambda gva: self._walk_text(cpu, gva), code)
        return Outcome(
            stop.kind,
            exit_code(stop.kind, stop.guest_code),
            stop.guest_code,
            scheduler.executed - before,
            time.monotonic() - started,
            report,
            stop.cpu,
            stop,
        )

    def observe(self, observer: MachineObserver) -> None:
        """Tell an observer what happens from now on: see `emu.observe`."""
        self._observation.add(observer)

    def unobserve(self, observer: MachineObserver) -> None:
        """Tell an observer no more. Raises ValueError if it does not observe."""
        self._observation.remove(observer)

    def pause(self) -> None:
        """Have `run` return soon, as `Kind.PAUSED`, or the next one at once; from any thread."""
        self.scheduler.interrupt()

    @property
    def position(self) -> Position:
        """Where in its run the machine stands; `run(until=...)` comes there again."""
        return self.scheduler.position

    def close(self) -> None:
        """Free the engines. What the chips hold (`serial.text`...) can still be read."""
        if not self._closed:
            self._closed = True
            for cpu in self.cpus:
                cpu.close()
            for disk in self._disks:
                disk.close()

    def __enter__(self) -> Machine:
        """Return the machine itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the machine."""
        self.close()

    # --- Handles for a person -----------------------------------------------------------------

    @cached_property
    def symbols(self) -> KernelSymbols:
        """The names of the kernel's code; `symbols.add` takes more files."""
        return KernelSymbols(self._image)

    @property
    def serial(self) -> Serial:
        """COM1: `text` is what the guest has sent, `feed(bytes)` types."""
        return self.board.serials[0]

    @property
    def screen(self) -> Vga:
        """The text screen: `text`."""
        return self.board.screen

    @property
    def keyboard(self) -> Keyboard:
        """The PS/2 keyboard: `type("text")`."""
        return self.board.keyboard

    @property
    def regs(self) -> Registers:
        """The registers of the vCPU that runs, or ran last."""
        return self.scheduler.current.regs

    @property
    def memory(self) -> VirtualView:
        """Guest-virtual memory, as the vCPU that ran last maps it."""
        return self.view(self.scheduler.current.index)

    def view(self, cpu: int) -> VirtualView:
        """Return guest-virtual memory as a vCPU maps it now."""
        return VirtualView(self.guest_memory, self.cpus[cpu].context())

    @property
    def phys(self) -> PhysicalView:
        """Guest-physical memory."""
        return PhysicalView(self.guest_memory)

    def walk(self, gva: int, access: int = ACCESS_IMPLICIT, cpu: int | None = None) -> Walk:
        """Walk the guest's tables for an address, without any effect; see `mmu.walker.Walk`."""
        vcpu = self.scheduler.current if cpu is None else self.cpus[cpu]
        return walk(self.guest_memory, vcpu.context(), gva, access)

    def monitor(self, line: str) -> str:
        """Return what a command of the monitor says, as `info mem`; `help` lists them."""
        from emu.debug.monitor import Monitor

        return Monitor(self, cpu=self.scheduler.current.index).execute(line)

    def code(self, size: int, cpu: int | None = None) -> bytes:
        """Return up to `size` code bytes at CS:RIP, fewer where a page is missing. No effect."""
        vcpu = self.scheduler.current if cpu is None else self.cpus[cpu]
        return self.view(vcpu.index).peek(vcpu.regs.linear_rip, size)

    def address_space(self, cpu: int | None = None, cr3: int | None = None) -> Context:
        """Return the paging state of a vCPU (default: the one that ran last), or what it would be
        with another CR3: what `mmu.walker`, `mmu.ranges` and `mmu.lint` read. No effect."""
        vcpu = self.scheduler.current if cpu is None else self.cpus[cpu]
        context = vcpu.context()
        if cr3 is not None:
            context.load(self.guest_memory, context.regs._replace(cr3=cr3))
        return context

    def own_places(self) -> list[Place]:
        """Return what the processors have of the kernel's, for `mmu.lint`: the linear addresses of
        descriptor tables and task state segments."""
        places = []
        for vcpu in self.cpus:
            regs = vcpu.regs
            tables = [("the GDT", regs.gdtr), ("the IDT", regs.idtr)]
            tables += [("the LDT", regs.ldtr), ("the TSS", regs.tr)]
            places += [
                Place(name, table.base, table.base + table.limit)
                for name, table in tables
                if table.base
            ]
        return places

    def _walk_text(self, cpu: Vcpu, gva: int) -> str:
        context = cpu.context()
        found = walk(self.guest_memory, context, gva, ACCESS_IMPLICIT)
        return describe(found, context, cpu.msrs.read(PAT))


def _first(cds: Mapping[int, Image]) -> Image | None:
    return cds[min(cds)] if cds else None


def _read_kernel(
    kernel: str | Path | bytes | None, format: str, address: int | None, options: BoardOptions
) -> tuple[bytes | None, str, str]:
    """Return the kernel's bytes, its name and format. A CD that can be booted goes into a drive:
    it is not read as a whole."""
    if kernel is None:
        return None, "kernel", format
    if format == "cd" or (format == "auto" and address is None):
        cd: Disk | MemoryDisk | None
        cd = MemoryDisk(kernel) if isinstance(kernel, bytes) else _open_cd(Path(kernel))
        if cd is not None and (format == "cd" or is_bootable(cd)):
            options.cds = {**options.cds, _place_for_cd(options): cd}
            return None, "kernel", "cd"
        if isinstance(cd, Disk):
            cd.close()
    if isinstance(kernel, bytes):
        return kernel, "kernel", format
    return (*_read_file(kernel), format)


def _open_cd(path: Path) -> Disk | None:
    try:
        return Disk(path, read_only=True)
    except KernelError:
        return None  # reading the file will say why


def _place_for_cd(options: BoardOptions) -> int:
    """Return the first free place in the order of -cdrom: the secondary channel is the first."""
    for place in (2, 3, 0, 1):
        if place not in options.disks and place not in options.cds:
            return place
    raise UsageError("there is no free place for the CD: four disks are there")


def _read_file(kernel: str | Path) -> tuple[bytes, str]:
    path = Path(kernel)
    try:
        return path.read_bytes(), str(path)
    except OSError as error:
        raise KernelError(f"cannot read {path}: {error.strerror or error}") from None


def _compiled_code(jit: str) -> CompiledCode | None:
    """Return compiled code as `jit` says: "on", "off", or "auto" (if it can be had)."""
    if jit == "off":
        return None
    from emu.objects import compiled_code

    code = compiled_code()
    if code is None and jit == "on":
        raise UsageError(
            "compiled code needs the packages numba and llvmlite (see README, jit), and memory"
        )
    return code


def _paging_features(switches: dict[str, bool]) -> Features:
    unknown = sorted(set(switches) - set(FEATURE_NAMES))
    if unknown:
        raise UsageError(f"no CPU feature is called {unknown[0]!r}")
    absent = sorted(name for name, on in switches.items() if on and not can_be_had(name))
    if absent:
        raise UsageError(f"CPU feature {absent[0]} is not to be had")
    return Features(
        nx=switches.get("nx", True),
        pse36=switches.get("pse36", True),
        gbpages=switches.get("pdpe1gb", True),
        pku=switches.get("pku", True),
        la57=switches.get("la57", True),
    )


def _internal_report(error: BaseException) -> str:
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return "internal error, please report it:\n" + "".join(lines)
