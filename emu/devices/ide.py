# SPDX-License-Identifier: GPL-2.0-or-later
"""An ATA channel with up to two disks or CD-ROM drives, by programmed I/O (T13/1410D, ATA-6).

A command sets BSY and does its work `ACCESS_NS` later, so that a driver that waits for the
interrupt has gone to wait before it comes; what is written stands in the image before that. There
is no DMA: IDENTIFY says so, and its commands abort. A drive that is not there reads as zeros and
takes no commands.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.clock import Clock, Event, EventState
from emu.devices import ide_registers as R
from emu.devices.atapi import CdDrive, identify_packet
from emu.devices.disk import SECTOR_SIZE, Disk
from emu.devices.ide_identify import MAX_MULTIPLE, Geometry, identify
from emu.devices.ide_packet import PACKET, PacketProtocol
from emu.devices.ide_registers import Drive, IdeState, Pending
from emu.errors import StateError
from emu.ports import IrqLine, LogOnce
from emu.savable import Savable, State

__all__ = ["ACCESS_NS", "IdeChannel"]

# From a command, or the end of one block of data, to the next block: a drive with a good cache.
ACCESS_NS = 5_000
_EXTENDED = frozenset({0x24, 0x29, 0x34, 0x39, 0x42})
_WRITES = frozenset({0x30, 0x31, 0x34, 0x39, 0xC5})
# FLUSH CACHE (EXT), IDLE, STANDBY, SLEEP and their kin: nothing to be done.
_POWER = frozenset({0xE7, 0xEA, *range(0xE0, 0xE4), 0xE6, *range(0x94, 0x98), 0x99})


class IdeChannel(Savable):
    """One channel: ports `base` to `base + 7` (width 4) and `control`."""

    STATE_VERSION = 2

    def __init__(
        self,
        clock: Clock,
        irq: IrqLine,
        master: Disk | CdDrive | None,
        slave: Disk | CdDrive | None = None,
        *,
        base: int = 0x1F0,
        control: int = 0x3F6,
    ) -> None:
        """Raise `irq` (IRQ 14; 15 for the secondary channel at 0x170 and 0x376)."""
        self._clock = clock
        self._irq = irq
        self._base = base
        self._control = control
        self._log = LogOnce("ide")
        self._event: Event | None = None
        self._drives = [
            disk if disk is None or isinstance(disk, CdDrive) else Drive.of(disk)
            for disk in (master, slave)
        ]
        self._commands = self._command_table()
        self._packets = PacketProtocol(
            lambda: self.state, self._later, self._interrupt, self._fail, self._give
        )
        self._steps: dict[Pending, Callable[[], None]] = {
            Pending.COMMAND: self._execute,
            Pending.RESET: self._reset_done,
            Pending.READ_BLOCK: self._read_block,
            Pending.STORED: self._stored,
            Pending.PACKET: lambda: self._packets.execute(self._active()),
            Pending.PACKET_DATA: lambda: self._packets.go_on(self._active()),
        }
        self.state = IdeState()
        self.reset()

    @property
    def drives(self) -> tuple[Drive | CdDrive | None, ...]:
        """Master and slave."""
        return tuple(self._drives)

    @property
    def ports(self) -> tuple[tuple[int, int, int], ...]:
        """First and last port, and width, of what to put on the bus."""
        return (self._base, self._base + 7, 4), (self._control, self._control, 1)

    def reset(self) -> None:
        """Reset the channel and both drives, as power-on does."""
        for drive in self._drives:
            if drive is not None:
                drive.reset()
        self.state = IdeState()
        self._cancel()
        self._sign()
        self._update_irq()

    def save(self) -> State:
        """Return the registers, the transfer under way, and the drives with their disks. Raises
        NotSavableError for a disk that was written in place."""
        return self._make_state(
            registers=self.state,
            drives=[drive and drive.save() for drive in self._drives],
            event=self._clock.save_event(self._event),
        )

    def load(self, state: State) -> None:
        """Take a saved state. Raises StateError if other drives were there."""
        registers, drives, event = self._parts_of(
            state,
            registers=IdeState,
            drives=tuple[State | None, State | None],
            event=EventState,
        )
        if [drive is None for drive in drives] != [drive is None for drive in self._drives]:
            raise StateError("IdeChannel: the state has other drives than the channel")
        self._event = self._clock.load_event(event, self._due)
        self.state = registers
        for drive, saved in zip(self._drives, drives, strict=True):
            if drive is not None:
                drive.load(saved)

    def _selected(self) -> int:
        return int(bool(self.state.registers[R.DEVICE] & R.DEVICE_SLAVE))

    def _drive(self) -> Drive | CdDrive | None:
        return self._drives[self._selected()]

    def _active(self) -> Drive | CdDrive | None:
        """Return the drive whose command goes on."""
        number = self.state.active
        return None if number is None else self._drives[number]

    def _active_disk(self) -> Drive | None:
        drive = self._active()
        return drive if isinstance(drive, Drive) else None

    # Ports.

    def read(self, port: int, size: int) -> int:
        """Read data (any width) or registers."""
        if port == self._base:
            return self._read_data(size)
        return sum(self._read_register(port + n) << 8 * n for n in range(size))

    def _read_register(self, port: int) -> int:
        state = self.state
        if self._drive() is None:
            return 0
        register = port - self._base
        if port == self._control:
            return state.status
        if register == R.STATUS_COMMAND:
            state.interrupt = False
            self._update_irq()
            return state.status
        if register == R.ERROR_FEATURES:
            return state.error
        if state.control & R.CONTROL_HIGH_ORDER and register != R.DEVICE:
            return state.high_order[register]
        return state.registers[register]

    def write(self, port: int, size: int, value: int) -> None:
        """Write data (any width) or registers."""
        if port == self._base:
            self._write_data(value.to_bytes(size, "little"))
            return
        for n in range(size):
            self._write_register(port + n, value >> 8 * n & 0xFF)

    def _write_register(self, port: int, value: int) -> None:
        state = self.state
        if port == self._control:
            self._write_control(value)
            return
        state.control &= ~R.CONTROL_HIGH_ORDER
        if state.status & R.STATUS_BUSY:
            return
        register = port - self._base
        if register == R.STATUS_COMMAND:
            self._start(value)
        else:
            state.high_order[register] = state.registers[register]
            state.master[register] = state.slave[register] = value

    def _write_control(self, value: int) -> None:
        state = self.state
        rising = value & ~state.control & R.CONTROL_RESET
        falling = state.control & ~value & R.CONTROL_RESET
        state.control = value
        if rising:
            self._cancel()
            state.status = R.STATUS_BUSY
            state.interrupt = False
        elif falling:
            self._later(Pending.RESET)
        self._update_irq()

    def _reset_done(self) -> None:
        for drive in self._drives:
            if isinstance(drive, Drive):
                drive.multiple = 0
            elif drive is not None:
                drive.cancel()
        self._sign()
        self.state.status = R.STATUS_READY

    def _sign(self) -> None:
        """Put the drives' signatures into the registers (9.12)."""
        state = self.state
        state.master, state.slave = (
            [0, 0, 1, 1, *(drive.SIGNATURE if drive else 0).to_bytes(2, "little"), 0, 0]
            for drive in self._drives
        )
        state.high_order = [0] * 8
        state.error = R.DIAGNOSTIC_PASSED

    # Time and interrupts.

    def _later(self, what: Pending) -> None:
        self.state.pending = what
        self._clock.cancel(self._event)
        self._event = self._clock.at(self._clock.now + ACCESS_NS, self._due)

    def _due(self) -> None:
        self._event = None
        what, self.state.pending = self.state.pending, Pending.NOTHING
        self._steps[what]()

    def _cancel(self) -> None:
        self._clock.cancel(self._event)
        self._event = None
        self.state.pending = Pending.NOTHING
        self.state.buffer = bytearray()
        self.state.position = self.state.left = 0

    def _interrupt(self) -> None:
        self.state.interrupt = True
        self._update_irq()

    def _update_irq(self) -> None:
        state = self.state
        self._irq(state.interrupt and not state.control & R.CONTROL_NO_INTERRUPT)

    def _done(self) -> None:
        """End a command well."""
        self.state.status = R.STATUS_READY
        self._interrupt()

    def _fail(self, error: int = R.ERROR_ABORTED) -> None:
        """End a command badly."""
        state = self.state
        state.error = error
        state.status = R.STATUS_READY | R.STATUS_ERROR
        state.buffer = bytearray()
        state.position = state.left = 0
        self._interrupt()

    # Commands.

    def _command_table(self) -> dict[int, Callable[[Drive], None]]:
        done: dict[int, Callable[[Drive], None]] = dict.fromkeys(
            _POWER,
            lambda drive: self._done(),
        )
        recalibrate = dict.fromkeys(range(0x10, 0x20), lambda drive: self._done())
        return {
            **done,
            **recalibrate,
            **dict.fromkeys(range(0x70, 0x80), self._seek),
            0x20: lambda drive: self._read(drive, 1),
            0x21: lambda drive: self._read(drive, 1),
            0x24: lambda drive: self._read(drive, 1, extended=True),
            0x29: lambda drive: self._read(drive, drive.multiple, extended=True),
            0x30: lambda drive: self._write(drive, 1),
            0x31: lambda drive: self._write(drive, 1),
            0x34: lambda drive: self._write(drive, 1, extended=True),
            0x39: lambda drive: self._write(drive, drive.multiple, extended=True),
            0x40: lambda drive: self._verify(drive),
            0x41: lambda drive: self._verify(drive),
            0x42: lambda drive: self._verify(drive, extended=True),
            0x90: lambda drive: self._diagnose(),
            0x91: self._set_geometry,
            0xC4: lambda drive: self._read(drive, drive.multiple),
            0xC5: lambda drive: self._write(drive, drive.multiple),
            0xC6: self._set_multiple,
            0xE5: self._check_power,
            0x98: self._check_power,
            0xEC: self._identify,
            0xEF: self._set_features,
            0xF8: self._native_maximum,
            0x27: lambda drive: self._native_maximum(drive, extended=True),
        }

    def _start_on_cd(self, drive: CdDrive, command: int) -> None:
        """Execute a command of a packet device; those for sectors leave its signature (9.12)."""
        if command == PACKET:
            self._packets.begin()
        elif command == 0xA1:
            self._give_identity(identify_packet(drive is self._drives[1]))
        elif command == 0x08:  # DEVICE RESET
            drive.reset()
            self._sign_cd(drive)
            self.state.status = 0
        elif command == 0x90:
            self._diagnose()
        elif command == 0xEF:
            self._set_features(drive)
        elif command in (0xE5, 0x98):
            self._check_power(drive)
        elif command in _POWER:
            self._done()
        else:
            if command in (0xEC, 0x20, 0x21):
                self._sign_cd(drive)
            self._fail()

    def _sign_cd(self, drive: CdDrive) -> None:
        registers = self.state.registers
        registers[R.COUNT] = registers[R.LBA_LOW] = 1
        registers[R.LBA_MID], registers[R.LBA_HIGH] = drive.SIGNATURE.to_bytes(2, "little")

    def _start(self, command: int) -> None:
        state = self.state
        if self._drive() is None:
            return
        state.command = command
        state.interrupt = False
        state.error = 0
        state.status = R.STATUS_BUSY
        self._update_irq()
        if command in _WRITES or command == PACKET:
            # A driver may send the first block at once: QEMU asks for it before the OUT is done,
            # and kernels have come to count on it. Only what the disk does takes its time.
            self._execute()
        else:
            self._later(Pending.COMMAND)

    def _execute(self) -> None:
        drive, self.state.active = self._drive(), self._selected()
        if isinstance(drive, CdDrive):
            self._start_on_cd(drive, self.state.command)
            return
        handler = self._commands.get(self.state.command)
        if drive is None or handler is None:
            self._log(self.state.command, "unknown command %#x", self.state.command)
            self._fail()
        else:
            handler(drive)

    def _diagnose(self) -> None:
        self._sign()
        self._done()

    def _set_geometry(self, drive: Drive) -> None:
        registers = self.state.registers
        if registers[R.COUNT] == 0:
            self._fail()
            return
        heads = (registers[R.DEVICE] & R.DEVICE_HEAD) + 1
        drive.geometry = Geometry.of(drive.disk.sectors, heads, registers[R.COUNT])
        self._done()

    def _set_multiple(self, drive: Drive) -> None:
        count = self.state.registers[R.COUNT]
        if count > MAX_MULTIPLE or count & count - 1:
            self._fail()
        else:
            drive.multiple = count
            self._done()

    def _check_power(self, drive: Drive | CdDrive) -> None:
        self.state.registers[R.COUNT] = 0xFF  # active or idle
        self._done()

    def _set_features(self, drive: Drive | CdDrive) -> None:
        features, count = self.state.registers[R.ERROR_FEATURES], self.state.registers[R.COUNT]
        # Transfer modes: PIO 0 to 4. Write cache, look-ahead and defaults: as good as done.
        good = (
            count in (0, 1, *range(8, 13))
            if features == 0x03
            else (features in (0x02, 0x82, 0x55, 0xAA, 0x66, 0xCC))
        )
        if good:
            self._done()
        else:
            self._fail()

    def _native_maximum(self, drive: Drive, extended: bool = False) -> None:
        limit = 1 << (48 if extended else 28)
        R.store_address(self.state, min(drive.disk.sectors, limit) - 1, extended)
        self._done()

    def _identify(self, drive: Drive) -> None:
        slave = drive is self._drives[1]
        self._give_identity(identify(drive.disk.sectors, drive.geometry, drive.multiple, slave))

    def _give_identity(self, words: list[int]) -> None:
        self.state.left = 0
        self._give(b"".join(word.to_bytes(2, "little") for word in words))

    def _give(self, data: bytes) -> None:
        """Offer the driver bytes to read."""
        state = self.state
        state.buffer = bytearray(data)
        state.position = 0
        state.writing = False
        state.status = R.STATUS_READY | R.STATUS_DATA
        self._interrupt()

    # Transfers (9.5, 9.6: PIO data-in and data-out).

    def _begin(self, drive: Drive, block: int, extended: bool) -> bool:
        state = self.state
        if block == 0:  # READ or WRITE MULTIPLE without SET MULTIPLE
            self._fail()
            return False
        place = R.decode_address(state, drive, extended)
        if place is None:
            self._fail(R.ERROR_NO_SECTOR)
            return False
        state.sector, state.left = place
        state.block = block
        return True

    def _next_block(self, drive: Drive) -> int:
        """Return the sectors of the next block, as many as are on the disk. If there are none the
        command ends badly: the registers name the first sector that is not there (9.5, 9.6)."""
        state = self.state
        count = min(state.block, state.left, drive.disk.sectors - state.sector)
        if count <= 0:
            state.registers[R.COUNT] = state.left & 0xFF
            R.store_address(state, state.sector, state.command in _EXTENDED)
            self._fail(R.ERROR_NO_SECTOR)
        return max(count, 0)

    def _verify(self, drive: Drive, extended: bool = False) -> None:
        if self._begin(drive, 0x1_0000, extended):
            state = self.state
            count = self._next_block(drive)
            state.sector += count
            state.left -= count
            if not state.left or self._next_block(drive):
                state.left = 0
                self._done()

    def _seek(self, drive: Drive) -> None:
        """SEEK: the heads are everywhere at once, but the address is checked."""
        if self._begin(drive, 1, extended=False):
            self.state.left = 0
            self._done()

    def _read(self, drive: Drive, block: int, extended: bool = False) -> None:
        if self._begin(drive, block, extended):
            self.state.writing = False
            self._read_block()

    def _read_block(self) -> None:
        state, drive = self.state, self._active_disk()
        if drive is None:
            self._fail()
            return
        count = self._next_block(drive)
        if not count:
            return
        try:
            data = drive.disk.read(state.sector, count)
        except OSError as error:
            self._log(("read", state.sector), "sector %d: %s", state.sector, error)
            self._fail(R.ERROR_UNCORRECTABLE)
            return
        state.sector += count
        state.left -= count
        self._give(data)

    def _write(self, drive: Drive, block: int, extended: bool = False) -> None:
        if not self._begin(drive, block, extended):
            return
        if drive.disk.read_only:
            self._fail()
            return
        self.state.writing = True
        # The first block is asked for without an interrupt, and its first sector is there.
        self._await_block(self._next_block(drive))

    def _await_block(self, count: int) -> None:
        state = self.state
        state.buffer = bytearray(count * SECTOR_SIZE)
        state.position = 0
        state.status = R.STATUS_READY | R.STATUS_DATA

    def _store_block(self) -> None:
        """Write a block that is complete; only what the driver hears of it takes its time.

        A machine that is switched off behind the last word, or behind FLUSH CACHE, loses nothing.
        """
        state, drive = self.state, self._active_disk()
        state.failure = R.ERROR_ABORTED if drive is None else 0
        try:
            if drive is not None:
                drive.disk.write(state.sector, bytes(state.buffer))
        except OSError as failure:
            self._log(("write", state.sector), "sector %d: %s", state.sector, failure)
            state.failure = R.ERROR_UNCORRECTABLE
        state.status = R.STATUS_BUSY
        self._later(Pending.STORED)

    def _stored(self) -> None:
        state, drive = self.state, self._active_disk()
        if state.failure or drive is None:
            self._fail(state.failure or R.ERROR_ABORTED)
            return
        count = len(state.buffer) // SECTOR_SIZE
        state.sector += count
        state.left -= count
        if state.left:
            count = self._next_block(drive)
            if count:
                self._await_block(count)
                self._interrupt()
        else:
            self._finish()
            self._done()

    def _finish(self) -> None:
        """Leave the registers as a finished transfer does: the last sector, nothing left."""
        state = self.state
        extended = state.command in _EXTENDED
        state.registers[R.COUNT] = state.high_order[R.COUNT] = 0
        R.store_address(state, state.sector - 1, extended)
        state.buffer = bytearray()
        state.position = 0

    def _read_data(self, size: int) -> int:
        state = self.state
        if not state.status & R.STATUS_DATA or state.writing or self._drive() is None:
            return (1 << 8 * size) - 1
        start = state.position
        state.position += size
        value = int.from_bytes(state.buffer[start : start + size], "little")
        if state.position >= len(state.buffer):
            if state.command == PACKET:
                state.status = R.STATUS_BUSY
                self._later(Pending.PACKET_DATA)
            elif state.left:
                state.status = R.STATUS_BUSY
                self._later(Pending.READ_BLOCK)
            else:
                if state.command not in (0xEC, 0xA1):
                    self._finish()
                state.status = R.STATUS_READY
        return value

    def _write_data(self, data: bytes) -> None:
        state = self.state
        if not state.status & R.STATUS_DATA or not state.writing or self._drive() is None:
            return
        room = len(state.buffer) - state.position
        data = data[:room]
        state.buffer[state.position : state.position + len(data)] = data
        state.position += len(data)
        if state.position < len(state.buffer):
            return
        if state.command == PACKET:
            state.status = R.STATUS_BUSY
            self._later(Pending.PACKET)
        else:
            self._store_block()
