# SPDX-License-Identifier: GPL-2.0-or-later
"""What `--help` prints."""

from __future__ import annotations

__all__ = ["RUN"]

RUN = """\
usage: shadowcorn run KERNEL [options]

Boots KERNEL (a file, or guest:NAME) and runs it until it ends. What the guest sends to its serial
port goes to standard output, everything else to standard error. All of QEMU's options are
understood, with one dash or two; the others are passed over with a warning.

the machine, in QEMU's spelling
  -kernel FILE            the kernel, where it is not the first argument
  -append TEXT            its command line
  -initrd "A args,B"      multiboot modules, or the initrd of a Linux kernel
  -m SIZE                 memory: 128M (default), 1G; without a suffix MiB
  -smp N                  virtual CPUs, 1 to 16
  -cpu MODEL,+f,-f        max (default: everything there is), or one of QEMU's models, as qemu64
                          (shadowcorn-qemu's default); -cpu help lists them and the features
  -no-hpet                no HPET; also -machine hpet=off
  -hda FILE               a disk image (also -hdb to -hdd, -fda, -fdb)
  -drive file=FILE,...    the same: index=N, snapshot=on, readonly=on, if=ide|floppy
  -cdrom FILE             a CD image; also -drive file=FILE,media=cdrom
  -boot ORDER             where to boot from without a kernel: c hard disk, a floppy, d CD
                          (default cad)
  -snapshot               keep all writes off the disk images
  -fw_cfg name=N,string=S a fw_cfg file (or file=PATH)
  -rtc base=DATE          what the clock says at power-on, as 2024-01-31T12:00:00
  -device isa-debug-exit,iobase=0xf4,iosize=0x04
                          where the guest may end the run (this is the default; said, it takes away
                          the power-off port that Bochs has and QEMU has not)
  -action reboot=reset    start again when the guest resets the machine (shadowcorn-qemu's default)
  -no-reboot              a reset ends the run, with exit code 8 (shadowcorn run's default)

where output goes
  -serial WHERE           stdio (default), null or file:PATH; again for the next port
  -debugcon WHERE         port 0xe9: null (default), stdio or file:PATH
  -display KIND           text (default): the text screen on standard error; curses, none
  -nographic              -display none
  -d mmu,int,device       log MMU events, interrupts, odd device accesses
  -D FILE                 the log's file (default: standard error)
  --json FILE             outcome, counters and the end of the serial output
  --screenshot FILE.png   the screen when the run ends, as pixels
  --summary               what the shadow page cache did, as a table

debugging
  -s                      let gdb connect: -gdb tcp::1234
  -gdb WHERE              the same at tcp:HOST:PORT (loopback if no HOST), unix:PATH or stdio
  -S                      do not run before a debugger says so
  -monitor WHERE          QEMU's monitor commands at tcp:HOST:PORT, unix:PATH or stdio
  --gdb-arch NAME         follow (default: the mode that the processor is in), x86-64, i386, i8086
  --gdb-maps              `info proc mappings` shows the page tables: gdb takes the guest for Linux

how to boot
  --format FORMAT         auto (default), multiboot, multiboot2, linux, linux16 (by its real-mode
                          part), bootsector, cd (El Torito), flat32, flat16
  --address N             where a flat image goes (0x100000; real mode 0x7c00)
  --entry N               where it starts, if not at its beginning

how to run
  --mmu NAME              shadow (default), uncached, native, lockstep[:FIRST,SECOND] (two side by
                          side, stops where they differ), kvm2007 (with a bug of then), or
                          MODULE:CLASS
  --shadow-pages N        bound on shadow pages
  --audit                 check the MMU's invariants after every event, without compiled code
  --audit-slices          check all of them when a virtual CPU has had its turn
  --tlb-check WHAT        report (or strict: stop at the first error, exit code 10): uses of TLB
                          entries that the guest should have flushed
  --tlb WHAT              what a use of such an entry gets: what the tables say now
                          (fresh, default), stale entry (lazy: the worst legal
                          processor); eager: no entry is ever stale
  --tlb-obligations       what is still to be flushed when the run ends
  --timeout S             stop after S host seconds (exit code 124)
  --max-insns N           stop after N instructions (exit code 124)
  --until POSITION        stop where a report said that the run was, as @1,204,331
  --quantum N             instructions a virtual CPU runs before the next has its turn
  --seed N                seed of RDRAND and RDSEED (default 0)
  --jit on|off|auto       compiled code for TLB misses; auto (default): where it can be had
  --clock KIND            how time passes: blocks (by their size, fast), instructions (one by one,
                          exact), auto (default): blocks where the host's processor can count them
  --shadow-policy P=off,..
                          switch off what the cache learnt: unsync, large, prefetch, mmio,
                          flood, reuse

exit codes: (value << 1) | 1 from the guest's isa-debug-exit (always odd); 0 power-off or idle,
2 bad usage or kernel, 4 triple fault, 6 internal error, 8 reset by the guest, 10 TLB error,
124 timeout
"""
