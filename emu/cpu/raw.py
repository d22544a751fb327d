# SPDX-License-Identifier: GPL-2.0-or-later
"""The calls of Unicorn's C library that shadowcorn makes, without the Python binding's wrappers.

A wrapper of the binding around a hook costs as much as our work in it, so callbacks are registered
as bare `ctypes` functions. A callback must stay referenced while the engine lives and must not
raise: an exception in it would be printed and lost. Calls that fail raise `EngineError`.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

from unicorn import unicorn_const as _uc
from unicorn import x86_const as _x86
from unicorn.unicorn_py3.unicorn import uclib as _lib

from emu.errors import EngineError

RAX: int = _x86.UC_X86_REG_RAX
RCX: int = _x86.UC_X86_REG_RCX
RDX: int = _x86.UC_X86_REG_RDX
RBX: int = _x86.UC_X86_REG_RBX
RIP: int = _x86.UC_X86_REG_RIP
EFLAGS: int = _x86.UC_X86_REG_EFLAGS
CR2: int = _x86.UC_X86_REG_CR2
CR3: int = _x86.UC_X86_REG_CR3
DR0: int = _x86.UC_X86_REG_DR0
FS_BASE: int = _x86.UC_X86_REG_FS_BASE
GS_BASE: int = _x86.UC_X86_REG_GS_BASE
LDTR: int = _x86.UC_X86_REG_LDTR
TR: int = _x86.UC_X86_REG_TR
GDTR: int = _x86.UC_X86_REG_GDTR
IDTR: int = _x86.UC_X86_REG_IDTR
FPCW: int = _x86.UC_X86_REG_FPCW
FPSW: int = _x86.UC_X86_REG_FPSW
FPTAG: int = _x86.UC_X86_REG_FPTAG
MXCSR: int = _x86.UC_X86_REG_MXCSR
FOP: int = _x86.UC_X86_REG_FOP
FP0: int = _x86.UC_X86_REG_FP0
XMM0: int = _x86.UC_X86_REG_XMM0
_MSR: int = _x86.UC_X86_REG_MSR

PROT_ALL: int = _uc.UC_PROT_ALL
PROT_EXEC: int = _uc.UC_PROT_EXEC
ERR_OK: int = _uc.UC_ERR_OK
ERR_EXCEPTION: int = _uc.UC_ERR_EXCEPTION
HOOK_INTR: int = _uc.UC_HOOK_INTR
HOOK_INSN: int = _uc.UC_HOOK_INSN
HOOK_TLB_FILL: int = _uc.UC_HOOK_TLB_FILL
HOOK_BLOCK: int = _uc.UC_HOOK_BLOCK
HOOK_CODE: int = _uc.UC_HOOK_CODE
HOOK_EDGE_GENERATED: int = _uc.UC_HOOK_EDGE_GENERATED
HOOK_INSN_INVALID: int = _uc.UC_HOOK_INSN_INVALID
INSN_IN: int = _x86.UC_X86_INS_IN
INSN_OUT: int = _x86.UC_X86_INS_OUT
INSN_SYSCALL: int = _x86.UC_X86_INS_SYSCALL
INSN_SYSENTER: int = _x86.UC_X86_INS_SYSENTER
INSN_CPUID: int = _x86.UC_X86_INS_CPUID
INSN_RDTSC: int = _x86.UC_X86_INS_RDTSC
INSN_RDTSCP: int = _x86.UC_X86_INS_RDTSCP
FILL_READ: int = _uc.UC_MEM_READ
FILL_WRITE: int = _uc.UC_MEM_WRITE
FILL_FETCH: int = _uc.UC_MEM_FETCH
MODEL_ICELAKE_SERVER: int = _x86.UC_CPU_X86_ICELAKE_SERVER

_u32, _u64, _ptr = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
# The last argument of the hook, its user data, is left out: each one costs 30 ns.
FILL_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, _u64, _u64, _u32, _u64)
CODE_CALLBACK = ctypes.CFUNCTYPE(None, _u64, _u64, _u32, _u64)
INTR_CALLBACK = ctypes.CFUNCTYPE(None, _u64, _u32, _u64)
EDGE_CALLBACK = ctypes.CFUNCTYPE(None, _u64, _u64, _u64, _u64)
COMPARE_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, _u64, _u64, _u64)
INVALID_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, _u64, _u64)
IN_CALLBACK = ctypes.CFUNCTYPE(_u32, _u64, _u32, ctypes.c_int, _u64)
OUT_CALLBACK = ctypes.CFUNCTYPE(None, _u64, _u32, ctypes.c_int, _u32, _u64)
SYSCALL_CALLBACK = ctypes.CFUNCTYPE(None, _u64, _u64)
REPLACE_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, _u64, _u64)
BLOCK_CALLBACK = ctypes.CFUNCTYPE(None, _u64, _u64, _u32, _u64)
STOP_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int, _u64)
READ_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int, _u64, ctypes.c_int, _u64)
MMIO_READ_CALLBACK = ctypes.CFUNCTYPE(_u64, _u64, _u64, ctypes.c_uint, _u64)
MMIO_WRITE_CALLBACK = ctypes.CFUNCTYPE(None, _u64, _u64, ctypes.c_uint, _u64, _u64)


def version() -> str:
    """Return the version of the unicorn package."""
    from importlib import metadata  # with all that it imports, a tenth of a start

    return metadata.version("unicorn")


def _short(name: str) -> Any:
    """Return a function of Unicorn's that is so short, and calls nobody back, that other threads
    may well wait for it: letting them run costs more than it takes."""
    # By name and handle: Windows takes no library without a name.
    function = ctypes.PyDLL(_lib._name, handle=_lib._handle)[name]
    function.restype = ctypes.c_int
    return function


def check(status: int, what: str) -> None:
    """Raise EngineError unless `status` is UC_ERR_OK."""
    if status != ERR_OK:
        raise EngineError(f"Unicorn {version()}: {what}: {describe(status)}")


def describe(status: int) -> str:
    """Return a uc_err in Unicorn's words."""
    text: bytes = _lib.uc_strerror(status)
    return text.decode(encoding="ascii", errors="replace")


