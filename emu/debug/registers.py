# SPDX-License-Identifier: GPL-2.0-or-later
"""x87 and SSE registers of a vCPU by name, for debuggers."""

from __future__ import annotations

from typing import ClassVar

from emu.cpu import raw
from emu.cpu.vcpu import Vcpu

__all__ = ["FloatingPoint"]

_TOP_SHIFT, _TOP_MASK = 11, 7


class FloatingPoint:
    """The registers of one vCPU; st0 to st7 count from the top of the stack, as instructions do."""

    NAMES: ClassVar[tuple[str, ...]] = (
        *(f"st{n}" for n in range(8)),
        *("fctrl", "fstat", "ftag", "fop"),
        *(f"xmm{n}" for n in range(16)),
        "mxcsr",
    )
    _WORDS: ClassVar[dict[str, int]] = {
        "fctrl": raw.FPCW,
        "fstat": raw.FPSW,
        "ftag": raw.FPTAG,
        "fop": raw.FOP,
        "mxcsr": raw.MXCSR,
    }

    def __init__(self, cpu: Vcpu) -> None:
        """Look at `cpu`."""
        self._handle = cpu.handle

    def read(self, name: str) -> int:
        """Return a register: 80 bits of an st, 128 of an xmm."""
        register, size = self._find(name)
        return int.from_bytes(raw.reg_read_bytes(self._handle, register, size), "little")

    def write(self, name: str, value: int) -> None:
        """Set a register; bits that it has not are ignored. Raises ValueError for `fop`, which
        nothing can set."""
        register, size = self._find(name)
        if name == "fop":
            raise ValueError("fop cannot be set")
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        raw.reg_write_bytes(self._handle, register, data)

    def _find(self, name: str) -> tuple[int, int]:
        """Return Unicorn's number of a register and its size in bytes."""
        if name in self._WORDS:
            return self._WORDS[name], 4 if name == "mxcsr" else 2
        number = int(name.lstrip("stxm"))
        if name.startswith("xmm"):
            return raw.XMM0 + number, 16
        top = raw.reg_read(self._handle, raw.FPSW) >> _TOP_SHIFT & _TOP_MASK
        return raw.FP0 + (top + number & 7), 10
