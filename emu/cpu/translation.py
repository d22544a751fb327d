# SPDX-License-Identifier: GPL-2.0-or-later
"""What is looked at before Unicorn translates an instruction: the bytes that it must not see.

Some encodings end the process inside the translator, and others are executed although they are #UD
(emu.cpu.forbidden). Nothing can be done when they are executed: a whole block is translated first,
and blocks run on from page to page, over code that was data a moment ago. So each instruction is
looked at when the translator comes to it::

    translator --"is this address an exit?"--> `_compare` --> forbidden --> the block ends here
    the block is executed up to there --> VMEXIT for HLT --> `serve`: #UD

Unicorn ends a block before an address where emulation is to end, as if HLT were there, and reads
nothing of what is. It keeps those addresses in a search tree, and asks the tree's comparison
function about every instruction. The tree gets one node, whose key (0) nothing is done with, and a
comparison function of ours; `layout().uc_exits` is where it hangs.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from emu.cpu import hidden as H
from emu.cpu import raw
from emu.cpu.encoding import LONGEST
from emu.cpu.faults import Event, Vector
from emu.cpu.forbidden import is_forbidden, is_suspect
from emu.cpu.registers import EFLAGS_VM

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu

__all__ = ["Translation"]

_KEY_COMPARE = 1  # words of GTree (glib_compat/gtree.c)
_PAGE = 0xFFF
_OTHER, _FOUND = 1, 0


class Translation:
    """The look at each instruction of one vCPU that is translated."""

    def __init__(self, cpu: Vcpu, handle: int) -> None:
        """Serve `cpu`, whose engine is `handle`."""
        self._cpu = cpu
        self._handle = handle
        self._d = cpu.hidden.d
        self._read = raw.CodeReader(handle)

    def install(self, keep: list[Any]) -> None:
        """Have the translator ask."""
        callback = raw.COMPARE_CALLBACK(self._compare)
        keep.append(callback)
        raw.set_exits(self._handle, [0])
        tree = raw.exits_tree(self._cpu.hidden.uc[self._cpu.hidden.layout.uc_exits // 8])
        tree[_KEY_COMPARE] = raw.address_of(callback)

    def _compare(self, key: int, _node: int, _data: int) -> int:
        """GCompareDataFunc: 0 if the translator must stop before the address at `key`. 1 us where
        the first byte settles it."""
        try:
            address = ctypes.c_uint64.from_address(key).value
            code = self._read(address, 1)
            if not code or not is_suspect(code[0]):
                return _OTHER
            code = self._read(address, min(LONGEST, 0x1000 - (address & _PAGE)))
            answer = self._judge(code)
            if answer is None:
                answer = self._judge(code + self._read(address + len(code), LONGEST - len(code)))
            return _FOUND if answer else _OTHER
        except BaseException as error:
            self._cpu.fail(error)
            return _OTHER

    def _judge(self, code: bytes) -> bool | None:
        d = self._d
        protected = bool(d[H.HFLAGS_D] & H.HF_PE) and not d[H.EFLAGS_D] & EFLAGS_VM
        return is_forbidden(code, self._cpu.bits, protected=protected, has=self._cpu.cpuid.has)

    def serve(self) -> None:
        """Serve a HLT: one of the guest's, or the end of a block before what is forbidden."""
        cpu = self._cpu
        if self._judge(cpu.read_code(LONGEST)):
            cpu.events.deliver(Event(Vector.UD))
            cpu.slice.tick()
            return
        cpu.intercepts.halt()