def _ctl(handle: int, control: int, *arguments: Any) -> None:
    # UC_CTL_WRITE(control, arguments)
    code = _uc.UC_CTL_IO_WRITE << 30 | len(arguments) << 26 | control
    status = _lib.uc_ctl(_ptr(handle), ctypes.c_int(code), *arguments)
    check(status, f"uc_ctl {control}")


_CODE_BUFFER = 1 << 30
"""The address space that Unicorn takes for the code of one engine, if it is not told otherwise."""
_LEAST_CODE_BUFFER = 8 << 20


def has_room(size: int) -> bool:
    """Return whether `size` more bytes of address space are to be had now (`ulimit -v`, the limit
    of a container). Nothing is taken. Windows limits no address space: always True there."""
    if sys.platform == "win32":
        return True
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON, prot=0).close()
    except OSError:
        return False
    return True


def _code_buffer() -> int | None:
    """Return how large the buffer for translated code must be, or None for Unicorn's own choice.

    Unicorn ends the process when it cannot have its buffer. So there must be room for two, the
    second for all else. A buffer that is full is emptied: a small one costs time and changes
    nothing. Raises EngineError if there is no room for the least.
    """
    size = _CODE_BUFFER
    while size >= _LEAST_CODE_BUFFER:
        if has_room(2 * size):
            return None if size == _CODE_BUFFER else size
        size //= 2
    raise EngineError("not enough memory for an engine: this process's address space is limited")


def open_engine(model: int) -> int:
    """Open an x86-64 engine with CPU model `UC_CPU_X86_*` and return its handle."""
    handle = _ptr()
    buffer = _code_buffer()
    check(_lib.uc_open(_uc.UC_ARCH_X86, _uc.UC_MODE_64, ctypes.byref(handle)), "uc_open")
    assert handle.value is not None
    if buffer is not None:
        _ctl(handle.value, _uc.UC_CTL_TCG_BUFFER_SIZE, ctypes.c_uint32(buffer))
    _ctl(handle.value, _uc.UC_CTL_CPU_MODEL, ctypes.c_int(model))
    # Without this every return re-translates the `until` address, fill hook and all.
    _ctl(handle.value, _uc.UC_CTL_UC_USE_EXITS, ctypes.c_int(1))
    reg_read(handle.value, RAX)  # the processor is made by the first call that needs it
    return handle.value


def set_exits(handle: int, addresses: list[int]) -> None:
    """Set the addresses where code is left when they are translated (`UC_CTL_UC_EXITS`)."""
    array = (ctypes.c_uint64 * len(addresses))(*addresses)
    _ctl(handle, _uc.UC_CTL_UC_EXITS, array, ctypes.c_size_t(len(addresses)))


