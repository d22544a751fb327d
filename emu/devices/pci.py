# SPDX-License-Identifier: GPL-2.0-or-later
"""PCI configuration space by mechanism #1, and the functions of an i440FX board.

    00:00.0  8086:1237  82441FX host bridge
    00:01.0  8086:7000  82371SB (PIIX3) ISA bridge
    00:01.1  8086:7010  PIIX3 IDE, if there is one
    00:01.3  8086:7113  82371AB (PIIX4) power management
    00:02.0  1234:1111  the display, `emu.devices.bochs_vbe`

A function is its 256 bytes and a mask of those that can be written; none has memory or ports that
move. Port 0xcf9 lies inside the address register's double word, so the reset control register of
the PIIX3 is here too.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.devices.acpi_pm import PM_BASE
from emu.errors import StateError
from emu.ports import LogOnce
from emu.savable import Savable, State

__all__ = ["PciFunction", "PciHost", "i440fx_functions"]

ADDRESS_PORT, RESET_PORT, DATA_PORT = 0xCF8, 0xCF9, 0xCFC
ADDRESS_ENABLE = 1 << 31
ADDRESS_BITS = 0x80FF_FFFC

# Header type 0 (PCI Local Bus Specification 2.1, 6.1).
VENDOR, DEVICE, COMMAND, STATUS, REVISION, CLASS = 0x00, 0x02, 0x04, 0x06, 0x08, 0x09
CACHE_LINE, LATENCY, HEADER_TYPE = 0x0C, 0x0D, 0x0E
INTERRUPT_LINE, INTERRUPT_PIN = 0x3C, 0x3D
MULTI_FUNCTION = 0x80
COMMAND_BITS = 0x0547
SIZE = 256

# PIIX3 reset control (82371SB data sheet 2.5.7).
RESET_CPU = 1 << 2
RESET_HARD = 1 << 1
RESET_BITS = 0x02


class PciFunction:
    """The configuration space of one function."""

    def __init__(
        self,
        vendor: int,
        device: int,
        class_code: int,
        revision: int = 0,
        *,
        multi_function: bool = False,
        fixed: dict[int, tuple[int, int]] | None = None,
        writable: dict[int, int] | None = None,
    ) -> None:
        """Build the header. `class_code` is 24 bits; `fixed` gives further registers as offset ->
        (size, value), `writable` further bytes that can be written as first offset -> how many."""
        self._reset_value = bytearray(SIZE)
        self._mask = bytearray(SIZE)
        self._put(VENDOR, 2, vendor)
        self._put(DEVICE, 2, device)
        self._put(REVISION, 1, revision)
        self._put(CLASS, 3, class_code)
        self._put(HEADER_TYPE, 1, MULTI_FUNCTION if multi_function else 0)
        for offset, (size, value) in (fixed or {}).items():
            self._put(offset, size, value)
        self._mask[COMMAND : COMMAND + 2] = COMMAND_BITS.to_bytes(2, "little")
        ranges = {CACHE_LINE: 2, INTERRUPT_LINE: 1, **(writable or {})}
        for offset, count in ranges.items():
            self._mask[offset : offset + count] = b"\xff" * count
        self.config = bytearray(self._reset_value)
        """The 256 bytes as they read."""

    def _put(self, offset: int, size: int, value: int) -> None:
        self._reset_value[offset : offset + size] = value.to_bytes(size, "little")

    def reset(self) -> None:
        """Set every register to what it has after power-on."""
        self.config[:] = self._reset_value

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes; those that are read-only stay."""
        for index, byte in enumerate(data, offset):
            mask = self._mask[index]
            self.config[index] = self.config[index] & ~mask | byte & mask


