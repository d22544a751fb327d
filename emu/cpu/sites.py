# SPDX-License-Identifier: GPL-2.0-or-later
"""Instructions that the engine gets wrong and that no intercept catches, looked at one by one.

    a block is translated --> `_translated` finds them in its bytes, and hooks their addresses
    one is to be executed --> `_before` looks at its operands first

Unicorn calls UC_HOOK_EDGE_GENERATED for each block that it has translated and not yet executed. A
block with a new site is translated again, with a code hook at the one address: all other code stays
as fast as it was. What must not be executed is taken back (`Hooks.abort`).

    IRET, far RET, far JMP, far CALL   a target that is not canonical: #GP(0) on the instruction.
                                       The accessed bits of what they load (SDM 3A 3.4.5.1).
    IRET at CPL 3                      VM in the image is ignored (SDM 2A)
    SYSRET                             a target that is not canonical: #GP(0) at CPL 0 (SDM 2B)
    INS, OUTS outside IOPL             the I/O permission comes before memory (SDM 1 19.5)
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from emu.cpu import hidden as H
from emu.cpu import raw
from emu.cpu.compiled import PYTHON_SITE, CompiledCode, StateBlock
from emu.cpu.decode import instruction_length, length_of_prefixes, memory_operand_address
from emu.cpu.delivery import Descriptor, check_io_permission
from emu.cpu.faults import Event, Fault, Vector
from emu.cpu.registers import (
    DESC_A,
    DESC_C,
    DESC_CODE,
    DESC_P,
    DESC_S,
    DESC_W,
    EFLAGS_AC,
    EFLAGS_NT,
    EFLAGS_TF,
    EFLAGS_VM,
    SS,
)
from mmu.arch import ACCESS_AC, ACCESS_IMPLICIT, ACCESS_READ, ACCESS_USER

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["Sites", "sites"]

_MOST_SITES = 1024
_IRET, _RETF, _RETF_IMM, _JMP_FAR, _CALL_FAR = 0xCF, 0xCB, 0xCA, 0xEA, 0x9A
_RETURNS = (b"\xcf", b"\xcb")
_LONGEST = 8  # of a far JMP or CALL through memory, without prefixes
_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_INDIRECT = 0xFF
_SYSRET = 0x07  # behind 0F
_STRING_IO = frozenset(range(0x6C, 0x70))
_REP = frozenset(b"\xf2\xf3")
_CALL_GATES = frozenset({4, 12})
_CR4_LA57 = 1 << 12
_EFER_SCE = 1 << 0
_HALF = 1 << 47  # of the addresses that are canonical under 4-level paging
_FRAME = struct.Struct("<5Q")


class Sites:
    """The sites of one vCPU."""

    def __init__(self, cpu: Vcpu, handle: int) -> None:
        """Serve `cpu`, whose engine is `handle`."""
        self._cpu = cpu
        self._handle = handle
        self._regs = cpu.regs
        self._linear = cpu.linear
        self._d = cpu.hidden.d
        self._q = cpu.hidden.q
        self._blocks = raw.TranslatedBlocks()
        self._read = raw.CodeReader(handle)
        self._hooks: dict[int, int] = {}  # linear address -> hook
        self._before_callback: Any = raw.CODE_CALLBACK(self._before)
        self._data = 0

    def install(self, keep: list[Any], state: StateBlock, code: CompiledCode | None) -> None:
        """Have the engine tell of each block that it translates. Compiled `code` looks at sites
        before Python does, and shares `state` with it."""
        callback = raw.EDGE_CALLBACK(self._translated)
        keep.extend((callback, self._before_callback))
        raw.add_hook(self._handle, raw.HOOK_EDGE_GENERATED, callback)
        if code is not None:
            state.words[PYTHON_SITE // 8] = raw.address_of(self._before_callback)
            self._before_callback, self._data = code.look_at_site, state.address

    # --- Finding them -----------------------------------------------------------------------------

    def _translated(self, _uc: int, block: int, _previous: int, _data: int) -> None:
        """UC_HOOK_EDGE_GENERATED: RIP is where the block begins. 2 us, once for each block."""
        try:
            if not self._d[H.HFLAGS_D] & H.HF_PE or self._cpu.hooks.is_aborting:
                return
            address, size = self._blocks(block)
            code = self._read(address, size)
            checks_ports = self._checks_ports()
            found = sites(code, self._cpu.bits, checks_ports)
            if found:
                if checks_ports:  # those may be anywhere: most are bytes of something else
                    found &= self._starts(code)
                new = sorted({address + at for at in found} - self._hooks.keys())
                if new:
                    self._hook(address, new)
        except BaseException as error:
            self._cpu.fail(error)

    def _hook(self, block: int, addresses: list[int]) -> None:
        """Hook these addresses, and have the block that they are in translated again."""
        is_full = len(self._hooks) + len(addresses) > _MOST_SITES
        if is_full:
            for hook in self._hooks.values():
                raw.delete_hook(self._handle, hook)
            self._hooks.clear()
        for address in addresses:
            self._hooks[address] = raw.add_hook(
                self._handle,
                raw.HOOK_CODE,
                self._before_callback,
                data=self._data,
                within=(address, address),
            )
        self._cpu.slice.translate_again(None if is_full else block)

    def _starts(self, code: bytes) -> set[int]:
        """Return where in a block of code instructions start; all that is not understood might be
        one."""
        starts, at = set(), 0
        while at < len(code):
            starts.add(at)
            length = instruction_length(code[at : at + 15], self._cpu)
            if not length:
                return starts.union(range(at, len(code)))
            at += length
        return starts

    def _checks_ports(self) -> bool:
        flags = self._d[H.EFLAGS_D]
        return bool(flags & EFLAGS_VM) or self._regs.cpl > flags >> 12 & 3

    # --- Looking at them --------------------------------------------------------------------------

    def _before(self, _uc: int, _address: int, _size: int, _data: int) -> None:
        """UC_HOOK_CODE: what was a site when it was translated is about to be executed."""
        cpu = self._cpu
        if cpu.hooks.is_aborting:
            return
        try:
            code = cpu.read_code(15)
            if self._is_usual(code):
                return
            action = self._look(code)
            if action is not None:
                cpu.hooks.abort(action)
        except Fault as fault:
            event = Event(fault.vector, error_code=fault.error_code, cr2=fault.cr2)
            cpu.hooks.abort(partial(cpu.events.deliver, event))
        except BaseException as error:
            cpu.fail(error)

    def _is_usual(self, code: bytes) -> bool:
        """Return whether this is an IRETQ or SYSRETQ of a kernel that the engine does right: what
        `emu.cpu.compiled_sites.is_usual` says, where there is compiled code. 2 us."""
        q, d, views = self._q, self._d, self._linear.views
        if d[H.HFLAGS_D] & (H.HF_CS64 | H.HF_CPL) != H.HF_CS64:
            return False
        if code[:3] == b"\x48\x0f\x07":
            return not q[1] + _HALF >> 48 & 0xFFFF
        rsp = q[4]
        view, at = views.get((rsp >> 12) << 10 | ACCESS_READ), rsp & 0xFFF
        if code[:2] != b"\x48\xcf" or view is None or at > 0xFD8 or d[H.EFLAGS_D] & EFLAGS_NT:
            return False
        rip, cs, _, _, ss = _FRAME.unpack_from(view, at)
        return not rip + _HALF >> 48 & 0xFFFF and self._is_accessed(cs) and self._is_accessed(ss)

    def _is_accessed(self, selector: int) -> bool:
        """Return whether a selector is null or that of an accessed segment, if that is easily
        seen."""
        selector &= 0xFFFC
        base = self._q[H.GDT_D + 2 >> 1]
        if not selector:
            return True
        if selector & 4 or base & 7 or selector + 7 > self._d[H.GDT_D + 4]:
            return False
        at = base + selector
        words = self._linear.words.get((at >> 12) << 10 | ACCESS_IMPLICIT)
        return words is not None and bool(words[(at & 0xFFF) >> 3] >> 32 & DESC_A)

    def _look(self, code: bytes) -> Callable[[], None] | None:
        """Return what is to be done in the instruction's stead, if anything; raises Fault."""
        bits = self._cpu.bits
        at = length_of_prefixes(code, bits)
        prefixes, opcode = code[:at], code[at]
        rest = code[at + 1 :].ljust(1, b"\0")
        if opcode in _STRING_IO:
            self._check_ports(prefixes, opcode)
        elif opcode == 0x0F and rest[0] == _SYSRET:
            self._sysret(prefixes)
        elif not self._d[H.EFLAGS_D] & EFLAGS_VM and self._regs.cr0 & 1:
            width = _operand_size(prefixes, bits)
            if opcode == _IRET:
                return self._iret(width)
            if opcode in (_RETF, _RETF_IMM):
                imm = int.from_bytes(rest[:2], "little") if opcode == _RETF_IMM else 0
                self._far_return(width, 2 * width + imm)
            elif opcode == _INDIRECT or bits != 64:
                self._far_transfer(code, opcode, rest, width)
        return None

    def _check_ports(self, prefixes: bytes, opcode: int) -> None:
        if not self._checks_ports():
            return
        regs, bits = self._regs, self._cpu.bits
        if not _REP.isdisjoint(prefixes):
            narrow = 0x67 in prefixes
            width = {16: 4 if narrow else 2, 32: 2 if narrow else 4, 64: 4 if narrow else 8}[bits]
            if not regs.rcx & (1 << 8 * width) - 1:
                return
        size = 1 if not opcode & 1 else 2 if (0x66 in prefixes) != (bits == 16) else 4
        check_io_permission(regs, self._linear, regs.rdx & 0xFFFF, size)

    def _sysret(self, prefixes: bytes) -> None:
        regs = self._regs
        wide = bool(prefixes) and prefixes[-1] & 0xF8 == 0x48
        if wide and self._cpu.bits == 64 and not regs.cpl and regs.efer & _EFER_SCE:
            self._check_canonical(regs.rcx)

    def _iret(self, width: int) -> Callable[[], None] | None:
        regs = self._regs
        cpl = regs.cpl
        if self._d[H.EFLAGS_D] & EFLAGS_NT:
            return None  # a task switch, or refused
        if width == 4 and self._stack(8, 4) & EFLAGS_VM:
            return self._iret_at_cpl_3 if cpl == 3 else None
        self._far_return(width, 3 * width, always_loads_stack=self._cpu.bits == 64)
        return None

    def _far_return(self, width: int, above: int, *, always_loads_stack: bool = False) -> None:
        """Look at a return to [RSP]; a stack pointer and SS that it loads are at RSP + `above`."""
        cpl = self._regs.cpl
        offset, selector = self._stack(0, width), self._stack(width, 2)
        code = self._usable(selector, is_code=True)
        rpl = selector & 3
        if code is None or rpl < cpl or not _dpl_fits(code.flags, code.dpl, rpl):
            return  # the engine will refuse it
        stack = None
        if rpl > cpl or always_loads_stack:
            stack = self._usable(self._stack(above + width, 2), is_code=False)
        self._check_canonical(offset)
        self._access(code)
        self._access(stack)

    def _far_transfer(self, code: bytes, opcode: int, rest: bytes, width: int) -> None:
        """Look at a far JMP or CALL."""
        cpu, cpl = self._cpu, self._regs.cpl
        if opcode in (_JMP_FAR, _CALL_FAR):
            offset = int.from_bytes(rest[:width], "little")
            selector = int.from_bytes(rest[width : width + 2], "little")
        elif opcode == _INDIRECT and rest[0] >> 3 & 7 in (3, 5) and rest[0] >> 6 != 3:
            gva = memory_operand_address(code, cpu)
            if gva is None:
                return
            access = self._user_access()
            offset = self._linear.read(gva, width, access)
            selector = self._linear.read(gva + width & (1 << 64) - 1, 2, access)
        else:
            return
        found = self._usable(selector, is_code=True)
        if found is None:
            self._gate(selector, is_call=opcode == _CALL_FAR or rest[0] >> 3 & 7 == 3)
        else:
            conforming = found.flags & DESC_C
            if found.dpl <= cpl if conforming else found.dpl == cpl and selector & 3 <= cpl:
                self._check_canonical(offset)
                self._access(found)

    def _gate(self, selector: int, *, is_call: bool) -> None:
        """Look at a far JMP or CALL through a call gate (SDM 3A 5.8.3)."""
        delivery, cpl = self._cpu.delivery, self._regs.cpl
        try:
            gate = delivery.descriptor(selector, Vector.GP, 0) if selector & 0xFFFC else None
            if gate is None or gate.flags & (DESC_S | DESC_P) != DESC_P:
                return
            if gate.flags >> 8 & 0xF not in _CALL_GATES or gate.dpl < max(cpl, selector & 3):
                return
            code = self._usable(gate.base & 0xFFFF, is_code=True)
            if code is None or code.dpl > cpl:
                return
            if is_call and not code.flags & DESC_C and code.dpl < cpl:
                if not self._d[H.HFLAGS_D] & H.HF_LMA:
                    delivery.inner_stack(code.dpl, 0)  # and its accessed bit
                    self._linear.commit()
            elif not code.flags & DESC_C and code.dpl != cpl:
                return
        except Fault as fault:
            if fault.vector != Vector.PF:
                return  # the engine will find it
            raise
        self._access(code)

    # --- Parts ------------------------------------------------------------------------------------

    def _user_access(self) -> int:
        if self._regs.cpl == 3:
            return ACCESS_USER
        return ACCESS_READ | (ACCESS_AC if self._d[H.EFLAGS_D] & EFLAGS_AC else 0)

    def _stack(self, offset: int, size: int) -> int:
        """Return what is on the stack; raises Fault."""
        regs = self._regs
        if self._d[H.HFLAGS_D] & H.HF_CS64:
            gva = regs.rsp + offset & (1 << 64) - 1
        else:
            mask = 0xFFFF_FFFF if self._d[H.HFLAGS_D] & H.HF_SS32 else 0xFFFF
            gva = regs.segment_base(SS) + (regs.rsp + offset & mask) & 0xFFFF_FFFF
        return self._linear.read(gva, size, self._user_access())

    def _check_canonical(self, rip: int) -> None:
        shift = 56 if self._regs.cr4 & _CR4_LA57 else 47
        if rip >> shift not in (0, (1 << 64 - shift) - 1):
            raise Fault(Vector.GP)

    def _usable(self, selector: int, *, is_code: bool) -> Descriptor | None:
        """Return a descriptor that is present and of its kind, or None."""
        if not selector & 0xFFFC:
            return None
        try:
            found = self._cpu.delivery.descriptor(selector, Vector.GP, 0)
        except Fault as fault:
            if fault.vector == Vector.PF:
                raise
            return None
        kind = DESC_S | DESC_CODE if is_code else DESC_S | DESC_W
        mask = DESC_S | DESC_CODE | (0 if is_code else DESC_W)
        return found if found.flags & DESC_P and found.flags & mask == kind else None

    def _access(self, found: Descriptor | None) -> None:
        """Set the accessed bit of a descriptor that is about to be loaded; raises Fault."""
        if found is not None:
            self._cpu.delivery.access(found)

    def _iret_at_cpl_3(self) -> None:
        """Do an IRETD at CPL 3, which can only return to CPL 3 and leaves VM and IOPL as they are
        (SDM 2A, IRET)."""
        cpu, regs, d = self._cpu, self._regs, self._d
        traps = d[H.EFLAGS_D] & EFLAGS_TF
        try:
            self._linear.begin()
            offset, selector, image = (self._stack(4 * n, 4) for n in range(3))
            cpu.delivery.return_to_cpl_3(offset, selector & 0xFFFF, image)
        except Fault as fault:
            cpu.intercepts.fault(fault)
            return
        mask = 0xFFFF_FFFF if d[H.HFLAGS_D] & H.HF_SS32 else 0xFFFF
        regs.rsp = regs.rsp & ~mask | regs.rsp + 12 & mask
        d[H.HFLAGS_D] &= ~H.HF_INHIBIT_IRQ
        d[H.HFLAGS2_D] &= ~H.HF2_NMI
        if traps:
            cpu.debug.single_step()


