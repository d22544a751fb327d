# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's firmware configuration device (QEMU docs/specs/fw_cfg): what the host tells the guest.

Items are chosen by a 16-bit key at port 0x510 and read byte by byte at 0x511, or fetched by DMA
through port 0x514. Numbers in items are little endian; the file directory and the DMA interface
are big endian.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from emu.clock import Clock, Event, EventState
from emu.errors import UsageError
from emu.ports import LogOnce
from emu.savable import Savable, State
from mmu.memory import Memory

__all__ = ["FwCfg", "e820_item"]

SELECTOR_PORT, DATA_PORT, DMA_PORT = 0x510, 0x511, 0x514
LAST_PORT = 0x51B

# Keys.
SIGNATURE, IDENTITY, UUID, RAM_SIZE, NO_GRAPHIC, CPUS, MACHINE, KERNEL = range(8)
BOOT_MENU, MAX_CPUS = 0x0E, 0x0F
FILE_DIRECTORY, FIRST_FILE = 0x19, 0x20
IRQ0_OVERRIDE = 0x8002
KEY_MASK = 0xBFFF  # bit 14 asked for writing, which is no more
FILE_NAME_SIZE = 56
MAX_FILES = 0x2000

IDENTITY_VALUE = 0x03  # the traditional interface, and DMA
DMA_SIGNATURE = 0x51454D5520434647  # "QEMU CFG"

# Control word of a DMA descriptor: 32 bits control, 32 bits length, 64 bits address.
DESCRIPTOR_SIZE = 16
DMA_ERROR, DMA_READ, DMA_SKIP, DMA_SELECT, DMA_WRITE = (1 << n for n in range(5))
# Behind an item's end zeros are read, for as long as the guest likes: this much at a time, and
# what is left as many ns later, so that a run meets its time limit.
CHUNK = 1 << 20
CHUNK_NS = 100_000


def e820_item(ranges: Iterable[tuple[int, int, int]]) -> bytes:
    """Return the contents of the file `etc/e820`: address, length and type of each range."""
    return b"".join(
        base.to_bytes(8, "little") + length.to_bytes(8, "little") + kind.to_bytes(4, "little")
        for base, length, kind in ranges
    )


