; SPDX-License-Identifier: GPL-2.0-or-later
; migrate: a page is copied to another frame and mapped there, and nobody flushes: what another
; processor still writes to the old frame is lost.

%include "inc/tlb32.inc"
        TLB_KERNEL

main:   mov dword [PTE(0)], FRAME(0) | RWU
        mov dword [flag], 1
        ORDER write_page
        call migrate_page
        RUN_USER user_nothing
        mov dword [flag], 2
        ORDER write_page
        REPORT "page holds", [FRAME(1)]
        ret

migrate_page:
        mov eax, [FRAME(0)]
        mov [FRAME(1)], eax
        mov dword [PTE(0)], FRAME(1) | RWU
        IF_BUG .done
        mov eax, PAGE(0)
        invlpg [eax]
        SHOOT
.done:  ret

write_page:
        mov eax, [flag]
        mov [PAGE(0)], eax
        ret

        TLB_END
