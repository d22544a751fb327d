# SPDX-License-Identifier: GPL-2.0-or-later
"""A VGA in 80x25 text mode, as the BIOS leaves it (IBM VGA XGA Technical Reference, chapter 2).

The text memory at 0xb8000 is plain RAM; this file reads it back as text for people and tests. The
register files keep what is written; of them the screen depends on the size, pitch, start address
and cursor in the CRT controller, which drivers do change. `image` draws text, mode 13h and what is
in the linear framebuffer; planar modes are not drawn.

The retrace bits of 0x3da toggle at every read, as QEMU's do: true to the clock, a loop that waits
for a retrace would cost the host a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from emu.devices.bochs_vbe import BochsDisplay, DisplayMode
from emu.devices.picture import Picture, from_framebuffer, from_text
from emu.ports import LogOnce
from emu.savable import Savable, State

__all__ = ["TEXT_BASE", "TEXT_SIZE", "Vga"]

TEXT_BASE = 0xB8000
TEXT_SIZE = 0x8000
CELLS = TEXT_SIZE // 2

# Ports. The CRT controller sits at 0x3d4 (colour) or 0x3b4 (monochrome), as MISC bit 0 says.
CRTC_MONO, CRTC_COLOUR = (0x3B4, 0x3B5), (0x3D4, 0x3D5)
STATUS_1_MONO, STATUS_1_COLOUR = 0x3BA, 0x3DA
ATTRIBUTE, ATTRIBUTE_READ, MISC_WRITE_STATUS_0 = 0x3C0, 0x3C1, 0x3C2
SEQUENCER = (0x3C4, 0x3C5)
DAC_MASK, DAC_READ_INDEX, DAC_WRITE_INDEX, DAC_DATA = 0x3C6, 0x3C7, 0x3C8, 0x3C9
FEATURE_READ, MISC_READ = 0x3CA, 0x3CC
GRAPHICS = (0x3CE, 0x3CF)

MISC_COLOUR = 1 << 0
STATUS_1_TOGGLES = 0x09  # display disabled, vertical retrace
PALETTE_ADDRESS_SOURCE = 1 << 5

# CRT controller registers that matter here.
HORIZONTAL_END = 0x01
OVERFLOW = 0x07
MAXIMUM_SCAN_LINE = 0x09
CURSOR_START = 0x0A
CURSOR_OFF = 1 << 5
START_HIGH, START_LOW, CURSOR_HIGH, CURSOR_LOW = 0x0C, 0x0D, 0x0E, 0x0F
VERTICAL_RETRACE_END = 0x11
PROTECT = 1 << 7  # of registers 0 to 7, but for bit 4 of the overflow register
VERTICAL_END = 0x12
PITCH = 0x13
GRAPHICS_MISC = 0x06
GRAPHICS_MODE = 1 << 0
CHAIN_4 = 1 << 3
GRAPHICS_BASE, GRAPHICS_SIZE = 0xA0000, 0x10000
_MODE_13_SIZE = 320, 200

# Mode 3 as the BIOS programs it.
CRTC_MODE_3 = bytes.fromhex("5f4f50825581bf1f004f0d0e000000009c8e8f281f96b9a3ff")
SEQUENCER_MODE_3 = bytes.fromhex("0300030002")
GRAPHICS_MODE_3 = bytes.fromhex("0000000000100e00ff")
ATTRIBUTE_MODE_3 = bytes.fromhex("000102030405140738393a3b3c3d3e3f0c000f0800")
MISC_MODE_3 = 0x67

# Code page 437 as its character generator draws it: there are no control characters.
GLYPHS = (
    " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
    + bytes(range(0x20, 0x7F)).decode(encoding="ascii")
    + "⌂"
    + bytes(range(0x80, 0xFF)).decode(encoding="cp437")
    + " "
)


def _palette() -> bytearray:
    """Return the DAC as mode 3 has it: 64 colours of two bits a gun, 6 bits wide."""
    dac = bytearray(768)
    for colour in range(64):
        for gun, (high, low) in enumerate(((2, 5), (1, 4), (0, 3))):
            dac[3 * colour + gun] = 42 * (colour >> high & 1) + 21 * (colour >> low & 1)
    return dac


@dataclass(slots=True)
class VgaState:
    """The register files, each with its index."""

    misc: int = MISC_MODE_3
    crtc_index: int = 0
    crtc: bytearray = field(default_factory=lambda: bytearray(CRTC_MODE_3))
    sequencer_index: int = 0
    sequencer: bytearray = field(default_factory=lambda: bytearray(SEQUENCER_MODE_3))
    graphics_index: int = 0
    graphics: bytearray = field(default_factory=lambda: bytearray(GRAPHICS_MODE_3))
    attribute_index: int = PALETTE_ADDRESS_SOURCE
    attribute_data_next: bool = False
    attribute: bytearray = field(default_factory=lambda: bytearray(ATTRIBUTE_MODE_3))
    feature: int = 0
    status_1: int = 0
    dac_mask: int = 0xFF
    dac_position: int = 0  # byte of `dac`
    dac_reading: bool = False
    dac: bytearray = field(default_factory=_palette)


class Vga(Savable):
    """The adapter; all its ports are byte-wide (word writes to an index set index and data)."""

    PORTS: ClassVar = (
        CRTC_MONO,
        (STATUS_1_MONO, STATUS_1_MONO),
        (ATTRIBUTE, GRAPHICS[1]),
        CRTC_COLOUR,
        (STATUS_1_COLOUR, STATUS_1_COLOUR),
    )

    def __init__(self, read_block: Callable[[int, int], bytes]) -> None:
        """Read the text memory by `read_block(gpa, size)`."""
        self._read_block = read_block
        self._log = LogOnce("vga")
        self.state = VgaState()
        self.display: BochsDisplay | None = None
        """The linear framebuffer of the same screen, if the board has one."""

    def reset(self) -> None:
        """Set mode 3. The memory is left as it is."""
        self.state = VgaState()

    def save(self) -> State:
        """Return the register files; the memory is RAM."""
        return self._make_state(registers=self.state)

    def load(self, state: State) -> None:
        """Take a saved state."""
        (self.state,) = self._parts_of(state, registers=VgaState)

    # The screen.

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        crtc = self.state.crtc
        lines = crtc[VERTICAL_END] | (crtc[OVERFLOW] & 0x02) << 7 | (crtc[OVERFLOW] & 0x40) << 3
        rows = (lines + 1) // ((crtc[MAXIMUM_SCAN_LINE] & 0x1F) + 1)
        return max(rows, 1), crtc[HORIZONTAL_END] + 1

    @property
    def start(self) -> int:
        """The cell of the text memory that is at the upper left."""
        crtc = self.state.crtc
        return crtc[START_HIGH] << 8 | crtc[START_LOW]

    @property
    def cursor(self) -> tuple[int, int] | None:
        """Row and column of the cursor, or None while it is off or not on the screen."""
        crtc = self.state.crtc
        rows, columns = self.size
        position = (crtc[CURSOR_HIGH] << 8 | crtc[CURSOR_LOW]) - self.start
        pitch = 2 * crtc[PITCH]
        if crtc[CURSOR_START] & CURSOR_OFF or position < 0 or not pitch:
            return None
        row, column = divmod(position, pitch)
        return (row, column) if row < rows and column < columns else None

    @property
    def rows(self) -> list[str]:
        """The rows of the screen, each with all its columns; none in a graphics mode."""
        if self.has_pixels:
            return []
        characters = self._read_block(TEXT_BASE, TEXT_SIZE)[::2]
        count, columns = self.size
        pitch = 2 * self.state.crtc[PITCH]
        first = self.start
        return [
            "".join(
                GLYPHS[characters[(first + row * pitch + column) % CELLS]]
                for column in range(columns)
            )
            for row in range(count)
        ]

    @property
    def text(self) -> str:
        """The screen as text: a line per row, without the blanks at its end."""
        return "\n".join(row.rstrip() for row in self.rows)

    @property
    def has_pixels(self) -> bool:
        """Whether the screen is in a graphics mode."""
        vbe = self.display is not None and self.display.mode is not None
        return vbe or bool(self.state.graphics[GRAPHICS_MISC] & GRAPHICS_MODE)

    @property
    def image(self) -> Picture:
        """What the screen shows, in pixels: a linear framebuffer, mode 13h, or text. Of planar
        modes the pixels are black."""
        if self.display is not None and (mode := self.display.mode) is not None:
            return from_framebuffer(self.display.memory, mode, self._colours())
        if not self.has_pixels:
            return self._text_image()
        mode = DisplayMode(*_MODE_13_SIZE, 8, _MODE_13_SIZE[0], 0)
        chained = self.state.sequencer[4] & CHAIN_4
        memory = self._read_block(GRAPHICS_BASE, GRAPHICS_SIZE) if chained else b""
        return from_framebuffer(memory, mode, self._colours())

    def _colours(self) -> list[bytes]:
        """Return the colours of the DAC, eight bits a gun."""
        dac, mask = self.state.dac, self.state.dac_mask
        wide = bytes(gun << 2 | gun >> 4 for gun in dac)
        return [wide[3 * (n & mask) : 3 * (n & mask) + 3] for n in range(256)]

    def _text_image(self) -> Picture:
        from emu.boot.bios.font import font

        memory = self._read_block(TEXT_BASE, TEXT_SIZE)
        count, columns = self.size
        pitch, first = 2 * self.state.crtc[PITCH], self.start
        places = [
            [(first + row * pitch + n) % CELLS for n in range(columns)] for row in range(count)
        ]
        cells = [[(memory[2 * at], memory[2 * at + 1]) for at in row] for row in places]
        dac = self._colours()
        colours = [dac[self.state.attribute[n] & 0x3F] for n in range(16)]
        return from_text(cells, font(16), colours)

    # The registers.

    def read(self, port: int, size: int) -> int:
        """Read a register."""
        state = self.state
        colour = bool(state.misc & MISC_COLOUR)
        if port in (STATUS_1_COLOUR, STATUS_1_MONO):
            if (port == STATUS_1_COLOUR) != colour:
                return 0xFF
            state.attribute_data_next = False
            state.status_1 ^= STATUS_1_TOGGLES
            return state.status_1
        if port in CRTC_COLOUR or port in CRTC_MONO:
            if (port in CRTC_COLOUR) != colour:
                return 0xFF
            return _indexed(state.crtc, state.crtc_index, port & 1)
        if port in SEQUENCER:
            return _indexed(state.sequencer, state.sequencer_index, port & 1)
        if port in GRAPHICS:
            return _indexed(state.graphics, state.graphics_index, port & 1)
        if port in (ATTRIBUTE, ATTRIBUTE_READ):
            if port == ATTRIBUTE:
                return 0 if state.attribute_data_next else state.attribute_index
            index = state.attribute_index & 0x1F
            return state.attribute[index] if index < len(state.attribute) else 0
        if port == DAC_DATA:
            value = state.dac[state.dac_position]
            state.dac_position = (state.dac_position + 1) % len(state.dac)
            return value
        others = {
            MISC_READ: state.misc,
            FEATURE_READ: state.feature,
            DAC_MASK: state.dac_mask,
            DAC_READ_INDEX: 3 if state.dac_reading else 0,
            DAC_WRITE_INDEX: state.dac_position // 3,
            MISC_WRITE_STATUS_0: 0,
        }
        return others.get(port, 0xFF)

    def write(self, port: int, size: int, value: int) -> None:
        """Write a register."""
        state = self.state
        colour = bool(state.misc & MISC_COLOUR)
        if port in CRTC_COLOUR or port in CRTC_MONO:
            if (port in CRTC_COLOUR) == colour:
                self._write_crtc(port & 1, value)
        elif port == ATTRIBUTE:
            self._write_attribute(value)
        elif port == SEQUENCER[0]:
            state.sequencer_index = value
        elif port == SEQUENCER[1]:
            self._write_indexed("sequencer", state.sequencer, state.sequencer_index, value)
        elif port == GRAPHICS[0]:
            state.graphics_index = value
        elif port == GRAPHICS[1]:
            self._write_indexed("graphics", state.graphics, state.graphics_index, value)
        elif port == MISC_WRITE_STATUS_0:
            state.misc = value
        elif port == DAC_MASK:
            state.dac_mask = value
        elif port in (DAC_READ_INDEX, DAC_WRITE_INDEX):
            state.dac_position = 3 * value
            state.dac_reading = port == DAC_READ_INDEX
        elif port == DAC_DATA:
            state.dac[state.dac_position] = value & 0x3F
            state.dac_position = (state.dac_position + 1) % len(state.dac)
        elif port in (STATUS_1_COLOUR, STATUS_1_MONO):
            state.feature = value
        else:
            self._log(port, "write of %#x to read-only port %#x", value, port)

    def _write_crtc(self, data: int, value: int) -> None:
        state = self.state
        if not data:
            state.crtc_index = value
            return
        index = state.crtc_index
        if index <= OVERFLOW and state.crtc[VERTICAL_RETRACE_END] & PROTECT:
            if index != OVERFLOW:
                return
            value = state.crtc[OVERFLOW] & ~0x10 | value & 0x10
        self._write_indexed("CRT controller", state.crtc, index, value)

    def _write_attribute(self, value: int) -> None:
        state = self.state
        if state.attribute_data_next:
            index = state.attribute_index & 0x1F
            self._write_indexed("attribute", state.attribute, index, value)
        else:
            state.attribute_index = value & 0x3F
        state.attribute_data_next = not state.attribute_data_next

    def _write_indexed(self, name: str, registers: bytearray, index: int, value: int) -> None:
        if index < len(registers):
            registers[index] = value
        else:
            self._log((name, index), "write of %#x to unknown %s register %#x", value, name, index)


def _indexed(registers: bytearray, index: int, data: int) -> int:
    if not data:
        return index
    return registers[index] if index < len(registers) else 0xFF
