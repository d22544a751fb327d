; SPDX-License-Identifier: GPL-2.0-or-later
; pdpte_invlpg: a PDPTE of PAE paging is cleared and an address below it flushed. The processor
; holds PDPTEs in registers, which a load of CR3 alone renews.

%include "inc/tlbpae.inc"
        TLB_KERNEL

main:   ENTRY64 PTE(0), FRAME(0) | RWU
        ENTRY64 PTE(1), FRAME(1) | RWU
        mov eax, [PAGE(0)]
        call drop_gigabyte
        call read_page
        REPORT "read", edx
        ret

drop_gigabyte:
        ENTRY64 PDPTE, 0
        IF_BUG .invlpg
        RELOAD_CR3
        ret
.invlpg:
        invlpg [PAGE(0)]
        invlpg [PAGE(1)]
        ret

read_page:
        mov edx, FAULTED
        MAY_FAULT mov edx, [PAGE(1)]
        ret

        TLB_END
