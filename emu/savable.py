# SPDX-License-Identifier: GPL-2.0-or-later
"""What it takes to save a machine: every part of it gives its state as plain data, and takes it.

`save` returns a *state*: a dict of ints, bools, strings, bytes, None, lists and dicts with string
keys. So a state is JSON but for the bytes, is equal to another one exactly if the parts are alike,
and holds no reference into the machine. `load` puts a state back, into the part that it came from
or into the same part of a machine that was built with the same options.

The rules, for whoever writes a chip:

- `load` sets what the chip remembers and does nothing else. It drives no pin: the chip at the other
  end of the wire saves what it sees of it. It writes no memory, calls no sink, and lets no time
  pass.
- An event in the clock's queue is saved by the chip that waits for it (`Clock.save_event`) and put
  back with the same time and the same rank (`Clock.load_event`), so that events of one moment keep
  their order.
- What follows from the rest (a memory map, a cache) is built again, not saved.
- Between two slices only: no instruction is under way.
- A change of what is saved raises `STATE_VERSION`.

A chip that says nothing cannot be saved: the default raises an error with the chip's type. A test
asks every chip of the board. (The net is crosvm's, trait `Suspendable`.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from emu.errors import NotSavableError, StateError

__all__ = ["Savable", "State", "from_plain", "to_plain"]

State = dict[str, Any]
"""Plain data; see the module's text."""

_HEADER = ("type", "version")


class Savable:
    """A part of the machine whose state can be saved and loaded.

    >>> class Latch(Savable):
    ...     value = 0
    ...     def save(self):
    ...         return self._make_state(value=self.value)
    ...     def load(self, state):
    ...         (self.value,) = self._parts_of(state, value=int)
    >>> latch, other = Latch(), Latch()
    >>> latch.value = 7
    >>> latch.save()
    {'type': 'Latch', 'version': 1, 'value': 7}
    >>> other.load(latch.save())
    >>> other.value
    7
    """

    __slots__ = ()

    STATE_VERSION: ClassVar[int] = 1
    """Raised when the parts of the state change; a state of another version is refused."""

    def save(self) -> State:
        """Return the state. Raises NotSavableError if this part, as it is now, has none."""
        raise NotSavableError(f"{type(self).__name__} cannot be saved: it has no save()")

    def load(self, state: State) -> None:
        """Take a state that `save` has returned. Raises StateError, with nothing changed, if the
        state is damaged or comes from something else."""
        raise NotSavableError(f"{type(self).__name__} cannot be loaded: it has no load()")

    def _make_state(self, **parts: object) -> State:
        """Return a state of these parts, made plain."""
        header: State = {"type": type(self).__name__, "version": self.STATE_VERSION}
        return header | {name: to_plain(part) for name, part in parts.items()}

    def _parts_of(self, state: State, **types: Any) -> list[Any]:
        """Return the parts of a state, each made into its type (see `from_plain`), in the order of
        `types`. Raises StateError if any is missing, unknown or of another type."""
        name = type(self).__name__
        if not isinstance(state, dict) or state.get("type") != name:
            raise StateError(f"this is no state of {name}")
        if state.get("version") != self.STATE_VERSION:
            known = self.STATE_VERSION
            raise StateError(f"{name}: state of version {state.get('version')}, not {known}")
        _check_names(name, state.keys() - _HEADER, types.keys())
        return [from_plain(state[part], kind, f"{name}.{part}") for part, kind in types.items()]


def to_plain(value: object) -> Any:
    """Return `value` as plain data: dataclasses become dicts, other sequences lists, dicts with
    other than string keys lists of pairs. Raises TypeError for what is none of these."""
    if value is None or type(value) in (int, bool, str, bytes):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (list, tuple, deque)):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: to_plain(item) for key, item in value.items()}
        return [[to_plain(key), to_plain(item)] for key, item in value.items()]
    if is_dataclass(value) and not isinstance(value, type):
        return {name: to_plain(getattr(value, name)) for name in _layout(type(value))}
    raise TypeError(f"{type(value).__name__} is no plain data")


