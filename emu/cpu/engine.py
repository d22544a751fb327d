# SPDX-License-Identifier: GPL-2.0-or-later
"""One Unicorn engine: what lies at its physical addresses, and which hooks it calls.

Physical addresses as the engine sees them (virtual TLB)::

    0 .. 2**40           RAM and ROM, where they are
    2**40 .. 2**41       the trap window: every access calls back with its guest-physical address
    2**41                two pages of ones: what a fetch from a device or a hole reads, and the MSR
                         bitmap that intercepts all; then the VMCB, which says where that is
    2**42 .. 2**42+2**40 the watch window, the same for pages with data breakpoints (emu.cpu.debug)

Under the native plug-in there is no trap window: devices and holes lie at their true addresses.
"""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Any

from emu.cpu import compiled, raw
from emu.cpu import hidden as H
from emu.cpu.calibration import layout
from emu.cpu.compiled import CompiledCode, StateBlock
from emu.cpu.fill import SPECIAL_PAGES, TRAP_WINDOW
from mmu.api import Mmu
from mmu.memory import Memory, Slot

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["VMCB", "Engine"]

VMCB = SPECIAL_PAGES + 0x2000
_FIRST_BLOCK = 0xF00  # in the page of the VMCB


class Engine:
    """An engine that is open until `close`.

    `hidden` is its state, live, and `state_block` what its compiled hooks share with Python.
    `counts_blocks` says that its clock counts blocks, `serves_events` that compiled code stands in
    front of the interrupt hook.
    """

    def __init__(
        self, mmu: Mmu, memory: Memory, code: CompiledCode | None, *, count_blocks: bool
    ) -> None:
        """Open an engine over `memory`; with `count_blocks` blocks are its clock, if they can be.

        Raises CalibrationError for an unknown Unicorn.
        """
        where = layout()
        self.is_native = mmu.name == "native"
        self._memory = memory
        self._code = code
        self.handle = raw.open_engine(raw.MODEL_ICELAKE_SERVER)
        self.hidden = H.HiddenState(self.handle, where)
        self.state_block = StateBlock()
        self._block_counter = self._find_block_counter() if count_blocks else None
        self.counts_blocks = self._block_counter is not None
        walks = code is not None and mmu.compiled_block(0) is not None
        self.serves_events = self.counts_blocks and walks
        self.stop_between_blocks(True)
        self._keep: list[Any] = []
        self._slots: dict[int, Slot] = {}
        self._map_special_pages()
        self.sync_slots()

    def close(self) -> None:
        """Free the engine; nothing that looks at it may be used any more."""
        if self.handle:
            handle, self.handle = self.handle, 0
            raw.close(handle)

    def stop_between_blocks(self, wanted: bool) -> None:
        """Have code that is translated from now on look at orders to stop where a block begins,
        and not behind every load, store and code hook; a third faster.

        Nothing asks to stop elsewhere but the instruction counter and code hooks: while one of
        them is there, it must be off. The native plug-in's memory errors are such orders, too.
        """
        flag = self.hidden.no_exit_request
        if flag is not None:
            flag[0] = wanted and self.counts_blocks and not self.is_native

    # --- Physical addresses -------------------------------------------------------------------

    def _map_special_pages(self) -> None:
        size = 0x3000
        buffer = (ctypes.c_uint8 * (size + 0x1000))()
        base = -(-ctypes.addressof(buffer) // 0x1000) * 0x1000
        ctypes.memset(base, 0xFF, 0x2000)
        vmcb = struct.pack("<72xQ", SPECIAL_PAGES)  # control.msrpm_base_pa
        ctypes.memmove(base + 0x2000, vmcb, len(vmcb))
        self._keep.append(buffer)
        # Unicorn tells of every block that it translates but an engine's first: let it be this one.
        ctypes.memmove(base + 0x2000 + _FIRST_BLOCK, b"\xeb\x00\xf4", 3)  # jmp to hlt
        raw.map_memory(self.handle, SPECIAL_PAGES, size, raw.PROT_ALL, base)
        raw.start(self.handle, VMCB + _FIRST_BLOCK, 0)

    def sync_slots(self) -> None:
        """Show RAM and ROM as they now are; devices are reached by the trap window.

        Call it when a slot has come or gone, and not while the engine runs.
        """
        wanted = {slot.gpa: slot for slot in self._memory.slots() if slot.device is None}
        for gpa, slot in list(self._slots.items()):
            if wanted.get(gpa) is not slot:
                raw.unmap(self.handle, gpa, slot.size)
                del self._slots[gpa]
        for gpa, slot in wanted.items():
            if gpa not in self._slots:
                raw.map_memory(self.handle, gpa, slot.size, raw.PROT_ALL, slot.host)
                self._slots[gpa] = slot
        # The largest pieces of RAM are what compiled code looks at.
        ram = sorted((s for s in wanted.values() if s.kind == "ram"), key=lambda s: -s.size)
        words = self.state_block.words[compiled.RAM // 8 : compiled.NOTED // 8]
        for number in range(compiled.RAM_SLOTS):
            gpa, end, host = 0, 0, 0
            if number < len(ram):
                gpa, end, host = ram[number].gpa, ram[number].end, ram[number].host
            words[3 * number] = gpa
            words[3 * number + 1] = end
            words[3 * number + 2] = host - gpa & (1 << 64) - 1

    # --- Hooks --------------------------------------------------------------------------------

    def install(self, cpu: Vcpu) -> None:
        """Have the engine call the hooks of `cpu`, compiled ones first where there are some."""
        self._install_memory(cpu)
        handle, state = self.handle, self.state_block
        if self._block_counter is not None:
            state.words[compiled.STOP // 8] = raw.stop_address()
            raw.add_hook(handle, raw.HOOK_BLOCK, self._block_counter, data=state.address)
        interrupt = raw.INTR_CALLBACK(cpu.events.serve)
        int6 = raw.INVALID_CALLBACK(cpu.events.serve_int6)
        self._keep.extend((interrupt, int6))
        raw.add_hook(handle, raw.HOOK_INSN_INVALID, int6)
        cpu.translation.install(self._keep)
        cpu.sites.install(self._keep, state, self._code if self.serves_events else None)
        if self.serves_events:
            self._show_compiled_code(raw.address_of(interrupt))
            assert self._code is not None
            raw.add_hook(handle, raw.HOOK_INTR, self._code.interrupt, data=state.address)
            cpu.hooks.install(handle, self._keep, self._code.syscall)
        else:
            raw.add_hook(handle, raw.HOOK_INTR, interrupt)
            cpu.hooks.install(handle, self._keep)

    def _install_memory(self, cpu: Vcpu) -> None:
        """Hook what the engine finds no memory for: by its TLB, or (native) where holes are."""
        if self.is_native:
            from emu.cpu.native import map_holes

            self._keep.append(map_holes(self.handle, self._memory, cpu.hooks.guarded))
            return
        mmio = (
            raw.MMIO_READ_CALLBACK(cpu.hooks.trapped_read),
            raw.MMIO_WRITE_CALLBACK(cpu.hooks.trapped_write),
        )
        self._keep.extend(mmio)
        raw.use_virtual_tlb(self.handle)
        if self.serves_events:
            assert self._code is not None
            state = self.state_block
            state.words[compiled.PYTHON_READ // 8] = raw.address_of(mmio[0])
            read = self._code.read_device
            raw.map_mmio(self.handle, TRAP_WINDOW, 1 << 40, read, mmio[1], state.address)
        else:
            raw.map_mmio(self.handle, TRAP_WINDOW, 1 << 40, *mmio)
        cpu.fills.install(self._keep)
        cpu.debug.install(self._keep)

    def _find_block_counter(self) -> int | None:
        """Return the address of `count_block` as machine code: ours, or else the compiled one."""
        from emu.cpu import blockclock

        counter = blockclock.block_counter()
        if counter is None and self._code is not None:
            counter = self._code.count_block
        return counter

    def _show_compiled_code(self, interrupt: int) -> None:
        """Tell compiled code where everything is that serving events takes."""
        words, hidden = self.state_block.words, self.hidden
        words[compiled.PYTHON_INTERRUPT // 8] = interrupt
        words[compiled.EXCEPTION_INDEX // 8] = raw.address_of_view(hidden.exception_index)
        words[compiled.EXIT_REQUEST // 8] = raw.address_of_view(hidden.exit_request)
        words[compiled.INVALID // 8] = raw.address_of_view(hidden.invalid_error) - 8
        words[compiled.READ_REGISTER // 8] = raw.read_address()
