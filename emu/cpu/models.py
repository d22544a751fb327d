# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's CPU models by name: `-cpu Haswell-noTSX,-avx2`.

`models.json` holds what QEMU 7.2 answers about its own models (its "source" says how it was asked).
A model here is what this processor can do, cut down to what the model has, with the model's vendor,
family and name. What the model has in addition is not available, and the caller is told its names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from emu.cpu.cpuid import FEATURE_NAMES, Identity, can_be_had

__all__ = ["DATA", "UNLIMITED", "Model", "canonical", "find_model", "flag_names", "model_names"]

DATA = Path(__file__).with_name("models.json")
UNLIMITED = ("max", "host")
"""Models that have everything this processor has."""
_TYPE_SUFFIX = "-x86_64-cpu"  # QEMU takes the name of the type, too


class Model(NamedTuple):
    """One model: who it says it is, every feature that this processor knows, and what it lacks.

    `switches` is for `Cpuid.set_feature`. `missing` are the model's features that are not
    available, by QEMU's names.
    """

    identity: Identity
    switches: dict[str, bool]
    missing: tuple[str, ...]


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return table


@cache
def _names() -> dict[str, str]:
    """By name in lower case: the model that holds the data."""
    table = _table()
    names = {name: name for name in table["models"]} | table["aliases"]
    return {name.lower(): model for name, model in names.items()}


def model_names() -> list[str]:
    """Return all names that `find_model` knows, and those of `UNLIMITED`."""
    table = _table()
    return sorted((*table["models"], *table["aliases"], *UNLIMITED), key=str.lower)


def flag_names() -> list[str]:
    """Return all CPUID flags that `canonical` knows."""
    return sorted(_flags())


def canonical(flag: str) -> str | None:
    """Return QEMU's name for a CPUID flag, however it is spelled, or None if there is none.

    >>> canonical("sse4_1"), canonical("i64"), canonical("frobnicate")
    ('sse4.1', 'lm', None)
    """
    name = flag.lower().replace("_", "-")
    name = _SPELLINGS.get(name, name)
    return name if name in _flags() else None


@cache
def _flags() -> frozenset[str]:
    return frozenset(_table()["flags"].split()) | {_ours(name) for name in FEATURE_NAMES}


# QEMU's further spellings (x86_cpu_register_feature_bit_props and its aliases).
_SPELLINGS = {
    "sse4-1": "sse4.1",
    "sse4-2": "sse4.2",
    "pclmuldq": "pclmulqdq",
    "pni": "sse3",
    "xd": "nx",
    "i64": "lm",
    "ffxsr": "fxsr-opt",
}


def _ours(name: str) -> str:
    """Return QEMU's spelling of a name of `FEATURE_NAMES`."""
    return name.replace("_", "-")


def find_model(name: str) -> Model | None:
    """Return the model of that name, in any case, or None if QEMU has none such.

    >>> model = find_model("nehalem")
    >>> model.identity.vendor, model.switches["smep"], model.missing
    ('GenuineIntel', False, ())
    """
    entry = _table()["models"].get(_names().get(name.lower().removesuffix(_TYPE_SUFFIX), ""))
    return _model(entry) if entry is not None else None


def _model(entry: Mapping[str, Any]) -> Model:
    has = {_SPELLINGS.get(flag, flag) for flag in entry["features"].split()}
    ours = {_ours(name): name for name in FEATURE_NAMES}
    switches = {name: flag in has and can_be_had(name) for flag, name in sorted(ours.items())}
    missing = tuple(flag for flag in sorted(has) if flag not in ours or not can_be_had(ours[flag]))
    identity = Identity(
        entry["vendor"],
        entry["family"],
        entry["model"],
        entry["stepping"],
        entry["level"],
        entry["xlevel"],
        entry["model-id"],
    )
    return Model(identity, switches, missing)
