# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiles the few functions that run on every TLB miss and every block, and keeps the result.

What is compiled comes along for most hosts (:mod:`emu.objects`); this is how it is made. Elsewhere,
and while the text is being worked on, it is done on the spot. The functions
(:func:`mmu.shadow.fast.walk.hit`, :mod:`emu.cpu.compiled`) are plain Python on integers; the loads,
stores and calls that they use are given to them here. Numba compiles them once, for this processor;
the object code is kept in the user's cache folder, under a name made of everything that it depends
on, and later runs load it through llvmlite alone: importing Numba takes longer than running a small
kernel.

Without llvmlite, or without Numba and nothing in the cache, nothing can be compiled here and
:func:`compiled_code` returns None. The cache folder is ``$SHADOWCORN_CACHE``, or the system's
usual place; that it cannot be written is no error, only slow.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from emu.cpu import raw
from emu.cpu.compiled import CompiledCode

# Address space. With less of it these packages end the process, or raise whatever they like.
_ROOM_TO_LOAD = 256 << 20
_ROOM_TO_COMPILE = 1 << 30

_owners: list[Any] = []
"""The execution engines that own the machine code: they live as long as the process."""


def is_available() -> bool:
    """Return whether the packages that compile are there."""
    return all(importlib.util.find_spec(name) is not None for name in ("llvmlite", "numba"))


@lru_cache(maxsize=1)
def compiled_code() -> CompiledCode | None:
    """Return the entry points compiled for this very processor, or None if the packages are missing
    or have no room.

    The first call on a machine compiles (about 2 s); later ones load (about 0.1 s).
    """
    if not raw.has_room(_ROOM_TO_LOAD):
        return None
    try:
        import llvmlite.binding as llvm
    except (ImportError, OSError):  # it is not there, or there is no memory for its library
        return None
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    path = _cache_folder() / f"{_fingerprint(llvm)}.o"
    try:
        code = path.read_bytes()
    except OSError:
        if not (is_available() and raw.has_room(_ROOM_TO_COMPILE)):
            return None
        code = _target_machine(llvm).emit_object(compile_module(llvm))
        _keep(path, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine(llvm))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _owners.append(engine)
    return CompiledCode(*map(engine.get_function_address, CompiledCode._fields))


def _target_machine(llvm: Any) -> Any:
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), opt=3, jit=True, codemodel="jitdefault"
    )


# --- The cache ------------------------------------------------------------------------------