def exits_tree(address: int) -> memoryview:
    """Return the first five words of the `GTree` at `address`."""
    return memoryview((ctypes.c_uint64 * 5).from_address(address)).cast("B").cast("Q")


def close(handle: int) -> None:
    """Close an engine; its memory stays the caller's."""
    check(_lib.uc_close(_ptr(handle)), "uc_close")


def use_virtual_tlb(handle: int) -> None:
    """Let `UC_HOOK_TLB_FILL` answer every TLB miss."""
    _ctl(handle, _uc.UC_CTL_TLB_TYPE, ctypes.c_int(_uc.UC_TLB_VIRTUAL))


def add_hook(
    handle: int,
    kind: int,
    callback: Any,
    instruction: int | None = None,
    data: int = 0,
    within: tuple[int, int] = (1, 0),
) -> int:
    """Hook the addresses `within` first and last, by default all of them, behind the hooks of the
    kind that are there; `instruction` goes with `HOOK_INSN`, `data` goes to the callback, which
    is a callback object or the address of compiled code. Returns the hook's handle."""
    hook = ctypes.c_size_t()
    extra = () if instruction is None else (ctypes.c_int(instruction),)
    function = _ptr(callback) if isinstance(callback, int) else ctypes.cast(callback, _ptr)
    status = _lib.uc_hook_add(
        _ptr(handle), ctypes.byref(hook), kind, function, _ptr(data), *map(_u64, within), *extra
    )
    check(status, "uc_hook_add")
    return hook.value


def delete_hook(handle: int, hook: int) -> None:
    """Take back what `add_hook` returned; also inside hooks."""
    check(_lib.uc_hook_del(_ptr(handle), ctypes.c_size_t(hook)), "uc_hook_del")


def map_memory(handle: int, address: int, size: int, permissions: int, host: int) -> None:
    """Show `size` bytes of this process at `host` to the guest."""
    status = _lib.uc_mem_map_ptr(_ptr(handle), address, size, permissions, _ptr(host))
    check(status, f"uc_mem_map_ptr {address:#x}")


def map_mmio(
    handle: int, address: int, size: int, read: Any, write: Any, read_data: int = 0
) -> None:
    """Send accesses to callbacks that get the offset, the size and the value. `read` may be the
    address of compiled code, to which `read_data` goes."""
    reader = _ptr(read) if isinstance(read, int) else ctypes.cast(read, _ptr)
    writer = ctypes.cast(write, _ptr)
    status = _lib.uc_mmio_map(_ptr(handle), address, size, reader, _ptr(read_data), writer, None)
    check(status, f"uc_mmio_map {address:#x}")


def unmap(handle: int, address: int, size: int) -> None:
    """Take guest-physical addresses away."""
    check(_lib.uc_mem_unmap(_ptr(handle), address, size), f"uc_mem_unmap {address:#x}")


def start(handle: int, rip: int, count: int) -> int:
    """Run at most `count` instructions from `rip`; returns a uc_err. 2 us to enter and leave."""
    status: int = _lib.uc_emu_start(_ptr(handle), rip, 0, 0, count)
    return status


def stop(handle: int) -> None:
    """Leave `start` before the next instruction; from hooks and other threads."""
    _lib.uc_emu_stop(_ptr(handle))


def stop_address() -> int:
    """Return where `uc_emu_stop` is, for compiled code."""
    return ctypes.cast(_lib.uc_emu_stop, _ptr).value or 0


def read_address() -> int:
    """Return where `uc_reg_read` is, for compiled code."""
    return ctypes.cast(_lib.uc_reg_read, _ptr).value or 0


def address_of(callback: Any) -> int:
    """Return the address of a callback object, which the caller keeps."""
    return ctypes.cast(callback, _ptr).value or 0


def address_of_view(view: memoryview) -> int:
    """Return where the bytes of a writable view are."""
    return ctypes.addressof(ctypes.c_uint8.from_buffer(view.cast("B")))


def reg_read(handle: int, register: int) -> int:
    """Return a register of up to 64 bits."""
    value = ctypes.c_uint64()
    check(_lib.uc_reg_read(_ptr(handle), register, ctypes.byref(value)), "uc_reg_read")
    return value.value


def reg_write(handle: int, register: int, value: int) -> None:
    """Set a register of up to 64 bits."""
    box = ctypes.c_uint64(value)
    check(_lib.uc_reg_write(_ptr(handle), register, ctypes.byref(box)), "uc_reg_write")


