# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernels of a built kvm-unit-tests tree, as its own `x86/unittests.cfg` lists them.

The tree runs a test as `qemu <standing options> -kernel FILE -smp N <qemu_params>`, and the guest
leaves through isa-debug-exit with 0 for success and 77 for "cannot test this here". Every kernel
prints `PASS:`, `FAIL:`, `SKIP:` and `XFAIL:` lines; those are what is counted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from emu.kernels.case import Case, Result, Tally, Verdict

__all__ = ["cases_of_tree", "judge"]

_STANDING = (
    "--no-reboot -nodefaults -global kvm-pit.lost_tick_policy=discard -device pc-testdev "
    "-device isa-debug-exit,iobase=0xf4,iosize=0x4 -display none -serial stdio "
    "-device pci-testdev"
)
_VIRTUALIZATION = {"vmx", "svm", "hyperv", "nested_exception"}
_HOST_ONLY = (
    ("-enable-kvm", "asks for KVM"),
    ("-cpu host", "asks for the host's CPU"),
    ("intel-iommu", "needs an IOMMU"),
)
_EXIT_PASS = 1
_EXIT_SKIP = (77 >> 1) << 1 | 1
_LINE = re.compile(r"^(PASS|FAIL|SKIP|XFAIL|XPASS)\b:?(.*)$", re.MULTILINE)
_NEVER_IN_CONFIG = ("init", "hpet_read_test", "tscdeadline_latency")
_CALLS_KVM = ("apic",)
_FAILURES_KEPT = 12

SECONDS = 90.0
"""The tree's own limit for a test, where it names none."""
PATIENCE = 4
"""So many times its limits, which are meant for processors, does an emulator get."""


def _parse(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (section, settings) of a unittests.cfg."""
    section = ""
    settings: dict[str, str] = {}
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            if section:
                yield section, settings
            section, settings = line[1:-1], {}
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings[name.strip()] = value.strip()
    if section:
        yield section, settings


def _architecture(tree: Path) -> str:
    config = tree / "config.mak"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    found = re.search(r"^ARCH=(\S+)", text, re.MULTILINE)
    return found[1] if found else "x86_64"


def _why_not(settings: dict[str, str]) -> str:
    groups = set(settings.get("groups", "").split())
    if groups & _VIRTUALIZATION:
        return "tests virtualization"
    if settings.get("accel") == "kvm" or "/sys/module/kvm" in settings.get("check", ""):
        return "tests KVM itself"
    parameters = settings.get("qemu_params", "")
    return next((reason for word, reason in _HOST_ONLY if word in parameters), "")


def cases_of_tree(tree: Path, work: Path) -> Iterator[Case]:
    """Yield every test of a built tree; those that only KVM can run carry their reason.

    The two tests of the APIC call KVM in the middle and would get no further anywhere else, unless
    their environment, a file in `work`, says that there is no test device: they are there twice.
    """
    folder = tree / "x86"
    architecture = _architecture(tree)
    suite = f"kvm-unit-tests {architecture}"
    listed = set()
    text = (folder / "unittests.cfg").read_text(encoding="utf-8")
    for name, settings in _parse(text):
        if settings.get("arch", architecture) != architecture:
            continue
        file = folder / settings.get("file", f"{name}.flat")
        listed.add(file.stem)
        reason = _why_not(settings)
        if not reason and not file.is_file():
            reason = "was not built"
        case = _case(suite, name, file, settings, reason)
        yield case
        if file.stem in _CALLS_KVM and not reason:
            environment = work / "environment"
            environment.write_text("TEST_DEVICE=0\n", encoding="utf-8", newline="\n")
            words = (*case.arguments, "-initrd", str(environment))
            yield replace(case, name=f"{name}, no hypercall", arguments=words)
    for stem in _NEVER_IN_CONFIG:  # built, though the list leaves them out
        file = folder / f"{stem}.flat"
        if stem not in listed and file.is_file():
            yield _case(suite, stem, file, {}, "")


def _case(suite: str, name: str, file: Path, settings: dict[str, str], reason: str) -> Case:
    arguments = shlex.split(_STANDING)
    arguments += ["-kernel", str(file), "-smp", settings.get("smp", "1")]
    parameters = shlex.split(settings.get("qemu_params", ""))
    if "test_args" in settings:
        words = " ".join(shlex.split(settings["test_args"].replace("`date +%s`", "1000000000")))
        arguments += ["-append", words]
    return Case(
        suite=suite,
        name=name,
        arguments=(*arguments, *parameters),
        seconds=PATIENCE * float(settings.get("timeout", SECONDS)),
        absent=reason,
    )


def judge(code: int | None, output: str, seconds: float) -> Result:
    """Return the result of a run that ended with process exit `code` (None: it was stopped)."""
    counts = {"PASS": 0, "FAIL": 0, "SKIP": 0, "XFAIL": 0, "XPASS": 0}
    failures: list[str] = []
    for kind, text in _LINE.findall(output):
        counts[kind] += 1
        if kind in ("FAIL", "XPASS") and len(failures) < _FAILURES_KEPT:
            failures.append(text.strip())
    failed = counts["FAIL"] + counts["XPASS"]
    passed = counts["PASS"] + counts["XFAIL"]
    tally = Tally(passed, failed, counts["SKIP"], tuple(failures))
    if code is None or code == 124:
        verdict, reason = Verdict.TIMEOUT, "did not end in time"
    elif code == _EXIT_PASS and not failed:
        verdict, reason = Verdict.PASS, ""
    elif code == _EXIT_SKIP:
        verdict, reason = Verdict.SKIP, _last_skip(output)
    elif failed or "SUMMARY" in output:
        verdict, reason = Verdict.FAIL, "; ".join(failures[:2]) or "says nothing of why"
    else:
        verdict, reason = Verdict.CRASH, _last_line(output)
    return Result(verdict, seconds, reason, tally, output[-20000:])


def _last_skip(output: str) -> str:
    lines = re.findall(r"^SKIP:? *(.*)$", output, re.MULTILINE)
    return lines[-1] if lines else _last_line(output)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    wanted = [line for line in lines if "Unhandled" in line or "triple fault" in line]
    return (wanted or lines or ["printed nothing"])[-1][:120]
