# SPDX-License-Identifier: GPL-2.0-or-later
"""The TLB sanitizer: what a processor may still hold, held against what the tables say now.

A shadow MMU sees every fill, every write to a page table and every invalidation. From these the
sanitizer keeps, for each vCPU, a TLB and paging-structure caches **without capacity**: only what
the manuals say removes an entry removes it (SDM 3A 4.10.4; AMD 24593 5.5). A kernel that forgets
an invalidation, or sends it late, then always meets the stale entry, where real processors meet it
at random.

    fill          mmu.py makes an Entry: the words it came from, their values, who filled it, when
    table write   every Entry that came from the word and now means something else is *pending*
    INVLPG, CR3   entries go, as the manuals say; what survives may tell of an incomplete flush
    use           an access that a pending entry would serve is judged (judge.py), and reported
                  if the contract of docs/tlb.md says so (findings.py)

The engine's own TLB is kept honest by flushes: it never holds a page for which an entry is
pending and whose use is still to be judged.

=============  =============================================================================
model.py       Site, Entry, Change, and the caches of one vCPU
judge.py       the classes of findings, and which of them a use deserves
findings.py    Finding, folding, the text of a report
mmu.py         CheckedMmu: the plug-in that fills the model and asks for the judgement
=============  =============================================================================
"""

from .findings import Finding, Place
from .mmu import CheckedMmu
from .model import Site

__all__ = ["CheckedMmu", "Finding", "Place", "Site"]
