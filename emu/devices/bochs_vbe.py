# SPDX-License-Identifier: GPL-2.0-or-later
"""PCI function 1234:1111: Bochs' display, whose pixels lie in a linear framebuffer.

    00:02.0 BAR 0   16 MiB of video memory, granted to the guest like RAM
    0x1ce, 0x1cf    index and data of the DISPI registers (Bochs, vbe_display_api.txt), 16 bits

The framebuffer becomes memory when a mode is set for the first time, at the address in BAR 0, and
follows that register. An address where something else is leaves it where it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from emu.devices.pci import COMMAND, PciFunction
from emu.ports import LogOnce
from emu.savable import Savable, State
from mmu.memory import Memory, MemoryMapError, Slot

__all__ = ["FRAMEBUFFER", "VIDEO_MEMORY", "BochsDisplay", "DisplayMode", "VgaFunction"]

FRAMEBUFFER = 0xFD00_0000
"""Where firmware leaves BAR 0."""
VIDEO_MEMORY = 16 << 20

# DISPI registers.
ID, X_RES, Y_RES, BPP, ENABLE, BANK, VIRT_WIDTH, VIRT_HEIGHT, X_OFFSET, Y_OFFSET, MEMORY_64K = (
    range(11)
)
REGISTERS = 11
IDS = range(0xB0C0, 0xB0C6)
ENABLED, GET_CAPABILITIES, DAC_8_BITS, LINEAR, NO_CLEAR = 1 << 0, 1 << 1, 1 << 5, 1 << 6, 1 << 7
MAX_X, MAX_Y, MAX_BPP = 2560, 1600, 32
DEPTHS = (8, 15, 16, 24, 32)

BAR_0 = 0x10
BAR_PREFETCHABLE = 1 << 3
MEMORY_SPACE = 1 << 1


class VgaFunction(PciFunction):
    """The configuration space."""

    def __init__(self) -> None:
        """Set it up as firmware leaves it."""
        super().__init__(
            *(0x1234, 0x1111, 0x030000, 0x02),
            fixed={COMMAND: (2, 0x0003), BAR_0: (4, FRAMEBUFFER | BAR_PREFETCHABLE)},
            writable={BAR_0 + 3: 1},  # 16 MiB: only the upper byte is an address
        )
        self.display: BochsDisplay | None = None

    @property
    def base(self) -> int:
        """The address in BAR 0."""
        return int.from_bytes(self.config[BAR_0 : BAR_0 + 4], "little") & ~0xF

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes; the framebuffer follows its address."""
        before = self.base
        super().write(offset, data)
        if self.display is not None and self.base != before:
            self.display.place()


@dataclass(frozen=True, slots=True)
class DisplayMode:
    """A picture in the framebuffer: from byte `start`, a row every `pitch` bytes."""

    width: int
    height: int
    depth: int
    pitch: int
    start: int


@dataclass(slots=True)
class DispiState:
    """The index and the registers, in their order."""

    index: int = 0
    registers: list[int] = field(
        default_factory=lambda: [IDS[-1], *[0] * 9, VIDEO_MEMORY >> 16]
    )  # fmt: skip


