# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plug-in: options, the `kernel` fixture, and the collection of kernel suites.

Imported by pytest in every run, so nothing of the emulator is imported before a test needs it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from emu.testing.suite import KernelSuite

if TYPE_CHECKING:
    from emu.testing.machine import KernelMachine
    from emu.testing.reports import TestLine
    from emu.testing.suite import SuiteRun

__all__ = ["KernelFactory"]

_MACHINES = pytest.StashKey[list["KernelMachine"]]()
_RUN = "(run)"
_LONGEST_NAME = 200


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, and the settings of pytest.ini that they override."""
    group = parser.getgroup("shadowcorn", "kernels under test (shadowcorn)")
    group.addoption("--kernel", metavar="FILE", help="what kernel() boots; also guest:NAME")
    group.addoption(
        "--shadowcorn-report",
        choices=("always", "failure", "never"),
        help="when to write a test's serial output, screen and report into files beside junit.xml, "
        "in shadowcorn/: on failure if there is a --junit-xml, else never",
    )
    group.addoption(
        "--kernel-timeout",
        type=float,
        metavar="S",
        help="host seconds that one wait may take (600): a safety net, an error and no failure",
    )
    parser.addini("kernel", "what kernel() boots, from rootdir; --kernel overrides it")


# --- The fixture ------------------------------------------------------------------------------


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> Iterator[KernelFactory]:
    """Boot kernels in machines of their own: `m = kernel()` has the one of --kernel.

    kernel("other.elf", smp=2, append="debug", memory="64M", initrd="disk.img",
    tlb_check="strict", tlb="lazy", seed=1, mmu="uncached", options=["-cpu", "qemu64"], insns=N,
    panic=[...]): a path is taken from pytest's rootdir, guest:NAME is a kernel that comes along,
    bytes are an image. `options` are further ones of `shadowcorn run`; `insns` is the limit of a
    wait that gives none, in guest instructions; `panic` are the patterns that fail a test.

    m.expect(regex), m.expect_exact(text), m.expect_all([regex, ...]), on="serial", "debugcon" or
    "screen"; m.run_to_exit(code=0x10); m.serial.feed("ls\\n"); m.type("keys"); m.serial.text,
    m.screen.text; m.memory["variable"]; m.walk("symbol"), m.rights("symbol"); m.regs;
    m.machine is the emu.machine.Machine. See emu.testing.machine.KernelMachine.
    """
    factory = KernelFactory(request.config, request.node.stash.setdefault(_MACHINES, []))
    yield factory
    factory.close()


class KernelFactory:
    """The type of the `kernel` fixture, for annotations: call it to boot a kernel."""

    def __init__(self, config: pytest.Config, machines: list[KernelMachine]) -> None:
        self._config = config
        self._machines = machines

    def __repr__(self) -> str:
        """Say nothing that differs between two runs: tracebacks show it."""
        return f"<KernelFactory, {len(self._machines)} booted>"

    def __call__(
        self,
        kernel: str | Path | bytes | None = None,
        *,
        insns: int | None = None,
        panic: Sequence[str] | None = None,
        **options: Any,
    ) -> KernelMachine:
        """Return a machine with a kernel in it; see the `kernel` fixture for the arguments."""
        __tracebackhide__ = True
        machine = _boot(self._config, kernel, insns, panic, options)
        self._machines.append(machine)
        return machine

    def close(self) -> None:
        """Close all machines."""
        for machine in self._machines:
            machine.machine.close()


def _boot(
    config: pytest.Config,
    kernel: str | Path | bytes | None,
    insns: int | None,
    panic: Sequence[str] | None,
    options: dict[str, Any],
) -> KernelMachine:
    """Return a machine; a kernel that cannot be loaded fails the test, in a line."""
    __tracebackhide__ = True
    from emu.errors import ShadowcornError
    from emu.testing import machine
    from emu.testing.launch import Launch, option_words

    image, folder = _find(config, kernel)
    launch = Launch(image, option_words(**options), folder)
    patience = config.getoption("--kernel-timeout") or machine.PATIENCE
    try:
        return machine.KernelMachine(
            launch,
            insns=machine.INSNS if insns is None else insns,
            panic=machine.PANIC if panic is None else panic,
            patience=patience,
        )
    except ShadowcornError as error:
        reason = str(error)
    return pytest.fail(f"{launch.name}: {reason}", pytrace=False)


def _find(config: pytest.Config, kernel: str | Path | bytes | None) -> tuple[str | bytes, Path]:
    """Return what to boot, and where its relative path starts."""
    __tracebackhide__ = True
    if kernel is not None:
        return (kernel if isinstance(kernel, bytes) else str(kernel)), config.rootpath
    given = config.getoption("--kernel")
    if given:
        return given, config.invocation_params.dir
    setting = config.getini("kernel")
    if not setting:
        pytest.fail("no kernel: pytest --kernel FILE, or kernel('FILE')", pytrace=False)
    return setting, config.rootpath


# --- Suites -----------------------------------------------------------------------------------


def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> pytest.Collector | None:
    """Collect a `kernel_suite`."""
    if isinstance(obj, KernelSuite) and collector.funcnamefilter(name):
        collected: pytest.Collector = _SuiteCollector.from_parent(collector, name=name, suite=obj)
        return collected
    return None


class _SuiteCollector(pytest.Collector):
    """A kernel that tests itself."""

    def __init__(self, *, suite: KernelSuite, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._suite = suite

    def collect(self) -> Iterator[pytest.Item]:
        """Run the kernel; yield an item per test, and one for the run."""
        from emu.testing import failure
        from emu.testing.suite import run_suite

        suite = self._suite
        machine = _boot(self.config, suite.kernel, None, suite.not_matching, suite.options)
        with machine:
            run = run_suite(suite, machine)
            run.sections = failure.sections(machine)
            failed = bool(run.problems) or any(map(_is_failure, run.report.tests))
            if _wants_files(self.config, failed):
                failure.write(_folder(self.config, self.nodeid), machine, run.sections)
        seen: dict[str, int] = {}
        for line in run.report.tests:
            name = _item_name(line.name)
            seen[name] = seen.get(name, 0) + 1
            unique = name if seen[name] == 1 else f"{name} #{seen[name]}"
            yield _LineItem.from_parent(self, name=unique, line=line)
        yield _RunItem.from_parent(self, name=_RUN, run=run)

    def repr_failure(
        self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None
    ) -> str | Any:
        """Say in a line why there is no kernel to run."""
        if isinstance(excinfo.value, pytest.fail.Exception):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


class _SuiteFailure(Exception):
    """A test of the kernel's own has failed, or its run as a whole."""


