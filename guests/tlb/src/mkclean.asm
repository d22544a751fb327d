; SPDX-License-Identifier: GPL-2.0-or-later
; mkclean: D is cleared for write-back without a flush; another processor writes through an entry
; that believes D to be set, and the page is never written back again.

%include "inc/tlb64.inc"
        TLB_KERNEL

main:   mov esi, FRAME(0) | RWU
        mov [PTE(0)], rsi
        ORDER64 write_page
        call clean_page
        RUN_USER user_nothing
        ORDER64 write_page
        REPORT "entry", [PTE(0)]
        ret

clean_page:
        and dword [PTE(0)], ~PTE_D
        IF_BUG .done
        invlpg [PAGE(0)]
        mov eax, PAGE(0)
        SHOOT64
.done:  ret

write_page:
        mov dword [PAGE(0)], 7
        ret

        TLB_END
