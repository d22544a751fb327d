# SPDX-License-Identifier: GPL-2.0-or-later
"""From words to `RunOptions`, one small function an option.

The grammar is QEMU's (`emu.cli.qemu`), which argparse cannot be taught: an option's argument is the
next word whatever it looks like. `shadowcorn run` and `shadowcorn-qemu` take the same options and
differ in what is there without being asked for: QEMU shows nothing of the serial port unless told,
and has no isa-debug-exit device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from emu.cli import qemu
from emu.cli.options import (
    CHECKS,
    TLBS,
    DebugExit,
    Drive,
    FwCfg,
    RunOptions,
    parse_number,
    parse_position,
    parse_positive,
    parse_seconds,
    parse_size,
)
from emu.cli.plugs import (
    add_chardev,
    add_device,
    add_drive,
    character_device,
    insert_disk,
)
from emu.errors import UsageError

__all__ = ["MAX_CPUS", "TAKES_VALUE", "parse_run"]

MAX_CPUS = 16
_MIB = 1 << 20
_MIN_MEMORY = _MIB
_MAX_MEMORY = 1 << 38
_DISPLAYS = ("text", "none", "curses")
_BOOT_ORDER = "cad"  # hard disk, floppy, CD: the pc's default
_QEMU_CPU = "qemu64"  # the pc's default (hw/i386/pc_piix.c)
_LOG_ITEMS = ("mmu", "int", "device", "guest_errors", "unimp")


def _memory(options: RunOptions, value: str) -> None:
    size = qemu.properties(value, "size").get("size", "")
    memory = parse_size(size)
    if memory < _MIN_MEMORY or memory > _MAX_MEMORY:
        raise UsageError(f"-m {value}: memory must be from 1M to 256G")
    options.memory = memory & -4096


def _smp(options: RunOptions, value: str) -> None:
    fields = qemu.properties(value, "cpus")
    levels = ("sockets", "dies", "clusters", "cores", "threads")
    parts = [parse_positive(fields[name], name) for name in levels if name in fields]
    cpus = parse_positive(fields["cpus"], "-smp") if "cpus" in fields else prod(parts)
    if cpus > MAX_CPUS:
        raise UsageError(
            f"Invalid SMP CPUs {cpus}. The max CPUs supported by this machine is {MAX_CPUS}"
        )
    options.cpus = cpus


def _cpu(options: RunOptions, value: str) -> None:
    options.cpu, options.cpu_said = value, True


# Properties of -machine that a guest would see: name, values that change nothing, what is missing.
_MACHINE_PROPERTIES = (
    ("acpi", ("on", "auto"), "there always are ACPI tables"),
    ("usb", ("off",), "there is no USB"),
    ("firmware", (), "the firmware is shadowcorn's own"),
    ("pflash0", (), "the firmware is shadowcorn's own"),
    ("dtb", (), "a PC has no device tree"),
    ("pic", ("on", "auto"), "there always is a pair of 8259s"),
    ("pit", ("on", "auto"), "there always is an 8254"),
)


def _machine(options: RunOptions, value: str) -> None:
    fields = qemu.properties(value, "type")
    kind = fields.get("type", "pc")
    if kind not in ("pc", "isapc") and not kind.startswith(("pc-i440fx", "pc-1.", "pc-0.")):
        options.warn(f"machine type {kind} is not known: the board is a pc (i440FX)")
    if "hpet" in fields:
        options.hpet = fields["hpet"] != "off"
    for name in ("kernel", "initrd", "append"):
        if name in fields:
            setattr(options, name, fields[name])
    for name, harmless, why in _MACHINE_PROPERTIES:
        if name in fields and fields[name] not in harmless:
            options.warn(f"-machine {name}={fields[name]} is passed over: {why}")


def _log(options: RunOptions, value: str) -> None:
    for item in value.split(","):
        if item in _LOG_ITEMS:
            options.log_items.add(item)
        elif item in qemu.FOREIGN_LOG_ITEMS or item.startswith("trace:"):
            options.warn(f"-d {item} is passed over: there is no such log")
        else:
            raise UsageError(f"-d {item} is not known: one of {', '.join(_LOG_ITEMS)}")


def _display(options: RunOptions, value: str) -> None:
    kind = value.partition(",")[0]
    if kind in ("gtk", "sdl", "vnc", "spice-app", "dbus", "egl-headless") or kind.startswith(
        "vnc="
    ):
        kind = "text"
    if kind not in _DISPLAYS:
        raise UsageError(f"-display {value} is not known: one of {', '.join(_DISPLAYS)}")
    options.display = kind


def _fw_cfg(options: RunOptions, value: str) -> None:
    fields = qemu.properties(value, "name")
    name = fields.get("name")
    if not name or ("string" in fields) == ("file" in fields):
        raise UsageError(f"-fw_cfg {value}: name=NAME,string=TEXT or name=NAME,file=PATH")
    data = fields.get("string", "").encode("utf-8", "surrogateescape")
    options.fw_cfg.append(FwCfg(name, data, fields.get("file")))


def _monitor(options: RunOptions, value: str) -> None:
    if value not in ("none", "null", "vc", "/dev/null"):
        _check_endpoint(value, "-monitor")
        options.monitors.append(value)


def _check_endpoint(value: str, option: str) -> None:
    from emu.debug.endpoint import parse_endpoint

    parse_endpoint(value, option)


def _gdb(options: RunOptions, value: str) -> None:
    if value != "none":
        _check_endpoint(value, "-gdb")
        options.gdb.append(value)


def _vga(options: RunOptions, value: str) -> None:
    if value != "std":
        _warn_once(options, f"-vga {value} is passed over: the graphics card is a standard VGA")


def _network(options: RunOptions, value: str) -> None:
    """-net and -nic: a card would be seen by the guest, the host's end of one is not."""
    kind, _, rest = value.partition(",")
    if kind == "nic" or "model=" in rest:
        _warn_once(options, "-net and -nic are passed over: there is no network card")


