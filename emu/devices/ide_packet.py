# SPDX-License-Identifier: GPL-2.0-or-later
"""The PACKET command on an ATA channel, by programmed I/O (ATA/ATAPI-6 9.8).

    PACKET written     -> DRQ at once: 12 bytes are taken
    the packet is whole -> BSY; later DRQ for a part of the reply, or the status
    the part is read   -> BSY; later the next part, or the status

The interrupt reason register says which it is. A part has no more bytes than the driver has put
into the byte count registers beforehand; they then hold how many there are.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.devices import ide_registers as R
from emu.devices.atapi import PACKET_SIZE, CdDrive, Sense
from emu.devices.ide_registers import Drive, IdeState, Pending

__all__ = ["PACKET", "PacketProtocol"]

PACKET = 0xA0
_DMA = 1 << 0  # of the features register
_MOST = 0xFFFE


class PacketProtocol:
    """What a channel does for packets; it keeps nothing itself."""

    def __init__(
        self,
        state: Callable[[], IdeState],
        later: Callable[[Pending], None],
        interrupt: Callable[[], None],
        fail: Callable[[int], None],
        give: Callable[[bytes], None],
    ) -> None:
        """Work on the registers `state()`. `later` waits for the drive, `fail(error)` ends a
        command badly, `give(data)` offers bytes to the driver; both interrupt."""
        self._state = state
        self._later = later
        self._interrupt = interrupt
        self._fail = fail
        self._give = give

    def begin(self) -> None:
        """Take PACKET: ask for the bytes of the packet, without an interrupt."""
        state = self._state()
        registers = state.registers
        if registers[R.ERROR_FEATURES] & _DMA:
            self._fail(R.ERROR_ABORTED)
            return
        limit = registers[R.LBA_MID] | registers[R.LBA_HIGH] << 8
        state.limit = min(limit, _MOST)
        registers[R.COUNT] = R.REASON_COMMAND
        state.buffer = bytearray(PACKET_SIZE)
        state.position = state.left = 0
        state.writing = True
        state.status = R.STATUS_READY | R.STATUS_DATA

    def execute(self, drive: Drive | CdDrive | None) -> None:
        """Execute the packet that is in the buffer."""
        packet = bytes(self._state().buffer)
        if not isinstance(drive, CdDrive):
            self._fail(R.ERROR_ABORTED)
        elif not drive.execute(packet):
            self._fail_with(drive)
        elif drive.remaining and not self._state().limit:
            drive.cancel()
            self._fail(R.ERROR_ABORTED)  # a driver that takes no bytes
        else:
            self.go_on(drive)

    def go_on(self, drive: Drive | CdDrive | None) -> None:
        """Offer the next part of the reply, or the status after the last."""
        state = self._state()
        if not isinstance(drive, CdDrive):
            self._fail(R.ERROR_ABORTED)
            return
        limit, left = state.limit, drive.remaining
        count = left if left <= limit else limit & ~1 or 1  # parts but the last are words
        if not count:
            state.registers[R.COUNT] = R.REASON_COMMAND | R.REASON_TO_HOST
            state.buffer = bytearray()
            state.status = R.STATUS_READY
            self._interrupt()
            return
        data = drive.take(count)
        if data is None:
            self._fail_with(drive)
            return
        registers = state.registers
        registers[R.COUNT] = R.REASON_TO_HOST
        registers[R.LBA_MID], registers[R.LBA_HIGH] = count.to_bytes(2, "little")
        self._give(data)

    def _fail_with(self, drive: CdDrive) -> None:
        """End with the sense key in the error register (SFF-8020i 7.1.3)."""
        key = drive.state.sense >> 16
        self._state().registers[R.COUNT] = R.REASON_COMMAND | R.REASON_TO_HOST
        aborted = R.ERROR_ABORTED if drive.state.sense >> 16 == Sense.BAD_COMMAND >> 16 else 0
        self._fail(key << 4 | aborted)
