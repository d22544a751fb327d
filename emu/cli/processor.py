# SPDX-License-Identifier: GPL-2.0-or-later
"""-cpu: from QEMU's model names and features to what the processor has and who it says it is."""

from __future__ import annotations

from collections.abc import Callable

from emu.cli.options import RunOptions, parse_number
from emu.cpu.cpuid import FEATURE_NAMES, OURS, Identity, can_be_had
from emu.cpu.models import UNLIMITED, canonical, find_model
from emu.errors import UsageError

__all__ = ["processor"]

_IDENTITY = {
    "vendor": "vendor",
    "family": "family",
    "model": "model",
    "stepping": "stepping",
    "level": "level",
    "xlevel": "xlevel",
    "model-id": "text",
    "model_id": "text",
}
"""Properties of -cpu that say who the processor is, and their fields of `Identity`."""

# What describes a host or hypervisor that is not there.
_QUIET_CPU_PROPERTIES = frozenset(
    ("host-phys-bits", "migratable", "enforce", "check", "kvm", "pmu", "l3-cache", "tcg-cpuid")
)


def processor(
    options: RunOptions, warn: Callable[[str], None]
) -> tuple[dict[str, bool], Identity | None]:
    """Return the features that -cpu switches, and who the processor says it is (None: ours).

    Features are "+f", "-f", "f", "f=on" or "f=off", in order, upon those of the model. One warning
    names all that the model and the words ask for and that is not available; unknown words have a
    warning each.
    """
    name, *words = options.cpu.split(",")
    switches, identity, missing = _model(name, warn)
    fields = {}
    for word in words:
        flag, _, value = word.partition("=")
        if flag.lower() in _IDENTITY and value:
            fields[_IDENTITY[flag.lower()]] = value
        else:
            _switch(word, switches, missing, warn)
    if missing and options.cpu_said:
        warn(f"-cpu {name} without what is not available: {', '.join(dict.fromkeys(missing))}")
    return switches, _changed(identity, fields)


def _model(
    name: str, warn: Callable[[str], None]
) -> tuple[dict[str, bool], Identity | None, list[str]]:
    if name.lower() in UNLIMITED:
        return {}, None, []
    model = find_model(name)
    if model is None:
        warn(f"CPU model {name} is not known: the processor has everything that works (-cpu max)")
        return {}, None, []
    return dict(model.switches), model.identity, list(model.missing)


def _switch(
    word: str, switches: dict[str, bool], missing: list[str], warn: Callable[[str], None]
) -> None:
    """Do one word of -cpu behind the model's name."""
    flag, _, value = word.partition("=")
    on = value != "off" if value else not word.startswith("-")
    flag = flag.lstrip("+-").replace("_", "-").lower()
    known = canonical(flag)
    if known is None or value not in ("", "on", "off"):
        if flag not in _QUIET_CPU_PROPERTIES and not flag.startswith(("kvm", "hv-", "vmx-")):
            warn(f"CPU property {word} is not known: passed over")
        return
    ours = {key.replace("_", "-"): key for key in FEATURE_NAMES}.get(known)
    if ours is not None and can_be_had(ours):
        switches[ours] = on
    elif on:
        missing.append(known)
    elif known in missing:
        missing.remove(known)


def _changed(identity: Identity | None, fields: dict[str, str]) -> Identity | None:
    """Return `identity` with the properties of -cpu that say who the processor is."""
    if not fields:
        return identity
    who = identity or OURS
    numbers = {
        name: parse_number(value, f"-cpu {name}")
        for name, value in fields.items()
        if name not in ("vendor", "text")
    }
    for name, top in (("family", 0xFF + 0xF), ("model", 0xFF), ("stepping", 0xF)):
        if numbers.get(name, 0) > top:
            raise UsageError(f"-cpu {name}={fields[name]}: at most {top:#x}")
    vendor = fields.get("vendor", who.vendor)
    if len(vendor) != 12 or not vendor.isascii():
        raise UsageError(f"-cpu vendor={vendor}: 12 characters are needed")
    return who._replace(**numbers, vendor=vendor, text=fields.get("text", who.text))
