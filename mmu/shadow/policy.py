# SPDX-License-Identifier: GPL-2.0-or-later
"""What KVM's shadow MMU learnt after 2007, each as a policy that can be switched off by name.

None of them changes an answer, only what it costs; so each can be measured against its absence, and
a bug can be pinned on one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Policy:
    """Switches, all on by default.

    unsync    a leaf table is written freely and its entries are looked at again when used, so that
              editing many of them costs one trap and not one each (KVM 2008, 4731d4c7a077)
    large     one entry stands for 2 MiB where the guest maps it in one piece and the frames are
              plain RAM that holds no page table (KVM 2008, 05da45583de9)
    prefetch  a fault next to an entry that is there fills its successors too (KVM 2010,
              957ed9effd80; ours asks for the neighbour first: building an entry is dear here)
    mmio      that a frame is a device or nothing is remembered in the entry, so that the next miss
              there walks no tables (KVM 2011, "mmio page fault support")
    flood     a table that is written again and again and not used is taken for no table any more
              (2007; per page since 2010)
    reuse     one write is enough if user mode, the stack or a long REP STOS makes it, or if it sets
              half an entry (KVM 2007, patch 27, and detect_write_misaligned; VirtualBox,
              pgmPoolMonitorIsReused)
    """

    unsync: bool = True
    large: bool = True
    prefetch: bool = True
    mmio: bool = True
    flood: bool = True
    reuse: bool = True

    def but(self, text: str) -> Policy:
        """Return the policy changed as the command line says: ``unsync=off,prefetch=on``.

        >>> Policy().but("unsync=off").unsync
        False

        Raises:
            ValueError: an unknown name, or something else than on or off.
        """
        changes = {}
        names = [field.name for field in fields(self)]
        for item in filter(None, text.split(",")):
            name, _, value = item.partition("=")
            if name not in names or value not in ("on", "off"):
                raise ValueError(f"shadow policy {item!r}: give {', '.join(names)} =on or =off")
            changes[name] = value == "on"
        return replace(self, **changes)