def reg_read_bytes(handle: int, register: int, size: int) -> bytes:
    """Return a register of `size` bytes."""
    box = (ctypes.c_uint8 * 16)()
    check(_lib.uc_reg_read(_ptr(handle), register, box), "uc_reg_read")
    return bytes(box[:size])


def reg_write_bytes(handle: int, register: int, data: bytes) -> None:
    """Set a register of as many bytes."""
    box = (ctypes.c_uint8 * 16)(*data)
    check(_lib.uc_reg_write(_ptr(handle), register, box), "uc_reg_write")


class RegisterReader:
    """Reads one register of one engine again and again: 0.4 us."""

    def __init__(self, handle: int, register: int) -> None:
        """Read `register` of the engine `handle`."""
        self._box = ctypes.c_uint64()
        self._arguments = (_ptr(handle), register, ctypes.byref(self._box))
        self._read = _short("uc_reg_read")

    def __call__(self) -> int:
        """Return its value now."""
        self._read(*self._arguments)
        return self._box.value


class _MemoryManagementRegister(ctypes.Structure):
    _fields_ = [
        ("selector", ctypes.c_uint16),
        ("base", ctypes.c_uint64),
        ("limit", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    ]


def table_write(
    handle: int, register: int, selector: int, base: int, limit: int, flags: int
) -> None:
    """Set GDTR, IDTR, LDTR or TR."""
    box = _MemoryManagementRegister(selector, base, limit, flags)
    check(_lib.uc_reg_write(_ptr(handle), register, ctypes.byref(box)), "uc_reg_write")


class _Msr(ctypes.Structure):
    _fields_ = [("index", ctypes.c_uint32), ("value", ctypes.c_uint64)]


def msr_write(handle: int, index: int, value: int) -> None:
    """Set a model-specific register as the engine itself keeps it."""
    box = _Msr(index, value)
    check(_lib.uc_reg_write(_ptr(handle), _MSR, ctypes.byref(box)), "uc_reg_write")


def tlb_entry(address: int) -> memoryview:
    """Return a `uc_tlb_entry` as two 64-bit words: physical address, permissions."""
    return memoryview((ctypes.c_uint64 * 2).from_address(address)).cast("B").cast("Q")


class TranslatedBlocks:
    """Reads `uc_tb`, which a hook for translated blocks gets: 0.3 us."""

    def __init__(self) -> None:
        """Remember views by address: Unicorn has them in very few places."""
        self._views: dict[int, memoryview] = {}

    def __call__(self, address: int) -> tuple[int, int]:
        """Return the linear address of a block of code, and its size in bytes."""
        words = self._views.get(address)
        if words is None:
            words = self._views[address] = tlb_entry(address)  # two words, too
        return words[0], words[1] >> 16 & 0xFFFF


class CodeReader:
    """Reads the code of one engine by its TLB, which nobody is asked about: 1 us."""

    def __init__(self, handle: int) -> None:
        """Read what the engine `handle` has just translated."""
        self._box = (ctypes.c_uint8 * 0x1_0000)()
        self._view = memoryview(self._box).cast("B")
        self._handle = _ptr(handle)
        self._read = _short("uc_vmem_read")

    def __call__(self, address: int, size: int) -> bytes:
        """Return the bytes of a block of code; none if they are not there any more."""
        length = ctypes.c_size_t(size)
        status = self._read(self._handle, _u64(address), PROT_EXEC, self._box, length)
        return self._view[:size].tobytes() if status == ERR_OK else b""


class TlbFlusher:
    """Empties the TLB of one engine again and again: 0.7 us."""

    def __init__(self, handle: int) -> None:
        """Empty the TLB of the engine `handle`."""
        code = _uc.UC_CTL_IO_WRITE << 30 | _uc.UC_CTL_TLB_FLUSH
        self._arguments = (_ptr(handle), ctypes.c_int(code))
        self._control = _short("uc_ctl")

    def __call__(self) -> None:
        """Empty it now."""
        check(self._control(*self._arguments), "uc_ctl TLB_FLUSH")


def remove_code(handle: int, first: int, end: int) -> None:
    """Drop the code translated from the guest-*virtual* addresses `first` to `end`."""
    _ctl(handle, _uc.UC_CTL_TB_REMOVE_CACHE, _u64(first), _u64(end))


def flush_code(handle: int) -> None:
    """Drop all translated code; not inside hooks."""
    _ctl(handle, _uc.UC_CTL_TB_FLUSH)
