# SPDX-License-Identifier: GPL-2.0-or-later
"""Every option of QEMU 7.2, and what becomes of it here.

    DONE     it is honoured; `emu.cli.parse` says how
    SILENT   passed over without a word: no guest could see a difference
    WARNS    passed over with one warning, which says what is not there
    REFUSED  the run would be another one without it: bad usage

A test compares the table with `qemu-system-x86_64 --help` where that is installed.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["OPTIONS", "How", "Row"]


class How(Enum):
    """What becomes of an option."""

    DONE = "done"
    SILENT = "silent"
    WARNS = "warns"
    REFUSED = "refused"


class Row(NamedTuple):
    """One option: whether an argument follows, what becomes of it, and why or what is missing."""

    takes_value: bool
    how: How
    why: str = ""


DONE, SILENT, WARNS, REFUSED = How
_FLAG, _VALUE = False, True
_HOST = "about the host process, not the guest"
_WINDOW = "about a window on the host"
_SPEED = "about the host's speed"
_SOUND = "there is no sound card"
_NETWORK = "there is no network card"
_MONITOR = "there is no monitor"
_SMBIOS = "there are no SMBIOS tables"
_9P = "there is no shared folder"
_XEN = "Xen is not the host here"
_FIRMWARE = "the firmware is shadowcorn's own"
_STOPPED = "nothing here could start the processor afterwards: leave it out"

OPTIONS: dict[str, Row] = {
    # Standard options
    "h": Row(_FLAG, DONE),
    "help": Row(_FLAG, DONE),
    "version": Row(_FLAG, DONE),
    "machine": Row(_VALUE, DONE),
    "M": Row(_VALUE, DONE),
    "cpu": Row(_VALUE, DONE),
    "accel": Row(_VALUE, SILENT, _SPEED),
    "smp": Row(_VALUE, DONE),
    "numa": Row(_VALUE, WARNS, "all memory is one node"),
    "add-fd": Row(_VALUE, WARNS, "files are named by path"),
    "set": Row(_VALUE, WARNS, "say it where the object is made"),
    "global": Row(_VALUE, DONE, "none is there; those of kvm devices are silent, others warn"),
    "boot": Row(_VALUE, DONE),
    "m": Row(_VALUE, DONE),
    "mem-path": Row(_VALUE, SILENT, _HOST),
    "mem-prealloc": Row(_FLAG, SILENT, _HOST),
    "k": Row(_VALUE, SILENT, "keys are typed as characters, whatever the keyboard"),
    "audio-help": Row(_FLAG, WARNS, _SOUND),
    "audio": Row(_VALUE, WARNS, _SOUND),
    "audiodev": Row(_VALUE, SILENT, "the host's end; a sound card that wants it warns"),
    "device": Row(_VALUE, DONE),
    "name": Row(_VALUE, SILENT, _WINDOW),
    "uuid": Row(_VALUE, WARNS, _SMBIOS),
    # Block devices
    "fda": Row(_VALUE, DONE),
    "fdb": Row(_VALUE, DONE),
    "hda": Row(_VALUE, DONE),
    "hdb": Row(_VALUE, DONE),
    "hdc": Row(_VALUE, DONE),
    "hdd": Row(_VALUE, DONE),
    "cdrom": Row(_VALUE, DONE),
    "blockdev": Row(_VALUE, WARNS, "-drive file=PATH,format=raw names a disk"),
    "drive": Row(_VALUE, DONE),
    "mtdblock": Row(_VALUE, WARNS, "there is no flash memory"),
    "sd": Row(_VALUE, WARNS, "there is no SD card"),
    "snapshot": Row(_FLAG, DONE),
    "fsdev": Row(_VALUE, WARNS, _9P),
    "virtfs": Row(_VALUE, WARNS, _9P),
    "iscsi": Row(_VALUE, WARNS, "disks are files"),
    # USB
    "usb": Row(_FLAG, WARNS, "there is no USB"),
    "usbdevice": Row(_VALUE, WARNS, "there is no USB"),
    # Display
    "display": Row(_VALUE, DONE),
    "nographic": Row(_FLAG, DONE),
    "curses": Row(_FLAG, DONE, "of QEMU before 7.1"),
    "spice": Row(_VALUE, SILENT, _WINDOW),
    "portrait": Row(_FLAG, SILENT, _WINDOW),
    "rotate": Row(_VALUE, SILENT, _WINDOW),
    "vga": Row(_VALUE, DONE),
    "full-screen": Row(_FLAG, SILENT, _WINDOW),
    "vnc": Row(_VALUE, SILENT, _WINDOW),
    # i386
    "win2k-hack": Row(_FLAG, SILENT, "about a defect of one guest's IDE driver"),
    "no-fd-bootchk": Row(_FLAG, DONE),
    "no-acpi": Row(_FLAG, WARNS, "there always are ACPI tables"),
    "no-hpet": Row(_FLAG, DONE),
    "acpitable": Row(_VALUE, WARNS, "the ACPI tables are the board's own"),
    "smbios": Row(_VALUE, WARNS, _SMBIOS),
    # Network
    "netdev": Row(_VALUE, SILENT, "the host's end; a network card that wants it warns"),
    "nic": Row(_VALUE, DONE, "none; others warn: there is no network card"),
    "net": Row(_VALUE, DONE, "none, and the host's end; nic warns: there is no network card"),
    # Character devices
    "chardev": Row(_VALUE, DONE),
    "tpmdev": Row(_VALUE, WARNS, "there is no TPM"),
    # Boot image or kernel
    "bios": Row(_VALUE, WARNS, _FIRMWARE),
    "pflash": Row(_VALUE, WARNS, _FIRMWARE),
    "kernel": Row(_VALUE, DONE),
    "append": Row(_VALUE, DONE),
    "initrd": Row(_VALUE, DONE),
    "dtb": Row(_VALUE, WARNS, "a PC has no device tree"),
    # Expert options
    "compat": Row(_VALUE, SILENT, _HOST),
    "fw_cfg": Row(_VALUE, DONE),
    "serial": Row(_VALUE, DONE),
    "parallel": Row(_VALUE, DONE, "none and null; others warn: there is no parallel port"),
    "monitor": Row(_VALUE, DONE, "none, null and vc: no monitor"),
    "qmp": Row(_VALUE, WARNS, _MONITOR),
    "qmp-pretty": Row(_VALUE, WARNS, _MONITOR),
    "mon": Row(_VALUE, WARNS, _MONITOR),
    "debugcon": Row(_VALUE, DONE),
    "pidfile": Row(_VALUE, WARNS, "no file is written"),
    "singlestep": Row(_FLAG, SILENT, _SPEED),
    "preconfig": Row(_FLAG, REFUSED, _STOPPED),
    "S": Row(_FLAG, DONE),
    "overcommit": Row(_VALUE, SILENT, _HOST),
    "gdb": Row(_VALUE, DONE),
    "s": Row(_FLAG, DONE),
    "d": Row(_VALUE, DONE),
    "D": Row(_VALUE, DONE),
    "dfilter": Row(_VALUE, WARNS, "-d logs all addresses"),
    "seed": Row(_VALUE, DONE),
    "L": Row(_VALUE, SILENT, "there are no files to look for"),
    "enable-kvm": Row(_FLAG, SILENT, _SPEED),
    "xen-domid": Row(_VALUE, WARNS, _XEN),
    "xen-attach": Row(_FLAG, WARNS, _XEN),
    "xen-domid-restrict": Row(_FLAG, WARNS, _XEN),
    "no-reboot": Row(_FLAG, DONE),
    "no-shutdown": Row(_FLAG, SILENT, "the run ends where QEMU would wait for its monitor"),
    "action": Row(_VALUE, DONE),
    "loadvm": Row(_VALUE, REFUSED, "a saved state of QEMU's cannot be read"),
    "daemonize": Row(_FLAG, WARNS, "it stays in the foreground"),
    "option-rom": Row(_VALUE, WARNS, _FIRMWARE),
    "rtc": Row(_VALUE, DONE),
    "icount": Row(_VALUE, SILENT, "every run counts instructions"),
    "watchdog-action": Row(_VALUE, SILENT, "a watchdog that wants it warns"),
    "echr": Row(_VALUE, SILENT, _MONITOR),
    "incoming": Row(_VALUE, REFUSED, "no machine can come in"),
    "only-migratable": Row(_FLAG, SILENT, _HOST),
    "nodefaults": Row(_FLAG, DONE),
    "chroot": Row(_VALUE, WARNS, "no root is changed"),
    "runas": Row(_VALUE, WARNS, "the user is not changed"),
    "sandbox": Row(_VALUE, WARNS, "no system call is forbidden"),
    "readconfig": Row(_VALUE, WARNS, "the file is not read"),
    "no-user-config": Row(_FLAG, SILENT, "there are no such files"),
    "trace": Row(_VALUE, SILENT, _HOST),
    "plugin": Row(_VALUE, WARNS, "QEMU's plug-ins cannot be loaded"),
    "async-teardown": Row(_FLAG, SILENT, _HOST),
    "msg": Row(_VALUE, SILENT, _HOST),
    "dump-vmstate": Row(_VALUE, WARNS, "there is nothing to dump"),
    "enable-sync-profile": Row(_FLAG, SILENT, _HOST),
    "object": Row(_VALUE, WARNS, "there are no such objects"),
}
"""By name, in the order of QEMU's --help."""
