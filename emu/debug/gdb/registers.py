# SPDX-License-Identifier: GPL-2.0-or-later
"""What a debugger sees of the registers, as tables, and the XML that tells it.

Names and order are those of QEMU's gdb-xml (i386-64bit.xml, i386-32bit.xml), as scripts count on
them; gdb's own features (gdb manual G.5.8) want the same. What QEMU leaves out is in a feature of
ours behind them. There are three views, for 64-bit, 32-bit and 16-bit code; the last is the
second with gdb's 8086 disassembler. In each the program counter is a linear address, as gdb knows
no segments; `ip` is the offset in CS.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

__all__ = ["ARCHITECTURES", "Register", "View", "view_for_bits"]

_GPRS_64 = "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15"
_GPRS_32 = "eax ecx edx ebx esp ebp esi edi"
_SELECTORS = "cs ss ds es fs gs"
_BASES = "fs_base gs_base k_gs_base"
_CONTROLS = "cr0 cr2 cr3 cr4 cr8 efer"
_X87 = "fctrl fstat ftag fiseg fioff foseg fooff fop"
_DEBUG = "dr0 dr1 dr2 dr3 dr6 dr7"

# Flags by bit (SDM 3A 2.3, 2.5; SDM 1 10.2.3), or by (first, last).
_FLAGS: dict[str, dict[str, int | tuple[int, int]]] = {
    "eflags": {
        "CF": 0, "": 1, "PF": 2, "AF": 4, "ZF": 6, "SF": 7, "TF": 8, "IF": 9, "DF": 10,
        "OF": 11, "IOPL": (12, 13), "NT": 14, "RF": 16, "VM": 17, "AC": 18, "VIF": 19, "VIP": 20,
        "ID": 21,
    },
    "cr0": {
        "PE": 0, "MP": 1, "EM": 2, "TS": 3, "ET": 4, "NE": 5, "WP": 16, "AM": 18, "NW": 29,
        "CD": 30, "PG": 31,
    },
    "cr3": {"PCID": (0, 11), "PDBR": (12, -1)},
    "cr4": {
        "VME": 0, "PVI": 1, "TSD": 2, "DE": 3, "PSE": 4, "PAE": 5, "MCE": 6, "PGE": 7, "PCE": 8,
        "OSFXSR": 9, "OSXMMEXCPT": 10, "UMIP": 11, "LA57": 12, "VMXE": 13, "SMXE": 14,
        "FSGSBASE": 16, "PCIDE": 17, "OSXSAVE": 18, "SMEP": 20, "SMAP": 21, "PKE": 22,
    },
    "efer": {
        "SCE": 0, "LME": 8, "LMA": 10, "NXE": 11, "SVME": 12, "LMSLE": 13, "FFXSR": 14, "TCE": 15,
    },
    "mxcsr": {
        "IE": 0, "DE": 1, "ZE": 2, "OE": 3, "UE": 4, "PE": 5, "DAZ": 6, "IM": 7, "DM": 8, "ZM": 9,
        "OM": 10, "UM": 11, "PM": 12, "FZ": 15,
    },
}  # fmt: skip
_VECTORS = """\
<vector id="v4f" type="ieee_single" count="4"/>
<vector id="v2d" type="ieee_double" count="2"/>
<vector id="v16i8" type="int8" count="16"/>
<vector id="v8i16" type="int16" count="8"/>
<vector id="v4i32" type="int32" count="4"/>
<vector id="v2i64" type="int64" count="2"/>
<union id="vec128">
<field name="v4_float" type="v4f"/>
<field name="v2_double" type="v2d"/>
<field name="v16_int8" type="v16i8"/>
<field name="v8_int16" type="v8i16"/>
<field name="v4_int32" type="v4i32"/>
<field name="v2_int64" type="v2i64"/>
<field name="uint128" type="uint128"/>
</union>
"""
ARCHITECTURES = {16: "i8086", 32: "i386", 64: "i386:x86-64"}
"""gdb's names by the width of code."""

_CORE = "org.gnu.gdb.i386.core"
_SSE = "org.gnu.gdb.i386.sse"
_LINUX = "org.gnu.gdb.i386.linux"
_SYSTEM = "org.shadowcorn.system"


@dataclass(frozen=True, slots=True)
class Register:
    """One register of a view: `bits` wide on the wire, `source` its name in the processor."""

    name: str
    bits: int
    type: str
    feature: str
    source: str
    group: str = ""

    @property
    def size(self) -> int:
        """How many bytes it has on the wire."""
        return self.bits // 8