def _operand_size(prefixes: bytes, bits: int) -> int:
    """Return the operand size of a far transfer in bytes."""
    if bits == 64 and prefixes and prefixes[-1] & 0xF8 == 0x48:
        return 8
    return 2 if (0x66 in prefixes) != (bits == 16) else 4


def _dpl_fits(flags: int, dpl: int, rpl: int) -> bool:
    """Return whether a far return may load a code segment (SDM 2A, RET)."""
    return dpl <= rpl if flags & DESC_C else dpl == rpl


def sites(code: bytes, bits: int, checks_ports: bool) -> set[int]:
    """Return where in a block of code there may be sites: at every place that could be the start
    of one. A hook in the middle of another instruction is never called.

    All but INS and OUTS end their block.
    """
    size = len(code)
    found = set()
    if code[-1:] in _RETURNS:
        found.add(size - 1)
    elif code[-2:] == b"\x0f\x07":
        found.add(size - 2)
    if code[-3:-2] == b"\xca":
        found.add(size - 3)
    tail = code[-_LONGEST:]
    if 0xFF in tail:
        for at in range(size - len(tail), size - 1):
            is_far = code[at] == _INDIRECT and code[at + 1] >> 3 & 7 in (3, 5)
            if is_far and at + 1 + _modrm_bytes(code[at + 1 :]) >= size:
                found.add(at)
    if bits != 64:
        found.update(size - n for n in (5, 7) if size >= n and code[-n] in (_JMP_FAR, _CALL_FAR))
    if checks_ports and not _STRING_IO.isdisjoint(code):
        found.update(at for at in range(size) if code[at] in _STRING_IO)
    for at in tuple(found):
        while at and (code[at - 1] in _PREFIXES or (bits == 64 and code[at - 1] & 0xF0 == 0x40)):
            at -= 1
            found.add(at)
    return found


def _modrm_bytes(code: bytes) -> int:
    """Return the most bytes that a memory operand takes with any address size, ModRM included."""
    mod, rm = code[0] >> 6, code[0] & 7
    if mod == 3:
        return 1
    sib = rm == 4
    none = mod == 0 and (rm in (5, 6) or (sib and len(code) > 1 and code[1] & 7 == 5))
    return 1 + sib + (4 if mod == 2 or none else mod)