class PciHost(Savable):
    """Ports 0xcf8 to 0xcff, width 4."""

    def __init__(
        self, functions: dict[tuple[int, int], PciFunction], reset: Callable[[bool], None]
    ) -> None:
        """Put `functions` on bus 0 by (device, function); call `reset(hard)` for the reset
        register: whether of everything, or of the processors alone."""
        self._functions = functions
        self._reset = reset
        self._log = LogOnce("pci")
        self.address = 0
        """The configuration address register."""
        self.reset_control = 0

    def reset(self) -> None:
        """Reset the bus."""
        self.address = self.reset_control = 0
        for function in self._functions.values():
            function.reset()

    def save(self) -> State:
        """Return both registers, and the configuration space of every function."""
        return self._make_state(
            address=self.address,
            reset_control=self.reset_control,
            functions={place: function.config for place, function in self._functions.items()},
        )

    def load(self, state: State) -> None:
        """Take a saved state. Raises StateError if it has other functions."""
        address, reset_control, functions = self._parts_of(
            state, address=int, reset_control=int, functions=dict[tuple[int, int], bytes]
        )
        if functions.keys() != self._functions.keys():
            raise StateError("PciHost: the state has other functions than the board")
        self.address, self.reset_control = address, reset_control
        for place, config in functions.items():
            self._functions[place].config[:] = config

    def _target(self) -> PciFunction | None:
        if not self.address & ADDRESS_ENABLE or self.address >> 16 & 0xFF:
            return None
        return self._functions.get((self.address >> 11 & 0x1F, self.address >> 8 & 7))

    def read(self, port: int, size: int) -> int:
        """Read the address register (32 bits only), the reset register, or configuration data."""
        if port >= DATA_PORT:
            function = self._target()
            if function is None:
                return (1 << 8 * size) - 1
            offset = (self.address & 0xFC) + port - DATA_PORT
            return int.from_bytes(function.config[offset : offset + size], "little")
        if port == ADDRESS_PORT and size == 4:
            return self.address
        if port == RESET_PORT and size == 1:
            return self.reset_control
        return (1 << 8 * size) - 1

    def write(self, port: int, size: int, value: int) -> None:
        """Write the same. Narrow accesses to the address register are not for it, but pass it by
        to the ISA bus (82441FX data sheet 3.1)."""
        if port >= DATA_PORT:
            function = self._target()
            if function is not None:
                # A double word that begins inside the register ends with it.
                offset = (self.address & 0xFC) + port - DATA_PORT
                data = value.to_bytes(size, "little")[: SIZE - offset]
                function.write(offset, data)
        elif port == ADDRESS_PORT and size == 4:
            self.address = value & ADDRESS_BITS
        elif port == RESET_PORT and size == 1:
            rising = value & ~self.reset_control & RESET_CPU
            self.reset_control = value & RESET_BITS
            if rising:
                self._reset(bool(value & RESET_HARD))
        else:
            self._log((port, size), "write of %d bytes to port %#x", size, port)


def i440fx_functions(*, ide: bool = False) -> dict[tuple[int, int], PciFunction]:
    """Return the board's functions, set up as firmware leaves them."""
    functions = {
        (0, 0): PciFunction(
            *(0x8086, 0x1237, 0x060000, 0x02),
            # Memory type and attributes (PAM, SMRAM): kept, without effect.
            writable={0x50: 0x30},
        ),
        (1, 0): PciFunction(
            *(0x8086, 0x7000, 0x060100),
            multi_function=True,
            fixed={0x60: (4, 0x0B0B_0A0A)},  # PIRQ A to D on IRQ 10, 10, 11, 11
            writable={0x4E: 2, 0x60: 4, 0x69: 1, 0xA0: 16},
        ),
        (1, 3): PciFunction(
            *(0x8086, 0x7113, 0x068000, 0x03),
            fixed={
                COMMAND: (2, 0x0001),
                INTERRUPT_LINE: (2, 0x0109),
                0x40: (4, PM_BASE | 1),
                0x80: (1, 0x01),
            },
        ),
    }
    if ide:
        functions[1, 1] = PciFunction(
            *(0x8086, 0x7010, 0x010100),
            # Both channels decoded at the ports of the AT.
            fixed={COMMAND: (2, 0x0001), 0x40: (4, 0x8000_8000)},
            writable={0x40: 8},
        )
    return functions