def _cache_folder() -> Path:
    chosen = os.environ.get("SHADOWCORN_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "shadowcorn"


def _sources() -> list[ModuleType]:
    from emu.cpu import compiled as of_the_vcpu
    from emu.cpu import compiled_devices as of_devices
    from emu.cpu import compiled_events as of_events
    from emu.cpu import compiled_sites as of_sites
    from mmu.shadow.fast import walk as of_the_mmu

    return [of_the_mmu, of_the_vcpu, of_events, of_devices, of_sites]


def _functions() -> list[Callable[..., Any]]:
    """Return what is compiled besides the entry points, each after those that it calls."""
    mmu, vcpu, events, _, sites = _sources()
    names = (
        (mmu, mmu.FUNCTIONS),
        (vcpu, ("reach", "is_plain", "refuse")),
        (events, ("get_flags", "set_flags", "note", "deliver", "take", "enter")),
        (sites, ("is_accessed", "is_usual")),
    )
    return [getattr(module, name) for module, functions in names for name in functions]


def _entry_points() -> list[Callable[..., Any]]:
    modules = _sources()[1:]
    owners = [next(m for m in modules if hasattr(m, name)) for name in CompiledCode._fields]
    return [getattr(owner, name) for owner, name in zip(owners, CompiledCode._fields, strict=True)]


def _fingerprint(llvm: Any) -> str:
    """Return a name for the object code: all that it is made of and made for."""
    parts = [platform.machine(), sys.platform, llvm.get_host_cpu_name()]
    parts += [importlib.metadata.version("llvmlite")]
    parts += [Path(__file__).read_text(encoding="utf-8"), *what_is_compiled()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def what_is_compiled() -> list[str]:
    """Return the text that is compiled, and the numbers that it takes from elsewhere."""
    files = [Path(module.__file__ or "") for module in _sources()]
    parts = [file.read_text(encoding="utf-8") for file in files]
    for function in (*_functions(), *_entry_points()):
        parts += [f"{name}={value}" for name, value in bound_constants(function)]
    return parts


def bound_constants(function: Callable[..., Any]) -> list[tuple[str, int]]:
    """Return the numbers that a function takes from the names around it, wherever those come from:
    compiled code holds them as they were."""
    assert isinstance(function, FunctionType)
    names, around = function.__code__.co_names, function.__globals__
    found = [(name, around[name]) for name in names if isinstance(around.get(name), int)]
    for module in [around[name] for name in names if isinstance(around.get(name), ModuleType)]:
        held = vars(module)
        found += [(name, held[name]) for name in names if isinstance(held.get(name), int)]
    return sorted(found)


def _keep(path: Path, code: bytes) -> None:
    """Write the object code so that another process sees all of it or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(code)
        Path(file.name).replace(path)
    except OSError:
        pass


# --- The compiler ---------------------------------------------------------------------------


def compile_module(llvm: Any) -> Any:
    """Return a module with all entry points; none of them calls anything outside itself."""
    from numba import cfunc, njit, types

    word, kind = types.int64, types.int32
    signatures = {
        "fill": types.uint8(word, word, kind, word, word),
        "count_block": types.void(word, word, kind, word),
        "interrupt": types.void(word, kind, word),
        "syscall": types.void(word, word),
        "read_device": types.int64(word, word, kind, word),
        "look_at_site": types.void(word, word, kind, word),
    }
    names = dict(_primitives())
    bare: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    for wanted in _functions():
        bound = _bound(wanted, names)
        signature = word(*[word] * bound.__code__.co_argcount)
        names[wanted.__name__] = njit(signature, **bare)(bound)
    linked = llvm.parse_assembly("")
    for name, entry in zip(CompiledCode._fields, _entry_points(), strict=True):
        function = cfunc(signatures[name])(_bound(entry, names))
        text = function.inspect_llvm().replace(f'"{function.native_name}"', f'"{name}"')
        linked.link_in(llvm.parse_assembly(text.replace(function.native_name, name)))
    linked.verify()
    return linked


def _bound(function: Callable[..., Any], names: dict[str, Any]) -> FunctionType:
    """Return the function with its loads and stores bound to compiled ones."""
    assert isinstance(function, FunctionType)
    return FunctionType(function.__code__, {**function.__globals__, **names}, function.__name__)


def _primitives() -> dict[str, Any]:
    """Return loads, stores and calls on plain addresses, as Numba intrinsics."""
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    word = ir.IntType(64)

    def load(bits: int) -> Any:
        @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
        def primitive(_typing: Any, _address: Any) -> Any:
            def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
                pointer = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
                value = builder.load(pointer)
                return builder.zext(value, word) if bits < 64 else value

            return types.int64(types.int64), generate

        return primitive

    def store(bits: int) -> Any:
        @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
        def primitive(_typing: Any, _address: Any, _value: Any) -> Any:
            def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
                pointer = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
                value = arguments[1]
                builder.store(
                    builder.trunc(value, ir.IntType(bits)) if bits < 64 else value, pointer
                )
                return context.get_dummy_value()

            return types.void(types.int64, types.int64), generate

        return primitive

    def call(result: Any, *parameters: Any) -> Any:
        """A call of a C function by address; every parameter is given as a word."""
        signature = types.int64(types.int64, *(types.int64 for _ in parameters))

        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            pointer = ir.FunctionType(result, parameters).as_pointer()
            values = [
                builder.trunc(value, parameter) if parameter.width < 64 else value
                for value, parameter in zip(arguments[1:], parameters, strict=True)
            ]
            answer = builder.call(builder.inttoptr(arguments[0], pointer), values)
            return builder.zext(answer, word)

        return signature, generate

    @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
    def call_fill(_t: Any, _f: Any, _uc: Any, _gva: Any, _kind: Any, _entry: Any, _d: Any) -> Any:
        return call(ir.IntType(8), word, word, ir.IntType(32), word, word)

    @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
    def call_read(_t: Any, _function: Any, _uc: Any, _gpa: Any, _size: Any, _d: Any) -> Any:
        return call(word, word, word, ir.IntType(32), word)

    @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
    def call_stop(_t: Any, _function: Any, _uc: Any) -> Any:
        return call(ir.IntType(32), word)

    @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
    def call_interrupt(_t: Any, _function: Any, _uc: Any, _number: Any, _d: Any) -> Any:
        return call(ir.IntType(32), word, ir.IntType(32), word)

    @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
    def call_site(_t: Any, _f: Any, _uc: Any, _address: Any, _size: Any, _d: Any) -> Any:
        return call(ir.IntType(32), word, word, ir.IntType(32), word)

    @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
    def call_syscall(_t: Any, _function: Any, _uc: Any, _d: Any) -> Any:
        return call(ir.IntType(32), word, word)

    @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
    def call_read_register(_t: Any, _function: Any, _uc: Any, _register: Any, _box: Any) -> Any:
        return call(ir.IntType(32), word, ir.IntType(32), word)

    return {
        "load8": load(8),
        "load32": load(32),
        "load64": load(64),
        "store8": store(8),
        "store32": store(32),
        "store64": store(64),
        "call_fill": call_fill,
        "call_read": call_read,
        "call_stop": call_stop,
        "call_interrupt": call_interrupt,
        "call_site": call_site,
        "call_syscall": call_syscall,
        "call_read_register": call_read_register,
    }
