# SPDX-License-Identifier: GPL-2.0-or-later
"""The two 8259A interrupt controllers of a PC (Intel 8259A data sheet, order number 231468).

`Pic8259` is one chip, `PicPair` the board's wiring: the slave's INT goes into IR2 of the master,
the master's to the processor, which asks `acknowledge` for the vector.

As on the chip, and unlike QEMU's model, an edge is remembered only while its line stays up: a
device that takes its request back before the processor has asked is not heard, or heard as the
spurious IR7. So a chip must hold its line, not pulse it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from emu.ports import IrqLine, LogOnce, nowhere
from emu.savable import Savable, State

__all__ = ["Pic8259", "PicPair"]

# Initialization command word 1 (A0 = 0, bit 4 set).
ICW1 = 1 << 4
ICW1_ICW4_NEEDED = 1 << 0
ICW1_SINGLE = 1 << 1
ICW1_LEVEL = 1 << 3
ICW2_BASE = 0xF8
ICW4_AUTO_EOI = 1 << 1
ICW4_SPECIAL_NESTED = 1 << 4

# Operation command word 2 (A0 = 0, bits 4 and 3 clear): R SL EOI in bits 7 to 5.
OCW2_EOI = 1 << 5
OCW2_SPECIFIC = 1 << 6
OCW2_ROTATE = 1 << 7
OCW2_SET_PRIORITY = OCW2_ROTATE | OCW2_SPECIFIC
OCW2_ROTATE_IN_AUTO_EOI_SET = OCW2_ROTATE
OCW2_ROTATE_IN_AUTO_EOI_CLEAR = 0
OCW2_COMMAND = 0xE0

# Operation command word 3 (A0 = 0, bit 3 set).
OCW3 = 1 << 3
OCW3_READ_ISR = 1 << 0
OCW3_READ = 1 << 1
OCW3_POLL = 1 << 2
OCW3_SPECIAL_MASK = 1 << 5
OCW3_SPECIAL_MASK_CHANGE = 1 << 6

POLL_PENDING = 0x80
SPURIOUS = 7

MASTER_PORTS = (0x20, 0x21)
SLAVE_PORTS = (0xA0, 0xA1)
CASCADE = 2
# The edge/level control registers of the PIIX3: the timer, the keyboard, the cascade, the RTC and
# the FPU cannot be made level-triggered (82371SB data sheet 2.5.9).
ELCR_MASKS = (0xF8, 0xDE)


@dataclass(slots=True)
class PicState:
    """The registers of one chip. Bit n of each byte is IRn."""

    irr: int = 0
    imr: int = 0
    isr: int = 0
    lines: int = 0
    elcr: int = 0
    base: int = 0
    lowest: int = 7  # the input of lowest priority; the one after it has the highest
    level: bool = False  # ICW1.LTIM
    single: bool = False
    icw4_needed: bool = False
    next_icw: int = 0  # 2, 3 or 4 while initialization goes on, else 0
    auto_eoi: bool = False
    rotate_in_auto_eoi: bool = False
    special_nested: bool = False
    special_mask: bool = False
    read_isr: bool = False
    poll: bool = False


class Pic8259:
    """One 8259A; `output` is its INT pin."""

    def __init__(self, output: IrqLine, name: str, cascade: int = 0) -> None:
        """Drive `output`; `cascade` is the mask of inputs that carry a slave."""
        self._output = output
        self._cascade = cascade
        self._log = LogOnce("pic")
        self._name = name
        self.state = PicState()

    def reset(self) -> None:
        """Forget everything but what is on the input lines."""
        lines = self.state.lines
        self.state = PicState(lines=lines)
        self.update()

    def set_line(self, number: int, level: bool) -> None:
        """Put `level` on input IR`number`."""
        state = self.state
        bit = 1 << number
        if level:
            if not state.lines & bit or state.level or state.elcr & bit:
                state.irr |= bit
            state.lines |= bit
        else:
            state.lines &= ~bit
            state.irr &= ~bit
        self.update()

    def requested(self) -> int | None:
        """Return the input that INT is up for, or None. Priority: data sheet, "Fully Nested Mode",
        "Special Fully Nested Mode" and "Special Mask Mode"."""
        state = self.state
        requests = state.irr & ~state.imr
        if not requests:
            return None
        serviced = state.isr
        if state.special_mask:
            serviced &= ~state.imr
        for step in range(1, 9):
            number = (state.lowest + step) & 7
            bit = 1 << number
            if serviced & bit:
                # What is in service holds back itself and everything below; a slave may go on.
                nested = state.special_nested and requests & bit & self._cascade
                return number if nested else None
            if requests & bit:
                return number
        return None

    def acknowledge(self) -> int | None:
        """Take the requested input into service and return its number, or None if there is none."""
        number = self.requested()
        if number is None:
            return None
        state = self.state
        bit = 1 << number
        if not (state.level or state.elcr & bit):
            state.irr &= ~bit
        if not state.auto_eoi:
            state.isr |= bit
        elif state.rotate_in_auto_eoi:
            state.lowest = number
        # INT falls with INTA and comes up again if something else waits: an edge for the master.
        self._output(False)
        self.update()
        return number

    def update(self) -> None:
        """Drive INT."""
        self._output(self.requested() is not None)

    def read(self, a0: int) -> int:
        """Read with address pin `a0`. A read after a poll command is an acknowledge."""
        state = self.state
        if state.poll:
            state.poll = False
            number = self.acknowledge()
            return 0 if number is None else POLL_PENDING | number
        if a0:
            return state.imr
        return state.isr if state.read_isr else state.irr

    def write(self, a0: int, value: int) -> None:
        """Write with address pin `a0`."""
        state = self.state
        if a0:
            if state.next_icw:
                self._write_icw(value)
            else:
                state.imr = value
                self.update()
        elif value & ICW1:
            self._write_icw1(value)
        elif value & OCW3:
            self._write_ocw3(value)
        else:
            self._write_ocw2(value)

    def _write_icw1(self, value: int) -> None:
        """Start initialization: data sheet, "Initialization Command Words 1 and 2"."""
        old = self.state
        self.state = state = PicState(lines=old.lines, elcr=old.elcr, base=old.base)
        state.level = bool(value & ICW1_LEVEL)
        state.single = bool(value & ICW1_SINGLE)
        state.icw4_needed = bool(value & ICW1_ICW4_NEEDED)
        state.next_icw = 2
        # The edge sense circuits are reset: a line that is up must fall and rise again.
        state.irr = state.lines if state.level else state.lines & state.elcr
        self.update()

    def _write_icw(self, value: int) -> None:
        state = self.state
        if state.next_icw == 2:
            state.base = value & ICW2_BASE
            state.next_icw = 3
            if not state.single:
                return
        elif state.next_icw == 4:
            state.auto_eoi = bool(value & ICW4_AUTO_EOI)
            state.special_nested = bool(value & ICW4_SPECIAL_NESTED)
            state.next_icw = 0
            return
        # ICW3 says how the chips are wired, which no guest can change.
        state.next_icw = 4 if state.icw4_needed else 0

    def _write_ocw2(self, value: int) -> None:
        state = self.state
        command = value & OCW2_COMMAND
        number = value & 7
        if command & OCW2_EOI:
            ended: int | None = number
            if command & OCW2_SPECIFIC:
                state.isr &= ~(1 << number)
            else:
                ended = self._end_highest()
            if command & OCW2_ROTATE and ended is not None:
                state.lowest = ended
        elif command == OCW2_SET_PRIORITY:
            state.lowest = number
        elif command == OCW2_ROTATE_IN_AUTO_EOI_SET:
            state.rotate_in_auto_eoi = True
        elif command == OCW2_ROTATE_IN_AUTO_EOI_CLEAR:
            state.rotate_in_auto_eoi = False
        self.update()

    def _end_highest(self) -> int | None:
        """Do a non-specific EOI, which does not see what the special mask mode masks."""
        state = self.state
        serviced = state.isr & ~state.imr if state.special_mask else state.isr
        for step in range(1, 9):
            number = (state.lowest + step) & 7
            if serviced >> number & 1:
                state.isr &= ~(1 << number)
                return number
        return None

    def _write_ocw3(self, value: int) -> None:
        state = self.state
        state.poll = bool(value & OCW3_POLL)
        if value & OCW3_READ:
            state.read_isr = bool(value & OCW3_READ_ISR)
        if value & OCW3_SPECIAL_MASK_CHANGE:
            state.special_mask = bool(value & OCW3_SPECIAL_MASK)
            self._log("special mask", "%s uses the special mask mode", self._name)
            self.update()

    def set_trigger(self, elcr: int) -> None:
        """Make the inputs whose bit is set level-triggered."""
        state = self.state
        newly_level = elcr & ~state.elcr
        state.elcr = elcr
        state.irr |= newly_level & state.lines
        self.update()


class PicPair(Savable):
    """Master and slave. Ports 0x20-21, 0xa0-a1 and 0x4d0-4d1, all byte-wide."""

    def __init__(self, intr: IrqLine = nowhere) -> None:
        """Drive the processor's INTR pin (or a local APIC's LINT0) with `intr`; see `connect`."""
        self._intr = intr
        self.master = Pic8259(self._master_output, "master", 1 << CASCADE)
        self.slave = Pic8259(partial(self.master.set_line, CASCADE), "slave")
        self._level = False

    def connect(self, intr: IrqLine) -> None:
        """Drive `intr` from now on."""
        self._intr = intr

    def _master_output(self, level: bool) -> None:
        self._level = level
        self._intr(level)

    def reset(self) -> None:
        """Reset both chips."""
        self.slave.reset()
        self.master.reset()

    def save(self) -> State:
        """Return the registers of both chips and the level of INTR."""
        return self._make_state(master=self.master.state, slave=self.slave.state, intr=self._level)

    def load(self, state: State) -> None:
        """Take a saved state."""
        self.master.state, self.slave.state, self._level = self._parts_of(
            state, master=PicState, slave=PicState, intr=bool
        )

    def line(self, irq: int) -> IrqLine:
        """Return the input of IRQ 0 to 15. Raises ValueError for 2, which is the cascade."""
        if irq == CASCADE or not 0 <= irq < 16:
            raise ValueError(f"no device can use IRQ {irq}")
        chip = self.master if irq < 8 else self.slave
        return partial(chip.set_line, irq & 7)

    def pending(self) -> bool:
        """Return whether INTR is up."""
        return self._level

    def acknowledge(self) -> int:
        """Return the vector of the most urgent interrupt and take it into service.

        If the request has gone away meanwhile: the vector of IR7 of the chip that had asked, with
        nothing in service there (data sheet, "Interrupt Sequence").
        """
        number = self.master.acknowledge()
        if number == CASCADE:
            number = self.slave.acknowledge()
            return self.slave.state.base + (SPURIOUS if number is None else number)
        return self.master.state.base + (SPURIOUS if number is None else number)

    def read(self, port: int, size: int) -> int:
        """Read a port of either chip, or a trigger register."""
        if port in MASTER_PORTS:
            return self.master.read(port & 1)
        if port in SLAVE_PORTS:
            return self.slave.read(port & 1)
        return (self.slave if port & 1 else self.master).state.elcr

    def write(self, port: int, size: int, value: int) -> None:
        """Write a port of either chip, or a trigger register."""
        if port in MASTER_PORTS:
            self.master.write(port & 1, value)
        elif port in SLAVE_PORTS:
            self.slave.write(port & 1, value)
        else:
            chip = self.slave if port & 1 else self.master
            chip.set_trigger(value & ELCR_MASKS[port & 1])