def from_plain(value: Any, kind: Any, where: str = "state") -> Any:
    """Return plain data made into `kind`, an annotation: int, bool, str, bytes, bytearray, a
    dataclass, NamedTuple or Enum, list, tuple, deque or dict of such, a union with None, or Any.

    Raises StateError, which says `where`, if `value` does not fit.

    >>> from_plain([[1, "one"]], dict[int, str])
    {1: 'one'}
    >>> from_plain(None, int)
    Traceback (most recent call last):
    ...
    emu.errors.StateError: state: int expected, not NoneType
    """
    if kind in (int, bool, str, bytes):
        if type(value) is not kind:
            raise _unfit(value, kind.__name__, where)
        return value
    if kind is Any:
        return value
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        if value is None:
            return None
        (kind,) = (option for option in get_args(kind) if option is not type(None))
        return from_plain(value, kind, where)
    if origin is not None:
        return _container(value, origin, get_args(kind), where)
    if kind is bytearray:
        return bytearray(from_plain(value, bytes, where))
    if is_dataclass(kind):
        return _dataclass(value, kind, where)
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise _unfit(value, kind.__name__, where) from None
    if issubclass(kind, tuple):  # a NamedTuple
        return kind(*_container(value, tuple, tuple(_hints(kind).values()), where))
    raise TypeError(f"a state cannot hold {kind}")


def _container(value: Any, origin: Any, kinds: tuple[Any, ...], where: str) -> Any:
    """Return a list made into the container `origin` of `kinds`."""
    if origin is dict and kinds[0] is str:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise _unfit(value, "dict", where)
        return {key: from_plain(item, kinds[1], where) for key, item in value.items()}
    if origin is dict and value == {}:
        return {}
    if not isinstance(value, list):
        raise _unfit(value, "list", where)
    if origin is dict:
        return dict(_container(item, tuple, kinds, where) for item in value)
    if origin is not tuple or kinds[-1] is Ellipsis:
        return origin(from_plain(item, kinds[0], where) for item in value)
    if len(value) != len(kinds):
        raise StateError(f"{where}: {len(kinds)} items expected, not {len(value)}")
    return tuple(from_plain(item, kind, where) for item, kind in zip(value, kinds, strict=True))


def _dataclass(value: Any, kind: Any, where: str) -> Any:
    """Return a dict made into a dataclass. A list, bytearray or dict that is not empty by default
    is a file of registers: it keeps its size, or its keys; a deque keeps its bound."""
    if not isinstance(value, dict):
        raise _unfit(value, kind.__name__, where)
    layout = _layout(kind)
    _check_names(where, value.keys(), layout.keys())
    made = {}
    for name, (hint, default) in layout.items():
        part = from_plain(value[name], hint, f"{where}.{name}")
        if isinstance(default, deque):
            part = deque(part, default.maxlen)
        elif isinstance(default, dict) and default and part.keys() != default.keys():
            raise StateError(f"{where}.{name}: other keys than {list(default)}")
        elif isinstance(default, (list, bytearray)) and default and len(part) != len(default):
            raise StateError(f"{where}.{name}: {len(default)} items expected, not {len(part)}")
        made[name] = part
    return kind(**made)


@cache
def _layout(kind: type) -> dict[str, tuple[Any, Any]]:
    """Return the type of each field of a dataclass, and what its factory makes, or None."""
    hints = _hints(kind)
    return {
        field.name: (
            hints[field.name],
            None if field.default_factory is MISSING else field.default_factory(),
        )
        for field in fields(kind)
    }


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _check_names(where: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        strange = ", ".join(sorted(map(str, found ^ wanted)))
        raise StateError(f"{where}: missing or unknown: {strange}")


def _unfit(value: object, wanted: str, where: str) -> StateError:
    return StateError(f"{where}: {wanted} expected, not {type(value).__name__}")