def _nic(options: RunOptions, value: str) -> None:
    if value != "none":
        _network(options, f"nic,{value}")


def _global(options: RunOptions, value: str) -> None:
    if not value.startswith("kvm"):  # of chips that the host's kernel would be
        _warn_once(options, f"-global {value} is passed over: there is no such property")


def _warn_once(options: RunOptions, text: str) -> None:
    if text not in options.warnings:
        options.warn(text)


def _boot(options: RunOptions, value: str) -> None:
    """-boot: the letters of order= and once= that name what is there: a, c and d."""
    fields = qemu.properties(value, "order")
    order = fields.get("once", "") + fields.get("order", "")
    strange = sorted(set(order) - set("abcdnop"))
    if strange:
        raise UsageError(f"-boot {value}: no drive is called {strange[0]}")
    if "n" in order:
        _warn_once(options, f"-boot {value}: there is no network card, the next in order is taken")
    options.boot_order = "".join(dict.fromkeys(order + _BOOT_ORDER))


def _action(options: RunOptions, value: str) -> None:
    """-action: of QEMU's events, only what a reset does can be chosen."""
    choice = qemu.properties(value, "reboot").get("reboot")
    if choice not in (None, "reset", "shutdown"):
        raise UsageError(f"-action reboot={choice}: reset or shutdown")
    if choice is not None:
        options.reboot = choice == "reset"


def _rtc(options: RunOptions, value: str) -> None:
    base = qemu.properties(value, "base").get("base")
    options.rtc = base if base not in (None, "utc", "localtime") else None


def _mmu(options: RunOptions, value: str) -> None:
    if not value or (":" not in value and not value.isidentifier()):
        raise UsageError(
            f"--mmu {value}: shadow, uncached, native, lockstep, kvm2007 or MODULE:CLASS"
        )
    options.mmu = value


_Setter = Callable[[RunOptions, str], None]


