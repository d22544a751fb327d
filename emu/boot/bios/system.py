# SPDX-License-Identifier: GPL-2.0-or-later
"""INT 11h, 12h and 15h: what there is, how much memory, waiting."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from emu.boot.bios.call import Call
from emu.boot.bios.compat import CONFIGURATION
from emu.boot.layout import memory_map, upper_kib
from emu.savable import Savable, State

__all__ = ["System"]

_SMAP = 0x534D4150
_MIB16 = 16 << 10  # KiB
_UNSUPPORTED = 0x86
_MAX_MOVE = 0x8000  # words

# BIOS data area.
_EQUIPMENT = 0x10
_MEMORY_KIB = 0x13
_EBDA = 0x0E
_EVENT_FLAG = 0x98  # segment:offset of the byte to set
_EVENT_TIME = 0x9C  # microseconds until then
_EVENT_WAITS = 0xA0
_TICK_US = 54_925

Service = Callable[[Call], bool | None]


class System(Savable):
    """The services of INT 11h, 12h and 15h."""

    def __init__(self, reserved: Sequence[tuple[int, int, int]] = ()) -> None:
        """`reserved` as in `BootRequest`: RAM that is not the kernel's."""
        self.reserved = tuple(reserved)
        self._until: int | None = None
        self.services15: dict[int, Service] = {
            0x24: self._a20,
            0x4F: self._pass_key,
            0x52: self._eject,
            0x83: self._event,
            0x86: self._wait,
            0x87: self._move,
            0x88: self._extended_kib,
            0x90: self._busy,
            0x91: self._busy,
            0xC0: self._configuration,
            0xC1: self._extended_data_area,
            0xE8: self._memory,
        }

    def save(self) -> State:
        """Return until when INT 15h AH=86h waits."""
        return self._make_state(until=self._until)

    def load(self, state: State) -> None:
        """Take a saved state."""
        (self._until,) = self._parts_of(state, until=int | None)

    def equipment(self, call: Call) -> None:
        """INT 11h."""
        call.ax = call.read_bda(_EQUIPMENT, 2)

    def base_memory(self, call: Call) -> None:
        """INT 12h."""
        call.ax = call.read_bda(_MEMORY_KIB, 2)

    def tick(self, call: Call) -> None:
        """IRQ 0: let the time of AH=83h pass."""
        if not call.read_bda(_EVENT_WAITS) & 1:
            return
        left = call.read_bda(_EVENT_TIME, 4) - _TICK_US
        call.write_bda(_EVENT_TIME, max(left, 0), 4)
        if left <= 0:
            call.write_bda(_EVENT_WAITS, 0)
            flag = (call.read_bda(_EVENT_FLAG + 2, 2) << 4) + call.read_bda(_EVENT_FLAG, 2)
            call.memory.write(flag, 1, call.memory.read(flag, 1) | 0x80, "device")

    # --- INT 15h ----------------------------------------------------------------------------------

    def _a20(self, call: Call) -> bool:
        """A20 cannot be shut here: it is always open."""
        if call.al == 2:
            call.al = 1
        elif call.al == 3:
            call.bx = 3
        elif call.al not in (0, 1):
            return False
        call.ah = 0
        call.carry(False)
        return True

    def _pass_key(self, call: Call) -> None:
        """AH=4Fh: the key is taken as it is, which CF set says."""
        call.carry(True)

    def _eject(self, call: Call) -> None:
        """AH=52h: nobody minds that a disk is taken out."""
        call.ah = 0
        call.carry(False)

    def _busy(self, call: Call) -> None:
        """AH=90h and 91h: a device is waited for, or ready. For multitasking systems to take."""

    def _event(self, call: Call) -> bool:
        """AH=83h: set bit 7 of the byte at ES:BX in CX:DX microseconds (AL=0), or do not (AL=1)."""
        if call.al > 1 or (call.al == 0 and call.read_bda(_EVENT_WAITS) & 1):
            return False
        call.write_bda(_EVENT_WAITS, 1 - call.al)
        if call.al == 0:
            call.write_bda(_EVENT_FLAG, call.bx, 2)
            call.write_bda(_EVENT_FLAG + 2, call.regs.es.selector, 2)
            call.write_bda(_EVENT_TIME, call.cx << 16 | call.dx, 4)
        call.carry(False)
        return True

    def _configuration(self, call: Call) -> None:
        """AH=C0h: ES:BX is the table at F000:E6F5."""
        call.set_segment("es", 0xF000)
        call.bx, call.ah = CONFIGURATION, 0
        call.carry(False)

    def _extended_data_area(self, call: Call) -> None:
        """AH=C1h: ES is its segment."""
        call.set_segment("es", call.read_bda(_EBDA, 2))
        call.carry(False)

    def _wait(self, call: Call) -> None:
        """CX:DX microseconds of virtual time; the stub comes back until they are over."""
        now = call.host.now()
        if self._until is None:
            self._until = now + 1000 * (call.cx << 16 | call.dx)
        if now < self._until:
            call.again_after_delay()
            return
        self._until = None
        call.carry(False)

    def _move(self, call: Call) -> None:
        """CX words from the source to the target descriptor of the table at ES:SI."""
        table = call.linear("es", call.si)
        source, target = (self._descriptor_base(call, table + offset) for offset in (0x10, 0x18))
        status = 0
        if call.cx > _MAX_MOVE:
            status = 2
        else:
            data = call.memory.read_block(source, 2 * call.cx)
            call.memory.write_block(target, data, "device")
        call.ah = status
        call.carry(status != 0)

    @staticmethod
    def _descriptor_base(call: Call, gpa: int) -> int:
        raw = call.memory.read(gpa, 8)
        return raw >> 16 & 0xFFFFFF | raw >> 32 & 0xFF000000

    def _upper_kib(self, call: Call) -> int:
        return upper_kib(memory_map(call.memory, self.reserved))

    def _extended_kib(self, call: Call) -> None:
        call.ax = min(self._upper_kib(call), 0xFFFF)
        call.carry(False)

    def _memory(self, call: Call) -> bool:
        if call.al == 0x20 and call.regs.rdx & 0xFFFFFFFF == _SMAP:
            return self._e820(call)
        if call.al not in (0x01, 0x81):
            return False
        upper = self._upper_kib(call)
        low, blocks = min(upper, _MIB16 - 1024), max(upper - (_MIB16 - 1024), 0) >> 6
        if call.al == 0x01:
            call.ax = call.cx = low
            call.bx = call.dx = min(blocks, 0xFFFF)
        else:
            call.regs.rax = call.regs.rcx = low
            call.regs.rbx = call.regs.rdx = blocks
        call.carry(False)
        return True

    def _e820(self, call: Call) -> bool:
        ranges = memory_map(call.memory, self.reserved)
        index = call.regs.rbx & 0xFFFFFFFF
        size = call.regs.rcx & 0xFFFFFFFF
        if index >= len(ranges) or size < 20:
            call.ah = _UNSUPPORTED
            call.carry(True)
            return True
        call.memory.write_block(
            call.linear("es", call.di), struct.pack("<QQI", *ranges[index]), "device"
        )
        call.regs.rax, call.regs.rcx = _SMAP, 20
        call.regs.rbx = index + 1 if index + 1 < len(ranges) else 0
        call.carry(False)
        return True