class _SuiteItem(pytest.Item):
    def repr_failure(
        self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None
    ) -> str | Any:
        """Say what the kernel said: the traceback would be ours."""
        from emu.testing.machine import HostTimeoutError

        if isinstance(excinfo.value, (_SuiteFailure, HostTimeoutError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Name the module, and the test as the kernel names it."""
        parent = self.parent
        return self.path, None, f"{parent.name if parent else ''}: {self.name}"


class _LineItem(_SuiteItem):
    """One test that the kernel has reported."""

    def __init__(self, *, line: TestLine, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._line = line

    def runtest(self) -> None:
        """Pass, skip or fail, as the kernel says."""
        from emu.testing.reports import Verdict

        line = self._line
        if line.output:
            self.add_report_section("call", "kernel", line.output)
        if line.verdict is Verdict.SKIP:
            pytest.skip(line.reason or "skipped by the kernel")
        if line.verdict is Verdict.XFAIL:
            pytest.xfail(line.reason or "expected by the kernel")
        if _is_failure(line):
            what = "passed, though it is expected to fail"
            reason = what if line.verdict is Verdict.XPASS else line.reason
            text = f"the kernel reports: {line.name} failed"
            raise _SuiteFailure(f"{text}: {reason}" if reason else text)


class _RunItem(_SuiteItem):
    """The run as a whole."""

    def __init__(self, *, run: SuiteRun, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._run = run

    def runtest(self) -> None:
        """Fail if the report is not whole."""
        from emu.testing.machine import HostTimeoutError

        if not self._run.problems:
            return
        for title, text in self._run.sections:
            self.add_report_section("call", title, text)
        text = "\n".join(self._run.problems)
        raise HostTimeoutError(text) if self._run.is_host_late else _SuiteFailure(text)


def _is_failure(line: TestLine) -> bool:
    from emu.testing.reports import Verdict

    return line.verdict in (Verdict.FAIL, Verdict.XPASS)


def _item_name(name: str) -> str:
    """Return the kernel's name for a test as one that can be given to pytest again."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)
    return printable.replace("::", ".")[:_LONGEST_NAME].strip() or "unnamed"


# --- Reports ------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what is known of a test's machines to its report, while they still exist."""
    report = yield
    machines = item.stash.get(_MACHINES, [])
    if machines and call.when == "call":
        from emu.testing import failure

        wants = _wants_files(item.config, report.failed)
        for number, machine in enumerate(machines):
            if not (report.failed or wants):
                break
            parts = failure.sections(machine)
            which = f" ({number + 1} of {len(machines)})" if len(machines) > 1 else ""
            if report.failed:
                command = machine.launch.command(machine.position)
                item.user_properties.append(("shadowcorn" + which, command))  # for junit.xml
                report.sections += [(title + which, text) for title, text in parts]
            if wants:
                name = item.nodeid + (f"-{number + 1}" if which else "")
                failure.write(_folder(item.config, name), machine, parts)
    if report.failed and call.when == "call" and call.excinfo is not None:
        from emu.testing.machine import HostTimeoutError

        if isinstance(call.excinfo.value, HostTimeoutError):
            report.when = "setup"  # pytest's way to call it an error and no failure
    return report


def _wants_files(config: pytest.Config, failed: bool) -> bool:
    when = config.getoption("--shadowcorn-report")
    if when is None:
        when = "failure" if config.getoption("xmlpath", None) else "never"
    return when == "always" or (failed and when == "failure")


def _folder(config: pytest.Config, name: str) -> Path:
    from emu.testing.failure import slug

    junit = config.getoption("xmlpath", None)
    start = config.invocation_params.dir
    return (start / junit).parent / "shadowcorn" / slug(name) if junit else (
        start / "shadowcorn" / slug(name)
    )  # fmt: skip