@dataclass(frozen=True, slots=True)
class View:
    """The registers in their order, which is their numbers; `bits` is the width of code."""

    bits: int
    registers: tuple[Register, ...]
    linux: bool

    def xml(self) -> bytes:
        """Return the target description (gdb manual G)."""
        # gdb has no Linux for its 8086, and would warn that its default does not fit.
        abi = "GNU/Linux" if self.linux and self.bits != 16 else "none"
        parts = [
            '<?xml version="1.0"?>\n<!DOCTYPE target SYSTEM "gdb-target.dtd">\n<target>\n'
            f"<architecture>{ARCHITECTURES[self.bits]}</architecture>\n"
            f"<osabi>{abi}</osabi>\n"
        ]
        feature = ""
        for number, register in enumerate(self.registers):
            if register.feature != feature:
                parts.append("</feature>\n" if feature else "")
                feature = register.feature
                parts.append(f'<feature name="{feature}">\n' + self._types(feature))
            group = f' group="{register.group}"' if register.group else ""
            parts.append(
                f'<reg name="{register.name}" bitsize="{register.bits}" type="{register.type}" '
                f'regnum="{number}"{group}/>\n'
            )
        return "".join([*parts, "</feature>\n</target>\n"]).encode("ascii")

    def _types(self, feature: str) -> str:
        used = {r.type: r.bits for r in self.registers if r.feature == feature}
        text = _VECTORS if "vec128" in used else ""
        for kind, bits in used.items():
            fields = _FLAGS.get(kind.removeprefix("x86_"))
            if fields is None or not kind.startswith("x86_"):
                continue
            text += f'<flags id="{kind}" size="{bits // 8}">\n'
            for name, where in fields.items():
                first, last = where if isinstance(where, tuple) else (where, where)
                last = bits - 1 if last < 0 else last
                text += f'<field name="{name}" start="{first}" end="{last}"/>\n'
            text += "</flags>\n"
        return text


def _typed(names: str, bits: int, feature: str = _CORE, group: str = "") -> list[Register]:
    """Return registers whose types follow from their names."""
    found = []
    for name in names.split():
        kind = f"x86_{name}" if name in _FLAGS else f"int{bits}"
        found.append(Register(name, bits, kind, feature, name, group))
    return found


@cache
def view_for_bits(bits: int, *, linux: bool = False) -> View:
    """Return the view of 16-, 32- or 64-bit code; `linux` has gdb take the guest for a Linux
    process, for `info proc mappings`."""
    width = 64 if bits == 64 else 32
    found: list[Register] = []
    for name in (_GPRS_64 if width == 64 else _GPRS_32).split():
        kind = "data_ptr" if name[1:] in ("sp", "bp") else f"int{width}"
        source = name if width == 64 else f"r{name[1:]}"
        found.append(Register(name, width, kind, _CORE, source))
    found.append(Register("rip" if width == 64 else "eip", width, "code_ptr", _CORE, "pc"))
    found += _typed("eflags", 32)
    found += _typed(_SELECTORS, 32)
    found += _typed(_BASES, width, group="system")
    found += _typed(_CONTROLS, width, group="system")
    found += [Register(f"st{n}", 80, "i387_ext", _CORE, f"st{n}") for n in range(8)]
    found += [Register(name, 32, "int", _CORE, name, "float") for name in _X87.split()]
    vectors = range(16 if width == 64 else 8)
    found += [Register(f"xmm{n}", 128, "vec128", _SSE, f"xmm{n}") for n in vectors]
    found.append(Register("mxcsr", 32, "x86_mxcsr", _SSE, "mxcsr", "vector"))
    if linux:
        name = "orig_rax" if width == 64 else "orig_eax"
        found.append(Register(name, width, "int", _LINUX, "orig_rax", "system"))
    found += _system(width)
    return View(bits, tuple(found), linux)


def _system(width: int) -> list[Register]:
    """Return what QEMU's description leaves out."""
    found = []
    for name in ("gdtr", "idtr"):
        found += _typed(f"{name}", width, _SYSTEM, "system")
        found += _typed(f"{name}_limit", 32, _SYSTEM, "system")
    for name in ("ldtr", "tr"):
        found += _typed(f"{name}", 32, _SYSTEM, "system")
        found += _typed(f"{name}_base", width, _SYSTEM, "system")
    found += _typed("cs_base ss_base ds_base es_base", width, _SYSTEM, "system")
    found += _typed(_DEBUG, width, _SYSTEM, "system")
    found += _typed("pdpte0 pdpte1 pdpte2 pdpte3", 64, _SYSTEM, "system")
    found += _typed("ip insn", 64, _SYSTEM, "system")
    return found