def _attribute(name: str, convert: Callable[[str, str], object] | None = None,
               flag: str = "") -> _Setter:  # fmt: skip
    def put(options: RunOptions, value: str) -> None:
        setattr(options, name, convert(value, flag or f"--{name}") if convert else value)

    return put


def _choice(name: str, choices: tuple[str, ...]) -> _Setter:
    def put(options: RunOptions, value: str) -> None:
        if value not in choices:
            raise UsageError(f"--{name.replace('_', '-')} {value}: one of {', '.join(choices)}")
        setattr(options, name, value)

    return put


_VALUES: dict[str, _Setter] = {
    "action": _action,
    "kernel": _attribute("kernel"),
    "append": _attribute("append"),
    "initrd": _attribute("initrd"),
    "m": _memory,
    "smp": _smp,
    "cpu": _cpu,
    "machine": _machine,
    "M": _machine,
    "d": _log,
    "D": _attribute("log_file"),
    "display": _display,
    "fw_cfg": _fw_cfg,
    "monitor": _monitor,
    "gdb": _gdb,
    "gdb-arch": _choice("gdb_arch", ("follow", "x86-64", "i386", "i8086")),
    "global": _global,
    "net": _network,
    "nic": _nic,
    "vga": _vga,
    "boot": _boot,
    "rtc": _rtc,
    "seed": _attribute("seed", parse_number, "--seed"),
    "format": _attribute("format"),
    "address": _attribute("address", parse_number),
    "entry": _attribute("entry", parse_number),
    "mmu": _mmu,
    "shadow-pages": _attribute("shadow_pages", parse_positive, "--shadow-pages"),
    "timeout": _attribute("timeout", parse_seconds),
    "max-insns": _attribute("max_insns", parse_positive, "--max-insns"),
    "until": _attribute("until", parse_position, "--until"),
    "quantum": _attribute("quantum", parse_positive),
    "clock": _choice("clock", ("auto", "instructions", "blocks")),
    "jit": _choice("jit", ("auto", "on", "off")),
    "shadow-policy": _attribute("shadow_policy"),
    "tlb-check": _choice("tlb_check", CHECKS),
    "tlb": _choice("tlb", TLBS),
    "json": _attribute("json"),
    "screenshot": _attribute("screenshot"),
}
_FLAGS: dict[str, str] = {
    "S": "stopped",
    "gdb-maps": "gdb_maps",
    "nodefaults": "no_defaults",
    "no-fd-bootchk": "boots_any_floppy",
    "snapshot": "snapshot",
    "audit": "audit",
    "audit-slices": "audit_slices",
    "summary": "summary",
    "tlb-obligations": "tlb_obligations",
}
# Taken up in the second pass, when all -chardev and -drive if=none are known.
_LATER = ("serial", "debugcon", "device", "parallel")
_DISKS = {"hda": 0, "hdb": 1, "hdc": 2, "hdd": 3}
_FLOPPIES = {"fda": 0, "fdb": 1}
TAKES_VALUE = {
    **dict.fromkeys((*_VALUES, *_LATER, *_DISKS, *_FLOPPIES, "cdrom", "chardev", "drive"), True),
    **dict.fromkeys(
        (
            *_FLAGS,
            "nographic",
            "curses",
            "no-reboot",
            "no-hpet",
            "s",
            "h",
            "help",
            "version",
        ),
        False,
    ),
}
"""The options of a run: name to whether an argument follows."""


