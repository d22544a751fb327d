# SPDX-License-Identifier: GPL-2.0-or-later
"""Where Unicorn keeps the processor state that it hides (emu.cpu.hidden), found and checked.

`layout` finds the structures once per process in a throw-away engine. Values written through the
public interface lead from one structure to the next; inside them the order of fields is known. None
of that is taken on trust: a short guest program then makes Unicorn change every field that matters,
and each must show what happened. A build that is laid out otherwise ends in `CalibrationError`.

Pointers are followed by reads that cannot crash, and only here.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable
from functools import lru_cache

from emu.cpu import hidden as H
from emu.cpu import raw
from emu.cpu.hidden import ENV_BYTES, UC_BYTES, Layout, view
from emu.errors import CalibrationError

__all__ = ["layout"]

# Of CPUState, from cflags_next_tb, the only word near its start that rests at all ones.
_EXIT_REQUEST_BACK = 3  # a byte
_INTERRUPT_REQUEST_AHEAD = 4
# Of CPUState, from the back pointer to uc_struct near its end.
_EXCEPTION_INDEX_BACK = 8

# Of uc_struct, from target_page_size behind invalid_addr: the sizes of pages, a cache line and a
# context, then three flags that rest at 0 and init_done, which is 1.
_PAGE_SIZES = struct.pack("<II", 4096, 4095)
_EXITS_AHEAD = 16 + 64 * 8  # invalid_error, use_exits, exits[UC_MAX_NESTED_LEVEL]
_FLAGS_AHEAD = 48  # hook_insert, first_tb, no_exit_request, init_done
_PAGE_SIZES_REACH = 1024

_ENV_REACH = 65536
_CPU_MODEL_PROBE = 25  # any model will do; this one has SVM for nothing but its CPUID leaves


@lru_cache(maxsize=1)
def layout() -> Layout:
    """Return the layout of this process's Unicorn; found and checked once (10 to 20 ms).

    Raises CalibrationError if a structure is not as it must be.
    """
    if sys.maxsize <= 2**32 or sys.byteorder != "little":
        raise CalibrationError("shadowcorn needs a 64-bit little-endian host")
    handle = raw.open_engine(_CPU_MODEL_PROBE)
    try:
        return _Calibration(handle).run()
    finally:
        raw.close(handle)


def _refuse(what: str) -> CalibrationError:
    return CalibrationError(
        f"Unicorn {raw.version()} keeps its processor state otherwise than shadowcorn knows "
        f"({what}); shadowcorn needs the unicorn package >= 2.1.4, < 2.2"
    )


# The guest program of the calibration: it lies at _CODE and each step ends in a hook.
_CODE = 0x1000
_BAD_PAGE = 0x5A5A_1234_5000
_BAD = _BAD_PAGE + 0x678
_PROGRAM = bytes.fromhex(
    "90909090909090"  # seven nops
    "cd42"  # int 0x42           is_int, exception index
    "0f32"  # rdmsr              intercepted: exit 0x7c
    "0f0b"  # ud2                intercepted exception: exit 0x46
    "488b03"  # mov rax, [rbx]     the bad page: our own exception index
    "f4"  # hlt
)
_PROGRAM_INSNS = 12
_HOOKED = 0x1100
_HOOKED_PROGRAM = b"\x90\x90\xf4"  # two nops, the first of them hooked, and hlt
_COUNT = 0x123_4567
_OUR_EXCEPTION = 0x1000


class _Calibration:
    """One run of the search and of its checks, over one throw-away engine."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.reader = _reader()
        self.found: dict[str, int] = {}
        self.steps: list[tuple[int, ...]] = []
        self.failure = ""

    def run(self) -> Layout:
        self._find_env()
        self._check_words()
        self._check_public_registers()
        self._run_program()
        return Layout(**self.found)

    # --- Finding ----------------------------------------------------------------------------

    def _find_env(self) -> None:
        marks = (0x1122_3344_5566_7788, 0x99AA_BBCC_DDEE_FF01, 0x0203_0405_0607_0809, _BAD)
        for register, mark in zip((raw.RAX, raw.RCX, raw.RDX, raw.RBX), marks, strict=True):
            raw.reg_write(self.handle, register, mark)
        pattern = struct.pack("<4Q", *marks)
        head = self.reader(self.handle, UC_BYTES)
        for offset in range(0, len(head) - 7, 8):
            (pointer,) = struct.unpack_from("<Q", head, offset)
            if not _may_be_pointer(pointer):
                continue
            env = self.reader(pointer, _ENV_REACH).find(pattern)
            # Other blocks of the heap may lie before the processor: it must look like one, too.
            if env > 0 and env % 8 == 0 and self._is_cpu_state(pointer, env):
                self.found.update(uc_cpu=offset, cpu_env=env)
                self.cpu = pointer
                self.env = view(pointer + env, ENV_BYTES, "Q")
                return
        raise _refuse("no register file behind the handle")

    def _is_cpu_state(self, cpu: int, env: int) -> bool:
        """Find the fields of a CPUState at `cpu`, if it is one."""
        state = self.reader(cpu, env)
        env_pointer = state.find(struct.pack("<Q", cpu + env))
        back_pointer = state.rfind(struct.pack("<Q", self.handle))
        resting = [at for at in range(0, 64, 4) if state[at : at + 4] == b"\xff" * 4]
        if env_pointer < 0 or back_pointer < 0 or len(resting) != 1:
            return False
        (icount,) = struct.unpack_from("<Q", state, env_pointer + 8)
        if not 0 < cpu + env - icount <= 64:  # icount_decr lies just before env
            return False
        self.found.update(
            cpu_icount_pointer=env_pointer + 8,
            cpu_exit_request=resting[0] - _EXIT_REQUEST_BACK,
            cpu_interrupt_request=resting[0] + _INTERRUPT_REQUEST_AHEAD,
            cpu_exception_index=back_pointer - _EXCEPTION_INDEX_BACK,
        )
        return True

    def _check_words(self) -> None:
        """Look at words that rest at known values."""
        vendor = self.env.cast("B")[H.VENDOR_D * 4 : H.VENDOR_D * 4 + 12].tobytes()
        if vendor != b"GenuineIntel":
            raise _refuse("no CPU vendor behind env")
        words = self.env[H.FEATURES_Q : H.FEATURES_Q + 7]
        if words[0] & 0x8001 != 0x8001 or not words[6] >> 29 & 1 or any(w >> 32 for w in words):
            raise _refuse("no CPUID feature words behind env")
        if self.env.cast("B").cast("I")[H.OLD_EXCEPTION_D] != 0xFFFF_FFFF:
            raise _refuse("old_exception does not rest at -1")

    def _check_public_registers(self) -> None:
        """Set through Unicorn's interface what it shows, and look where it went."""
        dwords = self.env.cast("B").cast("I")
        for register, index, value in (
            (raw.RIP, H.RIP_Q, 0x1234_5678_9ABC),
            (raw.CR2, H.CR_Q + 2, 0x1357_9BDF_0246),
            (raw.CR3, H.CR_Q + 3, 0x2468_A000),
            (raw.DR0, H.DR_Q, 0x1111_2222_3333),
            (raw.DR0 + 3, H.DR_Q + 3, 0x4444_5555_6666),
            (raw.FS_BASE, (H.SEGS_D + 4 * H.SEG_DWORDS + 2) // 2, 0x7777_0000_8888),
            (raw.GS_BASE, (H.SEGS_D + 5 * H.SEG_DWORDS + 2) // 2, 0x9999_0000_AAAA),
        ):
            raw.reg_write(self.handle, register, value)
            if self.env[index] != value:
                raise _refuse(f"register {register} is not at word {index}")
            raw.reg_write(self.handle, register, 0)
        for register, index, selector in (
            (raw.LDTR, H.LDT_D, 0x28),
            (raw.TR, H.TR_D, 0x38),
            (raw.GDTR, H.GDT_D, 0),
            (raw.IDTR, H.IDT_D, 0),
        ):
            raw.table_write(self.handle, register, selector, 0xABCD_0000_1230, 0x4567, 0x8B00)
            shown = (dwords[index], self.env[index // 2 + 1], dwords[index + 4])
            if shown != (selector, 0xABCD_0000_1230, 0x4567):
                raise _refuse(f"table register {register} is not at word {index}")
            raw.table_write(self.handle, register, 0, 0, 0, 0)
        raw.reg_write(self.handle, raw.EFLAGS, 0x202 | 0x8D5)
        if dwords[H.CC_OP_D] != 1 or self.env[H.CC_SRC_Q] != 0x8D5 or dwords[H.DF_D] != 1:
            raise _refuse("the lazy flags are elsewhere")
        for msr, index in (
            (0x174, H.SYSENTER_CS_D // 2),
            (0x175, H.SYSENTER_ESP_Q),
            (0x176, H.SYSENTER_EIP_Q),
            (0x277, H.PAT_Q),
            (0xC000_0081, H.STAR_Q),
            (0xC000_0082, H.LSTAR_Q),
            (0xC000_0083, H.CSTAR_Q),
            (0xC000_0084, H.FMASK_Q),
            (0xC000_0102, H.KERNEL_GS_BASE_Q),
            (0xC000_0103, H.TSC_AUX_Q),
        ):
            before = self.env[index]
            raw.msr_write(self.handle, msr, 0xBEE8)
            if self.env[index] != 0xBEE8:
                raise _refuse(f"MSR {msr:#x} is not at word {index}")
            raw.msr_write(self.handle, msr, before)

    # --- Checking by execution ------------------------------------------------------------------

    def _run_program(self) -> None:
        memory = (ctypes.c_uint8 * 0x5000)()
        base = -(-ctypes.addressof(memory) // 0x1000) * 0x1000
        ctypes.memmove(base + _CODE, _PROGRAM, len(_PROGRAM))
        ctypes.memmove(base + _HOOKED, _HOOKED_PROGRAM, len(_HOOKED_PROGRAM))
        ctypes.memset(base + 0x2000, 0xFF, 0x2000)  # every MSR is intercepted
        raw.map_memory(self.handle, 0, 0x4000, raw.PROT_ALL, base)
        raw.use_virtual_tlb(self.handle)
        self.dwords = self.env.cast("B").cast("I")
        self.exception_index = view(self.cpu + self.found["cpu_exception_index"], 4, "i")
        self.exit_request = view(self.cpu + self.found["cpu_exit_request"], 1, "B")
        self.requests = view(self.cpu + self.found["cpu_interrupt_request"], 4, "I")
        keep = (raw.FILL_CALLBACK(self._fill), raw.INTR_CALLBACK(self._intr))
        raw.add_hook(self.handle, raw.HOOK_TLB_FILL, keep[0])
        raw.add_hook(self.handle, raw.HOOK_INTR, keep[1])
        # The VMCB page at 0 holds the address of the MSR bitmap.
        struct.pack_into("<Q", memory, base - ctypes.addressof(memory) + 72, 0x2000)
        self.dwords[H.HFLAGS_D] |= H.HF_GUEST
        self.env[H.VMCB_Q] = 0
        self.env[H.INTERCEPT_Q] = 1 << H.EXIT_MSR - H.EXIT_FIRST | 1 << H.EXIT_VINTR - H.EXIT_FIRST
        self.dwords[H.INTERCEPT_EXCEPTIONS_D] = 0xFFFF_FFFF
        raw.reg_write(self.handle, raw.RBX, _BAD)
        self.dwords[H.EFLAGS_D] |= 0x200
        self.requests[0] = H.INTERRUPT_VIRQ
        error = raw.start(self.handle, _CODE, _COUNT)
        at = _CODE + 7
        expected: list[tuple[int, ...]] = [
            (H.VMEXIT + H.EXIT_VINTR, _CODE),
            (0x42, at + 2, 0),
            (H.VMEXIT + H.EXIT_MSR, at + 2, 0),
            (H.VMEXIT + H.EXIT_EXCEPTION + 6, at + 4, 0),
            (_OUR_EXCEPTION, at + 6, 0),
        ]
        if self.failure or error or self.steps != expected:
            raise _refuse(self.failure or f"test program: error {error}, steps {self.steps}")
        self._find_counters()
        self._find_exits()
        self._find_no_exit_request()

    def _fill(self, _uc: int, gva: int, _access: int, entry: int) -> bool:
        if gva == _BAD_PAGE or self.failure:
            self.exception_index[0] = _OUR_EXCEPTION
            return False
        answer = raw.tlb_entry(entry)
        answer[0], answer[1] = gva, raw.PROT_ALL
        return True

    def _intr(self, _uc: int, number: int, _data: int) -> None:
        """Note each step; go on behind the instruction, as an emulation of it would."""
        try:
            self._step(number)
        except Exception as error:
            self.failure = repr(error)
            self.requests[0] = 0  # a request is looked at before an order to stop
            raw.stop(self.handle)

    def _step(self, number: int) -> None:
        if self.exception_index[0] != number:
            raise ValueError(f"exception_index is {self.exception_index[0]}, not {number:#x}")
        rip = self.env[H.RIP_Q]
        if len(self.steps) > _PROGRAM_INSNS:
            raise ValueError(f"the test program loops: {self.steps[:3]}")
        if number == H.VMEXIT + H.EXIT_VINTR:
            self.steps.append((number, rip))
            self.requests[0] &= ~H.INTERRUPT_VIRQ
            return
        self.steps.append((number, rip, self.dwords[H.ERROR_CODE_D]))
        if self.dwords[H.IS_INT_D] != (number == 0x42):
            raise ValueError(f"exception_is_int is {self.dwords[H.IS_INT_D]} at {number:#x}")
        self.dwords[H.IS_INT_D] = 0
        if number in (H.VMEXIT + H.EXIT_MSR, H.VMEXIT + H.EXIT_EXCEPTION + 6):
            self.env[H.RIP_Q] = rip + 2
        elif number == _OUR_EXCEPTION:
            uc_words = self.reader(self.handle, UC_BYTES)
            address = uc_words.find(struct.pack("<QI", _BAD, raw.ERR_EXCEPTION))
            if address < 0 or self.exit_request[0] != 1:
                raise ValueError("a refused fill left no trace")
            self.found.update(uc_invalid_addr=address, uc_invalid_error=address + 8)
            view(self.handle + address + 8, 4, "I")[0] = 0
            self.exit_request[0] = 0
            self.env[H.RIP_Q] = rip + 3

    def _find_counters(self) -> None:
        words = self.reader(self.handle, UC_BYTES)
        pair = words.find(struct.pack("<QQ", _PROGRAM_INSNS, _COUNT))
        if pair < 0:
            raise _refuse("no instruction counter")
        self.found.update(uc_emu_counter=pair, uc_emu_count=pair + 8)

    def _find_exits(self) -> None:
        """Find the tree of addresses where emulation ends, by a node that is in it."""
        at = self.found["uc_invalid_addr"] + _EXITS_AHEAD
        raw.set_exits(self.handle, [_BAD])
        try:
            address = self.handle + at
            for _ in ("tree", "root", "key", "address"):
                word = self.reader(address, 8)
                if len(word) < 8:
                    break
                (address,) = struct.unpack("<Q", word)
            if address != _BAD:
                raise _refuse("the tree of exits is elsewhere")
        finally:
            raw.set_exits(self.handle, [])
        self.found["uc_exits"] = at

    def _find_no_exit_request(self) -> None:
        """Find the flag that has code translated without a look at orders to stop behind each
        instruction. It is worth time alone: where it is not found, or does nothing, it is -1."""
        begin = self.found["uc_invalid_addr"]
        head = self.reader(self.handle, UC_BYTES)
        sizes = head.find(_PAGE_SIZES, begin, begin + _PAGE_SIZES_REACH)
        at = sizes + _FLAGS_AHEAD + 2
        self.found["uc_no_exit_request"] = -1
        # first_tb is what the last run left.
        if sizes < 0 or (head[at - 2], head[at], head[at + 1]) != (0, 0, 1):
            return
        flag = view(self.handle + at, 1, "B")
        stop = raw.CODE_CALLBACK(lambda *_: raw.stop(self.handle))
        hook = raw.add_hook(self.handle, raw.HOOK_CODE, stop, within=(_HOOKED, _HOOKED))
        ends = []
        for value in (0, 1):
            flag[0] = value
            raw.flush_code(self.handle)
            raw.start(self.handle, _HOOKED, 0)
            ends.append(self.env[H.RIP_Q])
        raw.delete_hook(self.handle, hook)
        if ends[0] == _HOOKED < ends[1]:
            self.found["uc_no_exit_request"] = at


def _may_be_pointer(word: int) -> bool:
    """Return whether a word could be an address of this process's heap. User addresses reach 2^47
    on x86-64 and macOS, 2^48 on Linux for aarch64, and 2^56 where a system hands out five levels;
    reading tells the rest."""
    return 0x10000 <= word < 1 << 56 and word & 7 == 0


# --- Reads that cannot crash ---------------------------------------------------------------------


def _reader() -> Callable[[int, int], bytes]:
    return _read_windows if sys.platform == "win32" else _PipeReader().read


class _PipeReader:
    """Reads this process's memory through a pipe: the kernel says EFAULT where we would crash."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self._write = libc.write
        self._write.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
        self._write.restype = ctypes.c_ssize_t
        self._out, self._in = os.pipe()

    def __del__(self) -> None:
        os.close(self._out)
        os.close(self._in)

    def read(self, address: int, size: int) -> bytes:
        """Return up to `size` bytes at `address`, fewer where the memory ends."""
        parts = []
        end = address + size
        while address < end:
            length = min(end - address, 4096 - address % 4096)
            done = self._write(self._in, address, length)
            if done <= 0:
                break
            parts.append(os.read(self._out, done))
            address += done
        return b"".join(parts)


def _read_windows(address: int, size: int) -> bytes:
    kernel32 = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel32.GetCurrentProcess())
    buffer = ctypes.create_string_buffer(4096)
    got = ctypes.c_size_t()
    parts = []
    end = address + size
    while address < end:
        length = min(end - address, 4096 - address % 4096)
        if not kernel32.ReadProcessMemory(
            process, ctypes.c_void_p(address), buffer, ctypes.c_size_t(length), ctypes.byref(got)
        ):
            break
        parts.append(buffer.raw[: got.value])
        address += length
    return b"".join(parts)
