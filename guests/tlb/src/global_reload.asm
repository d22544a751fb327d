; SPDX-License-Identifier: GPL-2.0-or-later
; global_reload: a global page is mapped elsewhere and CR3 loaded again, which spares it.

%include "inc/tlb32.inc"
        TLB_KERNEL

main:   mov dword [PTE(0)], FRAME(0) | RWU | PTE_G
        call read_page
        call map_page
        call read_page
        REPORT "read", edx
        ret

map_page:
        mov dword [PTE(0)], FRAME(1) | RWU | PTE_G
        IF_FIXED .toggle
        RELOAD_CR3
        ret
.toggle:
        CLEAR_CR4 CR4_PGE
        SET_CR4 CR4_PGE
        ret

read_page:
        mov edx, [PAGE(0)]
        ret

        TLB_END