def parse_run(words: Sequence[str], *, for_qemu: bool = False) -> RunOptions:
    """Return the options that the words ask for; raises UsageError."""
    options = RunOptions(for_qemu=for_qemu)
    chardevs: dict[str, str] = {}
    unplugged: dict[str, Drive] = {}
    later: list[tuple[str, str]] = []
    ignored: dict[str, str] = {}
    nographic = False
    for name, value in qemu.split(words, TAKES_VALUE):
        text = value or ""
        if name is None:
            _positional(options, text)
        elif name in _VALUES:
            _VALUES[name](options, text)
        elif name in _FLAGS:
            setattr(options, _FLAGS[name], True)
        elif name in _LATER:
            later.append((name, text))
        elif name in _DISKS:
            insert_disk(options, Drive(text, _DISKS[name]))
        elif name == "cdrom":
            insert_disk(options, Drive(text, 2, read_only=True, is_cd=True))
        elif name in _FLOPPIES:
            options.floppies[_FLOPPIES[name]] = Drive(text, _FLOPPIES[name])
        elif name == "chardev":
            add_chardev(options, text, chardevs)
        elif name == "drive":
            add_drive(options, text, unplugged)
        elif name == "nographic":
            nographic = True
        elif name == "no-reboot":
            options.reboot = False
        elif name == "s":
            options.gdb.append("tcp::1234")
        elif name == "no-hpet":
            options.hpet = False
        elif name == "curses":
            options.display = "curses"
        elif name in qemu.UNSUPPORTED:
            ignored.setdefault(name, qemu.UNSUPPORTED[name].why)
        elif name in qemu.REFUSED:
            raise UsageError(f"-{name}: {qemu.REFUSED[name].why}")
    for name, why in ignored.items():
        options.warn(f"-{name} is passed over: {why}")
    _second_pass(options, later, chardevs, unplugged)
    _defaults(options, nographic)
    _check(options, ignored)
    return options


def _positional(options: RunOptions, path: str) -> None:
    if options.for_qemu:
        insert_disk(options, Drive(path, 0))
    elif options.kernel is not None:
        raise UsageError(f"one kernel at a time: {options.kernel} and {path} are given")
    else:
        options.kernel = path


def _second_pass(options: RunOptions, later: Sequence[tuple[str, str]], chardevs: dict[str, str],
                 unplugged: dict[str, Drive]) -> None:  # fmt: skip
    for name, value in later:
        if name == "serial":
            options.serial.append(character_device(options, value, chardevs))
        elif name == "debugcon":
            options.debugcon.append((0xE9, character_device(options, value, chardevs)))
        elif name == "device":
            add_device(options, value, chardevs, unplugged)
        elif name == "parallel" and value not in ("none", "null"):
            options.warn("there is no parallel port: -parallel is passed over")
    for name, drive in unplugged.items():
        options.warn(f"-drive id={name}: no -device takes {drive.path}: passed over")


def _defaults(options: RunOptions, nographic: bool) -> None:
    """Fill in what was not said."""
    if "stdio" in options.monitors and not options.gdb:
        options.display = "none"
    if "stdio" in options.gdb:  # it has standard output for itself
        options.serial = [where for where in options.serial if where != "stdio"] or ["null"]
        options.display = "none"
    if nographic:
        options.display = options.display or "none"
    if options.display is None:
        options.display = "text"
    if options.reboot is None:
        options.reboot = options.for_qemu
    if options.for_qemu and not options.cpu_said:
        options.cpu = _QEMU_CPU
    options.serial_said = bool(options.serial)
    if not options.serial:
        shown = nographic or not options.for_qemu
        shown = shown or (options.display != "none" and not options.no_defaults)
        options.serial.append("stdio" if shown else "null")
    options.foreign_power = not options.for_qemu and options.debug_exit is None
    if not options.for_qemu:
        options.debug_exit = options.debug_exit or DebugExit()
        if all(iobase != 0xE9 for iobase, _ in options.debugcon):
            options.debugcon.append((0xE9, "null"))


def _check(options: RunOptions, ignored: dict[str, str]) -> None:
    """Refuse what makes no sense together, and a run of nothing."""
    if options.kernel is None and not options.drives and not options.floppies:
        for name in ("pflash", "bios"):
            if name in ignored:
                raise UsageError(f"no kernel and no disk: -{name} is passed over: {ignored[name]}")
        if options.boot_order.startswith("d"):
            raise UsageError("no kernel and no disk: -boot d wants a CD: -cdrom FILE")
        raise UsageError("no kernel: name a file, or guest:NAME (shadowcorn guests lists them)")
    if options.kernel is None and (options.append or options.initrd):
        raise UsageError("-append and -initrd are for a kernel that is named")