class BochsDisplay(Savable):
    """The DISPI registers and the framebuffer."""

    PORTS: ClassVar = (0x1CE, 0x1D0)  # a word at 0x1cf ends in 0x1d0

    def __init__(self, memory: Memory, function: VgaFunction, fixed: Slot | None = None) -> None:
        """Let the framebuffer appear in `memory` at the address of `function`; if `fixed`, it is
        that slot and stays there."""
        self._memory = memory
        self._function = function
        function.display = self
        self._log = LogOnce("vbe")
        self._slot = fixed
        self._is_fixed = fixed is not None
        self.state = DispiState()

    def reset(self) -> None:
        """Switch off; the video memory keeps what it holds."""
        self.state = DispiState()
        self.place()

    def save(self) -> State:
        """Return the registers and whether the framebuffer is memory yet; its bytes are RAM."""
        return self._make_state(dispi=self.state, is_there=self._slot is not None)

    def load(self, state: State) -> None:
        """Take a saved state, after the configuration space's."""
        self.state, is_there = self._parts_of(state, dispi=DispiState, is_there=bool)
        if is_there:
            self._appear()
        elif self._slot is not None and not self._is_fixed:
            self._memory.remove(self._slot)
            self._slot = None

    # --- The framebuffer ------------------------------------------------------------------------

    def place(self) -> None:
        """Move the framebuffer, if it is memory, to where BAR 0 says."""
        if self._slot is None or self._is_fixed or self._slot.gpa == self._function.base:
            return
        try:
            self._memory.move(self._slot, self._function.base)
        except MemoryMapError as error:
            self._log(self._function.base, "the framebuffer stays: %s", error)

    def _appear(self) -> None:
        if self._slot is None:
            try:
                self._slot = self._memory.add_ram(
                    self._function.base, VIDEO_MEMORY, purpose="video"
                )
            except MemoryMapError as error:
                self._log(self._function.base, "no framebuffer: %s", error)
        else:
            self.place()

    @property
    def memory(self) -> memoryview:
        """The bytes of the framebuffer; none before the first mode."""
        return self._slot.view if self._slot is not None else memoryview(b"")

    @property
    def mode(self) -> DisplayMode | None:
        """What is shown, or None while the VGA's own registers say so."""
        r = self.state.registers
        if not r[ENABLE] & ENABLED:
            return None
        size = -(-r[BPP] // 8)
        pitch = r[VIRT_WIDTH] * size
        return DisplayMode(
            r[X_RES], r[Y_RES], r[BPP], pitch, r[Y_OFFSET] * pitch + r[X_OFFSET] * size
        )

    # --- The registers --------------------------------------------------------------------------

    def read(self, port: int, size: int) -> int:
        """Read the index (0x1ce) or the register that it selects."""
        state = self.state
        if port == self.PORTS[0]:
            return state.index
        if port != self.PORTS[0] + 1 or state.index >= REGISTERS:
            return 0
        if state.registers[ENABLE] & GET_CAPABILITIES and state.index in (X_RES, Y_RES, BPP):
            return (MAX_X, MAX_Y, MAX_BPP)[state.index - X_RES]
        return state.registers[state.index]

    def write(self, port: int, size: int, value: int) -> None:
        """Write the same; registers out of range keep what they had."""
        if port == self.PORTS[0]:
            self.state.index = value
        elif port == self.PORTS[0] + 1:
            self._write(self.state.index, value)

    def _write(self, index: int, value: int) -> None:
        r = self.state.registers
        is_on = bool(r[ENABLE] & ENABLED)
        match index:
            case 0:
                if value in IDS:
                    r[ID] = value
            case 1 | 2:  # width, height: only while it is off
                most = MAX_X if index == X_RES else MAX_Y
                if not is_on and 0 < value <= most and not (index == X_RES and value & 7):
                    r[index] = value
            case 3:
                if not is_on and value in DEPTHS:
                    r[BPP] = value
            case 4:
                self._enable(value)
            case 6:
                size = -(-r[BPP] // 8) or 1
                if value >= r[X_RES] and value * size * max(r[Y_RES], 1) <= VIDEO_MEMORY:
                    r[VIRT_WIDTH] = value
                    r[VIRT_HEIGHT] = VIDEO_MEMORY // max(value * size, 1) & 0xFFFF
                    self._pan(r[X_OFFSET], r[Y_OFFSET])
            case 8:
                self._pan(value, r[Y_OFFSET])
            case 9:
                self._pan(r[X_OFFSET], value)
            case _:
                self._log(index, "write of %#x to DISPI register %d", value, index)

    def _pan(self, x: int, y: int) -> None:
        """Show the part of the picture from (x, y) on, if all of it is video memory."""
        r = self.state.registers
        size = -(-r[BPP] // 8)
        if x + r[X_RES] <= r[VIRT_WIDTH] and (y + r[Y_RES]) * r[VIRT_WIDTH] * size <= VIDEO_MEMORY:
            r[X_OFFSET], r[Y_OFFSET] = x, y

    def _enable(self, value: int) -> None:
        r = self.state.registers
        rising = value & ENABLED and not r[ENABLE] & ENABLED
        size = -(-r[BPP] // 8)
        if rising and not 0 < r[X_RES] * r[Y_RES] * size <= VIDEO_MEMORY:
            self._log("mode", "no mode of %d x %d x %d bits", r[X_RES], r[Y_RES], r[BPP])
            return
        r[ENABLE] = value & (ENABLED | GET_CAPABILITIES | DAC_8_BITS | LINEAR | NO_CLEAR)
        if not rising:
            return
        r[VIRT_WIDTH] = r[X_RES]
        r[VIRT_HEIGHT] = VIDEO_MEMORY // (r[X_RES] * size) & 0xFFFF
        r[X_OFFSET] = r[Y_OFFSET] = 0
        self._appear()
        if not value & NO_CLEAR and self._slot is not None:
            length = r[X_RES] * r[Y_RES] * size
            self._memory.write_block(self._slot.gpa, bytes(length), "device")
