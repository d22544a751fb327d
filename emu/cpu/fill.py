# SPDX-License-Identifier: GPL-2.0-or-later
"""TLB misses: the hook that asks the MMU, and what fills and empties the engine's TLB.

    engine --TLB miss--> `fill` in compiled code (emu.cpu.compiled), where there is some
                     --> `fill` in Python --> mmu.translate --> a TLB entry, or a refusal

A refused fill leaves the instruction undone. The hook sets an exception index of ours before it
refuses, and the interrupt hook (emu.cpu.events) delivers what the refusal means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from emu.cpu import compiled, raw
from emu.cpu import hidden as H
from emu.cpu.compiled import CompiledCode
from emu.cpu.decode import length_of_prefixes, operand_bytes, stack_bytes, touches_descriptors
from emu.cpu.decode import memory_operand_address as operand_address
from emu.cpu.registers import EFLAGS_AC, TR
from mmu.api import (
    FRAME_MASK,
    MAP_EXEC,
    MAP_READ,
    MAP_TRAP,
    Answer,
    NotCanonical,
    PageFault,
    PagingRegisters,
)
from mmu.arch import (
    ACCESS_AC,
    ACCESS_FETCH,
    ACCESS_IMPLICIT,
    ACCESS_READ,
    ACCESS_USER,
    ACCESS_WRITE,
)

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["NOT_CANONICAL", "PAGE_FAULT", "SPECIAL_PAGES", "TRAP_WINDOW", "Fills"]

TRAP_WINDOW = 1 << 40
SPECIAL_PAGES = 1 << 41

PAGE_FAULT = compiled.PAGE_FAULT  # our own exception indices: a refused fill
NOT_CANONICAL = PAGE_FAULT + 1
WATCHED = PAGE_FAULT + 2  # a page with a data breakpoint: emu.cpu.debug

_CODE_DROP = 1 << 63
_RCX = 1
_LONG_FILL = 64
"""Stores that are plainly no setting of entries, as VirtualBox counts; a small kernel may well set
a few of them by REP STOS."""
_CR4_SMAP = 1 << 21
_CR4_PKE = 1 << 22
_FILLS_BEFORE_GROWING = 512
_MOST_FILLS_BETWEEN_FLUSHES = 1 << 22
_LEFT = compiled.FILLS_LEFT // 8
_TR_BASE = compiled.TR_BASE // 8
_TR_BASE_Q = H.TR_D + 2 >> 1
_REFUSED = compiled.REFUSED // 8
_NOTHING = NotCanonical(0)


class _Entries(dict[int, memoryview]):
    """Views of Unicorn's `uc_tlb_entry`, which it has in very few places, by address."""

    def __missing__(self, address: int) -> memoryview:
        words = self[address] = raw.tlb_entry(address)
        return words


