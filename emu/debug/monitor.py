# SPDX-License-Identifier: GPL-2.0-or-later
"""The monitor: commands in QEMU's spelling, a line in and text out.

gdb's `monitor`, `m.monitor("...")` and -monitor come here. Commands look and change nothing, but
those that say so. A command is a method in `COMMANDS`; a new one needs no other place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from emu.debug.target import Target
from emu.outcome import Kind
from emu.report import registers_text
from mmu.arch import PT_PAGE_SIZE
from mmu.ranges import Mapping, TooManyTables, mappings, ranges, rights_letters

if TYPE_CHECKING:
    from emu.machine import Machine

__all__ = ["COMMANDS", "Command", "Monitor", "MonitorError"]

_MOST_LINES = 10_000
_MOST_UNITS = 4096
_UNITS = {"b": 1, "h": 2, "w": 4, "g": 8}
_PTE_FLAGS = tuple(zip((63, 8, 7, 6, 5, 4, 3, 2, 1), "XGPDACTUW", strict=True))


class MonitorError(Exception):
    """A command that cannot be done: one line for a person."""


class Control(Protocol):
    """Who lets the machine run: `emu.debug.control.Control`."""

    is_running: bool

    def hold(self) -> None:
        """Let the machine stand still."""

    def go(self) -> None:
        """Let it run."""

    def quit(self, kind: Kind) -> None:
        """End the run."""


class Command(NamedTuple):
    """A command: what does it, how it is written, and what it is for."""

    do: Callable[[Monitor, str], str]
    usage: str
    help: str


class Monitor:
    """Executes commands for one machine, looking through the tables of vCPU `cpu`."""

    def __init__(self, machine: Machine, control: Control | None = None, cpu: int = 0) -> None:
        """Without `control` the machine cannot be stopped or ended from here."""
        self._machine = machine
        self._control = control
        self._target = Target(machine)
        self._target.cpu = cpu

    def execute(self, line: str) -> str:
        """Return what a command says, lines without the last line's end; errors are text too."""
        words = line.strip()
        if not words:
            return ""
        name, _, rest = words.partition(" ")
        if name == "info":
            what, _, rest = rest.strip().partition(" ")
            name = f"info {what}"
        bare, _, unit_format = name.partition("/")
        if bare in ("x", "xp", "p", "print"):
            name, rest = bare, f"/{unit_format} {rest}" if unit_format else rest
        command = COMMANDS.get(_ALIASES.get(name, name))
        if command is None:
            return f"unknown command: '{name}'" if name != "info " else self.help("info")
        try:
            return command.do(self, rest.strip())
        except (MonitorError, LookupError) as error:
            return str(error)

    # --- Registers and chips ----------------------------------------------------------------------

    def registers(self, rest: str) -> str:
        """`info registers [-a]`."""
        cpus = range(self._target.cpus) if rest == "-a" else (self._target.cpu,)
        machine = self._machine
        return "\n".join(f"\nCPU#{cpu}\n{registers_text(machine.cpus[cpu])}" for cpu in cpus)

    def cpus(self, _rest: str) -> str:
        """`info cpus`."""
        lines = []
        for cpu in range(self._target.cpus):
            mark = "*" if cpu == self._target.cpu else " "
            pc = self._machine.cpus[cpu].regs.linear_rip
            halted = "" if self._target.activity(cpu) == "running" else " (halted)"
            lines.append(f"{mark} CPU #{cpu}: thread_id={cpu + 1} pc={pc:#018x}{halted}")
        return "\n".join(lines)

    def version(self, _rest: str) -> str:
        """`info version`."""
        from importlib import metadata

        try:
            return metadata.version("shadowcorn")
        except metadata.PackageNotFoundError:
            return "unknown"

    def status(self, _rest: str) -> str:
        """`info status`."""
        running = self._control is not None and self._control.is_running
        return f"VM status: {'running' if running else 'paused'} {self._machine.position}"

    def lapic(self, _rest: str) -> str:
        """`info lapic`."""
        cpu = self._target.cpu
        state = self._machine.board.local_apics[cpu].state
        sets = {"IRR": state.irr, "ISR": state.isr}
        lines = [
            f"dumping local APIC state for CPU {cpu}",
            f"ID={state.id:#x} TPR={state.tpr:#x} LDR={state.ldr:#x} DFR={state.dfr:#x} "
            f"SVR={state.svr:#x} ICR={state.icr:#x}",
        ]
        lines += [f"LVT {number:#x}: {value:#x}" for number, value in sorted(state.lvt.items())]
        lines += [f"{name} {_bits_text(value)}" for name, value in sets.items()]
        return "\n".join(lines)

    def pic(self, _rest: str) -> str:
        """`info pic`."""
        pair = self._machine.board.pic
        return "\n".join(
            f"pic{number}: irr={chip.state.irr:02x} imr={chip.state.imr:02x} "
            f"isr={chip.state.isr:02x} irq_base={chip.state.base:02x} elcr={chip.state.elcr:02x}"
            for number, chip in enumerate((pair.master, pair.slave))
        )

    def mtree(self, _rest: str) -> str:
        """`info mtree [-f]`."""
        lines = ["FlatView #0", " Root memory region: system"]
        for slot in self._machine.guest_memory.slots():
            kind = {"mmio": "i/o"}.get(slot.kind, slot.kind)
            lines.append(f"  {slot.gpa:016x}-{slot.end - 1:016x} (prio 0, {kind})")
        return "\n".join(lines)

    # --- Page tables ------------------------------------------------------------------------------

    def _mappings(self) -> Iterator[Mapping]:
        context = self._machine.address_space(self._target.cpu)
        return mappings(self._machine.guest_memory, context)

    def _lines(self, found: Iterable[str]) -> str:
        """Return lines, bounded; a table that names itself maps more than anybody reads."""
        lines: list[str] = []
        try:
            for line in islice(found, _MOST_LINES):
                lines.append(line)
        except TooManyTables as error:
            lines.append(str(error))
        return "\n".join(lines)

    def mem(self, _rest: str) -> str:
        """`info mem`: ranges of equal rights. QEMU's format, and the x that it lacks."""
        if not self._has_paging():
            return "PG disabled"
        return self._lines(
            f"{m.gva:016x}-{(m.last + 1) & (1 << 64) - 1:016x} {m.size:016x} "
            f"{rights_letters(m.rights)}"
            for m in ranges(self._mappings(), contiguous=False)
        )

    def tlb(self, _rest: str) -> str:
        """`info tlb`: every leaf entry of the tables, in QEMU's format."""
        if not self._has_paging():
            return "PG disabled"
        return self._lines(
            f"{m.gva:016x}: {m.gpa:016x} {_entry_flags(m)}" for m in self._mappings()
        )

    def pt(self, rest: str) -> str:
        """`pt [-u|-k|-w|-x|-wx] [-has ADDRESS]`: ranges with their physical addresses."""
        words = rest.split()
        found: Iterable[Mapping] = ranges(self._mappings())
        while words:
            word = words.pop(0)
            if word == "-has" and words:
                address = self._number(words.pop(0))
                found = [m for m in self._around(address) if m.gva <= address <= m.last]
                continue
            letters = {"-u": "u", "-w": "w", "-x": "x", "-wx": "wx"}.get(word)
            if letters is None and word != "-k":
                raise MonitorError(COMMANDS["pt"].usage)
            found = _having(found, letters)
        return self._lines(str(m) for m in found)

    def _around(self, address: int) -> list[Mapping]:
        context = self._machine.address_space(self._target.cpu)
        return list(mappings(self._machine.guest_memory, context, address, address))

    def _has_paging(self) -> bool:
        return bool(self._machine.address_space(self._target.cpu).levels)

    def gva2gpa(self, rest: str) -> str:
        """`gva2gpa ADDRESS`."""
        found = self._target.translate(self._number(rest))
        return "Unmapped" if found.fault is not None else f"gpa: {found.gpa:#x}"

    def gpa2hva(self, rest: str) -> str:
        """`gpa2hva ADDRESS`: where a byte of RAM is in this process."""
        gpa = self._number(rest)
        host = self._machine.guest_memory.host_address(gpa)
        if not host:
            return f"No memory is mapped at address {gpa:#x}"
        return f"Host virtual address for {gpa:#x} (ram) is {host:#x}"

    # --- Memory -----------------------------------------------------------------------------------

    def examine(self, rest: str) -> str:
        """`x/NFU ADDRESS`: virtual memory."""
        return self._dump(rest, self._target.peek)

    def examine_physical(self, rest: str) -> str:
        """`xp/NFU ADDRESS`: physical memory."""
        return self._dump(rest, self._target.peek_physical)

    def _dump(self, rest: str, peek: Callable[[int, int], bytes]) -> str:
        count, form, size, expression = _format(rest)
        address = self._number(expression)
        if form == "i":
            from emu.cpu.decode import disassemble

            code = b""
            for at in range(address, address + 15 * count):
                try:
                    code += peek(at, 1)
                except LookupError:
                    break
            lines = disassemble(code, address, self._target.bits(), count)
            return "\n".join(lines) or f"Cannot access memory at {address:#x}"
        per_line = 8 if form == "c" else max(16 // size, 1)
        lines = []
        for first in range(0, count, per_line):
            at = address + first * size
            units = [
                int.from_bytes(peek(at + i * size, size), "little")
                for i in range(min(per_line, count - first))
            ]
            text = " ".join(_unit(value, form, size) for value in units)
            lines.append(f"{at:016x}: {text}")
        return "\n".join(lines)

    def print(self, rest: str) -> str:
        """`p/F EXPRESSION`."""
        _, form, _, expression = _format(rest)
        return _unit(self._number(expression), form, 8).replace("0x" + "0" * 15, "0x")

    def _number(self, text: str) -> int:
        """Return a sum of numbers, symbols and $registers."""
        total, sign = 0, 1
        if not text.strip():
            raise MonitorError("an address or expression is missing")
        for word in text.replace("+", " + ").replace("-", " - ").split():
            if word in "+-":
                sign = 1 if word == "+" else -1
                continue
            total += sign * self._term(word)
            sign = 1
        return total & (1 << 64) - 1

    def _term(self, word: str) -> int:
        if word.startswith("$"):
            name = {"pc": "rip", "eflags": "rflags", "sp": "rsp"}.get(word[1:], word[1:])
            if name not in self._target.names:
                raise MonitorError(f"unknown register '{word}'")
            value = self._target.read(name)
            return value if isinstance(value, int) else value[0]
        try:
            return int(word, 0)
        except ValueError:
            found = self._machine.symbols.address_of(word)
        if found is None:
            raise MonitorError(f"'{word}' is no number, register or symbol")
        return found

    # --- What changes something -------------------------------------------------------------------

    def _controlled(self) -> Control:
        if self._control is None:
            raise MonitorError("nobody controls this machine: call its run()")
        return self._control

    def stop(self, _rest: str) -> str:
        """`stop`."""
        self._controlled().hold()
        return ""

    def go(self, _rest: str) -> str:
        """`cont`."""
        self._controlled().go()
        return ""

    def quit(self, _rest: str) -> str:
        """`quit`."""
        self._controlled().quit(Kind.POWER_OFF)
        return ""

    def reset(self, _rest: str) -> str:
        """`system_reset`."""
        self._machine.reset()
        return ""

    def cpu(self, rest: str) -> str:
        """`cpu N`: look through the tables of another vCPU."""
        number = self._number(rest)
        if number >= self._target.cpus:
            raise MonitorError(f"there are vCPUs 0 to {self._target.cpus - 1}")
        self._target.cpu = number
        return ""

    def help(self, rest: str) -> str:
        """`help [COMMAND]`."""
        chosen = [c for name, c in COMMANDS.items() if not rest or name.split()[0] == rest]
        if not chosen:
            return f"unknown command: '{rest}'"
        return "\n".join(f"{command.usage} -- {command.help}" for command in chosen)


def _having(found: Iterable[Mapping], letters: str | None) -> Iterator[Mapping]:
    """Yield the ranges that have all of `letters`; None: those that user code cannot use."""
    for mapping in found:
        rights = rights_letters(mapping.rights)
        wanted = "u" not in rights if letters is None else all(c in rights for c in letters)
        if wanted:
            yield mapping


def _entry_flags(mapping: Mapping) -> str:
    """Return nine letters, as QEMU's print_pte; a 4 KiB entry's bit 7 is its PAT."""
    entry = mapping.entry if mapping.level > 1 else mapping.entry & ~PT_PAGE_SIZE
    return "".join(letter if entry >> bit & 1 else "-" for bit, letter in _PTE_FLAGS)


def _bits_text(value: int) -> str:
    found = [str(bit) for bit in range(256) if value >> bit & 1]
    return " ".join(found) or "(none)"


def _format(rest: str) -> tuple[int, str, int, str]:
    """Return count, format letter, size and the expression of `/NFU EXPRESSION`."""
    form, size, count = "x", 4, 1
    if rest.startswith("/"):
        spec, _, rest = rest[1:].partition(" ")
        digits = spec[: len(spec) - len(spec.lstrip("0123456789"))]
        count = int(digits) if digits and len(digits) < 9 else 1
        for letter in spec[len(digits) :]:
            if letter in _UNITS:
                size = _UNITS[letter]
            elif letter in "xduoci":
                form = letter
            else:
                raise MonitorError(f"invalid char in format: '{letter}'")
        size = 1 if form == "c" else size
    if not 0 < count <= _MOST_UNITS:
        raise MonitorError(f"1 to {_MOST_UNITS} units at a time")
    return count, form, size, rest


def _unit(value: int, form: str, size: int) -> str:
    if form == "d":
        return str(value - (1 << 8 * size) if value >> 8 * size - 1 else value)
    if form == "u":
        return str(value)
    if form == "o":
        return f"{value:#o}"
    if form == "c":
        return repr(chr(value & 0x7F))
    return f"0x{value:0{2 * size}x}"


COMMANDS: dict[str, Command] = {
    "cont": Command(Monitor.go, "cont", "resume the machine"),
    "cpu": Command(Monitor.cpu, "cpu N", "choose the vCPU that commands look through"),
    "gpa2hva": Command(Monitor.gpa2hva, "gpa2hva ADDRESS", "host address of RAM"),
    "gva2gpa": Command(Monitor.gva2gpa, "gva2gpa ADDRESS", "physical address of a virtual one"),
    "help": Command(Monitor.help, "help [COMMAND]", "this list"),
    "info cpus": Command(Monitor.cpus, "info cpus", "the vCPUs"),
    "info lapic": Command(Monitor.lapic, "info lapic", "the local APIC"),
    "info mem": Command(Monitor.mem, "info mem", "what is mapped, by rights"),
    "info mtree": Command(Monitor.mtree, "info mtree [-f]", "guest-physical memory"),
    "info pic": Command(Monitor.pic, "info pic", "the 8259s"),
    "info registers": Command(Monitor.registers, "info registers [-a]", "registers"),
    "info status": Command(Monitor.status, "info status", "whether it runs, and where it stands"),
    "info tlb": Command(Monitor.tlb, "info tlb", "every leaf entry of the page tables"),
    "info version": Command(Monitor.version, "info version", "shadowcorn's version"),
    "p": Command(Monitor.print, "p/F EXPRESSION", "print a number"),
    "pt": Command(Monitor.pt, "pt [-u|-k|-w|-x|-wx] [-has ADDRESS]", "ranges and their frames"),
    "quit": Command(Monitor.quit, "quit", "end the run"),
    "stop": Command(Monitor.stop, "stop", "stop the machine"),
    "system_reset": Command(Monitor.reset, "system_reset", "reset the machine"),
    "x": Command(Monitor.examine, "x/NFU ADDRESS", "virtual memory"),
    "xp": Command(Monitor.examine_physical, "xp/NFU ADDRESS", "physical memory"),
}
"""By name; `info` commands have theirs behind it."""

_ALIASES = {"c": "cont", "s": "stop", "q": "quit", "print": "p", "?": "help", "h": "help"}
