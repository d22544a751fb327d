# SPDX-License-Identifier: GPL-2.0-or-later
"""The program fuzzer: guests of random instructions that must not tell several MMUs apart.

    make (seed, number) --> case --> image --> every engine --> the same events and memory?

The guest is in one operating mode, keeps the rules of invalidation, and logs every event with all
registers (`emu.fuzz.runtime`). The yardstick is `uncached`, which remembers nothing. Where one of
the others is known to differ from the SDM, `emu.fuzz.known` says so, by name.
"""

from __future__ import annotations

from typing import Any

from emu.fuzz import layout as L
from emu.fuzz.case import Case, Difference, Failure, Result, describe_error, random_of
from emu.fuzz.engines import Observation, engines
from emu.fuzz.entries import Entries
from emu.fuzz.image import build_image
from emu.fuzz.known import KNOWN_PAGES, agree
from emu.fuzz.runtime import CHECKSUM_RANGES, event_fields
from emu.fuzz.slots import Slots

__all__ = ["BLANK", "CHUNK", "MOST_RUNS", "make", "replay", "run"]

CHUNK = 1
BLANK = ""
MOST_RUNS = 150

_PE_ET_NE_MP = 0x8000_0033
_WP = 1 << 16
_PSE, _PAE, _PGE, _FXSR, _XMM = 1 << 4, 1 << 5, 1 << 7, 1 << 9, 1 << 10
_LA57, _SMEP, _SMAP, _PKE = 1 << 12, 1 << 20, 1 << 21, 1 << 22
_LME, _NXE = 1 << 8, 1 << 11


def make(seed: int, number: int, options: dict[str, Any]) -> Case:
    """Return a case."""
    rng = random_of(seed, number)
    mode = L.MODES[rng.choice(tuple(L.MODES))]
    paths = [(path, link) for path in mode.upper_paths for link in L.LINKS]
    windows = rng.sample(paths, min(rng.choice((1, 2, 3, 4)), len(paths)))
    bases = [L.window_base(mode, *window) for window in windows]
    cr4 = _FXSR | _XMM | _PSE | (_PAE if mode.levels > 2 else 0)
    cr4 |= _LA57 if mode.levels == 5 else 0
    for bit, share in ((_SMEP, 0.3), (_SMAP, 0.3), (_PGE, 0.5)):
        cr4 |= bit if rng.random() < share else 0
    cr4 |= _PKE if mode.bits == 64 and rng.random() < 0.4 else 0
    efer = _LME if mode.bits == 64 else 0
    efer |= _NXE if mode.levels > 2 and rng.random() < 0.8 else 0
    # Only where A in upper entries is left alone can others be asked: see Entries.
    accessed = rng.random() < 0.7
    tables = Entries(rng, mode, accessed=accessed).initial(windows)
    ist = mode.bits == 64 and rng.random() < 0.4
    slots = Slots(rng, mode, bases, accessed=accessed, ist=ist)
    steps = [slots.next() for _ in range(rng.choice((30, 60, 120, 240)))]
    mmu = options.get("mmu", "shadow")
    pool = rng.choice((6, 8, 16, 64, 4096))
    under_test: dict[str, Any] = {"jit": rng.choice(("auto", "off"))}
    if mmu != "native":
        under_test |= {"shadow_pages": pool, "audit": pool <= 64 and rng.random() < 0.2}
    machines: list[tuple[str, dict[str, Any]]] = [("uncached", {"jit": "off"}), (mmu, under_test)]
    if mmu != "native" and accessed:
        machines.append(("native", {"jit": "off"}))
    return {
        "kind": "program",
        "seed": seed,
        "number": number,
        "mode": mode.name,
        "cr0": _PE_ET_NE_MP | (_WP if rng.random() < 0.7 else 0),
        "cr4": cr4,
        "efer": efer,
        "ist": ist,
        "windows": bases,
        "tables": tables,
        "data": rng.getrandbits(32),
        "machines": [list(machine) for machine in machines],
        "qemu": accessed and bool(options.get("qemu", True)),
        "steps": steps,
    }


def run(seed: int, number: int, options: dict[str, Any]) -> Result:
    """Make and run case `number` of `seed`; `options`: mmu, the plug-in under test, and qemu."""
    case = make(seed, number, options)
    counts: dict[str, int] = {}
    failure = _run(case, counts)
    return Result(number, len(case["steps"]), failure, case if failure else None, counts)


def replay(case: Case) -> Failure | None:
    """Run a case."""
    return _run(case, {})


def _run(case: Case, counts: dict[str, int]) -> Failure | None:
    try:
        image = build_image(case)
        bits = L.MODES[case["mode"]].bits
        yardstick: Observation | None = None
        for name, engine in engines(case).items():
            seen = engine(image, bits)
            counts[f"runs on {name}"] = 1
            if yardstick is None:
                yardstick = seen
                counts["events"] = len(seen.events)
            compare(case, name, yardstick, seen)
    except Exception as error:
        return describe_error(error, -1)
    return None


def compare(case: Case, name: str, want: Observation, got: Observation) -> None:
    """Raise Difference where two observations differ."""
    fields = event_fields(L.MODES[case["mode"]].bits)
    for number, (wanted, event) in enumerate(zip(want.events, got.events, strict=False)):
        wrong = [field for field, a, b in zip(fields, wanted, event, strict=True) if a != b]
        wrong = [field for field in wrong if not agree(name, field, fields, wanted, event)]
        if wrong:
            raise Difference(
                f"{name} event", _describe_event(case, number, fields, wanted, event, wrong)
            )
    if len(want.events) != len(got.events):
        raise Difference(
            f"{name} events", f"{len(got.events)} events, wanted {len(want.events)} ({got.ending})"
        )
    if want.ending != got.ending:
        raise Difference(f"{name} ending", f"{got.ending}, wanted {want.ending}")
    pages = [base + 0x1000 * n for base, count in CHECKSUM_RANGES for n in range(count)]
    for gpa, a, b in zip(pages, want.checksums, got.checksums, strict=False):
        if a != b and gpa not in KNOWN_PAGES.get(name, ()):
            raise Difference(f"{name} memory", f"the page at {gpa:#x} ends up different")


def _describe_event(
    case: Case,
    number: int,
    fields: tuple[str, ...],
    want: tuple[int, ...],
    got: tuple[int, ...],
    wrong: list[str],
) -> str:
    place = dict(zip(fields, want, strict=True))
    told = ", ".join(
        f"{field} {b:#x} (wanted {a:#x})"
        for field, a, b in zip(fields, want, got, strict=True)
        if field in wrong
    )
    ip = place.get("eip", place.get("rip", 0))
    slot = slot_of(case, ip)
    note = ""
    if slot is not None and slot < len(case["steps"]) and case["steps"][slot]:
        note = f", slot {slot} ({case['steps'][slot][2]})"
    vector = place["vector"]
    return f"event {number} (vector {vector}, error {place['error']:#x}) at {ip:#x}{note}: {told}"


def slot_of(case: Case, ip: int) -> int | None:
    """Return the number of the slot that an address lies in, or None."""
    mode = L.MODES[case["mode"]]
    bases = [0] if mode.bits == 16 else [mode.immune + L.SLOTS, mode.immune + L.USER_SLOTS]
    for base in bases:
        if 0 <= ip - base < L.MOST_SLOTS * L.SLOT:
            return (ip - base) // L.SLOT
    return None