class FwCfg(Savable):
    """Ports 0x510 to 0x51b, width 4."""

    def __init__(
        self, clock: Clock, memory: Memory, *, ram_size: int, cpus: int, max_cpus: int
    ) -> None:
        """Tell `ram_size` (bytes) and the processors there are and may be; DMA to `memory`."""
        self._clock = clock
        self._memory = memory
        self._event: Event | None = None
        self._descriptor = 0
        self._left: list[tuple[int, int]] = []  # gpa and size of what the DMA has yet to zero
        self._log = LogOnce("fw_cfg")
        self._key = SIGNATURE
        self._offset = 0
        self._dma_address = 0
        self._files: dict[str, bytes] = {}
        self._items: dict[int, bytes] = {
            SIGNATURE: b"QEMU",
            IDENTITY: IDENTITY_VALUE.to_bytes(4, "little"),
            UUID: bytes(16),
            RAM_SIZE: ram_size.to_bytes(8, "little"),
            NO_GRAPHIC: (1).to_bytes(2, "little"),
            CPUS: cpus.to_bytes(2, "little"),
            MAX_CPUS: max_cpus.to_bytes(2, "little"),
            BOOT_MENU: bytes(2),
            IRQ0_OVERRIDE: b"\x01",
        }
        self._publish()

    def add(self, key: int, data: bytes) -> None:
        """Give an item of its own key (see QEMU's list), replacing what was there."""
        self._items[key & KEY_MASK] = data

    def add_file(self, name: str, data: bytes) -> None:
        """Give a named file. Raises UsageError for a name of more than 55 bytes."""
        if not 0 < len(name.encode(encoding="utf-8")) < FILE_NAME_SIZE:
            raise UsageError(f"fw_cfg file name {name!r} is empty or longer than 55 bytes")
        if len(self._files) >= MAX_FILES:
            raise UsageError(f"more than {MAX_FILES} fw_cfg files")
        self._files[name] = data
        self._publish()

    def _publish(self) -> None:
        """Lay out the directory: by name, keys counting up from the first."""
        directory = len(self._files).to_bytes(4, "big")
        for key, name in enumerate(sorted(self._files), FIRST_FILE):
            data = self._files[name]
            self._items[key] = data
            directory += len(data).to_bytes(4, "big") + key.to_bytes(2, "big") + bytes(2)
            directory += name.encode(encoding="utf-8").ljust(FILE_NAME_SIZE, b"\0")
        self._items[FILE_DIRECTORY] = directory

    def reset(self) -> None:
        """Choose the signature again."""
        self._select(SIGNATURE)
        self._dma_address = 0
        self._clock.cancel(self._event)
        self._event = None

    def save(self) -> State:
        """Return the chosen item, how far it was read, and the DMA that is under way. What the
        items hold is the board's."""
        return self._make_state(
            key=self._key,
            offset=self._offset,
            dma_address=self._dma_address,
            descriptor=self._descriptor,
            left=self._left,
            event=self._clock.save_event(self._event),
        )

    def load(self, state: State) -> None:
        """Take a saved state."""
        key, offset, dma_address, descriptor, left, event = self._parts_of(
            state,
            key=int,
            offset=int,
            dma_address=int,
            descriptor=int,
            left=list[tuple[int, int]],
            event=EventState,
        )
        self._event = self._clock.load_event(event, self._zero)
        self._key, self._offset, self._dma_address = key, offset, dma_address
        self._descriptor, self._left = descriptor, left

    # Ports.

    def _select(self, key: int) -> None:
        self._key = key & KEY_MASK
        self._offset = 0

    def _take(self, count: int) -> bytes:
        """Return the next bytes of the chosen item, as many as it has of `count`."""
        data = self._items.get(self._key, b"")[self._offset : self._offset + count]
        self._offset += count
        return data

    def read(self, port: int, size: int) -> int:
        """Read data (one byte of the access is data, at its own port), or the DMA signature."""
        if port >= DMA_PORT:
            signature = DMA_SIGNATURE.to_bytes(8, "big")
            start = port - DMA_PORT
            return int.from_bytes(signature[start : start + size], "little")
        value = 0
        for n in range(size):
            byte = int.from_bytes(self._take(1), "little") if port + n == DATA_PORT else 0
            value |= byte << 8 * n
        return value

    def write(self, port: int, size: int, value: int) -> None:
        """Choose an item, or start a DMA by the low half of its descriptor's address."""
        if port == SELECTOR_PORT and size >= 2:
            self._select(value & 0xFFFF)
        elif port == DMA_PORT and size == 4:
            high = int.from_bytes(value.to_bytes(4, "little"), "big")
            self._dma_address = high << 32
        elif port == DMA_PORT + 4 and size == 4:
            low = int.from_bytes(value.to_bytes(4, "little"), "big")
            address, self._dma_address = self._dma_address | low, 0
            self._dma(address)
        else:
            self._log((port, size), "write of %d bytes to port %#x", size, port)

    # DMA.

    def _dma(self, descriptor: int) -> None:
        """Do what the descriptor says and leave in its control word 0, or the error bit.

        That is done at once, but for more than `CHUNK` zeros behind an item's end.
        """
        memory = self._memory
        limit = 1 << memory.phys_bits
        if descriptor + DESCRIPTOR_SIZE > limit:
            self._log("descriptor", "DMA descriptor at %#x", descriptor)
            return
        words = memory.read_block(descriptor, DESCRIPTOR_SIZE)
        control = int.from_bytes(words[0:4], "big")
        length = int.from_bytes(words[4:8], "big")
        address = int.from_bytes(words[8:16], "big")
        if control & DMA_SELECT:
            self._select(control >> 16)
        result = 0
        if self._event is not None:
            result = DMA_ERROR  # one at a time
        elif control & DMA_READ:
            if address + length > limit:
                result = DMA_ERROR
            else:
                self._fetch(descriptor, address, length)
                return
        elif control & DMA_WRITE:
            result = DMA_ERROR  # no item can be written
        elif control & DMA_SKIP:
            self._offset += length
        memory.write_block(descriptor, result.to_bytes(4, "big"), "device")

    def _fetch(self, descriptor: int, address: int, length: int) -> None:
        """Copy from the item, and zeros behind its end, into RAM: devices are passed over."""
        data = self._take(length)
        for start, count in self._ram(address, len(data)):
            piece = data[start - address : start - address + count]
            self._memory.write_block(start, piece, "device")
        self._descriptor = descriptor
        self._left = list(self._ram(address + len(data), length - len(data)))
        self._zero()

    def _ram(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield the pieces of a range that are RAM, each of at most `CHUNK` bytes."""
        for slot in self._memory.slots():
            end = min(slot.end, address + length)
            if slot.kind == "ram":
                for start in range(max(slot.gpa, address), end, CHUNK):
                    yield start, min(CHUNK, end - start)

    def _zero(self) -> None:
        """Zero as much as may be done at once; behind the last piece the transfer is over."""
        room = CHUNK
        self._event = None
        while self._left and self._left[0][1] <= room:
            start, count = self._left.pop(0)
            self._memory.write_block(start, bytes(count), "device")
            room -= count
        if self._left:
            self._event = self._clock.at(self._clock.now + CHUNK_NS, self._zero)
        else:
            self._memory.write_block(self._descriptor, bytes(4), "device")