class Fills:
    """The TLB of one vCPU, as far as it is ours: what it is told, and when it is emptied.

    Compiled code refuses some fills by itself; see `take_refusal`.
    """

    def __init__(self, cpu: Vcpu, handle: int, code: CompiledCode | None) -> None:
        """Serve `cpu`, whose engine is `handle`, by compiled `code` where there is some."""
        self._cpu = cpu
        self._handle = handle
        self._flush = raw.TlbFlusher(handle)
        self._before_flush = cpu.slice.tlb.before_flush
        self._code = code
        self._mmu = cpu.mmu
        self._index = cpu.index
        self._hidden = cpu.hidden
        self._regs = cpu.regs
        self._linear = cpu.linear
        self._state = cpu.state_block
        self._callback: tuple[Any, int] = 0, 0
        self._hook = 0
        self._keep: list[Any] | None = None  # None: the MMU is native
        self._refusal: PageFault | NotCanonical | None = None
        self._fills_between_flushes = _FILLS_BEFORE_GROWING
        self._left = _FILLS_BEFORE_GROWING  # fills until the TLB is to grow
        self._dropping = -1
        self._tr_base = 0
        self._loaded_cr3 = 0
        self._loaded_pkru = 0
        self._pke = False
        self._smap = False
        self._is_guarded = False  # by either
        self._task_switch: tuple[int, int] | None = None  # (TSS base, RIP of the instruction)

    def install(self, keep: list[Any]) -> None:
        """Hook TLB fills: by Python, or by compiled code that calls Python for what is left."""
        self._keep = keep
        fill = self._make_fill()
        block = self._mmu.compiled_block(self._index) if self._code is not None else None
        code = self._code if block is not None else None
        self.fill = fill if code is None else self._behind_compiled_code(fill)
        python = raw.FILL_CALLBACK(self.fill)
        keep.append(python)
        self._callback = python, 0
        if code is None or block is None:
            self.come_last()
            return
        words = self._state.words
        keep.append(block)
        words[compiled.ENV // 8] = self._hidden.env_address
        words[compiled.HIT_BLOCK // 8] = block.address
        words[compiled.PYTHON_FILL // 8] = raw.address_of(python)
        self._callback = code.fill, self._state.address
        self.come_last()

    def bind_translate(self) -> None:
        """Call the MMU's `translate` as it now is."""
        if self._keep is not None:
            self.install(self._keep)

    def come_last(self) -> None:
        """Be asked about TLB misses behind all others that have hooked them."""
        if self._hook:
            raw.delete_hook(self._handle, self._hook)
        callback, data = self._callback
        self._hook = raw.add_hook(self._handle, raw.HOOK_TLB_FILL, callback, data=data)

    def _behind_compiled_code(
        self, fill: Callable[[int, int, int, int], bool]
    ) -> Callable[[int, int, int, int], bool]:
        """Return the hook for what compiled code leaves, which counts fills by itself."""
        words, d = self._state.words, self._hidden.d

        def rest(uc: int, gva: int, kind: int, entry: int) -> bool:
            self._left = words[_LEFT]
            if d[H.HFLAGS_D] & H.HF_LMA:
                self._note_task_register()  # which compiled code looks at in every mode
            answered = fill(uc, gva, kind, entry)
            words[_LEFT] = max(self._left, 0)
            return answered

        return rest

    def reload_paging(self) -> None:
        """Empty the TLB and tell the MMU the control registers as they are now.

        No task switch may be under way; see `load_cr3`."""
        self._note_task_register()
        self._reload_paging()

    def _note_task_register(self) -> None:
        """Take TR for that of the running task."""
        self._tr_base = self._state.words[_TR_BASE] = self._hidden.q[_TR_BASE_Q]

    def _reload_paging(self) -> None:
        self.flush_tlb()
        q = self._hidden.q
        cr4 = q[H.CR_Q + 4]
        self._pke = bool(cr4 & _CR4_PKE)
        self._smap = bool(cr4 & _CR4_SMAP)
        self._is_guarded = self._pke or self._smap
        self._loaded_cr3 = self._state.words[compiled.CR3 // 8] = q[H.CR_Q + 3]
        self._state.words[compiled.SMAP // 8] = self._smap
        self._loaded_pkru = pkru = self._hidden.d[H.PKRU_D] if self._pke else 0
        self._state.words[compiled.PKRU // 8] = pkru if self._pke else compiled.KEYS_OFF
        self._mmu.load(
            self._index,
            PagingRegisters(q[H.CR_Q], self._loaded_cr3, cr4, q[H.EFER_Q], pkru),
        )

    def flush_tlb(self) -> None:
        """Empty the TLB; also inside hooks. 1.4 us."""
        self._linear.flush()
        left = 0 if self._cpu.hooks.is_aborting else self._fills_between_flushes
        self._left = self._state.words[_LEFT] = left
        self._before_flush()
        self._flush()

    def drop_code(self, gfn: int) -> None:
        """Forget what was translated from the code in a frame; also inside hooks. 4 us.

        Unicorn wants a virtual address. We give it one that no guest can have and answer the fill
        that follows; the entry it leaves is flushed away.
        """
        self._dropping = gfn << 12
        address = _CODE_DROP | gfn << 12
        raw.remove_code(self._handle, address, address + 0x1000)
        self._dropping = -1
        self.flush_tlb()

    def leave_all_to_python(self) -> None:
        """Have every fill looked at by `_is_over`, until the next flush."""
        self._left = self._state.words[_LEFT] = 0

    def _grow_tlb(self) -> None:
        """Flush because so many fills since the last flush mean that entries push each other out.

        Unicorn's TLB doubles at a flush that finds it well used, and never otherwise. Each such
        flush makes the next one come twice as late: a TLB that cannot grow any more, or a guest
        whose misses have other reasons, is soon left alone.
        """
        if self._fills_between_flushes < _MOST_FILLS_BETWEEN_FLUSHES:
            self._fills_between_flushes *= 2
        self.flush_tlb()
        self._mmu.flushed(self._index)

    def _make_fill(self) -> Callable[[int, int, int, int], bool]:
        """Return the TLB fill hook: one short function with all it needs bound."""
        cpu = self._cpu
        index = self._index
        translate = self._mmu.translate
        d, q = self._hidden.d, self._hidden.q
        hflags, cr3, tr_base = H.HFLAGS_D, H.CR_Q + 3, _TR_BASE_Q
        fetch, write = raw.FILL_FETCH, raw.FILL_WRITE
        entries = _Entries()

        def fill(_uc: int, gva: int, kind: int, entry: int) -> bool:
            answer: Answer
            try:
                self._left -= 1
                if self._left <= 0 and self._is_over():
                    return self._refuse(_NOTHING)
                flags = d[hflags]
                # There are no task switches in long mode.
                if not flags & H.HF_LMA and q[tr_base] != self._tr_base:
                    self._task_register_changed(kind == fetch)
                if kind == fetch:
                    if q[cr3] != self._loaded_cr3 and self._dropping < 0:
                        self._reload_paging()
                    answer = self._fetch(gva)
                else:
                    access = ACCESS_WRITE if kind == write else ACCESS_READ
                    if flags & 3 == 3:
                        access |= ACCESS_USER
                    if self._is_guarded:
                        access = self._guard(gva, access)
                    answer = translate(index, gva, access)
                    if access & ACCESS_USER and not isinstance(answer, int):
                        answer = self._implicit_answer(gva, access, answer)
                if not isinstance(answer, int):
                    return self._refuse(answer)
                words = entries[entry]
                # Unicorn takes the frame from the one and bits 0 to 2 of the other, and no more.
                words[0] = words[1] = answer
                if answer & MAP_TRAP and kind == write:
                    words[0] = words[1] = answer = self._look_for_reuse(gva, access, answer)
                if answer & MAP_TRAP:
                    words[0] = SPECIAL_PAGES if kind == fetch else answer | TRAP_WINDOW
                return True
            except BaseException as error:
                cpu.fail(error)
                return False

        return fill

    def _look_for_reuse(self, gva: int, access: int, answer: int) -> int:
        """Return how a write that is to be trapped shall be answered.

        If the frame is a page table, and the write no way to treat one, the MMU is told: it comes
        from user mode, is made by a long REP STOS, or lies where the stack grows (VirtualBox asks
        the same). Here RIP stands on the instruction; when the store arrives it does not.
        """
        gpa = answer & FRAME_MASK
        if not self._cpu.memory.host_address(gpa):
            return answer
        is_stack = gva >> 12 == self._regs.linear_rsp - 1 >> 12
        if not (access & ACCESS_USER or is_stack or self._is_long_fill()):
            return answer
        if not self._mmu.reused(gpa):
            return answer
        again = self._mmu.translate(self._index, gva, access)
        return again if isinstance(again, int) else answer

    def _is_long_fill(self) -> bool:
        """Return whether the instruction at RIP is a REP STOS that still has far to go."""
        cpu = self._cpu
        code = cpu.read_code(15)
        length = length_of_prefixes(code, cpu.bits)
        if code[length : length + 1] not in (b"\xaa", b"\xab"):
            return False
        repeats = b"\xf3" in code[:length] or b"\xf2" in code[:length]
        return repeats and self._regs.gpr(_RCX) & 0xFFFF_FFFF >= _LONG_FILL

    def _is_over(self) -> bool:
        """Look at a fill that is one too many; return whether it must not succeed."""
        if self._cpu.hooks.is_aborting:
            return True
        self._grow_tlb()
        return False

    def _fetch(self, gva: int) -> Answer:
        """Translate a fetch: by the guest, or by `drop_code`."""
        if self._dropping >= 0:
            return self._dropping | MAP_READ | MAP_EXEC
        if self._pke:
            self._look_at_keys()  # a fetch may be granted together with reads
        flags = self._hidden.d[H.HFLAGS_D]
        if gva >> 32 and not flags & H.HF_CS64:
            gva &= 0xFFFF_FFFF  # CS.base + EIP wraps
        user = ACCESS_USER if flags & 3 == 3 else 0
        answer: Answer = self._mmu.translate(self._index, gva, ACCESS_FETCH | user)
        return answer

    def _guard(self, gva: int, access: int) -> int:
        """Return what a data access is under SMAP and protection keys, which look at more."""
        d = self._hidden.d
        if self._pke:
            self._look_at_keys()
        if self._smap:
            if not access & ACCESS_USER:
                return access | (ACCESS_AC if d[H.EFLAGS_D] & EFLAGS_AC else 0)
            if self._is_implicit_under_smap(gva, access):
                return access & ~ACCESS_USER | ACCESS_IMPLICIT
        return access

    def _look_at_keys(self) -> None:
        """Tell the MMU of a WRPKRU. The engine itself has emptied the TLB for it."""
        if self._hidden.d[H.PKRU_D] != self._loaded_pkru:
            self._reload_paging()

    def load_cr3(self, value: int) -> None:
        """Do the CR3 load of a task switch; the PDPTE registers stay with CR3 (SDM 3A 4.4.1)."""
        if value == self._loaded_cr3:
            self.flush_tlb()
            self._mmu.flushed(self._index)
            return
        self._regs.cr3 = value
        self._reload_paging()

    def pdptes(self) -> list[int] | None:
        """Return the PDPTE registers, which the MMU has; None if it has not, or will load them
        before the next fetch."""
        if self._regs.cr3 != self._loaded_cr3:
            return None
        return self._mmu.pdptes(self._index)

    def _task_register_changed(self, fetch: bool) -> None:
        """Look at a fill that finds another TSS than the one before: LTR, or a task switch.

        Unicorn puts RIP back to the instruction before it calls a fill hook. If a far JMP, CALL or
        IRET is just switching tasks, RIP and the flags are the new task's already and must be
        given back to it.
        """
        tr = self._regs.segment(TR)
        switch = (tr.base, self._regs.rip)
        if not fetch and self._task_switch in (None, switch) and self._is_far_transfer():
            self._task_switch = switch
            wide = tr.attributes & 8
            self._linear.begin()
            eip = self._linear.read(tr.base + (0x20 if wide else 0x0E), 4 if wide else 2)
            self._hidden.q[H.RIP_Q] = eip
            self._hidden.d[H.CC_OP_D] = 1
            return
        self._task_switch = None
        self._note_task_register()

    def _is_far_transfer(self) -> bool:
        code = self._cpu.read_code(15)
        code = code[length_of_prefixes(code, self._cpu.bits) :]
        far_indirect = code[:1] == b"\xff" and code[1] >> 3 & 7 in (3, 5)
        return code[:1] in (b"\x9a", b"\xcf", b"\xea") or far_indirect

    def _refuse(self, answer: PageFault | NotCanonical) -> bool:
        """Let the fill fail and the interrupt hook be called in its stead."""
        self._refusal = answer
        self._state.words[_REFUSED] = 0
        canonical = answer.__class__ is PageFault
        self._hidden.exception_index[0] = PAGE_FAULT if canonical else NOT_CANONICAL
        return False

    def take_refusal(self) -> PageFault | NotCanonical | None:
        """Return what the last refused fill means, once; None if there was none."""
        words = self._state.words
        code = words[_REFUSED]
        if code:
            words[_REFUSED] = 0
            return PageFault(words[compiled.REFUSED_GVA // 8], code - 1)
        refusal, self._refusal = self._refusal, None
        return refusal

    def _implicit_answer(self, gva: int, access: int, refusal: Answer) -> Answer:
        """Reconsider a user access that may be the processor's own: see `_is_implicit`."""
        if not self._is_implicit(gva, access):
            return refusal
        access = access & ~ACCESS_USER | ACCESS_IMPLICIT
        answer: Answer = self._mmu.translate(self._index, gva, access)
        return answer

    def _is_implicit(self, gva: int, access: int) -> bool:
        """Return whether an access at CPL 3 is the processor's own, to a descriptor table, a TSS
        or the stack behind a call gate.

        Those are supervisor accesses whatever CPL is (SDM 3A 4.6.1), and the fill hook is not
        told. It matters where the user may not go, and under SMAP where he may. What is left when
        the instruction's operand and its own stack are taken away is the processor's.
        """
        cpu = self._cpu
        code = cpu.read_code(15)
        if not touches_descriptors(code, cpu.bits):
            return False
        page = gva >> 12
        operand = operand_address(code, cpu)
        if operand is not None:
            end = operand + operand_bytes(code, cpu.bits)
            if operand >> 12 <= page <= end - 1 >> 12:
                return False
        below, above = stack_bytes(code, cpu.bits)
        if not (below if access & ACCESS_WRITE else above):
            return True  # what is pushed is not read, and what is popped not written
        pointer = self._regs.linear_rsp
        return not pointer + below >> 12 <= page <= pointer + above - 1 >> 12

    def _is_implicit_under_smap(self, gva: int, access: int) -> bool:
        """Return the same where only pages with a table are worth the question."""
        regs = self._regs
        page = gva >> 12
        ldtr, tr = regs.ldtr, regs.tr
        tables = regs.gdtr, (ldtr.base, ldtr.limit), (tr.base, tr.limit)
        near = any(base >> 12 <= page <= base + limit >> 12 for base, limit in tables)
        return near and self._is_implicit(gva, access)
