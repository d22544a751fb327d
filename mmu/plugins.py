# SPDX-License-Identifier: GPL-2.0-or-later
"""Plug-ins by name: finds them, makes them, and connects them to guest memory.

This is the top floor of the package: it may import every plug-in, and no plug-in imports it.
:func:`adapt` is the one place that looks for a method by its name.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from .api import (
    DEFAULT_POOL,
    Answer,
    Mmu,
    MmuError,
    MmuFactory,
    PagingRegisters,
    PluginError,
    TlbHost,
)
from .arch import Features
from .audited import Audited
from .memory import Memory
from .observe import Counters

__all__ = ["adapt", "find_mmu", "make_mmu"]


def make_mmu(
    name: str,
    memory: Memory,
    host: TlbHost,
    cpus: int = 1,
    *,
    features: Features | None = None,
    pool: int = DEFAULT_POOL,
    policy: str = "",
    audit: bool = False,
) -> Mmu:
    """Make the plug-in called ``name`` (see :func:`find_mmu`) and connect it to ``memory``, which
    then reports every write and every change of the slots to it.

    ``policy`` switches parts of the shadow cache, as ``unsync=off,prefetch=off`` (see
    :class:`mmu.shadow.policy.Policy`). With ``audit``, the plug-in is audited after every call that
    may change its tables (see :mod:`mmu.audited`).

    Raises:
        PluginError: no plug-in of that name, or one that cannot be made.
        PoolError: ``pool`` is too small for ``cpus``.
        ValueError: a policy that the plug-in does not have.
    """
    factory = find_mmu(name)
    try:
        made = factory(memory, host, cpus, features=features or Features(), pool=pool)
    except (MmuError, OSError):
        raise
    except Exception as error:
        raise PluginError(
            f"{name!r} cannot be made as an MMU plug-in is, by (memory, host, cpus, *, features, "
            f"pool): {type(error).__name__}: {error}"
        ) from error
    mmu = adapt(made, name)
    if policy:
        mmu.set_policy(policy)
    if audit:
        mmu = Audited(mmu)
    memory.listeners.append(mmu.written)
    memory.map_listeners.append(mmu.remapped)
    return mmu


def find_mmu(name: str) -> MmuFactory:
    """Return what makes the plug-in called ``name``, without making one: ``shadow``, ``uncached``,
    ``tlbcheck`` (the TLB sanitizer), ``lockstep`` (or ``lockstep:FIRST,SECOND``), ``kvm2007`` (the
    shadow MMU with the key of that year, a bug) or ``MODULE:CLASS``.

    Raises:
        PluginError: there is none of that name.
    """
    if name == "shadow":
        from .shadow.mmu import ShadowMmu

        return ShadowMmu
    if name == "uncached":
        from .uncached import UncachedMmu

        return UncachedMmu
    if name == "tlbcheck":
        from .tlbcheck import CheckedMmu

        return CheckedMmu
    if name == "kvm2007":
        from .kvm2007 import Kvm2007

        return Kvm2007
    module, colon, rest = name.partition(":")
    if module == "lockstep":
        return _find_lockstep(name, rest if colon else "shadow,uncached")
    if not colon:
        raise PluginError(
            f"no MMU plug-in is called {name!r} "
            "(shadow, uncached, tlbcheck, lockstep, kvm2007, MODULE:CLASS)"
        )
    return _find_in_module(name, module, rest)


def _find_lockstep(name: str, pair: str) -> MmuFactory:
    first, comma, second = pair.partition(",")
    if not comma:
        raise PluginError(f"MMU plug-in {name!r}: give two plug-ins, lockstep:FIRST,SECOND")
    from .lockstep import LockstepMmu

    return partial(LockstepMmu, first=_maker(first), second=_maker(second), names=(first, second))


def _maker(name: str) -> MmuFactory:
    """Return a factory whose product is adapted."""
    factory = find_mmu(name)

    def make(memory: Memory, host: TlbHost, cpus: int, *, features: Features, pool: int) -> Mmu:
        return adapt(factory(memory, host, cpus, features=features, pool=pool), name)

    return make


def _find_in_module(name: str, module: str, attribute: str) -> MmuFactory:
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the module is somebody else's code
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PluginError(f"cannot load MMU plug-in {name!r}: {reason}") from error
    if not callable(found):
        raise PluginError(
            f"{name!r} is no MMU plug-in: MODULE:CLASS must name a class, not a "
            f"{type(found).__name__}"
        )
    if isinstance(found, type):
        _check_methods(found, repr(name))
    factory: MmuFactory = found
    return factory


# --- Plug-ins that are no subclass of Mmu ---------------------------------------------------


def adapt(plugin: object, name: str | None = None) -> Mmu:
    """Return ``plugin`` if it is a :class:`~mmu.api.Mmu`, else wrap it as one.

    The wrapped object must have the eight methods without a default. Of the others those that it
    has are used, and the defaults stand for the rest. ``name`` is what messages call it.

    Raises:
        PluginError: methods are missing; the message names them.
    """
    if isinstance(plugin, Mmu):
        return plugin
    _check_methods(plugin, repr(name) if name is not None else f"a {type(plugin).__name__}")
    return _Adapted(plugin, name)


def _check_methods(plugin: object, called: str) -> None:
    """Raise PluginError if an object, or a class, lacks methods that have no default."""
    missing = [word for word in _REQUIRED if not callable(getattr(plugin, word, None))]
    if missing:
        raise PluginError(f"{called} is no MMU plug-in: it has no {', '.join(missing)}")


_REQUIRED = [word for word in vars(Mmu) if word in Mmu.__abstractmethods__]
_OPTIONAL = (
    *("keeps", "reused", "is_protected", "compiled_block", "observe", "unobserve"),
    *("pdptes", "restore_pdptes"),
    *("describe_path", "set_policy", "zap_all", "shrink", "watch"),
    *("start_dirty_log", "dirty_log", "stop_dirty_log", "flush_on_invlpg", "reports_events"),
)


class _Adapted(Mmu):
    """An object that has the methods of a plug-in and is no subclass of :class:`Mmu`."""

    def __init__(self, plugin: Any, name: str | None) -> None:
        self.inner = plugin
        self.name = getattr(plugin, "name", name or type(plugin).__name__)
        self.counters = getattr(plugin, "counters", None) or Counters()
        for word in (*_REQUIRED, *_OPTIONAL):
            if hasattr(plugin, word):
                setattr(self, word, getattr(plugin, word))

    @property
    def version(self) -> int | None:
        """The plug-in's version, if it has one."""
        version: int | None = getattr(self.inner, "version", None)
        return version

    # The methods below satisfy the base class; the instance's attributes hide them.

    def load(self, cpu: int, regs: PagingRegisters) -> None:
        self.inner.load(cpu, regs)

    def translate(self, cpu: int, gva: int, access: int) -> Answer:
        answer: Answer = self.inner.translate(cpu, gva, access)
        return answer

    def invlpg(self, cpu: int, gva: int) -> None:
        self.inner.invlpg(cpu, gva)

    def flushed(self, cpu: int) -> None:
        self.inner.flushed(cpu)

    def written(self, gpa: int, size: int, source: str) -> None:
        self.inner.written(gpa, size, source)

    def remapped(self) -> None:
        self.inner.remapped()

    def check(self) -> None:
        self.inner.check()
