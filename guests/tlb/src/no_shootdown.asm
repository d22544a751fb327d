; SPDX-License-Identifier: GPL-2.0-or-later
; no_shootdown: a page is mapped elsewhere and flushed on this processor alone.

%include "inc/tlb32.inc"
        TLB_KERNEL

main:   mov dword [PTE(0)], FRAME(0) | RWU
        ORDER read_page
        call map_page
        RUN_USER user_nothing
        ORDER read_page
        REPORT "read", [seen]
        ret

map_page:
        mov dword [PTE(0)], FRAME(1) | RWU
        invlpg [PAGE(0)]
        IF_BUG .done
        mov eax, PAGE(0)
        SHOOT
.done:  ret

read_page:
        mov eax, [PAGE(0)]
        mov [seen], eax
        ret

        TLB_END
